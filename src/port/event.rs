//! What arrives.

use crate::error::MessageError;
use crate::link::payload::{self, Payload};
use crate::port::receiver::Receiver;
use crate::wire::record::Format;
use rkyv::api::high::{HighDeserializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error;
use rkyv::{Archive, Deserialize, Portable};
use std::fmt;

/// A message that was received.
///
/// Several may be alive at once. On a port whose peer is not trusted it is a private copy, which
/// nobody can change; on a trusted one it lies in the ring, whose room is released up to the oldest
/// event still alive. Dropping gives the memory back. An event that is leaked by `mem::forget` on a
/// trusted port keeps the room of everything after it.
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
    /// The half that it came from: it outlives the event, and so does the region.
    receiver: &'p Receiver,
}

impl<'p> MessageEvent<'p> {
    #[inline(always)]
    pub(crate) fn new(payload: Payload, receiver: &'p Receiver) -> MessageEvent<'p> {
        MessageEvent { payload, receiver }
    }

    /// The message as the archived form of `T`, checked.
    ///
    /// Each call checks again: from a few nanoseconds for plain structs, more for strings and
    /// nested vectors. Keep the reference.
    ///
    /// # Errors
    /// [`MessageError::Invalid`] if the bytes are no valid archive of a `T`, whoever wrote them, or
    /// one with more than 256 levels of pointers;
    /// [`MessageError::Format`] if the message was posted as bytes or text. The port lives on.
    #[inline]
    pub fn data<T>(&self) -> Result<&T::Archived, MessageError>
    where
        T: Archive,
        T::Archived: Portable + for<'a> CheckBytes<HighValidator<'a, Error>>,
    {
        self.require(Format::Archive)?;
        payload::access::<T::Archived>(self.bytes()).map_err(invalid::<T>)
    }

    /// The message as the archived form of `T`, without a check.
    ///
    /// # Safety
    /// The bytes must be a valid archive of a `T`: the poster must have posted a `T`, in a format
    /// that this program shares, and the poster must be trusted.
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
        // SAFETY: the caller's word.
        unsafe { payload::access_unchecked::<T::Archived>(self.bytes()) }
    }

    /// The message as an owned `T`, checked.
    ///
    /// # Errors
    /// As [`data`](Self::data), and what the deserialisation itself refuses.
    ///
    /// ```
    /// # let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_message(&vec!["a".to_string()])?;
    /// let words: Vec<String> = channel.port2.recv()?.deserialize()?;
    /// assert_eq!(words, ["a"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn deserialize<T>(&self) -> Result<T, MessageError>
    where
        T: Archive,
        T::Archived: Portable
            + for<'a> CheckBytes<HighValidator<'a, Error>>
            + Deserialize<T, HighDeserializer<Error>>,
    {
        rkyv::deserialize::<T, Error>(self.data::<T>()?).map_err(invalid::<T>)
    }

    /// The message's bytes, whatever they were posted as. 16-aligned.
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

    /// The message as text.
    ///
    /// # Errors
    /// [`MessageError::Format`] if it was not posted as text, [`MessageError::NotText`] if its
    /// bytes are not UTF-8, which only a peer that does not use this crate can cause.
    pub fn text(&self) -> Result<&str, MessageError> {
        self.require(Format::Text)?;
        std::str::from_utf8(self.bytes()).map_err(MessageError::NotText)
    }

    /// What it was posted as.
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

    fn require(&self, expected: Format) -> Result<(), MessageError> {
        if self.format() == expected {
            return Ok(());
        }
        Err(MessageError::Format { expected: expected.name(), found: self.format().name() })
    }
}

impl Drop for MessageEvent<'_> {
    #[inline]
    fn drop(&mut self) {
        self.receiver.give_back(self.payload.ticket());
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

fn invalid<T>(source: Error) -> MessageError {
    MessageError::Invalid { expected: std::any::type_name::<T>(), source }
}
