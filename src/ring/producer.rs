//! The writing end of a lane: plan → write → stage → commit.
//!
//! A *plan* says where the next record would go, and changes nothing: a post that fails half-way
//! has nothing to undo. *Staging* writes the control record that leads there and the record's
//! header, and moves the private cursor. *Committing* publishes everything staged by one store.
//!
//! The producer's own cursor is private and never read back from shared memory; the consumer's
//! `head` is input: loaded once, checked, cached.

use crate::error::Corruption;
use crate::ring::awake::Awake;
use crate::ring::counters::Counters;
use crate::ring::cursor::Cursor;
use crate::ring::memory::{Memory, Window};
use crate::ring::notifier::{self, Fences, Wake};
use crate::ring::route::{Plan, State, route};
use crate::ring::segment::Geometry;
use crate::sync::{Ordering, Site, ordering};
use crate::wire::layout::MAX_SEGMENTS;
use crate::wire::record::{Attached, CloseKind, Format, HEADER_LEN, Header, record_len};

mod fast;
mod room;

/// INVARIANT (owner): the bytes from the cursor on, up to what `head` has released, are this end's.
/// INVARIANT (contiguous): the window begins at the cursor, unless it is closed. Its bytes, and
/// `RESERVE` after them, are contiguous and keep (reserve), and the caller of `renew_contiguous`
/// guarantees that they have pages.
#[derive(Debug)]
pub(crate) struct Producer {
    /// Fast path: bytes that may be written at the cursor without a further check.
    window: Window,
    state: State,
    committed: u64,
    /// The count of messages at which the link rechecks what the ring does not know.
    recheck_at: u64,
    counters: Counters,
    committed_messages: u64,
    awake: Awake,
    /// Of the look for a consumer that waits for a message.
    fences: Fences,
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

impl Producer {
    /// A producer that continues at `cursor`, on a lane whose head must lie within the limit before
    /// it.
    ///
    /// `vacated_at` is what `vacated_at()` returned before the move. It may be anything: a mark
    /// that is not of the last `limit` bytes counts as left just now, and a wrong one harms only
    /// what this end has posted, which the sender of the mark could have done as well.
    pub(crate) fn resume(
        memory: Memory,
        geometry: Geometry,
        cursor: Cursor,
        vacated_at: [u64; MAX_SEGMENTS],
    ) -> Result<Producer, Corruption> {
        // Acquire: pairs with the Release in `Consumer::release`.
        let head = memory.lane().consumer.head.load(ordering(Site::ResumeHead, Ordering::Acquire));
        let counters = Counters::read(&memory.lane().produced);
        let awake = Awake::resume(&memory.lane().sleepers.room_sleeper, counters.messages);
        Ok(Producer {
            window: Window::new(memory),
            state: State::resume(geometry, cursor, head, vacated_at)?,
            committed: cursor.position,
            recheck_at: counters.messages.wrapping_add(NEVER),
            committed_messages: counters.messages,
            counters,
            awake,
            fences: Fences::ALWAYS,
        })
    }

    /// Finds a place for a record of exactly `len` payload bytes.
    ///
    /// In order: a smaller segment, if a burst is over; here; after growth. The peer's `head` is
    /// loaded only when the cached one says that there is no room, and while outside the base
    /// segment.
    pub(crate) fn plan(&mut self, len: u64) -> Result<Plan, Refusal> {
        // Compared before anything is added to it: the caller's length may be any.
        if len > self.state.geometry.largest_message() {
            return Err(Refusal::TooLarge);
        }
        let record = record_len(len);
        if let Some(plan) = self.plan_shrink(record)? {
            return Ok(plan);
        }
        if let Some(stay) = self.state.stay(record) {
            return self.state.plan(stay, record).ok_or(Refusal::Full);
        }
        self.refresh_head(Site::ReadHead)?;
        self.state.plan(route(record, &self.state), record).ok_or(Refusal::Full)
    }

    /// Finds a place for a record whose length is not known yet: as much room as there is without
    /// growing, for at most `wish` payload bytes. `None` if that is next to nothing.
    pub(crate) fn plan_open(&mut self, wish: u64) -> Result<Option<Plan>, Refusal> {
        let wish = record_len(wish).min(self.state.geometry.largest_record());
        if let Some(plan) = self.plan_shrink(wish)? {
            return Ok(Some(plan));
        }
        if self.state.room_here() < wish {
            self.refresh_head(Site::ReadHead)?;
        }
        let room = self.state.room_here().min(wish);
        Ok((room >= LEAST_OPEN_ROOM).then(|| self.state.plan_at_cursor(room)))
    }

    /// Stages the record that was written where `plan` says, with `len` payload bytes.
    #[inline(always)]
    pub(crate) fn stage(&mut self, plan: Plan, len: u32, format: Format) {
        self.stage_with(plan, len, format, Attached::Nothing);
    }

    /// The same, of a record with a packet.
    #[inline(always)]
    pub(crate) fn stage_with(&mut self, plan: Plan, len: u32, format: Format, attached: Attached) {
        self.stage_header(plan, Header::Message { len, format, attached });
    }

