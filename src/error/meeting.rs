//! Errors of connecting: starting a worker, listening, connecting, broadcasting.

use super::{AttachError, ChannelError, LoopError, MessageError, PostError, SystemError, text};
use std::io;
use thiserror::Error;

/// Why a worker was not started. Nothing is left behind.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The channel to the child could not be created.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The program could not be started.
    #[error("{}", text::file(program, text::START, source))]
    Program {
        /// The program's path or name, as in the command.
        program: std::path::PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The directory that the worker shall join as a cgroup is none of version 2.
    #[error(
        "{} is in no file system of type cgroup2: give the directory of a cgroup of version 2",
        path.display()
    )]
    NotACgroup {
        /// The file `cgroup.procs` of the directory that was given.
        path: std::path::PathBuf,
    },
    /// The cgroup that the worker shall join was refused: by `open`, or by the child's `write`.
    #[error("{}", text::file(path, call, source))]
    File {
        /// The file `cgroup.procs` of the directory that was given.
        path: std::path::PathBuf,
        /// The call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// The kernel refused another call: among them `setrlimit`, for a limit above the hard limit of
    /// this process, and `seccomp`.
    #[error(transparent)]
    Io(#[from] SystemError),
}

/// Why a [`Listener`](crate::Listener) could not be created, or has failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another listener has that name, in this process or another one.
    #[error(
        "another listener is at {} already: choose another name, or end that one",
        path.display()
    )]
    InUse {
        /// The path of the name.
        path: std::path::PathBuf,
    },
    /// The name is not a file name of 1 to 64 bytes without `/`, or is reserved.
    #[error("{}", text::bad_name(name, flaw_of_listener_name(name)))]
    BadName {
        /// The name that was given.
        name: String,
    },
    /// The directory of names is not this user's alone.
    #[error(
        "{}: {what}; names need a directory of the user's own: mend it, or set XDG_RUNTIME_DIR",
        path.display()
    )]
    Directory {
        /// The directory.
        path: std::path::PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The channel for a client could not be created. The client was refused; others can connect.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The time was up before a client connected.
    #[error(
        "no client within the time given: wait for longer, see that clients use the same name, \
         and ask `Listener::refused` whether one was refused"
    )]
    Timeout,
    /// The kernel refused a call about a file: the socket of the name, its lock or its directory.
    /// Or no socket can be at the path: it is empty, for example, or one of a directory.
    #[error("{}", text::file(path, call, source))]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// The call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// The kernel refused another call.
    #[error(transparent)]
    Io(#[from] SystemError),
}

/// Why a connection to a [`Listener`](crate::Listener) failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There is no listener at that name.
    #[error(
        "no process listens at {}: start the listener first, and check that both use the same name",
        path.display()
    )]
    NoListener {
        /// The path of the name.
        path: std::path::PathBuf,
    },
    /// The name is not valid, see [`ListenError::BadName`].
    #[error("{}", text::bad_name(name, flaw_of_listener_name(name)))]
    BadName {
        /// The name that was given.
        name: String,
    },
    /// The directory of names is not this user's alone.
    #[error(
        "{}: {what}; names need a directory of the user's own: mend it, or set XDG_RUNTIME_DIR",
        path.display()
    )]
    Directory {
        /// The directory.
        path: std::path::PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The listener belongs to another user than is expected: by default, this process' own.
    #[error(
        "the listener belongs to user {found}, where user {expected} is expected: run both as one \
         user, or name the listener's by `Connect::listener_user`"
    )]
    ForeignUser {
        /// The listener's user.
        found: u32,
        /// Whose it should be.
        expected: u32,
    },
    /// The listener serves other users only.
    #[error(
        "the listener does not serve user {user}: run both as one user, or have the listener \
         allow this user or group by `Listener::allow_users`"
    )]
    NotAllowed {
        /// This process' user.
        user: u32,
    },
    /// The listener belongs to an incompatible program, or did not send a port.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The listener did not answer in time.
    #[error(
        "the listener did not answer within the time given: wait for longer, or see that it \
         accepts"
    )]
    Timeout,
    /// The listener went away, or hung up without an answer, in every attempt.
    #[error(
        "the listener at {} went away while this process connected: start it again, or connect \
         again with more time",
        path.display()
    )]
    HungUp {
        /// The path where it was.
        path: std::path::PathBuf,
    },
    /// The kernel refused a call about a file: the socket of the name, its lock or its directory.
    /// Or no file can have the path: it is empty, or has a zero byte.
    #[error("{}", text::file(path, call, source))]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// The call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// The kernel refused another call.
    #[error(transparent)]
    Io(#[from] SystemError),
}

