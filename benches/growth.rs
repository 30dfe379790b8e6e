//! Growth: bursts of 16 MiB into a channel that is not drained meanwhile, and what a pair costs.
//!
//! Both ends are in one process: the first burst pays for fresh pages, the second finds them. Each
//! operation makes a channel of its own, and only the burst or the drain that a variant names is
//! timed.

#![allow(unsafe_code, missing_docs)]

mod harness;

use std::time::{Duration, Instant};

use harness::Harness;
use harness::local::{self, Timed};
use harness::message::{CHECKED, Outgoing};
use harness::pages::{self, Pages};
use harness::report::{Baseline, Report};
use harness::targets::{Target, verdict};
use harness::workload::Subject;
use messageport::{ChannelBuilder, MessageChannel};

fn main() {
    let Some(mut harness) = Harness::start("growth") else {
        return;
    };
    bursts(&mut harness);
    creation(&mut harness);
    harness.finish();
}

/// What a variant times.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    FirstBurst,
    FirstDrain,
    SecondBurst,
    SecondDrain,
    ThirdBurst,
    ThirdDrain,
}

fn bursts(harness: &mut Harness) {
    let total = harness.size(16 << 20, 1 << 20);
    let large = 4 * total;
    let count = harness.count(5, 1);
    let mut subjects = vec![local::memcpy(total, count)];
    for bytes in [1 << 10, LARGEST] {
        let [fresh, second, third] = fresh_bytes(bytes, total);
        println!(
            "{total} bytes in messages of {bytes} make {fresh} bytes of pages, \
             as a second burst {second}, as a third {third}"
        );
        let zeroing = |variant, pages| pages::zeroing(variant, bytes, fresh, count, pages);
        subjects.push(zeroing(FRESH_PAGES, Pages::Touched));
        subjects.push(zeroing("fresh-pages-populated", Pages::Populated));
        subjects.push(zeroing("existing-pages", Pages::Existing));
        let timed = |variant: &str, make: fn(usize) -> Lane, step| {
            Subject::new(variant, bytes, count, move || {
                Timed(move || make(large).play(step, bytes, total))
            })
        };
        subjects.push(timed("first-burst", Lane::default_channel, Step::FirstBurst));
        subjects.push(timed("first-drain", Lane::default_channel, Step::FirstDrain));
        subjects.push(timed("second-burst", Lane::default_channel, Step::SecondBurst));
        subjects.push(timed("second-drain", Lane::default_channel, Step::SecondDrain));
        subjects.push(timed("third-burst", Lane::default_channel, Step::ThirdBurst));
        subjects.push(timed("trusted-second-burst", Lane::trusted_channel, Step::SecondBurst));
        subjects.push(timed("trusted-third-burst", Lane::trusted_channel, Step::ThirdBurst));
        subjects.push(timed("large-fresh-burst", Lane::large, Step::FirstBurst));
        subjects.push(timed(LARGE_WALKED, Lane::large_and_walked, Step::FirstBurst));
        subjects.push(timed("large-walked-drain", Lane::large_and_walked, Step::FirstDrain));
    }
    let report = Report {
        group: "growth",
        title: "a whole burst while no process receives, or the drain after it",
        baselines: vec![
            Baseline::same(FRESH_PAGES),
            Baseline::same(LARGE_WALKED),
            Baseline::fixed(local::MEMCPY, total),
        ],
        targets: [1 << 10, LARGEST]
            .into_iter()
            .flat_map(|bytes| {
                [
                    Target::same("kept", "first-burst", FRESH_PAGES, bytes, 1.3),
                    Target::same("12", "second-burst", LARGE_WALKED, bytes, 1.1),
                    Target::same("12", "third-burst", LARGE_WALKED, bytes, 1.1),
                    Target::same("12", "trusted-second-burst", LARGE_WALKED, bytes, 1.1),
                    Target::same("12", "trusted-third-burst", LARGE_WALKED, bytes, 1.1),
                ]
            })
            .collect(),
        is_throughput: false,
        is_slow: true,
    };
    harness.run(&report, &subjects);
}

fn creation(harness: &mut Harness) {
    let (descriptors, memory) = (pages::descriptor_count(), pages::channel_memory());
    let channel = MessageChannel::new().expect("a channel");
    let descriptors = pages::descriptor_count() - descriptors;
    let memory = pages::channel_memory() - memory;
    println!("\nan idle pair: {memory} bytes of memory, {descriptors} descriptors for both ends");
    drop(channel);
    let pairs = pages::room_for_pairs().min(2_000);
    let make = || MessageChannel::new().expect("a channel");
    let [heap, shared, tables, kernel] = pages::idle_pairs(pairs, make);
    println!(
        "in all, each of {pairs} idle pairs: {heap} bytes of heap, {shared} shared, {tables} of \
         page tables, {kernel} in the kernel"
    );
    let all = heap + shared + tables + kernel;
    let verdicts = [verdict(all <= MOST_OF_PAIR), verdict(descriptors <= MOST_DESCRIPTORS)];
    let [of_memory, of_descriptors] = verdicts;
    println!("target 17: an idle pair takes {all} bytes, at most {MOST_OF_PAIR}: {of_memory}");
    println!(
        "target 17: both ends in one process take {descriptors} descriptors, at most \
         {MOST_DESCRIPTORS}: {of_descriptors}"
    );
    let count = harness.count(2_000, 20);
    let subjects = [
        Subject::new(BARE_CALLS, 0, count, || Timed(|| pages::bare_pair().0)),
        Subject::new(BARE_DROP, 0, count, || {
            Timed(|| {
                let (_, pair) = pages::bare_pair();
                timed_drop(pair)
            })
        }),
        Subject::new("pair", 0, count, || {
            Timed(|| {
                let start = Instant::now();
                let channel = MessageChannel::new().expect("a channel");
                let elapsed = start.elapsed();
                drop(channel);
                elapsed
            })
        }),
        Subject::new("pair-drop", 0, count, || {
            Timed(|| timed_drop(MessageChannel::new().expect("a channel")))
        }),
    ];
    let report = Report {
        group: "creation",
        title: "a default pair, made and dropped; the bare calls make the same kernel objects",
        baselines: vec![Baseline::same(BARE_CALLS), Baseline::same(BARE_DROP)],
        targets: vec![
            Target::same("11", "pair", BARE_CALLS, 0, 1.15),
            Target::same("11", "pair-drop", BARE_DROP, 0, 1.3),
        ],
        is_throughput: false,
        is_slow: false,
    };
    harness.run(&report, &subjects);
}

