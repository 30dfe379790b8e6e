//! Ports whose messages have one type each way.

use crate::error::{
    AsIoError, CloseReason, MessageError, PostError, RecvError, TypeMismatch, into_io_error,
};
use crate::link::archive::Receive;
use crate::link::archive::pool::ReceiveOwned;
use crate::link::payload::Post;
use crate::port::MessagePort;
use crate::port::agreement::{self, Agreement, Validator};
use crate::port::burst::Burst;
use crate::port::event::MessageEvent;
use crate::port::listener::{Event, IntoListenerResult};
use crate::port::transfer::{TransferError, TransferList};
use crate::port::typed_iter::{TypedIter, TypedTryIter};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

/// A port that receives `Rx` and posts `Tx`; made by [`MessagePort::typed`].
///
/// If the peer's port is typed too, and its types are others, posts and receiving calls fail with a
/// [`TypeMismatch`] that says what differs: see [`MessagePort::typed`].
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
    incoming: Option<Agreement>,
    outgoing: Option<Agreement>,
    types: PhantomData<fn(Tx) -> Rx>,
}

/// A message that was checked to be an `Rx`.
pub struct TypedEvent<'p, Rx> {
    event: MessageEvent<'p>,
    kind: PhantomData<fn() -> Rx>,
}

/// Values of one type that are staged one by one and published together; made by
/// [`TypedPort::burst`].
#[derive(Debug)]
#[must_use = "a burst is published when it is dropped"]
pub struct TypedBurst<'p, Tx> {
    burst: Burst<'p>,
    agreement: &'p Option<Agreement>,
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
    /// The peer has declared that it posts another type. A typed port has received no message: they
    /// stay in the queue, and [`TypedPort::into_inner`] gives the port that can read them. A
    /// responder has refused what came.
    ///
    /// Also returned in place of `Closed` if the peer has left and has declared that it receives
    /// another type than this end posts: then [`TypeMismatch::is_outgoing`] is true.
    #[error(transparent)]
    TypeMismatch(#[from] TypeMismatch),
}

impl TypedError {
    /// The text for a requester, which reads it in a refusal: what is here for this end is there
    /// for that one.
    pub(crate) fn for_requester(&self) -> String {
        match self {
            TypedError::TypeMismatch(error) => error.for_peer().to_string(),
            error => error.to_string(),
        }
    }
}

impl AsIoError for TypedError {
    fn kind(&self) -> std::io::ErrorKind {
        match self {
            TypedError::Recv(error) => error.kind(),
            TypedError::Message(error) => error.kind(),
            TypedError::TypeMismatch(error) => error.kind(),
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
    ///
    /// # Types of two programs
    /// The port declares the [`Shape`](crate::Shape)s of its two types to its peer, and compares
    /// them with those that the peer's typed port has declared. If they differ, the two programs
    /// were built with different definitions, and bytes of one type could be valid bytes of the
    /// other. Posts and receiving calls of that direction then fail with a [`TypeMismatch`], which
    /// says what differs. They do so from the first call after both ends were given types; a call
    /// that was already waiting fails when the peer posts or closes its port. [`check_types`]
    /// checks at once.
    ///
    /// A direction is compared if both ends have a shape for it. Types with rkyv's plain derives
    /// have none, and neither has a port without types: each message is then checked by itself
    /// only. A port that moves to another owner leaves its types behind, and the new owner gives it
    /// its own.
    ///
    /// Takes some microseconds, to write the texts of both shapes; makes no system call.
    ///
    /// [`check_types`]: TypedPort::check_types
    ///
    /// ```
    /// use messageport::{MessageChannel, TypedError};
    ///
    /// mod old {
    ///     #[messageport::message]
    ///     pub struct Order { pub id: u32 }
    /// }
    ///
    /// #[messageport::message]
    /// struct Order { id: u32, express: bool }
    ///
    /// let channel = MessageChannel::new()?;
    /// let shop = channel.port1.typed::<(), old::Order>();
    /// let stock = channel.port2.typed::<Order, ()>();
    /// let Err(TypedError::TypeMismatch(error)) = stock.try_recv() else { panic!("it differs") };
    /// assert_eq!(error.difference(), "field `express: bool` of `Order` is only here");
    /// assert!(shop.post_message(&old::Order { id: 1 }).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn typed<Rx: Receive, Tx: Post>(self) -> TypedPort<Rx, Tx> {
        let incoming = Agreement::declare::<Rx>(self.endpoint(), false);
        let outgoing = Agreement::declare::<Tx>(self.endpoint(), true);
        self.set_validator(Some(Validator {
            agreement: incoming.clone(),
            check: |message| message.data::<Rx>().map(drop),
        }));
        TypedPort { port: self, incoming, outgoing, types: PhantomData }
    }
}

impl<Rx: Receive, Tx: Post> TypedPort<Rx, Tx> {
    /// Posts a value; never blocks. See [`MessagePort::post_message`].
    ///
    /// # Errors
    /// As [`MessagePort::post_message`], and [`PostError::TypeMismatch`] if the peer has declared
    /// that it receives another type.
    #[inline]
    pub fn post_message(&self, value: &Tx) -> Result<(), PostError> {
        match agreement::is_agreed(&self.outgoing) {
            true => self.port.post_message(value),
            false => Err(outgoing_mismatch(&self.outgoing)),
        }
    }

