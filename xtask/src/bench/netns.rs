//! Network namespaces with the settings that all variants share.

use std::path::Path;

use anyhow::Result;
use vxplane_harness::Netns;

/// There once the kernel's module for it is loaded.
const BRIDGE_NETFILTER: &str = "net/bridge/bridge-nf-call-iptables";

/// Makes one: bridge netfilter, which makes the kernel's path slower than it has to
/// be, is off.
pub(crate) fn create(role: &str) -> Result<Netns> {
    let netns = Netns::new(role)?;
    if has_bridge_netfilter() {
        set_bridge_netfilter(&netns, false)?;
    }
    Ok(netns)
}

/// Whether this kernel has it.
pub(crate) fn has_bridge_netfilter() -> bool {
    Path::new("/proc/sys").join(BRIDGE_NETFILTER).exists()
}

/// Has bridged packets pass through netfilter, or not. The kernel must have it.
pub(crate) fn set_bridge_netfilter(netns: &Netns, on: bool) -> Result<()> {
    netns.sysctl(BRIDGE_NETFILTER, if on { "1" } else { "0" })
}