fn timed_drop(value: impl Sized) -> Duration {
    let start = Instant::now();
    drop(value);
    start.elapsed()
}

/// One direction of a channel, with its two ends in this process.
struct Lane {
    channel: MessageChannel,
    posted: u64,
    taken: u64,
}

impl Lane {
    fn new(builder: ChannelBuilder) -> Self {
        Self { channel: builder.build().expect("a channel"), posted: 0, taken: 0 }
    }

    fn default_channel(_large: usize) -> Self {
        Self::new(MessageChannel::builder())
    }

    /// A channel whose ends trust each other: one that gives idle pages back unasked.
    fn trusted_channel(large: usize) -> Self {
        let lane = Self::default_channel(large);
        // SAFETY: both ends are this lane's, and no other process has one.
        unsafe { lane.channel.port1.trust_peer() };
        // SAFETY: the same.
        unsafe { lane.channel.port2.trust_peer() };
        lane
    }

    /// A ring that needs no growth.
    fn large(large: usize) -> Self {
        Self::new(MessageChannel::builder().capacity(large).bounded())
    }

    /// The same once all its pages exist, on both sides.
    fn large_and_walked(large: usize) -> Self {
        let mut lane = Self::large(large);
        let bytes = LARGEST;
        // With its headers this is a little more than once around.
        for _ in 0..4 {
            lane.burst(bytes, large / 4);
            lane.drain(bytes);
        }
        lane
    }

    /// Goes through the steps up to the one that is wanted, and returns what that one took.
    fn play(mut self, step: Step, bytes: usize, total: usize) -> Duration {
        for (burst, drain) in [
            (Step::FirstBurst, Step::FirstDrain),
            (Step::SecondBurst, Step::SecondDrain),
            (Step::ThirdBurst, Step::ThirdDrain),
        ] {
            let (posting, receiving) = (self.burst(bytes, total), self.drain(bytes));
            if step == burst {
                return posting;
            }
            if step == drain {
                return receiving;
            }
        }
        unreachable!("each step is one of the six")
    }

    fn burst(&mut self, bytes: usize, total: usize) -> Duration {
        let mut message = Outgoing::numbered(bytes, self.posted);
        let start = Instant::now();
        for _ in 0..total / bytes {
            self.channel.port1.post_bytes(message.next()).expect("the limit is far away");
        }
        let elapsed = start.elapsed();
        self.posted = message.sequence();
        elapsed
    }

    fn drain(&mut self, bytes: usize) -> Duration {
        let mut expected = Outgoing::numbered(bytes, self.taken);
        let start = Instant::now();
        while let Some(event) = self.channel.port2.try_recv().expect("our own other end lives") {
            let message = expected.next();
            if expected_in_full(self.taken) {
                assert_eq!(event.bytes(), message);
            }
            expected.confirm(event.bytes());
            self.taken += 1;
        }
        let elapsed = start.elapsed();
        assert_eq!(self.taken, self.posted, "messages that arrived");
        elapsed
    }
}

/// Comparing every byte of every message would be most of a drain's time.
fn expected_in_full(taken: u64) -> bool {
    taken < CHECKED / 10
}

/// Measures the pages that a first burst makes, so that just as many can be zeroed beside it, and
/// those that later ones make.
fn fresh_bytes(bytes: usize, total: usize) -> [usize; 3] {
    let mut lane = Lane::new(MessageChannel::builder());
    [(); 3].map(|()| {
        let before = pages::channel_memory();
        lane.burst(bytes, total);
        let fresh = pages::channel_memory() - before;
        lane.drain(bytes);
        usize::try_from(fresh).expect("64-bit Linux")
    })
}

/// Longest message of the bursts.
const LARGEST: usize = 64 << 10;
const FRESH_PAGES: &str = "fresh-pages";
const LARGE_WALKED: &str = "large-walked-burst";
const BARE_CALLS: &str = "bare-calls";
const BARE_DROP: &str = "bare-drop";
/// Bytes of an idle pair, in all.
const MOST_OF_PAIR: u64 = 16 << 10;
/// Three an end.
const MOST_DESCRIPTORS: usize = 6;
