//! Why a request was refused or failed, in words for the person who asked.
//!
//! Each error has a stable [`Error::code`] for programs, and a message that
//! says what was wrong and what to do.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use vxplane_common::{
    abi::MAX_FLOOD,
    types::{MacAddr, Vni},
};

use super::{
    plan::{POLICIES_MAX, POLICIES_PER_REQUEST, POLICY_BYTES_MAX},
    spec::{LABELS_BYTES_MAX, LABELS_MAX},
};
use crate::{
    model::NAMESPACE_NAME_LABEL,
    model::limits::WrongLimit,
    policy::read::{Flaw, ReadError},
    reconcile::ProbeError,
    store::StoreError,
};

/// What sort of failure an [`Error`] is; surfaces map it to their status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request cannot be meant as it stands.
    Invalid,
    /// What it names does not exist.
    NotFound,
    /// It contradicts what exists.
    Conflict,
    /// It was valid, but this host could not do it.
    Failed,
    /// It took too long.
    TimedOut,
    /// Not now: the daemon is stopping, or its store is away.
    Unavailable,
}

/// Why a request was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request cannot be meant as it stands.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// What it names does not exist.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// It contradicts what exists.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The endpoint was accepted but could not be wired; nothing of it was kept.
    #[error(
        "`{ifname}` of container {container_id} could not be attached to network {network}: {reason}"
    )]
    Attach {
        /// The network.
        network: String,
        /// The container.
        container_id: String,
        /// The interface inside it.
        ifname: String,
        /// What the kernel side said.
        reason: String,
    },
    /// An endpoint was not wired in time; nothing of it was kept.
    #[error(
        "the endpoint was not wired within {seconds} s, so the attach was undone; \
         `vxplane status` lists what is wrong"
    )]
    TimedOut {
        /// How long was waited.
        seconds: u64,
    },
    /// A change is stored, but the kernel does not follow.
    #[error(
        "{what} is stored, but the kernel did not follow within {seconds} s; \
         that is tried on, and `vxplane status` lists what is wrong"
    )]
    Behind {
        /// What is stored.
        what: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// Of many policies only the first ones could be applied.
    #[error(
        "the first {applied} of {of} policies are applied; the others are not, apply all of them \
         again: {source}"
    )]
    Partly {
        /// How many are applied.
        applied: usize,
        /// Of how many.
        of: usize,
        /// Why not more.
        source: Box<Error>,
    },
    /// A packet could not be traced.
    #[error("the packet cannot be traced: {0}")]
    Probe(#[source] ProbeError),
    /// The store refused the change; nothing was changed.
    #[error("the state could not be saved, so nothing was changed: {0}")]
    Store(#[source] StoreError),
    /// The store shared with others is out of reach.
    #[error(transparent)]
    StoreAway(StoreError),
    /// The host could not be asked for what the decision needs.
    #[error("{what} could not be read: {source}")]
    Host {
        /// What was to be read.
        what: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Others changed what the request depends on, again and again.
    #[error(
        "what the request depends on was changed by others again and again, so nothing was \
         changed; try again"
    )]
    Contended,
    /// The daemon is stopping.
    #[error("the daemon is stopping; ask again when it is back")]
    Stopping,
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { .. } | StoreError::Unknown { .. } => Self::StoreAway(error),
            error => Self::Store(error),
        }
    }
}

