//! Receiving everything that is there in one go.

use crate::port::MessagePort;
use crate::port::event::MessageEvent;
use crate::port::receiver::Receiver;

impl MessagePort {
    /// Iterates over the messages that are there, without waiting; the iterator ends when
    /// [`try_recv`](Self::try_recv) finds nothing or would fail.
    ///
    /// The fastest way to receive many messages. Short ones (512 bytes and less) are copied
    /// together, at most 4 KiB and an eighth of the channel's capacity at a time, and their room is
    /// given back together. Until then the peer's [`backlog`](Self::backlog) counts them. A sender
    /// that sleeps until there is room is looked for once, at the end, instead of after each
    /// message, and may be woken only when the iterator ends or is dropped. To stop early, drop it,
    /// or use `take`; what was not taken stays in the queue. Messages that are held beyond the
    /// iterator stay valid. If `try_recv` would fail, its next call says why.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// for number in 0..100u32 {
    ///     channel.port1.post_message(&number)?;
    /// }
    /// let mut sum = 0;
    /// for event in channel.port2.try_iter() {
    ///     sum += event.data::<u32>()?.to_native();
    /// }
    /// assert_eq!(sum, 4950);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_iter(&self) -> TryIter<'_> {
        TryIter::new(self.receiver(), Some(self))
    }
}

impl Receiver {
    /// Iterates over the messages that are there. See [`MessagePort::try_iter`].
    pub fn try_iter(&self) -> TryIter<'_> {
        TryIter::new(self, None)
    }
}

/// An iterator over the messages that are there, made by [`MessagePort::try_iter`].
///
/// It is not fused: after `None`, `next` finds messages that have come meanwhile.
///
/// ```
/// let channel = messageport::MessageChannel::new()?;
/// channel.port1.post_text("only")?;
/// let mut messages = channel.port2.try_iter();
/// assert!(messages.next().is_some() && messages.next().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "an iterator takes no message before `next` is called"]
pub struct TryIter<'p> {
    receiver: &'p Receiver,
    /// An undivided port can be started meanwhile, which ends the copy of what comes next. Then its
    /// messages are delivered as events.
    port: Option<&'p MessagePort>,
    /// Where the next message is, if nothing else has received meanwhile.
    position: u64,
}

impl<'p> TryIter<'p> {
    fn new(receiver: &'p Receiver, port: Option<&'p MessagePort>) -> TryIter<'p> {
        receiver.begin_batch();
        TryIter { receiver, port, position: receiver.position() }
    }
}

impl<'p> Iterator for TryIter<'p> {
    type Item = MessageEvent<'p>;

    #[inline(always)]
    fn next(&mut self) -> Option<MessageEvent<'p>> {
        if let Some((event, next)) = self.receiver.poll_in_copy(self.position) {
            self.position = next;
            return Some(event);
        }
        let event = next_slow(self.receiver, self.port);
        self.position = self.receiver.position();
        event
    }
}

/// The next message, if it is not in the copy of those that come next. Not a method, nor is any
/// other part of `next` and `drop`: if the address of the iterator is passed to a call, it is in
/// memory, and each message waits for the position that the last one has stored.
#[inline(never)]
fn next_slow<'p>(
    receiver: &'p Receiver,
    port: Option<&'p MessagePort>,
) -> Option<MessageEvent<'p>> {
    let event = if port.is_some_and(MessagePort::is_started) {
        None
    } else {
        receiver.read_ahead();
        let received = match port {
            Some(port) => port.try_recv(),
            None => receiver.try_recv(),
        };
        received.ok().flatten()
    };
    if event.is_none() {
        // An iterator that is leaked from here on owes nothing.
        receiver.end_batch();
    }
    event
}

impl Drop for TryIter<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.receiver.end_batch();
    }
}
