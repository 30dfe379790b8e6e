//! Every error that a caller can get. Floor 0.
//!
//! Our own bug is an assertion; the peer's bytes are [`CloseReason::Corrupt`] and a closed port;
//! the kernel's refusal names its call.

mod meeting;

pub use meeting::{BroadcastError, ConnectError, ListenError, ParentPortError, SpawnError};

use std::fmt;
use std::io;
use thiserror::Error;

/// A refusal of the kernel: which call, and why.
#[derive(Debug, Error)]
#[error("{call}: {source}")]
pub(crate) struct SystemError {
    pub call: &'static str,
    pub source: io::Error,
}

impl SystemError {
    /// Whether it is this process or the system that lacks something, and not the peer's doing.
    pub(crate) fn is_lack(&self) -> bool {
        let lacks = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
        self.source.raw_os_error().is_some_and(|errno| lacks.contains(&errno))
    }
}

/// What a peer wrote that no program using this crate writes.
///
/// The port that met it is closed: nothing more is read from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{what} is {found:#x}, which the bound {bound:#x} does not allow")]
pub struct Corruption {
    what: &'static str,
    found: u64,
    bound: u64,
}

impl Corruption {
    pub(crate) const fn new(what: &'static str, found: u64, bound: u64) -> Corruption {
        Corruption { what, found, bound }
    }
}

/// Why a port, or one direction of it, has ended.
///
/// Every message that the peer had committed before was delivered first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// This end called `close`.
    Local,
    /// The peer called `close`.
    PeerClosed,
    /// The peer dropped its port, or the half of it that served this direction.
    PeerDropped,
    /// The peer's process ended without a word: it was killed, it crashed, or it exited while it
    /// held the port.
    PeerDied,
    /// The peer wrote what no program using this crate writes.
    Corrupt(Corruption),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Local => f.write_str("this end closed it"),
            CloseReason::PeerClosed => f.write_str("the peer closed it"),
            CloseReason::PeerDropped => f.write_str("the peer dropped it"),
            CloseReason::PeerDied => f.write_str("the peer's process has ended"),
            CloseReason::Corrupt(corruption) => write!(f, "the peer broke it: {corruption}"),
        }
    }
}

