//! Ports whose messages have one type each way.

use crate::error::{MessageError, PostError, RecvError};
use crate::link::payload::Post;
use crate::port::MessagePort;
use crate::port::event::MessageEvent;
use crate::port::transfer::{TransferError, Transferable};
use rkyv::api::high::HighValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error;
use rkyv::{Archive, Portable};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::time::Duration;

/// A port that receives `Rx` and posts `Tx`; made by [`MessagePort::typed`].
///
/// Everything else goes through [`port`](TypedPort::port), or after
/// [`into_inner`](Self::into_inner).
pub struct TypedPort<Rx, Tx> {
    port: MessagePort,
    types: PhantomData<fn(Tx) -> Rx>,
}

/// A message that was found to be an `Rx`.
pub struct TypedEvent<'p, Rx> {
    event: MessageEvent<'p>,
    kind: PhantomData<fn() -> Rx>,
}

/// Why there is no message of the type.
#[derive(Debug, thiserror::Error)]
pub enum TypedError {
    /// There is no message.
    #[error(transparent)]
    Recv(#[from] RecvError),
    /// There was one, and it is no `Rx`. The port lives on.
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// What can be received by type: an archive that can be checked.
pub trait Receive:
    Archive<Archived: Portable + for<'a> CheckBytes<HighValidator<'a, Error>>>
{
}

impl<T> Receive for T where
    T: Archive<Archived: Portable + for<'a> CheckBytes<HighValidator<'a, Error>>>
{
}

impl MessagePort {
    /// Fixes the types of both directions. A message that is not a valid `Rx` is an error of its
    /// own, and a `messageerror` where messages are delivered as events, before any handler sees
    /// it.
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
    /// Posts a value. See [`MessagePort::post_message`].
    ///
    /// # Errors
    /// As there.
    pub fn post_message(&self, value: &Tx) -> Result<(), PostError> {
        self.port.post_message(value)
    }

    /// Waits for the next message. See [`MessagePort::recv`].
    ///
    /// # Errors
    /// [`TypedError`].
    pub fn recv(&self) -> Result<TypedEvent<'_, Rx>, TypedError> {
        check(self.port.recv()?)
    }

    /// Waits for the next message, at most for `timeout`. See [`MessagePort::recv_timeout`].
    ///
    /// # Errors
    /// [`TypedError`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<TypedEvent<'_, Rx>, TypedError> {
        check(self.port.recv_timeout(timeout)?)
    }

    /// Posts a value, and moves what is in the list. See [`MessagePort::post_message_with`].
    ///
    /// # Errors
    /// As there.
    pub fn post_message_with(
        &self,
        value: &Tx,
        transfer: impl Into<Vec<Transferable>>,
    ) -> Result<(), TransferError> {
        self.port.post_message_with(value, transfer)
    }

    /// The next message, if one is there. See [`MessagePort::try_recv`].
    ///
    /// # Errors
    /// [`TypedError`].
    pub fn try_recv(&self) -> Result<Option<TypedEvent<'_, Rx>>, TypedError> {
        self.port.try_recv()?.map(check).transpose()
    }

    /// The port, for what has no type: closing, counters, listeners.
    pub fn port(&self) -> &MessagePort {
        &self.port
    }

    /// The port without its types.
    pub fn into_inner(self) -> MessagePort {
        self.port.validator.set(None);
        self.port
    }
}

/// The port, which goes on checking what is delivered as events: for an event loop.
impl<Rx, Tx> From<TypedPort<Rx, Tx>> for MessagePort {
    fn from(typed: TypedPort<Rx, Tx>) -> MessagePort {
        typed.port
    }
}

fn check<Rx: Receive>(event: MessageEvent<'_>) -> Result<TypedEvent<'_, Rx>, TypedError> {
    event.data::<Rx>()?;
    Ok(TypedEvent { event, kind: PhantomData })
}

impl<Rx: Receive> TypedEvent<'_, Rx> {
    /// The message. Checked again: keep the reference.
    pub fn data(&self) -> &Rx::Archived {
        self.event.data::<Rx>().expect("checked before, and nobody can have changed it")
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
