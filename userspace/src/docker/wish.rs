//! What a container asks for, and how it is written on its network-only
//! container, so that it can be read back from Docker alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnetwork::Ipv4Network;
use vxplane_common::types::MacAddr;

/// What a container that opts in asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// The network.
    pub network: NetworkWish,
    /// A fixed address.
    pub ip: Option<Ipv4Addr>,
    /// A fixed MAC address (`--mac-address`).
    pub mac: Option<MacAddr>,
    /// The endpoint's namespace; `None` for the default one.
    pub namespace: Option<String>,
    /// The container's labels.
    pub labels: BTreeMap<String, String>,
    /// The ports it exposes, as far as is known: `80/tcp`.
    pub exposed: BTreeSet<String>,
}

/// Which network is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkWish {
    /// One that exists, with this subnet if one was given too.
    Named {
        /// Its name.
        name: String,
        /// What its subnet has to be.
        subnet: Option<Ipv4Network>,
    },
    /// The one of this subnet, made if there is none.
    Subnet(Ipv4Network),
}
