//! Docker: what its containers ask for, and seeing to it that they have it.
//!
//! Docker is the truth. What belongs together is told by labels and network
//! modes that Docker keeps, so it is found again after any restart of any part.

pub mod body;
pub mod container;
pub mod digest;
pub mod engine;
pub mod follow;
mod hosts;
pub mod image;
pub mod labels;
pub mod network_container;
pub mod optin;
pub mod pair;
pub mod rewrite;
mod services;
pub mod wiring;
pub mod wish;
