//! A bound on the rate at which a device sends: the kernel's token bucket filter.

use futures_util::{StreamExt, TryStreamExt};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage, TcOption},
};
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload, Nla as _, NlasIterator,
};

use super::{Error, Netlink, gone_already, request};

/// What the kernel calls it.
pub(super) const KIND: &str = "tbf";
/// The handle by which ours is known from others.
const OURS: TcHandle = TcHandle {
    major: 0x7678,
    minor: 0,
};

/// The attributes of its options, as `linux/pkt_sched.h` numbers them.
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_BURST: u16 = 6;
/// Bytes of `struct tc_tbf_qopt`: two rates of 12 bytes, limit, buffer and MTU.
const PARAMETERS: usize = 36;
/// Where the rate stands in there, bytes per second.
const RATE_AT: usize = 8;
/// Where it says how much may wait, bytes.
const LIMIT_AT: usize = 24;
/// Where it says which headers count: `TC_LINKLAYER_ETHERNET`, those of frames.
const LINK_LAYER_AT: usize = 1;
const LINK_LAYER_ETHERNET: u8 = 1;

/// An Ethernet header and a VLAN tag, which come on top of an MTU.
const HEADERS: u32 = 18;
/// What may be sent at once at the least, bytes.
const BURST_MIN: u32 = 16 * 1024;
/// What may wait at the least, bytes: a super-packet.
const QUEUE_MIN: u32 = 64 * 1024;
/// Neither is larger, bytes.
const MOST: u32 = 64 * 1024 * 1024;

/// A bound on what a device sends. What is more waits for at most about a tenth of
/// a second, so that senders notice; what does not even find room there is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shaper {
    /// Bytes per second.
    rate: u32,
    /// Bytes that may be sent at once after a pause: 20 ms worth, and a packet at
    /// the least.
    burst: u32,
}

impl Shaper {
    /// For so many bits per second, on a device with this MTU.
    pub fn new(bits_per_second: u64, mtu: u32) -> Self {
        let rate = u32::try_from(bits_per_second / 8).unwrap_or(u32::MAX);
        let packet = mtu.saturating_add(HEADERS);
        let burst = (rate / 50).max(BURST_MIN).max(packet).min(MOST);
        Self { rate, burst }
    }

    /// Bytes that may wait or be sent at once.
    fn limit(self) -> u32 {
        queue(self.rate) + self.burst
    }

    fn options(self) -> Vec<TcOption> {
        let mut parameters = vec![0; PARAMETERS];
        parameters[LINK_LAYER_AT] = LINK_LAYER_ETHERNET;
        parameters[RATE_AT..RATE_AT + 4].copy_from_slice(&self.rate.to_ne_bytes());
        parameters[LIMIT_AT..LIMIT_AT + 4].copy_from_slice(&self.limit().to_ne_bytes());
        let burst = self.burst.to_ne_bytes().to_vec();
        [(TCA_TBF_PARMS, parameters), (TCA_TBF_BURST, burst)]
            .map(|(kind, value)| TcOption::Other(DefaultNla::new(kind, value)))
            .into()
    }

    /// The kernel does not tell the burst in bytes, but the limit holds it.
    fn parse(parameters: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let bytes = parameters.get(at..at + 4)?;
            bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
        };
        let (rate, limit) = (word(RATE_AT)?, word(LIMIT_AT)?);
        let burst = limit.saturating_sub(queue(rate));
        Some(Self { rate, burst })
    }
}

/// Bytes that may wait at that rate: a tenth of a second's worth.
fn queue(rate: u32) -> u32 {
    (rate / 10).clamp(QUEUE_MIN, MOST)
}

fn is_ours(message: &TcMessage) -> bool {
    let kind = TcAttribute::Kind(KIND.to_owned());
    message.header.handle == OURS && message.attributes.contains(&kind)
}

fn parse(message: &TcMessage) -> Option<Shaper> {
    let options = message.attributes.iter().find_map(|it| match it {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    // The library does not know this kind, and leaves all its options together.
    let [TcOption::Other(options)] = options.as_slice() else {
        return None;
    };
    let mut value = vec![0; options.value_len()];
    options.emit_value(&mut value);
    let mut options = NlasIterator::new(value.as_slice()).filter_map(Result::ok);
    let parameters = options.find(|option| option.kind() == TCA_TBF_PARMS)?;
    Shaper::parse(parameters.value())
}

impl Netlink {
    /// Our bound on what a device sends, if there is one.
    pub async fn shaper(&self, device: u32) -> Result<Option<Shaper>, Error> {
        let Ok(index) = i32::try_from(device) else {
            return Ok(None);
        };
        let get = self.handle.qdisc().get().index(index);
        let messages = get.execute().try_collect::<Vec<_>>();
        let action = || format!("list the queueing disciplines of the interface {device}");
        let messages = request(action, messages).await?;
        let of_device = |message: &&TcMessage| message.header.index == index;
        let mut ours = messages.iter().filter(of_device).filter(|it| is_ours(it));
        Ok(ours.next().and_then(parse))
    }

    /// Bounds what a device sends, in place of what bounded it before.
    pub async fn shape(&self, device: u32, shaper: Shaper) -> Result<(), Error> {
        let Ok(index) = i32::try_from(device) else {
            return Ok(());
        };
        let mut qdisc = TcMessage::with_index(index);
        qdisc.header.parent = TcHandle::ROOT;
        qdisc.header.handle = OURS;
        qdisc.attributes = vec![
            TcAttribute::Kind(KIND.to_owned()),
            TcAttribute::Options(shaper.options()),
        ];
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(qdisc));
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let mut handle = self.handle.clone();
        let replace = async move {
            let mut answers = handle.request(message)?;
            while let Some(answer) = answers.next().await {
                if let NetlinkPayload::Error(error) = answer.payload
                    && error.code.is_some()
                {
                    return Err(rtnetlink::Error::NetlinkError(error));
                }
            }
            Ok(())
        };
        let action = || format!("bound the rate at which the interface with index {device} sends");
        request(action, replace).await
    }

    /// Takes our bound off a device; that it is gone already is fine.
    pub async fn unshape(&self, device: u32) -> Result<(), Error> {
        let Ok(index) = i32::try_from(device) else {
            return Ok(());
        };
        let mut delete = self.handle.qdisc().del(index);
        let header = &mut delete.message_mut().header;
        header.parent = TcHandle::ROOT;
        header.handle = OURS;
        let action = || format!("unbind the rate at which the interface with index {device} sends");
        gone_already(request(action, delete.execute()).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_what_was_asked_for() {
        for (bits, mtu) in [(8_000, 1450), (10_000_000, 1450), (32_000_000_000, 65_000)] {
            let shaper = Shaper::new(bits, mtu);
            assert!(shaper.burst >= mtu + HEADERS, "else no packet would pass");
            let TcOption::Other(nla) = &shaper.options()[0] else {
                panic!("it is");
            };
            let mut value = vec![0; PARAMETERS];
            nla.emit_value(&mut value);
            assert_eq!(Shaper::parse(&value), Some(shaper));
        }
        assert_eq!(Shaper::parse(&[0; 4]), None);
    }
}
