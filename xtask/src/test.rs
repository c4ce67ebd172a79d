//! `cargo xtask test`: prepares the machine and runs every test there is.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;

use crate::{
    build::{self, Profile},
    deb,
    packages::{self, Purpose},
    process, tidy,
    workspace::Workspace,
};

/// How long all parts together may take, once everything is built.
const LIMIT: Duration = Duration::from_mins(25);

/// How long one part may take: one that hangs must not take the rest with it.
const PART_LIMIT: Duration = Duration::from_mins(15);

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only this part.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Only tests with this in their name.
    filter: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Pure logic, without privileges.
    Host,
    /// The programs in the kernel, packet by packet (`BPF_PROG_TEST_RUN`).
    Datapath,
    /// The reconciler against a real kernel.
    Kernel,
    /// Hosts and daemons in network namespaces.
    E2e,
    /// The shared store on real etcd servers.
    Cluster,
    /// Real Docker Engines and the hook.
    Docker,
    /// The Debian package, installed and removed.
    Package,
    /// Format, lints, licences, lengths, docs.
    Tidy,
}

impl Part {
    const ALL: [Self; 8] = [
        Self::Host,
        Self::Datapath,
        Self::Kernel,
        Self::E2e,
        Self::Cluster,
        Self::Docker,
        Self::Package,
        Self::Tidy,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Host => "host tests",
            Self::Datapath => "datapath tests (BPF_PROG_TEST_RUN)",
            Self::Kernel => "reconciler tests (real kernel state)",
            Self::E2e => "end-to-end tests (network namespaces)",
            Self::Cluster => "cluster tests (real etcd servers)",
            Self::Docker => "Docker tests (real engines)",
            Self::Package => "tests of the Debian package",
            Self::Tidy => "tidy",
        }
    }

    /// The integration test of `vxplane-tests` that this part is.
    fn test_target(self) -> Option<&'static str> {
        match self {
            Self::Datapath => Some("datapath"),
            Self::Kernel => Some("kernel"),
            Self::E2e => Some("e2e"),
            Self::Cluster => Some("cluster"),
            Self::Docker => Some("docker"),
            Self::Package => Some("package"),
            Self::Host | Self::Tidy => None,
        }
    }

    fn needs_root(self) -> bool {
        self.test_target().is_some()
    }
}

/// Tests that ran, as `cargo test` counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u32,
    failed: u32,
    ignored: u32,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    /// From `test result: ok. 6 passed; 0 failed; 0 ignored; …`.
    fn from_line(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let number = |word: &str| {
            let mut parts = counts.split("; ").filter_map(|part| part.split_once(' '));
            parts.find(|(_, what)| *what == word)?.0.parse().ok()
        };
        Some(Self {
            passed: number("passed")?,
            failed: number("failed")?,
            ignored: number("ignored")?,
        })
    }
}

/// Prepares the machine and runs the tests; an error if even one fails.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let parts: Vec<_> = Part::ALL
        .into_iter()
        .filter(|part| options.only.is_none_or(|only| only == *part))
        .collect();
    let start = Instant::now();
    prepare(workspace, &parts)?;
    let binary = if parts.iter().any(|part| part.needs_root()) {
        step("the daemon that the tests run");
        let binary = build::daemon(workspace, Profile::Debug)?;
        if parts.contains(&Part::Package) {
            step("the Debian package of it");
            deb::package(workspace, Profile::Debug, &binary)?;
        }
        Some(binary)
    } else {
        None
    };
    build_tests(workspace, &parts)?;
    let run = Run {
        workspace,
        filter: options.filter.as_deref(),
        binary,
        end: Instant::now() + LIMIT,
    };
    let mut count = Count::default();
    let mut failures = Vec::new();
    for part in &parts {
        step(part.title());
        let began = Instant::now();
        match run.part(*part, &mut count) {
            Ok(()) => eprintln!("── {}: ok, {}", part.title(), seconds(began.elapsed())),
            Err(error) => {
                eprintln!("── {}: FAILED: {error:#}", part.title());
                failures.push(part.title());
            }
        }
    }
    println!(
        "\ntotal: {} passed, {} failed, {} ignored in {}",
        count.passed,
        count.failed,
        count.ignored,
        seconds(start.elapsed())
    );
    ensure!(failures.is_empty(), "failed: {}", failures.join(", "));
    ensure!(
        options.only == Some(Part::Tidy) || count.passed > 0,
        "no test was run{}",
        options
            .filter
            .as_ref()
            .map(|it| format!(": none has “{it}” in its name"))
            .unwrap_or_default()
    );
    Ok(())
}

