//! Policies, applied and removed, and the labels of namespaces.

use std::{collections::BTreeMap, sync::Arc};

use super::{Basis, Plan};
use crate::{
    control::{
        error::{Conflict, Error, Invalid, NotFound},
        stored::check_namespace,
    },
    model::{NAMESPACE_NAME_LABEL, Namespace},
    policy::document::NetworkPolicy,
    store::Change,
};

/// The most policies there can be.
pub(in crate::control) const POLICIES_MAX: usize = 10_000;
/// The most policies in one request.
pub(in crate::control) const POLICIES_PER_REQUEST: usize = 5_000;
/// The most policies in one transaction: stores bound those.
const POLICIES_AT_ONCE: usize = 100;
/// The most bytes of a policy as JSON.
pub(in crate::control) const POLICY_BYTES_MAX: usize = 256 * 1024;
/// The most bytes of all policies of one transaction.
const BYTES_AT_ONCE: usize = 1024 * 1024;
/// The most namespaces that can have labels.
const NAMESPACES_MAX: usize = 10_000;

/// What applying a policy did to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// There was none of its name.
    Created,
    /// It is another one now.
    Configured,
    /// It was there.
    Unchanged,
}

/// Has the policies be there as they are, whatever was there of their names.
pub(crate) fn apply_policies(
    basis: Basis<'_>,
    policies: &[Arc<NetworkPolicy>],
) -> Result<Plan<Vec<Applied>>, Error> {
    let stored = &basis.desired().policies;
    let applied: Vec<_> = policies
        .iter()
        .map(|policy| match stored.get(&policy.key()) {
            None => Applied::Created,
            Some(before) if before == policy => Applied::Unchanged,
            Some(_) => Applied::Configured,
        })
        .collect();
    let is = |wanted| applied.iter().filter(move |applied| **applied == wanted);
    let count = stored.len() + is(Applied::Created).count();
    if count > POLICIES_MAX {
        return Err(Conflict::TooManyPolicies(count).into());
    }
    let new = applied.contains(&Applied::Created);
    let with = policies.iter().zip(&applied);
    let changes = with
        .filter(|(_, applied)| **applied != Applied::Unchanged)
        .map(|(policy, _)| Change::PutPolicy(Arc::clone(policy)))
        .collect();
    Ok(if new {
        Plan::new(applied, changes)
    } else {
        Plan::existing(applied, changes)
    })
}

/// The policies as the transactions that store them, one in most cases. Refuses those
/// that no store could take, whatever is in it.
pub(crate) fn portions(
    policies: Vec<NetworkPolicy>,
) -> Result<Vec<Vec<Arc<NetworkPolicy>>>, Invalid> {
    if policies.len() > POLICIES_PER_REQUEST {
        return Err(Invalid::TooManyAtOnce(policies.len()));
    }
    let mut portions = Vec::new();
    let mut portion = Vec::new();
    let mut in_portion = 0;
    for policy in policies {
        // It came as text, so it is one; were it not, the store says so.
        let bytes = serde_json::to_vec(&policy).map_or(0, |json| json.len());
        if bytes > POLICY_BYTES_MAX {
            let (namespace, name) = policy.key();
            let name = format!("{namespace}/{name}");
            return Err(Invalid::PolicyTooLarge { name, bytes });
        }
        if portion.len() == POLICIES_AT_ONCE || in_portion + bytes > BYTES_AT_ONCE {
            portions.push(std::mem::take(&mut portion));
            in_portion = 0;
        }
        in_portion += bytes;
        portion.push(Arc::new(policy));
    }
    portions.push(portion);
    Ok(portions)
}

/// Removes a policy.
pub(crate) fn remove_policy(
    basis: Basis<'_>,
    key: &(String, String),
) -> Result<Vec<Change>, Error> {
    if basis.desired().policies.contains_key(key) {
        return Ok(vec![Change::RemovePolicy(key.clone())]);
    }
    let (namespace, name) = key;
    Err(NotFound::Policy(format!("{namespace}/{name}")).into())
}

/// Gives a namespace these labels instead of those it has; without any it is as if
/// it had never been spoken of.
pub(crate) fn label_namespace(
    basis: Basis<'_>,
    name: &str,
    labels: &BTreeMap<String, String>,
) -> Result<Plan<()>, Error> {
    let mut labels = labels.clone();
    if labels
        .get(NAMESPACE_NAME_LABEL)
        .is_some_and(|it| it == name)
    {
        labels.remove(NAMESPACE_NAME_LABEL);
    }
    let name = name.to_owned();
    let namespace = Namespace { name, labels };
    check_namespace(&namespace)?;
    let stored = &basis.desired().namespaces;
    let before = stored.get(&namespace.name);
    let same = match before {
        Some(before) => before.labels == namespace.labels,
        None => namespace.labels.is_empty(),
    };
    if same {
        return Ok(Plan::existing((), Vec::new()));
    }
    if namespace.labels.is_empty() {
        let change = Change::RemoveNamespace(namespace.name);
        return Ok(Plan::existing((), vec![change]));
    }
    if before.is_none() && stored.len() >= NAMESPACES_MAX {
        return Err(Conflict::TooManyNamespaces(stored.len()).into());
    }
    let is_new = before.is_none();
    let changes = vec![Change::PutNamespace(Arc::new(namespace))];
    Ok(if is_new {
        Plan::new((), changes)
    } else {
        Plan::existing((), changes)
    })
}
