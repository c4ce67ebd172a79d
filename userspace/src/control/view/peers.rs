//! Peers: the other VTEPs of this host's networks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use crate::{
    control::{Control, census},
    model::{Desired, Peer, PeerNetworks},
};

/// Another VTEP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Its underlay address.
    pub ip: Ipv4Addr,
    /// Its node's name; none for one that is no node of the cluster.
    pub node: Option<String>,
    /// The networks it takes part in now, of a node those that this host takes
    /// part in too.
    pub networks: Vec<String>,
    /// Whether it takes part in all networks, also later ones.
    pub all_networks: bool,
}

impl PeerView {
    pub(in crate::control) fn foreign(desired: &Desired, peer: &Peer) -> Self {
        let networks = match &peer.networks {
            PeerNetworks::Only(names) => names.iter().cloned().collect(),
            PeerNetworks::All => desired.networks.keys().cloned().collect(),
        };
        Self {
            ip: peer.ip,
            node: None,
            networks,
            all_networks: peer.networks == PeerNetworks::All,
        }
    }
}

impl Control {
    /// All peers, by address: foreign VTEPs, and the nodes that share networks
    /// with this host.
    pub fn peers(&self) -> Vec<PeerView> {
        let picture = self.picture();
        let desired = &picture.contents.desired;
        let foreign = desired.peers.values();
        let foreign = foreign.map(|peer| PeerView::foreign(desired, peer));
        let mut peers: Vec<_> = foreign.chain(node_peers(desired)).collect();
        peers.sort_by_key(|peer| peer.ip);
        peers
    }
}

/// The nodes that share networks with this host.
fn node_peers(desired: &Desired) -> Vec<PeerView> {
    let Some(cluster) = &desired.cluster else {
        return Vec::new();
    };
    let here: BTreeSet<_> = desired.endpoints.values().map(|e| &e.network).collect();
    let mut shared = BTreeMap::<_, BTreeSet<&str>>::new();
    for network in here {
        for record in census::there(desired, network) {
            shared.entry(&*record.node).or_default().insert(network);
        }
    }
    let view = |(name, networks): (&str, BTreeSet<&str>)| {
        let node = cluster.nodes.get(name).filter(|_| *cluster.own != *name)?;
        Some(PeerView {
            ip: node.vtep,
            node: Some(node.name.clone()),
            networks: networks.into_iter().map(str::to_owned).collect(),
            all_networks: false,
        })
    };
    shared.into_iter().filter_map(view).collect()
}
