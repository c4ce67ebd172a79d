//! Whether a container to be created opts in, and to what.
//!
//! Three ways to say it, most telling first: label `vxplane.network`,
//! environment `SP_NETWORK`, environment `SOCKETPLANE_CIDR`. Two that
//! contradict each other are refused rather than ranked: whichever was meant,
//! the container would be in a network its owner did not expect.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnetwork::Ipv4Network;
use serde_json::Value;
use vxplane_common::types::MacAddr;

use super::{
    body::{self, Object},
    labels,
    wish::{NetworkWish, Wish},
};
use crate::{
    identity::{PORT_LABEL, parse_port},
    model::{Limits, limits::WrongLimit, parse_mac},
};

const CIDR_VARIABLE: &str = "SOCKETPLANE_CIDR";
const NETWORK_VARIABLE: &str = "SP_NETWORK";

/// What is to happen to a create request.
#[derive(Debug, PartialEq)]
pub enum Decision {
    /// Nothing: it does not opt in.
    NotOurs,
    /// Nothing, although it opts in: it has chosen its own networking.
    Respected(OwnNetworking),
    /// The container joins a network of ours.
    Wire(Box<Wish>),
}

/// Why a container that opts in is left alone.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnNetworking {
    /// `--network host`, `--network container:x`, `--network mine`.
    #[error("its network mode is `{0}`")]
    Mode(String),
    /// A Docker network besides the default one.
    #[error("it is connected to Docker's network `{0}`")]
    Network(String),
    /// `NetworkDisabled`.
    #[error("its networking is disabled")]
    Disabled,
}

/// Why a container that opts in cannot be created.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Two ways of opting in disagree on the network.
    #[error("{first} asks for network `{one}` and {second} for `{other}`; give one of them")]
    TwoNetworks {
        /// Where the one stands.
        first: &'static str,
        /// The one.
        one: String,
        /// Where the other stands.
        second: &'static str,
        /// The other.
        other: String,
    },
    /// Not an IPv4 CIDR.
    #[error(
        "{CIDR_VARIABLE}={0} is not an IPv4 subnet; give one such as 10.0.6.0/24, or 10.0.6.5/24 for an address in it"
    )]
    Cidr(String),
    /// Not an IPv4 address.
    #[error("`{0}` is not an IPv4 address such as 10.0.6.5")]
    Ip(String),
    /// Two ways of giving the address disagree.
    #[error("{first} gives the address {one} and {second} gives {other}; give one of them")]
    TwoAddresses {
        /// Where the one stands.
        first: &'static str,
        /// The one.
        one: Ipv4Addr,
        /// Where the other stands.
        second: &'static str,
        /// The other.
        other: Ipv4Addr,
    },
    /// Not a MAC address.
    #[error("`{0}` is not a MAC address such as 02:42:0a:00:06:05")]
    Mac(String),
    /// A label that is to name a port.
    #[error("the label `{label}` names no port: {reason}; write it like {PORT_LABEL}http=8080/tcp")]
    PortLabel {
        /// The label.
        label: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A label that is to say a limit.
    #[error(transparent)]
    Limit(#[from] WrongLimit),
    /// `-p` or `-P`.
    #[error(
        "ports cannot be published on this network yet; leave out -p and -P and reach the container by its own address"
    )]
    Ports,
    /// `--link`.
    #[error("links do not exist on this network; leave out --link and use addresses")]
    Links,
}

/// Decides on the body of a create request.
pub fn decide(create: &Object) -> Result<Decision, Refusal> {
    let labels = labels_of(create);
    // Our own network-only container, should our Docker socket be a proxied one.
    if labels.contains_key(labels::ROLE) {
        return Ok(Decision::NotOurs);
    }
    let environment = Environment::of(create);
    let Some(network) = network_wish(&labels, &environment)? else {
        return Ok(Decision::NotOurs);
    };
    if let Some(own) = own_networking(create) {
        return Ok(Decision::Respected(own));
    }
    refuse_what_cannot_be(create)?;
    refuse_odd_ports(&labels)?;
    Limits::of_labels(&labels)?;
    let namespace = [labels::NAMESPACE, labels::COMPOSE_PROJECT]
        .into_iter()
        .find_map(|key| labels.get(key).filter(|value| !value.is_empty()).cloned());
    let exposed = body::object(create, "ExposedPorts").into_iter().flatten();
    Ok(Decision::Wire(Box::new(Wish {
        exposed: exposed.map(|(port, _)| port.clone()).collect(),
        network,
        ip: wished_ip(create, &labels, &environment)?,
        mac: wished_mac(create)?,
        namespace,
        labels,
    })))
}

/// The variables that matter, where they are set to something.
#[derive(Default)]
struct Environment<'a> {
    cidr: Option<&'a str>,
    network: Option<&'a str>,
}

impl<'a> Environment<'a> {
    fn of(create: &'a Object) -> Self {
        let mut found = Self::default();
        let entries = body::get(create, "Env")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        for (name, value) in entries
            .filter_map(Value::as_str)
            .filter_map(|e| e.split_once('='))
        {
            // A later entry replaces an earlier one, and an empty one unsets it.
            let value = Some(value.trim()).filter(|value| !value.is_empty());
            match name {
                CIDR_VARIABLE => found.cidr = value,
                NETWORK_VARIABLE => found.network = value,
                _ => {}
            }
        }
        found
    }

    /// The address part and the prefix, host bits kept.
    fn cidr(&self) -> Result<Option<Ipv4Network>, Refusal> {
        let Some(text) = self.cidr else {
            return Ok(None);
        };
        let parsed = text.parse().ok().filter(|_| text.contains('/'));
        parsed
            .map(Some)
            .ok_or_else(|| Refusal::Cidr(text.to_owned()))
    }
}

