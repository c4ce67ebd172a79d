//! Links: what there is, veth pairs, the `vxlan external` device, changes.

use std::os::fd::AsRawFd;

use futures_util::TryStreamExt;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, InfoVxlan,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
};
use nix::errno::Errno;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan};
use vxplane_common::types::MacAddr;

use super::{Error, Netlink, Netns, request, shaper};

/// What sort of device a link is, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// One end of a veth pair.
    Veth,
    /// A VXLAN device.
    Vxlan {
        /// Its UDP port.
        port: u16,
        /// Whether it is `external`: VNI and addresses come with each packet.
        external: bool,
        /// Whether it has the Group Policy extension.
        gbp: bool,
    },
    /// Any other virtual device.
    Other(String),
    /// Hardware, or what looks like it.
    Physical,
}

/// An XDP program on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpAttachment {
    /// The program's ID; 0 where several are attached.
    pub program: u32,
    /// In the generic hook rather than in the driver.
    pub generic: bool,
}

/// One link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// Its hardware address, if it is an Ethernet one.
    pub mac: Option<MacAddr>,
    /// Bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Index of its lower device or peer, in the namespace `peer_netns` if that
    /// is given, else in the same.
    pub peer: Option<u32>,
    /// Namespace ID, local to the namespace of this link.
    pub peer_netns: Option<i32>,
    /// The XDP program on it.
    pub xdp: Option<XdpAttachment>,
    /// Whether what it sends goes through a token bucket, ours or another.
    pub shaped: bool,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: LinkKind::Physical,
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            peer: None,
            peer_netns: None,
            xdp: None,
            shaped: false,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(MacAddr),
                LinkAttribute::Link(index) => link.peer = Some(index),
                LinkAttribute::LinkNetNsId(id) => link.peer_netns = Some(id),
                LinkAttribute::LinkInfo(info) => link.kind = kind(info),
                LinkAttribute::Qdisc(kind) => link.shaped = kind == shaper::KIND,
                LinkAttribute::Xdp(xdp) => link.xdp = xdp_attachment(&xdp),
                _ => {}
            }
        }
        link
    }
}

