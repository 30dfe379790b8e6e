//! Errors of meeting: starting a worker, listening, connecting.

use super::{AttachError, ChannelError, LoopError, MessageError, PostError, SystemError};
use std::io;
use thiserror::Error;

/// Why a worker was not started. Nothing is left behind.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The channel to it could not be made.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The kernel refused a call; `spawn` when the program could not be started.
    #[error("{call}: {source}")]
    Io {
        /// The call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

/// Why a [`Listener`](crate::Listener) was not made, or has failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Somebody listens under that name: another process, or this one.
    #[error("somebody listens already at {}", path.display())]
    InUse {
        /// Where.
        path: std::path::PathBuf,
    },
    /// A name is a file name of 1 to 64 bytes, without `/`.
    #[error("{name:?} is no name: give 1 to 64 bytes without '/', and not '.' or '..'")]
    BadName {
        /// What was given.
        name: String,
    },
    /// The directory of names is not this user's alone.
    #[error("{}: {what}; names are kept in a directory of the user's own", path.display())]
    Directory {
        /// Which directory.
        path: std::path::PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The channel for a client could not be made. The client was sent away; others can come.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The time was up before a client came.
    #[error("no client within the time given")]
    Timeout,
    /// The kernel refused a call.
    #[error("{call}: {source}")]
    Io {
        /// The call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

/// Why there is no connection to a [`Listener`](crate::Listener).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody listens there.
    #[error("nobody listens at {}", path.display())]
    Nobody {
        /// Where.
        path: std::path::PathBuf,
    },
    /// As for a listener.
    #[error("{name:?} is no name: give 1 to 64 bytes without '/', and not '.' or '..'")]
    BadName {
        /// What was given.
        name: String,
    },
    /// As for a listener.
    #[error("{}: {what}; names are kept in a directory of the user's own", path.display())]
    Directory {
        /// Which directory.
        path: std::path::PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Another user's process listens there.
    #[error("the listener is user {found}'s, not ours ({ours})")]
    ForeignUser {
        /// Its user.
        found: u32,
        /// This process's.
        ours: u32,
    },
    /// The listener was made by a program that cannot be talked to, or sent what is no port.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The listener did not answer in time, or has gone.
    #[error("the listener did not answer within the time given")]
    Timeout,
    /// The kernel refused a call.
    #[error("{call}: {source}")]
    Io {
        /// The call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

/// Why a [`BroadcastChannel`](crate::BroadcastChannel) did not do what it was asked to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BroadcastError {
    /// It was closed here.
    #[error("the broadcast channel {name:?} is closed")]
    Closed {
        /// Its name.
        name: String,
    },
    /// Some members could not be posted to. The others have the message.
    #[error("{missed} members missed the message, {posted} have it; the first one: {first}")]
    Missed {
        /// How many members have not got it.
        missed: usize,
        /// How many have.
        posted: usize,
        /// Why the first of them has not.
        first: Box<PostError>,
    },
    /// The value could not be serialised; nobody has it.
    #[error("the message could not be serialised: {0}")]
    Serialize(#[source] rkyv::rancor::Error),
    /// A message has come that is not what it was declared to be. Later ones can be received.
    #[error(transparent)]
    Message(MessageError),
    /// The time was up.
    #[error("no message within the time given")]
    Timeout,
    /// A name is a file name of 1 to 64 bytes, without `/`.
    #[error("{name:?} is no name: give 1 to 64 bytes without '/', and not '.' or '..'")]
    BadName {
        /// What was given.
        name: String,
    },
    /// A directory of names is not this user's alone.
    #[error("{}: {what}; names are kept in a directory of the user's own", path.display())]
    Directory {
        /// Which directory.
        path: std::path::PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A member takes nobody in: it neither posts nor receives. Nothing is left of the attempt.
    #[error(
        "the member at {} takes nobody in ({source}): have it post or receive, or end its process, \
         which `ss -xlp` names; a higher RLIMIT_NOFILE helps against too many references",
        path.display()
    )]
    Busy {
        /// The member's socket.
        path: std::path::PathBuf,
        /// What the kernel answered last.
        source: io::Error,
    },
    /// A member is of a program that cannot be talked to: with another layout, payload format or
    /// schema.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A channel to a member could not be made.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The kernel refused a call.
    #[error("{call}: {source}")]
    Io {
        /// The call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

/// Why there is no port to a parent.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ParentPortError {
    /// This process was not started by [`Worker::spawn`](crate::Worker::spawn).
    #[error(
        "this process was not started as a worker: {variable} names no descriptor of its own; \
         start it with `Worker::spawn`"
    )]
    NotAWorker {
        /// The environment variable that names the inherited descriptor.
        variable: &'static str,
    },
    /// It was asked for before.
    #[error("the port to the parent was taken before: it exists once")]
    AlreadyTaken,
    /// What was inherited is not a port.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

impl From<SystemError> for SpawnError {
    fn from(SystemError { call, source }: SystemError) -> Self {
        SpawnError::Io { call, source }
    }
}

impl From<SystemError> for ListenError {
    fn from(SystemError { call, source }: SystemError) -> Self {
        ListenError::Io { call, source }
    }
}

impl From<SystemError> for ConnectError {
    fn from(SystemError { call, source }: SystemError) -> Self {
        ConnectError::Io { call, source }
    }
}

impl From<SystemError> for BroadcastError {
    fn from(SystemError { call, source }: SystemError) -> Self {
        BroadcastError::Io { call, source }
    }
}

impl From<LoopError> for BroadcastError {
    fn from(LoopError::Io { call, source }: LoopError) -> Self {
        BroadcastError::Io { call, source }
    }
}

impl From<SystemError> for ParentPortError {
    fn from(error: SystemError) -> Self {
        ParentPortError::Attach(error.into())
    }
}
