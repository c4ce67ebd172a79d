//! Policies, namespaces and identities to rule sets.
//!
//! The outcome depends on the input alone. What was compiled before is kept: a
//! change of one policy, or of one identity, is a matter of the rules that it
//! concerns and of the subjects that these select.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::{OrdMap, ordmap::DiffItem};
use ipnetwork::{IpNetwork, Ipv4Network};

use super::{
    document::{LabelSelector, NetworkPolicy, PeerSelector, PolicyType, Port, PortName, Sides},
    index::Index,
    ports::{PortPrefix, has_names, prefixes},
    ruleset::{Grant, RuleName, Ruleset, Who, assemble},
    select::{has_labels, namespace_has_labels, selects},
};
use crate::model::{Desired, Identity, NamedPort, Namespace};

/// With more identities changed, looking whom they concern would take longer than to
/// compile every policy anew.
const MANY: usize = 256;

/// Namespace and name of a policy.
type PolicyKey = (String, String);

/// What an identity may send and be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// What it may send; everything if no policy selects it for egress.
    pub egress: Option<Arc<Ruleset>>,
    /// What it may be sent; everything if no policy selects it for ingress.
    pub ingress: Option<Arc<Ruleset>>,
}

impl Verdicts {
    /// The rule set of a direction.
    pub fn of(&self, direction: PolicyType) -> Option<&Arc<Ruleset>> {
        match direction {
            PolicyType::Egress => self.egress.as_ref(),
            PolicyType::Ingress => self.ingress.as_ref(),
        }
    }
}

/// Compiles, and remembers.
#[derive(Debug, Default)]
pub struct Compiler {
    policies: OrdMap<PolicyKey, Arc<NetworkPolicy>>,
    namespaces: OrdMap<String, Arc<Namespace>>,
    identities: OrdMap<u32, Arc<Identity>>,
    index: Index,
    compiled: BTreeMap<PolicyKey, Compiled>,
    subjects: BTreeMap<Identity, Verdicts>,
}

/// A policy, as far as it does not depend on whom it selects.
#[derive(Debug)]
struct Compiled {
    policy: Arc<NetworkPolicy>,
    egress: Vec<Rule>,
    ingress: Vec<Rule>,
}

/// One rule.
#[derive(Debug)]
struct Rule {
    /// Whom it names by address.
    blocks: Vec<(Ipv4Network, Arc<Vec<Ipv4Network>>)>,
    /// Whom it names by labels; everybody if absent.
    identities: Option<Arc<Vec<u32>>>,
    /// Those to whom names of ports mean something, and what.
    named: Vec<(BTreeSet<PortPrefix>, Arc<Vec<u32>>)>,
}

impl Compiler {
    /// What each of the `subjects` may send and be sent.
    pub fn compile(
        &mut self,
        desired: &Desired,
        subjects: &BTreeSet<Identity>,
    ) -> &BTreeMap<Identity, Verdicts> {
        let touched = self.advance(desired);
        self.subjects
            .retain(|subject, _| subjects.contains(subject));
        let mut shared = BTreeMap::new();
        for subject in subjects {
            let known = self.subjects.get(subject);
            if known.is_some() && !touched.contains(subject) {
                continue;
            }
            let verdicts = Verdicts {
                egress: self.verdict(subject, PolicyType::Egress, &mut shared),
                ingress: self.verdict(subject, PolicyType::Ingress, &mut shared),
            };
            self.subjects.insert(subject.clone(), verdicts);
        }
        &self.subjects
    }

    /// Whether nothing has changed since it was compiled for these `subjects`.
    pub fn is_current(&self, desired: &Desired, subjects: &BTreeSet<Identity>) -> bool {
        is_same(&self.policies, &desired.policies)
            && is_same(&self.namespaces, &desired.namespaces)
            && is_same(&self.identities, &desired.identities)
            && self.subjects.keys().eq(subjects)
    }

