//! The timers of a loop: what is due when.

use super::EventLoop;
use crate::link::endpoint::fresh_number;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Identifies a timer of an [`EventLoop`]. It is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId(pub(super) u64);

/// The timers, and when each of them is due.
#[derive(Default)]
pub(super) struct Timers {
    timers: BTreeMap<u64, Timer>,
    /// When a timer is due, and its number. One that is due at the same time as another one comes
    /// in the order in which they were added.
    due: BTreeSet<(Instant, u64)>,
}

struct Timer {
    /// `None` if the clock cannot represent it.
    due: Option<Instant>,
    act: Act,
}

enum Act {
    Once(Box<dyn FnOnce(&mut EventLoop)>),
    /// `None` while it is called.
    Every(Duration, Option<Repeated>),
}

type Repeated = Box<dyn FnMut(&mut EventLoop)>;

impl EventLoop {
    /// Runs `act` on this thread once `delay` has passed. The web's
    /// [`setTimeout`](https://html.spec.whatwg.org/#dom-settimeout).
    ///
    /// A turn of the loop that begins when the delay has passed runs it, before it serves sources
    /// and ports, so it may come later than asked: by up to 1 ms, and for as long as a handler
    /// runs. It never comes earlier, and with a delay of zero it runs in the next turn. Timers run
    /// in the order of their times. The time is that of `CLOCK_MONOTONIC`, which stands still while
    /// the system is suspended. A delay that this clock cannot represent never passes.
    ///
    /// Until then [`run`](Self::run) continues, unless the timer is
    /// [unreferenced](Self::unref). A panic in `act` is reported to
    /// [`on_listener_failure`](Self::on_listener_failure). The call allocates memory, but makes no
    /// system call.
    ///
    /// A handler of a port adds a timer in a [deferred](crate::Event::defer) action, another thread
    /// by [`LoopHandle::post`](crate::LoopHandle::post); both remove timers in the same way.
    ///
    /// ```
    /// use messageport::{EventLoop, MessageChannel};
    /// use std::time::Duration;
    ///
    /// // Waits for a message, at most for 10 ms.
    /// let (channel, mut event_loop) = (MessageChannel::new()?, EventLoop::new()?);
    /// let port = event_loop.add(channel.port2)?;
    /// event_loop.add_timer(Duration::from_millis(10), move |event_loop| {
    ///     println!("no message came");
    ///     event_loop.remove(port);
    /// });
    /// event_loop.run()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn add_timer(
        &mut self,
        delay: Duration,
        act: impl FnOnce(&mut EventLoop) + 'static,
    ) -> TimerId {
        self.add_to_timers(delay, Act::Once(Box::new(act)))
    }

    /// Runs `act` on this thread again and again, each time after `period` has passed, until the
    /// timer is [removed](Self::remove_timer). The web's
    /// [`setInterval`](https://html.spec.whatwg.org/#dom-setinterval).
    ///
    /// The calls are due at multiples of the period after this call, however long `act` takes. A
    /// call that is late does not delay the following ones; those that could not be made before the
    /// next one was due are skipped. A period of less than 1 ms counts as 1 ms. If `act` panics, it
    /// is called again at the next time. While `act` runs the loop, it is not called inside of
    /// itself, and [`run_until_idle`](Self::run_until_idle) calls it at most once. Everything else
    /// is as for [`add_timer`](Self::add_timer).
    ///
    /// ```
    /// use messageport::{EventLoop, RunEnd};
    /// use std::time::Duration;
    ///
    /// let (mut event_loop, mut rounds) = (EventLoop::new()?, 0);
    /// let handle = event_loop.handle();
    /// event_loop.add_interval(Duration::from_millis(1), move |_| {
    ///     rounds += 1;
    ///     if rounds == 3 {
    ///         handle.stop();
    ///     }
    /// });
    /// assert_eq!(event_loop.run()?, RunEnd::Stopped);
    /// # Ok::<(), messageport::LoopError>(())
    /// ```
    pub fn add_interval(
        &mut self,
        period: Duration,
        act: impl FnMut(&mut EventLoop) + 'static,
    ) -> TimerId {
        let period = period.max(SHORTEST);
        self.add_to_timers(period, Act::Every(period, Some(Box::new(act))))
    }

    /// Removes a timer, so that it does not run any more. Returns whether it was there: a timer of
    /// [`add_timer`](Self::add_timer) that has run is not. The web's
    /// [`clearTimeout`](https://html.spec.whatwg.org/#dom-cleartimeout) and `clearInterval`.
    ///
    /// ```
    /// use messageport::EventLoop;
    /// use std::time::Duration;
    ///
    /// let mut event_loop = EventLoop::new()?;
    /// let id = event_loop.add_timer(Duration::from_secs(3600), |_| unreachable!());
    /// let handle = event_loop.handle();
    /// std::thread::spawn(move || handle.post(move |event_loop| _ = event_loop.remove_timer(id)));
    /// event_loop.run()?; // until the thread has removed it
    /// # Ok::<(), messageport::LoopError>(())
    /// ```
    pub fn remove_timer(&mut self, id: TimerId) -> bool {
        self.recount(id.0, |event_loop| event_loop.timers.remove(id.0)).is_some()
    }

    fn add_to_timers(&mut self, delay: Duration, act: Act) -> TimerId {
        let id = fresh_number();
        let due = Instant::now().checked_add(delay);
        self.recount(id, |event_loop| event_loop.timers.insert(id, Timer { due, act }));
        if self.is_nested.get() {
            // The next turn sets the alarm.
            self.shared.called.ring();
        }
        TimerId(id)
    }

    /// Runs the timers that are due; of those that repeat only what was due at `repeated_until`, if
    /// there is such a time. Returns whether it ran any. Those that they add have to wait for the
    /// next turn.
    pub(super) fn run_timers(&mut self, repeated_until: Option<Instant>) -> bool {
        if self.timers.due.is_empty() {
            return false;
        }
        let now = Instant::now();
        let (due, mut has_run) = (self.timers.due_until(now), false);
        for id in due {
            has_run |= self.run_timer(id, now, repeated_until.unwrap_or(now));
        }
        has_run
    }

    /// Runs a timer, if it is due. Returns whether it did.
    fn run_timer(&mut self, id: u64, now: Instant, repeated_until: Instant) -> bool {
        // Another one may have removed it, or a turn inside another one's call may have run it.
        let Some(timer) = self.timers.timers.get_mut(&id) else { return false };
        let Some(due) = timer.due.filter(|due| *due <= now) else { return false };
        match &mut timer.act {
            Act::Once(_) => {
                let timer = self.recount(id, |event_loop| event_loop.timers.remove(id));
                if let Some(Timer { act: Act::Once(act), .. }) = timer {
                    self.isolate(Some(TimerId(id).into()), act);
                }
            }
            Act::Every(..) if due > repeated_until => return false,
            Act::Every(period, act) => {
                let (period, act) = (*period, act.take());
                self.timers.set_due(id, next_after(now, due, period));
                // Without one it is being called, and has run the loop.
                let Some(mut act) = act else { return false };
                self.isolate(Some(TimerId(id).into()), &mut act);
                let timer = self.timers.timers.get_mut(&id);
                if let Some(Timer { act: Act::Every(_, place), .. }) = timer {
                    *place = Some(act);
                }
            }
        }
        true
    }
}

