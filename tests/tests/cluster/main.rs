//! The shared store on real etcd servers, in namespaces that play machines.

mod access;
mod basics;
mod hosts;
mod members;
mod migration;
mod nodes;
mod operations;
mod outages;
mod peers;
mod policies;
mod proxy;
mod restores;
mod room;
mod scale;
mod site;
mod strange;
mod trace;
mod traffic;
mod unique;
