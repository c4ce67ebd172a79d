use super::*;
use crate::policy::document::{
    IpBlock, LabelSelector, Operator, PeerSelector, PolicyType, Port, PortName, Protocol,
};

/// Everything a policy can have.
const WHOLE: &str = r#"
# as from kubectl get -o yaml
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web
  namespace: shop
  uid: 6f9c
  resourceVersion: "12"
  generation: 1
  creationTimestamp: null
  managedFields: [{manager: kubectl}]
  labels: {team: a}
  annotations: {example.com/Note: "any text, 1 2 3"}
spec:
  podSelector:
    matchLabels: {app: web}
    matchExpressions:
    - {key: tier, operator: In, values: [front, back]}
    - {key: canary, operator: DoesNotExist}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - podSelector: {}
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ops}}
      podSelector: {matchLabels: {app: probe}}
    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.2.3.4/32]}
    ports:
    - port: 80
    - {protocol: UDP, port: 5000, endPort: 5010}
    - {protocol: SCTP, port: metrics}
  - {}
  egress:
  - to: []
    ports: null
status: {conditions: []}
"#;

fn flaws_of(text: &str) -> Vec<(String, String)> {
    match read(text) {
        Err(ReadError::Flaws(flaws)) => flaws.into_iter().map(|f| (f.path, f.what)).collect(),
        other => panic!("{text}: {other:?}"),
    }
}

/// A policy with this for its `spec`, in flow style.
fn with_spec(spec: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: a}}, \
         spec: {spec}}}"
    )
}

#[test]
fn a_document_is_read_with_all_it_says() {
    let policies = read(WHOLE).unwrap();
    let [NetworkPolicy { metadata, spec }] = policies.as_slice() else {
        panic!("{policies:?}");
    };
    assert_eq!(
        (metadata.name.as_str(), metadata.namespace.as_str()),
        ("web", "shop")
    );
    assert_eq!(metadata.labels["team"], "a");
    assert_eq!(spec.pod_selector.match_labels["app"], "web");
    assert_eq!(
        spec.pod_selector.match_expressions[1].operator,
        Operator::DoesNotExist
    );
    assert_eq!(
        spec.policy_types,
        Some(vec![PolicyType::Ingress, PolicyType::Egress])
    );
    let ingress = spec.ingress.as_ref().unwrap();
    let from = ingress[0].from.as_ref().unwrap();
    assert_eq!(from[0].pod_selector, Some(LabelSelector::default()));
    assert!(from[1].pod_selector.is_some() && from[1].namespace_selector.is_some());
    assert_eq!(
        from[2],
        PeerSelector {
            ip_block: Some(IpBlock {
                cidr: "10.0.0.0/8".parse().unwrap(),
                except: ["10.1.0.0/16", "10.2.3.4/32"]
                    .map(|it| it.parse().unwrap())
                    .to_vec(),
            }),
            ..PeerSelector::default()
        }
    );
    let port = |protocol, port, end_port| Port {
        protocol,
        port: Some(port),
        end_port,
    };
    assert_eq!(
        ingress[0].ports.as_deref(),
        Some(
            [
                port(Protocol::Tcp, PortName::Number(80), None),
                port(Protocol::Udp, PortName::Number(5000), Some(5010)),
                port(Protocol::Sctp, PortName::Name("metrics".to_owned()), None),
            ]
            .as_slice()
        )
    );
    assert_eq!((&ingress[1].from, &ingress[1].ports), (&None, &None));
    let egress = spec.egress.as_ref().unwrap();
    assert_eq!(
        (egress[0].to.as_deref(), &egress[0].ports),
        (Some([].as_slice()), &None)
    );
}

#[test]
fn what_is_kept_is_read_back_as_the_same() {
    let policy = read(WHOLE).unwrap().remove(0);
    let json = serde_json::to_string(&policy).unwrap();
    assert_eq!(
        serde_json::from_str::<NetworkPolicy>(&json).unwrap(),
        policy
    );
}

#[test]
fn several_documents_and_lists_are_read_in_their_order() {
    let one = |name: &str| {
        format!(
            "{{\"apiVersion\": \"networking.k8s.io/v1\", \"kind\": \"NetworkPolicy\", \
             \"metadata\": {{\"name\": \"{name}\"}}, \"spec\": {{\"podSelector\": {{}}}}}}"
        )
    };
    let bare = "{metadata: {name: e}, spec: {podSelector: {}}}";
    let text = format!(
        "# nothing\n---\n---\n{}\n---\napiVersion: v1\nkind: List\nmetadata: \
         {{resourceVersion: ''}}\nitems:\n- {}\n- {}\n---\napiVersion: \
         networking.k8s.io/v1\nkind: NetworkPolicyList\nitems:\n- {}\n- {bare}\n...\n",
        one("a"),
        one("b"),
        one("c"),
        one("d"),
    );
    let names = |text: &str| -> Vec<String> {
        let policies = read(text).unwrap();
        policies
            .into_iter()
            .map(|policy| policy.metadata.name)
            .collect()
    };
    assert_eq!(names(&text), ["a", "b", "c", "d", "e"]);
    let json = format!("{}\n{}", one("a"), one("b"));
    assert_eq!(names(&json), ["a", "b"]);
}

