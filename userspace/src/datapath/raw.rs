//! Maps as bytes: those of an older layout have types that this version no
//! longer knows.

use std::{
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use aya::{
    maps::{MapData, MapError, MapType},
    sys::SyscallError,
    util::nr_cpus,
};
use nix::{errno::Errno, libc};

/// Of `enum bpf_cmd` in the kernel's `linux/bpf.h`.
#[derive(Clone, Copy)]
enum Command {
    LookupElem = 1,
    UpdateElem = 2,
    GetNextKey = 4,
}

impl Command {
    fn name(self) -> &'static str {
        match self {
            Self::LookupElem => "bpf_map_lookup_elem",
            Self::UpdateElem => "bpf_map_update_elem",
            Self::GetNextKey => "bpf_map_get_next_key",
        }
    }
}

/// The part of `union bpf_attr` for these commands.
#[repr(C)]
struct Attributes {
    map: u32,
    pad: u32,
    key: u64,
    value_or_next_key: u64,
    flags: u64,
}

/// A pinned hash or array of fixed-size entries, perhaps with a value for each
/// CPU.
#[derive(Debug)]
pub(super) struct RawMap {
    map: MapData,
    key: usize,
    value: usize,
    entries: usize,
    cpus: Option<usize>,
}

/// The value of one key: one part, or one for each CPU.
pub(super) type Parts = Vec<Vec<u8>>;

impl RawMap {
    /// The map pinned at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, MapError> {
        let map = MapData::from_pin(path)?;
        let info = map.info()?;
        let cpus = match info.map_type()? {
            MapType::PerCpuHash | MapType::PerCpuArray => {
                Some(nr_cpus().map_err(|(_, error)| MapError::IoError(error))?)
            }
            MapType::Hash | MapType::Array => None,
            other => {
                let map_type = other as u32;
                return Err(MapError::InvalidMapType { map_type });
            }
        };
        Ok(Self {
            map,
            key: info.key_size() as usize,
            value: info.value_size() as usize,
            entries: info.max_entries() as usize,
            cpus,
        })
    }

    /// Bytes of one part of a value.
    pub(super) fn value_size(&self) -> usize {
        self.value
    }

    /// The keys, as far as they stay while they are asked for.
    pub(super) fn keys(&self) -> Result<Vec<Vec<u8>>, MapError> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        // After a key that has gone meanwhile the kernel begins anew.
        while keys.len() < self.entries {
            let mut next = vec![0; self.key];
            let before = keys.last().map(Vec::as_slice);
            if !self.call(Command::GetNextKey, before, Some(&mut next))? {
                break;
            }
            keys.push(next);
        }
        Ok(keys)
    }

    /// The value of `key`, if there is one.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Parts>, MapError> {
        let mut bytes = vec![0; self.stride() * self.cpus.unwrap_or(1)];
        if !self.call(Command::LookupElem, Some(key), Some(&mut bytes))? {
            return Ok(None);
        }
        let parts = bytes.chunks(self.stride());
        Ok(Some(
            parts.map(|part| part[..self.value].to_vec()).collect(),
        ))
    }

    /// Writes the value of `key`, whose parts have [`Self::value_size`].
    pub(super) fn put(&self, key: &[u8], parts: &Parts) -> Result<(), MapError> {
        let mut bytes = vec![0; self.stride() * self.cpus.unwrap_or(1)];
        for (room, part) in bytes.chunks_mut(self.stride()).zip(parts) {
            for (to, from) in room.iter_mut().zip(part) {
                *to = *from;
            }
        }
        self.call(Command::UpdateElem, Some(key), Some(&mut bytes))
            .map(drop)
    }

    /// Bytes from one part of a value to the next: the kernel aligns those of
    /// CPUs.
    fn stride(&self) -> usize {
        match self.cpus {
            Some(_) => self.value.next_multiple_of(8),
            None => self.value,
        }
    }

    /// Makes the system call; false where there is no such key.
    fn call(
        &self,
        command: Command,
        key: Option<&[u8]>,
        bytes: Option<&mut Vec<u8>>,
    ) -> Result<bool, MapError> {
        if let Some(size) = key.map(<[u8]>::len).filter(|size| *size != self.key) {
            let expected = self.key;
            return Err(MapError::InvalidKeySize { size, expected });
        }
        let attributes = Attributes {
            map: self.map.fd().as_fd().as_raw_fd().cast_unsigned(),
            pad: 0,
            key: key.map_or(0, |key| key.as_ptr().expose_provenance() as u64),
            value_or_next_key: bytes
                .map_or(0, |bytes| bytes.as_mut_ptr().expose_provenance() as u64),
            flags: 0,
        };
        // SAFETY: the map is open as long as `self`, and the kernel reads no more
        // of the key than `self.key` bytes, which it has (just checked), and
        // reads or writes no more at the other pointer than a key or a value of
        // this map, for all CPUs, measures: that long are the buffers of the
        // callers. Both outlive the call.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command as libc::c_long,
                &raw const attributes,
                size_of::<Attributes>(),
            )
        };
        match (answer, Errno::last()) {
            (-1, Errno::ENOENT) => Ok(false),
            (-1, errno) => Err(MapError::SyscallError(SyscallError {
                call: command.name(),
                io_error: errno.into(),
            })),
            _ => Ok(true),
        }
    }
}
