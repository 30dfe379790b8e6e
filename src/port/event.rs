//! What arrives: a message that borrows its port.

use crate::error::MessageError;
use crate::link::archive::pool::ReceiveOwned;
use crate::link::archive::{self, Receive};
use crate::link::attachment::{AttachmentKind, Attachments};
use crate::link::buffer::Buffer;
use crate::link::payload::{self, Block, Payload, blocks_for};
use crate::link::pool::{Frame, PooledBuffer};
use crate::port::MessagePort;
use crate::port::content::{self, Content};
use crate::port::message::Message;
use crate::port::receiver::Receiver;
use crate::wire::record::Format;
use rkyv::api::high::HighValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::BoxedError;
use rkyv::{Archive, Portable};
use std::fmt;
use std::mem;
use std::os::fd::OwnedFd;

/// A received message that borrows its port.
///
/// Several may be alive at once. On an untrusted port the message is a private copy, which no other
/// process can change. Dropping the event frees the copy. On a trusted port a message of more than
/// 512 bytes stays in the ring, unless a batch has copied it together with shorter ones; a shorter
/// one may stay there too, for example while others are alive. Room in the ring is then freed only
/// up to the oldest of these events. So on a trusted port, an event that is leaked with
/// `mem::forget` also keeps the room of all later messages.
///
/// HTML: [`MessageEvent`](https://html.spec.whatwg.org/#messageevent).
///
/// ```
/// use messageport::MessageChannel;
///
/// let channel = MessageChannel::new()?;
/// channel.port1.post_message(&vec![1u32, 2, 3])?;
/// let event = channel.port2.recv()?;
/// let numbers = event.data::<Vec<u32>>()?;
/// assert_eq!(numbers[2], 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct MessageEvent<'p> {
    payload: Payload,
    /// The half that it came from, which outlives the event; so does the region.
    receiver: &'p Receiver,
}

impl<'p> MessageEvent<'p> {
    #[inline(always)]
    pub(crate) fn new(payload: Payload, receiver: &'p Receiver) -> MessageEvent<'p> {
        MessageEvent { payload, receiver }
    }

    /// What it consists of, apart from its half. It is to be given back as an event again.
    #[inline(always)]
    pub(crate) fn into_payload(self) -> Payload {
        let payload = self.payload.clone();
        mem::forget(self);
        payload
    }

    /// Borrows the archived form of `T`, after checking it.
    ///
    /// rkyv checks the bytes first. Then [`SafeArchive`](trait@crate::SafeArchive) checks the types
    /// that need more: hash tables, B-trees and types that contain themselves. After the check
    /// every safe function of the value is safe, whatever the peer wrote.
    ///
    /// Each call checks again: a few nanoseconds for plain structs, more for strings and nested
    /// vectors. Keep the reference.
    ///
    /// # Errors
    /// The port stays usable after each of them.
    ///
    /// - [`MessageError::Invalid`] if the bytes are not a valid archive of a `T`, or have more than
    ///   254 levels of pointers.
    /// - [`MessageError::Format`] if the message was posted as bytes or text.
    /// - [`MessageError::TransfersRefused`] if it brought transferables that the port
    ///   [refuses](crate::MessagePort::refuse_transfers).
    #[inline]
    pub fn data<T: Receive>(&self) -> Result<&T::Archived, MessageError> {
        content::data::<T>(self)
    }

    /// Borrows the archived form of `T`, checked by rkyv alone.
    ///
    /// For types that do not derive [`SafeArchive`](trait@crate::SafeArchive).
    ///
    /// # Safety
    /// Either the poster is trusted, or `T` contains no hash table, B-tree or index map at any
    /// depth, and no shared pointer to a type that contains itself. Otherwise rkyv's check may
    /// accept bytes as a map whose lookups or iterators read memory outside of the message.
    ///
    /// # Errors
    /// As [`data`](Self::data).
    ///
    /// ```
    /// # use messageport::rkyv;
    /// /// What another crate reads: the archive of a number and nothing else.
    /// #[derive(rkyv::Archive)]
    /// struct Foreign { id: u64 }
    ///
    /// # let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_message(&7u64)?;
    /// let event = channel.port2.recv()?;
    /// // SAFETY: it holds one number.
    /// let foreign = unsafe { event.data_checked_by_rkyv_only::<Foreign>() }?;
    /// assert_eq!(foreign.id.to_native(), 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[allow(unsafe_code)]
    pub unsafe fn data_checked_by_rkyv_only<T>(&self) -> Result<&T::Archived, MessageError>
    where
        T: Archive,
        T::Archived: Portable + for<'a> CheckBytes<HighValidator<'a, BoxedError>>,
    {
        content::data_checked_by_rkyv_only::<T>(self)
    }

    /// Borrows the archived form of `T`, without a check.
    ///
    /// # Safety
    /// The bytes must be a valid archive of a `T`: the poster must be trusted, and must have posted
    /// a `T` in a format that this program shares. A message that brought transferables to a port
    /// that [refuses](crate::MessagePort::refuse_transfers) them has no bytes, so it does not
    /// satisfy this.
    ///
    /// ```
    /// # let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_message(&7u64)?;
    /// let event = channel.port2.recv()?;
    /// // SAFETY: the other end is in this program, and has just posted a `u64`.
    /// assert_eq!(unsafe { event.data_unchecked::<u64>() }.to_native(), 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[allow(unsafe_code)]
    pub unsafe fn data_unchecked<T>(&self) -> &T::Archived
    where
        T: Archive,
        T::Archived: Portable,
    {
        // SAFETY: upheld by the caller, see `# Safety`.
        unsafe { archive::access_unchecked::<T::Archived>(self.bytes()) }
    }

    /// Returns the message as an owned `T`, after checking it.
    ///
    /// A value that several `Rc` or `Arc` pointers shared at the sender is shared again in the
    /// result, by pointers of the same type. A type that contains itself behind such a pointer
    /// needs an implementation by hand: see [`ReceiveDeserializer`](crate::ReceiveDeserializer).
    ///
    /// # Errors
    /// As [`data`](Self::data), and whatever the deserialisation itself refuses.
    ///
    /// ```
    /// # let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_message(&vec!["a".to_string()])?;
    /// let words: Vec<String> = channel.port2.recv()?.deserialize()?;
    /// assert_eq!(words, ["a"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn deserialize<T: ReceiveOwned>(&self) -> Result<T, MessageError> {
        content::deserialize(self)
    }

