//! What an API server demands of a policy beyond its form. Documents that come
//! out of a store are held to the same.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use super::{
    Flaw,
    node::{at_label, below},
};
use crate::policy::{
    document::{
        IpBlock, LabelSelector, Metadata, NetworkPolicy, Operator, PeerSelector, Port, PortName,
        Requirement, Spec,
    },
    names,
};

/// Directions there are.
const DIRECTIONS: usize = 2;
/// Bytes of all annotations.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// What is wrong with a policy.
pub fn check(policy: &NetworkPolicy) -> Vec<Flaw> {
    let mut flaws = Flaws::default();
    flaws.metadata(&policy.metadata);
    flaws.spec(&policy.spec);
    flaws.0
}

/// What is wrong with the labels of a namespace, or of whatever stands at `path`.
pub fn check_labels(path: &str, labels: &BTreeMap<String, String>) -> Vec<Flaw> {
    let mut flaws = Flaws::default();
    flaws.labels(path, labels);
    flaws.0
}

#[derive(Debug, Default)]
struct Flaws(Vec<Flaw>);

impl Flaws {
    fn note(&mut self, path: impl Into<String>, what: impl Into<String>) {
        let (path, what) = (path.into(), what.into());
        self.0.push(Flaw { path, what });
    }

    /// Notes what a rule of [`names`] says of a text.
    fn rule(&mut self, path: &str, text: &str, flaw: Option<&'static str>) {
        if let Some(flaw) = flaw {
            let what = match text {
                "" => format!("is empty; {flaw}"),
                _ => format!("is `{text}`, but {flaw}"),
            };
            self.note(path, what);
        }
    }

    fn metadata(&mut self, metadata: &Metadata) {
        let Metadata {
            name,
            namespace,
            labels,
            annotations,
        } = metadata;
        self.rule("metadata.name", name, names::subdomain(name));
        self.rule("metadata.namespace", namespace, names::namespace(namespace));
        self.labels("metadata.labels", labels);
        let path = "metadata.annotations";
        for key in annotations.keys() {
            let flaw = names::label_key(&key.to_lowercase());
            self.rule(&at_label(path, key), key, flaw);
        }
        let bytes: usize = annotations
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if bytes > ANNOTATIONS_MAX {
            self.note(
                path,
                format!("have {bytes} bytes, but may have {ANNOTATIONS_MAX}"),
            );
        }
    }

    fn labels(&mut self, path: &str, labels: &BTreeMap<String, String>) {
        for (key, value) in labels {
            let path = at_label(path, key);
            self.rule(&path, key, names::label_key(key));
            self.rule(&path, value, names::label_value(value));
        }
    }

    fn spec(&mut self, spec: &Spec) {
        self.selector("spec.podSelector", &spec.pod_selector);
        for (i, rule) in spec.ingress.iter().flatten().enumerate() {
            let path = format!("spec.ingress[{i}]");
            self.rules(&path, "from", rule.from.as_deref(), rule.ports.as_deref());
        }
        for (i, rule) in spec.egress.iter().flatten().enumerate() {
            let path = format!("spec.egress[{i}]");
            self.rules(&path, "to", rule.to.as_deref(), rule.ports.as_deref());
        }
        if spec.policy_types.iter().flatten().count() > DIRECTIONS {
            self.note(
                "spec.policyTypes",
                "has more than two; there are Ingress and Egress",
            );
        }
    }

    fn rules(
        &mut self,
        path: &str,
        field: &str,
        peers: Option<&[PeerSelector]>,
        ports: Option<&[Port]>,
    ) {
        for (i, peer) in peers.into_iter().flatten().enumerate() {
            self.peer(&format!("{path}.{field}[{i}]"), peer);
        }
        for (i, port) in ports.into_iter().flatten().enumerate() {
            self.port(&format!("{path}.ports[{i}]"), port);
        }
    }

    fn peer(&mut self, path: &str, peer: &PeerSelector) {
        let PeerSelector {
            pod_selector,
            namespace_selector,
            ip_block,
        } = peer;
        match (pod_selector, namespace_selector, ip_block) {
            (None, None, None) => {
                let what = "says nobody; give it a podSelector, a namespaceSelector or an \
                            ipBlock, or leave the whole list out to mean everybody";
                self.note(path, what);
            }
            (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
                let what = "has an ipBlock beside a selector; make them two items of the list";
                self.note(path, what);
            }
            _ => {}
        }
        if let Some(selector) = pod_selector {
            self.selector(&below(path, "podSelector"), selector);
        }
        if let Some(selector) = namespace_selector {
            self.selector(&below(path, "namespaceSelector"), selector);
        }
        if let Some(block) = ip_block {
            self.ip_block(&below(path, "ipBlock"), block);
        }
    }

    fn ip_block(&mut self, path: &str, block: &IpBlock) {
        for (i, except) in block.except.iter().enumerate() {
            let is_within = block.cidr.prefix() < except.prefix()
                && match (block.cidr, except) {
                    (IpNetwork::V4(block), IpNetwork::V4(except)) => block.contains(except.ip()),
                    (IpNetwork::V6(block), IpNetwork::V6(except)) => block.contains(except.ip()),
                    _ => false,
                };
            if !is_within {
                let what = format!("is {except}, which is not a part of {}", block.cidr);
                self.note(format!("{path}.except[{i}]"), what);
            }
        }
    }

    fn port(&mut self, path: &str, port: &Port) {
        let (number, end) = (below(path, "port"), below(path, "endPort"));
        match (&port.port, port.end_port) {
            (Some(PortName::Number(0)), _) | (_, Some(0)) => {
                self.note(number, "is 0, but a port is 1 to 65535");
            }
            (Some(PortName::Number(first)), Some(last)) if last < *first => {
                self.note(
                    end,
                    format!("is {last}, which is less than the port {first}"),
                );
            }
            (Some(PortName::Name(name)), end_port) => {
                self.rule(&number, name, names::port_name(name));
                if end_port.is_some() {
                    self.note(end, "needs a port that is a number; this one has a name");
                }
            }
            (None, Some(_)) => self.note(number, "is missing, but must be there with an endPort"),
            _ => {}
        }
    }

    fn selector(&mut self, path: &str, selector: &LabelSelector) {
        self.labels(&below(path, "matchLabels"), &selector.match_labels);
        for (i, requirement) in selector.match_expressions.iter().enumerate() {
            self.requirement(&format!("{path}.matchExpressions[{i}]"), requirement);
        }
    }

    fn requirement(&mut self, path: &str, requirement: &Requirement) {
        let Requirement {
            key,
            operator,
            values,
        } = requirement;
        self.rule(&below(path, "key"), key, names::label_key(key));
        let at = below(path, "values");
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                self.note(&at, "is empty, but In and NotIn need at least one value");
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                self.note(
                    &at,
                    "must not be there: Exists and DoesNotExist take no values",
                );
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            self.rule(&format!("{at}[{i}]"), value, names::label_value(value));
        }
    }
}
