//! Identities: which one an endpoint has, and which number that one has. Pure.

use std::{collections::BTreeSet, sync::Arc};

use imbl::OrdMap;
use sha2::{Digest, Sha256};

use crate::{
    docker::labels::PAIR,
    model::{Identity, Labels, NamedPort},
    policy::document::Protocol,
};

/// The start of the key of a label that names a port: `vxplane.port.NAME`.
pub const PORT_LABEL: &str = "vxplane.port.";

/// The numbers that identities have, as long as there are enough of them: those
/// below are left for identities with a meaning of their own, and those above do
/// not fit VXLAN's group policy extension.
const COMMON: std::ops::Range<u32> = 256..65_536;
/// The numbers of all others: as many bits as a VNI has.
const FURTHER: std::ops::Range<u32> = 65_536..16_777_216;

/// Whether an identity can have that number.
pub fn is_number(number: u32) -> bool {
    COMMON.contains(&number) || FURTHER.contains(&number)
}

/// The number of `identity` where `taken` have theirs: its own, or else one that
/// nobody has. It is sought from a number that depends on the identity alone, so
/// that hosts without a shared store mostly agree. `None` if all are taken.
pub fn number_of(identity: &Identity, taken: &OrdMap<u32, Arc<Identity>>) -> Option<u32> {
    let hash = hash(identity);
    let is_for_it = |number: &u32| taken.get(number).is_none_or(|it| **it == *identity);
    let from = |numbers: std::ops::Range<u32>| {
        let (start, length) = (numbers.start, numbers.end - numbers.start);
        let first = hash % length;
        (first..length).chain(0..first).map(move |it| start + it)
    };
    from(COMMON).chain(from(FURTHER)).find(is_for_it)
}

