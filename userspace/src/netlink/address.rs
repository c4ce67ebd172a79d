//! IPv4 addresses of links.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use ipnetwork::Ipv4Network;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage, AddressScope},
};
use rtnetlink::AddressMessageBuilder;

use super::{Error, Netlink, request};

/// One IPv4 address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The link.
    pub link: u32,
    /// The address and its prefix length.
    pub network: Ipv4Network,
    /// Whether it is valid beyond its link.
    pub global: bool,
}

fn parse(message: &AddressMessage) -> Option<Address> {
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(IpAddr::V4(ip)) => Some(*ip),
        _ => None,
    })?;
    Some(Address {
        link: message.header.index,
        network: Ipv4Network::new(local, message.header.prefix_len).ok()?,
        global: message.header.scope == AddressScope::Universe,
    })
}

impl Netlink {
    /// All IPv4 addresses of this namespace, in the kernel's order.
    pub async fn addresses(&self) -> Result<Vec<Address>, Error> {
        let mut get = self.handle.address().get();
        get.message_mut().header.family = AddressFamily::Inet;
        let messages = get.execute().try_collect::<Vec<_>>();
        let messages = request(|| "list the IPv4 addresses".to_owned(), messages).await?;
        Ok(messages.iter().filter_map(parse).collect())
    }

    /// Gives a link an address.
    pub async fn add_address(&self, link: u32, address: Ipv4Network) -> Result<(), Error> {
        let add = self
            .handle
            .address()
            .add(link, IpAddr::V4(address.ip()), address.prefix());
        request(|| format!("add the address {address}"), add.execute()).await
    }

    /// Takes an address from a link.
    pub async fn delete_address(&self, link: u32, address: Ipv4Network) -> Result<(), Error> {
        let message = AddressMessageBuilder::<Ipv4Addr>::new()
            .index(link)
            .address(address.ip(), address.prefix())
            .build();
        let delete = self.handle.address().del(message);
        request(|| format!("remove the address {address}"), delete.execute()).await
    }
}
