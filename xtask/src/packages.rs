//! Programs the tests need besides Rust: looked for by name, installed with apt
//! where they are missing.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::process;

/// What each program of the tests comes with on Debian.
const PROGRAMS: [(&str, &str); 13] = [
    ("bpftool", "bpftool"),
    ("dockerd", "docker.io"),
    ("docker", "docker.io"),
    ("ovs-vswitchd", "openvswitch-switch"),
    ("ovsdb-server", "openvswitch-switch"),
    ("iperf3", "iperf3"),
    ("tcpdump", "tcpdump"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("bridge", "iproute2"),
    ("ping", "iputils-ping"),
    ("nsenter", "util-linux"),
    ("iptables", "iptables"),
];

/// Containers hold nothing else, so it must need no libraries.
const STATIC_BUSYBOX: (&str, &str) = ("busybox", "busybox-static");

/// Where Debian asks whether a package may start its services.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// The policy while we install: tests run their own daemons in their own
/// namespaces, the machine's are left as they are.
const START_NOTHING: &str =
    "#!/bin/sh\n# by cargo xtask test, while it installs packages\nexit 101\n";

/// Installs what is missing, or says what to install.
pub(crate) fn ensure() -> Result<()> {
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.iter().copied().collect::<Vec<_>>().join(" ");
    if process::find_program("apt-get").is_none() {
        bail!(
            "programs of these Debian packages are missing, and there is no apt here: {list}\n\
             Install what your distribution calls them and try again."
        );
    }
    ensure!(
        process::is_root(),
        "packages are missing, and only root may install them: apt-get install {list}"
    );
    eprintln!("installing {list}");
    let _policy = ServicePolicy::start_nothing()?;
    if install(&packages).is_err() {
        // The lists are missing or old.
        process::run(apt().args(["update", "--quiet=2"]))?;
        install(&packages)
            .with_context(|| format!("installing packages; by hand: apt-get install {list}"))?;
    }
    let still = missing();
    ensure!(
        still.is_empty(),
        "apt installed {list}, but programs of {still:?} are not there"
    );
    Ok(())
}

fn missing() -> BTreeSet<&'static str> {
    let programs = PROGRAMS
        .iter()
        .filter(|(program, _)| process::find_program(program).is_none());
    let mut packages: BTreeSet<_> = programs.map(|(_, package)| *package).collect();
    let (busybox, package) = STATIC_BUSYBOX;
    if !process::find_program(busybox).is_some_and(|file| is_static(&file)) {
        packages.insert(package);
    }
    packages
}

/// The dynamic linker refuses what is not linked dynamically.
fn is_static(file: &Path) -> bool {
    let mut ldd = Command::new("ldd");
    ldd.arg(file).stdout(Stdio::null()).stderr(Stdio::null());
    ldd.status().is_ok_and(|status| !status.success())
}

fn install(packages: &BTreeSet<&str>) -> Result<()> {
    let mut command = apt();
    command
        .args(["install", "--yes", "--no-install-recommends", "--quiet=2"])
        .args(packages);
    process::run(&mut command)
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Another apt may be at work, as on a machine that has just booted.
        .args(["-o", "DPkg::Lock::Timeout=300"]);
    command
}

/// Keeps packages from starting services until dropped; a policy of the
/// machine's own is left in force.
struct ServicePolicy {
    ours: bool,
}

impl ServicePolicy {
    fn start_nothing() -> Result<Self> {
        let left_by_a_killed_run = fs::read_to_string(POLICY).is_ok_and(|it| it == START_NOTHING);
        if Path::new(POLICY).exists() {
            return Ok(Self {
                ours: left_by_a_killed_run,
            });
        }
        let mut file = fs::OpenOptions::new();
        let mut file = file
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(POLICY)
            .with_context(|| format!("creating {POLICY}"))?;
        std::io::Write::write_all(&mut file, START_NOTHING.as_bytes())?;
        Ok(Self { ours: true })
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        if let Err(error) = fs::remove_file(POLICY) {
            eprintln!("{POLICY} stays behind, remove it: {error}");
        }
    }
}
