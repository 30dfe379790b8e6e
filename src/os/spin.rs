//! How long a call looks again and again before it sleeps.
//!
//! Two ends that answer each other sleep both, or neither: an answer of an end that has to be woken
//! comes too late for one that has looked for two microseconds. So what has paid off recently can
//! only say how to go on as before. A *probe* is what finds out: once in a while a call looks for
//! as long as a wake-up of the other side takes. If something comes, the other side is awake now,
//! and the next call shows how fast it answers one that does not sleep.

use crate::os;
use crate::os::clock::Deadline;
use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Duration;

/// What the recent looks of one half have brought.
#[derive(Debug)]
pub(crate) struct Spin {
    /// About how many looks have paid off.
    paid: Cell<u32>,
    /// Sleeps since the last probe, and how many there are before the next one.
    sleeps: Cell<u32>,
    rest: Cell<u32>,
    /// Whether the last call was a probe, and something came.
    has_probed: Cell<bool>,
}

impl Spin {
    pub(crate) fn new() -> Spin {
        Spin {
            paid: Cell::new(0),
            sleeps: Cell::new(0),
            rest: Cell::new(LEAST_REST),
            has_probed: Cell::new(false),
        }
    }

    /// Looks until something is there, which it returns, or until it is time to sleep. A call with
    /// a `deadline` that is near makes no probe, which could end after it.
    pub(crate) fn run(&self, deadline: Deadline, mut look: impl FnMut() -> bool) -> bool {
        if !several_processors() {
            return look();
        }
        let is_probe =
            self.sleeps.get() >= self.rest.get() && deadline.left_at_most(LONG_WAIT) == LONG_WAIT;
        self.look(self.most(is_probe), is_probe, look).is_some()
    }

    /// The same where others wait meanwhile: without a probe, and with no more looks than are
    /// `left`, from which it takes those that it has made.
    pub(crate) fn run_briefly(&self, left: &Cell<u32>, look: impl FnMut() -> bool) -> bool {
        if !several_processors() {
            return false;
        }
        let most = self.most(false).min(left.get());
        let made = self.look(most, false, look);
        left.set(left.get() - made.unwrap_or(most));
        made.is_some()
    }

    /// Looks at most `most` times. Returns how many looks found nothing before one that did.
    fn look(&self, most: u32, is_probe: bool, mut look: impl FnMut() -> bool) -> Option<u32> {
        for looks in 0..most {
            if look() {
                self.found(looks, is_probe);
                return Some(looks);
            }
            std::hint::spin_loop();
        }
        self.missed(is_probe);
        None
    }

    fn most(&self, is_probe: bool) -> u32 {
        match (is_probe, self.has_probed.get()) {
            (true, _) => PROBE,
            (false, true) => MOST_LOOKS,
            (false, false) => (self.paid.get() * 2 + LEAST_LOOKS).min(MOST_LOOKS),
        }
    }

    fn found(&self, looks: u32, is_probe: bool) {
        let has_probed = self.has_probed.replace(is_probe);
        if is_probe {
            // It took a wake-up, which says nothing about the next answer.
            return self.begin_rest();
        }
        self.sleeps.set(0);
        self.rest.set(LEAST_REST);
        let paid = self.paid.get();
        self.paid.set(if has_probed { looks } else { paid - paid / 8 + looks / 8 });
    }

    fn missed(&self, is_probe: bool) {
        self.has_probed.set(false);
        let paid = self.paid.get();
        self.paid.set(paid - paid / 8);
        match is_probe {
            true => self.begin_rest(),
            false => self.sleeps.set(self.sleeps.get() + 1),
        }
    }

    /// After a probe: a longer rest than the last one, until looks pay off again.
    fn begin_rest(&self) {
        self.sleeps.set(0);
        self.rest.set((self.rest.get() * 2).min(MOST_REST));
    }
}

