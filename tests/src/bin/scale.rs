//! Plays a large cluster and says what that costs; run by `cargo xtask scale`.
//! Arguments: the part to play (or `all`), nodes, endpoints of each, networks, nodes
//! that contend for addresses, policies, and the file for the figures.

use std::{env, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;
use vxplane_tests::scale::{
    Contention, Crowd, Effort, Enforcement, Figures, Rules, Shape, contend, enforce, run,
};

/// What is written into the file: the parts that were played.
#[derive(Serialize)]
struct All {
    #[serde(flatten)]
    figures: Option<Figures>,
    contention: Option<Contention>,
    policies: Option<Enforcement>,
}

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let part = arguments.next().context("the part is missing")?;
    let mut number = || -> Result<u32> {
        let text = arguments.next().context("a number is missing")?;
        Ok(text.parse()?)
    };
    let shape = Shape {
        nodes: number()?,
        endpoints_per_node: number()?,
        networks: number()?,
    };
    let crowd = Crowd {
        nodes: number()?,
        endpoints_per_node: 5,
    };
    let rules = Rules {
        policies: number()?,
        identities: 10_000,
        endpoints: 64,
        changes: 20,
    };
    let file = PathBuf::from(arguments.next().context("the file is missing")?);
    let effort = Effort {
        changes: 300,
        spacing: Duration::from_millis(50),
        burst: 1000,
        idle: Duration::from_secs(20),
    };
    let is_played = |name: &str| part == "all" || part == name;
    let all = All {
        figures: is_played("cluster")
            .then(|| run(shape, effort))
            .transpose()?,
        contention: is_played("contention")
            .then(|| contend(crowd))
            .transpose()?,
        policies: is_played("policies").then(|| enforce(rules)).transpose()?,
    };
    println!("| What | Measured | Target |\n|---|---|---|");
    let mut lines = all
        .figures
        .iter()
        .flat_map(Figures::lines)
        .collect::<Vec<_>>();
    lines.extend(all.contention.iter().flat_map(Contention::lines));
    lines.extend(all.policies.iter().flat_map(Enforcement::lines));
    for (what, measured, target) in lines {
        println!("| {what} | {measured} | {target} |");
    }
    fs::write(&file, serde_json::to_string_pretty(&all)?)
        .with_context(|| format!("writing {}", file.display()))
}