    /// Takes up what has changed about namespaces, identities and policies, and
    /// returns the subjects for whom something may have.
    fn advance(&mut self, desired: &Desired) -> BTreeSet<Identity> {
        let mut changed = self.follow_namespaces(&desired.namespaces);
        changed.extend(self.follow_identities(&desired.identities));
        let before = std::mem::replace(&mut self.policies, desired.policies.clone());
        let mut touched = BTreeSet::new();
        for item in before.diff(&desired.policies) {
            let (key, old) = match item {
                DiffItem::Add(key, _) => (key, None),
                DiffItem::Update { old, new } => (new.0, Some(old.1)),
                DiffItem::Remove(key, old) => (key, Some(old)),
            };
            touched.extend(old.into_iter().flat_map(|policy| self.selected_by(policy)));
            changed.insert(key.clone());
        }
        for key in changed {
            let Some(policy) = self.policies.get(&key) else {
                self.compiled.remove(&key);
                continue;
            };
            touched.extend(self.selected_by(policy));
            let compiled = Compiled::new(policy, &self.index, &self.namespaces);
            self.compiled.insert(key, compiled);
        }
        touched
    }

    /// Takes up what has changed about namespaces, and returns the policies that name
    /// one of them now and did not before, or the other way round.
    fn follow_namespaces(
        &mut self,
        namespaces: &OrdMap<String, Arc<Namespace>>,
    ) -> BTreeSet<PolicyKey> {
        let before = std::mem::replace(&mut self.namespaces, namespaces.clone());
        let changes: Vec<_> = before.diff(namespaces).collect();
        let is_concerned = |selector: &LabelSelector| {
            changes.iter().any(|change| {
                let (name, old, new) = match change {
                    DiffItem::Add(name, new) => (name, None, Some(new)),
                    DiffItem::Update { old, new } => (&new.0, Some(&old.1), Some(&new.1)),
                    DiffItem::Remove(name, old) => (name, Some(old), None),
                };
                let is_named = |namespace: Option<&&Arc<Namespace>>| {
                    namespace_has_labels(name, namespace.map(|it| &***it), selector)
                };
                is_named(old) != is_named(new)
            })
        };
        if changes.is_empty() {
            return BTreeSet::new();
        }
        let compiled = self.compiled.iter();
        let concerned = compiled
            .filter(|(_, compiled)| namespace_selectors(&compiled.policy).any(is_concerned));
        concerned.map(|(key, _)| key.clone()).collect()
    }

    /// Takes up what has changed about identities, and returns the policies that
    /// this concerns.
    fn follow_identities(
        &mut self,
        identities: &OrdMap<u32, Arc<Identity>>,
    ) -> BTreeSet<PolicyKey> {
        let before = std::mem::replace(&mut self.identities, identities.clone());
        let mut concerned: Vec<Arc<Identity>> = Vec::new();
        for item in before.diff(identities) {
            let (number, old, new) = match item {
                DiffItem::Add(number, new) => (number, None, Some(new)),
                DiffItem::Update { old, new } => (new.0, Some(old.1), Some(new.1)),
                DiffItem::Remove(number, old) => (number, Some(old), None),
            };
            self.index.remove(*number);
            if let Some(identity) = new {
                self.index.add(*number, identity);
            }
            concerned.extend(old.into_iter().chain(new).cloned());
        }
        if concerned.len() > MANY {
            return self.compiled.keys().cloned().collect();
        }
        let names = |policy: &NetworkPolicy| {
            concerned
                .iter()
                .any(|identity| names(policy, identity, &self.namespaces))
        };
        let compiled = self.compiled.iter();
        let changed = compiled.filter(|(_, compiled)| names(&compiled.policy));
        changed.map(|(key, _)| key.clone()).collect()
    }

    fn selected_by(&self, policy: &NetworkPolicy) -> impl Iterator<Item = Identity> {
        let subjects = self.subjects.keys();
        subjects
            .filter(|subject| {
                let directions = [PolicyType::Egress, PolicyType::Ingress];
                directions.iter().any(|it| selects(policy, subject, *it))
            })
            .cloned()
    }

