//! Async ports whose messages have one type each way.

use crate::error::{MessageError, PostError, RecvError};
use crate::front::add_error::AddError;
use crate::future::halves::{AsyncReceiver, AsyncSender};
use crate::link::archive::Receive;
use crate::link::payload::Post;
use crate::port::MessagePort;
use crate::port::agreement::{self, Agreement};
use crate::port::message::Message;
use crate::port::transfer::{TransferError, TransferList};
use crate::port::typed::{TypedError, TypedPort, before, explain};
use crate::port::typed_message::TypedMessage;
use futures_core::{FusedStream, Stream};
use futures_sink::Sink;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// An [`AsyncPort`](crate::AsyncPort) that receives `Rx` and posts `Tx`; made by
/// [`TypedPort::into_async`].
///
/// A message that is not an `Rx` is returned as an error; the next call gives the message after it.
/// As a [`Stream`] it yields [`TypedMessage`]s, as a [`Sink`] it takes values of `Tx`. For what
/// does not depend on the types use [`halves`](Self::halves).
///
#[cfg_attr(feature = "tokio", doc = "```")]
#[cfg_attr(not(feature = "tokio"), doc = "```ignore")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let channel = messageport::MessageChannel::new()?;
/// let mut client = channel.port1.typed::<u64, String>().into_async()?;
/// let mut server = channel.port2.typed::<String, u64>().into_async()?;
/// client.post_message(&"four".to_string()).await?;
/// let len = server.recv().await?.data().len();
/// server.post_message(&(len as u64)).await?;
/// assert_eq!(client.recv().await?.data().to_native(), 4);
/// # Ok(())
/// # }
/// ```
pub struct AsyncTypedPort<Rx, Tx> {
    sender: AsyncTypedSender<Tx>,
    receiver: AsyncTypedReceiver<Rx>,
}

/// The posting half of an [`AsyncTypedPort`], for a task of its own.
pub struct AsyncTypedSender<Tx> {
    sender: AsyncSender,
    agreement: Option<Agreement>,
    /// A value that the sink has accepted and not posted.
    kept: Option<Tx>,
}

/// The receiving half of an [`AsyncTypedPort`], for a task of its own.
pub struct AsyncTypedReceiver<Rx> {
    receiver: AsyncReceiver,
    agreement: Option<Agreement>,
    /// That of the sending half.
    outgoing: Option<Agreement>,
    /// Whether the stream has ended with an error about the types.
    has_refused: bool,
    kind: PhantomData<fn() -> Rx>,
}

impl<Rx: Receive, Tx: Post> TypedPort<Rx, Tx> {
    /// Converts the port for async programs. See [`MessagePort::into_async`].
    ///
    /// # Errors
    /// [`AddError`] with the port, as [`MessagePort::into_async`].
    ///
    /// # Panics
    /// As [`MessagePort::into_async`].
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tokio", feature = "async-io"))))]
    pub fn into_async(self) -> Result<AsyncTypedPort<Rx, Tx>, AddError<TypedPort<Rx, Tx>>> {
        let port = self.into_inner().into_async().map_err(|error| error.map(MessagePort::typed))?;
        let (sender, receiver) = port.split();
        let end = sender.as_sender().endpoint();
        let outgoing = Agreement::declare::<Tx>(end, true);
        let incoming = Agreement::declare::<Rx>(end, false);
        Ok(AsyncTypedPort {
            sender: AsyncTypedSender { sender, agreement: outgoing.clone(), kept: None },
            receiver: AsyncTypedReceiver {
                receiver,
                agreement: incoming,
                outgoing,
                has_refused: false,
                kind: PhantomData,
            },
        })
    }
}

impl<Rx: Receive, Tx: Post> AsyncTypedPort<Rx, Tx> {
    /// The next message. Cancel-safe.
    ///
    /// # Errors
    /// [`TypedError::Recv`] as [`AsyncPort::recv`](crate::AsyncPort::recv). [`TypedError::Message`]
    /// if the message is not an `Rx`: it is removed from the queue, what moved with it is closed,
    /// and the next call gives the next message. [`TypedError::TypeMismatch`] as
    /// [`TypedPort::recv`].
    pub async fn recv(&mut self) -> Result<TypedMessage<Rx>, TypedError> {
        self.receiver.recv().await
    }

