//! One sending half for many threads.

use crate::error::PostError;
use crate::link::biased::{AlreadyInside, BiasedGuard, BiasedMutex};
use crate::link::endpoint::Endpoint;
use crate::link::payload::Post;
use crate::link::pool::PooledBuffer;
use crate::link::stats::{Backlog, LaneStats};
use crate::port::cancel::Canceller;
use crate::port::pool::PooledError;
use crate::port::sender::Sender;
use crate::port::transfer::{TransferError, TransferList};
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// A [`Sender`] that threads share: `Clone`, `Send` and `Sync`.
///
/// Made by [`Sender::into_shared`]. Each message arrives whole. Messages of one thread keep their
/// order; those of several threads arrive in the order in which the posts took the lock. The
/// direction ends when the last clone is dropped, or when one of them is closed.
///
/// # What it costs
///
/// A lock around each post, as a `Mutex<Sender>` costs (`cargo bench --bench throughput --
/// thread` prints both beside the standard library's channel). A post waits for the posts of other
/// threads, each of which takes as long as serialising and copying its message. Unlike with a
/// `Mutex<Sender>`, a call that waits for room holds no lock meanwhile: posts of other threads that
/// fit go on.
///
/// A value's own `Serialize` runs under the lock. If it posts through the same sender, it gets
/// [`PostError::Busy`], as with a [`Sender`].
///
/// If threads post so much that the lock is what they wait for, give each of them a channel, and
/// let the receiver watch them all with a [`PortSet`](crate::PortSet) or an
/// [`EventLoop`](crate::EventLoop).
///
/// ```
/// let channel = messageport::MessageChannel::new()?;
/// let (sender, _receiver) = channel.port1.split();
/// let sender = sender.into_shared();
/// let threads = (0..4u32).map(|number| {
///     let sender = sender.clone();
///     std::thread::spawn(move || sender.post_message(&number))
/// });
/// for thread in threads.collect::<Vec<_>>() {
///     thread.join().unwrap()?;
/// }
/// drop(sender);
/// let sum: u32 = channel.port2.iter().map(|event| event.data::<u32>().unwrap().to_native()).sum();
/// assert_eq!(sum, 6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct SharedSender {
    shared: Arc<Shared>,
}

struct Shared {
    sender: BiasedMutex<Sender>,
    /// Whether `close` was called, perhaps by the thread that holds the lock.
    closing: AtomicBool,
    end: Arc<Endpoint>,
    turns: Turns,
}

/// Of the threads that share a sending half, one at a time waits for room.
#[derive(Default)]
pub(crate) struct Turns {
    /// Whether one does. The others wait for their turn.
    pub is_taken: Mutex<bool>,
    pub free: Condvar,
}

/// Exclusive use of a [`SharedSender`]: for bursts, loans, and several messages in a row. Made by
/// [`SharedSender::lock`].
///
/// Do not call posts that wait through it: all other threads wait meanwhile.
#[must_use = "other threads cannot post while it lives"]
pub struct SharedSenderGuard<'s> {
    sender: BiasedGuard<'s, Sender>,
    shared: &'s Shared,
}

impl Sender {
    /// Lets threads share this half.
    pub fn into_shared(self) -> SharedSender {
        let end = self.endpoint().clone();
        let shared = Shared {
            sender: BiasedMutex::new(self),
            closing: AtomicBool::new(false),
            end,
            turns: Turns::default(),
        };
        SharedSender { shared: Arc::new(shared) }
    }
}

impl SharedSender {
    /// Posts a value; does not wait for the receiver. See
    /// [`MessagePort::post_message`](crate::MessagePort::post_message).
    ///
    /// # Errors
    /// As [`MessagePort::post_message`](crate::MessagePort::post_message).
    /// [`Busy`](PostError::Busy) if this very thread is inside a post of this sender, or has
    /// [locked](Self::lock) it.
    pub fn post_message<T: Post>(&self, value: &T) -> Result<(), PostError> {
        self.lock()?.post_message(value)
    }

