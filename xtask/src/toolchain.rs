//! What the eBPF object is built with besides the Rust toolchain: `bpf-linker`,
//! and the sources of `core`. Whatever is missing is put below
//! `target/toolchain`, so that nothing on the machine changes its version.

mod debian_source;

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{process, workspace::Workspace};

/// The newest that links with the LLVM inside rustc; later ones need a system
/// LLVM of the same version.
const LINKER_VERSION: &str = "0.10.4";

/// How long rustup may take for a few megabytes before another source is tried.
const RUSTUP_LIMIT: Duration = Duration::from_mins(2);

/// What the eBPF build needs, found or installed.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// `bpf-linker`.
    pub(crate) linker: PathBuf,
    /// The standard library's sources, where they are not in the sysroot.
    pub(crate) library: Option<PathBuf>,
}

/// Finds what the eBPF build needs and installs what is missing.
pub(crate) fn ensure(workspace: &Workspace) -> Result<Toolchain> {
    let directory = workspace.target().join("toolchain");
    fs::create_dir_all(&directory)
        .with_context(|| format!("creating the directory {}", directory.display()))?;
    let toolchain = Toolchain {
        library: library_sources(workspace, &directory)?,
        linker: linker(workspace, &directory)?,
    };
    Ok(toolchain)
}

/// The one in `PATH` if it has the right version, else one of our own.
fn linker(workspace: &Workspace, directory: &Path) -> Result<PathBuf> {
    let own = directory.join("bin/bpf-linker");
    let installed = process::find_program("bpf-linker");
    let candidates = [installed, Some(own.clone())];
    if let Some(found) = candidates
        .into_iter()
        .flatten()
        .find(|file| is_right_linker(file))
    {
        return Ok(found);
    }
    eprintln!(
        "installing bpf-linker {LINKER_VERSION} into {} (a few minutes)",
        directory.display()
    );
    let mut install = workspace.cargo("install");
    install
        .args([
            "bpf-linker",
            "--version",
            LINKER_VERSION,
            "--locked",
            "--force",
            "--root",
        ])
        .arg(directory)
        .args(["--target-dir".as_ref(), directory.join("build").as_os_str()])
        // Or cargo advises to put it into `PATH`, where nobody needs it.
        .env("PATH", path_with(&directory.join("bin"))?);
    process::run(&mut install).with_context(|| {
        format!(
            "bpf-linker could not be installed; is crates.io reachable? By hand: \
             cargo install bpf-linker --version {LINKER_VERSION} --locked"
        )
    })?;
    ensure!(
        is_right_linker(&own),
        "the new {} does not start",
        own.display()
    );
    // 200 MB that nobody needs again.
    fs::remove_dir_all(directory.join("build")).ok();
    Ok(own)
}

/// Our `PATH`, and one more directory.
fn path_with(directory: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let all = env::split_paths(&path).chain([directory.to_owned()]);
    env::join_paths(all).with_context(|| format!("{} in PATH", directory.display()))
}

fn is_right_linker(file: &Path) -> bool {
    process::stdout_of(Command::new(file).arg("--version"))
        .is_ok_and(|printed| printed.split_whitespace().last() == Some(LINKER_VERSION))
}

/// `None`: they are in the sysroot, where cargo looks by itself.
fn library_sources(workspace: &Workspace, directory: &Path) -> Result<Option<PathBuf>> {
    let in_sysroot = sysroot(workspace)?.join("lib/rustlib/src/rust/library");
    if is_library(&in_sysroot) {
        return Ok(None);
    }
    let release = rustc_release(workspace)?;
    let from_debian = debian_source::library_below(directory, &release);
    if is_library(&from_debian) {
        return Ok(Some(from_debian));
    }
    eprintln!("the sources of Rust's standard library (rust-src) are missing: fetching them");
    let mut failures = Vec::new();
    match with_rustup(workspace) {
        Ok(()) if is_library(&in_sysroot) => return Ok(None),
        Ok(()) => failures.push("rustup: it reported success, but they are not there".to_owned()),
        Err(error) => failures.push(format!("rustup: {error:#}")),
    }
    match debian_source::fetch(directory, &release) {
        Ok(()) if is_library(&from_debian) => return Ok(Some(from_debian)),
        Ok(()) => failures.push("Debian's package does not hold them".to_owned()),
        Err(error) => failures.push(format!("Debian: {error:#}")),
    }
    bail!(
        "the sources of Rust's standard library are missing and could not be fetched:\n  {}\n\
         Do one of these, then try again:\n  \
         rustup component add rust-src --toolchain {release}\n  \
         unpack rust-src of exactly Rust {release} so that {}/core is there",
        failures.join("\n  "),
        from_debian.display()
    )
}

fn is_library(directory: &Path) -> bool {
    directory.join("core/src/lib.rs").is_file()
}

fn with_rustup(workspace: &Workspace) -> Result<()> {
    let rustup = process::find_program("rustup").context("it is not installed")?;
    let mut command = Command::new(rustup);
    command
        .args(["component", "add", "rust-src"])
        .current_dir(workspace.root());
    process::run_within(&mut command, RUSTUP_LIMIT)
}

/// A rustc command that takes the toolchain the repository asks for.
fn rustc(workspace: &Workspace) -> Command {
    let mut command = Command::new("rustc");
    command.current_dir(workspace.root());
    command
}

fn sysroot(workspace: &Workspace) -> Result<PathBuf> {
    let printed = process::stdout_of(rustc(workspace).args(["--print", "sysroot"]))?;
    Ok(printed.trim_end().into())
}

fn rustc_release(workspace: &Workspace) -> Result<String> {
    let printed = process::stdout_of(rustc(workspace).arg("-vV"))?;
    let release = printed
        .lines()
        .find_map(|line| line.strip_prefix("release: "));
    Ok(release.context("`rustc -vV` named no release")?.to_owned())
}
