//! A listener that accepts clients in a task.

use crate::error::ListenError;
use crate::front::add_error::AddError;
use crate::future::watched::{Watch, Watched};
use crate::meet::listen::Listener;
use crate::port::MessagePort;
use futures_core::{FusedStream, Stream};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A [`Listener`] for async programs; made by [`Listener::into_async`].
///
/// Dropping it frees the name. It is `Send`, and so are its futures.
///
/// As a [`Stream`] it yields ports. It ends only after the error that the runtime has ended. After
/// any other error the next item may be a port again: the error concerns one client, or a lack of
/// descriptors.
///
/// A listener at which clients arrive without end yields to other tasks after 64 of them.
///
#[cfg_attr(feature = "tokio", doc = "```")]
#[cfg_attr(not(feature = "tokio"), doc = "```ignore")]
/// use messageport::{Listener, connect_async};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let name = format!("doc-async-listener-{}", std::process::id());
/// let mut listener = Listener::bind(&name)?.into_async()?;
/// let client = tokio::spawn(async move { connect_async(&name).await });
/// let port = listener.accept().await?;
/// port.post_text("welcome")?;
/// let mut client = client.await??.into_async()?;
/// assert_eq!(client.recv().await?.text()?, "welcome");
/// # Ok(())
/// # }
/// ```
pub struct AsyncListener(Watched<Listener>);

impl Listener {
    /// Converts the listener for async programs. It uses one more descriptor.
    ///
    /// # Errors
    /// [`AddError`] with the listener, if the reactor refuses its descriptor, or if there is no
    /// reactor; see [`MessagePort::into_async`].
    ///
    /// # Panics
    /// As [`MessagePort::into_async`].
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tokio", feature = "async-io"))))]
    pub fn into_async(self) -> Result<AsyncListener, AddError<Listener>> {
        Watched::new(self).map(AsyncListener)
    }
}

impl AsyncListener {
    /// The port to the next client. Cancel-safe: a client whose port was not returned stays in the
    /// queue.
    ///
    /// What concerns the port as a whole comes before [`MessagePort::into_async`]: its types,
    /// [`refuse_transfers`](MessagePort::refuse_transfers),
    /// [`trust_peer`](MessagePort::trust_peer).
    ///
    /// # Errors
    /// As [`Listener::accept`]; the listener stays usable. [`ListenError::Io`] if the runtime has
    /// ended.
    pub async fn accept(&mut self) -> Result<MessagePort, ListenError> {
        poll_fn(|context| self.0.poll(context)).await
    }

    /// Returns the port to the next client, if there is one. See [`Listener::try_accept`].
    ///
    /// # Errors
    /// As [`Listener::try_accept`].
    pub fn try_accept(&mut self) -> Result<Option<MessagePort>, ListenError> {
        self.0.watch.try_accept()
    }

    /// The listener itself, for its path and for the clients that it refused.
    pub fn get_ref(&self) -> &Listener {
        &self.0.watch
    }

    /// Returns the listener.
    pub fn into_inner(self) -> Listener {
        self.0.watch
    }
}

impl Watch for Listener {
    type Item = MessagePort;
    type Error = ListenError;

    fn look(&self) -> Result<Option<MessagePort>, ListenError> {
        self.try_accept()
    }

    fn waits_for_descriptors(&self, error: &ListenError) -> bool {
        self.waits_for_descriptors(error)
    }

    fn cost(_: &MessagePort) -> u32 {
        1
    }
}

impl Stream for AsyncListener {
    type Item = Result<MessagePort, ListenError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.0.has_ended { Poll::Ready(None) } else { self.0.poll(context).map(Some) }
    }
}

impl FusedStream for AsyncListener {
    fn is_terminated(&self) -> bool {
        self.0.has_ended
    }
}

impl fmt::Debug for AsyncListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncListener").field(&self.0.watch).finish()
    }
}
