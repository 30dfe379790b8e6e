//! Blocking calls: spin for a while, then sleep until a message, room or the peer's end.

use crate::error::{PostError, RecvError};
use crate::link::payload::Post;
use crate::os::clock::Deadline;
use crate::os::reaper;
use crate::port::MessagePort;
use crate::port::event::MessageEvent;
use crate::port::receiver::Receiver;
use crate::port::sender::Sender;
use crate::port::transfer::{TransferError, TransferList};
use crate::ring::notifier::Wait;
use std::iter::FusedIterator;
use std::time::{Duration, Instant};

impl Receiver {
    /// Waits for the next message. See [`MessagePort::recv`].
    ///
    /// # Errors
    /// [`RecvError::Closed`] after the last message; [`RecvError::Cancelled`];
    /// [`RecvError::OutOfMemory`]; [`RecvError::Io`].
    #[inline]
    pub fn recv(&self) -> Result<MessageEvent<'_>, RecvError> {
        self.recv_until(Limit::None).map_err(|failure| *failure)
    }

    /// Waits for the next message, at most for `timeout`. See [`MessagePort::recv_timeout`].
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and [`RecvError::Timeout`].
    #[inline]
    pub fn recv_timeout(&self, timeout: Duration) -> Result<MessageEvent<'_>, RecvError> {
        self.recv_until(Limit::Timeout(timeout)).map_err(|failure| *failure)
    }

    /// Waits for the next message until `deadline`. See [`MessagePort::recv_deadline`].
    ///
    /// # Errors
    /// As [`recv_timeout`](Self::recv_timeout).
    #[inline]
    pub fn recv_deadline(&self, deadline: Instant) -> Result<MessageEvent<'_>, RecvError> {
        self.recv_until(Limit::Deadline(deadline)).map_err(|failure| *failure)
    }

    /// Iterates over messages, waiting for each. See [`MessagePort::iter`].
    pub fn iter(&self) -> Iter<'_> {
        Iter { receiver: self, port: None, has_ended: false }
    }

    /// A message that is already there is returned without reading the clock.
    #[inline(always)]
    fn recv_until(&self, limit: Limit) -> Result<MessageEvent<'_>, Box<RecvError>> {
        loop {
            if let Some(event) = self.poll_fast() {
                return Ok(event);
            }
            if let Some(event) = self.recv_slow(limit)? {
                return Ok(event);
            }
        }
    }

    /// Slow path of `recv_until`, after a fast poll that found nothing. `None` says that something
    /// has come: the fast path takes a plain message, which then stays in registers, and else comes
    /// here again. A timeout would begin anew then, so such a call polls here.
    #[cold]
    #[inline(never)]
    fn recv_slow(&self, limit: Limit) -> Result<Option<MessageEvent<'_>>, Box<RecvError>> {
        let mut wait = Waiting { limit, deadline: Deadline::NEVER, is_first_look: true };
        let mut polled = self.poll_slow();
        loop {
            match polled {
                Ok(Some(event)) => return Ok(Some(event)),
                Ok(None) => self.wait(&mut wait)?,
                Err(failure) => self.wait_for_reaper(&mut wait, failure)?,
            }
            if !matches!(limit, Limit::Timeout(_)) && self.has_news() {
                return Ok(None);
            }
            polled = self.poll();
        }
    }

    /// If the next message waits until received descriptors of this port are closed, waits for
    /// that. Returns any other failure.
    #[cold]
    #[inline(never)]
    fn wait_for_reaper(
        &self,
        waiting: &mut Waiting,
        failure: Box<RecvError>,
    ) -> Result<(), Box<RecvError>> {
        if !self.waits_for_reaper() {
            return Err(failure);
        }
        if std::mem::take(&mut waiting.is_first_look) {
            waiting.deadline = waiting.limit.deadline();
        }
        if self.take_cancel_request() {
            return Err(Box::new(RecvError::Cancelled));
        }
        if waiting.deadline.is_over() {
            return Err(Box::new(RecvError::Timeout));
        }
        reaper::wait_for_progress(waiting.deadline.left_at_most(SLICE));
        Ok(())
    }

    /// Waits until another poll may find a message.
    #[cold]
    #[inline(never)]
    fn wait(&self, waiting: &mut Waiting) -> Result<(), Box<RecvError>> {
        let is_first_look = std::mem::take(&mut waiting.is_first_look);
        if is_first_look {
            waiting.deadline = waiting.limit.deadline();
        }
        let deadline = waiting.deadline;
        if is_first_look && !deadline.is_over() && self.spin().run(deadline, || self.has_news()) {
            return Ok(());
        }
        if self.take_cancel_request() {
            return Err(Box::new(RecvError::Cancelled));
        }
        if deadline.is_over() {
            return Err(Box::new(RecvError::Timeout));
        }
        match self.prepare_wait()? {
            Wait::Sleep => Ok(self.sleep(deadline)?),
            Wait::Ready => Ok(()),
        }
    }
}

