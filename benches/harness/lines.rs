//! The physical limit: cache lines bounced between two cores by plain atomics.

use std::hint::spin_loop;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use super::child::{Job, Peer};
use super::machine::Machine;
use super::shared::{LINE, Shared, SharedMemory};
use super::workload::{RoundTrip, Subject, Trips, Workload};

/// A number bounced between two processes, in one line or in one for each direction.
pub struct Bounce {
    ours: Shared<AtomicU64>,
    peers: Shared<AtomicU64>,
    number: u64,
    /// What stands in `peers` as the answer: the number itself, or one more in the same word.
    step: u64,
    pause: bool,
    peer: Peer,
}

impl Bounce {
    fn start(core: usize, lines: Lines) -> Self {
        let memory = SharedMemory::create(2 * LINE);
        let (role, peers, step, pause) = match lines {
            Lines::One => ("one-line:plain", 0, 1, false),
            Lines::Two => ("two-lines:plain", LINE, 0, false),
            Lines::TwoWithPause => ("two-lines:pause", LINE, 0, true),
        };
        let peer = Peer::start(role, core, 8, &[memory.descriptor()]);
        let (ours, peers) = (memory.word(0), memory.word(peers));
        Self { ours, peers, number: 0, step, pause, peer }
    }
}

impl RoundTrip for Bounce {
    fn check(&mut self) {
        // Waiting for exactly the right number is the check, so each round trip holds it.
        self.round_trip();
    }

    #[inline]
    fn round_trip(&mut self) {
        self.number += 2;
        // Release and Acquire: what a ring needs to publish a message, and to take one.
        self.ours.store(self.number, Release);
        wait_for(&self.peers, self.number + self.step, self.pause);
    }

    fn peer(&self) -> u32 {
        self.peer.id()
    }
}

/// How many lines are bounced, and how the other side's is polled.
#[derive(Clone, Copy)]
pub enum Lines {
    One,
    Two,
    TwoWithPause,
}

/// The limits as subjects of a round trip benchmark.
pub fn subjects(core: usize, count: u64) -> Vec<Subject> {
    let subject = |variant: &str, lines| {
        Subject::new(variant, 8, count, move || Trips(Bounce::start(core, lines)))
    };
    vec![
        subject(ONE_LINE, Lines::One),
        subject(TWO_LINES, Lines::Two),
        subject(TWO_LINES_PAUSE, Lines::TwoWithPause),
    ]
}

/// Measures the mean round trip of one line in nanoseconds over about `count` round trips; `None`
/// where there is one core.
pub fn probe(machine: &Machine, count: u64) -> Option<f64> {
    let (_, core) = machine.pair?;
    let mut trips = Trips(Bounce::start(core, Lines::One));
    let part = count.div_ceil(PROBE_PARTS);
    trips.run(part);
    // The least of a few parts: a slice lost to another guest must not make a near pair look far.
    let parts = (0..PROBE_PARTS).map(|_| trips.run(part));
    parts.min().map(|time| time.as_nanos() as f64 / part as f64)
}

/// Plays the other side of [`Lines::One`].
pub fn serve_one_line(mut job: Job) {
    let memory = SharedMemory::open(job.descriptor());
    let word = memory.word(0);
    for number in (2..).step_by(2) {
        wait_for(&word, number, false);
        word.store(number + 1, Release);
    }
}

/// Plays the other side of [`Lines::Two`] and [`Lines::TwoWithPause`].
pub fn serve_two_lines(mut job: Job) {
    let pause = job.role.ends_with(":pause");
    let memory = SharedMemory::open(job.descriptor());
    let (peers, ours) = (memory.word(0), memory.word(LINE));
    for number in (2..).step_by(2) {
        wait_for(&peers, number, pause);
        ours.store(number, Release);
    }
}

#[inline]
fn wait_for(word: &AtomicU64, number: u64, pause: bool) {
    while word.load(Acquire) != number {
        if pause {
            spin_loop();
        }
    }
}

/// Variant names, which the reports name as baselines.
pub const ONE_LINE: &str = "one-line";
pub const TWO_LINES: &str = "two-lines";
pub const TWO_LINES_PAUSE: &str = "two-lines-pause";
const PROBE_PARTS: u64 = 5;
