//! `vxplane policy`

use std::path::PathBuf;

use clap::Subcommand;
use serde::Deserialize;

use super::{
    CliError,
    client::{Client, query, segment},
    output::{Printer, table},
};
use crate::surfaces::api::{AppliedDto, PolicyDto};

mod describe;
mod files;

/// The namespace of a policy where none is named.
const DEFAULT: &str = "default";

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Have policies be there as they are in files, all of them or none
    Apply {
        /// A file of Kubernetes NetworkPolicy documents, YAML or JSON; a directory of them; or - for standard input; may be repeated
        #[arg(short, long = "filename", value_name = "FILE", required = true)]
        filenames: Vec<PathBuf>,
    },
    /// List policies
    Ls {
        /// Only those in this namespace
        #[arg(short, long, value_name = "NS")]
        namespace: Option<String>,
    },
    /// Show one policy
    Inspect {
        /// Its name, and before it its namespace and a / [namespace: default]
        #[arg(value_name = "[NS/]NAME")]
        name: String,
    },
    /// Remove a policy
    Rm {
        /// Its name, and before it its namespace and a / [namespace: default]
        #[arg(value_name = "[NS/]NAME")]
        name: String,
    },
}

/// What applying one or several documents is answered with.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Applied {
    One(Box<PolicyDto>),
    Several(Vec<PolicyDto>),
}

impl Command {
    pub(super) async fn run(self, client: &Client, printer: Printer) -> Result<(), CliError> {
        match self {
            Self::Apply { filenames } => {
                let text = files::read_all(&filenames)?;
                let answer = client.post_text::<Applied>("/v1/policies", text).await?;
                printer.answer(&answer, |applied| match applied {
                    Applied::One(policy) => line(policy),
                    Applied::Several(policies) => policies.iter().map(line).collect(),
                })?;
            }
            Self::Ls { namespace } => {
                let path = query("/v1/policies", &[("namespace", namespace)]);
                let answer = client.get::<Vec<_>>(&path).await?;
                printer.answer(&answer, |policies| list(policies))?;
            }
            Self::Inspect { name } => {
                let answer = client.get(&path_of(&name)).await?;
                printer.answer(&answer, describe::policy)?;
            }
            Self::Rm { name } => {
                client.delete(&path_of(&name)).await?;
                let (_, name) = parts(&name);
                printer.done(&format!("networkpolicy.networking.k8s.io/{name} deleted"))?;
            }
        }
        Ok(())
    }
}

fn parts(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or((DEFAULT, name))
}

fn path_of(name: &str) -> String {
    let (namespace, name) = parts(name);
    format!("/v1/policies/{}/{}", segment(namespace), segment(name))
}

/// As `kubectl apply` says it.
fn line(policy: &PolicyDto) -> String {
    let applied = policy.status.as_ref().and_then(|status| status.applied);
    let done = match applied {
        Some(AppliedDto::Created) => "created",
        Some(AppliedDto::Configured) => "configured",
        Some(AppliedDto::Unchanged) | None => "unchanged",
    };
    let name = &policy.metadata.name;
    format!("networkpolicy.networking.k8s.io/{name} {done}\n")
}

fn list(policies: &[PolicyDto]) -> String {
    let row = |policy: &PolicyDto| {
        [
            policy.metadata.namespace.clone(),
            policy.metadata.name.clone(),
            describe::selector(&policy.spec.pod_selector),
            describe::directions(&policy.spec).join(","),
        ]
    };
    let header = ["NAMESPACE", "NAME", "POD-SELECTOR", "TYPES"];
    table(header, policies.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_namespace_is_in_the_default_one() {
        assert_eq!(path_of("web"), "/v1/policies/default/web");
        assert_eq!(path_of("shop/web"), "/v1/policies/shop/web");
        assert_eq!(path_of("shop/a/b"), "/v1/policies/shop/a%2Fb");
    }
}
