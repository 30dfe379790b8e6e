//! What moves with a message, and what comes back if it cannot.

use crate::error::{AsIoError, AttachError, PostError, into_io_error};
use crate::link::attachment::Outgoing;
use crate::link::buffer::Buffer;
use crate::link::payload::Post;
use crate::link::pool::PooledBuffer;
use crate::link::transfer;
use crate::port::MessagePort;
use crate::port::pool::PooledError;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// A port, a buffer or a descriptor that moves to another process with a message. After `Ok` of the
/// post, this process no longer has it.
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
// Lists are short, and a caller who gets a port back wants no box around it.
#[allow(clippy::large_enum_variant)]
pub enum Transferable {
    /// A port. It keeps its queue, and its peer does not notice the move.
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

// Without this attribute an error would list what converts into an `OwnedFd`.
#[diagnostic::do_not_recommend]
impl<T: Into<OwnedFd>> From<T> for Transferable {
    fn from(descriptor: T) -> Transferable {
        Transferable::Descriptor(descriptor.into())
    }
}

/// A transfer list: an array of [`Transferable`]s, or anything else that converts into a `Vec` of
/// them.
///
/// Implemented for all such types; do not implement it yourself.
///
/// ```
/// use messageport::{Buffer, MessageChannel, Transferable};
/// use std::{fs::File, io};
///
/// let channel = MessageChannel::new()?;
/// let (buffer, file) = (Buffer::from_slice(b"bytes")?, File::open("/dev/null")?);
/// channel.port1.post_text_with("an array", [buffer.into(), file.into()])?;
///
/// let files: Vec<Transferable> =
///     (0..3).map(|_| Ok(File::open("/dev/null")?.into())).collect::<io::Result<_>>()?;
/// channel.port1.post_text_with("a vector", files)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Each item needs its own `into`:
///
/// ```compile_fail,E0277
/// let carrier = messageport::MessageChannel::new().unwrap();
/// let moving = messageport::MessageChannel::new().unwrap().port1;
/// let _ = carrier.port1.post_text_with("a port", [moving]);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a transfer list",
    label = "expected `[port.into(), buffer.into()]`",
    note = "put every port, buffer and descriptor into an array or a vector, each with `.into()`"
)]
pub trait TransferList {
    /// Converts it into a vector.
    fn into_list(self) -> Vec<Transferable>;
}

// Without this attribute an error would list what converts into a `Vec`.
#[diagnostic::do_not_recommend]
impl<T: Into<Vec<Transferable>>> TransferList for T {
    fn into_list(self) -> Vec<Transferable> {
        self.into()
    }
}

impl Transferable {
    /// Borrows it in the form that the link moves.
    pub(crate) fn item(&mut self) -> Outgoing<'_> {
        match self {
            Transferable::Port(port) => {
                let (sending, receiving) = port.halves();
                Outgoing::Port((sending, receiving))
            }
            Transferable::Buffer(buffer) => Outgoing::Buffer(buffer),
            Transferable::Descriptor(descriptor) => {
                Outgoing::Descriptor(OwnedFd::as_fd(descriptor))
            }
        }
    }
}

