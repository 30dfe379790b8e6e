//! Plain data, posted by calls that wait for room.

use crate::error::PostError;
use crate::port::MessagePort;
use crate::port::sender::Sender;
use crate::port::shared::SharedSender;
use serde::Serialize;
use std::time::Duration;

/// Plain data, with the feature `value`.
#[cfg_attr(docsrs, doc(cfg(feature = "value")))]
impl MessagePort {
    /// Posts plain data, waiting for room. See [`post_value`](Self::post_value) and
    /// [`post_message_timeout`](Self::post_message_timeout).
    ///
    /// # Errors
    /// Any [`PostError`] except `QueueFull`.
    pub fn post_value_timeout<T: Serialize + ?Sized>(
        &self,
        value: &T,
        timeout: Duration,
    ) -> Result<(), PostError> {
        self.sender().post_value_timeout(value, timeout)
    }
}

/// Plain data, with the feature `value`.
#[cfg_attr(docsrs, doc(cfg(feature = "value")))]
impl Sender {
    /// Posts plain data, waiting for room. See [`MessagePort::post_value_timeout`].
    ///
    /// # Errors
    /// Any [`PostError`] except `QueueFull`.
    pub fn post_value_timeout<T: Serialize + ?Sized>(
        &self,
        value: &T,
        timeout: Duration,
    ) -> Result<(), PostError> {
        self.retry(timeout, || self.post_value(value))
    }
}

/// Plain data, with the feature `value`.
#[cfg_attr(docsrs, doc(cfg(feature = "value")))]
impl SharedSender {
    /// Posts plain data, waiting for room like
    /// [`post_message_timeout`](Self::post_message_timeout).
    ///
    /// # Errors
    /// Any [`PostError`] except `QueueFull`.
    pub fn post_value_timeout<T: Serialize + ?Sized>(
        &self,
        value: &T,
        timeout: Duration,
    ) -> Result<(), PostError> {
        self.retry(timeout, |sender| sender.post_value(value))
    }
}