    /// The rule set of a subject, shared with those that the same policies select.
    fn verdict(
        &self,
        subject: &Identity,
        direction: PolicyType,
        shared: &mut BTreeMap<SharedKey, Arc<Ruleset>>,
    ) -> Option<Arc<Ruleset>> {
        let selecting: Vec<&PolicyKey> = self
            .policies
            .range((subject.namespace.clone(), String::new())..)
            .take_while(|((namespace, _), _)| *namespace == subject.namespace)
            .filter(|(_, policy)| selects(policy, subject, direction))
            .map(|(key, _)| key)
            .collect();
        if selecting.is_empty() {
            return None;
        }
        let key = SharedKey {
            direction,
            policies: selecting.iter().map(|key| (*key).clone()).collect(),
            // Names of ports mean those of the receiver.
            ports: match direction {
                PolicyType::Ingress => subject.ports.clone(),
                PolicyType::Egress => BTreeSet::new(),
            },
        };
        if let Some(ruleset) = shared.get(&key) {
            return Some(Arc::clone(ruleset));
        }
        let ruleset = self.ruleset(&selecting, direction, &key.ports);
        // What has not changed stays the very same.
        let known = self
            .subjects
            .get(subject)
            .and_then(|known| known.of(direction));
        let ruleset = match known {
            Some(known) if **known == ruleset => Arc::clone(known),
            _ => Arc::new(ruleset),
        };
        shared.insert(key, Arc::clone(&ruleset));
        Some(ruleset)
    }

    fn ruleset(
        &self,
        policies: &[&PolicyKey],
        direction: PolicyType,
        exposed: &BTreeSet<NamedPort>,
    ) -> Ruleset {
        let mut names = Vec::new();
        let mut grants = Vec::new();
        for compiled in policies.iter().filter_map(|key| self.compiled.get(*key)) {
            let metadata = &compiled.policy.metadata;
            let rules = compiled.policy.spec.rules(direction);
            let rules = rules.zip(compiled.rules(direction)).enumerate();
            for (index, ((_, ports), rule)) in rules {
                names.push(RuleName {
                    namespace: metadata.namespace.clone(),
                    name: metadata.name.clone(),
                    direction,
                    index,
                });
                let number = u32::try_from(names.len()).unwrap_or(u32::MAX);
                grants.extend(rule.grants(number, &prefixes(ports, exposed)));
            }
        }
        assemble(names, &grants)
    }
}

/// Snapshots of what has not changed are mostly the very same.
fn is_same<K: Ord + Clone, V: PartialEq + Clone>(a: &OrdMap<K, V>, b: &OrdMap<K, V>) -> bool {
    a.ptr_eq(b) || a == b
}

/// What the rule set of a subject depends on, besides the policies themselves.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SharedKey {
    direction: PolicyType,
    policies: Vec<PolicyKey>,
    ports: BTreeSet<NamedPort>,
}

impl Compiled {
    fn new(
        policy: &Arc<NetworkPolicy>,
        index: &Index,
        namespaces: &OrdMap<String, Arc<Namespace>>,
    ) -> Self {
        let rules = |direction| {
            let home = &policy.metadata.namespace;
            let rules = policy.spec.rules(direction);
            rules
                .map(|sides| Rule::new(sides, direction, home, index, namespaces))
                .collect()
        };
        Self {
            egress: rules(PolicyType::Egress),
            ingress: rules(PolicyType::Ingress),
            policy: Arc::clone(policy),
        }
    }

    fn rules(&self, direction: PolicyType) -> &[Rule] {
        match direction {
            PolicyType::Egress => &self.egress,
            PolicyType::Ingress => &self.ingress,
        }
    }
}

/// All the selectors of namespaces that a policy has.
fn namespace_selectors(policy: &NetworkPolicy) -> impl Iterator<Item = &LabelSelector> {
    let directions = [PolicyType::Egress, PolicyType::Ingress].into_iter();
    let rules = directions.flat_map(|direction| policy.spec.rules(direction));
    let peers = rules.flat_map(|(peers, _)| peers.unwrap_or_default());
    peers.filter_map(|peer| peer.namespace_selector.as_ref())
}

/// Whether something that a policy says depends on this identity's being there.
fn names(
    policy: &NetworkPolicy,
    identity: &Identity,
    namespaces: &OrdMap<String, Arc<Namespace>>,
) -> bool {
    let home = &policy.metadata.namespace;
    [PolicyType::Egress, PolicyType::Ingress]
        .into_iter()
        .any(|direction| {
            let mut rules = policy.spec.rules(direction);
            rules.any(|(peers, ports)| match peers.unwrap_or_default() {
                [] => direction == PolicyType::Egress && has_names(ports),
                peers => peers
                    .iter()
                    .any(|peer| is_meant(peer, identity, home, namespaces)),
            })
        })
}

