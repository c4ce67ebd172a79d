//! Endpoints: those of this host with how they stand, those of other nodes as
//! the cluster knows them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use vxplane_common::{abi::Traffic, drop::DropReason};

use crate::{
    control::{
        Control,
        census::{self, Tally},
        error::{Conflict, Error, NotFound},
    },
    identity,
    model::{Desired, Endpoint, EndpointRecord, NamedPort, Network},
    reconcile::EndpointState,
};

/// How many endpoints an ambiguous name is said to mean.
const NAMED: usize = 10;

/// How an endpoint stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It was stored and no pass has been over it yet.
    Pending,
    /// As the last pass reported.
    Known(EndpointState),
}

/// An endpoint of this host and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointView {
    /// As stored.
    pub endpoint: Endpoint,
    /// The name of this host.
    pub node: String,
    /// Its network, as stored.
    pub network: Network,
    /// Its MTU, as in [`super::NetworkView::mtu`].
    pub mtu: Option<u32>,
    /// How it stands.
    pub state: State,
    /// What it sent and was sent, if asked for.
    pub traffic: Option<Traffic>,
    /// Packets that it sent or that were for it and were dropped, if asked for.
    pub drops: Option<BTreeMap<DropReason, u64>>,
    /// How many flows it has, if asked for.
    pub flows: Option<u64>,
}

/// Another node's endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherEndpointView {
    /// As its node made it known.
    pub record: EndpointRecord,
    /// Its network, as stored.
    pub network: Network,
    /// Its MTU, as in [`super::NetworkView::mtu`].
    pub mtu: Option<u32>,
    /// Whether its node is alive.
    pub alive: bool,
}

/// An endpoint on any host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListedEndpoint {
    /// On this one.
    Own(Box<EndpointView>),
    /// On another one.
    Other(Box<OtherEndpointView>),
}

/// Which endpoints to list; nothing given means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointFilter {
    /// Those in this network.
    pub network: Option<String>,
    /// Those on this node.
    pub node: Option<String>,
}

impl ListedEndpoint {
    fn id(&self) -> &str {
        match self {
            Self::Own(view) => &view.endpoint.id,
            Self::Other(view) => &view.record.id,
        }
    }
}

impl Control {
    /// All endpoints of this host, by ID, without traffic counters.
    pub fn endpoints(&self) -> Vec<EndpointView> {
        let picture = self.picture();
        let desired = &picture.contents.desired;
        let mtus = self.mtus(desired);
        let endpoints = desired.endpoints.values();
        endpoints
            .filter_map(|endpoint| {
                let network = desired.networks.get(&endpoint.network)?;
                let mtu = mtus.get(network.name.as_str()).copied().flatten();
                Some(self.own_endpoint(endpoint, network, mtu))
            })
            .collect()
    }

    /// One endpoint of this host by its whole ID, without traffic counters.
    pub fn endpoint(&self, id: &str) -> Result<EndpointView, Error> {
        let picture = self.picture();
        let desired = &picture.contents.desired;
        match desired.endpoints.get(id) {
            Some(endpoint) => Ok(self.view_endpoint(desired, endpoint)?),
            None => Err(NotFound::Endpoint(id.to_owned()).into()),
        }
    }

    /// The endpoints of all hosts that pass the filter, by ID, with traffic
    /// counters of this host's.
    pub async fn list_endpoints(&self, filter: &EndpointFilter) -> Vec<ListedEndpoint> {
        let wanted = |asked: &Option<String>, has: &str| asked.as_ref().is_none_or(|a| a == has);
        let mut listed = Vec::new();
        if wanted(&filter.node, &self.inner.info.node) {
            let mut own = self.endpoints();
            own.retain(|view| wanted(&filter.network, &view.endpoint.network));
            self.add_traffic(&mut own).await;
            listed.extend(own.into_iter().map(|view| ListedEndpoint::Own(view.into())));
        }
        let picture = self.picture();
        let desired = &picture.contents.desired;
        let mtus = self.mtus(desired);
        let networks = desired.networks.values();
        for network in networks.filter(|network| wanted(&filter.network, &network.name)) {
            let records = census::there(desired, &network.name);
            let mtu = mtus.get(network.name.as_str()).copied().flatten();
            listed.extend(
                records
                    .filter(|record| wanted(&filter.node, &record.node))
                    .map(|record| other_endpoint(desired, record, network, mtu))
                    .map(|view| ListedEndpoint::Other(view.into())),
            );
        }
        listed.sort_by(|one, other| one.id().cmp(other.id()));
        listed
    }

    /// The endpoint that a person means on any host: by ID, container name or
    /// ID, or the beginning of either ID. With traffic counters.
    pub async fn show_endpoint(&self, text: &str) -> Result<ListedEndpoint, Error> {
        let picture = self.picture();
        let desired = &picture.contents.desired;
        let id = find_endpoint(desired, text)?;
        if let Some(endpoint) = desired.endpoints.get(&id) {
            let mut view = self.view_endpoint(desired, endpoint)?;
            self.add_traffic(std::slice::from_mut(&mut view)).await;
            self.add_flows(&mut view).await;
            return Ok(ListedEndpoint::Own(view.into()));
        }
        let missing = || NotFound::Endpoint(id.clone());
        let record = census::find_there(desired, &id).ok_or_else(missing)?;
        let network = desired.networks.get(&*record.network).ok_or_else(missing)?;
        let tally = Tally::of(desired, &network.name);
        let mtu = self.overlay_mtu(desired, network, &tally);
        let view = other_endpoint(desired, record, network, mtu);
        Ok(ListedEndpoint::Other(view.into()))
    }

