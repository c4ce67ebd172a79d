//! What a Docker Engine leaves behind when it is killed: processes with file
//! systems, and mounts, below its directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// IDs and command lines of all processes.
pub fn processes() -> impl Iterator<Item = (i32, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        Some((id, String::from_utf8_lossy(&command).into_owned()))
    })
}

/// Ends processes that name a file below `directory` on their command lines, or
/// whose root is there. Nobody else's do: the directory's name is unique.
pub fn end_processes_below(directory: &Path) {
    let below = format!("{}/", directory.display());
    for (id, command) in processes() {
        if command.contains(&below) || root_of(id).is_some_and(|root| root.contains(&below)) {
            // It may have ended by itself meanwhile.
            let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

/// What is mounted as a process's root, with its options: an overlay names its
/// directories there.
fn root_of(process: i32) -> Option<String> {
    let mounts = fs::read_to_string(format!("/proc/{process}/mountinfo")).ok()?;
    let mut lines = mounts.lines();
    let root = lines.find(|line| line.split(' ').nth(4) == Some("/"))?;
    Some(root.to_owned())
}

/// Unmounts everything below `directory`.
pub fn unmount_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let below: Vec<PathBuf> = points
        .map(PathBuf::from)
        .filter(|point| point.starts_with(directory))
        .collect();
    // Later ones may stand on earlier ones.
    for point in below.iter().rev() {
        if let Err(error) = umount2(point, MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {error}", point.display());
        }
    }
}
