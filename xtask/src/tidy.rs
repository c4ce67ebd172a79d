//! `cargo xtask tidy`: format, lints, lengths, licences, words, docs. Says
//! everything that is wrong, not only the first.

mod commands;
mod docs;
mod files;
mod length;
mod licences;
mod words;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{build, process, toolchain, workspace::Workspace};

/// How long it may take on its own, compilation included.
pub(crate) const LIMIT: Duration = Duration::from_mins(30);

/// Checks everything within `limit`; an error when something is not as it should
/// be.
pub(crate) fn run(workspace: &Workspace, limit: Duration) -> Result<()> {
    let files = files::all(workspace.root())?;
    let mut tidy = Tidy {
        end: Instant::now() + limit,
        failed: Vec::new(),
    };
    tidy.check("words", Ok(words::check(&files)));
    tidy.check("lengths", length::check(&files));
    tidy.check("docs", docs::check(workspace, &files));
    tidy.check("licences", licences::check(workspace));
    tidy.run("format", workspace.cargo("fmt").args(["--all", "--check"]));
    tidy.run("clippy", &mut clippy(workspace));
    tidy.run("rustdoc", &mut rustdoc(workspace));
    match toolchain::ensure(workspace) {
        Ok(toolchain) => {
            let mut clippy = build::ebpf_cargo(workspace, &toolchain, "clippy");
            tidy.run(
                "clippy of the programs",
                clippy.args(["--", "-D", "warnings"]),
            );
        }
        Err(error) => tidy.check("clippy of the programs", Err(error)),
    }
    tidy.check("README commands", commands::check(workspace));
    ensure!(
        tidy.failed.is_empty(),
        "not tidy: {}",
        tidy.failed.join(", ")
    );
    Ok(())
}

fn clippy(workspace: &Workspace) -> Command {
    let mut clippy = workspace.cargo("clippy");
    clippy.args([
        "--workspace",
        "--exclude=vxplane-ebpf",
        "--all-targets",
        "--quiet",
    ]);
    clippy.args(["--", "-D", "warnings"]);
    clippy
}

fn rustdoc(workspace: &Workspace) -> Command {
    let mut rustdoc = workspace.cargo("doc");
    rustdoc
        .args([
            "--workspace",
            "--exclude=vxplane-ebpf",
            "--no-deps",
            "--quiet",
        ])
        .arg("--document-private-items")
        .env("RUSTDOCFLAGS", "-D warnings");
    rustdoc
}

#[derive(Debug)]
struct Tidy {
    end: Instant,
    failed: Vec<&'static str>,
}

impl Tidy {
    /// A check of ours: what it found wrong.
    fn check(&mut self, name: &'static str, found: Result<Vec<String>>) {
        let found = found.unwrap_or_else(|error| vec![format!("{error:#}")]);
        for problem in &found {
            eprintln!("{name}: {problem}");
        }
        self.note(name, found.is_empty());
    }

    /// A check by another program, which prints what it finds.
    fn run(&mut self, name: &'static str, command: &mut Command) {
        let left = self.end.saturating_duration_since(Instant::now());
        let result = process::run_within(command, left);
        if let Err(error) = &result {
            eprintln!("{name}: {error:#}");
        }
        self.note(name, result.is_ok());
    }

    fn note(&mut self, name: &'static str, good: bool) {
        eprintln!("tidy: {name}: {}", if good { "ok" } else { "NOT OK" });
        if !good {
            self.failed.push(name);
        }
    }
}