impl MessagePort {
    /// Posts a value, and moves ports, buffers and descriptors with it; never waits for the
    /// receiver.
    ///
    /// The receiver takes them out of the event: the ports in the order of the list, and likewise
    /// the buffers and the descriptors. A message carries at most 64 transferables with at most 253
    /// descriptors; a port has three. The call makes one `sendmsg` more than
    /// [`post_message`](Self::post_message), and some calls to seal each new buffer.
    ///
    /// If this process dies after `Ok`, the transferables arrive nevertheless. If it dies before,
    /// they are closed with it. If the receiver dies before it has received the message, the kernel
    /// closes them, and the peer of such a port gets `Closed`.
    ///
    /// HTML: [message port post message steps][steps], with a transfer list. Two things are errors
    /// here where the web loses the ports: posting a port through its own channel, and posting to a
    /// closed port.
    ///
    /// [steps]: https://html.spec.whatwg.org/#message-port-post-message-steps
    ///
    /// # Errors
    /// [`TransferError`] with the reason and the list; nothing has moved then. The reasons are
    /// those of [`post_message`](Self::post_message), and
    /// [`TooManyTransferables`](PostError::TooManyTransferables),
    /// [`TransferLoop`](PostError::TransferLoop), [`Detached`](PostError::Detached),
    /// [`TooManyInFlight`](PostError::TooManyInFlight), [`Refused`](PostError::Refused).
    /// `QueueFull` is also returned when the socket for transferables is full: it holds at least
    /// some hundred messages.
    ///
    /// ```
    /// use messageport::{Buffer, MessageChannel};
    ///
    /// let channel = MessageChannel::new()?;
    /// let pixels = Buffer::from_slice(&[0x7f; 640 * 480])?;
    /// channel.port1.post_message_with(&(640u32, 480u32), [pixels.into()])?;
    ///
    /// let event = channel.port2.recv()?;
    /// let size = event.data::<(u32, u32)>()?;
    /// assert_eq!(event.take_buffer()?.len(), (size.0 * size.1) as usize);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # What does not compile
    /// The list takes its items by value. So a port cannot be in its own list:
    ///
    /// ```compile_fail,E0505
    /// let channel = messageport::MessageChannel::new().unwrap();
    /// let port = channel.port1;
    /// let _ = port.post_message_with(&1u8, [port.into()]);
    /// ```
    ///
    /// nothing can be in a list twice:
    ///
    /// ```compile_fail,E0382
    /// let carrier = messageport::MessageChannel::new().unwrap();
    /// let moving = messageport::MessageChannel::new().unwrap().port1;
    /// let _ = carrier.port1.post_message_with(&1u8, [moving.into(), moving.into()]);
    /// ```
    ///
    /// what has moved can no longer be used:
    ///
    /// ```compile_fail,E0382
    /// let carrier = messageport::MessageChannel::new().unwrap();
    /// let moving = messageport::MessageChannel::new().unwrap().port1;
    /// let _ = carrier.port1.post_message_with(&1u8, [moving.into()]);
    /// moving.close();
    /// ```
    ///
    /// and only a [`Transferable`] moves:
    ///
    /// ```compile_fail,E0277
    /// let carrier = messageport::MessageChannel::new().unwrap();
    /// let words = String::from("no port, no buffer, no descriptor");
    /// let _ = carrier.port1.post_message_with(&1u8, [words.into()]);
    /// ```
    pub fn post_message_with<T: Post>(
        &self,
        value: &T,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        self.sender().post_message_with(value, transfer)
    }

    /// Posts bytes, and moves what is in the list; see
    /// [`post_message_with`](Self::post_message_with).
    ///
    /// # Errors
    /// As [`post_message_with`](Self::post_message_with).
    pub fn post_bytes_with(
        &self,
        bytes: &[u8],
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        self.sender().post_bytes_with(bytes, transfer)
    }

    /// Posts text, and moves what is in the list; see
    /// [`post_message_with`](Self::post_message_with).
    ///
    /// # Errors
    /// As [`post_message_with`](Self::post_message_with).
    pub fn post_text_with(
        &self,
        text: &str,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        self.sender().post_text_with(text, transfer)
    }

    /// Posts a value and hands over a buffer of a [`BufferPool`](crate::BufferPool). The pool was
    /// made through this port, or the buffer was received by another port and is
    /// [passed on](crate::BufferPool#passing-buffers-on).
    ///
    /// It costs as much as [`post_message`](Self::post_message), whatever the buffer's size.
    ///
    /// # Errors
    /// [`PooledError`] with the reason and the buffer.
    pub fn post_message_pooled<T: Post>(
        &self,
        value: &T,
        buffer: PooledBuffer,
    ) -> Result<(), PooledError> {
        self.sender().post_message_pooled(value, buffer)
    }

