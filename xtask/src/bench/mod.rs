//! `cargo xtask bench`: vxplane against the kernel's own overlay and against no
//! overlay at all, alternating in one run, so that only ratios are compared and
//! what disturbs the machine disturbs all variants alike.

pub(crate) mod agent;
mod machine;
mod metric;
mod netns;
mod plot;
mod report;
mod results;
mod sample;
mod site;
mod stats;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use self::{
    machine::Machine,
    metric::Probe,
    results::{Results, Sample},
    sample::Timing,
    site::{Site, Variant},
};
use crate::{
    build::{self, Profile},
    interrupt,
    packages::{self, Purpose},
    process,
    workspace::Workspace,
};

/// What to measure and where to put the report.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Two rounds of short samples: to see that it works, not to quote.
    #[arg(long)]
    quick: bool,
    /// How often everything is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Where to write the report [default: target/bench/ and the time (UTC)].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Exit with status 1 if a bar is not met.
    #[arg(long)]
    check: bool,
    /// What to compare.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Variant::DEFAULT)]
    variants: Vec<Variant>,
    /// Measure this `vxplane` instead of building one.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Another `vxplane`, for the variant `before`: what a change has changed.
    #[arg(long)]
    before: Option<PathBuf>,
}

/// Measures, prints the table and writes the report.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    ensure!(
        process::is_root(),
        "network namespaces need root: run `cargo xtask bench` as root"
    );
    ensure!(
        thread::available_parallelism()?.get() >= 2,
        "one processor is not enough: a sender and a receiver of datagrams need one each"
    );
    ensure!(
        !options.check
            || Variant::JUDGED
                .iter()
                .all(|it| options.variants.contains(it)),
        "--check needs the variants {} and {}: the bars are about them",
        Variant::JUDGED[0].name(),
        Variant::JUDGED[1].name()
    );
    packages::ensure(Purpose::Bench)?;
    let binaries = Binaries {
        vxplane: vxplane(workspace, options)?,
        before: before(options)?,
    };
    let machine = Machine::observe(workspace)?;
    eprintln!("{machine}");
    let results = measure(options, &binaries)?;
    let table = report::table(&results, &options.variants);
    let bars = report::bars(&results);
    print!("\n{machine}\n{}\n\n{table}\n{bars}", report::METHOD);
    let out = out(workspace, options, &machine);
    write(
        &out,
        "bench.json",
        &report::json(&machine, &results, &options.variants)?,
    )?;
    write(
        &out,
        "bench.svg",
        &plot::svg(&results, &options.variants, &machine.to_string()),
    )?;
    write(
        &out,
        "bench.txt",
        &format!("{machine}\n{}\n\n{table}\n{bars}", report::METHOD),
    )?;
    println!("report: {}", out.display());
    if options.check && !results::judge(&results).iter().all(|bar| bar.met) {
        bail!("a bar is not met");
    }
    Ok(())
}

/// The builds of `vxplane` to measure; empty paths where they are not.
struct Binaries {
    vxplane: PathBuf,
    before: PathBuf,
}

impl Binaries {
    fn of(&self, variant: Variant) -> &Path {
        match variant {
            Variant::Before => &self.before,
            Variant::Bare | Variant::Kernel | Variant::Netfilter | Variant::Vxplane => {
                &self.vxplane
            }
        }
    }
}

/// Built as users get it, unless another build is given.
fn vxplane(workspace: &Workspace, options: &Options) -> Result<PathBuf> {
    if !options.variants.contains(&Variant::Vxplane) {
        return Ok(PathBuf::new());
    }
    if let Some(binary) = &options.binary {
        return existing(binary);
    }
    build::ebpf(workspace)?;
    build::daemon(workspace, Profile::Release)
}

fn before(options: &Options) -> Result<PathBuf> {
    if !options.variants.contains(&Variant::Before) {
        return Ok(PathBuf::new());
    }
    let binary = options.before.as_deref();
    existing(binary.context("say with --before which build the variant `before` is")?)
}

fn existing(binary: &Path) -> Result<PathBuf> {
    fs::canonicalize(binary).with_context(|| format!("looking for {}", binary.display()))
}

fn out(workspace: &Workspace, options: &Options, machine: &Machine) -> PathBuf {
    let directory = || workspace.target().join("bench").join(machine.started());
    options.out.clone().unwrap_or_else(directory)
}

fn write(directory: &Path, name: &str, text: &str) -> Result<()> {
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(directory.join(name), text))
        .with_context(|| format!("writing {name} to {}", directory.display()))
}

/// Builds all sites, then goes round: every probe on every variant in turn, in
/// an order that changes from round to round.
fn measure(options: &Options, binaries: &Binaries) -> Result<Results> {
    interrupt::listen()?;
    let mut sites = Vec::new();
    for variant in &options.variants {
        eprintln!("building {}", variant.name());
        let site = Site::build(*variant, binaries.of(*variant));
        sites.push(site.with_context(|| format!("building {}", variant.name()))?);
        interrupt::check()?;
    }
    let (rounds, timing) = plan(options);
    let mut results = Results::default();
    for round in 0..rounds {
        for probe in Probe::ALL {
            eprintln!(
                "round {} of {rounds}: {} (load {})",
                round + 1,
                probe.name(),
                machine::load()?
            );
            for site in in_turn(&sites, round) {
                let values = sample::take(site, probe, timing).with_context(|| {
                    format!("measuring {} on {}", probe.name(), site.variant().name())
                })?;
                for (metric, value) in values {
                    results.add(Sample {
                        round,
                        variant: site.variant(),
                        metric,
                        value,
                    });
                }
                interrupt::check()?;
            }
        }
    }
    Ok(results)
}

fn plan(options: &Options) -> (usize, Timing) {
    let timing = |warm_up, length| Timing {
        warm_up: Duration::from_millis(warm_up),
        length: Duration::from_millis(length),
    };
    if options.quick {
        (2, timing(100, 300))
    } else {
        (options.rounds.into(), timing(300, 1000))
    }
}

/// Every order once in as many rounds as there are sites, then backwards, so
/// that none is always first, nor always after the same one.
fn in_turn(sites: &[Site], round: usize) -> Vec<&Site> {
    let mut turn: Vec<&Site> = sites.iter().collect();
    turn.rotate_left(round % sites.len().max(1));
    if round % 2 == 1 {
        turn.reverse();
    }
    turn
}
