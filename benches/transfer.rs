//! What moving costs: a port, and large payloads in every way that there is.
//!
//! The limits of the same run: the bare system calls on the same descriptors, a fresh memfd passed
//! by hand, `memcpy`, and a Unix stream socket.

#![allow(unsafe_code, missing_docs)]

mod harness;

use harness::Harness;
use harness::handoff::{self, Way};
use harness::hops;
use harness::local;
use harness::moves::{bare_calls, move_port};
use harness::ports::{self, Mode};
use harness::report::{Baseline, Report};
use harness::targets::Target;
use harness::workload::Subject;

fn main() {
    let Some(mut harness) = Harness::start("transfer") else {
        return;
    };
    ports_move(&mut harness);
    if harness.has_two_cores("transfer") {
        moved_ports_talk(&mut harness);
        payloads_move(&mut harness);
        small_buffers_move(&mut harness);
    }
    harness.finish();
}

/// A port from one end of a carrier to the other, and what the kernel alone takes for it.
fn ports_move(harness: &mut Harness) {
    let count = harness.count(5_000, 20);
    let subjects = vec![
        Subject::new(BARE_CALLS, 0, count, || bare_calls(false)),
        Subject::new(TOUCHED, 0, count, || bare_calls(true)),
        Subject::new("port", 0, count, || move_port(0)),
        Subject::new("port-with-queue", 0, count, || move_port(1_000)),
    ];
    let report = Report {
        group: "transfer_port",
        title: "a port posted, received and taken, in one thread; also with 1,000 messages in it",
        baselines: vec![Baseline::same(BARE_CALLS), Baseline::same(TOUCHED)],
        targets: vec![
            Target::same("10", "port", TOUCHED, 0, 1.5).or(1.2),
            Target::same("kept", "port-with-queue", "port", 0, 1.1),
        ],
        is_throughput: false,
        is_slow: false,
    };
    harness.run(&report, &subjects);
}

/// Round trips through ports that have moved, and through ports that have not.
fn moved_ports_talk(harness: &mut Harness) {
    let (core, count) = (harness.peer_core(), harness.count(50_000, 50));
    let mode = Mode { is_trusted: true, is_asleep: false, is_typed: false, is_returned: false };
    let mut subjects = Vec::new();
    for bytes in [64, 1024] {
        subjects.extend(ports::round_trips(core, mode, &[bytes], count));
        for hops in hops::HOPS {
            subjects.push(hops::round_trip(core, hops, bytes, count));
        }
    }
    for neighbours in hops::NEIGHBOURS {
        subjects.push(hops::among_others(core, neighbours, 64, count));
    }
    let target = |variant| Target::same("18", variant, "trusted-bytes", 64, 1.1);
    let mut targets: Vec<Target> = hops::HOPS.map(|(after, _)| target(after)).into();
    targets.extend(hops::NEIGHBOURS.map(|(among, _)| target(among)));
    let report = Report {
        group: "transfer_hops",
        title: "bytes there and back, spinning, trusted: before and after both ends have moved, and in a \
                process with many other ports",
        baselines: vec![Baseline::same("trusted-bytes")],
        targets,
        is_throughput: false,
        is_slow: false,
    };
    harness.run(&report, &subjects);
}

fn payloads_move(harness: &mut Harness) {
    let core = harness.peer_core();
    let mode = Mode { is_trusted: true, is_asleep: false, is_typed: false, is_returned: false };
    let mut subjects = ports::round_trips(core, mode, &[64], harness.count(50_000, 50));
    for bytes in SIZES {
        let count = harness.count(((256 << 20) / bytes as u64).clamp(2, 500), 2);
        for is_read in [false, true] {
            for way in [Way::Pooled, Way::Sealed, Way::Fresh] {
                subjects.push(handoff::handoff(core, way, bytes, is_read, count));
            }
            subjects.push(handoff::bare(core, bytes, is_read, count));
        }
        subjects.push(handoff::handoff(core, Way::Copied, bytes, true, count));
        subjects.push(handoff::stream(core, bytes, count));
        subjects.push(local::memcpy(bytes, count));
    }
    let report = Report {
        group: "transfer_payload",
        title: "a payload handed over and answered, read in full or not at all, between processes \
                that trust each other and spin",
        baselines: vec![
            Baseline::fixed("trusted-bytes", 64),
            Baseline::same("bare-read"),
            Baseline::same("copied-read"),
            Baseline::same(local::MEMCPY),
        ],
        targets: Vec::new(),
        is_throughput: false,
        is_slow: true,
    };
    harness.run(&report, &subjects);
}

/// Buffers that are in the record of their message, and the shortest one that is not.
fn small_buffers_move(harness: &mut Harness) {
    let core = harness.peer_core();
    let mut subjects = Vec::new();
    for bytes in SMALL_SIZES {
        let count = harness.count(20_000, 20);
        for way in [Way::Fresh, Way::Sealed] {
            subjects.push(handoff::handoff(core, way, bytes, true, count));
        }
        subjects.push(handoff::handoff(core, Way::Copied, bytes, true, count));
    }
    let report = Report {
        group: "transfer_small",
        title: "a small buffer handed over, read in full and answered, between processes that trust \
                each other and spin; one of 4,097 bytes has a file",
        baselines: vec![Baseline::same("copied-read")],
        targets: Vec::new(),
        is_throughput: false,
        is_slow: false,
    };
    harness.run(&report, &subjects);
}

const SIZES: [usize; 4] = [64 << 10, 1 << 20, 16 << 20, 256 << 20];
const SMALL_SIZES: [usize; 4] = [64, 1024, 4096, 4097];
const BARE_CALLS: &str = "bare-calls";
const TOUCHED: &str = "bare-calls-touched";