fn several_processors() -> bool {
    static SEVERAL: OnceLock<bool> = OnceLock::new();
    *SEVERAL.get_or_init(os::several_processors)
}

/// The minimum number of looks before a sleep: one or two microseconds.
const LEAST_LOOKS: u32 = 60;
/// The maximum number of looks: after about thirty microseconds sleeping is cheaper.
pub(crate) const MOST_LOOKS: u32 = 1_000;
/// Looks of a probe: 50 to 200 µs, as long as a slow wake-up takes.
const PROBE: u32 = 4_000;
/// A wait that is long beside a probe.
const LONG_WAIT: Duration = Duration::from_millis(2);
/// Sleeps before the first probe, and before each of many that have found nothing out. Then a call
/// of 512 costs a probe: at 10,000 sleeps a second less than half a percent of a processor.
const LEAST_REST: u32 = 8;
const MOST_REST: u32 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    /// How many looks a call makes if the answer comes at the look `after`.
    fn looks(spin: &Spin, after: u32) -> u32 {
        let mut looks = 0;
        spin.run(Deadline::NEVER, || {
            looks += 1;
            looks > after
        });
        looks
    }

    #[test]
    fn two_ends_that_sleep_for_each_other_stop_sleeping() {
        if !several_processors() {
            return;
        }
        let (spin, work) = (Spin::new(), 200);
        let mut slept = true;
        let mut calls = 0;
        // The other end answers at once while this one is awake, and else it has to be woken.
        while slept || calls < 20 {
            let after = if slept { 2_500 } else { work };
            let made = looks(&spin, after);
            slept = made < after;
            calls += 1;
            assert!(calls < 30, "it still sleeps");
        }
        assert!((0..1_000).all(|_| looks(&spin, work) == work + 1));
    }

    #[test]
    fn a_receiver_of_rare_messages_seldom_probes() {
        if !several_processors() {
            return;
        }
        let spin = Spin::new();
        let made: u32 = (0..10_000).map(|_| looks(&spin, u32::MAX)).sum();
        let least = 10_000 * LEAST_LOOKS;
        assert!((least..least + 30 * PROBE).contains(&made), "{made} looks");
    }

    #[test]
    fn looks_beside_others_have_a_bound_in_all() {
        if !several_processors() {
            return;
        }
        let (spin, left) = (Spin::new(), Cell::new(MOST_LOOKS));
        let mut made = 0;
        // Nine looks a time: the tenth finds something.
        let finds = |looks: &mut u32| {
            *looks += 1;
            looks.is_multiple_of(10)
        };
        let found = (0..1_000).filter(|_| spin.run_briefly(&left, || finds(&mut made))).count();
        assert_eq!((found as u32, left.get()), (MOST_LOOKS / 9, 0));
        // And never a probe.
        let left = Cell::new(u32::MAX);
        for _ in 0..100 {
            let before = left.get();
            assert!(!spin.run_briefly(&left, || false));
            assert!(before - left.get() <= MOST_LOOKS);
        }
    }

    #[test]
    fn a_call_that_ends_soon_makes_no_probe() {
        let spin = Spin::new();
        let mut looks = 0;
        for _ in 0..20 * LEAST_REST {
            spin.run(Deadline::after(LONG_WAIT / 2), || {
                looks += 1;
                false
            });
        }
        assert!(looks <= 20 * LEAST_REST * LEAST_LOOKS, "{looks} looks");
    }

    /// Messages that come in time for a probe, but too late for any other call.
    #[test]
    fn a_probe_that_pays_off_is_no_reason_to_look_longer() {
        if !several_processors() {
            return;
        }
        let spin = Spin::new();
        let made: u32 = (0..10_000).map(|_| looks(&spin, MOST_LOOKS + 500)).sum();
        let least = 10_000 * LEAST_LOOKS;
        assert!((least..least + 40 * (PROBE + MOST_LOOKS)).contains(&made), "{made} looks");
    }
}
