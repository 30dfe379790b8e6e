//! Buffers that pass back and forth between two ends that trust each other.

use crate::error::{AsIoError, PoolError, PostError, into_io_error};
use crate::link::endpoint::Endpoint;
use crate::link::pool::{PoolMaker, PoolMemory, PooledBuffer};
use crate::os::clock::Deadline;
use crate::port::MessagePort;
use crate::port::sender::Sender;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Buffers of one size, mapped at both ends of a trusted channel.
///
/// Handing one over costs as much as a small message, whatever the buffer's size; giving it back is
/// one store.
///
/// The end that fills the buffers creates the pool. Dropping the pool does not affect buffers in
/// flight: the memory is freed when the last buffer and the port are gone. A port with a pool
/// cannot be moved. A port can have 32 pools in its life, passed on ones included. Each end keeps
/// one descriptor of a pool.
///
/// # Passing buffers on
///
/// The receiver of a buffer may post it again, through any port whose peer it trusts, and so may
/// the next one: a frame goes through a pipeline of processes without a copy. The first such post
/// through a port announces the pool there. The last user returns the buffer to its maker by
/// dropping it.
///
/// If a process dies that was passed buffers, or that they were on their way to, they come back
/// when the maker finds no free buffer and looks for them. So do those on their way to a port that
/// is closed, once its process has no other buffer of the pool. A buffer that a process was just
/// passing on when it died may come back only when the next process closes its port. Passing on
/// needs `/proc`.
///
/// ```
/// # use messageport::{BufferPool, MessageChannel};
/// let (first, second) = (MessageChannel::new()?, MessageChannel::new()?);
/// for port in [&first.port1, &first.port2, &second.port1, &second.port2] {
///     // SAFETY: all ends stay in this program.
///     unsafe { port.trust_peer() };
/// }
/// let pool = BufferPool::new(&first.port1, 2, 1 << 20)?;
/// let mut frame = pool.take()?;
/// frame.fill(1);
/// first.port1.post_message_pooled(&1u32, frame)?;
///
/// let mut frame = first.port2.recv()?.take_pooled()?;
/// frame[0] = 2; // in place
/// second.port1.post_message_pooled(&1u32, frame)?;
///
/// let frame = second.port2.recv()?.take_pooled()?;
/// assert_eq!((frame[0], frame[1], pool.in_use()), (2, 1, 1));
/// drop(frame);
/// assert_eq!(pool.in_use(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # How the receiver gets the pool
///
/// The pool is announced by a record in the queue, which the receiver handles without showing it to
/// its user. So both ends must call `trust_peer` first: the maker before `new`, the receiver before
/// its first receiving call or turn of an [`EventLoop`](crate::EventLoop). A receiver that finds
/// the record before it trusts its peer, or while it has no free descriptor, discards the pool, and
/// tells the maker. Messages that were posted until then still arrive, with
/// [`MessageError::UnknownPool`](crate::MessageError::UnknownPool) instead of a buffer, and their
/// buffers do not come back. Each later post of the maker returns
/// [`PostError::PoolRefused`](crate::PostError::PoolRefused) and the buffer, and so does `take`
/// once no buffer is free. It can make another pool.
///
/// If the receiver has the pool but cannot map it for lack of memory, nothing is lost. Each attempt
/// to take a buffer retries the mapping. A receiver that checks for messages retries it too; one
/// that sleeps does not. Once the pool is mapped, buffers that were dropped meanwhile return to it.
///
/// ```
/// use messageport::{BufferPool, MessageChannel};
///
/// let channel = MessageChannel::new()?;
/// // SAFETY: both ends stay in this program.
/// unsafe { channel.port1.trust_peer() };
/// // SAFETY: the same.
/// unsafe { channel.port2.trust_peer() };
///
/// let pool = BufferPool::new(&channel.port1, 4, 1 << 20)?;
/// let mut frame = pool.take()?;
/// frame[..5].copy_from_slice(b"image");
/// channel.port1.post_message_pooled(&1u32, frame)?;
///
/// let event = channel.port2.recv()?;
/// let frame = event.take_pooled()?;
/// assert_eq!(&frame[..5], b"image");
/// drop(frame);
/// assert_eq!(pool.in_use(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct BufferPool {
    maker: PoolMaker,
    /// Among the pools of its port.
    number: u32,
    end: Arc<Endpoint>,
}

impl BufferPool {
    /// Makes `count` buffers of `len` bytes each, and announces them to the peer.
    ///
    /// All of their memory is allocated at once. The peer does not see the announcement as a
    /// message.
    ///
    /// # Errors
    /// [`PoolError`]; nothing is left behind.
    pub fn new(port: &MessagePort, count: u32, len: usize) -> Result<BufferPool, PoolError> {
        BufferPool::for_sender(port.sender(), count, len)
    }

    /// Makes a pool for the sending half of a port. See [`new`](Self::new).
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_sender(sender: &Sender, count: u32, len: usize) -> Result<BufferPool, PoolError> {
        BufferPool::make(sender, count, len, false)
    }

    /// Makes a pool for a peer that need not be trusted, whose receiver gets its buffers as
    /// [`Frame`](crate::Frame)s by [`take_frame`](crate::MessageEvent::take_frame).
    ///
    /// Memory is reused as in any pool, and neither end can harm the other one: only this end can
    /// write the buffers, and the receiver copies out of them. What a hostile receiver can do is to
    /// keep buffers, or to return one early; then it reads what this end writes next into it. A
    /// receiver accepts four such pools of one port, and refuses others. At most 1024 buffers. They
    /// cannot be passed on. If the receiving port moves to another process, its next owner refuses
    /// the pool.
    ///
    /// # Errors
    /// As [`new`](Self::new), without `NotTrusted`; [`TooManyFrames`](PoolError::TooManyFrames).
    pub fn for_untrusted(
        port: &MessagePort,
        count: u32,
        len: usize,
    ) -> Result<BufferPool, PoolError> {
        BufferPool::for_untrusted_of_sender(port.sender(), count, len)
    }

