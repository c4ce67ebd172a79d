//! The shared store on real etcd servers, in namespaces that play machines.

mod basics;
mod nodes;
mod outages;
mod proxy;
mod site;
mod strange;
mod unique;
