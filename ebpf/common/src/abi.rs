//! The map ABI: names, keys and values that the programs and the daemon share,
//! and that outlive both in pinned maps.
//!
//! Every type is `repr(C)` without implicit padding (asserted below), holds
//! neither `bool` nor `enum`, and keeps what stands on the wire as byte arrays
//! in network order.

use crate::{
    drop::{Direction, DropReason},
    types::{MacAddr, MacWords},
};

/// Map names, as the programs declare them and as files under `<bpffs>/maps`.
pub mod map {
    /// HASH: host veth ifindex (`u32`) → [`super::Endpoint`].
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// HASH: [`super::FdbKey`] → [`super::FdbEntry`], written by the daemon only.
    pub const FDB: &str = "FDB";
    /// HASH: [`super::FdbKey`] → [`super::Learned`], written by the programs,
    /// aged out by the daemon.
    pub const LEARNED: &str = "LEARNED";
    /// HASH: VNI (`u32`) → [`super::LearnBudget`]. The daemon refills it at each
    /// sweep; a network without an entry learns nothing.
    pub const LEARN_BUDGET: &str = "LEARN_BUDGET";
    /// HASH: [`super::NeighbourKey`] → [`super::Neighbour`], for ARP suppression.
    pub const NEIGHBOURS: &str = "NEIGHBOURS";
    /// HASH: VNI (`u32`) → [`super::Network`].
    pub const NETWORKS: &str = "NETWORKS";
    /// HASH: [`super::PeerKey`] → [`super::Peer`].
    pub const PEERS: &str = "PEERS";
    /// HASH: [`super::FloodKey`] → [`super::FloodTarget`].
    pub const FLOOD: &str = "FLOOD";
    /// `PERCPU_HASH`: [`super::DropKey`] → [`super::Counter`].
    pub const DROPS: &str = "DROPS";
    /// `PERCPU_ARRAY`: endpoint slot → [`super::Traffic`].
    pub const TRAFFIC: &str = "TRAFFIC";
    /// RINGBUF of [`super::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// ARRAY: endpoint slot → [`super::EndpointDrops`].
    pub const ENDPOINT_DROPS: &str = "ENDPOINT_DROPS";
    /// HASH: endpoint slot → [`super::Limit`], for endpoints that have limits.
    pub const LIMITS: &str = "LIMITS";
    /// ARRAY: endpoint slot → [`super::Spent`], written by the programs.
    pub const SPENT: &str = "SPENT";
    /// ARRAY of one `u64`: until when somebody reads [`MONITOR`], nanoseconds of
    /// `CLOCK_MONOTONIC`. A reader that dies stops being written for by itself.
    /// Like the next three not pinned: each load has its own.
    pub const LISTENING: &str = "LISTENING";
    /// RINGBUF of [`super::Notice`].
    pub const MONITOR: &str = "MONITOR";
    /// `PERCPU_ARRAY` of one [`super::NoticeBudget`].
    pub const NOTICE_BUDGET: &str = "NOTICE_BUDGET";
    /// RINGBUF of [`super::TraceStep`].
    pub const TRACE: &str = "TRACE";
    /// ARRAY of one `u32`: the epoch. Whatever a decision about a flow rests on
    /// (policy, identities, who is where) is changed first, then the epoch; what
    /// was decided in another epoch is decided anew.
    pub const EPOCH: &str = "EPOCH";
    /// HASH: [`super::MemberKey`] → class (`u32`), written by the daemon only.
    pub const MEMBERS: &str = "MEMBERS";
    /// `LPM_TRIE`: [`super::BlockKey`] → class (`u32`), written by the daemon only.
    pub const BLOCKS: &str = "BLOCKS";
    /// `LPM_TRIE`: [`super::RuleKey`] → number of the rule (`u32`), written by the
    /// daemon only.
    pub const RULES: &str = "RULES";
    /// HASH: [`super::FlowKey`] → [`super::Flow`]: IPv4 flows that have shown to
    /// last, written by the programs. IPv6 will have maps of its own.
    pub const FLOWS: &str = "FLOWS";
    /// `LRU_HASH`: the same for flows that are new; what is oldest and unreplied
    /// makes room for others.
    pub const NEW_FLOWS: &str = "NEW_FLOWS";
    /// `PERCPU_ARRAY` of one [`super::FlowStats`].
    pub const FLOW_STATS: &str = "FLOW_STATS";
    /// `LRU_HASH`: [`super::FragmentKey`] → [`super::Ports`]: what the first
    /// fragment of a packet said.
    pub const FRAGMENTS: &str = "FRAGMENTS";
}

