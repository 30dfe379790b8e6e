//! Everything that a port does, again and again, between two processes: does anything drift?
//!
//! Runs for as many seconds as `MESSAGEPORT_SOAK_SECONDS` says, ten of them if it says nothing, in
//! ten slices of which each prints its latencies and what both processes hold. Memory and
//! descriptors are asserted; time is not, as other guests of the machine move it.

#![allow(unsafe_code, missing_docs)]

mod harness;

use std::fs::{self, File};
use std::time::{Duration, Instant};

use harness::Harness;
use harness::child;
use harness::message::pattern;
use harness::soak::{self, Kind};
use hdrhistogram::Histogram;
use messageport::{Buffer, MessageChannel, MessagePort, Worker};

fn main() {
    let Some(harness) = Harness::start("soak") else {
        return;
    };
    if !harness.has_two_cores("soak") {
        return;
    }
    let seconds = std::env::var("MESSAGEPORT_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds = seconds.unwrap_or(if harness.quick { 1.0 } else { 10.0 });
    let slice = Duration::from_secs_f64(seconds / f64::from(SLICES));

    let worker = Worker::spawn(child::command(soak::ROLE, harness.peer_core(), ECHO, &[]));
    let worker = worker.expect("starting this executable again");
    println!("{SLICES} slices of {slice:.1?}: echoes, bursts that grow, moves, fresh pairs");
    println!("  rounds   p50 ns   p99 ns  p99.9 ns   KiB ours, theirs   descriptors ours, theirs");
    let slices: Vec<Slice> = (0..SLICES).map(|_| run_slice(&worker, slice)).collect();
    judge(&worker, &slices);
}

/// What one slice has seen.
struct Slice {
    median: u64,
    kib: [u64; 2],
    descriptors: [usize; 2],
}

fn run_slice(worker: &Worker, length: Duration) -> Slice {
    let mut latencies = Histogram::<u64>::new(3).expect("three digits");
    let (end, mut rounds) = (Instant::now() + length, 0_u64);
    while Instant::now() < end {
        child::arm_deadline();
        play(worker.port(), &mut latencies, rounds);
        rounds += 1;
    }
    let processes = [std::process::id(), worker.id()];
    let slice = Slice {
        median: latencies.value_at_quantile(0.5),
        kib: processes.map(resident_kib),
        descriptors: processes.map(descriptors),
    };
    let Slice { median, kib, descriptors } = &slice;
    println!(
        "{rounds:8} {median:8} {:8} {:9}   {:8}, {:6}   {:16}, {:6}",
        latencies.value_at_quantile(0.99),
        latencies.value_at_quantile(0.999),
        kib[0],
        kib[1],
        descriptors[0],
        descriptors[1],
    );
    slice
}

/// One round of everything.
fn play(port: &MessagePort, latencies: &mut Histogram<u64>, round: u64) {
    let mut message = pattern(round, ECHO);
    message[0] = Kind::Echo as u8;
    for _ in 0..ECHOES {
        let start = Instant::now();
        port.post_bytes(&message).expect("a worker that lives");
        let answer = soak::wait(port).expect("an answer");
        latencies.saturating_record(start.elapsed().as_nanos() as u64);
        assert_eq!(answer.bytes(), message, "an echo came back changed");
    }
    burst(port);
    move_things(port, round);
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    port1.post_message(&round).expect("room");
    assert_eq!(port2.recv().expect("a message").data::<u64>().expect("a number"), &round);
}

/// More than the first segment holds, so that the lane grows and goes home.
fn burst(port: &MessagePort) {
    let mut message = vec![1; BURST_BYTES];
    message[0] = Kind::Burst as u8;
    for _ in 0..BURST {
        port.post_bytes(&message).expect("room, as the limit is far");
    }
    port.post_bytes(&[Kind::BurstEnd as u8]).expect("room");
    let answer = soak::wait(port).expect("an answer");
    assert_eq!(answer.bytes(), (BURST * BURST_BYTES as u64).to_ne_bytes(), "bytes that arrived");
}

/// A port with a message in it, a buffer and a descriptor, there and back.
fn move_things(port: &MessagePort, round: u64) {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    port1.post_message(&round).expect("room");
    let buffer = Buffer::from_slice(&pattern(round, 10_000)).expect("a buffer");
    let file = File::open("/dev/null").expect("the null device");
    let list = [port2.into(), buffer.into(), file.into()];
    port.post_bytes_with(&[Kind::Return as u8], list).expect("room beside the ring");
    let answer = soak::wait(port).expect("an answer");
    assert_eq!(answer.transferred(), (1, 1, 1), "what came back");
    let port2 = answer.take_port().expect("the port");
    assert_eq!(port2.recv().expect("a message").data::<u64>().expect("a number"), &round);
    assert_eq!(&answer.take_buffer().expect("the buffer")[..], pattern(round, 10_000));
}

fn judge(worker: &Worker, slices: &[Slice]) {
    // The first slice warms up: pages of pools and of the allocator.
    let (first, last) = (&slices[1], &slices[slices.len() - 1]);
    let ratio = last.median as f64 / first.median as f64;
    println!("the last slice's median latency is {ratio:.2} times the second one's");
    for (which, name) in ["ours", "theirs"].into_iter().enumerate() {
        let process = [std::process::id(), worker.id()][which];
        let fewest = slices.iter().map(|slice| slice.descriptors[which]).min();
        expect_at_most(process, fewest.expect("ten slices"), name);
        let grown = last.kib[which].saturating_sub(first.kib[which]);
        println!("{name}: {grown} KiB more than in the second slice, as many descriptors");
        assert!(grown <= MOST_KIB, "memory of {name} has grown by {grown} KiB");
    }
}

/// A slice may be counted while a thread of the crate still closes what the round dropped, so the
/// process is given time. Descriptors that have leaked are still there at the end of it.
fn expect_at_most(process: u32, fewest: usize, name: &str) {
    let end = Instant::now() + PATIENCE;
    while descriptors(process) > fewest {
        assert!(
            Instant::now() < end,
            "{name}: {} descriptors, and {fewest} in the slice with the fewest",
            descriptors(process),
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn resident_kib(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/statm")).expect("a process that lives");
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("a number of pages") * 4
}

fn descriptors(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).expect("a process that lives").count()
}

const SLICES: u32 = 10;
const ECHO: usize = 64;
const ECHOES: u32 = 1_000;
const BURST: u64 = 64;
const BURST_BYTES: usize = 16 << 10;
const PATIENCE: Duration = Duration::from_secs(10);
/// Growth that is the allocator's and not a leak.
const MOST_KIB: u64 = 1 << 10;