    /// Posts a value, waiting for room. See [`MessagePort::post_message_timeout`].
    ///
    /// # Errors
    /// As [`MessagePort::post_message_timeout`], and [`PostError::TypeMismatch`].
    pub fn post_message_timeout(&self, value: &Tx, timeout: Duration) -> Result<(), PostError> {
        match agreement::is_agreed(&self.outgoing) {
            true => self.port.post_message_timeout(value, timeout),
            false => Err(outgoing_mismatch(&self.outgoing)),
        }
    }

    /// Posts a value, and moves what is in the list. See [`MessagePort::post_message_with`].
    ///
    /// # Errors
    /// As [`MessagePort::post_message_with`], and [`PostError::TypeMismatch`].
    pub fn post_message_with(
        &self,
        value: &Tx,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        match agreement::is_agreed(&self.outgoing) {
            true => self.port.post_message_with(value, transfer),
            false => {
                Err(TransferError::new(outgoing_mismatch(&self.outgoing), transfer.into_list()))
            }
        }
    }

    /// Posts a value and moves what is in the list, waiting for room.
    ///
    /// See [`MessagePort::post_message_with_timeout`].
    ///
    /// # Errors
    /// As [`MessagePort::post_message_with_timeout`], and [`PostError::TypeMismatch`].
    pub fn post_message_with_timeout(
        &self,
        value: &Tx,
        transfer: impl TransferList,
        timeout: Duration,
    ) -> Result<(), TransferError> {
        match agreement::is_agreed(&self.outgoing) {
            true => self.port.post_message_with_timeout(value, transfer, timeout),
            false => {
                Err(TransferError::new(outgoing_mismatch(&self.outgoing), transfer.into_list()))
            }
        }
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
        let burst = self.port.burst();
        TypedBurst { burst, agreement: &self.outgoing, kind: PhantomData }
    }

    /// Waits for the next message. See [`MessagePort::recv`].
    ///
    /// # Errors
    /// [`TypedError::Recv`] as there. [`TypedError::Message`] if the message is not an `Rx`: it is
    /// removed from the queue, what moved with it is closed, and the next call gives the next
    /// message. [`TypedError::TypeMismatch`] if the peer has declared that it posts another type:
    /// the messages stay in the queue, and every call returns this. It is also returned, in place
    /// of `Closed`, if the peer has left and its type of the other direction differs.
    pub fn recv(&self) -> Result<TypedEvent<'_, Rx>, TypedError> {
        before(&self.incoming)?;
        after(&self.incoming, &self.outgoing, self.port.recv())
    }