/// What each layout of the maps after the first has changed, oldest first: the
/// maps that have another size or longer values since, and those that are new.
///
/// Pinned maps outlive the daemon that made them, so whatever is changed about
/// one is a new layout. Its file is named after the layout, and the map before it
/// serves the programs before until they are replaced. Within one name
///
/// - keys stay as they are, and values only grow at their end;
/// - zeroes there mean what was so before.
///
/// What needs anything else needs another name.
#[cfg(not(feature = "next-layout"))]
pub const LAYOUTS: &[&[&str]] = &[POLICY];
/// A layout that is made up, for the tests of upgrades.
#[cfg(feature = "next-layout")]
pub const LAYOUTS: &[&[&str]] = &[
    POLICY,
    &[map::DROPS, map::LEARNED, map::PEERS, map::TRAFFIC],
];

/// The second layout: endpoints and neighbours have identities, and endpoints
/// drops and limits of their own.
const POLICY: &[&str] = &[
    map::ENDPOINTS,
    map::NEIGHBOURS,
    map::ENDPOINT_DROPS,
    map::LIMITS,
    map::SPENT,
];

/// The layout of this version.
pub const LAYOUT: usize = LAYOUTS.len() + 1;

/// The layout that gave the map of this name the form it has.
pub fn layout_of(name: &str) -> usize {
    let change = LAYOUTS.iter().rposition(|maps| maps.contains(&name));
    change.map_or(1, |change| change + 2)
}

/// Endpoints of one host, hence also traffic slots.
pub const MAX_ENDPOINTS: u32 = 4096;
/// FDB and neighbour entries the daemon can write.
pub const MAX_FDB: u32 = 131_072;
/// MACs learned from all VTEPs together.
pub const MAX_LEARNED: u32 = 65_536;
/// MACs learned in one network.
pub const MAX_LEARNED_PER_NETWORK: u32 = 8192;
/// Networks on one host.
pub const MAX_NETWORKS: u32 = 4096;
/// (Network, VTEP) pairs, and slots of all flood lists.
pub const MAX_PEERS: u32 = 65_536;
/// Copies one broadcast frame can become: local endpoints plus peers of a network.
/// A bound on the time the kernel spends on one frame, not on memory.
pub const MAX_FLOOD: u32 = 8192;
/// (Reason, direction, network) triples that are counted apart.
pub const MAX_DROP_KEYS: u32 = if cfg!(feature = "next-layout") {
    32_768
} else {
    16_384
};
/// Members of all rule sets of one host.
pub const MAX_MEMBERS: u32 = 1_048_576;
/// Address blocks of all rule sets of one host.
pub const MAX_BLOCKS: u32 = 131_072;
/// Rules of all rule sets of one host, port ranges taken apart into prefixes.
pub const MAX_RULES: u32 = 262_144;
/// Flows of one host that last.
pub const MAX_FLOWS: u32 = 262_144;
/// Flows of one host that are new.
pub const MAX_NEW_FLOWS: u32 = 65_536;
/// Packets in fragments on their way at once.
pub const MAX_FRAGMENTS: u32 = 8192;
/// Bytes of the event ring.
pub const EVENT_RING_BYTES: u32 = 256 * 1024;

