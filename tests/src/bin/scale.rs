//! Plays a large cluster and says what that costs; run by `cargo xtask scale`.
//! Arguments: nodes, endpoints of each, networks, and the file for the figures.

use std::{env, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use vxplane_tests::scale::{Effort, Shape, run};

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
    let file = PathBuf::from(arguments.next().context("the file is missing")?);
    let effort = Effort {
        changes: 300,
        spacing: Duration::from_millis(50),
        burst: 1000,
        idle: Duration::from_secs(20),
    };
    let figures = run(shape, effort)?;
    println!("| What | Measured | Target |\n|---|---|---|");
    for (what, measured, target) in figures.lines() {
        println!("| {what} | {measured} | {target} |");
    }
    fs::write(&file, serde_json::to_string_pretty(&figures)?)
        .with_context(|| format!("writing {}", file.display()))
}
