//! Makes the kernel equal to what is desired: observe, plan, apply. Idempotent
//! and level-triggered; it never looks at how the difference came about.

mod apply;
mod claim;
mod down;
mod held;
pub mod observe;
pub mod plan;
mod probe;
mod reconciler;
pub mod remotes;
pub mod rulesets;
mod runs;
#[cfg(test)]
mod simulation;
pub mod tables;
mod ways;

use std::{
    collections::BTreeMap, error::Error, io, net::Ipv4Addr, path::PathBuf, sync::Arc,
    time::Duration,
};

use vxplane_common::{
    abi::{Counter, Traffic},
    drop::{Direction, DropReason},
};

pub use self::{
    claim::ClaimError,
    down::{Down, TakenDown},
    probe::{Probe, ProbeError},
    reconciler::Reconciler,
};
use crate::{datapath, model::Identity, policy::compile::Verdicts};

/// How the user named the underlay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UnderlayChoice {
    /// The device and source address of the default route.
    #[default]
    DefaultRoute,
    /// This device, with its first global IPv4 address.
    Device(String),
    /// This local address, wherever it is.
    Address(Ipv4Addr),
}

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// TCX where the kernel takes it, clsact otherwise.
    #[default]
    Auto,
    /// TCX links (Linux 6.6).
    Tcx,
    /// A clsact qdisc and filters.
    Clsact,
}

/// Where the XDP guard runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// Native where the driver gives it without costing offloads, else off.
    #[default]
    Auto,
    /// In the driver, or fail.
    Native,
    /// In the generic hook.
    Generic,
    /// Not at all.
    Off,
}

/// What stays the same while the daemon runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The underlay.
    pub underlay: UnderlayChoice,
    /// VXLAN UDP port.
    pub port: u16,
    /// Directory of pinned programs, links and maps, on a bpffs.
    pub bpffs: PathBuf,
    /// TCX or clsact.
    pub attach: AttachMode,
    /// The XDP guard.
    pub xdp: XdpMode,
    /// Whether packets bear and are believed group policy IDs.
    pub gbp: bool,
    /// How long a silent MAC address learned from a peer is remembered.
    pub mac_age: Duration,
}

/// The underlay as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Device name.
    pub device: String,
    /// Its index.
    pub ifindex: u32,
    /// Our VTEP address.
    pub vtep: Ipv4Addr,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// How an endpoint stands after a reconcile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// Wired: interface, addresses, programs and map entries are as desired.
    Ready {
        /// Its host veth.
        host_ifname: String,
    },
    /// Its network namespace is not there (any more); the address is kept.
    NamespaceGone,
    /// Not as desired, and why; tried again at the next reconcile.
    Failed(String),
}

/// How the programs are attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatapathStatus {
    /// `tcx` or `clsact`.
    pub attach: &'static str,
    /// `native`, `generic` or `off`: where the XDP guard runs.
    pub xdp: &'static str,
    /// Why the XDP guard runs there.
    pub xdp_reason: String,
}

/// How the maps compared to what the daemon had written there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drift {
    /// Entries found different at the last reading, before they were repaired.
    pub last: usize,
    /// Entries found different since the daemon started.
    pub total: u64,
    /// Entries there were at the last reading.
    pub entries: usize,
    /// How often the maps were read.
    pub audits: u64,
}

/// What one reconcile found and did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By endpoint ID; each desired endpoint is in it.
    pub endpoints: BTreeMap<String, EndpointState>,
    /// The underlay, unless it is missing.
    pub underlay: Option<Underlay>,
    /// How the programs are attached, once they are.
    pub datapath: Option<DatapathStatus>,
    /// Sentences on what is not as desired besides endpoints.
    pub problems: Vec<String>,
    /// How many changes were made to the kernel.
    pub changes: usize,
    /// Whether somebody else changed the maps.
    pub drift: Drift,
    /// Bytes of an inner IP packet, by network this host has part in.
    pub mtus: BTreeMap<String, u32>,
    /// What the policies of this host's endpoints take.
    pub policy: PolicyCost,
    /// What the endpoints of this host are allowed, by what they are to policies.
    pub verdicts: Arc<BTreeMap<Identity, Verdicts>>,
    /// How full the maps are, once they are loaded.
    pub fill: Vec<Fill>,
}

