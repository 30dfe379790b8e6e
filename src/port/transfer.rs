//! What moves with a message, and what comes back when it could not.

use crate::error::PostError;
use crate::link::buffer::Buffer;
use crate::link::cargo::Item;
use crate::port::MessagePort;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// Something that moves to another process with a message: it is gone here once the post is `Ok`.
///
/// HTML: [transferable objects](https://html.spec.whatwg.org/#transferable-objects).
///
/// ```
/// use messageport::{Buffer, MessageChannel, Transferable};
///
/// let carrier = MessageChannel::new()?;
/// let carried = MessageChannel::new()?;
/// let list: Vec<Transferable> = vec![
///     carried.port1.into(),
///     Buffer::from_slice(b"bytes")?.into(),
///     std::fs::File::open("/dev/null")?.into(),
/// ];
/// carrier.port1.post_text_with("three things", list)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
// A list is short, and who gets a port back wants no box around it.
#[allow(clippy::large_enum_variant)]
pub enum Transferable {
    /// A port. It goes on where it stands, with its queue, and its peer does not notice.
    Port(MessagePort),
    /// Memory.
    Buffer(Buffer),
    /// Any descriptor: a file, a socket, a pidfd, a dma-buf.
    Descriptor(OwnedFd),
}

impl From<MessagePort> for Transferable {
    fn from(port: MessagePort) -> Transferable {
        Transferable::Port(port)
    }
}

impl From<Buffer> for Transferable {
    fn from(buffer: Buffer) -> Transferable {
        Transferable::Buffer(buffer)
    }
}

impl<T: Into<OwnedFd>> From<T> for Transferable {
    fn from(descriptor: T) -> Transferable {
        Transferable::Descriptor(descriptor.into())
    }
}

impl Transferable {
    /// The same, as the link moves it.
    pub(crate) fn item(&mut self) -> Item<'_> {
        match self {
            Transferable::Port(port) => {
                let (sending, receiving) = port.halves();
                Item::Port(sending, receiving)
            }
            Transferable::Buffer(buffer) => Item::Buffer(buffer),
            Transferable::Descriptor(descriptor) => Item::Descriptor(OwnedFd::as_fd(descriptor)),
        }
    }
}

/// A message with a transfer list was not posted. Nothing has moved: the list comes back by
/// [`into_list`](TransferError::into_list).
///
/// Its ports can be used as before. Its buffers may be sealed.
///
/// ```
/// use messageport::{MessageChannel, PostError, Transferable};
///
/// let channel = MessageChannel::new()?;
/// let error = channel.port1.post_text_with("loop", [channel.port2.into()]).unwrap_err();
/// assert!(matches!(error.reason(), PostError::TransferLoop { index: 0 }));
/// let list = error.into_list();
/// assert!(matches!(list[0], Transferable::Port(_)));
/// # Ok::<(), messageport::ChannelError>(())
/// ```
pub struct TransferError {
    reason: PostError,
    /// Behind a lock, as a port is not `Sync` and an error should be.
    list: Mutex<Vec<Transferable>>,
}

impl TransferError {
    pub(crate) fn new(reason: PostError, list: Vec<Transferable>) -> TransferError {
        TransferError { reason, list: Mutex::new(list) }
    }

    /// Why the message was not posted.
    pub fn reason(&self) -> &PostError {
        &self.reason
    }

    /// What was to move, in its order.
    pub fn into_list(self) -> Vec<Transferable> {
        self.list.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both.
    pub fn into_parts(self) -> (PostError, Vec<Transferable>) {
        (self.reason, self.list.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransferError").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl std::error::Error for TransferError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.reason)
    }
}

/// A port could not be made a descriptor. It comes back, and can be used as before.
pub struct IntoFdError {
    reason: PostError,
    /// Behind a lock, as a port is not `Sync` and an error should be.
    port: Box<Mutex<MessagePort>>,
}

impl IntoFdError {
    pub(crate) fn new(reason: PostError, port: MessagePort) -> IntoFdError {
        IntoFdError { reason, port: Box::new(Mutex::new(port)) }
    }

    /// The port.
    pub fn into_port(self) -> MessagePort {
        self.port.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn into_reason(self) -> PostError {
        self.reason
    }

    /// Why it was not made a descriptor.
    pub fn reason(&self) -> &PostError {
        &self.reason
    }
}

impl fmt::Debug for IntoFdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntoFdError").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl fmt::Display for IntoFdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl std::error::Error for IntoFdError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.reason)
    }
}
