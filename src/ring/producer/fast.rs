//! The fast path of a post: a place in the window, which takes one comparison. Each function here
//! does what the slow path would do in the same state, and nothing else.

use super::Producer;
use crate::ring::memory::Grant;
use crate::ring::route::Plan;
use crate::ring::segment::RESERVE;
use crate::sync::Ordering;
use crate::wire::layout::RECORD_ALIGN;
use crate::wire::record::{Format, HEADER_LEN, Header, is_short_len, record_len};

impl Producer {
    /// Fast path: the place for a record of exactly `len` payload bytes, if it fits contiguously at
    /// the cursor on pages that exist. Otherwise `plan` finds one.
    ///
    /// Two compares. All of a post that finds such a place stays in registers; a result that goes
    /// through memory is stored by words and loaded by pairs of them, which stalls.
    #[inline(always)]
    pub(crate) fn grant(&self, len: u64) -> Option<Grant<'_>> {
        if len > self.state.geometry.largest_in_base() {
            return None;
        }
        if self.state.cursor.segment != 0 && self.may_shrink() {
            return None;
        }
        self.window.grant(record_len(len))
    }

    /// The plan for that place.
    #[inline(always)]
    pub(crate) fn plan_fast(&self, len: u64) -> Option<Plan> {
        let grant = self.grant(len)?;
        Some(self.state.plan_at_cursor(grant.len()))
    }

    /// The same place again: nothing was staged since `plan_fast` found it.
    #[inline(always)]
    pub(crate) fn plan_found_before(&self, len: u64) -> Plan {
        debug_assert!(record_len(len) <= self.window.left());
        self.state.plan_at_cursor(record_len(len))
    }

    /// Fast path for a record whose length is not known yet: a place with contiguous room for
    /// `wish` payload bytes or more.
    #[inline(always)]
    pub(crate) fn open_grant(&self, wish: u64) -> Option<Grant<'_>> {
        self.grant(wish)?;
        let most = record_len(self.state.geometry.largest_in_base());
        self.window.grant(self.window.left().min(most))
    }

    /// The plan for that place.
    pub(crate) fn plan_open_fast(&self, wish: u64) -> Option<Plan> {
        let grant = self.open_grant(wish)?;
        Some(self.state.plan_at_cursor(grant.len()))
    }

    /// Fast path of `stage_with`: stages the record that was written in a grant, as long as the
    /// grant, with `len` payload bytes.
    #[inline(always)]
    pub(crate) fn stage_fast(&mut self, record: u64, len: u32) {
        debug_assert!(record == record_len(u64::from(len)) || is_short_len(u64::from(len)));
        self.window.advance(record);
        self.state.cursor.position = self.state.cursor.position.wrapping_add(record);
        debug_assert!(self.state.stay(0).is_some(), "no room is left for a control record");
        debug_assert!(self.state.geometry.goes_round(0, record));
        self.counters.messages = self.counters.messages.wrapping_add(1);
        self.counters.bytes = self.counters.bytes.wrapping_add(u64::from(len));
        if self.state.cursor.segment != 0 {
            self.staged_slow(record);
        }
    }

    /// Fast path: stages a short message, whose payload is `word`, where `grant` would place it.
    /// Returns whether there is such a place.
    #[inline(always)]
    pub(crate) fn stage_short(&mut self, len: u32, format: Format, word: u64) -> bool {
        debug_assert!(is_short_len(u64::from(len)));
        // What has to be looked at outside of the base segment is for the slow path.
        if self.state.cursor.segment != 0 || !self.window.push([Header::short(len, format), word]) {
            return false;
        }
        self.state.cursor.position = self.state.cursor.position.wrapping_add(HEADER_LEN);
        self.counters.messages = self.counters.messages.wrapping_add(1);
        self.counters.bytes = self.counters.bytes.wrapping_add(u64::from(len));
        true
    }

    /// Whether contiguous room is left.
    #[inline(always)]
    pub(crate) fn has_contiguous(&self) -> bool {
        self.window.left() != 0
    }

    /// Computes the contiguous room, with `made` bytes of the current segment known to have pages.
    pub(crate) fn renew_contiguous(&mut self, made: u64) {
        let size = self.state.geometry.segment_len(self.state.cursor.segment);
        let pages = if made == size { size } else { made.saturating_sub(RESERVE) };
        let index = self.state.cursor.index_in(self.state.span);
        let room = pages.saturating_sub(index).min(self.state.room_here());
        self.window.open(self.state.cursor.offset_in(self.state.span), room & !(RECORD_ALIGN - 1));
    }

    /// Whether it may be time to shrink: the lane seems to be empty.
    #[inline]
    fn may_shrink(&self) -> bool {
        // Relaxed: `plan_shrink` loads it again, and orders.
        let head = || self.memory().lane().consumer.head.load(Ordering::Relaxed);
        self.state.is_settled() && head() == self.state.cursor.position
    }

    /// Makes a recheck due after this many more messages.
    pub(crate) fn recheck_after(&mut self, messages: u32) {
        self.recheck_at = self.counters.messages.wrapping_add(u64::from(messages)).wrapping_sub(1);
    }

    /// Whether the link has to check its peer before the next message.
    #[inline(always)]
    pub(crate) fn is_recheck_due(&self) -> bool {
        // By the distance, as the count starts with what a former owner has left.
        (self.recheck_at.wrapping_sub(self.counters.messages) as i64) < 0
    }
}
