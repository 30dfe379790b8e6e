//! A pause in watching sockets while what they have cannot be taken: timerfd_create(2).
//!
//! A socket with a client that cannot be accepted stays readable, and so does the doorbell of a
//! port whose next message has to wait. A waiter would be woken again at once, and fail again, for
//! as long as that lasts.

use crate::error::SystemError;
use crate::os::epoll::Epoll;
use crate::os::named;
use nix::sys::time::TimeSpec;
use nix::sys::timer::TimerSetTimeFlags;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags};
use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Wakes the waiting side after a pause. Created in advance if descriptors may be what is missing.
pub(crate) struct Backoff {
    timer: TimerFd,
    pause: Duration,
    is_on: Cell<bool>,
}

impl Backoff {
    /// Creates one whose timer `epoll` watches.
    pub(crate) fn new(epoll: &Epoll, mark: u64, pause: Duration) -> Result<Backoff, SystemError> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map_err(named("timerfd_create"))?;
        epoll.add(timer.as_fd(), mark)?;
        Ok(Backoff { timer, pause, is_on: Cell::new(false) })
    }

    /// Whether the sockets are not watched at the moment.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.get()
    }

    /// Stops watching `sockets`, and wakes the waiting side after a pause.
    pub(crate) fn begin<'s>(
        &self,
        epoll: &Epoll,
        sockets: impl Iterator<Item = BorrowedFd<'s>>,
    ) -> Result<(), SystemError> {
        for socket in sockets {
            // Removed from the set: a socket that hung up would always be reported.
            epoll.leave_out(socket)?;
        }
        self.is_on.set(true);
        let pause = Expiration::OneShot(TimeSpec::from_duration(self.pause));
        // This makes the descriptor unreadable as well.
        let flags = TimerSetTimeFlags::empty();
        self.timer.set(pause, flags).map_err(named("timerfd_settime"))
    }

    /// Watches `sockets` again, each with its mark.
    pub(crate) fn end<'s>(
        &self,
        epoll: &Epoll,
        sockets: impl Iterator<Item = (BorrowedFd<'s>, u64)>,
    ) -> Result<(), SystemError> {
        for (socket, mark) in sockets {
            epoll.take_back(socket, mark)?;
        }
        self.is_on.set(false);
        self.timer.unset().map_err(named("timerfd_settime"))
    }
}

/// The pause after a failure for lack of descriptors.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);
