//! Random policies, and random packets to hold them against. Few names, labels,
//! ports and addresses, so that what is random meets.

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc};

use proptest::{collection, option, prelude::*, sample};
use vxplane::{
    model::{Desired, Identity, NamedPort, Namespace},
    policy::{
        document::{
            EgressRule, IngressRule, IpBlock, LabelSelector, Metadata, NetworkPolicy, Operator,
            PeerSelector, PolicyType, Port, PortName, Protocol, Requirement, Spec,
        },
        evaluate::{End, Packet},
    },
};

const NAMESPACES: [&str; 3] = ["default", "n1", "n2"];
const KEYS: [&str; 2] = ["a", "b"];
const VALUES: [&str; 3] = ["x", "y", "z"];
const PORT_NAMES: [&str; 2] = ["http", "dns"];
/// The number of the first identity of a world.
pub(crate) const FIRST_IDENTITY: u32 = 256;

fn any_word(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    sample::select(words).prop_map(str::to_owned)
}

fn any_protocol() -> impl Strategy<Value = Protocol> {
    sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
}

/// A port of a few.
pub(crate) fn any_port_number() -> impl Strategy<Value = u16> {
    sample::select(vec![1, 53, 80, 81, 443, 8080, u16::MAX])
}

/// An address of a few, those of the test bed for the programs among them.
pub(crate) fn any_ip() -> impl Strategy<Value = Ipv4Addr> {
    (0_u8..2, 1_u8..16).prop_map(|(third, last)| Ipv4Addr::new(10, 1, third, last))
}

fn any_selector() -> impl Strategy<Value = LabelSelector> {
    let operator = sample::select(vec![
        Operator::In,
        Operator::NotIn,
        Operator::Exists,
        Operator::DoesNotExist,
    ]);
    let values = collection::vec(any_word(&VALUES), 1..3);
    let requirement = (any_word(&KEYS), operator, values).prop_map(|(key, operator, values)| {
        let takes_values = matches!(operator, Operator::In | Operator::NotIn);
        Requirement {
            key,
            operator,
            values: if takes_values { values } else { Vec::new() },
        }
    });
    let labels = collection::btree_map(any_word(&KEYS), any_word(&VALUES), 0..2);
    let selector = (labels, collection::vec(requirement, 0..2)).prop_map(
        |(match_labels, match_expressions)| LabelSelector {
            match_labels,
            match_expressions,
        },
    );
    prop_oneof![1 => Just(LabelSelector::default()), 3 => selector]
}

/// Of namespaces: some by the name that each one has.
fn any_namespace_selector() -> impl Strategy<Value = LabelSelector> {
    let by_name = any_word(&NAMESPACES).prop_map(|name| {
        let label = ("kubernetes.io/metadata.name".to_owned(), name);
        LabelSelector {
            match_labels: [label].into(),
            match_expressions: Vec::new(),
        }
    });
    prop_oneof![1 => by_name, 2 => any_selector()]
}

fn any_block() -> impl Strategy<Value = IpBlock> {
    let holes = collection::vec((any_ip(), 1_u8..8), 0..3);
    let block = (
        any_ip(),
        sample::select(vec![0_u8, 8, 22, 24, 28, 30]),
        holes,
    );
    block.prop_map(|(ip, prefix, holes)| {
        let cidr = format!("{ip}/{prefix}").parse().unwrap();
        let hole = |(ip, more): (Ipv4Addr, u8)| {
            format!("{ip}/{}", (prefix + more).min(32)).parse().unwrap()
        };
        let except = holes.into_iter().map(hole).collect();
        IpBlock { cidr, except }
    })
}

fn any_peer() -> impl Strategy<Value = PeerSelector> {
    let labelled = (
        option::of(any_selector()),
        option::of(any_namespace_selector()),
    );
    let labelled = labelled.prop_map(|(pods, namespaces)| PeerSelector {
        // One of the two there must be.
        pod_selector: pods.or(namespaces.is_none().then(LabelSelector::default)),
        namespace_selector: namespaces,
        ip_block: None,
    });
    prop_oneof![
        2 => labelled,
        1 => any_block().prop_map(|block| PeerSelector {
            ip_block: Some(block),
            ..PeerSelector::default()
        }),
    ]
}

fn any_port() -> impl Strategy<Value = Port> {
    let number = (any_port_number(), option::of(any_port_number())).prop_map(|(port, end)| {
        let end = end.filter(|end| *end >= port);
        (Some(PortName::Number(port)), end)
    });
    let name = any_word(&PORT_NAMES).prop_map(|name| (Some(PortName::Name(name)), None));
    let port = prop_oneof![4 => number, 2 => name, 1 => Just((None, None))];
    (any_protocol(), port).prop_map(|(protocol, (port, end_port))| Port {
        protocol,
        port,
        end_port,
    })
}

type Sides = (Option<Vec<PeerSelector>>, Option<Vec<Port>>);

fn any_rules() -> impl Strategy<Value = Option<Vec<Sides>>> {
    let peers = option::weighted(0.8, collection::vec(any_peer(), 0..4));
    let ports = option::weighted(0.7, collection::vec(any_port(), 0..4));
    option::weighted(0.8, collection::vec((peers, ports), 0..3))
}

