//! The eBPF object and the binaries.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    packages::{self, Purpose},
    process, toolchain,
    toolchain::Toolchain,
    workspace::Workspace,
};

/// The target triple of the programs. Little-endian hosts only, as every
/// machine that Docker Engine supports but s390x.
const BPF_TARGET: &str = "bpfel-unknown-none";

/// How host code is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build, with debug assertions.
    Debug,
    /// What users run.
    Release,
}

impl Profile {
    /// From a `--debug` flag.
    pub(crate) fn from_debug(debug: bool) -> Self {
        if debug { Self::Debug } else { Self::Release }
    }

    /// Its directory below the target directory.
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

/// Builds the eBPF object and returns where it is.
pub(crate) fn ebpf(workspace: &Workspace) -> Result<PathBuf> {
    ebpf_with(workspace, &[])
}

/// Builds the eBPF objects and returns where that one is which the benchmarks
/// compare ours with.
pub(crate) fn reference(workspace: &Workspace) -> Result<PathBuf> {
    let ours = ebpf(workspace)?;
    Ok(ours.with_file_name("vxplane-reference"))
}

fn ebpf_with(workspace: &Workspace, features: &[&str]) -> Result<PathBuf> {
    let toolchain = toolchain::ensure(workspace)?;
    let mut cargo = ebpf_cargo(workspace, &toolchain, "build");
    process::run(cargo.args(features.iter().flat_map(|it| ["--features", it])))?;
    let object = workspace
        .target()
        .join("bpf")
        .join(BPF_TARGET)
        .join("release/vxplane-ebpf");
    ensure!(
        object.is_file(),
        "cargo built the eBPF object, but not as {}",
        object.display()
    );
    Ok(object)
}

/// A cargo command on the eBPF crate. `build-std` is unstable: the variable
/// allows it on the stable compiler, so that one toolchain builds everything.
pub(crate) fn ebpf_cargo(
    workspace: &Workspace,
    toolchain: &Toolchain,
    subcommand: &str,
) -> Command {
    let linker = format!("-Clinker={}", toolchain.linker.display());
    let flags = [
        &linker,
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // 32-bit operations and atomics that return what was there (Linux 5.12).
        "-Ctarget-cpu=v3",
    ]
    .join("\x1f");
    let mut cargo = workspace.cargo(subcommand);
    cargo
        .args([
            "--release",
            "--package=vxplane-ebpf",
            "--target",
            BPF_TARGET,
        ])
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(workspace.target().join("bpf"))
        .env("RUSTC_BOOTSTRAP", "1")
        // The programs gain from it; the daemon, off the packet's path, would
        // only take minutes longer to link.
        .env("CARGO_PROFILE_RELEASE_LTO", "thin")
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env_remove("RUSTFLAGS");
    if let Some(library) = &toolchain.library {
        cargo.env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
    }
    cargo
}

/// What a later version may have changed, as features of the crates: the tests
/// of upgrades need one to upgrade to.
const NEXT: [&str; 2] = ["next-programs", "next-layout"];

/// Builds `vxplane` as it may be in a later version, with assertions, and leaves
/// it beside the usual one as `vxplane-<feature>`. What has the usual names is of
/// such a version then: to be built anew, which cargo does within a moment.
pub(crate) fn next(workspace: &Workspace) -> Result<()> {
    packages::ensure(Purpose::Build)?;
    for feature in NEXT {
        let object = workspace.target().join("bpf").join(feature);
        copy(&ebpf_with(workspace, &[feature])?, &object)?;
        let mut cargo = workspace.cargo("build");
        cargo
            .args(["--package=vxplane", "--features", feature])
            .env("VXPLANE_EBPF_OBJECT", &object);
        process::run(&mut cargo)?;
        let built = workspace.target().join(Profile::Debug.directory());
        let name = format!("vxplane-{feature}");
        copy(&built.join("vxplane"), &built.join(name))?;
    }
    Ok(())
}

/// Copies a file unless that was done before: a new date would have cargo build
/// again what is made of it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if fs::read(to).is_ok_and(|before| before == bytes) {
        return Ok(());
    }
    // Not written over: it may be running.
    let new = to.with_added_extension("new");
    fs::copy(from, &new)
        .and_then(|_| fs::rename(&new, to))
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

/// Builds `vxplane` and returns where it is. The eBPF object must be there.
pub(crate) fn daemon(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    packages::ensure(Purpose::Build)?;
    let mut cargo = workspace.cargo("build");
    cargo.arg("--package=vxplane");
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    process::run(&mut cargo)?;
    Ok(workspace.target().join(profile.directory()).join("vxplane"))
}
