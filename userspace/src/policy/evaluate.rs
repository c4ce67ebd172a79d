//! What policies mean, written as the Kubernetes API reference says it, packet by
//! packet and without regard to cost. The tests hold what is compiled, and what
//! the programs do with it, against this.

use std::{net::IpAddr, sync::Arc};

use imbl::OrdMap;

use super::{
    document::{
        IpBlock, LabelSelector, NetworkPolicy, Operator, PeerSelector, PolicyType, Port, PortName,
    },
    ruleset::RuleName,
};
use crate::model::{Desired, Identity, NAMESPACE_NAME_LABEL, NamedPort, Namespace};

/// One end of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End<'a> {
    /// Who it is, if it is known.
    pub identity: Option<&'a Identity>,
    /// Its address.
    pub ip: IpAddr,
}

/// The first packet of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Who sends it.
    pub from: End<'a>,
    /// Who is sent it.
    pub to: End<'a>,
    /// The protocol number in the IP header.
    pub protocol: u8,
    /// The destination port, 0 where the protocol has none.
    pub port: u16,
}

/// What policies say of a packet in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No policy selects that end.
    NotSelected,
    /// These rules allow it.
    Allowed(Vec<RuleName>),
    /// These policies, by namespace and name, select that end, and none of their
    /// rules allows it.
    Denied(Vec<(String, String)>),
}

impl Verdict {
    /// Whether the packet passes.
    pub fn passes(&self) -> bool {
        !matches!(self, Self::Denied(_))
    }
}

/// Whether a packet may leave its sender.
pub fn egress(desired: &Desired, packet: &Packet<'_>) -> Verdict {
    let (policies, namespaces) = (&desired.policies, &desired.namespaces);
    judge(
        policies,
        namespaces,
        PolicyType::Egress,
        &packet.from,
        &packet.to,
        packet,
    )
}

/// Whether a packet may reach its receiver.
pub fn ingress(desired: &Desired, packet: &Packet<'_>) -> Verdict {
    let (policies, namespaces) = (&desired.policies, &desired.namespaces);
    judge(
        policies,
        namespaces,
        PolicyType::Ingress,
        &packet.to,
        &packet.from,
        packet,
    )
}

fn judge(
    policies: &OrdMap<(String, String), Arc<NetworkPolicy>>,
    namespaces: &OrdMap<String, Arc<Namespace>>,
    direction: PolicyType,
    subject: &End<'_>,
    peer: &End<'_>,
    packet: &Packet<'_>,
) -> Verdict {
    let Some(identity) = subject.identity else {
        return Verdict::NotSelected;
    };
    let mut selecting = Vec::new();
    let mut allowing = Vec::new();
    for (key, policy) in policies {
        let spec = &policy.spec;
        let is_selected = policy.metadata.namespace == identity.namespace
            && directions(policy).contains(&direction)
            && matches(&spec.pod_selector, &|key| identity.labels.get(key).cloned());
        if !is_selected {
            continue;
        }
        selecting.push(key.clone());
        for (index, (peers, ports)) in rules(policy, direction).into_iter().enumerate() {
            // A name of a port means something where it is known who listens, and
            // that is not so of somebody who is named by address alone.
            let by_labels = peers.is_empty()
                || peers
                    .iter()
                    .any(|it| is_labelled(it, policy, peer.identity, namespaces));
            let by_address = peers.iter().any(|it| {
                it.ip_block
                    .as_ref()
                    .is_some_and(|block| is_in(block, peer.ip))
            });
            let receiver = match direction {
                PolicyType::Ingress => Some(identity),
                PolicyType::Egress => peer.identity.filter(|_| by_labels),
            };
            let exposed: Vec<&NamedPort> = receiver.iter().flat_map(|it| &it.ports).collect();
            let is_port = ports.is_empty() || ports.iter().any(|it| is_among(it, packet, &exposed));
            if (by_labels || by_address) && is_port {
                allowing.push(RuleName {
                    namespace: key.0.clone(),
                    name: key.1.clone(),
                    direction,
                    index,
                });
            }
        }
    }
    match (selecting.is_empty(), allowing.is_empty()) {
        (true, _) => Verdict::NotSelected,
        (false, true) => Verdict::Denied(selecting),
        (false, false) => Verdict::Allowed(allowing),
    }
}

