//! A typed port as two halves, for two threads.

use crate::error::{MessageError, PostError};
use crate::link::archive::Receive;
use crate::link::payload::Post;
use crate::port::agreement::{self, Agreement};
use crate::port::receiver::Receiver;
use crate::port::sender::Sender;
use crate::port::transfer::{TransferError, TransferList};
use crate::port::typed::{TypedError, TypedEvent, TypedPort, after, before, outgoing_mismatch};
use std::fmt;
use std::iter::{self, FusedIterator};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

/// The sending half of a [`TypedPort`], for use on its own thread; made by [`TypedPort::split`].
pub struct TypedSender<Tx> {
    sender: Sender,
    agreement: Option<Agreement>,
    kind: PhantomData<fn(Tx)>,
}

/// The receiving half of a [`TypedPort`], for use on its own thread; made by [`TypedPort::split`].
pub struct TypedReceiver<Rx> {
    receiver: Receiver,
    agreement: Option<Agreement>,
    /// That of the sending half.
    outgoing: Option<Agreement>,
    kind: PhantomData<fn() -> Rx>,
}

impl<Rx: Receive, Tx: Post> TypedPort<Rx, Tx> {
    /// Splits the port into a sender and a receiver for use on two threads.
    ///
    /// As [`MessagePort::split`](crate::MessagePort::split): dropping a half ends its own
    /// direction, and the listeners are no longer called. Each half compares the type of its own
    /// direction, as the port did.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// let (sender, receiver) = channel.port1.typed::<u8, u32>().split();
    /// let peer = channel.port2.typed::<u32, u8>();
    /// let thread = std::thread::spawn(move || sender.post_message(&7));
    /// assert_eq!(peer.recv()?.data().to_native(), 7);
    /// peer.post_message(&1)?;
    /// assert_eq!(*receiver.recv()?.data(), 1);
    /// thread.join().unwrap()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "a half that is dropped ends its direction"]
    pub fn split(self) -> (TypedSender<Tx>, TypedReceiver<Rx>) {
        let (sender, receiver) = self.into_inner().split();
        let outgoing = Agreement::declare::<Tx>(sender.endpoint(), true);
        let incoming = Agreement::declare::<Rx>(receiver.endpoint(), false);
        (
            TypedSender { sender, agreement: outgoing.clone(), kind: PhantomData },
            TypedReceiver { receiver, agreement: incoming, outgoing, kind: PhantomData },
        )
    }
}

impl<Tx: Post> TypedSender<Tx> {
    /// Posts a value; never blocks. See
    /// [`MessagePort::post_message`](crate::MessagePort::post_message).
    ///
    /// # Errors
    /// As [`TypedPort::post_message`].
    pub fn post_message(&self, value: &Tx) -> Result<(), PostError> {
        match agreement::is_agreed(&self.agreement) {
            true => self.sender.post_message(value),
            false => Err(outgoing_mismatch(&self.agreement)),
        }
    }

    /// Posts a value, waiting for room. See
    /// [`MessagePort::post_message_timeout`](crate::MessagePort::post_message_timeout).
    ///
    /// # Errors
    /// As [`TypedPort::post_message_timeout`].
    pub fn post_message_timeout(&self, value: &Tx, timeout: Duration) -> Result<(), PostError> {
        match agreement::is_agreed(&self.agreement) {
            true => self.sender.post_message_timeout(value, timeout),
            false => Err(outgoing_mismatch(&self.agreement)),
        }
    }

    /// Posts a value, and moves what is in the list. See
    /// [`MessagePort::post_message_with`](crate::MessagePort::post_message_with).
    ///
    /// # Errors
    /// As [`TypedPort::post_message_with`].
    pub fn post_message_with(
        &self,
        value: &Tx,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        match agreement::is_agreed(&self.agreement) {
            true => self.sender.post_message_with(value, transfer),
            false => {
                let reason = outgoing_mismatch(&self.agreement);
                Err(TransferError::new(reason, transfer.into_list()))
            }
        }
    }

