//! A member of a broadcast channel that receives in a task.

use crate::error::{BroadcastError, LoopError};
use crate::front::add_error::AddError;
use crate::future::SHARE;
use crate::future::reactor::Reactor;
use crate::group::broadcast::BroadcastChannel;
use crate::link::archive::Receive;
use crate::link::payload::Post;
use crate::os::backoff::PAUSE;
use crate::os::clock::Deadline;
use crate::port::message::Message;
use futures_core::{FusedStream, Stream};
use std::fmt;
use std::future::poll_fn;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// A [`BroadcastChannel`] for async programs; made by [`BroadcastChannel::into_async`].
///
/// Posts do not wait, so they are plain calls. The channel is `Send`, and so are its futures; if a
/// future is dropped, no message is lost. Like an `AsyncPort` it starts no timer, and yields to
/// other tasks after 64 messages, where each 4 KiB of a message count as one more.
///
/// [`BroadcastChannel::open`] can wait up to five seconds for a member that does not answer: call
/// it before the runtime starts, or in its `spawn_blocking`.
///
/// As a [`Stream`] it ends when the channel is closed, and after the error that the runtime has
/// ended. After any other error the next item may be a message again: the error concerns one
/// message, or a lack of descriptors.
///
#[cfg_attr(feature = "tokio", doc = "```")]
#[cfg_attr(not(feature = "tokio"), doc = "```ignore")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use messageport::BroadcastChannel;
///
/// # let name = format!("doc-async-{}", std::process::id());
/// let prices = BroadcastChannel::open(&name)?.into_async()?;
/// let mut screen = BroadcastChannel::open(&name)?.into_async()?;
/// prices.post_text("lamp: 12")?;
/// assert_eq!(screen.recv().await?.text()?, "lamp: 12");
/// # Ok(())
/// # }
/// ```
pub struct AsyncBroadcastChannel {
    channel: BroadcastChannel,
    reactor: Reactor,
    has_ended: bool,
    /// Until when a lack of descriptors is not reported.
    shortage_until: Option<Deadline>,
    in_a_row: u32,
}

impl BroadcastChannel {
    /// Converts the channel for async programs. It uses one more descriptor. Its listeners are no
    /// longer called.
    ///
    /// # Errors
    /// [`AddError`] with the channel, if the reactor refuses its descriptor, or if there is no
    /// reactor; see [`MessagePort::into_async`](crate::MessagePort::into_async).
    ///
    /// # Panics
    /// As [`MessagePort::into_async`](crate::MessagePort::into_async).
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tokio", feature = "async-io"))))]
    pub fn into_async(self) -> Result<AsyncBroadcastChannel, AddError<BroadcastChannel>> {
        match Reactor::watch(self.as_fd()) {
            Ok(reactor) => Ok(AsyncBroadcastChannel {
                channel: self,
                reactor,
                has_ended: false,
                shortage_until: None,
                in_a_row: 0,
            }),
            Err(error) => Err(AddError::new(LoopError::Io(error), self)),
        }
    }
}

impl AsyncBroadcastChannel {
    /// The next message of any member. Cancel-safe.
    ///
    /// # Errors
    /// As [`BroadcastChannel::recv`]. [`BroadcastError::Io`] also if the runtime has ended.
    pub async fn recv(&mut self) -> Result<Message, BroadcastError> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// Takes the next message of any member, if there is one.
    ///
    /// # Errors
    /// As [`BroadcastChannel::try_recv`].
    pub fn try_recv(&mut self) -> Result<Option<Message>, BroadcastError> {
        self.channel.try_recv()
    }

    /// Posts a value to every other member; never waits.
    ///
    /// # Errors
    /// As [`BroadcastChannel::post_message`].
    pub fn post_message<T: Post>(&self, value: &T) -> Result<(), BroadcastError> {
        self.channel.post_message(value)
    }

    /// Posts bytes to every other member; never waits.
    ///
    /// # Errors
    /// As [`BroadcastChannel::post_bytes`].
    pub fn post_bytes(&self, bytes: &[u8]) -> Result<(), BroadcastError> {
        self.channel.post_bytes(bytes)
    }

    /// Posts text to every other member; never waits.
    ///
    /// # Errors
    /// As [`BroadcastChannel::post_text`].
    pub fn post_text(&self, text: &str) -> Result<(), BroadcastError> {
        self.channel.post_text(text)
    }

    /// From now on, refuses messages that are not a valid archive of a `T`. See
    /// [`BroadcastChannel::require_type`].
    pub fn require_type<T: Receive>(&self) {
        self.channel.require_type::<T>();
    }

    /// The channel itself, for its name and the number of its members. Its calls that wait block
    /// the thread.
    pub fn get_ref(&self) -> &BroadcastChannel {
        &self.channel
    }

    /// Leaves the channel. See [`BroadcastChannel::close`].
    pub fn close(&self) {
        self.channel.close();
    }

    /// Returns the channel.
    pub fn into_inner(self) -> BroadcastChannel {
        self.channel
    }

    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Result<Message, BroadcastError>> {
        if self.in_a_row >= SHARE {
            self.in_a_row = 0;
            self.reactor.give_way(context);
            return Poll::Pending;
        }
        loop {
            match self.channel.try_recv() {
                Ok(Some(message)) => {
                    self.shortage_until = None;
                    self.in_a_row = self.in_a_row.saturating_add(message.cost());
                    return Poll::Ready(Ok(message));
                }
                Ok(None) => self.shortage_until = None,
                Err(error) if self.channel.waits_for_descriptors(&error) => {
                    // Reported after one pause, so that a caller who retries does not spin.
                    let until = *self.shortage_until.get_or_insert_with(|| Deadline::after(PAUSE));
                    if until.is_over() {
                        self.shortage_until = None;
                        return Poll::Ready(Err(error));
                    }
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
            self.in_a_row = 0;
            ready!(self.reactor.poll_readable(context)).inspect_err(|_| self.has_ended = true)?;
        }
    }
}

impl Stream for AsyncBroadcastChannel {
    type Item = Result<Message, BroadcastError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        match ready!(self.poll_recv(context)) {
            Err(BroadcastError::Closed { .. }) => {
                self.has_ended = true;
                Poll::Ready(None)
            }
            answer => Poll::Ready(Some(answer)),
        }
    }
}

impl FusedStream for AsyncBroadcastChannel {
    fn is_terminated(&self) -> bool {
        self.has_ended
    }
}

impl fmt::Debug for AsyncBroadcastChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncBroadcastChannel").field(&self.channel).finish()
    }
}
