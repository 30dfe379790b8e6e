//! A timer as a descriptor: timerfd_create(2).

use crate::error::SystemError;
use crate::os::named;
use nix::sys::time::TimeSpec;
use nix::sys::timer::TimerSetTimeFlags;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// A descriptor that becomes readable once, after `time`.
pub(crate) fn one_shot(time: Duration) -> Result<OwnedFd, SystemError> {
    let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map_err(named("timerfd_create"))?;
    // A time of zero would disarm it.
    let time = Expiration::OneShot(TimeSpec::from_duration(time.max(Duration::from_nanos(1))));
    timer.set(time, TimerSetTimeFlags::empty()).map_err(named("timerfd_settime"))?;
    Ok(timer.into())
}
