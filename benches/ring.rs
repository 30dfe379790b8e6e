//! The ring alone: post and receive in one thread, beside a plain ring and a copy.
//!
//! Nothing moves between cores here, so this is the work of the two ends and nothing else.

#![allow(unsafe_code, missing_docs)]

mod harness;

use harness::port_streams::{self, CAPACITY};
use harness::report::{Baseline, Report};
use harness::{Harness, local, plain_ring, plain_subjects};
use messageport::{ChannelBuilder, MessageChannel};

fn main() {
    let Some(mut harness) = Harness::start("ring") else {
        return;
    };
    plain_ring::assert_keeps_records();
    let mut subjects = Vec::new();
    for bytes in [8, 64, 1 << 10, 64 << 10] {
        let count = harness.count((64 << 20) / bytes.max(64) as u64, 100);
        subjects.push(port_streams::alone("default", bytes, count, false, bounded));
        subjects.push(port_streams::alone("trusted", bytes, count, true, bounded));
        subjects.push(plain_subjects::alone(bytes, CAPACITY, count));
        subjects.push(local::memcpy(bytes, count));
    }
    let report = Report {
        group: "ring",
        title: "post and receive in one thread, a message",
        baselines: vec![Baseline::same(local::MEMCPY), Baseline::same(plain_subjects::PLAIN_RING)],
        targets: Vec::new(),
        is_throughput: true,
        is_slow: false,
    };
    harness.run(&report, &subjects);
    harness.finish();
}

/// The largest message here does not fit the default's first segment: this one holds all of them.
fn bounded() -> ChannelBuilder {
    MessageChannel::builder().capacity(CAPACITY).bounded()
}
