//! The steps of a traced packet, as the programs record and the daemon reads them.

use crate::{abi::TraceStep, drop::DropReason};

/// What a program found or decided about a traced packet. In the order in which
/// they come about, they are its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is from the endpoint with this slot, whole, and under that endpoint's
    /// own addresses.
    Source {
        /// In [`crate::abi::map::TRAFFIC`].
        slot: u32,
    },
    /// It asks for an address that the control plane knows: it was turned into the
    /// answer.
    ArpAnswered,
    /// It asks for an address that the control plane does not know.
    ArpUnknown,
    /// Nobody has its destination MAC address; it got that of who has the IPv4
    /// address.
    Readdressed,
    /// It goes into the container with this slot, by this host veth.
    Delivered {
        /// The host veth.
        ifindex: u32,
        /// In [`crate::abi::map::TRAFFIC`].
        slot: u32,
    },
    /// It got outer headers and goes to a VTEP by this device.
    Encapsulated {
        /// The VTEP.
        vtep: [u8; 4],
        /// The device.
        ifindex: u32,
    },
    /// It goes to a VTEP by the kernel's VXLAN device.
    SlowPath {
        /// The VTEP.
        vtep: [u8; 4],
    },
    /// Its destination is unknown or a group: so many members are asked, of which
    /// [`FLOOD_STEPS`] are named.
    Flooded {
        /// Members, the sender among them.
        members: u32,
    },
    /// A copy would go to the endpoint with this slot.
    CopyHere {
        /// In [`crate::abi::map::TRAFFIC`].
        slot: u32,
    },
    /// A copy would go to this VTEP.
    CopyThere {
        /// The VTEP.
        vtep: [u8; 4],
    },
    /// It is VXLAN for this host, and its sender is a peer of its network.
    Admitted {
        /// The sender.
        vtep: [u8; 4],
        /// The network.
        vni: u32,
    },
    /// The source MAC address would be learned, or learned anew.
    Learns,
    /// It is left to the kernel's VXLAN device.
    LeftToKernel,
    /// It belongs to no flow that is known, or begins one anew.
    NewFlow,
    /// It belongs to a flow that is known.
    KnownFlow,
    /// Whoever began its flow is an endpoint here, and may send this by the rule of
    /// that number; 0 if no policy selects it, [`FORBIDDEN`] if none allows it.
    SendRule {
        /// In the rule set of that endpoint.
        rule: u32,
    },
    /// The same for the other end, which is an endpoint here and is sent this.
    ReceiveRule {
        /// In the rule set of that endpoint.
        rule: u32,
    },
    /// It is dropped.
    Dropped {
        /// Why.
        reason: DropReason,
        /// The network, 0 as long as none of ours is known.
        vni: u32,
    },
}

/// In place of a rule: none allows it.
pub const FORBIDDEN: u32 = u32::MAX;

/// Copies of a flooded frame that are named one by one.
pub const FLOOD_STEPS: u32 = 32;

const SOURCE: u32 = 1;
const ARP_ANSWERED: u32 = 2;
const ARP_UNKNOWN: u32 = 3;
const READDRESSED: u32 = 4;
const DELIVERED: u32 = 5;
const ENCAPSULATED: u32 = 6;
const SLOW_PATH: u32 = 7;
const FLOODED: u32 = 8;
const COPY_HERE: u32 = 9;
const COPY_THERE: u32 = 10;
const ADMITTED: u32 = 11;
const LEARNS: u32 = 12;
const LEFT_TO_KERNEL: u32 = 13;
const DROPPED: u32 = 14;
const NEW_FLOW: u32 = 15;
const KNOWN_FLOW: u32 = 16;
const SEND_RULE: u32 = 17;
const RECEIVE_RULE: u32 = 18;

