//! The daemon, its command line and its surfaces.

// What is random about policies is shared with tests outside of this crate.
#[cfg(test)]
extern crate self as vxplane;

pub mod cli;
pub mod control;
pub mod daemon;
pub mod datapath;
pub mod descriptors;
pub mod docker;
pub mod doctor;
pub mod down;
pub mod identity;
mod logging;
pub mod memory;
pub mod model;
pub mod mounts;
pub mod netlink;
pub mod policy;
pub mod privileges;
pub mod reconcile;
pub mod settings;
pub mod store;
pub mod surfaces;
pub mod systemd;
pub mod underlay;
