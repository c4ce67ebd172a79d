//! Many entries by few system calls: one for thousands of entries instead of one or
//! two for each.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd},
};

use aya::Pod;
use nix::{errno::Errno, libc};

/// Entries a call asks for. More than a bucket of any map will ever hold, so the
/// kernel is never at a loss how to continue.
const CHUNK: u32 = 4096;

// Commands of `linux/bpf.h`.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;

/// The arguments of the batch commands, as `linux/bpf.h` has them.
#[repr(C)]
struct Batch {
    from: u64,
    until: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Bytes the kernel may write to say where a call ended: for a hash map a number,
/// for others a key.
const POSITION: usize = 32;

/// All entries of a hash map or LPM trie, in no order. Those that come or go
/// meanwhile may be among them or not.
pub(super) fn dump<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let mut entries = Vec::new();
    visit(map, |key, value| entries.push((key, value)))?;
    Ok(entries)
}

/// Shows each of those entries, without holding them all.
pub(super) fn visit<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    mut see: impl FnMut(K, V),
) -> io::Result<()> {
    const { assert!(size_of::<K>() <= POSITION) };
    let mut keys = vec![MaybeUninit::<K>::uninit(); CHUNK as usize];
    let mut values = vec![MaybeUninit::<V>::uninit(); CHUNK as usize];
    // Where a call ended and the next begins.
    let mut position = [0_u64; POSITION / 8];
    let mut is_first = true;
    loop {
        let at = (&raw mut position) as u64;
        let mut batch = Batch {
            from: if is_first { 0 } else { at },
            until: at,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: CHUNK,
            map_fd: map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel reads and writes `batch`, up to `count` keys and
        // values of the map's own sizes (checked when the map was opened as one
        // of `K` and `V`), and a `u32` or a key at `position`; all outlive the
        // call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                &raw mut batch,
                size_of::<Batch>(),
            )
        };
        let end = match Errno::result(result) {
            Ok(_) => false,
            Err(Errno::ENOENT) => true,
            Err(error) => return Err(error.into()),
        };
        let found = batch.count as usize;
        for (key, value) in keys.iter().zip(&values).take(found) {
            // SAFETY: the kernel has written that many of each, and any bytes are
            // a `Pod`.
            unsafe { see(key.assume_init(), value.assume_init()) };
        }
        if end {
            return Ok(());
        }
        is_first = false;
    }
}

/// Writes entries in their order, and says how many of them it has written before
/// one could not be, if so. What is wrong with that one is for a call to tell that
/// is about it alone; a kernel that has no such command for a map writes none.
pub(super) fn put_all<K: Pod, V: Pod>(map: BorrowedFd<'_>, entries: &[(K, V)]) -> usize {
    in_chunks(entries, |some| {
        let keys: Vec<K> = some.iter().map(|(key, _)| *key).collect();
        let values: Vec<V> = some.iter().map(|(_, value)| *value).collect();
        let values = values.as_ptr().expose_provenance() as u64;
        change(map, BPF_MAP_UPDATE_BATCH, &keys, values)
    })
}

/// Removes entries in their order, and says how many of them it has removed before
/// one could not be, if so: see [`put_all`].
pub(super) fn remove_all<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> usize {
    in_chunks(keys, |some| change(map, BPF_MAP_DELETE_BATCH, some, 0))
}

/// Does something to as many as fit a call, until it is not done to all of those;
/// says to how many it was.
fn in_chunks<T>(items: &[T], call: impl Fn(&[T]) -> usize) -> usize {
    let mut done = 0;
    for some in items.chunks(CHUNK as usize) {
        let count = call(some);
        done += count;
        if count < some.len() {
            break;
        }
    }
    done
}

/// Makes one call and says how many entries it has changed.
fn change<K: Pod>(map: BorrowedFd<'_>, command: libc::c_long, keys: &[K], values: u64) -> usize {
    let mut batch = Batch {
        from: 0,
        until: 0,
        keys: keys.as_ptr().expose_provenance() as u64,
        values,
        // No more than `CHUNK`.
        count: u32::try_from(keys.len()).unwrap_or(0),
        map_fd: map.as_raw_fd().cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads `count` keys, and for an update as many values, of
    // the map's own sizes (checked when the map was opened), which outlive the
    // call, and writes `batch.count` alone.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut batch, size_of::<Batch>()) };
    let done = batch.count as usize;
    match Errno::result(result) {
        Ok(_) => keys.len(),
        // As it was: the kernel did not get as far as the first entry.
        Err(_) if done == keys.len() => 0,
        Err(_) => done,
    }
}