pub(super) fn is_meant(
    peer: &PeerSelector,
    identity: &Identity,
    home: &str,
    namespaces: &OrdMap<String, Arc<Namespace>>,
) -> bool {
    let name = &identity.namespace;
    let is_inside = match &peer.namespace_selector {
        None => name == home,
        Some(selector) => {
            let namespace = namespaces.get(name).map(AsRef::as_ref);
            namespace_has_labels(name, namespace, selector)
        }
    };
    let pods = peer.pod_selector.as_ref();
    peer.ip_block.is_none() && is_inside && pods.is_none_or(|pods| has_labels(identity, pods))
}

impl Rule {
    fn new(
        (peers, ports): Sides<'_>,
        direction: PolicyType,
        home: &str,
        index: &Index,
        namespaces: &OrdMap<String, Arc<Namespace>>,
    ) -> Self {
        let peers = peers.unwrap_or_default();
        let meant = peers
            .iter()
            .flat_map(|peer| index.meant(peer, home, namespaces));
        let mut meant: Vec<u32> = meant.collect();
        meant.sort_unstable();
        meant.dedup();
        let blocks = peers.iter().filter_map(|peer| {
            let block = peer.ip_block.as_ref()?;
            let holes = block.except.iter().copied().filter_map(ipv4).collect();
            Some((ipv4(block.cidr)?, Arc::new(holes)))
        });
        let named = if direction == PolicyType::Egress {
            named(ports, peers.is_empty(), &meant, index)
        } else {
            Vec::new()
        };
        Self {
            blocks: blocks.collect(),
            identities: (!peers.is_empty()).then(|| Arc::new(meant)),
            named,
        }
    }

    /// What the rule of that number allows. Of its `ports` those with names mean
    /// the receiver's.
    fn grants(&self, number: u32, ports: &BTreeSet<PortPrefix>) -> Vec<Grant> {
        let mut grants = Vec::new();
        let mut grant = |who, ports: &BTreeSet<PortPrefix>| {
            if !ports.is_empty() {
                let ports = ports.clone();
                grants.push(Grant { number, who, ports });
            }
        };
        match &self.identities {
            None => grant(Who::Everyone, ports),
            Some(identities) => grant(Who::Identities(Arc::clone(identities)), ports),
        }
        for (block, holes) in &self.blocks {
            grant(Who::Block(*block, Arc::clone(holes)), ports);
        }
        for (ports, identities) in &self.named {
            grant(Who::Identities(Arc::clone(identities)), ports);
        }
        grants
    }
}

/// Receivers by what names of ports mean to them. Of a receiver of which nothing
/// but the address is known, no name is known.
fn named(
    ports: Option<&[Port]>,
    is_for_everyone: bool,
    meant: &[u32],
    index: &Index,
) -> Vec<(BTreeSet<PortPrefix>, Arc<Vec<u32>>)> {
    let is_named = |port: &&Port| matches!(port.port, Some(PortName::Name(_)));
    let ports: Vec<Port> = ports
        .into_iter()
        .flatten()
        .filter(is_named)
        .cloned()
        .collect();
    let names = ports.iter().filter_map(|port| match &port.port {
        Some(PortName::Name(name)) => Some(name),
        _ => None,
    });
    let exposing: BTreeSet<u32> = names.flat_map(|name| index.exposing(name)).collect();
    let mut by_ports: BTreeMap<BTreeSet<PortPrefix>, Vec<u32>> = BTreeMap::new();
    for number in exposing {
        if !is_for_everyone && meant.binary_search(&number).is_err() {
            continue;
        }
        let exposed = index.get(number).map(|identity| &identity.ports);
        let ports = exposed.map(|exposed| prefixes(Some(&ports), exposed));
        by_ports
            .entry(ports.unwrap_or_default())
            .or_default()
            .push(number);
    }
    let by_ports = by_ports.into_iter();
    by_ports
        .map(|(ports, numbers)| (ports, Arc::new(numbers)))
        .collect()
}

/// There are no IPv6 packets between endpoints yet, so such a block holds nobody.
fn ipv4(block: IpNetwork) -> Option<Ipv4Network> {
    match block {
        IpNetwork::V4(block) => Ipv4Network::new(block.network(), block.prefix()).ok(),
        IpNetwork::V6(_) => None,
    }
}
