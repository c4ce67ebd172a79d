//! Subnets and VNIs for networks whose creator named none: pure.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnetwork::Ipv4Network;
use sha2::{Digest, Sha256};
use vxplane_common::types::Vni;

/// The first /24 of 10.50.0.0/16, 10.51.0.0/16 … 10.255.0.0/16 that overlaps
/// none of `taken` (the host's routes and the other networks). Within each /16
/// all 256 are tried.
pub(super) fn subnet(taken: &[Ipv4Network]) -> Option<Ipv4Network> {
    // A default route covers everything and says nothing about what is used.
    let taken: Vec<_> = taken.iter().filter(|net| net.prefix() > 0).collect();
    (50..=255)
        .flat_map(|second| (0..=255).map(move |third| Ipv4Addr::new(10, second, third, 0)))
        .filter_map(|base| Ipv4Network::new(base, 24).ok())
        .find(|candidate| !taken.iter().any(|net| net.overlaps(*candidate)))
}

/// A VNI derived from the network's name, so that hosts that know nothing of
/// each other agree on it; the next free one where that is in use here.
pub(super) fn vni(name: &str, in_use: &BTreeSet<Vni>) -> Option<Vni> {
    let digest = Sha256::digest(name.as_bytes());
    let hash = u32::from_be_bytes([0, digest[0], digest[1], digest[2]]);
    (0..=Vni::MAX)
        .filter_map(|step| Vni::new((hash + step) & Vni::MAX))
        .find(|vni| !in_use.contains(vni))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<Ipv4Network> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn subnets_avoid_routes_and_networks_but_not_the_default_route() {
        for (taken, expected) in [
            (nets(&[]), Some("10.50.0.0/24")),
            (nets(&["0.0.0.0/0"]), Some("10.50.0.0/24")),
            (nets(&["10.50.0.0/24"]), Some("10.50.1.0/24")),
            (
                nets(&["10.50.0.0/16", "10.51.0.7/32"]),
                Some("10.51.1.0/24"),
            ),
            (nets(&["10.0.0.0/9"]), Some("10.128.0.0/24")),
            (nets(&["10.0.0.0/8"]), None),
        ] {
            let expected: Option<Ipv4Network> = expected.map(|net| net.parse().unwrap());
            assert_eq!(subnet(&taken), expected, "{taken:?}");
        }
    }

    #[test]
    fn vnis_depend_on_the_name_only_and_move_on_when_taken() {
        let first = vni("blue", &BTreeSet::new()).unwrap();
        assert_eq!(vni("blue", &BTreeSet::new()), Some(first));
        assert_ne!(vni("green", &BTreeSet::new()), Some(first));
        let next = vni("blue", &BTreeSet::from([first])).unwrap();
        assert_eq!(next.get(), first.get() % Vni::MAX + 1);
    }
}