/// How long a call may wait.
#[derive(Clone, Copy)]
enum Limit {
    None,
    Timeout(Duration),
    Deadline(Instant),
}

impl Limit {
    fn deadline(self) -> Deadline {
        match self {
            Limit::None => Deadline::NEVER,
            Limit::Timeout(timeout) => Deadline::after(timeout),
            Limit::Deadline(time) => Deadline::at(time),
        }
    }
}

/// A call that waits.
struct Waiting {
    limit: Limit,
    /// Set by the first poll that finds nothing.
    deadline: Deadline,
    is_first_look: bool,
}

impl Sender {
    /// Posts a value, waiting for room. See [`MessagePort::post_message_timeout`].
    ///
    /// # Errors
    /// Any [`PostError`] except `QueueFull`.
    pub fn post_message_timeout<T: Post>(
        &self,
        value: &T,
        timeout: Duration,
    ) -> Result<(), PostError> {
        self.retry(timeout, || self.post_message(value))
    }

    /// Posts bytes, waiting for room. See [`MessagePort::post_bytes_timeout`].
    ///
    /// # Errors
    /// Any [`PostError`] except `QueueFull` and `Serialize`.
    pub fn post_bytes_timeout(&self, bytes: &[u8], timeout: Duration) -> Result<(), PostError> {
        self.retry(timeout, || self.post_bytes(bytes))
    }

    /// Posts text, waiting for room. See [`MessagePort::post_text_timeout`].
    ///
    /// # Errors
    /// Any [`PostError`] except `QueueFull` and `Serialize`.
    pub fn post_text_timeout(&self, text: &str, timeout: Duration) -> Result<(), PostError> {
        self.retry(timeout, || self.post_text(text))
    }

    /// Waits until a message of `len` bytes would fit. See [`MessagePort::wait_for_room`].
    ///
    /// # Errors
    /// Any [`PostError`] except `QueueFull` and `Serialize`.
    pub fn wait_for_room(&self, len: usize, timeout: Duration) -> Result<(), PostError> {
        self.retry(timeout, || self.has_room(len as u64))
    }

    /// Posts a value and transfers a list, waiting for room. See
    /// [`MessagePort::post_message_with_timeout`].
    ///
    /// # Errors
    /// [`TransferError`] with the list, for any reason except `QueueFull`.
    pub fn post_message_with_timeout<T: Post>(
        &self,
        value: &T,
        transfer: impl TransferList,
        timeout: Duration,
    ) -> Result<(), TransferError> {
        let mut list = transfer.into_list();
        let posted = self.retry(timeout, || {
            match self.post_message_with(value, std::mem::take(&mut list)) {
                Ok(()) => Ok(()),
                Err(error) => {
                    let (reason, back) = error.into_parts();
                    list = back;
                    Err(reason)
                }
            }
        });
        posted.map_err(|reason| TransferError::new(reason, list))
    }

    /// Runs `attempt` until its result is not `QueueFull`.
    pub(super) fn retry(
        &self,
        timeout: Duration,
        mut attempt: impl FnMut() -> Result<(), PostError>,
    ) -> Result<(), PostError> {
        let (mut needed, mut is_socket) = match attempt() {
            Err(PostError::QueueFull { len, is_socket, .. }) => (len, is_socket),
            answer => return answer,
        };
        let deadline = Deadline::after(timeout);
        if !timeout.is_zero() && !is_socket {
            self.spin().run(deadline, || self.may_fit(needed));
        }
        loop {
            // Only another attempt shows room in the socket. It is made after the flag is armed:
            // the receiver makes that room first, and then releases and looks at the flag.
            if is_socket {
                self.arm_room_flag();
            }
            if is_socket || self.may_fit(needed) {
                match attempt() {
                    Err(PostError::QueueFull { len, is_socket: which, .. }) => {
                        (needed, is_socket) = (len, which);
                    }
                    answer => return answer,
                }
            }
            if self.take_cancel_request() {
                return Err(PostError::Cancelled);
            }
            if deadline.is_over() {
                return Err(PostError::Timeout);
            }
            if is_socket || self.prepare_wait(needed)? == Wait::Sleep {
                self.sleep(deadline)?;
            }
        }
    }
}

