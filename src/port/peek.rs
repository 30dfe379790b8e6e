//! Looks at the next message, which stays in the queue.

use crate::error::RecvError;
use crate::port::MessagePort;
use crate::port::message::Message;
use crate::port::receiver::Receiver;
use crate::ring::consumer::Record;
use crate::wire::record::{Attached, Format};

/// What is known of the next message without taking it; made by [`MessagePort::peek`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextMessage {
    len: usize,
    format: Format,
    descriptors: usize,
}

impl NextMessage {
    fn of(record: &Record) -> NextMessage {
        let descriptors = match record.attached {
            Attached::Packet { descriptors, .. } => usize::from(descriptors),
            _ => 0,
        };
        NextMessage { len: record.message().len as usize, format: record.format, descriptors }
    }

    /// Its length in bytes.
    // A message without bytes is a message.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// What it was posted as.
    pub fn format(&self) -> Format {
        self.format
    }

    /// How many descriptors move with it: one for each descriptor and buffer, three for each port.
    /// A pooled buffer, and a small one in the record, need none.
    pub fn descriptors(&self) -> usize {
        self.descriptors
    }
}

impl MessagePort {
    /// Looks at the next message, if there is one, and leaves it in the queue: its length, its
    /// format, and what moves with it.
    ///
    /// This works on a port that delivers events, too, and takes nothing from it. Like
    /// [`try_recv`](Self::try_recv) it does not wait, makes no system call while a message is
    /// there, and arms the descriptor when there is none.
    ///
    /// A hostile peer can change a message until it is received: what is received afterwards is
    /// checked anew, and may differ from what was seen here.
    ///
    /// # Errors
    /// [`Closed`](RecvError::Closed), as [`try_recv`](Self::try_recv);
    /// [`OutOfDescriptors`](RecvError::OutOfDescriptors) if a [`BufferPool`](crate::BufferPool)
    /// comes before the message.
    ///
    /// ```
    /// use messageport::{Format, MessageChannel};
    ///
    /// let channel = MessageChannel::new()?;
    /// assert!(channel.port2.peek()?.is_none());
    /// channel.port1.post_text("a long text")?;
    /// let next = channel.port2.peek()?.expect("a message");
    /// assert_eq!((next.len(), next.format()), (11, Format::Text));
    /// if next.len() > 10 {
    ///     channel.port2.discard_next()?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn peek(&self) -> Result<Option<NextMessage>, RecvError> {
        self.receiver.peek().inspect_err(|error| self.end_if_broken(error))
    }

    /// Copies the next message, if there is one, and leaves it in the queue. The copy has no
    /// transferables: they stay with the message.
    ///
    /// The cost is a copy of its bytes. Everything else is as for [`peek`](Self::peek). A message
    /// that the port would refuse because of its
    /// [transferables](crate::MessagePort::refuse_transfers) has no bytes here.
    ///
    /// # Errors
    /// As [`peek`](Self::peek), and [`OutOfMemory`](RecvError::OutOfMemory) if the copy cannot be
    /// allocated.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_message(&7u32)?;
    /// let copy = channel.port2.peek_message()?.expect("a message");
    /// assert_eq!(*copy.data::<u32>()?, 7);
    /// assert_eq!(*channel.port2.recv()?.data::<u32>()?, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn peek_message(&self) -> Result<Option<Message>, RecvError> {
        self.receiver.peek_message().inspect_err(|error| self.end_if_broken(error))
    }
}

impl Receiver {
    /// Looks at the next message and leaves it in the queue. See [`MessagePort::peek`].
    ///
    /// # Errors
    /// As [`MessagePort::peek`].
    pub fn peek(&self) -> Result<Option<NextMessage>, RecvError> {
        Ok(self.borrow_receiving().peek()?.map(|record| NextMessage::of(&record)))
    }

    /// Copies the next message and leaves it in the queue. See [`MessagePort::peek_message`].
    ///
    /// # Errors
    /// As [`MessagePort::peek_message`].
    pub fn peek_message(&self) -> Result<Option<Message>, RecvError> {
        let next = self.borrow_receiving().copy_next()?;
        Ok(next
            .map(|(record, blocks)| Message::new(blocks, record.len as usize, record.format, None)))
    }
}
