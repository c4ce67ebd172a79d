//! Privileged tests: real kernels, real peers, real Docker Engines. They run
//! through `cargo xtask test`, which prepares the machine.

pub mod scale;

pub use vxplane_harness as harness;
