//! The hook endpoint: Powerstrip protocol v1 over HTTP.

pub mod protocol;
pub mod target;