    /// Refuses transferables at this end: no port, buffer or descriptor from the peer enters this
    /// process.
    ///
    /// This cannot be undone. Call it on a port whose peer may be hostile, before the first message
    /// is received.
    ///
    /// A message that brings transferables is dropped with them. Instead [`recv`](Self::recv) and
    /// the other receiving calls return an event without bytes, whose `data`, `text` and `take_*`
    /// return [`TransfersRefused`](crate::MessageError::TransfersRefused). Where messages are
    /// delivered as events, a `messageerror` is delivered. The next message comes as usual. A
    /// [`BufferPool`](crate::BufferPool) of the peer is refused as well.
    ///
    /// Refused transferables are never received: the kernel closes them, in a call that the crate's
    /// own thread makes. So no close delays the caller's thread, and no `fcntl` lock of this
    /// process is released. (If that thread cannot be started, the caller makes the call.)
    ///
    /// This end can still post, with a list too, unless the whole channel was built with
    /// [`ChannelBuilder::refuse_transfers`](crate::ChannelBuilder::refuse_transfers). The refusal
    /// belongs to the end and moves with it: the next owner's port refuses as well, and its
    /// [`refuses_transfers`](Self::refuses_transfers) returns true.
    ///
    /// ```
    /// use messageport::{MessageChannel, MessageError};
    ///
    /// let channel = MessageChannel::new()?;
    /// channel.port2.refuse_transfers();
    /// let file = std::fs::File::open("Cargo.toml")?;
    /// channel.port1.post_text_with("a file", [file.into()])?;
    /// channel.port1.post_text("words alone")?;
    ///
    /// let refused = channel.port2.recv()?.text().unwrap_err();
    /// assert!(matches!(refused, MessageError::TransfersRefused { descriptors: 1 }));
    /// assert_eq!(channel.port2.recv()?.text()?, "words alone");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn refuse_transfers(&self) {
        self.endpoint().refuse_transfers();
    }

    /// Whether this end refuses transferables.
    ///
    /// It does so if [`refuse_transfers`](Self::refuse_transfers) was called, by this process or a
    /// former owner, or if the channel's builder chose it.
    pub fn refuses_transfers(&self) -> bool {
        self.endpoint().refuses_transfers()
    }

    /// Whether a post with a list fails with [`PostError::Refused`], as the builder chose.
    ///
    /// A peer that has called [`refuse_transfers`](Self::refuse_transfers) since then is not known
    /// here: such a post succeeds, and the peer drops what came with it.
    ///
    /// ```
    /// use messageport::MessageChannel;
    ///
    /// let channel = MessageChannel::builder().refuse_transfers().build()?;
    /// assert!(channel.port1.peer_refuses_transfers());
    /// let channel = MessageChannel::new()?;
    /// channel.port2.refuse_transfers();
    /// assert!(!channel.port1.peer_refuses_transfers());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn peer_refuses_transfers(&self) -> bool {
        self.endpoint().transfer_policy().peer_refuses
    }

    /// Converts the whole port into one descriptor, to be passed on by other means.
    ///
    /// Such means are another program's socket, an inherited descriptor, or systemd's descriptor
    /// store. [`from_fd`](Self::from_fd) converts it back into a port, once.
    ///
    /// In transit the port takes four descriptors, three of them inside the one. Closing the
    /// descriptor closes the port.
    ///
    /// # Errors
    /// [`IntoFdError`] with the port, if the kernel refuses, this user has too many descriptors in
    /// flight ([`PostError::TooManyInFlight`]), or the port is closed.
    ///
    /// ```
    /// use messageport::{MessageChannel, MessagePort};
    ///
    /// let channel = MessageChannel::new()?;
    /// let descriptor = channel.port2.into_fd()?;
    /// channel.port1.post_text("meanwhile")?;
    /// let port2 = MessagePort::from_fd(descriptor)?;
    /// assert_eq!(port2.recv()?.text()?, "meanwhile");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_fd(mut self) -> Result<OwnedFd, IntoFdError> {
        let (sending, receiving) = self.halves();
        match transfer::into_descriptor(sending, receiving) {
            Ok(descriptor) => Ok(descriptor),
            Err(reason) => Err(IntoFdError::new(reason, self)),
        }
    }

    /// Converts a descriptor made by [`into_fd`](Self::into_fd) back into a port.
    ///
    /// The port is checked like any untrusted input, and does not trust its peer, whatever it did
    /// before.
    ///
    /// # Errors
    /// [`AttachError`] if it is not such a descriptor, if it comes from an incompatible program, or
    /// if the port was taken out of it before. The descriptor is closed in any case.
    pub fn from_fd(descriptor: OwnedFd) -> Result<MessagePort, AttachError> {
        transfer::receive(descriptor).map(MessagePort::new)
    }
}

/// A message with a transfer list was not posted, and nothing has moved.
///
/// [`into_list`](TransferError::into_list) returns the list. Its ports can be used as before. Its
/// buffers may be sealed.
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

    /// Returns the transfer list, in its order.
    pub fn into_list(self) -> Vec<Transferable> {
        self.list.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the reason and the transfer list.
    pub fn into_parts(self) -> (PostError, Vec<Transferable>) {
        (self.reason, self.list.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransferError").field("reason", &self.reason).finish_non_exhaustive()
    }
}

/// Prints the reason and shares its source, like every error here that adds a value to another
/// error.
impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl std::error::Error for TransferError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.reason.source()
    }
}

impl AsIoError for TransferError {
    fn kind(&self) -> std::io::ErrorKind {
        self.reason.kind()
    }
}

/// A port could not be converted into a descriptor. The error returns the port, which can be used
/// as before.
pub struct IntoFdError {
    reason: PostError,
    /// Behind a lock, as a port is not `Sync` and an error should be.
    port: Box<Mutex<MessagePort>>,
}

impl IntoFdError {
    pub(crate) fn new(reason: PostError, port: MessagePort) -> IntoFdError {
        IntoFdError { reason, port: Box::new(Mutex::new(port)) }
    }

    /// Returns the port.
    pub fn into_port(self) -> MessagePort {
        self.port.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn into_reason(self) -> PostError {
        self.reason
    }

    /// Why the port was not converted.
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
        self.reason.source()
    }
}

impl AsIoError for IntoFdError {
    fn kind(&self) -> std::io::ErrorKind {
        self.reason.kind()
    }
}

into_io_error!(TransferError, IntoFdError);
