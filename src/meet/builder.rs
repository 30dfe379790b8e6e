//! What a worker is started with beside its command.

use crate::error::{PostError, SpawnError};
use crate::meet::spawn::{VARIABLE, Worker};
use crate::meet::worker_process::WorkerProcess;
use crate::os::process;
use crate::port::channel::{ChannelBuilder, MessageChannel};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;

/// Starts a worker with options; made by [`Worker::builder`], or from a [`Command`].
///
/// ```
/// use messageport::{MessageChannel, Worker};
///
/// let worker = Worker::builder(std::process::Command::new("true"))
///     .channel(MessageChannel::builder().limit(1 << 20))
///     .spawn()?;
/// assert_eq!(worker.port().limit(), 1 << 20);
/// # Ok::<(), messageport::SpawnError>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder starts nothing until `spawn`"]
pub struct WorkerBuilder {
    command: Command,
    channel: ChannelBuilder,
}

impl WorkerBuilder {
    pub(crate) fn new(command: Command) -> WorkerBuilder {
        WorkerBuilder { command, channel: MessageChannel::builder() }
    }

    /// Sets the sizes and limits of the channel.
    pub fn channel(mut self, channel: ChannelBuilder) -> WorkerBuilder {
        self.channel = channel;
        self
    }

    /// Starts the child process. See [`Worker::spawn`].
    ///
    /// # Errors
    /// [`SpawnError`]; nothing is left behind.
    pub fn spawn(self) -> Result<Worker, SpawnError> {
        let MessageChannel { port1, port2 } = self.channel.build()?;
        let theirs = port2.into_fd().map_err(|error| match error.into_reason() {
            PostError::Io(error) => SpawnError::Io(error),
            other => unreachable!("a fresh port is open: {other}"),
        })?;
        let program = PathBuf::from(self.command.get_program());
        let child = process::spawn_with_descriptor(self.command, VARIABLE, theirs.as_fd());
        let child = child.map_err(|error| match error.call {
            "spawn" => SpawnError::Program { program, source: error.source },
            _ => error.into(),
        })?;
        Ok(Worker::of(port1, WorkerProcess::new(child)))
    }
}

impl From<Command> for WorkerBuilder {
    fn from(command: Command) -> WorkerBuilder {
        WorkerBuilder::new(command)
    }
}
