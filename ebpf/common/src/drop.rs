//! Why a packet was dropped. Each drop has exactly one reason, and one exit of
//! the programs counts it by reason, direction and network.

/// The way of a packet as its container sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// The container sent it.
    Egress = 0,
    /// It is on its way to a container.
    Ingress = 1,
}

impl Direction {
    /// The word used in metrics and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }

    /// The direction counted under `value` in a [`crate::abi::DropKey`].
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Egress),
            1 => Some(Self::Ingress),
            _ => None,
        }
    }
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal, $text:literal;)+) => {
        /// Why a packet was dropped. The discriminants are ABI: they stand in
        /// pinned counters and never change their meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[$doc])* $variant = $code,)+
        }

        impl DropReason {
            /// Every reason, in the order of its code.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The label in metrics: lower case, stable.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// A sentence for people: what was wrong with the packet.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The reason with this code.
            pub const fn from_u8(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

drop_reasons! {
    /// The veth it came from belongs to no endpoint.
    UnknownEndpoint = 1, "unknown_endpoint", "it came from an interface that is not attached to a network";
    /// The inner frame is shorter than its own headers say, or they are invalid.
    MalformedFrame = 2, "malformed_frame", "the frame is truncated or its headers contradict each other";
    /// Source MAC address other than the endpoint's own.
    SourceMac = 3, "source_mac", "its source MAC address is not the endpoint's own (spoofing)";
    /// Source IP (or ARP sender) address other than the endpoint's own.
    SourceIp = 4, "source_ip", "its source IP address is not the endpoint's own (spoofing)";
    /// An inner VLAN tag (RFC 7348 §6.1: discarded unless configured otherwise).
    VlanTag = 5, "vlan_tag", "it carries an inner VLAN tag, which VXLAN networks do not take";
    /// Outer lengths or headers that do not fit together.
    MalformedOuter = 6, "malformed_outer", "the VXLAN packet is truncated or its outer headers contradict each other";
    /// The I flag is not set, so there is no valid VNI (RFC 7348 §5).
    VniFlag = 7, "vni_flag", "the VXLAN header does not have its I flag set";
    /// No network of this host has this VNI.
    UnknownVni = 8, "unknown_vni", "this host has no part in the network with that VNI";
    /// The sending VTEP is not a peer of that network.
    UnknownVtep = 9, "unknown_vtep", "the sending VTEP is not a peer of that network";
    /// Sent to a local address that is not our VTEP address.
    WrongDestination = 10, "wrong_destination", "it was not sent to this host's VTEP address";
    /// Unicast from the wire to a MAC address no endpoint here has.
    UnknownMac = 11, "unknown_mac", "no endpoint of that network on this host has its destination MAC address";
    /// A frame from the wire that claims the MAC address of an endpoint here.
    SourceIsLocal = 12, "source_is_local", "it came from the underlay with the MAC address of an endpoint of this host";
    /// Outer CE on an inner packet that does not take ECN (RFC 6040 §4.2).
    EcnInvalid = 13, "ecn_invalid", "the underlay marked congestion on a packet that does not support ECN";
    /// The slow path has no tunnel metadata on the packet.
    NoTunnelKey = 14, "no_tunnel_key", "it reached the VXLAN device without tunnel metadata";
    /// The kernel refused to rewrite the packet.
    Rewrite = 15, "rewrite", "the kernel refused to rewrite the packet";
    /// Nobody to send it to: an unknown destination and an empty flood list.
    NoDestination = 16, "no_destination", "its destination is unknown and the network has nobody else to ask";
    /// A copy of a flooded frame that the kernel did not take.
    CopyFailed = 17, "copy_failed", "the kernel could not send a copy of a broadcast or unknown-unicast frame";
    /// The outer IPv4 header is damaged.
    OuterChecksum = 18, "outer_checksum", "the checksum of its outer IPv4 header is wrong: it was damaged on the underlay";
    /// A frame from the wire that claims the IPv4 address of an endpoint here.
    SourceIpIsLocal = 19, "source_ip_is_local", "it came from the underlay with the IP address of an endpoint of this host";
    /// No policy allows the sending endpoint this.
    PolicyEgress = 20, "policy_egress", "a policy selects the sending endpoint for egress, and none allows it to send this";
    /// No policy allows the receiving endpoint to be sent this.
    PolicyIngress = 21, "policy_ingress", "a policy selects the receiving endpoint for ingress, and none allows this to reach it";
    /// A later fragment towards a policy that wants to know its ports.
    FragmentUnknown = 22, "fragment_unknown", "it is a later fragment of a packet whose first fragment did not come before it, and a policy has to know its ports";
    /// More new connections than the endpoint may open.
    NewFlowLimit = 23, "new_flow_limit", "its endpoint opens more new connections than its limit allows";
}