/// Why a channel could not be made. Nothing is left behind.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The builder's `capacity` or `limit` is beyond what a lane can have.
    #[error("{name} of {found} bytes: expected at most {max}; give the builder a smaller one")]
    TooLarge {
        /// `capacity` or `limit`.
        name: &'static str,
        /// Bytes asked for, rounded up.
        found: u64,
        /// Most bytes.
        max: u64,
    },
    /// A resource limit of this process is below what the region needs.
    #[error(
        "a region of {needed} bytes exceeds {resource} ({allowed} bytes): \
         give the builder a smaller `limit`, or raise the resource limit"
    )]
    ResourceLimit {
        /// `RLIMIT_FSIZE` or `RLIMIT_AS`.
        resource: &'static str,
        /// Bytes that it allows.
        allowed: u64,
        /// Bytes of the region.
        needed: u64,
    },
    /// The kernel lacks something that this crate needs.
    #[error("the kernel lacks {missing}: messageport needs Linux 5.14 or later")]
    KernelTooOld {
        /// What it lacks.
        missing: &'static str,
    },
    /// The kernel refused a call.
    #[error("{call}: {source}")]
    Io {
        /// The call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

/// Why a message was not posted. Nothing of it is in the ring, and the port is as it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PostError {
    /// Nobody will read it.
    #[error("the port is closed: {reason}")]
    Closed {
        /// Which end closed it, and how.
        reason: CloseReason,
    },
    /// The lane holds as much unread as its limit allows, or the rest is too short for this one; or
    /// the socket beside it holds as many unread packets of transferables as it can.
    #[error("no room for a message of {len} bytes: {}", full(.unread, .limit, .is_socket))]
    QueueFull {
        /// Bytes of the message.
        len: u64,
        /// Bytes that the peer has not released.
        unread: u64,
        /// Most bytes of a lane.
        limit: u64,
        /// Whether it is the queue of transferables that is full, and not the lane.
        is_socket: bool,
    },
    /// It can never fit this channel.
    #[error(
        "a message of {len} bytes can never fit: this channel takes at most {max}; \
         give it a higher limit, or move the bytes in a `Buffer`"
    )]
    TooLarge {
        /// Bytes of the message.
        len: u64,
        /// Bytes of the largest message.
        max: u64,
    },
    /// Another post, loan or burst of the same port is at work: this one came from inside a
    /// `Serialize`, or a [`Loan`](crate::Loan) is alive.
    #[error("the port is busy: a loan is open, or a value is being serialised")]
    Busy,
    /// The value could not be serialised.
    #[error("the message could not be serialised: {0}")]
    Serialize(#[source] rkyv::rancor::Error),
    /// More is to move with one message than one packet takes.
    #[error(
        "{transferables} transferables with {descriptors} descriptors are too many for a message: \
         it takes {max_transferables} and {max_descriptors}, a port having three; post several"
    )]
    TooManyTransferables {
        /// Transferables in the list.
        transferables: usize,
        /// Descriptors that they have together.
        descriptors: usize,
        /// Most transferables of a message.
        max_transferables: usize,
        /// Most descriptors of a message.
        max_descriptors: usize,
    },
    /// The list has the other end of the very channel that the message would go through: nobody
    /// could receive it there. (HTML loses the message and the port.)
    #[error("transferable {index} is the other end of the channel that is to carry it")]
    TransferLoop {
        /// Place in the list.
        index: usize,
    },
    /// The list has a port that was closed here.
    #[error("transferable {index} is a closed port")]
    Detached {
        /// Place in the list.
        index: usize,
    },
    /// The list has a port that has a [`BufferPool`](crate::BufferPool), at either end: pools stay
    /// where they are mapped.
    #[error("transferable {index} is a port with a buffer pool, which cannot move")]
    HasPool {
        /// Place in the list.
        index: usize,
    },
    /// The buffer is not of a pool that was made through this very port.
    #[error("the buffer belongs to another port's pool")]
    ForeignPool,
    /// All buffers of a [`BufferPool`](crate::BufferPool) are in use.
    #[error(
        "all {count} buffers of the pool are in use: wait until one comes back by `take_timeout`, \
         or make a pool of more"
    )]
    PoolInUse {
        /// Buffers of the pool.
        count: u32,
    },
    /// This user has too many descriptors in flight: more than `RLIMIT_NOFILE`, all sockets
    /// counted.
    #[error(
        "too many descriptors are in flight: wait until some were received, or raise RLIMIT_NOFILE"
    )]
    TooManyInFlight,
    /// The peer has chosen not to receive descriptors.
    #[error("the peer takes no transferables")]
    Refused,
    /// The time was up before there was room.
    #[error("no room for the message within the time given")]
    Timeout,
    /// A [`Canceller`](crate::Canceller) ended the wait.
    #[error("the wait for room was cancelled")]
    Cancelled,
    /// The kernel refused a call: a lack of memory for fresh pages, most likely.
    #[error("{call}: {source}")]
    Io {
        /// The call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

/// Why no message was received.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecvError {
    /// There will be no more. Every message that was committed has been delivered.
    #[error("the port is closed: {reason}")]
    Closed {
        /// Which end closed it, and how.
        reason: CloseReason,
    },
    /// The time was up.
    #[error("no message within the time given")]
    Timeout,
    /// A [`Canceller`](crate::Canceller) ended the wait.
    #[error("the wait for a message was cancelled")]
    Cancelled,
    /// This process cannot have as many more descriptors as move with the next message. It stays in
    /// the queue for a tenth of a second of tries; then it comes without them,
    /// and a [`BufferPool`](crate::BufferPool) of the peer is lost.
    #[error(
        "the next message needs {needed} descriptors: close some, or raise RLIMIT_NOFILE, \
         and receive again"
    )]
    OutOfDescriptors {
        /// Descriptors of the message.
        needed: u16,
    },
    /// The port delivers events: it was started, or has a handler of messages.
    #[error("the port delivers its messages as events: it cannot be read by calls as well")]
    Started,
    /// No memory for a private copy of the next message, which stays in the queue.
    #[error("no memory for a copy of the next message, of {len} bytes")]
    OutOfMemory {
        /// Bytes of the message.
        len: u64,
    },
    /// The kernel refused a call.
    #[error("{call}: {source}")]
    Io {
        /// The call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

/// Why a message is not what it was asked to be. The port lives on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The bytes are not a valid archive of the type.
    #[error("the message is no valid archive of {expected}: do both programs mean the same type?")]
    Invalid {
        /// Name of the type.
        expected: &'static str,
        /// What the validation found.
        source: rkyv::rancor::Error,
    },
    /// The message was posted as something else.
    #[error("the message was posted as {found}, but {expected} was asked for")]
    Format {
        /// What was asked for.
        expected: &'static str,
        /// How it was posted.
        found: &'static str,
    },
    /// The bytes are not UTF-8.
    #[error("the message is no text: {0}")]
    NotText(#[source] std::str::Utf8Error),
    /// What moved with the message was lost: this process could have no more descriptors.
    #[error("what moved with the message is lost: no room for its {descriptors} descriptors")]
    Lost {
        /// Descriptors that it had.
        descriptors: u16,
    },
    /// There was no memory for a private copy of it. It is lost.
    #[error("no memory for a copy of the message, of {len} bytes: it is lost")]
    OutOfMemory {
        /// Bytes of the message.
        len: u64,
    },
    /// Nothing of that kind moved with the message, or all of it was taken.
    #[error("the message has no {kind}, or none is left in it")]
    NothingLeft {
        /// What was asked for.
        kind: &'static str,
    },
    /// The message names a buffer of a [`BufferPool`](crate::BufferPool) that this end does not
    /// have: it did not trust its peer when the pool came, or there was no room for its descriptor.
    #[error(
        "the message's buffer is of a pool that this end does not have: call `trust_peer` before \
         the first look for messages, and leave room for a descriptor"
    )]
    UnknownPool,
    /// What moved with the message as a port is none that can be used.
    #[error(transparent)]
    Port(AttachError),
    /// What moved with the message as a buffer is none that can be used.
    #[error(transparent)]
    Buffer(BufferError),
}

