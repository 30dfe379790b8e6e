//! Calls of a shared sender that wait for room.

use crate::error::PostError;
use crate::link::payload::Post;
use crate::os::clock::Deadline;
use crate::port::sender::Sender;
use crate::port::shared::SharedSender;
use crate::port::transfer::{TransferError, TransferList};
use crate::ring::notifier::Wait;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

impl SharedSender {
    /// Posts a value, waiting for room. See
    /// [`MessagePort::post_message_timeout`](crate::MessagePort::post_message_timeout).
    ///
    /// It holds no lock while it waits. Of several threads that wait, one at a time looks for room,
    /// in no particular order. The time in which other threads post is not counted.
    ///
    /// # Errors
    /// Any [`PostError`] except `QueueFull`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let channel = messageport::MessageChannel::new()?;
    /// let sender = channel.port1.split().0.into_shared();
    /// sender.post_message_timeout(&1u8, Duration::from_secs(1))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn post_message_timeout<T: Post>(
        &self,
        value: &T,
        timeout: Duration,
    ) -> Result<(), PostError> {
        self.retry(timeout, |sender| sender.post_message(value))
    }

    /// Posts bytes, waiting for room like [`post_message_timeout`](Self::post_message_timeout).
    ///
    /// # Errors
    /// As [`post_message_timeout`](Self::post_message_timeout), except `Serialize`.
    pub fn post_bytes_timeout(&self, bytes: &[u8], timeout: Duration) -> Result<(), PostError> {
        self.retry(timeout, |sender| sender.post_bytes(bytes))
    }

    /// Posts text, waiting for room like [`post_message_timeout`](Self::post_message_timeout).
    ///
    /// # Errors
    /// As [`post_message_timeout`](Self::post_message_timeout), except `Serialize`.
    pub fn post_text_timeout(&self, text: &str, timeout: Duration) -> Result<(), PostError> {
        self.retry(timeout, |sender| sender.post_text(text))
    }

    /// Posts a value and moves what is in the list, waiting for room like
    /// [`post_message_timeout`](Self::post_message_timeout).
    ///
    /// # Errors
    /// [`TransferError`] with the reason and the list.
    pub fn post_message_with_timeout<T: Post>(
        &self,
        value: &T,
        transfer: impl TransferList,
        timeout: Duration,
    ) -> Result<(), TransferError> {
        let mut list = transfer.into_list();
        let posted = self.retry(timeout, |sender| {
            sender.post_message_with(value, std::mem::take(&mut list)).map_err(|error| {
                let (reason, back) = error.into_parts();
                list = back;
                reason
            })
        });
        posted.map_err(|reason| TransferError::new(reason, list))
    }

    /// Runs `attempt` until its result is not `QueueFull`.
    fn retry(
        &self,
        timeout: Duration,
        mut attempt: impl FnMut(&Sender) -> Result<(), PostError>,
    ) -> Result<(), PostError> {
        match attempt(&*self.lock()?) {
            Err(PostError::QueueFull { .. }) => {}
            answer => return answer,
        }
        let deadline = Deadline::after(timeout);
        let _turn = Turn::wait(self.waiting(), deadline)?;
        loop {
            let sender = self.lock()?;
            let (len, is_socket) = match attempt(&sender) {
                Err(PostError::QueueFull { len, is_socket, .. }) => (len, is_socket),
                answer => return answer,
            };
            if sender.take_cancel_request() {
                return Err(PostError::Cancelled);
            }
            if deadline.is_over() {
                return Err(PostError::Timeout);
            }
            let sleeps = match is_socket {
                // Only an attempt shows room in the socket. It is made after the flag is armed: the
                // receiver makes that room first, and then releases and looks at the flag.
                true => {
                    sender.arm_room_flag();
                    match attempt(&sender) {
                        Err(PostError::QueueFull { .. }) => true,
                        answer => return answer,
                    }
                }
                false => sender.prepare_wait(len)? == Wait::Sleep,
            };
            drop(sender);
            // A flag that another thread takes back meanwhile ends the sleep after 20 ms.
            if sleeps {
                self.endpoint().sleep_on_own_room(deadline);
            }
        }
    }
}

/// The one thread of a sender that waits for room.
struct Turn<'s> {
    is_waited_for: &'s Mutex<bool>,
    turn: &'s Condvar,
}

impl<'s> Turn<'s> {
    /// Waits until no other thread waits for room.
    fn wait(
        (is_waited_for, turn): (&'s Mutex<bool>, &'s Condvar),
        deadline: Deadline,
    ) -> Result<Turn<'s>, PostError> {
        let mut taken = is_waited_for.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken {
            if deadline.is_over() {
                return Err(PostError::Timeout);
            }
            let left = deadline.left_at_most(SLICE);
            taken = turn.wait_timeout(taken, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *taken = true;
        Ok(Turn { is_waited_for, turn })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.is_waited_for.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.turn.notify_one();
    }
}

/// A wait on a condition variable needs some limit.
const SLICE: Duration = Duration::from_secs(3600);
