//! What the kernel programs and the daemon agree on: the map ABI, the wire
//! formats, and the pure logic of the packet path.
//!
//! Nothing here touches a packet pointer or calls a BPF helper, so all of it is
//! tested on the host.

#![no_std]
#![expect(
    clippy::inline_always,
    reason = "each function is one step of a BPF program: a call costs stack, \
              registers and what the verifier knows of the arguments"
)]

pub mod abi;
pub mod arp;
pub mod checksum;
pub mod drop;
pub mod ecn;
pub mod flow;
pub mod frame;
pub mod learning;
pub mod outer;
pub mod trace;
pub mod tunnel;
pub mod types;
pub mod wire;
