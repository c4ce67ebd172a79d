//! What runs in a network-only container: it holds the network namespace open
//! and does nothing else.
//!
//! It is process 1 there, so it has two duties: to reap what is orphaned to it
//! (a container may join its PID namespace), and to leave at once when asked,
//! because the kernel gives process 1 no default action for signals and Docker
//! would wait ten seconds before killing it.
//!
//! No standard library, no allocator, no dependencies: two system calls in a
//! loop need none, and the image is a few kilobytes.

#![no_std]
#![no_main]

use core::{arch::asm, panic::PanicInfo, ptr};

const SIGINT: isize = 2;
const SIGTERM: isize = 15;
const SIG_BLOCK: usize = 0;
/// A static, because the kernel wants its address.
static ALL_SIGNALS: u64 = u64::MAX;
const SIGNAL_SET_BYTES: usize = size_of::<u64>();
const ANY_CHILD: usize = usize::MAX;
const WNOHANG: usize = 1;

#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const RT_SIGPROCMASK: usize = 14;
    pub(super) const WAIT4: usize = 61;
    pub(super) const RT_SIGTIMEDWAIT: usize = 128;
    pub(super) const EXIT_GROUP: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub(super) const RT_SIGPROCMASK: usize = 135;
    pub(super) const WAIT4: usize = 260;
    pub(super) const RT_SIGTIMEDWAIT: usize = 137;
    pub(super) const EXIT_GROUP: usize = 94;
}

/// A system call.
///
/// # Safety
/// As the call itself asks of its arguments.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, [a, b, c, d]: [usize; 4]) -> isize {
    let result: isize;
    // SAFETY: the registers are those of the x86-64 system call convention,
    // and the kernel changes none but those named here.
    unsafe {
        asm!("syscall", inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// A system call.
///
/// # Safety
/// As the call itself asks of its arguments.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, [a, b, c, d]: [usize; 4]) -> isize {
    let result: isize;
    // SAFETY: the registers are those of the AArch64 system call convention,
    // and the kernel changes none but x0.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, options(nostack));
    }
    result
}

/// The first instruction of the process.
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    let signals = &raw const ALL_SIGNALS as usize;
    // SAFETY: `signals` points to as many readable bytes as are announced, and
    // a null pointer means that the old mask is not wanted.
    unsafe {
        call(
            number::RT_SIGPROCMASK,
            [SIG_BLOCK, signals, 0, SIGNAL_SET_BYTES],
        )
    };
    loop {
        // SAFETY: as above; null pointers mean neither details nor a timeout.
        let signal = unsafe { call(number::RT_SIGTIMEDWAIT, [signals, 0, 0, SIGNAL_SET_BYTES]) };
        if signal == SIGTERM || signal == SIGINT {
            exit();
        }
        // Whatever came, it may have hidden the end of a child: signals that
        // are pending already are not queued again.
        reap();
    }
}

fn reap() {
    // SAFETY: null pointers mean that neither status nor usage is wanted.
    while unsafe {
        call(
            number::WAIT4,
            [ANY_CHILD, ptr::null::<u8>() as usize, WNOHANG, 0],
        )
    } > 0
    {}
}

fn exit() -> ! {
    loop {
        // SAFETY: takes a number and does not return.
        unsafe { call(number::EXIT_GROUP, [0; 4]) };
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit()
}