/// Bytes of the monitor's ring.
pub const MONITOR_RING_BYTES: u32 = 256 * 1024;
/// Bytes of the ring of steps: more than any packet takes.
pub const TRACE_RING_BYTES: u32 = 64 * 1024;
/// Notices of one kind that each CPU writes within a second; the others are shed.
pub const NOTICES_PER_SECOND: u32 = 500;

/// Bytes added by VXLAN over IPv4: outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14.
pub const OVERHEAD_IPV4: u32 = 50;

/// Constants of one load of the programs, in their read-only data: the verifier
/// folds them into the code. A change means a new load, swapped in atomically.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// This host's VTEP address.
    pub vtep: [u8; 4],
    /// VXLAN UDP port, network order.
    pub port: [u8; 2],
    /// First port of the entropy range, host order.
    pub source_port_min: u16,
    /// Number of ports in the entropy range, host order, at least 1.
    pub source_port_range: u16,
    /// 1 if packets bear, and are believed, the group policy ID of who sends them
    /// (VXLAN Group Policy extension); 0 if not.
    pub gbp: u16,
    /// The kernel's `vxlan external` device of the slow path.
    pub fallback_ifindex: u32,
    /// MTU of the underlay device: what an outer IP packet may measure.
    pub underlay_mtu: u32,
}

/// The outer headers of packets to one VTEP, complete but for what differs
/// from packet to packet: IPv4 total length, TOS, ID, checksum; UDP source port
/// and length. The VNI of the network is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Outer {
    /// One's-complement sum of the IPv4 header as it stands in `header`, folded
    /// to 16 bits, host order over network-order words; the missing fields are 0.
    pub ipv4_sum: u32,
    /// IPv4 (20), UDP (8) and VXLAN (8) headers.
    pub header: [u8; 36],
    /// The VTEP itself where it is on the underlay's own link: then the kernel
    /// need not look up a route for each packet. 0 where it has to, since the way
    /// by a gateway may change at any time.
    pub next_hop: [u8; 4],
}

/// One container interface. Key: ifindex of its host veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Endpoint {
    /// The network it is in.
    pub vni: u32,
    /// Its one IPv4 address.
    pub ipv4: [u8; 4],
    /// Its one MAC address.
    pub mac: MacAddr,
    /// Explicit padding.
    pub pad: [u8; 2],
    /// Its slot in [`map::TRAFFIC`].
    pub slot: u32,
    /// Who it is to policies; 0 for nobody in particular.
    pub identity: u32,
    /// The rules for what it sends; 0 where no policy selects it for egress.
    pub egress: u32,
    /// The rules for what it is sent; 0 where no policy selects it for ingress.
    pub ingress: u32,
}

/// (Network, inner MAC).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FdbKey {
    /// The network.
    pub vni: u32,
    /// The inner MAC address.
    pub mac: MacAddr,
    /// Explicit padding: part of the key, always 0.
    pub pad: [u8; 2],
}

impl FdbKey {
    /// The key of `mac` in the network `vni`.
    #[inline(always)]
    pub const fn new(vni: u32, mac: MacAddr) -> Self {
        Self {
            vni,
            mac,
            pad: [0; 2],
        }
    }

    /// The same for an address held as numbers.
    #[inline(always)]
    pub const fn from_words(vni: u32, mac: MacWords) -> Self {
        Self::new(vni, mac.to_addr())
    }
}

/// [`FdbEntry::kind`]: an endpoint of this host.
pub const FDB_LOCAL: u32 = 1;
/// [`FdbEntry::kind`]: behind a VTEP.
pub const FDB_REMOTE: u32 = 2;

/// Where a MAC address lives, as the control plane knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FdbEntry {
    /// [`FDB_LOCAL`] or [`FDB_REMOTE`].
    pub kind: u32,
    /// Local: the host veth. Remote: the device towards the VTEP.
    pub ifindex: u32,
    /// Local: the endpoint's address. Remote: the VTEP's.
    pub ipv4: [u8; 4],
    /// Local: its slot in [`map::TRAFFIC`]. Remote: 0.
    pub slot: u32,
    /// Remote: the outer headers. Local: zeroes.
    pub outer: Outer,
}

