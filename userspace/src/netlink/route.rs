//! IPv4 routes: the table, and what the kernel would choose.

use std::net::Ipv4Addr;

use futures_util::TryStreamExt;
use ipnetwork::Ipv4Network;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType,
};
use rtnetlink::RouteMessageBuilder;

use super::{Error, Netlink, request};

/// One IPv4 unicast route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to; `0.0.0.0/0` is the default route.
    pub destination: Ipv4Network,
    /// The device it leaves by.
    pub device: Option<u32>,
    /// The source address it prefers.
    pub source: Option<Ipv4Addr>,
    /// Its metric: the lowest wins.
    pub metric: u32,
    /// Whether it leads to a gateway, not straight to the destination.
    pub by_gateway: bool,
}

fn inet(address: &RouteAddress) -> Option<Ipv4Addr> {
    match address {
        RouteAddress::Inet(ip) => Some(*ip),
        _ => None,
    }
}

fn parse(message: &RouteMessage) -> Option<Route> {
    let mut route = Route {
        destination: Ipv4Network::new(
            Ipv4Addr::UNSPECIFIED,
            message.header.destination_prefix_length,
        )
        .ok()?,
        device: None,
        source: None,
        metric: 0,
        by_gateway: false,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                let prefix = message.header.destination_prefix_length;
                route.destination = Ipv4Network::new(inet(address)?, prefix).ok()?;
            }
            RouteAttribute::Oif(index) => route.device = Some(*index),
            // The first leg of a multipath route stands for all of them.
            RouteAttribute::MultiPath(legs) => {
                route.device = legs.first().map(|leg| leg.interface_index);
                route.by_gateway = true;
            }
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => route.by_gateway = true,
            RouteAttribute::PrefSource(address) => route.source = inet(address),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            _ => {}
        }
    }
    Some(route)
}

impl Netlink {
    /// The unicast routes of the main table.
    pub async fn routes(&self) -> Result<Vec<Route>, Error> {
        let get = self
            .handle
            .route()
            .get(RouteMessageBuilder::<Ipv4Addr>::new().build());
        let messages = get.execute().try_collect::<Vec<_>>();
        let messages = request(|| "list the IPv4 routes".to_owned(), messages).await?;
        let of_main = |message: &&RouteMessage| {
            message.header.table == RouteHeader::RT_TABLE_MAIN
                && message.header.kind == RouteType::Unicast
        };
        Ok(messages.iter().filter(of_main).filter_map(parse).collect())
    }

    /// The route the kernel takes to `destination` from `source`.
    pub async fn route_to(
        &self,
        destination: Ipv4Addr,
        source: Option<Ipv4Addr>,
    ) -> Result<Route, Error> {
        let mut message =
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(destination, 32);
        if let Some(source) = source {
            message = message.source_prefix(source, 32);
        }
        let mut found = self.handle.route().get(message.build()).execute();
        let action = || format!("find a route to {destination}");
        let found = request(action, found.try_next()).await?;
        found.as_ref().and_then(parse).ok_or_else(|| Error {
            action: action(),
            source: std::io::ErrorKind::NetworkUnreachable.into(),
        })
    }
}
