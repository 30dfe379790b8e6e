//! The sending half of one end: allocates pages, writes, commits, wakes, waits for room.

mod moving;
mod pulse;

use crate::error::{CloseReason, Corruption, PostError, SystemError};
use crate::link::end::{Event, Half};
use crate::link::endpoint::{Endpoint, Sleeper};
use crate::link::payload::{self, Block, Post, Room};
use crate::link::pool::PoolMemory;
use crate::link::prefault::Prefault;
use crate::os::clock::{self, Deadline};
use crate::ring::cursor::Cursor;
use crate::ring::notifier::{Sleep, Wait, Wake};
use crate::ring::producer::{Producer, Refusal};
use crate::ring::route::Plan;
use crate::wire::layout::MAX_SEGMENTS;
use crate::wire::record::{CloseKind, Format};
use pulse::Pulse;
use rkyv::rancor;
use rkyv::ser::allocator::Arena;
use std::sync::Arc;
use std::time::Instant;

/// Everything that one thread needs to post.
pub(crate) struct Sending {
    end: Arc<Endpoint>,
    producer: Producer,
    prefault: Prefault,
    arena: Arena,
    scratch: Vec<Block>,
    /// Payload bytes of the last typed message: a guess for the next one.
    last_len: u64,
    /// When and how often the kernel is asked about the peer.
    pulse: Pulse,
    /// Room for the message of the current loan, or of the last one.
    reserved: Reserved,
    /// Packets sent by this end and its former owners: the next packet's sequence.
    packets: u64,
    /// The pools that were made here and announced; the index is the pool's number.
    pools: Vec<Arc<PoolMemory>>,
}

/// Room for one message: posting it cannot fail.
#[derive(Debug)]
struct Reserved {
    place: Place,
    /// Whether the bytes are written in the ring itself.
    in_place: bool,
}

/// Where room is reserved. While it is, nothing else is posted, so the contiguous place need not be
/// kept: it is at the producer's cursor.
#[derive(Debug)]
enum Place {
    /// Nowhere: it was posted.
    Nowhere,
    /// The contiguous place at the cursor.
    Contiguous,
    Planned(Plan),
}

impl Sending {
    /// A sending half at `cursor`, with segments vacated at `vacated_at`, after `packets`.
    pub(crate) fn resume(
        end: Arc<Endpoint>,
        cursor: Cursor,
        vacated_at: [u64; MAX_SEGMENTS],
        packets: u64,
    ) -> Result<Sending, Corruption> {
        let lane = end.outgoing();
        let memory = end.region().lane(lane);
        let mut producer = Producer::resume(memory, *end.region().geometry(), cursor, vacated_at)?;
        producer.recheck_after(1);
        let prefault = Prefault::new(end.region().clone(), lane);
        Ok(Sending {
            end,
            producer,
            prefault,
            arena: Arena::new(),
            scratch: Vec::new(),
            last_len: 0,
            pulse: Pulse::new(clock::coarse()),
            reserved: Reserved { place: Place::Nowhere, in_place: false },
            packets,
            pools: Vec::new(),
        })
    }

    /// Serialises `value` into the ring and stages it; `commit` publishes.
    #[inline(always)]
    pub(crate) fn stage_value<T: Post>(&mut self, value: &T) -> Result<(), PostError> {
        let wish = self.wish();
        self.look_after_peer_if_due();
        if !self.posts_may_fail()
            && let Some(plan) = self.producer.plan_open_fast(wish)
        {
            let len = self.serialize(value, Some(&plan))?;
            if len <= plan.payload_room() {
                self.last_len = len;
                self.producer.stage(plan, len as u32, Format::Archive);
                return Ok(());
            }
            return self.stage_value_again(value, len);
        }
        self.stage_value_slow(value)
    }

    /// Fast path: serialises `value` into contiguous room, if all of it fits.
    #[inline(always)]
    fn write_value_fast<T: Post>(&mut self, value: &T) -> Result<Option<(Plan, u32)>, PostError> {
        self.look_after_peer_if_due();
        if self.posts_may_fail() {
            return Ok(None);
        }
        let Some(plan) = self.producer.plan_open_fast(self.wish()) else { return Ok(None) };
        let len = self.serialize(value, Some(&plan))?;
        Ok((len <= plan.payload_room()).then_some((plan, len as u32)))
    }

