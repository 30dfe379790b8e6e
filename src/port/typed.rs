//! Ports whose messages have one type each way.

use crate::error::{AsIoError, MessageError, PostError, RecvError, into_io_error};
use crate::link::archive::Receive;
use crate::link::archive::pool::ReceiveOwned;
use crate::link::payload::Post;
use crate::port::MessagePort;
use crate::port::batch::TryIter;
use crate::port::burst::Burst;
use crate::port::event::MessageEvent;
use crate::port::listener::{Event, IntoListenerResult};
use crate::port::transfer::{TransferError, TransferList};
use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

/// A port that receives `Rx` and posts `Tx`; made by [`MessagePort::typed`].
///
/// A message that is not an `Rx` (bytes and text included) is returned as an error; the next call
/// gives the message after it. Each message is checked when it is received, and again by
/// [`TypedEvent::data`]: see [`MessageEvent::data`] for what that costs.
///
/// For everything that does not depend on the types, such as counters, listeners, halves and trust,
/// use [`port`](TypedPort::port) or [`into_inner`](Self::into_inner). An
/// [`EventLoop`](crate::EventLoop) accepts a typed port directly.
///
/// ```
/// use messageport::{EventLoop, MessageChannel};
///
/// let channel = MessageChannel::new()?;
/// let port = channel.port1.typed::<String, u64>();
/// port.on_message(|event, text| event.port().post_message(&(text.len() as u64)));
/// port.port().on_message_error(|event| eprintln!("{}", event.message_error().unwrap()));
/// let mut event_loop = EventLoop::new()?;
/// event_loop.add(port)?;
///
/// let client = channel.port2.typed::<u64, String>();
/// client.post_message(&"four".to_string())?;
/// event_loop.run_until_idle()?;
/// assert_eq!(client.recv()?.data().to_native(), 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TypedPort<Rx, Tx> {
    port: MessagePort,
    types: PhantomData<fn(Tx) -> Rx>,
}

/// A message that was checked to be an `Rx`.
pub struct TypedEvent<'p, Rx> {
    event: MessageEvent<'p>,
    kind: PhantomData<fn() -> Rx>,
}

/// An iterator over messages of one type; made by [`TypedPort::iter`].
#[derive(Debug)]
#[must_use = "an iterator takes no message before `next` is called"]
pub struct TypedIter<'p, Rx, Tx> {
    port: &'p TypedPort<Rx, Tx>,
    has_ended: bool,
}

/// An iterator over the messages of one type that are there; made by [`TypedPort::try_iter`].
#[derive(Debug)]
#[must_use = "an iterator takes no message before `next` is called"]
pub struct TypedTryIter<'p, Rx> {
    messages: TryIter<'p>,
    kind: PhantomData<fn() -> Rx>,
}

/// Values of one type that are staged one by one and published together; made by
/// [`TypedPort::burst`].
#[derive(Debug)]
#[must_use = "a burst is published when it is dropped"]
pub struct TypedBurst<'p, Tx> {
    burst: Burst<'p>,
    kind: PhantomData<fn(Tx)>,
}

/// Why no message of the type was received.
#[derive(Debug, thiserror::Error)]
pub enum TypedError {
    /// No message was received.
    #[error(transparent)]
    Recv(#[from] RecvError),
    /// A message was received, and it is not an `Rx`. The port stays usable.
    #[error(transparent)]
    Message(#[from] MessageError),
}

impl AsIoError for TypedError {
    fn kind(&self) -> std::io::ErrorKind {
        match self {
            TypedError::Recv(error) => error.kind(),
            TypedError::Message(error) => error.kind(),
        }
    }
}

into_io_error!(TypedError);

impl MessagePort {
    /// Fixes the message types of both directions.
    ///
    /// A message that is not a valid `Rx` is returned as an error. Where messages are delivered as
    /// events it raises `messageerror`, before any handler sees it.
    ///
    /// ```
    /// use messageport::{MessageChannel, TypedError};
    ///
    /// let channel = MessageChannel::new()?;
    /// let port = channel.port1.typed::<String, u32>();
    /// channel.port2.post_message(&"a question".to_string())?;
    /// channel.port2.post_text("no archive")?;
    /// assert_eq!(port.recv()?.data().as_str(), "a question");
    /// assert!(matches!(port.recv(), Err(TypedError::Message(_))));
    /// port.post_message(&42)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn typed<Rx: Receive, Tx: Post>(self) -> TypedPort<Rx, Tx> {
        self.validator.set(Some(|message| message.data::<Rx>().map(drop)));
        TypedPort { port: self, types: PhantomData }
    }
}

impl<Rx: Receive, Tx: Post> TypedPort<Rx, Tx> {
    /// Posts a value; never blocks. See [`MessagePort::post_message`].
    ///
    /// # Errors
    /// As [`MessagePort::post_message`].
    pub fn post_message(&self, value: &Tx) -> Result<(), PostError> {
        self.port.post_message(value)
    }