    /// Takes the next message, if there is one.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Option<TypedMessage<Rx>>, TypedError> {
        self.receiver.try_recv()
    }

    /// Posts a value, waiting for room. See
    /// [`AsyncPort::post_message`](crate::AsyncPort::post_message).
    ///
    /// # Errors
    /// As [`AsyncPort::post_message`](crate::AsyncPort::post_message).
    /// [`PostError::TypeMismatch`] as [`TypedPort::post_message`].
    pub async fn post_message(&mut self, value: &Tx) -> Result<(), PostError> {
        self.sender.post_message(value).await
    }

    /// Posts a value and moves what is in the list, waiting for room. See
    /// [`AsyncPort::post_message_with`](crate::AsyncPort::post_message_with).
    ///
    /// # Errors
    /// As [`AsyncPort::post_message_with`](crate::AsyncPort::post_message_with).
    /// [`PostError::TypeMismatch`] as [`TypedPort::post_message_with`].
    pub async fn post_message_with(
        &mut self,
        value: &Tx,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        self.sender.post_message_with(value, transfer).await
    }

    /// Splits it into halves for two tasks.
    #[must_use = "a half that is dropped ends its direction"]
    pub fn split(self) -> (AsyncTypedSender<Tx>, AsyncTypedReceiver<Rx>) {
        (self.sender, self.receiver)
    }

    /// Returns the typed port. What the sink has accepted and not posted is lost, so flush it
    /// before.
    ///
    /// # Panics
    /// Never: its halves belong together.
    pub fn into_inner(self) -> TypedPort<Rx, Tx> {
        let (sender, receiver) = (self.sender.into_inner(), self.receiver.into_inner());
        MessagePort::join(sender.into_inner(), receiver.into_inner())
            .expect("halves of one port")
            .typed()
    }

    /// Ends the conversation. See [`MessagePort::close`].
    pub fn close(&self) {
        self.sender.sender.close();
        self.receiver.receiver.close();
    }

    /// Whether posts fail because either end is closed or the peer is gone. See
    /// [`MessagePort::is_closed`].
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.sender.is_closed()
    }

    /// The untyped halves, for everything that does not depend on the types.
    pub fn halves(&mut self) -> (&mut AsyncSender, &mut AsyncReceiver) {
        (&mut self.sender.sender, &mut self.receiver.receiver)
    }
}

impl<Tx: Post> AsyncTypedSender<Tx> {
    /// Posts a value, waiting for room. See
    /// [`AsyncPort::post_message`](crate::AsyncPort::post_message).
    ///
    /// # Errors
    /// As [`AsyncPort::post_message`](crate::AsyncPort::post_message).
    /// [`PostError::TypeMismatch`] as [`TypedPort::post_message`].
    pub async fn post_message(&mut self, value: &Tx) -> Result<(), PostError> {
        std::future::poll_fn(|context| self.poll_post(context, value)).await
    }

    /// Posts a value and moves what is in the list, waiting for room. See
    /// [`AsyncPort::post_message_with`](crate::AsyncPort::post_message_with).
    ///
    /// # Errors
    /// As [`AsyncPort::post_message_with`](crate::AsyncPort::post_message_with).
    /// [`PostError::TypeMismatch`] as [`TypedPort::post_message_with`].
    pub async fn post_message_with(
        &mut self,
        value: &Tx,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        let list = transfer.into_list();
        let ready = std::future::poll_fn(|context| self.poll_kept(context)).await;
        match ready.and_then(|()| self.check()) {
            Ok(()) => self.sender.post_message_with(value, list).await,
            Err(reason) => Err(TransferError::new(reason, list)),
        }
    }

    /// The untyped half, for everything that does not depend on the type.
    pub fn sender(&mut self) -> &mut AsyncSender {
        &mut self.sender
    }

    /// Returns the half without its type.
    pub fn into_inner(self) -> AsyncSender {
        agreement::withdraw(&self.agreement);
        self.sender
    }

    fn poll_post(&mut self, context: &mut Context<'_>, value: &Tx) -> Poll<Result<(), PostError>> {
        ready!(self.poll_kept(context))?;
        self.check()?;
        self.sender.poll_post(context, |sender| sender.post_message(value))
    }

    /// Checks that the peer receives this type, as far as it is known.
    fn check(&self) -> Result<(), PostError> {
        agreement::check(&self.agreement).map_err(PostError::TypeMismatch)
    }

    /// Posts the value that the sink has kept.
    fn poll_kept(&mut self, context: &mut Context<'_>) -> Poll<Result<(), PostError>> {
        let Some(kept) = &self.kept else { return Poll::Ready(Ok(())) };
        let posted = ready!(self.sender.poll_post(context, |sender| sender.post_message(kept)));
        self.kept = None;
        Poll::Ready(posted)
    }
}

impl<Rx: Receive> AsyncTypedReceiver<Rx> {
    /// The next message. See [`AsyncTypedPort::recv`].
    ///
    /// # Errors
    /// As [`AsyncTypedPort::recv`].
    pub async fn recv(&mut self) -> Result<TypedMessage<Rx>, TypedError> {
        before(&self.agreement)?;
        let received = self.receiver.recv().await;
        before(&self.agreement)?;
        let message = received.map_err(|error| explain(&self.outgoing, error))?;
        Ok(TypedMessage::check(message)?)
    }

