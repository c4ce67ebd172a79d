//! `vxplane down`: takes everything away that the daemon made here, and nothing
//! else. The state stays, unless it is to be purged.

use std::{io, path::Path};

use serde::Serialize;

use crate::{
    mounts::{self, MountsError},
    reconcile::{ClaimError, Down, StartError, TakenDown},
    settings::Settings,
    store::{StoreError, file},
    surfaces::api::{Socket, SocketError},
};

/// Why nothing was taken away.
#[derive(Debug, thiserror::Error)]
pub enum DownError {
    /// A daemon would make everything anew.
    #[error(
        "a vxplane daemon (process {pid}) runs in this network namespace; stop it first, with \
         `systemctl stop vxplane.socket vxplane` if systemd runs it"
    )]
    Running {
        /// The daemon.
        pid: i32,
    },
    /// The mounts cannot be reached.
    #[error(transparent)]
    Mounts(#[from] MountsError),
    /// The socket is in use, or cannot be used.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The state is in use, or cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel cannot be worked with.
    #[error(transparent)]
    Kernel(StartError),
    /// There is no runtime.
    #[error("cannot run: {0}")]
    Runtime(#[source] io::Error),
}

impl From<StartError> for DownError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Claim(ClaimError::Taken { pid }) => Self::Running { pid },
            other => Self::Kernel(other),
        }
    }
}

/// What was taken away, and what could not be.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// What was taken away.
    pub removed: Vec<String>,
    /// What could not be, and why.
    pub failed: Vec<String>,
}

/// Takes everything away. Whatever can be refused is refused before anything is
/// touched.
pub fn run(settings: &Settings, purge: bool) -> Result<Outcome, DownError> {
    // Moves this process between mount namespaces, so it comes before threads.
    mounts::reach(&settings.bpffs)?;
    let down = Down::claim(&settings.bpffs)?;
    let socket = Socket::claim(&settings.socket())?;
    let state = if purge {
        file::claim(&settings.state_dir)?
    } else {
        None
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(DownError::Runtime)?;
    let TakenDown {
        mut removed,
        mut failed,
    } = runtime.block_on(down.take_down())?;
    let mut note = |what: &str, path: &Path, done: Result<bool, String>| match done {
        Ok(true) => removed.push(format!("{what} {}", path.display())),
        Ok(false) => {}
        Err(error) => failed.push(error),
    };
    if let Some(socket) = socket {
        let done = socket.remove().map_err(|error| error.to_string());
        note("socket", &settings.socket(), done);
    }
    if let Some(state) = state {
        let done = state.remove().map_err(|error| error.to_string());
        note("state in", &settings.state_dir, done.map(|()| true));
    }
    Ok(Outcome { removed, failed })
}
