//! The variants, each built on hosts of its own, so that all of them stand ready
//! at once and samples can alternate.

mod collect_md;
mod docker;
mod kernel;
mod local;
mod ovs;
mod routed;
mod underlay;
mod vxplane;

use std::{
    fmt::Debug,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use vxplane_harness::Netns;

use super::{netns, scene::Setting};

/// How two processes reach one another. The order is that of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Variant {
    /// Without containers: what no overlay can beat. On one host, two ends of a
    /// veth pair.
    Bare,
    /// Containers whose packets the hosts route, without encapsulation.
    Routed,
    /// Containers behind a bridge with a vxlan device, bridge netfilter off.
    Kernel,
    /// The same with bridge netfilter on, but without rules: what vxplane must beat.
    Netfilter,
    /// Containers on an overlay network of Docker's own swarm.
    Docker,
    /// Containers on Open vSwitch, which forwards in user space.
    Ovs,
    /// Containers behind programs that leave VXLAN to the kernel in both directions.
    CollectMd,
    /// Containers on a network of vxplane.
    Vxplane,
    /// The same, and policies select both containers.
    VxplanePolicy,
    /// vxplane with 100 endpoints on each host.
    Endpoints100,
    /// With 1,000.
    Endpoints1000,
    /// vxplane with 100 entries in the policies.
    Entries100,
    /// With 10,000.
    Entries10000,
    /// vxplane by another build of it.
    Before,
}

impl Variant {
    /// What is compared between two hosts.
    pub(crate) const TWO_HOSTS: [Self; 9] = [
        Self::Bare,
        Self::Routed,
        Self::Kernel,
        Self::Netfilter,
        Self::Docker,
        Self::Ovs,
        Self::CollectMd,
        Self::Vxplane,
        Self::VxplanePolicy,
    ];

    /// What is compared on one host.
    pub(crate) const SAME_HOST: [Self; 6] = [
        Self::Bare,
        Self::Routed,
        Self::Kernel,
        Self::Netfilter,
        Self::Vxplane,
        Self::VxplanePolicy,
    ];

    /// What is compared to see that vxplane's cost stays flat.
    pub(crate) const SCALE: [Self; 6] = [
        Self::Vxplane,
        Self::VxplanePolicy,
        Self::Endpoints100,
        Self::Endpoints1000,
        Self::Entries100,
        Self::Entries10000,
    ];

    /// Overlays that others make of their parts.
    pub(crate) const OTHER_OVERLAYS: [Self; 3] = [Self::Docker, Self::Ovs, Self::CollectMd];

    /// As in tables and plots.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Routed => "routed",
            Self::Kernel => "kernel",
            Self::Netfilter => "netfilter",
            Self::Docker => "docker",
            Self::Ovs => "ovs",
            Self::CollectMd => "collect-md",
            Self::Vxplane => "vxplane",
            Self::VxplanePolicy => "vxplane-policy",
            Self::Endpoints100 => "endpoints100",
            Self::Endpoints1000 => "endpoints1000",
            Self::Entries100 => "entries100",
            Self::Entries10000 => "entries10000",
            Self::Before => "before",
        }
    }

    /// Whether a build of vxplane is needed for it: the one that is measured.
    pub(crate) fn is_ours(self) -> bool {
        matches!(
            self,
            Self::Vxplane
                | Self::VxplanePolicy
                | Self::Endpoints100
                | Self::Endpoints1000
                | Self::Entries100
                | Self::Entries10000
        )
    }

    /// Whether it can be measured there.
    pub(crate) fn fits(self, setting: Setting) -> bool {
        !(setting.same_host && Self::OTHER_OVERLAYS.contains(&self))
    }

    /// Endpoints on each host.
    fn endpoints(self) -> usize {
        match self {
            Self::Endpoints100 => 100,
            Self::Endpoints1000 => 1000,
            _ => 1,
        }
    }

    /// Entries in the policies that select its containers, `None` without any.
    fn entries(self) -> Option<usize> {
        match self {
            Self::VxplanePolicy => Some(0),
            Self::Entries100 => Some(100),
            Self::Entries10000 => Some(10_000),
            _ => None,
        }
    }
}

