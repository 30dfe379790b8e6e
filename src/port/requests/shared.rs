//! State that several threads share, with a sender in it.

use crate::error::PostError;
use crate::link::biased::{BiasedGuard, BiasedMutex};

/// A lock that is never held while a thread waits for the peer. A value is posted under it, whose
/// `Serialize` may come back.
pub(crate) struct Shared<S> {
    state: BiasedMutex<S>,
}

impl<S> Shared<S> {
    pub(crate) fn new(state: S) -> Shared<S> {
        Shared { state: BiasedMutex::new(state) }
    }

    /// Locks the state. A panic of an earlier holder changes nothing, as the state is whole
    /// whenever code of the program runs.
    ///
    /// # Errors
    /// [`PostError::Busy`] inside a `Serialize` of a value that this thread posts here.
    #[inline(always)]
    pub(crate) fn lock(&self) -> Result<BiasedGuard<'_, S>, PostError> {
        self.state.lock().map_err(|_| PostError::Busy)
    }
}
