//! What another host stored must hold as much as what a user asks for here.

use ipnetwork::Ipv4Network;

use super::{
    error::Invalid,
    spec::{
        AttachSpec, EndpointChange, NetnsSource, NetworkSpec, check_gateway, check_labels,
        check_namespace_name, check_peer, excerpt,
    },
};
use crate::{
    identity,
    model::{
        EndpointRecord, Identity, NAMESPACE_NAME_LABEL, NamedPort, Namespace, Network, Peer,
        PeerNetworks,
    },
    policy::{document::NetworkPolicy, names, read},
};

/// Refuses a network that no user could have made.
pub(crate) fn check_network(network: &Network) -> Result<(), Invalid> {
    let Network {
        name,
        vni,
        subnet,
        gateway,
        mtu,
        internal,
    } = network;
    if subnet.ip() != subnet.network() {
        let meant = Ipv4Network::new(subnet.network(), subnet.prefix()).unwrap_or(*subnet);
        let given = *subnet;
        return Err(Invalid::HostBits { given, meant });
    }
    let spec = NetworkSpec {
        name: name.clone(),
        vni: Some(*vni),
        subnet: Some(*subnet),
        gateway: Some(*gateway),
        mtu: *mtu,
        internal: *internal,
    };
    spec.check()?;
    check_gateway(*gateway, *subnet)
}

/// Refuses an endpoint that no user could have made, whatever its network.
pub(crate) fn check_endpoint(record: &EndpointRecord) -> Result<(), Invalid> {
    let spec = AttachSpec {
        container_id: Some(record.container_id.to_string()),
        ifname: Some(record.ifname.to_string()),
        mac: Some(record.mac),
        ..AttachSpec::new(&*record.network, NetnsSource::Pid(0))
    };
    spec.check()?;
    let change = EndpointChange {
        container_id: None,
        name: record.name.as_deref().map(str::to_owned),
        namespace: Some(record.namespace.to_string()),
        labels: Some((&record.labels).into()),
        exposed: None,
        limits: Some(record.limits),
    };
    change.check()
}

/// Refuses an endpoint that `network` has no place for.
pub(crate) fn check_place(record: &EndpointRecord, network: &Network) -> Result<(), Invalid> {
    super::ipam::check_usable(network, record.ip)
}

/// Refuses a peer that no user could have made.
pub(crate) fn check_stored_peer(peer: &Peer) -> Result<(), Invalid> {
    check_peer(peer.ip, None)?;
    match &peer.networks {
        PeerNetworks::Only(names) if names.is_empty() => Err(Invalid::NoNetworks),
        _ => Ok(()),
    }
}

/// Refuses a policy that no user could have made.
pub(crate) fn check_policy(policy: &NetworkPolicy) -> Result<(), Invalid> {
    match read::check(policy).into_iter().next() {
        None => Ok(()),
        Some(flaw) => Err(Invalid::Policy(flaw)),
    }
}

/// Refuses a namespace that no user could have made.
pub(crate) fn check_namespace(namespace: &Namespace) -> Result<(), Invalid> {
    check_namespace_name(&namespace.name)?;
    check_labels(&namespace.labels)?;
    if namespace.labels.contains_key(NAMESPACE_NAME_LABEL) {
        return Err(Invalid::NamespaceNameLabel(namespace.name.clone()));
    }
    Ok(())
}

/// Refuses an identity that no endpoint could have.
pub(crate) fn check_identity(number: u32, identity: &Identity) -> Result<(), Invalid> {
    if !identity::is_number(number) {
        return Err(Invalid::Identity(number));
    }
    check_namespace_name(&identity.namespace)?;
    check_labels(&identity.labels)?;
    let wrong = |port: &NamedPort| port.port == 0 || names::port_name(&port.name).is_some();
    match identity.ports.iter().find(|port| wrong(port)) {
        None => Ok(()),
        Some(port) => Err(Invalid::Port {
            label: excerpt(&format!("{}={}", port.name, port.port)),
            reason: "a port cannot be named so",
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use vxplane_common::types::MacAddr;

    use super::*;

    fn endpoint() -> EndpointRecord {
        EndpointRecord {
            id: "0123456789ab".into(),
            container_id: "c1".into(),
            name: None,
            ifname: "eth0".into(),
            network: "blue".into(),
            node: "n1".into(),
            ip: Ipv4Addr::new(10, 50, 0, 2),
            mac: MacAddr::from_ipv4([10, 50, 0, 2]),
            namespace: "default".into(),
            labels: [("app", "shop")].into_iter().collect(),
            identity: 0,
            limits: crate::model::Limits::default(),
        }
    }

    #[test]
    fn what_users_can_make_is_accepted() {
        assert_eq!(check_network(&Network::sample()), Ok(()));
        assert_eq!(check_endpoint(&endpoint()), Ok(()));
        assert_eq!(check_place(&endpoint(), &Network::sample()), Ok(()));
    }

    #[test]
    fn what_they_cannot_make_is_not() {
        let networks: [fn(&mut Network); 5] = [
            |it| it.name = "a/b".to_owned(),
            |it| it.subnet = "10.50.0.7/24".parse().unwrap(),
            |it| it.subnet = "127.0.0.0/24".parse().unwrap(),
            |it| it.gateway = Ipv4Addr::new(10, 50, 0, 255),
            |it| it.mtu = Some(1),
        ];
        for spoil in networks {
            let mut network = Network::sample();
            spoil(&mut network);
            assert!(check_network(&network).is_err(), "{network:?}");
        }
        let endpoints: [fn(&mut EndpointRecord); 5] = [
            |it| it.ifname = "../x".into(),
            |it| it.mac = MacAddr([1, 0, 0, 0, 0, 0]),
            |it| it.container_id = "".into(),
            |it| it.namespace = " ".into(),
            |it| it.labels = [("", "")].into_iter().collect(),
        ];
        for spoil in endpoints {
            let mut endpoint = endpoint();
            spoil(&mut endpoint);
            assert!(check_endpoint(&endpoint).is_err(), "{endpoint:?}");
        }
        for last in [0, 1, 255] {
            let mut endpoint = endpoint();
            endpoint.ip = Ipv4Addr::new(10, 50, 0, last);
            assert!(
                check_place(&endpoint, &Network::sample()).is_err(),
                "{last}"
            );
        }
    }
}