/// Why a [`BufferPool`](crate::BufferPool) cannot be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The port is not trusted: a pool is memory that both ends write.
    #[error("a buffer pool needs trust: call `trust_peer` at both ends first")]
    NotTrusted,
    /// A pool of nothing.
    #[error("a pool of {count} buffers of {len} bytes: it takes one of one byte at least")]
    Empty {
        /// Buffers asked for.
        count: u32,
        /// Bytes of each.
        len: usize,
    },
    /// A port has so many pools at the most, those that were dropped included.
    #[error("the port has had {max} pools already, and takes no more")]
    TooMany {
        /// Most pools of a port.
        max: usize,
    },
    /// It could not be announced to the peer.
    #[error(transparent)]
    Post(#[from] PostError),
    /// Its memory could not be made.
    #[error(transparent)]
    Memory(#[from] BufferError),
}

/// Why a [`Buffer`](crate::Buffer) cannot be made or used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BufferError {
    /// It can no longer be written: it was received, sealed or posted. `into_mut` makes a private
    /// copy.
    #[error("the buffer is sealed: take a private copy by `into_mut`")]
    Sealed,
    /// It would exceed `RLIMIT_FSIZE`.
    #[error("a buffer of {len} bytes exceeds RLIMIT_FSIZE ({allowed} bytes)")]
    TooLarge {
        /// Bytes asked for.
        len: u64,
        /// Bytes that the limit allows.
        allowed: u64,
    },
    /// What the peer sent is not memory that nobody can change.
    #[error("what was sent is no buffer: {what}")]
    Refused {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The value could not be serialised.
    #[error("the value could not be serialised: {0}")]
    Serialize(#[source] rkyv::rancor::Error),
    /// The value took another length when it was serialised again.
    #[error("the value took {len} bytes at first and {again} bytes when it was serialised again")]
    LengthChanged {
        /// Bytes at first.
        len: usize,
        /// Bytes then.
        again: usize,
    },
    /// The bytes are not a valid archive of the type.
    #[error("the buffer holds no valid archive of {expected}: {source}")]
    Invalid {
        /// Name of the type.
        expected: &'static str,
        /// What the validation found.
        source: rkyv::rancor::Error,
    },
    /// The kernel refused a call.
    #[error("{call}: {source}")]
    Io {
        /// The call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

/// A port carries another schema than was required.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the channel carries schema {found:#x}, but {required:#x} is required")]
pub struct SchemaError {
    /// What was required.
    pub required: u64,
    /// What the channel's creator said.
    pub found: u64,
}

/// Why a descriptor or region from elsewhere is not accepted as a port.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AttachError {
    /// It is not what a port is made of.
    #[error("not a port: {what}")]
    NotAPort {
        /// What is wrong with it.
        what: &'static str,
    },
    /// It was made by a program that cannot be talked to.
    #[error("the other program uses another {what}: {found:#x}, here {expected:#x}")]
    Differs {
        /// What differs: the layout version, the payload format, …
        what: &'static str,
        /// The other program's.
        found: u64,
        /// This program's.
        expected: u64,
    },
    /// Its words contradict each other.
    #[error("the peer broke it: {0}")]
    Corrupt(#[source] Corruption),
    /// The kernel refused a call.
    #[error("{call}: {source}")]
    Io {
        /// The call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

/// Why an [`EventLoop`](crate::EventLoop) or a [`PortSet`](crate::PortSet) cannot go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoopError {
    /// The kernel refused a call.
    #[error("{call}: {source}")]
    Io {
        /// The call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

fn full(unread: &u64, limit: &u64, is_socket: &bool) -> String {
    match is_socket {
        true => "the queue of transferables is full; wait until some were received".to_owned(),
        false => format!(
            "{unread} of at most {limit} bytes are unread, and the rest, some of it reserved, has \
             no place for the message in one piece; wait for room, which an open burst makes by \
             being committed, or give the channel a higher limit"
        ),
    }
}

impl From<SystemError> for ChannelError {
    fn from(SystemError { call, source }: SystemError) -> Self {
        ChannelError::Io { call, source }
    }
}

impl From<SystemError> for PostError {
    fn from(SystemError { call, source }: SystemError) -> Self {
        PostError::Io { call, source }
    }
}

impl From<SystemError> for RecvError {
    fn from(SystemError { call, source }: SystemError) -> Self {
        RecvError::Io { call, source }
    }
}

impl From<SystemError> for BufferError {
    fn from(SystemError { call, source }: SystemError) -> Self {
        BufferError::Io { call, source }
    }
}

impl From<SystemError> for AttachError {
    fn from(SystemError { call, source }: SystemError) -> Self {
        AttachError::Io { call, source }
    }
}

impl From<SystemError> for LoopError {
    fn from(SystemError { call, source }: SystemError) -> Self {
        LoopError::Io { call, source }
    }
}
