//! A port as two halves, for two threads.

use crate::error::{AsIoError, into_io_error};
use crate::port::MessagePort;
use crate::port::receiver::Receiver;
use crate::port::sender::Sender;
use std::sync::{Arc, Mutex, PoisonError};

impl MessagePort {
    /// Splits the port into a sender and a receiver for use on two threads.
    ///
    /// Dropping a half ends its own direction. Halves deliver no events: the listeners are no
    /// longer called.
    ///
    /// ```
    /// use messageport::{MessageChannel, MessagePort};
    ///
    /// let channel = MessageChannel::new()?;
    /// let (sender, receiver) = channel.port1.split();
    /// sender.post_text("one way")?;
    /// let port1 = MessagePort::join(sender, receiver).expect("they belong together");
    /// port1.post_text("and on")?;
    /// assert_eq!(channel.port2.iter().take(2).count(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "a half that is dropped ends its direction"]
    pub fn split(self) -> (Sender, Receiver) {
        // Halves have no types, whatever the port had.
        self.endpoint().withdraw_types();
        (self.sender, self.receiver)
    }

    /// Joins the two halves of a port again.
    ///
    /// # Errors
    /// [`JoinError`] with both halves if they come from different ports.
    pub fn join(sender: Sender, receiver: Receiver) -> Result<MessagePort, JoinError> {
        if Arc::ptr_eq(sender.endpoint(), receiver.endpoint()) {
            Ok(MessagePort::of_halves(sender, receiver))
        } else {
            Err(JoinError { halves: Box::new(Mutex::new((sender, receiver))) })
        }
    }
}

/// The two halves do not belong to one port. The error returns both.
///
/// ```
/// use messageport::{MessageChannel, MessagePort};
///
/// let channel = MessageChannel::new()?;
/// let (sender, _) = channel.port1.split();
/// let (_, receiver) = channel.port2.split();
/// let error = MessagePort::join(sender, receiver).unwrap_err();
/// let (_sender, _receiver) = error.into_halves();
/// # Ok::<(), messageport::ChannelError>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[error("the halves come from different ports: join those that one `split` returned")]
pub struct JoinError {
    /// Behind a lock, as a half is not `Sync` and an error should be.
    halves: Box<Mutex<(Sender, Receiver)>>,
}

impl AsIoError for JoinError {
    fn kind(&self) -> std::io::ErrorKind {
        std::io::ErrorKind::InvalidInput
    }
}

into_io_error!(JoinError);

impl JoinError {
    /// Returns the halves.
    pub fn into_halves(self) -> (Sender, Receiver) {
        self.halves.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