fn prepare(workspace: &Workspace, parts: &[Part]) -> Result<()> {
    if parts.iter().any(|part| part.needs_root()) {
        ensure!(
            process::is_root(),
            "these tests make network namespaces and load programs, which only root may: \
             run `sudo -E env \"PATH=$PATH\" cargo xtask test`, or only what needs no root: \
             `cargo xtask test --only host`"
        );
        step("programs the tests need");
        packages::ensure(Purpose::Test)?;
        ensure_every_target_has_a_part(workspace)?;
    }
    // For what the host tests and tidy compile.
    packages::ensure(Purpose::Build)?;
    if parts.contains(&Part::E2e) {
        step("what the tests of upgrades upgrade to");
        build::next(workspace)?;
    }
    step("the eBPF object");
    build::ebpf(workspace).map(drop)
}

/// A test that no part runs would pass for ever.
fn ensure_every_target_has_a_part(workspace: &Workspace) -> Result<()> {
    let packages = workspace.metadata()["packages"]
        .as_array()
        .context("no packages")?;
    let targets = packages
        .iter()
        .filter(|package| package["name"] == "vxplane-tests")
        .filter_map(|package| package["targets"].as_array())
        .flatten()
        .filter(|target| target["kind"][0] == "test");
    for target in targets {
        let name = target["name"].as_str().unwrap_or_default();
        ensure!(
            Part::ALL
                .iter()
                .any(|part| part.test_target() == Some(name)),
            "the test target {name} of vxplane-tests belongs to no part of `cargo xtask test`"
        );
    }
    Ok(())
}

/// Compiles all tests, which is not what the limits are about.
fn build_tests(workspace: &Workspace, parts: &[Part]) -> Result<()> {
    step("the tests");
    for part in parts {
        if let Some(mut cargo) = cargo_test(workspace, *part) {
            process::run(cargo.arg("--no-run"))?;
        }
    }
    Ok(())
}

/// `None` for what is no test.
fn cargo_test(workspace: &Workspace, part: Part) -> Option<Command> {
    let mut cargo = workspace.cargo("test");
    match part.test_target() {
        Some(target) => cargo.args(["--package=vxplane-tests", "--test", target]),
        None if part == Part::Tidy => return None,
        None => cargo.arg("--no-fail-fast"),
    };
    Some(cargo)
}

/// What all parts have in common.
struct Run<'a> {
    workspace: &'a Workspace,
    filter: Option<&'a str>,
    /// The daemon, where a part needs it.
    binary: Option<PathBuf>,
    end: Instant,
}

impl Run<'_> {
    fn part(&self, part: Part, total: &mut Count) -> Result<()> {
        let left = self.end.saturating_duration_since(Instant::now());
        ensure!(
            !left.is_zero(),
            "not begun: all tests together may take {}",
            seconds(LIMIT)
        );
        let limit = left.min(PART_LIMIT);
        let Some(mut cargo) = cargo_test(self.workspace, part) else {
            return tidy::run(self.workspace, limit);
        };
        cargo.arg("--").args(self.filter);
        if let Some(binary) = &self.binary {
            cargo.env("VXPLANE_BIN", binary);
        }
        let count = run_counted(&mut cargo, limit)?;
        total.add(count);
        ensure!(
            count.failed == 0,
            "{} of {} tests",
            count.failed,
            count.passed + count.failed
        );
        Ok(())
    }
}

/// Runs a `cargo test`, shows what it prints as it comes, and counts.
fn run_counted(command: &mut Command, limit: Duration) -> Result<Count> {
    let line = process::line(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("starting `{line}`"))?;
    let stdout = child.stdout.take().context("no pipe to read from")?;
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut count = Count::default();
    let end = Instant::now() + limit;
    loop {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                println!("{line}");
                count.add(Count::from_line(&line).unwrap_or_default());
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                process::kill_tree(child.id());
                child.wait()?;
                vxplane_harness::remove_abandoned();
                bail!("`{line}` was not done after {}", seconds(limit));
            }
        }
    }
    reader
        .join()
        .map_err(|_| anyhow!("reading from `{line}` failed"))?;
    let status = child.wait()?;
    // Failed tests are in the count; anything else, as a compiler error, is not.
    ensure!(
        status.success() || count.failed > 0,
        "`{line}` failed: {status}"
    );
    Ok(count)
}

fn step(title: &str) {
    eprintln!("\n── {title}");
}

fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{} min {:02} s", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::Count;

    #[test]
    fn counts_what_cargo_reports() {
        let line = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 9 filtered out; finished in 0.00s";
        assert_eq!(
            Count::from_line(line),
            Some(Count {
                passed: 3,
                failed: 2,
                ignored: 1
            })
        );
        assert_eq!(Count::from_line("test packet::decap ... ok"), None);
    }
}
