//! Sleeping on a word that two processes share: futex(2).
#![allow(unsafe_code)]

use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Sleeps for at most `timeout` while `word` is `expected`. Returns for a wake, for a changed word,
/// for a signal, and spuriously: the caller always looks again.
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

/// Wakes the sleeper on `word`, if there is one.
pub(crate) fn wake(word: &AtomicU32) {
    // SAFETY: the word is valid for the call; the kernel takes its address as a name.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}

#[cfg(test)]
pub(crate) mod sleeping {
    use std::sync::mpsc::{Receiver, channel};
    use std::time::{Duration, Instant};
    use std::{fs, thread};

    /// Longer than any test runs: a sleep that ends was woken.
    pub(crate) const FOR_EVER: Duration = Duration::from_secs(1 << 20);
    /// A test that has not ended by then hangs.
    pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

    /// Runs `sleep` in a thread. Returns once the flag is up and the kernel has put the thread to
    /// sleep. What it returns receives a word when the sleep has ended.
    pub(crate) fn start(
        is_flag_up: impl Fn() -> bool,
        sleep: impl FnOnce() + Send + 'static,
    ) -> Receiver<()> {
        let (name, named) = channel();
        let (end, ended) = channel();
        thread::spawn(move || {
            name.send(fs::read_link("/proc/thread-self").expect("a thread has a name")).unwrap();
            sleep();
            // A test that has failed no longer listens.
            let _ = end.send(());
        });
        let path = std::path::Path::new("/proc").join(named.recv().unwrap()).join("stat");
        let deadline = Instant::now() + DEADLINE;
        let is_asleep = || {
            let stat = fs::read_to_string(&path).expect("the thread lives");
            is_flag_up() && stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S"))
        };
        while !is_asleep() {
            assert!(Instant::now() < deadline, "the thread does not fall asleep");
            thread::yield_now();
        }
        ended
    }
}
