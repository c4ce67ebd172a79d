//! What we link with: licences we may ship, from a source that keeps versions.
//! `deny.toml` is the one list, and cargo-deny checks the same and more where
//! it is installed; compiling it takes longer than all else a fresh machine
//! needs, so it is not made a condition.

mod expression;

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{
    crates::{Crate, Crates},
    process,
    workspace::Workspace,
};

/// As much of `deny.toml` as is checked here.
#[derive(Debug, Deserialize)]
struct Deny {
    licenses: Licences,
    sources: Sources,
}

#[derive(Debug, Deserialize)]
struct Licences {
    allow: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

/// Dependencies whose licence or source is not allowed.
pub(super) fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let deny =
        fs::read_to_string(workspace.root().join("deny.toml")).context("reading deny.toml")?;
    let deny: Deny = toml::from_str(&deny).context("in deny.toml")?;
    let mut found = Vec::new();
    for it in Crates::of(workspace)?.all() {
        found.extend(problems_of(it, &deny));
    }
    if process::find_program("cargo-deny").is_some() {
        let mut deny = workspace.cargo("deny");
        deny.args(["--log-level=error", "check", "bans", "licenses", "sources"]);
        process::run(&mut deny)?;
    }
    Ok(found)
}

fn problems_of(it: &Crate, deny: &Deny) -> Vec<String> {
    let name = format!("{} {}", it.name, it.version);
    let mut problems = Vec::new();
    match it.license.as_deref().map(expression::parse) {
        Some(Ok(expression)) if expression.is_met_by(&deny.licenses.allow) => {}
        Some(Ok(expression)) => problems.push(format!("{name}: {expression} is not allowed")),
        Some(Err(error)) => problems.push(format!("{name}: {error}")),
        None => problems.push(format!("{name} names no licence")),
    }
    let source = it.source.as_deref();
    let registry = source.and_then(|source| source.strip_prefix("registry+"));
    let known =
        registry.is_some_and(|it| deny.sources.allow_registry.iter().any(|known| known == it));
    let ours = source.is_none() && it.manifest_path.is_file();
    if !known && !ours {
        problems.push(format!("{name} comes from {}", source.unwrap_or("nowhere")));
    }
    problems
}
