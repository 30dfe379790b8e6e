//! Where a producer's next record goes: decisions over private state, without memory or atomics.
//!
//! [`route`] decides; [`State`] is all that it depends on. `ring/producer.rs` loads `head`, keeps
//! the state, and writes the control records and headers that a decision leads to.

use crate::error::Corruption;
use crate::ring::cursor::{Cursor, distance, reached};
use crate::ring::segment::{Geometry, RESERVE, Span};
use crate::wire::layout::MAX_SEGMENTS;
use crate::wire::record::{HEADER_LEN, Header};

/// What a producer knows of its lane.
///
/// INVARIANT (reserve): bytes in use of the current segment plus `RESERVE` never exceed its
/// `usable_len`.
/// INVARIANT (free): segment `k` other than the current one is free when `head` has reached
/// `vacated_at[k]`, the position after the jump by which it was last vacated.
/// INVARIANT (capped): the current segment was entered when `head` stood at or after the jump by
/// which it was vacated before. Until `head` has passed that jump, the producer writes only in
/// front of it: from index 0 on, without padding.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) geometry: Geometry,
    pub(crate) cursor: Cursor,
    /// Of the segment that the cursor is in.
    pub(crate) span: Span,
    /// The consumer's `head` as it was last loaded and checked.
    pub(crate) head: u64,
    /// Of the current segment: when it was vacated before it was entered.
    pub(crate) vacated_at: [u64; MAX_SEGMENTS],
    /// Index of the jump by which each segment was last vacated; 0 if a former owner wrote it.
    jump_index: [u64; MAX_SEGMENTS],
    /// Records in a row that would have fitted a smaller segment than the current one, at any
    /// index.
    pub(crate) shrink_candidates: u32,
}

/// Where a record goes. Whether the lane shrinks first is asked before, by `State::smallest_fit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Route {
    /// At the cursor.
    Here,
    /// At the start of the current segment, after padding up to its end.
    Pad,
    /// At the start of this segment, after a jump.
    Jump(u32),
    /// Nowhere yet: only the current segment holds the record, and it must be left, through this
    /// free segment, to be entered at its start.
    Hop(u32),
    /// Nowhere until the consumer has released more.
    Full,
}

/// Where a record may be written: `room` bytes, header included, after an optional control record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(super) control: Option<Header>,
    pub(super) at: Cursor,
    /// Where that is in the area.
    pub(crate) offset: u64,
    pub(super) room: u64,
}

/// Decides where a record of `record` bytes, header included, goes.
///
/// In order: at the cursor; at the start of this segment; in the smallest free segment in which it
/// fits at every index, else in the smallest that holds it. The lane then stays there and fills it,
/// so that a burst takes few jumps. A segment is taken for free as well if only its jump is
/// unreleased and the record fits before that jump: the burst before this one has made its pages.
pub(crate) fn route(record: u64, state: &State) -> Route {
    if let Some(stay) = state.stay(record) {
        return stay;
    }
    let geometry = &state.geometry;
    let open = || {
        (0..geometry.segments()).filter(|&segment| {
            state.may_enter(segment) && record + RESERVE <= state.usable_len(segment)
        })
    };
    let larger =
        open().find(|&segment| geometry.goes_round(segment, record)).or_else(|| open().next());
    match (larger, state.hop_target(record)) {
        (Some(segment), _) => Route::Jump(segment),
        (None, Some(segment)) => Route::Hop(segment),
        (None, None) => Route::Full,
    }
}

impl State {
    /// The state of a producer that continues at `cursor`; `head` must lie within the limit before
    /// it, `vacated_at` may be anything: a mark that is not of the last `limit` bytes counts as
    /// left just now. A current segment that was entered before its last jump was released has no
    /// room until then, except for the control record that is kept free.
    pub(crate) fn resume(
        geometry: Geometry,
        cursor: Cursor,
        head: u64,
        vacated_at: [u64; MAX_SEGMENTS],
    ) -> Result<State, Corruption> {
        let (position, limit) = (cursor.position, geometry.limit());
        let behind = distance(position, head);
        if behind > limit || !behind.is_multiple_of(RESERVE) {
            let what = "distance of head behind tail";
            return Err(Corruption::step(what, behind, limit, RESERVE));
        }
        let is_recent = |mark| distance(position, mark) <= limit;
        let vacated_at = vacated_at.map(|mark| if is_recent(mark) { mark } else { position });
        let span = geometry.span(cursor.segment);
        let jump_index = [0; MAX_SEGMENTS];
        Ok(State { geometry, cursor, span, head, vacated_at, jump_index, shrink_candidates: 0 })
    }

