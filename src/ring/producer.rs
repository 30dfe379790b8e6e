//! The writing end of a lane: plan → write → stage → commit.
//!
//! A *plan* says where the next record would go, and changes nothing: a post that fails half-way
//! has nothing to undo. *Staging* writes the control record that leads there and the record's
//! header, and moves the private cursor. *Committing* publishes everything staged by one store.
//!
//! The producer's own cursor is private and never read back from shared memory; the consumer's
//! `head` is input: loaded once, checked, cached.

use crate::error::Corruption;
use crate::ring::cursor::{Cursor, distance, reached};
use crate::ring::memory::Memory;
use crate::ring::notifier::{self, Sleep, Wait, Wake};
use crate::ring::segment::{Geometry, RESERVE, Span};
use crate::sync::{Ordering, Site, ordering, step};
use crate::wire::layout::{MAX_SEGMENTS, ProducedLine, RECORD_ALIGN};
use crate::wire::record::{Beside, Farewell, Format, HEADER_LEN, Header, record_len};

/// INVARIANT (reserve): bytes in use of the current segment plus `RESERVE` never exceed its length.
/// INVARIANT (owner): the bytes from `cursor` on, up to what `head` has released, are this end's.
/// INVARIANT (free): segment `k` other than the current one is free when `head` has reached
/// `left[k]`, the position after the jump by which it was last left.
/// INVARIANT (run): `run` bytes from `cursor` on, and `RESERVE` after them, are contiguous and keep
/// (reserve), and the caller of `renew_run` guarantees that they have pages.
#[derive(Debug)]
pub(crate) struct Producer {
    memory: Memory,
    geometry: Geometry,
    cursor: Cursor,
    /// Of the segment that the cursor is in.
    span: Span,
    committed: u64,
    head: u64,
    /// Fast path: bytes that may be written at the cursor without a further check.
    run: u64,
    left: [u64; MAX_SEGMENTS],
    /// The count of messages at which the link rechecks what the ring does not know.
    recheck_at: u64,
    /// Records in a row that would have fitted a smaller segment than the current one, at any
    /// index.
    roomy_records: u32,
    counters: Counters,
    committed_messages: u64,
}

/// Where a record may be written: `room` bytes, header included, after an optional control record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    control: Option<Header>,
    at: Cursor,
    /// Where that is in the area.
    offset: u64,
    room: u64,
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not before the consumer has released more.
    Full,
    /// Never, even if the lane is empty.
    TooLarge,
    /// The peer's `head` is impossible.
    Corrupt(Corruption),
}

/// The producer's own counts, published beside each commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub messages: u64,
    pub bytes: u64,
    pub full: u64,
    pub growth: u64,
    pub wakes: u64,
}

impl Producer {
    /// A producer that continues at `cursor`, on a lane whose head must lie within the limit before
    /// it.
    ///
    /// `left` is what `left()` returned before the move. It may be anything: a mark that is not of
    /// the last `limit` bytes counts as left just now, and a wrong one harms only what this end has
    /// posted, which the sender of the mark could have done as well.
    pub(crate) fn resume(
        memory: Memory,
        geometry: Geometry,
        cursor: Cursor,
        left: [u64; MAX_SEGMENTS],
    ) -> Result<Producer, Corruption> {
        // Acquire: pairs with the Release in `Consumer::release`.
        let head = memory.lane().consumer.head.load(ordering(Site::ResumeHead, Ordering::Acquire));
        let behind = distance(cursor.position, head);
        if behind > geometry.limit() || !behind.is_multiple_of(RESERVE) {
            return Err(Corruption::step(
                "distance of head behind tail",
                behind,
                geometry.limit(),
                RESERVE,
            ));
        }
        let counters = Counters::read(&memory.lane().produced);
        Ok(Producer {
            memory,
            geometry,
            cursor,
            span: geometry.span(cursor.segment),
            committed: cursor.position,
            head,
            run: 0,
            left: left.map(|mark| match distance(cursor.position, mark) {
                behind if behind <= geometry.limit() => mark,
                _ => cursor.position,
            }),
            roomy_records: 0,
            recheck_at: counters.messages.wrapping_add(NEVER),
            committed_messages: counters.messages,
            counters,
        })
    }

    /// Fast path: the place for a record of exactly `len` payload bytes, if it fits contiguously at
    /// the cursor on pages that exist. Otherwise `plan` finds one.
    ///
    /// Two compares. All of a post that finds such a place stays in registers; a result that goes
    /// through memory is stored by words and loaded by pairs of them, which stalls.
    #[inline(always)]
    pub(crate) fn plan_in_run(&self, len: u64) -> Option<Plan> {
        if len > self.geometry.largest_at_home() || record_len(len) > self.run {
            return None;
        }
        if self.cursor.segment != 0 && self.may_go_home() {
            return None;
        }
        Some(self.plan_at_cursor(record_len(len)))
    }

