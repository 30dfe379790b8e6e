//! State that several threads share, with a sender in it.

use crate::error::PostError;
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// A lock that is never held while a thread waits for the peer. A value is posted under it, so it
/// knows the thread that does: the value's `Serialize` may come back.
pub(crate) struct Shared<S> {
    state: Mutex<S>,
    /// The mark of the thread that posts, or 0.
    posting: AtomicUsize,
}

/// The mark of the thread that posts, for as long as it does.
pub(crate) struct Posting<'s>(&'s AtomicUsize);

impl<S> Shared<S> {
    pub(crate) fn new(state: S) -> Shared<S> {
        Shared { state: Mutex::new(state), posting: AtomicUsize::new(0) }
    }

    /// Locks the state. A panic of an earlier holder changes nothing, as the state is whole
    /// whenever code of the program runs.
    ///
    /// # Errors
    /// [`PostError::Busy`] inside a `Serialize` of a value that this thread posts here.
    #[inline]
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, S>, PostError> {
        match self.state.try_lock() {
            Ok(state) => Ok(state),
            Err(TryLockError::Poisoned(error)) => Ok(error.into_inner()),
            Err(TryLockError::WouldBlock) => self.lock_slow(),
        }
    }

    #[cold]
    fn lock_slow(&self) -> Result<MutexGuard<'_, S>, PostError> {
        // Relaxed: only this thread stores its own mark.
        if self.posting.load(Ordering::Relaxed) == thread_mark() {
            return Err(PostError::Busy);
        }
        Ok(self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The holder of the lock posts a value while the result lives.
    #[inline(always)]
    pub(crate) fn posting(&self) -> Posting<'_> {
        // Relaxed: see `lock_slow`.
        self.posting.store(thread_mark(), Ordering::Relaxed);
        Posting(&self.posting)
    }
}

impl Drop for Posting<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // Relaxed: see `lock_slow`.
        self.0.store(0, Ordering::Relaxed);
    }
}

thread_local! {
    static MARK: Cell<u8> = const { Cell::new(0) };
}

/// A number that no other thread has at the same time; never 0.
#[inline]
pub(crate) fn thread_mark() -> usize {
    MARK.with(|mark| std::ptr::from_ref(mark).addr())
}