impl Step {
    /// As it stands in the ring.
    #[inline(always)]
    pub const fn encode(self) -> TraceStep {
        let (kind, a, b) = match self {
            Self::Source { slot } => (SOURCE, slot, 0),
            Self::ArpAnswered => (ARP_ANSWERED, 0, 0),
            Self::ArpUnknown => (ARP_UNKNOWN, 0, 0),
            Self::Readdressed => (READDRESSED, 0, 0),
            Self::Delivered { ifindex, slot } => (DELIVERED, ifindex, slot),
            Self::Encapsulated { vtep, ifindex } => {
                (ENCAPSULATED, u32::from_ne_bytes(vtep), ifindex)
            }
            Self::SlowPath { vtep } => (SLOW_PATH, u32::from_ne_bytes(vtep), 0),
            Self::Flooded { members } => (FLOODED, members, 0),
            Self::CopyHere { slot } => (COPY_HERE, slot, 0),
            Self::CopyThere { vtep } => (COPY_THERE, u32::from_ne_bytes(vtep), 0),
            Self::Admitted { vtep, vni } => (ADMITTED, u32::from_ne_bytes(vtep), vni),
            Self::Learns => (LEARNS, 0, 0),
            Self::LeftToKernel => (LEFT_TO_KERNEL, 0, 0),
            Self::Dropped { reason, vni } => (DROPPED, reason as u32, vni),
            Self::NewFlow => (NEW_FLOW, 0, 0),
            Self::KnownFlow => (KNOWN_FLOW, 0, 0),
            Self::SendRule { rule } => (SEND_RULE, rule, 0),
            Self::ReceiveRule { rule } => (RECEIVE_RULE, rule, 0),
        };
        TraceStep { kind, a, b }
    }

    /// The step that stands in the ring; `None` for one of another version.
    pub fn decode(step: TraceStep) -> Option<Self> {
        let TraceStep { kind, a, b } = step;
        let vtep = a.to_ne_bytes();
        Some(match kind {
            SOURCE => Self::Source { slot: a },
            ARP_ANSWERED => Self::ArpAnswered,
            ARP_UNKNOWN => Self::ArpUnknown,
            READDRESSED => Self::Readdressed,
            DELIVERED => Self::Delivered {
                ifindex: a,
                slot: b,
            },
            ENCAPSULATED => Self::Encapsulated { vtep, ifindex: b },
            SLOW_PATH => Self::SlowPath { vtep },
            FLOODED => Self::Flooded { members: a },
            COPY_HERE => Self::CopyHere { slot: a },
            COPY_THERE => Self::CopyThere { vtep },
            ADMITTED => Self::Admitted { vtep, vni: b },
            LEARNS => Self::Learns,
            LEFT_TO_KERNEL => Self::LeftToKernel,
            DROPPED => Self::Dropped {
                reason: DropReason::from_u8(u8::try_from(a).ok()?)?,
                vni: b,
            },
            NEW_FLOW => Self::NewFlow,
            KNOWN_FLOW => Self::KnownFlow,
            SEND_RULE => Self::SendRule { rule: a },
            RECEIVE_RULE => Self::ReceiveRule { rule: a },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_as_they_were_recorded() {
        let vtep = [192, 0, 2, 1];
        let steps = [
            Step::Source { slot: 3 },
            Step::ArpAnswered,
            Step::ArpUnknown,
            Step::Readdressed,
            Step::Delivered {
                ifindex: 4,
                slot: 5,
            },
            Step::Encapsulated { vtep, ifindex: 6 },
            Step::SlowPath { vtep },
            Step::Flooded { members: 7 },
            Step::CopyHere { slot: 8 },
            Step::CopyThere { vtep },
            Step::Admitted { vtep, vni: 9 },
            Step::Learns,
            Step::LeftToKernel,
            Step::Dropped {
                reason: DropReason::SourceIp,
                vni: 10,
            },
            Step::NewFlow,
            Step::KnownFlow,
            Step::SendRule { rule: FORBIDDEN },
            Step::ReceiveRule { rule: 12 },
        ];
        for step in steps {
            assert_eq!(Step::decode(step.encode()), Some(step));
        }
        let kinds = steps.map(|step| step.encode().kind);
        assert!(kinds.iter().copied().eq(SOURCE..=RECEIVE_RULE));
        let unknown = TraceStep {
            kind: 99,
            a: 0,
            b: 0,
        };
        assert_eq!(Step::decode(unknown), None);
    }
}
