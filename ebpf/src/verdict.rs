//! What becomes of a packet.

use aya_ebpf::bindings::tcx_action_base;
use vxplane_common::drop::{Direction, DropReason};

use crate::parse;

/// What becomes of a packet that is not dropped. The values are TC's, and the
/// same for TCX and clsact.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(crate) enum Action {
    /// It is not ours, or the kernel is to have it.
    Pass = tcx_action_base::TCX_NEXT,
    /// It goes where the redirect helper was told.
    Redirect = tcx_action_base::TCX_REDIRECT,
    /// Copies of it have gone; the original is done with.
    Consumed = tcx_action_base::TCX_DROP,
}

/// Where a program stands, or a packet within it.
#[derive(Clone, Copy)]
#[expect(
    clippy::enum_variant_names,
    reason = "they are called as the programs are"
)]
pub(crate) enum Hook {
    /// What containers send.
    FromContainer,
    /// What the wire brings, in outer headers.
    FromUnderlay,
    /// What came by the wire, without outer headers.
    FromFallback,
}

impl Hook {
    /// The way of its packets.
    #[inline(always)]
    pub(crate) const fn direction(self) -> Direction {
        match self {
            Self::FromContainer => Direction::Egress,
            Self::FromUnderlay | Self::FromFallback => Direction::Ingress,
        }
    }

    /// Where in its packets the inner frame begins.
    #[inline(always)]
    pub(crate) const fn inner_at(self) -> u32 {
        match self {
            Self::FromUnderlay => parse::INNER_AT,
            Self::FromContainer | Self::FromFallback => 0,
        }
    }
}

/// Why a packet is dropped, and in which network.
#[derive(Clone, Copy)]
pub(crate) struct Drop {
    /// The network, 0 as long as none of ours is known.
    pub(crate) vni: u32,
    /// Why.
    pub(crate) reason: DropReason,
}

impl From<DropReason> for Drop {
    /// For what is dropped before its network is known.
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self { vni: 0, reason }
    }
}

/// The end of a packet's way through a program.
pub(crate) type Verdict = Result<Action, Drop>;

/// Says in which network a step failed.
pub(crate) trait InNetwork {
    /// The verdict of a step that happened in the network `vni`.
    fn in_network(self, vni: u32) -> Verdict;
}

impl InNetwork for Result<Action, DropReason> {
    #[inline(always)]
    fn in_network(self, vni: u32) -> Verdict {
        self.map_err(|reason| Drop { vni, reason })
    }
}