/// Peers and ports of each rule; a list that is missing is as good as an empty one.
fn rules(policy: &NetworkPolicy, direction: PolicyType) -> Vec<(&[PeerSelector], &[Port])> {
    let spec = &policy.spec;
    match direction {
        PolicyType::Ingress => {
            let rules = spec.ingress.iter().flatten();
            let sides = rules.map(|rule| (rule.from.as_deref(), rule.ports.as_deref()));
            sides
                .map(|(peers, ports)| (peers.unwrap_or_default(), ports.unwrap_or_default()))
                .collect()
        }
        PolicyType::Egress => {
            let rules = spec.egress.iter().flatten();
            let sides = rules.map(|rule| (rule.to.as_deref(), rule.ports.as_deref()));
            sides
                .map(|(peers, ports)| (peers.unwrap_or_default(), ports.unwrap_or_default()))
                .collect()
        }
    }
}

/// The directions a policy is for: those it names, or what its rules suggest.
fn directions(policy: &NetworkPolicy) -> Vec<PolicyType> {
    let named = policy.spec.policy_types.clone().unwrap_or_default();
    if !named.is_empty() {
        return named;
    }
    let mut directions = vec![PolicyType::Ingress];
    if policy.spec.egress.iter().flatten().next().is_some() {
        directions.push(PolicyType::Egress);
    }
    directions
}

/// Whether a peer is meant by its labels and those of its namespace.
fn is_labelled(
    selector: &PeerSelector,
    policy: &NetworkPolicy,
    peer: Option<&Identity>,
    namespaces: &OrdMap<String, Arc<Namespace>>,
) -> bool {
    let Some(peer) = peer else {
        return false;
    };
    let of_namespace = |key: &str| match key {
        NAMESPACE_NAME_LABEL => Some(peer.namespace.clone()),
        _ => namespaces.get(&peer.namespace)?.labels.get(key).cloned(),
    };
    let of_peer = |key: &str| peer.labels.get(key).cloned();
    let is_home = peer.namespace == policy.metadata.namespace;
    match (&selector.namespace_selector, &selector.pod_selector) {
        (None, None) => false,
        (None, Some(pods)) => is_home && matches(pods, &of_peer),
        (Some(namespaces), None) => matches(namespaces, &of_namespace),
        (Some(namespaces), Some(pods)) => {
            matches(namespaces, &of_namespace) && matches(pods, &of_peer)
        }
    }
}

fn is_in(block: &IpBlock, ip: IpAddr) -> bool {
    block.cidr.contains(ip) && !block.except.iter().any(|hole| hole.contains(ip))
}

fn is_among(port: &Port, packet: &Packet<'_>, exposed: &[&NamedPort]) -> bool {
    if port.protocol.number() != packet.protocol {
        return false;
    }
    match (&port.port, port.end_port) {
        (None, _) => true,
        (Some(PortName::Number(first)), None) => packet.port == *first,
        (Some(PortName::Number(first)), Some(last)) => *first <= packet.port && packet.port <= last,
        (Some(PortName::Name(name)), _) => exposed
            .iter()
            .any(|it| it.name == *name && it.protocol == port.protocol && it.port == packet.port),
    }
}

fn matches(selector: &LabelSelector, label: &dyn Fn(&str) -> Option<String>) -> bool {
    for (key, value) in &selector.match_labels {
        if label(key).as_ref() != Some(value) {
            return false;
        }
    }
    for requirement in &selector.match_expressions {
        let value = label(&requirement.key);
        let holds = match (requirement.operator, &value) {
            (Operator::In, Some(value)) => requirement.values.contains(value),
            (Operator::NotIn, Some(value)) => !requirement.values.contains(value),
            (Operator::Exists, found) => found.is_some(),
            (Operator::DoesNotExist, found) => found.is_none(),
            (Operator::In, None) => false,
            (Operator::NotIn, None) => true,
        };
        if !holds {
            return false;
        }
    }
    true
}
