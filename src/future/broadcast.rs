//! A member of a broadcast channel that receives in a task.

use crate::error::BroadcastError;
use crate::front::add_error::AddError;
use crate::future::watched::{Watch, Watched};
use crate::group::broadcast::BroadcastChannel;
use crate::group::broadcast::presence::BroadcastEvent;
use crate::link::archive::Receive;
use crate::link::payload::Post;
use crate::port::message::Message;
use futures_core::{FusedStream, Stream};
use std::fmt;
use std::future::poll_fn;
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
pub struct AsyncBroadcastChannel(Watched<BroadcastChannel>);

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
        Watched::new(self).map(AsyncBroadcastChannel)
    }
}

impl AsyncBroadcastChannel {
    /// The next message of any member. Cancel-safe.
    ///
    /// # Errors
    /// As [`BroadcastChannel::recv`]. [`BroadcastError::Io`] also if the runtime has ended.
    pub async fn recv(&mut self) -> Result<Message, BroadcastError> {
        poll_fn(|context| self.0.poll(context)).await
    }

    /// The next message, with its sender, or the next change of members. Cancel-safe. See
    /// [`BroadcastChannel::recv_event`].
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn recv_event(&mut self) -> Result<BroadcastEvent, BroadcastError> {
        let cost = |event: &BroadcastEvent| match event {
            BroadcastEvent::Message { message, .. } => message.cost(),
            BroadcastEvent::Joined(_) | BroadcastEvent::Left { .. } => 1,
        };
        poll_fn(|context| self.0.poll_for(context, BroadcastChannel::try_recv_event, cost)).await
    }

    /// Takes the next message of any member, if there is one.
    ///
    /// # Errors
    /// As [`BroadcastChannel::try_recv`].
    pub fn try_recv(&mut self) -> Result<Option<Message>, BroadcastError> {
        self.0.watch.try_recv()
    }

    /// Posts a value to every other member; never waits.
    ///
    /// # Errors
    /// As [`BroadcastChannel::post_message`].
    pub fn post_message<T: Post>(&self, value: &T) -> Result<(), BroadcastError> {
        self.0.watch.post_message(value)
    }

    /// Posts bytes to every other member; never waits.
    ///
    /// # Errors
    /// As [`BroadcastChannel::post_bytes`].
    pub fn post_bytes(&self, bytes: &[u8]) -> Result<(), BroadcastError> {
        self.0.watch.post_bytes(bytes)
    }

    /// Posts text to every other member; never waits.
    ///
    /// # Errors
    /// As [`BroadcastChannel::post_text`].
    pub fn post_text(&self, text: &str) -> Result<(), BroadcastError> {
        self.0.watch.post_text(text)
    }

    /// From now on, refuses messages that are not a valid archive of a `T`. See
    /// [`BroadcastChannel::require_type`].
    pub fn require_type<T: Receive>(&self) {
        self.0.watch.require_type::<T>();
    }

    /// The channel itself, for its name and the number of its members. Its calls that wait block
    /// the thread.
    pub fn get_ref(&self) -> &BroadcastChannel {
        &self.0.watch
    }

    /// Leaves the channel. See [`BroadcastChannel::close`].
    pub fn close(&self) {
        self.0.watch.close();
    }

    /// Returns the channel.
    pub fn into_inner(self) -> BroadcastChannel {
        self.0.watch
    }
}

impl Watch for BroadcastChannel {
    type Item = Message;
    type Error = BroadcastError;

    fn look(&self) -> Result<Option<Message>, BroadcastError> {
        self.try_recv()
    }

    fn waits_for_descriptors(&self, error: &BroadcastError) -> bool {
        self.waits_for_descriptors(error)
    }

    fn cost(message: &Message) -> u32 {
        message.cost()
    }
}

impl Stream for AsyncBroadcastChannel {
    type Item = Result<Message, BroadcastError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.0.has_ended {
            return Poll::Ready(None);
        }
        match ready!(self.0.poll(context)) {
            Err(BroadcastError::Closed { .. }) => {
                self.0.has_ended = true;
                Poll::Ready(None)
            }
            answer => Poll::Ready(Some(answer)),
        }
    }
}

impl FusedStream for AsyncBroadcastChannel {
    fn is_terminated(&self) -> bool {
        self.0.has_ended
    }
}

impl fmt::Debug for AsyncBroadcastChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncBroadcastChannel").field(&self.0.watch).finish()
    }
}
