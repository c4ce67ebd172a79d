//! What is wrong between this host and the cluster, in sentences that say what to
//! do. Only what somebody has to put right: a node that is down is none.

use crate::{
    model::{Cluster, Desired, Network, Node},
    reconcile::Underlay,
};
use vxplane_common::abi::OVERHEAD_IPV4;

use super::{NodeInfo, census::Tally};

/// How many nodes are named in one sentence.
const NAMED: usize = 5;

/// All of it; nothing on a host that is in no cluster.
pub(super) fn of_cluster(
    desired: &Desired,
    info: &NodeInfo,
    underlay: Option<&Underlay>,
) -> Vec<String> {
    let Some(cluster) = &desired.cluster else {
        return Vec::new();
    };
    let nodes = || cluster.nodes.values().map(AsRef::as_ref);
    let others = || nodes().filter(|node: &&Node| node.name != info.node);
    let mut problems = Vec::new();
    let same_vtep = |node: &&Node| underlay.is_some_and(|underlay| underlay.vtep == node.vtep);
    if let Some((names, node)) = named(others().filter(same_vtep)) {
        problems.push(format!(
            "{names} has the VTEP address {} too, which is this host's: neither gets all that is \
             sent to it; give each host an address of its own (--underlay)",
            node.vtep
        ));
    }
    if let Some((names, node)) = named(others().filter(|node| node.port != info.port)) {
        problems.push(format!(
            "{names} uses VXLAN port {}, this host {}: they do not hear each other; start all \
             daemons with the same --port",
            node.port, info.port
        ));
    }
    let tallies = Tally::of_all(desired);
    for network in desired.networks.values() {
        if let Some(tally) = tallies.get(network.name.as_str()) {
            problems.extend(too_large(cluster, network, tally));
        }
    }
    problems
}

/// A fixed MTU that does not fit the underlays of all that take part.
fn too_large(cluster: &Cluster, network: &Network, tally: &Tally<'_>) -> Option<String> {
    let mtu = network.mtu?;
    let nodes = tally
        .nodes
        .iter()
        .filter_map(|name| cluster.nodes.get(*name).map(AsRef::as_ref));
    let small = nodes.filter(|node| node.mtu < mtu + OVERHEAD_IPV4);
    let smallest = small.clone().map(|node| node.mtu).min()?;
    let (names, _) = named(small)?;
    Some(format!(
        "network {} has the fixed MTU {mtu}, which with VXLAN's {OVERHEAD_IPV4} bytes does not \
         fit the underlay of {names} (MTU {smallest}): larger packets go in fragments or are lost; raise \
         the underlay's MTU, or make the network anew with one of at most {}",
        network.name,
        smallest.saturating_sub(OVERHEAD_IPV4)
    ))
}

/// The names of some nodes as a sentence's subject, and the first of them.
fn named<'a>(mut nodes: impl Iterator<Item = &'a Node>) -> Option<(String, &'a Node)> {
    let first = nodes.next()?;
    let others: Vec<_> = nodes.by_ref().take(NAMED - 1).collect();
    let names = std::iter::once(first)
        .chain(others)
        .map(|node| node.name.as_str());
    let names = names.collect::<Vec<_>>().join(", ");
    let names = match nodes.count() {
        0 => format!("node {names}"),
        more => format!("node {names} (and {more} more)"),
    };
    Some((names, first))
}
