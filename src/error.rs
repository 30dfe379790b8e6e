//! Every error that a caller can get. Layer 0.
//!
//! A bug of this crate is an assertion; bad bytes of the peer are [`CloseReason::Corrupt`] and a
//! closed port; a refusal of the kernel names its call.

mod end;
mod io_error;
mod meeting;
mod requests;
mod text;
mod types;
#[cfg(feature = "value")]
pub(crate) mod value;

pub use end::{CloseReason, Corruption};
#[cfg_attr(messageport_loom, allow(unused_imports))]
pub(crate) use io_error::{AsIoError, into_io_error};
pub(crate) use meeting::{BROADCAST_PREFIX, flaw_of_listener_name, flaw_of_name};
pub use meeting::{BroadcastError, ConnectError, ListenError, ParentPortError, SpawnError};
pub(crate) use requests::worker;
pub use requests::{CallError, LostWorker, TaskError};
#[cfg_attr(
    not(any(test, all(feature = "tokio", not(feature = "async-io")))),
    allow(unused_imports)
)]
pub(crate) use text::NO_RUNTIME;
#[cfg_attr(messageport_loom, allow(unused_imports))]
pub(crate) use text::{FRAME_INSTEAD, OPEN_LOCK, flaw_of_path};
pub use types::TypeMismatch;
pub(crate) use types::shorten;
#[cfg(feature = "value")]
pub use value::ValueError;

use std::io;
use thiserror::Error;

/// A system call that the kernel refused, and why. The variant `Io` of every other error contains
/// one.
///
/// ```
/// use messageport::PostError;
/// use std::io::ErrorKind;
///
/// fn is_short_of_memory(error: &PostError) -> bool {
///     matches!(error, PostError::Io(error) if error.source.kind() == ErrorKind::OutOfMemory)
/// }
/// # assert!(!is_short_of_memory(&PostError::Busy));
/// ```
#[derive(Debug, Error)]
#[error("{}", text::refused(call, source))]
#[non_exhaustive]
pub struct SystemError {
    /// The call.
    pub call: &'static str,
    /// Its error.
    pub source: io::Error,
}

impl SystemError {
    /// Whether this process or the system is out of something, rather than the peer being at fault.
    pub(crate) fn is_lack(&self) -> bool {
        let lacks = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::ETOOMANYREFS];
        self.source.raw_os_error().is_some_and(|errno| lacks.contains(&errno))
    }
}

/// Why a channel could not be created. Nothing is left behind.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The builder's `capacity` or `limit` is above the maximum of a lane.
    #[error(
        "{name} of {found} bytes is too large: expected at most {max}; give the builder a smaller \
         one"
    )]
    TooLarge {
        /// `capacity` or `limit`.
        name: &'static str,
        /// Bytes requested, rounded up.
        found: u64,
        /// The maximum, in bytes.
        max: u64,
    },
    /// A resource limit of this process is below what the region needs.
    #[error(
        "a region of {needed} bytes exceeds {resource} ({allowed} bytes): give the builder a \
         smaller `limit`, or raise the resource limit"
    )]
    ResourceLimit {
        /// The limit: `RLIMIT_FSIZE` or `RLIMIT_AS`.
        resource: &'static str,
        /// Bytes that the limit allows.
        allowed: u64,
        /// Bytes of the region.
        needed: u64,
    },
    /// The kernel lacks something that this crate needs.
    #[error(
        "the kernel lacks {missing}: messageport needs Linux 5.14 or later, so update the kernel"
    )]
    KernelTooOld {
        /// The missing feature.
        missing: &'static str,
    },
    /// The kernel refused a call.
    #[error(transparent)]
    Io(#[from] SystemError),
}

