//! State that several threads share, with a sender in it.

use crate::error::{CallError, PostError};
use crate::link::biased::{AlreadyInside, BiasedGuard, BiasedMutex};

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
    /// Inside a `Serialize` of a value that this thread posts here; a [`PostError::Busy`] for the
    /// program.
    #[inline(always)]
    pub(crate) fn lock(&self) -> Result<BiasedGuard<'_, S>, AlreadyInside> {
        self.state.lock()
    }
}

impl From<AlreadyInside> for PostError {
    fn from(_: AlreadyInside) -> Self {
        PostError::Busy
    }
}

impl From<AlreadyInside> for CallError {
    fn from(_: AlreadyInside) -> Self {
        PostError::Busy.into()
    }
}
