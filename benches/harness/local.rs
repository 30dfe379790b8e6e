//! What one process does alone, and the least that copying costs.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::message::pattern;
use super::workload::{Subject, Workload};

/// An operation of this process, with a check of its own.
pub struct Local<C, F> {
    check: C,
    operation: F,
}

impl<C: FnMut(), F: FnMut()> Local<C, F> {
    pub fn new(check: C, operation: F) -> Self {
        Self { check, operation }
    }
}

impl<C: FnMut(), F: FnMut()> Workload for Local<C, F> {
    fn check(&mut self) {
        (self.check)();
    }

    fn run(&mut self, count: u64) -> Duration {
        let start = Instant::now();
        for _ in 0..count {
            (self.operation)();
        }
        start.elapsed()
    }
}

/// Something that prepares and clears up around what is timed.
pub struct Timed<F>(pub F);

impl<F: FnMut() -> Duration> Workload for Timed<F> {
    fn check(&mut self) {
        // The operation asserts what it does each time; its time is not wanted here.
        let _ = (self.0)();
    }

    fn run(&mut self, count: u64) -> Duration {
        (0..count).map(|_| (self.0)()).sum()
    }
}

/// A copy between two buffers that stay in the cache.
pub fn memcpy(bytes: usize, count: u64) -> Subject {
    Subject::new(MEMCPY, bytes, count, move || {
        let (from, mut to) = (pattern(1, bytes), vec![0; bytes]);
        let expected = from.clone();
        let mut copied = vec![0; bytes];
        copied.copy_from_slice(&from);
        Local::new(
            move || assert_eq!(copied, expected),
            move || {
                to.copy_from_slice(black_box(&from));
                black_box(&mut to);
            },
        )
    })
}

/// Variant name, which the reports name as a baseline.
pub const MEMCPY: &str = "memcpy";