    /// Takes over a newly loaded `head`, if a consumer of what was committed can have written it.
    pub(crate) fn release_to(&mut self, head: u64, committed: u64) -> Result<(), Corruption> {
        let outstanding = distance(committed, self.head);
        let released = distance(head, self.head);
        if released > outstanding || !released.is_multiple_of(RESERVE) {
            let what = "bytes newly released by the consumer";
            return Err(Corruption::step(what, released, outstanding, RESERVE));
        }
        self.head = head;
        Ok(())
    }

    /// `Here` or `Pad`, if the record fits the current segment now.
    pub(crate) fn stay(&self, record: u64) -> Option<Route> {
        let size = self.usable_len(self.cursor.segment);
        let padding = self.cursor.until_end_of(self.span);
        let used = self.used() + RESERVE;
        if record <= padding {
            return (used + record <= size).then_some(Route::Here);
        }
        (used + padding + record <= size).then_some(Route::Pad)
    }

    /// Whether a burst is over, as far as the records tell: the smaller segment to move to once the
    /// lane is empty, so that the next burst finds the pages of this one.
    pub(crate) fn smallest_fit(&self, record: u64) -> Option<u32> {
        if self.cursor.segment == 0 || !self.is_settled() {
            return None;
        }
        self.geometry.smallest_fit(record).filter(|&fit| fit < self.cursor.segment)
    }

    /// Whether enough records in a row would have fitted a smaller segment.
    #[inline]
    pub(crate) fn is_settled(&self) -> bool {
        self.shrink_candidates >= SHRINK_AFTER
    }

    /// Whether everything staged was released.
    pub(crate) fn is_drained(&self) -> bool {
        self.head == self.cursor.position
    }

    /// The free segment to hop through, if only the current one holds the record, but not at every
    /// index.
    pub(crate) fn hop_target(&self, record: u64) -> Option<u32> {
        let here = self.cursor.segment;
        let others = || (0..self.geometry.segments()).filter(move |&segment| segment != here);
        let only_here = !others().any(|segment| self.geometry.holds(segment, record));
        if !only_here || self.geometry.goes_round(here, record) {
            return None;
        }
        others().find(|&segment| self.is_free(segment))
    }

    /// Whether segment `k` holds nothing that the consumer may still read.
    pub(crate) fn is_free(&self, segment: u32) -> bool {
        segment != self.cursor.segment && reached(self.head, self.vacated_at[segment as usize])
    }

    /// Whether segment `k` is free, or holds only the jump by which it was vacated.
    fn may_enter(&self, segment: u32) -> bool {
        let after_jump = self.head.wrapping_add(HEADER_LEN);
        segment != self.cursor.segment && reached(after_jump, self.vacated_at[segment as usize])
    }

    /// Bytes from the start of segment `k` that its last jump leaves to the producer: all, once
    /// that jump is released.
    pub(crate) fn usable_len(&self, segment: u32) -> u64 {
        if reached(self.head, self.vacated_at[segment as usize]) {
            return self.geometry.segment_len(segment);
        }
        self.jump_index[segment as usize]
    }

    /// What follows a staged record that left the fast path: the segment to jump to at once.
    ///
    /// After a record that does not fit its segment at every index that is any free segment: the
    /// next such record may then enter this one as soon as the record is released.
    pub(crate) fn jump_after(&mut self, record: u64) -> Option<u32> {
        let here = self.cursor.segment;
        let fits = self.geometry.smallest_fit(record).is_some_and(|fit| fit < here);
        self.shrink_candidates = if fits { self.shrink_candidates.saturating_add(1) } else { 0 };
        if self.geometry.goes_round(here, record) {
            return None;
        }
        (0..self.geometry.segments()).find(|&segment| self.is_free(segment))
    }

