//! The policy that would allow what no policy allows.

use std::{collections::BTreeMap, net::Ipv4Addr};

use serde_json::{Value, json};

use super::{Protocol, packet::Packet};
use crate::{
    control::{census, events::names::Names},
    model::{Desired, Identity, NAMESPACE_NAME_LABEL},
    policy::{
        document::{NetworkPolicy, PolicyType},
        names::{label_key, label_value, subdomain},
        select::selects,
    },
};

/// Labels that say how a container came about rather than what it is: the keys
/// begin so.
const OF_TOOLS: [&str; 3] = ["com.docker.", "org.opencontainers.", "vxplane."];

/// The command that has a packet allowed in a direction, without anybody being
/// under policies who is not now: it selects whom one of the policies selects that
/// stand in its way. `None` where they are not known here.
pub(super) fn remedy(
    desired: &Desired,
    names: &Names,
    packet: &Packet,
    direction: PolicyType,
) -> Option<String> {
    let (subject, peer, list, side, types) = match direction {
        PolicyType::Ingress => {
            let (to, from) = (packet.destination, packet.source);
            (to, from, "ingress", "from", "Ingress")
        }
        PolicyType::Egress => {
            let (from, to) = (packet.source, packet.destination);
            (from, to, "egress", "to", "Egress")
        }
    };
    let identity = |ip| identity(desired, names, packet.vni, ip);
    let subject = identity(subject)?;
    let mut policies = desired.policies.values();
    let policy = policies.find(|policy| selects(policy, subject, direction))?;
    let namespace = &policy.metadata.namespace;
    let peer = peer_of(identity(peer), peer, namespace);
    let mut rule = json!({ side: [peer] });
    // A policy has no word for ICMP alone.
    if let Some(protocol) = match packet.protocol {
        Protocol::Tcp => Some("TCP"),
        Protocol::Udp => Some("UDP"),
        Protocol::Icmp => None,
    } {
        rule["ports"] = json!([{ "protocol": protocol, "port": packet.port }]);
    }
    let document = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": free_name(desired, policy)?, "namespace": namespace },
        "spec": {
            "podSelector": policy.spec.pod_selector,
            "policyTypes": [types],
            list: [rule],
        },
    });
    // Nothing in it has a quotation mark of that kind: labels are words.
    Some(format!("echo '{document}' | vxplane policy apply -f -"))
}

/// What whoever has an address is to policies.
fn identity<'d>(
    desired: &'d Desired,
    names: &Names,
    vni: u32,
    ip: Ipv4Addr,
) -> Option<&'d Identity> {
    let id = &names.address(vni, ip)?.id;
    let own = desired.endpoints.get(id).map(|endpoint| endpoint.identity);
    let number = own.or_else(|| Some(census::find_there(desired, id)?.identity))?;
    desired.identities.get(&number).map(AsRef::as_ref)
}

/// Whom to name: by labels if there are any to tell, else by address.
fn peer_of(identity: Option<&Identity>, ip: Ipv4Addr, home: &str) -> Value {
    let by_address = json!({ "ipBlock": { "cidr": format!("{ip}/32") } });
    let Some(identity) = identity else {
        return by_address;
    };
    let labels = telling(identity);
    if labels.is_empty() {
        return by_address;
    }
    let mut peer = json!({ "podSelector": { "matchLabels": labels } });
    if identity.namespace != home {
        let name = json!({ NAMESPACE_NAME_LABEL: identity.namespace });
        peer["namespaceSelector"] = json!({ "matchLabels": name });
    }
    peer
}

/// The labels that a policy can name and that say what something is.
fn telling(identity: &Identity) -> BTreeMap<&str, &str> {
    let labels = identity.labels.iter();
    labels
        .filter(|(key, value)| label_key(key).is_none() && label_value(value).is_none())
        .filter(|(key, _)| !OF_TOOLS.iter().any(|tool| key.starts_with(tool)))
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect()
}

/// A name beside that of `policy` which no policy has.
fn free_name(desired: &Desired, policy: &NetworkPolicy) -> Option<String> {
    let (namespace, name) = policy.key();
    let mut names = (2_u32..).map(|number| format!("{name}-{number}"));
    let is_free = |name: &String| {
        let key = (namespace.clone(), name.clone());
        !desired.policies.contains_key(&key)
    };
    let name = names.find(is_free)?;
    subdomain(&name).is_none().then_some(name)
}
