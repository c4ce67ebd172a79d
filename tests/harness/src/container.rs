//! What is attached to networks.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    capture::Capture,
    netns::Netns,
    ping::{Ping, PingReport, Pinger},
    process::Running,
};

/// A network namespace that plays a container.
#[derive(Debug)]
pub struct Container {
    netns: Netns,
    name: String,
    directory: PathBuf,
}

impl Container {
    pub(crate) fn new(name: &str, lab: &Path) -> Result<Self> {
        let netns = Netns::new(name)?;
        let directory = lab.join(netns.name());
        fs::create_dir(&directory).with_context(|| format!("creating {}", directory.display()))?;
        Ok(Self {
            netns,
            name: name.to_owned(),
            directory,
        })
    }

    /// What the test calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Runs a command line inside, split at spaces; an error unless it succeeds
    /// within 20 s.
    pub fn run(&self, line: &str) -> Result<String> {
        Ok(self.netns.run_within(line, Duration::from_secs(20))?.stdout)
    }

    /// Starts a process inside that ends with the returned value.
    pub fn start(&self, program: &str, arguments: &[&str]) -> Result<Running> {
        let mut command: Command = self.netns.command(program);
        Running::start(
            command.args(arguments),
            &self.directory.join(format!("{program}.log")),
        )
    }

    /// Pings and returns what came back.
    pub fn ping(&self, ping: Ping) -> Result<PingReport> {
        ping.run(&self.netns)
    }

    /// An error unless `count` pings, one each 5 ms, are all answered.
    pub fn must_reach(&self, to: Ipv4Addr, count: u32) -> Result<()> {
        let report = self.ping(Ping::new(to).count(count))?;
        anyhow::ensure!(
            report.is_lossless(),
            "{} cannot reach {to}: {report}",
            self.name
        );
        Ok(())
    }

    /// An error if even one of `count` pings is answered.
    pub fn must_not_reach(&self, to: Ipv4Addr, count: u32) -> Result<()> {
        let report = self.ping(Ping::new(to).count(count).patience(Duration::from_secs(1)))?;
        anyhow::ensure!(
            report.received == 0,
            "{} can reach {to}: {report}",
            self.name
        );
        Ok(())
    }

    /// Pings, one each 5 ms, until told to stop.
    pub fn pinger(&self, to: Ipv4Addr) -> Result<Pinger> {
        Pinger::start(&self.netns, to)
    }

    /// Records what passes a device from now on; `filter` as tcpdump takes it.
    pub fn capture(&self, device: &str, filter: &str) -> Result<Capture> {
        Capture::start(&self.netns, device, filter, &self.directory)
    }
}
