//! What happened between two looks at the same thing.

use std::{collections::BTreeMap, sync::Arc};

use imbl::ordmap::DiffItem;

use super::{
    event::{EndpointRef, Event, EventType},
    names::{other, own},
};
use crate::{
    model::{Cluster, Desired, EndpointRecord, Peer, PeerNetworks},
    reconcile::{EndpointState, Report},
};

/// What happened to what is desired on this host, whose name is `node`.
pub(super) fn of_desired(before: &Desired, now: &Desired, node: &str) -> Vec<Event> {
    let mut events = Vec::new();
    of_networks(before, now, &mut events);
    let (attached, detached) = keys(&before.endpoints, &now.endpoints);
    for endpoint in attached {
        events.push(attachment(true, own(endpoint, node), &endpoint.network));
    }
    for endpoint in detached {
        events.push(attachment(false, own(endpoint, node), &endpoint.network));
    }
    for (ip, peer) in &now.peers {
        if before.peers.get(ip) != Some(peer) {
            let text = format!("VTEP {ip} may send into {}", networks(peer));
            let event = Event::new(EventType::PeerAdded, text);
            let vtep = Some(*ip);
            events.push(Event { vtep, ..event });
        }
    }
    for peer in keys(&before.peers, &now.peers).1 {
        let text = format!("VTEP {} may send into no network any more", peer.ip);
        let event = Event::new(EventType::PeerRemoved, text);
        let vtep = Some(peer.ip);
        events.push(Event { vtep, ..event });
    }
    of_policies(before, now, &mut events);
    let nobody = Cluster::default();
    let cluster = |desired: &'_ Desired| desired.cluster.clone().unwrap_or(nobody.clone());
    of_cluster(&cluster(before), &cluster(now), &mut events);
    events
}

/// Those that came and those that went.
fn keys<'a, K: Ord, V>(
    before: &'a BTreeMap<K, V>,
    now: &'a BTreeMap<K, V>,
) -> (Vec<&'a V>, Vec<&'a V>) {
    let missing = |from: &'a BTreeMap<K, V>, other: &BTreeMap<K, V>| {
        let missing = from.iter().filter(|(key, _)| !other.contains_key(key));
        missing.map(|(_, value)| value).collect()
    };
    (missing(now, before), missing(before, now))
}

fn of_networks(before: &Desired, now: &Desired, events: &mut Vec<Event>) {
    let (created, removed) = keys(&before.networks, &now.networks);
    let created = created
        .into_iter()
        .map(|it| (it, EventType::NetworkCreated));
    let removed = removed
        .into_iter()
        .map(|it| (it, EventType::NetworkRemoved));
    for (network, kind) in created.chain(removed) {
        let (vni, subnet) = (network.vni.get(), network.subnet);
        let verb = match kind {
            EventType::NetworkCreated => "created",
            _ => "removed",
        };
        let text = format!("network {} {verb}: VNI {vni}, {subnet}", network.name);
        events.push(Event {
            network: Some(network.name.clone()),
            vni: Some(vni),
            ..Event::new(kind, text)
        });
    }
}

fn attachment(attached: bool, endpoint: EndpointRef, network: &str) -> Event {
    let EndpointRef { ip, node, .. } = &endpoint;
    let (kind, verb) = if attached {
        (EventType::EndpointAttached, "attached to")
    } else {
        (EventType::EndpointDetached, "detached from")
    };
    Event {
        network: Some(network.to_owned()),
        node: Some(node.clone()),
        ..Event::new(kind, format!("{verb} {network} with {ip} on node {node}"))
    }
    .about(endpoint)
}

impl Event {
    fn about(self, endpoint: EndpointRef) -> Self {
        let endpoint = Some(endpoint);
        Self { endpoint, ..self }
    }
}

fn networks(peer: &Peer) -> String {
    match &peer.networks {
        PeerNetworks::All => "all networks".to_owned(),
        PeerNetworks::Only(names) => names.iter().cloned().collect::<Vec<_>>().join(", "),
    }
}

