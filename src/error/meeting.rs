//! Errors of meeting: starting a worker, listening, connecting.

use super::{AttachError, ChannelError, SystemError};
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
    /// Another process listens under that name.
    #[error("another process listens at {}", path.display())]
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

/// Why there is no port to a parent.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ParentPortError {
    /// This process was not started by [`Worker::spawn`](crate::Worker::spawn).
    #[error("this process was not started as a worker: {variable} names no descriptor of its own")]
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

impl From<SystemError> for ParentPortError {
    fn from(error: SystemError) -> Self {
        ParentPortError::Attach(error.into())
    }
}