impl Error {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Invalid(_) => Kind::Invalid,
            Self::NotFound(_) => Kind::NotFound,
            Self::Conflict(_) => Kind::Conflict,
            Self::Attach { .. } | Self::Store(_) | Self::Host { .. } | Self::Probe(_) => {
                Kind::Failed
            }
            Self::Partly { source, .. } => source.kind(),
            Self::TimedOut { .. } | Self::Behind { .. } => Kind::TimedOut,
            Self::StoreAway(_) | Self::Contended | Self::Stopping => Kind::Unavailable,
        }
    }

    /// A stable word for programs: part of the API.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(invalid) => invalid.code(),
            Self::NotFound(missing) => missing.code(),
            Self::Conflict(conflict) => conflict.code(),
            Self::Attach { .. } => "attach_failed",
            Self::TimedOut { .. } => "timed_out",
            Self::Behind { .. } => "kernel_behind",
            Self::Partly { .. } => "partly_applied",
            Self::Contended => "contended",
            Self::Store(_) => "store_failed",
            Self::StoreAway(StoreError::Unknown { .. }) => "outcome_unknown",
            Self::StoreAway(_) => "store_unavailable",
            Self::Host { .. } => "host_unreadable",
            Self::Stopping => "stopping",
            Self::Probe(_) => "trace_failed",
        }
    }
}

