//! Sleeping on a word that two processes share: futex(2).
#![allow(unsafe_code)]

use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Sleeps while `word` is `expected`, at most for `timeout`. Returns for a wake, for a changed
/// word, for a signal and for nothing at all: the caller looks again in any case.
pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Duration) {
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: the word and the time are valid for the call; the kernel only reads them. The futex
    // is not private to this process, so the flag for that is absent.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            &raw const timeout,
        )
    };
}

/// Wakes the one who sleeps on `word`, if anybody does.
pub(crate) fn wake(word: &AtomicU32) {
    // SAFETY: the word is valid for the call; the kernel takes its address as a name.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}