    /// Makes a recheck due after this many more messages.
    pub(crate) fn recheck_after(&mut self, messages: u32) {
        self.recheck_at = self.counters.messages.wrapping_add(u64::from(messages));
    }

    /// Whether the link has to check its peer before the next message.
    #[inline(always)]
    pub(crate) fn is_recheck_due(&self) -> bool {
        // By the distance, as the count starts with what a former owner has left.
        self.recheck_at.wrapping_sub(self.counters.messages) as i64 <= 0
    }

    /// The same place again: nothing was staged since `plan_in_run` found it.
    #[inline(always)]
    pub(crate) fn plan_found_before(&self, len: u64) -> Plan {
        debug_assert!(record_len(len) <= self.run);
        self.plan_at_cursor(record_len(len))
    }

    /// Fast path for a record whose length is not known yet: a place with contiguous room for
    /// `wish` payload bytes or more.
    #[inline(always)]
    pub(crate) fn plan_open_in_run(&self, wish: u64) -> Option<Plan> {
        self.plan_in_run(wish)?;
        let most = record_len(self.geometry.largest_at_home());
        Some(self.plan_at_cursor(self.run.min(most)))
    }

    /// Computes the contiguous room, with `made` bytes of the current segment known to have pages.
    pub(crate) fn renew_run(&mut self, made: u64) {
        let size = self.geometry.segment_len(self.cursor.segment);
        let pages = if made == size { size } else { made.saturating_sub(RESERVE) };
        let index = self.cursor.index_in(self.span);
        self.run = pages.saturating_sub(index).min(self.room_here()) & !(RECORD_ALIGN - 1);
    }

    /// Whether it may be time to go home: the lane seems to be empty.
    #[inline]
    fn may_go_home(&self) -> bool {
        // Relaxed: `way_home` loads it again, and orders.
        let head = || self.memory.lane().consumer.head.load(Ordering::Relaxed);
        self.roomy_records >= ROOMY_RECORDS_BEFORE_HOME && head() == self.cursor.position
    }

    /// Whether contiguous room is left.
    #[inline(always)]
    pub(crate) fn has_run(&self) -> bool {
        self.run != 0
    }

    #[inline(always)]
    fn plan_at_cursor(&self, room: u64) -> Plan {
        let offset = self.cursor.offset_in(self.span);
        Plan { control: None, at: self.cursor, offset, room }
    }

    /// Finds a place for a record of exactly `len` payload bytes.
    ///
    /// In order: home, if a burst is over; here; after growth. The peer's `head` is loaded only
    /// when the cached one says that there is no room, and while away from home.
    pub(crate) fn plan(&mut self, len: u64) -> Result<Plan, Refusal> {
        // Compared before anything is added to it: the caller's length may be any.
        if len > self.geometry.largest_message() {
            return Err(Refusal::TooLarge);
        }
        let record = record_len(len);
        if self.cursor.segment == 0
            && let Some(plan) = self.plan_here(record)
        {
            return Ok(plan);
        }
        self.plan_elsewhere(record)
    }

    fn plan_elsewhere(&mut self, record: u64) -> Result<Plan, Refusal> {
        if let Some(plan) = self.way_home(record)? {
            return Ok(plan);
        }
        if let Some(plan) = self.plan_here(record) {
            return Ok(plan);
        }
        self.refresh_head()?;
        self.plan_here(record).or_else(|| self.plan_growth(record)).ok_or(Refusal::Full)
    }

    /// Finds a place for a record whose length is not known yet: as much room as there is without
    /// growing, for at most `wish` payload bytes. `None` if that is next to nothing.
    pub(crate) fn plan_open(&mut self, wish: u64) -> Result<Option<Plan>, Refusal> {
        let wish = record_len(wish).min(self.geometry.largest_record());
        if self.cursor.segment != 0
            && let Some(plan) = self.way_home(wish)?
        {
            return Ok(Some(plan));
        }
        if self.room_here() < wish {
            self.refresh_head()?;
        }
        let room = self.room_here().min(wish);
        Ok((room >= LEAST_OPEN_ROOM).then(|| self.plan_at_cursor(room)))
    }

    /// Stages the record that was written where `plan` says, with `len` payload bytes.
    #[inline(always)]
    pub(crate) fn stage(&mut self, plan: Plan, len: u32, format: Format) {
        self.stage_beside(plan, len, format, Beside::Nothing);
    }

