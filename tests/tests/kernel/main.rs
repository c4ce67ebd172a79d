//! The reconciler against a real kernel, in namespaces that play machines.

mod cluster;
mod neighbours;
mod node;
mod recovery;
mod wiring;
