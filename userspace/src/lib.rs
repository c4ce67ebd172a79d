//! The daemon, its command line and its surfaces.

pub mod control;
pub mod model;
pub mod reconcile;
