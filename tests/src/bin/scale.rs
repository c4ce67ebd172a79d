//! Plays a large cluster and says what that costs; run by `cargo xtask scale`.
//! Arguments: nodes, endpoints of each, networks, nodes that contend for addresses,
//! and the file for the figures.

use std::{env, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;
use vxplane_tests::scale::{Contention, Crowd, Effort, Figures, Shape, contend, run};

/// What is written into the file.
#[derive(Serialize)]
struct All {
    #[serde(flatten)]
    figures: Figures,
    contention: Contention,
}

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
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
    let file = PathBuf::from(arguments.next().context("the file is missing")?);
    let effort = Effort {
        changes: 300,
        spacing: Duration::from_millis(50),
        burst: 1000,
        idle: Duration::from_secs(20),
    };
    let all = All {
        figures: run(shape, effort)?,
        contention: contend(crowd)?,
    };
    println!("| What | Measured | Target |\n|---|---|---|");
    let lines = all.figures.lines();
    for (what, measured, target) in lines.into_iter().chain(all.contention.lines()) {
        println!("| {what} | {measured} | {target} |");
    }
    fs::write(&file, serde_json::to_string_pretty(&all)?)
        .with_context(|| format!("writing {}", file.display()))
}
