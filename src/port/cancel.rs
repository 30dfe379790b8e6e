//! Ending a blocked call of this process from another thread.

use crate::error::SystemError;
use crate::link::endpoint::Endpoint;
use crate::os::eventfd::Bell;
use crate::ring::handover;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

/// Ends a blocked call of a port, from any thread.
///
/// The blocked call returns `Cancelled`. If no call is blocked, the next call that would block
/// returns it. One `cancel` ends one call. If the port is gone, `cancel` does nothing.
///
/// ```
/// use messageport::{MessageChannel, RecvError};
///
/// let channel = MessageChannel::new()?;
/// let canceller = channel.port1.canceller()?;
/// let thread = std::thread::spawn(move || canceller.cancel());
/// assert!(matches!(channel.port1.recv(), Err(RecvError::Cancelled)));
/// thread.join().unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Canceller {
    switch: Arc<Switch>,
}

/// What a canceller and the halves of one port share.
pub(crate) struct Switch {
    requested: AtomicBool,
    bell: Bell,
    /// Weak: a canceller must not keep the sockets open, which would hide the end from the peer.
    end: Weak<Endpoint>,
}

impl Canceller {
    pub(crate) fn switch(&self) -> Arc<Switch> {
        self.switch.clone()
    }

    pub(crate) fn new(switch: Arc<Switch>) -> Canceller {
        Canceller { switch }
    }

    /// Ends the blocked call, or else the next one. Never blocks; makes at most two system calls.
    pub fn cancel(&self) {
        handover::request(&self.switch.requested);
        self.switch.bell.ring();
        if let Some(end) = self.switch.end.upgrade() {
            end.interrupt_sender();
        }
    }
}

impl Switch {
    pub(crate) fn new(end: &Arc<Endpoint>) -> Result<Arc<Switch>, SystemError> {
        let (requested, end) = (AtomicBool::new(false), Arc::downgrade(end));
        Ok(Arc::new(Switch { requested, bell: Bell::new()?, end }))
    }

    /// Whether the running call has to end. Asked once per round of a wait.
    pub(crate) fn take_request(&self) -> bool {
        // Drain the bell first: a request that comes between the two steps rings again, and is
        // taken here or in the next round. In the opposite order a late ring would remain, and no
        // later step would drain it.
        self.bell.drain();
        handover::take_request(&self.requested)
    }

    /// Readable once a request is pending.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl std::fmt::Debug for Switch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Switch").field("requested", &self.requested).finish_non_exhaustive()
    }
}
