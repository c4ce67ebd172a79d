//! What we link with: licences we may ship, from a source that keeps versions.
//! `deny.toml` is the one list, and cargo-deny checks the same and more where
//! it is installed; compiling it takes longer than all else a fresh machine
//! needs, so it is not made a condition.

mod expression;

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::{process, workspace::Workspace};

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
    let mut metadata = workspace.cargo("metadata");
    // What other platforms would need is neither built nor shipped.
    metadata.args([
        "--format-version=1",
        "--locked",
        "--filter-platform",
        &host_triple()?,
    ]);
    let metadata: Value = serde_json::from_str(&process::stdout_of(&mut metadata)?)?;
    let resolved: BTreeSet<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|node| node["id"].as_str())
        .collect();
    let packages = metadata["packages"]
        .as_array()
        .context("`cargo metadata` names no packages")?;
    let mut found = Vec::new();
    for package in packages {
        if package["id"]
            .as_str()
            .is_some_and(|id| resolved.contains(id))
        {
            found.extend(problems_of(package, &deny));
        }
    }
    if process::find_program("cargo-deny").is_some() {
        let mut deny = workspace.cargo("deny");
        deny.args(["--log-level=error", "check", "bans", "licenses", "sources"]);
        process::run(&mut deny)?;
    }
    Ok(found)
}

fn host_triple() -> Result<String> {
    let printed = process::stdout_of(Command::new("rustc").arg("-vV"))?;
    let host = printed.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` named no host")?.to_owned())
}

fn problems_of(package: &Value, deny: &Deny) -> Vec<String> {
    let text = |key: &str| package[key].as_str();
    let name = format!(
        "{} {}",
        text("name").unwrap_or("?"),
        text("version").unwrap_or("?")
    );
    let mut problems = Vec::new();
    match text("license").map(expression::parse) {
        Some(Ok(expression)) if expression.is_met_by(&deny.licenses.allow) => {}
        Some(Ok(expression)) => problems.push(format!("{name}: {expression} is not allowed")),
        Some(Err(error)) => problems.push(format!("{name}: {error}")),
        None => problems.push(format!("{name} names no licence")),
    }
    let source = text("source");
    let registry = source.and_then(|source| source.strip_prefix("registry+"));
    let known =
        registry.is_some_and(|it| deny.sources.allow_registry.iter().any(|known| known == it));
    let ours = source.is_none() && text("manifest_path").is_some_and(|it| Path::new(it).is_file());
    if !known && !ours {
        problems.push(format!("{name} comes from {}", source.unwrap_or("nowhere")));
    }
    problems
}
