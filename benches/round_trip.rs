//! Round trips between two pinned processes, both spinning and both asleep.
//!
//! The limits of the same run: one cache line bounced between the two cores, two lines, a record and
//! its tail with nothing around them, a plain ring; and with both sides asleep a futex, a doorbell of a stream socket, an eventfd, a pipe and
//! a `SOCK_SEQPACKET` pair.

#![allow(unsafe_code, missing_docs)]

mod harness;

use harness::ports::{self, Mode};
use harness::report::{Baseline, Report};
use harness::targets::Target;
use harness::{Harness, kernel, lines, plain_ring, plain_subjects};

fn main() {
    let Some(mut harness) = Harness::start("round_trip") else {
        return;
    };
    plain_ring::assert_keeps_records();
    if harness.has_two_cores("round_trip") {
        spinning(&mut harness);
        asleep(&mut harness);
    }
    harness.finish();
}

fn spinning(harness: &mut Harness) {
    let core = harness.peer_core();
    let count = harness.count(100_000, 50);
    let mut subjects = lines::subjects(core, count);
    subjects.push(lines::records(core, count));
    subjects.extend(BYTES.map(|bytes| plain_subjects::round_trip(core, bytes, count)));
    for mode in modes(false) {
        subjects.extend(ports::round_trips(core, mode, &BYTES, count));
    }
    let report = Report {
        group: "round_trip_spinning",
        title: "a message and its answer, both sides spinning",
        baselines: vec![
            Baseline::fixed(lines::ONE_LINE, 8),
            Baseline::fixed(lines::TWO_LINES, 8),
            Baseline::fixed(lines::RECORDS, 64),
            Baseline::same(plain_subjects::PLAIN_RING),
        ],
        targets: spinning_targets(),
        is_throughput: false,
        is_slow: false,
    };
    harness.run(&report, &subjects);
}

fn asleep(harness: &mut Harness) {
    let core = harness.peer_core();
    let count = harness.count(5_000, 20);
    let mut subjects = lines::subjects(core, harness.count(100_000, 50));
    subjects.truncate(1);
    subjects.extend(BYTES.map(|bytes| plain_subjects::round_trip(core, bytes, 10 * count)));
    subjects.extend(kernel::round_trips(core, &BYTES, count));
    for mode in modes(true) {
        subjects.extend(ports::round_trips(core, mode, &BYTES, count));
    }
    let report = Report {
        group: "round_trip_asleep",
        title: "a message and its answer, both sides asleep (the line and the plain ring spin)",
        baselines: vec![
            Baseline::fixed(kernel::FUTEX, 4),
            Baseline::fixed(kernel::STREAM, 1),
            Baseline::same(kernel::PIPE),
            Baseline::same(kernel::SEQPACKET),
            Baseline::fixed(lines::ONE_LINE, 8),
            Baseline::same(plain_subjects::PLAIN_RING),
        ],
        targets: vec![Target::limit("7", ("default-bytes", 64), (kernel::FUTEX, 4), 1.0)],
        is_throughput: false,
        is_slow: false,
    };
    harness.run(&report, &subjects);
}

/// Bars 1 and 2 compare with other libraries, which only benches/peers holds; here is the stretch of
/// bar 1, which compares with the limit.
fn spinning_targets() -> Vec<Target> {
    let limit = (lines::TWO_LINES, 8);
    let stretch = |variant| Target::limit("1 (stretch)", (variant, 64), limit, 1.4);
    let mut targets = vec![stretch("default-bytes"), stretch("default-typed")];
    for bytes in BYTES {
        for [variant, base] in
            [["default-bytes", "trusted-bytes"], ["default-typed", "trusted-typed"]]
        {
            targets.push(Target::same("14", variant, base, bytes, 1.3).or(1.1));
        }
    }
    targets
}

/// Default and trusted, bytes and typed.
fn modes(is_asleep: bool) -> impl Iterator<Item = Mode> {
    let pairs = [(false, false), (false, true), (true, false), (true, true)];
    pairs.into_iter().map(move |(is_trusted, is_typed)| Mode {
        is_trusted,
        is_asleep,
        is_typed,
        is_returned: false,
    })
}

const BYTES: [usize; 3] = [8, 64, 1 << 10];
