//! Which address an endpoint gets: pure, and only about one network.

use std::{collections::HashMap, fmt::Display, net::Ipv4Addr};

use sha2::{Digest, Sha256};

use super::error::{Conflict, Error, Invalid};
use crate::model::Network;

/// What an endpoint may have by way of an address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim<'a> {
    /// This one or none.
    pub(super) explicit: Option<Ipv4Addr>,
    /// What the same interface had before.
    pub(super) remembered: Option<Ipv4Addr>,
    /// The endpoint's ID.
    pub(super) endpoint: &'a str,
    /// How often others have been faster to take what was chosen.
    pub(super) attempt: u32,
}

/// Chooses an address of `network`, given who has which: the explicit one or an
/// error that says why not; else the remembered one if it is free; else the
/// lowest free one, or after a lost race one of the lowest, so that nodes that
/// choose at the same time do not go on choosing the same.
pub(super) fn assign<W: Display>(
    network: &Network,
    in_use: &HashMap<Ipv4Addr, W>,
    claim: Claim<'_>,
) -> Result<Ipv4Addr, Error> {
    if let Some(ip) = claim.explicit {
        check_usable(network, ip)?;
        return match in_use.get(&ip) {
            None => Ok(ip),
            Some(occupant) => {
                let endpoint = occupant.to_string();
                Err(Conflict::AddressInUse { ip, endpoint }.into())
            }
        };
    }
    if let Some(ip) = claim.remembered
        && check_usable(network, ip).is_ok()
        && !in_use.contains_key(&ip)
    {
        return Ok(ip);
    }
    let lowest = free(network, in_use).take(window(claim.attempt));
    let candidates: Vec<_> = lowest.collect();
    let at = spread(claim.endpoint, claim.attempt).checked_rem(candidates.len());
    let chosen = at.and_then(|at| candidates.get(at).copied());
    chosen.ok_or_else(|| {
        let (network, subnet) = (network.name.clone(), network.subnet);
        Conflict::NetworkFull { network, subnet }.into()
    })
}

/// Races for the lowest address that an endpoint loses before it tries others: a few
/// hosts that start containers at the same time fill the subnet from below.
const RACES_FOR_THE_LOWEST: u32 = 3;

/// How many addresses are chosen from: after the first races twice as many after
/// each one, up to four for each of a thousand nodes.
fn window(attempt: u32) -> usize {
    match attempt.checked_sub(RACES_FOR_THE_LOWEST) {
        None | Some(0) => 1,
        Some(more) => 8 << more.min(9),
    }
}

/// A number that differs between endpoints, and from attempt to attempt.
fn spread(endpoint: &str, attempt: u32) -> usize {
    let digest = Sha256::digest(format!("{endpoint}/{attempt}").as_bytes());
    usize::from(u16::from_be_bytes([digest[0], digest[1]]))
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

/// The free addresses in order. The first takes as many steps to find as there
/// are addresses in use before it.
fn free<W>(network: &Network, in_use: &HashMap<Ipv4Addr, W>) -> impl Iterator<Item = Ipv4Addr> {
    let first = network.subnet.network().to_bits().saturating_add(1);
    let end = network.subnet.broadcast().to_bits();
    (first..end)
        .map(Ipv4Addr::from_bits)
        .filter(|ip| *ip != network.gateway && !in_use.contains_key(ip))
}

#[cfg(test)]
mod tests {
    use ipnetwork::Ipv4Network;
    use proptest::prelude::*;
    use vxplane_common::types::Vni;

    use super::*;
    use crate::control::Kind;

    type InUse<'a> = HashMap<Ipv4Addr, &'a str>;

    fn claim(explicit: Option<Ipv4Addr>, remembered: Option<Ipv4Addr>) -> Claim<'static> {
        Claim {
            explicit,
            remembered,
            endpoint: "0123456789ab",
            attempt: 0,
        }
    }

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
        let ip = assign(&net, &in_use, claim(None, None)).unwrap();
        assert_eq!(ip, Ipv4Addr::new(10, 50, 0, 5));
    }

    #[test]
    fn a_slash_30_has_one_address_to_give() {
        let net = network("10.50.0.0/30");
        let ip = assign(&net, &InUse::new(), claim(None, None)).unwrap();
        assert_eq!(ip, Ipv4Addr::new(10, 50, 0, 2));
        let full = InUse::from([(ip, "e")]);
        let error = assign(&net, &full, claim(None, None)).unwrap_err();
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
            let error = assign(&net, &in_use, claim(Some(ip.parse().unwrap()), None)).unwrap_err();
            assert_eq!(error.kind(), kind, "{ip}");
            assert!(error.to_string().contains(reason), "{ip}: {error}");
        }
    }

    #[test]
    fn remembered_addresses_are_given_back_unless_somebody_has_them() {
        let net = network("10.50.0.0/24");
        let old = Ipv4Addr::new(10, 50, 0, 77);
        assert_eq!(
            assign(&net, &InUse::new(), claim(None, Some(old))).unwrap(),
            old
        );
        let taken = InUse::from([(old, "e")]);
        let ip = assign(&net, &taken, claim(None, Some(old))).unwrap();
        assert_eq!(ip, Ipv4Addr::new(10, 50, 0, 2));
        let foreign = Some(Ipv4Addr::new(192, 0, 2, 1));
        let ip = assign(&net, &InUse::new(), claim(None, foreign)).unwrap();
        assert_eq!(ip, Ipv4Addr::new(10, 50, 0, 2));
    }

    #[test]
    fn nodes_that_choose_at_the_same_time_soon_choose_differently() {
        let net = network("10.50.0.0/16");
        let mut in_use = InUse::new();
        let mut nodes: Vec<_> = (0..1000).map(|node| format!("{node:012x}")).collect();
        let mut attempt = 0;
        while !nodes.is_empty() {
            let before = in_use.clone();
            nodes.retain(|endpoint| {
                let claim = Claim {
                    endpoint,
                    attempt,
                    ..claim(None, None)
                };
                let ip = assign(&net, &before, claim).unwrap();
                in_use.insert(ip, "e").is_some()
            });
            attempt += 1;
        }
        assert!(attempt < 20, "{attempt} rounds");
        assert!(
            in_use.keys().all(|ip| ip.octets()[2] < 20),
            "addresses stay close"
        );
    }

    #[test]
    fn the_last_address_is_found_however_often_others_were_faster() {
        let net = network("10.50.0.0/30");
        let claim = Claim {
            attempt: 7,
            ..claim(None, None)
        };
        let ip = assign(&net, &InUse::new(), claim).unwrap();
        assert_eq!(ip, Ipv4Addr::new(10, 50, 0, 2));
        let full = InUse::from([(ip, "e")]);
        assert_eq!(
            assign(&net, &full, claim).unwrap_err().code(),
            "network_full"
        );
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
                let ip = assign(&net, &in_use, claim(None, None)).unwrap();
                prop_assert!(ip > last && net.subnet.contains(ip));
                prop_assert!(ip != net.gateway && ip != net.subnet.broadcast());
                last = ip;
                prop_assert!(in_use.insert(ip, "e").is_none());
            }
            let error = assign(&net, &in_use, claim(None, None)).unwrap_err();
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
            match assign(&net, &in_use, claim(explicit.map(at), remembered.map(at))) {
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
