//! The kernel's network configuration: the only user of rtnetlink.
//!
//! A [`Netlink`] speaks to one network namespace. Reading returns plain values
//! of ours; writing is one method per change, and each says in its error what
//! it was about.

mod address;
mod filter;
mod link;
mod netns;
mod port;
mod route;
mod shaper;
mod watch;

use std::{future::Future, io, time::Duration};

use nix::errno::Errno;

pub(crate) use self::netns::open_namespace;
pub use self::{
    address::Address,
    filter::Filter,
    link::{ExternalVxlan, Link, LinkChange, LinkKind, VethPair, XdpAttachment},
    netns::{Netns, NetnsError, inode},
    port::{PortOwner, find_port_owner},
    route::Route,
    shaper::Shaper,
    watch::watch,
};

/// How long the kernel may take for one request. It answers within micro- to
/// milliseconds; without an answer the reconcile loop would stand still.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request the kernel refused or did not answer.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct Error {
    /// What was to be done, as it follows "cannot".
    pub action: String,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

impl Error {
    /// Whether the kernel answered with this `errno`.
    pub fn is(&self, errno: Errno) -> bool {
        self.source.raw_os_error() == Some(errno as i32)
    }
}

/// A connection to one network namespace.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
}

impl Netlink {
    /// Connects to the namespace of the calling thread. Must be called within a
    /// tokio runtime, which serves the connection until the last clone is gone.
    pub fn connect() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }
}

/// What came of removing something, for whom it is fine that it, or its device, was
/// gone already.
fn gone_already(removed: Result<(), Error>) -> Result<(), Error> {
    match removed {
        Err(error) if error.is(Errno::ENOENT) || error.is(Errno::ENODEV) => Ok(()),
        other => other,
    }
}

/// Runs one request, naming it in the error.
async fn request<T>(
    action: impl FnOnce() -> String,
    request: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, Error> {
    let source = match tokio::time::timeout(PATIENCE, request).await {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(rtnetlink::Error::NetlinkError(message))) => message.to_io(),
        Ok(Err(other)) => io::Error::other(other),
        Err(_) => io::Error::from(io::ErrorKind::TimedOut),
    };
    Err(Error {
        action: action(),
        source,
    })
}