/// Where a MAC address lives, as a packet from there showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Learned {
    /// When it was last seen as a source: `CLOCK_MONOTONIC`, nanoseconds,
    /// refreshed at most once a second.
    pub seen: u64,
    /// When it last changed its VTEP (same clock), 0 for never.
    pub moved: u64,
    /// The VTEP it is behind.
    pub vtep: [u8; 4],
    /// The device towards that VTEP.
    pub ifindex: u32,
    /// The outer headers towards that VTEP.
    pub outer: Outer,
    /// Explicit padding.
    pub pad: [u8; 4],
    /// What the next layout appends.
    #[cfg(feature = "next-layout")]
    pub appended: [u8; 8],
}

impl Learned {
    /// An address behind `vtep`, seen at the time `seen`, that was behind another
    /// until the time `moved`.
    #[inline(always)]
    pub const fn new(seen: u64, moved: u64, vtep: [u8; 4], ifindex: u32, outer: Outer) -> Self {
        Self {
            seen,
            moved,
            vtep,
            ifindex,
            outer,
            pad: [0; 4],
            #[cfg(feature = "next-layout")]
            appended: [0; 8],
        }
    }
}

/// How much a network may still learn. Both fields are updated atomically by
/// the programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LearnBudget {
    /// How many more MAC addresses may be learned.
    pub remaining: u64,
    /// How many packets brought one that was not learned, since the refill. The
    /// first of them raises [`EVENT_LEARN_REFUSED`] or [`EVENT_LEARNED_FULL`].
    pub refused: u64,
}

/// (Network, IPv4 address).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct NeighbourKey {
    /// The network.
    pub vni: u32,
    /// The address asked for.
    pub ipv4: [u8; 4],
}

/// The answer to an ARP request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Neighbour {
    /// Who has the address.
    pub mac: MacAddr,
    /// Explicit padding.
    pub pad: [u8; 2],
    /// Who that is to policies; 0 for nobody in particular.
    pub identity: u32,
}

/// A key of an LPM map: the first `bits` of `data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Prefix<K> {
    /// How many bits count.
    pub bits: u32,
    /// What they are of; the rest is 0.
    pub data: K,
}

/// The class of peers that every rule set has: everyone.
pub const CLASS_EVERYONE: u32 = 0;

/// (Rule set, identity). A rule set is what one endpoint is allowed in one
/// direction; endpoints that are allowed the same share one. Its peers are in
/// classes: what the members of one may do is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct MemberKey {
    /// The rule set.
    pub ruleset: u32,
    /// The peer's identity, never 0.
    pub identity: u32,
}

/// (Rule set, address block): data of an LPM key. Of the blocks that hold an
/// address the longest decides its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct BlockKey {
    /// The rule set; matched whole, so its order of bytes does not matter.
    pub ruleset: u32,
    /// The peer's address, network order.
    pub ipv4: [u8; 4],
}

/// Bits of a [`BlockKey`] before the address.
pub const BLOCK_PREFIX: u32 = 32;

/// (Rule set, class, protocol, destination port): data of an LPM key. There are
/// only rules that allow, so the longest match is as good as any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct RuleKey {
    /// The rule set; matched whole.
    pub ruleset: u32,
    /// The class of the peer; matched whole.
    pub class: u32,
    /// The IPv4 protocol number.
    pub protocol: u8,
    /// Explicit padding: part of the key, always 0.
    pub pad: u8,
    /// The destination port, network order; 0 where the protocol has none.
    pub port: [u8; 2],
}

/// Bits of a [`RuleKey`] for any protocol.
pub const RULE_PREFIX_ANY: u32 = 64;
/// Bits of a [`RuleKey`] for any port of a protocol; those of a port follow.
pub const RULE_PREFIX_PROTOCOL: u32 = 80;

