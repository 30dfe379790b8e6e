//! Plain data: what posts it and reads it.

use crate::error::{MessageError, PostError};
use crate::link::value;
use crate::port::MessagePort;
use crate::port::burst::Burst;
use crate::port::content::{Content, check_refused, require, text};
use crate::port::event::MessageEvent;
use crate::port::message::Message;
use crate::port::sender::Sender;
use crate::port::shared::SharedSender;
use crate::port::transfer::{TransferError, TransferList};
use crate::wire::record::Format;
use serde::{Deserialize, Serialize};

/// Plain data, with the feature `value`.
#[cfg_attr(docsrs, doc(cfg(feature = "value")))]
impl MessagePort {
    /// Posts plain data, which programs in other languages can read; never waits for the receiver.
    ///
    /// The value is anything that serde can serialise, or a [`Value`](crate::Value). It is written
    /// straight into shared memory as CBOR; `docs/layout.md` has the details. A value that takes
    /// much more room than the one before is serialised twice. Between Rust programs
    /// [`post_message`](Self::post_message) is faster, as its receiver does not parse.
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message). The source of a
    /// [`Serialize`](PostError::Serialize) is a [`ValueError`](crate::ValueError), which names the
    /// place in the value: its own `Serialize` failed there, or announced another number of
    /// elements, or it is in more than 128 levels of arrays and maps.
    ///
    /// ```
    /// use messageport::MessageChannel;
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Order { id: u64, item: String }
    ///
    /// let channel = MessageChannel::new()?;
    /// channel.port1.post_value(&Order { id: 7, item: "lamp".to_string() })?;
    /// let order: Order = channel.port2.recv()?.value()?;
    /// assert_eq!((order.id, order.item.as_str()), (7, "lamp"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn post_value<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), PostError> {
        self.sender().post_value(value)
    }

    /// Posts plain data, and moves ports, buffers and descriptors with it; see
    /// [`post_message_with`](Self::post_message_with).
    ///
    /// # Errors
    /// [`TransferError`] with the reason and the list; nothing has moved then.
    ///
    /// ```
    /// use messageport::{Buffer, MessageChannel};
    ///
    /// let channel = MessageChannel::new()?;
    /// let pixels = Buffer::from_slice(&[0x7f; 640 * 480])?;
    /// channel.port1.post_value_with(&(640, 480), [pixels.into()])?;
    /// let event = channel.port2.recv()?;
    /// let (width, height): (usize, usize) = event.value()?;
    /// assert_eq!(event.take_buffer()?.len(), width * height);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn post_value_with<T: Serialize + ?Sized>(
        &self,
        value: &T,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        self.sender().post_value_with(value, transfer)
    }

    /// Posts plain data that was encoded before: by another codec, in another language.
    ///
    /// `encoded` is one data item of CBOR; see `docs/layout.md`. The receiver checks it:
    /// anything else is a [`MessageError::Value`] there. The bytes are copied once.
    ///
    /// # Errors
    /// As [`post_bytes`](Self::post_bytes).
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_encoded_value(&[0x82, 0x07, 0x61, b'x'])?;
    /// assert_eq!(channel.port2.recv()?.value::<(u32, String)>()?, (7, "x".to_string()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn post_encoded_value(&self, encoded: &[u8]) -> Result<(), PostError> {
        self.sender().post_framed(encoded, Format::Value)
    }

    /// Posts plain data that was encoded before, and moves what is in the list; see
    /// [`post_encoded_value`](Self::post_encoded_value).
    ///
    /// # Errors
    /// [`TransferError`] with the reason and the list; nothing has moved then.
    pub fn post_encoded_value_with(
        &self,
        encoded: &[u8],
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        self.sender().post_framed_with(encoded, Format::Value, transfer)
    }
}

/// Plain data, with the feature `value`.
#[cfg_attr(docsrs, doc(cfg(feature = "value")))]
impl Sender {
    /// Posts plain data. See [`MessagePort::post_value`].
    ///
    /// # Errors
    /// As [`MessagePort::post_value`].
    pub fn post_value<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), PostError> {
        self.stage_and_commit(|sending| sending.stage_encoded(value))
    }

    /// Posts plain data and what moves with it. See [`MessagePort::post_value_with`].
    ///
    /// # Errors
    /// As [`MessagePort::post_value_with`].
    pub fn post_value_with<T: Serialize + ?Sized>(
        &self,
        value: &T,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        self.post_with(transfer.into_list(), |sending, items| {
            sending.post_encoded_with(value, items)
        })
    }
}

