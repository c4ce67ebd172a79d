//! Ways in: each a thin translator onto what the daemon does.

pub mod api;
pub mod powerstrip;
mod server;
