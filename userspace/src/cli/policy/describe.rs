//! Policies for people.

use std::fmt::Write as _;

use crate::{
    cli::output::{fields, printable},
    policy::document::{
        IpBlock, LabelSelector, Operator, PeerSelector, PolicyType, Port, PortName, Requirement,
        Sides, Spec,
    },
    surfaces::api::{PolicyDto, UnmatchedDto},
};

/// One policy, as `kubectl describe` has it in essence.
pub(super) fn policy(policy: &PolicyDto) -> String {
    let spec = &policy.spec;
    let directions = directions(spec);
    let pairs = |pairs: &std::collections::BTreeMap<String, String>| {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        match pairs.join(", ") {
            pairs if pairs.is_empty() => "-".to_owned(),
            pairs => pairs,
        }
    };
    let mut text = fields(&[
        ("Name", policy.metadata.name.clone()),
        ("Namespace", policy.metadata.namespace.clone()),
        ("Labels", pairs(&policy.metadata.labels)),
        ("Annotations", pairs(&policy.metadata.annotations)),
        ("Selects", selector(&spec.pod_selector)),
        ("Directions", directions.join(", ")),
    ]);
    for (of, word) in [(PolicyType::Ingress, "from"), (PolicyType::Egress, "to")] {
        if spec.directions().contains(&of) {
            direction(&mut text, name(of), word, spec.rules(of).collect());
        }
    }
    if let Some(status) = &policy.status {
        let endpoints = or(&status.endpoints, "none", ", ");
        let _ = writeln!(text, "Endpoints: {endpoints}");
        for UnmatchedDto { path, reason } in &status.unmatched {
            let line = format!("Warning:   {path}: {reason}");
            let _ = writeln!(text, "{}", printable(line));
        }
    }
    text
}

fn direction(text: &mut String, name: &str, word: &str, rules: Vec<Sides<'_>>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{name}:");
    if rules.is_empty() {
        let _ = writeln!(text, "  nothing is allowed");
    }
    for (number, (peers, ports)) in rules.into_iter().enumerate() {
        let peers: Vec<_> = peers.into_iter().flatten().map(peer).collect();
        let ports: Vec<_> = ports.into_iter().flatten().map(port).collect();
        let peers = or(&peers, "everybody", "\n       or ");
        let ports = or(&ports, "every port", ", ");
        let line = format!("  {number}. {word} {peers}\n     on {ports}");
        let lines = line.lines().map(|line| printable(line.to_owned()));
        for line in lines {
            let _ = writeln!(text, "{line}");
        }
    }
}

fn or(all: &[String], otherwise: &str, between: &str) -> String {
    if all.is_empty() {
        return otherwise.to_owned();
    }
    all.join(between)
}

fn peer(peer: &PeerSelector) -> String {
    if let Some(IpBlock { cidr, except }) = &peer.ip_block {
        let except: Vec<_> = except.iter().map(ToString::to_string).collect();
        if except.is_empty() {
            return cidr.to_string();
        }
        return format!("{cidr} except {}", except.join(", "));
    }
    let pods = peer.pod_selector.as_ref().map_or_else(everyone, selector);
    match &peer.namespace_selector {
        None => pods,
        Some(namespaces) => format!("{pods} in namespaces {}", selector(namespaces)),
    }
}

fn everyone() -> String {
    selector(&LabelSelector::default())
}

fn port(port: &Port) -> String {
    let protocol = format!("{:?}", port.protocol).to_lowercase();
    match (&port.port, port.end_port) {
        (None, _) => format!("every {protocol} port"),
        (Some(PortName::Name(name)), _) => format!("{name}/{protocol}"),
        (Some(PortName::Number(number)), None) => format!("{number}/{protocol}"),
        (Some(PortName::Number(first)), Some(last)) => format!("{first}-{last}/{protocol}"),
    }
}

/// A selector as `kubectl` writes it.
pub(super) fn selector(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.iter();
    let labels = labels.map(|(key, value)| format!("{key}={value}"));
    let requirements = selector.match_expressions.iter().map(requirement);
    let all: Vec<_> = labels.chain(requirements).collect();
    or(&all, "<all>", ",")
}

fn requirement(requirement: &Requirement) -> String {
    let Requirement {
        key,
        operator,
        values,
    } = requirement;
    let values = values.join(",");
    match operator {
        Operator::In => format!("{key} in ({values})"),
        Operator::NotIn => format!("{key} notin ({values})"),
        Operator::Exists => key.clone(),
        Operator::DoesNotExist => format!("!{key}"),
    }
}

/// The directions that a policy is for.
pub(super) fn directions(spec: &Spec) -> Vec<&'static str> {
    spec.directions().iter().copied().map(name).collect()
}

fn name(direction: PolicyType) -> &'static str {
    match direction {
        PolicyType::Ingress => "Ingress",
        PolicyType::Egress => "Egress",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_policy_is_told() {
        let dto: PolicyDto = serde_json::from_value(serde_json::json!({
            "id": "shop/web", "apiVersion": "", "kind": "",
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": {
                "podSelector": {
                    "matchLabels": { "app": "web" },
                    "matchExpressions": [
                        { "key": "tier", "operator": "In", "values": ["a", "b"] },
                        { "key": "old", "operator": "DoesNotExist" },
                    ],
                },
                "ingress": [
                    {
                        "from": [
                            { "ipBlock": { "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"] } },
                            { "namespaceSelector": { "matchLabels": { "team": "x" } } },
                        ],
                        "ports": [{ "port": 80, "endPort": 90 }, { "port": "dns", "protocol": "UDP" }],
                    },
                    {},
                ],
                "policyTypes": ["Ingress", "Egress"],
            },
            "status": {
                "endpoints": ["0123456789ab"],
                "unmatched": [{ "path": "spec.ingress[0].ports[1]", "reason": "nobody has it" }],
            },
        }))
        .unwrap();
        let expected = "\
Name:        web
Namespace:   shop
Labels:      -
Annotations: -
Selects:     app=web,tier in (a,b),!old
Directions:  Ingress, Egress
Ingress:
  0. from 10.0.0.0/8 except 10.1.0.0/16
       or <all> in namespaces team=x
     on 80-90/tcp, dns/udp
  1. from everybody
     on every port
Egress:
  nothing is allowed
Endpoints: 0123456789ab
Warning:   spec.ingress[0].ports[1]: nobody has it
";
        assert_eq!(policy(&dto), expected);
    }
}
