//! Policies for people: what they come to for an endpoint, whom one selects, and
//! what in it matches nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnetwork::IpNetwork;

use super::{
    compile::is_meant,
    document::{
        IpBlock, LabelSelector, NetworkPolicy, Operator, PeerSelector, PolicyType, Port, PortName,
        Protocol, Requirement,
    },
    ruleset::RuleName,
    select::{is_for, selects},
};
use crate::{
    identity,
    model::{Desired, Identity, NamedPort},
};

/// The two directions, as people read them.
const DIRECTIONS: [PolicyType; 2] = [PolicyType::Ingress, PolicyType::Egress];

/// What policies come to for one endpoint in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Which direction.
    pub direction: PolicyType,
    /// The policies that select it, by namespace and name. If there are none,
    /// everything is allowed.
    pub selected_by: Vec<(String, String)>,
    /// What is allowed; replies always are.
    pub allowed: Vec<Allowed>,
}

/// What one rule allows an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Which rule of which policy.
    pub rule: RuleName,
    /// With whom, each in words; `everyone` if with everybody.
    pub peers: Vec<String>,
    /// What, each in words: `TCP 80`; `everything` if so.
    pub ports: Vec<String>,
}

/// What a policy is about as things are now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// The directions it is for.
    pub directions: Vec<PolicyType>,
    /// The endpoints on all hosts that it selects, by ID.
    pub endpoints: Vec<String>,
    /// What in it matches nothing: the path of a field, and why.
    pub unmatched: Vec<(String, String)>,
}

/// What all policies together allow somebody, ingress first.
pub fn effective(desired: &Desired, identity: &Identity) -> [Effective; 2] {
    DIRECTIONS.map(|direction| {
        let policies = desired.policies.iter();
        let selecting = policies.filter(|(_, policy)| selects(policy, identity, direction));
        let mut effective = Effective {
            direction,
            selected_by: Vec::new(),
            allowed: Vec::new(),
        };
        for (key, policy) in selecting {
            effective.selected_by.push(key.clone());
            effective
                .allowed
                .extend(allowed(policy, direction, identity));
        }
        effective
    })
}

fn allowed<'a>(
    policy: &'a NetworkPolicy,
    direction: PolicyType,
    identity: &'a Identity,
) -> impl Iterator<Item = Allowed> + 'a {
    rules(policy, direction).map(move |(index, peers, ports)| Allowed {
        rule: RuleName {
            namespace: policy.metadata.namespace.clone(),
            name: policy.metadata.name.clone(),
            direction,
            index,
        },
        peers: match peers {
            [] => vec!["everyone".to_owned()],
            peers => {
                let home = &policy.metadata.namespace;
                peers.iter().map(|peer| peer_in_words(peer, home)).collect()
            }
        },
        ports: match ports {
            [] => vec!["everything".to_owned()],
            ports => {
                // Names mean the receiver's; who that is on the way out, one
                // cannot say in a word.
                let own = (direction == PolicyType::Ingress).then_some(&identity.ports);
                ports.iter().map(|port| port_in_words(port, own)).collect()
            }
        },
    })
}

/// Who there is, in the order in which policies ask for it: many ask the same.
#[derive(Debug)]
pub struct Population<'a> {
    desired: &'a Desired,
    /// The identities of each namespace.
    identities: BTreeMap<&'a str, Vec<(u32, &'a Identity)>>,
    /// What endpoints of this host are to policies, and their IDs.
    own: Vec<(Identity, &'a str)>,
    /// The IDs of other hosts' endpoints, by the number of their identity.
    others: HashMap<u32, Vec<&'a str>>,
}