#[test]
fn null_and_nothing_are_what_an_api_server_takes_them_for() {
    let policy = |spec: &str| read(&with_spec(spec)).unwrap().remove(0).spec;
    assert_eq!(policy("null").pod_selector, LabelSelector::default());
    let spec = policy(
        "{podSelector: null, ingress: [null, {from: null, ports: []}], egress: null, \
         policyTypes: []}",
    );
    let ingress = spec.ingress.unwrap();
    assert_eq!(
        (ingress[0].from.is_none(), ingress[1].from.is_none()),
        (true, true)
    );
    assert_eq!((spec.egress, spec.policy_types), (None, Some(Vec::new())));
    let spec = policy("{ingress: [{ports: [null, {protocol: null, endPort: null}]}]}");
    assert_eq!(
        spec.ingress.unwrap()[0].ports,
        Some(vec![Port::default(), Port::default()])
    );
    let spec = policy("{podSelector: {matchLabels: {a: null}, matchExpressions: null}}");
    assert_eq!(spec.pod_selector.match_labels["a"], "");
}

#[test]
fn unknown_fields_are_refused_with_their_path() {
    for (spec, path, fragment) in [
        (
            "{ingress: [{from: [{podSelector: {}}, {podSelecter: {}}]}]}",
            "spec.ingress[0].from[1].podSelecter",
            "podSelector may be meant",
        ),
        (
            "{podselector: {}}",
            "spec.podselector",
            "podSelector may be meant",
        ),
        ("{order: 1}", "spec.order", "there are podSelector, ingress"),
        (
            "{egress: [{from: []}]}",
            "spec.egress[0].from",
            "there are to, ports",
        ),
        (
            "{podSelector: {app: web}}",
            "spec.podSelector.app",
            "there are matchLabels",
        ),
        (
            "{ingress: [{ports: [{endport: 1}]}]}",
            "spec.ingress[0].ports[0].endport",
            "endPort",
        ),
    ] {
        let flaws = flaws_of(&with_spec(spec));
        assert_eq!(flaws[0].0, path, "{flaws:?}");
        assert!(flaws[0].1.contains(fragment), "{flaws:?}");
    }
    let text = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a, \
                clusterName: b}, spec: {}, spek: {}}";
    let flaws = flaws_of(text);
    let paths: Vec<&str> = flaws.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["spek", "metadata.clusterName"]);
}

/// A spec, the path of what is wrong with it, and a part of what is said of that.
const REFUSED: &[(&str, &str, &str)] = &[
    ("{ingress: {}}", "spec.ingress", "must be a list"),
    ("[]", "spec", "must be a map"),
    (
        "{policyTypes: [ingress]}",
        "spec.policyTypes[0]",
        "Ingress, Egress",
    ),
    (
        "{policyTypes: [null]}",
        "spec.policyTypes[0]",
        "Ingress, Egress",
    ),
    (
        "{policyTypes: [Ingress, Egress, Ingress]}",
        "spec.policyTypes",
        "more than two",
    ),
    (
        "{ingress: [{from: [{}]}]}",
        "spec.ingress[0].from[0]",
        "nobody",
    ),
    (
        "{ingress: [{from: [null]}]}",
        "spec.ingress[0].from[0]",
        "nobody",
    ),
    (
        "{egress: [{to: [{podSelector: {}, ipBlock: {cidr: 1.0.0.0/8}}]}]}",
        "spec.egress[0].to[0]",
        "beside",
    ),
    (
        "{egress: [{to: [{ipBlock: {}}]}]}",
        "spec.egress[0].to[0].ipBlock.cidr",
        "missing",
    ),
    (
        "{egress: [{to: [{ipBlock: {cidr: 10.0.0.1}}]}]}",
        "spec.egress[0].to[0].ipBlock.cidr",
        "10.0.0.1",
    ),
    (
        "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/255.0.0.0}}]}]}",
        "spec.egress[0].to[0].ipBlock.cidr",
        "no address block",
    ),
    (
        "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}",
        "spec.egress[0].to[0].ipBlock.except[0]",
        "not a part",
    ),
    (
        "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}",
        "spec.egress[0].to[0].ipBlock.except[0]",
        "not a part",
    ),
    (
        "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/64']}}]}]}",
        "spec.egress[0].to[0].ipBlock.except[0]",
        "not a part",
    ),
    (
        "{podSelector: {matchLabels: {a: 1}}}",
        "spec.podSelector.matchLabels[\"a\"]",
        "quotes",
    ),
    (
        "{podSelector: {matchLabels: {a: true}}}",
        "spec.podSelector.matchLabels[\"a\"]",
        "quotes",
    ),
    (
        "{podSelector: {matchLabels: {'a b': c}}}",
        "spec.podSelector.matchLabels[\"a b\"]",
        "letters",
    ),
    (
        "{podSelector: {matchLabels: {a: 'b c'}}}",
        "spec.podSelector.matchLabels[\"a\"]",
        "value",
    ),
    (
        "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
        "spec.podSelector.matchExpressions[0].values",
        "at least one",
    ),
    (
        "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
        "spec.podSelector.matchExpressions[0].values",
        "no values",
    ),
    (
        "{podSelector: {matchExpressions: [{key: a, operator: in, values: [b]}]}}",
        "spec.podSelector.matchExpressions[0].operator",
        "NotIn",
    ),
    (
        "{podSelector: {matchExpressions: [{operator: Exists}]}}",
        "spec.podSelector.matchExpressions[0].key",
        "empty",
    ),
    (
        "{podSelector: {matchExpressions: [{key: a}]}}",
        "spec.podSelector.matchExpressions[0].operator",
        "missing",
    ),
];

