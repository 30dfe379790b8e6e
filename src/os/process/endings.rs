//! Children whose owners have gone without waiting: a thread gives them their grace, kills those
//! that are late, and reaps them.
//!
//! One job of the reaper serves them all. If the process exits before, the handler below gives them
//! what is left of their grace and kills them: none outlives this process because it was dropped.

use super::{LONGEST_END, Leftover, has_ended, is_reaped, kill, reap_later};
use crate::os::clock::Deadline;
use crate::os::{poll, reaper};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

struct Endings {
    children: Vec<Arc<Ending>>,
    /// Whether a job serves them.
    is_served: bool,
}

struct Ending {
    pidfd: OwnedFd,
    /// When it is killed.
    grace: Deadline,
    /// When it is left to later calls, if it was killed and has not ended, or is traced.
    end: Deadline,
}

static ENDINGS: Mutex<Endings> = Mutex::new(Endings { children: Vec::new(), is_served: false });

/// Ends a child in the background. Not in a forked copy.
pub(super) fn end_later(pidfd: OwnedFd, grace: Duration) {
    super::at_exit(kill_all);
    let (until, end) = (Deadline::after(grace), Deadline::after(grace + LONGEST_END));
    let mut endings = lock();
    endings.children.push(Arc::new(Ending { pidfd, grace: until, end }));
    if !std::mem::replace(&mut endings.is_served, true) {
        drop(endings);
        // Without a thread this runs here.
        reaper::run_later(Box::new(serve));
    }
}

fn lock() -> MutexGuard<'static, Endings> {
    ENDINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves the children until none is left.
fn serve() {
    loop {
        let mut endings = lock();
        endings.children.retain(|child| !child.is_over());
        if endings.children.is_empty() {
            endings.is_served = false;
            return;
        }
        let children = endings.children.clone();
        drop(endings);
        let running = children.iter().filter(|child| !poll::is_readable(child.pidfd.as_fd()));
        let running: Vec<_> = running.map(|child| child.pidfd.as_fd()).collect();
        // A child that has ended and cannot be reaped is asked again after a pause.
        if running.len() < children.len() || poll::wait_readable(&running, Some(SLICE)).is_err() {
            thread::sleep(PAUSE);
        }
    }
}

impl Ending {
    /// Reaps the child if it has ended, kills it if it is late. Returns whether this was all.
    fn is_over(&self) -> bool {
        let pidfd = self.pidfd.as_fd();
        if is_reaped(pidfd) {
            return true;
        }
        if self.grace.is_over() {
            let _ = kill(pidfd);
        }
        let gives_up = self.end.is_over();
        if gives_up && let Ok(pidfd) = pidfd.try_clone_to_owned() {
            reap_later(Leftover::Child(pidfd));
        }
        gives_up
    }
}

/// When the process exits: waits for the rest of each grace, and kills the child.
extern "C" fn kill_all() {
    // A forked copy has no such children, and may have been forked while the lock was held.
    if reaper::is_forked() {
        return;
    }
    for child in &lock().children {
        if !has_ended(child.pidfd.as_fd(), child.grace.left_at_most(LONGEST_END)) {
            let _ = kill(child.pidfd.as_fd());
        }
    }
}

/// How long a wait lasts before children that came meanwhile are looked at.
const SLICE: Duration = Duration::from_millis(20);
/// Before a child that has ended and cannot be reaped is asked again.
const PAUSE: Duration = Duration::from_millis(5);
