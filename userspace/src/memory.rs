//! What the allocator keeps of memory that is not in use.

/// Gives unused memory back to the kernel. The allocator keeps what a burst has
/// left behind (a full read of a large cluster, the steps of its first pass)
/// between what is still in use, for ever.
pub fn give_back() {
    // SAFETY: needs no arguments that could be wrong, and takes the allocator's
    // locks like any allocation (malloc_trim(3), glibc 2.8).
    #[cfg(target_env = "gnu")]
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
