//! Which side sleeps, and which to wake: decisions only. The link acts on them.
//!
//! ```text
//! sleeper:   flag = how I sleep;  fence(SeqCst);  look again;  sleep
//! waker:     commit;  fence(SeqCst);  flag?  → take it by one swap, wake that way, once
//! ```
//!
//! Either the waker's check sees the flag, or the sleeper's second check sees the commit:
//! 1. The sleeper's fence comes first in the order of all SeqCst fences: the waker's check, which
//!    follows its own fence, sees the flag. It wakes.
//! 2. The waker's fence comes first: the sleeper's second check sees the commit. It does not sleep.
//!
//! A former owner of the port may leave a flag behind. It is harmless, because of the swap, and
//! because the waker acts only on what the swap returned: it costs one spurious wake. (Loading and
//! then clearing it would silently take a newer flag.)

use crate::sync::{AtomicU32, Ordering, Site, fence, step, store_flag, swap_flag};

/// What a waker has to do.
#[must_use = "a sleeper that is not woken sleeps for ever"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// There is no sleeper.
    NoSleeper,
    /// The sleeper sleeps on the flag's own word.
    Futex,
    /// The sleeper waits on the doorbell.
    Doorbell,
}

/// How a sleeper wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    /// By a futex call on the flag's word.
    Futex,
    /// By a ring of the doorbell.
    Doorbell,
}

/// What a sleeper's second check found.
#[must_use = "to sleep when something is ready is to lose a wake-up"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Something came meanwhile: do not sleep.
    Ready,
    /// Nothing came; the next commit of the other side will wake.
    Sleep,
}

impl Sleep {
    /// The flag's value.
    pub(crate) fn code(self) -> u32 {
        match self {
            Sleep::Futex => FUTEX,
            Sleep::Doorbell => DOORBELL,
        }
    }
}

/// Arms the flag. The caller looks again afterwards, and only then sleeps.
pub(crate) fn arm(flag: &AtomicU32, sleep: Sleep) {
    // Relaxed: ordered before the second check by the fence.
    store_flag(flag, sleep.code(), Ordering::Relaxed);
    // SeqCst fence: pairs with the one in `look`: the waker sees the flag, or we see its commit.
    fence(Site::FenceBeforeSleep);
}

/// Takes the flag back when a sleep ends without a wake.
pub(crate) fn disarm(flag: &AtomicU32) {
    if step(Site::Disarm) {
        // Relaxed: a waker that took the flag first rings once too often, which costs one poll.
        flag.swap(NO_SLEEPER, Ordering::Relaxed);
    }
}

/// Puts a flag back that was taken for a wake that the kernel refused: the next commit retries.
pub(crate) fn put_back(flag: &AtomicU32, sleep: Sleep) {
    // Relaxed: at worst the sleeper has left meanwhile, and is woken once for nothing.
    flag.store(sleep.code(), Ordering::Relaxed);
}

/// After a commit: is there a sleeper to wake?
#[inline]
pub(crate) fn look(flag: &AtomicU32, site: Site) -> Wake {
    // SeqCst fence: pairs with the one in `arm`: we see the flag, or the sleeper sees our commit.
    fence(site);
    // Relaxed: ordered by the fence; a stale flag costs one spurious wake, nothing else.
    if flag.load(Ordering::Relaxed) == NO_SLEEPER { Wake::NoSleeper } else { take(flag) }
}

#[cold]
fn take(flag: &AtomicU32) -> Wake {
    // Relaxed: the wake itself, a system call, orders what follows it.
    match swap_flag(Site::TakeFlag, flag, NO_SLEEPER, Ordering::Relaxed) {
        NO_SLEEPER => Wake::NoSleeper,
        FUTEX => Wake::Futex,
        // Written by the peer, so it may be invalid: a ring is the wake that is always harmless.
        _ => Wake::Doorbell,
    }
}

const NO_SLEEPER: u32 = 0;
const FUTEX: u32 = 1;
const DOORBELL: u32 = 2;
