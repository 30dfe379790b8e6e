//! How often a sender asks whether its peer is alive.
//!
//! A peer that is killed while it does not sleep takes no wake-up, so no post fails. So the sender
//! asks the kernel, at most once in [`ASK_EVERY`]. It reads a coarse clock to know when, but not at
//! each post: after as many posts as recently took [`READ_CLOCK_EVERY`], and at most after
//! [`MOST_POSTS`]. So it notices a death within a tenth of a second, or within that many posts. At
//! a steady rate it notices it within a tenth of a second, or at the next post.

use std::time::Duration;

/// The pure part: when to read the clock, and when to ask.
#[derive(Debug)]
pub(super) struct Liveness {
    /// When the kernel was last asked.
    asked: Duration,
    /// When the clock was last read, and how many posts were allowed until the next reading.
    clock_read: Duration,
    posts: u32,
}

impl Liveness {
    pub(super) fn new(now: Duration) -> Liveness {
        Liveness { asked: now, clock_read: now, posts: 1 }
    }

    /// The allowed posts are used up. Returns whether to ask the kernel now, and how many posts are
    /// allowed until the next reading of the clock.
    pub(super) fn check(&mut self, now: Duration) -> (bool, u32) {
        let passed = now.saturating_sub(self.clock_read);
        self.clock_read = now;
        // At most twice as many: what was fast once may be slow now.
        let most = (self.posts * 2).min(MOST_POSTS);
        self.posts =
            if passed < READ_CLOCK_EVERY / 2 { most } else { self.fitting(passed).min(most) };
        let asks = now.saturating_sub(self.asked) >= ASK_EVERY;
        if asks {
            self.asked = now;
        }
        (asks, self.posts)
    }

    /// How many posts take as long as the interval of readings, if the last ones took `passed`. It
    /// is apart from the fast path, because a division costs more than all of that path.
    #[cold]
    fn fitting(&self, passed: Duration) -> u32 {
        let fitting = u128::from(self.posts) * READ_CLOCK_EVERY.as_nanos() / passed.as_nanos();
        u32::try_from(fitting).map_or(MOST_POSTS, |fitting| fitting.max(1))
    }
}

/// The shortest interval of asking the kernel. Together with the interval of the clock's readings
/// and the delay of the coarse clock, a death is known within 100 ms.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// The intended interval of readings of the clock.
const READ_CLOCK_EVERY: Duration = Duration::from_millis(25);
/// The maximum number of posts without a reading of the clock.
const MOST_POSTS: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// Posts at these times, in microseconds, to a peer that dies at `death`. The clock shows
    /// multiples of `tick`. Returns when a post first fails, and how many came after the death.
    fn notice(times: impl Iterator<Item = u64>, death: u64, tick: u64) -> (u64, u32) {
        let shown = |time: u64| Duration::from_micros(time / tick * tick);
        let (mut liveness, mut left, mut late) = (Liveness::new(shown(0)), 1, 0);
        for time in times {
            if left == 0 {
                let (asks, posts) = liveness.check(shown(time));
                left = posts;
                if asks && time >= death {
                    return (time, late);
                }
            }
            left -= 1;
            late += u32::from(time >= death);
        }
        panic!("it was never noticed");
    }

    #[test]
    fn at_any_steady_rate_a_death_is_noticed_within_a_tenth_of_a_second_or_at_the_next_post() {
        for tick in [1_000, 4_000, 10_000] {
            for step in [1, 10, 100, 1_000, 5_000, 10_000, 20_000, 50_000, 200_000, 1_000_000] {
                for death in [1_000_000, 1_003_217, 1_049_999, 1_777_777] {
                    let times = (0..5_000_000 / step).map(|post| post * step);
                    let (noticed, late) = notice(times, death, tick);
                    let passed = noticed - death;
                    assert!(passed <= 100_000 || late <= 1, "{step} us: {passed} us, {late} posts");
                }
            }
        }
    }

    #[test]
    fn at_any_rate_a_death_is_noticed_within_a_tenth_of_a_second_or_64_posts() {
        for pause in [100_000, 200_000, 3_000_000] {
            for burst in [1, 2, 7, 63, 64, 65, 1_000] {
                for death in [1_000_000, 2_000_001, 2_111_111] {
                    let times = (0..100).flat_map(|round: u64| {
                        (0..burst).map(move |post| round * (pause + burst) + post)
                    });
                    let (noticed, late) = notice(times, death, 4_000);
                    let passed = noticed - death;
                    assert!(passed <= 100_000 || late <= MOST_POSTS, "{passed} us, {late} posts");
                }
            }
        }
    }

    #[test]
    fn the_kernel_is_asked_twenty_times_a_second_at_most() {
        let (mut liveness, mut asked) = (Liveness::new(Duration::ZERO), 0);
        for post in 0..1_000_000 {
            asked += u32::from(liveness.check(Duration::from_micros(post)).0);
        }
        assert!(asked <= 20, "{asked} times in a second");
    }

    /// As many as recently took 25 ms, at most twice as many as before, and between 1 and 64.
    #[test]
    fn the_number_of_posts_between_two_readings_follows_their_rate() {
        let (mut liveness, mut now) = (Liveness::new(Duration::ZERO), 0);
        for (passed, posts) in [
            (0, 2),
            (1, 4),
            (12, 8),
            (0, 16),
            (0, 32),
            (0, 64),
            (0, 64),
            (50, 32),
            (100, 8),
            (25, 8),
        ] {
            now += passed;
            assert_eq!(liveness.check(Duration::from_millis(now)).1, posts, "after {passed} ms");
        }
        now += 10_000;
        assert_eq!(liveness.check(Duration::from_millis(now)), (true, 1));
    }
}
