//! Who is meant: selectors held against labels.

use super::document::{LabelSelector, NetworkPolicy, Operator, PolicyType, Requirement};
use crate::model::{Identity, NAMESPACE_NAME_LABEL, Namespace};

/// Labels by key.
type LabelOf<'a> = &'a dyn Fn(&str) -> Option<&'a str>;

/// Whether an identity has the labels that are asked for.
pub fn has_labels(identity: &Identity, selector: &LabelSelector) -> bool {
    matches(selector, &|key| {
        identity.labels.get(key).map(String::as_str)
    })
}

/// Whether the namespace of that name has the labels that are asked for. Its
/// `namespace` is what is known of it, if anything is.
pub fn namespace_has_labels(
    name: &str,
    namespace: Option<&Namespace>,
    selector: &LabelSelector,
) -> bool {
    matches(selector, &|key| {
        if key == NAMESPACE_NAME_LABEL {
            return Some(name);
        }
        namespace.and_then(|namespace| namespace.labels.get(key).map(String::as_str))
    })
}

/// Whether a policy says what an identity may do in that direction.
pub fn selects(policy: &NetworkPolicy, identity: &Identity, direction: PolicyType) -> bool {
    policy.metadata.namespace == identity.namespace
        && is_for(policy, direction)
        && has_labels(identity, &policy.spec.pod_selector)
}

/// Whether a policy is one for that direction.
pub fn is_for(policy: &NetworkPolicy, direction: PolicyType) -> bool {
    policy.spec.directions().contains(&direction)
}

fn matches(selector: &LabelSelector, label: LabelOf<'_>) -> bool {
    let mut labels = selector.match_labels.iter();
    labels.all(|(key, value)| label(key) == Some(value))
        && selector.match_expressions.iter().all(|it| holds(it, label))
}

fn holds(requirement: &Requirement, label: LabelOf<'_>) -> bool {
    let value = label(&requirement.key);
    let is_listed = value.is_some_and(|value| requirement.values.iter().any(|it| it == value));
    match requirement.operator {
        Operator::In => is_listed,
        Operator::NotIn => !is_listed,
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
    }
}