/// What makes a request meaningless, whatever the state.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A protocol and a port that do not go together.
    #[error("TCP and UDP have a port from 1 to 65535, as in 10.50.0.12:80; ICMP has none")]
    TracePort,
    /// A name of a network, container or namespace with odd characters.
    #[error(
        "`{text}` cannot be {what}: use 1 to {max} of a-z A-Z 0-9 _ . - and start with a letter or digit"
    )]
    Name {
        /// What it was to name.
        what: &'static str,
        /// What was given.
        text: String,
        /// The longest allowed, in bytes.
        max: usize,
    },
    /// An interface name the kernel would not take.
    #[error(
        "`{0}` cannot be an interface name: use 1 to 15 characters without blanks, `/`, `:` or `%`, and neither `lo`, `all`, `default`, `.` nor `..`"
    )]
    Ifname(String),
    /// A label without a key, or with control characters in it.
    #[error(
        "`{0}` cannot be a label's key: it must not be empty nor contain control characters or `=`"
    )]
    Label(String),
    /// More labels than can be kept for everybody.
    #[error(
        "{count} labels of {bytes} bytes are too many: use at most {LABELS_MAX} of {LABELS_BYTES_MAX} bytes together"
    )]
    Labels {
        /// How many.
        count: usize,
        /// All keys and values together.
        bytes: usize,
    },
    /// Not a subnet.
    #[error("`{0}` is not an IPv4 subnet: write it like 10.50.0.0/24")]
    Subnet(String),
    /// Address bits right of the prefix.
    #[error("{given} has bits set right of its prefix length; you probably mean {meant}")]
    HostBits {
        /// As given.
        given: Ipv4Network,
        /// The network it is in.
        meant: Ipv4Network,
    },
    /// An IPv6 subnet or address.
    #[error("`{0}` is IPv6, which this version does not carry yet: give an IPv4 one")]
    Ipv6(String),
    /// Too few addresses.
    #[error("{0} has no room for a gateway and an endpoint: use a prefix length of 30 or less")]
    SubnetTooSmall(Ipv4Network),
    /// Too many addresses.
    #[error("{0} is too large: use a prefix length of 8 or more")]
    SubnetTooLarge(Ipv4Network),
    /// Loopback, multicast and the like.
    #[error(
        "{0} cannot be a network's subnet: it overlaps {1}, which no host can use on an interface"
    )]
    SubnetReserved(Ipv4Network, &'static str),
    /// A gateway that no endpoint could reach.
    #[error("{gateway} cannot be the gateway of {subnet}: use an address inside it that is neither its first ({}) nor its last ({})", subnet.network(), subnet.broadcast())]
    Gateway {
        /// As given.
        gateway: Ipv4Addr,
        /// The network's subnet.
        subnet: Ipv4Network,
    },
    /// 0 or more than 24 bits.
    #[error("{0} is not a VNI: use 1 to 16777215")]
    Vni(u64),
    /// Smaller than IPv4 allows or larger than any packet.
    #[error("{0} is not an MTU: use 68 to 65485 (bytes)")]
    Mtu(u64),
    /// More than the underlay carries.
    #[error("an MTU of {mtu} is too large: with VXLAN's 50 bytes it does not fit the underlay {device} (MTU {underlay}); use at most {}", underlay.saturating_sub(50))]
    MtuTooLarge {
        /// As asked for.
        mtu: u32,
        /// The underlay device.
        device: String,
        /// Its MTU.
        underlay: u32,
    },
    /// Not an address.
    #[error("`{0}` is not an IPv4 address: write it like 10.50.0.2, without prefix length")]
    Address(String),
    /// Not a MAC address.
    #[error("`{0}` is not a MAC address: write it like 02:42:0a:32:00:02")]
    Mac(String),
    /// A group or all-zero MAC address.
    #[error(
        "{0} cannot be an interface's MAC address: it is a multicast, broadcast or all-zero one; use one whose first octet is even, like 02:…"
    )]
    MacUnusable(MacAddr),
    /// An address with another prefix length than its network has.
    #[error("{ip}/{prefix} is not of network {network}: write {ip}, or {ip}/{own}")]
    Prefix {
        /// As asked for.
        ip: Ipv4Addr,
        /// Likewise.
        prefix: u8,
        /// The network's name.
        network: String,
        /// Its prefix length.
        own: u8,
    },
    /// An address outside the network.
    #[error("{ip} is not in network {network}, which is {subnet}")]
    AddressOutside {
        /// As asked for.
        ip: Ipv4Addr,
        /// The network's name.
        network: String,
        /// Its subnet.
        subnet: Ipv4Network,
    },
    /// The network's first, last or gateway address.
    #[error(
        "{ip} cannot be given to an endpoint of network {network} ({subnet}): it is its {what} address"
    )]
    AddressReserved {
        /// As asked for.
        ip: Ipv4Addr,
        /// The network's name.
        network: String,
        /// Its subnet.
        subnet: Ipv4Network,
        /// Which special address it is.
        what: &'static str,
    },
    /// Both or neither of netns and pid.
    #[error("say where the network namespace is by exactly one of `netns` (a path) and `pid`")]
    NetnsOrPid,
    /// A path that does not lead to a network namespace.
    #[error("{path} cannot be attached: {reason}")]
    Netns {
        /// As given, or derived from the process ID.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No such process.
    #[error("there is no process {0} (any more), so it has no network namespace to attach")]
    ProcessGone(u64),
    /// The daemon's own network namespace.
    #[error(
        "{0} is the daemon's own network namespace; attaching it would connect the host to its own overlay. Give a container's"
    )]
    NetnsOwn(String),
    /// A label that names a port, but no port.
    #[error(
        "the label `{label}` names no port: {reason}; write it like vxplane.port.http=8080/tcp"
    )]
    Port {
        /// The label.
        label: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A limit that cannot be.
    #[error(transparent)]
    Limit(#[from] WrongLimit),
    /// Policies that mean nothing.
    #[error(transparent)]
    Policies(#[from] ReadError),
    /// A policy out of a store that means nothing.
    #[error("{0}")]
    Policy(Flaw),
    /// More policies at once than one transaction takes.
    #[error(
        "{0} policies at once are too many: apply at most {POLICIES_PER_REQUEST} of them in one request"
    )]
    TooManyAtOnce(usize),
    /// A policy that is too large to be kept.
    #[error(
        "policy {name} is too large, with {bytes} bytes of JSON: use at most {POLICY_BYTES_MAX}"
    )]
    PolicyTooLarge {
        /// Its namespace and name.
        name: String,
        /// How large it is.
        bytes: usize,
    },
    /// The name's label with something else than the name.
    #[error(
        "the label {NAMESPACE_NAME_LABEL} of namespace {0} is its name and cannot be anything else"
    )]
    NamespaceNameLabel(String),
    /// A number out of a store that no identity can have.
    #[error("{0} is no number of an identity")]
    Identity(u32),
    /// An empty list of networks.
    #[error(
        "a peer of no network is none: name at least one network, or leave `networks` out to mean all of them"
    )]
    NoNetworks,
    /// More than stores check in one transaction.
    #[error(
        "{count} networks are too many at once for a peer: name at most {max}, then the others"
    )]
    NetworksNamed {
        /// As given.
        count: usize,
        /// The most there can be.
        max: usize,
    },
    /// An address no VTEP can have.
    #[error("{ip} cannot be a peer: it is {what}; give the underlay address of another host")]
    Peer {
        /// As given.
        ip: Ipv4Addr,
        /// What it is instead.
        what: &'static str,
    },
}

