//! Layer 1: system calls, and nothing else.
//!
//! `Ok` means that the kernel did it; every descriptor is an `OwnedFd` with close-on-exec set; an
//! error names the call. Interrupted calls are repeated. No call here blocks on a socket: the only
//! ones that wait are those that are told to, in `poll.rs` and `futex.rs`.

pub(crate) mod alarm;
pub(crate) mod backoff;
pub(crate) mod barrier;
pub(crate) mod clock;
pub(crate) mod epoll;
pub(crate) mod eventfd;
pub(crate) mod futex;
pub(crate) mod lock;
pub(crate) mod mapping;
pub(crate) mod memfd;
pub(crate) mod name;
pub(crate) mod poll;
pub(crate) mod process;
pub(crate) mod reaper;
pub(crate) mod rendezvous;
pub(crate) mod socket;
pub(crate) mod spin;
#[cfg(any(feature = "tokio", feature = "async-io"))]
pub(crate) mod timer;
#[cfg(feature = "tokio")]
pub(crate) mod tokio_fd;

use crate::error::SystemError;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::hash::{BuildHasher, RandomState};
use std::{fs, io};

/// Names the call that an errno comes from.
fn named(call: &'static str) -> impl FnOnce(Errno) -> SystemError {
    move |errno| SystemError { call, source: errno.into() }
}

/// Makes a call until no signal interrupts it.
fn uninterrupted<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            answer => return answer,
        }
    }
}

/// Whether /proc is mounted, so that a descriptor has a path.
fn has_proc() -> bool {
    let looked = fs::symlink_metadata("/proc/self/fd");
    !looked.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// That a call needs /proc, which is not mounted.
fn no_proc(call: &'static str) -> SystemError {
    let source = io::Error::new(io::ErrorKind::Unsupported, "/proc is not mounted here");
    SystemError { call, source }
}

/// A number that is very unlikely to repeat. It protects nothing, so the standard library's random
/// keys suffice.
pub(crate) fn random_number() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// The same with twice as many bits.
pub(crate) fn long_random_number() -> u128 {
    let (keys, process) = (RandomState::new(), std::process::id());
    let half = |index: u32| u128::from(keys.hash_one((process, index)));
    half(0) | half(1) << 64
}

/// Microseconds of a clock that is the same for all processes, and is never set back.
pub(crate) fn monotonic_microseconds() -> u64 {
    monotonic_nanoseconds() / 1000
}

/// Nanoseconds of the same clock.
pub(crate) fn monotonic_nanoseconds() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("this clock is always there");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Whether another process may run while this thread does: sched_getaffinity(2) of this thread, and
/// of process 1, as the peer of a thread that is bound to one processor is mostly bound to another
/// one. It ignores a quota of processor time, unlike `std::thread::available_parallelism`, which
/// opens files for that.
pub(crate) fn several_processors() -> bool {
    let has_several = |process| match sched_getaffinity(process) {
        Ok(set) => (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu) == Ok(true)).count() > 1,
        // EINVAL: there are more processors than the set can hold.
        Err(errno) => errno == Errno::EINVAL,
    };
    has_several(Pid::from_raw(0)) || has_several(Pid::from_raw(1))
}