    /// Posts bytes; does not wait for the receiver.
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message), except `Serialize`.
    pub fn post_bytes(&self, bytes: &[u8]) -> Result<(), PostError> {
        self.lock()?.post_bytes(bytes)
    }

    /// Posts text; does not wait for the receiver.
    ///
    /// # Errors
    /// As [`post_bytes`](Self::post_bytes).
    pub fn post_text(&self, text: &str) -> Result<(), PostError> {
        self.lock()?.post_text(text)
    }

    /// Posts a value, and moves what is in the list. See
    /// [`MessagePort::post_message_with`](crate::MessagePort::post_message_with).
    ///
    /// # Errors
    /// [`TransferError`] with the reason and the list.
    pub fn post_message_with<T: Post>(
        &self,
        value: &T,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        match self.lock() {
            Ok(sender) => sender.post_message_with(value, transfer),
            Err(reason) => Err(TransferError::new(reason, transfer.into_list())),
        }
    }

    /// Posts bytes, and moves what is in the list.
    ///
    /// # Errors
    /// As [`post_message_with`](Self::post_message_with).
    pub fn post_bytes_with(
        &self,
        bytes: &[u8],
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        match self.lock() {
            Ok(sender) => sender.post_bytes_with(bytes, transfer),
            Err(reason) => Err(TransferError::new(reason, transfer.into_list())),
        }
    }

    /// Posts text, and moves what is in the list.
    ///
    /// # Errors
    /// As [`post_message_with`](Self::post_message_with).
    pub fn post_text_with(
        &self,
        text: &str,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        match self.lock() {
            Ok(sender) => sender.post_text_with(text, transfer),
            Err(reason) => Err(TransferError::new(reason, transfer.into_list())),
        }
    }

    /// Posts a value and hands over a pooled buffer. See
    /// [`MessagePort::post_message_pooled`](crate::MessagePort::post_message_pooled).
    ///
    /// # Errors
    /// [`PooledError`] with the reason and the buffer.
    pub fn post_message_pooled<T: Post>(
        &self,
        value: &T,
        buffer: PooledBuffer,
    ) -> Result<(), PooledError> {
        match self.lock() {
            Ok(sender) => sender.post_message_pooled(value, buffer),
            Err(reason) => Err(PooledError::new(reason, buffer)),
        }
    }

    /// Takes exclusive use, waiting for posts of other threads.
    ///
    /// # Errors
    /// [`Busy`](PostError::Busy) if this very thread has it, or is inside a post of this sender.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// let sender = channel.port1.split().0.into_shared();
    /// let guard = sender.lock()?;
    /// let burst = guard.burst();
    /// burst.stage_text("one")?;
    /// burst.stage_text("two")?; // nothing comes between
    /// burst.commit();
    /// assert!(sender.lock().is_err());
    /// drop(guard);
    /// sender.post_text("three")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lock(&self) -> Result<SharedSenderGuard<'_>, PostError> {
        // A panic in a value's `Serialize` leaves the half as usable as an error does.
        let sender = self.shared.sender.lock().map_err(|AlreadyInside| PostError::Busy)?;
        Ok(SharedSenderGuard { sender, shared: &self.shared })
    }

    /// Ends this direction for all clones. Waits for posts of other threads; does nothing the
    /// second time. See [`Sender::close`].
    ///
    /// If this very thread has the lock, the direction ends when it gives the lock back.
    pub fn close(&self) {
        // Relaxed: this thread reads it again, or takes the lock after it.
        self.shared.closing.store(true, Ordering::Relaxed);
        drop(self.lock());
    }

    /// Whether posts fail because an end is closed. Makes at most one system call.
    ///
    /// While this very thread has the lock it says only whether [`close`](Self::close) was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match self.lock() {
            Ok(sender) => sender.is_closed(),
            // Relaxed: an answer that may be old at once.
            Err(_) => self.shared.closing.load(Ordering::Relaxed),
        }
    }

    /// What was posted and not yet taken by the peer. See [`Sender::backlog`].
    ///
    /// While this very thread has the lock it is zero.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        match self.lock() {
            Ok(sender) => sender.backlog(),
            Err(_) => Backlog { messages: 0, bytes: 0 },
        }
    }

    /// Counters of the lane that this half writes. See [`Sender::stats`]. Takes no lock.
    #[must_use]
    pub fn stats(&self) -> LaneStats {
        self.shared.end.sent()
    }

    /// Returns a handle that ends a blocked call of one of the threads.
    ///
    /// # Errors
    /// [`Io`](PostError::Io) if the process is out of descriptors; [`Busy`](PostError::Busy) as
    /// [`lock`](Self::lock).
    pub fn canceller(&self) -> Result<Canceller, PostError> {
        self.lock()?.canceller()
    }

    /// Returns the sending half.
    ///
    /// # Errors
    /// This clone, if there are others.
    pub fn into_inner(self) -> Result<Sender, SharedSender> {
        let shared = Arc::try_unwrap(self.shared).map_err(|shared| SharedSender { shared })?;
        Ok(shared.sender.into_inner())
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.shared.end
    }

    pub(crate) fn turns(&self) -> &Turns {
        &self.shared.turns
    }
}

impl Deref for SharedSenderGuard<'_> {
    type Target = Sender;

    fn deref(&self) -> &Sender {
        &self.sender
    }
}

impl Drop for SharedSenderGuard<'_> {
    fn drop(&mut self) {
        // Relaxed: set by this thread, or by one that takes the lock after it.
        if self.shared.closing.load(Ordering::Relaxed) {
            self.sender.close();
        }
    }
}

impl fmt::Debug for SharedSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_tuple("SharedSender");
        match self.shared.sender.try_lock() {
            Some(sender) => out.field(&*sender),
            None => out.field(&"busy"),
        };
        out.finish()
    }
}

impl fmt::Debug for SharedSenderGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedSenderGuard").field(&*self.sender).finish()
    }
}
