//! The handle by which other threads reach a loop.

use super::EventLoop;
use crate::port::events::Called;
use crate::ring::handover;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Stops an [`EventLoop`], or posts work to it, from other threads.
#[derive(Clone)]
pub struct LoopHandle {
    pub(super) shared: Arc<Shared>,
}

impl LoopHandle {
    /// Ends the current call of [`run`](EventLoop::run), or the next one, before its next turn.
    ///
    /// A running call of [`poll_once`](EventLoop::poll_once) or
    /// [`run_until_idle`](EventLoop::run_until_idle) returns, and leaves the request for `run`: see
    /// [`EventLoop::is_stopping`]. Several requests count as one.
    pub fn stop(&self) {
        handover::request(&self.shared.is_stopped);
        self.shared.called.ring();
    }

    /// Runs `work` on the loop's thread, in its next turn. Makes one system call.
    ///
    /// Returns whether the loop still exists. Work for a dropped loop is dropped, and so is work
    /// that the loop had not run when it was dropped.
    ///
    /// ```
    /// let event_loop = messageport::EventLoop::new()?;
    /// let handle = event_loop.handle();
    /// assert!(handle.post(|_| println!("at the next turn")));
    /// drop(event_loop);
    /// assert!(!handle.post(|_| unreachable!("the loop is gone")));
    /// # Ok::<(), messageport::LoopError>(())
    /// ```
    pub fn post(&self, work: impl FnOnce(&mut EventLoop) + Send + 'static) -> bool {
        let mut queue = self.shared.work();
        let Some(queued) = queue.as_mut() else {
            // Its drop may call this function again.
            drop(queue);
            return false;
        };
        queued.push_back(Box::new(work));
        drop(queue);
        self.shared.called.ring();
        true
    }
}

impl fmt::Debug for LoopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopHandle").finish_non_exhaustive()
    }
}

/// The part of a loop that its handles share.
pub(super) struct Shared {
    /// Its bell wakes the loop.
    pub(super) called: Arc<Called>,
    pub(super) is_stopped: AtomicBool,
    /// `None` after the loop was dropped.
    pub(super) work: Mutex<Option<VecDeque<Work>>>,
}

impl Shared {
    pub(super) fn work(&self) -> MutexGuard<'_, Option<VecDeque<Work>>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) type Work = Box<dyn FnOnce(&mut EventLoop) + Send>;
