//! `vxplane down`

use std::path::PathBuf;

use clap::Args;

use super::{CliError, output::Printer};
use crate::{
    down::{self, Outcome},
    settings::{Layer, Settings},
};

/// Where the daemon has been at work.
#[derive(Args, Debug)]
pub(super) struct DownArgs {
    /// Remove the state as well: networks, endpoints and peers are forgotten
    #[arg(long)]
    purge: bool,
    /// Configuration file [default: /etc/vxplane/vxplane.toml, if it exists]
    #[arg(long, env = "VXPLANE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the state is [default: /var/lib/vxplane]
    #[arg(long, env = "VXPLANE_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where programs, links and maps are pinned [default: /sys/fs/bpf/vxplane]
    #[arg(long, env = "VXPLANE_BPFFS", value_name = "DIR")]
    bpffs: Option<PathBuf>,
}

impl DownArgs {
    pub(super) fn run(self, run_dir: Option<PathBuf>, printer: Printer) -> Result<(), CliError> {
        let flags = Layer {
            state_dir: self.state_dir,
            bpffs: self.bpffs,
            run_dir,
            ..Layer::default()
        };
        let settings = Settings::load(flags, self.config.as_deref())?;
        let outcome = down::run(&settings, self.purge).map_err(Box::new)?;
        printer.value(&outcome, show)?;
        if outcome.failed.is_empty() {
            Ok(())
        } else {
            Err(CliError::Remains(outcome.failed))
        }
    }
}

fn show(outcome: &Outcome) -> String {
    if outcome.removed.is_empty() && outcome.failed.is_empty() {
        return "there was nothing to take away\n".to_owned();
    }
    let lines = outcome.removed.iter();
    let lines: Vec<_> = lines.map(|what| format!("removed: {what}\n")).collect();
    lines.concat()
}
