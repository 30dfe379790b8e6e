//! Floor 4: what the web defines, and nothing about memory or system calls.

pub(crate) mod burst;
pub(crate) mod cancel;
pub(crate) mod channel;
pub(crate) mod content;
pub(crate) mod event;
pub(crate) mod events;
pub(crate) mod loan;
pub(crate) mod message;
pub(crate) mod outcome;
pub(crate) mod pool;
pub(crate) mod receiver;
pub(crate) mod sender;
pub(crate) mod stats;
pub(crate) mod target;
pub(crate) mod transfer;
pub(crate) mod typed;

use crate::error::{
    AsIoError, CloseReason, MessageError, PostError, RecvError, SchemaError, into_io_error,
};
use crate::link::endpoint::{Endpoint, PeerCredentials};
use crate::link::payload::Post;
use crate::link::receiving::parts::Polled;
use crate::link::transfer::Halves;
use burst::Burst;
use cancel::Canceller;
use event::MessageEvent;
use events::Watcher;
use loan::Loan;
use receiver::Receiver;
use sender::Sender;
use stats::{PortStats, Undelivered};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use target::EventTarget;

/// One end of a channel.
///
/// A port posts and receives messages, each in the order it was posted. It is `Send` but not
/// `Sync`: one thread at a time, or two after [`split`](Self::split). Its peer may be another
/// thread or another process, and may do what it likes: this API stays memory-safe and does not
/// panic. A hostile peer can end the conversation, fill its lane up to the limit, and delay calls
/// by removing shared pages; `docs/safety.md` lists every harm, what bounds it, and the remedy.
///
/// When the peer closes its port, drops it, or dies, everything that it had posted is delivered,
/// and then every receiving call says `Closed`, with the reason.
///
/// HTML: [`MessagePort`](https://html.spec.whatwg.org/#message-ports). Posting to a closed port is
/// an error here, where the web drops the message silently.
///
/// ```
/// use messageport::{MessageChannel, rkyv};
///
/// #[derive(rkyv::Archive, rkyv::Serialize, messageport::SafeArchive)]
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
    events: EventTarget,
    /// Messages are delivered as events.
    is_started: Cell<bool>,
    has_said_close: Cell<bool>,
    /// What the messages cost that were delivered as events.
    spent: Cell<u32>,
    /// The loop that has the port, if one has.
    watcher: RefCell<Option<Watcher>>,
    /// Of a typed port: what a message must be.
    validator: Cell<Option<Validator>>,
}