impl<'a> Population<'a> {
    /// As it is desired.
    pub fn of(desired: &'a Desired) -> Self {
        let mut identities: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (number, identity) in &desired.identities {
            let of_namespace = identities.entry(&identity.namespace).or_default();
            of_namespace.push((*number, &**identity));
        }
        let mut others: HashMap<u32, Vec<_>> = HashMap::new();
        for record in desired.others() {
            others.entry(record.identity).or_default().push(&*record.id);
        }
        let own = desired.endpoints.values().map(|endpoint| {
            let (namespace, labels) = (&endpoint.namespace, &endpoint.labels);
            let identity = identity::of(namespace, labels, &BTreeSet::new());
            (identity, endpoint.id.as_str())
        });
        Self {
            desired,
            identities,
            own: own.collect(),
            others,
        }
    }

    /// Those that `peer` may mean in a policy of the namespace `home`.
    fn candidates(&self, peer: &PeerSelector, home: &str) -> impl Iterator<Item = &'a Identity> {
        let is_home = peer.namespace_selector.is_none();
        let namespaces = self.identities.iter();
        let namespaces = namespaces.filter(move |(name, _)| !is_home || **name == home);
        namespaces.flat_map(|(_, identities)| identities.iter().map(|(_, it)| *it))
    }

    /// Whom a policy selects, and what in it matches nothing.
    pub fn reach(&self, policy: &NetworkPolicy) -> Reach {
        let directions: Vec<PolicyType> = DIRECTIONS
            .into_iter()
            .filter(|direction| is_for(policy, *direction))
            .collect();
        let is_selected = |identity: &Identity| {
            directions
                .iter()
                .any(|direction| selects(policy, identity, *direction))
        };
        let at_home = self.identities.get(policy.metadata.namespace.as_str());
        let selected: BTreeSet<u32> = at_home
            .into_iter()
            .flatten()
            .filter(|(_, identity)| is_selected(identity))
            .map(|(number, _)| *number)
            .collect();
        let own = self.own.iter().filter(|(it, _)| is_selected(it));
        let own = own.map(|(_, id)| *id);
        let others = selected.iter().filter_map(|it| self.others.get(it));
        let mut others: Vec<&str> = others.flatten().copied().collect();
        others.sort_unstable();
        let endpoints: Vec<String> = own.chain(others).map(str::to_owned).collect();
        let mut unmatched = Vec::new();
        if endpoints.is_empty() {
            let what = "selects no endpoint now";
            unmatched.push(("spec.podSelector".to_owned(), what.to_owned()));
        }
        for direction in &directions {
            unmatched.extend(unmatched_in(self, policy, *direction, &selected));
        }
        Reach {
            directions,
            endpoints,
            unmatched,
        }
    }
}

type Rule<'a> = (usize, &'a [PeerSelector], &'a [Port]);

fn rules(policy: &NetworkPolicy, direction: PolicyType) -> impl Iterator<Item = Rule<'_>> {
    let rules = policy.spec.rules(direction).enumerate();
    rules.map(|(index, (peers, ports))| {
        (index, peers.unwrap_or_default(), ports.unwrap_or_default())
    })
}

/// What matches nothing in the rules for a direction of a policy that selects
/// these identities.
fn unmatched_in(
    population: &Population<'_>,
    policy: &NetworkPolicy,
    direction: PolicyType,
    selected: &BTreeSet<u32>,
) -> Vec<(String, String)> {
    let (rules_field, peers_field) = match direction {
        PolicyType::Egress => ("egress", "to"),
        PolicyType::Ingress => ("ingress", "from"),
    };
    let desired = population.desired;
    let home = &policy.metadata.namespace;
    let mut unmatched = Vec::new();
    for (index, peers, ports) in rules(policy, direction) {
        let path = format!("spec.{rules_field}[{index}]");
        for (at, peer) in peers.iter().enumerate() {
            let path = format!("{path}.{peers_field}[{at}]");
            unmatched.extend(unmatched_peer(population, home, peer).map(|what| (path, what)));
        }
        let is_receiver = |number: &u32, identity: &Identity| match direction {
            PolicyType::Ingress => selected.contains(number),
            PolicyType::Egress => {
                let mut peers_of = peers.iter();
                peers.is_empty()
                    || peers_of.any(|peer| is_meant(peer, identity, home, &desired.namespaces))
            }
        };
        for (at, port) in ports.iter().enumerate() {
            let Some(PortName::Name(name)) = &port.port else {
                continue;
            };
            let mut receivers = desired.identities.iter();
            let is_exposed = receivers.any(|(number, identity)| {
                is_receiver(number, identity) && exposed(port, &identity.ports).next().is_some()
            });
            if !is_exposed {
                let protocol = protocol_in_words(port.protocol);
                let what = format!(
                    "no endpoint that it is about exposes a {protocol} port {name} now; give the \
                     container the label vxplane.port.{name}=NUMBER"
                );
                unmatched.push((format!("{path}.ports[{at}]"), what));
            }
        }
    }
    unmatched
}

