//! A port for async programs.

use crate::error::{LoopError, MessageError, PostError, RecvError, SchemaError, SystemError};
use crate::front::add_error::AddError;
use crate::future::halves::{AsyncReceiver, AsyncSender, Wakers};
use crate::future::reactor::Reactor;
use crate::link::endpoint::{Endpoint, PeerCredentials};
use crate::link::payload::Post;
use crate::link::pool::PooledBuffer;
use crate::link::stats::{Backlog, PortStats};
use crate::port::MessagePort;
use crate::port::burst::Burst;
use crate::port::loan::Loan;
use crate::port::message::Message;
use crate::port::peek::NextMessage;
use crate::port::pool::PooledError;
use crate::port::sender::Sender;
use crate::port::transfer::{TransferError, TransferList};
use crate::wire::label::PortLabels;
use futures_core::{FusedStream, Stream};
use futures_sink::Sink;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A port for async programs; made by [`MessagePort::into_async`].
///
/// It returns owned messages, so it copies them even if the peer is trusted. The port and its
/// futures are `Send`. If a future is dropped, no message is lost: one that was not returned is
/// still in the queue, and one that was not posted is not in it.
///
/// With the feature `tokio` it waits on tokio's reactor, with `async-io` on that of async-io. With
/// both features it waits on tokio's reactor if it is made inside a tokio runtime. If that runtime
/// ends before the port, a call that would wait returns an error, and
/// [`into_inner`](Self::into_inner) still returns the port.
///
/// A port whose queue never becomes empty yields to other tasks after 64 messages. Each descriptor
/// of a message, and each 4 KiB of its length, count as one additional message. An untrusted port
/// copies a message of more than 2 MiB in parts of 32 KiB, and yields after each part.
///
/// The port starts no timer. If the kernel refuses the sender's wake-up for lack of memory, the
/// sender repeats it in its next call, and until then this port may sleep. Put a timeout around a
/// wait that must not depend on this.
///
/// As a [`Stream`] it yields messages until the port is closed, and an error for each message that
/// could not be received. As a [`Sink`] it takes bytes. If a message does not fit, the sink keeps
/// it, and posts it when the sink is flushed, or before the next post.
///
/// # As bytes
///
/// There is no `AsyncRead` and no `AsyncWrite` here, as each runtime has its own. The stream can be
/// read as bytes with `map_err(io::Error::from).into_async_read()` of the crate `futures`, which
/// loses the boundaries of messages. It ends in the same way when the peer has closed its port and
/// when it has died; [`recv`](Self::recv) says which it was.
///
#[cfg_attr(feature = "tokio", doc = "```")]
#[cfg_attr(not(feature = "tokio"), doc = "```ignore")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let channel = messageport::MessageChannel::new()?;
/// let (mut port1, mut port2) = (channel.port1.into_async()?, channel.port2.into_async()?);
/// port1.post_message(&7u32).await?;
/// assert_eq!(*port2.recv().await?.data::<u32>()?, 7);
/// # Ok(())
/// # }
/// ```
pub struct AsyncPort {
    sender: AsyncSender,
    receiver: AsyncReceiver,
}

impl MessagePort {
    /// Converts the port for async programs. It uses two more descriptors.
    ///
    /// The port's listeners are no longer called.
    ///
    /// # Errors
    /// [`AddError`] with the port, if the reactor refuses its descriptors, or if there is no
    /// reactor: with the feature `tokio` and without `async-io`, this is so outside a tokio
    /// runtime.
    ///
    /// # Panics
    /// In a tokio runtime that was built without `enable_io` or `enable_all`.
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tokio", feature = "async-io"))))]
    pub fn into_async(self) -> Result<AsyncPort, AddError> {
        let (for_sender, for_receiver) = match two_reactors(self.endpoint()) {
            Ok(reactors) => reactors,
            Err(error) => return Err(AddError::new(LoopError::Io(error), self)),
        };
        let wakers = Arc::new(Wakers::default());
        let (sender, receiver) = self.split();
        let sender = AsyncSender::new(sender, for_sender, wakers.clone());
        Ok(AsyncPort { sender, receiver: AsyncReceiver::new(receiver, for_receiver, wakers) })
    }
}