    /// Posts a value, waiting for room. See [`MessagePort::post_message_timeout`].
    ///
    /// # Errors
    /// As [`MessagePort::post_message_timeout`].
    pub fn post_message_timeout(&self, value: &Tx, timeout: Duration) -> Result<(), PostError> {
        self.port.post_message_timeout(value, timeout)
    }

    /// Posts a value, and moves what is in the list. See [`MessagePort::post_message_with`].
    ///
    /// # Errors
    /// As [`MessagePort::post_message_with`].
    pub fn post_message_with(
        &self,
        value: &Tx,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        self.port.post_message_with(value, transfer)
    }

    /// Posts a value and moves what is in the list, waiting for room.
    ///
    /// See [`MessagePort::post_message_with_timeout`].
    ///
    /// # Errors
    /// As [`MessagePort::post_message_with_timeout`].
    pub fn post_message_with_timeout(
        &self,
        value: &Tx,
        transfer: impl TransferList,
        timeout: Duration,
    ) -> Result<(), TransferError> {
        self.port.post_message_with_timeout(value, transfer, timeout)
    }

    /// Begins a burst: values that are staged one by one and published together.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// let port = channel.port1.typed::<(), u8>();
    /// let burst = port.burst();
    /// burst.stage(&1)?;
    /// burst.stage(&2)?;
    /// burst.commit();
    /// assert_eq!(*channel.port2.recv()?.data::<u8>()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn burst(&self) -> TypedBurst<'_, Tx> {
        TypedBurst { burst: self.port.burst(), kind: PhantomData }
    }

    /// Waits for the next message. See [`MessagePort::recv`].
    ///
    /// # Errors
    /// [`TypedError::Recv`] as there. [`TypedError::Message`] if the message is not an `Rx`: it is
    /// removed from the queue, what moved with it is closed, and the next call gives the next
    /// message.
    pub fn recv(&self) -> Result<TypedEvent<'_, Rx>, TypedError> {
        check(self.port.recv()?)
    }

    /// Waits for the next message for at most `timeout`. See [`MessagePort::recv_timeout`].
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<TypedEvent<'_, Rx>, TypedError> {
        check(self.port.recv_timeout(timeout)?)
    }

    /// Waits for the next message until `deadline`. See [`MessagePort::recv_deadline`].
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_deadline(&self, deadline: Instant) -> Result<TypedEvent<'_, Rx>, TypedError> {
        check(self.port.recv_deadline(deadline)?)
    }

    /// Takes the next message, if there is one. See [`MessagePort::try_recv`].
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<Option<TypedEvent<'_, Rx>>, TypedError> {
        self.port.try_recv()?.map(check).transpose()
    }

    /// Iterates over messages, waiting for each.
    ///
    /// A message that is not an `Rx` is an `Err` item. The iteration ends when
    /// [`MessagePort::recv`] would fail.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_message(&1u8)?;
    /// channel.port1.post_text("no number")?;
    /// channel.port1.post_message(&2u8)?;
    /// drop(channel.port1);
    /// let port = channel.port2.typed::<u8, ()>();
    /// let sum: u8 = port.iter().flatten().map(|event| *event.data()).sum();
    /// assert_eq!(sum, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter(&self) -> TypedIter<'_, Rx, Tx> {
        TypedIter { port: self, has_ended: false }
    }

    /// Iterates over the messages that are there, without waiting. See [`MessagePort::try_iter`].
    ///
    /// A message that is not an `Rx` is an `Err` item.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_message(&1u8)?;
    /// channel.port1.post_message(&2u8)?;
    /// let port = channel.port2.typed::<u8, ()>();
    /// let sum: u8 = port.try_iter().flatten().map(|event| *event.data()).sum();
    /// assert_eq!(sum, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_iter(&self) -> TypedTryIter<'_, Rx> {
        TypedTryIter { messages: self.port.try_iter(), kind: PhantomData }
    }

    /// Sets the handler for messages that are an `Rx`, and starts the port.
    ///
    /// See [`MessagePort::on_message`], and [`MessagePort::on_message_error`] for the other
    /// messages.
    pub fn on_message<O: IntoListenerResult>(
        &self,
        handler: impl Fn(&Event<'_>, &Rx::Archived) -> O + Send + 'static,
    ) {
        self.port.on_message(move |event| {
            // An event of the program's own, or of a port that has lost its type, may not be an
            // `Rx`.
            let message = event.message().map(|message| message.data::<Rx>());
            match message {
                Some(Ok(data)) => handler(event, data).into_result(),
                Some(Err(error)) => Err(error.into()),
                None => Ok(()),
            }
        });
    }

    /// Closes this end. See [`MessagePort::close`].
    pub fn close(&self) {
        self.port.close();
    }

    /// Whether posts fail because either end is closed or the peer is gone. See
    /// [`MessagePort::is_closed`].
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.port.is_closed()
    }

    /// The untyped port, for everything that does not depend on the types.
    pub fn port(&self) -> &MessagePort {
        &self.port
    }

    /// Returns the port without its types.
    pub fn into_inner(self) -> MessagePort {
        self.port.validator.set(None);
        self.port
    }
}

