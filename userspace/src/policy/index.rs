//! Identities by what selectors ask for: finding ten among ten thousand must not
//! take looking at each.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use imbl::OrdMap;

use super::{
    document::PeerSelector,
    select::{has_labels, namespace_has_labels},
};
use crate::model::{Identity, Namespace};

/// Identities, and where each of their properties occurs.
#[derive(Debug, Default)]
pub(super) struct Index {
    identities: BTreeMap<u32, Arc<Identity>>,
    by_namespace: BTreeMap<String, BTreeSet<u32>>,
    by_label: HashMap<(String, String), BTreeSet<u32>>,
    by_port: HashMap<String, BTreeSet<u32>>,
}

impl Index {
    pub(super) fn add(&mut self, number: u32, identity: &Arc<Identity>) {
        let of_namespace = self.by_namespace.entry(identity.namespace.clone());
        of_namespace.or_default().insert(number);
        for (key, value) in &identity.labels {
            let label = (key.clone(), value.clone());
            self.by_label.entry(label).or_default().insert(number);
        }
        for port in &identity.ports {
            let of_port = self.by_port.entry(port.name.clone());
            of_port.or_default().insert(number);
        }
        self.identities.insert(number, Arc::clone(identity));
    }

    pub(super) fn remove(&mut self, number: u32) {
        let Some(identity) = self.identities.remove(&number) else {
            return;
        };
        if let Some(numbers) = self.by_namespace.get_mut(&identity.namespace) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_namespace.remove(&identity.namespace);
            }
        }
        for (key, value) in &identity.labels {
            forget(&mut self.by_label, &(key.clone(), value.clone()), number);
        }
        for port in &identity.ports {
            forget(&mut self.by_port, &port.name, number);
        }
    }

    /// The identity of that number.
    pub(super) fn get(&self, number: u32) -> Option<&Arc<Identity>> {
        self.identities.get(&number)
    }

    /// Those that expose a port of that name.
    pub(super) fn exposing(&self, port: &str) -> impl Iterator<Item = u32> {
        self.by_port.get(port).into_iter().flatten().copied()
    }

    /// The numbers of those that a policy of the namespace `home` means by `peer`, each
    /// once.
    pub(super) fn meant(
        &self,
        peer: &PeerSelector,
        home: &str,
        namespaces: &OrdMap<String, Arc<Namespace>>,
    ) -> Vec<u32> {
        if peer.ip_block.is_some() {
            return Vec::new();
        }
        let at_home = self.by_namespace.get_key_value(home);
        let inside: Vec<(&String, &BTreeSet<u32>)> = match &peer.namespace_selector {
            None => at_home.into_iter().collect(),
            Some(selector) => self
                .by_namespace
                .iter()
                .filter(|(name, _)| {
                    let namespace = namespaces.get(*name).map(AsRef::as_ref);
                    namespace_has_labels(name, namespace, selector)
                })
                .collect(),
        };
        let Some(pods) = &peer.pod_selector else {
            return inside
                .into_iter()
                .flat_map(|(_, numbers)| numbers)
                .copied()
                .collect();
        };
        let is_meant = |number: &u32| self.get(*number).is_some_and(|it| has_labels(it, pods));
        let rarest = pods.match_labels.iter().map(|(key, value)| {
            self.by_label
                .get(&(key.clone(), value.clone()))
                .map_or(&EMPTY, |numbers| numbers)
        });
        let in_all: usize = inside.iter().map(|(_, numbers)| numbers.len()).sum();
        match rarest.min_by_key(|numbers| numbers.len()) {
            Some(rarest) if rarest.len() < in_all => {
                let names: BTreeSet<&String> = inside.iter().map(|(name, _)| *name).collect();
                let is_inside = |number: &u32| {
                    self.get(*number)
                        .is_some_and(|it| names.contains(&it.namespace))
                };
                let numbers = rarest.iter().copied();
                numbers
                    .filter(|number| is_inside(number) && is_meant(number))
                    .collect()
            }
            _ => {
                let numbers = inside.into_iter().flat_map(|(_, numbers)| numbers).copied();
                numbers.filter(is_meant).collect()
            }
        }
    }
}

static EMPTY: BTreeSet<u32> = BTreeSet::new();

fn forget<K: std::hash::Hash + Eq>(map: &mut HashMap<K, BTreeSet<u32>>, key: &K, number: u32) {
    if let Some(numbers) = map.get_mut(key) {
        numbers.remove(&number);
        if numbers.is_empty() {
            map.remove(key);
        }
    }
}
