//! Waiting for the end of the peer, whatever is unread.

use crate::error::{CloseReason, RecvError};
use crate::os::clock::Deadline;
use crate::port::MessagePort;
use std::time::Duration;

impl MessagePort {
    /// Waits until the peer has closed its port, dropped it or died, at most for `timeout`, and
    /// returns which of them it was. Receives nothing: what the peer had posted before is still in
    /// the queue. `Duration::MAX` waits without a limit, and `Duration::ZERO` does not wait.
    ///
    /// This is the event [`peergone`](crate::EventType::PeerGone) for a thread that blocks: for
    /// example one that has to give up a computation when its client has gone, and that does not
    /// read the client's queue meanwhile. It works on a started port as well. If this end was
    /// closed here, the reason is [`Local`](CloseReason::Local).
    ///
    /// The thread sleeps. A peer that drops its port or dies wakes it at once. One that calls
    /// [`close`](Self::close) and keeps its port is found within half a second.
    ///
    /// # Errors
    /// - [`Timeout`](RecvError::Timeout): the peer is still there.
    /// - [`Cancelled`](RecvError::Cancelled), by a [`Canceller`](crate::Canceller).
    /// - [`Io`](RecvError::Io) if the kernel refuses to wait.
    ///
    /// ```
    /// use messageport::{CloseReason, MessageChannel, RecvError};
    /// use std::time::Duration;
    ///
    /// let MessageChannel { port1, port2 } = MessageChannel::new()?;
    /// port1.post_text("unread")?;
    /// let waited = port2.wait_for_peer_gone(Duration::ZERO);
    /// assert!(matches!(waited, Err(RecvError::Timeout)));
    /// let client = std::thread::spawn(move || drop(port1));
    /// assert_eq!(port2.wait_for_peer_gone(Duration::MAX)?, CloseReason::PeerDropped);
    /// assert_eq!(port2.recv()?.text()?, "unread");
    /// client.join().unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_for_peer_gone(&self, timeout: Duration) -> Result<CloseReason, RecvError> {
        let deadline = Deadline::after(timeout);
        loop {
            if let Some(reason) = self.sender().end_reason() {
                return Ok(reason);
            }
            if self.receiver().take_cancel_request() {
                return Err(RecvError::Cancelled);
            }
            if deadline.is_over() {
                return Err(RecvError::Timeout);
            }
            self.receiver().sleep_until_peer_gone(deadline)?;
        }
    }
}
