//! Trying a packet out on the live programs.

use super::Reconciler;
use crate::datapath::{self, Program, Traced};

/// A packet and where it comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// From an endpoint of this host.
    FromEndpoint {
        /// Its slot.
        slot: u32,
        /// The frame.
        packet: Vec<u8>,
    },
    /// From the wire. Its destination MAC address becomes that of the underlay
    /// device.
    FromUnderlay {
        /// The packet.
        packet: Vec<u8>,
    },
}

/// Why a packet could not be tried out.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No program is attached to the endpoint's interface.
    #[error("it is not ready: `vxplane endpoint inspect` says why")]
    NotAttached,
    /// What the host is like is being found out.
    #[error("the dataplane is not settled; `vxplane status` says why, or ask again")]
    NotSettled,
    /// The kernel or the maps did not take part.
    #[error("the live programs could not be run")]
    Datapath(#[from] datapath::Error),
    /// The reconcile loop did not answer in time.
    #[error("the reconcile loop is busy")]
    Busy,
}

impl Reconciler {
    /// Runs a packet through the live programs, which changes nothing.
    pub fn probe(&mut self, probe: &Probe) -> Result<Traced, ProbeError> {
        match probe {
            Probe::FromEndpoint { slot, packet } => {
                let endpoints = self.datapath.maps()?.endpoints.entries()?;
                let mut endpoints = endpoints.into_iter();
                let (ifindex, _) = endpoints
                    .find(|(_, endpoint)| endpoint.slot == *slot)
                    .ok_or(ProbeError::NotAttached)?;
                let traced = self
                    .datapath
                    .trace(Program::FromContainer, ifindex, packet)?;
                Ok(traced)
            }
            Probe::FromUnderlay { packet } => {
                let link = self.underlay_link().ok_or(ProbeError::NotSettled)?;
                let (index, mac) = (link.index, link.mac.unwrap_or_default());
                let mut packet = packet.clone();
                if let Some(destination) = packet.get_mut(..mac.0.len()) {
                    destination.copy_from_slice(&mac.0);
                }
                Ok(self.datapath.trace(Program::FromUnderlay, index, &packet)?)
            }
        }
    }
}