/// Both directions of a flow: the lower of its two ends, (address, port) in
/// network order, is `low`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// Address of the lower end.
    pub low: [u8; 4],
    /// Address of the upper end.
    pub high: [u8; 4],
    /// Port of the lower end; both are the identifier of an ICMP query, and 0
    /// for protocols without ports.
    pub low_port: [u8; 2],
    /// Port of the upper end.
    pub high_port: [u8; 2],
    /// The network's VNI, and the protocol number in the lowest 8 bits.
    pub vni_protocol: u32,
}

/// What is known of a flow. Programs on several CPUs write it at once, each
/// field as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// The epoch in which it was decided whether its packets pass (upper 32
    /// bits), the rule that allowed it (24 bits), and the
    /// [`crate::drop::DropReason`] that forbids it, 0 if it is allowed (8 bits).
    pub decision: u64,
    /// Second of its first packet, `CLOCK_MONOTONIC`.
    pub created: u32,
    /// Second of its latest packet.
    pub seen: u32,
    /// Who began it and how far it is: `FLOW_…` bits of [`crate::flow`].
    pub state: u32,
    /// When `seen` was written, by a clock that costs nothing to read: it is
    /// written again when this clock has ticked.
    pub tick: u32,
}

/// What has become of flows, of all since the map was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowStats {
    /// They began: each had an entry in [`map::NEW_FLOWS`].
    pub begun: u64,
    /// They lasted: their entry moved to [`map::FLOWS`].
    pub settled: u64,
    /// They lasted, but there was no room for them.
    pub unsettled: u64,
    /// They ended, or were too long silent, while they were new.
    pub ended: u64,
}

/// One packet that was cut into fragments (RFC 791).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
    /// The network's VNI, and the protocol number in the lowest 8 bits.
    pub vni_protocol: u32,
    /// The identification, as it stands on the wire.
    pub id: [u8; 2],
    /// Explicit padding: part of the key, always 0.
    pub pad: [u8; 2],
}

/// The ports of a packet, network order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Ports {
    /// Source.
    pub src: [u8; 2],
    /// Destination.
    pub dst: [u8; 2],
}

/// A network this host has part in. Key: its VNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Network {
    /// Slots `0..flood_len` of [`map::FLOOD`] are in use.
    pub flood_len: u32,
}

/// (Network, VTEP).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PeerKey {
    /// The network.
    pub vni: u32,
    /// The VTEP's underlay address.
    pub vtep: [u8; 4],
}

/// [`Peer::flags`]: MACs behind it are learned from its packets.
pub const PEER_LEARN: u32 = 1;

/// A VTEP that may send into a network, and how to reach it. Made by
/// [`Self::new`], for its fields depend on the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
#[non_exhaustive]
pub struct Peer {
    /// [`PEER_LEARN`].
    pub flags: u32,
    /// The device towards it.
    pub ifindex: u32,
    /// The outer headers towards it, copied into what is learned from it.
    pub outer: Outer,
    /// What the next layout appends.
    #[cfg(feature = "next-layout")]
    pub appended: [u8; 4],
}

impl Peer {
    /// A VTEP reached by the device `ifindex` with these outer headers.
    #[inline(always)]
    pub const fn new(flags: u32, ifindex: u32, outer: Outer) -> Self {
        Self {
            flags,
            ifindex,
            outer,
            #[cfg(feature = "next-layout")]
            appended: [0; 4],
        }
    }
}

/// (Network, slot).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FloodKey {
    /// The network.
    pub vni: u32,
    /// Dense, from 0.
    pub slot: u32,
}

/// One copy of a flooded frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FloodTarget {
    /// A host veth here, or 0 for a VTEP.
    pub ifindex: u32,
    /// The VTEP if `ifindex` is 0.
    pub vtep: [u8; 4],
    /// The slot of the endpoint here in [`map::TRAFFIC`]; 0 for a VTEP.
    pub slot: u32,
}

