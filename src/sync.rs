//! The only access to atomics and cells: the standard ones, or loom's under
//! `cfg(messageport_loom)`. The crate has its own name for that: dependencies of the tests have a
//! `cfg(loom)` as well, and would follow it.
//!
//! Every ordering that is stronger than `Relaxed` and every fence of the crate passes through
//! [`ordering`] or [`fence`] with its [`Site`]; so does each step of the ring that a sleeper relies
//! on, through [`step`]. In a normal build all three are the identity and cost nothing. Under loom
//! one site at a time can be weakened, and a model must then fail: so `ring::models` shows that
//! each of them is needed.

#[cfg(messageport_loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
#[cfg(not(messageport_loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// A place where memory is ordered, where two steps must be one, or where a step must not be
/// omitted. The table in `ring/mod.rs` names the partner of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    /// `tail` is stored after the records it covers.
    PublishTail,
    /// `tail` is loaded before the records it covers.
    ReadTail,
    /// `head` is stored after the bytes before it were read.
    PublishHead,
    /// `head` is loaded before the bytes before it are overwritten.
    ReadHead,
    /// The same, by a producer that continues where another owner stopped.
    ResumeHead,
    /// The same, before a drained lane is left for a smaller segment.
    HeadAtShrink,
    /// Between storing `tail` or `head` and looking at the sleeper's flag.
    FenceBeforeLook,
    /// Between arming the flag and looking again.
    FenceBeforeSleep,
    /// Between storing `tail` or `head` and looking whether the sleeper is awake.
    LightFence,
    /// Between saying that one is no longer awake and arming the flag.
    Barrier,
    /// Between storing "reader gone" and looking at the room flag.
    FenceReaderGone,
    /// A sleeper's flag is read and cleared in one step.
    TakeFlag,
    /// A sleeper that does not sleep takes its flag back.
    Disarm,
    /// A producer that is about to sleep asks whether it could hop instead.
    LookForHop,
    /// A consumer that is about to sleep looks whether the lane has ended.
    LookForEnd,
    /// A release gives back the control records after the message as well.
    ReleaseControls,
    /// A consumer that has released quietly looks for a sleeper.
    LookAfterBatch,
    /// A slot's count is stored after its bytes were used.
    ReturnSlot,
    /// A slot's count is loaded before its bytes are written again.
    TakeSlot,
    /// A request is stored after what its sender did before.
    Request,
    /// A request is seen before what is done for it.
    SeeRequest,
    /// The same, by the thread that takes it.
    TakeRequest,
    /// Between the owner of a lock saying that it is inside and looking whether it still owns it.
    EnterByBias,
    /// Between taking a lock from its owner and looking whether the owner is inside.
    EndBias,
    /// The owner leaves after it used what the lock guards.
    LeaveByBias,
    /// The owner is seen outside before another thread uses that.
    SeeOwnerLeave,
}

#[cfg(not(messageport_loom))]
#[inline]
pub(crate) const fn ordering(_site: Site, ordering: Ordering) -> Ordering {
    ordering
}

#[cfg(not(messageport_loom))]
#[inline]
pub(crate) fn fence(_site: Site) {
    std::sync::atomic::fence(Ordering::SeqCst);
}

/// The part of a fence that is left to a thread whose peer runs a barrier on its processor: that
/// the compiler keeps the order.
#[cfg(not(messageport_loom))]
#[inline(always)]
pub(crate) fn light_fence(_site: Site) {
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
}

/// Whether a step is taken: always, except in the weakened variant of a model.
#[cfg(not(messageport_loom))]
#[inline(always)]
pub(crate) const fn step(_site: Site) -> bool {
    true
}

/// Stores a sleeper's flag, which its waker takes by [`swap_flag`].
#[cfg(not(messageport_loom))]
pub(crate) fn store_flag(flag: &AtomicU32, value: u32, ordering: Ordering) {
    flag.store(value, ordering);
}

/// Replaces a sleeper's flag in one step, and returns what it was.
#[cfg(not(messageport_loom))]
pub(crate) fn swap_flag(_site: Site, flag: &AtomicU32, value: u32, ordering: Ordering) -> u32 {
    flag.swap(value, ordering)
}

#[cfg(messageport_loom)]
pub(crate) use weakened::{
    ALL_SITES, barrier, fence, light_fence, ordering, step, store_flag, swap_flag, with_weakened,
};

/// The switch that lets a model run with one ordering removed.
#[cfg(messageport_loom)]
mod weakened {
    use super::{AtomicU32, Ordering, Site};
    use std::cell::Cell;

    pub(crate) const ALL_SITES: [Site; 26] = [
        Site::PublishTail,
        Site::ReadTail,
        Site::PublishHead,
        Site::ReadHead,
        Site::ResumeHead,
        Site::HeadAtShrink,
        Site::FenceBeforeLook,
        Site::FenceBeforeSleep,
        Site::LightFence,
        Site::Barrier,
        Site::FenceReaderGone,
        Site::TakeFlag,
        Site::Disarm,
        Site::LookForHop,
        Site::LookForEnd,
        Site::ReleaseControls,
        Site::LookAfterBatch,
        Site::ReturnSlot,
        Site::TakeSlot,
        Site::Request,
        Site::SeeRequest,
        Site::TakeRequest,
        Site::EnterByBias,
        Site::EndBias,
        Site::LeaveByBias,
        Site::SeeOwnerLeave,
    ];

    thread_local! {
        // Loom runs all its threads as coroutines of one system thread.
        static WEAKENED: Cell<Option<Site>> = const { Cell::new(None) };
    }

    pub(crate) fn ordering(site: Site, ordering: Ordering) -> Ordering {
        if WEAKENED.get() == Some(site) { Ordering::Relaxed } else { ordering }
    }

    pub(crate) fn fence(site: Site) {
        if WEAKENED.get() != Some(site) {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    }

    loom::lazy_static! {
        /// What barriers and light fences change, one after the other.
        static ref BARRIERS: AtomicU32 = AtomicU32::new(0);
    }

    /// Has its place before or after each barrier, and in no other order.
    pub(crate) fn light_fence(site: Site) {
        if WEAKENED.get() != Some(site) {
            barrier();
        }
    }

    /// A barrier: what was before a light fence that came first is seen after it, and the other way
    /// round.
    pub(crate) fn barrier() {
        BARRIERS.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn step(site: Site) -> bool {
        WEAKENED.get() != Some(site)
    }

    /// By a swap as well: loom knows no order between a plain store and an earlier swap of another
    /// thread, so that a later swap may return the earlier one's value. No machine does that, since
    /// a swap reads the value directly before its own.
    pub(crate) fn store_flag(flag: &AtomicU32, value: u32, ordering: Ordering) {
        flag.swap(value, ordering);
    }

    /// Weakened, the one step is two.
    pub(crate) fn swap_flag(site: Site, flag: &AtomicU32, value: u32, ordering: Ordering) -> u32 {
        if WEAKENED.get() == Some(site) {
            let seen = flag.load(ordering);
            store_flag(flag, value, ordering);
            return seen;
        }
        flag.swap(value, ordering)
    }

    /// Runs `model` with `site` weakened; the site is restored afterwards, also after a panic.
    pub(crate) fn with_weakened(site: Site, model: impl FnOnce()) {
        struct Restore;
        impl Drop for Restore {
            fn drop(&mut self) {
                WEAKENED.set(None);
            }
        }
        let _restore = Restore;
        WEAKENED.set(Some(site));
        model();
    }
}
