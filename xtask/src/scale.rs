//! `cargo xtask scale`: one real daemon in a cluster of a thousand nodes, which
//! are played against a real etcd, and what that costs; and what it costs hundreds
//! of nodes to want the same addresses; and how fast policies take effect among ten
//! thousand identities.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum, builder::PossibleValue};

use crate::{
    build::{self, Profile},
    packages::{self, Purpose},
    process,
    workspace::Workspace,
};

/// What can be played by itself.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Part {
    All,
    Cluster,
    Contention,
    Policies,
}

/// How large the cluster is and where the figures go.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Nodes besides the real one.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(3..=60_000))]
    nodes: u32,
    /// Endpoints on each node.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    endpoints: u32,
    /// Networks; the real daemon has an endpoint in each.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    networks: u32,
    /// Nodes that contend for the addresses of one network.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1000))]
    contenders: u32,
    /// Policies, for 64 endpoints of the real daemon.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(100..=10_000))]
    policies: u32,
    /// Play only this part.
    #[arg(long, value_enum, default_value_t = Part::All)]
    only: Part,
    /// Where to write the figures as JSON [default: target/scale.json].
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Builds all of it as users have it (the nodes that contend are in the simulation
/// itself), and measures.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    ensure!(
        process::is_root(),
        "the simulation makes network namespaces and loads programs, which only root may: \
         run `sudo -E env \"PATH=$PATH\" cargo xtask scale`"
    );
    packages::ensure(Purpose::Test)?;
    build::ebpf(workspace)?;
    let daemon = build::daemon(workspace, Profile::Release)?;
    let default = workspace.target().join("scale.json");
    let out = options.out.as_ref().unwrap_or(&default);
    if let Some(directory) = out.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("creating {}", directory.display()))?;
    }
    let sizes = [
        options.nodes,
        options.endpoints,
        options.networks,
        options.contenders,
        options.policies,
    ];
    let part = options.only.to_possible_value();
    let mut cargo = workspace.cargo("run");
    cargo
        .args(["--release", "--package=vxplane-tests", "--bin=scale", "--"])
        .args(part.iter().map(PossibleValue::get_name))
        .args(sizes.map(|size| size.to_string()))
        .arg(out)
        .env("VXPLANE_BIN", daemon);
    process::run(&mut cargo)?;
    println!("The figures are in {}.", out.display());
    Ok(())
}