impl<'p, Rx: Receive, Tx: Post> IntoIterator for &'p TypedPort<Rx, Tx> {
    type Item = Result<TypedEvent<'p, Rx>, MessageError>;
    type IntoIter = TypedIter<'p, Rx, Tx>;

    fn into_iter(self) -> TypedIter<'p, Rx, Tx> {
        self.iter()
    }
}

impl<'p, Rx: Receive, Tx: Post> Iterator for TypedIter<'p, Rx, Tx> {
    type Item = Result<TypedEvent<'p, Rx>, MessageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        match self.port.recv() {
            Ok(event) => Some(Ok(event)),
            Err(TypedError::Message(error)) => Some(Err(error)),
            Err(TypedError::Recv(_)) => {
                self.has_ended = true;
                None
            }
        }
    }
}

impl<Rx: Receive, Tx: Post> FusedIterator for TypedIter<'_, Rx, Tx> {}

impl<'p, Rx: Receive> Iterator for TypedTryIter<'p, Rx> {
    type Item = Result<TypedEvent<'p, Rx>, MessageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let event = self.messages.next()?;
        Some(match event.data::<Rx>() {
            Ok(_) => Ok(TypedEvent { event, kind: PhantomData }),
            Err(error) => Err(error),
        })
    }
}

impl<Tx: Post> TypedBurst<'_, Tx> {
    /// Stages a value. See [`Burst::stage`].
    ///
    /// # Errors
    /// As [`Burst::stage`].
    pub fn stage(&self, value: &Tx) -> Result<(), PostError> {
        self.burst.stage(value)
    }

    /// Publishes what was staged; dropping the burst does the same.
    pub fn commit(self) {
        self.burst.commit();
    }
}

/// The doorbell; see [`MessagePort`]'s `AsFd`.
impl<Rx, Tx> AsFd for TypedPort<Rx, Tx> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.port.as_fd()
    }
}

/// As `AsFd`.
impl<Rx, Tx> AsRawFd for TypedPort<Rx, Tx> {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// Returns the port, which still checks what is delivered as events, for use in an event loop.
impl<Rx, Tx> From<TypedPort<Rx, Tx>> for MessagePort {
    fn from(typed: TypedPort<Rx, Tx>) -> MessagePort {
        typed.port
    }
}

pub(crate) fn check<Rx: Receive>(
    event: MessageEvent<'_>,
) -> Result<TypedEvent<'_, Rx>, TypedError> {
    event.data::<Rx>()?;
    Ok(TypedEvent { event, kind: PhantomData })
}

impl<'p, Rx: Receive> TypedEvent<'p, Rx> {
    /// Borrows the archived value. Each call checks it again, so keep the reference.
    pub fn data(&self) -> &Rx::Archived {
        self.event.data::<Rx>().expect("checked before, and unchanged since")
    }

    /// Returns the message as an owned `Rx`.
    ///
    /// # Errors
    /// What the deserialisation itself refuses. The port stays usable.
    pub fn deserialize(&self) -> Result<Rx, MessageError>
    where
        Rx: ReceiveOwned,
    {
        self.event.deserialize()
    }

    /// Returns the event without its type, for example for [`MessageEvent::into_message`].
    pub fn into_inner(self) -> MessageEvent<'p> {
        self.event
    }
}

impl<'p, Rx> Deref for TypedEvent<'p, Rx> {
    type Target = MessageEvent<'p>;

    fn deref(&self) -> &MessageEvent<'p> {
        &self.event
    }
}

impl<Rx, Tx> fmt::Debug for TypedPort<Rx, Tx> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedPort").field(&self.port).finish()
    }
}

impl<Rx> fmt::Debug for TypedEvent<'_, Rx> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedEvent").field(&self.event).finish()
    }
}