fn any_spec() -> impl Strategy<Value = Spec> {
    let types = sample::subsequence(vec![PolicyType::Ingress, PolicyType::Egress], 0..=2);
    let parts = (any_selector(), any_rules(), any_rules(), option::of(types));
    parts.prop_map(|(pod_selector, ingress, egress, policy_types)| {
        let ingress = ingress.map(|rules| {
            let rule = |(from, ports)| IngressRule { from, ports };
            rules.into_iter().map(rule).collect()
        });
        let egress = egress.map(|rules| {
            let rule = |(to, ports)| EgressRule { to, ports };
            rules.into_iter().map(rule).collect()
        });
        Spec {
            pod_selector,
            ingress,
            egress,
            policy_types,
        }
    })
}

/// A policy whose name is that number.
pub(crate) fn any_policy(number: u8) -> impl Strategy<Value = NetworkPolicy> {
    (any_word(&NAMESPACES), any_spec()).prop_map(move |(namespace, spec)| NetworkPolicy {
        metadata: Metadata {
            name: format!("p{number}"),
            namespace,
            labels: [].into(),
            annotations: [].into(),
        },
        spec,
    })
}

/// Somebody.
pub(crate) fn any_identity() -> impl Strategy<Value = Identity> {
    let port = (any_word(&PORT_NAMES), any_protocol(), any_port_number());
    let port = port.prop_map(|(name, protocol, port)| NamedPort {
        name,
        protocol,
        port,
    });
    let labels = collection::btree_map(any_word(&KEYS), any_word(&VALUES), 0..3);
    let ports = collection::btree_set(port, 0..3);
    (any_word(&NAMESPACES), labels, ports).prop_map(|(namespace, labels, ports)| Identity {
        namespace,
        labels: labels.into_iter().collect(),
        ports,
    })
}

prop_compose! {
    /// Policies, and everybody they may be about.
    pub(crate) fn any_world()(
        policies in (0_u8..6).prop_flat_map(|count| {
            (0..count).map(any_policy).collect::<Vec<_>>()
        }),
        namespaces in collection::btree_map(
            any_word(&NAMESPACES),
            collection::btree_map(any_word(&KEYS), any_word(&VALUES), 0..3),
            0..3,
        ),
        identities in collection::btree_set(any_identity(), 1..8),
    ) -> Desired {
        let policies = policies.into_iter().map(|policy| {
            let metadata = &policy.metadata;
            ((metadata.namespace.clone(), metadata.name.clone()), Arc::new(policy))
        });
        let namespaces = namespaces.into_iter().map(|(name, labels)| {
            (name.clone(), Arc::new(Namespace { name, labels }))
        });
        Desired {
            policies: policies.collect(),
            namespaces: namespaces.collect(),
            identities: (FIRST_IDENTITY..).zip(identities.into_iter().map(Arc::new)).collect(),
            ..Desired::default()
        }
    }
}

/// A packet, its ends being those of a world or nobody in particular.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    /// Who sends it: counted through those of the world, then nobody.
    pub(crate) from: sample::Index,
    /// The sender's address.
    pub(crate) from_ip: Ipv4Addr,
    /// Who is sent it, likewise.
    pub(crate) to: sample::Index,
    /// The receiver's address.
    pub(crate) to_ip: Ipv4Addr,
    /// The protocol number.
    pub(crate) protocol: u8,
    /// The destination port.
    pub(crate) port: u16,
}

prop_compose! {
    /// A packet of a protocol with ports, or ICMP.
    pub(crate) fn any_probe()(
        from in any::<sample::Index>(),
        to in any::<sample::Index>(),
        from_ip in any_ip(),
        to_ip in any_ip(),
        protocol in sample::select(vec![1_u8, 6, 6, 17, 17, 132]),
        port in prop_oneof![any_port_number(), 79_u16..84, any::<u16>()],
    ) -> Probe {
        let port = if protocol == 1 { 0 } else { port };
        Probe { from, from_ip, to, to_ip, protocol, port }
    }
}

impl Probe {
    /// The numbers of its two ends, 0 for nobody in particular.
    pub(crate) fn numbers(&self, world: &Desired) -> (u32, u32) {
        let number = |index: sample::Index| {
            let place = index.index(world.identities.len() + 1);
            world.identities.keys().nth(place).copied().unwrap_or(0)
        };
        (number(self.from), number(self.to))
    }

    /// It as the reference sees it.
    pub(crate) fn packet<'w>(&self, world: &'w Desired) -> Packet<'w> {
        let end = |number: u32, ip: Ipv4Addr| End {
            identity: world.identities.get(&number).map(AsRef::as_ref),
            ip: ip.into(),
        };
        let (from, to) = self.numbers(world);
        Packet {
            from: end(from, self.from_ip),
            to: end(to, self.to_ip),
            protocol: self.protocol,
            port: self.port,
        }
    }
}

/// Everybody there is, each once.
pub(crate) fn subjects(world: &Desired) -> BTreeSet<Identity> {
    world
        .identities
        .values()
        .map(|it| Identity::clone(it))
        .collect()
}
