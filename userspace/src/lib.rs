//! The daemon, its command line and its surfaces.

pub mod control;
pub mod datapath;
pub mod docker;
pub mod doctor;
pub mod model;
pub mod mounts;
pub mod netlink;
pub mod reconcile;
pub mod store;
pub mod surfaces;
pub mod underlay;