    /// The same, of a record with a packet beside it.
    #[inline(always)]
    pub(crate) fn stage_beside(&mut self, plan: Plan, len: u32, format: Format, beside: Beside) {
        let record = record_len(u64::from(len));
        assert!(record <= plan.room, "a record outgrew its plan");
        if let Some(control) = plan.control {
            self.write_control(control);
        }
        // The control record led here, and a plan without one begins here. Moved by one word: a
        // cursor that is copied as a whole is stored by words and loaded by pairs, which stalls.
        debug_assert_eq!(self.cursor, plan.at);
        self.cursor.position = self.cursor.position.wrapping_add(record);
        self.run = self.run.saturating_sub(record);
        let header = Header::Message { len, format, beside };
        self.memory.write_header(plan.offset, header.encode());
        debug_assert!(self.used() + RESERVE <= self.geometry.segment_len(self.cursor.segment));
        if !matches!(beside, Beside::Pool { .. }) {
            self.counters.messages = self.counters.messages.wrapping_add(1);
            self.counters.bytes = self.counters.bytes.wrapping_add(u64::from(len));
        }
        if self.cursor.segment != 0 || !self.geometry.goes_round(0, record) {
            self.staged_away_from_home(record);
        }
    }

    /// Publishes everything staged by one store, and returns which sleeper to wake.
    #[inline(always)]
    pub(crate) fn commit(&mut self) -> Wake {
        if !self.has_staged() {
            return Wake::Nobody;
        }
        self.committed = self.cursor.position;
        self.committed_messages = self.counters.messages;
        self.publish_counters();
        let lane = self.memory.lane();
        // Release: pairs with the Acquire in `Consumer::refresh_tail`; publishes the records.
        lane.producer.tail.store(self.committed, ordering(Site::PublishTail, Ordering::Release));
        let wake = notifier::look(&lane.sleepers.message_sleeper, Site::FenceBeforeLook);
        if wake != Wake::Nobody {
            self.counters.wakes = self.counters.wakes.wrapping_add(1);
            // Relaxed: a number for people, as in `count_full` and `write_control`.
            lane.produced.wakes.store(self.counters.wakes, Ordering::Relaxed);
        }
        wake
    }

    /// Decides what follows the staging of a record of `record` bytes.
    ///
    /// After a record that does not fit its segment at every index a jump is staged, if another
    /// segment is free: the next such record may then enter that segment as soon as this one is
    /// released.
    fn staged_away_from_home(&mut self, record: u64) {
        let roomy = self.geometry.home_of(record).is_some_and(|home| home < self.cursor.segment);
        self.roomy_records = if roomy { self.roomy_records.saturating_add(1) } else { 0 };
        if self.geometry.goes_round(self.cursor.segment, record) {
            return;
        }
        let next = (0..self.geometry.segments()).find(|&segment| self.is_free(segment));
        if let Some(segment) = next {
            self.write_control(Header::Jump { segment });
        }
    }

    /// Leaves the current segment although the record fits no other one, so that it can be entered
    /// at its start. Needed if only this segment holds a record of `len` payload bytes, but not at
    /// every index. The jump is committed; returns whether there was one.
    pub(crate) fn hop(&mut self, len: u64) -> Option<Wake> {
        let segment = self.hop_target(record_len(len))?;
        self.write_control(Header::Jump { segment });
        Some(self.commit())
    }

    /// Whether a record of `len` payload bytes waits for a hop.
    pub(crate) fn can_hop(&self, len: u64) -> bool {
        self.hop_target(record_len(len)).is_some()
    }

    /// Jumps home now, if the lane is empty after a burst. Commits. Returns whether it jumped.
    pub(crate) fn go_home(&mut self) -> Result<Option<Wake>, Refusal> {
        self.refresh_head_at(Site::HeadOnWayHome)?;
        if self.cursor.segment == 0 || self.head != self.cursor.position {
            return Ok(None);
        }
        self.write_control(Header::Jump { segment: 0 });
        Ok(Some(self.commit()))
    }

    /// Commits what is staged, and the lane's last record. Never waits: room for it is kept.
    pub(crate) fn close(&mut self, farewell: Farewell) -> Wake {
        self.write_control(Header::Close { farewell });
        self.commit()
    }

