//! An owned message of one type.

use crate::error::MessageError;
use crate::link::archive::Receive;
use crate::link::archive::pool::ReceiveOwned;
use crate::port::message::Message;
use crate::port::typed::TypedEvent;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

/// An owned message that was checked to be an `Rx`; made by [`TypedEvent::into_message`], or
/// returned by an `AsyncTypedPort`.
///
/// It is `Send` and `Sync`, whatever `Rx` is.
///
/// ```
/// let channel = messageport::MessageChannel::new()?;
/// let port = channel.port2.typed::<u32, ()>();
/// channel.port1.post_message(&7u32)?;
/// let message = port.recv()?.into_message()?;
/// let thread = std::thread::spawn(move || message.data().to_native());
/// assert_eq!(thread.join().unwrap(), 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TypedMessage<Rx> {
    message: Message,
    kind: PhantomData<fn() -> Rx>,
}

impl<Rx: Receive> TypedMessage<Rx> {
    /// Checks that the message is an `Rx`.
    #[cfg(any(feature = "tokio", feature = "async-io"))]
    pub(crate) fn check(message: Message) -> Result<TypedMessage<Rx>, MessageError> {
        message.data::<Rx>()?;
        Ok(TypedMessage { message, kind: PhantomData })
    }

    /// Borrows the archived value. Each call checks it again, so keep the reference.
    pub fn data(&self) -> &Rx::Archived {
        self.message.data::<Rx>().expect("checked before, and unchanged since")
    }

    /// Returns the message as an owned `Rx`.
    ///
    /// # Errors
    /// What the deserialisation itself refuses.
    pub fn deserialize(&self) -> Result<Rx, MessageError>
    where
        Rx: ReceiveOwned,
    {
        self.message.deserialize()
    }

    /// Returns the message without its type.
    pub fn into_inner(self) -> Message {
        self.message
    }
}

impl<Rx: Receive> TypedEvent<'_, Rx> {
    /// Converts the event into an owned message.
    ///
    /// On an untrusted port the message keeps the private memory that it is in, if it is long; see
    /// [`MessageEvent::try_into_message`](crate::MessageEvent::try_into_message).
    ///
    /// # Errors
    /// [`OutOfMemory`](MessageError::OutOfMemory) if a copy cannot be allocated. The message is
    /// lost then.
    pub fn into_message(self) -> Result<TypedMessage<Rx>, MessageError> {
        // The bytes are those that were checked.
        Ok(TypedMessage { message: self.into_inner().try_into_message()?, kind: PhantomData })
    }
}

impl<Rx> Deref for TypedMessage<Rx> {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl<Rx> fmt::Debug for TypedMessage<Rx> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedMessage").field(&self.message).finish()
    }
}