#[test]
fn what_an_api_server_refuses_is_refused() {
    for (spec, path, fragment) in REFUSED {
        let flaws = flaws_of(&with_spec(spec));
        assert_eq!((flaws.len(), flaws[0].0.as_str()), (1, *path), "{flaws:?}");
        assert!(flaws[0].1.contains(fragment), "{flaws:?}");
    }
}

#[test]
fn ports_are_what_an_api_server_takes() {
    for (port, field, fragment) in [
        ("{port: 0}", "port", "1 to 65535"),
        ("{port: 65536}", "port", "1 to 65535"),
        ("{port: -1}", "port", "1 to 65535"),
        ("{port: 8e1}", "port", "plain decimal"),
        ("{port: [80]}", "port", "without quotes"),
        ("{port: '80'}", "port", "without quotes"),
        ("{port: HTTP}", "port", "lower-case"),
        ("{port: ''}", "port", "1 to 15"),
        ("{port: http, endPort: 90}", "endPort", "has a name"),
        ("{port: 80, endPort: 79}", "endPort", "less than"),
        ("{endPort: 79}", "port", "missing"),
        ("{port: 80, endPort: 65536}", "endPort", "1 to 65535"),
        ("{port: 80, protocol: tcp}", "protocol", "TCP, UDP, SCTP"),
        ("{port: 80, protocol: ICMP}", "protocol", "TCP, UDP, SCTP"),
    ] {
        let flaws = flaws_of(&with_spec(&format!("{{ingress: [{{ports: [{port}]}}]}}")));
        let path = format!("spec.ingress[0].ports[0].{field}");
        assert_eq!((flaws.len(), &flaws[0].0), (1, &path), "{port} {flaws:?}");
        assert!(flaws[0].1.contains(fragment), "{flaws:?}");
    }
    for port in [
        "{port: 1}",
        "{port: 65535, endPort: 65535}",
        "{protocol: SCTP}",
        "{port: a}",
    ] {
        assert!(read(&with_spec(&format!("{{egress: [{{ports: [{port}]}}]}}"))).is_ok());
    }
    for block in ["10.9.8.7/16", "'fd00::/8'", "0.0.0.0/0"] {
        let spec = format!("{{egress: [{{to: [{{ipBlock: {{cidr: {block}}}}}]}}]}}");
        assert!(read(&with_spec(&spec)).is_ok(), "{block}");
    }
}

#[test]
fn what_is_no_policy_is_refused() {
    assert_eq!(read(""), Err(ReadError::Nothing));
    assert_eq!(read("# only words\n---\n"), Err(ReadError::Nothing));
    for (text, path, fragment) in [
        ("hello", "", "must be a map"),
        ("{}", "kind", "missing"),
        ("{apiVersion: v1, kind: Pod}", "kind", "is Pod"),
        (
            "{apiVersion: extensions/v1beta1, kind: NetworkPolicy, metadata: {name: a}}",
            "apiVersion",
            "networking.k8s.io/v1",
        ),
        (
            "{kind: NetworkPolicy, metadata: {name: a}}",
            "apiVersion",
            "missing",
        ),
        (
            "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy}",
            "metadata",
            "name",
        ),
        (
            "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {generateName: a-}}",
            "metadata.name",
            "missing",
        ),
        (
            "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: A_b}}",
            "metadata.name",
            "lower-case",
        ),
        (
            "{apiVersion: v1, kind: List, items: [{kind: Pod}]}",
            "items[0].kind",
            "is Pod",
        ),
    ] {
        let flaws = flaws_of(text);
        assert_eq!(flaws[0].0, path, "{flaws:?}");
        assert!(flaws[0].1.contains(fragment), "{flaws:?}");
    }
}

#[test]
fn all_flaws_are_told_with_the_document_they_are_in() {
    let text = format!(
        "{}\n---\n{}\n",
        with_spec("{x: 1}"),
        with_spec("{y: 1, z: 1}")
    );
    let error = read(&text).unwrap_err().to_string();
    assert!(
        error.starts_with("document 1, spec.x: there is no such field"),
        "{error}"
    );
    assert!(error.contains("; document 2, spec.z: "), "{error}");
    let twice = format!("{}\n---\n{}\n", with_spec("{}"), with_spec("{}"));
    assert!(read(&twice).unwrap_err().to_string().contains("default/a"));
}
