//! Several messages, published together.

use crate::error::PostError;
use crate::link::payload::Post;
use crate::port::sender::Sender;
use crate::wire::record::Format;

/// Several messages that become visible together: one publication and at most one wake-up for all.
///
/// A staged message is posted by [`commit`](Burst::commit), by dropping the burst, or by any other
/// posting call of the same port (including a `stage` that finds the lane full). Until then it does
/// not survive the death of this process. Leaking a burst loses nothing: it is published by the
/// next post, or when the port is closed or dropped.
///
/// ```
/// let channel = messageport::MessageChannel::new()?;
/// let burst = channel.port1.burst();
/// for number in 0..100u32 {
///     burst.stage(&number)?;
/// }
/// assert!(channel.port2.try_recv()?.is_none());
/// burst.commit();
/// assert_eq!(*channel.port2.recv()?.data::<u32>()?, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a burst is published when it is dropped"]
pub struct Burst<'p> {
    sender: &'p Sender,
}

impl<'p> Burst<'p> {
    pub(crate) fn new(sender: &'p Sender) -> Burst<'p> {
        Burst { sender }
    }

    #[cfg(feature = "value")]
    pub(super) fn sender(&self) -> &'p Sender {
        self.sender
    }

    /// Stages a value.
    ///
    /// # Errors
    /// As [`post_message`](crate::MessagePort::post_message). What was staged before stays staged.
    /// On `QueueFull`, commit, so that the peer can make room.
    pub fn stage<T: Post>(&self, value: &T) -> Result<(), PostError> {
        self.sender.stage(|sending| sending.stage_value(value))
    }

    /// Stages bytes.
    ///
    /// # Errors
    /// As [`stage`](Self::stage).
    #[inline]
    pub fn stage_bytes(&self, bytes: &[u8]) -> Result<(), PostError> {
        self.sender.stage_bytes(bytes, Format::Bytes)
    }

    /// Stages text.
    ///
    /// # Errors
    /// As [`stage`](Self::stage).
    pub fn stage_text(&self, text: &str) -> Result<(), PostError> {
        self.sender.stage_bytes(text.as_bytes(), Format::Text)
    }

    /// Publishes what was staged: from then on it survives the death of this process.
    pub fn commit(self) {}
}

impl Drop for Burst<'_> {
    fn drop(&mut self) {
        self.sender.commit();
    }
}
