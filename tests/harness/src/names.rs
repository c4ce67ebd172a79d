//! Unique names, and the removal of what dead owners left behind.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use crate::{
    leftovers::{end_processes_below, unmount_below},
    process::finish_within,
};

/// What every namespace and directory of ours starts with; our process ID and a
/// dash follow.
const PREFIX: &str = "vxt";

/// Where `ip netns` keeps its bind mounts.
pub(crate) const NETNS_DIRECTORY: &str = "/run/netns";

/// Where bpffs is mounted.
const BPFFS: &str = "/sys/fs/bpf";

/// `vxt<pid>-<counter>-<what>`.
pub(crate) fn unique(what: &str) -> String {
    format!("{PREFIX}{}-{}-{what}", process::id(), number())
}

/// A number this process has not used before.
pub(crate) fn number() -> u32 {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    COUNTER.fetch_add(1, Ordering::Relaxed)
}

/// A directory for files under this unique name.
pub(crate) fn directory(unique: &str) -> PathBuf {
    std::env::temp_dir().join(unique)
}

/// A directory for pins under this unique name; the daemon makes it.
pub(crate) fn bpffs(unique: &str) -> PathBuf {
    Path::new(BPFFS).join(unique)
}

/// [`remove_abandoned`], once per process.
pub(crate) fn sweep_once() {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(remove_abandoned);
}

/// Removes what killed runs left behind: namespaces, directories, and what runs
/// in them.
pub fn remove_abandoned() {
    for namespace in left_in(Path::new(NETNS_DIRECTORY)) {
        sweep_namespace(&namespace);
    }
    for place in [PathBuf::from(BPFFS), std::env::temp_dir()] {
        for directory in left_in(&place) {
            end_processes_below(&directory);
            unmount_below(&directory);
            // Somebody else may sweep at the same time.
            let _ = fs::remove_dir_all(directory);
        }
    }
}

fn left_in(place: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(place).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            owner_of(&name).is_some_and(|owner| !is_alive(owner))
        })
        .collect()
}

/// Whether there is such a process, and not only its exit status for a parent
/// that has not asked yet.
fn is_alive(process: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything.
    stat.rsplit_once(") ")
        .is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

/// The process ID in a name of ours, as text.
fn owner_of(name: &str) -> Option<&str> {
    let (owner, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let is_number = !owner.is_empty() && owner.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(owner)
}

/// Ends the processes in a namespace of ours whose owner is dead, and removes it.
fn sweep_namespace(path: &Path) {
    let name = path.file_name().unwrap_or_default();
    let limit = Duration::from_secs(10);
    let inside = finish_within(Command::new("ip").args(["netns", "pids"]).arg(name), limit);
    for id in inside
        .map(|done| done.stdout)
        .unwrap_or_default()
        .split_whitespace()
    {
        if let Ok(id) = id.parse() {
            let id = nix::unistd::Pid::from_raw(id);
            // It may have ended by itself meanwhile.
            let _ = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGKILL);
        }
    }
    let _ = finish_within(Command::new("ip").args(["netns", "del"]).arg(name), limit);
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{is_alive, owner_of};

    #[test]
    fn a_zombie_is_dead() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = child.id().to_string();
        assert!(is_alive(&id));
        child.kill().unwrap();
        // Nobody has asked for its status yet: it stays what it is.
        while is_alive(&id) {
            std::thread::yield_now();
        }
        assert!(std::path::Path::new("/proc").join(&id).exists());
        child.wait().unwrap();
        assert!(!is_alive(&id));
    }

    #[test]
    fn only_names_of_ours_have_an_owner() {
        assert_eq!(owner_of("vxt4711-0-fabric"), Some("4711"));
        for foreign in ["vxt-0-a", "vxtable-1", "cni-1234", "vxt12x-0-a", "vxt12"] {
            assert_eq!(owner_of(foreign), None, "{foreign}");
        }
    }
}
