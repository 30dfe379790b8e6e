//! A bell inside one process: eventfd(2). Never shared with a peer, which could fill it.

use crate::error::SystemError;
use crate::os::{named, uninterrupted};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};

#[derive(Debug)]
pub(crate) struct Bell(EventFd);

impl Bell {
    pub(crate) fn new() -> Result<Bell, SystemError> {
        EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map(Bell)
            .map_err(named("eventfd"))
    }

    /// Makes the descriptor readable until the next `drain`.
    pub(crate) fn ring(&self) {
        // It fails only when it is full, and then it rings already.
        let _ = uninterrupted(|| self.0.write(1));
    }

    pub(crate) fn drain(&self) {
        // It fails only when it did not ring.
        let _ = uninterrupted(|| self.0.read());
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
