//! Ports for async programs. They wait on the runtime's reactor, and start no thread of their own.

use crate::error::{CloseReason, LoopError, MessageError, PostError, RecvError, SystemError};
use crate::front::add_error::AddError;
use crate::link::endpoint::Endpoint;
use crate::link::payload::Post;
use crate::link::receiving::chunks::Polled;
use crate::os::reaper;
use crate::port::MessagePort;
use crate::port::message::Message;
use crate::port::receiver::Receiver;
use crate::port::sender::Sender;
use crate::port::transfer::{TransferError, TransferList};
use atomic_waker::AtomicWaker;
use futures_core::Stream;
use futures_sink::Sink;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::Pin;
#[cfg(feature = "tokio")]
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A port for async programs; made by [`MessagePort::into_async`].
///
/// It returns owned messages, so it copies them even if the peer is trusted. The port and its
/// futures are `Send`. If a future is dropped, no message is lost: one that was not returned is
/// still in the queue.
///
/// With the feature `tokio` it waits on tokio's reactor, with `async-io` on that of async-io. With
/// both features it waits on tokio's reactor if it is made inside a tokio runtime.
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
/// it, and posts it when the sink is flushed.
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

/// The posting half of an [`AsyncPort`], for a task of its own.
pub struct AsyncSender {
    sender: Sender,
    reactor: Reactor,
    wakers: Arc<Wakers>,
    /// A message that the sink has accepted and not posted.
    kept: Option<Vec<u8>>,
}

/// The receiving half of an [`AsyncPort`], for a task of its own.
pub struct AsyncReceiver {
    receiver: Receiver,
    reactor: Reactor,
    wakers: Arc<Wakers>,
    has_ended: bool,
    /// Messages since it last yielded to other tasks, by their cost.
    in_a_row: u32,
}

/// Both halves wait on one doorbell, and the half that drains it wakes the other. Both have to
/// drain it: tokio reports only new rings, and a full doorbell accepts none.
#[derive(Default)]
struct Wakers {
    /// The task that waits for room.
    sender: AtomicWaker,
    /// The task that waits for a message.
    receiver: AtomicWaker,
}

impl MessagePort {
    /// Converts the port for async programs. It uses two more descriptors.
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
        let wakers = Arc::new(Wakers::default());
        let reactor = || Reactor::new(self.endpoint());
        let (for_sender, for_receiver) = match (reactor(), reactor()) {
            (Ok(for_sender), Ok(for_receiver)) => (for_sender, for_receiver),
            (Err(error), _) | (_, Err(error)) => return Err(AddError::new(error, self)),
        };
        let (sender, receiver) = self.split();
        // From here on a poll that finds nothing has armed the flag.
        let _ = receiver.level_triggered_fd();
        receiver.set_patient(false);
        let sender =
            AsyncSender { sender, reactor: for_sender, wakers: wakers.clone(), kept: None };
        let receiver = AsyncReceiver {
            receiver,
            reactor: for_receiver,
            wakers,
            has_ended: false,
            in_a_row: 0,
        };
        Ok(AsyncPort { sender, receiver })
    }
}

impl AsyncPort {
    /// The next message. Cancel-safe.
    ///
    /// # Errors
    /// As [`MessagePort::recv`]. [`OutOfMemory`](RecvError::OutOfMemory) is possible on a trusted
    /// port too, as each message is copied.
    pub async fn recv(&mut self) -> Result<Message, RecvError> {
        self.receiver.recv().await
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
    /// As [`post_message`](Self::post_message).
    pub async fn post_bytes(&mut self, bytes: &[u8]) -> Result<(), PostError> {
        self.sender.post_bytes(bytes).await
    }

    /// Posts a value, and transfers ports, buffers and descriptors with it. Does not wait.
    ///
    /// # Errors
    /// As [`MessagePort::post_message_with`].
    pub fn post_message_with<T: Post>(
        &mut self,
        value: &T,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        self.sender.post_message_with(value, transfer)
    }

    /// Splits it into halves for two tasks.
    pub fn split(self) -> (AsyncSender, AsyncReceiver) {
        (self.sender, self.receiver)
    }

    /// Returns the port.
    ///
    /// # Panics
    /// Never: its halves belong together.
    pub fn into_inner(self) -> MessagePort {
        self.receiver.receiver.set_patient(true);
        MessagePort::join(self.sender.sender, self.receiver.receiver).expect("halves of one port")
    }

    /// Ends the conversation. See [`MessagePort::close`].
    pub fn close(&self) {
        self.sender.sender.close();
        self.receiver.receiver.close();
    }
}

impl AsyncSender {
    /// Posts a value, waiting for room. See [`AsyncPort::post_message`].
    ///
    /// # Errors
    /// As [`AsyncPort::post_message`].
    pub async fn post_message<T: Post>(&mut self, value: &T) -> Result<(), PostError> {
        poll_fn(|context| self.poll_post(context, |sender| sender.post_message(value))).await
    }

