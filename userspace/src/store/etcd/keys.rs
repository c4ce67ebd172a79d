//! Where in etcd what is.
//!
//! ```text
//! <prefix>/v1/meta                          schema
//! <prefix>/v1/objects/networks/<name>       watched, as all objects are
//! <prefix>/v1/objects/endpoints/<id>
//! <prefix>/v1/objects/peers/<ip>
//! <prefix>/v1/objects/nodes/<name>          as long as its lease lives
//! <prefix>/v1/objects/policies/<namespace>/<name>
//! <prefix>/v1/objects/namespaces/<name>
//! <prefix>/v1/objects/identities/<number>
//! <prefix>/v1/claims/<network>/ip/<ip>      whose it is; only ever compared
//! <prefix>/v1/claims/<network>/mac/<mac>
//! <prefix>/v1/uses/<number>/<endpoint>      an identity that is in use; likewise
//! <prefix>/v1/questions/<node>/<id>         to that node, for seconds
//! <prefix>/v1/answers/<id>
//! ```

use std::{collections::BTreeSet, fmt, net::Ipv4Addr};

use vxplane_common::types::MacAddr;

use crate::model::{EndpointRecord, Word};

/// The longest key that is looked at, in bytes after the prefix.
const KEY_MAX: usize = 600;

/// The keys below one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keys {
    root: String,
}

/// The key of an object, without the prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ObjectKey {
    /// A network, by name.
    Network(Word),
    /// An endpoint, by ID.
    Endpoint(Word),
    /// A foreign VTEP, by address.
    Peer(Ipv4Addr),
    /// A node, by name.
    Node(Word),
    /// A policy, by namespace and name.
    Policy(Word, Word),
    /// A namespace with labels, by name.
    Namespace(Word),
    /// An identity, by number.
    Identity(u32),
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(name) => write!(f, "networks/{name}"),
            Self::Endpoint(id) => write!(f, "endpoints/{id}"),
            Self::Peer(ip) => write!(f, "peers/{ip}"),
            Self::Node(name) => write!(f, "nodes/{name}"),
            Self::Policy(namespace, name) => write!(f, "policies/{namespace}/{name}"),
            Self::Namespace(name) => write!(f, "namespaces/{name}"),
            Self::Identity(number) => write!(f, "identities/{number}"),
        }
    }
}

impl ObjectKey {
    /// What [`fmt::Display`] wrote; `None` for anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once('/')?;
        let (namespace, name) = match kind {
            "policies" => name.split_once('/')?,
            _ => ("-", name),
        };
        let odd = |text: &str| text.is_empty() || text.contains('/');
        if odd(namespace) || odd(name) || text.len() > KEY_MAX {
            return None;
        }
        match kind {
            "networks" => Some(Self::Network(name.into())),
            "endpoints" => Some(Self::Endpoint(name.into())),
            // An address has one spelling only, so the key has as well.
            "peers" => Some(Self::Peer(name.parse().ok()?)),
            "nodes" => Some(Self::Node(name.into())),
            "policies" => Some(Self::Policy(namespace.into(), name.into())),
            "namespaces" => Some(Self::Namespace(name.into())),
            // Likewise.
            "identities" => {
                let number: u32 = name.parse().ok()?;
                (number.to_string() == name).then_some(Self::Identity(number))
            }
            _ => None,
        }
    }
}

