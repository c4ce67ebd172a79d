//! `cargo xtask bench`: vxplane against the kernel's own overlay and against no
//! overlay at all, alternating in one run, so that only ratios are compared and
//! what disturbs the machine disturbs all variants alike.

mod machine;

use anyhow::Result;
use clap::Args;

use crate::workspace::Workspace;

/// What to measure and where to put the report.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Fewer rounds of shorter samples: to see that it works, not to quote.
    #[arg(long)]
    quick: bool,
}

/// Prints what the machine is and how busy it is.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let machine = machine::Machine::observe(workspace)?;
    eprintln!("{machine}{}", if options.quick { ", quick" } else { "" });
    Ok(())
}
