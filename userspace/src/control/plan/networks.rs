//! Networks: made where nothing contradicts, removed where nobody is in them.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnetwork::Ipv4Network;
use vxplane_common::{
    abi::{MAX_NETWORKS, OVERHEAD_IPV4},
    types::Vni,
};

use super::{Basis, Plan, find_network};
use crate::{
    control::{
        census::{self, Occupant},
        choose,
        error::{Conflict, Error, Invalid},
        spec::{NetworkSpec, check_gateway, name_of_subnet},
    },
    model::{Network, Peer, PeerNetworks},
    reconcile::Underlay,
    store::Change,
};

/// How many endpoints are named as the reason why a network stays.
const NAMED: usize = 5;

/// How many peers are shut out of a network in one transaction, which stores bound.
const PEERS_AT_ONCE: usize = 32;

/// Finds the network of `spec.name`, or makes one: with a free subnet that
/// overlaps none of `routes`, and a free VNI, where none are given.
pub(crate) fn network(
    basis: Basis<'_>,
    spec: &NetworkSpec,
    routes: &[Ipv4Network],
    underlay: Option<&Underlay>,
) -> Result<Plan<Network>, Error> {
    spec.check()?;
    check_mtu(spec.mtu, underlay)?;
    let networks = &basis.desired().networks;
    if let Some(existing) = networks.get(&spec.name) {
        check_same_network(existing, spec)?;
        return Ok(Plan::existing(existing.clone(), Vec::new()));
    }
    if networks.len() >= MAX_NETWORKS as usize {
        return Err(Conflict::TooManyNetworks(networks.len()).into());
    }
    let subnet = if let Some(subnet) = spec.subnet {
        check_free(subnet, networks)?
    } else {
        let mut taken: Vec<_> = networks.values().map(|network| network.subnet).collect();
        taken.extend_from_slice(routes);
        choose::subnet(&taken).ok_or(Conflict::NoFreeSubnet)?
    };
    let first = Ipv4Addr::from_bits(subnet.network().to_bits() + 1);
    let gateway = spec.gateway.unwrap_or(first);
    check_gateway(gateway, subnet)?;
    let network = Network {
        name: spec.name.clone(),
        vni: free_vni(spec, networks)?,
        subnet,
        gateway,
        mtu: spec.mtu,
        internal: spec.internal,
    };
    Ok(Plan::new(
        network.clone(),
        vec![Change::PutNetwork(network)],
    ))
}

/// Finds the network with exactly this subnet, or makes one.
pub(crate) fn network_for_subnet(
    basis: Basis<'_>,
    subnet: Ipv4Network,
) -> Result<Plan<Network>, Error> {
    let mut networks = basis.desired().networks.values();
    if let Some(existing) = networks.find(|network| network.subnet == subnet) {
        return Ok(Plan::existing(existing.clone(), Vec::new()));
    }
    let spec = NetworkSpec {
        name: name_of_subnet(subnet),
        subnet: Some(subnet),
        ..NetworkSpec::default()
    };
    network(basis, &spec, &[], None)
}

/// Removes a network without endpoints, and all that mentions it.
///
/// Peers let in by name are shut out first, some at a time if they are many; the
/// plan's value is whether there is more to do. Who stops in between, or finds the
/// network in use by then, has shut peers out and let nobody in.
pub(crate) fn remove_network(basis: Basis<'_>, name: &str) -> Result<Plan<bool>, Error> {
    find_network(basis, name)?;
    let desired = basis.desired();
    let here = census::here(desired, name).map(Occupant::Here);
    let mut endpoints = here.chain(census::there(desired, name).map(Occupant::There));
    let named: Vec<_> = endpoints
        .by_ref()
        .take(NAMED)
        .map(|e| e.to_string())
        .collect();
    if !named.is_empty() {
        return Err(Conflict::NetworkInUse {
            name: name.to_owned(),
            endpoints: named,
            more: endpoints.count(),
        }
        .into());
    }
    let mut changes = Vec::new();
    for peer in desired.peers.values() {
        let PeerNetworks::Only(has) = &peer.networks else {
            continue;
        };
        let mut left = has.clone();
        if left.remove(name) {
            changes.push(if left.is_empty() {
                Change::RemovePeer(peer.ip)
            } else {
                Change::PutPeer(Peer {
                    ip: peer.ip,
                    networks: PeerNetworks::Only(left),
                })
            });
        }
    }
    if changes.len() > PEERS_AT_ONCE {
        changes.truncate(PEERS_AT_ONCE);
        return Ok(Plan::existing(true, changes));
    }
    changes.push(Change::RemoveNetwork(name.to_owned()));
    let hints = basis.contents.hints.values();
    let obsolete = hints.filter(|hint| hint.network == name);
    changes.extend(obsolete.map(|hint| Change::RemoveHint(hint.key())));
    Ok(Plan::existing(false, changes))
}

fn check_mtu(mtu: Option<u32>, underlay: Option<&Underlay>) -> Result<(), Invalid> {
    match (mtu, underlay) {
        (Some(mtu), Some(underlay)) if mtu + OVERHEAD_IPV4 > underlay.mtu => {
            let (device, underlay) = (underlay.device.clone(), underlay.mtu);
            Err(Invalid::MtuTooLarge {
                mtu,
                device,
                underlay,
            })
        }
        _ => Ok(()),
    }
}

fn check_same_network(existing: &Network, spec: &NetworkSpec) -> Result<(), Conflict> {
    let differs = |what, has: String, asked: String| {
        let name = existing.name.clone();
        Err(Conflict::NetworkDiffers {
            name,
            what,
            has,
            asked,
        })
    };
    if let Some(asked) = spec.subnet.filter(|asked| *asked != existing.subnet) {
        return differs("subnet", existing.subnet.to_string(), asked.to_string());
    }
    if let Some(asked) = spec.gateway.filter(|asked| *asked != existing.gateway) {
        return differs("gateway", existing.gateway.to_string(), asked.to_string());
    }
    if let Some(asked) = spec.vni.filter(|asked| *asked != existing.vni) {
        return differs("VNI", existing.vni.to_string(), asked.to_string());
    }
    if let Some(asked) = spec.mtu.filter(|asked| Some(*asked) != existing.mtu) {
        let has = existing
            .mtu
            .map_or("that of the underlay".to_owned(), |mtu| mtu.to_string());
        return differs("MTU", has, asked.to_string());
    }
    if spec.internal != existing.internal {
        return differs(
            "internal",
            existing.internal.to_string(),
            spec.internal.to_string(),
        );
    }
    Ok(())
}

fn check_free(
    subnet: Ipv4Network,
    networks: &BTreeMap<String, Network>,
) -> Result<Ipv4Network, Conflict> {
    match networks
        .values()
        .find(|other| other.subnet.overlaps(subnet))
    {
        None => Ok(subnet),
        Some(other) => Err(Conflict::SubnetOverlaps {
            subnet,
            network: other.name.clone(),
            other: other.subnet,
        }),
    }
}

fn free_vni(spec: &NetworkSpec, networks: &BTreeMap<String, Network>) -> Result<Vni, Conflict> {
    if let Some(vni) = spec.vni {
        return match networks.values().find(|other| other.vni == vni) {
            None => Ok(vni),
            Some(other) => Err(Conflict::VniInUse {
                vni,
                network: other.name.clone(),
            }),
        };
    }
    let in_use = networks.values().map(|network| network.vni).collect();
    choose::vni(&spec.name, &in_use).ok_or(Conflict::TooManyNetworks(networks.len()))
}
