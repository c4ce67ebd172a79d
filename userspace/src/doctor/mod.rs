//! What this host can and cannot do, found out by trying, and what to do about
//! it.

mod docker;
mod host;
mod kernel;

use std::path::Path;

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

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            detail: detail.into(),
            advice: String::new(),
        }
    }

    fn warn(name: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            status: Status::Warn,
            advice: advice.into(),
            ..Self::ok(name, detail)
        }
    }

    fn fail(name: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            status: Status::Fail,
            advice: advice.into(),
            ..Self::ok(name, detail)
        }
    }
}

/// Examines this host as a daemon with `options` would find it. `docker` is the
/// path of the Docker Engine's socket. Leaves nothing behind.
pub async fn examine(options: &Options, docker: &Path) -> Vec<Check> {
    let mut checks = vec![host::capabilities()];
    checks.extend(kernel::examine(options.attach).await);
    checks.push(host::btf());
    checks.push(host::bpffs(&options.bpffs));
    checks.extend(host::network(options).await);
    checks.push(docker::reachable(docker).await);
    checks
}
