//! Services that packages bring along: tests run their own daemons in their own
//! namespaces, so the machine gets none, neither now nor at its next boot.

use std::{
    collections::BTreeSet, fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path,
    process::Command,
};

use anyhow::{Context, Result};

use crate::process;

/// Where Debian asks whether a package may start its services.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// The policy while we install.
const START_NOTHING: &str = "#!/bin/sh\n# by cargo xtask, while it installs packages\nexit 101\n";

/// There while systemd runs the machine.
const SYSTEMD: &str = "/run/systemd/system";

/// Keeps packages that are installed while it lives from starting services, and
/// in the end disables what they enabled. What was enabled before stays so, as
/// does a policy of the machine's own.
pub(super) struct QuietServices {
    policy_is_ours: bool,
    /// `None` on a machine without systemd.
    enabled_before: Option<BTreeSet<String>>,
}

impl QuietServices {
    /// From now on.
    pub(super) fn begin() -> Result<Self> {
        let enabled_before = enabled_units()?;
        Ok(Self {
            policy_is_ours: write_policy()?,
            enabled_before,
        })
    }

    fn disable_new_units(&self) -> Result<()> {
        let (Some(before), Some(now)) = (&self.enabled_before, enabled_units()?) else {
            return Ok(());
        };
        let new: Vec<_> = now.difference(before).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut disable = systemctl();
        process::stdout_of(disable.arg("disable").args(&new))?;
        eprintln!("installed, and left disabled: {}", join(&new));
        Ok(())
    }
}

impl Drop for QuietServices {
    fn drop(&mut self) {
        if let Err(error) = self.disable_new_units() {
            eprintln!("services of the new packages may start at the next boot: {error:#}");
        }
        if self.policy_is_ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("{POLICY} stays behind, remove it: {error}");
        }
    }
}

/// Whether it is ours: the machine's own stays in force.
fn write_policy() -> Result<bool> {
    if Path::new(POLICY).exists() {
        let left_by_a_killed_run = fs::read_to_string(POLICY).is_ok_and(|it| it == START_NOTHING);
        return Ok(left_by_a_killed_run);
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o755)
        .open(POLICY)
        .with_context(|| format!("creating {POLICY}"))?;
    file.write_all(START_NOTHING.as_bytes())?;
    Ok(true)
}

/// Services and sockets that start at boot; `None` without systemd.
fn enabled_units() -> Result<Option<BTreeSet<String>>> {
    if process::find_program("systemctl").is_none() {
        return Ok(None);
    }
    let printed = process::stdout_of(systemctl().args([
        "list-unit-files",
        "--type=service,socket",
        "--state=enabled",
        "--no-legend",
        "--plain",
        "--no-pager",
    ]))?;
    let units = printed.lines().filter_map(|line| line.split(' ').next());
    Ok(Some(units.map(str::to_owned).collect()))
}

/// Where another init runs, or none as in a container, it works on the files.
fn systemctl() -> Command {
    let mut command = Command::new("systemctl");
    if !Path::new(SYSTEMD).is_dir() {
        command.arg("--root=/");
    }
    command
}

fn join(units: &[&String]) -> String {
    let units: Vec<&str> = units.iter().map(|unit| unit.as_str()).collect();
    units.join(" ")
}
