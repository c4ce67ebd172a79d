//! The underlay: the device that VXLAN packets leave by, and our address on it.

use std::net::Ipv4Addr;

use crate::{
    netlink::{self, Address, Link, Netlink, Route},
    reconcile::{Underlay, UnderlayChoice},
};

/// Why there is no underlay.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnderlayError {
    /// Nothing to derive it from.
    #[error("this host has no IPv4 default route; name the underlay with --underlay DEV|ADDR")]
    NoDefaultRoute,
    /// A device that is not there.
    #[error("the underlay device {0} does not exist")]
    NoDevice(String),
    /// An address that is not there.
    #[error("the underlay address {0} is on none of this host's devices")]
    NoSuchAddress(Ipv4Addr),
    /// A device without an address.
    #[error("the underlay device {0} has no IPv4 address to be the VTEP address")]
    NoAddress(String),
}

/// What the underlay is chosen from.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The links of this namespace.
    pub links: Vec<Link>,
    /// Their IPv4 addresses.
    pub addresses: Vec<Address>,
    /// The routes of the main table.
    pub routes: Vec<Route>,
}

impl Surroundings {
    /// Takes stock of the namespace of `netlink`.
    pub async fn observe(netlink: &Netlink) -> Result<Self, netlink::Error> {
        Ok(Self {
            links: netlink.links().await?,
            addresses: netlink.addresses().await?,
            routes: netlink.routes().await?,
        })
    }

    fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The first global address of a link, or its first at all.
    fn address_of(&self, link: &Link) -> Result<Ipv4Addr, UnderlayError> {
        let mut on_link = self.addresses.iter().filter(|a| a.link == link.index);
        let first = on_link.clone().next();
        on_link
            .find(|a| a.global)
            .or(first)
            .map(|a| a.network.ip())
            .ok_or_else(|| UnderlayError::NoAddress(link.name.clone()))
    }

    /// The underlay that `choice` means here.
    pub fn underlay(&self, choice: &UnderlayChoice) -> Result<Underlay, UnderlayError> {
        let (link, vtep) = match choice {
            UnderlayChoice::DefaultRoute => self.by_default_route()?,
            UnderlayChoice::Device(name) => {
                let link = self.links.iter().find(|link| link.name == *name);
                let link = link.ok_or_else(|| UnderlayError::NoDevice(name.clone()))?;
                (link, self.address_of(link)?)
            }
            UnderlayChoice::Address(ip) => {
                let address = self.addresses.iter().find(|a| a.network.ip() == *ip);
                let link = address.and_then(|a| self.link(a.link));
                (link.ok_or(UnderlayError::NoSuchAddress(*ip))?, *ip)
            }
        };
        Ok(Underlay {
            device: link.name.clone(),
            ifindex: link.index,
            vtep,
            mtu: link.mtu,
        })
    }

    fn by_default_route(&self) -> Result<(&Link, Ipv4Addr), UnderlayError> {
        let default = self
            .routes
            .iter()
            .filter(|route| route.destination.prefix() == 0 && route.device.is_some())
            .min_by_key(|route| route.metric)
            .ok_or(UnderlayError::NoDefaultRoute)?;
        let link = default
            .device
            .and_then(|index| self.link(index))
            .ok_or(UnderlayError::NoDefaultRoute)?;
        let vtep = match default.source {
            Some(source) => source,
            None => self.address_of(link)?,
        };
        Ok((link, vtep))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::LinkKind;

    fn link(index: u32, name: &str, mtu: u32) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: LinkKind::Physical,
            mac: None,
            mtu,
            up: true,
            peer: None,
            peer_netns: None,
            xdp: None,
            shaped: false,
        }
    }

    fn address(link: u32, network: &str, global: bool) -> Address {
        Address {
            link,
            network: network.parse().unwrap(),
            global,
        }
    }

    fn default_route(device: u32, metric: u32) -> Route {
        Route {
            destination: "0.0.0.0/0".parse().unwrap(),
            device: Some(device),
            source: None,
            metric,
            by_gateway: true,
        }
    }

    fn surroundings() -> Surroundings {
        Surroundings {
            links: vec![
                link(1, "lo", 65536),
                link(2, "eth0", 1500),
                link(3, "eth1", 9000),
            ],
            addresses: vec![
                address(1, "127.0.0.1/8", false),
                address(2, "169.254.7.7/16", false),
                address(2, "192.0.2.10/24", true),
                address(3, "198.51.100.1/24", true),
                address(3, "198.51.100.2/24", true),
            ],
            routes: vec![default_route(3, 200), default_route(2, 100)],
        }
    }

    #[test]
    fn the_best_default_route_decides() {
        let found = surroundings()
            .underlay(&UnderlayChoice::DefaultRoute)
            .unwrap();
        assert_eq!(found.device, "eth0");
        assert_eq!(found.vtep, Ipv4Addr::new(192, 0, 2, 10));
        assert_eq!(found.mtu, 1500);
    }

    #[test]
    fn a_preferred_source_is_the_vtep_address() {
        let mut around = surroundings();
        around.routes = vec![Route {
            source: Some(Ipv4Addr::new(198, 51, 100, 2)),
            ..default_route(3, 0)
        }];
        let found = around.underlay(&UnderlayChoice::DefaultRoute).unwrap();
        assert_eq!(found.vtep, Ipv4Addr::new(198, 51, 100, 2));
    }

    #[test]
    fn device_and_address_are_taken_at_their_word() {
        let around = surroundings();
        let by_name = around
            .underlay(&UnderlayChoice::Device("eth1".to_owned()))
            .unwrap();
        assert_eq!(
            (by_name.ifindex, by_name.vtep),
            (3, Ipv4Addr::new(198, 51, 100, 1))
        );
        let second = Ipv4Addr::new(198, 51, 100, 2);
        let by_address = around.underlay(&UnderlayChoice::Address(second)).unwrap();
        assert_eq!((by_address.ifindex, by_address.vtep), (3, second));
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut around = surroundings();
        let other = Ipv4Addr::new(203, 0, 113, 1);
        assert_eq!(
            around.underlay(&UnderlayChoice::Address(other)),
            Err(UnderlayError::NoSuchAddress(other))
        );
        around.routes.clear();
        assert_eq!(
            around.underlay(&UnderlayChoice::DefaultRoute),
            Err(UnderlayError::NoDefaultRoute)
        );
        around.addresses.clear();
        assert_eq!(
            around.underlay(&UnderlayChoice::Device("eth0".to_owned())),
            Err(UnderlayError::NoAddress("eth0".to_owned()))
        );
    }
}
