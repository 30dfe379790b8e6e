//! A thread that sleeps until a waker wakes it.

use crate::os::clock::Deadline;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};

struct Parked(Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

thread_local! {
    static WAKER: Waker = Waker::from(Arc::new(Parked(thread::current())));
}

/// The waker of this thread.
pub(crate) fn with_waker<T>(act: impl FnOnce(&Waker) -> T) -> T {
    WAKER.with(act)
}

/// Sleeps until this thread's waker is woken, or the deadline; sometimes not at all.
pub(crate) fn park(deadline: Deadline) {
    match deadline.left() {
        None => thread::park(),
        Some(left) => thread::park_timeout(left),
    }
}
