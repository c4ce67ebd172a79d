//! The packet programs in the real verifier and the real kernel: one packet at a
//! time (`BPF_PROG_TEST_RUN`), as tables of packet in, verdict, packet out and
//! every counter that moved; and under traffic.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot be made ready fails where that shows"
)]

mod bed;
mod case;
mod cost;
mod egress;
mod fallback;
mod flood;
mod flows;
mod groups;
mod guard;
mod ingress;
mod learning;
mod limits;
mod live;
mod packets;
mod policy;
mod programs;
mod property;
mod shortcut;
mod trace;
mod wire;
