//! `rust-src` as Debian packages it: the same sources, from the same mirror the
//! machine gets its other packages from. apt works on lists and a cache of our
//! own, so that nothing of the machine's configuration changes and root is not
//! needed.
//!
//! Only for machines that rustup's server cannot be reached from: that one has
//! every release for ever. Debian has the last few. `core` must be exactly the
//! compiler's, so once Debian drops the release in `rust-toolchain.toml`, this
//! fails and says so, and a newer release is due there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::process;

/// Where Debian publishes each Rust toolchain for its stable release, and keeps
/// some earlier ones; its other suites hold one each. Sources run on any release,
/// so an older machine may take them from here as well.
const SUITE: &str = "trixie-backports";

/// Installed on each Debian system; what the packages are signed with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// How long apt may take for one list or one package.
const LIMIT: Duration = Duration::from_mins(3);

/// Where the sources are after [`fetch`].
pub(super) fn library_below(directory: &Path, release: &str) -> PathBuf {
    directory.join(format!("rust-src/usr/src/rustc-{release}/library"))
}

/// Downloads and unpacks the package whose upstream version is `release`.
pub(super) fn fetch(directory: &Path, release: &str) -> Result<()> {
    ensure!(
        process::find_program("apt-get").is_some(),
        "there is no apt here"
    );
    ensure!(
        Path::new(KEYRING).is_file(),
        "{KEYRING} (package debian-archive-keyring) is missing"
    );
    let apt = PrivateApt::new(directory)?;
    let mut failures = Vec::new();
    for uri in configured_uris()? {
        match apt.fetch_from(&uri, release) {
            Ok(package) => return unpack(&package, directory),
            Err(error) => failures.push(format!("{uri}: {error:#}")),
        }
    }
    bail!(
        "no configured mirror has rust-src {release} in {SUITE}: {}",
        failures.join("; ")
    )
}

/// The mirrors in the machine's own configuration, also those whose lists were
/// never downloaded.
fn configured_uris() -> Result<BTreeSet<String>> {
    let mut query = Command::new("apt-get");
    query.args([
        "indextargets",
        "--no-release-info",
        "--format",
        "$(REPO_URI)",
    ]);
    let printed = process::stdout_of(query.arg("Created-By: Packages"))?;
    Ok(printed.lines().map(str::to_owned).collect())
}

/// Unpacks beside the destination first: what is there is complete.
fn unpack(package: &Path, directory: &Path) -> Result<()> {
    let partial = directory.join("rust-src.partial");
    let complete = directory.join("rust-src");
    remove_if_there(&partial)?;
    remove_if_there(&complete)?;
    process::run(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(package)
            .arg(&partial),
    )?;
    fs::rename(&partial, &complete)
        .with_context(|| format!("renaming {} to {}", partial.display(), complete.display()))
}

fn remove_if_there(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// apt with one source, lists and a cache that are ours.
struct PrivateApt {
    directory: PathBuf,
}

impl PrivateApt {
    fn new(toolchain: &Path) -> Result<Self> {
        let directory = toolchain.join("apt");
        for below in ["lists/partial", "cache/archives/partial", "packages"] {
            let path = directory.join(below);
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        Ok(Self { directory })
    }

    fn fetch_from(&self, uri: &str, release: &str) -> Result<PathBuf> {
        let source = format!("deb [signed-by={KEYRING}] {uri} {SUITE} main\n");
        let list = self.directory.join("sources.list");
        fs::write(&list, source).with_context(|| format!("writing {}", list.display()))?;
        // A suite that the mirror does not have is an error here, not a warning.
        process::run_within(
            self.command("apt-get")
                .args(["update", "--quiet=2", "--error-on=any"]),
            LIMIT,
        )?;
        let version = self.version_of(release)?;
        let packages = self.directory.join("packages");
        let mut download = self.command("apt-get");
        download.args(["download", "--quiet=2", &format!("rust-src={version}")]);
        process::run_within(download.current_dir(&packages), LIMIT)?;
        let mut files = fs::read_dir(&packages)?.filter_map(|entry| Some(entry.ok()?.path()));
        files
            .find(|file| {
                file.to_string_lossy()
                    .contains(&format!("rust-src_{release}+"))
            })
            .context("apt downloaded it, but there is no such file")
    }

    /// The full version of the package of this upstream version.
    fn version_of(&self, release: &str) -> Result<String> {
        let printed = process::stdout_of(self.command("apt-cache").args(["madison", "rust-src"]))?;
        let mut versions = printed.lines().filter_map(|line| line.split('|').nth(1));
        let exact = versions.find(|version| version.trim().starts_with(&format!("{release}+")));
        Ok(exact
            .context("it does not have that version")?
            .trim()
            .to_owned())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = |below: &str| self.directory.join(below).display().to_string();
        for option in [
            format!("Dir::Etc::SourceList={}", path("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            "Dir::Etc::PreferencesParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", path("lists")),
            format!("Dir::Cache={}", path("cache")),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=2".to_owned(),
            // apt's own unprivileged user may not reach into our directory.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }
}
