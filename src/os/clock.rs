//! The time, read without a system call where the vdso can: clock_gettime(2).

use nix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// Time since the system started, as of the kernel's last tick: 1 to 10 ms late, for about 5 ns.
pub(crate) fn coarse() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from)
}

/// The time at which a wait ends without success, if there is one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// The deadline of a wait without one.
    pub(crate) const NEVER: Deadline = Deadline(None);

    pub(crate) fn at(time: Instant) -> Deadline {
        Deadline(Some(time))
    }

    /// A deadline that the clock cannot represent is `NEVER`.
    pub(crate) fn after(timeout: Duration) -> Deadline {
        Deadline(Instant::now().checked_add(timeout))
    }

    /// When the wait ends, if it does.
    pub(crate) fn time(self) -> Option<Instant> {
        self.0
    }

    pub(crate) fn is_over(self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    /// The remaining time: zero once the deadline is over, `None` if there is no deadline.
    pub(crate) fn left(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// How long to sleep if something else has to be done after `most`.
    pub(crate) fn left_at_most(self, most: Duration) -> Duration {
        self.left().map_or(most, |left| left.min(most))
    }

    /// For how long the deadline has been over.
    pub(crate) fn overdue(self) -> Duration {
        self.0.map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// The earlier one of two.
    pub(crate) fn min(self, other: Deadline) -> Deadline {
        Deadline(self.0.into_iter().chain(other.0).min())
    }

    /// This deadline, or another one if there is none.
    pub(crate) fn or_else(self, other: impl FnOnce() -> Deadline) -> Deadline {
        if self.0.is_some() { self } else { other() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_over_once_nothing_is_left() {
        let (hour, past) = (Duration::from_secs(3600), Deadline::after(Duration::ZERO));
        assert!(past.is_over());
        assert_eq!((past.left(), past.left_at_most(hour)), (Some(Duration::ZERO), Duration::ZERO));
        let late = Deadline::at(Instant::now() - Duration::from_secs(60));
        assert!(late.is_over() && late.overdue() >= Duration::from_secs(60));

        let future = Deadline::after(hour);
        assert!(!future.is_over() && future.left().is_some_and(|left| left <= hour));
        assert_eq!(future.left_at_most(Duration::from_secs(1)), Duration::from_secs(1));
        assert_eq!(future.overdue(), Duration::ZERO);
        assert!(!future.or_else(|| past).is_over());
        assert!(future.min(past).is_over() && past.min(future).is_over());
        assert!(past.min(Deadline::NEVER).is_over() && Deadline::NEVER.min(past).is_over());
    }

    #[test]
    fn without_a_deadline_it_is_never_over() {
        for never in [Deadline::NEVER, Deadline::after(Duration::MAX)] {
            assert!(!never.is_over() && never.left().is_none());
            assert_eq!(never.left_at_most(Duration::MAX), Duration::MAX);
            assert_eq!(never.overdue(), Duration::ZERO);
            assert!(never.or_else(|| Deadline::after(Duration::ZERO)).is_over());
        }
    }
}