fn hash(identity: &Identity) -> u32 {
    let mut digest = Sha256::new();
    // Each text with its length, so that no two identities are one.
    let mut add = |text: &str| {
        digest.update(text.len().to_be_bytes());
        digest.update(text);
    };
    add(&identity.namespace);
    for (key, value) in &identity.labels {
        add(key);
        add(value);
    }
    for port in &identity.ports {
        add(&port.name);
        add(&format!("{}/{}", port.port, port.protocol.number()));
    }
    let digest = digest.finalize();
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// The identity of an endpoint with these labels. Ports that have names by other
/// means than labels are `exposed`; what a label says comes first.
pub fn of(namespace: &str, labels: &Labels, exposed: &BTreeSet<NamedPort>) -> Identity {
    let mut ports = labelled_ports(labels);
    let names: BTreeSet<_> = ports.iter().map(|port| port.name.clone()).collect();
    let others = exposed.iter().filter(|port| !names.contains(&port.name));
    ports.extend(others.cloned());
    Identity {
        namespace: namespace.to_owned(),
        labels: telling(labels)
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        ports,
    }
}

/// The labels that say something about an endpoint. Another one, different on each,
/// only says which of Docker's containers belong together.
fn telling(labels: &Labels) -> impl Iterator<Item = (&str, &str)> {
    labels.iter().filter(|(key, _)| *key != PAIR)
}

/// Whether this can be the identity of an endpoint with these labels. Only the
/// names of its ports are not told by them alone.
pub fn fits(identity: &Identity, namespace: &str, labels: &Labels) -> bool {
    let owned = identity.labels.iter();
    let same = owned.map(|(key, value)| (key.as_str(), value.as_str()));
    identity.namespace == namespace && same.eq(telling(labels))
}

/// The ports of `identity` that have their names by other means than labels.
pub fn exposed_ports(identity: &Identity) -> BTreeSet<NamedPort> {
    let labels: Labels = identity.labels.clone().into();
    let labelled = labelled_ports(&labels);
    identity.ports.difference(&labelled).cloned().collect()
}

/// The ports that labels name. What is none is left out; see [`parse_port`].
fn labelled_ports(labels: &Labels) -> BTreeSet<NamedPort> {
    let ports = labels.iter().filter_map(|(key, value)| {
        let name = key.strip_prefix(PORT_LABEL)?;
        parse_port(name, value).ok()
    });
    ports.collect()
}

/// What the label `vxplane.port.NAME=PORT[/PROTOCOL]` says, or what is wrong with
/// it.
pub fn parse_port(name: &str, value: &str) -> Result<NamedPort, &'static str> {
    if let Some(wrong) = crate::policy::names::port_name(name) {
        return Err(wrong);
    }
    let (port, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err("its protocol must be tcp, udp or sctp"),
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(port) if digits && port != 0 => Ok(NamedPort {
            name: name.to_owned(),
            protocol,
            port,
        }),
        _ => Err("its value must be a port from 1 to 65535, with /udp or /sctp if it is not TCP's"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity(app: &str) -> Identity {
        let labels: Labels = [("app", app)].into_iter().collect();
        of("default", &labels, &BTreeSet::new())
    }

    fn port(name: &str, port: u16) -> NamedPort {
        NamedPort {
            name: name.to_owned(),
            protocol: Protocol::Tcp,
            port,
        }
    }

    #[test]
    fn hosts_that_know_nothing_of_each_other_agree() {
        let none = OrdMap::new();
        let number = number_of(&identity("web"), &none).unwrap();
        assert!(COMMON.contains(&number));
        assert_ne!(number_of(&identity("db"), &none), Some(number));
        // It is what other versions must find too.
        assert_eq!(number, 63109);
    }

    #[test]
    fn when_few_bits_are_not_enough_there_are_more() {
        let other = Arc::new(identity("other"));
        let mut taken: OrdMap<_, _> = COMMON.map(|number| (number, Arc::clone(&other))).collect();
        let number = number_of(&identity("web"), &taken).unwrap();
        assert!(FURTHER.contains(&number));
        taken.insert(number, Arc::clone(&other));
        assert_eq!(number_of(&identity("web"), &taken), Some(number + 1));
    }

    #[test]
    fn labels_name_ports_and_come_before_what_is_exposed() {
        let labels: Labels = [
            ("vxplane.port.http", "8080"),
            ("vxplane.port.dns", "53/udp"),
            ("vxplane.port.odd", "x"),
            ("app", "web"),
            (PAIR, "0123456789ab"),
        ]
        .into_iter()
        .collect();
        let exposed = [port("http", 80), port("https", 443)].into();
        let identity = of("shop", &labels, &exposed);
        let named: Vec<_> = identity
            .ports
            .iter()
            .map(|it| (&*it.name, it.port))
            .collect();
        assert_eq!(named, [("dns", 53), ("http", 8080), ("https", 443)]);
        assert_eq!(exposed_ports(&identity), [port("https", 443)].into());
        assert!(!identity.labels.contains_key(PAIR));
        assert!(fits(&identity, "shop", &labels) && !fits(&identity, "other", &labels));
        let fewer: Labels = [("app", "web")].into_iter().collect();
        assert!(!fits(&identity, "shop", &fewer));
    }

    #[test]
    fn what_is_no_named_port_is_said_to_be_none() {
        for (name, value) in [
            ("http", ""),
            ("http", "0"),
            ("http", "65536"),
            ("http", "+80"),
            ("http", "80/icmp"),
            ("http", "80/"),
            ("80", "80"),
            ("Web", "80"),
            ("", "80"),
        ] {
            assert!(parse_port(name, value).is_err(), "{name}={value}");
        }
        assert_eq!(
            parse_port("web", "80/SCTP").unwrap().protocol,
            Protocol::Sctp
        );
    }

    proptest! {
        /// However identities come and go, no number means two things at once, and
        /// whoever has a number keeps it.
        #[test]
        fn a_number_means_one_thing(steps in proptest::collection::vec((0u8..40, any::<bool>()), 0..200)) {
            let mut taken: OrdMap<u32, Arc<Identity>> = OrdMap::new();
            for (app, gone) in steps {
                let identity = identity(&app.to_string());
                let number = number_of(&identity, &taken).unwrap();
                prop_assert!(is_number(number));
                if gone {
                    taken.remove(&number);
                } else {
                    let before = taken.insert(number, Arc::new(identity.clone()));
                    prop_assert!(before.is_none_or(|before| *before == identity));
                }
            }
        }
    }
}