impl Invalid {
    fn code(&self) -> &'static str {
        match self {
            Self::Name { .. } => "invalid_name",
            Self::Ifname(_) => "invalid_ifname",
            Self::Label(_) | Self::NamespaceNameLabel(_) => "invalid_label",
            Self::Port { .. } | Self::TracePort => "invalid_port",
            Self::Limit(_) => "invalid_limit",
            Self::Policies(_) | Self::Policy(_) => "invalid_policy",
            Self::TooManyAtOnce(_) => "too_many_documents",
            Self::PolicyTooLarge { .. } => "policy_too_large",
            Self::Identity(_) => "invalid_identity",
            Self::Labels { .. } => "too_many_labels",
            Self::NetworksNamed { .. } => "too_many_networks_named",
            Self::Subnet(_)
            | Self::HostBits { .. }
            | Self::SubnetTooSmall(_)
            | Self::SubnetTooLarge(_)
            | Self::SubnetReserved(..) => "invalid_subnet",
            Self::Ipv6(_) => "ipv6_not_supported",
            Self::Gateway { .. } => "invalid_gateway",
            Self::Vni(_) => "invalid_vni",
            Self::Mtu(_) | Self::MtuTooLarge { .. } => "invalid_mtu",
            Self::Address(_)
            | Self::Prefix { .. }
            | Self::AddressOutside { .. }
            | Self::AddressReserved { .. } => "invalid_ip",
            Self::Mac(_) | Self::MacUnusable(_) => "invalid_mac",
            Self::NetnsOrPid | Self::Netns { .. } | Self::ProcessGone(_) | Self::NetnsOwn(_) => {
                "invalid_netns"
            }
            Self::NoNetworks | Self::Peer { .. } => "invalid_peer",
        }
    }
}

/// What does not exist.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// By name.
    #[error("there is no network `{0}`; `vxplane network ls` lists those there are")]
    Network(String),
    /// By ID, prefix or container name.
    #[error("there is no endpoint `{0}`; `vxplane endpoint ls` lists those there are")]
    Endpoint(String),
    /// By address.
    #[error("{0} is not a peer; `vxplane peer ls` lists those there are")]
    Peer(String),
    /// By namespace and name.
    #[error("there is no policy `{0}`; `vxplane policy ls` lists those there are")]
    Policy(String),
    /// By name.
    #[error("there is no node `{0}`; `vxplane node ls` lists those there are")]
    Node(String),
}

impl NotFound {
    fn code(&self) -> &'static str {
        match self {
            Self::Network(_) => "network_not_found",
            Self::Endpoint(_) => "endpoint_not_found",
            Self::Peer(_) => "peer_not_found",
            Self::Policy(_) => "policy_not_found",
            Self::Node(_) => "node_not_found",
        }
    }
}

