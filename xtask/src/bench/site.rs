//! The variants, each built on a pair of hosts of its own, so that all of them
//! stand ready at once and samples can alternate.

mod kernel;
mod underlay;
mod vxplane;

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;
use vxplane_harness::Netns;

use super::netns;

pub(crate) use vxplane::Daemon;

/// How two processes on two hosts reach one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Variant {
    /// Over the underlay, without containers: what no overlay can beat.
    Bare,
    /// Containers behind a bridge with a vxlan device, bridge netfilter off.
    Kernel,
    /// The same with bridge netfilter on, but without rules: what vxplane must beat.
    Netfilter,
    /// Containers on a network of vxplane.
    Vxplane,
    /// vxplane by another build of it.
    Before,
}

impl Variant {
    /// What a run compares unless told otherwise.
    pub(crate) const DEFAULT: [Self; 4] =
        [Self::Bare, Self::Kernel, Self::Netfilter, Self::Vxplane];

    /// What the bars are relative to: the overlay on a host where Docker has
    /// turned bridge netfilter on (docs/BENCHMARKS.md says which does).
    pub(crate) const BASELINE: Self = Self::Netfilter;

    /// Without these no bar can be judged.
    pub(crate) const JUDGED: [Self; 2] = [Self::Vxplane, Self::BASELINE];

    /// The overlay at its best, to be compared with as well.
    pub(crate) const STRICT_BASELINE: Self = Self::Kernel;

    /// As in tables and plots.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Kernel => "kernel",
            Self::Netfilter => "netfilter",
            Self::Vxplane => "vxplane",
            Self::Before => "before",
        }
    }
}

/// Two hosts joined by an underlay, and what a variant needs on them. Dropping
/// it takes everything down, daemons before the namespaces they run in.
#[derive(Debug)]
pub(crate) struct Site {
    variant: Variant,
    client: PathBuf,
    server: PathBuf,
    server_address: Ipv4Addr,
    _daemons: Vec<Daemon>,
    _namespaces: Vec<Netns>,
}

impl Site {
    /// Builds one. `binary` is the `vxplane` to measure.
    pub(crate) fn build(variant: Variant, binary: &Path) -> Result<Self> {
        match variant {
            Variant::Bare => bare(),
            Variant::Kernel | Variant::Netfilter => kernel::site(variant),
            Variant::Vxplane | Variant::Before => vxplane::site(variant, binary),
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

fn bare() -> Result<Site> {
    let [a, b] = underlay::hosts(Variant::Bare)?;
    Ok(Site {
        variant: Variant::Bare,
        client: a.path(),
        server: b.path(),
        server_address: underlay::ADDRESSES[1],
        _daemons: Vec::new(),
        _namespaces: vec![a, b],
    })
}
