//! Polls: fast for a plain message that comes next, slow for everything else.
//!
//! On the fast path a message stays in registers: what goes through memory is stored by words and
//! loaded by pairs of them, which stalls. Each fast function does what the slow path would do in
//! the same state, and nothing else.

use super::chunks::Polled;
use super::{LOOKS_PER_CLOCK, Next, Receiving};
use crate::error::RecvError;
use crate::link::endpoint::Standing;
use crate::link::payload::Payload;
use crate::link::read_ahead::MOST_SHORT;
use crate::ring::consumer::Record;
use crate::wire::record::{Attached, HEADER_LEN};
use std::cell::Cell;
use std::hint;

impl Receiving {
    /// Fast path of a poll: takes the next message if it is plain. It is copied to the memory for
    /// those that are read ahead, of which `in_use` are in use and which has to be free, unless it
    /// is there already, or fits its header, or is long and the peer trusted. `None` says nothing
    /// more.
    #[inline(always)]
    pub(crate) fn poll_fast(&mut self, in_use: &Cell<u32>) -> Option<Payload> {
        let standing = self.end.standing();
        if standing.has_receiving_ended() {
            return None;
        }
        if self.consumer.has_known() {
            if let Some(payload) = self.ahead.take_copied(&mut self.consumer, in_use) {
                self.finish_fast(standing);
                return Some(payload);
            }
        } else {
            self.consumer.look_at_tail()?;
        }
        if let Some(words) = self.consumer.next_short() {
            self.consumer.take_plain(HEADER_LEN, words[0] as u32);
            self.finish_fast(standing);
            return Some(Payload::short(words));
        }
        let start = self.consumer.position();
        let message = self.consumer.next_plain()?;
        let (len, record) = (message.header() as u32, message.record());
        let is_free = in_use.get() == 0;
        if standing.is_trusted() && (len > MOST_SHORT || !is_free) {
            let payload = Payload::plain_in_ring(&message, self.lent.lend(start));
            self.consumer.take_plain(record, len);
            (self.empty_looks, self.pools_in_a_row) = (0, 0);
            return Some(payload);
        }
        if !is_free {
            return None;
        }
        let payload = self.ahead.copy(&message)?;
        in_use.set(1);
        self.consumer.take_plain(record, len);
        self.finish_fast(standing);
        Some(payload)
    }

    /// After a message that the fast path has copied.
    #[inline(always)]
    fn finish_fast(&mut self, standing: Standing) {
        (self.empty_looks, self.pools_in_a_row) = (0, 0);
        if !(standing.is_trusted() && self.has_lent()) {
            self.release_passed();
        }
    }

    /// Fast path of a poll in a batch: takes the next message if it is at `position`, and in the
    /// copy of those that come next. Returns also where the one after it is.
    #[inline(always)]
    pub(crate) fn poll_in_copy(
        &mut self,
        position: u64,
        in_use: &Cell<u32>,
    ) -> Option<(Payload, u64)> {
        // The other half may have found the peer corrupt: no message comes after that end.
        if self.end.standing().has_receiving_ended() {
            return None;
        }
        self.ahead.take_copied_at(&mut self.consumer, position, in_use)
    }