/// Says what is wrong with a message.
pub(crate) type Validator = fn(&MessageEvent<'_>) -> Result<(), MessageError>;

impl MessagePort {
    pub(crate) fn new((sending, receiving): Halves) -> MessagePort {
        MessagePort::of_halves(Sender::new(sending), Receiver::new(receiving))
    }

    fn of_halves(sender: Sender, receiver: Receiver) -> MessagePort {
        MessagePort {
            sender,
            receiver,
            events: EventTarget::default(),
            is_started: Cell::new(false),
            has_said_close: Cell::new(false),
            spent: Cell::new(0),
            watcher: RefCell::new(None),
            validator: Cell::new(None),
        }
    }

    /// Posts a value to the other end; never blocks.
    ///
    /// Serialises straight into shared memory, which grows up to the channel's limit (bytes).
    /// No system call while the receiver keeps up; one to wake it; one for each step of fresh
    /// pages, 16 to 64 KiB. `Ok` means that the message is in shared memory and arrives whatever
    /// happens to this process.
    ///
    /// HTML: [message port post message steps][steps].
    ///
    /// [steps]: https://html.spec.whatwg.org/#message-port-post-message-steps
    ///
    /// # Errors
    /// [`Closed`](PostError::Closed) if either end is closed or the peer has died;
    /// [`QueueFull`](PostError::QueueFull) if the peer has left too much unread, or, for a message
    /// of more than a quarter of the limit, has not yet looked at the lane again;
    /// [`TooLarge`](PostError::TooLarge) if the message can never fit;
    /// [`Busy`](PostError::Busy) from inside a `Serialize` of the same port, or while a loan is
    /// open; [`Serialize`](PostError::Serialize) with the value's own error;
    /// [`Io`](PostError::Io) for a lack of memory. Nothing of the message is in the ring then.
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

    /// Posts bytes; never blocks. Costs one copy of them.
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message), but for `Serialize`.
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

    /// Posts text; never blocks. Costs one copy of it.
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

    /// Lends the bytes of a future message of `len` bytes, to be filled and then posted.
    ///
    /// On a trusted port they lie in the ring, so that a file can be read straight into it.
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

    /// Begins a burst: messages that are staged one by one and published at once.
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

    /// Takes the next message, if one is there.
    ///
    /// No system call while messages come or keep coming; while nothing comes, one every tenth of
    /// a second asks whether the peer is alive. After [`as_fd`](AsFd::as_fd) was called once, a
    /// look that finds nothing costs one call, which silences the doorbell; before, the first one
    /// behind a message pauses for some 20 ns, which lets a busy sender get ahead.
    ///
    /// # Errors
    /// [`Closed`](RecvError::Closed) once everything was delivered and no more can come, with the
    /// reason; the same again at each further call.
    /// [`OutOfMemory`](RecvError::OutOfMemory) if there is no memory for a private copy.
    /// [`OutOfDescriptors`](RecvError::OutOfDescriptors) while this process can have none for what
    /// moves with the message, or for a [`BufferPool`](crate::BufferPool) before it.
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
        self.receiver.poll().map_err(|failure| {
            self.end_if_broken(&failure);
            *failure
        })
    }

    /// The same for those who serve other ports as well, of whose long messages it copies a part.
    #[inline(always)]
    pub(crate) fn poll_in_parts(&self) -> Result<Polled<MessageEvent<'_>>, RecvError> {
        if self.is_started.get() {
            return Err(RecvError::Started);
        }
        self.receiver.poll_in_parts().map_err(|failure| {
            self.end_if_broken(&failure);
            *failure
        })
    }

    /// Steps over the next message unread, if one is there, and says whether there was: the way on
    /// after [`OutOfMemory`](RecvError::OutOfMemory).
    ///
    /// # Errors
    /// [`Closed`](RecvError::Closed), as [`try_recv`](Self::try_recv);
    /// [`OutOfDescriptors`](RecvError::OutOfDescriptors) where a
    /// [`BufferPool`](crate::BufferPool) stands before it.
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

    /// A handle that ends a blocked call of this port from another thread.
    ///
    /// Takes one descriptor, once per port.
    ///
    /// # Errors
    /// [`RecvError::Io`] if there is no descriptor for it.
    pub fn canceller(&self) -> Result<Canceller, RecvError> {
        let canceller = self.receiver.canceller()?;
        self.sender.share_switch(canceller.switch());
        Ok(canceller)
    }

    /// Parts the port into halves for two threads. Each ends its own direction when it is dropped.
    /// They deliver no events: listeners stay behind.
    ///
    /// ```
    /// use messageport::{MessageChannel, MessagePort};
    ///
    /// let channel = MessageChannel::new()?;
    /// let (sender, receiver) = channel.port1.split();
    /// sender.post_text("one way")?;
    /// let port1 = MessagePort::join(sender, receiver).expect("they belong together");
    /// port1.post_text("and on")?;
    /// assert_eq!(channel.port2.iter().take(2).count(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }

    /// Puts the halves of one port together again.
    ///
    /// # Errors
    /// [`JoinError`] with both halves if they come from different ports.
    pub fn join(sender: Sender, receiver: Receiver) -> Result<MessagePort, JoinError> {
        if Arc::ptr_eq(sender.endpoint(), receiver.endpoint()) {
            Ok(MessagePort::of_halves(sender, receiver))
        } else {
            Err(JoinError { halves: Box::new(Mutex::new((sender, receiver))) })
        }
    }

    /// Ends the conversation; never blocks, and does nothing the second time.
    ///
    /// The peer receives everything posted before, and then `Closed`. What is in this end's queue
    /// can still be received, and then every call says [`CloseReason::Local`].
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

    /// Whether either end is closed or the peer is gone: posts fail. Messages may still be waiting
    /// to be received. At most one system call.
    ///
    /// Posts to a peer that has died may still be `Ok` for 100 ms, or for 64 posts if those take
    /// longer, and `try_recv` may say for 100 ms that nothing is there. Ask here before blocking
    /// elsewhere.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// assert!(!channel.port1.is_closed());
    /// drop(channel.port2);
    /// assert!(channel.port1.is_closed());
    /// # Ok::<(), messageport::ChannelError>(())
    /// ```
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// What was posted and not yet taken by the peer. After its end: what it never took.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_text("unread")?;
    /// drop(channel.port2);
    /// assert_eq!(channel.port1.undelivered().messages, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn undelivered(&self) -> Undelivered {
        self.sender.undelivered()
    }

    /// Promises that the peer keeps the protocol, so that messages are read and lent in place,
    /// without a copy. For both directions of this end, and for good.
    ///
    /// # Safety
    /// Every process that holds, held or will hold either end of this channel must write its shared
    /// memory through this crate only, and each end must be one port at any time: no end was or
    /// will be handed out twice, by its parts, by [`from_fd`](Self::from_fd) of two descriptors of
    /// one end, or by a forked child. A peer that does otherwise can change what safe code holds a
    /// `&[u8]` to, and two ports that are the same end can lend the same bytes as two `&mut [u8]`:
    /// both are undefined behaviour.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// // SAFETY: both ends stay in this program.
    /// unsafe { channel.port2.trust_peer() };
    /// channel.port1.post_bytes(b"read in place")?;
    /// assert_eq!(channel.port2.recv()?.bytes(), b"read in place");
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

    /// Gives the memory of past bursts back to the system. Returns how many bytes.
    ///
    /// Frees the pages of what this end has posted and the peer has read, but for the first
    /// segment. A trusted port does this by itself, while it posts, with what was not in
    /// use for a second.
    ///
    /// The call waits for a lock that a hostile peer can hold for as long as it lives; then this
    /// thread hangs. So it is never made unasked on a port that is not trusted.
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

    /// Counters of both directions. What the peer counts is the peer's word.
    pub fn stats(&self) -> PortStats {
        PortStats { sent: self.sender.stats(), received: self.receiver.stats() }
    }

    /// Bytes of each lane's first segment.
    pub fn capacity(&self) -> usize {
        self.sender.endpoint().region().geometry().capacity() as usize
    }

    /// Most bytes of a lane.
    pub fn limit(&self) -> usize {
        self.sender.endpoint().region().geometry().limit() as usize
    }

    /// Bytes of the largest message that can be posted.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::builder().limit(1 << 20).build()?;
    /// assert_eq!(channel.port1.max_message_len(), (1 << 19) - 32);
    /// # Ok::<(), messageport::ChannelError>(())
    /// ```
    pub fn max_message_len(&self) -> usize {
        self.sender.endpoint().region().geometry().largest_message() as usize
    }

    /// Who held the other end when the two met by a name; `None` for ports that came otherwise.
    pub fn peer_credentials(&self) -> Option<PeerCredentials> {
        self.sender.endpoint().met()
    }

    /// The schema that the channel's creator named, or 0.
    pub fn schema(&self) -> u64 {
        self.sender.endpoint().region().schema()
    }

    /// Demands that the channel carries a schema.
    ///
    /// # Errors
    /// [`SchemaError`] with both numbers.
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

    /// A port is read either by events or by calls.
    #[inline]
    pub(crate) fn check_not_started(&self) -> Result<(), RecvError> {
        if self.is_started.get() { Err(RecvError::Started) } else { Ok(()) }
    }

    /// A port whose peer broke the protocol is closed in both directions.
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

