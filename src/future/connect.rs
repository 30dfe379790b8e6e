//! Connecting by a name in a task.

use crate::error::ConnectError;
use crate::future::reactor::{Reactor, Timer};
use crate::meet::connect::{Attempt, Called, Connect, FIRST_PAUSE, LONGEST_PAUSE, path_of};
use crate::os::clock::Deadline;
use crate::os::name;
use crate::port::MessagePort;
use std::os::fd::AsFd;
use std::path::Path;

/// Connects to this user's [`Listener`](crate::Listener) of that name, without blocking the thread.
/// See [`connect`](crate::connect).
///
/// A future that is dropped hangs up. The listener may have accepted the client by then: its port
/// gets `Closed`.
///
/// # Errors
/// As [`connect`](crate::connect). [`ConnectError::Io`] also if there is no reactor; see
/// [`MessagePort::into_async`].
pub async fn connect_async(name: &str) -> Result<MessagePort, ConnectError> {
    Connect::new().to_async(name).await
}

impl Connect {
    /// Connects to the listener of that name, without blocking the thread. See
    /// [`connect_async`].
    ///
    /// The call uses the kernel's timers: those of the runtime need not be enabled. It takes three
    /// descriptors while it waits.
    ///
    /// # Errors
    /// [`ConnectError`].
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tokio", feature = "async-io"))))]
    pub async fn to_async(self, name: &str) -> Result<MessagePort, ConnectError> {
        self.at_async(path_of(name)?).await
    }

    /// Connects to the listener at that path, without blocking the thread. See [`Connect::at`].
    ///
    /// # Errors
    /// [`ConnectError`].
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tokio", feature = "async-io"))))]
    pub async fn at_async(self, path: impl AsRef<Path>) -> Result<MessagePort, ConnectError> {
        let path = path.as_ref().to_owned();
        name::check_user()?;
        let deadline = self.deadline();
        let (mut pause, mut is_first) = (FIRST_PAUSE, true);
        loop {
            match self.attempt_async(&path, deadline).await? {
                Attempt::Met(port) => return Ok(*port),
                Attempt::NoListener if is_first => return Err(ConnectError::NoListener { path }),
                Attempt::HungUp if !deadline.is_over() => {}
                Attempt::NoListener | Attempt::HungUp => return Err(ConnectError::HungUp { path }),
            }
            Timer::after(deadline.left_at_most(pause))?.over().await?;
            (pause, is_first) = (LONGEST_PAUSE.min(2 * pause), false);
        }
    }

    /// Connects once, and waits for the answer.
    async fn attempt_async(self, path: &Path, deadline: Deadline) -> Result<Attempt, ConnectError> {
        let call = loop {
            match self.call(path)? {
                Called::Yes(call) => break call,
                Called::No(attempt) => return Ok(attempt),
                Called::Busy if deadline.is_over() => return Err(ConnectError::Timeout),
                Called::Busy => Timer::after(FIRST_PAUSE)?.over().await?,
            }
        };
        let (reactor, end) = (Reactor::watch(call.as_fd())?, Timer::until(deadline)?);
        loop {
            if let Some(attempt) = call.answer()? {
                return Ok(attempt);
            }
            if reactor.readable_or(&end).await? {
                return Err(ConnectError::Timeout);
            }
        }
    }
}