/// Plain data, with the feature `value`.
#[cfg_attr(docsrs, doc(cfg(feature = "value")))]
impl SharedSender {
    /// Posts plain data. See [`MessagePort::post_value`].
    ///
    /// # Errors
    /// As [`MessagePort::post_value`].
    pub fn post_value<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), PostError> {
        self.lock()?.post_value(value)
    }

    /// Posts plain data and what moves with it. See [`MessagePort::post_value_with`].
    ///
    /// # Errors
    /// As [`MessagePort::post_value_with`].
    pub fn post_value_with<T: Serialize + ?Sized>(
        &self,
        value: &T,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        match self.lock() {
            Ok(sender) => sender.post_value_with(value, transfer),
            Err(reason) => Err(TransferError::new(reason, transfer.into_list())),
        }
    }
}

/// Plain data, with the feature `value`.
#[cfg_attr(docsrs, doc(cfg(feature = "value")))]
impl Burst<'_> {
    /// Stages plain data. See [`MessagePort::post_value`].
    ///
    /// # Errors
    /// As [`stage`](Self::stage).
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// let burst = channel.port1.burst();
    /// burst.stage_value("one")?;
    /// burst.stage_value(&2)?;
    /// burst.commit();
    /// assert_eq!(channel.port2.recv()?.value::<String>()?, "one");
    /// assert_eq!(channel.port2.recv()?.value::<u8>()?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stage_value<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), PostError> {
        self.sender().stage(|sending| sending.stage_encoded(value))
    }
}

/// Plain data, with the feature `value`.
#[cfg_attr(docsrs, doc(cfg(feature = "value")))]
impl MessageEvent<'_> {
    /// Returns the plain data of the message as any type that serde can deserialise.
    ///
    /// The type may borrow from the event, as a `&str` does. [`Value`](crate::Value) takes any
    /// data. A message that was posted as text is a string here, and one that was posted as bytes
    /// is bytes: a `Vec<u8>`, or what `serde_bytes` makes.
    ///
    /// Whatever the peer wrote, the call returns a value or an error. Arrays and maps may be nested
    /// in 128 levels, and nothing is allocated for elements that are not in the message. How much
    /// memory the elements take is up to the type: a [`Value`](crate::Value) takes up to 100
    /// times the message's bytes while it is read, and bytes that become a `Vec<u8>` take their
    /// length.
    ///
    /// # Errors
    /// The port stays usable after each of them.
    ///
    /// - [`MessageError::Value`] if the data is not of the type, or the bytes are not one value. It
    ///   names the place, for example `user.tags[3]: expected a string, found 7`.
    /// - [`MessageError::Format`] if the message is an archive.
    /// - [`MessageError::NotText`] if it was posted as text and is none.
    /// - [`MessageError::TransfersRefused`] if it brought transferables that the port
    ///   [refuses](crate::MessagePort::refuse_transfers).
    ///
    /// ```
    /// use messageport::MessageChannel;
    /// use std::collections::HashMap;
    ///
    /// let channel = MessageChannel::new()?;
    /// channel.port1.post_value(&[("lamp", 12), ("desk", 99)])?;
    /// let event = channel.port2.recv()?;
    /// let prices: Vec<(&str, u32)> = event.value()?; // the names are in the event
    /// assert_eq!(prices, [("lamp", 12), ("desk", 99)]);
    /// let error = event.value::<HashMap<String, u32>>().unwrap_err();
    /// assert!(error.to_string().contains("expected a map, found an array"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn value<'a, T: Deserialize<'a>>(&'a self) -> Result<T, MessageError> {
        read(self)
    }
}

/// Plain data, with the feature `value`.
#[cfg_attr(docsrs, doc(cfg(feature = "value")))]
impl Message {
    /// See [`MessageEvent::value`].
    ///
    /// # Errors
    /// As [`MessageEvent::value`].
    pub fn value<'a, T: Deserialize<'a>>(&'a self) -> Result<T, MessageError> {
        read(self)
    }
}

fn read<'a, T: Deserialize<'a>>(of: &'a impl Content) -> Result<T, MessageError> {
    let read = match of.posted_as() {
        Format::Value => value::read(of.content()),
        Format::Text => value::of_text(text(of)?),
        Format::Bytes => {
            check_refused(of)?;
            value::of_bytes(of.content())
        }
        Format::Archive => {
            require(of, Format::Value)?;
            unreachable!("an archive is no value")
        }
    };
    read.map_err(MessageError::Value)
}
