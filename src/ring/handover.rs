//! What one side hands to another by one word: a request, or a slot that it no longer uses.
//!
//! A request is a flag that any thread raises and one thread takes: that of a canceller, or of a
//! loop that has to stop. A slot of a pool is free when its count has changed since its maker
//! handed it over.
//!
//! Each publishes what its side did before; no call here waits.

use crate::sync::{AtomicBool, AtomicU32, Ordering, Site, ordering};

/// Raises a request.
pub(crate) fn request(flag: &AtomicBool) {
    // Release: pairs with the Acquire in `take_request`; the thread that takes it sees what the
    // caller did before.
    flag.store(true, ordering(Site::Request, Ordering::Release));
}

/// Whether there is a request, which stays.
pub(crate) fn has_request(flag: &AtomicBool) -> bool {
    // Acquire: pairs with the Release in `request`, as a taker does.
    flag.load(ordering(Site::SeeRequest, Ordering::Acquire))
}

/// Takes a request, and returns whether there was one.
pub(crate) fn take_request(flag: &AtomicBool) -> bool {
    // Acquire: pairs with the Release in `request`.
    flag.swap(false, ordering(Site::TakeRequest, Ordering::Acquire))
}

/// Gives a slot back to its maker. Only the user of the slot increases the count.
pub(crate) fn return_slot(count: &AtomicU32) {
    // Relaxed: only the user of the slot increases it, and the slot came here by a record, or by
    // `take`.
    let next = count.load(Ordering::Relaxed).wrapping_add(1);
    // Release: pairs with the Acquire in `slot_count`; the bytes are no longer used here.
    count.store(next, ordering(Site::ReturnSlot, Ordering::Release));
}

/// How often a slot came back. Its maker may write there if this has changed since the last time.
pub(crate) fn slot_count(count: &AtomicU32) -> u32 {
    // Acquire: pairs with the Release in `return_slot`; its last user no longer uses it.
    count.load(ordering(Site::TakeSlot, Ordering::Acquire))
}
