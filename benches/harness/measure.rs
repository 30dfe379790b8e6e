//! Repeated measurement of subjects in turns, with a look at the core pair around each.

use hdrhistogram::Histogram;

use super::child;
use super::clock::Clock;
use super::lines;
use super::machine::{Distance, Machine, Probe, Switches};
use super::report::usual_distance;
use super::workload::{Subject, run_and_count};

/// One repetition of one subject. Times are nanoseconds an operation.
pub struct Run {
    /// What ratios compare: the median where single operations were timed, else the mean.
    pub figure: f64,
    /// 99th and 99.9th percentile, where single operations were timed.
    pub tail: Option<(f64, f64)>,
    /// Mean of a run without any clock inside.
    pub mean: f64,
    /// Messages that the receiver of a one-way transfer took in a row.
    pub in_a_row: Option<f64>,
    /// What was probed just before.
    pub probe: Option<Probe>,
    pub distance: Distance,
    /// Both sides' switches during the measurement.
    pub switches: Switches,
    /// Operations that the switches belong to.
    pub count: u64,
}

/// All repetitions of one subject.
pub struct Series {
    pub variant: String,
    pub bytes: usize,
    pub runs: Vec<Run>,
}

/// How much is done for one figure.
#[derive(Clone, Copy)]
pub struct Effort {
    pub repetitions: u32,
    /// Tries at one repetition, until one of them is not disturbed.
    pub attempts: u32,
    /// The same, until one of them is on the usual kind of pair.
    pub attempts_at_pair: u32,
    /// Round trips that classify the core pair.
    pub probe_trips: u64,
}

impl Effort {
    /// Medians of five, as `docs/performance.md` quotes them.
    pub const FULL: Self =
        Self { repetitions: 5, attempts: 3, attempts_at_pair: 12, probe_trips: 5_000 };
    /// Enough to see that everything works, also on cores that are busy with something else.
    pub const QUICK: Self =
        Self { repetitions: 1, attempts: 1, attempts_at_pair: 1, probe_trips: 500 };
}

/// Measures every subject a few times, in turns.
pub fn measure(machine: &Machine, subjects: &[&Subject], effort: Effort) -> Vec<Series> {
    let clock = Clock::new();
    println!("\nclock: {:.0} ns a reading, contained in each p50", clock.cost_ns());
    let new_series = |subject: &&Subject| Series {
        variant: subject.variant.clone(),
        bytes: subject.bytes,
        runs: Vec::new(),
    };
    let mut all: Vec<Series> = subjects.iter().map(new_series).collect();
    for _ in 0..effort.repetitions {
        for (index, subject) in subjects.iter().enumerate() {
            let usual = usual_distance(&all);
            let measure = || Some((once(machine, subject, &clock, effort), ()));
            let run = calmest(&effort, usual, measure).map(|(run, ())| run);
            all[index].runs.extend(run);
        }
    }
    all
}

/// Measures once, and again a few times if a core was taken away meanwhile, or the pair was not of
/// the `usual` kind. The least disturbed run counts, and the table says how disturbed it was.
/// A run may come with something that belongs to it. `None` from `measure` ends the tries.
pub fn calmest<T>(
    effort: &Effort,
    usual: Distance,
    mut measure: impl FnMut() -> Option<(Run, T)>,
) -> Option<(Run, T)> {
    let disturbance = |run: &Run| (run.distance != usual, run.switches.involuntary);
    let mut best: Option<(Run, T)> = None;
    for attempt in 1..=effort.attempts_at_pair {
        let Some((run, beside)) = measure() else { break };
        let found = disturbance(&run);
        if best.as_ref().is_none_or(|(best, _)| found < disturbance(best)) {
            best = Some((run, beside));
        }
        let is_usual = best.as_ref().is_some_and(|(best, _)| best.distance == usual);
        if found == (false, 0) || (is_usual && attempt >= effort.attempts) {
            break;
        }
    }
    best
}

fn once(machine: &Machine, subject: &Subject, clock: &Clock, effort: Effort) -> Run {
    child::arm_deadline();
    let before = lines::probe(machine, effort.probe_trips);
    let mut workload = (subject.start)();
    workload.check();
    workload.run(subject.count.div_ceil(10));
    let switches = Switches::of_both(workload.peer());
    let (mean, in_a_row) = run_and_count(workload.as_mut(), subject.count);
    let ticks = workload.sample(subject.count, clock);
    let switches = Switches::of_both(workload.peer()).since(switches);
    let operations = if ticks.is_some() { 2 * subject.count } else { subject.count };
    drop(workload);
    let distance = Distance::of(before, lines::probe(machine, effort.probe_trips));
    let percentiles = ticks.map(|ticks| percentiles(&ticks, clock));
    Run {
        figure: percentiles.map_or(mean, |(median, _)| median),
        tail: percentiles.map(|(_, tail)| tail),
        mean,
        in_a_row,
        probe: before,
        distance,
        switches,
        count: operations,
    }
}

/// Returns p50, and p99 with p99.9.
fn percentiles(ticks: &[u64], clock: &Clock) -> (f64, (f64, f64)) {
    let mut histogram = Histogram::<u64>::new(SIGNIFICANT_DIGITS).expect("a valid precision");
    for &tick in ticks {
        // Tenths of a nanosecond: whole ones would round a bounced line to a percent.
        let tenths = (clock.ns(tick) * 10.0).round() as u64;
        histogram.record(tenths.max(1)).expect("the histogram resizes itself");
    }
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 10.0;
    (at(0.5), (at(0.99), at(0.999)))
}

const SIGNIFICANT_DIGITS: u8 = 3;
