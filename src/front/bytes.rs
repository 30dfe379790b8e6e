//! A port as a stream of bytes: `std::io::Read` and `std::io::Write`.

use crate::error::{CloseReason, PostError, RecvError};
use crate::port::MessagePort;
use crate::port::content;
use crate::port::event::MessageEvent;
use crate::port::receiver::Receiver;
use crate::port::sender::Sender;
use crate::wire::record::Format;
use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::time::Duration;

/// Reads the bytes of a port's messages one after the other; made by [`MessagePort::reader`].
///
/// The boundaries of messages are not visible: a call returns bytes of one message, at most as many
/// as are left of it. Messages of bytes and of text are read, empty ones are skipped. What moved
/// with a message is closed. A message is kept until its last byte was read; what is left of it is
/// lost when the reader is dropped.
///
/// A read waits for a message. It returns 0, the end of the stream, once the peer has closed or
/// dropped its port and everything was read, and always after that.
///
/// # Errors
/// - [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the peer has died or broken the protocol:
///   bytes may be missing.
/// - [`InvalidData`](io::ErrorKind::InvalidData) for a message that is an archive, and
///   [`Unsupported`](io::ErrorKind::Unsupported) for one whose transferables this end refuses. The
///   message is dropped, and the next read gives the next one.
/// - [`OutOfMemory`](io::ErrorKind::OutOfMemory) if the message cannot be copied. It stays in the
///   queue.
/// - [`TimedOut`](io::ErrorKind::TimedOut) after [`timeout`](Self::timeout).
/// - [`Other`](io::ErrorKind::Other) for a call that a [`Canceller`](crate::Canceller) has ended.
///   It is not `Interrupted`, which `read_to_end` and others would ignore.
///
/// The error inside is the [`RecvError`] or [`MessageError`](crate::MessageError).
///
/// ```
/// use std::io::{BufRead, Read, Write};
///
/// let channel = messageport::MessageChannel::new()?;
/// let mut writer = channel.port1.writer();
/// writeln!(writer, "one")?;
/// writeln!(writer, "two")?;
/// drop(channel.port1);
/// let lines: Result<Vec<_>, _> = channel.port2.reader().lines().collect();
/// assert_eq!(lines?, ["one", "two"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "it reads nothing by itself"]
pub struct PortReader<'p> {
    receiver: &'p Receiver,
    /// An undivided port can be started meanwhile. Then its messages are delivered as events.
    port: Option<&'p MessagePort>,
    timeout: Option<Duration>,
    /// The message that is read, and how many of its bytes were.
    current: Option<(MessageEvent<'p>, usize)>,
    has_ended: bool,
}

/// Posts bytes as messages; made by [`MessagePort::writer`].
///
/// Each `write` posts one message of at most 64 KiB, and returns how many bytes it has. It waits
/// for room. Nothing is buffered: put a [`BufWriter`](io::BufWriter) around it for short writes.
/// `write` of nothing posts nothing; dropping the writer does not close the port.
///
/// # Errors
/// - [`BrokenPipe`](io::ErrorKind::BrokenPipe) if either end is closed, or the peer has died.
/// - [`TimedOut`](io::ErrorKind::TimedOut) after [`timeout`](Self::timeout).
/// - [`Other`](io::ErrorKind::Other) for a call that a [`Canceller`](crate::Canceller) has ended.
///   It is not `Interrupted`, after which `write_all` and others would try again.
///
/// The error inside is the [`PostError`]. No byte of a `write` that failed was posted.
#[must_use = "it writes nothing by itself"]
pub struct PortWriter<'p> {
    sender: &'p Sender,
    timeout: Duration,
}

impl MessagePort {
    /// Reads the port's messages as a stream of bytes.
    pub fn reader(&self) -> PortReader<'_> {
        PortReader::new(self.receiver(), Some(self))
    }

    /// Writes a stream of bytes as messages.
    pub fn writer(&self) -> PortWriter<'_> {
        self.sender().writer()
    }
}

impl Receiver {
    /// Reads this half's messages as a stream of bytes. See [`MessagePort::reader`].
    pub fn reader(&self) -> PortReader<'_> {
        PortReader::new(self, None)
    }
}

impl Sender {
    /// Writes a stream of bytes as messages. See [`MessagePort::writer`].
    pub fn writer(&self) -> PortWriter<'_> {
        PortWriter { sender: self, timeout: Duration::MAX }
    }
}

impl<'p> PortReader<'p> {
    fn new(receiver: &'p Receiver, port: Option<&'p MessagePort>) -> PortReader<'p> {
        PortReader { receiver, port, timeout: None, current: None, has_ended: false }
    }

    /// Sets how long a read waits for a message. Without this it waits without limit.
    pub fn timeout(self, timeout: Duration) -> PortReader<'p> {
        PortReader { timeout: Some(timeout), ..self }
    }

    /// Waits until bytes are there, or the end.
    fn fill(&mut self) -> io::Result<()> {
        while !self.has_ended && self.left().is_empty() {
            // Given back first: a trusted port's message is memory of the ring.
            self.current = None;
            match self.receive() {
                Ok(event) => {
                    content::check_refused(&event)?;
                    if event.format() == Format::Archive {
                        content::require(&event, Format::Bytes)?;
                    }
                    self.current = Some((event, 0));
                }
                Err(RecvError::Closed {
                    reason: CloseReason::Local | CloseReason::PeerClosed | CloseReason::PeerDropped,
                }) => self.has_ended = true,
                Err(RecvError::Cancelled) => return Err(io::Error::other(RecvError::Cancelled)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn receive(&self) -> Result<MessageEvent<'p>, RecvError> {
        match (self.port, self.timeout) {
            (Some(port), Some(timeout)) => port.recv_timeout(timeout),
            (Some(port), None) => port.recv(),
            (None, Some(timeout)) => self.receiver.recv_timeout(timeout),
            (None, None) => self.receiver.recv(),
        }
    }

    fn left(&self) -> &[u8] {
        self.current.as_ref().map_or(&[], |(event, read)| &event.bytes()[*read..])
    }
}

impl Read for PortReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for PortReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.fill()?;
        Ok(self.left())
    }

    fn consume(&mut self, count: usize) {
        if let Some((event, read)) = &mut self.current {
            *read = (*read + count).min(event.bytes().len());
        }
    }
}

impl<'p> PortWriter<'p> {
    /// Sets how long a write waits for room. Without this it waits without limit.
    pub fn timeout(self, timeout: Duration) -> PortWriter<'p> {
        PortWriter { timeout, ..self }
    }
}

impl Write for PortWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let largest = self.sender.endpoint().region().geometry().largest_message() as usize;
        let part = &bytes[..bytes.len().min(LARGEST_PART).min(largest)];
        if part.is_empty() {
            return Ok(0);
        }
        match self.sender.post_bytes_timeout(part, self.timeout) {
            Ok(()) => Ok(part.len()),
            Err(PostError::Cancelled) => Err(io::Error::other(PostError::Cancelled)),
            Err(error) => Err(error.into()),
        }
    }

    /// Does nothing: each write was posted.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for PortReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortReader")
            .field("receiver", &self.receiver)
            .field("left", &self.left().len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PortWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortWriter")
            .field("sender", &self.sender)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// The most bytes of one write: longer messages gain nothing, and would make the ring grow.
const LARGEST_PART: usize = 64 << 10;
