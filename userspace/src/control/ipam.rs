//! Which address an endpoint gets: pure, and only about one network.

use std::{collections::BTreeMap, net::Ipv4Addr};

use super::error::{Conflict, Error, Invalid};
use crate::model::Network;

/// The addresses in use in one network, and the endpoints that have them.
pub(super) type InUse<'a> = BTreeMap<Ipv4Addr, &'a str>;

/// Chooses an address of `network`: `explicit` or an error that says why not;
/// else `remembered` (what the same interface had before) if it is free; else
/// the lowest free one.
pub(super) fn assign(
    network: &Network,
    in_use: &InUse<'_>,
    explicit: Option<Ipv4Addr>,
    remembered: Option<Ipv4Addr>,
) -> Result<Ipv4Addr, Error> {
    if let Some(ip) = explicit {
        check_usable(network, ip)?;
        return match in_use.get(&ip) {
            None => Ok(ip),
            Some(endpoint) => {
                let endpoint = (*endpoint).to_owned();
                Err(Conflict::AddressInUse { ip, endpoint }.into())
            }
        };
    }
    if let Some(ip) = remembered
        && check_usable(network, ip).is_ok()
        && !in_use.contains_key(&ip)
    {
        return Ok(ip);
    }
    lowest_free(network, in_use).ok_or_else(|| {
        let (network, subnet) = (network.name.clone(), network.subnet);
        Conflict::NetworkFull { network, subnet }.into()
    })
}

/// Refuses addresses outside the network and those that mean something else.
pub(super) fn check_usable(network: &Network, ip: Ipv4Addr) -> Result<(), Invalid> {
    let subnet = network.subnet;
    let name = || network.name.clone();
    if !subnet.contains(ip) {
        return Err(Invalid::AddressOutside {
            ip,
            network: name(),
            subnet,
        });
    }
    let what = if ip == subnet.network() {
        "network"
    } else if ip == subnet.broadcast() {
        "broadcast"
    } else if ip == network.gateway {
        "gateway"
    } else {
        return Ok(());
    };
    Err(Invalid::AddressReserved {
        ip,
        network: name(),
        subnet,
        what,
    })
}

/// Takes as many steps as there are addresses in use before the first gap.
fn lowest_free(network: &Network, in_use: &InUse<'_>) -> Option<Ipv4Addr> {
    let first = network.subnet.network().to_bits().checked_add(1)?;
    let end = network.subnet.broadcast().to_bits();
    (first..end)
        .map(Ipv4Addr::from_bits)
        .find(|ip| *ip != network.gateway && !in_use.contains_key(ip))
}

#[cfg(test)]
mod tests {
    use ipnetwork::Ipv4Network;
    use proptest::prelude::*;
    use vxplane_common::types::Vni;

    use super::*;
    use crate::control::Kind;

    fn network(subnet: &str) -> Network {
        let subnet: Ipv4Network = subnet.parse().unwrap();
        Network {
            name: "blue".to_owned(),
            vni: Vni::new(7).unwrap(),
            subnet,
            gateway: Ipv4Addr::from_bits(subnet.network().to_bits() + 1),
            mtu: None,
            internal: false,
        }
    }

    #[test]
    fn gives_the_lowest_free_address_after_the_gateway() {
        let net = network("10.50.0.0/24");
        let mut in_use = InUse::new();
        for last in [2, 3, 4, 6] {
            in_use.insert(Ipv4Addr::new(10, 50, 0, last), "e");
        }
        let ip = assign(&net, &in_use, None, None).unwrap();
        assert_eq!(ip, Ipv4Addr::new(10, 50, 0, 5));
    }

    #[test]
    fn a_slash_30_has_one_address_to_give() {
        let net = network("10.50.0.0/30");
        let ip = assign(&net, &InUse::new(), None, None).unwrap();
        assert_eq!(ip, Ipv4Addr::new(10, 50, 0, 2));
        let full = InUse::from([(ip, "e")]);
        let error = assign(&net, &full, None, None).unwrap_err();
        assert_eq!(error.code(), "network_full");
        assert!(error.to_string().contains("10.50.0.0/30"), "{error}");
    }

