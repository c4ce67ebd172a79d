//! One machine of the experiment.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    capture::Capture,
    daemon::{Daemon, DaemonOptions},
    names,
    netns::Netns,
};

/// A network namespace that plays a machine, with directories of its own.
#[derive(Debug)]
pub struct Host {
    netns: Netns,
    ip: Ipv4Addr,
    port: String,
    directory: PathBuf,
}

impl Host {
    pub(crate) fn new(name: &str, ip: Ipv4Addr, port: &str, lab: &Path) -> Result<Self> {
        let netns = Netns::new(name)?;
        let directory = lab.join(name);
        fs::create_dir(&directory).with_context(|| {
            format!(
                "creating {} (are two hosts called {name}?)",
                directory.display()
            )
        })?;
        Ok(Self {
            netns,
            ip,
            port: port.to_owned(),
            directory,
        })
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its underlay address.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// The switch's port that it is plugged into.
    pub(crate) fn port(&self) -> &str {
        &self.port
    }

    /// A directory for its files, gone with the lab.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where its daemon keeps pins, gone with the host.
    pub fn bpffs(&self) -> PathBuf {
        names::bpffs(self.netns.name())
    }

    /// Starts a daemon and waits until it answers.
    pub fn daemon(&self) -> Result<Daemon> {
        self.daemon_with(&DaemonOptions::default())
    }

    /// Starts a daemon with these options and waits until it answers.
    pub fn daemon_with(&self, options: &DaemonOptions) -> Result<Daemon> {
        Daemon::start(self, options)
    }

    /// Starts a daemon that is to end by itself with status 1, and returns what
    /// it said.
    pub fn daemon_refused(&self, options: &DaemonOptions) -> Result<String> {
        Daemon::refused(self, options)
    }

    /// Records what passes a device from now on; `filter` as tcpdump takes it.
    pub fn capture(&self, device: &str, filter: &str) -> Result<Capture> {
        Capture::start(&self.netns, device, filter, &self.directory)
    }

    /// Runs a command line inside, split at spaces; an error unless it succeeds
    /// within 20 s.
    pub fn run(&self, line: &str) -> Result<String> {
        Ok(self.netns.run_within(line, Duration::from_secs(20))?.stdout)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        match fs::remove_dir_all(self.bpffs()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                eprintln!(
                    "the pins in {} stay behind: {error}",
                    self.bpffs().display()
                );
            }
            _ => {}
        }
    }
}
