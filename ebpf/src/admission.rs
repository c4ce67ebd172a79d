//! Whether a frame may go from one end to the other, by the rules of those that
//! are endpoints here. What has a flow passes with it; the rest is decided frame by
//! frame.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use vxplane_common::{
    abi::FdbEntry,
    drop::DropReason,
    flow::SignalCode,
    wire::{Eth, protocol},
};

use crate::{
    flow::{self, Passage},
    packet::Packet,
    parse::{Frame, Payload, Transport},
    policy::{self, Deed, Party},
};

/// Where a frame stands in its packet, in which network, and which of its ends is
/// here.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    /// Where the frame begins.
    pub(crate) at: u32,
    /// The network.
    pub(crate) vni: u32,
    /// The host veth it came from; 0 if it came by the wire.
    pub(crate) from: u32,
    /// The group its sender says to be in, if it came by the wire; 0 for none.
    pub(crate) group: u32,
    /// The endpoint here that it is to go to.
    pub(crate) to: Option<&'a FdbEntry>,
}

/// What this CPU works on; see [`flow`].
#[map]
static ALONE: PerCpuArray<Alone> = PerCpuArray::with_max_entries(1, 0);

/// Whether a frame may go its way, and if it may, whether others like it may until
/// something changes. If it is to be flooded, each endpoint here that gets a copy is
/// asked for besides.
#[inline(always)]
pub(crate) fn admit(pkt: &mut Packet, way: Way<'_>, frame: &Frame) -> Result<bool, DropReason> {
    let ip = match frame.ipv4() {
        Some(ip) if !is_group(ip.dst) => ip,
        _ => {
            let alone = Alone::of(&way, frame)?;
            policy::verdict(send_alone())?;
            return match way.to {
                Some(to) => alone.receive(to.ifindex).map(|()| false),
                None => Ok(false),
            };
        }
    };
    let owner = way.to.filter(|to| u32::from_ne_bytes(to.ipv4) == ip.dst);
    let passage = Passage {
        segment: ip.segment(way.vni),
        from: way.from,
        group: way.group,
        to: owner.map_or(0, |to| to.ifindex),
        ip_at: way.at + Eth::LEN,
    };
    let lasts = flow::admit(pkt, passage)?;
    match way.to {
        // The flow is of whoever has the address. Who is to pass it on may be
        // sent it or not.
        Some(to) if owner.is_none() => {
            Alone::of(&way, frame)?.receive(to.ifindex)?;
            Ok(false)
        }
        _ => Ok(lasts),
    }
}

/// Broadcast and multicast (RFC 5771).
#[inline(always)]
fn is_group(address: u32) -> bool {
    address.to_ne_bytes()[0] >= 224
}

/// What the rules have to know of a frame that is decided about by itself.
pub(crate) struct Alone {
    deed: Deed,
    signal: SignalCode,
    /// Without ARP nobody could be sent anything.
    is_arp: bool,
}

impl Alone {
    /// What is not IPv4 has neither addresses nor a protocol that a rule could
    /// name: it passes by rules for everyone and everything.
    #[inline(always)]
    pub(crate) fn of(way: &Way<'_>, frame: &Frame) -> Result<&'static mut Self, DropReason> {
        let (src, group, dst, protocol, port, signal) = match frame.ipv4() {
            Some(ip) => {
                let Transport { dst, signal, .. } = ip.transport;
                let port = flow::service(ip.protocol, dst);
                (ip.src, way.group, ip.dst, ip.protocol, port, signal)
            }
            None => (0, 0, 0, protocol::NONE, 0, SignalCode::ORDINARY),
        };
        let alone = Self::present()?;
        *alone = Self {
            deed: Deed {
                vni: way.vni,
                by: Party {
                    address: src,
                    ifindex: way.from,
                    group,
                },
                to: Party {
                    address: dst,
                    ifindex: 0,
                    group: 0,
                },
                protocol,
                port,
                is_traced: false,
            },
            signal,
            is_arp: matches!(frame.payload, Payload::Arp),
        };
        Ok(alone)
    }

    /// The one that this CPU works on.
    #[inline(always)]
    fn present() -> Result<&'static mut Self, DropReason> {
        let alone = ALONE.get_ptr_mut(0).ok_or(DropReason::Rewrite)?;
        // SAFETY: this CPU's own, and programs do not interrupt each other on one
        // CPU. Nobody relies on it across a call of one who changes it.
        Ok(unsafe { &mut *alone })
    }

    /// Whether the endpoint here behind `to` may be sent it, whatever flow it
    /// belongs to.
    #[inline(always)]
    #[expect(clippy::unused_self, reason = "it says that there has to be one")]
    pub(crate) fn receive(&mut self, to: u32) -> Result<(), DropReason> {
        policy::verdict(receive_alone(to))
    }

    /// The network.
    #[inline(always)]
    pub(crate) fn vni(&self) -> u32 {
        self.deed.vni
    }

    /// The host veth it came from; 0 if it came by the wire.
    #[inline(always)]
    pub(crate) fn sender(&self) -> u32 {
        self.deed.by.ifindex
    }
}

/// Whether the frame of [`ALONE`] may be sent, if its sender is here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn send_alone() -> u32 {
    let sent = Alone::present().and_then(|alone| {
        if alone.is_arp {
            return Ok(());
        }
        if alone.signal == SignalCode::UNKNOWN {
            return policy::admit_unknown(alone.deed.by.ifindex, 0);
        }
        policy::may_send(&alone.deed).map(|_| ())
    });
    sent.map_or_else(|reason| reason as u32, |()| 0)
}

/// Whether the endpoint here behind `to` may be sent the frame of [`ALONE`],
/// whatever flow that belongs to.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn receive_alone(to: u32) -> u32 {
    let received = Alone::present().and_then(|alone| {
        if alone.is_arp {
            return Ok(());
        }
        if alone.signal == SignalCode::UNKNOWN {
            return policy::admit_unknown(0, to);
        }
        alone.deed.to.ifindex = to;
        policy::may_receive(&alone.deed).map(|_| ())
    });
    received.map_or_else(|reason| reason as u32, |()| 0)
}
