//! `cargo xtask run`: the daemon on this host.

use std::{env, os::unix::process::CommandExt as _, process::Command};

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
        let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        command.args(preserve_env(names)).arg(&binary);
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

/// What has sudo pass on the settings of the daemon that are in the environment.
fn preserve_env(names: impl Iterator<Item = String>) -> Option<String> {
    let names: Vec<_> = names.filter(|name| is_setting(name)).collect();
    (!names.is_empty()).then(|| format!("--preserve-env={}", names.join(",")))
}

fn is_setting(name: &str) -> bool {
    name.starts_with("VXPLANE_") || ["RUST_LOG", "RUST_BACKTRACE"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::preserve_env;

    #[test]
    fn sudo_passes_on_settings_and_nothing_else() {
        let names = |names: &[&str]| preserve_env(names.iter().map(|&it| it.to_owned()));
        assert_eq!(
            names(&["HOME", "RUST_LOG", "PATH", "VXPLANE_SOCKET"]).as_deref(),
            Some("--preserve-env=RUST_LOG,VXPLANE_SOCKET")
        );
        assert_eq!(names(&["HOME", "XVXPLANE_", "LD_PRELOAD"]), None);
    }
}
