//! The kernel side of vxplane.

#![no_std]
#![no_main]

use aya_ebpf::{macros::classifier, programs::TcContext};

/// What a container sends, at tc ingress of its host veth.
#[classifier]
pub fn from_container(_ctx: TcContext) -> i32 {
    -1
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