    /// The message's bytes, whatever it was posted as; aligned to 16 bytes.
    ///
    /// Empty if it brought transferables to a port that
    /// [refuses](crate::MessagePort::refuse_transfers) them. To distinguish that from an empty
    /// message, call [`take_descriptors`](Self::take_descriptors), which then returns an error.
    ///
    /// ```
    /// # let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_bytes(b"raw")?;
    /// assert_eq!(channel.port2.recv()?.bytes(), b"raw");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.payload.bytes()
    }

    /// Borrows the message as text.
    ///
    /// # Errors
    /// [`MessageError::Format`] if it was not posted as text; [`MessageError::NotText`] if its
    /// bytes are not UTF-8, which only a peer that does not use this crate can cause.
    pub fn text(&self) -> Result<&str, MessageError> {
        content::text(self)
    }

    /// What the message was posted as.
    ///
    /// ```
    /// # let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_text("words")?;
    /// assert_eq!(channel.port2.recv()?.format(), messageport::Format::Text);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn format(&self) -> Format {
        self.payload.format()
    }

    /// Takes the next port that moved with the message. Its queue is as its former owner left it.
    ///
    /// The port is checked like any untrusted input. It is trusted only if it was trusted before
    /// and came through a trusted port. Taking it maps its memory: about a dozen system calls.
    ///
    /// # Errors
    /// This port stays usable after each of them. If the kernel refused a call, the moved port is
    /// still in the message and can be taken later.
    ///
    /// - [`MessageError::NothingLeft`] if no port is left.
    /// - [`MessageError::TransfersLost`] if this process had too few free descriptors.
    /// - [`MessageError::TransfersRefused`] if the port
    ///   [refuses](crate::MessagePort::refuse_transfers) transferables.
    /// - [`MessageError::Port`] if it is not a usable port.
    ///
    /// ```
    /// use messageport::MessageChannel;
    ///
    /// let carrier = MessageChannel::new()?;
    /// let channel = MessageChannel::new()?;
    /// channel.port1.post_text("in the queue before")?;
    /// carrier.port1.post_text_with("take it", [channel.port2.into()])?;
    ///
    /// let event = carrier.port2.recv()?;
    /// let port = event.take_port()?;
    /// assert_eq!(port.recv()?.text()?, "in the queue before");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn take_port(&self) -> Result<MessagePort, MessageError> {
        content::take_port(self)
    }

    /// Takes the next buffer that moved with the message, once the kernel confirms that no process
    /// can change it.
    ///
    /// # Errors
    /// As [`take_port`](Self::take_port), with [`MessageError::Buffer`] instead of `Port`.
    pub fn take_buffer(&self) -> Result<Buffer, MessageError> {
        content::take_buffer(self)
    }

    /// Takes the next descriptor that moved with the message. What it refers to is not checked.
    ///
    /// Closing a descriptor can take long, and releases every `fcntl` (POSIX) lock that this
    /// process holds on the same file, whether it was taken out of the event or not: see the
    /// repository's `docs/safety.md`. A port that [refuses](crate::MessagePort::refuse_transfers)
    /// transferables receives none.
    ///
    /// # Errors
    /// [`MessageError::NothingLeft`]; [`MessageError::TransfersLost`];
    /// [`MessageError::TransfersRefused`].
    ///
    /// ```
    /// use std::io::Read;
    ///
    /// let channel = messageport::MessageChannel::new()?;
    /// let file = std::fs::File::open("Cargo.toml")?;
    /// channel.port1.post_text_with("a file", [file.into()])?;
    ///
    /// let mut file = std::fs::File::from(channel.port2.recv()?.take_descriptor()?);
    /// let mut text = String::new();
    /// file.read_to_string(&mut text)?;
    /// assert!(text.contains("messageport"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn take_descriptor(&self) -> Result<OwnedFd, MessageError> {
        content::take_descriptor(self)
    }

    /// Takes the pooled buffer that came with the message. Dropping it returns it to its pool.
    ///
    /// # Errors
    /// - [`MessageError::NothingLeft`] if none came.
    /// - [`MessageError::UnknownPool`] if this end does not have the pool.
    /// - [`MessageError::Buffer`] if it cannot be mapped for lack of memory; the call can be
    ///   retried, see [`BufferPool`](crate::BufferPool).
    pub fn take_pooled(&self) -> Result<PooledBuffer, MessageError> {
        content::take_pooled(self)
    }

    /// Takes the frame that came with the message: a buffer of a pool whose maker is not trusted.
    /// Dropping it returns it to its pool. A pooled buffer of a trusted maker can be taken as a
    /// frame, too.
    ///
    /// # Errors
    /// - [`MessageError::NothingLeft`] if none came.
    /// - [`MessageError::UnknownPool`] if this end does not have the pool.
    pub fn take_frame(&self) -> Result<Frame, MessageError> {
        content::take_frame(self)
    }

    /// Takes all remaining ports, in the order of the list.
    ///
    /// HTML: [`ports`](https://html.spec.whatwg.org/#dom-messageevent-ports).
    ///
    /// # Errors
    /// As [`take_port`](Self::take_port), except `NothingLeft`. Ports that were taken before the
    /// one that failed are dropped.
    pub fn take_ports(&self) -> Result<Vec<MessagePort>, MessageError> {
        content::take_all(self, AttachmentKind::Port, MessageEvent::take_port)
    }

    /// Takes all remaining buffers, in the order of the list.
    ///
    /// # Errors
    /// As [`take_buffer`](Self::take_buffer), except `NothingLeft`. Buffers that were taken before
    /// the one that failed are dropped.
    pub fn take_buffers(&self) -> Result<Vec<Buffer>, MessageError> {
        content::take_all(self, AttachmentKind::Buffer, MessageEvent::take_buffer)
    }

    /// Takes all remaining descriptors, in the order of the list.
    ///
    /// # Errors
    /// [`MessageError::TransfersLost`]; [`MessageError::TransfersRefused`].
    pub fn take_descriptors(&self) -> Result<Vec<OwnedFd>, MessageError> {
        content::take_all(self, AttachmentKind::Descriptor, MessageEvent::take_descriptor)
    }

    /// How many ports, buffers and descriptors remain to be taken.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// let file = std::fs::File::open("/dev/null")?;
    /// channel.port1.post_text_with("nothing", [file.into()])?;
    /// assert_eq!(channel.port2.recv()?.transferred(), (0, 0, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn transferred(&self) -> (usize, usize, usize) {
        content::transferred(self)
    }

    /// The cost of receiving it: 1, plus 1 for each descriptor, each small buffer and each 4 KiB.
    /// Users of several ports charge it to be fair.
    pub(crate) fn cost(&self) -> u32 {
        let pages = u32::try_from(self.bytes().len() / 4096).unwrap_or(u32::MAX);
        pages.saturating_add(1).saturating_add(self.receiver.take_cost())
    }

    /// Converts the event into an owned [`Message`], which borrows nothing.
    ///
    /// Its transferables move along. A short message is copied; a long one that already is a
    /// private copy keeps its memory.
    ///
    /// # Panics
    /// If a copy cannot be allocated; [`try_into_message`](Self::try_into_message) returns an error
    /// instead, and says when.
    pub fn into_message(self) -> Message {
        self.try_into_message().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Converts the event into an owned [`Message`], or fails if memory runs out.
    ///
    /// # Errors
    /// [`MessageError::OutOfMemory`] if a copy cannot be allocated; the message and its
    /// transferables are dropped then. A port that does not [trust its
    /// peer](crate::MessagePort::trust_peer) needs none if the message is longer than 4 KiB, or if
    /// it is longer than 8 bytes and no other message of the port is in use.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_text("to be kept")?;
    /// let message = channel.port2.recv()?.try_into_message()?;
    /// drop(channel);
    /// assert_eq!(message.text()?, "to be kept");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_into_message(self) -> Result<Message, MessageError> {
        self.into_message_in(Vec::new())
    }

    /// Converts the event, with memory that may have been allocated for a copy of it.
    pub(crate) fn into_message_in(self, memory: Vec<Block>) -> Result<Message, MessageError> {
        let (len, handle) = (self.bytes().len(), self.payload.handle());
        let take = || {
            let memory = self.receiver.take_memory(handle)?;
            Some(tight(payload::into_blocks(&self.payload, memory)))
        };
        let copy = || {
            let count = len.div_ceil(size_of::<Block>());
            let memory = if memory.capacity() < count { blocks_for(len)? } else { memory };
            Some(Message::copy_of(&self, memory))
        };
        let blocks = if len > MOST_COPIED { take().or_else(copy) } else { copy().or_else(take) };
        let blocks = blocks.ok_or(MessageError::OutOfMemory { len: len as u64 })?;
        Ok(Message::new(blocks, len, self.format(), self.receiver.take_attachments(handle)))
    }
}