    /// Posts bytes, waiting for room.
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message).
    pub async fn post_bytes(&mut self, bytes: &[u8]) -> Result<(), PostError> {
        poll_fn(|context| self.poll_post(context, |sender| sender.post_bytes(bytes))).await
    }

    /// Posts a value, and transfers a list with it. Does not wait.
    ///
    /// # Errors
    /// As [`MessagePort::post_message_with`].
    pub fn post_message_with<T: Post>(
        &mut self,
        value: &T,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        self.sender.post_message_with(value, transfer)
    }

    /// Tries to post, drains the doorbell, arms the flag, and tries again before it waits.
    fn poll_post(
        &mut self,
        context: &mut Context<'_>,
        mut post: impl FnMut(&Sender) -> Result<(), PostError>,
    ) -> Poll<Result<(), PostError>> {
        loop {
            match post(&self.sender) {
                Err(PostError::QueueFull { .. }) => {}
                answer => return Poll::Ready(answer),
            }
            self.wakers.sender.register(context.waker());
            self.reactor.use_up();
            if self.sender.endpoint().drain_doorbell_for_sender() {
                self.wakers.receiver.wake();
            }
            self.sender.arm_room_doorbell();
            match post(&self.sender) {
                Err(PostError::QueueFull { .. }) => {}
                answer => return Poll::Ready(answer),
            }
            if let Err(source) = ready!(self.reactor.poll_rung(context)) {
                return Poll::Ready(Err(SystemError { call: "reactor", source }.into()));
            }
        }
    }

    /// Posts the message that the sink has kept.
    fn poll_kept(&mut self, context: &mut Context<'_>) -> Poll<Result<(), PostError>> {
        let Some(kept) = self.kept.take() else { return Poll::Ready(Ok(())) };
        match self.poll_post(context, |sender| sender.post_bytes(&kept)) {
            Poll::Pending => {
                self.kept = Some(kept);
                Poll::Pending
            }
            answer => answer,
        }
    }
}

impl AsyncReceiver {
    /// The next message. See [`AsyncPort::recv`].
    ///
    /// # Errors
    /// As [`AsyncPort::recv`].
    pub async fn recv(&mut self) -> Result<Message, RecvError> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Result<Message, RecvError>> {
        if self.in_a_row >= SHARE {
            self.in_a_row = 0;
            self.reactor.give_way(context);
            return Poll::Pending;
        }
        // Before the poll, as the sending half may drain the doorbell right after it.
        self.wakers.receiver.register(context.waker());
        loop {
            if !self.receiver.has_news() {
                self.reactor.use_up();
            }
            let mut cost = 0;
            let polled = self.receiver.poll_to_copy();
            let is_unfinished = matches!(polled, Ok((Polled::Unfinished, _)));
            let answer = polled.map(|(polled, memory)| {
                let Polled::Message(event) = polled else { return None };
                cost = event.cost();
                let message = event.into_message_in(memory);
                Some(message.expect("it is in memory of its own, or there is memory for it"))
            });
            // In any case: the ring that the poll drained may have been for room.
            if self.receiver.has_drained() {
                self.wakers.sender.wake();
            }
            match answer {
                Ok(Some(message)) => {
                    self.in_a_row = self.in_a_row.saturating_add(cost);
                    return Poll::Ready(Ok(message));
                }
                Err(_) if self.receiver.waits_for_reaper() => {
                    reaper::wake_for_room(self.receiver.endpoint().account(), context.waker());
                    return Poll::Pending;
                }
                Err(error) => return Poll::Ready(Err(error)),
                Ok(None) if is_unfinished => {
                    self.reactor.give_way(context);
                    return Poll::Pending;
                }
                Ok(None) => {}
            }
            self.in_a_row = 0;
            if let Err(source) = ready!(self.reactor.poll_rung(context)) {
                return Poll::Ready(Err(SystemError { call: "reactor", source }.into()));
            }
        }
    }
}

impl Stream for AsyncReceiver {
    type Item = Result<Message, MessageError>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Message, MessageError>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        match ready!(self.poll_recv(context)) {
            Ok(message) => Poll::Ready(Some(Ok(message))),
            Err(RecvError::OutOfMemory { len }) => {
                // It may never fit, so it is dropped, and the error reports that.
                let _ = self.receiver.discard_next();
                Poll::Ready(Some(Err(MessageError::OutOfMemory { len })))
            }
            // The message comes without them in a tenth of a second.
            Err(RecvError::OutOfDescriptors { .. }) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Err(_) => {
                self.has_ended = true;
                Poll::Ready(None)
            }
        }
    }
}

impl Stream for AsyncPort {
    type Item = Result<Message, MessageError>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Message, MessageError>>> {
        Pin::new(&mut self.receiver).poll_next(context)
    }
}

impl Sink<Vec<u8>> for AsyncSender {
    type Error = PostError;

    fn poll_ready(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), PostError>> {
        self.poll_kept(context)
    }

