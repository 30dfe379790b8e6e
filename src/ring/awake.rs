//! A side that has not slept for long: its waker needs no fence. [`notifier`](super::notifier) says
//! why.

use super::notifier::{self, AWAKE, NO_SLEEPER};
use crate::sync::{AtomicU32, Ordering, Site, step, store_flag};

/// Whether one side of a lane has said that it is awake.
#[derive(Debug)]
pub(crate) struct Awake {
    is_awake: bool,
    /// How many messages it had handled when it last prepared to sleep.
    slept_at: u64,
}

/// What a side that is about to sleep has to do before it arms its flag.
#[must_use = "a sleeper whose waker omits its fence may sleep for ever"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    Nothing,
    /// To run a fence on each processor that runs a waker.
    Barrier,
}

impl Awake {
    /// A side that continues where another owner stopped, who may have left its flag.
    pub(crate) fn resume(flag: &AtomicU32, messages: u64) -> Awake {
        // At worst one barrier too many, or wakers that fence in vain. If the peer writes the flag
        // later, the wakes for its own messages are at stake.
        Awake { is_awake: notifier::is_awake(flag), slept_at: messages }
    }

    /// Whether so many messages were handled since the last sleep that a barrier pays off.
    pub(crate) fn is_due(&self, messages: u64) -> bool {
        !self.is_awake && messages.wrapping_sub(self.slept_at) >= LONG
    }

    /// Tells the wakers to omit their fences, unless the flag is armed: if threads share the half,
    /// one of them may be asleep on it, and a ring that the kernel refused is owed to it.
    pub(crate) fn stay_awake(&mut self, flag: &AtomicU32) {
        if notifier::is_armed(flag) {
            return;
        }
        // Relaxed: this side sleeps only after `get_ready`. A waker that still has to take an older
        // flag may clear this one, and fences until the next time.
        store_flag(flag, AWAKE, Ordering::Relaxed);
        self.is_awake = true;
    }

    /// Tells the wakers to fence. The caller acts on the result, arms the flag, and looks again.
    pub(crate) fn get_ready(&mut self, flag: &AtomicU32, messages: u64) -> Before {
        self.slept_at = messages;
        if !std::mem::take(&mut self.is_awake) {
            return Before::Nothing;
        }
        // Relaxed: ordered by the barrier.
        store_flag(flag, NO_SLEEPER, Ordering::Relaxed);
        if step(Site::Barrier) { Before::Barrier } else { Before::Nothing }
    }
}

/// Messages without a sleep after which a side is awake: a barrier takes up to 20 µs, and may
/// interrupt the peer, so it must be rare.
pub(crate) const LONG: u64 = 16_384;