impl Content for MessageEvent<'_> {
    #[inline]
    fn content(&self) -> &[u8] {
        self.bytes()
    }

    fn posted_as(&self) -> Format {
        self.format()
    }

    fn with_attachments<T>(&self, act: impl FnOnce(&mut Attachments) -> T) -> Option<T> {
        self.receiver.with_attachments(self.payload.handle(), act)
    }
}

impl Drop for MessageEvent<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.payload.is_own() {
            // Nothing of the port is in use.
        } else if self.payload.is_ahead() {
            self.receiver.give_back_ahead();
        } else {
            self.receiver.give_back(self.payload.handle());
        }
    }
}

impl fmt::Debug for MessageEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageEvent")
            .field("format", &self.format())
            .field("len", &self.bytes().len())
            .finish_non_exhaustive()
    }
}

/// The same blocks in memory that is at most twice as long. A slab entry is as long as the longest
/// message that it has held, which a peer chooses.
fn tight(blocks: Vec<Block>) -> Vec<Block> {
    let mut copy = Vec::new();
    if blocks.capacity() <= 2 * blocks.len() || copy.try_reserve_exact(blocks.len()).is_err() {
        return blocks;
    }
    copy.extend_from_slice(&blocks);
    copy
}

/// The longest message that is copied instead of taken with its memory; that memory then serves the
/// next message.
const MOST_COPIED: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use crate::port::channel::MessageChannel;

    /// A peer could make each of many kept messages take the memory of its longest one otherwise.
    #[test]
    fn an_owned_message_takes_no_more_than_twice_its_length() {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        for len in [2 << 20, 70_000] {
            port1.post_bytes(&vec![7; len]).expect("room");
            let event = port2.recv().expect("a message");
            if len == 70_000 {
                let message = event.into_message();
                assert!(message.memory() <= 2 * len, "{} bytes", message.memory());
                assert_eq!(message.bytes(), vec![7; len]);
            }
        }
    }
}