    #[cold]
    #[inline(never)]
    fn stage_value_slow<T: Post>(&mut self, value: &T) -> Result<(), PostError> {
        let (plan, len) = self.write_value_slow(value)?;
        self.stage(plan, len, Format::Archive);
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn stage_value_again<T: Post>(&mut self, value: &T, len: u64) -> Result<(), PostError> {
        let begun = self.producer.plan_open_fast(self.wish());
        let written = self.write_value_again(value, len);
        let (plan, len) = written.inspect_err(|_| self.wipe(begun.as_ref()))?;
        self.stage(plan, len, Format::Archive);
        Ok(())
    }

    /// How much room to try first for a value: a little more than the last one took, but not so
    /// much that it needs another segment.
    #[inline(always)]
    fn wish(&self) -> u64 {
        (self.last_len + self.last_len / 8).clamp(LEAST_WISH, MOST_WISH)
    }

    /// Serialises `value` into the place of its record; returns its plan and its length.
    fn write_value_slow<T: Post>(&mut self, value: &T) -> Result<(Plan, u32), PostError> {
        let wish = self.wish();
        self.check_open()?;
        let open = self.producer.plan_open(wish).map_err(|refusal| self.refused(refusal, wish))?;
        let len = match open {
            Some(plan) => {
                self.prefault.ensure(&plan, self.producer.cursor())?;
                let len = self.serialize(value, Some(&plan))?;
                if len <= plan.payload_room() {
                    self.last_len = len;
                    return Ok((plan, len as u32));
                }
                len
            }
            None => self.serialize(value, None)?,
        };
        self.write_value_again(value, len).inspect_err(|_| self.wipe(open.as_ref()))
    }

    /// The same, once the length is known.
    #[cold]
    fn write_value_again<T: Post>(
        &mut self,
        value: &T,
        len: u64,
    ) -> Result<(Plan, u32), PostError> {
        let plan = self.plan(len)?;
        let again = self.serialize(value, Some(&plan))?;
        if again != len {
            payload::wipe(&self.producer, &plan);
            return Err(PostError::Serialize(rancor::Source::new(payload::LengthChanged {
                len,
                again,
            })));
        }
        self.last_len = len;
        Ok((plan, len as u32))
    }

    /// Copies `bytes` into the ring and stages them; `commit` publishes.
    #[cold]
    pub(crate) fn stage_bytes(&mut self, bytes: &[u8], format: Format) -> Result<(), PostError> {
        self.check_open()?;
        let plan = self.plan(bytes.len() as u64)?;
        payload::fill(&self.producer, &plan, bytes);
        self.stage(plan, bytes.len() as u32, format);
        Ok(())
    }

    /// Fast path: stages the bytes if they fit contiguously. Returns whether they did.
    #[inline(always)]
    pub(crate) fn stage_bytes_fast(&mut self, bytes: &[u8], format: Format) -> bool {
        self.look_after_peer_if_due();
        if self.posts_may_fail() {
            return false;
        }
        let Some(plan) = self.producer.plan_fast(bytes.len() as u64) else { return false };
        payload::fill(&self.producer, &plan, bytes);
        self.producer.stage(plan, bytes.len() as u32, format);
        true
    }

    /// Publishes what is staged and wakes the receiver if it sleeps.
    #[inline(always)]
    pub(crate) fn commit(&mut self) {
        let wake = self.producer.commit();
        self.wake(wake);
    }

    /// Reserves room for a message of `len` bytes.
    #[inline(always)]
    pub(crate) fn reserve(&mut self, len: usize) -> Result<Room, Box<PostError>> {
        // A burst cannot be committed while the loan is open, so it is committed now.
        self.commit();
        let in_place = self.end.is_trusted();
        self.look_after_peer_if_due();
        if !self.posts_may_fail()
            && let Some(plan) = self.producer.plan_fast(len as u64)
            && (in_place || len <= size_of_val(self.scratch.as_slice()))
        {
            (self.reserved.place, self.reserved.in_place) = (Place::Contiguous, in_place);
            return Ok(self.room(&plan, len));
        }
        self.reserve_slow(len, in_place)
    }

    #[cold]
    #[inline(never)]
    fn reserve_slow(&mut self, len: usize, in_place: bool) -> Result<Room, Box<PostError>> {
        self.check_open()?;
        let plan = self.plan(len as u64)?;
        if !in_place && len > size_of_val(self.scratch.as_slice()) {
            self.grow_scratch(len)?;
        }
        self.reserved = Reserved { place: Place::Planned(plan), in_place };
        Ok(self.room(&plan, len))
    }

    #[inline(always)]
    fn room(&mut self, plan: &Plan, len: usize) -> Room {
        match self.reserved.in_place {
            true => Room::in_place(&self.producer, plan, len),
            false => Room::private(&mut self.scratch, len),
        }
    }

    fn grow_scratch(&mut self, len: usize) -> Result<(), PostError> {
        let more = len.div_ceil(size_of::<Block>()) - self.scratch.len();
        self.scratch.try_reserve_exact(more).map_err(|_| SystemError {
            call: "alloc",
            source: std::io::ErrorKind::OutOfMemory.into(),
        })?;
        self.scratch.resize(self.scratch.len() + more, Block::default());
        Ok(())
    }

    /// Posts the first `len` bytes of the reserved room.
    #[inline(always)]
    pub(crate) fn post_reserved(&mut self, len: usize) {
        if let Place::Contiguous = self.reserved.place {
            let plan = self.producer.plan_found_before(len as u64);
            self.copy_reserved(&plan, len);
            self.producer.stage(plan, len as u32, Format::Bytes);
        } else {
            self.stage_reserved_slow(len);
        }
        self.reserved.place = Place::Nowhere;
        self.commit();
    }

    /// Frees the scratch of a long loan, which has ended.
    pub(crate) fn trim_scratch(&mut self) {
        if self.scratch.capacity() * size_of::<Block>() > MOST_SCRATCH {
            self.scratch = Vec::new();
        }
    }

    #[cold]
    #[inline(never)]
    fn stage_reserved_slow(&mut self, len: usize) {
        let Place::Planned(plan) = self.reserved.place else {
            unreachable!("a loan is posted once");
        };
        self.copy_reserved(&plan, len);
        self.stage(plan, len as u32, Format::Bytes);
    }

    #[inline(always)]
    fn copy_reserved(&mut self, plan: &Plan, len: usize) {
        if !self.reserved.in_place {
            let bytes = &payload::blocks_as_bytes(&self.scratch)[..len];
            payload::fill(&self.producer, plan, bytes);
        }
    }

    /// Whether a post of `len` bytes would return something other than `QueueFull`. For loops that
    /// look again and again: no system call, no count.
    pub(crate) fn may_fit(&mut self, len: u64) -> bool {
        self.known_end().is_some()
            || !matches!(self.producer.plan(len), Err(Refusal::Full))
            || self.producer.can_hop(len)
    }

    /// Whether a message of `len` bytes could be posted now.
    pub(crate) fn has_room(&mut self, len: u64) -> Result<(), PostError> {
        self.check_open()?;
        self.plan(len).map(drop)
    }

    /// Commits what is staged, arms the flag and looks again.
    ///
    /// A wait must not hold back anything staged: the peer would wait for it in turn.
    pub(crate) fn prepare_wait(&mut self, len: u64) -> Result<Wait, PostError> {
        self.commit();
        let wait = self.producer.prepare_wait(len, Sleep::Futex);
        // A futex does not report the peer's death, so the kernel is asked before each slice.
        if wait == Wait::Sleep && self.gone().is_some() {
            self.producer.cancel_wait();
            self.check_open()?;
        }
        Ok(wait)
    }

    /// Arms the flag for a wait that is not for room in the ring. The peer wakes this half at each
    /// of its releases.
    pub(crate) fn arm_room_flag(&mut self) {
        self.commit();
        self.producer.arm_room_flag(Sleep::Futex);
    }

    /// Arms the flag so that the peer rings the doorbell, for a sender that waits on it alone.
    #[cfg(any(feature = "tokio", feature = "async-io"))]
    pub(crate) fn arm_room_doorbell(&mut self) {
        self.commit();
        self.producer.arm_room_flag(Sleep::Doorbell);
    }

    /// Sleeps as `prepare_wait` announced, for at most a slice of time. Returns for room, for an
    /// interruption, at the deadline, and sometimes spuriously.
    ///
    /// Waiting for room never touches the doorbell: that belongs to the receiving half, which may
    /// be on another thread, or watched by an event loop that must not lose a ring.
    pub(crate) fn sleep(&self, deadline: Deadline) {
        self.end.sleep_on_room(self.producer.memory(), deadline);
        self.producer.cancel_wait();
    }

    /// Announces that nothing more will be posted. Never waits; does nothing the second time.
    pub(crate) fn close(&mut self, kind: CloseKind) {
        let _ = self.end.learn(Event::Closed(Half::Sending));
        if !self.end.learn(Event::AnnouncingClose(Half::Sending)).announces_close {
            return;
        }
        // Without memory for the record the peer learns of the end by the hang-up alone, which
        // comes once the receiving half is dropped as well.
        let cursor = self.producer.cursor();
        if self.prefault.ensure_control(cursor).is_ok() {
            let wake = self.producer.close(kind);
            self.wake(wake);
        } else {
            self.commit();
        }
    }

    /// Marks this half as moved: it announces no close.
    pub(crate) fn mark_moved(&mut self) {
        let _ = self.end.learn(Event::Moved);
    }

    /// Frees idle pages; returns how many bytes.
    pub(crate) fn trim(&mut self) -> Result<u64, PostError> {
        let vacated = self.producer.cursor();
        self.prefault.ensure_control(vacated)?;
        self.prefault.ensure_control(Cursor::start(0))?;
        let jumped = self.producer.go_to_base().map_err(|refusal| self.refused(refusal, 0))?;
        let mut freed = 0;
        if let Some(wake) = jumped {
            self.wake(wake);
            freed += self.prefault.reclaim_vacated(vacated)?;
        }
        Ok(freed + self.prefault.reclaim(&self.producer)?)
    }

    /// Messages and bytes that the peer has not released.
    pub(crate) fn backlog(&mut self) -> (u64, u64) {
        let bytes = self.producer.unreleased().unwrap_or(0);
        if bytes == 0 {
            return (0, 0);
        }
        (self.producer.backlog_messages(), bytes)
    }

    /// Packets sent so far.
    pub(crate) fn packets(&self) -> u64 {
        self.packets
    }

    /// Whether this end was closed here, or has moved.
    pub(crate) fn is_finished(&self) -> bool {
        self.end.state().is_closed_here(Half::Sending)
    }

    /// Why posts to this end fail, if they do. One system call while they do not.
    pub(crate) fn end_reason(&self) -> Option<CloseReason> {
        self.known_end().or_else(|| self.gone())
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.end
    }

    /// Publishes what is staged, and learns the peer's position, before this end moves.
    pub(crate) fn settle(&mut self) {
        self.commit();
        // The next owner finds an impossible head again.
        let _ = self.producer.unreleased();
    }

    /// When each segment was left, for the next owner.
    pub(crate) fn vacated_at(&self) -> [u64; MAX_SEGMENTS] {
        self.producer.vacated_at()
    }

    pub(crate) fn producer(&self) -> &Producer {
        &self.producer
    }

    /// Asks the kernel about the peer.
    fn gone(&self) -> Option<CloseReason> {
        self.end.ask_hang_up();
        self.known_end()
    }

    /// One compare. A fast sender looks at the clock once in 64 posts.
    #[inline(always)]
    fn look_after_peer_if_due(&mut self) {
        if self.producer.is_recheck_due() {
            self.look_after_peer();
        }
    }

    /// Asks the kernel about the peer if it was not asked for a while. Only the kernel knows that a
    /// peer has died that was not asleep: it takes no wake-up, and no call fails.
    #[cold]
    #[inline(never)]
    fn look_after_peer(&mut self) {
        let (asks, posts) = self.pulse.beat(clock::coarse());
        self.producer.recheck_after(posts);
        if asks {
            self.gone();
        }
    }

    /// Whether posts are known to fail.
    #[inline(always)]
    fn posts_may_fail(&self) -> bool {
        self.end.state().posts_may_fail() || self.producer.reader_gone() != 0
    }

    fn known_end(&self) -> Option<CloseReason> {
        if self.posts_may_fail() { self.end.find_posting_end() } else { None }
    }

    fn check_open(&mut self) -> Result<(), PostError> {
        self.look_after_peer_if_due();
        match self.known_end() {
            None => Ok(()),
            Some(reason) => Err(PostError::Closed { reason }),
        }
    }

    /// A place for exactly `len` bytes, with its pages allocated.
    fn plan(&mut self, len: u64) -> Result<Plan, PostError> {
        let plan = self.producer.plan(len).map_err(|refusal| self.refused(refusal, len))?;
        self.prefault.ensure(&plan, self.producer.cursor())?;
        Ok(plan)
    }

    /// Stages, and recomputes the contiguous room if it is used up.
    #[inline(always)]
    fn stage(&mut self, plan: Plan, len: u32, format: Format) {
        let vacated = self.producer.cursor();
        self.producer.stage(plan, len, format);
        if !self.producer.has_contiguous() {
            self.staged_past_contiguous(vacated);
        }
    }

    #[cold]
    fn staged_past_contiguous(&mut self, vacated: Cursor) {
        let cursor = self.producer.cursor();
        let mut made = self.prefault.made(cursor.segment);
        if self.end.is_trusted() && self.prefault.is_spread(cursor.segment) {
            self.give_back(vacated.segment);
            // The next check comes soon, even if messages are few.
            made = made.min(cursor.index(self.producer.geometry()) + LOOK_EVERY);
        }
        self.producer.renew_contiguous(made);
    }

    /// Frees the pages of segments that have been idle.
    ///
    /// Only between trusted ends: the call waits for a lock that a hostile peer could hold. If it
    /// fails the pages stay, which does no harm.
    fn give_back(&mut self, from: u32) {
        // Loads the receiver's position, which decides what is free. A lane with few messages needs
        // no room, so nothing else loads it for long. A wrong one is found again.
        let _ = self.producer.unreleased();
        let in_use = (from, self.producer.cursor().segment);
        let _ = self.prefault.reclaim_idle(&self.producer, in_use, Instant::now());
    }

    /// The value's bytes: written where `plan` says, or only counted.
    #[inline(always)]
    fn serialize<T: Post>(&mut self, value: &T, plan: Option<&Plan>) -> Result<u64, PostError> {
        match payload::serialize(value, &self.producer, plan, &mut self.arena) {
            Ok(len) => Ok(len),
            Err(error) => Err(self.not_serialized(plan, error)),
        }
    }

    /// A value that failed half-way leaves nothing in the ring that the peer could read.
    #[cold]
    fn not_serialized(&self, plan: Option<&Plan>, error: rancor::BoxedError) -> PostError {
        self.wipe(plan);
        PostError::Serialize(error)
    }

    #[cold]
    fn wipe(&self, plan: Option<&Plan>) {
        if let Some(plan) = plan {
            payload::wipe(&self.producer, plan);
        }
    }

    #[cold]
    fn refused(&mut self, refusal: Refusal, len: u64) -> PostError {
        let geometry = *self.end.region().geometry();
        match refusal {
            Refusal::TooLarge => PostError::TooLarge { len, max: geometry.largest_message() },
            Refusal::Corrupt(corruption) => {
                self.end.mark_corrupt(corruption);
                self.close(CloseKind::Closed);
                let reason = self.end.told(Half::Sending).expect("a corruption ends both halves");
                PostError::Closed { reason }
            }
            Refusal::Full => {
                if let Some(reason) = self.gone() {
                    return PostError::Closed { reason };
                }
                if let Err(error) = self.hop(len) {
                    return error;
                }
                self.producer.count_full();
                let unread = self.producer.unreleased().unwrap_or(0);
                PostError::QueueFull { len, unread, limit: geometry.limit(), is_socket: false }
            }
        }
    }

    /// Leaves the current segment, if a record of `len` bytes waits for that.
    fn hop(&mut self, len: u64) -> Result<(), PostError> {
        if self.producer.can_hop(len) {
            let cursor = self.producer.cursor();
            self.prefault.ensure_control(cursor)?;
        }
        if let Some(wake) = self.producer.hop(len) {
            self.wake(wake);
        }
        Ok(())
    }

    #[inline]
    fn wake(&self, wake: Wake) {
        self.end.wake(wake, self.producer.memory(), Sleeper::Receiver);
    }
}

/// Bytes after which a trusted lane checks again for idle pages, while it may have some.
const LOOK_EVERY: u64 = 16 << 10;
/// The least room that is tried first for a value whose length is not known, in bytes.
const LEAST_WISH: u64 = 256;
const MOST_WISH: u64 = 64 << 10;
/// Bytes of private scratch that are kept from one loan to the next.
pub(crate) const MOST_SCRATCH: usize = 1 << 20;
