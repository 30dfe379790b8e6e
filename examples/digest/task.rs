//! One file on its way through a worker: what was sent, and what the worker has reported on.

use std::io;

use messageport::{CloseReason, MessagePort, PostError};

use crate::input::Input;
use crate::jobs::Job;
use crate::protocol::{Order, State};

/// A file that was begun and has no digest yet.
pub struct Task {
    /// The file.
    pub job: Job,
    input: Input,
    /// Bytes that `state` covers.
    covered: u64,
    state: Option<State>,
    /// Position after the last byte that was posted.
    sent: u64,
    step: Step,
}

/// What is to be posted next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Start,
    Chunks,
    Finish,
    Nothing,
}

/// Why nothing was posted.
pub enum Trouble {
    /// The file cannot be read any further.
    Input(io::Error),
    /// The port did not take it; nothing has changed, so the same call may be retried.
    Port(PostError),
}

impl Task {
    /// Opens the job's file.
    pub fn open(job: Job) -> Result<Self, (Job, io::Error)> {
        match Input::open(&job) {
            Ok(input) => {
                Ok(Self { job, input, covered: 0, state: None, sent: 0, step: Step::Start })
            }
            Err(error) => Err((job, error)),
        }
    }

    /// Posts the next message of this file or reads more of it, one of the two.
    pub fn feed(&mut self, port: &MessagePort) -> Result<(), Trouble> {
        match self.step {
            Step::Start => {
                let job = self.job.index as u64;
                let Self { covered, state, .. } = *self;
                port.post_message(&Order::Start { job, covered, state })?;
                self.step = Step::Chunks;
            }
            Step::Chunks => self.feed_chunk(port)?,
            Step::Finish => {
                port.post_message(&Order::Finish)?;
                self.step = Step::Nothing;
            }
            Step::Nothing => {}
        }
        Ok(())
    }

    fn feed_chunk(&mut self, port: &MessagePort) -> Result<(), Trouble> {
        match &mut self.input {
            Input::Again(file) => {
                // On a trusted port the file's bytes go straight into the ring.
                let mut loan = port.loan(file.ask(self.sent))?;
                match file.read(&mut loan, self.sent)? {
                    // The loan is dropped: nothing is posted.
                    0 => self.step = Step::Finish,
                    count => {
                        loan.truncate(count);
                        loan.post()?;
                        self.sent += count as u64;
                    }
                }
            }
            Input::Once(kept) => {
                let chunk = kept.at(self.sent);
                if !chunk.is_empty() {
                    port.post_bytes(chunk)?;
                    self.sent += chunk.len() as u64;
                } else if port.is_closed() {
                    // Posts to a worker that has died succeed for a while. Check before a wait for
                    // input, so that another worker can work meanwhile.
                    return Err(PostError::Closed { reason: CloseReason::PeerDied }.into());
                } else if kept.read_more()? == 0 {
                    self.step = Step::Finish;
                }
            }
        }
        Ok(())
    }

    /// Whether everything was posted.
    pub fn is_sent(&self) -> bool {
        self.step == Step::Nothing
    }

    /// Bytes that were posted and not reported on.
    pub fn owed(&self) -> u64 {
        self.sent - self.covered
    }

    /// Notes a checkpoint. `Some` is the number of bytes that it adds; `None` means that it cannot
    /// be true.
    pub fn cover(&mut self, covered: u64, state: Option<State>) -> Option<u64> {
        if !(self.covered..=self.sent).contains(&covered) {
            return None;
        }
        let fresh = covered - self.covered;
        self.covered = covered;
        self.state = state;
        if let Input::Once(kept) = &mut self.input {
            kept.forget(covered);
        }
        Some(fresh)
    }

    /// Starts again at the last checkpoint, for another worker.
    pub fn rewind(&mut self) {
        self.sent = self.covered;
        self.step = Step::Start;
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Input(error)
    }
}

impl From<PostError> for Trouble {
    fn from(error: PostError) -> Self {
        Self::Port(error)
    }
}