    /// The same, of the record of a message with this header.
    #[inline(always)]
    pub(crate) fn stage_header(&mut self, plan: Plan, header: Header) {
        let (len, record) = match header {
            Header::Message { len, .. } => (len, record_len(u64::from(len))),
            Header::Short { len, .. } => (len, HEADER_LEN),
            control => unreachable!("{control:?} is no message"),
        };
        assert!(record <= plan.room, "a record outgrew its plan");
        if let Some(control) = plan.control {
            self.write_control(control);
        }
        // The control record led here, and a plan without one begins here.
        debug_assert_eq!(self.state.cursor, plan.at);
        self.state.cursor.position = self.state.cursor.position.wrapping_add(record);
        self.window.advance(record);
        self.memory().write_header(plan.offset, header.encode());
        debug_assert!(self.state.stay(0).is_some(), "no room is left for a control record");
        if !matches!(header, Header::Message { attached: Attached::Pool { .. }, .. }) {
            self.counters.messages = self.counters.messages.wrapping_add(1);
            self.counters.bytes = self.counters.bytes.wrapping_add(u64::from(len));
        }
        if self.state.cursor.segment != 0 || !self.state.geometry.goes_round(0, record) {
            self.staged_slow(record);
        }
    }

    /// Publishes everything staged by one store, and returns which sleeper to wake.
    #[inline(always)]
    pub(crate) fn commit(&mut self) -> Wake {
        if self.has_staged() { self.publish(0) } else { Wake::NoSleeper }
    }

    /// The same, where something was just staged.
    #[inline(always)]
    pub(crate) fn commit_staged(&mut self) -> Wake {
        self.publish(0)
    }

    /// Publishes everything staged, and by the same store the end of the lane: the code of a close
    /// in the lowest bits of `tail`, or 0.
    #[inline(always)]
    fn publish(&mut self, end: u64) -> Wake {
        // All loaded first: after a store to the lane a compiler loads the others again.
        let (position, counters) = (self.state.cursor.position, self.counters);
        self.committed = position;
        self.committed_messages = counters.messages;
        let lane = self.window.memory().lane();
        counters.publish(&lane.produced);
        // Release: pairs with the Acquire in `Consumer::refresh_tail`; publishes the records.
        let tail = position | end;
        lane.producer.tail.store(tail, ordering(Site::PublishTail, Ordering::Release));
        let flag = &lane.sleepers.message_sleeper;
        let wake = notifier::look(flag, self.fences, Site::FenceBeforeLook);
        if wake != Wake::NoSleeper {
            self.counters.wakes = self.counters.wakes.wrapping_add(1);
            // Relaxed: a number for people, as in `count_full` and `write_control`.
            lane.produced.wakes.store(self.counters.wakes, Ordering::Relaxed);
        }
        wake
    }

    /// Stages the jump, if any, that follows a record of `record` bytes.
    fn staged_slow(&mut self, record: u64) {
        if let Some(segment) = self.state.jump_after(record) {
            self.write_control(Header::Jump { segment });
        }
    }

    /// Commits what is staged, and ends the lane: nothing may be staged afterwards. Needs neither
    /// room nor a page of the area.
    pub(crate) fn close(&mut self, kind: CloseKind) -> Wake {
        self.publish(u64::from(kind.code()))
    }

    /// Whether anything waits for a commit.
    #[inline]
    pub(crate) fn has_staged(&self) -> bool {
        self.state.cursor.position != self.committed
    }

    #[inline]
    pub(crate) fn cursor(&self) -> Cursor {
        self.state.cursor
    }

    #[inline]
    pub(crate) fn memory(&self) -> &Memory {
        self.window.memory()
    }

    #[inline]
    pub(crate) fn geometry(&self) -> &Geometry {
        &self.state.geometry
    }

    /// When each segment was left, for the next owner of this end. Segments that are free by now
    /// are marked as free, so that an old mark cannot look like none.
    pub(crate) fn vacated_at(&self) -> [u64; MAX_SEGMENTS] {
        self.state.vacated_at()
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// The jump to the smallest segment that suffices, if a burst is over and the lane is empty.
    fn plan_shrink(&mut self, record: u64) -> Result<Option<Plan>, Refusal> {
        let Some(fit) = self.state.smallest_fit(record) else { return Ok(None) };
        self.refresh_head(Site::HeadAtShrink)?;
        Ok(self.state.is_drained().then(|| self.state.plan_jump(fit, record)))
    }

    /// Writes a control record at the cursor, and moves to where it leads.
    fn write_control(&mut self, control: Header) {
        self.window.close();
        self.memory().write_header(self.state.cursor.offset_in(self.state.span), control.encode());
        match control {
            Header::Padding { len } => {
                self.state.cursor = self.state.cursor.advanced(HEADER_LEN + u64::from(len));
            }
            Header::Jump { segment } => {
                let grew = u64::from(segment > self.state.cursor.segment);
                self.counters.growth = self.counters.growth.wrapping_add(grew);
                let line = &self.window.memory().lane().produced;
                line.growth.store(self.counters.growth, Ordering::Relaxed);
                self.state.jump_to(segment);
            }
            Header::Message { .. } | Header::Short { .. } => {
                unreachable!("a message is no control record")
            }
        }
    }

    fn refresh_head(&mut self, site: Site) -> Result<(), Refusal> {
        let lane = self.memory().lane();
        // Acquire: pairs with the Release in `Consumer::release`; the bytes before it were read.
        let head = lane.consumer.head.load(ordering(site, Ordering::Acquire));
        self.state.release_to(head, self.committed).map_err(Refusal::Corrupt)
    }
}

/// Messages until a recheck that is not wanted.
const NEVER: u64 = i64::MAX as u64;
/// Room below which serialising in place is not tried.
const LEAST_OPEN_ROOM: u64 = 64;
