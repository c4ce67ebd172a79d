//! What was measured on: facts that a report needs so that two of them can be
//! compared, and how busy the machine is besides us.

use std::{fmt, fs, process::Command, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{process, workspace::Workspace};

/// Kernel, processors, commit and load at the start of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    kernel: String,
    processor: String,
    cpus: usize,
    commit: String,
    /// The load averages over 1, 5 and 15 minutes.
    load: String,
    /// UTC, sortable, fit for a file name.
    started: String,
}

impl Machine {
    /// Reads them from `/proc` and git.
    pub(crate) fn observe(workspace: &Workspace) -> Result<Self> {
        let cpuinfo = read("/proc/cpuinfo")?;
        let values = |key: &str| -> Vec<String> {
            cpuinfo
                .lines()
                .filter_map(|line| line.split_once(':'))
                .filter(|(name, _)| name.trim() == key)
                .map(|(_, value)| value.trim().to_owned())
                .collect()
        };
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            processor: values("model name")
                .into_iter()
                .next()
                .unwrap_or_else(|| "unknown".to_owned()),
            cpus: values("processor").len(),
            commit: commit(workspace)?,
            load: load()?,
            started: process::stdout_of(Command::new("date").args(["-u", "+%Y%m%dT%H%M%SZ"]))?
                .trim()
                .to_owned(),
        })
    }

    /// When this was observed: UTC, sortable, fit for a file name.
    pub(crate) fn started(&self) -> &str {
        &self.started
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Linux {}, {} × {}, commit {}, load {}",
            self.kernel, self.cpus, self.processor, self.commit, self.load
        )
    }
}

/// The short commit, with `-dirty` when the tree has changes. A source archive
/// has none: not an error, but it shows.
fn commit(workspace: &Workspace) -> Result<String> {
    if !workspace.root().join(".git").exists() {
        return Ok("none".to_owned());
    }
    let mut git = Command::new("git");
    git.current_dir(workspace.root())
        .args(["describe", "--always", "--dirty"]);
    Ok(process::stdout_of(&mut git)?.trim().to_owned())
}

/// The three load averages: what else is going on.
pub(crate) fn load() -> Result<String> {
    let line = read("/proc/loadavg")?;
    Ok(line.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// Time all processors together were busy since boot: neither idle nor waiting
/// for a disk nor taken away by the hypervisor.
pub(crate) fn busy() -> Result<Duration> {
    busy_ticks(&read("/proc/stat")?)
        .map(|ticks| Duration::from_millis(ticks * 10))
        .context("/proc/stat has no line for all processors")
}

/// The sum of user, nice, system, irq and softirq. Guest time is in user.
/// A tick of `/proc` is 1/100 s on every architecture Linux has today.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else {
        return None;
    };
    Some(user + nice + system + irq + softirq)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {path}"))
}

#[cfg(test)]
impl Machine {
    /// For tests of what is done with it.
    pub(crate) fn unknown() -> Self {
        let unknown = || "unknown".to_owned();
        Self {
            kernel: unknown(),
            processor: unknown(),
            cpus: 1,
            commit: unknown(),
            load: unknown(),
            started: unknown(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_leaves_out_idle_iowait_and_steal() {
        let stat = "cpu  1 2 4 1000 2000 8 16 4000 0 0\ncpu0 9 9 9 9 9 9 9 9 0 0\n";
        assert_eq!(busy_ticks(stat), Some(31));
        assert_eq!(busy_ticks("intr 5\n"), None);
        assert_eq!(busy_ticks("cpu  1 2 3\n"), None);
    }

    #[test]
    fn busy_time_never_runs_backwards() -> Result<()> {
        let before = busy()?;
        assert!(busy()? >= before);
        Ok(())
    }
}
