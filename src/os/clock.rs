//! The time, read without a system call: clock_gettime(2) through the vdso.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Time since the system started, as of the kernel's last tick: 1 to 10 ms late, for some 5 ns.
pub(crate) fn coarse() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from)
}