    #[test]
    fn refuses_explicit_addresses_with_the_reason() {
        let net = network("10.50.0.0/24");
        let taken = Ipv4Addr::new(10, 50, 0, 9);
        let in_use = InUse::from([(taken, "0123456789ab")]);
        for (ip, kind, reason) in [
            ("10.50.0.0", Kind::Invalid, "network address"),
            ("10.50.0.1", Kind::Invalid, "gateway address"),
            ("10.50.0.255", Kind::Invalid, "broadcast address"),
            ("10.51.0.1", Kind::Invalid, "not in network blue"),
            ("10.50.0.9", Kind::Conflict, "endpoint 0123456789ab"),
        ] {
            let error = assign(&net, &in_use, Some(ip.parse().unwrap()), None).unwrap_err();
            assert_eq!(error.kind(), kind, "{ip}");
            assert!(error.to_string().contains(reason), "{ip}: {error}");
        }
    }

    #[test]
    fn remembered_addresses_are_given_back_unless_somebody_has_them() {
        let net = network("10.50.0.0/24");
        let old = Ipv4Addr::new(10, 50, 0, 77);
        assert_eq!(assign(&net, &InUse::new(), None, Some(old)).unwrap(), old);
        let taken = InUse::from([(old, "e")]);
        let ip = assign(&net, &taken, None, Some(old)).unwrap();
        assert_eq!(ip, Ipv4Addr::new(10, 50, 0, 2));
        let foreign = Some(Ipv4Addr::new(192, 0, 2, 1));
        let ip = assign(&net, &InUse::new(), None, foreign).unwrap();
        assert_eq!(ip, Ipv4Addr::new(10, 50, 0, 2));
    }

    proptest! {
        /// Filling a network gives every usable address once, in order, then
        /// says that it is full.
        #[test]
        fn fills_a_network_exactly(prefix in 24u8..=30, gateway_offset in 1u32..64) {
            let mut net = network(&format!("10.50.0.0/{prefix}"));
            let size = net.subnet.size();
            let base = net.subnet.network().to_bits();
            net.gateway = Ipv4Addr::from_bits(base + 1 + gateway_offset % (size - 2));
            let mut in_use = InUse::new();
            let mut last = net.subnet.network();
            for _ in 0..size - 3 {
                let ip = assign(&net, &in_use, None, None).unwrap();
                prop_assert!(ip > last && net.subnet.contains(ip));
                prop_assert!(ip != net.gateway && ip != net.subnet.broadcast());
                last = ip;
                prop_assert!(in_use.insert(ip, "e").is_none());
            }
            let error = assign(&net, &in_use, None, None).unwrap_err();
            prop_assert_eq!(error.code(), "network_full");
        }

        /// Whatever is asked for, what is given is usable and free.
        #[test]
        fn never_gives_what_it_must_not(
            used in proptest::collection::btree_set(0u32..256, 0..256),
            explicit in proptest::option::of(0u32..300),
            remembered in proptest::option::of(0u32..300),
        ) {
            let net = network("10.50.0.0/24");
            let base = net.subnet.network().to_bits();
            let at = |offset: u32| Ipv4Addr::from_bits(base + offset);
            let in_use: InUse<'_> = used.iter().map(|offset| (at(*offset), "e")).collect();
            match assign(&net, &in_use, explicit.map(at), remembered.map(at)) {
                Ok(ip) => {
                    prop_assert!(net.subnet.contains(ip) && !in_use.contains_key(&ip));
                    prop_assert!(ip != net.subnet.network() && ip != net.subnet.broadcast());
                    prop_assert!(ip != net.gateway);
                    prop_assert!(explicit.is_none_or(|offset| at(offset) == ip));
                }
                Err(error) => {
                    let full = (2..255).all(|offset| in_use.contains_key(&at(offset)));
                    prop_assert!(explicit.is_some() || full, "{}", error);
                }
            }
        }
    }
}
