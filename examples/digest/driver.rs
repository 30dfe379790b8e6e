//! One worker process and the thread that keeps it busy, and replaces it when it dies.

use std::collections::VecDeque;
use std::iter::Sum;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use messageport::{MessageEvent, MessagePort, PostError, RecvError, Worker};

use crate::input;
use crate::jobs::{Finished, Jobs, Outcome};
use crate::output::Meter;
use crate::protocol::{self, Report, WINDOW};
use crate::task::{Task, Trouble};
use crate::trust::trust;

/// Feeds files to a worker process until none is left.
///
/// A few files are under way at once, so that small ones do not cost a round trip each. They are
/// sent in order and the reports come back in the same order, so a report is about the first.
pub struct Driver<'a> {
    trusted: bool,
    jobs: &'a Jobs,
    meter: &'a Meter,
    results: mpsc::Sender<Finished>,
    worker: Option<Worker>,
    tasks: VecDeque<Task>,
    /// Workers lost since the last report.
    losses: u32,
    totals: Totals,
}

/// What the drivers did.
#[derive(Clone, Copy, Default)]
pub struct Totals {
    /// Bytes of which a digest was made.
    pub bytes: u64,
    /// Messages in both directions.
    pub messages: u64,
    /// Workers that died, or could not even be started, and were replaced.
    pub lost: u64,
}

/// The worker is of no use any more; contains the reason.
struct Loss(String);

impl<'a> Driver<'a> {
    /// A driver without a worker yet: it starts one with the first file.
    pub fn new(
        trusted: bool,
        jobs: &'a Jobs,
        meter: &'a Meter,
        results: mpsc::Sender<Finished>,
    ) -> Self {
        let (worker, tasks) = (None, VecDeque::new());
        Self { trusted, jobs, meter, results, worker, tasks, losses: 0, totals: Totals::default() }
    }

    /// Works until there is nothing left to do.
    pub fn run(mut self) -> Totals {
        while self.refill() {
            if let Err(loss) = self.step() {
                self.replace_worker(&loss);
            }
        }
        if let Some(worker) = self.worker.take() {
            self.count_messages(&worker);
            // Dropping it closes its port, which ends it.
        }
        self.totals
    }

    /// Begins the next file if all begun files are sent. Returns whether any is in progress.
    fn refill(&mut self) -> bool {
        while self.tasks.len() < UNDER_WAY && self.tasks.iter().all(may_be_followed) {
            // A stream may keep this thread waiting for input, so it has a worker alone.
            let Some(job) = self.jobs.take(self.tasks.is_empty()) else {
                break;
            };
            match Task::open(job) {
                Ok(task) => self.tasks.push_back(task),
                Err((job, error)) => self.end(job.index, job.stream, Err(input::reason(&error))),
            }
        }
        !self.tasks.is_empty()
    }

