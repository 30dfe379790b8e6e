//! Waiting for the end of the peer, whatever is unread, in async programs.

use crate::error::{CloseReason, RecvError, SystemError};
use crate::future::port::AsyncPort;
use crate::future::reactor::{Reactor, Timer};
use crate::link::endpoint::LOOK_AGAIN;
use crate::os::epoll::Epoll;
use std::os::fd::{AsFd, BorrowedFd};

impl AsyncPort {
    /// Waits until the peer has closed its port, dropped it or died, and returns which of them it
    /// was. Receives nothing. Cancel-safe.
    ///
    /// See [`MessagePort::wait_for_peer_gone`](crate::MessagePort::wait_for_peer_gone): for a task
    /// that works for a client, and stops when the client has gone. It uses three descriptors
    /// while it waits.
    ///
    /// # Errors
    /// [`Io`](RecvError::Io) if the process is out of descriptors, or if the runtime has ended.
    ///
    #[cfg_attr(feature = "tokio", doc = "```")]
    #[cfg_attr(not(feature = "tokio"), doc = "```ignore")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let channel = messageport::MessageChannel::new()?;
    /// let mut port = channel.port2.into_async()?;
    /// let client = channel.port1;
    /// client.post_text("compute it")?;
    /// let _request = port.recv().await?;
    /// drop(client); // it gives up
    /// tokio::select! {
    ///     () = std::future::pending() => println!("it is computed"),
    ///     reason = port.wait_for_peer_gone() => println!("no longer: {}", reason?),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn wait_for_peer_gone(&mut self) -> Result<CloseReason, RecvError> {
        let mut hang_up = None;
        loop {
            if let Some(reason) = self.as_sender().end_reason() {
                return Ok(reason);
            }
            let hang_up = match &hang_up {
                Some(hang_up) => hang_up,
                None => &*hang_up.insert(hang_up_of(self.as_sender().endpoint().doorbell())?),
            };
            // A peer that has closed its port and keeps it is found by another look.
            hang_up.readable_or(&Timer::after(LOOK_AGAIN)?).await?;
        }
    }
}

/// Readable once the other end of a socket has gone, and not for what is unread in it.
fn hang_up_of(socket: BorrowedFd<'_>) -> Result<Reactor, SystemError> {
    let ends = Epoll::new()?;
    ends.add_for_end(socket, 0)?;
    // A duplicate, which keeps the set.
    Reactor::watch(ends.as_fd())
}