/// Each half waits on a duplicate of the doorbell of its own.
fn two_reactors(end: &Endpoint) -> Result<(Reactor, Reactor), SystemError> {
    Ok((Reactor::watch(end.doorbell())?, Reactor::watch(end.doorbell())?))
}

impl AsyncPort {
    #[cfg(feature = "value")]
    pub(super) fn sender_mut(&mut self) -> &mut AsyncSender {
        &mut self.sender
    }

    /// The next message. Cancel-safe.
    ///
    /// # Errors
    /// As [`MessagePort::recv`]. [`OutOfMemory`](RecvError::OutOfMemory) is possible on a trusted
    /// port too, as each message is copied.
    pub async fn recv(&mut self) -> Result<Message, RecvError> {
        self.receiver.recv().await
    }

    /// Takes the next message, if there is one. Does not yield to other tasks.
    ///
    /// # Errors
    /// As [`MessagePort::try_recv`].
    pub fn try_recv(&mut self) -> Result<Option<Message>, RecvError> {
        self.receiver.try_recv()
    }

    /// Skips the next message without reading it; returns whether there was one.
    ///
    /// # Errors
    /// As [`MessagePort::discard_next`].
    pub fn discard_next(&mut self) -> Result<bool, RecvError> {
        self.receiver.discard_next()
    }

    /// Looks at the next message and leaves it in the queue. See [`MessagePort::peek`].
    ///
    /// # Errors
    /// As [`MessagePort::peek`].
    pub fn peek(&mut self) -> Result<Option<NextMessage>, RecvError> {
        self.receiver.peek()
    }

    /// Copies the next message and leaves it in the queue. See [`MessagePort::peek_message`].
    ///
    /// # Errors
    /// As [`MessagePort::peek_message`].
    pub fn peek_message(&mut self) -> Result<Option<Message>, RecvError> {
        self.receiver.peek_message()
    }

    /// Posts a value, waiting for room. A future that is dropped before it is ready has posted
    /// nothing.
    ///
    /// # Errors
    /// As [`MessagePort::post_message`], except `QueueFull`.
    pub async fn post_message<T: Post>(&mut self, value: &T) -> Result<(), PostError> {
        self.sender.post_message(value).await
    }

