//! `cargo xtask run`: the daemon on this host.

use std::{os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    build::{self, Profile},
    process,
    workspace::Workspace,
};

/// Builds the daemon and becomes it.
pub(crate) fn daemon(workspace: &Workspace, flags: &[String]) -> Result<()> {
    build::ebpf(workspace)?;
    let binary = build::daemon(workspace, Profile::Release)?;
    let mut command = if process::is_root() {
        Command::new(&binary)
    } else if let Some(sudo) = process::find_program("sudo") {
        eprintln!("the daemon needs root: starting it with sudo");
        let mut command = Command::new(sudo);
        command.arg(&binary);
        command
    } else {
        bail!(
            "the daemon needs root, and there is no sudo here; it is built: as root, run\n  {} daemon {}",
            binary.display(),
            flags.join(" ")
        );
    };
    command.arg("daemon").args(flags);
    eprintln!("starting `{}`", process::line(&command));
    // Returns only if it could not be started.
    Err(command.exec()).with_context(|| format!("starting `{}`", process::line(&command)))
}
