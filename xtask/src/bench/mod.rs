//! `cargo xtask bench`: vxplane against the kernel's own overlay and against no
//! overlay at all, alternating in one run, so that only ratios are compared and
//! what disturbs the machine disturbs all variants alike.

pub(crate) mod agent;
mod goals;
mod json;
mod machine;
mod metric;
mod netns;
mod plot;
mod report;
mod results;
mod sample;
mod scene;
mod site;
mod stats;
mod workload;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum as _};

use self::{
    machine::Machine,
    results::{Cell, Results, Row},
    sample::Timing,
    scene::Scene,
    site::{Ground, Site, Variant},
    workload::Workload,
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
    /// Two rounds of short samples of the main workloads in the main scenes: to see
    /// that it works, not to quote.
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
    /// How hosts are joined [default: all].
    #[arg(long, value_enum, value_delimiter = ',')]
    scenes: Vec<Scene>,
    /// What to compare [default: what a scene is for].
    #[arg(long, value_enum, value_delimiter = ',')]
    variants: Vec<Variant>,
    /// What to put on the path [default: what a scene is for].
    #[arg(long, value_enum, value_delimiter = ',')]
    workloads: Vec<Workload>,
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
    packages::ensure(Purpose::Bench)?;
    let binaries = Binaries::find(workspace, options)?;
    let machine = Machine::observe(workspace)?;
    eprintln!("{machine}");
    let out = out(workspace, options, &machine);
    let results = measure(options, &binaries, |results| tell(&out, &machine, results))?;
    print!("\n{}\n", report::markdown(&machine, &results));
    println!("report: {}", out.display());
    if options.check {
        let bars = goals::bars();
        let judged = goals::judge(&bars, &results);
        ensure!(judged.len() == bars.len(), "not all bars were measured");
        ensure!(judged.iter().all(|bar| bar.met), "a bar is not met");
    }
    Ok(())
}

/// Writes the report on what has been measured so far.
fn tell(out: &Path, machine: &Machine, results: &Results) -> Result<()> {
    write(out, "results.md", &report::markdown(machine, results))?;
    write(out, "results.json", &json::document(machine, results)?)?;
    for scene in Scene::ALL {
        if let Some(plot) = plot::svg(results, scene, &machine.to_string()) {
            write(out, &format!("{}.svg", scene.name()), &plot)?;
        }
    }
    Ok(())
}

/// The builds to measure; empty paths where they are not.
struct Binaries {
    vxplane: PathBuf,
    before: PathBuf,
    reference: PathBuf,
}

impl Binaries {
    fn find(workspace: &Workspace, options: &Options) -> Result<Self> {
        let chosen = |of: fn(Variant) -> bool| {
            options.variants.is_empty() || options.variants.iter().copied().any(of)
        };
        let ours = chosen(Variant::is_ours).then(|| vxplane(workspace, options));
        let before = options.variants.contains(&Variant::Before).then(|| {
            let binary = options.before.as_deref();
            existing(binary.context("say with --before which build that variant is")?)
        });
        let reference = chosen(|it| it == Variant::CollectMd).then(|| build::reference(workspace));
        Ok(Self {
            vxplane: ours.transpose()?.unwrap_or_default(),
            before: before.transpose()?.unwrap_or_default(),
            reference: reference.transpose()?.unwrap_or_default(),
        })
    }

    fn of(&self, variant: Variant) -> &Path {
        match variant {
            Variant::Before => &self.before,
            _ => &self.vxplane,
        }
    }
}

/// Built as users get it, unless another build is given.
fn vxplane(workspace: &Workspace, options: &Options) -> Result<PathBuf> {
    if let Some(binary) = &options.binary {
        return existing(binary);
    }
    build::ebpf(workspace)?;
    build::daemon(workspace, Profile::Release)
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

/// Scene by scene, after each of which `tell` is told what has come out: should one
/// fail, those before it were not in vain.
fn measure(
    options: &Options,
    binaries: &Binaries,
    tell: impl Fn(&Results) -> Result<()>,
) -> Result<Results> {
    interrupt::listen()?;
    let scenes = match (&options.scenes[..], options.quick) {
        ([], true) => &Scene::QUICK[..],
        ([], false) => &Scene::ALL[..],
        (chosen, _) => chosen,
    };
    let chosen = match (&options.workloads[..], options.quick) {
        ([], true) => &Workload::QUICK[..],
        ([], false) => Workload::value_variants(),
        (chosen, _) => chosen,
    };
    sample::hurry()?;
    let mut results = Results::default();
    for scene in scenes {
        let workloads = scene.workloads().iter().copied();
        let workloads: Vec<_> = workloads.filter(|it| chosen.contains(it)).collect();
        if !workloads.is_empty() {
            play(options, binaries, *scene, &workloads, &mut results)
                .with_context(|| format!("the scene {}", scene.name()))?;
            tell(&results)?;
        }
    }
    Ok(results)
}

/// Builds all sites of a scene, then goes round: every workload on every variant in
/// turn, in an order that changes from round to round.
fn play(
    options: &Options,
    binaries: &Binaries,
    scene: Scene,
    workloads: &[Workload],
    results: &mut Results,
) -> Result<()> {
    let sites = build_sites(options, binaries, scene)?;
    let (rounds, timing) = plan(options);
    for round in 0..rounds {
        for workload in workloads {
            eprintln!(
                "{}, round {} of {rounds}: {} (load {})",
                scene.name(),
                round + 1,
                workload.name(),
                machine::load()?
            );
            for site in in_turn(&sites, round) {
                let variant = site.variant();
                let values = sample::take(site, scene.setting(), *workload, timing)
                    .with_context(|| format!("{} on {}", workload.name(), variant.name()))?;
                for (metric, value) in values {
                    let row = Row {
                        scene,
                        workload: *workload,
                        metric,
                    };
                    results.add(Cell { row, variant }, round, value);
                }
                interrupt::check()?;
            }
        }
    }
    Ok(())
}

fn build_sites(options: &Options, binaries: &Binaries, scene: Scene) -> Result<Vec<Site>> {
    let variants = if options.variants.is_empty() {
        scene.variants()
    } else {
        &options.variants
    };
    let mut sites = Vec::new();
    for variant in variants.iter().filter(|it| it.fits(scene.setting())) {
        eprintln!("{}: building {}", scene.name(), variant.name());
        let ground = Ground {
            variant: *variant,
            setting: scene.setting(),
            binary: binaries.of(*variant),
            reference: &binaries.reference,
        };
        let site = Site::build(&ground);
        sites.push(site.with_context(|| format!("building {}", variant.name()))?);
        interrupt::check()?;
    }
    Ok(sites)
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
