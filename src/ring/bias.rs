//! Which thread takes a lock by plain stores: decisions only. The lock itself and the barrier are
//! its caller's.
//!
//! The atomic step of a lock waits until the processor has published all earlier stores of its
//! thread, so a lock beside a post or a receipt costs as much as the message. But most locks are
//! taken by one thread alone. That thread becomes the owner, and enters without an atomic step:
//!
//! ```text
//! owner:     inside = true;   light fence;  owner == me?  → it is in, else inside = false
//! another:   owner = never;   barrier;      waits until inside is false: it is in
//! ```
//!
//! Either the owner sees that it is not the owner any more, or the other thread sees it inside:
//! 1. The owner's light fence comes before the barrier, which publishes `inside`: the other thread
//!    waits.
//! 2. It comes after the barrier: the owner sees `never`.
//!
//! The other thread does this under an ordinary lock, which everyone but the owner takes. A lock
//! gets an owner at most once.

use crate::sync::{AtomicBool, AtomicU64, Ordering, Site, light_fence, ordering, step};

/// Who owns a lock, and who is inside. A thread is a number that no other thread ever has.
#[derive(Debug)]
pub(crate) struct Bias {
    owner: AtomicU64,
    /// Whether the owner is inside.
    inside: AtomicBool,
    /// The thread that is inside by the ordinary lock.
    holder: AtomicU64,
    /// The thread that took the ordinary lock last, and how often in a row.
    last: AtomicU64,
    in_a_row: AtomicU64,
}

/// Whether the owner entered by itself.
#[must_use = "who is inside, leaves"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    Yes,
    /// It is inside already, by whichever way.
    Before,
    /// This thread needs the ordinary lock.
    No,
}

/// What a thread that has the ordinary lock does before it is inside.
#[must_use = "the owner may be inside"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Nothing,
    /// It runs a barrier, and waits until the owner has left.
    Barrier,
}

impl Bias {
    pub(crate) fn new() -> Bias {
        Bias {
            owner: AtomicU64::new(NONE),
            inside: AtomicBool::new(false),
            holder: AtomicU64::new(NONE),
            last: AtomicU64::new(NONE),
            in_a_row: AtomicU64::new(0),
        }
    }

    /// Enters, if this thread is the owner.
    #[inline(always)]
    pub(crate) fn enter(&self, me: u64) -> Entered {
        // Relaxed, here and below: only this thread stores its number.
        if self.owner.load(Ordering::Relaxed) != me {
            return match self.holder.load(Ordering::Relaxed) == me {
                true => Entered::Before,
                false => Entered::No,
            };
        }
        // Relaxed: the owner alone stores `true`.
        if self.inside.load(Ordering::Relaxed) {
            return Entered::Before;
        }
        // Relaxed: ordered by the fence.
        self.inside.store(true, Ordering::Relaxed);
        // Pairs with the barrier of the thread that ends the bias.
        light_fence(Site::EnterByBias);
        // Relaxed: ordered by that.
        if self.owner.load(Ordering::Relaxed) == me {
            return Entered::Yes;
        }
        self.leave();
        Entered::No
    }

    /// The owner leaves.
    #[inline(always)]
    pub(crate) fn leave(&self) {
        // Release: pairs with the Acquire in `is_free`.
        self.inside.store(false, ordering(Site::LeaveByBias, Ordering::Release));
    }

    /// Whether the owner is outside. If it is after the barrier, it never enters by itself again.
    pub(crate) fn is_free(&self) -> bool {
        // Acquire: pairs with the Release in `leave`; what the owner did inside was done before.
        !self.inside.load(ordering(Site::SeeOwnerLeave, Ordering::Acquire))
    }

    /// A thread has the ordinary lock. After what it is told to do, it is inside.
    pub(crate) fn take(&self) -> Entry {
        // Relaxed: stored under the ordinary lock.
        if matches!(self.owner.load(Ordering::Relaxed), NONE | NEVER) {
            return Entry::Nothing;
        }
        // Relaxed: ordered by the barrier.
        self.owner.store(NEVER, Ordering::Relaxed);
        if step(Site::EndBias) { Entry::Barrier } else { Entry::Nothing }
    }

    /// A thread is inside by the ordinary lock.
    pub(crate) fn hold(&self, me: u64) {
        // Relaxed: read by this thread alone.
        self.holder.store(me, Ordering::Relaxed);
    }

    /// It is about to give that lock back.
    pub(crate) fn let_go(&self, may_own: impl FnOnce() -> bool) {
        // Relaxed: stored by this thread.
        let me = self.holder.load(Ordering::Relaxed);
        self.holder.store(NONE, Ordering::Relaxed);
        // Relaxed: stored under the ordinary lock.
        if self.owner.load(Ordering::Relaxed) == NONE {
            self.count(me, may_own);
        }
    }

    /// Makes this thread the owner, if it took the lock often enough in a row.
    fn count(&self, me: u64, may_own: impl FnOnce() -> bool) {
        // Relaxed, all: used under the ordinary lock.
        if self.last.load(Ordering::Relaxed) != me {
            self.last.store(me, Ordering::Relaxed);
            self.in_a_row.store(0, Ordering::Relaxed);
        }
        let in_a_row = self.in_a_row.load(Ordering::Relaxed) + 1;
        self.in_a_row.store(in_a_row, Ordering::Relaxed);
        if in_a_row.is_multiple_of(OFTEN) && may_own() {
            self.owner.store(me, Ordering::Relaxed);
        }
    }
}

/// No thread's number.
const NONE: u64 = 0;
/// Nor this: there was an owner, and there will be none.
const NEVER: u64 = u64::MAX;
/// How often in a row a thread takes the ordinary lock before it becomes the owner. The end of a
/// bias costs as much as some hundred locks.
#[cfg(not(messageport_loom))]
const OFTEN: u64 = 1024;
#[cfg(messageport_loom)]
const OFTEN: u64 = 1;
