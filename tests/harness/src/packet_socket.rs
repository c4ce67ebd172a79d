//! Whole frames to and from a device, as its driver would carry them.

use std::{
    io::ErrorKind,
    net::UdpSocket,
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, bind, socket},
};

use crate::netns::Netns;

/// A packet socket on one device.
#[derive(Debug)]
pub struct PacketSocket {
    // std drives any datagram socket.
    socket: UdpSocket,
}

impl PacketSocket {
    /// Opens it on a device of this namespace.
    pub fn open(netns: &Netns, device: &str) -> Result<Self> {
        netns
            .enter(|| Self::open_here(device))?
            .with_context(|| format!("opening a packet socket on {device} in {}", netns.name()))
    }

    fn open_here(device: &str) -> Result<Self> {
        let address = getifaddrs()?
            .filter(|interface| interface.interface_name == device)
            .find_map(|interface| interface.address?.as_link_addr().copied())
            .context("there is no such device")?;
        let socket: OwnedFd = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )?;
        bind(socket.as_raw_fd(), &address)?;
        Ok(Self {
            socket: UdpSocket::from(socket),
        })
    }

    /// Sends a frame, as it is.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.socket.send(frame).context("sending a frame")?;
        Ok(())
    }

    /// The next frame that `wanted` says yes to, or `None` after `patience`.
    pub fn receive(
        &self,
        patience: Duration,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Vec<u8>>> {
        let end = Instant::now() + patience;
        let mut buffer = vec![0; 65_536];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut buffer) {
                Ok(length) if wanted(&buffer[..length]) => {
                    return Ok(Some(buffer[..length].to_vec()));
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => bail!("receiving frames: {error}"),
            }
        }
    }
}