    /// Makes such a pool for the sending half of a port. See
    /// [`for_untrusted`](Self::for_untrusted).
    ///
    /// # Errors
    /// As [`for_untrusted`](Self::for_untrusted).
    pub fn for_untrusted_of_sender(
        sender: &Sender,
        count: u32,
        len: usize,
    ) -> Result<BufferPool, PoolError> {
        BufferPool::make(sender, count, len, true)
    }

    fn make(
        sender: &Sender,
        count: u32,
        len: usize,
        has_frames: bool,
    ) -> Result<BufferPool, PoolError> {
        let (memory, number) = sender.add_pool(count, len as u64, has_frames)?;
        Ok(BufferPool { maker: PoolMaker::new(memory), number, end: sender.endpoint().clone() })
    }

    /// Takes a free buffer. It may hold bytes from an earlier use.
    ///
    /// It is the first free buffer of the pool. So a buffer that was used before, and may still be
    /// in the caches, is taken before one that was never used, and spare buffers cost no time. Only
    /// while the first 32 are all in use, the remaining ones are taken one after the other.
    ///
    /// # Errors
    /// If all are in use: [`PostError::Closed`] if the port has ended, [`PostError::PoolRefused`]
    /// if the peer has not accepted the pool, else [`PostError::PoolInUse`].
    pub fn take(&self) -> Result<PooledBuffer, PostError> {
        if let Some(buffer) = self.maker.take() {
            return Ok(buffer);
        }
        self.end.ask_hang_up();
        if let Some(reason) = self.end.find_posting_end() {
            // Buffers that the peer had not received stay in use for as long as its end lives.
            return Err(PostError::Closed { reason });
        }
        if self.end.has_refused_pool(self.number) {
            return Err(PostError::PoolRefused);
        }
        if self.maker.reclaim()
            && let Some(buffer) = self.maker.take()
        {
            return Ok(buffer);
        }
        Err(PostError::PoolInUse { count: self.count() })
    }

    /// Takes a free buffer, waiting for one for at most `timeout`; `Duration::MAX` waits forever.
    ///
    /// # Errors
    /// [`PostError::Timeout`]; [`PostError::Closed`] and [`PostError::PoolRefused`], noticed within
    /// 20 ms.
    ///
    /// ```
    /// # use messageport::{BufferPool, MessageChannel, PostError};
    /// # use std::time::Duration;
    /// # let channel = MessageChannel::new()?;
    /// # unsafe { channel.port1.trust_peer() };
    /// let pool = BufferPool::new(&channel.port1, 1, 100)?;
    /// let only = pool.take()?;
    /// assert!(matches!(pool.take_timeout(Duration::from_millis(1)), Err(PostError::Timeout)));
    /// drop(only);
    /// assert!(pool.take_timeout(Duration::MAX).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn take_timeout(&self, timeout: Duration) -> Result<PooledBuffer, PostError> {
        let deadline = Deadline::after(timeout);
        loop {
            match self.take() {
                Err(PostError::PoolInUse { .. }) => {}
                answer => return answer,
            }
            let slice = deadline.left_at_most(SLICE);
            if slice.is_zero() {
                return Err(PostError::Timeout);
            }
            self.memory().wait(slice, || self.in_use() < self.count());
        }
    }

    /// How many buffers are in use: by this program, by the peer, or by a message in flight.
    pub fn in_use(&self) -> u32 {
        self.maker.in_use()
    }

    /// How many buffers there are.
    pub fn count(&self) -> u32 {
        self.memory().slots()
    }

    /// Bytes of each buffer.
    pub fn buffer_len(&self) -> usize {
        self.memory().len() as usize
    }

    fn memory(&self) -> &PoolMemory {
        self.maker.memory()
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("count", &self.count())
            .field("buffer_len", &self.buffer_len())
            .field("in_use", &self.in_use())
            .finish_non_exhaustive()
    }
}

/// A message with a pooled buffer was not posted. The error returns the buffer.
#[derive(Debug)]
pub struct PooledError {
    reason: Box<PostError>,
    buffer: PooledBuffer,
}

/// The reason's own text and source.
impl fmt::Display for PooledError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl std::error::Error for PooledError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.reason.source()
    }
}

impl AsIoError for PooledError {
    fn kind(&self) -> std::io::ErrorKind {
        self.reason.kind()
    }
}

into_io_error!(PooledError);

impl PooledError {
    pub(crate) fn new(reason: PostError, buffer: PooledBuffer) -> PooledError {
        PooledError { reason: Box::new(reason), buffer }
    }

    /// Why the message was not posted.
    pub fn reason(&self) -> &PostError {
        &self.reason
    }

    /// Returns the buffer that should have gone with the message.
    pub fn into_buffer(self) -> PooledBuffer {
        self.buffer
    }

    /// Returns the reason and the buffer.
    pub fn into_parts(self) -> (PostError, PooledBuffer) {
        (*self.reason, self.buffer)
    }
}

/// How long a wait lasts before it asks the kernel whether the peer is alive.
const SLICE: Duration = Duration::from_millis(20);
