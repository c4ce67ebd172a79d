//! Taking away what is pinned.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use super::{
    Error, PARTS, Qdiscs,
    attach::{parse_pin, remove_pin},
    pins::parse_file_name,
    qdiscs::remove_directory,
};

/// What a daemon that has ended left pinned, held so that none can start there.
#[derive(Debug)]
pub struct Remains {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Remains {
    /// Those below `directory`, if there are any.
    pub fn below(directory: &Path) -> Result<Option<Self>, Error> {
        if !PARTS.iter().any(|part| directory.join(part).is_dir()) {
            return Ok(None);
        }
        let path = directory.to_owned();
        let file = match File::open(directory) {
            Ok(file) => file,
            Err(source) => return Err(Error::Path { path, source }),
        };
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        Ok(Some(Self {
            directory: directory.to_owned(),
            _lock: lock.map_err(|_| Error::InUse { path })?,
        }))
    }

    /// The notes on qdiscs.
    pub fn qdiscs(&self) -> Qdiscs {
        Qdiscs::below(&self.directory)
    }

    /// Takes the links away, and with them their programs from the devices.
    /// Returns their names.
    pub fn remove_links(&self) -> Result<Vec<String>, Error> {
        self.remove_pins("links", |name| parse_pin(name).is_some())
    }

    /// Takes the maps away, of whatever version. Returns their names.
    pub fn remove_maps(&self) -> Result<Vec<String>, Error> {
        self.remove_pins("maps", |name| parse_file_name(name).is_some())
    }

    fn remove_pins(
        &self,
        part: &str,
        is_ours: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>, Error> {
        let directory = self.directory.join(part);
        let mut removed = Vec::new();
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                continue;
            };
            if is_ours(&name) {
                remove_pin(&entry.path())?;
                removed.push(name);
            }
        }
        // What is left in it is somebody else's, and so is it then.
        remove_directory(&directory)?;
        removed.sort_unstable();
        Ok(removed)
    }

    /// Takes the directory away, which has to be empty but for notes.
    pub fn remove_directory(&self) -> Result<(), Error> {
        self.qdiscs().clear()?;
        remove_directory(&self.directory).map(drop)
    }
}
