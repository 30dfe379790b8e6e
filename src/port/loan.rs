//! The bytes of a future message, reserved to be filled.

use crate::error::PostError;
use crate::link::payload::Room;
use crate::port::sender::Sender;
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};

/// Reserved bytes of a message: fill them, then [`post`](Loan::post).
///
/// Room for the message is reserved, so posting cannot fail for lack of room. On a trusted port the
/// bytes are those of the ring, and nothing is copied; otherwise they are private and are copied by
/// `post`.
///
/// Until they are written, the bytes hold leftovers of what this end wrote before, posted or not.
/// If the peer must not see those, write all of the message, or [`truncate`](Loan::truncate) it to
/// what was written.
///
/// While a loan is open, every other post of the port returns [`PostError::Busy`]. Dropping the
/// loan posts nothing. Leaking it with `mem::forget` leaves the port busy; the peer still learns
/// when the port is dropped.
///
/// ```
/// use std::io::Write;
///
/// let channel = messageport::MessageChannel::new()?;
/// let mut loan = channel.port1.loan(64)?;
/// write!(loan, "{} lamps", 3)?;
/// let written = loan.written();
/// loan.truncate(written);
/// loan.post()?;
/// assert_eq!(channel.port2.recv()?.bytes(), b"3 lamps");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a loan that is dropped posts nothing"]
pub struct Loan<'p> {
    /// Cannot post anything else while the loan lives.
    sender: &'p Sender,
    room: Room,
    written: usize,
}

impl<'p> Loan<'p> {
    #[inline(always)]
    pub(crate) fn new(sender: &'p Sender, room: Room) -> Loan<'p> {
        Loan { sender, room, written: 0 }
    }

    /// Posts the bytes as one message.
    ///
    /// # Errors
    /// [`PostError::Closed`] if the port was closed while the loan was open.
    #[inline(always)]
    pub fn post(self) -> Result<(), PostError> {
        if self.sender.is_closing() {
            return Err(PostError::Closed { reason: self.sender.close_reason() });
        }
        self.sender.post_loaned(self.room.len());
        Ok(())
    }

    /// Shortens the message to its first `len` bytes; does nothing if it is not longer.
    pub fn truncate(&mut self, len: usize) {
        self.room.truncate(len);
        self.written = self.written.min(len);
    }

    /// The number of bytes written so far through [`io::Write`], which starts at the front.
    pub fn written(&self) -> usize {
        self.written
    }
}

impl Drop for Loan<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.sender.end_loan();
    }
}

impl Deref for Loan<'_> {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        self.room.bytes()
    }
}

impl DerefMut for Loan<'_> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.room.bytes_mut()
    }
}

/// Writes from the front. Bytes that exceed the loan are not taken: writing to a full loan returns
/// 0.
impl io::Write for Loan<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let at = self.written;
        let count = bytes.len().min(self.len() - at);
        self[at..at + count].copy_from_slice(&bytes[..count]);
        self.written += count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Loan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loan")
            .field("len", &self.len())
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}