    /// The same, wherever the next message is.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn poll_next_in_copy(&mut self) -> Option<Payload> {
        self.poll_in_copy(self.position(), &Cell::new(0)).map(|(payload, _)| payload)
    }

    /// Whether a short message comes next.
    #[cfg(any(feature = "tokio", feature = "async-io"))]
    pub(crate) fn has_short(&mut self) -> bool {
        self.consumer.find_window();
        let is_there = self.consumer.has_known() || self.consumer.look_at_tail().is_some();
        is_there && self.consumer.next_short().is_some()
    }

    /// No message is taken from the copy of those that come next any more.
    pub(crate) fn end_copy(&mut self) {
        self.consumer.end_copy();
    }

    /// Where the next record is.
    pub(crate) fn position(&self) -> u64 {
        self.consumer.position()
    }

    /// Slow path of a poll in a batch, before one outside of it: releases what was taken, and
    /// copies the messages that come next at once, if they are short and the memory for that
    /// `is_free`.
    #[cold]
    pub(crate) fn read_ahead(&mut self, is_free: bool) {
        if self.consumer.has_unreleased() {
            self.release_taken();
        }
        if is_free && !self.end.standing().has_receiving_ended() {
            // The poll that takes the first of them starts the counts anew. Batches that find
            // nothing go on counting, as some empty looks ask the kernel about the peer.
            self.ahead.copy_run(&mut self.consumer);
        }
    }

    /// A poll that uses no memory for short messages, whose users a half would have to count.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn poll(&mut self) -> Result<Option<Payload>, Box<RecvError>> {
        match self.poll_fast(&Cell::new(1)) {
            Some(payload) => Ok(Some(payload)),
            None if self.is_still_empty() => Ok(None),
            None => self.poll_slow(),
        }
    }

    /// Takes the next message after `poll_fast` has taken none and `is_still_empty` has denied, if
    /// there is one. Makes no system call while messages come, except to wake a sender that waits
    /// for room.
    pub(crate) fn poll_slow(&mut self) -> Result<Option<Payload>, Box<RecvError>> {
        if let Some(payload) = self.poll_long() {
            return Ok(Some(payload));
        }
        match self.poll_settled(usize::MAX)? {
            Polled::Message(payload) => Ok(Some(payload)),
            Polled::Nothing | Polled::Unfinished => Ok(None),
        }
    }

    /// Whether the lane is as empty as at the last poll, and the slow path would find nothing to
    /// do: no record to release, no end to report, no ring to repeat. The first empty poll after a
    /// message takes the slow path, and so does each one that may ask the kernel about the peer.
    ///
    /// A receiver that spins comes here at each poll, and pauses once, as at the first one: polls
    /// that follow each other faster delay the sender, whose cache line of `tail` they take away.
    pub(crate) fn is_still_empty(&mut self) -> bool {
        let looks = self.empty_looks.wrapping_add(1);
        let is_still_empty = looks > 1
            && !looks.is_multiple_of(LOOKS_PER_CLOCK)
            && self.watched.is_none()
            && !self.waits_for_reaper
            && self.end.is_quiet()
            && !self.consumer.has_unreleased()
            && !self.has_news();
        if is_still_empty {
            self.empty_looks = looks;
            hint::spin_loop();
        }
        is_still_empty
    }

    /// Copies the next message if it is plain, and an entry of the slab has room for it.
    pub(super) fn poll_long(&mut self) -> Option<Payload> {
        let standing = self.end.standing();
        if standing.has_receiving_ended() || standing.is_trusted() {
            return None;
        }
        // The fast path has just looked.
        if self.consumer.unread() == 0 {
            return None;
        }
        let record = self.consumer.peek_fast()?;
        self.allocate_ahead(&record);
        let payload = self.take(&record)?;
        // A message that was taken otherwise leaves no copy of it behind.
        self.unfinished = None;
        Some(payload)
    }

    /// Takes the next message, whatever has to be done for that.
    pub(super) fn poll_settled(&mut self, chunk: usize) -> Result<Polled<Payload>, Box<RecvError>> {
        self.settle_and_take(chunk).map_err(|error| {
            if matches!(error, RecvError::Closed { .. }) {
                self.unfinished = None;
            }
            Box::new(error)
        })
    }

    fn settle_and_take(&mut self, chunk: usize) -> Result<Polled<Payload>, RecvError> {
        self.waits_for_reaper = false;
        self.is_in_turns = chunk < usize::MAX;
        match self.settle(chunk)? {
            Next::Message(record) => Ok(match self.take_settled(&record)? {
                Some(payload) => Polled::Message(payload),
                None => Polled::Nothing,
            }),
            Next::Nothing => Ok(Polled::Nothing),
            Next::Unfinished => Ok(Polled::Unfinished),
        }
    }

    pub(super) fn take_settled(&mut self, record: &Record) -> Result<Option<Payload>, RecvError> {
        match record.attached {
            Attached::Nothing => Ok(self.take_slow(record)),
            _ => self.take_attached(record),
        }
    }
}