impl MessagePort {
    /// Waits for the next message.
    ///
    /// First polls for some microseconds (longer, if longer polling has found messages recently),
    /// and then sleeps. Of many calls that have slept, one polls for up to 200 µs, to find out
    /// whether the peer answers faster if neither end sleeps. It wakes when a message arrives, when
    /// the peer closes its port or dies, or through a [`Canceller`](crate::Canceller). It makes no
    /// system call while messages keep coming.
    ///
    /// # Errors
    /// [`Closed`](RecvError::Closed) after the last message, with the reason;
    /// [`Cancelled`](RecvError::Cancelled); [`OutOfMemory`](RecvError::OutOfMemory) if allocating a
    /// private copy failed; [`Io`](RecvError::Io) if the kernel refuses to wait.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_bytes(b"here")?;
    /// assert_eq!(channel.port2.recv()?.bytes(), b"here");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn recv(&self) -> Result<MessageEvent<'_>, RecvError> {
        self.recv_until(Limit::None)
    }

    /// Waits for the next message, at most for `timeout`. `Duration::ZERO` does not wait.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and [`Timeout`](RecvError::Timeout).
    ///
    /// ```
    /// use messageport::{MessageChannel, RecvError};
    /// use std::time::Duration;
    ///
    /// let channel = MessageChannel::new()?;
    /// let answer = channel.port2.recv_timeout(Duration::from_millis(1));
    /// assert!(matches!(answer, Err(RecvError::Timeout)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn recv_timeout(&self, timeout: Duration) -> Result<MessageEvent<'_>, RecvError> {
        self.recv_until(Limit::Timeout(timeout))
    }

    /// Waits for the next message until `deadline`.
    ///
    /// # Errors
    /// As [`recv_timeout`](Self::recv_timeout).
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    ///
    /// let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_bytes(b"in time")?;
    /// let deadline = Instant::now() + Duration::from_secs(1);
    /// assert_eq!(channel.port2.recv_deadline(deadline)?.bytes(), b"in time");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn recv_deadline(&self, deadline: Instant) -> Result<MessageEvent<'_>, RecvError> {
        self.recv_until(Limit::Deadline(deadline))
    }

    #[inline(always)]
    fn recv_until(&self, limit: Limit) -> Result<MessageEvent<'_>, RecvError> {
        self.check_not_started()?;
        loop {
            if let Some(event) = self.receiver().poll_fast() {
                return Ok(event);
            }
            match self.recv_slow(limit) {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => {}
                Err(failure) => return Err(*failure),
            }
        }
    }

    /// Slow path of `recv_until`, as that of the half; for its type see `try_recv_slow`.
    #[cold]
    #[inline(never)]
    fn recv_slow(&self, limit: Limit) -> Result<Option<MessageEvent<'_>>, Box<RecvError>> {
        self.receiver().recv_slow(limit).inspect_err(|failure| self.end_if_broken(failure))
    }

    /// Iterates over messages, and waits for each; the iterator ends when [`recv`](Self::recv)
    /// would fail. Call `recv` after it to learn why.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_text("a")?;
    /// channel.port1.post_text("b")?;
    /// drop(channel.port1);
    /// let all: Vec<_> = channel.port2.iter().map(|event| event.bytes().to_vec()).collect();
    /// assert_eq!(all, [b"a", b"b"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter(&self) -> Iter<'_> {
        Iter { receiver: self.receiver(), port: Some(self), has_ended: false }
    }

    /// Posts a value, waiting for room at most for `timeout`. `Duration::MAX` means no limit.
    ///
    /// The wait ends early if the peer closes its port or dies (noticed within 20 ms), or through a
    /// [`Canceller`](crate::Canceller). If both ends wait for room at the same time, neither
    /// receives, so both wait until their timeouts are over.
    ///
    /// # Errors
    /// As [`post_message`](Self::post_message) except `QueueFull`; also
    /// [`Timeout`](PostError::Timeout) and [`Cancelled`](PostError::Cancelled).
    ///
    /// ```
    /// use messageport::{MessageChannel, PostError};
    /// use std::time::Duration;
    ///
    /// let channel = MessageChannel::builder().capacity(4096).bounded().build()?;
    /// let answer = loop {
    ///     let timeout = Duration::from_millis(1);
    ///     if let Err(error) = channel.port1.post_message_timeout(&[0u8; 1000], timeout) {
    ///         break error;
    ///     }
    /// };
    /// assert!(matches!(answer, PostError::Timeout));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn post_message_timeout<T: Post>(
        &self,
        value: &T,
        timeout: Duration,
    ) -> Result<(), PostError> {
        self.sender().post_message_timeout(value, timeout)
    }

    /// Posts bytes, waiting for room like [`post_message_timeout`](Self::post_message_timeout).
    ///
    /// # Errors
    /// As [`post_message_timeout`](Self::post_message_timeout), except `Serialize`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_bytes_timeout(b"some", Duration::MAX)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn post_bytes_timeout(&self, bytes: &[u8], timeout: Duration) -> Result<(), PostError> {
        self.sender().post_bytes_timeout(bytes, timeout)
    }

    /// Posts text, waiting for room like [`post_message_timeout`](Self::post_message_timeout).
    ///
    /// # Errors
    /// As [`post_message_timeout`](Self::post_message_timeout), except `Serialize`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let channel = messageport::MessageChannel::new()?;
    /// channel.port1.post_text_timeout("some", Duration::from_secs(1))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn post_text_timeout(&self, text: &str, timeout: Duration) -> Result<(), PostError> {
        self.sender().post_text_timeout(text, timeout)
    }

    /// Posts a value and transfers a list. Waits like
    /// [`post_message_timeout`](Self::post_message_timeout) for room in the ring, and in the socket
    /// for the list.
    ///
    /// # Errors
    /// [`TransferError`] with the list; the reason is never `QueueFull`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let channel = messageport::MessageChannel::new()?;
    /// let file = std::fs::File::open("/dev/null")?;
    /// let timeout = Duration::from_secs(1);
    /// channel.port1.post_message_with_timeout(&7u8, [file.into()], timeout)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn post_message_with_timeout<T: Post>(
        &self,
        value: &T,
        transfer: impl TransferList,
        timeout: Duration,
    ) -> Result<(), TransferError> {
        self.sender().post_message_with_timeout(value, transfer, timeout)
    }

    /// Waits like [`post_message_timeout`](Self::post_message_timeout) until a message of `len`
    /// bytes fits, for example before a loan. The room stays, as only this end fills it.
    ///
    /// # Errors
    /// As [`post_message_timeout`](Self::post_message_timeout), except `Serialize`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let channel = messageport::MessageChannel::new()?;
    /// channel.port1.wait_for_room(1 << 20, Duration::MAX)?;
    /// channel.port1.loan(1 << 20)?.post()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_for_room(&self, len: usize, timeout: Duration) -> Result<(), PostError> {
        self.sender().wait_for_room(len, timeout)
    }
}

