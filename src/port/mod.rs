//! Layer 4: what the web defines, and nothing about memory or system calls.
//!
//! The methods of [`MessagePort`] stand in groups: here those that post, receive, close, measure;
//! in [`transfer`] those that move something; in [`halves`] those that split and join; in
//! [`events`] and [`delivery`] those of events; in [`typed`] the conversion; in `front` the waits.

pub(crate) mod agreement;
pub(crate) mod batch;
pub(crate) mod burst;
pub(crate) mod cancel;
pub(crate) mod channel;
pub(crate) mod content;
pub(crate) mod delivery;
pub(crate) mod event;
pub(crate) mod event_target;
pub(crate) mod events;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(crate) mod halves;
pub(crate) mod id;
pub(crate) mod label;
pub(crate) mod listener;
pub(crate) mod loan;
pub(crate) mod message;
pub(crate) mod peek;
pub(crate) mod pool;
pub(crate) mod receiver;
pub(crate) mod requests;
pub(crate) mod sender;
pub(crate) mod shared;
pub(crate) mod target;
pub(crate) mod transfer;
pub(crate) mod typed;
pub(crate) mod typed_halves;
pub(crate) mod typed_iter;
pub(crate) mod typed_message;
pub(crate) mod typed_shared;
#[cfg(feature = "value")]
pub(crate) mod value;

use crate::error::{CloseReason, PostError, RecvError, SchemaError};
use crate::link::endpoint::{Endpoint, PeerCredentials};
use crate::link::payload::Post;
use crate::link::receiving::chunks::Polled;
use crate::link::stats::{Backlog, PortStats};
use crate::link::transfer::Halves;
use agreement::Validator;
use burst::Burst;
use cancel::Canceller;
use event::MessageEvent;
use events::Watcher;
use loan::Loan;
use receiver::Receiver;
use sender::Sender;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use target::Listeners;

/// One end of a channel.
///
/// A port posts and receives messages, and each direction keeps its order. A port is `Send` but not
/// `Sync`: one thread uses it at a time, or two threads after [`split`](Self::split).
///
/// The peer may be another thread or another process, and may be hostile: whatever it does, this
/// API stays memory-safe and does not panic. A hostile peer can end the conversation, fill its
/// direction of the channel up to the limit, and delay calls by removing shared pages.
/// `docs/safety.md` lists every harm, what bounds it, and the remedy. When the peer closes its
/// port, drops it, or dies, everything that it posted is delivered first. Then every receiving call
/// returns `Closed`, with the reason.
///
/// HTML: [`MessagePort`](https://html.spec.whatwg.org/#message-ports). Posting to a closed port is
/// an error here; on the web the message is dropped silently.
///
/// ```
/// use messageport::MessageChannel;
///
/// #[messageport::message]
/// struct Order { id: u64, item: String }
///
/// let MessageChannel { port1, port2 } = MessageChannel::new()?;
/// port1.post_message(&Order { id: 7, item: "lamp".into() })?;
/// let event = port2.recv()?;
/// let order = event.data::<Order>()?;
/// assert_eq!((order.id.to_native(), order.item.as_str()), (7, "lamp"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct MessagePort {
    sender: Sender,
    receiver: Receiver,
    events: Listeners,
    /// Whether messages are delivered as events.
    is_started: Cell<bool>,
    /// Why it ended, once its `close` was delivered, or would have been if it was closed here.
    said_close: Cell<Option<CloseReason>>,
    /// The peer's end was delivered while messages were unread.
    said_peer_gone: Cell<bool>,
    /// It was delivered that the peer, which has ended, posts another type.
    said_mismatch: Cell<bool>,
    /// An event is being delivered.
    is_delivering: Cell<bool>,
    /// An event loop has a handler for the port.
    has_loop_handler: Cell<bool>,
    /// The cost of the messages that were delivered as events.
    spent: Cell<u32>,
    /// The event loop that owns the port, if any.
    watcher: RefCell<Option<Watcher>>,
    /// On a typed port: the check that every message must pass.
    validator: RefCell<Option<Validator>>,
}

impl MessagePort {
    pub(crate) fn new((sending, receiving): Halves) -> MessagePort {
        MessagePort::of_halves(Sender::new(sending), Receiver::new(receiving))
    }

