//! What every benchmark here shares: pinned processes, baselines, repetition and the closing table.
//!
//! A benchmark is a list of [`Subject`]s. Each is started again for every repetition (with a new
//! child process where it has two sides), asserts that the bytes which arrive are right, and is
//! timed only then. Criterion estimates each subject first; the repetitions of the closing table
//! follow, in turns, so that a host which moves virtual cores meanwhile strikes all of them alike.
//!
//! Figures of such a machine mean little by themselves, so each is also printed as a ratio to the
//! physical limit and to a plain ring, measured in the same run and on the same kind of core pair.

#![allow(dead_code, reason = "each bench target uses its own part of the harness")]

pub mod calls;
pub mod child;
pub mod clock;
pub mod fronts;
pub mod handoff;
pub mod hops;
pub mod kernel;
pub mod lines;
pub mod local;
pub mod machine;
pub mod measure;
pub mod message;
pub mod moves;
pub mod pages;
pub mod plain_ring;
pub mod plain_subjects;
pub mod port_streams;
pub mod ports;
pub mod report;
pub mod senders;
pub mod shared;
pub mod targets;
pub mod typed;
pub mod workload;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};

use machine::Machine;
use measure::Effort;
use report::Report;
use workload::Subject;

/// One bench target: its settings, the machine it runs on, and Criterion.
pub struct Harness {
    pub machine: Machine,
    pub quick: bool,
    criterion: Criterion,
    /// Substring of `group/variant/bytes` given on the command line, as Criterion takes it.
    filter: Option<String>,
}

impl Harness {
    /// Prepares the bench target `name`; `None` in a child process, whose work is then done.
    pub fn start(name: &str) -> Option<Self> {
        if child::serve(&[]) {
            return None;
        }
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        // Without `--bench` Criterion only tries each benchmark once (`cargo test --benches`).
        let quick = std::env::var_os(QUICK).is_some_and(|value| value != "0")
            || !arguments.iter().any(|argument| argument == "--bench");
        let filter = arguments.iter().find(|argument| !argument.starts_with('-')).cloned();
        let machine = Machine::detect();
        if let Some((ours, _)) = machine.pair {
            machine::pin(ours);
        }
        println!("{name} on {machine}{}", if quick { ", quick mode" } else { "" });
        Some(Self { machine, quick, criterion: criterion(quick), filter })
    }

    /// Picks the number of operations of one repetition.
    pub fn count(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }

    /// Picks the number of bytes of one operation.
    pub fn size(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// The core of the other side. Ask `has_two_cores` first.
    pub fn peer_core(&self) -> usize {
        self.machine.pair.expect("two cores").1
    }

    /// Whether two processes can run at the same time; says so where they cannot.
    pub fn has_two_cores(&self, group: &str) -> bool {
        if self.machine.pair.is_none() {
            println!("{group}: left out, both sides would share one core");
        }
        self.machine.pair.is_some()
    }

    /// Estimates all `subjects` with Criterion, then measures them in turns and prints the table.
    pub fn run(&mut self, report: &Report, subjects: &[Subject]) {
        let chosen: Vec<&Subject> =
            subjects.iter().filter(|subject| self.is_chosen(&subject.id(report.group))).collect();
        if chosen.is_empty() {
            return;
        }
        let mut group = self.criterion.benchmark_group(report.group);
        if report.is_slow {
            group.sampling_mode(SamplingMode::Flat).sample_size(LEAST_SAMPLES);
        }
        for subject in &chosen {
            if report.is_throughput {
                group.throughput(Throughput::Bytes(subject.bytes as u64));
            }
            let id = BenchmarkId::new(&subject.variant, subject.bytes);
            group.bench_function(id, |bencher| {
                child::arm_deadline();
                let mut workload = (subject.start)();
                workload.check();
                bencher.iter_custom(|count| {
                    child::arm_deadline();
                    workload.run(count)
                });
            });
        }
        group.finish();
        let effort = if self.quick { Effort::QUICK } else { Effort::FULL };
        let series = measure::measure(&self.machine, &chosen, effort);
        report.print(&self.machine, &series, self.quick);
    }

    /// Prints Criterion's summary, the last thing a bench target does.
    pub fn finish(self) {
        child::disarm_deadline();
        self.criterion.final_summary();
    }

    fn is_chosen(&self, id: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| id.contains(filter.as_str()))
    }
}

/// Quick mode asks Criterion for the least it accepts: the assertions count there, not the times.
fn criterion(quick: bool) -> Criterion {
    let (samples, warm_up_ms, measurement_ms, resamples) =
        if quick { (LEAST_SAMPLES, 1, 10, 1_001) } else { (20, 200, 1_000, 20_000) };
    Criterion::default()
        .sample_size(samples)
        .warm_up_time(Duration::from_millis(warm_up_ms))
        .measurement_time(Duration::from_millis(measurement_ms))
        .nresamples(resamples)
        .without_plots()
        .configure_from_args()
}

/// Environment variable that makes a whole bench target finish in seconds.
const QUICK: &str = "MESSAGEPORT_BENCH_QUICK";
/// Criterion accepts no fewer.
const LEAST_SAMPLES: usize = 10;