/// Why a message was not posted. Nothing of it is in the ring, and the port is unchanged.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PostError {
    /// The port is closed, so no peer will read the message.
    #[error("the port is closed, because {reason}: a post needs an open port; make a new channel")]
    Closed {
        /// Which end closed it, and how.
        reason: CloseReason,
    },
    /// The message does not fit now.
    ///
    /// Unread messages fill the lane up to its limit, or the remaining room is too small for this
    /// message. Or the socket for transferables is full of unread packets.
    #[error("no room for a message of {len} bytes: {}", text::full(*unread, *limit, *is_socket))]
    QueueFull {
        /// Bytes of the message.
        len: u64,
        /// Bytes that the peer has not released.
        unread: u64,
        /// The limit of a lane, in bytes.
        limit: u64,
        /// Whether the socket for transferables is full, not the lane.
        is_socket: bool,
    },
    /// The message can never fit this channel.
    #[error(
        "a message of {len} bytes can never fit, as this channel takes at most {max}: give it a \
         higher limit, or send the bytes in pieces (through a port, also in a `Buffer`)"
    )]
    TooLarge {
        /// Bytes of the message.
        len: u64,
        /// The longest message that fits, in bytes.
        max: u64,
    },
    /// The port is in use by another post, loan or burst.
    ///
    /// The call came from inside a `Serialize`, or a [`Loan`](crate::Loan) is alive.
    #[error(
        "the port is busy with a loan or a value that is being serialised, and does one thing at \
         a time: post again when that has ended"
    )]
    Busy,
    /// The value could not be serialised, or has more than 254 levels of pointers.
    #[error(
        "the message could not be serialised, and nothing was posted: expected a value whose own \
         `Serialize` succeeds; correct what the source of this error names"
    )]
    Serialize(#[source] rkyv::rancor::BoxedError),
    /// The list has more items or descriptors than one message can carry.
    #[error(
        "{transferables} transferables with {descriptors} descriptors are too many for a message: \
         it takes {max_transferables} and {max_descriptors}, a port having three; post several"
    )]
    TooManyTransferables {
        /// Transferables in the list.
        transferables: usize,
        /// Descriptors that they have in total.
        descriptors: usize,
        /// The most transferables of a message.
        max_transferables: usize,
        /// The most descriptors of a message.
        max_descriptors: usize,
    },
    /// The list contains the other end of the channel that carries the message.
    ///
    /// No process could receive it there. (On the web, the message and the port are lost.)
    #[error(
        "transferable {index} is the other end of the channel that is to carry it, so that no \
         process could receive it: post it through another port"
    )]
    TransferLoop {
        /// Index in the list.
        index: usize,
    },
    /// The list contains a port that was closed here.
    #[error(
        "transferable {index} is a closed port, and only an open one moves: leave it out of the \
         list"
    )]
    Detached {
        /// Index in the list.
        index: usize,
    },
    /// The list contains a port that has a [`BufferPool`](crate::BufferPool), at either end. Pools
    /// stay where they are mapped.
    #[error(
        "transferable {index} is a port with a buffer pool, whose memory stays mapped where it \
         is: move a port without one"
    )]
    HasPool {
        /// Index in the list.
        index: usize,
    },
    /// The buffer is of a pool that the peer does not know, and cannot be told of: this end does
    /// not trust its peer, or the port has announced as many pools as it can.
    #[error(
        "the buffer belongs to another port's pool, and cannot be passed on by this one: call \
         `trust_peer`, and pass on buffers of fewer than 32 pools"
    )]
    ForeignPool,
    /// The peer has not accepted the pool: it did not trust this end when the pool came, it refuses
    /// transferables, or it was out of descriptors.
    ///
    /// Buffers of the pool that were posted before do not come back. Drop the pool: its memory is
    /// then freed with the port.
    #[error(
        "the peer has not accepted the buffer's pool: have both ends call `trust_peer` before the \
         peer receives, leave it room for a descriptor, and make another pool"
    )]
    PoolRefused,
    /// All buffers of a [`BufferPool`](crate::BufferPool) are in use.
    #[error(
        "all {count} buffers of the pool are in use: wait until one comes back by `take_timeout`, \
         or make a pool of more"
    )]
    PoolInUse {
        /// Buffers of the pool.
        count: u32,
    },
    /// This user has too many descriptors in flight, counting all sockets: more than
    /// `RLIMIT_NOFILE`.
    #[error(
        "too many descriptors of this user are in flight, more than RLIMIT_NOFILE allows: wait \
         until some were received, or raise the limit"
    )]
    TooManyInFlight,
    /// The channel or the peer refuses transferables.
    ///
    /// The channel was made with [`refuse_transfers`](crate::ChannelBuilder::refuse_transfers), or
    /// the peer's socket takes no descriptors.
    #[error(
        "this channel refuses transferables, as its maker or the peer has chosen: post the message \
         without a list, or through another channel"
    )]
    Refused,
    /// The request was answered before.
    #[error("the request was answered before, and takes one reply: post more through another port")]
    Answered,
    /// The peer's typed port receives another type than this typed port posts.
    #[error(transparent)]
    TypeMismatch(TypeMismatch),
    /// The time was up before the message fitted.
    #[error(
        "no room for the message within the time given: wait for longer, or see that the peer \
         receives"
    )]
    Timeout,
    /// A [`Canceller`](crate::Canceller) ended the wait.
    #[error(
        "the wait for room was ended by a `Canceller`, and nothing was posted: post again to go \
         on"
    )]
    Cancelled,
    /// The kernel refused a call, usually for lack of memory for fresh pages.
    #[error(transparent)]
    Io(#[from] SystemError),
}

