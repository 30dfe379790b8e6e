//! Round trips to a process that serves its ports by a loop, by a set, or (with the feature
//! `tokio`) by tasks: while its other ports are idle, and while one of them is flooded. And what
//! idle ports and timers cost.

#![allow(unsafe_code, missing_docs)]

mod harness;

use std::time::{Duration, Instant};

use harness::Harness;
use harness::fronts::{self, BYTES, Front};
use harness::report::{Baseline, Report, time};
use harness::targets::{Target, verdict};
use messageport::EventLoop;

fn main() {
    let Some(mut harness) = Harness::start("fronts") else {
        return;
    };
    if harness.has_two_cores("fronts") {
        awake(&mut harness);
        flooded(&mut harness);
        beside_idle_ones(&mut harness);
        idling(&harness);
    }
    timers(&harness);
    harness.finish();
}

/// A round trip by `recv`, while neither side has to sleep.
fn awake(harness: &mut Harness) {
    let core = harness.peer_core();
    let count = harness.count(100_000, 200);
    let subjects: Vec<_> =
        Front::ALL.iter().map(|front| fronts::awake(core, *front, count)).collect();
    let report = Report {
        group: "fronts_awake",
        title: "a message and its answer by `recv`, both sides looking for a while",
        baselines: vec![Baseline::same(Front::ALL[0].awake())],
        targets: vec![],
        is_throughput: false,
        is_slow: false,
    };
    harness.run(&report, &subjects);
}

/// A flood on one port, and a round trip through another one.
fn flooded(harness: &mut Harness) {
    let cores = harness.machine.pair.expect("two cores");
    let count = harness.count(10_000, 20);
    let mut subjects = Vec::new();
    let mut targets = Vec::new();
    for front in Front::ALL {
        subjects.extend(fronts::round_trips(cores, *front, count));
        let [idle, flooded] = front.variants();
        targets.push(Target::tails("kept", flooded, idle, BYTES, 10.0));
    }
    let report = Report {
        group: "fronts_flooded",
        title: "a message and its answer, ours asleep, while another port is idle or flooded",
        baselines: vec![Baseline::same(Front::ALL[0].variants()[0])],
        targets,
        is_throughput: false,
        is_slow: false,
    };
    harness.run(&report, &subjects);
}

/// One of ten ports is woken, and one of a thousand.
fn beside_idle_ones(harness: &mut Harness) {
    let core = harness.peer_core();
    let count = harness.count(10_000, 20);
    let beside = |variant, idle, is_started| {
        fronts::round_trip_beside(core, variant, idle, is_started, count)
    };
    let ((few, _), (many, idle)) = (beside(ONE_OF_10, 9, true), beside(ONE_OF_1000, 999, true));
    let (unstarted, waiting) = beside(BESIDE_3000, 3_000, false);
    if waiting < 3_000 {
        println!("fronts: {waiting} unstarted ports and not 3000, as descriptors are limited");
    }
    if idle < 999 {
        println!("fronts: {idle} idle ports and not 999, as descriptors are limited");
    }
    let report = Report {
        group: "fronts_idle",
        title: "a message and its answer, ours asleep, beside idle ports of the same loop",
        baselines: vec![Baseline::same(ONE_OF_10)],
        targets: vec![
            Target::same("18", ONE_OF_1000, ONE_OF_10, BYTES, 1.1),
            // 3,000 pairs are 6,000 ports.
            Target::same("18", BESIDE_3000, ONE_OF_10, BYTES, 1.1),
        ],
        is_throughput: false,
        is_slow: false,
    };
    harness.run(&report, &[few, many, unstarted]);
}

/// What a loop takes of the processor while nothing comes.
fn idling(harness: &Harness) {
    let nap = if harness.quick { Duration::from_millis(50) } else { Duration::from_secs(1) };
    for idle in [10, 1_000] {
        let spent = fronts::cost_of_idling(harness.peer_core(), idle, nap);
        // A thousandth of one core is what a clock's tick may leave on the wrong account.
        let most = nap.as_nanos() as u64 / 1_000;
        let verdict = verdict(spent <= most);
        let (spent, most) = (time(spent as f64), time(most as f64));
        println!(
            "target kept: {idle} idle ports take {spent} of {nap:?}, at most {most}: {verdict}"
        );
    }
}

/// What a timer costs that is added and run, or removed, beside others that wait.
fn timers(harness: &Harness) {
    let rounds = harness.count(200_000, 200);
    for waiting in [0, 1_000, 100_000] {
        let mut event_loop = EventLoop::new().expect("a loop");
        for number in 0..waiting {
            event_loop.add_timer(Duration::from_secs(3600 + number), |_| {});
        }
        let begin = Instant::now();
        for _ in 0..rounds {
            let id = event_loop.add_timer(Duration::from_secs(7200), |_| {});
            assert!(event_loop.remove_timer(id));
        }
        let removed = begin.elapsed() / rounds as u32;
        let ran = std::rc::Rc::new(std::cell::Cell::new(0));
        let begin = Instant::now();
        for _ in 0..rounds {
            let ran = ran.clone();
            event_loop.add_timer(Duration::ZERO, move |_| ran.set(ran.get() + 1));
        }
        event_loop.run_until_idle().expect("a turn");
        let run = begin.elapsed() / rounds as u32;
        assert_eq!(ran.get(), rounds);
        let begin = Instant::now();
        for _ in 0..rounds {
            event_loop.add_timer(Duration::ZERO, |_| {});
            assert!(event_loop.poll_once(Duration::MAX).expect("a turn"));
        }
        let turn = begin.elapsed() / rounds as u32;
        println!(
            "timers, {waiting} of which wait: added and removed {removed:?}, added and run \
             {run:?}, in a turn of its own {turn:?}"
        );
    }
}

const ONE_OF_10: &str = "one-of-10";
const ONE_OF_1000: &str = "one-of-1000";
/// One port that is started, beside so many that are not.
const BESIDE_3000: &str = "loop-beside-3000-unstarted";