    /// Second look of a producer that waits for room for `len` payload bytes.
    pub(crate) fn prepare_wait(&mut self, len: u64, sleep: Sleep) -> Wait {
        let flag = &self.memory.lane().sleepers.room_sleeper;
        notifier::arm(flag, sleep);
        let full = matches!(self.plan(len), Err(Refusal::Full));
        let could_hop = || step(Site::LookForHop) && self.hop_target(record_len(len)).is_some();
        if full && !could_hop() && self.reader_gone() == 0 {
            return Wait::Sleep;
        }
        self.cancel_wait();
        Wait::Ready
    }

    /// Only arms the flag: the caller knows what else to look at.
    pub(crate) fn raise_room_flag(&self, sleep: Sleep) {
        notifier::arm(&self.memory.lane().sleepers.room_sleeper, sleep);
    }

    /// Takes the flag back after a sleep that did not end by a wake.
    pub(crate) fn cancel_wait(&self) {
        notifier::disarm(&self.memory.lane().sleepers.room_sleeper);
    }

    /// What the consumer's side wrote when it left: 0 while it is there.
    #[inline]
    pub(crate) fn reader_gone(&self) -> u32 {
        // Relaxed: it publishes nothing; a sleeper's look at it is ordered by the fences.
        self.memory.lane().sleepers.reader_gone.load(Ordering::Relaxed)
    }

    /// Counts one post that found the lane full.
    pub(crate) fn count_full(&mut self) {
        self.counters.full = self.counters.full.wrapping_add(1);
        self.memory.lane().produced.full.store(self.counters.full, Ordering::Relaxed);
    }

    /// Whether anything waits for a commit.
    #[inline]
    pub(crate) fn has_staged(&self) -> bool {
        self.cursor.position != self.committed
    }

    /// Bytes that are committed and not released yet.
    pub(crate) fn unreleased(&mut self) -> Result<u64, Refusal> {
        self.refresh_head()?;
        Ok(distance(self.committed, self.head))
    }

    /// Messages that are committed and that the consumer has not taken, by its own count. That
    /// count is input, and may be anything; it is bounded by what was committed.
    pub(crate) fn undelivered_messages(&self) -> u64 {
        // Relaxed: a number for people.
        let taken = self.memory.lane().consumed.messages.load(Ordering::Relaxed);
        self.committed_messages.saturating_sub(taken)
    }

    #[inline]
    pub(crate) fn cursor(&self) -> Cursor {
        self.cursor
    }

