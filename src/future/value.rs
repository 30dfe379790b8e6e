//! Plain data for async programs.

use crate::error::{BroadcastError, PostError};
use crate::future::broadcast::AsyncBroadcastChannel;
use crate::future::halves::AsyncSender;
use crate::future::port::AsyncPort;
use crate::port::sender::Sender;
use crate::port::transfer::{TransferError, TransferList};
use serde::Serialize;
use std::future::poll_fn;

/// Plain data, with the feature `value`.
#[cfg_attr(docsrs, doc(cfg(feature = "value")))]
impl AsyncPort {
    /// Posts plain data, waiting for room. See
    /// [`MessagePort::post_value`](crate::MessagePort::post_value).
    ///
    /// A future that is dropped before it is ready has posted nothing.
    ///
    /// # Errors
    /// As [`MessagePort::post_value`](crate::MessagePort::post_value), except `QueueFull`.
    pub async fn post_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), PostError> {
        self.sender_mut().post_value(value).await
    }

    /// Posts plain data, and moves what is in the list; see
    /// [`post_message_with`](Self::post_message_with).
    ///
    /// # Errors
    /// As [`post_message_with`](Self::post_message_with).
    pub async fn post_value_with<T: Serialize + ?Sized>(
        &mut self,
        value: &T,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        self.sender_mut().post_value_with(value, transfer).await
    }
}

/// Plain data, with the feature `value`.
#[cfg_attr(docsrs, doc(cfg(feature = "value")))]
impl AsyncSender {
    /// Posts plain data, waiting for room. See [`AsyncPort::post_value`].
    ///
    /// # Errors
    /// As [`AsyncPort::post_value`].
    pub async fn post_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), PostError> {
        poll_fn(|context| self.poll_post(context, |sender| sender.post_value(value))).await
    }

    /// Posts plain data and moves what is in the list, waiting for room. See
    /// [`AsyncPort::post_message_with`].
    ///
    /// # Errors
    /// As [`AsyncPort::post_message_with`].
    pub async fn post_value_with<T: Serialize + ?Sized>(
        &mut self,
        value: &T,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        let post = |sender: &Sender, list| sender.post_value_with(value, list);
        self.post_with(transfer.into_list(), post).await
    }
}

/// Plain data, with the feature `value`.
#[cfg_attr(docsrs, doc(cfg(feature = "value")))]
impl AsyncBroadcastChannel {
    /// Posts plain data to every other member; never waits.
    ///
    /// # Errors
    /// As [`BroadcastChannel::post_value`](crate::BroadcastChannel::post_value).
    pub fn post_value<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), BroadcastError> {
        self.get_ref().post_value(value)
    }
}