/// What one drop counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct DropKey {
    /// The network, or 0 where the packet belongs to none of ours.
    pub vni: u32,
    /// A [`crate::drop::DropReason`].
    pub reason: u8,
    /// A [`crate::drop::Direction`].
    pub direction: u8,
    /// Explicit padding: part of the key, always 0.
    pub pad: [u8; 2],
}

impl DropKey {
    /// The key of what was dropped in the network `vni` for `reason` on its way
    /// in `direction`.
    #[inline(always)]
    pub const fn new(vni: u32, reason: DropReason, direction: Direction) -> Self {
        Self {
            vni,
            reason: reason as u8,
            direction: direction as u8,
            pad: [0; 2],
        }
    }
}

/// Packets and bytes (of the frame as the program met it; a GSO super-packet
/// counts as one packet).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What one endpoint sent and was sent; inner frames, counted where they were
/// forwarded or delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Traffic {
    /// From the container.
    pub egress: Counter,
    /// To the container.
    pub ingress: Counter,
    /// What the next layout appends.
    #[cfg(feature = "next-layout")]
    pub appended: u64,
}

/// What was dropped of one endpoint's packets, by the code of its
/// [`DropReason`]: what it sent, and what was for it. Added to atomically.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EndpointDrops {
    /// Packets.
    pub packets: [u64; 32],
}

/// How much an endpoint may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Limit {
    /// Flows that it may begin within a second, never 0.
    pub new_flows_per_second: u32,
}

/// How much of its limits an endpoint has spent: until when, if it went on
/// evenly. Nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Spent {
    /// By the flows that it began.
    pub new_flows_until: u64,
}

/// [`Notice::kind`]: a packet was dropped.
pub const NOTICE_DROP: u32 = 0;
/// [`Notice::kind`]: a flow began.
pub const NOTICE_FLOW: u32 = 1;
/// How many kinds of notices there are.
pub const NOTICE_KINDS: usize = 2;

/// [`Notice::slot`]: no endpoint of this host.
pub const NO_SLOT: u32 = u32::MAX;

/// What the programs tell of a packet while somebody listens. What could not be
/// read of it is zeroes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Notice {
    /// `NOTICE_…`.
    pub kind: u32,
    /// The network, or 0 where the packet belongs to none of ours.
    pub vni: u32,
    /// The endpoint here that sent it or that it is for, by its slot in
    /// [`map::TRAFFIC`].
    pub slot: u32,
    /// The rule that allowed the flow, 0 for none.
    pub rule: u32,
    /// Bytes of the packet as the program met it.
    pub len: u32,
    /// The VTEP that sent it, if it came by the wire.
    pub vtep: [u8; 4],
    /// IPv4 source address, or what ARP says is the sender's.
    pub src: [u8; 4],
    /// IPv4 destination address, or the one that ARP asks for.
    pub dst: [u8; 4],
    /// Source port, network order.
    pub src_port: [u8; 2],
    /// Destination port, network order.
    pub dst_port: [u8; 2],
    /// Source MAC address.
    pub src_mac: MacAddr,
    /// Destination MAC address.
    pub dst_mac: MacAddr,
    /// EtherType, network order.
    pub ethertype: [u8; 2],
    /// The IPv4 protocol number.
    pub protocol: u8,
    /// The [`DropReason`], 0 for none.
    pub reason: u8,
    /// A [`Direction`].
    pub direction: u8,
    /// Explicit padding.
    pub pad: [u8; 3],
}

/// How much one CPU may tell, by kind of notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NoticeBudget {
    /// Second of `CLOCK_MONOTONIC` that `told` is about.
    pub second: u64,
    /// Notices within that second.
    pub told: [u32; NOTICE_KINDS],
    /// What was not told, since the programs were loaded.
    pub shed: [u64; NOTICE_KINDS],
}