impl Timers {
    pub(super) fn has(&self, id: u64) -> bool {
        self.timers.contains_key(&id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.timers.is_empty()
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    fn due_until(&self, now: Instant) -> Vec<u64> {
        self.due.range(..=(now, u64::MAX)).map(|(_, id)| *id).collect()
    }

    fn insert(&mut self, id: u64, timer: Timer) {
        self.due.extend(timer.due.map(|due| (due, id)));
        self.timers.insert(id, timer);
    }

    fn remove(&mut self, id: u64) -> Option<Timer> {
        let timer = self.timers.remove(&id)?;
        if let Some(due) = timer.due {
            self.due.remove(&(due, id));
        }
        Some(timer)
    }

    fn set_due(&mut self, id: u64, due: Option<Instant>) {
        if let Some(mut timer) = self.remove(id) {
            timer.due = due;
            self.insert(id, timer);
        }
    }
}

/// The first time after `now` that is a multiple of `period` after `due`.
fn next_after(now: Instant, due: Instant, period: Duration) -> Option<Instant> {
    let late = now.saturating_duration_since(due).as_nanos() % period.as_nanos();
    let late = Duration::from_nanos(u64::try_from(late).unwrap_or(u64::MAX));
    now.checked_add(period.saturating_sub(late))
}

/// The shortest period, as the kernel's waits are in milliseconds.
const SHORTEST: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_stay_at_multiples_of_the_period_and_late_ones_are_skipped() {
        let (due, ms) = (Instant::now(), Duration::from_millis);
        let next = |late: u64| next_after(due + ms(late), due, ms(10)).map(|next| next - due);
        let expected = [(0, 10), (1, 10), (9, 10), (10, 20), (25, 30), (999, 1000)];
        for (late, at) in expected {
            assert_eq!(next(late), Some(ms(at)), "{late} ms late");
        }
        assert_eq!(next_after(due, due, Duration::MAX), None);
    }

    /// Compared with a list that is searched from end to end.
    #[test]
    fn timers_are_due_in_order_whatever_is_added_moved_and_removed() {
        let (start, mut timers, mut list) = (Instant::now(), Timers::default(), Vec::new());
        let mut state: u64 = 7;
        let mut below = |most: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % most
        };
        for id in 0..2000 {
            let at = |ms: u64| (ms < 90).then(|| start + Duration::from_millis(ms));
            let due = at(below(100));
            timers.insert(id, Timer { due, act: Act::Once(Box::new(|_| {})) });
            list.push((due, id));
            let other = below(id + 1);
            match below(3) {
                0 => {
                    let was_there = list.iter().any(|(_, id)| *id == other);
                    assert_eq!(timers.remove(other).is_some(), was_there);
                    list.retain(|(_, id)| *id != other);
                }
                1 => {
                    let due = at(below(100));
                    timers.set_due(other, due);
                    let moved = list.iter_mut().filter(|(_, id)| *id == other);
                    moved.for_each(|timer| timer.0 = due);
                }
                _ => {}
            }
            let now = start + Duration::from_millis(below(100));
            let is_due = |timer: &&(Option<Instant>, u64)| timer.0.is_some_and(|due| due <= now);
            let mut expected: Vec<_> = list.iter().filter(is_due).copied().collect();
            expected.sort_unstable();
            let expected: Vec<u64> = expected.into_iter().map(|(_, id)| id).collect();
            assert_eq!(timers.due_until(now), expected);
            assert_eq!(timers.next(), list.iter().filter_map(|(due, _)| *due).min());
            assert_eq!(timers.is_empty(), list.is_empty());
        }
    }
}