    /// Posts a value and moves what is in the list, waiting for room. See
    /// [`MessagePort::post_message_with_timeout`](crate::MessagePort::post_message_with_timeout).
    ///
    /// # Errors
    /// As [`TypedPort::post_message_with_timeout`].
    pub fn post_message_with_timeout(
        &self,
        value: &Tx,
        transfer: impl TransferList,
        timeout: Duration,
    ) -> Result<(), TransferError> {
        match agreement::is_agreed(&self.agreement) {
            true => self.sender.post_message_with_timeout(value, transfer, timeout),
            false => {
                let reason = outgoing_mismatch(&self.agreement);
                Err(TransferError::new(reason, transfer.into_list()))
            }
        }
    }

    /// The untyped half, for everything that does not depend on the type.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    pub(super) fn into_parts(self) -> (Sender, Option<Agreement>) {
        (self.sender, self.agreement)
    }

    /// Returns the half without its type.
    pub fn into_inner(self) -> Sender {
        agreement::withdraw(&self.agreement);
        self.sender
    }
}

impl<Rx: Receive> TypedReceiver<Rx> {
    /// Waits for the next message. See [`TypedPort::recv`].
    ///
    /// # Errors
    /// As [`TypedPort::recv`].
    pub fn recv(&self) -> Result<TypedEvent<'_, Rx>, TypedError> {
        before(&self.agreement)?;
        after(&self.agreement, &self.outgoing, self.receiver.recv())
    }

    /// Waits for the next message for at most `timeout`.
    ///
    /// # Errors
    /// As [`TypedPort::recv_timeout`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<TypedEvent<'_, Rx>, TypedError> {
        before(&self.agreement)?;
        after(&self.agreement, &self.outgoing, self.receiver.recv_timeout(timeout))
    }

    /// Waits for the next message until `deadline`.
    ///
    /// # Errors
    /// As [`TypedPort::recv_deadline`].
    pub fn recv_deadline(&self, deadline: Instant) -> Result<TypedEvent<'_, Rx>, TypedError> {
        before(&self.agreement)?;
        after(&self.agreement, &self.outgoing, self.receiver.recv_deadline(deadline))
    }

    /// Takes the next message, if there is one.
    ///
    /// # Errors
    /// As [`TypedPort::try_recv`].
    pub fn try_recv(&self) -> Result<Option<TypedEvent<'_, Rx>>, TypedError> {
        before(&self.agreement)?;
        match self.receiver.try_recv() {
            Ok(None) => Ok(None),
            Ok(Some(event)) => after(&self.agreement, &self.outgoing, Ok(event)).map(Some),
            Err(error) => after(&self.agreement, &self.outgoing, Err(error)).map(Some),
        }
    }

    /// Iterates over messages, waiting for each. See [`TypedPort::iter`].
    pub fn iter(&self) -> impl FusedIterator<Item = Result<TypedEvent<'_, Rx>, MessageError>> {
        let mut has_ended = false;
        iter::from_fn(move || {
            if has_ended {
                return None;
            }
            match self.recv() {
                Ok(event) => Some(Ok(event)),
                Err(TypedError::Message(error)) => Some(Err(error)),
                Err(TypedError::TypeMismatch(error)) => {
                    has_ended = true;
                    Some(Err(MessageError::TypeMismatch(error)))
                }
                Err(TypedError::Recv(_)) => {
                    has_ended = true;
                    None
                }
            }
        })
        .fuse()
    }

    /// The untyped half, for everything that does not depend on the type.
    pub fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    /// Returns the half without its type.
    pub fn into_inner(self) -> Receiver {
        agreement::withdraw(&self.agreement);
        self.receiver
    }
}

/// The doorbell; see [`Receiver`]'s `AsFd`.
impl<Rx> AsFd for TypedReceiver<Rx> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

/// As `AsFd`.
impl<Rx> AsRawFd for TypedReceiver<Rx> {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl<Tx> fmt::Debug for TypedSender<Tx> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedSender").field(&self.sender).finish()
    }
}

impl<Rx> fmt::Debug for TypedReceiver<Rx> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedReceiver").field(&self.receiver).finish()
    }
}
