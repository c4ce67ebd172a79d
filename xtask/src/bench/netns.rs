//! Network namespaces of ours: made, configured, entered, and removed again.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::process::run;

/// Where `ip netns` keeps them.
const DIRECTORY: &str = "/run/netns";

/// Names start with this and the process ID of the bench that made them.
const PREFIX: &str = "vxbench";

/// A network namespace, removed when dropped.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    /// Makes one with loopback up and the settings all variants share.
    pub(crate) fn create(role: &str) -> Result<Self> {
        let name = format!("{PREFIX}{}-{role}", process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let netns = Self { name };
        netns.ip("link set lo up")?;
        for (key, value) in SETTINGS {
            netns.set(key, value)?;
        }
        Ok(netns)
    }

    /// The name by which `ip` knows it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Runs `ip` in it. Arguments are separated by blanks.
    pub(crate) fn ip(&self, arguments: &str) -> Result<()> {
        run(Command::new("ip")
            .args(["-n", &self.name])
            .args(arguments.split_whitespace()))
    }

    /// Runs `bridge` in it. Arguments are separated by blanks.
    pub(crate) fn bridge(&self, arguments: &str) -> Result<()> {
        run(Command::new("bridge")
            .args(["-n", &self.name])
            .args(arguments.split_whitespace()))
    }

    /// Sets a file below `/proc/sys/net`, unless this kernel does not have it.
    pub(crate) fn set(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(key);
        self.enter(|| {
            if path.exists() {
                fs::write(&path, value).with_context(|| format!("setting {}", path.display()))?;
            }
            Ok(())
        })
    }

    /// Calls it on a thread of its own in the namespace.
    fn enter<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(self.path())
            .with_context(|| format!("opening {}", self.path().display()))?;
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(file, CloneFlags::CLONE_NEWNET).context("entering a namespace")?;
                    inside()
                })
                .join()
                .map_err(|_| anyhow!("a thread in {} panicked", self.name))?
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// What distorts runs or differs between machines. The default congestion
/// control of a machine may pace (bbr), which on veth measures timers; IPv6
/// would add multicast of its own; bridge netfilter makes the kernel's path
/// slower than it has to be. Reno is the one that every kernel allows in a
/// namespace.
const SETTINGS: [(&str, &str); 5] = [
    ("ipv4/tcp_congestion_control", "reno"),
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("bridge/bridge-nf-call-iptables", "0"),
    ("bridge/bridge-nf-call-arptables", "0"),
];

/// Removes what a bench left behind that was killed before it could tidy up.
pub(crate) fn remove_abandoned() {
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        return;
    };
    for entry in entries.flatten() {
        if let Some(name) = entry.file_name().to_str()
            && maker(name).is_some_and(|pid| !Path::new("/proc").join(pid).exists())
        {
            eprintln!("removing the namespace {name} of a bench that is gone");
            remove(name);
        }
    }
}

/// The process ID in the name of a namespace of ours.
fn maker(name: &str) -> Option<&str> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    (!pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())).then_some(pid)
}

/// In a process group of its own: a second Ctrl-C must not interrupt it.
fn remove(name: &str) {
    let mut ip = Command::new("ip");
    ip.args(["netns", "del", name]).process_group(0);
    if let Err(error) = run(&mut ip) {
        eprintln!("{error:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_name_a_maker() {
        assert_eq!(maker("vxbench77-kernel-a"), Some("77"));
        for foreign in ["vxbench-a", "vxbench7", "vxbenchx7-a", "vx7-a", "host"] {
            assert_eq!(maker(foreign), None, "{foreign}");
        }
    }
}
