//! BPF filters of a clsact qdisc, where TCX is not used.

use std::collections::BTreeSet;

use futures_util::TryStreamExt;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};
use nix::errno::Errno;

use super::{Error, Netlink, gone_already, request};
use rtnetlink::TrafficFilterGetRequest;

/// One BPF filter on the ingress of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Where it stands among the filters: lower runs first.
    pub priority: u16,
    /// What tells it from others of the same priority.
    pub handle: u32,
    /// The name its owner gave it.
    pub name: String,
    /// ID of its program.
    pub program: u32,
}

fn parse(message: &TcMessage) -> Option<Filter> {
    let handle = message.header.handle;
    let mut filter = Filter {
        // Upper half: priority; lower half: protocol.
        priority: u16::try_from(message.header.info >> 16).ok()?,
        handle: (u32::from(handle.major) << 16) | u32::from(handle.minor),
        name: String::new(),
        program: 0,
    };
    let options = message.attributes.iter().find_map(|a| match a {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    for option in options {
        match option {
            TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => filter.name.clone_from(name),
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program = *id,
            _ => {}
        }
    }
    (filter.program != 0).then_some(filter)
}

impl Netlink {
    /// Indices of the devices with a clsact qdisc.
    pub async fn clsact_devices(&self) -> Result<BTreeSet<u32>, Error> {
        let get = self.handle.qdisc().get();
        let messages = get.execute().try_collect::<Vec<_>>();
        let messages = request(|| "list the queueing disciplines".to_owned(), messages).await?;
        let is_clsact = |message: &&TcMessage| {
            let kind = TcAttribute::Kind("clsact".to_owned());
            message.attributes.contains(&kind)
        };
        let indices = messages.iter().filter(is_clsact).map(|m| m.header.index);
        Ok(indices.filter_map(|index| index.try_into().ok()).collect())
    }

    /// The BPF filters on the ingress of a device; none where it has no clsact
    /// qdisc or is gone.
    pub async fn ingress_filters(&self, device: u32) -> Result<Vec<Filter>, Error> {
        let messages = self
            .filters(device, TrafficFilterGetRequest::ingress)
            .await?;
        Ok(messages.iter().filter_map(parse).collect())
    }

    /// Whether a device has filters of any kind in its clsact qdisc.
    pub async fn has_filters(&self, device: u32) -> Result<bool, Error> {
        let ingress = self
            .filters(device, TrafficFilterGetRequest::ingress)
            .await?;
        let egress = self
            .filters(device, TrafficFilterGetRequest::egress)
            .await?;
        Ok(!ingress.is_empty() || !egress.is_empty())
    }

    async fn filters(
        &self,
        device: u32,
        direction: fn(TrafficFilterGetRequest) -> TrafficFilterGetRequest,
    ) -> Result<Vec<TcMessage>, Error> {
        let Ok(index) = i32::try_from(device) else {
            return Ok(Vec::new());
        };
        let get = direction(self.handle.traffic_filter(index).get());
        let messages = get.execute().try_collect::<Vec<_>>();
        let action = || format!("list the filters of the interface with index {device}");
        match request(action, messages).await {
            Ok(messages) => Ok(messages),
            // Without the qdisc, or on a kernel without packet classifiers.
            Err(error) if error.is(Errno::EINVAL) || error.is(Errno::ENOENT) => Ok(Vec::new()),
            Err(error) if error.is(Errno::ENODEV) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Removes the clsact qdisc of a device; that it is gone already is fine.
    pub async fn delete_clsact(&self, device: u32) -> Result<(), Error> {
        let Ok(index) = i32::try_from(device) else {
            return Ok(());
        };
        let mut delete = self.handle.qdisc().del(index);
        let message = delete.message_mut();
        message.header.parent = TcHandle::CLSACT;
        // Not the ingress qdisc, which has the same place.
        let kind = TcAttribute::Kind("clsact".to_owned());
        message.attributes.push(kind);
        let action = || format!("remove the clsact qdisc of the interface with index {device}");
        gone_already(request(action, delete.execute()).await)
    }
}
