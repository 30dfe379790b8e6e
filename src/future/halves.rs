//! The two halves of an async port, each for a task of its own.

use crate::error::{CloseReason, MessageError, PostError, RecvError};
use crate::future::SHARE;
use crate::future::reactor::Reactor;
use crate::link::payload::Post;
use crate::link::pool::PooledBuffer;
use crate::link::receiving::chunks::Polled;
use crate::link::stats::{Backlog, LaneStats};
use crate::os::reaper;
use crate::port::burst::Burst;
use crate::port::loan::Loan;
use crate::port::message::Message;
use crate::port::peek::NextMessage;
use crate::port::pool::PooledError;
use crate::port::receiver::Receiver;
use crate::port::sender::Sender;
use crate::port::transfer::{TransferError, TransferList, Transferable};
use atomic_waker::AtomicWaker;
use futures_core::{FusedStream, Stream};
use futures_sink::Sink;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// The posting half of an [`AsyncPort`](crate::AsyncPort), for a task of its own.
///
/// Dropping it ends this direction only: the peer receives everything that was posted, and then
/// `Closed`. What the sink has accepted and not posted is lost then, so flush it before.
pub struct AsyncSender {
    sender: Sender,
    reactor: Reactor,
    wakers: Arc<Wakers>,
    /// A message that the sink has accepted and not posted.
    kept: Option<Vec<u8>>,
}

/// The receiving half of an [`AsyncPort`](crate::AsyncPort), for a task of its own.
///
/// Dropping it ends this direction only: from then on the peer's posts fail.
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
pub(super) struct Wakers {
    /// The task that waits for room.
    pub(super) sender: AtomicWaker,
    /// The task that waits for a message.
    pub(super) receiver: AtomicWaker,
}

impl AsyncSender {
    pub(super) fn new(sender: Sender, reactor: Reactor, wakers: Arc<Wakers>) -> AsyncSender {
        AsyncSender { sender, reactor, wakers, kept: None }
    }

    /// Posts a value, waiting for room. See
    /// [`AsyncPort::post_message`](crate::AsyncPort::post_message).
    ///
    /// # Errors
    /// As [`AsyncPort::post_message`](crate::AsyncPort::post_message).
    pub async fn post_message<T: Post>(&mut self, value: &T) -> Result<(), PostError> {
        poll_fn(|context| self.poll_post(context, |sender| sender.post_message(value))).await
    }