    /// The ID of the endpoint that a person means, on this host or another.
    pub fn find_endpoint(&self, text: &str) -> Result<String, Error> {
        find_endpoint(&self.picture().contents.desired, text)
    }

    /// Whether it is known that an endpoint exposes just these ports, besides those
    /// that its labels name.
    pub fn knows_ports(&self, endpoint: &Endpoint, exposed: &BTreeSet<NamedPort>) -> bool {
        let picture = self.picture();
        let known = picture.contents.desired.identities.get(&endpoint.identity);
        let identity = identity::of(&endpoint.namespace, &endpoint.labels, exposed);
        known.is_some_and(|known| **known == identity)
    }

    /// Fills in what these endpoints sent and were sent, if it can be read.
    pub async fn add_traffic(&self, views: &mut [EndpointView]) {
        let Ok(counters) = self.counters().await else {
            return;
        };
        for view in views {
            let slot = view.endpoint.slot;
            let drops = counters.endpoint_drops.get(&slot);
            view.drops = Some(drops.cloned().unwrap_or_default());
            let traffic = counters.traffic.get(&slot);
            view.traffic = Some(traffic.copied().unwrap_or_default());
        }
    }

    /// Fills in how many flows it has, if they can be counted.
    pub async fn add_flows(&self, view: &mut EndpointView) {
        let (vni, ip) = (view.network.vni.get(), view.endpoint.ip);
        view.flows = self.count_flows(vni, ip).await;
    }

    pub(in crate::control) fn view_endpoint(
        &self,
        desired: &Desired,
        endpoint: &Endpoint,
    ) -> Result<EndpointView, NotFound> {
        let Some(network) = desired.networks.get(&endpoint.network) else {
            return Err(NotFound::Endpoint(endpoint.id.clone()));
        };
        let tally = Tally::of(desired, &network.name);
        let mtu = self.overlay_mtu(desired, network, &tally);
        Ok(self.own_endpoint(endpoint, network, mtu))
    }

    fn own_endpoint(
        &self,
        endpoint: &Endpoint,
        network: &Network,
        mtu: Option<u32>,
    ) -> EndpointView {
        let observed = Arc::clone(&self.inner.observed.borrow());
        let known = observed.report.endpoints.get(&endpoint.id).cloned();
        EndpointView {
            endpoint: endpoint.clone(),
            node: self.inner.info.node.clone(),
            network: network.clone(),
            mtu,
            state: known.map_or(State::Pending, State::Known),
            traffic: None,
            drops: None,
            flows: None,
        }
    }

    /// The MTU of each network by name.
    fn mtus<'a>(&self, desired: &'a Desired) -> HashMap<&'a str, Option<u32>> {
        let tallies = Tally::of_all(desired);
        let nobody = Tally::default();
        let networks = desired.networks.values();
        networks
            .map(|network| {
                let name = network.name.as_str();
                let tally = tallies.get(name).unwrap_or(&nobody);
                (name, self.overlay_mtu(desired, network, tally))
            })
            .collect()
    }
}

fn other_endpoint(
    desired: &Desired,
    record: &EndpointRecord,
    network: &Network,
    mtu: Option<u32>,
) -> OtherEndpointView {
    OtherEndpointView {
        record: record.clone(),
        network: network.clone(),
        mtu,
        alive: census::alive(desired, &record.node),
    }
}

/// The ID of the endpoint meant by `text`: a whole ID; else a container's name
/// or whole ID, on this host before others; else the beginning of exactly one
/// endpoint's or container's ID.
fn find_endpoint(desired: &Desired, text: &str) -> Result<String, Error> {
    if desired.endpoints.contains_key(text) || census::find_there(desired, text).is_some() {
        return Ok(text.to_owned());
    }
    let own = || {
        let endpoints = desired.endpoints.values();
        endpoints.map(|e| (&*e.id, e.name.as_deref(), &*e.container_id))
    };
    let others = || {
        let records = desired.others();
        records.map(|r| (&*r.id, r.name.as_deref(), &*r.container_id))
    };
    let exact = |(_, name, container): &(&str, Option<&str>, &str)| {
        *name == Some(text) || *container == text
    };
    let begins = |(id, _, container): &(&str, Option<&str>, &str)| {
        !text.is_empty() && (id.starts_with(text) || container.starts_with(text))
    };
    let mut found: BTreeSet<_> = own().filter(exact).map(|(id, ..)| id).collect();
    if found.is_empty() {
        found = others().filter(exact).map(|(id, ..)| id).collect();
    }
    if found.is_empty() {
        let all = own().chain(others());
        found = all.filter(begins).map(|(id, ..)| id).collect();
    }
    match found.len() {
        0 => Err(NotFound::Endpoint(text.to_owned()).into()),
        1 => Ok(found.into_iter().collect()),
        number => Err(Conflict::Ambiguous {
            text: text.to_owned(),
            endpoints: found.into_iter().take(NAMED).map(str::to_owned).collect(),
            more: number.saturating_sub(NAMED),
        }
        .into()),
    }
}