    /// Waits for the next message for at most `timeout`. See [`MessagePort::recv_timeout`].
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<TypedEvent<'_, Rx>, TypedError> {
        before(&self.incoming)?;
        after(&self.incoming, &self.outgoing, self.port.recv_timeout(timeout))
    }

    /// Waits for the next message until `deadline`. See [`MessagePort::recv_deadline`].
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_deadline(&self, deadline: Instant) -> Result<TypedEvent<'_, Rx>, TypedError> {
        before(&self.incoming)?;
        after(&self.incoming, &self.outgoing, self.port.recv_deadline(deadline))
    }

    /// Takes the next message, if there is one. See [`MessagePort::try_recv`].
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<Option<TypedEvent<'_, Rx>>, TypedError> {
        before(&self.incoming)?;
        match self.port.try_recv() {
            Ok(None) => Ok(None),
            Ok(Some(event)) => after(&self.incoming, &self.outgoing, Ok(event)).map(Some),
            Err(error) => after(&self.incoming, &self.outgoing, Err(error)).map(Some),
        }
    }

    /// Iterates over messages, waiting for each.
    ///
    /// A message that is not an `Rx` is an `Err` item. The iteration ends when
    /// [`MessagePort::recv`] would fail, and after a [`MessageError::TypeMismatch`].
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
        TypedIter::new(self)
    }

    /// Iterates over the messages that are there, without waiting. See [`MessagePort::try_iter`].
    ///
    /// A message that is not an `Rx` is an `Err` item. A [`MessageError::TypeMismatch`] is the last
    /// item.
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
        TypedTryIter::new(self.port.try_iter(), &self.incoming)
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

    /// Checks that the peer has declared the same types for both directions, or none so far.
    ///
    /// Every post and every receiving call checks its own direction, so a program need not call
    /// this. Use it to choose between several versions of the types before the first message.
    ///
    /// # Errors
    /// [`TypeMismatch`] for the direction that differs; for what is received, if both do.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// let port = channel.port1.typed::<u32, u64>();
    /// assert!(port.check_types().is_ok());
    /// let peer = channel.port2.typed::<u32, u32>();
    /// let error = port.check_types().unwrap_err();
    /// assert_eq!(error.difference(), "the type is `u64` here and `u32` there");
    /// assert!(error.is_outgoing());
    /// // Once the peer's port has no types any more, or others, the port works.
    /// let peer = peer.into_inner().typed::<u64, u32>();
    /// assert!(port.check_types().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check_types(&self) -> Result<(), TypeMismatch> {
        agreement::check(&self.incoming)?;
        agreement::check(&self.outgoing)
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

    /// Returns the port without its types, which the peer does not see any longer either.
    pub fn into_inner(self) -> MessagePort {
        self.port.set_validator(None);
        self.port.endpoint().withdraw_types();
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

impl<Tx: Post> TypedBurst<'_, Tx> {
    /// Stages a value. See [`Burst::stage`].
    ///
    /// # Errors
    /// As [`Burst::stage`], and [`PostError::TypeMismatch`].
    pub fn stage(&self, value: &Tx) -> Result<(), PostError> {
        if !agreement::is_agreed(self.agreement) {
            return Err(outgoing_mismatch(self.agreement));
        }
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

// All three are inlined, with a call that returns a pointer: an error whose address is passed to a
// call that may fill it would be in memory on the fast path too.

/// Checks the types before a message is taken.
#[inline(always)]
pub(crate) fn before(incoming: &Option<Agreement>) -> Result<(), TypedError> {
    match agreement::is_agreed(incoming) {
        true => Ok(()),
        false => Err(TypedError::TypeMismatch(agreement::mismatch(incoming))),
    }
}

/// Checks what was received, after the types once more: the peer may have declared them just before
/// it posted the message. A peer that has found other types here may have closed its port for that,
/// also if they are those of the other direction.
#[inline(always)]
pub(crate) fn after<'p, Rx: Receive>(
    incoming: &Option<Agreement>,
    outgoing: &Option<Agreement>,
    received: Result<MessageEvent<'p>, RecvError>,
) -> Result<TypedEvent<'p, Rx>, TypedError> {
    before(incoming)?;
    match received {
        Ok(event) => Ok(TypedEvent::checked(event)?),
        Err(error) => Err(explain(outgoing, error)),
    }
}

/// Why nothing was received: if the peer has left, and its types in the other direction differ, it
/// has probably left for that.
#[cold]
#[inline(never)]
pub(crate) fn explain(outgoing: &Option<Agreement>, error: RecvError) -> TypedError {
    match error {
        RecvError::Closed { reason } if reason != CloseReason::Local => {
            match agreement::check_declared(outgoing) {
                Ok(()) => TypedError::Recv(error),
                Err(mismatch) => TypedError::TypeMismatch(mismatch),
            }
        }
        error => TypedError::Recv(error),
    }
}

/// Why nothing is posted.
#[inline(always)]
pub(crate) fn outgoing_mismatch(outgoing: &Option<Agreement>) -> PostError {
    PostError::TypeMismatch(agreement::mismatch(outgoing))
}

impl<'p, Rx: Receive> TypedEvent<'p, Rx> {
    pub(super) fn checked(event: MessageEvent<'p>) -> Result<TypedEvent<'p, Rx>, MessageError> {
        event.data::<Rx>()?;
        Ok(TypedEvent { event, kind: PhantomData })
    }

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