impl Keys {
    /// All keys below `prefix`, which starts with `/` and does not end with it.
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            root: format!("{prefix}/v1/"),
        }
    }

    /// The schema that the others have.
    pub(super) fn meta(&self) -> String {
        format!("{}meta", self.root)
    }

    /// What all objects' keys start with.
    pub(super) fn objects(&self) -> String {
        format!("{}objects/", self.root)
    }

    /// What all networks' keys start with.
    pub(super) fn networks(&self) -> String {
        format!("{}objects/networks/", self.root)
    }

    /// What all foreign VTEPs' keys start with.
    pub(super) fn peers(&self) -> String {
        format!("{}objects/peers/", self.root)
    }

    /// One object.
    pub(super) fn object(&self, key: &ObjectKey) -> String {
        format!("{}objects/{key}", self.root)
    }

    /// What the keys of all claims in one network start with.
    pub(super) fn claims(&self, network: &str) -> String {
        format!("{}claims/{network}/", self.root)
    }

    /// All that an endpoint has a claim to.
    pub(super) fn claims_of(&self, record: &EndpointRecord) -> BTreeSet<String> {
        let network = &record.network;
        let ip = self.ip_claim(network, record.ip);
        let mac = self.mac_claim(network, record.mac);
        [ip, mac].into()
    }

    /// Who has this address of this network.
    fn ip_claim(&self, network: &str, ip: Ipv4Addr) -> String {
        format!("{}claims/{network}/ip/{ip}", self.root)
    }

    /// Who has this MAC address in this network.
    fn mac_claim(&self, network: &str, mac: MacAddr) -> String {
        format!("{}claims/{network}/mac/{mac}", self.root)
    }

    /// What the keys of all uses of an identity start with.
    pub(super) fn uses(&self, identity: u32) -> String {
        format!("{}uses/{identity}/", self.root)
    }

    /// That this endpoint has that identity.
    pub(super) fn used_by(&self, identity: u32, endpoint: &str) -> String {
        format!("{}uses/{identity}/{endpoint}", self.root)
    }

    /// What the keys of all questions to a node start with.
    pub(super) fn questions(&self, node: &str) -> String {
        format!("{}questions/{node}/", self.root)
    }

    /// One question to a node.
    pub(super) fn question(&self, node: &str, id: &str) -> String {
        format!("{}questions/{node}/{id}", self.root)
    }

    /// The answer to that question.
    pub(super) fn answer(&self, id: &str) -> String {
        format!("{}answers/{id}", self.root)
    }

    /// The object's key without what all objects' keys start with; `None` for a
    /// key of something else.
    pub(super) fn object_part<'a>(&self, key: &'a [u8]) -> Option<&'a [u8]> {
        key.strip_prefix(self.root.as_bytes())?
            .strip_prefix(b"objects/")
    }
}

/// The end of the range of all keys that start with `prefix`.
pub(super) fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // No key is larger than all of those: to the end of all keys.
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        let keys = Keys::new("/vxplane");
        for object in [
            ObjectKey::Network("blue".into()),
            ObjectKey::Endpoint("0123456789ab".into()),
            ObjectKey::Peer(Ipv4Addr::new(192, 0, 2, 1)),
            ObjectKey::Node("host-1.example".into()),
            ObjectKey::Policy("shop".into(), "web.allow".into()),
            ObjectKey::Namespace("shop".into()),
            ObjectKey::Identity(300),
        ] {
            let key = keys.object(&object);
            let part = keys.object_part(key.as_bytes()).unwrap();
            let text = std::str::from_utf8(part).unwrap();
            assert_eq!(ObjectKey::parse(text), Some(object));
        }
    }

    #[test]
    fn anything_else_is_none() {
        let long = format!("nodes/{}", "n".repeat(KEY_MAX));
        for text in [
            "",
            "networks",
            "networks/",
            "networks/a/b",
            "peers/x",
            "routes/a",
            "peers/192.0.2.01",
            "policies/a",
            "policies/a/",
            "policies//a",
            "policies/a/b/c",
            "identities/x",
            "identities/0300",
            "identities/+300",
            "identities/4294967296",
            &long,
        ] {
            assert_eq!(ObjectKey::parse(text), None, "{text}");
        }
        let keys = Keys::new("/vxplane");
        assert_eq!(keys.object_part(b"/vxplane/v1/meta"), None);
        assert_eq!(keys.object_part(b"/other/v1/objects/networks/a"), None);
    }

    #[test]
    fn a_range_ends_behind_its_last_key() {
        assert_eq!(range_end("/a/"), b"/a0");
        assert_eq!(range_end("/a\u{7f}"), b"/a\x80");
    }
}
