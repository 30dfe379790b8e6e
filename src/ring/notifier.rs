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
//! The waker's fence costs more than all else that it does, as it waits until the processor has
//! published its stores. So a sleeper that has not slept for long is [awake](super::awake): its
//! flag says so, and a waker that reads that omits its fence. Before such a sleeper arms its flag,
//! it stores "no sleeper", and the kernel runs a fence on each processor that runs a waker:
//! 1. A waker that read "awake" before that fence has published its commit by it: the sleeper's
//!    second check sees the commit.
//! 2. A waker that looks after it reads "no sleeper" or a flag, and fences as above.
//!
//! A former owner of the port may leave a flag behind. It is harmless, because of the swap, and
//! because the waker acts only on what the swap returned: it costs one spurious wake. (Loading and
//! then clearing it would silently take a newer flag.)

use crate::sync::{AtomicU32, Ordering, Site, fence, light_fence, step, store_flag, swap_flag};

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

/// Whether a waker may omit its fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fences {
    /// The value of the flag at which it does.
    omitted_at: u32,
}

impl Fences {
    /// Never. A peer that writes this value is not woken.
    pub(crate) const ALWAYS: Fences = Fences { omitted_at: u32::MAX };
    /// If the sleeper is awake, because the threads of this process take part in its barriers.
    pub(crate) const UNLESS_AWAKE: Fences = Fences { omitted_at: AWAKE };
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
///
/// Not over a flag that was armed since: that sleeper has seen the commit, and may sleep another
/// way, so that a later wake would miss it.
pub(crate) fn put_back(flag: &AtomicU32, sleep: Sleep) {
    // Relaxed, both: at worst the sleeper has left meanwhile, and is woken once for nothing.
    let order = Ordering::Relaxed;
    let _ = flag.compare_exchange(NO_SLEEPER, sleep.code(), order, order);
}

/// After a commit: is there a sleeper to wake?
#[inline(always)]
pub(crate) fn look(flag: &AtomicU32, fences: Fences, site: Site) -> Wake {
    if cfg!(messageport_loom) && matches!(fences, Fences::ALWAYS) {
        // The same, in fewer steps to explore.
        return look_strictly(flag, site);
    }
    // Pairs with the barrier of a sleeper that is no longer awake, see above.
    light_fence(Site::LightFence);
    // Relaxed: ordered by that.
    if flag.load(Ordering::Relaxed) == fences.omitted_at {
        return Wake::NoSleeper;
    }
    look_strictly(flag, site)
}

/// The same, whatever the flag said before.
#[inline]
pub(crate) fn look_strictly(flag: &AtomicU32, site: Site) -> Wake {
    // SeqCst fence: pairs with the one in `arm`: we see the flag, or the sleeper sees our commit.
    fence(site);
    // Relaxed: ordered by the fence; a stale flag costs one spurious wake, nothing else.
    if is_armed(flag) { take(flag) } else { Wake::NoSleeper }
}

/// Whether there seems to be a sleeper.
#[inline(always)]
pub(crate) fn is_armed(flag: &AtomicU32) -> bool {
    !matches!(flag.load(Ordering::Relaxed), NO_SLEEPER | AWAKE)
}

/// Whether the sleeper seems to be awake.
pub(crate) fn is_awake(flag: &AtomicU32) -> bool {
    flag.load(Ordering::Relaxed) == AWAKE
}

/// Takes the flag. Another waker may have been faster.
#[cold]
pub(super) fn take(flag: &AtomicU32) -> Wake {
    // Relaxed: the wake itself, a system call, orders what follows it.
    match swap_flag(Site::TakeFlag, flag, NO_SLEEPER, Ordering::Relaxed) {
        NO_SLEEPER | AWAKE => Wake::NoSleeper,
        FUTEX => Wake::Futex,
        // Written by the peer, so it may be invalid: a ring is the wake that is always harmless.
        _ => Wake::Doorbell,
    }
}

pub(super) const NO_SLEEPER: u32 = 0;
const FUTEX: u32 = 1;
const DOORBELL: u32 = 2;
pub(crate) const AWAKE: u32 = 3;
