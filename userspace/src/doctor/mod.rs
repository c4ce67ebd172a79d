//! What this host can and cannot do, found out by trying, and what to do about
//! it.

use serde::Serialize;

use crate::reconcile::Options;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// The daemon works, but something is slower or missing.
    Warn,
    /// The daemon cannot work.
    Fail,
}

/// One thing that was examined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A short stable name, `lower-case-with-dashes`.
    pub name: &'static str,
    /// How it came out.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty if nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

/// Examines this host as a daemon with `options` would find it. `docker` is the
/// path of the Docker Engine's socket. Leaves nothing behind.
pub async fn examine(_options: &Options, _docker: &std::path::Path) -> Vec<Check> {
    Vec::new()
}
