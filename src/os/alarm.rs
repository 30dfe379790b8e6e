//! A descriptor that becomes readable at a time, again and again: timerfd_create(2).

use crate::error::SystemError;
use crate::os::named;
use nix::sys::time::TimeSpec;
use nix::sys::timer::TimerSetTimeFlags;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

pub(crate) struct Alarm(TimerFd);

impl Alarm {
    pub(crate) fn new() -> Result<Alarm, SystemError> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags);
        timer.map(Alarm).map_err(named("timerfd_create"))
    }

    /// Makes the descriptor readable after a time, and not before; never, if there is none.
    pub(crate) fn set(&self, after: Option<Duration>) -> Result<(), SystemError> {
        let set = match after {
            // Zero would mean never.
            Some(after) => {
                let after = after.max(Duration::from_nanos(1)).min(LONGEST);
                let after = Expiration::OneShot(TimeSpec::from_duration(after));
                self.0.set(after, TimerSetTimeFlags::empty())
            }
            None => self.0.unset(),
        };
        set.map_err(named("timerfd_settime"))
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The kernel takes no time that is too long to be represented. After this one, its user looks
/// again.
const LONGEST: Duration = Duration::from_secs(1 << 30);