/// Why a call on a [`BroadcastChannel`](crate::BroadcastChannel) failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BroadcastError {
    /// The channel was closed here.
    #[error("the broadcast channel {name:?} was closed here: open it again to post and receive")]
    Closed {
        /// The channel's name.
        name: String,
    },
    /// Some members did not get the message. The others have it.
    #[error(
        "{missed} members missed the message, and {posted} have it: the source of this error says \
         why the first one has not, and what helps"
    )]
    Missed {
        /// How many members do not have it.
        missed: usize,
        /// How many have it.
        posted: usize,
        /// Why the first of them does not.
        #[source]
        first: Box<PostError>,
    },
    /// The value could not be serialised, and was posted to no member.
    #[error(
        "the message could not be serialised, and no member has received it: correct what the \
         source of this error names"
    )]
    Serialize(#[source] rkyv::rancor::BoxedError),
    /// A message is not of the declared type. Later messages can be received.
    #[error(transparent)]
    Message(MessageError),
    /// The time was up.
    #[error("no message within the time given: wait for longer, or see that other members post")]
    Timeout,
    /// The name is not a file name of 1 to 64 bytes without `/`, or is reserved.
    #[error("{}", text::bad_name(name, flaw_of_name(name)))]
    BadName {
        /// The name that was given.
        name: String,
    },
    /// A directory of names is not this user's alone.
    #[error(
        "{}: {what}; names need a directory of the user's own: mend it, or set XDG_RUNTIME_DIR",
        path.display()
    )]
    Directory {
        /// The directory.
        path: std::path::PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A member accepts no joiners, because it neither posts nor receives. Nothing is left of the
    /// attempt.
    #[error(
        "the member at {} accepts no connection: have it post or receive, or end its process, \
         which `ss -xlp` names; a higher RLIMIT_NOFILE helps against too many references",
        path.display()
    )]
    Busy {
        /// The member's socket.
        path: std::path::PathBuf,
        /// The last answer of the kernel.
        source: io::Error,
    },
    /// A member belongs to an incompatible program: another layout, payload format or schema.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A channel to a member could not be created.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The kernel refused a call about a file: the socket of the name, its lock or its directory.
    #[error("{}", text::file(path, call, source))]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// The call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// The kernel refused another call.
    #[error(transparent)]
    Io(#[from] SystemError),
}

/// Why a process has no port to its parent.
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
    /// The port was taken by an earlier call.
    #[error(
        "the port to the parent was taken before, and exists once: keep the port of the first \
         call"
    )]
    AlreadyTaken,
    /// What was inherited is not a port.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

/// What is wrong with a name, if it cannot be a file name in the names directory.
pub(crate) fn flaw_of_name(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("it is empty"),
        "." | ".." => Some("it is a directory's"),
        // Before the others: the question may be about a path.
        _ if name.ends_with(".lock") => {
            Some("names that end in \".lock\" are reserved for files that guard other names")
        }
        _ if name.contains(['/', '\0']) => Some("it has a '/' or a zero byte"),
        _ if name.len() > 64 => Some("it has more than 64 bytes"),
        _ => None,
    }
}

/// As `flaw_of_name`, for a listener, whose names are in one directory with those of channels.
pub(crate) fn flaw_of_listener_name(name: &str) -> Option<&'static str> {
    match name.starts_with(BROADCAST_PREFIX) {
        true => Some("names that begin with \"broadcast.\" are reserved for broadcast channels"),
        false => flaw_of_name(name),
    }
}

/// The prefix of a channel's directory.
pub(crate) const BROADCAST_PREFIX: &str = "broadcast.";

impl From<LoopError> for BroadcastError {
    fn from(LoopError::Io(error): LoopError) -> Self {
        BroadcastError::Io(error)
    }
}

impl From<SystemError> for ParentPortError {
    fn from(error: SystemError) -> Self {
        ParentPortError::Attach(error.into())
    }
}

/// Gives errors of the kernel the path of the file that they are about.
macro_rules! at_a_path {
    ($($error:ident),*) => {$(
        impl $error {
            /// The same error, of a call about the file at `path`.
            pub(crate) fn at(self, path: &std::path::Path) -> Self {
                match self {
                    Self::Io(SystemError { call, source }) => {
                        Self::File { path: path.to_owned(), call, source }
                    }
                    other => other,
                }
            }
        }
    )*};
}
at_a_path!(SpawnError, ListenError, ConnectError, BroadcastError);