fn labels_of(create: &Object) -> BTreeMap<String, String> {
    let labels = body::object(create, "Labels").into_iter().flatten();
    labels
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

fn network_wish(
    labels: &BTreeMap<String, String>,
    environment: &Environment<'_>,
) -> Result<Option<NetworkWish>, Refusal> {
    let label = labels
        .get(labels::NETWORK)
        .map(|name| name.trim())
        .filter(|name| !name.is_empty());
    if let (Some(one), Some(other)) = (label, environment.network)
        && one != other
    {
        return Err(Refusal::TwoNetworks {
            first: labels::NETWORK,
            one: one.to_owned(),
            second: NETWORK_VARIABLE,
            other: other.to_owned(),
        });
    }
    let subnet = environment.cidr()?.map(subnet_of);
    Ok(match (label.or(environment.network), subnet) {
        (Some(name), subnet) => Some(NetworkWish::Named {
            name: name.to_owned(),
            subnet,
        }),
        (None, Some(subnet)) => Some(NetworkWish::Subnet(subnet)),
        (None, None) => None,
    })
}

/// The same network with its host bits cleared.
fn subnet_of(cidr: Ipv4Network) -> Ipv4Network {
    // A prefix that was parsed is never too long.
    Ipv4Network::new(cidr.network(), cidr.prefix()).unwrap_or(cidr)
}

/// A choice of the user's that leaves no room for a network of ours.
fn own_networking(create: &Object) -> Option<OwnNetworking> {
    if body::get(create, "NetworkDisabled") == Some(&Value::Bool(true)) {
        return Some(OwnNetworking::Disabled);
    }
    let host = body::object(create, "HostConfig");
    if let Some(mode) = host.and_then(|host| body::text(host, "NetworkMode"))
        && !is_replaceable(mode)
    {
        return Some(OwnNetworking::Mode(mode.to_owned()));
    }
    let endpoints = body::object(create, "NetworkingConfig")
        .and_then(|config| body::object(config, "EndpointsConfig"))?;
    let other = endpoints.keys().find(|name| !is_replaceable(name))?;
    Some(OwnNetworking::Network(other.clone()))
}

/// Docker's own choices when the user made none, and no network at all: those
/// give way to ours.
pub(super) fn is_replaceable(network: &str) -> bool {
    matches!(network, "" | "default" | "bridge" | "none")
}

fn refuse_what_cannot_be(create: &Object) -> Result<(), Refusal> {
    let Some(host) = body::object(create, "HostConfig") else {
        return Ok(());
    };
    let published = body::object(host, "PortBindings").is_some_and(|ports| !ports.is_empty());
    if published || body::get(host, "PublishAllPorts") == Some(&Value::Bool(true)) {
        return Err(Refusal::Ports);
    }
    let some = |value: &Value| value.as_array().is_some_and(|links| !links.is_empty());
    let linked = default_endpoint(create, "Links").is_some_and(some);
    if linked || body::get(host, "Links").is_some_and(some) {
        return Err(Refusal::Links);
    }
    Ok(())
}

fn refuse_odd_ports(labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    for (key, value) in labels {
        if let Some(name) = key.strip_prefix(PORT_LABEL)
            && let Err(reason) = parse_port(name, value)
        {
            let label = format!("{key}={value}");
            return Err(Refusal::PortLabel { label, reason });
        }
    }
    Ok(())
}

/// A setting of the endpoint on Docker's default network, where newer clients
/// put what older ones put on the container.
fn default_endpoint<'a>(create: &'a Object, key: &str) -> Option<&'a Value> {
    let endpoints = body::object(create, "NetworkingConfig")
        .and_then(|config| body::object(config, "EndpointsConfig"))?;
    endpoints
        .values()
        .filter_map(Value::as_object)
        .find_map(|endpoint| body::get(endpoint, key))
}

fn wished_ip(
    create: &Object,
    labels: &BTreeMap<String, String>,
    environment: &Environment<'_>,
) -> Result<Option<Ipv4Addr>, Refusal> {
    let label = labels.get(labels::IP).map(|ip| parse_ip(ip)).transpose()?;
    let cidr = environment
        .cidr()?
        .filter(|cidr| cidr.ip() != cidr.network())
        .map(Ipv4Network::ip);
    let option = default_endpoint(create, "IPAMConfig")
        .and_then(Value::as_object)
        .and_then(|ipam| body::text(ipam, "IPv4Address"))
        .map(parse_ip)
        .transpose()?;
    let given = [(labels::IP, label), (CIDR_VARIABLE, cidr), ("--ip", option)];
    let mut given = given.into_iter().filter_map(|(from, ip)| Some((from, ip?)));
    let Some((first, one)) = given.next() else {
        return Ok(None);
    };
    match given.find(|(_, other)| *other != one) {
        None => Ok(Some(one)),
        Some((second, other)) => Err(Refusal::TwoAddresses {
            first,
            one,
            second,
            other,
        }),
    }
}

fn parse_ip(text: &str) -> Result<Ipv4Addr, Refusal> {
    text.trim()
        .parse()
        .map_err(|_| Refusal::Ip(text.to_owned()))
}

fn wished_mac(create: &Object) -> Result<Option<MacAddr>, Refusal> {
    let endpoint = default_endpoint(create, "MacAddress").and_then(Value::as_str);
    let text = endpoint
        .filter(|mac| !mac.is_empty())
        .or(body::text(create, "MacAddress"));
    text.map(|text| parse_mac(text).ok_or_else(|| Refusal::Mac(text.to_owned())))
        .transpose()
}

#[cfg(test)]
#[path = "optin_tests.rs"]
mod tests;
