//! Network namespaces with a name, gone when dropped.

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::{
    names,
    process::{Finished, finish_within},
};

/// How long a configuration command may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A network namespace of ours.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// A new one with `lo` up, no IPv6 (its noise would stand in captures), and
    /// a congestion control that does not pace, as BBR does.
    pub fn new(what: &str) -> Result<Self> {
        names::sweep_once();
        let name = names::unique(what);
        finish_within(Command::new("ip").args(["netns", "add", &name]), LIMIT)?
            .success()
            .context("making a network namespace (this needs root)")?;
        let netns = Self { name };
        netns.ip("link set lo up")?;
        for (key, value) in [
            ("net/ipv6/conf/all/disable_ipv6", "1"),
            ("net/ipv6/conf/default/disable_ipv6", "1"),
            ("net/ipv4/tcp_congestion_control", "reno"),
        ] {
            netns.sysctl(key, value)?;
        }
        Ok(netns)
    }

    /// Its name, unique on this machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is bind-mounted.
    pub fn path(&self) -> PathBuf {
        Path::new(names::NETNS_DIRECTORY).join(&self.name)
    }

    /// A command that runs inside. The mount namespace stays the machine's, so
    /// that bpffs and other namespaces can be reached.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        command_in(&self.path(), program)
    }

    /// Runs a command line inside, split at spaces; an error unless it succeeds
    /// within `limit`.
    pub fn run_within(&self, line: &str, limit: Duration) -> Result<Finished> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        finish_within(self.command(program).args(words), limit)?.success()
    }

    /// Runs a short command line inside.
    pub fn run(&self, line: &str) -> Result<Finished> {
        self.run_within(line, LIMIT)
    }

    /// Runs `ip` inside.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        self.run(&format!("ip {arguments}")).map(drop)
    }

    /// Writes a setting below `/proc/sys`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("writing {value} to {}", path.display()))
    }

    /// Runs `inside` on a thread of its own in this namespace. Sockets opened
    /// there stay in it, whoever uses them later.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path())
            .with_context(|| format!("opening {}", self.path().display()))?;
        thread::scope(|scope| {
            let thread = scope.spawn(move || -> Result<T> {
                setns(file, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
                Ok(inside())
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Joins two namespaces by a veth pair, both ends up.
    pub fn join(&self, device: &str, other: &Self, other_device: &str, mtu: u32) -> Result<()> {
        self.ip(&format!(
            "link add {device} mtu {mtu} type veth peer name {other_device} mtu {mtu} netns {}",
            other.name
        ))?;
        self.ip(&format!("link set {device} up"))?;
        other.ip(&format!("link set {other_device} up"))
    }

    /// Gives a device an address.
    pub fn address(&self, device: &str, ip: Ipv4Addr, prefix: u8) -> Result<()> {
        self.ip(&format!("addr add {ip}/{prefix} dev {device}"))
    }

    /// Turns offloads of a device on or off, as `ethtool -K` takes them:
    /// `offloads("eth0", "tx off tso off gso off")`.
    pub fn offloads(&self, device: &str, settings: &str) -> Result<()> {
        self.run(&format!("ethtool -K {device} {settings}"))
            .map(drop)
    }
}

/// A command that runs in the network namespace that is this file.
pub(crate) fn command_in(netns: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", netns.display()))
        .arg("--")
        .arg(program);
    command
}

impl Drop for Netns {
    fn drop(&mut self) {
        let removed = finish_within(Command::new("ip").args(["netns", "del", &self.name]), LIMIT);
        if let Err(error) = removed.and_then(Finished::success) {
            eprintln!(
                "the network namespace {} stays behind: {error:#}",
                self.name
            );
        }
    }
}