/// Why no message was received.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecvError {
    /// No more messages can come, and every committed message has been delivered.
    #[error(
        "the port is closed, because {reason}: every message before was delivered, and none can \
         follow; make a new channel"
    )]
    Closed {
        /// Which end closed it, and how.
        reason: CloseReason,
    },
    /// The time was up.
    #[error("no message within the time given: wait for longer, or see that the peer posts")]
    Timeout,
    /// A [`Canceller`](crate::Canceller) ended the wait.
    #[error("the wait for a message was ended by a `Canceller`: receive again to go on")]
    Cancelled,
    /// This process has too few free descriptors for the next message.
    ///
    /// The message stays in the queue while receiving is retried for a tenth of a second. After
    /// that the message is returned without its transferables; a [`BufferPool`](crate::BufferPool)
    /// of the peer is lost in the same way.
    ///
    /// The error is also returned while 256 descriptors that came through this port, and that the
    /// program did not take, wait to be closed. In that case the message keeps its transferables
    /// until there is room.
    #[error(
        "the next message needs {needed} descriptors, and there is no room for them now: close \
         some, raise RLIMIT_NOFILE, or wait until those of dropped messages are closed, and \
         receive again"
    )]
    OutOfDescriptors {
        /// Descriptors of the message.
        needed: u16,
    },
    /// The port delivers events: it was started, or has a handler for messages.
    #[error(
        "the port was started, by `on_message` or `start`, so it delivers its messages as events, \
         and receiving calls fail: add it to an `EventLoop`, call `dispatch`, or receive from a \
         port that was not started"
    )]
    Started,
    /// A private copy of the next message cannot be allocated. The message stays in the queue.
    #[error(
        "no memory for a copy of the next message, of {len} bytes, which stays in the queue: free \
         some and receive again, or step over it by `discard_next`"
    )]
    OutOfMemory {
        /// Bytes of the message.
        len: u64,
    },
    /// The kernel refused a call.
    #[error(transparent)]
    Io(#[from] SystemError),
}

