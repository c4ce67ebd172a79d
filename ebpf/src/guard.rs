//! The XDP guard: what TC would turn away for its outer headers is turned away
//! before the kernel has spent anything on it. TC does not rely on it.

use crate::{packet::Frame, parse, peer, verdict::Drop};

/// Whether a packet may go on.
#[inline(always)]
pub(crate) fn from_underlay(frame: &Frame) -> Result<(), Drop> {
    if let Some(tunnel) = parse::tunnel(frame)? {
        peer::admit(tunnel.vni, tunnel.vtep)?;
    }
    Ok(())
}
