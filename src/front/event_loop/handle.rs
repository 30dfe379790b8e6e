//! What other threads can do to a loop.

use super::EventLoop;
use crate::port::events::Called;
use crate::ring::handover;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Reaches an [`EventLoop`] from other threads.
#[derive(Clone)]
pub struct LoopHandle {
    pub(super) shared: Arc<Shared>,
}

impl LoopHandle {
    /// Ends the [`run`](EventLoop::run) that is going on, or else the next one, before its next
    /// turn. A [`poll_once`](EventLoop::poll_once) or
    /// [`run_until_idle`](EventLoop::run_until_idle) that is going on returns, and leaves the
    /// request for `run`: see [`EventLoop::is_stopping`]. Several requests are one.
    pub fn stop(&self) {
        handover::request(&self.shared.is_stopped);
        self.shared.called.ring();
    }

    /// Has the loop's thread do something, at its next turn; one system call. Says whether the loop
    /// is there: work for one that is gone is dropped, as is what was left when it went.
    ///
    /// ```
    /// let event_loop = messageport::EventLoop::new()?;
    /// let handle = event_loop.handle();
    /// assert!(handle.post(|_| println!("at the next turn")));
    /// drop(event_loop);
    /// assert!(!handle.post(|_| unreachable!("nobody is there to do it")));
    /// # Ok::<(), messageport::LoopError>(())
    /// ```
    pub fn post(&self, work: impl FnOnce(&mut EventLoop) + Send + 'static) -> bool {
        let mut queue = self.shared.work();
        let Some(queued) = queue.as_mut() else {
            // What it owns may come back here when it is dropped.
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

/// What handles of other threads reach.
pub(super) struct Shared {
    /// Its bell is the loop's own.
    pub(super) called: Arc<Called>,
    pub(super) is_stopped: AtomicBool,
    /// `None` once the loop is gone.
    pub(super) work: Mutex<Option<VecDeque<Work>>>,
}

impl Shared {
    pub(super) fn work(&self) -> MutexGuard<'_, Option<VecDeque<Work>>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) type Work = Box<dyn FnOnce(&mut EventLoop) + Send>;