fn of_policies(before: &Desired, now: &Desired, events: &mut Vec<Event>) {
    for change in before.policies.diff(&now.policies) {
        let (kind, (namespace, name), verb) = match change {
            DiffItem::Add(key, _) => (EventType::PolicyApplied, key, "applied"),
            DiffItem::Update { new: (key, _), .. } => (EventType::PolicyApplied, key, "changed"),
            DiffItem::Remove(key, _) => (EventType::PolicyRemoved, key, "removed"),
        };
        let policy = format!("{namespace}/{name}");
        events.push(Event {
            policy: Some(policy.clone()),
            ..Event::new(kind, format!("policy {policy} {verb}"))
        });
    }
    for change in before.namespaces.diff(&now.namespaces) {
        let (DiffItem::Add(name, _)
        | DiffItem::Update { new: (name, _), .. }
        | DiffItem::Remove(name, _)) = change;
        let text = format!("namespace {name} has other labels");
        events.push(Event::new(EventType::NamespaceChanged, text));
    }
}

fn of_cluster(before: &Cluster, now: &Cluster, events: &mut Vec<Event>) {
    for change in before.nodes.diff(&now.nodes) {
        let (node, kind, what) = match change {
            DiffItem::Add(_, node) => (node, EventType::NodeUp, "is alive"),
            DiffItem::Remove(_, node) => (node, EventType::NodeDown, "is not alive"),
            DiffItem::Update { .. } => continue,
        };
        let text = format!("node {} (VTEP {}) {what}", node.name, node.vtep);
        events.push(Event {
            node: Some(node.name.clone()),
            vtep: Some(node.vtep),
            ..Event::new(kind, text)
        });
    }
    let told = |attached, record: &Arc<EndpointRecord>| {
        attachment(attached, other(record), &record.network)
    };
    for change in before.endpoints.diff(&now.endpoints) {
        match change {
            DiffItem::Add(_, record) => events.push(told(true, record)),
            DiffItem::Remove(_, record) => events.push(told(false, record)),
            DiffItem::Update { .. } => {}
        }
    }
}

/// What happened to the endpoints of this host and to the host itself.
pub(super) fn of_report(
    before: &Report,
    now: &Report,
    desired: &Desired,
    node: &str,
) -> Vec<Event> {
    let mut events = Vec::new();
    for (id, state) in &now.endpoints {
        if before.endpoints.get(id) == Some(state) {
            continue;
        }
        let Some(endpoint) = desired.endpoints.get(id) else {
            continue;
        };
        let (kind, text) = match state {
            EndpointState::Ready { host_ifname } => {
                (EventType::EndpointReady, format!("ready, by {host_ifname}"))
            }
            EndpointState::NamespaceGone => (
                EventType::EndpointNamespaceGone,
                "its network namespace is gone".to_owned(),
            ),
            EndpointState::Failed(reason) => (EventType::EndpointFailed, reason.clone()),
        };
        let network = Some(endpoint.network.clone());
        let event = Event {
            network,
            ..Event::new(kind, text)
        };
        events.push(event.about(own(endpoint, node)));
    }
    let came = |from: &Report, other: &Report, kind| {
        let new = from
            .problems
            .iter()
            .filter(|it| !other.problems.contains(it));
        new.map(|problem| Event::new(kind, problem.clone()))
            .collect::<Vec<_>>()
    };
    events.extend(came(now, before, EventType::Problem));
    events.extend(came(before, now, EventType::Solved));
    events
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn kinds(events: &[Event]) -> Vec<EventType> {
        events.iter().map(|event| event.kind).collect()
    }

    #[test]
    fn a_peer_that_is_let_into_more_is_told_again() {
        let ip = Ipv4Addr::new(192, 0, 2, 2);
        let with = |networks| {
            let peers = BTreeMap::from([(ip, Peer { ip, networks })]);
            Desired {
                peers,
                ..Desired::default()
            }
        };
        let only = with(PeerNetworks::Only(["blue".to_owned()].into()));
        let all = with(PeerNetworks::All);
        let none = Desired::default();
        let between = |before, now| kinds(&of_desired(before, now, "n"));
        assert_eq!(between(&none, &only), [EventType::PeerAdded]);
        assert_eq!(between(&only, &all), [EventType::PeerAdded]);
        assert_eq!(between(&all, &none), [EventType::PeerRemoved]);
        assert_eq!(between(&all, &all), []);
    }

    #[test]
    fn problems_come_and_go() {
        let with = |problems: &[&str]| Report {
            problems: problems.iter().map(|&it| it.to_owned()).collect(),
            ..Report::default()
        };
        let (before, now) = (with(&["a", "b"]), with(&["b", "c"]));
        let events = of_report(&before, &now, &Desired::default(), "n");
        assert_eq!(kinds(&events), [EventType::Problem, EventType::Solved]);
        assert_eq!(
            (events[0].text.as_str(), events[1].text.as_str()),
            ("c", "a")
        );
    }
}
