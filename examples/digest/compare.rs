//! `--compare`: the same work on threads and on processes in one run, with the ratio.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::cli::Options;
use crate::jobs::{Jobs, Outcome};
use crate::name::Shown;
use crate::output::{self, Meter, Printer, count, megabytes_per_second};
use crate::protocol::{CHUNK, RING};
use crate::{run_drivers, threads};

/// The ways to do the work, the one to compare with first.
#[derive(Clone, Copy)]
enum Way {
    Threads,
    Default,
    Trusted,
}

/// Does the work several times in each way, in turn, and prints the medians on standard error.
///
/// The digests on standard output are those of a first run on threads that is not measured: it also
/// brings the files into memory, so that no way pays for the disk.
pub fn run(options: &Options) -> ExitCode {
    let jobs = Jobs::new(&options.files);
    if let Some(stream) = jobs.first_stream() {
        let name = Shown(&stream.name);
        output::report(format_args!("{name}: --compare needs files that can be read again"));
        return ExitCode::FAILURE;
    }
    let meter = Meter::hidden();
    let mut printer = Printer::new(&options.files, &meter);
    let mut expected = vec![None; options.files.len()];
    threads::run(options.workers, &jobs, |finished| {
        expected[finished.0] = Some(finished.1.clone());
        printer.take(finished);
    });
    let mut seconds = [const { Vec::new() }; WAYS.len()];
    for round in 0..ROUNDS {
        for turn in 0..WAYS.len() {
            // Each way is once the first, once the second and once the last of a round.
            let at = (round + turn) % WAYS.len();
            let (outcomes, elapsed) = measure(options, WAYS[at], &meter);
            if outcomes != expected {
                let name = WAYS[at].name();
                output::report(format_args!("{name}: not the digests that the first run gave"));
                return ExitCode::FAILURE;
            }
            seconds[at].push(elapsed);
        }
    }
    print(options, jobs.bytes(), seconds.map(median));
    printer.exit_code()
}

fn measure(options: &Options, way: Way, meter: &Meter) -> (Vec<Option<Outcome>>, Duration) {
    let mut outcomes = vec![None; options.files.len()];
    let started = Instant::now();
    let jobs = Jobs::new(&options.files);
    let take = |(index, outcome): (usize, Outcome)| outcomes[index] = Some(outcome);
    match way {
        Way::Threads => threads::run(options.workers, &jobs, take),
        Way::Default | Way::Trusted => {
            run_drivers(options, matches!(way, Way::Trusted), &jobs, meter, take);
        }
    }
    (outcomes, started.elapsed())
}

fn print(options: &Options, bytes: u64, medians: [Duration; WAYS.len()]) {
    let (files, workers) = (options.files.len(), options.workers.min(options.files.len()));
    output::report(format_args!(
        "{bytes} bytes of {}, {}, chunks of {} KiB, up to {} KiB under way to each worker, \
         medians of {ROUNDS} runs",
        count(files, "file"),
        count(workers, "worker"),
        CHUNK >> 10,
        RING >> 10,
    ));
    for (way, elapsed) in WAYS.iter().zip(medians) {
        output::report(format_args!(
            "{:<31} {:>8.3} s {:>6.0} MB/s   ratio {:.3}",
            way.name(),
            elapsed.as_secs_f64(),
            megabytes_per_second(bytes, elapsed),
            elapsed.as_secs_f64() / medians[0].as_secs_f64(),
        ));
    }
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads of one process",
            Self::Default => "processes",
            Self::Trusted => "processes that trust each other",
        }
    }
}

const WAYS: [Way; 3] = [Way::Threads, Way::Default, Way::Trusted];

/// A multiple of the number of ways, so that each has each place as often.
const ROUNDS: usize = WAYS.len();
