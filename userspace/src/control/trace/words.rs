//! The steps of a packet in words.

use std::net::Ipv4Addr;

use vxplane_common::{drop::DropReason, trace::Step};

use super::{packet::Packet, remedy::remedy};
use crate::{
    control::{EndpointRef, census, events::names::Names},
    model::{Desired, Network},
    policy::document::PolicyType,
    reconcile::Underlay,
};

/// What is needed to put steps into words.
pub(super) struct Words<'a> {
    pub(super) names: &'a Names,
    pub(super) desired: &'a Desired,
    pub(super) network: Option<&'a Network>,
    pub(super) underlay: Option<&'a Underlay>,
    pub(super) packet: &'a Packet,
    /// The VTEP it came from, if it came by the wire.
    pub(super) arrived_from: Option<Ipv4Addr>,
    /// Whether it is the question for who has its destination's address, which
    /// everyone may be asked.
    pub(super) is_question: bool,
}

impl Words<'_> {
    /// Where in the dataplane the step was made, and what came of it.
    pub(super) fn step(&self, step: Step) -> (&'static str, String) {
        let network = self.network_name();
        match step {
            Step::Source { slot } => {
                let who = self.names.slot(slot);
                let text = format!("sent by {who}, whole and under its own MAC and IP address");
                ("source", text)
            }
            Step::ArpAnswered => (
                "arp",
                "answered here, as the control plane knows".to_owned(),
            ),
            Step::ArpUnknown => ("arp", self.unanswered()),
            Step::Readdressed => {
                let text = "nobody has its MAC address; it gets that of who has its IP address";
                ("fdb", text.to_owned())
            }
            Step::Delivered { slot, .. } => {
                let text = format!("into {} on this host", self.names.slot(slot));
                ("deliver", text)
            }
            Step::Encapsulated { vtep, ifindex } => {
                let device = self.device(ifindex);
                let (vtep, vni) = (self.vtep(vtep), self.packet.vni);
                ("encap", format!("in VXLAN {vni} to {vtep} by {device}"))
            }
            Step::SlowPath { vtep } => {
                let text = format!("to {} by the kernel's VXLAN device", self.vtep(vtep));
                ("encap", text)
            }
            Step::Flooded { .. } => ("flood", self.flooded()),
            Step::CopyHere { slot } => ("flood", self.copy(slot)),
            Step::CopyThere { vtep } => ("flood", format!("a copy to {}", self.vtep(vtep))),
            Step::Admitted { vtep, .. } => {
                let text = format!("{} may send into {network}", self.vtep(vtep));
                ("peer", text)
            }
            Step::Learns => {
                let text = format!("{} would be learned from it", self.packet.source().mac);
                ("learn", text)
            }
            Step::LeftToKernel => ("kernel", "left to the kernel's VXLAN device".to_owned()),
            Step::NewFlow => ("flow", "a new flow".to_owned()),
            Step::KnownFlow => ("flow", "of a flow that is known".to_owned()),
            Step::SendRule { rule } => {
                let (vni, ip) = (self.packet.vni, self.packet.source);
                ("policy", self.names.rule(vni, ip, PolicyType::Egress, rule))
            }
            Step::ReceiveRule { rule } => {
                let (vni, ip) = (self.packet.vni, self.packet.destination);
                (
                    "policy",
                    self.names.rule(vni, ip, PolicyType::Ingress, rule),
                )
            }
            Step::Dropped { reason, .. } => {
                ("drop", format!("{}: {}", reason.name(), reason.text()))
            }
        }
    }

    /// A copy to the endpoint of this host with that slot, which its policies are
    /// asked about when it is made. The programs make none of a traced packet.
    fn copy(&self, slot: u32) -> String {
        let label = self.names.slot(slot);
        let Packet { vni, source, .. } = *self.packet;
        let (protocol, port) = self.packet.service();
        let receives = self.names.receives(slot, vni, source, protocol, port);
        match receives {
            Some(rule) if !self.is_question => format!("a copy to {label}: {rule}"),
            _ => format!("a copy to {label}"),
        }
    }

    /// Who says where its destination is.
    pub(super) fn location(&self) -> (&'static str, String) {
        let station = self.packet.destination();
        let known = self.names.address(self.packet.vni, station.ip);
        let text = match known {
            Some(endpoint) => {
                let label = endpoint.label();
                format!("{} is {label}, as the control plane says", station.mac)
            }
            None => format!("where {} is was learned from its packets", station.mac),
        };
        ("fdb", text)
    }

    fn flooded(&self) -> String {
        let network = self.network_name();
        if self.packet.is_broadcast() {
            return format!("it is for all of {network}:");
        }
        format!("its destination is not known, so all of {network} is asked:")
    }

    /// Why nobody here says who has its destination's address.
    fn unanswered(&self) -> String {
        let ip = self.packet.destination;
        if let Some(EndpointRef { node, .. }) = self.on_a_dead_node() {
            return format!("{ip} is on node {node}, which is down: nobody answers for it");
        }
        let network = self.network_name();
        format!("the control plane does not know who has {ip} in {network}")
    }

    /// Whom the packet is for, if that is on a node that is not alive.
    fn on_a_dead_node(&self) -> Option<&EndpointRef> {
        let endpoint = self
            .names
            .address(self.packet.vni, self.packet.destination)?;
        let is_here = self.desired.endpoints.contains_key(&endpoint.id);
        (!is_here && !census::alive(self.desired, &endpoint.node)).then_some(endpoint)
    }

    /// What would bring the packet to one who is on a node that is not alive.
    pub(super) fn revival(&self) -> Option<String> {
        let EndpointRef { id, node, .. } = self.on_a_dead_node()?;
        Some(format!(
            "start the daemon of node {node}, or attach the container of endpoint {id} on a host \
             that is up; if node {node} is gone for good: vxplane node rm {node}"
        ))
    }

    /// What would mend a drop for this reason.
    pub(super) fn advice(&self, reason: DropReason) -> Option<String> {
        let network = self.network_name();
        let Packet {
            vni, destination, ..
        } = self.packet;
        Some(match reason {
            DropReason::UnknownVtep => {
                let vtep = self.arrived_from?;
                format!("vxplane peer add {vtep} --network {network}")
            }
            DropReason::UnknownVni => format!(
                "attach an endpoint to the network with VNI {vni} on this host; \
                 `vxplane network ls` lists those there are"
            ),
            DropReason::UnknownMac => format!(
                "attach the endpoint with {destination} on this host; `vxplane endpoint ls` says \
                 where it is"
            ),
            DropReason::NoDestination => format!(
                "attach an endpoint with {destination}, or, if another host has it: \
                 vxplane peer add ADDRESS-OF-THAT-HOST --network {network}"
            ),
            DropReason::SourceIsLocal | DropReason::SourceIpIsLocal => format!(
                "{} is an endpoint of this host, too: detach one, and attach it with another --ip",
                self.packet.source
            ),
            DropReason::UnknownEndpoint => "vxplane endpoint ls".to_owned(),
            DropReason::PolicyEgress => self.allow(PolicyType::Egress),
            DropReason::PolicyIngress => self.allow(PolicyType::Ingress),
            DropReason::Rewrite | DropReason::CopyFailed => "vxplane doctor".to_owned(),
            _ => return None,
        })
    }

    /// What would have policies allow the packet.
    fn allow(&self, direction: PolicyType) -> String {
        let remedy = remedy(self.desired, self.names, self.packet, direction);
        remedy.unwrap_or_else(|| {
            format!(
                "a policy that allows {} from {} to {}, by `vxplane policy apply -f FILE`; \
                 `vxplane policy ls` lists those there are",
                self.packet.protocol.name(),
                self.packet.source,
                self.packet.target()
            )
        })
    }

    fn network_name(&self) -> String {
        match self.network {
            Some(network) => network.name.clone(),
            None => format!("VNI {}", self.packet.vni),
        }
    }

    fn vtep(&self, vtep: [u8; 4]) -> String {
        let vtep = Ipv4Addr::from(vtep);
        match self.node_at(vtep) {
            Some(node) => format!("VTEP {vtep} (node {node})"),
            None => format!("VTEP {vtep}"),
        }
    }

    /// The name of the node with this VTEP address.
    pub(super) fn node_at(&self, vtep: Ipv4Addr) -> Option<String> {
        let cluster = self.desired.cluster.as_ref()?;
        let found = cluster.nodes.values().find(|node| node.vtep == vtep);
        found.map(|node| node.name.clone())
    }

    fn device(&self, ifindex: u32) -> String {
        match self.underlay {
            Some(underlay) if underlay.ifindex == ifindex => underlay.device.clone(),
            _ => format!("device {ifindex}"),
        }
    }
}
