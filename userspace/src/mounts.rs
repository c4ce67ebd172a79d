//! Where pins can live: the mount namespace the daemon runs in and its bpffs.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// Where a bpffs is mounted by convention.
const BPFFS_MOUNT: &str = "/sys/fs/bpf";

/// Why there is no place for pins.
#[derive(Debug, thiserror::Error)]
pub enum MountsError {
    /// A file or directory that should be there could not be used.
    #[error("cannot use {path}")]
    Path {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The mount namespace of PID 1 could not be entered.
    #[error(
        "cannot enter the mount namespace of PID 1, where pinned programs outlive this process; \
         run as root, or with `nsenter --net` instead of `ip netns exec`"
    )]
    Enter(#[source] io::Error),
    /// A bpffs could not be mounted.
    #[error("cannot mount a bpffs on {path}; as root, run: mount -t bpf bpf {path}")]
    Mount {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The directory asked for is on another filesystem.
    #[error(
        "{path} is not on a bpffs; choose a directory below /sys/fs/bpf with --bpffs, \
         or mount one there: mount -t bpf bpf {path}"
    )]
    NotBpffs {
        /// Which.
        path: PathBuf,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> MountsError {
    move |source| MountsError::Path {
        path: path.to_owned(),
        source,
    }
}

/// Makes `bpffs` a directory on a bpffs that outlives this process.
///
/// Under `ip netns exec` the mount namespace is private and dies with the
/// process, pins and all. If that is so, this moves the process to the mount
/// namespace of PID 1; so it must run while the process has one thread only.
pub fn prepare(bpffs: &Path) -> Result<(), MountsError> {
    if !is_on_bpffs(bpffs) && in_private_mounts_of_the_same_root()? {
        enter_mounts_of_init()?;
    }
    if !is_on_bpffs(bpffs) && bpffs.starts_with(BPFFS_MOUNT) {
        mount_bpffs(Path::new(BPFFS_MOUNT))?;
    }
    if !is_on_bpffs(bpffs) {
        return Err(MountsError::NotBpffs {
            path: bpffs.to_owned(),
        });
    }
    fs::create_dir_all(bpffs).map_err(at(bpffs))
}

/// Whether `path`, or what exists of it, is on a bpffs.
pub fn is_on_bpffs(path: &Path) -> bool {
    path.ancestors()
        .find_map(|ancestor| statfs(ancestor).ok())
        .is_some_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

/// Whether our mount namespace is not PID 1's although we see the same root
/// directory: `ip netns exec`, not a container.
fn in_private_mounts_of_the_same_root() -> Result<bool, MountsError> {
    let identity = |path: &str| {
        let path = Path::new(path);
        fs::metadata(path)
            .map(|meta| (meta.dev(), meta.ino()))
            .map_err(at(path))
    };
    Ok(
        identity("/proc/self/ns/mnt")? != identity("/proc/1/ns/mnt")?
            && identity("/")? == identity("/proc/1/root/")?,
    )
}

fn enter_mounts_of_init() -> Result<(), MountsError> {
    let cwd = std::env::current_dir();
    let namespace = Path::new("/proc/1/ns/mnt");
    let file = File::open(namespace).map_err(at(namespace))?;
    setns(file, CloneFlags::CLONE_NEWNS).map_err(|error| MountsError::Enter(error.into()))?;
    // setns moved us to the root directory; relative paths in our arguments
    // mean where we were started.
    if let Ok(cwd) = cwd {
        std::env::set_current_dir(&cwd).map_err(at(&cwd))?;
    }
    Ok(())
}

/// Mounts a bpffs unless another process did so meanwhile.
fn mount_bpffs(path: &Path) -> Result<(), MountsError> {
    let lock_path = Path::new("/run/vxplane-bpffs.lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(lock_path)
        .map_err(at(lock_path))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, error)| at(lock_path)(error.into()))?;
    if is_on_bpffs(path) {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0700")).map_err(|error| {
        MountsError::Mount {
            path: path.to_owned(),
            source: error.into(),
        }
    })
}
