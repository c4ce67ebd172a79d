//! `cargo xtask`: builds, runs, tests, measures and checks vxplane. Each command
//! finds out what it needs and the machine lacks, installs it, or says how.

mod bench;
mod build;
mod crates;
mod deb;
mod demo;
mod interrupt;
mod packages;
mod process;
mod run;
mod scale;
mod test;
mod tidy;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{packages::Purpose, workspace::Workspace};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Task(Task),
    /// One side of a load that `bench` measures. It runs in other namespaces and
    /// in a hurry, and asks cargo nothing.
    #[command(hide = true)]
    BenchAgent(bench::agent::Options),
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the eBPF object that the daemon embeds.
    BuildEbpf,
    /// Build the eBPF object and the `vxplane` binary.
    Build {
        /// With debug assertions and without optimisation.
        #[arg(long)]
        debug: bool,
    },
    /// Build what the tests of upgrades upgrade to.
    BuildNext,
    /// Start the daemon on this host, built with everything it needs.
    Run {
        /// Flags of `vxplane daemon`.
        #[arg(last = true)]
        flags: Vec<String>,
    },
    /// Prepare this machine and run all tests.
    Test(test::Options),
    /// Check format, lints, lengths, licences and docs.
    Tidy,
    /// Build the Debian package.
    Deb {
        /// Of a binary for tests: quick to build, and large.
        #[arg(long)]
        debug: bool,
    },
    /// Show two hosts at work, in network namespaces of this machine.
    Demo,
    /// Measure vxplane against the kernel's overlay and against none.
    Bench(bench::Options),
    /// Play a cluster of a thousand nodes and say what it costs one of them.
    Scale(scale::Options),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Task(task) => run(task),
        Command::BenchAgent(options) => bench::agent::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let workspace = Workspace::find()?;
    match task {
        Task::BuildEbpf => build::ebpf(&workspace).map(drop),
        Task::Build { debug } => {
            build::ebpf(&workspace)?;
            build::daemon(&workspace, build::Profile::from_debug(debug)).map(drop)
        }
        Task::BuildNext => {
            build::next(&workspace)?;
            build::ebpf(&workspace)?;
            build::daemon(&workspace, build::Profile::Debug).map(drop)
        }
        Task::Run { flags } => run::daemon(&workspace, &flags),
        Task::Demo => demo::run(&workspace),
        Task::Test(options) => test::run(&workspace, &options),
        Task::Tidy => {
            packages::ensure(Purpose::Build)?;
            build::ebpf(&workspace)?;
            tidy::run(&workspace, tidy::LIMIT)
        }
        Task::Deb { debug } => deb::run(&workspace, build::Profile::from_debug(debug)),
        Task::Bench(options) => bench::run(&workspace, &options),
        Task::Scale(options) => scale::run(&workspace, &options),
    }
}
