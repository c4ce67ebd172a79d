//! Pins that somebody removed are put back. The maps live on, in this process and
//! in the programs that run, so nothing of what they hold is lost.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use aya::maps::MapData;
use nix::fcntl::{Flock, FlockArg};

use super::{Datapath, Error, PARTS, pins};

/// Makes the directories of a datapath and locks it against other daemons.
pub(super) fn claim(directory: &Path) -> Result<Flock<File>, Error> {
    make_directories(directory)?;
    let path = directory.to_owned();
    let file = match File::open(directory) {
        Ok(file) => file,
        Err(source) => return Err(Error::Path { path, source }),
    };
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock);
    lock.map_err(|_| Error::InUse { path })
}

fn make_directories(directory: &Path) -> Result<(), Error> {
    for part in PARTS {
        let path = directory.join(part);
        fs::create_dir_all(&path).map_err(|source| Error::Path { path, source })?;
    }
    Ok(())
}

/// Takes hold of the maps pinned in `directory`.
pub(super) fn hold(directory: &Path) -> Result<Vec<(PathBuf, MapData)>, Error> {
    let hold = |spec: &pins::Spec| {
        let path = spec.path(directory);
        match MapData::from_pin(&path) {
            Ok(map) => Ok((path, map)),
            Err(source) => Err(Error::Map {
                map: spec.name,
                source,
            }),
        }
    };
    pins::SPECS.iter().map(hold).collect()
}

impl Datapath {
    /// Whether pinned maps or the directory of links are gone.
    pub fn is_unpinned(&self) -> bool {
        let gone = |(path, _): &(PathBuf, MapData)| !path.exists();
        !self.links().is_dir() || self.held.iter().any(gone)
    }

    /// Pins again what is gone, for the next daemon to find. Links are not held:
    /// without its pin a program was detached, and is attached anew.
    pub fn pin_again(&mut self) -> Result<(), Error> {
        if self.is_locked() {
            make_directories(&self.directory)?;
        } else {
            self.lock = claim(&self.directory)?;
        }
        for (path, map) in &self.held {
            if !path.exists() {
                map.pin(path).map_err(|source| Error::PinMap {
                    path: path.clone(),
                    source,
                })?;
            }
        }
        Ok(())
    }

    /// Whether what is locked is still the directory of that name.
    fn is_locked(&self) -> bool {
        let inode = |metadata: io::Result<fs::Metadata>| metadata.map(|it| it.ino()).ok();
        let locked = inode(self.lock.metadata());
        locked.is_some() && locked == inode(fs::metadata(&self.directory))
    }
}
