//! The shared store on real etcd servers, in namespaces that play machines.

mod access;
mod basics;
mod members;
mod migration;
mod nodes;
mod outages;
mod proxy;
mod site;
mod strange;
mod unique;