/// What contradicts the request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// A network of that name that is not as asked for.
    #[error(
        "network {name} exists with {what} {has}, not {asked}; remove it first or choose another name"
    )]
    NetworkDiffers {
        /// Its name.
        name: String,
        /// What is different.
        what: &'static str,
        /// As it is.
        has: String,
        /// As asked for.
        asked: String,
    },
    /// Two networks cannot share a VNI.
    #[error("VNI {vni} is in use by network {network}; choose another, or none to have one chosen")]
    VniInUse {
        /// The VNI.
        vni: Vni,
        /// Who has it.
        network: String,
    },
    /// Two networks cannot share addresses.
    #[error(
        "{subnet} overlaps {other} of network {network}; choose another, or none to have one chosen"
    )]
    SubnetOverlaps {
        /// As asked for.
        subnet: Ipv4Network,
        /// Who has it.
        network: String,
        /// What that one has.
        other: Ipv4Network,
    },
    /// Nothing left to choose a subnet from.
    #[error(
        "no free /24 is left in 10.50.0.0/16 to 10.255.0.0/16: the host's routes and its networks use them all; give a subnet"
    )]
    NoFreeSubnet,
    /// The host has as many networks as its maps take.
    #[error("there are {0} networks, which is the most there can be; remove one first")]
    TooManyNetworks(usize),
    /// The host has as many endpoints as its maps take.
    #[error("this host has {0} endpoints, which is the most it can have; detach one first")]
    TooManyEndpoints(usize),
    /// There are as many peers as are allowed.
    #[error("there are {0} peers, which is the most there can be; remove one first")]
    TooManyPeers(usize),
    /// A node of the cluster is a peer without being added.
    #[error(
        "{ip} is node {node}: nodes are peers by themselves in the networks they share, so there is nothing to add"
    )]
    PeerIsNode {
        /// As asked for.
        ip: Ipv4Addr,
        /// Whose it is.
        node: String,
    },
    /// There are as many policies as are allowed.
    #[error("there are {0} policies, and there can be {POLICIES_MAX}; remove some first")]
    TooManyPolicies(usize),
    /// There are as many namespaces with labels as are allowed.
    #[error(
        "{0} namespaces have labels, which is the most there can be; take those of one away first"
    )]
    TooManyNamespaces(usize),
    /// Every number is given away.
    #[error("no number is left for another identity; detach an endpoint with labels of its own")]
    TooManyIdentities,
    /// More receivers of a broadcast than a network can have.
    #[error(
        "network {0} has {MAX_FLOOD} endpoints on this host and peers, which is the most a network can have here"
    )]
    NetworkCrowded(String),
    /// Endpoints keep it in use.
    #[error("network {name} still has endpoints: {}; detach them first", list(endpoints, *more))]
    NetworkInUse {
        /// Its name.
        name: String,
        /// Some of them by ID, with names of containers and other nodes.
        endpoints: Vec<String>,
        /// How many there are besides.
        more: usize,
    },
    /// Somebody has that address.
    #[error("{ip} is in use by endpoint {endpoint}; choose another, or none to have one chosen")]
    AddressInUse {
        /// As asked for.
        ip: Ipv4Addr,
        /// Who has it.
        endpoint: String,
    },
    /// Every address is given away.
    #[error(
        "network {network} ({subnet}) has no free address left; detach an endpoint or make a larger network"
    )]
    NetworkFull {
        /// Its name.
        network: String,
        /// Its subnet.
        subnet: Ipv4Network,
    },
    /// Somebody in that network has that MAC address.
    #[error(
        "{mac} is in use in this network by endpoint {endpoint}; choose another, or none to have one derived from the address"
    )]
    MacInUse {
        /// As asked for.
        mac: MacAddr,
        /// Who has it.
        endpoint: String,
    },
    /// The same container interface is attached differently.
    #[error("{endpoint} is attached already with {what} {has}, not {asked}; {remedy}")]
    EndpointDiffers {
        /// Its ID and what it is.
        endpoint: String,
        /// What is different.
        what: &'static str,
        /// As it is.
        has: String,
        /// As asked for.
        asked: String,
        /// What to do.
        remedy: String,
    },
    /// Another node has the endpoint.
    #[error("{what} is endpoint {endpoint} on node {node}; detach it there first")]
    EndpointElsewhere {
        /// Its ID.
        endpoint: String,
        /// What it is.
        what: String,
        /// Who has it.
        node: String,
    },
    /// It is this node's, which does not know its container.
    #[error(
        "where the container of endpoint {0} is is not known here any more; attach it again or \
         detach it"
    )]
    EndpointForgotten(String),
    /// Another node has the endpoint that a trace is to start from, and does not say.
    #[error("endpoint {id} is on node {node}, and {why}; run on that host: {command}")]
    TraceElsewhere {
        /// Its ID.
        id: String,
        /// Who has it.
        node: String,
        /// Why it does not say.
        why: String,
        /// What to run there.
        command: String,
    },
    /// A node that is not alive has the endpoint.
    #[error(
        "endpoint {endpoint} is on node {node}, which is not alive; `vxplane node rm {node}` frees \
         the addresses of all that was on it"
    )]
    EndpointOfDeadNode {
        /// Its ID.
        endpoint: String,
        /// Who had it.
        node: String,
    },
    /// A node that is alive keeps what it has.
    #[error(
        "node {0} is alive; stop the daemon on it first, and wait until `vxplane node ls` shows \
         that it is down"
    )]
    NodeAlive(String),
    /// Another container's endpoint is that interface of that namespace.
    #[error(
        "{netns} has an interface `{ifname}` already: it is endpoint {endpoint}; choose another name or detach that one"
    )]
    IfnameTaken {
        /// The network namespace's path.
        netns: String,
        /// The interface name.
        ifname: String,
        /// Who it is.
        endpoint: String,
    },
    /// The namespace has an interface of that name that is not ours.
    #[error(
        "{netns} has an interface `{ifname}` already, which vxplane did not make; choose another name with `ifname`"
    )]
    IfnameForeign {
        /// The network namespace's path.
        netns: String,
        /// The interface name.
        ifname: String,
    },
    /// An ID prefix or container name that more than one endpoint has.
    #[error("`{text}` could be endpoints {}; give a whole ID", list(endpoints, *more))]
    Ambiguous {
        /// As given.
        text: String,
        /// Some of their IDs.
        endpoints: Vec<String>,
        /// How many there are besides.
        more: usize,
    },
}

