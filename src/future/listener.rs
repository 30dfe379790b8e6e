//! A listener that accepts clients in a task.

use crate::error::{ListenError, LoopError};
use crate::front::add_error::AddError;
use crate::future::SHARE;
use crate::future::reactor::Reactor;
use crate::meet::listen::Listener;
use crate::os::backoff::PAUSE;
use crate::os::clock::Deadline;
use crate::port::MessagePort;
use futures_core::{FusedStream, Stream};
use std::fmt;
use std::future::poll_fn;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

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
pub struct AsyncListener {
    listener: Listener,
    reactor: Reactor,
    /// Whether the runtime has ended.
    has_ended: bool,
    /// Until when a lack of descriptors is not reported.
    shortage_until: Option<Deadline>,
    in_a_row: u32,
}

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
        match Reactor::watch(self.as_fd()) {
            Ok(reactor) => Ok(AsyncListener {
                listener: self,
                reactor,
                has_ended: false,
                shortage_until: None,
                in_a_row: 0,
            }),
            Err(error) => Err(AddError::new(LoopError::Io(error), self)),
        }
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
    /// As [`Listener::accept`]; the listener stays usable. If the process is out of descriptors,
    /// the call tries again for 50 ms before it returns the error. [`ListenError::Io`] if the
    /// runtime has ended.
    pub async fn accept(&mut self) -> Result<MessagePort, ListenError> {
        poll_fn(|context| self.poll_accept(context)).await
    }

    /// Returns the port to the next client, if there is one. See [`Listener::try_accept`].
    ///
    /// # Errors
    /// As [`Listener::try_accept`].
    pub fn try_accept(&mut self) -> Result<Option<MessagePort>, ListenError> {
        self.listener.try_accept()
    }

    /// The listener itself, for its path and for the clients that it refused.
    pub fn get_ref(&self) -> &Listener {
        &self.listener
    }

    /// Returns the listener.
    pub fn into_inner(self) -> Listener {
        self.listener
    }

    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<Result<MessagePort, ListenError>> {
        if self.in_a_row >= SHARE {
            self.in_a_row = 0;
            self.reactor.give_way(context);
            return Poll::Pending;
        }
        loop {
            match self.listener.try_accept() {
                Ok(Some(port)) => {
                    self.shortage_until = None;
                    self.in_a_row += 1;
                    return Poll::Ready(Ok(port));
                }
                Ok(None) => self.shortage_until = None,
                Err(error) if self.listener.is_backing_off() => {
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

impl Stream for AsyncListener {
    type Item = Result<MessagePort, ListenError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended { Poll::Ready(None) } else { self.poll_accept(context).map(Some) }
    }
}

impl FusedStream for AsyncListener {
    fn is_terminated(&self) -> bool {
        self.has_ended
    }
}

impl fmt::Debug for AsyncListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncListener").field(&self.listener).finish()
    }
}