    fn of_halves(sender: Sender, receiver: Receiver) -> MessagePort {
        MessagePort {
            sender,
            receiver,
            events: Listeners::default(),
            is_started: Cell::new(false),
            said_close: Cell::new(None),
            said_peer_gone: Cell::new(false),
            said_mismatch: Cell::new(false),
            is_delivering: Cell::new(false),
            has_loop_handler: Cell::new(false),
            spent: Cell::new(0),
            watcher: RefCell::new(None),
            validator: RefCell::new(None),
        }
    }

    /// Posts a value to the other end; never waits for the receiver.
    ///
    /// Serialises straight into shared memory, whose use grows up to the channel's
    /// [`limit`](Self::limit). Makes no system call while the receiver keeps up, one to wake a
    /// sleeping receiver, and one for each step of fresh pages (16 to 64 KiB). `Ok` means that the
    /// message is in shared memory: the peer can receive it even if this process is killed
    /// immediately afterwards.
    ///
    /// After the peer has died, a post can still return `Ok` for up to 100 ms or 64 posts,
    /// whichever is longer. A page fault can delay the call, see `docs/safety.md`.
    ///
    /// HTML: [message port post message steps][steps].
    ///
    /// [steps]: https://html.spec.whatwg.org/#message-port-post-message-steps
    ///
    /// # Errors
    /// After an error, no part of the message is in the ring.
    /// - [`Closed`](PostError::Closed): either end is closed, or the peer has died.
    /// - [`QueueFull`](PostError::QueueFull): there is no room. A message of more than a quarter
    ///   of the limit may need the queue to be empty, and one more attempt after the peer has
    ///   received again.
    /// - [`TooLarge`](PostError::TooLarge): the message can never fit.
    /// - [`Busy`](PostError::Busy): a `Serialize` or a loan of this port is in progress.
    /// - [`Serialize`](PostError::Serialize): the value's own error.
    /// - [`Io`](PostError::Io): memory has run out.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_message(&(1u32, "one".to_string()))?;
    /// assert_eq!(channel.port2.recv()?.data::<(u32, String)>()?.1, "one");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn post_message<T: Post>(&self, value: &T) -> Result<(), PostError> {
        self.sender.post_message(value)
    }

    /// Posts bytes; never waits for the receiver. Copies them once.
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message), except `Serialize`.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_bytes(b"raw")?;
    /// assert_eq!(channel.port2.recv()?.bytes(), b"raw");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn post_bytes(&self, bytes: &[u8]) -> Result<(), PostError> {
        self.sender.post_bytes(bytes)
    }

    /// Posts text; never waits for the receiver. Copies it once.
    ///
    /// # Errors
    /// As [`post_bytes`](Self::post_bytes).
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_text("words")?;
    /// assert_eq!(channel.port2.recv()?.text()?, "words");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn post_text(&self, text: &str) -> Result<(), PostError> {
        self.sender.post_text(text)
    }

    /// Reserves a message of `len` bytes, which the caller fills and then posts.
    ///
    /// On a trusted port the bytes are in the ring, so that a file can be read straight into it.
    ///
    /// # Errors
    /// As [`post_bytes`](Self::post_bytes).
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// let mut loan = channel.port1.loan(3)?;
    /// loan.copy_from_slice(b"abc");
    /// loan.post()?;
    /// assert_eq!(channel.port2.recv()?.bytes(), b"abc");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn loan(&self, len: usize) -> Result<Loan<'_>, PostError> {
        self.sender.loan(len)
    }

    /// Begins a burst: messages that are staged one by one and published together.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// let burst = channel.port1.burst();
    /// burst.stage(&1u8)?;
    /// burst.stage_text("two")?;
    /// burst.commit();
    /// assert_eq!(*channel.port2.recv()?.data::<u8>()?, 1);
    /// assert_eq!(channel.port2.recv()?.text()?, "two");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn burst(&self) -> Burst<'_> {
        self.sender.burst()
    }

    /// Takes the next message, if there is one.
    ///
    /// Makes no system call while messages keep coming. While there is no message, it asks the
    /// kernel ten times a second whether the peer is alive. After the first [`as_fd`](AsFd::as_fd),
    /// each call that finds no message makes a system call, which drains the doorbell. Before that,
    /// the first call after a message that finds none pauses for about 20 ns, so that a busy sender
    /// can post more.
    ///
    /// # Errors
    /// - [`Closed`](RecvError::Closed), with the reason: all messages were delivered, and no more
    ///   can come. Every later call returns the same.
    /// - [`OutOfMemory`](RecvError::OutOfMemory): a private copy cannot be allocated.
    /// - [`OutOfDescriptors`](RecvError::OutOfDescriptors): this process has too few free
    ///   descriptors for the message's transferables, or for a [`BufferPool`](crate::BufferPool)
    ///   before it.
    /// - [`Started`](RecvError::Started): the port delivers its messages as events.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// assert!(channel.port2.try_recv()?.is_none());
    /// channel.port1.post_bytes(b"now")?;
    /// assert_eq!(channel.port2.try_recv()?.unwrap().bytes(), b"now");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn try_recv(&self) -> Result<Option<MessageEvent<'_>>, RecvError> {
        if self.is_started.get() {
            return Err(RecvError::Started);
        }
        self.receive_message()
    }

    /// Slow path of `try_recv`. Its result is of another type: one whose address is passed to a
    /// call that may fill it would be in memory on the fast path too.
    #[cold]
    #[inline(never)]
    fn try_recv_slow(&self) -> Result<Option<MessageEvent<'_>>, Box<RecvError>> {
        self.receiver.poll_slow().inspect_err(|failure| self.end_if_broken(failure))
    }

    /// Like `try_recv`, for users of several ports: it copies a long message in chunks.
    #[inline(always)]
    pub(crate) fn poll_in_chunks(&self) -> Result<Polled<MessageEvent<'_>>, RecvError> {
        if self.is_started.get() {
            return Err(RecvError::Started);
        }
        self.receiver.poll_in_chunks().map_err(|failure| {
            self.end_if_broken(&failure);
            *failure
        })
    }

    /// Skips the next message without reading it; returns whether there was one.
    ///
    /// Use it to continue after [`OutOfMemory`](RecvError::OutOfMemory).
    ///
    /// # Errors
    /// [`Closed`](RecvError::Closed), as [`try_recv`](Self::try_recv);
    /// [`OutOfDescriptors`](RecvError::OutOfDescriptors) if a [`BufferPool`](crate::BufferPool)
    /// comes before the message.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_text("unwanted")?;
    /// assert!(channel.port2.discard_next()?);
    /// assert!(!channel.port2.discard_next()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn discard_next(&self) -> Result<bool, RecvError> {
        self.check_not_started()?;
        self.receiver.discard_next().inspect_err(|error| self.end_if_broken(error))
    }

    /// Returns a handle that ends a blocked call of this port from another thread.
    ///
    /// The first call takes one descriptor; later calls on the same port take none.
    ///
    /// # Errors
    /// [`RecvError::Io`] if the process is out of descriptors.
    pub fn canceller(&self) -> Result<Canceller, RecvError> {
        let canceller = self.receiver.canceller()?;
        self.sender.share_switch(canceller.switch());
        Ok(canceller)
    }

    /// Closes this end; never blocks, and does nothing the second time.
    ///
    /// The peer receives everything posted before, and then `Closed`. Messages in this end's own
    /// queue can still be received; after them every call returns [`CloseReason::Local`].
    ///
    /// HTML: [`close()`](https://html.spec.whatwg.org/#dom-messageport-close).
    ///
    /// [`CloseReason::Local`]: crate::CloseReason::Local
    ///
    /// ```
    /// use messageport::{CloseReason, MessageChannel, RecvError};
    ///
    /// let channel = MessageChannel::new()?;
    /// channel.port1.post_text("last words")?;
    /// channel.port1.close();
    /// assert_eq!(channel.port2.recv()?.text()?, "last words");
    /// let end = channel.port2.recv().unwrap_err();
    /// assert!(matches!(end, RecvError::Closed { reason: CloseReason::PeerClosed }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) {
        self.sender.close();
        self.receiver.close();
        self.call_watcher();
    }

    /// Whether posts fail because either end is closed or the peer is gone.
    ///
    /// Messages may still be waiting to be received. Makes at most one system call.
    ///
    /// This call asks the kernel whether the peer has died. Posts notice a death only after up to
    /// 100 ms or 64 posts, whichever is longer, and `try_recv` after up to 100 ms. So call
    /// `is_closed` before the thread blocks on anything other than this port.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// assert!(!channel.port1.is_closed());
    /// drop(channel.port2);
    /// assert!(channel.port1.is_closed());
    /// # Ok::<(), messageport::ChannelError>(())
    /// ```
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Counts the messages that this end has posted and that the peer has not received.
    ///
    /// After the peer has closed its port or died, these are the messages that it never received.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_text("unread")?;
    /// drop(channel.port2);
    /// assert_eq!(channel.port1.backlog().messages, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        self.sender.backlog()
    }

    /// Promises that the peer keeps the protocol, so that this port reads and writes messages in
    /// place.
    ///
    /// From now on this port makes one copy fewer of each message that it posts through a loan, or
    /// receives; most received ones of at most 512 bytes are copied all the same, as that is
    /// faster. The call cannot be undone, and has effect for as long as this process holds the
    /// port. It may come at any time, with one exception: if the peer may send a
    /// [`BufferPool`](crate::BufferPool), call it before the first receive, because an end that
    /// does not trust its peer discards the pool.
    ///
    /// A crash of the peer breaks no promise: a message that it had not finished is not delivered.
    ///
    /// # Safety
    /// Every process that holds, has held or will hold either end of this channel must write its
    /// shared memory through this crate only.
    ///
    /// Each end must also be exactly one port at any time: no end was or will be duplicated,
    /// whether through its descriptors, through two calls of [`from_fd`](Self::from_fd) on
    /// descriptors of one end, or by a forked child.
    ///
    /// A peer that breaks the first promise can change bytes that safe code holds as a `&[u8]`. Two
    /// ports that are the same end can lend the same bytes as two `&mut [u8]`. Both are undefined
    /// behaviour.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// // SAFETY: both ends stay in this program.
    /// unsafe { channel.port2.trust_peer() };
    /// channel.port1.post_bytes(&[7; 10_000])?;
    /// assert_eq!(channel.port2.recv()?.bytes(), [7; 10_000]); // read in place
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[allow(unsafe_code)]
    pub unsafe fn trust_peer(&self) {
        self.sender.endpoint().trust();
    }

    /// Whether [`trust_peer`](Self::trust_peer) was called for this end.
    pub fn is_trusted(&self) -> bool {
        self.sender.endpoint().is_trusted()
    }

    /// Frees the memory of past bursts; returns how many bytes.
    ///
    /// Frees the pages of what this end has posted and the peer has read, except those of the first
    /// segment. A trusted port that keeps posting frees by itself the pages that were not in use
    /// for a second.
    ///
    /// The call waits for a lock that a hostile peer can hold for as long as it lives, and this
    /// thread then hangs. So a port that is not trusted frees pages only when this is called.
    ///
    /// # Errors
    /// [`Io`](PostError::Io) if the kernel refuses; [`Busy`](PostError::Busy) while a loan is open.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// for _ in 0..100 {
    ///     channel.port1.post_bytes(&[1; 10_000])?;
    /// }
    /// while channel.port2.try_recv()?.is_some() {}
    /// assert!(channel.port1.trim()? > 900_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn trim(&self) -> Result<u64, PostError> {
        self.sender.trim()
    }

    /// Counters of both directions. The peer writes some of them, so a hostile peer can falsify
    /// those.
    #[must_use]
    pub fn stats(&self) -> PortStats {
        let (sent, received) = (self.sender.stats(), self.receiver.stats());
        PortStats { sent, received, labels: self.labels() }
    }

    /// The size, in bytes, of the ring with which each direction starts.
    pub fn capacity(&self) -> usize {
        self.sender.endpoint().region().geometry().capacity() as usize
    }

    /// The size, in bytes, up to which each direction can grow.
    pub fn limit(&self) -> usize {
        self.sender.endpoint().region().geometry().limit() as usize
    }

    /// The length of the largest message that can be posted, in bytes.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::builder().limit(1 << 20).build()?;
    /// assert_eq!(channel.port1.max_message_len(), (1 << 19) - 32);
    /// # Ok::<(), messageport::ChannelError>(())
    /// ```
    pub fn max_message_len(&self) -> usize {
        self.sender.endpoint().region().geometry().largest_message() as usize
    }

    /// Process, user and group of the peer when the two connected by name. `None` for a port that
    /// did not come from a [`Listener`](crate::Listener) or [`connect`](crate::connect).
    pub fn peer_credentials(&self) -> Option<PeerCredentials> {
        self.sender.endpoint().peer_credentials()
    }

    /// The schema that the creator of the channel chose, or 0.
    pub fn schema(&self) -> u64 {
        self.sender.endpoint().region().schema()
    }

    /// Checks that the channel carries a schema.
    ///
    /// # Errors
    /// [`SchemaError`] with both numbers if it carries another one.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::builder().schema(3).build()?;
    /// let error = channel.port1.require_schema(4).unwrap_err();
    /// assert_eq!(error.found, 3);
    /// # Ok::<(), messageport::ChannelError>(())
    /// ```
    pub fn require_schema(&self, id: u64) -> Result<(), SchemaError> {
        match self.schema() {
            found if found == id => Ok(()),
            found => Err(SchemaError { required: id, found }),
        }
    }

    /// A port is read either by events or by calls, never by both.
    #[inline]
    pub(crate) fn check_not_started(&self) -> Result<(), RecvError> {
        if self.is_started.get() { Err(RecvError::Started) } else { Ok(()) }
    }

    /// Closes both directions of a port whose peer broke the protocol.
    #[inline(always)]
    pub(crate) fn end_if_broken(&self, error: &RecvError) {
        if let RecvError::Closed { reason: CloseReason::Corrupt(_) } = error {
            self.sender.close();
        }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        self.sender.endpoint()
    }

    pub(crate) fn sender(&self) -> &Sender {
        &self.sender
    }

    pub(crate) fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    /// Both halves, for a transfer.
    pub(crate) fn halves(
        &mut self,
    ) -> (&mut crate::link::sending::Sending, &mut crate::link::receiving::Receiving) {
        (self.sender.sending(), self.receiver.receiving())
    }
}

