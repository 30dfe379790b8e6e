//! One way between two pinned processes: how many messages a second arrive and are read.
//!
//! The channel is bounded to 1 MiB, as is the plain ring. Every receiver reads one word of each
//! cache line, and checks the sequence number of each message.

#![allow(unsafe_code, missing_docs)]

mod harness;

use harness::port_streams::{self, BURST, Posting};
use harness::report::{Baseline, Report};
use harness::targets::Target;
use harness::{Harness, kernel, local, plain_ring, plain_subjects, senders};

fn main() {
    let Some(mut harness) = Harness::start("throughput") else {
        return;
    };
    plain_ring::assert_keeps_records();
    if harness.has_two_cores("throughput") {
        measure(&mut harness);
        measure_sizes(&mut harness);
        measure_senders(&mut harness);
    }
    harness.finish();
}

/// How the cost follows the size, beside what moving the same bytes through the same count of lines
/// takes with nothing around it.
fn measure_sizes(harness: &mut Harness) {
    let core = harness.peer_core();
    let mut subjects = Vec::new();
    for bytes in SIZES {
        let count = harness.count((512 << 20) / bytes as u64, 20);
        for (is_trusted, posting) in [(false, Posting::Single), (true, Posting::Single)] {
            subjects.push(port_streams::one_way(core, bytes, count, is_trusted, posting));
        }
        let plain = plain_subjects::PLAIN_RING;
        subjects.push(plain_subjects::one_way(plain, core, bytes, count, 1));
        subjects.push(local::memcpy(bytes, count));
    }
    let report = Report {
        group: "throughput_by_size",
        title: "one message one way, posted singly, in a channel that has room for four or more",
        baselines: vec![Baseline::same(local::MEMCPY), Baseline::same(plain_subjects::PLAIN_RING)],
        targets: Vec::new(),
        is_throughput: true,
        is_slow: false,
    };
    harness.run(&report, &subjects);
}

/// What it costs that several threads post through one port.
fn measure_senders(harness: &mut Harness) {
    let cores = harness.machine.pair.expect("two cores");
    let count = harness.count(1 << 20, 1_000);
    for (threads, group, title) in [
        (1, "throughput_1_thread", "a number from one thread to another one of this process"),
        (2, "throughput_2_threads", "a number from one of two threads to a third one"),
        (4, "throughput_4_threads", "a number from one of four threads to a fifth one"),
    ] {
        let report = Report {
            group,
            title,
            baselines: vec![Baseline::same(senders::MUTEX), Baseline::same(senders::MPSC)],
            targets: Vec::new(),
            is_throughput: true,
            is_slow: false,
        };
        harness.run(&report, &senders::subjects(cores, threads, count));
    }
}

const SIZES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

fn measure(harness: &mut Harness) {
    let core = harness.peer_core();
    let mut subjects = Vec::new();
    for bytes in [8, 64, 1 << 10, 64 << 10] {
        let count = harness.count((256 << 20) / bytes.max(64) as u64, 100);
        for (is_trusted, posting) in VARIANTS {
            subjects.push(port_streams::one_way(core, bytes, count, is_trusted, posting));
        }
        let plain = |variant, burst| plain_subjects::one_way(variant, core, bytes, count, burst);
        subjects.push(plain(plain_subjects::PLAIN_RING, 1));
        subjects.push(plain(plain_subjects::PLAIN_RING_BURST, BURST));
        // A system call a message: a twentieth of them takes as long.
        subjects.extend(kernel::one_way(core, bytes, count.div_ceil(20)));
        subjects.push(local::memcpy(bytes, count));
    }
    let report = Report {
        group: "throughput",
        title: "one message one way, posted, received and read",
        baselines: vec![
            Baseline::same(local::MEMCPY),
            Baseline::same(plain_subjects::PLAIN_RING),
            Baseline::same(plain_subjects::PLAIN_RING_BURST),
            Baseline::same(kernel::PIPE),
            Baseline::same(kernel::SEQPACKET),
        ],
        targets: targets(),
        is_throughput: true,
        is_slow: false,
    };
    harness.run(&report, &subjects);
}

/// Bars 3 to 6 compare with other libraries, which only benches/peers holds.
fn targets() -> Vec<Target> {
    let mut targets = Vec::new();
    for bytes in [8, 64, 1 << 10] {
        for [variant, base] in
            [["default-single", "trusted-single"], ["default-burst", "trusted-burst"]]
        {
            targets.push(Target::same("14", variant, base, bytes, 1.3).or(1.1));
        }
    }
    targets
}

/// A loan on a port that is not trusted is private scratch and copied: nothing to gain there.
const VARIANTS: [(bool, Posting); 5] = [
    (false, Posting::Single),
    (false, Posting::Burst),
    (true, Posting::Single),
    (true, Posting::Burst),
    (true, Posting::Loan),
];