/// A [`crate::trace::Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TraceStep {
    /// Which.
    pub kind: u32,
    /// Its first number.
    pub a: u32,
    /// Its second number.
    pub b: u32,
}

/// [`Event::kind`]: a MAC address was learned.
pub const EVENT_LEARNED: u32 = 1;
/// [`Event::kind`]: a learned MAC address moved to another VTEP.
pub const EVENT_MOVED: u32 = 2;
/// [`Event::kind`]: a MAC address was not learned: its network's budget is spent.
pub const EVENT_LEARN_REFUSED: u32 = 3;

/// [`Event::kind`]: a MAC address was not learned: [`map::LEARNED`] is full of
/// those of all networks.
pub const EVENT_LEARNED_FULL: u32 = 4;

/// A rare change the datapath tells the daemon of. Never one per packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// `EVENT_…`.
    pub kind: u32,
    /// The network.
    pub vni: u32,
    /// The VTEP concerned.
    pub vtep: [u8; 4],
    /// The MAC address concerned.
    pub mac: MacAddr,
    /// Explicit padding.
    pub pad: [u8; 2],
}

/// Whether the next layout's fields are there.
const APPENDED: usize = cfg!(feature = "next-layout") as usize;

/// Rejects implicit padding: the size must be the sum of the fields.
macro_rules! packed_sizes {
    ($($ty:ty = $size:expr;)+) => {
        $(const _: () = assert!(size_of::<$ty>() == $size);)+
        #[cfg(feature = "user")]
        mod pod {
            $(
                // SAFETY: `repr(C)` integers and byte arrays, and the size
                // assertion above rules out padding: any bytes are a value.
                unsafe impl aya::Pod for $ty {}
            )+
            use super::*;
        }
    };
}

packed_sizes! {
    Config = 4 + 2 + 2 + 2 + 2 + 4 + 4;
    Outer = 4 + 36 + 4;
    Endpoint = 4 + 4 + 6 + 2 + 4 + 4 + 4 + 4;
    FdbKey = 4 + 6 + 2;
    FdbEntry = 4 + 4 + 4 + 4 + 44;
    Learned = 8 + 8 + 4 + 4 + 44 + 4 + APPENDED * 8;
    LearnBudget = 8 + 8;
    NeighbourKey = 4 + 4;
    Neighbour = 6 + 2 + 4;
    Prefix<BlockKey> = 4 + 8;
    Prefix<RuleKey> = 4 + 12;
    MemberKey = 4 + 4;
    BlockKey = 4 + 4;
    RuleKey = 4 + 4 + 1 + 1 + 2;
    FlowKey = 4 + 4 + 2 + 2 + 4;
    Flow = 8 + 4 + 4 + 4 + 4;
    FlowStats = 8 + 8 + 8 + 8;
    FragmentKey = 4 + 4 + 4 + 2 + 2;
    Ports = 2 + 2;
    Network = 4;
    PeerKey = 4 + 4;
    Peer = 4 + 4 + 44 + APPENDED * 4;
    FloodKey = 4 + 4;
    FloodTarget = 4 + 4 + 4;
    DropKey = 4 + 1 + 1 + 2;
    Counter = 8 + 8;
    Traffic = 16 + 16 + APPENDED * 8;
    Event = 4 + 4 + 4 + 6 + 2;
    EndpointDrops = 32 * 8;
    Limit = 4;
    Spent = 8;
    Notice = 5 * 4 + 3 * 4 + 2 * 2 + 2 * 6 + 2 + 3 + 3;
    NoticeBudget = 8 + 2 * 4 + 2 * 8;
    TraceStep = 4 + 4 + 4;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_of_the_layout_that_changed_it_last() {
        assert_eq!(layout_of(map::FDB), 1);
        assert_eq!(layout_of(map::ENDPOINTS), 2);
        let changed = layout_of(map::PEERS);
        assert_eq!(changed, if cfg!(feature = "next-layout") { 3 } else { 1 });
        assert!(changed <= LAYOUT);
    }
}
