//! Makes the kernel equal to what is desired: observe, plan, apply. Idempotent
//! and level-triggered; it never looks at how the difference came about.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf};

use ipnetwork::Ipv4Network;
use tokio::sync::watch;
use vxplane_common::{
    abi::{Counter, Traffic},
    drop::{Direction, DropReason},
};

use crate::model::Desired;

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
    /// Learned MAC addresses by VNI.
    pub learned: BTreeMap<u32, u32>,
}

/// Why the reconciler could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No netlink socket.
    #[error("cannot talk to the kernel's network configuration (rtnetlink)")]
    Netlink(#[source] std::io::Error),
}

/// Why counters could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CountersError {
    /// Nothing was loaded yet.
    #[error("the datapath is not loaded")]
    NotLoaded,
    /// The reconcile loop did not answer in time.
    #[error("the reconcile loop is busy")]
    Busy,
}

/// The only writer of this host's kernel state.
#[derive(Debug)]
pub struct Reconciler {
    changes: watch::Sender<u64>,
}

impl Reconciler {
    /// Connects to the kernel of the network namespace this thread is in. Changes
    /// nothing yet. Must be called within a tokio runtime.
    pub async fn start(_options: Options) -> Result<Self, StartError> {
        Ok(Self {
            changes: watch::Sender::new(0),
        })
    }

    /// Makes the kernel equal to `desired` as far as it can and says how far
    /// that was. One broken endpoint or peer keeps no other from being served.
    pub async fn reconcile(&mut self, _desired: &Desired) -> Report {
        Report::default()
    }

    /// The datapath's counters as they stand now.
    pub fn counters(&self) -> Result<Counters, CountersError> {
        Err(CountersError::NotLoaded)
    }

    /// Marked changed, some 200 ms after the event at the latest, when links,
    /// addresses or routes of this namespace changed: time to reconcile. The
    /// value has no meaning.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The IPv4 subnets this host has routes to (the default route aside), which
    /// a new network should not overlap.
    pub async fn host_subnets(&self) -> Result<Vec<Ipv4Network>, CountersError> {
        Ok(Vec::new())
    }
}
