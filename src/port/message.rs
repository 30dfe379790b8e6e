//! An owned message, which borrows nothing.

use crate::error::MessageError;
use crate::link::archive::Receive;
use crate::link::archive::pool::ReceiveOwned;
use crate::link::attachment::{AttachmentKind, Attachments};
use crate::link::buffer::Buffer;
use crate::link::in_use;
use crate::link::payload::{Block, blocks_as_bytes, blocks_as_bytes_mut};
use crate::link::pool::{Frame, PooledBuffer};
use crate::port::MessagePort;
use crate::port::content::{self, Content};
use crate::port::event::MessageEvent;
use crate::wire::record::Format;
use rkyv::api::high::HighValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::BoxedError;
use rkyv::{Archive, Portable};
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

/// An owned message, with its bytes and its transferables.
///
/// It can go to another thread, be shared by threads, or be kept for later: it is `Send` and
/// `Sync`. It has the methods of a [`MessageEvent`]. Of threads that take the same port, buffer or
/// descriptor, one gets it.
///
/// ```
/// use messageport::MessageChannel;
///
/// let channel = MessageChannel::new()?;
/// channel.port1.post_text("for later")?;
/// let message = channel.port2.recv()?.into_message();
/// let thread = std::thread::spawn(move || message.text().unwrap().len());
/// assert_eq!(thread.join().unwrap(), 9);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Message {
    blocks: Vec<Block>,
    len: usize,
    format: Format,
    /// Behind a lock, so that threads can share the message. Only what takes from them locks it.
    attachments: Mutex<Option<Attachments>>,
}

impl Message {
    /// Makes a message from the first `len` bytes of `blocks`.
    pub(crate) fn new(
        blocks: Vec<Block>,
        len: usize,
        format: Format,
        attachments: Option<Attachments>,
    ) -> Message {
        Message { blocks, len, format, attachments: Mutex::new(attachments) }
    }

    /// Copies an event's bytes into empty memory, which has room for them.
    pub(crate) fn copy_of(event: &MessageEvent<'_>, mut blocks: Vec<Block>) -> Vec<Block> {
        let bytes = event.bytes();
        let count = bytes.len().div_ceil(size_of::<Block>());
        blocks.resize(count, Block::default());
        blocks_as_bytes_mut(&mut blocks)[..bytes.len()].copy_from_slice(bytes);
        blocks
    }