/// The doorbell: readable when a message or the peer's end may be there.
///
/// Call `as_fd` once, before anything else; wait for it only after
/// [`try_recv`](MessagePort::try_recv) has said that nothing is there, and then call `try_recv`
/// until it says so again. A `try_recv` that was made before the first `as_fd` does not count: what
/// comes between the two would not ring. (tokio's `AsyncFd` demands the same order.) The watcher
/// may be level-triggered or edge-triggered (`EPOLLET`, mio, a poll of io_uring): a `try_recv` that
/// says that nothing is there has read everything from the socket that came before, the peer's end
/// included. A ring that the kernel refused to the peer for lack of memory comes with the peer's
/// next call on its port: wait with a timeout where the program must not depend on that.
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

/// Prints what a hang is debugged with: cursors, segments, flags and counters of both lanes.
impl fmt::Debug for MessagePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let region = self.sender.endpoint().region();
        f.debug_struct("MessagePort")
            .field("pair", &format_args!("{:032x}", region.pair_id()))
            .field("side", &self.sender.endpoint().outgoing())
            .field("capacity", &self.capacity())
            .field("limit", &self.limit())
            .field("sender", &self.sender)
            .field("receiver", &self.receiver)
            .field("started", &self.is_started)
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

/// The halves do not belong to one port. Both come back.
///
/// ```
/// use messageport::{MessageChannel, MessagePort};
///
/// let channel = MessageChannel::new()?;
/// let (sender, _) = channel.port1.split();
/// let (_, receiver) = channel.port2.split();
/// let error = MessagePort::join(sender, receiver).unwrap_err();
/// let (_sender, _receiver) = error.into_halves();
/// # Ok::<(), messageport::ChannelError>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[error("the halves come from different ports: join those that one `split` returned")]
pub struct JoinError {
    /// Behind a lock, as a half is not `Sync` and an error should be.
    halves: Box<Mutex<(Sender, Receiver)>>,
}

impl AsIoError for JoinError {
    fn kind(&self) -> std::io::ErrorKind {
        std::io::ErrorKind::InvalidInput
    }
}

into_io_error!(JoinError);

impl JoinError {
    /// The halves that were to be joined.
    pub fn into_halves(self) -> (Sender, Receiver) {
        self.halves.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