    /// Posts bytes, waiting for room.
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message), except `Serialize`.
    pub async fn post_bytes(&mut self, bytes: &[u8]) -> Result<(), PostError> {
        poll_fn(|context| self.poll_post(context, |sender| sender.post_bytes(bytes))).await
    }

    /// Posts text, waiting for room.
    ///
    /// # Errors
    /// As [`post_bytes`](Self::post_bytes).
    pub async fn post_text(&mut self, text: &str) -> Result<(), PostError> {
        poll_fn(|context| self.poll_post(context, |sender| sender.post_text(text))).await
    }

    /// Posts a value and moves what is in the list, waiting for room. See
    /// [`AsyncPort::post_message_with`](crate::AsyncPort::post_message_with).
    ///
    /// # Errors
    /// As [`AsyncPort::post_message_with`](crate::AsyncPort::post_message_with).
    pub async fn post_message_with<T: Post>(
        &mut self,
        value: &T,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        let post = |sender: &Sender, list| sender.post_message_with(value, list);
        self.post_with(transfer.into_list(), post).await
    }

    /// Posts bytes and moves what is in the list, waiting for room.
    ///
    /// # Errors
    /// As [`post_message_with`](Self::post_message_with).
    pub async fn post_bytes_with(
        &mut self,
        bytes: &[u8],
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        let post = |sender: &Sender, list| sender.post_bytes_with(bytes, list);
        self.post_with(transfer.into_list(), post).await
    }

    /// Posts text and moves what is in the list, waiting for room.
    ///
    /// # Errors
    /// As [`post_message_with`](Self::post_message_with).
    pub async fn post_text_with(
        &mut self,
        text: &str,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        let post = |sender: &Sender, list| sender.post_text_with(text, list);
        self.post_with(transfer.into_list(), post).await
    }

    /// Posts a value and hands over a buffer of a pool, waiting for room. See
    /// [`AsyncPort::post_message_pooled`](crate::AsyncPort::post_message_pooled).
    ///
    /// # Errors
    /// [`PooledError`] with the reason and the buffer.
    pub async fn post_message_pooled<T: Post>(
        &mut self,
        value: &T,
        buffer: PooledBuffer,
    ) -> Result<(), PooledError> {
        let mut buffer = Some(buffer);
        let posted = poll_fn(|context| {
            self.poll_post(context, |sender| {
                let taken = buffer.take().expect("it comes back with each error");
                sender.post_message_pooled(value, taken).map_err(|error| {
                    let (reason, back) = error.into_parts();
                    buffer = Some(back);
                    reason
                })
            })
        });
        let posted = posted.await;
        posted.map_err(|reason| {
            PooledError::new(reason, buffer.expect("it comes back with each error"))
        })
    }

    /// Waits until a message of `len` bytes would fit. Cancel-safe.
    ///
    /// # Errors
    /// As [`post_bytes`](Self::post_bytes).
    pub async fn wait_for_room(&mut self, len: usize) -> Result<(), PostError> {
        poll_fn(|context| self.poll_post(context, |sender| sender.has_room(len as u64))).await
    }

    /// Reserves a message of `len` bytes, waiting for room. See
    /// [`AsyncPort::loan`](crate::AsyncPort::loan).
    ///
    /// # Errors
    /// As [`post_bytes`](Self::post_bytes).
    pub async fn loan(&mut self, len: usize) -> Result<Loan<'_>, PostError> {
        self.wait_for_room(len).await?;
        self.sender.loan(len)
    }

    /// Begins a burst. See [`AsyncPort::burst`](crate::AsyncPort::burst).
    pub fn burst(&self) -> Burst<'_> {
        self.sender.burst()
    }

    /// The sending half itself, for calls that do not wait. See
    /// [`AsyncPort::as_sender`](crate::AsyncPort::as_sender).
    pub fn as_sender(&self) -> &Sender {
        &self.sender
    }

    /// Returns the sending half. What the sink has accepted and not posted is lost, so flush it
    /// before.
    pub fn into_inner(self) -> Sender {
        self.sender
    }

    /// Ends this direction. See [`Sender::close`].
    pub fn close(&self) {
        self.sender.close();
    }

    /// Whether posts fail because an end is closed. Makes at most one system call.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// What was posted and not yet taken by the peer. See [`Sender::backlog`].
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        self.sender.backlog()
    }

    /// Counters of the lane that this half writes. See [`Sender::stats`].
    #[must_use]
    pub fn stats(&self) -> LaneStats {
        self.sender.stats()
    }

    /// Runs `post` until there is room, and keeps the list meanwhile.
    pub(super) async fn post_with(
        &mut self,
        mut list: Vec<Transferable>,
        post: impl Fn(&Sender, Vec<Transferable>) -> Result<(), TransferError>,
    ) -> Result<(), TransferError> {
        let posted = poll_fn(|context| {
            self.poll_post(context, |sender| {
                post(sender, std::mem::take(&mut list)).map_err(|error| {
                    let (reason, back) = error.into_parts();
                    list = back;
                    reason
                })
            })
        });
        posted.await.map_err(|reason| TransferError::new(reason, list))
    }

    /// What it consists of, for another way to wait for room.
    pub(super) fn into_parts(self) -> (Sender, Reactor, Arc<Wakers>) {
        (self.sender, self.reactor, self.wakers)
    }

    /// Tries to post, drains the doorbell, arms the flag, and tries again before it waits. Posts
    /// what the sink has kept first.
    pub(super) fn poll_post(
        &mut self,
        context: &mut Context<'_>,
        mut post: impl FnMut(&Sender) -> Result<(), PostError>,
    ) -> Poll<Result<(), PostError>> {
        if self.kept.is_some() {
            ready!(self.poll_kept(context))?;
        }
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
            ready!(self.reactor.poll_readable(context))?;
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
    pub(super) fn new(receiver: Receiver, reactor: Reactor, wakers: Arc<Wakers>) -> AsyncReceiver {
        // From here on a poll that finds nothing has armed the flag.
        let _ = receiver.level_triggered_fd();
        receiver.set_patient(false);
        AsyncReceiver { receiver, reactor, wakers, has_ended: false, in_a_row: 0 }
    }

    /// The next message. See [`AsyncPort::recv`](crate::AsyncPort::recv).
    ///
    /// # Errors
    /// As [`AsyncPort::recv`](crate::AsyncPort::recv).
    pub async fn recv(&mut self) -> Result<Message, RecvError> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// Takes the next message, if there is one. See
    /// [`AsyncPort::try_recv`](crate::AsyncPort::try_recv).
    ///
    /// # Errors
    /// As [`AsyncPort::try_recv`](crate::AsyncPort::try_recv).
    pub fn try_recv(&mut self) -> Result<Option<Message>, RecvError> {
        loop {
            match self.look()? {
                Polled::Message(message) => return Ok(Some(message)),
                Polled::Nothing => return Ok(None),
                // No other task has a turn within this call.
                Polled::Unfinished => {}
            }
        }
    }

    /// Skips the next message without reading it; returns whether there was one. See
    /// [`MessagePort::discard_next`](crate::MessagePort::discard_next).
    ///
    /// # Errors
    /// As [`MessagePort::discard_next`](crate::MessagePort::discard_next).
    pub fn discard_next(&mut self) -> Result<bool, RecvError> {
        let discarded = self.receiver.discard_next();
        self.share_ring();
        discarded
    }

    /// Looks at the next message and leaves it in the queue. See
    /// [`MessagePort::peek`](crate::MessagePort::peek).
    ///
    /// # Errors
    /// As [`MessagePort::peek`](crate::MessagePort::peek).
    pub fn peek(&mut self) -> Result<Option<NextMessage>, RecvError> {
        let next = self.receiver.peek();
        self.share_ring();
        next
    }

    /// Copies the next message and leaves it in the queue. See
    /// [`MessagePort::peek_message`](crate::MessagePort::peek_message).
    ///
    /// # Errors
    /// As [`MessagePort::peek_message`](crate::MessagePort::peek_message).
    pub fn peek_message(&mut self) -> Result<Option<Message>, RecvError> {
        let next = self.receiver.peek_message();
        self.share_ring();
        next
    }

    /// Returns the receiving half.
    pub fn into_inner(self) -> Receiver {
        self.receiver.set_patient(true);
        self.receiver
    }

    /// Ends this direction. See [`Receiver::close`].
    pub fn close(&self) {
        self.receiver.close();
    }

    /// Whether no more messages can come. See [`Receiver::is_closed`].
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.receiver.is_closed()
    }

    /// Counters of the lane that this half reads. See [`Receiver::stats`].
    #[must_use]
    pub fn stats(&self) -> LaneStats {
        self.receiver.stats()
    }

    pub(super) fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    pub(super) fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Message, RecvError>> {
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
            match self.look() {
                Ok(Polled::Message(message)) => return Poll::Ready(Ok(message)),
                Ok(Polled::Unfinished) => {
                    self.reactor.give_way(context);
                    return Poll::Pending;
                }
                Ok(Polled::Nothing) => {}
                Err(_) if self.receiver.waits_for_reaper() => {
                    self.wait_for_descriptors(context);
                    return Poll::Pending;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
            self.in_a_row = 0;
            ready!(self.reactor.poll_readable(context))?;
        }
    }

    /// Has the task woken later: this process has no room for the descriptors of the next message,
    /// which comes without them in a tenth of a second, or they wait for others to be closed.
    pub(super) fn wait_for_descriptors(&self, context: &Context<'_>) {
        reaper::wake_for_room(self.receiver.endpoint().account(), context.waker());
    }

    /// Takes the next message, or copies a part of it.
    fn look(&mut self) -> Result<Polled<Message>, RecvError> {
        let mut cost = 0;
        let polled = self.receiver.poll_to_copy().map(|(polled, memory)| {
            polled.map(|event| {
                cost = event.cost();
                let message = event.into_message_in(memory);
                message.expect("it is in memory of its own, or there is memory for it")
            })
        });
        self.in_a_row = self.in_a_row.saturating_add(cost);
        self.share_ring();
        polled
    }

    /// Wakes the other half if the last call has drained the doorbell: the ring may have been for
    /// room.
    fn share_ring(&self) {
        if self.receiver.has_drained() {
            self.wakers.sender.wake();
        }
    }
}

/// Ends when no more messages can come. An error is about one message; the next item is about the
/// next one.
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
            Err(RecvError::OutOfDescriptors { .. }) => {
                self.wait_for_descriptors(context);
                Poll::Pending
            }
            Err(_) => {
                self.has_ended = true;
                Poll::Ready(None)
            }
        }
    }
}

impl FusedStream for AsyncReceiver {
    fn is_terminated(&self) -> bool {
        self.has_ended
    }
}

/// Takes bytes. A message that does not fit is kept, and posted when the sink is flushed, or by the
/// next post.
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
