//! What one side hands to another by one word: a request, and a slot that it has done with.
//!
//! A request is a flag that any thread raises and one takes: that of a canceller, of a loop that is
//! to stop. A slot of a pool is free when its count has changed since its maker handed it over.
//!
//! Each publishes what its side did before; nobody waits here.

use crate::sync::{AtomicBool, AtomicU32, Ordering, Site, ordering};

/// Raises a request.
pub(crate) fn request(flag: &AtomicBool) {
    // Release: pairs with the Acquire in `take_request`; what the caller did before is seen by the
    // one who takes it.
    flag.store(true, ordering(Site::Request, Ordering::Release));
}

/// Whether there is a request, which stays.
pub(crate) fn has_request(flag: &AtomicBool) -> bool {
    // Acquire: pairs with the Release in `request`, as a taker does.
    flag.load(ordering(Site::SeeRequest, Ordering::Acquire))
}

/// Takes a request, and says whether there was one.
pub(crate) fn take_request(flag: &AtomicBool) -> bool {
    // Acquire: pairs with the Release in `request`.
    flag.swap(false, ordering(Site::TakeRequest, Ordering::Acquire))
}

/// Gives a slot back to its maker. Only the one who has the slot counts on.
pub(crate) fn return_slot(count: &AtomicU32) {
    // Relaxed: only who has the slot counts on, and it came here by a record, or by `take`.
    let next = count.load(Ordering::Relaxed).wrapping_add(1);
    // Release: pairs with the Acquire in `slot_count`; the bytes are no longer used here.
    count.store(next, ordering(Site::ReturnSlot, Ordering::Release));
}

/// How often a slot came back. Its maker may write there if this is more than at the last time.
pub(crate) fn slot_count(count: &AtomicU32) -> u32 {
    // Acquire: pairs with the Release in `return_slot`; who had it before is through with it.
    count.load(ordering(Site::TakeSlot, Ordering::Acquire))
}