/// What policies take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyCost {
    /// Rule sets that endpoints of this host are under.
    pub rulesets: usize,
    /// How long it took to compile what changed last.
    pub compiled_in: Duration,
}

/// How full a map is that the daemon writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Its name, as in [`vxplane_common::abi::map`].
    pub map: &'static str,
    /// Entries it has.
    pub entries: usize,
    /// Entries it can have.
    pub room: u32,
}

/// One drop counter, summed over CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropCount {
    /// The network's VNI; 0 for packets of no network of ours.
    pub vni: u32,
    /// Why.
    pub reason: DropReason,
    /// Which way.
    pub direction: Direction,
    /// How many.
    pub count: Counter,
}

/// The datapath's counters, summed over CPUs.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Drops, by VNI, reason and direction.
    pub drops: Vec<DropCount>,
    /// Traffic by endpoint slot; slots in use only.
    pub traffic: BTreeMap<u32, Traffic>,
    /// Packets dropped, by endpoint slot and reason; slots in use only.
    pub endpoint_drops: BTreeMap<u32, BTreeMap<DropReason, u64>>,
    /// Learned MAC addresses by VNI.
    pub learned: BTreeMap<u32, u32>,
    /// Packets by VNI, since the start of the daemon, whose source MAC address was
    /// not learned for want of room.
    pub unlearned: BTreeMap<u32, u64>,
    /// Flows of all networks.
    pub flows: FlowCounts,
}

/// How many flows there are, and what has become of others. All but `begun` and
/// `refused` are as of the last sweep, at most ten seconds ago, and count since the
/// start of the daemon what was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// Those that last.
    pub lasting: u64,
    /// Those that are new.
    pub new: u64,
    /// Those that ever began.
    pub begun: u64,
    /// Times that one which lasts found no room among those.
    pub refused: u64,
    /// Those forgotten for their silence.
    pub expired: u64,
    /// Those that nobody answered, forgotten for want of room.
    pub crowded_out: u64,
    /// New ones driven out by newer ones.
    pub evicted: u64,
}

/// Why the reconciler could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No netlink socket.
    #[error("cannot talk to the kernel's network configuration (rtnetlink)")]
    Netlink(#[source] io::Error),
    /// The network namespace has a daemon already.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// No place for pins.
    #[error("cannot use the bpffs directory")]
    Datapath(#[from] datapath::Error),
    /// TCX asked for on a kernel without it.
    #[error("this kernel has no TCX (Linux 6.6); let vxplane choose, or ask for clsact")]
    NoTcx,
}

/// Why counters could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CountersError {
    /// Nothing was loaded yet.
    #[error("the datapath is not loaded")]
    NotLoaded,
    /// A map could not be read.
    #[error("cannot read the counters")]
    Datapath(#[source] datapath::Error),
    /// The reconcile loop did not answer in time.
    #[error("the reconcile loop is busy")]
    Busy,
}

/// An error and what caused it, in one line.
pub(crate) fn describe(error: &dyn Error) -> String {
    let mut text = shorten(error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = shorten(error.to_string());
        // A transparent error says the same as its source.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Leaves out the middle of what is too long to read: the verifier's log of a
/// program it refused, whose end says why.
fn shorten(text: String) -> String {
    const HEAD: usize = 200;
    const TAIL: usize = 600;
    let length = text.chars().count();
    if length <= HEAD + TAIL {
        return text;
    }
    let head: String = text.chars().take(HEAD).collect();
    let tail: String = text.chars().skip(length - TAIL).collect();
    format!("{head} … {tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_its_causes_and_without_a_verifier_log() {
        let cause = io::Error::other(format!("begin {} the end", "é".repeat(5000)));
        let text = describe(&StartError::Netlink(cause));
        assert!(text.starts_with("cannot talk to the kernel's network configuration"));
        assert!(text.contains(": begin é"), "{text}");
        assert!(
            text.ends_with(" the end") && text.chars().count() < 1000,
            "{text}"
        );
    }
}
