//! Hosts with a daemon, and containers in its networks.

use std::{
    net::Ipv4Addr,
    ops::Deref,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use vxplane_tests::harness::{
    Container, Daemon, DaemonOptions, Endpoint, Host, Lab, Ping, frame::parse_mac,
};

/// The VNI of the network that most tests use.
pub(crate) const BLUE: u32 = 7;

/// A lab that shows what the daemons said when the test fails.
pub(crate) fn lab() -> Result<Lab> {
    let mut lab = Lab::new()?;
    lab.show_logs();
    Ok(lab)
}

/// The address with this last byte in the network `blue`.
pub(crate) fn blue(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 50, 0, last)
}

/// The same in the network `red`, of those tests that have a second one.
pub(crate) fn red(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 51, 0, last)
}

/// A host that runs vxplane.
pub(crate) struct Site {
    // Dropped in this order: the daemon before the namespace it runs in.
    pub(crate) daemon: Daemon,
    pub(crate) host: Host,
}

impl Site {
    /// With these flags of `vxplane daemon`, and the network `blue`.
    pub(crate) fn new(lab: &Lab, name: &str, flags: &str) -> Result<Self> {
        let host = lab.host(name)?;
        let daemon = host.daemon_with(&DaemonOptions::default().flags(flags))?;
        daemon.network("blue", "10.50.0.0/24", BLUE)?;
        Ok(Self { daemon, host })
    }

    /// Its VTEP address.
    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.host.ip()
    }

    /// A container in `blue`, at the address with this last byte.
    pub(crate) fn member(&self, lab: &Lab, name: &str, last: u8) -> Result<Member> {
        self.member_of(lab, name, "blue", blue(last))
    }

    /// A container in a network, at this address.
    pub(crate) fn member_of(
        &self,
        lab: &Lab,
        name: &str,
        network: &str,
        ip: Ipv4Addr,
    ) -> Result<Member> {
        let container = lab.container(name)?;
        let endpoint = self
            .daemon
            .attach_at(&container, network, &ip.to_string())?;
        ensure!(endpoint.ip == ip, "asked for {ip}, it has {endpoint:?}");
        Ok(Member {
            container,
            endpoint,
        })
    }

    /// The host's side of all attached containers' veth pairs.
    pub(crate) fn host_veths(&self) -> Result<Vec<String>> {
        let links = self.host.run("ip -o link show type veth")?;
        // `7: vxp0123456789ab@if2: <BROADCAST,…`
        let names = links
            .lines()
            .filter_map(|line| line.split([' ', '@']).nth(1));
        let ours = names.filter(|name| name.starts_with("vxp"));
        Ok(ours.map(str::to_owned).collect())
    }
}

/// Hosts that are peers of one another, in all networks.
pub(crate) fn sites<const N: usize>(lab: &Lab, flags: &str) -> Result<[Site; N]> {
    let mut sites = Vec::new();
    for name in ["a", "b", "c"].iter().take(N) {
        sites.push(Site::new(lab, name, flags)?);
    }
    for site in &sites {
        for other in sites.iter().filter(|other| other.ip() != site.ip()) {
            site.daemon.peer(other.ip())?;
        }
    }
    let sites: Result<[Site; N], _> = sites.try_into();
    sites.ok().context("there are three names only")
}

/// An attached container.
pub(crate) struct Member {
    container: Container,
    pub(crate) endpoint: Endpoint,
}

impl Member {
    /// Its address.
    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.endpoint.ip
    }

    /// Its MAC address.
    pub(crate) fn mac(&self) -> Result<[u8; 6]> {
        let text = &self.endpoint.mac;
        parse_mac(text).with_context(|| format!("{text} is no MAC address"))
    }
}

impl Deref for Member {
    type Target = Container;

    fn deref(&self) -> &Container {
        &self.container
    }
}

/// An error unless pings of all these payload sizes are answered.
pub(crate) fn must_reach_with(from: &Container, to: Ipv4Addr, sizes: &[usize]) -> Result<()> {
    for &size in sizes {
        // A busy Open vSwitch drops what its packet sockets cannot hold: all
        // fragments of ten large pings at once.
        let spacing = Duration::from_millis(if size > 4000 { 50 } else { 5 });
        let report = from.ping(Ping::new(to).size(size).spacing(spacing))?;
        ensure!(
            report.is_lossless(),
            "{} to {to} with {size} bytes: {report}",
            from.name()
        );
    }
    Ok(())
}

/// Waits until something holds that takes a moment to become true.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let limit = Duration::from_secs(10);
    let end = Instant::now() + limit;
    while !holds().with_context(|| format!("asking whether {what}"))? {
        ensure!(Instant::now() < end, "after {limit:?} still not: {what}");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