/// Why nobody is meant by a peer, if so.
fn unmatched_peer(population: &Population<'_>, home: &str, peer: &PeerSelector) -> Option<String> {
    match &peer.ip_block {
        Some(block) if block.cidr.is_ipv6() => {
            Some("no endpoint has an IPv6 address yet, so nobody is in this block".to_owned())
        }
        Some(_) => None,
        None => {
            let namespaces = &population.desired.namespaces;
            let mut candidates = population.candidates(peer, home);
            let nobody = !candidates.any(|it| is_meant(peer, it, home, namespaces));
            nobody.then(|| "no endpoint is meant by it now".to_owned())
        }
    }
}

fn exposed<'a>(port: &Port, ports: &'a BTreeSet<NamedPort>) -> impl Iterator<Item = &'a NamedPort> {
    let name = match &port.port {
        Some(PortName::Name(name)) => name.clone(),
        _ => String::new(),
    };
    let protocol = port.protocol;
    let mut ports = ports.iter();
    std::iter::from_fn(move || ports.find(|it| it.name == name && it.protocol == protocol))
}

fn peer_in_words(peer: &PeerSelector, home: &str) -> String {
    if let Some(block) = &peer.ip_block {
        return block_in_words(block);
    }
    let pods = peer
        .pod_selector
        .as_ref()
        .map(selector_in_words)
        .unwrap_or_default();
    let pods = match pods.as_str() {
        "" => "endpoints".to_owned(),
        labels => format!("endpoints with {labels}"),
    };
    let namespaces = peer.namespace_selector.as_ref().map(selector_in_words);
    match namespaces.as_deref() {
        None => format!("{pods} of the namespace {home}"),
        Some("") => format!("{pods} of any namespace"),
        Some(labels) => format!("{pods} of namespaces with {labels}"),
    }
}

fn block_in_words(block: &IpBlock) -> String {
    let IpBlock { cidr, except } = block;
    let nobody = if cidr.is_ipv6() { " (nobody yet)" } else { "" };
    let holes: Vec<String> = except.iter().map(IpNetwork::to_string).collect();
    match holes.as_slice() {
        [] => format!("{cidr}{nobody}"),
        holes => format!("{cidr} except {}{nobody}", holes.join(", ")),
    }
}

/// Empty if anybody has the labels.
fn selector_in_words(selector: &LabelSelector) -> String {
    let labels = selector
        .match_labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    let more = selector.match_expressions.iter().map(requirement_in_words);
    labels.chain(more).collect::<Vec<_>>().join(", ")
}

fn requirement_in_words(requirement: &Requirement) -> String {
    let Requirement {
        key,
        operator,
        values,
    } = requirement;
    let values = values.join(", ");
    match operator {
        Operator::In => format!("{key} in ({values})"),
        Operator::NotIn => format!("{key} not in ({values})"),
        Operator::Exists => key.clone(),
        Operator::DoesNotExist => format!("no {key}"),
    }
}