    /// Takes the next message, if there is one.
    ///
    /// # Errors
    /// As [`AsyncTypedPort::recv`].
    pub fn try_recv(&mut self) -> Result<Option<TypedMessage<Rx>>, TypedError> {
        before(&self.agreement)?;
        let received: Result<Option<Message>, RecvError> = self.receiver.try_recv();
        before(&self.agreement)?;
        let message = received.map_err(|error| explain(&self.outgoing, error))?;
        Ok(message.map(TypedMessage::check).transpose()?)
    }

    /// The untyped half, for everything that does not depend on the type.
    pub fn receiver(&mut self) -> &mut AsyncReceiver {
        &mut self.receiver
    }

    /// Returns the half without its type.
    pub fn into_inner(self) -> AsyncReceiver {
        agreement::withdraw(&self.agreement);
        self.receiver
    }
}

/// As [`AsyncReceiver`]; a message that is not an `Rx` is an error. A
/// [`MessageError::TypeMismatch`] is the last item.
impl<Rx: Receive> Stream for AsyncTypedReceiver<Rx> {
    type Item = Result<TypedMessage<Rx>, MessageError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_refused {
            return Poll::Ready(None);
        }
        if agreement::is_agreed(&self.agreement) {
            let next = ready!(Pin::new(&mut self.receiver).poll_next(context));
            if agreement::is_agreed(&self.agreement) {
                let Some(message) = next else { return Poll::Ready(self.end()) };
                return Poll::Ready(Some(message.and_then(TypedMessage::check)));
            }
        }
        self.has_refused = true;
        let error = MessageError::TypeMismatch(agreement::mismatch(&self.agreement));
        Poll::Ready(Some(Err(error)))
    }
}

impl<Rx: Receive> AsyncTypedReceiver<Rx> {
    /// The last item of the stream: says if the peer left because of the other direction's types.
    fn end(&mut self) -> Option<Result<TypedMessage<Rx>, MessageError>> {
        let error = self.receiver.try_recv().err()?;
        match explain(&self.outgoing, error) {
            TypedError::TypeMismatch(mismatch) => {
                self.has_refused = true;
                Some(Err(MessageError::TypeMismatch(mismatch)))
            }
            _ => None,
        }
    }
}

impl<Rx: Receive> FusedStream for AsyncTypedReceiver<Rx> {
    fn is_terminated(&self) -> bool {
        self.has_refused || self.receiver.is_terminated()
    }
}

/// As [`AsyncTypedReceiver`].
impl<Rx: Receive, Tx: Unpin> Stream for AsyncTypedPort<Rx, Tx> {
    type Item = Result<TypedMessage<Rx>, MessageError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.receiver).poll_next(context)
    }
}

impl<Rx: Receive, Tx: Unpin> FusedStream for AsyncTypedPort<Rx, Tx> {
    fn is_terminated(&self) -> bool {
        self.receiver.is_terminated()
    }
}

/// Takes values. One that does not fit is kept, and posted when the sink is flushed, or before the
/// next post.
impl<Tx: Post + Unpin> Sink<Tx> for AsyncTypedSender<Tx> {
    type Error = PostError;

    fn poll_ready(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), PostError>> {
        self.poll_kept(context)
    }

    fn start_send(mut self: Pin<&mut Self>, value: Tx) -> Result<(), PostError> {
        self.check()?;
        match self.sender.as_sender().post_message(&value) {
            Err(PostError::QueueFull { .. }) => {
                self.kept = Some(value);
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
        ready!(Pin::new(&mut self.sender).poll_close(context))?;
        Poll::Ready(flushed)
    }
}

/// As [`AsyncTypedSender`].
impl<Rx, Tx: Post + Unpin> Sink<Tx> for AsyncTypedPort<Rx, Tx> {
    type Error = PostError;

    fn poll_ready(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), PostError>> {
        Pin::new(&mut self.sender).poll_ready(context)
    }

    fn start_send(mut self: Pin<&mut Self>, value: Tx) -> Result<(), PostError> {
        Pin::new(&mut self.sender).start_send(value)
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

impl<Rx, Tx> fmt::Debug for AsyncTypedPort<Rx, Tx> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncTypedPort")
            .field("sender", &self.sender)
            .field("receiver", &self.receiver)
            .finish()
    }
}

impl<Tx> fmt::Debug for AsyncTypedSender<Tx> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncTypedSender").field(&self.sender).finish()
    }
}

impl<Rx> fmt::Debug for AsyncTypedReceiver<Rx> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncTypedReceiver").field(&self.receiver).finish()
    }
}