/// Names, and how many more there are.
fn list(named: &[String], more: usize) -> String {
    let named = named.join(", ");
    match more {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

impl Conflict {
    fn code(&self) -> &'static str {
        match self {
            Self::NetworkDiffers { .. } => "network_exists",
            Self::VniInUse { .. } => "vni_in_use",
            Self::SubnetOverlaps { .. } => "subnet_overlaps",
            Self::NoFreeSubnet => "no_free_subnet",
            Self::TooManyNetworks(_) => "too_many_networks",
            Self::TooManyEndpoints(_) => "too_many_endpoints",
            Self::TooManyPeers(_) => "too_many_peers",
            Self::PeerIsNode { .. } => "peer_is_node",
            Self::TooManyPolicies(_) => "too_many_policies",
            Self::TooManyNamespaces(_) => "too_many_namespaces",
            Self::TooManyIdentities => "too_many_identities",
            Self::NetworkCrowded(_) => "network_crowded",
            Self::NetworkInUse { .. } => "network_in_use",
            Self::AddressInUse { .. } => "ip_in_use",
            Self::NetworkFull { .. } => "network_full",
            Self::MacInUse { .. } => "mac_in_use",
            Self::EndpointDiffers { .. } => "endpoint_exists",
            Self::EndpointElsewhere { .. }
            | Self::EndpointForgotten(_)
            | Self::EndpointOfDeadNode { .. }
            | Self::TraceElsewhere { .. } => "endpoint_elsewhere",
            Self::NodeAlive(_) => "node_alive",
            Self::IfnameTaken { .. } | Self::IfnameForeign { .. } => "ifname_in_use",
            Self::Ambiguous { .. } => "ambiguous_id",
        }
    }
}
