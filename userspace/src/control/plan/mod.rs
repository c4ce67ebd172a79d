//! What a request changes, decided on the state alone: pure, so that a request
//! that is refused has touched nothing.

pub use self::policies::Applied;
pub(super) use self::{
    endpoints::{attach, change_endpoint, container_id, detach},
    networks::{network, network_for_subnet, remove_network},
    nodes::remove_node,
    peers::{add_peer, remove_peer},
    policies::{
        POLICIES_MAX, POLICIES_PER_REQUEST, POLICY_BYTES_MAX, apply_policies, label_namespace,
        portions, remove_policy,
    },
};
use super::error::NotFound;
use crate::{
    model::{Desired, Network},
    store::{Change, Contents},
};

mod endpoints;
mod identities;
mod networks;
mod nodes;
mod peers;
mod policies;

/// What a request is planned on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Basis<'a> {
    /// What is stored.
    pub(super) contents: &'a Contents,
    /// This host's name.
    pub(super) node: &'a str,
    /// How often this request was planned before, and others were faster.
    pub(super) attempt: u32,
}

impl<'a> Basis<'a> {
    fn desired(self) -> &'a Desired {
        &self.contents.desired
    }
}

/// Whether a request made something or found it made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is new.
    New,
    /// It was there, as asked for.
    Existing,
}

/// A request's outcome and the changes that make it true.
#[derive(Debug)]
pub(super) struct Plan<T> {
    pub(super) value: T,
    pub(super) created: Created,
    pub(super) changes: Vec<Change>,
}

impl<T> Plan<T> {
    fn existing(value: T, changes: Vec<Change>) -> Self {
        Self {
            value,
            created: Created::Existing,
            changes,
        }
    }

    fn new(value: T, changes: Vec<Change>) -> Self {
        Self {
            value,
            created: Created::New,
            changes,
        }
    }
}

/// A plan whose outcome is only its changes.
pub(super) fn removal(changes: Vec<Change>) -> Plan<()> {
    Plan {
        value: (),
        created: Created::Existing,
        changes,
    }
}

fn find_network<'a>(basis: Basis<'a>, name: &str) -> Result<&'a Network, NotFound> {
    let found = basis.desired().networks.get(name);
    found.ok_or_else(|| NotFound::Network(name.to_owned()))
}
