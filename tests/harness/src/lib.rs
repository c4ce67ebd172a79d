//! Hosts, containers and wires in network namespaces of one machine.
//!
//! A [`Lab`] is one experiment: a switch, [`Host`]s plugged into it, a
//! [`Daemon`] on a host, [`Container`]s. Everything has a name that carries our
//! process ID, lives in namespaces of its own, and is gone when its owner is
//! dropped, also by a panic. What a killed run left behind is removed by the
//! next one, which sees by the name that its owner is dead.
//!
//! Knows nothing of the daemon's code: it drives the binary as a user would.

mod api;
mod capture;
mod checksum;
mod container;
mod daemon;
mod datagrams;
pub mod docker;
mod etcd;
mod foreign;
pub mod frame;
mod host;
mod iperf;
mod lab;
pub mod leftovers;
mod names;
mod netns;
mod ovs;
mod packet_socket;
mod ping;
mod process;
mod transfer;

pub use crate::{
    api::Response,
    capture::{Capture, Packet},
    checksum::internet_checksum,
    container::Container,
    daemon::{Daemon, DaemonOptions, Endpoint, Version, vxplane_binary, vxplane_package},
    datagrams::{echo, udp_socket},
    etcd::{EtcdMember, EtcdTls},
    foreign::KernelVxlan,
    host::Host,
    iperf::{Iperf, IperfReport},
    lab::Lab,
    names::remove_abandoned,
    netns::Netns,
    ovs::{OpenVswitch, SwitchDaemons},
    packet_socket::PacketSocket,
    ping::{Ping, PingReport, Pinger},
    process::{Finished, Running, finish_within},
    transfer::{Transfer, transfer, transfer_by_way_of},
};
