//! How the daemon stands.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    control::{Control, NodeInfo, problems},
    model::Cluster,
    reconcile::{Counters, EndpointState, Report, Underlay},
    store::Health,
};

/// How the daemon stands.
#[derive(Clone, Debug)]
pub struct StatusView {
    /// Its node's name and addresses.
    pub info: NodeInfo,
    /// How long it has been running.
    pub uptime: Duration,
    /// How many networks are stored.
    pub networks: usize,
    /// How many endpoints are stored.
    pub endpoints: usize,
    /// How many of them work.
    pub endpoints_ready: usize,
    /// How many peers there are, nodes among them.
    pub peers: usize,
    /// How many policies there are.
    pub policies: usize,
    /// How many identities have a number.
    pub identities: usize,
    /// How many nodes are alive, this one among them.
    pub nodes: usize,
    /// How many endpoints there are on all hosts.
    pub cluster_endpoints: usize,
    /// The store, and what is to be said of it.
    pub store: Health,
    /// What the last pass found.
    pub report: Report,
    /// What is not as it should be, in sentences.
    pub problems: Vec<String>,
    /// The datapath's counters, if they could be read.
    pub counters: Counters,
}

impl StatusView {
    /// Whether everything is as desired.
    pub fn is_healthy(&self) -> bool {
        self.problems.is_empty()
    }
}

impl Control {
    /// How the daemon stands, with its counters.
    pub async fn status(&self) -> StatusView {
        let picture = self.picture();
        let desired = &picture.contents.desired;
        let report = self.report();
        let store = self.inner.store.health();
        let mut problems = report.problems.clone();
        problems.extend(store.problems.iter().cloned());
        problems.extend(problems::of_cluster(
            desired,
            &self.inner.info,
            report.underlay.as_ref(),
        ));
        let counters = self.counters().await.unwrap_or_else(|error| {
            problems.push(format!("the datapath's counters cannot be read: {error}"));
            Counters::default()
        });
        for (id, state) in &report.endpoints {
            if let EndpointState::Failed(reason) = state {
                problems.push(format!("endpoint {id}: {reason}"));
            }
        }
        let own = self.inner.info.node.as_str();
        let cluster = desired.cluster.as_ref();
        let other_nodes =
            |cluster: &Cluster| cluster.nodes.keys().filter(|name| ***name != *own).count();
        let ready = |state: &&EndpointState| matches!(state, EndpointState::Ready { .. });
        StatusView {
            info: self.inner.info.clone(),
            uptime: self.inner.started.elapsed(),
            networks: desired.networks.len(),
            endpoints: desired.endpoints.len(),
            endpoints_ready: report.endpoints.values().filter(ready).count(),
            peers: self.peers().len(),
            policies: desired.policies.len(),
            identities: desired.identities.len(),
            nodes: cluster.map_or(1, |cluster| other_nodes(cluster) + 1),
            cluster_endpoints: desired.endpoints.len()
                + cluster.map_or(0, |cluster| cluster.endpoints.len()),
            store,
            report,
            problems,
            counters,
        }
    }

    /// The names of all networks by VNI.
    pub fn network_names(&self) -> BTreeMap<u32, String> {
        let picture = self.picture();
        let networks = picture.contents.desired.networks.values();
        networks
            .map(|network| (network.vni.get(), network.name.clone()))
            .collect()
    }

    /// The underlay, as the last pass found it.
    pub(in crate::control) fn underlay(&self) -> Option<Underlay> {
        self.inner.observed.borrow().report.underlay.clone()
    }

    fn report(&self) -> Report {
        self.inner.observed.borrow().report.clone()
    }
}
