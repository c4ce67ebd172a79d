//! From the maps of one layout to those of the next, under traffic.
//!
//! A daemon that needs maps of another layout makes them beside those that are
//! there, which go on serving the programs attached. Then, in this order:
//!
//! 1. the reconciler fills them from what is desired, until they equal it;
//! 2. what only the kernel knows is taken over ([`Datapath::take_over`]);
//! 3. the programs are replaced, link by link;
//! 4. the older maps are unpinned ([`Datapath::retire`]), which frees them.
//!
//! Each step can be done again, so a daemon that dies in between leaves a
//! dataplane that forwards, and the next one begins with the first.

use std::{fs, io, path::Path};

use aya::maps::MapError;

use super::{
    Datapath, Error, lock,
    pins::{Inherits, Older},
    raw::{Parts, RawMap},
};

/// How far the maps of this layout have replaced those before them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Takeover {
    /// There are no others.
    #[default]
    Done,
    /// They are new, and no program may use them before they are complete.
    Filling,
    /// They are complete; those before them are pinned still.
    Swapping,
}

impl Datapath {
    /// How far these maps have replaced those before them.
    pub fn takeover(&self) -> Takeover {
        if self.maps.as_deref().is_some_and(|maps| lock(maps).filling) {
            Takeover::Filling
        } else if self.older.is_empty() {
            Takeover::Done
        } else {
            Takeover::Swapping
        }
    }

    /// Takes over what only the kernel knows. From now on programs may use these
    /// maps; that entries could not be taken over is no reason to stay with
    /// outdated programs.
    pub fn take_over(&self) -> Result<(), Error> {
        let directory = self.directory.join("maps");
        let inherit = |older: &Older| {
            inherit(older, &directory).map_err(|source| Error::Map {
                map: older.spec.name,
                source,
            })
        };
        let inherited: Vec<_> = self.older.iter().map(inherit).collect();
        let mut maps = self.maps()?;
        maps.filling = false;
        // What was learned counts against the budgets.
        maps.sweep_learned()?;
        inherited.into_iter().collect()
    }

    /// Unpins the maps that no program uses any more.
    pub fn retire(&mut self) -> Result<(), Error> {
        for older in &self.older {
            remove_file(&older.path)?;
        }
        self.older.clear();
        Ok(())
    }
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Path {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn inherit(older: &Older, directory: &Path) -> Result<(), MapError> {
    let merge = match older.spec.inherits {
        Inherits::Written | Inherits::Nothing => return Ok(()),
        Inherits::Counters => larger,
        Inherits::Sightings => latest,
    };
    let from = RawMap::open(&older.path)?;
    let to = RawMap::open(&older.spec.path(directory))?;
    for key in from.keys()? {
        let Some(old) = from.get(&key)? else {
            continue;
        };
        // Arrays have a value for each key there can be.
        if old.iter().flatten().all(|byte| *byte == 0) {
            continue;
        }
        let new = to.get(&key)?.unwrap_or_default();
        to.put(&key, &merged(&old, &new, to.value_size(), merge))?;
    }
    Ok(())
}

/// The value that takes the place of `old` where `new` is there already. Values
/// only grow at their end, where zeroes mean what was so before.
fn merged(old: &Parts, new: &Parts, size: usize, merge: fn(&mut [u8], &[u8])) -> Parts {
    let part = |(index, old): (usize, &Vec<u8>)| {
        let mut part = new.get(index).cloned().unwrap_or_default();
        part.resize(size, 0);
        merge(&mut part, old);
        part
    };
    old.iter().enumerate().map(part).collect()
}

/// Bytes of a number in a counter, or of a time.
const NUMBER: usize = 8;

/// The larger of each two numbers: those that are counted in `new` already began
/// with what `old` had then.
fn larger(new: &mut [u8], old: &[u8]) {
    for (new, old) in new.chunks_exact_mut(NUMBER).zip(old.chunks_exact(NUMBER)) {
        if number(old) > number(new) {
            new.copy_from_slice(old);
        }
    }
}

/// What was seen later; its time is what both begin with.
fn latest(new: &mut [u8], old: &[u8]) {
    if number(old) > number(new) {
        for (new, old) in new.iter_mut().zip(old) {
            *new = *old;
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_ne_bytes()).collect()
    }

    #[test]
    fn values_grow_by_zeroes() {
        let old = vec![value(&[7, 8]), value(&[0, 1])];
        let expected = vec![value(&[7, 8, 0]), value(&[0, 1, 0])];
        for merge in [larger, latest as fn(&mut [u8], &[u8])] {
            // `latest` finds nothing new in a part that was never seen.
            let grown = merged(&old[..1].to_vec(), &Vec::new(), 24, merge);
            assert_eq!(grown, expected[..1]);
        }
        assert_eq!(merged(&old, &Vec::new(), 24, larger), expected);
    }

    #[test]
    fn counters_never_fall_and_count_nothing_twice() {
        let (old, new) = (vec![value(&[10, 5])], vec![value(&[12, 3, 9])]);
        let once = merged(&old, &new, 24, larger);
        assert_eq!(once, [value(&[12, 5, 9])]);
        assert_eq!(merged(&old, &once, 24, larger), once);
    }

    #[test]
    fn what_was_seen_later_stays() {
        let (early, late) = (vec![value(&[10, 1])], vec![value(&[11, 2, 3])]);
        assert_eq!(merged(&early, &late, 24, latest), late);
        let later = vec![value(&[12, 1])];
        assert_eq!(merged(&later, &late, 24, latest), [value(&[12, 1, 3])]);
    }
}
