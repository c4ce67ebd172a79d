//! What the demo says: steps, the commands it types, and what they print.

use std::{
    cell::Cell,
    fmt,
    time::{Duration, Instant},
};

use anyhow::Result;
use vxplane_harness::Daemon;

use crate::interrupt;

/// A narrator that numbers steps and knows what time it is.
pub(crate) struct Narrator {
    start: Instant,
    step: Cell<u32>,
    steps: u32,
}

impl Narrator {
    /// For a story of this many steps.
    pub(crate) fn new(steps: u32) -> Self {
        Self {
            start: Instant::now(),
            step: Cell::new(0),
            steps,
        }
    }

    /// Begins the next step; an error once the user wants to end.
    pub(crate) fn step(&self, title: &str) -> Result<()> {
        interrupt::check()?;
        self.step.set(self.step.get() + 1);
        println!(
            "\n[{}/{}] {title}  ({:.1} s)",
            self.step.get(),
            self.steps,
            self.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// How long it has taken so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Says something about the step.
pub(crate) fn say(what: impl fmt::Display) {
    for line in what.to_string().lines() {
        println!("    {line}");
    }
}

/// Types a command of `vxplane` on a host and shows what it prints.
pub(crate) fn types(host: &str, daemon: &Daemon, arguments: &str) -> Result<()> {
    say(format_args!("{host}# vxplane {arguments}"));
    let printed = daemon.cli(arguments)?;
    say(printed.trim_end());
    Ok(())
}
