//! The reconciler against a real kernel, in namespaces that play machines.

mod node;
mod recovery;
mod wiring;