    #[inline]
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    #[inline]
    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// When each segment was left, for the next owner of this end. Segments that are free by now
    /// are marked as free, so that an old mark cannot look like none.
    pub(crate) fn left(&self) -> [u64; MAX_SEGMENTS] {
        self.left.map(|mark| if reached(self.head, mark) { self.head } else { mark })
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether segment `k` holds nothing that the consumer may still read.
    pub(crate) fn is_free(&self, segment: u32) -> bool {
        segment != self.cursor.segment && reached(self.head, self.left[segment as usize])
    }

    /// The jump to the smallest segment that suffices, once the lane is empty after a burst: so the
    /// next burst finds the pages of this one.
    fn way_home(&mut self, record: u64) -> Result<Option<Plan>, Refusal> {
        if self.cursor.segment == 0 || self.roomy_records < ROOMY_RECORDS_BEFORE_HOME {
            return Ok(None);
        }
        let Some(home) = self.geometry.home_of(record).filter(|&home| home < self.cursor.segment)
        else {
            return Ok(None);
        };
        self.refresh_head_at(Site::HeadOnWayHome)?;
        let drained = self.head == self.cursor.position;
        Ok(drained.then(|| self.jumping_to(home, record)))
    }

    fn plan_here(&self, record: u64) -> Option<Plan> {
        let (size, start) = (self.span.mask + 1, self.span.start);
        let index = self.cursor.index_in(self.span);
        let used = self.used() + RESERVE;
        if record <= size - index {
            return (used + record <= size).then(|| self.plan_at_cursor(record));
        }
        let padding = size - index;
        let control = Header::Padding { len: (padding - HEADER_LEN) as u32 };
        let at = self.cursor.advanced(padding);
        let plan = Plan { control: Some(control), at, offset: start, room: record };
        (used + padding + record <= size).then_some(plan)
    }

    /// The smallest free segment in which the record fits at every index, else the smallest that
    /// holds it. The lane then stays there and fills it, so that a burst takes few jumps.
    fn plan_growth(&self, record: u64) -> Option<Plan> {
        let free = || (0..self.geometry.segments()).filter(|&segment| self.is_free(segment));
        let segment = free()
            .find(|&segment| self.geometry.goes_round(segment, record))
            .or_else(|| free().find(|&segment| self.geometry.holds(segment, record)))?;
        Some(self.jumping_to(segment, record))
    }

    fn jumping_to(&self, segment: u32, room: u64) -> Plan {
        let at = self.cursor.advanced(HEADER_LEN).entering(segment);
        let offset = self.geometry.segment_offset(segment);
        Plan { control: Some(Header::Jump { segment }), at, offset, room }
    }

    /// The free segment to hop through, if only the current one holds the record, but not at every
    /// index.
    fn hop_target(&self, record: u64) -> Option<u32> {
        let here = self.cursor.segment;
        let others = || (0..self.geometry.segments()).filter(move |&segment| segment != here);
        let only_here = !others().any(|segment| self.geometry.holds(segment, record));
        if !only_here || self.geometry.goes_round(here, record) {
            return None;
        }
        others().find(|&segment| self.is_free(segment))
    }

    /// Writes a control record at the cursor, and moves to where it leads.
    fn write_control(&mut self, control: Header) {
        self.memory.write_header(self.cursor.offset_in(self.span), control.encode());
        self.run = 0;
        match control {
            Header::Padding { len } => {
                self.cursor = self.cursor.advanced(HEADER_LEN + u64::from(len));
            }
            Header::Jump { segment } => {
                debug_assert!(self.is_free(segment), "jump into a segment in use");
                let grew = u64::from(segment > self.cursor.segment);
                self.counters.growth = self.counters.growth.wrapping_add(grew);
                let line = &self.memory.lane().produced;
                line.growth.store(self.counters.growth, Ordering::Relaxed);
                let after = self.cursor.advanced(HEADER_LEN);
                self.left[self.cursor.segment as usize] = after.position;
                self.cursor = after.entering(segment);
                self.span = self.geometry.span(segment);
            }
            Header::Close { .. } => self.cursor = self.cursor.advanced(HEADER_LEN),
            Header::Message { .. } => unreachable!("a message is no control record"),
        }
    }

    /// Bytes of the current segment that the consumer has not released.
    #[inline(always)]
    fn used(&self) -> u64 {
        let unreleased = distance(self.cursor.position, self.head);
        let since_entry = distance(self.cursor.position, self.cursor.entered);
        unreleased.min(since_entry)
    }

    /// Room for one record from the cursor on, without padding or growth.
    #[inline]
    fn room_here(&self) -> u64 {
        let size = self.geometry.segment_len(self.cursor.segment);
        let unused = size.saturating_sub(self.used() + RESERVE);
        unused.min(self.cursor.until_end_of(self.span))
    }

    fn refresh_head(&mut self) -> Result<(), Refusal> {
        self.refresh_head_at(Site::ReadHead)
    }

    fn refresh_head_at(&mut self, site: Site) -> Result<(), Refusal> {
        let lane = self.memory.lane();
        // Acquire: pairs with the Release in `Consumer::release`; the bytes before it were read.
        let head = lane.consumer.head.load(ordering(site, Ordering::Acquire));
        let outstanding = distance(self.committed, self.head);
        let released = distance(head, self.head);
        if released > outstanding || !released.is_multiple_of(RESERVE) {
            let what = "bytes newly released by the consumer";
            return Err(Refusal::Corrupt(Corruption::step(what, released, outstanding, RESERVE)));
        }
        self.head = head;
        Ok(())
    }

    #[inline(always)]
    fn publish_counters(&self) {
        let line = &self.memory.lane().produced;
        // Relaxed, both: numbers for people; nothing is decided by them.
        line.messages.store(self.counters.messages, Ordering::Relaxed);
        line.bytes.store(self.counters.bytes, Ordering::Relaxed);
    }
}

impl Counters {
    /// Reads counters that a former owner of this end, or the peer, has left.
    ///
    /// Relaxed, all: numbers for people; nothing is decided by them.
    pub(crate) fn read(line: &ProducedLine) -> Counters {
        Counters {
            messages: line.messages.load(Ordering::Relaxed),
            bytes: line.bytes.load(Ordering::Relaxed),
            full: line.full.load(Ordering::Relaxed),
            growth: line.growth.load(Ordering::Relaxed),
            wakes: line.wakes.load(Ordering::Relaxed),
        }
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

/// Messages until a recheck that is not wanted.
const NEVER: u64 = i64::MAX as u64;
/// Records in a row that must have fitted a smaller segment before an empty lane moves there: so a
/// stream that mixes large and small messages does not jump back and forth.
const ROOMY_RECORDS_BEFORE_HOME: u32 = if cfg!(messageport_loom) { 2 } else { 64 };
/// Room below which serialising in place is not tried.
const LEAST_OPEN_ROOM: u64 = 64;
