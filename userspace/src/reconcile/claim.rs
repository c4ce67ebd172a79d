//! One daemon per network namespace: two would undo each other's work.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
};

use nix::{
    sys::socket::{UnixCredentials, getsockopt, sockopt::PeerCredentials},
    unistd::geteuid,
};

/// Abstract socket names are per network namespace, and the kernel releases them
/// however a process ends: just what a claim to a namespace needs.
const NAME: &[u8] = b"vxplane";

/// Why the namespace cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another daemon has it.
    #[error("another vxplane daemon (process {pid}) runs in this network namespace; stop it first")]
    Taken {
        /// The other daemon.
        pid: i32,
    },
    /// No sockets.
    #[error("cannot claim this network namespace")]
    Socket(#[source] io::Error),
}

/// The claim to a network namespace, held until it is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    /// None if a user who may not run a daemon squats on the name: names are
    /// anybody's, and nobody should be able to keep the daemon from starting.
    _listener: Option<UnixListener>,
}

impl Claim {
    /// Claims the namespace of the calling thread.
    pub(super) fn new() -> Result<Self, ClaimError> {
        let address = SocketAddr::from_abstract_name(NAME).map_err(ClaimError::Socket)?;
        let listener = match UnixListener::bind_addr(&address) {
            Ok(listener) => Some(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => match owner(&address) {
                Some(owner) if owner.uid() == geteuid().as_raw() => {
                    return Err(ClaimError::Taken { pid: owner.pid() });
                }
                _ => None,
            },
            Err(error) => return Err(ClaimError::Socket(error)),
        };
        Ok(Self {
            _listener: listener,
        })
    }
}

/// Who listens there.
fn owner(address: &SocketAddr) -> Option<UnixCredentials> {
    let stream = UnixStream::connect_addr(address).ok()?;
    getsockopt(&stream, PeerCredentials).ok()
}
