//! Objects as JSON, and what of it is believed: only what fits its key and what
//! a user of this version could have made.

use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

use super::keys::ObjectKey;
use crate::{
    control::stored::{
        check_endpoint, check_identity, check_namespace, check_network, check_policy,
        check_stored_peer,
    },
    model::{EndpointRecord, Identity, Namespace, Network, Node, Peer},
    policy::document::NetworkPolicy,
};

/// The largest value that is looked at, in bytes: what users can make is smaller.
const VALUE_MAX: usize = 512 * 1024;
/// The longest instance ID, version or capability, in bytes.
const WORD_MAX: usize = 100;
/// Capabilities that one node can have.
const CAPABILITIES_MAX: usize = 64;

/// An object that holds up by itself. Copies share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// A network.
    Network(Arc<Network>),
    /// An endpoint.
    Endpoint(Arc<EndpointRecord>),
    /// A foreign VTEP.
    Peer(Arc<Peer>),
    /// A node.
    Node(Arc<Node>),
    /// A policy.
    Policy(Arc<NetworkPolicy>),
    /// A namespace.
    Namespace(Arc<Namespace>),
    /// An identity and its number.
    Identity(u32, Arc<Identity>),
}

impl Record {
    /// As it is stored.
    pub(super) fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        match self {
            Self::Network(network) => encode(network),
            Self::Endpoint(endpoint) => encode(endpoint),
            Self::Peer(peer) => encode(peer),
            Self::Node(node) => encode(node),
            Self::Policy(policy) => encode(policy),
            Self::Namespace(namespace) => encode(namespace),
            Self::Identity(_, identity) => encode(identity),
        }
    }
}

/// As it is stored.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(value)
}

/// The object at `key`, or what is wrong with it.
pub(super) fn decode(key: &ObjectKey, value: &[u8]) -> Result<Record, String> {
    if value.len() > VALUE_MAX {
        return Err(format!("it has {} bytes", value.len()));
    }
    match key {
        ObjectKey::Network(name) => {
            let network: Network = json(value)?;
            same(name, &network.name)?;
            check_network(&network).map_err(|error| error.to_string())?;
            Ok(Record::Network(Arc::new(network)))
        }
        ObjectKey::Endpoint(id) => {
            let record: EndpointRecord = json(value)?;
            same(id, &record.id)?;
            check_id(id)?;
            check_word("its node", &record.node)?;
            check_endpoint(&record).map_err(|error| error.to_string())?;
            Ok(Record::Endpoint(Arc::new(record)))
        }
        ObjectKey::Peer(ip) => {
            let peer: Peer = json(value)?;
            same(&ip.to_string(), &peer.ip.to_string())?;
            check_stored_peer(&peer).map_err(|error| error.to_string())?;
            Ok(Record::Peer(Arc::new(peer)))
        }
        ObjectKey::Node(name) => {
            let node: Node = json(value)?;
            same(name, &node.name)?;
            check_node(&node)?;
            Ok(Record::Node(Arc::new(node)))
        }
        ObjectKey::Policy(namespace, name) => {
            let policy: NetworkPolicy = json(value)?;
            same(namespace, &policy.metadata.namespace)?;
            same(name, &policy.metadata.name)?;
            check_policy(&policy).map_err(|error| error.to_string())?;
            Ok(Record::Policy(Arc::new(policy)))
        }
        ObjectKey::Namespace(name) => {
            let namespace: Namespace = json(value)?;
            same(name, &namespace.name)?;
            check_namespace(&namespace).map_err(|error| error.to_string())?;
            Ok(Record::Namespace(Arc::new(namespace)))
        }
        ObjectKey::Identity(number) => {
            let identity: Identity = json(value)?;
            check_identity(*number, &identity).map_err(|error| error.to_string())?;
            Ok(Record::Identity(*number, Arc::new(identity)))
        }
    }
}

fn json<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| format!("it cannot be read: {error}"))
}

fn same(key: &str, content: &str) -> Result<(), String> {
    if key == content {
        return Ok(());
    }
    Err(format!("what stands there is that of {content:?}"))
}

fn check_id(id: &str) -> Result<(), String> {
    let hex = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if id.len() == 12 && id.bytes().all(hex) {
        return Ok(());
    }
    Err("its ID is not 12 hex digits".to_owned())
}

fn check_word(what: &str, word: &str) -> Result<(), String> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == '/';
    if word.is_empty() || word.contains(odd) {
        return Err(format!(
            "{what}, {word:?}, is empty or has odd characters in it"
        ));
    }
    Ok(())
}

fn check_node(node: &Node) -> Result<(), String> {
    let peer = Peer {
        ip: node.vtep,
        networks: crate::model::PeerNetworks::All,
    };
    check_stored_peer(&peer).map_err(|_| format!("{} is no VTEP address", node.vtep))?;
    check_word("its name", &node.name)?;
    if node.port == 0 {
        return Err("its port is 0".to_owned());
    }
    let words = [&node.instance, &node.version];
    let mut words = words.into_iter().chain(&node.capabilities);
    if words.any(|word| word.len() > WORD_MAX) || node.capabilities.len() > CAPABILITIES_MAX {
        return Err("it says too much about itself".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn node() -> Node {
        Node {
            name: "n1".to_owned(),
            instance: "i".to_owned(),
            vtep: Ipv4Addr::new(192, 0, 2, 1),
            mtu: 1500,
            port: 4789,
            version: "0.1.0".to_owned(),
            capabilities: ["x".to_owned()].into(),
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let value = encode(&Network::sample()).unwrap();
        let key = ObjectKey::Network("blue".into());
        assert_eq!(
            decode(&key, &value),
            Ok(Record::Network(Network::sample().into()))
        );
        let value = encode(&node()).unwrap();
        let key = ObjectKey::Node("n1".into());
        assert_eq!(decode(&key, &value), Ok(Record::Node(node().into())));
    }

    #[test]
    fn what_does_not_fit_its_key_is_refused() {
        let value = encode(&Network::sample()).unwrap();
        let key = ObjectKey::Network("green".into());
        let reason = decode(&key, &value).unwrap_err();
        assert!(reason.contains("blue"), "{reason}");
        let key = ObjectKey::Node("blue".into());
        assert!(decode(&key, &value).is_err());
    }

    #[test]
    fn what_no_user_could_have_made_is_refused() {
        let spoils: [fn(&mut Node); 4] = [
            |it| it.vtep = Ipv4Addr::LOCALHOST,
            |it| it.port = 0,
            |it| it.version = "v".repeat(WORD_MAX + 1),
            |it| it.capabilities = (0..65).map(|n| n.to_string()).collect(),
        ];
        for spoil in spoils {
            let mut node = node();
            spoil(&mut node);
            let value = encode(&node).unwrap();
            let key = ObjectKey::Node("n1".into());
            assert!(decode(&key, &value).is_err(), "{node:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_object_or_refused(value in proptest::collection::vec(any::<u8>(), 0..200), key in 0u8..7) {
            let key = match key {
                0 => ObjectKey::Network("a".into()),
                1 => ObjectKey::Endpoint("0123456789ab".into()),
                2 => ObjectKey::Peer(Ipv4Addr::new(192, 0, 2, 1)),
                3 => ObjectKey::Policy("default".into(), "a".into()),
                4 => ObjectKey::Namespace("a".into()),
                5 => ObjectKey::Identity(300),
                _ => ObjectKey::Node("a".into()),
            };
            let _ = decode(&key, &value);
        }
    }
}
