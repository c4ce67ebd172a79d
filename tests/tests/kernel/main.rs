//! The reconciler against a real kernel, in namespaces that play machines.

mod neighbours;
mod node;
mod recovery;
mod wiring;
