//! `digest FILE...`: prints what `sha256sum FILE...` prints, computed by one worker process per
//! core.
//!
//! The parent reads the files and streams them, chunk by chunk, through message ports to workers,
//! which are this same program started again. A worker reports the state of its hash now and then,
//! so when it is killed a new one goes on from the last report: no byte is asked for twice from an
//! input that can be read only once.
//!
//! ```text
//! main thread   orders results, prints          output
//!   driver 1..n one thread per worker           driver, task, input, jobs
//!   ==== one port each ====                     protocol
//!   worker 1..n one process per core            worker
//! ```
//!
//! Try `cargo run --release --example digest -- --help`.

mod cli;
mod compare;
mod driver;
mod input;
mod jobs;
mod name;
mod output;
mod protocol;
mod standard;
mod task;
mod threads;
mod trust;
mod worker;

use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use crate::cli::{Invocation, Options};
use crate::driver::{Driver, Totals};
use crate::jobs::Jobs;
use crate::output::{Meter, Printer};

fn main() -> ExitCode {
    match cli::parse() {
        Invocation::Exit(code) => code,
        Invocation::Worker { trusted } => worker::main(trusted),
        Invocation::Digest(options) if options.compare => compare::run(&options),
        Invocation::Digest(options) => digest(&options),
    }
}

/// Digests all the files and prints the results as soon as they are next in the order.
fn digest(options: &Options) -> ExitCode {
    let jobs = Jobs::new(&options.files);
    let meter = Meter::new(&jobs);
    meter.clear_at_signals();
    let mut printer = Printer::new(&options.files, &meter);
    let started = Instant::now();
    let totals = run_drivers(options, options.trusted, &jobs, &meter, |finished| {
        printer.take(finished);
    });
    meter.finish();
    output::report(format_args!("{}", totals.summary(options, started.elapsed())));
    printer.exit_code()
}

/// Runs one driver, with a worker process each, per core until there is nothing left to do.
fn run_drivers(
    options: &Options,
    trusted: bool,
    jobs: &Jobs,
    meter: &Meter,
    mut take: impl FnMut(jobs::Finished),
) -> Totals {
    thread::scope(|scope| {
        let (results, finished) = mpsc::channel();
        let drivers: Vec<_> = (0..options.workers.min(jobs.len()))
            .map(|_| {
                let results = results.clone();
                scope.spawn(move || Driver::new(trusted, jobs, meter, results).run())
            })
            .collect();
        // The loop below ends when the last driver drops its sender, so this one must go first.
        drop(results);
        finished.into_iter().for_each(&mut take);
        drivers
            .into_iter()
            .map(|driver| driver.join().expect("a driver thread does not panic"))
            .sum()
    })
}
