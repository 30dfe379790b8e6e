//! Who sleeps, and whom to wake: decisions only. The link performs them.
//!
//! ```text
//! sleeper:   flag = how I sleep;  fence(SeqCst);  look again;  sleep
//! waker:     commit;  fence(SeqCst);  flag?  → take it by one swap, wake that way, once
//! ```
//!
//! Either the waker's look sees the flag, or the sleeper's second look sees the commit:
//! 1. The sleeper's fence comes first in the order of all SeqCst fences: the waker's look, which
//!    follows its own fence, sees the flag. It wakes.
//! 2. The waker's fence comes first: the sleeper's second look sees the commit. It does not sleep.
//!
//! The swap, and acting on nothing but what it returned, is what makes a flag that a former owner
//! of the port left behind harmless: it costs one spurious wake. (Load, then clear, would take a
//! newer flag away unseen.)

use crate::sync::{AtomicU32, Ordering, Site, fence, step, store_flag, swap_flag};

/// What a waker has to do.
#[must_use = "a sleeper that is not woken sleeps for ever"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Nobody sleeps.
    Nobody,
    /// Somebody sleeps on the flag's own word.
    Futex,
    /// Somebody waits on the doorbell.
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

/// What a sleeper's second look said.
#[must_use = "to sleep when something is ready is to lose a wake-up"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Something came meanwhile: do not sleep.
    Ready,
    /// Nothing came; whoever commits next will wake.
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

/// Raises the flag. The caller looks again afterwards, and only then sleeps.
pub(crate) fn arm(flag: &AtomicU32, sleep: Sleep) {
    // Relaxed: ordered before the second look by the fence.
    store_flag(flag, sleep.code(), Ordering::Relaxed);
    // SeqCst fence: pairs with the one in `look`: the waker sees the flag, or we see its commit.
    fence(Site::FenceBeforeSleep);
}

/// Takes the flag back when a sleep ends otherwise than by a wake.
pub(crate) fn disarm(flag: &AtomicU32) {
    if step(Site::Disarm) {
        // Relaxed: a waker that took the flag first rings once too often, which costs one look.
        flag.swap(NOBODY, Ordering::Relaxed);
    }
}

/// Puts a flag back that was taken for a wake that the kernel refused: the next commit tries again.
pub(crate) fn put_back(flag: &AtomicU32, sleep: Sleep) {
    // Relaxed: at worst the sleeper has left meanwhile, and is woken once for nothing.
    flag.store(sleep.code(), Ordering::Relaxed);
}

/// After a commit: is there anybody to wake?
#[inline]
pub(crate) fn look(flag: &AtomicU32, site: Site) -> Wake {
    // SeqCst fence: pairs with the one in `arm`: we see the flag, or the sleeper sees our commit.
    fence(site);
    // Relaxed: ordered by the fence; a stale flag costs one spurious wake, nothing else.
    if flag.load(Ordering::Relaxed) == NOBODY { Wake::Nobody } else { take(flag) }
}

#[cold]
fn take(flag: &AtomicU32) -> Wake {
    // Relaxed: the wake itself, a system call, orders what follows it.
    match swap_flag(Site::TakeFlag, flag, NOBODY, Ordering::Relaxed) {
        NOBODY => Wake::Nobody,
        FUTEX => Wake::Futex,
        // Written by the peer, so possibly nonsense: the ring is the wake that hurts nobody.
        _ => Wake::Doorbell,
    }
}

const NOBODY: u32 = 0;
const FUTEX: u32 = 1;
const DOORBELL: u32 = 2;
