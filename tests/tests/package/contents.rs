//! What is in the package.

use std::{collections::BTreeMap, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use vxplane_tests::harness::{finish_within, vxplane_package};

const LIMIT: Duration = Duration::from_mins(1);
const LOCK: &str = include_str!("../../../Cargo.lock");

/// Runs `dpkg-deb` on the package.
fn dpkg_deb(action: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("dpkg-deb");
    command.arg(action).arg(vxplane_package()?).args(arguments);
    Ok(finish_within(&mut command, LIMIT)?.success()?.stdout)
}

/// All files, with mode and owner as `ls -l` shows them.
fn files() -> Result<BTreeMap<String, String>> {
    let listed = dpkg_deb("--contents", &[])?;
    let file = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let path = words.last().context("no path")?;
        let path = path.strip_prefix('.').context("a path")?;
        Ok((path.to_owned(), words[..2].join(" ")))
    };
    listed.lines().map(file).collect()
}

/// One file's text.
fn text(path: &str) -> Result<String> {
    let mut command = Command::new("sh");
    let script = "dpkg-deb --fsys-tarfile \"$1\" | tar -xO \".$2\"";
    command.args(["-ec", script, "sh"]);
    command.arg(vxplane_package()?).arg(path);
    Ok(finish_within(&mut command, LIMIT)?.success()?.stdout)
}

/// The version that is built here.
fn locked(name: &str) -> Result<String> {
    let start = format!("name = \"{name}\"\nversion = \"");
    let (_, rest) = LOCK.split_once(&start).context("not in Cargo.lock")?;
    let (version, _) = rest.split_once('"').context("no version")?;
    Ok(version.to_owned())
}

#[test]
fn every_file_is_where_debian_looks_for_it_and_belongs_to_root() -> Result<()> {
    const EXPECTED: [&str; 12] = [
        "/usr/bin/vxplane",
        "/usr/lib/systemd/system/vxplane.service",
        "/usr/lib/systemd/system/vxplane.socket",
        "/usr/share/bash-completion/completions/vxplane",
        "/usr/share/doc/vxplane/OPERATIONS.md",
        "/usr/share/doc/vxplane/README.md",
        "/usr/share/doc/vxplane/SECURITY.md",
        "/usr/share/doc/vxplane/THIRD-PARTY",
        "/usr/share/doc/vxplane/changelog",
        "/usr/share/doc/vxplane/copyright",
        "/usr/share/fish/vendor_completions.d/vxplane.fish",
        "/usr/share/zsh/vendor-completions/_vxplane",
    ];
    let files = files()?;
    let is_file = |path: &&String| !path.ends_with('/');
    let plain: Vec<_> = files.keys().filter(is_file).collect();
    ensure!(plain == EXPECTED, "{plain:?}");
    for (path, mode) in &files {
        let expected = match path.as_str() {
            "/usr/bin/vxplane" => "-rwxr-xr-x root/root",
            path if path.ends_with('/') => "drwxr-xr-x root/root",
            _ => "-rw-r--r-- root/root",
        };
        ensure!(mode == expected, "{path}: {mode}");
    }
    Ok(())
}

/// There are no `conffiles`: nothing is installed in /etc, where the
/// configuration file is the administrator's alone.
#[test]
fn what_dpkg_is_told_is_complete() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().display().to_string();
    dpkg_deb("--control", &[&path])?;
    let mut found = BTreeMap::new();
    for entry in directory.path().read_dir()? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        found.insert(name, is_executable(&entry.path())?);
    }
    let expected = ["control", "postinst", "postrm", "prerm"];
    let expected = expected.map(|name| (name.to_owned(), name != "control"));
    ensure!(found == expected.into(), "{found:?}");

    let info = dpkg_deb("--info", &[])?;
    let lines = [
        format!(" Version: {}", locked("vxplane")?),
        " Depends: libc6 (>= ".to_owned(),
        ", init-system-helpers".to_owned(),
        " Description: container networks".to_owned(),
    ];
    for line in lines {
        ensure!(info.contains(&line), "no {line:?} in {info}");
    }
    Ok(())
}

fn is_executable(path: &Path) -> Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(path.metadata()?.permissions().mode() & 0o777 == 0o755)
}

#[test]
fn licences_of_what_is_linked_come_along() -> Result<()> {
    let notices = text("/usr/share/doc/vxplane/THIRD-PARTY")?;
    // For the daemon, and for the programs; with a text of its own, and without.
    for name in ["tokio", "aya-ebpf", "imbl", "ring", "tonic-prost"] {
        let listed = format!("  {name} {}: ", locked(name)?);
        ensure!(notices.contains(&listed), "no {listed:?}");
    }
    ensure!(notices.contains("Permission is hereby granted, free of charge"));
    // Of the tests, of the build, of the compiler, and our own.
    for name in [
        "proptest",
        "rcgen",
        "prost-build",
        "serde_derive",
        "vxplane",
    ] {
        let listed = format!("\n  {name} {}: ", locked(name)?);
        ensure!(!notices.contains(&listed), "{listed:?}");
    }
    let copyright = text("/usr/share/doc/vxplane/copyright")?;
    for name in ["imbl", "imbl-sized-chunks"] {
        let source = format!("crates.io/crates/{name}/{}", locked(name)?);
        ensure!(copyright.contains(&source), "no {source} in {copyright}");
    }
    Ok(())
}
