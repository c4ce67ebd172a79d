//! A VTEP that sends whatever a test writes.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use vxplane_tests::harness::{
    Host, Lab,
    frame::{self, IPV4, UDP},
    udp_socket,
};

use crate::site::{Member, Site, blue};

const PORT: u16 = 4789;

/// A host without vxplane or any `vxlan` device: it sends what it is told to.
pub(crate) struct RawVtep {
    ip: Ipv4Addr,
    socket: UdpSocket,
}

impl RawVtep {
    pub(crate) fn new(host: &Host) -> Result<Self> {
        let socket = udp_socket(host.netns(), host.ip())?;
        let ip = host.ip();
        Ok(Self { ip, socket })
    }

    /// One that the site's daemon has as a peer, in all networks.
    pub(crate) fn peer_of(lab: &Lab, site: &Site) -> Result<Self> {
        let host = lab.host("peer")?;
        site.daemon.peer(host.ip())?;
        Self::new(&host)
    }

    /// Its underlay address.
    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// From now on its packets have this outer TOS byte.
    pub(crate) fn set_tos(&self, tos: u8) -> Result<()> {
        setsockopt(&self.socket, sockopt::Ipv4Tos, &i32::from(tos))?;
        Ok(())
    }

    /// Sends the payload of one UDP datagram to a VTEP.
    pub(crate) fn send(&self, to: Ipv4Addr, payload: &[u8]) -> Result<()> {
        let sent = self.socket.send_to(payload, SocketAddrV4::new(to, PORT))?;
        ensure!(sent == payload.len());
        Ok(())
    }
}

/// A frame for this member, from a station that nobody knows, with a datagram
/// that a socket waits for.
pub(crate) struct Letter {
    pub(crate) frame: Vec<u8>,
    receiver: UdpSocket,
}

impl Letter {
    const TEXT: &[u8] = b"to whom it may concern";

    pub(crate) fn to(member: &Member) -> Result<Self> {
        let receiver = udp_socket(member.netns(), Ipv4Addr::UNSPECIFIED)?;
        let port = receiver.local_addr()?.port();
        let datagram = frame::udp(7, port, Self::TEXT);
        let packet = frame::ipv4(blue(200), member.ip(), UDP, &datagram);
        let frame = frame::ethernet(member.mac()?, [2, 0, 0, 0, 0, 200], IPV4, &packet);
        Ok(Self { frame, receiver })
    }

    /// Whether it does within this time.
    pub(crate) fn arrives(&self, patience: Duration) -> Result<bool> {
        self.receiver.set_read_timeout(Some(patience))?;
        let mut buffer = [0; 100];
        match self.receiver.recv(&mut buffer) {
            Ok(length) => {
                ensure!(&buffer[..length] == Self::TEXT, "another text arrived");
                Ok(true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error).context("waiting for a datagram"),
        }
    }
}