    fn start_send(mut self: Pin<&mut Self>, bytes: Vec<u8>) -> Result<(), PostError> {
        match self.sender.post_bytes(&bytes) {
            Err(PostError::QueueFull { .. }) => {
                self.kept = Some(bytes);
                Ok(())
            }
            answer => answer,
        }
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), PostError>> {
        self.poll_kept(context)
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), PostError>> {
        let flushed = ready!(self.poll_kept(context));
        self.sender.close();
        Poll::Ready(match flushed {
            Err(PostError::Closed { reason: CloseReason::Local }) => Ok(()),
            answer => answer,
        })
    }
}

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

/// A duplicate of the doorbell's descriptor. Each half waits on its own duplicate.
struct Doorbell(OwnedFd);

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Doorbell {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Wakes a task when the doorbell rings.
enum Reactor {
    #[cfg(feature = "tokio")]
    Tokio(tokio::net::UnixStream),
    #[cfg(feature = "async-io")]
    AsyncIo(async_io::Async<Doorbell>),
}

impl Reactor {
    fn new(end: &Endpoint) -> Result<Reactor, LoopError> {
        let failed = |call| move |source| SystemError { call, source };
        let doorbell = end.doorbell().try_clone_to_owned().map_err(failed("fcntl(F_DUPFD)"))?;
        Ok(Reactor::of(Doorbell(doorbell)).map_err(failed("reactor"))?)
    }

    #[cfg(all(feature = "tokio", feature = "async-io"))]
    fn of(doorbell: Doorbell) -> io::Result<Reactor> {
        match tokio::runtime::Handle::try_current() {
            Ok(_) => Reactor::on_tokio(doorbell),
            Err(_) => Reactor::on_async_io(doorbell),
        }
    }

    #[cfg(all(feature = "tokio", not(feature = "async-io")))]
    fn of(doorbell: Doorbell) -> io::Result<Reactor> {
        // Asked first, as tokio panics outside a runtime.
        tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
        Reactor::on_tokio(doorbell)
    }

    #[cfg(all(feature = "async-io", not(feature = "tokio")))]
    fn of(doorbell: Doorbell) -> io::Result<Reactor> {
        Reactor::on_async_io(doorbell)
    }

    #[cfg(feature = "tokio")]
    fn on_tokio(doorbell: Doorbell) -> io::Result<Reactor> {
        // The reactor requires it. It has no effect here: each call on the socket has MSG_DONTWAIT.
        let stream = std::os::unix::net::UnixStream::from(doorbell.0);
        stream.set_nonblocking(true)?;
        tokio::net::UnixStream::from_std(stream).map(Reactor::Tokio)
    }

    #[cfg(feature = "async-io")]
    fn on_async_io(doorbell: Doorbell) -> io::Result<Reactor> {
        // Each call on the socket has MSG_DONTWAIT, so its flags stay as they are.
        async_io::Async::new_nonblocking(doorbell).map(Reactor::AsyncIo)
    }

    /// Ready if the doorbell has rung since this was last ready. The caller then looks again, and
    /// repeats this until it is pending.
    fn poll_rung(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            #[cfg(feature = "tokio")]
            Reactor::Tokio(stream) => {
                ready!(stream.poll_read_ready(context))?;
                self.use_up();
                Poll::Ready(Ok(()))
            }
            #[cfg(feature = "async-io")]
            Reactor::AsyncIo(fd) => fd.poll_readable(context),
        }
    }

    /// Has the task polled again after the other tasks.
    fn give_way(&self, context: &mut Context<'_>) {
        match self {
            // Tokio looks for readiness only at every 61st poll if a task merely wakes itself, and
            // before the next poll if it yields.
            #[cfg(feature = "tokio")]
            Reactor::Tokio(_) => _ = pin!(tokio::task::yield_now()).poll(context),
            #[cfg(feature = "async-io")]
            Reactor::AsyncIo(_) => context.waker().wake_by_ref(),
        }
    }

    /// Forgets the last ring, before a poll that drains the doorbell. Otherwise `poll_rung` would
    /// report it again, which costs a second check. `poll_rung` still reports later rings, and a
    /// hang-up each time.
    fn use_up(&self) {
        match self {
            #[cfg(feature = "tokio")]
            Reactor::Tokio(stream) => {
                // This reads nothing: it only clears the readiness.
                let used_up = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                let _ = stream.try_io(tokio::io::Interest::READABLE, used_up);
            }
            // It clears the readiness itself, when it is polled.
            #[cfg(feature = "async-io")]
            Reactor::AsyncIo(_) => {}
        }
    }
}

impl fmt::Debug for AsyncPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncPort")
            .field("sender", &self.sender.sender)
            .field("receiver", &self.receiver.receiver)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for AsyncSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncSender").field(&self.sender).finish()
    }
}

impl fmt::Debug for AsyncReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncReceiver").field(&self.receiver).finish()
    }
}

/// Messages of one port before it yields to other tasks.
const SHARE: u32 = 64;
