//! Where the repository and what is built from it are.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::process;

/// The repository and its target directory.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
    metadata: serde_json::Value,
}

impl Workspace {
    /// Asks cargo, which knows about `CARGO_TARGET_DIR` and configuration files.
    pub(crate) fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("Cargo.toml");
        let mut cargo = Command::new(cargo());
        cargo
            .args([
                "metadata",
                "--no-deps",
                "--format-version=1",
                "--manifest-path",
            ])
            .arg(manifest);
        let metadata: serde_json::Value = serde_json::from_str(&process::stdout_of(&mut cargo)?)
            .context("reading what `cargo metadata` printed")?;
        let directory = |key: &str| -> Result<PathBuf> {
            let path = metadata[key].as_str();
            Ok(path
                .with_context(|| format!("`cargo metadata` named no {key}"))?
                .into())
        };
        Ok(Self {
            root: directory("workspace_root")?,
            target: directory("target_directory")?,
            metadata,
        })
    }

    /// The repository.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where cargo puts what it builds.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// What `cargo metadata --no-deps` says about the workspace.
    pub(crate) fn metadata(&self) -> &serde_json::Value {
        &self.metadata
    }

    /// The version all crates of the workspace have.
    pub(crate) fn version(&self) -> Result<&str> {
        let packages = self.metadata["packages"].as_array();
        packages
            .and_then(|all| all.iter().find(|package| package["name"] == "vxplane"))
            .and_then(|package| package["version"].as_str())
            .context("`cargo metadata` does not know the package vxplane")
    }

    /// A cargo command in the repository.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new(cargo());
        command.current_dir(&self.root).arg(subcommand);
        command
    }
}

/// The cargo that runs us, so that one toolchain builds everything.
fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}
