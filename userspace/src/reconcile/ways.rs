//! How the underlay reaches other VTEPs, without asking for each at every look.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::Instant,
};

use futures_util::{StreamExt, stream};
use imbl::OrdMap;

use super::{Underlay, held::Pace, observe::Way};
use crate::{
    model::{Desired, Node, Word},
    netlink::{Netlink, Route},
};

/// Up to how many are asked for at every look.
const FEW: usize = 64;

/// Questions under way at the same time: the answers must fit into a socket's
/// buffer.
const AT_ONCE: usize = 32;

/// The ways as the kernel gave them.
#[derive(Debug, Default)]
pub(super) struct Ways {
    known: BTreeMap<Ipv4Addr, Option<Way>>,
    /// Those there are. Made anew only when something is different, so that it is
    /// seen at once when nothing is.
    found: OrdMap<Ipv4Addr, Way>,
    /// For whom they were looked up.
    nodes: OrdMap<Word, Arc<Node>>,
    peers: BTreeSet<Ipv4Addr>,
    /// The routes of that time.
    routes: Vec<Route>,
    /// Our address at that time.
    source: Option<Ipv4Addr>,
    pace: Pace,
}

impl Ways {
    /// Forgets the ways if they may be others now. What neither the main table
    /// nor our address tells (policy routing) is asked for now and then.
    pub(super) fn check(&mut self, routes: &[Route], underlay: Option<&Underlay>) {
        let source = underlay.map(|underlay| underlay.vtep);
        let is_same = self.routes == routes && self.source == source;
        if is_same && self.known.len() > FEW && !self.pace.is_due(Instant::now()) {
            return;
        }
        self.known.clear();
        self.source = source;
        routes.clone_into(&mut self.routes);
    }

    /// The way to each VTEP that may matter. Those without a route are left out.
    pub(super) async fn look_up(
        &mut self,
        netlink: &Netlink,
        desired: &Desired,
    ) -> OrdMap<Ipv4Addr, Way> {
        let nodes = desired.cluster.as_ref().map(|cluster| &cluster.nodes);
        let nodes = nodes.cloned().unwrap_or_default();
        let peers: BTreeSet<Ipv4Addr> = desired.peers.keys().copied().collect();
        if !self.known.is_empty() && nodes.ptr_eq(&self.nodes) && peers == self.peers {
            return self.found.clone();
        }
        let vteps = nodes.values().map(|node| node.vtep);
        let vteps: BTreeSet<Ipv4Addr> = vteps.chain(peers.iter().copied()).collect();
        (self.nodes, self.peers) = (nodes, peers);
        self.known.retain(|vtep, _| vteps.contains(vtep));
        let begun = Instant::now();
        let is_anew = self.known.is_empty();
        let source = self.source;
        let unknown: Vec<Ipv4Addr> = vteps
            .into_iter()
            .filter(|vtep| !self.known.contains_key(vtep))
            .collect();
        let found: Vec<_> = stream::iter(unknown)
            .map(|vtep| async move { (vtep, way_to(netlink, vtep, source).await) })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        self.known.extend(found);
        if is_anew {
            self.pace.done(begun);
        }
        let known = self.known.iter();
        let found = known.filter_map(|(vtep, way)| Some((*vtep, (*way)?)));
        let found: OrdMap<_, _> = found.collect();
        if found != self.found {
            self.found = found;
        }
        self.found.clone()
    }
}

async fn way_to(netlink: &Netlink, vtep: Ipv4Addr, source: Option<Ipv4Addr>) -> Option<Way> {
    let route = netlink.route_to(vtep, source).await.ok()?;
    Some(Way {
        ifindex: route.device?,
        on_link: !route.by_gateway,
    })
}
