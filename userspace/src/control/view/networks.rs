//! Networks, and who takes part in them.

use vxplane_common::abi::OVERHEAD_IPV4;

use crate::{
    control::{
        Control,
        census::Tally,
        error::{Error, NotFound},
    },
    model::{Desired, Network},
};

/// A network and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkView {
    /// As stored.
    pub network: Network,
    /// The MTU its endpoints have; unknown only while there is no underlay and
    /// none was given.
    pub mtu: Option<u32>,
    /// How many endpoints of this host are in it.
    pub endpoints: usize,
    /// How many endpoints are in it on all hosts.
    pub cluster_endpoints: usize,
    /// The nodes that take part in it now: alive, and with endpoints in it.
    pub nodes: Vec<String>,
}

impl Control {
    /// All networks, by name.
    pub fn networks(&self) -> Vec<NetworkView> {
        let picture = self.picture();
        let desired = &picture.contents.desired;
        let mut tallies = Tally::of_all(desired);
        let networks = desired.networks.values();
        networks
            .map(|network| {
                let tally = tallies.remove(network.name.as_str());
                self.tallied_network(desired, network, &tally.unwrap_or_default())
            })
            .collect()
    }

    /// One network.
    pub fn network(&self, name: &str) -> Result<NetworkView, Error> {
        let picture = self.picture();
        let desired = &picture.contents.desired;
        match desired.networks.get(name) {
            Some(network) => Ok(self.view_network(desired, network)),
            None => Err(NotFound::Network(name.to_owned()).into()),
        }
    }

    pub(in crate::control) fn view_network(
        &self,
        desired: &Desired,
        network: &Network,
    ) -> NetworkView {
        self.tallied_network(desired, network, &Tally::of(desired, &network.name))
    }

    fn tallied_network(
        &self,
        desired: &Desired,
        network: &Network,
        tally: &Tally<'_>,
    ) -> NetworkView {
        let own = (tally.here > 0).then_some(self.inner.info.node.as_str());
        let mut nodes: Vec<_> = tally.nodes.iter().copied().chain(own).collect();
        nodes.sort_unstable();
        NetworkView {
            network: network.clone(),
            mtu: self.overlay_mtu(desired, network, tally),
            endpoints: tally.here,
            cluster_endpoints: tally.here + tally.there,
            nodes: nodes.into_iter().map(str::to_owned).collect(),
        }
    }

    /// The MTU of a network's endpoints: what the smallest underlay of those that
    /// take part carries, or this host's if nobody does.
    pub(super) fn overlay_mtu(
        &self,
        desired: &Desired,
        network: &Network,
        tally: &Tally<'_>,
    ) -> Option<u32> {
        if network.mtu.is_some() {
            return network.mtu;
        }
        let nodes = desired.cluster.iter().flat_map(|cluster| {
            let nodes = tally.nodes.iter();
            nodes.filter_map(|name| cluster.nodes.get(*name))
        });
        let others = nodes.map(|node| node.mtu).min();
        let own = self.underlay().map(|underlay| underlay.mtu);
        let underlay = match others {
            Some(others) if tally.here == 0 => Some(others),
            Some(others) => Some(own.map_or(others, |own| own.min(others))),
            None => own,
        };
        underlay.map(|mtu| mtu.saturating_sub(OVERHEAD_IPV4))
    }
}