/// An iterator over messages, made by [`MessagePort::iter`]. Once it has ended it stays so.
///
/// ```
/// let channel = messageport::MessageChannel::new()?;
/// channel.port1.post_text("only")?;
/// channel.port1.close();
/// let mut messages = channel.port2.iter();
/// assert!(messages.next().is_some() && messages.next().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "an iterator takes no message before `next` is called"]
pub struct Iter<'p> {
    receiver: &'p Receiver,
    /// An undivided port can be started meanwhile. Then its messages are delivered as events.
    port: Option<&'p MessagePort>,
    has_ended: bool,
}

impl<'p> Iterator for Iter<'p> {
    type Item = MessageEvent<'p>;

    #[inline]
    fn next(&mut self) -> Option<MessageEvent<'p>> {
        if self.has_ended {
            return None;
        }
        let received = match self.port {
            Some(port) => port.recv(),
            None => self.receiver.recv(),
        };
        self.has_ended = received.is_err();
        received.ok()
    }
}

impl FusedIterator for Iter<'_> {}

impl<'p> IntoIterator for &'p MessagePort {
    type Item = MessageEvent<'p>;
    type IntoIter = Iter<'p>;

    fn into_iter(self) -> Iter<'p> {
        self.iter()
    }
}

impl<'p> IntoIterator for &'p Receiver {
    type Item = MessageEvent<'p>;
    type IntoIter = Iter<'p>;

    fn into_iter(self) -> Iter<'p> {
        self.iter()
    }
}

/// How long a receiver waits for the reaper before it checks again for a canceller.
const SLICE: Duration = Duration::from_millis(10);
