//! Trees to documents. Nothing is passed over: a field that is not known may be
//! the one that mattered.

use ipnetwork::IpNetwork;

use super::{
    check::check,
    node::{Fields, Node, Reader},
    tree::Tree,
};
use crate::policy::document::{
    EgressRule, IngressRule, IpBlock, LabelSelector, Metadata, NetworkPolicy, Operator,
    PeerSelector, PolicyType, Port, PortName, Protocol, Requirement, Spec,
};

const API_VERSION: &str = "networking.k8s.io/v1";
const KIND: &str = "NetworkPolicy";
const DEFAULT_NAMESPACE: &str = "default";

/// What only means something to an API server, and is not kept.
const SERVERS_OWN: [&str; 10] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
];

/// The policies of one document: one, or those of a list.
pub(super) fn document(r: &mut Reader, node: &Node<'_>, into: &mut Vec<NetworkPolicy>) {
    let fields = r.all_fields(node);
    let kind = fields.get("kind").map(|node| r.text(&node));
    match kind.as_deref() {
        Some("List") => items(r, node, "v1", false, into),
        Some("NetworkPolicyList") => items(r, node, API_VERSION, true, into),
        _ => into.extend(policy(r, node, false)),
    }
}

fn items(
    r: &mut Reader,
    node: &Node<'_>,
    api_version: &str,
    are_typed: bool,
    into: &mut Vec<NetworkPolicy>,
) {
    let fields = r.fields(node, &["apiVersion", "kind", "metadata", "items"]);
    check_api_version(r, &fields, api_version);
    let Some(items) = fields.get("items") else {
        return;
    };
    for item in r.list(&items) {
        into.extend(policy(r, &item, are_typed));
    }
}

/// The fields of a policy. The daemon shows it with an `id`, and what is shown can
/// be applied again.
const KNOWN: [&str; 6] = ["id", "apiVersion", "kind", "metadata", "spec", "status"];

/// One policy. What is listed in a list of its kind need not say what it is.
fn policy(r: &mut Reader, node: &Node<'_>, is_typed: bool) -> Option<NetworkPolicy> {
    let flaws = r.flaws.len();
    let fields = r.fields(node, &KNOWN);
    let kind = fields.get("kind");
    if kind.is_some() || !is_typed {
        let kind = kind.map(|node| r.text(&node)).unwrap_or_default();
        if kind != KIND {
            let what = match kind.as_str() {
                "" => format!("is missing; it must be {KIND}"),
                _ => format!("is {kind}, but nothing other than {KIND} can be applied here"),
            };
            r.flaws.truncate(flaws);
            r.flaw(&fields.path_of("kind"), what);
            return None;
        }
    }
    if fields.get("apiVersion").is_some() || !is_typed {
        check_api_version(r, &fields, API_VERSION);
    }
    let metadata = r.required(&fields, "metadata", "give the policy a name");
    let metadata = metadata.and_then(|node| metadata_of(r, &node));
    let spec = fields.get("spec").map(|node| spec(r, &node));
    let policy = NetworkPolicy {
        metadata: metadata?,
        spec: spec.unwrap_or_default(),
    };
    // Of what could not be read nothing more can be said.
    if r.flaws.len() == flaws {
        for mut flaw in check(&policy) {
            if !node.path.is_empty() {
                flaw.path = format!("{}.{}", node.path, flaw.path);
            }
            r.flaws.push(flaw);
        }
    }
    (r.flaws.len() == flaws).then_some(policy)
}

fn check_api_version(r: &mut Reader, fields: &Fields<'_>, wanted: &str) {
    let hint = format!("it must be {wanted}");
    if let Some(node) = r.required(fields, "apiVersion", &hint) {
        let version = r.text(&node);
        if version != wanted {
            r.flaw(&node.path, format!("is `{version}`, but must be {wanted}"));
        }
    }
}

fn metadata_of(r: &mut Reader, node: &Node<'_>) -> Option<Metadata> {
    let mut known = vec!["name", "namespace", "labels", "annotations", "uid"];
    known.extend(SERVERS_OWN);
    let fields = r.fields(node, &known);
    let text = |r: &mut Reader, field: &str| {
        let text = fields.get(field).map(|node| r.text(&node));
        text.filter(|text| !text.is_empty())
    };
    let name = text(r, "name");
    if name.is_none() {
        r.flaw(
            &fields.path_of("name"),
            "is missing; give the policy a name",
        );
    }
    let namespace = text(r, "namespace");
    let texts = |r: &mut Reader, field: &str| fields.get(field).map(|node| r.texts(&node));
    Some(Metadata {
        namespace: namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
        labels: texts(r, "labels").unwrap_or_default(),
        annotations: texts(r, "annotations").unwrap_or_default(),
        name: name?,
    })
}

fn spec(r: &mut Reader, node: &Node<'_>) -> Spec {
    let fields = r.fields(node, &["podSelector", "ingress", "egress", "policyTypes"]);
    let selector = fields.get("podSelector").map(|node| selector(r, &node));
    Spec {
        pod_selector: selector.unwrap_or_default(),
        ingress: list(r, &fields, "ingress", |r, node| {
            let fields = r.fields(node, &["from", "ports"]);
            IngressRule {
                from: list(r, &fields, "from", peer),
                ports: list(r, &fields, "ports", port),
            }
        }),
        egress: list(r, &fields, "egress", |r, node| {
            let fields = r.fields(node, &["to", "ports"]);
            EgressRule {
                to: list(r, &fields, "to", peer),
                ports: list(r, &fields, "ports", port),
            }
        }),
        policy_types: list(r, &fields, "policyTypes", policy_type)
            .map(|types| types.into_iter().flatten().collect()),
    }
}