const fn protocol_in_words(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

/// A port; of one that has a name with what that means to the receiver, if it is
/// known who that is.
fn port_in_words(port: &Port, receiver: Option<&BTreeSet<NamedPort>>) -> String {
    let protocol = protocol_in_words(port.protocol);
    match (&port.port, port.end_port) {
        (None, _) => protocol.to_owned(),
        (Some(PortName::Number(first)), Some(last)) if last > *first => {
            format!("{protocol} {first}-{last}")
        }
        (Some(PortName::Number(number)), _) => format!("{protocol} {number}"),
        (Some(PortName::Name(name)), _) => {
            let Some(ports) = receiver else {
                return format!("{protocol} {name}");
            };
            let numbers: Vec<String> = exposed(port, ports).map(|it| it.port.to_string()).collect();
            match numbers.as_slice() {
                [] => format!("{protocol} {name} (it exposes none)"),
                numbers => format!("{protocol} {name} ({})", numbers.join(", ")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::policy::read::read;

    const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - podSelector: {matchLabels: {app: client}, matchExpressions: [{key: old, operator: DoesNotExist}]}
    - namespaceSelector: {}
      podSelector: {matchExpressions: [{key: app, operator: In, values: [a, b]}]}
    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}
    - ipBlock: {cidr: 'fd00::/8'}
    ports: [{port: http}, {port: 8000, endPort: 8010}, {protocol: UDP}, {port: admin}]
  egress:
  - {}
  - to: [{podSelector: {matchLabels: {app: db}}}]
    ports: [{port: sql}]
";

    fn identity(app: &str, ports: &[(&str, u16)]) -> Identity {
        let port = |(name, port): &(&str, u16)| NamedPort {
            name: (*name).to_owned(),
            protocol: Protocol::Tcp,
            port: *port,
        };
        Identity {
            namespace: "default".to_owned(),
            labels: [("app".to_owned(), app.to_owned())].into(),
            ports: ports.iter().map(port).collect(),
        }
    }

    fn world() -> Desired {
        let policy = read(POLICY).unwrap().remove(0);
        let key = ("default".to_owned(), "web".to_owned());
        let identities = [identity("web", &[("http", 8080)]), identity("client", &[])];
        let mut desired = Desired::default();
        desired.policies.insert(key, Arc::new(policy));
        desired.identities = (256_u32..).zip(identities.map(Arc::new)).collect();
        desired
    }

    #[test]
    fn what_is_allowed_is_told_in_words() {
        let desired = world();
        let [ingress, egress] = effective(&desired, &desired.identities[&256]);
        assert_eq!(
            ingress.selected_by,
            [("default".to_owned(), "web".to_owned())]
        );
        assert_eq!(
            ingress.allowed[0].peers,
            [
                "endpoints with app=client, no old of the namespace default",
                "endpoints with app in (a, b) of any namespace",
                "10.0.0.0/8 except 10.1.0.0/16",
                "fd00::/8 (nobody yet)",
            ]
        );
        assert_eq!(
            ingress.allowed[0].ports,
            [
                "TCP http (8080)",
                "TCP 8000-8010",
                "UDP",
                "TCP admin (it exposes none)"
            ]
        );
        assert_eq!(egress.allowed[0].peers, ["everyone"]);
        assert_eq!(egress.allowed[0].ports, ["everything"]);
        assert_eq!(egress.allowed[1].ports, ["TCP sql"]);
        let [ingress, _] = effective(&desired, &desired.identities[&257]);
        assert!(ingress.selected_by.is_empty() && ingress.allowed.is_empty());
    }

    #[test]
    fn what_matches_nothing_is_told_with_its_path() {
        let desired = world();
        let policy = desired.policies.values().next().unwrap();
        let reach = Population::of(&desired).reach(policy);
        assert_eq!(reach.directions, [PolicyType::Ingress, PolicyType::Egress]);
        let paths: Vec<&str> = reach
            .unmatched
            .iter()
            .map(|(path, _)| path.as_str())
            .collect();
        assert_eq!(
            paths,
            [
                "spec.podSelector",
                "spec.ingress[0].from[1]",
                "spec.ingress[0].from[3]",
                "spec.ingress[0].ports[3]",
                "spec.egress[1].to[0]",
                "spec.egress[1].ports[0]",
            ]
        );
    }
}
