//! Container policy: Kubernetes `NetworkPolicy` documents, and what they mean for
//! each endpoint.
//!
//! A document is read ([`read`](mod@read) to [`document`]), then compiled with
//! everybody's labels into the rule sets that the programs look things up in
//! ([`compile`], pure). What a document means is written down a second time, as
//! plainly as can be, in [`evaluate`]: the tests hold the two, and the programs,
//! against each other.

pub mod compile;
pub mod document;
pub mod evaluate;
pub mod explain;
mod index;
pub mod names;
pub mod ports;
pub mod read;
pub mod ruleset;
pub mod select;
