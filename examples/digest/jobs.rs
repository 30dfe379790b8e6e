//! The files to digest, shared by all drivers, and their results.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One file of the command line.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its place on the command line.
    pub index: usize,
    /// Its name; `-` is standard input.
    pub name: OsString,
    /// Whether it is standard input, a pipe or a device: something that may block when it is read,
    /// and that may be another name of the same input.
    pub stream: bool,
    /// Its size, as far as it is known before reading.
    pub len: u64,
}

/// A job's end: the SHA-256, or why there is none.
pub type Outcome = Result<[u8; 32], String>;

/// A job's index and its end.
pub type Finished = (usize, Outcome);

/// The files not yet begun.
pub struct Jobs {
    waiting: Mutex<Waiting>,
    count: usize,
    bytes: u64,
}

struct Waiting {
    jobs: VecDeque<Job>,
    /// Streams are read one at a time and in the order given: two of them may be the same pipe, as
    /// with `- /dev/stdin`, and then the first one gets everything.
    stream_taken: bool,
}

impl Jobs {
    /// Asks for each file's kind and size. One that is missing fails later, when it is opened.
    pub fn new(files: &[OsString]) -> Self {
        let jobs: VecDeque<Job> = files.iter().cloned().enumerate().map(Job::new).collect();
        Self {
            count: jobs.len(),
            bytes: jobs.iter().map(|job| job.len).sum(),
            waiting: Mutex::new(Waiting { jobs, stream_taken: false }),
        }
    }

    /// How many files there were at the start.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Their total size, as far as it was known.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The first of them that is a stream, if any is.
    pub fn first_stream(&self) -> Option<Job> {
        self.lock().jobs.iter().find(|job| job.stream).cloned()
    }

    /// Takes the next file that may be begun now.
    ///
    /// `None` is final for a caller with nothing else to do and `stream_too`: whatever is left is
    /// done by the driver that has the stream.
    pub fn take(&self, stream_too: bool) -> Option<Job> {
        let mut waiting = self.lock();
        let stream_too = stream_too && !waiting.stream_taken;
        let at = waiting.jobs.iter().position(|job| stream_too || !job.stream)?;
        let job = waiting.jobs.remove(at)?;
        waiting.stream_taken |= job.stream;
        Some(job)
    }

    /// Lets the next stream be taken.
    pub fn stream_done(&self) {
        self.lock().stream_taken = false;
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every change is complete when the lock is released, so a panic elsewhere breaks nothing.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    fn new((index, name): (usize, OsString)) -> Self {
        let metadata = if name == STDIN { None } else { fs::metadata(&name).ok() };
        let stream = match &metadata {
            Some(metadata) => !metadata.is_file(),
            None => name == STDIN,
        };
        let len = metadata.filter(fs::Metadata::is_file).map_or(0, |metadata| metadata.len());
        Self { index, name, stream, len }
    }
}

/// The name that stands for standard input.
pub const STDIN: &str = "-";