    /// Moves over a jump at the cursor, into `segment`.
    pub(crate) fn jump_to(&mut self, segment: u32) {
        debug_assert!(self.may_enter(segment), "jump into a segment in use");
        self.jump_index[self.cursor.segment as usize] = self.cursor.index_in(self.span);
        let after = self.cursor.advanced(HEADER_LEN);
        self.vacated_at[self.cursor.segment as usize] = after.position;
        self.cursor = after.entering(segment);
        self.span = self.geometry.span(segment);
    }

    /// When each segment was left, for the next owner of this end. Segments that are free by now
    /// are marked as free, so that an old mark cannot look like none.
    pub(crate) fn vacated_at(&self) -> [u64; MAX_SEGMENTS] {
        self.vacated_at.map(|mark| if reached(self.head, mark) { self.head } else { mark })
    }

    /// Bytes of the current segment that the consumer has not released.
    #[inline(always)]
    pub(crate) fn used(&self) -> u64 {
        let unreleased = distance(self.cursor.position, self.head);
        let since_entry = distance(self.cursor.position, self.cursor.entered);
        unreleased.min(since_entry)
    }

    /// Room for one record from the cursor on, without padding or growth.
    #[inline]
    pub(crate) fn room_here(&self) -> u64 {
        let size = self.usable_len(self.cursor.segment);
        let unused = size.saturating_sub(self.used() + RESERVE);
        unused.min(self.cursor.until_end_of(self.span))
    }

    /// The place to which a route leads; none before a hop, and on a full lane.
    pub(crate) fn plan(&self, route: Route, record: u64) -> Option<Plan> {
        match route {
            Route::Here => Some(self.plan_at_cursor(record)),
            Route::Pad => Some(self.plan_padded(record)),
            Route::Jump(segment) => Some(self.plan_jump(segment, record)),
            Route::Hop(_) | Route::Full => None,
        }
    }

    #[inline(always)]
    pub(crate) fn plan_at_cursor(&self, room: u64) -> Plan {
        let offset = self.cursor.offset_in(self.span);
        Plan { control: None, at: self.cursor, offset, room }
    }

    fn plan_padded(&self, room: u64) -> Plan {
        let padding = self.cursor.until_end_of(self.span);
        let control = Some(Header::Padding { len: (padding - HEADER_LEN) as u32 });
        Plan { control, at: self.cursor.advanced(padding), offset: self.span.start, room }
    }

    pub(crate) fn plan_jump(&self, segment: u32, room: u64) -> Plan {
        let at = self.cursor.advanced(HEADER_LEN).entering(segment);
        let offset = self.geometry.segment_offset(segment);
        Plan { control: Some(Header::Jump { segment }), at, offset, room }
    }
}

impl Plan {
    /// Offset in the area of the payload's first byte.
    #[inline]
    pub(crate) fn payload_offset(&self) -> u64 {
        self.offset + HEADER_LEN
    }

    /// Payload bytes that fit.
    #[inline]
    pub(crate) fn payload_room(&self) -> u64 {
        self.room - HEADER_LEN
    }

    /// Whether the lane reaches a segment's end, or leaves it.
    #[inline]
    pub(crate) fn turns(&self) -> bool {
        self.control.is_some()
    }

    /// The segment to write in, and the index after the last byte that may be written there,
    /// including the control record after it.
    #[inline]
    pub(crate) fn extent(&self, geometry: &Geometry) -> (u32, u64) {
        let segment = self.at.segment;
        let end = self.offset - geometry.segment_offset(segment) + self.room + RESERVE;
        (segment, end.min(geometry.segment_len(segment)))
    }
}

/// Records in a row that must have fitted a smaller segment before an empty lane moves there: so a
/// stream that mixes large and small messages does not jump back and forth.
pub(crate) const SHRINK_AFTER: u32 = if cfg!(messageport_loom) { 2 } else { 64 };

#[cfg(all(test, not(messageport_loom)))]
mod tests;
