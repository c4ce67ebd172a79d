//! Short names for long things.

use sha2::{Digest, Sha256};

/// The first 8 bytes of the SHA-256 of all `parts`, in hex.
pub fn short(parts: &[&[u8]]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
    }
    let digest = digest.finalize();
    let head = digest.first_chunk().copied().unwrap_or_default();
    format!("{:016x}", u64::from_be_bytes(head))
}