/// The doorbell: readable when a message may have arrived, or the peer may have closed its port or
/// died.
///
/// Call `as_fd` once, before anything else: a message that arrives between an earlier `try_recv`
/// and the first `as_fd` does not ring the doorbell. (tokio's `AsyncFd` demands the same order.)
/// Then repeat two steps: call [`try_recv`](MessagePort::try_recv) until it returns `None`; wait
/// until the doorbell is readable. A port with listeners has [`dispatch`](MessagePort::dispatch)
/// instead of `try_recv`.
///
/// The watcher may be level-triggered or edge-triggered (`EPOLLET`, mio, a poll of io_uring):
/// before `try_recv` returns `None`, it reads everything from the socket, including a hang-up of
/// the peer. If the kernel refuses a ring to the peer for lack of memory, the peer rings again in
/// its next call on its port. A program that must not depend on that call waits with a timeout.
///
/// ```
/// use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
/// use std::os::fd::AsFd;
///
/// let channel = messageport::MessageChannel::new()?;
/// let doorbell = channel.port2.as_fd();
/// assert!(channel.port2.try_recv()?.is_none());
/// channel.port1.post_text("ring")?;
/// poll(&mut [PollFd::new(doorbell, PollFlags::POLLIN)], PollTimeout::NONE)?;
/// assert_eq!(channel.port2.try_recv()?.unwrap().text()?, "ring");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl AsFd for MessagePort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

/// As `AsFd`.
impl AsRawFd for MessagePort {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// Prints what is needed to debug a hang: cursors, segments, flags and counters of both lanes.
impl fmt::Debug for MessagePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let region = self.sender.endpoint().region();
        f.debug_struct("MessagePort")
            .field("pair", &format_args!("{:032x}", region.pair_id()))
            .field("side", &self.sender.endpoint().outgoing())
            .field("labels", &self.sender.endpoint().labels())
            .field("capacity", &self.capacity())
            .field("limit", &self.limit())
            .field("sender", &self.sender)
            .field("receiver", &self.receiver)
            .field("started", &self.is_started)
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}