    /// Takes the reports that are there, then sends one message or waits until that makes sense.
    fn step(&mut self) -> Result<(), Loss> {
        self.take_reports()?;
        let owed: u64 = self.tasks.iter().map(Task::owed).sum();
        let Some(at) = self.tasks.iter().position(|task| !task.is_sent() && owed < WINDOW) else {
            return self.await_report();
        };
        let Some(worker) = &self.worker else {
            return Ok(());
        };
        let port = worker.port();
        match self.tasks[at].feed(port) {
            Ok(()) => Ok(()),
            Err(Trouble::Port(PostError::QueueFull { .. })) => {
                // Half of the ring, so that a wake-up serves several chunks. Not for ever, because
                // the worker may be waiting for room for a report.
                match port.wait_for_room(port.max_message_len(), PATIENCE) {
                    Ok(()) | Err(PostError::Timeout) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            Err(Trouble::Port(error)) => Err(error.into()),
            Err(Trouble::Input(error)) => {
                if let Some(task) = self.tasks.remove(at) {
                    self.end(task.job.index, task.job.stream, Err(input::reason(&error)));
                }
                Ok(())
            }
        }
    }

    fn take_reports(&mut self) -> Result<(), Loss> {
        while let Some(report) = next_report(self.port()?)? {
            self.accept(report)?;
        }
        Ok(())
    }

    fn await_report(&mut self) -> Result<(), Loss> {
        if self.tasks.is_empty() {
            return Ok(());
        }
        let report = read(&self.port()?.recv()?)?;
        self.accept(report)
    }

    /// Handles a report of the worker about its first file.
    fn accept(&mut self, report: Report) -> Result<(), Loss> {
        self.losses = 0;
        let (Report::Checkpoint { job, .. } | Report::Digest { job, .. }) = report;
        let Some(task) = self.tasks.front_mut().filter(|task| task.job.index as u64 == job) else {
            // About a file that could not be read to its end.
            return Ok(());
        };
        match report {
            Report::Checkpoint { covered, state, .. } => {
                let fresh = task.cover(covered, Some(state)).ok_or_else(Loss::nonsense)?;
                self.meter.advance(fresh);
            }
            Report::Digest { covered, digest, .. } => {
                let complete = task.is_sent().then(|| task.cover(covered, None)).flatten();
                let fresh = complete.filter(|_| task.owed() == 0).ok_or_else(Loss::nonsense)?;
                self.meter.advance(fresh);
                self.totals.bytes += covered;
                if let Some(task) = self.tasks.pop_front() {
                    self.end(task.job.index, task.job.stream, Ok(digest));
                }
            }
        }
        Ok(())
    }

    /// Ends the worker, if it has not ended already, and gives its work to the next one.
    fn replace_worker(&mut self, loss: &Loss) {
        if self.worker.is_some() {
            // What it reported before it died still counts; its death is already known.
            let _ = self.take_reports();
        }
        self.losses += 1;
        self.totals.lost += 1;
        let mut why = loss.0.clone();
        if let Some(worker) = self.worker.take() {
            self.count_messages(&worker);
            if let Ok(status) = worker.terminate() {
                why = format!("{why}; {status}");
            }
        }
        if self.losses == GIVE_UP
            && let Some(task) = self.tasks.pop_front()
        {
            self.losses = 0;
            let why = format!("{GIVE_UP} workers in a row were lost, the last one: {why}");
            self.end(task.job.index, task.job.stream, Err(why));
        }
        self.tasks.iter_mut().for_each(Task::rewind);
    }

    /// The worker's port; starts a worker if there is none.
    fn port(&mut self) -> Result<&MessagePort, Loss> {
        if self.worker.is_none() {
            self.worker = Some(start_worker(self.trusted)?);
        }
        Ok(self.worker.as_ref().expect("it was started above").port())
    }

    fn end(&self, index: usize, stream: bool, outcome: Outcome) {
        if stream {
            self.jobs.stream_done();
        }
        // The main thread takes results until all drivers are done.
        let _ = self.results.send((index, outcome));
    }

    fn count_messages(&mut self, worker: &Worker) {
        let stats = worker.port().stats();
        self.totals.messages += stats.sent.messages + stats.received.messages;
    }
}

fn start_worker(trusted: bool) -> Result<Worker, Loss> {
    // Not the path: this program's file may have been replaced since it was started.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(protocol::NAME).arg("--worker");
    if trusted {
        command.arg("--trusted");
    }
    // Standard input may be a file to digest, and standard output a pipe whose reader waits for its
    // end, so the worker must hold neither.
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let worker = Worker::spawn_with(command, protocol::channel())
        .map_err(|error| Loss(format!("cannot be started: {error}")))?;
    if trusted {
        trust(worker.port());
    }
    Ok(worker)
}

fn next_report(port: &MessagePort) -> Result<Option<Report>, Loss> {
    port.try_recv()?.map(|event| read(&event)).transpose()
}

fn read(event: &MessageEvent<'_>) -> Result<Report, Loss> {
    event.deserialize::<Report>().map_err(|error| Loss(error.to_string()))
}

/// Whether another file may be begun while this one is in progress.
fn may_be_followed(task: &Task) -> bool {
    task.is_sent() && !task.job.stream
}

impl Loss {
    fn nonsense() -> Self {
        Self("it reports on bytes that it was not given".to_owned())
    }
}

impl From<PostError> for Loss {
    fn from(error: PostError) -> Self {
        Self(error.to_string())
    }
}

impl From<RecvError> for Loss {
    fn from(error: RecvError) -> Self {
        Self(error.to_string())
    }
}

impl Sum for Totals {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            bytes: sum.bytes + one.bytes,
            messages: sum.messages + one.messages,
            lost: sum.lost + one.lost,
        })
    }
}

/// The most files that a worker has at once.
const UNDER_WAY: usize = 8;

/// This many workers in a row that die without a single report are no accident.
const GIVE_UP: u32 = 5;

/// How long to wait for room before it looks for reports again.
const PATIENCE: Duration = Duration::from_millis(20);
