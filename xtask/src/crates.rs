//! The crates that ours are made of, as cargo resolves them for this machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{process, workspace::Workspace};

/// A crate, as much of it as matters for what may be shipped.
#[derive(Debug, Deserialize)]
pub(crate) struct Crate {
    id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    /// A licence expression.
    pub(crate) license: Option<String>,
    /// Where it comes from; none for our own.
    pub(crate) source: Option<String>,
    pub(crate) repository: Option<String>,
    pub(crate) authors: Vec<String>,
    pub(crate) manifest_path: PathBuf,
    targets: Vec<Target>,
}

impl Crate {
    /// Where its files are.
    pub(crate) fn directory(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(&self.manifest_path)
    }

    /// It runs in the compiler, and nothing of it is in what is built.
    fn is_macro(&self) -> bool {
        let mut kinds = self.targets.iter().flat_map(|target| &target.kind);
        kinds.any(|kind| kind == "proc-macro")
    }
}

#[derive(Debug, Deserialize)]
struct Target {
    kind: Vec<String>,
}

/// As `cargo metadata` prints it.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Crate>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

/// `None` is a dependency of what is built; others are of its build or tests.
#[derive(Debug, Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

/// All crates that building, testing and running takes on this machine.
#[derive(Debug)]
pub(crate) struct Crates {
    by_id: BTreeMap<String, Crate>,
    nodes: BTreeMap<String, Node>,
}

impl Crates {
    /// Asks cargo. What other platforms would need is neither built nor shipped.
    pub(crate) fn of(workspace: &Workspace) -> Result<Self> {
        let mut metadata = workspace.cargo("metadata");
        metadata.args([
            "--format-version=1",
            "--locked",
            "--filter-platform",
            &host_triple()?,
        ]);
        let printed = process::stdout_of(&mut metadata)?;
        let metadata: Metadata = serde_json::from_str(&printed).context("of `cargo metadata`")?;
        let nodes = metadata.resolve.nodes.into_iter();
        let nodes: BTreeMap<_, _> = nodes.map(|node| (node.id.clone(), node)).collect();
        let packages = metadata.packages.into_iter();
        let resolved = packages.filter(|package| nodes.contains_key(&package.id));
        Ok(Self {
            by_id: resolved.map(|it| (it.id.clone(), it)).collect(),
            nodes,
        })
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Crate> {
        self.by_id.values()
    }

    /// Those that are linked into these crates of ours, themselves included, by
    /// name and version.
    pub(crate) fn linked_into(&self, ours: &[&str]) -> Vec<&Crate> {
        let is_ours = |it: &&Crate| it.source.is_none() && ours.contains(&it.name.as_str());
        let mut waiting: Vec<_> = self.all().filter(is_ours).collect();
        let mut linked = BTreeMap::new();
        while let Some(next) = waiting.pop() {
            if linked.insert((&next.name, &next.version), next).is_none() {
                waiting.extend(self.linked_by(next));
            }
        }
        linked.into_values().collect()
    }

    fn linked_by(&self, it: &Crate) -> impl Iterator<Item = &Crate> {
        let node = self.nodes.get(&it.id).into_iter();
        let linked = node.flat_map(|node| &node.deps).filter(|dependency| {
            let mut kinds = dependency.dep_kinds.iter();
            kinds.any(|it| it.kind.is_none())
        });
        let ids: BTreeSet<_> = linked.map(|dependency| &dependency.pkg).collect();
        let crates = ids.into_iter().filter_map(|id| self.by_id.get(id));
        crates.filter(|it| !it.is_macro())
    }
}

fn host_triple() -> Result<String> {
    let printed = process::stdout_of(Command::new("rustc").arg("-vV"))?;
    let host = printed.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` named no host")?.to_owned())
}
