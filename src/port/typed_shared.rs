//! A typed sending half for many threads.

use crate::error::PostError;
use crate::link::payload::Post;
use crate::port::agreement::{self, Agreement};
use crate::port::shared::SharedSender;
use crate::port::transfer::{TransferError, TransferList};
use crate::port::typed::outgoing_mismatch;
use crate::port::typed_halves::TypedSender;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// A [`TypedSender`] that threads share: `Clone`, `Send` and `Sync`; made by
/// [`TypedSender::into_shared`]. See [`SharedSender`] for what that costs.
///
/// ```
/// let channel = messageport::MessageChannel::new()?;
/// let (sender, _receiver) = channel.port1.typed::<(), u32>().split();
/// let sender = sender.into_shared();
/// let threads = (0..4u32).map(|number| {
///     let sender = sender.clone();
///     std::thread::spawn(move || sender.post_message(&number))
/// });
/// for thread in threads.collect::<Vec<_>>() {
///     thread.join().unwrap()?;
/// }
/// let port = channel.port2.typed::<u32, ()>();
/// let sum: u32 = port.try_iter().map(|event| event.unwrap().data().to_native()).sum();
/// assert_eq!(sum, 6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TypedSharedSender<Tx> {
    sender: SharedSender,
    agreement: Option<Agreement>,
    kind: PhantomData<fn(Tx)>,
}

impl<Tx: Post> TypedSender<Tx> {
    /// Lets threads share this half. See [`Sender::into_shared`](crate::Sender::into_shared).
    pub fn into_shared(self) -> TypedSharedSender<Tx> {
        let (sender, agreement) = self.into_parts();
        TypedSharedSender { sender: sender.into_shared(), agreement, kind: PhantomData }
    }
}

impl<Tx: Post> TypedSharedSender<Tx> {
    /// Posts a value; does not wait for the receiver. See [`SharedSender::post_message`].
    ///
    /// # Errors
    /// As [`SharedSender::post_message`], and [`PostError::TypeMismatch`] if the peer has declared
    /// that it receives another type.
    pub fn post_message(&self, value: &Tx) -> Result<(), PostError> {
        match agreement::is_agreed(&self.agreement) {
            true => self.sender.post_message(value),
            false => Err(outgoing_mismatch(&self.agreement)),
        }
    }

    /// Posts a value, and moves what is in the list. See [`SharedSender::post_message_with`].
    ///
    /// # Errors
    /// As [`SharedSender::post_message_with`], and [`PostError::TypeMismatch`].
    pub fn post_message_with(
        &self,
        value: &Tx,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        match agreement::is_agreed(&self.agreement) {
            true => self.sender.post_message_with(value, transfer),
            false => self.refuse(transfer),
        }
    }

    /// Posts a value, waiting for room. See [`SharedSender::post_message_timeout`].
    ///
    /// # Errors
    /// As [`SharedSender::post_message_timeout`], and [`PostError::TypeMismatch`].
    pub fn post_message_timeout(&self, value: &Tx, timeout: Duration) -> Result<(), PostError> {
        match agreement::is_agreed(&self.agreement) {
            true => self.sender.post_message_timeout(value, timeout),
            false => Err(outgoing_mismatch(&self.agreement)),
        }
    }

    /// Posts a value and moves what is in the list, waiting for room. See
    /// [`SharedSender::post_message_with_timeout`].
    ///
    /// # Errors
    /// As [`SharedSender::post_message_with_timeout`], and [`PostError::TypeMismatch`].
    pub fn post_message_with_timeout(
        &self,
        value: &Tx,
        transfer: impl TransferList,
        timeout: Duration,
    ) -> Result<(), TransferError> {
        match agreement::is_agreed(&self.agreement) {
            true => self.sender.post_message_with_timeout(value, transfer, timeout),
            false => self.refuse(transfer),
        }
    }

    fn refuse(&self, transfer: impl TransferList) -> Result<(), TransferError> {
        Err(TransferError::new(outgoing_mismatch(&self.agreement), transfer.into_list()))
    }

    /// The untyped half, for everything that does not depend on the type.
    pub fn sender(&self) -> &SharedSender {
        &self.sender
    }
}

impl<Tx> Clone for TypedSharedSender<Tx> {
    fn clone(&self) -> Self {
        let (sender, agreement) = (self.sender.clone(), self.agreement.clone());
        TypedSharedSender { sender, agreement, kind: PhantomData }
    }
}

impl<Tx> fmt::Debug for TypedSharedSender<Tx> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedSharedSender").field(&self.sender).finish()
    }
}
