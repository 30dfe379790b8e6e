//! Calls that wait for room, of threads that share a sending half.

use crate::error::PostError;
use crate::link::endpoint::Endpoint;
use crate::link::payload::Post;
use crate::os::clock::Deadline;
use crate::port::requests::answers::Answers;
use crate::port::sender::Sender;
use crate::port::shared::{SharedSender, Turns};
use crate::port::transfer::{TransferError, TransferList};
use crate::ring::notifier::Wait;
use std::sync::PoisonError;
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

    pub(super) fn retry(
        &self,
        timeout: Duration,
        mut attempt: impl FnMut(&Sender) -> Result<(), PostError>,
    ) -> Result<(), PostError> {
        retry(self, timeout, || attempt(&*self.lock()?))
    }
}

/// A sending half that threads share, each for a moment.
pub(super) trait SharedHalf {
    fn with_sender<T>(&self, act: impl FnOnce(&Sender) -> T) -> Result<T, PostError>;
    fn endpoint(&self) -> &Endpoint;
    fn turns(&self) -> &Turns;

    /// The flag for room may have been taken from tasks that wait for it: they look again.
    fn tell_tasks(&self);
}

impl SharedHalf for SharedSender {
    fn with_sender<T>(&self, act: impl FnOnce(&Sender) -> T) -> Result<T, PostError> {
        Ok(act(&*self.lock()?))
    }

    fn endpoint(&self) -> &Endpoint {
        self.endpoint()
    }

    fn turns(&self) -> &Turns {
        self.turns()
    }

    fn tell_tasks(&self) {}
}

impl SharedHalf for Answers {
    fn with_sender<T>(&self, act: impl FnOnce(&Sender) -> T) -> Result<T, PostError> {
        self.with_sender(act)
    }

    fn endpoint(&self) -> &Endpoint {
        self.endpoint()
    }

    fn turns(&self) -> &Turns {
        self.turns()
    }

    fn tell_tasks(&self) {
        if let Some(room) = &self.room {
            room.wake();
        }
    }
}

/// Runs `attempt`, which uses the half for a moment, until its result is not `QueueFull`.
pub(super) fn retry(
    half: &impl SharedHalf,
    timeout: Duration,
    mut attempt: impl FnMut() -> Result<(), PostError>,
) -> Result<(), PostError> {
    match attempt() {
        Err(PostError::QueueFull { .. }) => {}
        answer => return answer,
    }
    let deadline = Deadline::after(timeout);
    let _turn = Turn::wait(half, deadline)?;
    loop {
        let (len, is_socket) = match attempt() {
            Err(PostError::QueueFull { len, is_socket, .. }) => (len, is_socket),
            answer => return answer,
        };
        if half.with_sender(Sender::take_cancel_request)? {
            return Err(PostError::Cancelled);
        }
        if deadline.is_over() {
            return Err(PostError::Timeout);
        }
        let sleeps = match is_socket {
            // Only an attempt shows room in the socket. It is made after the flag is armed: the
            // receiver makes that room first, and then releases and looks at the flag.
            true => {
                half.with_sender(Sender::arm_room_flag)?;
                match attempt() {
                    Err(PostError::QueueFull { .. }) => true,
                    answer => return answer,
                }
            }
            false => half.with_sender(|sender| sender.prepare_wait(len))?? == Wait::Sleep,
        };
        // A flag that another thread takes back meanwhile ends the sleep after 20 ms.
        if sleeps {
            half.endpoint().sleep_on_own_room(deadline);
        }
        half.tell_tasks();
    }
}

/// Of the threads that share a half, the one that waits for room.
struct Turn<'s, H: SharedHalf>(&'s H);

impl<'s, H: SharedHalf> Turn<'s, H> {
    /// Waits until no other thread waits for room.
    fn wait(half: &'s H, deadline: Deadline) -> Result<Turn<'s, H>, PostError> {
        let turns = half.turns();
        let mut taken = turns.is_taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken {
            if deadline.is_over() {
                return Err(PostError::Timeout);
            }
            let left = deadline.left_at_most(SLICE);
            taken = turns.free.wait_timeout(taken, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *taken = true;
        Ok(Turn(half))
    }
}

impl<H: SharedHalf> Drop for Turn<'_, H> {
    fn drop(&mut self) {
        let turns = self.0.turns();
        *turns.is_taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        turns.free.notify_one();
        self.0.tell_tasks();
    }
}

/// A wait on a condition variable needs some limit.
const SLICE: Duration = Duration::from_secs(3600);
