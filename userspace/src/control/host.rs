//! What decisions need to know about this host besides the last report.

use std::io;

use futures_util::future::BoxFuture;
use ipnetwork::Ipv4Network;

use super::{error::Error, spec::NetnsSource};
use crate::model::NetnsRef;

/// Reads this host. Nothing here changes it.
pub trait Host: Send + Sync {
    /// The destinations of its IPv4 routes.
    fn routes(&self) -> BoxFuture<'_, io::Result<Vec<Ipv4Network>>>;

    /// The network namespace found at `source` now, unless it is the daemon's
    /// own or none.
    fn netns(&self, source: NetnsSource) -> BoxFuture<'_, Result<NetnsRef, Error>>;
}
