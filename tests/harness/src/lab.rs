//! One experiment: a switch and what is plugged into it.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU8, Ordering},
};

use anyhow::{Context, Result};

use crate::{container::Container, daemon, host::Host, names, netns::Netns};

/// The underlay: `10.99.0.0/24`, the switch has `.1`, hosts from `.11` on.
const UNDERLAY: [u8; 3] = [10, 99, 0];

/// Prefix length of the underlay.
pub(crate) const UNDERLAY_PREFIX: u8 = 24;

/// A switch (a bridge in a namespace of its own) and a directory for files.
/// Must outlive what is plugged into it: make it first.
#[derive(Debug)]
pub struct Lab {
    switch: Netns,
    directory: PathBuf,
    mtu: u32,
    hosts: AtomicU8,
    shows_logs: bool,
}

impl Lab {
    /// An underlay with an MTU of 1500.
    pub fn new() -> Result<Self> {
        Self::with_mtu(1500)
    }

    /// An underlay with this MTU in bytes.
    pub fn with_mtu(mtu: u32) -> Result<Self> {
        let switch = Netns::new("switch")?;
        let directory = names::directory(switch.name());
        fs::create_dir_all(&directory)
            .with_context(|| format!("creating {}", directory.display()))?;
        let lab = Self {
            switch,
            directory,
            mtu,
            hosts: AtomicU8::new(0),
            shows_logs: false,
        };
        lab.switch
            .ip("link add underlay type bridge mcast_snooping 0")?;
        lab.switch.ip(&format!("link set underlay mtu {mtu} up"))?;
        lab.switch.address("underlay", gateway(), UNDERLAY_PREFIX)?;
        Ok(lab)
    }

    /// Prints at the end what the daemons logged. The test harness of Rust shows
    /// it where a test failed.
    pub fn show_logs(&mut self) {
        self.shows_logs = true;
    }

    /// A host with `eth0` on the switch, an address and a default route.
    pub fn host(&self, name: &str) -> Result<Host> {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed);
        let [a, b, c] = UNDERLAY;
        let ip = Ipv4Addr::new(a, b, c, 11 + number);
        let port = format!("port{number}");
        let host = Host::new(name, ip, &port, &self.directory)?;
        host.netns().join("eth0", &self.switch, &port, self.mtu)?;
        self.switch
            .ip(&format!("link set {port} master underlay"))?;
        host.netns().address("eth0", ip, UNDERLAY_PREFIX)?;
        host.netns()
            .ip(&format!("route add default via {}", gateway()))?;
        Ok(host)
    }

    /// From now on the wire to and from this host carries what a real one does:
    /// packets no larger than the MTU, their checksums complete.
    pub fn complete_packets_only(&self, host: &Host) -> Result<()> {
        let off = "tx off tso off gso off";
        host.netns().offloads("eth0", off)?;
        self.switch.offloads(host.port(), off)
    }

    /// A container: a network namespace with nothing but `lo`.
    pub fn container(&self, name: &str) -> Result<Container> {
        Container::new(name, &self.directory)
    }

    /// The switch's namespace.
    pub fn switch(&self) -> &Netns {
        &self.switch
    }

    /// The MTU of the underlay in bytes.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// A directory for files, gone with the lab.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Prints the logs of all daemons.
fn show_logs(lab: &Path) {
    for host in fs::read_dir(lab).into_iter().flatten().flatten() {
        let log = host.path().join(daemon::LOG);
        if let Ok(text) = fs::read_to_string(&log) {
            eprintln!("--- the daemon on {}:", host.file_name().display());
            eprint!("{text}");
        }
    }
}

/// The switch's own address.
fn gateway() -> Ipv4Addr {
    let [a, b, c] = UNDERLAY;
    Ipv4Addr::new(a, b, c, 1)
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.shows_logs {
            show_logs(&self.directory);
        }
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!(
                "the directory {} stays behind: {error}",
                self.directory.display()
            );
        }
    }
}
