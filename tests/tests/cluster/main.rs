//! The shared store on real etcd servers, in namespaces that play machines.

mod basics;
mod site;