/// The list in a field, each of its items read by `item`.
fn list<T>(
    r: &mut Reader,
    fields: &Fields<'_>,
    field: &str,
    item: impl Fn(&mut Reader, &Node<'_>) -> T,
) -> Option<Vec<T>> {
    let items = r.list(&fields.get(field)?);
    Some(items.iter().map(|node| item(r, node)).collect())
}

fn policy_type(r: &mut Reader, node: &Node<'_>) -> Option<PolicyType> {
    one_of(
        r,
        node,
        &[
            ("Ingress", PolicyType::Ingress),
            ("Egress", PolicyType::Egress),
        ],
    )
}

/// One of several words.
fn one_of<T: Copy>(r: &mut Reader, node: &Node<'_>, words: &[(&str, T)]) -> Option<T> {
    if !matches!(node.tree, Tree::Text(_) | Tree::Null) {
        r.text(node);
        return None;
    }
    let text = r.text(node);
    let found = words.iter().find(|(word, _)| *word == text);
    if found.is_none() {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let what = format!("is `{text}`, but must be one of {}", words.join(", "));
        r.flaw(&node.path, what);
    }
    found.map(|(_, meaning)| *meaning)
}

fn peer(r: &mut Reader, node: &Node<'_>) -> PeerSelector {
    let fields = r.fields(node, &["podSelector", "namespaceSelector", "ipBlock"]);
    PeerSelector {
        pod_selector: fields.get("podSelector").map(|node| selector(r, &node)),
        namespace_selector: fields
            .get("namespaceSelector")
            .map(|node| selector(r, &node)),
        ip_block: fields.get("ipBlock").and_then(|node| ip_block(r, &node)),
    }
}

fn ip_block(r: &mut Reader, node: &Node<'_>) -> Option<IpBlock> {
    let fields = r.fields(node, &["cidr", "except"]);
    let block = r.required(&fields, "cidr", "write 0.0.0.0/0 for everyone");
    let block = block.and_then(|node| cidr(r, &node));
    let except = list(r, &fields, "except", cidr);
    Some(IpBlock {
        cidr: block?,
        except: except.into_iter().flatten().flatten().collect(),
    })
}

/// An address block: with its length, in digits.
fn cidr(r: &mut Reader, node: &Node<'_>) -> Option<IpNetwork> {
    let flaws = r.flaws.len();
    let text = r.text(node);
    let length = text.split_once('/').map(|(_, length)| length);
    let is_length =
        length.is_some_and(|it| !it.is_empty() && it.bytes().all(|b| b.is_ascii_digit()));
    let block = text.parse().ok().filter(|_| is_length);
    if block.is_none() && r.flaws.len() == flaws {
        let what = format!("is `{text}`, which is no address block such as 10.9.8.0/24");
        r.flaw(&node.path, what);
    }
    block
}

fn port(r: &mut Reader, node: &Node<'_>) -> Port {
    let fields = r.fields(node, &["protocol", "port", "endPort"]);
    let protocol = fields.get("protocol").and_then(|node| {
        let words = [
            ("TCP", Protocol::Tcp),
            ("UDP", Protocol::Udp),
            ("SCTP", Protocol::Sctp),
        ];
        one_of(r, &node, &words)
    });
    let port = fields.get("port").and_then(|node| match node.tree {
        Tree::Text(name) => Some(PortName::Name(name.clone())),
        _ => r.port_number(&node).map(PortName::Number),
    });
    let end_port = fields.get("endPort").and_then(|node| r.port_number(&node));
    Port {
        protocol: protocol.unwrap_or_default(),
        port,
        end_port,
    }
}

fn selector(r: &mut Reader, node: &Node<'_>) -> LabelSelector {
    let fields = r.fields(node, &["matchLabels", "matchExpressions"]);
    let labels = fields.get("matchLabels").map(|node| r.texts(&node));
    let requirements = list(r, &fields, "matchExpressions", requirement);
    LabelSelector {
        match_labels: labels.unwrap_or_default(),
        match_expressions: requirements.into_iter().flatten().flatten().collect(),
    }
}

fn requirement(r: &mut Reader, node: &Node<'_>) -> Option<Requirement> {
    let fields = r.fields(node, &["key", "operator", "values"]);
    let key = fields.get("key").map(|node| r.text(&node));
    let hint = "it must be one of In, NotIn, Exists, DoesNotExist";
    let operator = r.required(&fields, "operator", hint).and_then(|node| {
        let words = [
            ("In", Operator::In),
            ("NotIn", Operator::NotIn),
            ("Exists", Operator::Exists),
            ("DoesNotExist", Operator::DoesNotExist),
        ];
        one_of(r, &node, &words)
    });
    let values = list(r, &fields, "values", Reader::text);
    Some(Requirement {
        key: key.unwrap_or_default(),
        operator: operator?,
        values: values.unwrap_or_default(),
    })
}