fn kind(info: Vec<LinkInfo>) -> LinkKind {
    let mut kind = LinkKind::Physical;
    let mut vxlan = (0, false, false);
    for part in info {
        match part {
            LinkInfo::Kind(InfoKind::Veth) => kind = LinkKind::Veth,
            LinkInfo::Kind(InfoKind::Vxlan) => {
                kind = LinkKind::Vxlan {
                    port: 0,
                    external: false,
                    gbp: false,
                }
            }
            LinkInfo::Kind(other) => kind = LinkKind::Other(other.to_string()),
            LinkInfo::Data(InfoData::Vxlan(options)) => {
                for option in options {
                    match option {
                        InfoVxlan::Port(port) => vxlan.0 = port,
                        InfoVxlan::CollectMetadata(external) => vxlan.1 = external,
                        InfoVxlan::Gbp => vxlan.2 = true,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if let LinkKind::Vxlan {
        port,
        external,
        gbp,
    } = &mut kind
    {
        (*port, *external, *gbp) = vxlan;
    }
    kind
}

fn xdp_attachment(parts: &[LinkXdp]) -> Option<XdpAttachment> {
    let mut program = 0;
    let mut attached = None;
    for part in parts {
        match part {
            LinkXdp::ProgId(id) => program = *id,
            LinkXdp::Attached(how) if *how != XdpAttached::None => attached = Some(*how),
            _ => {}
        }
    }
    attached.map(|how| XdpAttachment {
        program,
        generic: how == XdpAttached::SocketBuffer,
    })
}

/// A veth pair to create, both ends down.
#[derive(Debug)]
pub struct VethPair<'a> {
    /// Name of the end in this namespace.
    pub host_name: &'a str,
    /// Name of the end in `netns`.
    pub container_name: &'a str,
    /// Hardware address of the end in `netns`.
    pub container_mac: MacAddr,
    /// Of both ends, in bytes.
    pub mtu: u32,
    /// Where the other end goes.
    pub netns: &'a Netns,
}

/// A `vxlan external` device to create, down.
#[derive(Debug)]
pub struct ExternalVxlan<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its UDP port.
    pub port: u16,
    /// Whether it has the Group Policy extension.
    pub gbp: bool,
    /// In bytes.
    pub mtu: u32,
}

/// What to change of a link; `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// New name.
    pub name: Option<String>,
    /// New hardware address.
    pub mac: Option<MacAddr>,
    /// New MTU in bytes.
    pub mtu: Option<u32>,
    /// Administratively up or down.
    pub up: Option<bool>,
    /// Whether to keep the kernel from giving it an IPv6 link-local address.
    pub no_link_local: bool,
}

impl Netlink {
    /// All links of this namespace.
    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        let messages = self.handle.link().get().execute().try_collect::<Vec<_>>();
        let messages = request(|| "list the links".to_owned(), messages).await?;
        Ok(messages.into_iter().map(Link::from).collect())
    }

    /// The link with this name, if there is one.
    pub async fn link_by_name(&self, name: &str) -> Result<Option<Link>, Error> {
        Ok(self.links().await?.into_iter().find(|l| l.name == name))
    }

    /// Creates a veth pair whose second end is born in its namespace, so that
    /// it never collides with a name here and nobody sees it half configured.
    pub async fn create_veth(&self, pair: &VethPair<'_>) -> Result<(), Error> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(pair.container_name)
            .address(pair.container_mac.0.to_vec())
            .mtu(pair.mtu)
            .setns_by_fd(pair.netns.file.as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new(pair.host_name, "")
            .mtu(pair.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        let action = || {
            format!(
                "create the interface {} in the container",
                pair.container_name
            )
        };
        request(action, self.handle.link().add(message).execute()).await
    }

    /// Creates a veth pair with both ends in this namespace, down.
    pub async fn create_veth_here(&self, name: &str, peer: &str) -> Result<(), Error> {
        let message = LinkVeth::new(name, peer).build();
        let action = || format!("create the veth pair {name} and {peer}");
        request(action, self.handle.link().add(message).execute()).await
    }

    /// Creates a `vxlan external` device, down. Its checksums are as the
    /// dataplane's: none outside over IPv4 and, both ways, none over IPv6.
    pub async fn create_vxlan(&self, device: &ExternalVxlan<'_>) -> Result<(), Error> {
        let ExternalVxlan {
            name,
            port,
            gbp,
            mtu,
        } = *device;
        let message = LinkVxlan::new(name, 0)
            .collect_metadata(true)
            .port(port)
            .learning(false)
            .udp_csum(false)
            .udp_zero_csum6_tx(true)
            .udp_zero_csum6_rx(true)
            .mtu(mtu);
        let message = if gbp { message.gbp() } else { message };
        let message = message.build();
        let action = || format!("create the VXLAN device {name} on UDP port {port}");
        request(action, self.handle.link().add(message).execute()).await
    }

    /// Changes a link.
    pub async fn change_link(&self, index: u32, change: &LinkChange) -> Result<(), Error> {
        // In a request of its own: the kernel would bring the link up first.
        if change.no_link_local {
            self.forgo_link_local(index).await?;
        }
        let mut message = LinkUnspec::new_with_index(index);
        if let Some(name) = &change.name {
            message = message.name(name);
        }
        if let Some(mac) = change.mac {
            message = message.address(mac.0.to_vec());
        }
        if let Some(mtu) = change.mtu {
            message = message.mtu(mtu);
        }
        message = match change.up {
            Some(true) => message.up(),
            Some(false) => message.down(),
            None => message,
        };
        let action = || format!("configure the interface with index {index}");
        request(action, self.handle.link().set(message.build()).execute()).await
    }

    async fn forgo_link_local(&self, index: u32) -> Result<(), Error> {
        let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let inet6 = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])]);
        let message = LinkUnspec::new_with_index(index).append_extra_attribute(inet6);
        let action = || format!("keep IPv6 off the interface with index {index}");
        match request(action, self.handle.link().set(message.build()).execute()).await {
            // This kernel has no IPv6.
            Err(error) if error.is(Errno::EAFNOSUPPORT) || error.is(Errno::EOPNOTSUPP) => Ok(()),
            other => other,
        }
    }

    /// Deletes a link; with one end of a veth pair, the other goes too.
    pub async fn delete_link(&self, index: u32) -> Result<(), Error> {
        let action = || format!("delete the interface with index {index}");
        request(action, self.handle.link().del(index).execute()).await
    }
}
