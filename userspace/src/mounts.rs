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
    /// The machine's mount namespace could not be entered.
    #[error(
        "cannot enter the mount namespace of process {pid}, where pinned programs outlive this \
         process; run as root, or with `nsenter --net` instead of `ip netns exec`"
    )]
    Enter {
        /// PID 1 as a rule.
        pid: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
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

/// Makes `bpffs` a directory on a bpffs that outlives this process, and says whether
/// it was not there yet.
///
/// Under `ip netns exec` the mount namespace is private and dies with the
/// process, pins and all. If that is so, this moves the process to the mount
/// namespace of the machine; so it must run while the process has one thread only.
pub fn prepare(bpffs: &Path) -> Result<bool, MountsError> {
    reach(bpffs)?;
    if !is_on_bpffs(bpffs) && bpffs.starts_with(BPFFS_MOUNT) {
        mount_bpffs(Path::new(BPFFS_MOUNT))?;
    }
    if !is_on_bpffs(bpffs) {
        return Err(MountsError::NotBpffs {
            path: bpffs.to_owned(),
        });
    }
    let made = !bpffs.exists();
    fs::create_dir_all(bpffs).map_err(at(bpffs))?;
    Ok(made)
}

/// Moves the process, which has one thread only, to where [`prepare`] would, but
/// makes nothing there.
pub fn reach(bpffs: &Path) -> Result<(), MountsError> {
    match outside() {
        Some(pid) if !is_on_bpffs(bpffs) => enter_mounts_of(pid),
        _ => Ok(()),
    }
}

/// Whether `path`, or what exists of it, is on a bpffs.
pub fn is_on_bpffs(path: &Path) -> bool {
    path.ancestors()
        .find_map(|ancestor| statfs(ancestor).ok())
        .is_some_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

/// The process whose mount namespace to move to, if ours is a private one: the
/// oldest that we may look at and that has our root directory, PID 1 as a rule.
/// A process with another root is in a container, or we are; either way its
/// mounts are not those we were given paths of.
fn outside() -> Option<u32> {
    let ours = MountIdentity::of("self")?;
    let mut processes: Vec<u32> = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    processes.sort_unstable();
    let (pid, theirs) = processes.into_iter().find_map(|pid| {
        let theirs = MountIdentity::of(&pid.to_string())?;
        (theirs.root == ours.root).then_some((pid, theirs))
    })?;
    (theirs.namespace != ours.namespace).then_some(pid)
}

/// What a process sees of filesystems, by device and inode.
struct MountIdentity {
    namespace: (u64, u64),
    root: (u64, u64),
}

impl MountIdentity {
    /// None if we may not look.
    fn of(process: &str) -> Option<Self> {
        let identity = |path: &str| {
            let meta = fs::metadata(format!("/proc/{process}/{path}")).ok()?;
            Some((meta.dev(), meta.ino()))
        };
        Some(Self {
            namespace: identity("ns/mnt")?,
            root: identity("root/")?,
        })
    }
}

fn enter_mounts_of(pid: u32) -> Result<(), MountsError> {
    let cwd = std::env::current_dir();
    let namespace = PathBuf::from(format!("/proc/{pid}/ns/mnt"));
    let file = File::open(&namespace).map_err(at(&namespace))?;
    setns(file, CloneFlags::CLONE_NEWNS).map_err(|error| MountsError::Enter {
        pid,
        source: error.into(),
    })?;
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
