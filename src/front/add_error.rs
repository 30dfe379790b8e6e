//! The error of a loop, set or reactor that refused a port or a source.

use crate::error::{AsIoError, LoopError};
use crate::port::MessagePort;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// An [`EventLoop`](crate::EventLoop), a [`PortSet`](crate::PortSet) or a reactor refused a port or
/// a source. [`into_inner`](Self::into_inner) returns it, as usable as before.
///
/// In a function that returns [`LoopError`], `?` converts the error, and drops the port or source.
///
/// ```
/// use messageport::{EventLoop, LoopError};
/// use std::fs::File;
///
/// let mut event_loop = EventLoop::new()?;
/// // Regular files cannot be watched.
/// let error = event_loop.add_source(File::open("Cargo.toml")?, |_, _| {}).unwrap_err();
/// assert!(matches!(error.reason(), LoopError::Io { .. }));
/// let _file = error.into_inner();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct AddError<T = MessagePort> {
    reason: LoopError,
    /// Behind a lock, as a port is not `Sync` and an error should be.
    refused: Box<Mutex<T>>,
}

impl<T> AddError<T> {
    pub(crate) fn new(reason: LoopError, refused: T) -> AddError<T> {
        AddError { reason, refused: Box::new(Mutex::new(refused)) }
    }

    /// The same for what the refused value was a part of.
    #[cfg(any(feature = "tokio", feature = "async-io"))]
    pub(crate) fn map<U>(self, form: impl FnOnce(T) -> U) -> AddError<U> {
        let (reason, refused) = self.into_parts();
        AddError::new(reason, form(refused))
    }

    /// The reason of the refusal.
    pub fn reason(&self) -> &LoopError {
        &self.reason
    }

    /// Returns the port or source.
    pub fn into_inner(self) -> T {
        self.into_parts().1
    }

    /// Returns both.
    pub fn into_parts(self) -> (LoopError, T) {
        (self.reason, self.refused.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> From<AddError<T>> for LoopError {
    fn from(error: AddError<T>) -> LoopError {
        error.reason
    }
}

impl<T> fmt::Debug for AddError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddError").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for AddError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<T> std::error::Error for AddError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.reason.source()
    }
}

impl<T> AsIoError for AddError<T> {
    fn kind(&self) -> std::io::ErrorKind {
        self.reason.kind()
    }
}

impl<T: Send + 'static> From<AddError<T>> for std::io::Error {
    fn from(error: AddError<T>) -> std::io::Error {
        std::io::Error::new(error.kind(), error)
    }
}
