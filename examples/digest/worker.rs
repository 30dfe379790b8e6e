//! The worker process: hashes what comes out of its port until the parent closes it.

use std::ffi::CString;
use std::process::ExitCode;
use std::time::Duration;

use messageport::{Format, MessageEvent, MessagePort, RecvError, parent_port};
use nix::sys::prctl;
use sha2::digest::common::hazmat::SerializableState;
use sha2::{Digest, Sha256};

use crate::output;
use crate::protocol::{ArchivedOrder, CHECKPOINT, NAME, Order, Report, State};
use crate::trust::trust;

/// Serves the parent until it closes the port or dies.
pub fn main(trusted: bool) -> ExitCode {
    // The kernel named it after the last part of `/proc/self/exe`.
    let _ = CString::new(NAME).map(|name| prctl::set_name(&name));
    match parent_port().map_err(Into::into).and_then(|port| serve(&port, trusted)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::report(format_args!("worker: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn serve(port: &MessagePort, trusted: bool) -> Result<(), Failure> {
    if trusted {
        trust(port);
    }
    let mut hash = Hash::new(0, 0, None)?;
    while let Some(event) = next(port, &mut hash)? {
        match event.format() {
            Format::Bytes => {
                hash.update(event.bytes());
                drop(event); // Gives the room back before the report, which may have to wait.
                if hash.unreported() >= CHECKPOINT {
                    hash.checkpoint(port)?;
                }
            }
            Format::Archive => match event.data::<Order>()? {
                ArchivedOrder::Start { job, covered, state } => {
                    hash = Hash::new(job.to_native(), covered.to_native(), state.as_ref())?;
                }
                ArchivedOrder::Finish => hash.finish(port)?,
            },
            other => return Err(format!("a message of the unknown format {other:?}").into()),
        }
    }
    Ok(())
}

/// The next message, or `None` once the parent is gone.
///
/// When there is none for a moment, the state is reported before going to sleep: the parent of a
/// slow pipe then need not keep what has already been hashed.
fn next<'a>(port: &'a MessagePort, hash: &mut Hash) -> Result<Option<MessageEvent<'a>>, Failure> {
    if hash.unreported() > 0 {
        match port.recv_timeout(QUIET) {
            Err(RecvError::Timeout) => hash.checkpoint(port)?,
            answer => return event_or_end(answer),
        }
    }
    event_or_end(port.recv())
}

fn event_or_end(
    answer: Result<MessageEvent<'_>, RecvError>,
) -> Result<Option<MessageEvent<'_>>, Failure> {
    match answer {
        Ok(event) => Ok(Some(event)),
        // Closed on purpose or dead: in both cases the parent does not wait for this worker any
        // more.
        Err(RecvError::Closed { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The hash of one file so far.
struct Hash {
    job: u64,
    sha: Sha256,
    covered: u64,
    reported: u64,
}

impl Hash {
    fn new(job: u64, covered: u64, state: Option<&State>) -> Result<Self, Failure> {
        let sha = match state {
            None => Sha256::new(),
            Some(state) => Sha256::deserialize(&(*state).into())
                .map_err(|_| "the state to go on from is not one of SHA-256")?,
        };
        Ok(Self { job, sha, covered, reported: covered })
    }

    fn update(&mut self, bytes: &[u8]) {
        self.sha.update(bytes);
        self.covered += bytes.len() as u64;
    }

    fn unreported(&self) -> u64 {
        self.covered - self.reported
    }

    fn checkpoint(&mut self, port: &MessagePort) -> Result<(), Failure> {
        let Self { job, covered, .. } = *self;
        self.reported = covered;
        post(port, &Report::Checkpoint { job, covered, state: self.sha.serialize().into() })
    }

    fn finish(&mut self, port: &MessagePort) -> Result<(), Failure> {
        let Self { job, covered, .. } = *self;
        self.reported = covered;
        let digest = self.sha.finalize_reset().into();
        post(port, &Report::Digest { job, covered, digest })
    }
}

/// Waits for room if necessary: the parent takes reports whenever it waits for room itself.
fn post(port: &MessagePort, report: &Report) -> Result<(), Failure> {
    match port.post_message_timeout(report, Duration::MAX) {
        // The next receive returns the end as well, after what is still to be read.
        Err(messageport::PostError::Closed { .. }) => Ok(()),
        answer => Ok(answer?),
    }
}

type Failure = Box<dyn std::error::Error>;

/// A parent that has sent nothing for this long is waiting for its input.
const QUIET: Duration = Duration::from_millis(2);
