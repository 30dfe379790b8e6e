//! Forks all the time in the process that it is preloaded into: each child has a copy of every
//! descriptor for some milliseconds, as a child has that a test starts beside another test. What
//! asserts at once that the kernel has told of a hang-up then fails, and not once in a thousand
//! runs only. `.ci/run forks` builds and uses it.
//!
//! Processes that play a role run one test only, so nothing is forked there.

use std::ffi::{c_int, c_long};
use std::time::Duration;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn waitpid(id: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn usleep(microseconds: u32) -> c_int;
    fn _exit(code: c_int) -> !;
}

#[cfg(target_arch = "x86_64")]
const CLONE: c_long = 56;
#[cfg(target_arch = "aarch64")]
const CLONE: c_long = 220;
/// Waits for children without a signal, which `waitpid` of the tests does not see.
const WCLONE: c_int = 0x8000_0000_u32 as c_int;
const WNOHANG: c_int = 1;

const HOLD_MICROSECONDS: u32 = 8_000;
const PAUSE: Duration = Duration::from_micros(30);

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

extern "C" fn start() {
    if std::env::var_os("MESSAGEPORT_TEST_ROLE").is_none() {
        std::thread::spawn(fork_without_end);
    }
}

fn fork_without_end() {
    loop {
        // SAFETY: a plain fork, without a signal to the parent at its end; the child makes only
        // calls that are safe after a fork.
        if unsafe { syscall(CLONE, 0, 0, 0, 0, 0) } == 0 {
            // SAFETY: takes a number.
            unsafe { usleep(HOLD_MICROSECONDS) };
            // SAFETY: ends this process, and runs nothing of the parent's.
            unsafe { _exit(0) };
        }
        let mut status = 0;
        // SAFETY: the status is valid for the call.
        while unsafe { waitpid(-1, &raw mut status, WCLONE | WNOHANG) } > 0 {}
        std::thread::sleep(PAUSE);
    }
}
