//! What can be timed: a [`Workload`], and the [`Subject`] that starts one.

use std::time::{Duration, Instant};

use super::clock::Clock;

/// Something that is timed, with whatever child process it needs.
pub trait Workload {
    /// Asserts that the bytes which arrive are the bytes which were sent.
    fn check(&mut self);

    /// Performs `count` operations and returns the time they took together.
    fn run(&mut self, count: u64) -> Duration;

    /// Performs `count` operations and returns the ticks each one took, where that makes sense.
    fn sample(&mut self, _count: u64, _clock: &Clock) -> Option<Vec<u64>> {
        None
    }

    /// How often the receiver of a one-way transfer has found nothing behind a message so far.
    fn pauses(&self) -> Option<u64> {
        None
    }

    /// Process id of the other side, if it is another process.
    fn peer(&self) -> Option<u32> {
        None
    }
}

/// Performs `count` operations; nanoseconds an operation, and how many messages the receiver took
/// in a row, from one look that found nothing to the next.
pub fn run_and_count(workload: &mut dyn Workload, count: u64) -> (f64, Option<f64>) {
    let before = workload.pauses();
    let ns = workload.run(count).as_nanos() as f64 / count as f64;
    let pauses = workload.pauses().zip(before).map(|(after, before)| after - before);
    (ns, pauses.map(|pauses| count as f64 / pauses.max(1) as f64))
}

/// A named workload, not yet started.
pub struct Subject {
    pub variant: String,
    /// Payload of one message, the last part of the benchmark's id.
    pub bytes: usize,
    /// Operations in one repetition of the closing table.
    pub count: u64,
    pub start: Box<dyn Fn() -> Box<dyn Workload>>,
}

impl Subject {
    pub fn new<W: Workload + 'static>(
        variant: impl Into<String>,
        bytes: usize,
        count: u64,
        start: impl Fn() -> W + 'static,
    ) -> Self {
        let start = Box::new(move || Box::new(start()) as Box<dyn Workload>);
        Self { variant: variant.into(), bytes, count, start }
    }

    /// A subject whose workload is of one of several types.
    pub fn boxed(
        variant: impl Into<String>,
        bytes: usize,
        start: impl Fn() -> Box<dyn Workload> + 'static,
    ) -> Self {
        Self { variant: variant.into(), bytes, count: 0, start: Box::new(start) }
    }

    /// Names the subject as Criterion does.
    pub fn id(&self, group: &str) -> String {
        format!("{group}/{}/{}", self.variant, self.bytes)
    }
}

/// A message to another process and its answer.
pub trait RoundTrip {
    /// Exchanges a few messages that differ and asserts that each answer is right.
    fn check(&mut self);

    /// Sends one message and returns when its answer was read.
    fn round_trip(&mut self);

    /// Process id of the other side.
    fn peer(&self) -> u32;
}

/// Times a [`RoundTrip`]; a wrapper, so that the timed loops are compiled for the concrete type.
pub struct Trips<T>(pub T);

impl<T: RoundTrip> Workload for Trips<T> {
    fn check(&mut self) {
        self.0.check();
    }

    fn run(&mut self, count: u64) -> Duration {
        let start = Instant::now();
        for _ in 0..count {
            self.0.round_trip();
        }
        start.elapsed()
    }

    fn sample(&mut self, count: u64, clock: &Clock) -> Option<Vec<u64>> {
        // Filled with ones, not zeroes, so that every page is there before the first sample.
        let mut ticks = vec![1_u64; usize::try_from(count).expect("a count of samples in memory")];
        for tick in &mut ticks {
            let start = clock.now();
            self.0.round_trip();
            *tick = clock.now().wrapping_sub(start);
        }
        Some(ticks)
    }

    fn peer(&self) -> Option<u32> {
        Some(self.0.peer())
    }
}