/// What a site is built of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ground<'a> {
    pub(crate) variant: Variant,
    pub(crate) setting: Setting,
    /// The `vxplane` to measure.
    pub(crate) binary: &'a Path,
    /// The object of [`Variant::CollectMd`].
    pub(crate) reference: &'a Path,
}

impl Ground<'_> {
    /// A network namespace with this part in it.
    fn netns(&self, role: &str) -> Result<Netns> {
        netns::create(&format!("{}-{role}", self.variant.name()))
    }

    /// What VXLAN leaves of the underlay's MTU.
    fn overlay_mtu(&self) -> u32 {
        self.setting.mtu - 50
    }
}

/// Where load is sent from and to, and all that carries it. Dropping it takes
/// everything down, what runs before the namespaces it runs in.
#[derive(Debug)]
pub(crate) struct Site {
    variant: Variant,
    client: PathBuf,
    server: PathBuf,
    server_address: Ipv4Addr,
    _running: Vec<Box<dyn Debug>>,
    _namespaces: Vec<Netns>,
}

impl Site {
    /// Builds one.
    pub(crate) fn build(ground: &Ground<'_>) -> Result<Self> {
        match (ground.variant, ground.setting.same_host) {
            (Variant::Bare, false) => bare(ground),
            (Variant::Bare, true) => local::bare(ground),
            (Variant::Routed, false) => routed::site(ground),
            (Variant::Routed, true) => local::routed(ground),
            (Variant::Kernel | Variant::Netfilter, false) => kernel::site(ground),
            (Variant::Kernel | Variant::Netfilter, true) => local::bridged(ground),
            (Variant::CollectMd, false) => collect_md::site(ground),
            (Variant::Docker, false) => docker::site(ground),
            (Variant::Ovs, false) => ovs::site(ground),
            (Variant::Docker | Variant::Ovs | Variant::CollectMd, true) => {
                bail!("{} is not measured on one host", ground.variant.name())
            }
            (_, false) => vxplane::site(ground),
            (_, true) => local::vxplane(ground),
        }
    }

    /// Of two namespaces, the others being what must not go before them.
    fn between(
        ground: &Ground<'_>,
        [client, server]: [Netns; 2],
        server_address: Ipv4Addr,
        others: impl IntoIterator<Item = Netns>,
    ) -> Self {
        Self {
            variant: ground.variant,
            client: client.path(),
            server: server.path(),
            server_address,
            _running: Vec::new(),
            _namespaces: [client, server].into_iter().chain(others).collect(),
        }
    }

    /// The same, with what runs there.
    fn running(self, running: impl IntoIterator<Item = Box<dyn Debug>>) -> Self {
        Self {
            _running: running.into_iter().collect(),
            ..self
        }
    }

    /// What it measures.
    pub(crate) fn variant(&self) -> Variant {
        self.variant
    }

    /// The namespace that load is sent from.
    pub(crate) fn client(&self) -> &Path {
        &self.client
    }

    /// The namespace that load is sent to.
    pub(crate) fn server(&self) -> &Path {
        &self.server
    }

    /// The address load is sent to.
    pub(crate) fn server_address(&self) -> Ipv4Addr {
        self.server_address
    }
}

/// A directory for what runs on a host, gone when dropped.
#[derive(Debug)]
struct Directory(PathBuf);

impl Directory {
    fn of(host: &Netns) -> Result<Self> {
        let directory = std::env::temp_dir().join(host.name());
        fs::create_dir_all(&directory)
            .with_context(|| format!("creating {}", directory.display()))?;
        Ok(Self(directory))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("removing {}: {error}", self.0.display());
        }
    }
}

fn bare(ground: &Ground<'_>) -> Result<Site> {
    let hosts = underlay::hosts(ground)?;
    Ok(Site::between(ground, hosts, underlay::ADDRESSES[1], []))
}
