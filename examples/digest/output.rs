//! What the user sees: lines on standard output; progress, errors and a summary on standard error.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::{SigSet, Signal, raise};

use crate::cli::Options;
use crate::driver::Totals;
use crate::input;
use crate::jobs::{Finished, Jobs, Outcome};
use crate::name::{self, Shown};
use crate::standard;

/// Prints results in the order of the command line, each as soon as those before it are printed.
pub struct Printer<'a> {
    files: &'a [OsString],
    meter: &'a Meter,
    early: BTreeMap<usize, Outcome>,
    next: usize,
    failed: bool,
}

/// A progress bar, while standard error is a terminal.
pub struct Meter(Option<ProgressBar>);

impl<'a> Printer<'a> {
    /// Prints for `files`, without disturbing `meter`.
    pub fn new(files: &'a [OsString], meter: &'a Meter) -> Self {
        Self { files, meter, early: BTreeMap::new(), next: 0, failed: false }
    }

    /// Takes one result and prints everything that is now complete.
    pub fn take(&mut self, (index, outcome): Finished) {
        self.early.insert(index, outcome);
        while let Some(outcome) = self.early.remove(&self.next) {
            self.print(self.next, &outcome);
            self.next += 1;
        }
    }

    /// 0 if every file has a digest.
    pub fn exit_code(&self) -> ExitCode {
        if self.failed || self.next < self.files.len() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }

    fn print(&mut self, index: usize, outcome: &Outcome) {
        let name = &self.files[index];
        self.meter.aside(|| match outcome {
            Ok(digest) => write_line(&name::line(digest, name)),
            Err(error) => report(format_args!("{}: {error}", Shown(name))),
        });
        self.failed |= outcome.is_err();
    }
}

impl Meter {
    /// A progress bar for the total size.
    pub fn new(jobs: &Jobs) -> Self {
        if !io::stderr().is_terminal() {
            return Self::hidden();
        }
        let style = "{bar:32} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        let style = ProgressStyle::with_template(style).expect("the template above is correct");
        Self(Some(ProgressBar::new(jobs.bytes()).with_style(style)))
    }

    /// No bar.
    pub fn hidden() -> Self {
        Self(None)
    }

    /// Removes the bar before a signal ends this process, so that the shell's prompt finds an empty
    /// line. Before any thread is started: they all must leave the signals to the one that waits.
    pub fn clear_at_signals(&self) {
        let Some(bar) = self.0.clone() else { return };
        let signals: SigSet =
            [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        if signals.thread_block().is_err() {
            return;
        }
        thread::spawn(move || {
            if let Ok(signal) = signals.wait() {
                bar.finish_and_clear();
                // Nothing handles it, so it ends this process as it would have without the bar.
                let _ = signals.thread_unblock().and_then(|()| raise(signal));
            }
        });
    }

    /// Advances the bar by this many bytes.
    pub fn advance(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(bytes);
            // The length of a pipe is known when it ends.
            if bar.length() < Some(bar.position()) {
                bar.set_length(bar.position());
            }
        }
    }

    /// Runs `print` with the bar out of the way.
    fn aside(&self, print: impl FnOnce()) {
        match &self.0 {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

impl Totals {
    /// The summary line.
    pub fn summary(&self, options: &Options, elapsed: Duration) -> impl fmt::Display {
        let (files, workers) = (options.files.len(), options.workers.min(options.files.len()));
        let mode = if options.trusted { "trusted" } else { "default" };
        let mut text = format!(
            "{} bytes of {} in {:.3} s, {:.0} MB/s, {} messages, {} ({mode})",
            self.bytes,
            count(files, "file"),
            elapsed.as_secs_f64(),
            megabytes_per_second(self.bytes, elapsed),
            self.messages,
            count(workers, "worker"),
        );
        if self.lost > 0 {
            text.push_str(&format!(", {} replaced", self.lost));
        }
        text
    }
}

/// Millions of bytes per second.
pub fn megabytes_per_second(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 / 1e6 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// A number and what it counts.
pub fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// One line on standard error. A failure to write it is ignored.
pub fn report(message: fmt::Arguments<'_>) {
    let _ = io::stderr().write_all(format!("digest: {message}\n").as_bytes());
}

/// Reports that standard output cannot be written, and why.
pub fn report_write_error(error: &io::Error) {
    report(format_args!("write error: {}", input::reason(error)));
}

/// One line on standard output, at once, as sha256sum writes it. Ends the process if it cannot be
/// written; the workers see their ports close.
fn write_line(line: &[u8]) {
    let mut stdout = io::stdout().lock();
    let written =
        standard::output().and_then(|()| stdout.write_all(line)).and_then(|()| stdout.flush());
    let Err(error) = written else { return };
    if error.kind() == ErrorKind::BrokenPipe {
        // The reader has closed the pipe. Rust programs ignore SIGPIPE, so exit with the status
        // that a shell would show for it.
        process::exit(128 + SIGPIPE);
    }
    report_write_error(&error);
    process::exit(1);
}

const SIGPIPE: i32 = 13;
