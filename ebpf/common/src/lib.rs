//! What the kernel programs and the daemon agree on: the map ABI, the wire
//! formats, and the pure logic of the packet path.
//!
//! Nothing here touches a packet pointer or calls a BPF helper, so all of it is
//! tested on the host.

#![no_std]

pub mod abi;
pub mod drop;
pub mod types;
