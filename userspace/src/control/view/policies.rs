//! Policies and namespaces.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    control::{
        Control,
        error::{Error, NotFound},
    },
    model::{Desired, NAMESPACE_NAME_LABEL},
    policy::{
        document::NetworkPolicy,
        explain::{self, Effective, Population, Reach},
    },
};

/// A policy and what it is about now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyView {
    /// As stored.
    pub policy: Arc<NetworkPolicy>,
    /// Whom it selects and what in it matches nothing, if that was asked for.
    pub reach: Option<Reach>,
}

/// A namespace and what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceView {
    /// Its name.
    pub name: String,
    /// Its labels, the one with its name among them.
    pub labels: BTreeMap<String, String>,
    /// How many endpoints are in it on all hosts.
    pub endpoints: usize,
    /// How many policies are.
    pub policies: usize,
}

impl PolicyView {
    /// Each with what it comes to.
    pub(in crate::control) fn all(
        desired: &Desired,
        policies: Vec<Arc<NetworkPolicy>>,
    ) -> Vec<Self> {
        let population = Population::of(desired);
        let policies = policies.into_iter();
        let view = policies.map(|policy| {
            let reach = Some(population.reach(&policy));
            Self { policy, reach }
        });
        view.collect()
    }
}

impl Control {
    /// The policies of that namespace, or all, by namespace and name; not what they
    /// come to.
    pub fn policies(&self, namespace: Option<&str>) -> Vec<PolicyView> {
        let picture = self.picture();
        let desired = &picture.contents.desired;
        let policies = desired.policies.iter();
        policies
            .filter(|((its, _), _)| namespace.is_none_or(|asked| asked == its))
            .map(|(_, policy)| PolicyView {
                policy: Arc::clone(policy),
                reach: None,
            })
            .collect()
    }

    /// One policy.
    pub fn policy(&self, namespace: &str, name: &str) -> Result<PolicyView, Error> {
        let picture = self.picture();
        let desired = &picture.contents.desired;
        let key = (namespace.to_owned(), name.to_owned());
        match desired.policies.get(&key) {
            Some(policy) => Ok(PolicyView {
                policy: Arc::clone(policy),
                reach: Some(Population::of(desired).reach(policy)),
            }),
            None => Err(NotFound::Policy(format!("{namespace}/{name}")).into()),
        }
    }

    /// What all policies together allow the endpoints of an identity, ingress
    /// first; `None` if that number is none's.
    pub fn effective_policy(&self, identity: u32) -> Option<[Effective; 2]> {
        let picture = self.picture();
        let desired = &picture.contents.desired;
        let identity = desired.identities.get(&identity)?;
        Some(explain::effective(desired, identity))
    }

    /// All namespaces that have labels, or that endpoints or policies are in, by
    /// name.
    pub fn namespaces(&self) -> Vec<NamespaceView> {
        let picture = self.picture();
        let all = namespaces(&picture.contents.desired);
        all.into_values().collect()
    }

    pub(in crate::control) fn namespace(&self, name: &str) -> NamespaceView {
        let picture = self.picture();
        let mut all = namespaces(&picture.contents.desired);
        all.remove(name).unwrap_or_else(|| named(name))
    }
}

fn namespaces(desired: &Desired) -> BTreeMap<String, NamespaceView> {
    let mut all = BTreeMap::<String, NamespaceView>::new();
    let mut count = |name: &str, endpoints, policies| {
        // Most of the time it is there: nothing is allocated.
        if !all.contains_key(name) {
            all.insert(name.to_owned(), named(name));
        }
        if let Some(view) = all.get_mut(name) {
            view.endpoints += endpoints;
            view.policies += policies;
        }
    };
    for endpoint in desired.endpoints.values() {
        count(&endpoint.namespace, 1, 0);
    }
    for record in desired.others() {
        count(&record.namespace, 1, 0);
    }
    for (namespace, _) in desired.policies.keys() {
        count(namespace, 0, 1);
    }
    for name in desired.namespaces.keys() {
        count(name, 0, 0);
    }
    for (name, namespace) in &desired.namespaces {
        if let Some(view) = all.get_mut(name) {
            view.labels.extend(namespace.labels.clone());
        }
    }
    all
}

/// A namespace that nothing else is known of.
fn named(name: &str) -> NamespaceView {
    NamespaceView {
        name: name.to_owned(),
        labels: [(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned())].into(),
        ..NamespaceView::default()
    }
}
