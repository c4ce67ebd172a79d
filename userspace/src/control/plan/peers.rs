//! Foreign VTEPs: let in and shut out.

use std::{collections::BTreeSet, net::Ipv4Addr};

use vxplane_common::abi::MAX_FLOOD;

use super::{Basis, Plan, find_network};
use crate::{
    control::{
        census,
        error::{Conflict, Error, Invalid, NotFound},
        spec::check_peer,
    },
    model::{Desired, Peer, PeerNetworks},
    store::Change,
};

/// The most peers that are kept, whatever networks they are in.
const MAX_PEERS_KEPT: usize = 8192;

/// Networks that can be named in one request: each must still be there when a
/// shared store takes the change, and stores bound what they check at once.
const NETWORKS_AT_ONCE: usize = 100;

/// Adds a peer, or adds networks to one: none named means all of them.
pub(crate) fn add_peer(
    basis: Basis<'_>,
    ip: Ipv4Addr,
    networks: &BTreeSet<String>,
    own: Option<Ipv4Addr>,
) -> Result<Plan<Peer>, Error> {
    check_peer(ip, own)?;
    check_no_node(basis.desired(), ip)?;
    if networks.len() > NETWORKS_AT_ONCE {
        let (count, max) = (networks.len(), NETWORKS_AT_ONCE);
        return Err(Invalid::NetworksNamed { count, max }.into());
    }
    for name in networks {
        find_network(basis, name)?;
    }
    let asked = if networks.is_empty() {
        PeerNetworks::All
    } else {
        PeerNetworks::Only(networks.clone())
    };
    let existing = basis.desired().peers.get(&ip);
    let count = basis.desired().peers.len();
    if existing.is_none() && count >= MAX_PEERS_KEPT {
        return Err(Conflict::TooManyPeers(count).into());
    }
    let networks = match existing.map(|peer| &peer.networks) {
        Some(has) => union(has, &asked),
        None => asked,
    };
    for name in basis.desired().networks.keys() {
        let joins = networks.contains(name) && !existing.is_some_and(|e| e.networks.contains(name));
        if joins && census::crowd(basis.desired(), name) >= MAX_FLOOD as usize {
            return Err(Conflict::NetworkCrowded(name.clone()).into());
        }
    }
    let peer = Peer { ip, networks };
    if existing == Some(&peer) {
        return Ok(Plan::existing(peer, Vec::new()));
    }
    let changes = vec![Change::PutPeer(peer.clone())];
    Ok(match existing {
        Some(_) => Plan::existing(peer, changes),
        None => Plan::new(peer, changes),
    })
}

/// Removes a peer.
pub(crate) fn remove_peer(basis: Basis<'_>, ip: Ipv4Addr) -> Result<Vec<Change>, Error> {
    if basis.desired().peers.contains_key(&ip) {
        return Ok(vec![Change::RemovePeer(ip)]);
    }
    Err(NotFound::Peer(ip.to_string()).into())
}

/// An entry would do nothing while the node lives, and afterwards let in one that
/// was withdrawn. The node would remove it, too.
fn check_no_node(desired: &Desired, ip: Ipv4Addr) -> Result<(), Conflict> {
    let cluster = desired.cluster.iter();
    let mut nodes = cluster.flat_map(|cluster| cluster.nodes.values());
    match nodes.find(|node| node.vtep == ip) {
        Some(node) => Err(Conflict::PeerIsNode {
            ip,
            node: node.name.clone(),
        }),
        None => Ok(()),
    }
}

fn union(has: &PeerNetworks, asked: &PeerNetworks) -> PeerNetworks {
    match (has, asked) {
        (PeerNetworks::Only(has), PeerNetworks::Only(asked)) => PeerNetworks::Only(has | asked),
        _ => PeerNetworks::All,
    }
}
