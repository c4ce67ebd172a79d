//! `cargo xtask`: builds, runs, tests, measures and checks vxplane. Each command
//! finds out what it needs and the machine lacks, installs it, or says how.

mod bench;
mod build;
mod process;
mod run;
mod toolchain;
mod workspace;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Task,
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
    /// Start the daemon on this host, built with everything it needs.
    Run {
        /// Flags of `vxplane daemon`.
        #[arg(last = true)]
        flags: Vec<String>,
    },
    /// Measure vxplane against the kernel's overlay and against none.
    Bench(bench::Options),
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let workspace = Workspace::find()?;
    match cli.command {
        Task::BuildEbpf => build::ebpf(&workspace).map(drop),
        Task::Build { debug } => {
            build::ebpf(&workspace)?;
            build::daemon(&workspace, build::Profile::from_debug(debug)).map(drop)
        }
        Task::Run { flags } => run::daemon(&workspace, &flags),
        Task::Bench(options) => bench::run(&workspace, &options),
    }
}
