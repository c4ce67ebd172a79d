//! The reconciler against a real kernel, in namespaces that play machines.

mod node;
mod recovery;
mod wiring;

use anyhow::Result;
use vxplane_tests::harness::Lab;

/// A lab of two hosts with a container each, in one network.
fn lab() -> Result<Lab> {
    Lab::new()
}
