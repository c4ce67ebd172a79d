//! What surfaces show: the stored objects together with how they stand.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use vxplane_common::abi::{OVERHEAD_IPV4, Traffic};

use super::{
    Control, NodeInfo,
    error::{Conflict, Error, NotFound},
};
use crate::{
    model::{Desired, Endpoint, Network},
    reconcile::{Counters, EndpointState, Report, Underlay},
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
}

/// How an endpoint stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It was stored and no pass has been over it yet.
    Pending,
    /// As the last pass reported.
    Known(EndpointState),
}

/// An endpoint and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointView {
    /// As stored.
    pub endpoint: Endpoint,
    /// Its network, as stored.
    pub network: Network,
    /// Its MTU, as in [`NetworkView::mtu`].
    pub mtu: Option<u32>,
    /// How it stands.
    pub state: State,
    /// What it sent and was sent, if asked for.
    pub traffic: Option<Traffic>,
}

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
    /// How many peers are stored.
    pub peers: usize,
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
        let mut problems = report.problems.clone();
        let counters = self.counters().await.unwrap_or_else(|error| {
            problems.push(format!("the datapath's counters cannot be read: {error}"));
            Counters::default()
        });
        for (id, state) in &report.endpoints {
            if let EndpointState::Failed(reason) = state {
                problems.push(format!("endpoint {id}: {reason}"));
            }
        }
        let ready = |state: &&EndpointState| matches!(state, EndpointState::Ready { .. });
        StatusView {
            info: self.inner.info.clone(),
            uptime: self.inner.started.elapsed(),
            networks: desired.networks.len(),
            endpoints: desired.endpoints.len(),
            endpoints_ready: report.endpoints.values().filter(ready).count(),
            peers: desired.peers.len(),
            report,
            problems,
            counters,
        }
    }

    /// Fills in what these endpoints sent and were sent, if it can be read.
    pub async fn add_traffic(&self, views: &mut [EndpointView]) {
        let Ok(counters) = self.counters().await else {
            return;
        };
        for view in views {
            let traffic = counters.traffic.get(&view.endpoint.slot);
            view.traffic = Some(traffic.copied().unwrap_or_default());
        }
    }

    pub(super) fn view_network(&self, desired: &Desired, network: &Network) -> NetworkView {
        let endpoints = desired.endpoints.values();
        NetworkView {
            network: network.clone(),
            mtu: self.effective_mtu(network),
            endpoints: endpoints
                .filter(|endpoint| endpoint.network == network.name)
                .count(),
        }
    }

    pub(super) fn view_endpoint(
        &self,
        desired: &Desired,
        endpoint: &Endpoint,
    ) -> Result<EndpointView, NotFound> {
        let Some(network) = desired.networks.get(&endpoint.network) else {
            return Err(NotFound::Endpoint(endpoint.id.clone()));
        };
        let observed = Arc::clone(&self.inner.observed.borrow());
        let known = observed.report.endpoints.get(&endpoint.id).cloned();
        Ok(EndpointView {
            endpoint: endpoint.clone(),
            network: network.clone(),
            mtu: self.effective_mtu(network),
            state: known.map_or(State::Pending, State::Known),
            traffic: None,
        })
    }

    /// The underlay, as the last pass found it.
    pub(super) fn underlay(&self) -> Option<Underlay> {
        self.inner.observed.borrow().report.underlay.clone()
    }

    fn report(&self) -> Report {
        self.inner.observed.borrow().report.clone()
    }

    fn effective_mtu(&self, network: &Network) -> Option<u32> {
        let observed = self.inner.observed.borrow();
        let underlay = observed.report.underlay.as_ref();
        let in_effect = observed.report.mtus.get(&network.name);
        network
            .mtu
            .or_else(|| in_effect.copied())
            .or_else(|| underlay.map(|underlay| underlay.mtu.saturating_sub(OVERHEAD_IPV4)))
    }
}

/// The ID of the endpoint meant by `text`: a whole ID; else a container's name
/// or whole ID; else the beginning of exactly one endpoint's or container's ID.
pub(super) fn find_endpoint(desired: &Desired, text: &str) -> Result<String, Error> {
    if desired.endpoints.contains_key(text) {
        return Ok(text.to_owned());
    }
    let exact = |e: &Endpoint| e.name.as_deref() == Some(text) || e.container_id == text;
    let begins = |e: &Endpoint| e.id.starts_with(text) || e.container_id.starts_with(text);
    let ids = |matches: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<String> {
        let endpoints = desired
            .endpoints
            .values()
            .filter(|endpoint| matches(endpoint));
        endpoints.map(|endpoint| endpoint.id.clone()).collect()
    };
    let mut found = ids(&exact);
    if found.is_empty() && !text.is_empty() {
        found = ids(&begins);
    }
    let mut found: Vec<_> = found.into_iter().collect();
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(NotFound::Endpoint(text.to_owned()).into()),
        (Some(last), false) => {
            found.push(last);
            Err(Conflict::Ambiguous {
                text: text.to_owned(),
                endpoints: found,
            }
            .into())
        }
    }
}
