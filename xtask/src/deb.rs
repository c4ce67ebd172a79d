//! `cargo xtask deb`: the Debian package.

mod notices;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use self::notices::Notices;
use crate::{
    build::{self, Profile},
    crates::Crates,
    process,
    workspace::Workspace,
};

/// Shells, and where Debian looks for their completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/vxplane"),
    ("fish", "usr/share/fish/vendor_completions.d/vxplane.fish"),
    ("zsh", "usr/share/zsh/vendor-completions/_vxplane"),
];

/// Files of the repository, and where they go.
const FILES: [(&str, &str); 6] = [
    (
        "packaging/vxplane.service",
        "usr/lib/systemd/system/vxplane.service",
    ),
    (
        "packaging/vxplane.socket",
        "usr/lib/systemd/system/vxplane.socket",
    ),
    ("README.md", "usr/share/doc/vxplane/README.md"),
    ("docs/OPERATIONS.md", "usr/share/doc/vxplane/OPERATIONS.md"),
    ("docs/SECURITY.md", "usr/share/doc/vxplane/SECURITY.md"),
    ("CHANGELOG.md", "usr/share/doc/vxplane/changelog"),
];

/// What dpkg runs when it installs and removes the package.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Builds the package and says where it is.
pub(crate) fn run(workspace: &Workspace, profile: Profile) -> Result<()> {
    build::ebpf(workspace)?;
    let binary = build::daemon(workspace, profile)?;
    let package = package(workspace, profile, &binary)?;
    println!("{}", package.display());
    Ok(())
}

/// Packs this binary. What is for tests has one name always, beside the binary,
/// and is not compressed.
pub(crate) fn package(workspace: &Workspace, profile: Profile, binary: &Path) -> Result<PathBuf> {
    ensure!(
        process::find_program("dpkg-deb").is_some(),
        "dpkg-deb is missing: install the package dpkg, which is there on each Debian system"
    );
    let architecture = process::stdout_of(Command::new("dpkg").arg("--print-architecture"))?;
    let name = format!("vxplane_{}_{}", workspace.version()?, architecture.trim());
    let (tree, package, compression) = match profile {
        Profile::Release => {
            let tree = workspace.target().join("deb").join(&name);
            let package = tree.with_file_name(format!("{name}.deb"));
            (tree, package, "-Zxz")
        }
        Profile::Debug => {
            let package = binary.with_extension("deb");
            (binary.with_extension("deb-tree"), package, "-Znone")
        }
    };
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("removing {}", tree.display()))?;
    }
    fill(workspace, binary, &tree)?;
    let control = control(workspace, architecture.trim())?;
    write(&tree.join("DEBIAN/control"), control.as_bytes(), 0o644)?;
    open_directories(&tree)?;
    let mut dpkg = Command::new("dpkg-deb");
    dpkg.args(["--root-owner-group", compression, "--build"])
        .arg(&tree)
        .arg(&package);
    process::stdout_of(&mut dpkg)?;
    Ok(package)
}

fn fill(workspace: &Workspace, binary: &Path, tree: &Path) -> Result<()> {
    install(binary, &tree.join("usr/bin/vxplane"), 0o755)?;
    for (from, to) in FILES {
        install(&workspace.root().join(from), &tree.join(to), 0o644)?;
    }
    for script in SCRIPTS {
        let from = workspace.root().join("packaging/debian").join(script);
        install(&from, &tree.join("DEBIAN").join(script), 0o755)?;
    }
    let crates = Crates::of(workspace)?;
    let notices = Notices::of(&crates);
    let copyright = workspace.root().join("packaging/debian/copyright");
    let copyright = fs::read_to_string(&copyright)
        .with_context(|| format!("reading {}", copyright.display()))?;
    let copyright = copyright + &notices.sources()?;
    let documents = tree.join("usr/share/doc/vxplane");
    write(&documents.join("copyright"), copyright.as_bytes(), 0o644)?;
    let notices = notices.text()?;
    write(&documents.join("THIRD-PARTY"), notices.as_bytes(), 0o644)?;
    for (shell, to) in COMPLETIONS {
        let script = process::stdout_of(Command::new(binary).args(["completions", shell]))?;
        write(&tree.join(to), script.as_bytes(), 0o644)?;
    }
    Ok(())
}

fn install(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    write(to, &bytes, mode)
}

fn write(to: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let directory = to.parent().context("a file without directory")?;
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    fs::write(to, bytes).with_context(|| format!("writing {}", to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
        .with_context(|| format!("setting the mode of {}", to.display()))
}

/// Opens directories to everybody, whatever the umask of whoever builds them.
fn open_directories(tree: &Path) -> Result<()> {
    fs::set_permissions(tree, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("setting the mode of {}", tree.display()))?;
    for entry in fs::read_dir(tree)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_directories(&entry.path())?;
        }
    }
    Ok(())
}

fn control(workspace: &Workspace, architecture: &str) -> Result<String> {
    let printed = process::stdout_of(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    let glibc = printed
        .split_whitespace()
        .last()
        .context("getconf named no version of glibc")?;
    Ok(format!(
        "Package: vxplane\n\
         Version: {}\n\
         Architecture: {architecture}\n\
         Maintainer: The vxplane authors <vxplane@localhost>\n\
         Depends: libc6 (>= {glibc}), libgcc-s1, init-system-helpers, passwd\n\
         Suggests: docker.io | docker-ce\n\
         Section: net\n\
         Priority: optional\n\
         Description: container networks over VXLAN, in eBPF\n \
         Gives containers on many hosts one VXLAN network each, forwarded by eBPF\n \
         programs: no Open vSwitch, no bridge, no Kubernetes.\n",
        workspace.version()?
    ))
}
