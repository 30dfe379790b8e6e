//! Plain data for many ports.

use crate::error::{BroadcastError, PostError};
use crate::group::broadcast::{BroadcastChannel, copy_of};
use crate::group::collection::{CollectionError, CollectionMember, PortCollection};
use crate::link::payload::encoded::encode_once;
use crate::wire::record::Format;
use rkyv::rancor::{BoxedError, Source};
use serde::Serialize;

/// Plain data, with the feature `value`.
#[cfg_attr(docsrs, doc(cfg(feature = "value")))]
impl BroadcastChannel {
    /// Posts plain data to every other member; never blocks. See
    /// [`MessagePort::post_value`](crate::MessagePort::post_value).
    ///
    /// The value is serialised once.
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message).
    ///
    /// ```
    /// use messageport::BroadcastChannel;
    ///
    /// # let name = format!("doc-value-{}", std::process::id());
    /// let (one, other) = (BroadcastChannel::open(&name)?, BroadcastChannel::open(&name)?);
    /// one.post_value(&("lamp", 12))?;
    /// assert_eq!(other.recv()?.value::<(String, u32)>()?.1, 12);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn post_value<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), BroadcastError> {
        let encoded = encode_once(value);
        let encoded = encoded.map_err(|error| BroadcastError::Serialize(BoxedError::new(error)))?;
        self.post_all(encoded, Format::Value)
    }

    /// Posts plain data that was encoded before to every other member; never blocks. See
    /// [`MessagePort::post_encoded_value`](crate::MessagePort::post_encoded_value).
    ///
    /// # Errors
    /// As [`post_bytes`](Self::post_bytes).
    ///
    /// ```
    /// use messageport::BroadcastChannel;
    ///
    /// # let name = format!("doc-encoded-{}", std::process::id());
    /// let (one, other) = (BroadcastChannel::open(&name)?, BroadcastChannel::open(&name)?);
    /// one.post_encoded_value(&[0xf5])?;
    /// assert!(other.recv()?.value::<bool>()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn post_encoded_value(&self, encoded: &[u8]) -> Result<(), BroadcastError> {
        self.post_all(copy_of(encoded)?, Format::Value)
    }
}

/// Plain data, with the feature `value`.
#[cfg_attr(docsrs, doc(cfg(feature = "value")))]
impl<M: CollectionMember> PortCollection<M> {
    /// Posts plain data to every member. The value is serialised once.
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message).
    ///
    /// ```
    /// use messageport::{MessageChannel, PortCollection};
    ///
    /// let channel = MessageChannel::new()?;
    /// let mut all = PortCollection::owned();
    /// all.add(channel.port1);
    /// all.post_value(&("lamp", 12))?;
    /// assert_eq!(channel.port2.recv()?.value::<(String, u32)>()?.1, 12);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn post_value<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), CollectionError> {
        match encode_once(value) {
            Ok(encoded) => self.post_all(|sender| sender.post_framed(&encoded, Format::Value)),
            Err(error) => Err(CollectionError {
                posted: 0,
                failures: Vec::new(),
                serialize: Some(PostError::Serialize(BoxedError::new(error))),
            }),
        }
    }
}
