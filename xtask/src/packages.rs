//! Programs needed besides Rust: looked for by name, installed with apt where
//! they are missing.

mod services;

use std::{
    collections::BTreeSet,
    env,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use self::services::QuietServices;
use crate::process;

/// A program, and the Debian packages it comes with: which of them, depends on
/// the release.
type Program = (&'static str, &'static [&'static str]);

/// Makes code of the protocol that etcd speaks.
const BUILD: &[Program] = &[
    (PROTOC, &["protobuf-compiler"]),
    (PROTO_TYPES, &["libprotobuf-dev"]),
];

/// What makes hosts of network namespaces.
const NAMESPACES: &[Program] = &[
    ("ip", &["iproute2"]),
    ("bridge", &["iproute2"]),
    ("nsenter", &["util-linux"]),
    ("setpriv", &["util-linux"]),
    ("chrt", &["util-linux"]),
    ("ethtool", &["ethtool"]),
];

/// What makes and watches traffic between them.
const TRAFFIC: &[Program] = &[
    ("ping", &["iputils-ping"]),
    ("iperf3", &["iperf3"]),
    ("tcpdump", &["tcpdump"]),
];

/// What installs it, and judges its units.
const INSTALLATION: &[Program] = &[
    ("dpkg", &["dpkg"]),
    ("deb-systemd-helper", &["init-system-helpers"]),
    ("systemd-analyze", &["systemd"]),
];

/// What vxplane works with or against in tests and benchmarks.
const PARTNERS: &[Program] = &[
    ("bpftool", &["bpftool"]),
    ("dockerd", &["docker.io"]),
    // Of a package of its own since Debian 13.
    ("docker", &["docker.io", "docker-cli"]),
    ("etcd", &["etcd-server"]),
    ("etcdctl", &["etcd-client"]),
    ("iptables", &["iptables"]),
    ("ovs-vswitchd", &["openvswitch-switch"]),
    ("ovsdb-server", &["openvswitch-switch"]),
    (STATIC_BUSYBOX, &["busybox-static"]),
];

/// Containers hold nothing else, so it must need no libraries.
const STATIC_BUSYBOX: &str = "busybox";

/// Not a program: what the protocol includes, where Debian's `protoc` looks for
/// it. Other builds of `protoc` bring their own.
const PROTO_TYPES: &str = "/usr/include/google/protobuf/descriptor.proto";

/// Cargo takes another one from the variable `PROTOC`.
const PROTOC: &str = "protoc";

/// What programs are needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Compile the daemon.
    Build,
    /// `cargo xtask bench`, which makes its load itself.
    Bench,
    /// `cargo xtask demo`.
    Demo,
    /// `cargo xtask test`, all parts of it.
    Test,
}

impl Purpose {
    fn programs(self) -> Vec<Program> {
        match self {
            Self::Build => BUILD.to_vec(),
            Self::Bench => [NAMESPACES, PARTNERS].concat(),
            Self::Demo => [NAMESPACES, TRAFFIC].concat(),
            Self::Test => [NAMESPACES, TRAFFIC, PARTNERS, INSTALLATION].concat(),
        }
    }
}

/// Installs what is missing, or says what to install.
pub(crate) fn ensure(purpose: Purpose) -> Result<()> {
    let programs = purpose.programs();
    // The first package that may hold a program, and while it does not, the next.
    let attempts = programs.iter().map(|(_, packages)| packages.len()).max();
    for attempt in 0..attempts.unwrap_or_default() {
        let packages = missing(&programs, attempt);
        if packages.is_empty() {
            return Ok(());
        }
        install_or_explain(&packages)?;
    }
    let absent: Vec<_> = absent(&programs).map(|(program, _)| program).collect();
    ensure!(
        absent.is_empty(),
        "apt installed the packages, but these programs are not there: {absent:?}"
    );
    Ok(())
}

fn install_or_explain(packages: &BTreeSet<&str>) -> Result<()> {
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
    let _quiet = QuietServices::begin()?;
    if install(packages).is_ok() {
        return Ok(());
    }
    // The lists are missing or old.
    process::run(apt().args(["update", "--quiet=2"]))?;
    install(packages)
        .with_context(|| format!("installing packages; by hand: apt-get install {list}"))
}

fn absent(programs: &[Program]) -> impl Iterator<Item = &Program> {
    programs.iter().filter(|(program, _)| !is_there(program))
}

fn is_there(program: &str) -> bool {
    if program == PROTOC && env::var_os("PROTOC").is_some() {
        return true;
    }
    if program == PROTO_TYPES {
        let protoc = process::find_program(PROTOC);
        let of_debian = protoc.is_none_or(|protoc| protoc.starts_with("/usr/bin"));
        return Path::new(program).exists() || env::var_os("PROTOC").is_some() || !of_debian;
    }
    process::find_program(program).is_some_and(|file| program != STATIC_BUSYBOX || is_static(&file))
}

/// Packages to try at the `attempt`-th attempt.
fn missing(programs: &[Program], attempt: usize) -> BTreeSet<&'static str> {
    let packages = absent(programs).filter_map(|(_, packages)| packages.get(attempt));
    packages.copied().collect()
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