/// Why a message could not be read as requested. The port stays usable.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The bytes are not a valid archive of the type.
    #[error(
        "the message is no valid archive of {expected}: receive it as the type that the peer \
         posts, and build both programs with the same definition"
    )]
    Invalid {
        /// Name of the type.
        expected: &'static str,
        /// What the validation found.
        source: rkyv::rancor::BoxedError,
    },
    /// The message was posted in another format.
    #[error(
        "the message was posted as {found}, but {expected} was asked for: read text with `text`, \
         bytes with `bytes`, an archive with `data` or `deserialize`, and a value with `value`"
    )]
    Format {
        /// The format that was requested.
        expected: &'static str,
        /// The format that it was posted in.
        found: &'static str,
    },
    /// The bytes are not UTF-8.
    #[error(
        "the message is no text, which has to be UTF-8: read it by `bytes`, or have it posted as \
         text"
    )]
    NotText(#[source] std::str::Utf8Error),
    /// The message is no value, or not of the type that was asked for; with the feature `value`.
    #[cfg(feature = "value")]
    #[cfg_attr(docsrs, doc(cfg(feature = "value")))]
    #[error(
        "the message does not fit the type: {0}; receive the type that the peer posts, or a \
         `messageport::Value`, which takes any value"
    )]
    Value(ValueError),
    /// The transferables were lost: this process had too few free descriptors.
    #[error(
        "the message has lost its {descriptors} descriptors, as this process could have no more: \
         close some or raise RLIMIT_NOFILE, and have it sent again"
    )]
    TransfersLost {
        /// The number of descriptors that it had.
        descriptors: u16,
    },
    /// The message brought transferables to a port that
    /// [refuses](crate::MessagePort::refuse_transfers) them.
    ///
    /// The message was dropped with everything that it brought.
    #[error(
        "the message brought {descriptors} descriptors to a port that refuses transferables, and \
         was dropped with them: have the peer post it without a list, or do not call \
         `refuse_transfers`"
    )]
    TransfersRefused {
        /// The number of descriptors that it brought, as the sender claims; a port has three.
        descriptors: u16,
    },
    /// A private copy of the message could not be allocated. The message is lost.
    #[error(
        "no memory for a copy of the message, of {len} bytes, which is lost: free some, and have \
         it sent again"
    )]
    OutOfMemory {
        /// Bytes of the message.
        len: u64,
    },
    /// No transferable of that kind came with the message, or all of them were taken.
    #[error("the message has no {kind} left in it: {}", text::taking(kind))]
    NothingLeft {
        /// The kind that was requested.
        kind: &'static str,
    },
    /// The message's buffer is from a [`BufferPool`](crate::BufferPool) that this end does not
    /// have.
    ///
    /// There are three possible reasons: the end did not trust its peer when the pool came, it
    /// [refuses](crate::MessagePort::refuse_transfers) transferables, or the process was out of
    /// descriptors.
    #[error(
        "the message's buffer is of a pool that this end does not have: call `trust_peer` before \
         the first look for messages, and leave room for a descriptor"
    )]
    UnknownPool,
    /// The peer's typed port posts another type than this typed port receives.
    #[error(transparent)]
    TypeMismatch(TypeMismatch),
    /// The transferred port is not usable.
    #[error(transparent)]
    Port(AttachError),
    /// The transferred buffer is not usable.
    #[error(transparent)]
    Buffer(BufferError),
}

