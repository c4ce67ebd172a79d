//! The clsact qdiscs that the daemon made on devices that are not its own: when
//! the last filter is gone, they go too. One that was there before stays.
//!
//! Which is which must outlive the daemon, so it is noted beside the pins, by an
//! empty directory for each device.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::Error;

/// The notes, below the directory of the pins.
#[derive(Clone, Debug)]
pub struct Qdiscs {
    directory: PathBuf,
}

impl Qdiscs {
    /// Those of the daemon that pins below `bpffs`.
    pub fn below(bpffs: &Path) -> Self {
        let directory = bpffs.join("qdiscs");
        Self { directory }
    }

    fn path(&self, device: u32) -> PathBuf {
        self.directory.join(device.to_string())
    }

    /// Notes that the qdisc of the device with this index is going to be made.
    /// Beforehand, for nobody knows who made one that is there. Whether that was
    /// new.
    pub(super) fn note(&self, device: u32) -> Result<bool, Error> {
        let path = self.path(device);
        let made = fs::create_dir_all(&self.directory).and_then(|()| fs::create_dir(&path));
        match made {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(source) => Err(Error::Path { path, source }),
        }
    }

    /// Forgets about a device.
    pub fn forget(&self, device: u32) -> Result<(), Error> {
        remove_directory(&self.path(device)).map(drop)
    }

    /// Indices of the devices whose qdisc is the daemon's.
    pub fn devices(&self) -> BTreeSet<u32> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten();
        let names = entries.flatten().map(|entry| entry.file_name());
        names
            .filter_map(|name| name.to_str()?.parse().ok())
            .collect()
    }

    /// Forgets about all devices.
    pub(super) fn clear(&self) -> Result<(), Error> {
        for device in self.devices() {
            self.forget(device)?;
        }
        remove_directory(&self.directory).map(drop)
    }
}

/// Removes an empty directory; whether there was one.
pub(super) fn remove_directory(path: &Path) -> Result<bool, Error> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::Path {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_new_once() {
        let directory = tempfile::tempdir().unwrap();
        let qdiscs = Qdiscs::below(directory.path());
        assert!(qdiscs.devices().is_empty());
        assert!(qdiscs.note(7).unwrap());
        assert!(!qdiscs.note(7).unwrap());
        assert_eq!(qdiscs.devices(), [7].into());
        qdiscs.forget(7).unwrap();
        qdiscs.forget(7).unwrap();
        assert!(qdiscs.note(7).unwrap());
        qdiscs.clear().unwrap();
        qdiscs.clear().unwrap();
        assert!(qdiscs.devices().is_empty());
    }
}