    /// Posts bytes, waiting for room.
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message), except `Serialize`.
    pub async fn post_bytes(&mut self, bytes: &[u8]) -> Result<(), PostError> {
        self.sender.post_bytes(bytes).await
    }

    /// Posts text, waiting for room.
    ///
    /// # Errors
    /// As [`post_bytes`](Self::post_bytes).
    pub async fn post_text(&mut self, text: &str) -> Result<(), PostError> {
        self.sender.post_text(text).await
    }

    /// Posts a value, and moves ports, buffers and descriptors with it. Waits for room in the ring,
    /// and in the socket that carries the descriptors.
    ///
    /// A future that is dropped before it is ready has posted nothing, and drops the list: what is
    /// in it is closed. To keep the list, wait with [`wait_for_room`](Self::wait_for_room) and post
    /// through [`as_sender`](Self::as_sender).
    ///
    /// # Errors
    /// [`TransferError`] with the reason and the list, as [`MessagePort::post_message_with`],
    /// except `QueueFull`.
    pub async fn post_message_with<T: Post>(
        &mut self,
        value: &T,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        self.sender.post_message_with(value, transfer).await
    }

    /// Posts bytes, and moves what is in the list; see
    /// [`post_message_with`](Self::post_message_with).
    ///
    /// # Errors
    /// As [`post_message_with`](Self::post_message_with).
    pub async fn post_bytes_with(
        &mut self,
        bytes: &[u8],
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        self.sender.post_bytes_with(bytes, transfer).await
    }

    /// Posts text, and moves what is in the list; see
    /// [`post_message_with`](Self::post_message_with).
    ///
    /// # Errors
    /// As [`post_message_with`](Self::post_message_with).
    pub async fn post_text_with(
        &mut self,
        text: &str,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        self.sender.post_text_with(text, transfer).await
    }

    /// Posts a value and hands over a buffer of a [`BufferPool`](crate::BufferPool), waiting for
    /// room in the ring.
    ///
    /// Make the pool with [`BufferPool::for_sender`](crate::BufferPool::for_sender) and
    /// [`as_sender`](Self::as_sender). A buffer comes back by one store of the peer, which wakes no
    /// task. So wait for a message of the peer before the next
    /// [`take`](crate::BufferPool::take), and call
    /// [`take_timeout`](crate::BufferPool::take_timeout) only where a thread may be blocked.
    ///
    /// # Errors
    /// [`PooledError`] with the reason and the buffer.
    pub async fn post_message_pooled<T: Post>(
        &mut self,
        value: &T,
        buffer: PooledBuffer,
    ) -> Result<(), PooledError> {
        self.sender.post_message_pooled(value, buffer).await
    }

    /// Waits until a message of `len` bytes would fit. Cancel-safe.
    ///
    /// # Errors
    /// As [`post_bytes`](Self::post_bytes).
    pub async fn wait_for_room(&mut self, len: usize) -> Result<(), PostError> {
        self.sender.wait_for_room(len).await
    }

    /// Reserves a message of `len` bytes, waiting for room; the caller fills it and posts it.
    ///
    /// The future is `Send`, but the [`Loan`] is not: post it before the next `await`.
    ///
    /// # Errors
    /// As [`post_bytes`](Self::post_bytes).
    ///
    #[cfg_attr(feature = "tokio", doc = "```")]
    #[cfg_attr(not(feature = "tokio"), doc = "```ignore")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let channel = messageport::MessageChannel::new()?;
    /// let mut port = channel.port1.into_async()?;
    /// let mut loan = port.loan(3).await?;
    /// loan.copy_from_slice(b"abc");
    /// loan.post()?;
    /// assert_eq!(channel.port2.recv()?.bytes(), b"abc");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn loan(&mut self, len: usize) -> Result<Loan<'_>, PostError> {
        self.sender.loan(len).await
    }

    /// Begins a burst: messages that are staged one by one and published together.
    ///
    /// A [`Burst`] does not wait, and is not `Send`: commit it before the next `await`. On
    /// `QueueFull` commit it, and call [`wait_for_room`](Self::wait_for_room).
    pub fn burst(&self) -> Burst<'_> {
        self.sender.burst()
    }

    /// The sending half itself, for calls that do not wait: posts that return `QueueFull`,
    /// [`trim`](Sender::trim), pools.
    ///
    /// Do not call those that wait, such as [`post_message_timeout`](Sender::post_message_timeout):
    /// they block the thread. A post of this half overtakes a message that the sink has kept.
    pub fn as_sender(&self) -> &Sender {
        self.sender.as_sender()
    }

    /// Splits it into halves for two tasks.
    #[must_use = "a half that is dropped ends its direction"]
    pub fn split(self) -> (AsyncSender, AsyncReceiver) {
        (self.sender, self.receiver)
    }

    /// Returns the port. What the sink has accepted and not posted is lost, so flush it before.
    ///
    /// # Panics
    /// Never: its halves belong together.
    pub fn into_inner(self) -> MessagePort {
        MessagePort::join(self.sender.into_inner(), self.receiver.into_inner())
            .expect("halves of one port")
    }

    /// Ends the conversation. See [`MessagePort::close`].
    pub fn close(&self) {
        self.sender.close();
        self.receiver.close();
    }

    /// Whether posts fail because either end is closed or the peer is gone. See
    /// [`MessagePort::is_closed`].
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Counts the messages that this end has posted and that the peer has not received. See
    /// [`MessagePort::backlog`].
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        self.sender.backlog()
    }

    /// Counters of both directions. See [`MessagePort::stats`].
    #[must_use]
    pub fn stats(&self) -> PortStats {
        let (sent, received) = (self.sender.stats(), self.receiver.stats());
        PortStats { sent, received, labels: self.labels() }
    }

    /// Both labels of the port. See [`MessagePort::labels`](crate::MessagePort::labels).
    pub fn labels(&self) -> PortLabels {
        self.sender.as_sender().labels()
    }

    /// Promises that the peer keeps the protocol. See [`MessagePort::trust_peer`].
    ///
    /// Loans are then in the ring, and pools can be used. Received messages are copied all the
    /// same.
    ///
    /// # Safety
    /// As [`MessagePort::trust_peer`].
    #[allow(unsafe_code)]
    pub unsafe fn trust_peer(&self) {
        self.endpoint().trust();
    }

    /// Whether `trust_peer` was called for this end.
    pub fn is_trusted(&self) -> bool {
        self.endpoint().is_trusted()
    }

    /// Refuses transferables at this end. See [`MessagePort::refuse_transfers`].
    pub fn refuse_transfers(&self) {
        self.endpoint().refuse_transfers();
    }

    /// Whether this end refuses transferables. See [`MessagePort::refuses_transfers`].
    pub fn refuses_transfers(&self) -> bool {
        self.endpoint().refuses_transfers()
    }

    /// Frees the memory of past bursts. See [`MessagePort::trim`].
    ///
    /// # Errors
    /// As [`MessagePort::trim`].
    pub fn trim(&self) -> Result<u64, PostError> {
        self.as_sender().trim()
    }

    /// The size, in bytes, of the ring with which each direction starts.
    pub fn capacity(&self) -> usize {
        self.endpoint().region().geometry().capacity() as usize
    }

    /// The size, in bytes, up to which each direction can grow.
    pub fn limit(&self) -> usize {
        self.endpoint().region().geometry().limit() as usize
    }

    /// The length of the largest message that can be posted, in bytes.
    pub fn max_message_len(&self) -> usize {
        self.endpoint().region().geometry().largest_message() as usize
    }

    /// Process, user and group of the peer. See [`MessagePort::peer_credentials`].
    pub fn peer_credentials(&self) -> Option<PeerCredentials> {
        self.endpoint().peer_credentials()
    }

    /// The schema that the creator of the channel chose, or 0.
    pub fn schema(&self) -> u64 {
        self.endpoint().region().schema()
    }

    /// Checks that the channel carries a schema.
    ///
    /// # Errors
    /// [`SchemaError`] with both numbers if it carries another one.
    pub fn require_schema(&self, id: u64) -> Result<(), SchemaError> {
        match self.schema() {
            found if found == id => Ok(()),
            found => Err(SchemaError { required: id, found }),
        }
    }

    fn endpoint(&self) -> &Endpoint {
        self.as_sender().endpoint()
    }
}

/// As [`AsyncReceiver`].
impl Stream for AsyncPort {
    type Item = Result<Message, MessageError>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Message, MessageError>>> {
        Pin::new(&mut self.receiver).poll_next(context)
    }
}

impl FusedStream for AsyncPort {
    fn is_terminated(&self) -> bool {
        self.receiver.is_terminated()
    }
}

/// As [`AsyncSender`].
impl Sink<Vec<u8>> for AsyncPort {
    type Error = PostError;

    fn poll_ready(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), PostError>> {
        Pin::new(&mut self.sender).poll_ready(context)
    }

    fn start_send(mut self: Pin<&mut Self>, bytes: Vec<u8>) -> Result<(), PostError> {
        Pin::new(&mut self.sender).start_send(bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), PostError>> {
        Pin::new(&mut self.sender).poll_flush(context)
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), PostError>> {
        Pin::new(&mut self.sender).poll_close(context)
    }
}

impl fmt::Debug for AsyncPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncPort")
            .field("sender", &self.sender)
            .field("receiver", &self.receiver)
            .finish_non_exhaustive()
    }
}