/// Why a [`BufferPool`](crate::BufferPool) could not be created.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The port is not trusted: a pool is memory that both ends write.
    #[error(
        "a pool of `BufferPool::new` needs trust: call `trust_peer` at both ends first, or make \
         one by `BufferPool::for_untrusted`, which needs none"
    )]
    NotTrusted,
    /// The pool would have no buffers, or buffers of zero bytes.
    #[error(
        "a pool of {count} buffers of {len} bytes is empty: ask for at least one buffer of one \
         byte"
    )]
    Empty {
        /// Buffers requested.
        count: u32,
        /// Bytes of each.
        len: usize,
    },
    /// The pool, between ends that need not trust each other, would have too many frames.
    #[error("a pool for an untrusted peer has at most {max} frames, not {count}: make it smaller")]
    TooManyFrames {
        /// Frames requested.
        count: u32,
        /// The most frames of such a pool.
        max: u32,
    },
    /// The port has had as many pools as it can, dropped ones included.
    #[error(
        "the port has had {max} pools already, which is all that it takes: make one pool with \
         more buffers, or use another port"
    )]
    TooMany {
        /// The most pools of a port.
        max: usize,
    },
    /// The pool could not be announced to the peer.
    #[error(transparent)]
    Post(#[from] PostError),
    /// The pool's memory could not be allocated.
    #[error(transparent)]
    Memory(#[from] BufferError),
}

/// Why a [`Buffer`](crate::Buffer) could not be created or used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BufferError {
    /// The buffer can no longer be written: it was received, sealed or posted. `into_mut` makes a
    /// private copy.
    #[error("the buffer is sealed, so its bytes cannot change: take a private copy by `into_mut`")]
    Sealed,
    /// The buffer or pool would exceed `RLIMIT_FSIZE`, or `i64::MAX`, which no file does.
    #[error("{}", text::too_large(*len, *allowed))]
    TooLarge {
        /// Bytes requested.
        len: u64,
        /// Bytes that are allowed.
        allowed: u64,
    },
    /// The writer's buffer is full.
    #[error("the buffer of {capacity} bytes is full: give `Buffer::writer` room for all bytes")]
    Full {
        /// Bytes that the writer was made for.
        capacity: usize,
    },
    /// The peer sent something other than sealed memory.
    #[error(
        "what was sent is no buffer: {what}, where sealed memory is expected; have the peer send \
         a `Buffer`"
    )]
    Refused {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The descriptor is none that a buffer can be made of.
    #[error(
        "the descriptor cannot become a buffer: {what}; expected is one of memfd_create(2) with \
         MFD_ALLOW_SEALING, open for reading and writing, that no process has mapped for writing"
    )]
    Unsuitable {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The value could not be serialised.
    #[error(
        "the value could not be serialised into the buffer: expected one whose own `Serialize` \
         succeeds; correct what the source of this error names"
    )]
    Serialize(#[source] rkyv::rancor::BoxedError),
    /// The value had a different length when it was serialised a second time.
    #[error(
        "the value took {len} bytes at first and {again} bytes when it was serialised again: have \
         its `Serialize` write the same each time"
    )]
    LengthChanged {
        /// Bytes the first time.
        len: usize,
        /// Bytes the second time.
        again: usize,
    },
    /// The bytes are not a valid archive of the type.
    #[error(
        "the buffer holds no valid archive of {expected}: read it as the type that was written, \
         and build both programs with the same definition"
    )]
    Invalid {
        /// Name of the type.
        expected: &'static str,
        /// What the validation found.
        source: rkyv::rancor::BoxedError,
    },
    /// The kernel refused a call.
    #[error(transparent)]
    Io(#[from] SystemError),
}

/// A port carries a schema that differs from the required one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the channel carries schema {found:#x}, but {required:#x} is required: set this `schema` in \
     the builder that makes the channel"
)]
pub struct SchemaError {
    /// The schema that was required.
    pub required: u64,
    /// The schema that the channel's creator chose.
    pub found: u64,
}

/// Why a descriptor or region from elsewhere was not accepted as a port.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AttachError {
    /// It is not a port of this crate.
    #[error("what arrived is no port: {what}; have the peer send a port of this crate")]
    NotAPort {
        /// What is wrong with it.
        what: &'static str,
    },
    /// It was made by an incompatible program.
    #[error(
        "the other program uses another {what}, {found:#x}, where this one has {expected:#x}: {}",
        text::agree(what)
    )]
    Incompatible {
        /// What differs: the layout version, the payload format, …
        what: &'static str,
        /// The other program's value.
        found: u64,
        /// This program's value.
        expected: u64,
    },
    /// Its contents contradict each other.
    #[error(transparent)]
    Corrupt(Corruption),
    /// The kernel refused a call.
    #[error(transparent)]
    Io(#[from] SystemError),
}

/// Why an [`EventLoop`](crate::EventLoop) or a [`PortSet`](crate::PortSet) could not continue.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoopError {
    /// The kernel refused a call.
    #[error(transparent)]
    Io(#[from] SystemError),
}