    /// Bytes of memory that it takes.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        self.blocks.capacity() * size_of::<Block>()
    }

    /// See [`MessageEvent::cost`], without descriptors.
    pub(crate) fn cost(&self) -> u32 {
        u32::try_from(self.len / 4096).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// Removes its last bytes. `None` if it has fewer.
    pub(crate) fn split_off_end<const N: usize>(&mut self) -> Option<[u8; N]> {
        let end = *self.bytes().last_chunk()?;
        self.len -= N;
        Some(end)
    }

    /// Whether its memory is short enough to be kept for another message.
    pub(crate) fn is_short(&self) -> bool {
        self.blocks.capacity() <= MOST_RECYCLED / size_of::<Block>()
    }

    /// Closes the transferables that were not taken, as dropping the message does.
    pub(crate) fn close_unclaimed(&mut self) {
        let attachments = self.attachments.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(attachments) = attachments.take() {
            attachments.close_unclaimed();
        }
    }

    /// Takes the memory for another message, unless it is long.
    pub(crate) fn take_short_memory(&mut self) -> Option<Vec<Block>> {
        if !self.is_short() {
            return None;
        }
        self.len = 0;
        let mut blocks = std::mem::take(&mut self.blocks);
        blocks.clear();
        Some(blocks)
    }

    /// See [`MessageEvent::data`].
    ///
    /// # Errors
    /// As [`MessageEvent::data`].
    pub fn data<T: Receive>(&self) -> Result<&T::Archived, MessageError> {
        content::data::<T>(self)
    }

    /// See [`MessageEvent::data_checked_by_rkyv_only`].
    ///
    /// # Safety
    /// As [`MessageEvent::data_checked_by_rkyv_only`].
    ///
    /// # Errors
    /// As [`MessageEvent::data_checked_by_rkyv_only`].
    #[allow(unsafe_code)]
    pub unsafe fn data_checked_by_rkyv_only<T>(&self) -> Result<&T::Archived, MessageError>
    where
        T: Archive,
        T::Archived: Portable + for<'a> CheckBytes<HighValidator<'a, BoxedError>>,
    {
        content::data_checked_by_rkyv_only::<T>(self)
    }

    /// See [`MessageEvent::deserialize`].
    ///
    /// # Errors
    /// As [`MessageEvent::deserialize`].
    pub fn deserialize<T: ReceiveOwned>(&self) -> Result<T, MessageError> {
        content::deserialize(self)
    }

    /// The message's bytes, aligned to 16 bytes.
    pub fn bytes(&self) -> &[u8] {
        &blocks_as_bytes(&self.blocks)[..self.len]
    }

    /// See [`MessageEvent::text`].
    ///
    /// # Errors
    /// As [`MessageEvent::text`].
    pub fn text(&self) -> Result<&str, MessageError> {
        content::text(self)
    }

    /// What the message was posted as.
    pub fn format(&self) -> Format {
        self.format
    }

    /// See [`MessageEvent::take_port`].
    ///
    /// # Errors
    /// As [`MessageEvent::take_port`].
    pub fn take_port(&self) -> Result<MessagePort, MessageError> {
        content::take_port(self)
    }

    /// See [`MessageEvent::take_buffer`].
    ///
    /// # Errors
    /// As [`MessageEvent::take_buffer`].
    pub fn take_buffer(&self) -> Result<Buffer, MessageError> {
        content::take_buffer(self)
    }

    /// See [`MessageEvent::take_descriptor`].
    ///
    /// # Errors
    /// As [`MessageEvent::take_descriptor`].
    pub fn take_descriptor(&self) -> Result<OwnedFd, MessageError> {
        content::take_descriptor(self)
    }

    /// See [`MessageEvent::take_pooled`].
    ///
    /// # Errors
    /// As [`MessageEvent::take_pooled`].
    pub fn take_pooled(&self) -> Result<PooledBuffer, MessageError> {
        content::take_pooled(self)
    }

    /// See [`MessageEvent::take_frame`].
    ///
    /// # Errors
    /// As [`MessageEvent::take_frame`].
    pub fn take_frame(&self) -> Result<Frame, MessageError> {
        content::take_frame(self)
    }

    /// See [`MessageEvent::take_ports`].
    ///
    /// # Errors
    /// As [`MessageEvent::take_ports`].
    pub fn take_ports(&self) -> Result<Vec<MessagePort>, MessageError> {
        content::take_all(self, AttachmentKind::Port, Message::take_port)
    }

    /// See [`MessageEvent::take_buffers`].
    ///
    /// # Errors
    /// As [`MessageEvent::take_buffers`].
    pub fn take_buffers(&self) -> Result<Vec<Buffer>, MessageError> {
        content::take_all(self, AttachmentKind::Buffer, Message::take_buffer)
    }

    /// See [`MessageEvent::take_descriptors`].
    ///
    /// # Errors
    /// As [`MessageEvent::take_descriptors`].
    pub fn take_descriptors(&self) -> Result<Vec<OwnedFd>, MessageError> {
        content::take_all(self, AttachmentKind::Descriptor, Message::take_descriptor)
    }

    /// See [`MessageEvent::transferred`].
    pub fn transferred(&self) -> (usize, usize, usize) {
        content::transferred(self)
    }
}

/// The message's bytes, whatever they were posted as.
impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Content for Message {
    fn content(&self) -> &[u8] {
        self.bytes()
    }

    fn posted_as(&self) -> Format {
        self.format
    }

    fn with_attachments<T>(&self, act: impl FnOnce(&mut Attachments) -> T) -> Option<T> {
        let mut attachments = self.attachments.lock().unwrap_or_else(PoisonError::into_inner);
        attachments.as_mut().map(act)
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        self.close_unclaimed();
        in_use::free(std::mem::take(&mut self.blocks));
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("format", &self.format)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// The longest memory of a message that is kept for another one, in bytes.
const MOST_RECYCLED: usize = 4 << 10;
