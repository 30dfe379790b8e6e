//! The receiving half of one end: polls, copies out or borrows, releases, wakes the sender.

pub(crate) mod chunks;
mod moved;
mod peek;
mod poll;
#[cfg(test)]
mod tests;

use crate::error::{CloseReason, Corruption, RecvError, SystemError};
use crate::link::attachment::Attachments;
use crate::link::end::{Event, Half};
use crate::link::endpoint::{Endpoint, Sleeper};
use crate::link::in_use::{CopySlab, LentRecords};
use crate::link::payload::{Block, Payload, PayloadHandle, copy_end};
use crate::link::pool::PeerPool;
use crate::link::read_ahead::ReadAhead;
use crate::link::receiving::chunks::Unfinished;
use crate::os::barrier;
use crate::os::clock::Deadline;
use crate::os::reaper::Share;
use crate::os::socket::DrainTo;
use crate::ring::awake::Before;
use crate::ring::consumer::{Consumer, Peek, Record};
use crate::ring::cursor::Cursor;
use crate::ring::notifier::{Sleep, Wait, Wake};
use crate::wire::record::{Attached, CloseKind};
use std::fmt;
use std::hint;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Everything that one thread needs to receive.
pub(crate) struct Receiving {
    end: Arc<Endpoint>,
    consumer: Consumer,
    ahead: ReadAhead,
    copies: CopySlab,
    lent: LentRecords,
    /// How the doorbell's descriptor is watched while the lane is empty, if it is watched.
    watched: Option<DrainTo>,
    /// Whether the doorbell was drained, which may have rung for the other half.
    drained: bool,
    /// Polls that found nothing, and when the kernel was last asked about the peer.
    empty_looks: u32,
    asked: Instant,
    /// The transferables of the messages that are alive, by handle.
    attachments: Vec<(PayloadHandle, Attachments)>,
    /// The peer's pools, by their numbers; none, if the peer is not trusted.
    pools: Vec<(u32, Arc<PeerPool>)>,
    /// Pools since the last message.
    pools_in_a_row: u32,
    /// Since when there is no room for the descriptors of the next message.
    short_since: Option<Instant>,
    /// Whether the next message's packet waits until more of this port's descriptors are closed.
    waits_for_reaper: bool,
    /// Whether a poll waits a moment for that.
    is_patient: bool,
    /// Whether messages are taken in a batch: the look for a waiting sender comes at its end.
    is_in_batch: bool,
    /// Whether the last poll was of a caller that serves other ports in between.
    is_in_turns: bool,
    /// How many descriptors that nothing takes such a caller receives.
    share: Share,
    /// Descriptors that were received since the last call of `take_cost`.
    cost: u32,
    /// The partial copy of the next message.
    unfinished: Option<Unfinished>,
}

/// What comes next, if the fast path did not take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Nothing.
    Nothing,
    /// A message, for which there is memory.
    Message(Record),
    /// A long message, of which a chunk was copied.
    Unfinished,
}

impl Receiving {
    pub(crate) fn resume(end: Arc<Endpoint>, cursor: Cursor) -> Receiving {
        let memory = end.region().lane(end.incoming());
        let consumer = Consumer::resume(memory, *end.region().geometry(), cursor);
        Receiving {
            end,
            consumer,
            ahead: ReadAhead::default(),
            copies: CopySlab::default(),
            lent: LentRecords::default(),
            watched: None,
            drained: false,
            empty_looks: 0,
            asked: Instant::now(),
            attachments: Vec::new(),
            pools: Vec::new(),
            pools_in_a_row: 0,
            short_since: None,
            waits_for_reaper: false,
            is_patient: true,
            is_in_batch: false,
            is_in_turns: false,
            share: Share::default(),
            cost: 0,
            unfinished: None,
        }
    }

    /// Whether a poll would find something.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        self.consumer.has_news()
    }

    /// Whether the next record is a message, and not the end or a pool.
    pub(crate) fn has_message(&mut self) -> bool {
        if self.end.state().has_receiving_ended() {
            return false;
        }
        match self.consumer.peek() {
            Ok(Peek::Message(record)) => !matches!(record.attached, Attached::Pool { .. }),
            Ok(Peek::Empty) => {
                self.release_controls();
                false
            }
            _ => false,
        }
    }

    /// The last bytes of the next message, which stays in the queue. For one for which there is no
    /// memory.
    pub(crate) fn end_of_next(&mut self) -> Option<[u8; 16]> {
        match self.consumer.peek() {
            Ok(Peek::Message(record)) => copy_end(self.consumer.memory(), &record.message()),
            _ => None,
        }
    }

    /// Skips the next message without reading it. Returns whether there was one.
    pub(crate) fn discard(&mut self) -> Result<bool, RecvError> {
        let Some(record) = self.peek()? else { return Ok(false) };
        match record.attached {
            Attached::Nothing | Attached::Small { .. } => {}
            Attached::Packet { descriptors, sequence } => {
                self.discard_packet(descriptors, sequence)?;
            }
            Attached::Pooled { pool, slot } => drop(self.pooled(pool, slot)?),
            Attached::Pool { .. } => unreachable!("taken in"),
        }
        self.pools_in_a_row = 0;
        self.unfinished = None;
        self.consumer.take(&record);
        self.release_taken();
        Ok(true)
    }

    /// Whether the doorbell was drained since the last call: a sending half that waits for the same
    /// doorbell then has to look again.
    #[cfg(any(feature = "tokio", feature = "async-io"))]
    pub(crate) fn has_drained(&mut self) -> bool {
        std::mem::take(&mut self.drained)
    }

    /// Drains the doorbell, arms the flag and looks again: the order that loses nothing.
    pub(crate) fn prepare_wait(&mut self) -> Result<Wait, RecvError> {
        self.map_pools();
        // The kernel is asked before the last poll: a message committed before the death is seen.
        let hung_up = self.end.drain_doorbell(self.watched.unwrap_or(DrainTo::Silence));
        self.drained = true;
        self.get_ready();
        match self.consumer.prepare_wait(Sleep::Doorbell) {
            Ok(Wait::Ready) => Ok(Wait::Ready),
            Ok(Wait::Sleep) if hung_up => {
                self.consumer.cancel_wait();
                Err(self.ended_by(Event::Drained { after_hang_up: true }))
            }
            Ok(Wait::Sleep) => Ok(Wait::Sleep),
            Err(corruption) => Err(self.broken(corruption)),
        }
    }

    /// Sleeps as `prepare_wait` announced. Returns for a message, for the peer's end, for
    /// `interrupt`, at the deadline, and sometimes spuriously.
    pub(crate) fn sleep(
        &self,
        interrupt: Option<BorrowedFd<'_>>,
        deadline: Deadline,
    ) -> Result<(), SystemError> {
        self.end.sleep_on_doorbell(interrupt, deadline)?;
        self.consumer.cancel_wait();
        Ok(())
    }

    /// From now on the flag is armed whenever the lane is empty, so that the doorbell's descriptor
    /// becomes readable with the next message. It is also armed immediately.
    ///
    /// A watcher outside this crate may be edge-triggered (`EPOLLET`, mio, a poll of io_uring):
    /// then `to` is [`DrainTo::TheEnd`], and a poll that finds nothing has emptied the socket.
    pub(crate) fn arm_doorbell(&mut self, to: DrainTo) {
        if self.watched.is_none() && !self.end.state().has_receiving_ended() {
            self.get_ready();
            // The next look finds the same again.
            let _ = self.consumer.prepare_wait(Sleep::Doorbell);
        }
        if self.watched != Some(DrainTo::TheEnd) {
            self.watched = Some(to);
        }
    }

    /// Fast path of `give_back`: the only message in use, to which nothing is attached. Returns
    /// whether it was.
    #[inline(always)]
    pub(crate) fn give_back_fast(&mut self, handle: PayloadHandle) -> bool {
        if !self.attachments.is_empty() {
            return false;
        }
        match handle {
            PayloadHandle::Own => true,
            PayloadHandle::Ahead => unreachable!("counted by the half"),
            PayloadHandle::Copy(number) => {
                self.copies.put(number);
                true
            }
            PayloadHandle::Lent(_) => {
                let was_sole = self.lent.give_back_sole();
                if was_sole {
                    // Control records that were passed meanwhile are released as well.
                    self.release_passed();
                }
                was_sole
            }
        }
    }

    /// Takes a message's memory back, and releases its bytes if they were in the ring.
    pub(crate) fn give_back(&mut self, handle: PayloadHandle) {
        let free = match handle {
            PayloadHandle::Own => return,
            PayloadHandle::Ahead => unreachable!("counted by the half"),
            PayloadHandle::Copy(number) => return self.copies.put(number),
            PayloadHandle::Lent(number) => self.lent.give_back(number),
        };
        if !self.has_lent() {
            // Control records that were passed meanwhile are released as well.
            self.release_taken();
        } else if let Some(position) = free {
            self.release(position);
        }
    }

    /// Takes the memory of a message that is a private copy. `None` for one that is read in the
    /// ring.
    pub(crate) fn take_memory(&mut self, handle: PayloadHandle) -> Option<Vec<Block>> {
        match handle {
            PayloadHandle::Ahead => Some(self.ahead.take_memory()),
            PayloadHandle::Copy(number) => Some(self.copies.take_memory(number)),
            PayloadHandle::Own | PayloadHandle::Lent(_) => None,
        }
    }

    /// Announces that this end reads no more: the peer's posts fail from now on. What is in the
    /// queue can still be received.
    pub(crate) fn close(&mut self, kind: CloseKind) {
        let _ = self.end.learn(Event::Closed(Half::Receiving));
        if self.end.learn(Event::AnnouncingClose(Half::Receiving)).announces_close {
            let wake = self.consumer.close(kind);
            self.wake(wake);
        }
    }

    /// What is in the queue will not be read, while the other half may keep the sockets: closes the
    /// transferables of unread messages now.
    pub(crate) fn close_unread(&mut self) {
        self.end.stop_packets();
    }

    /// Why no more messages can come, if that is known. Makes at most one system call.
    pub(crate) fn end_reason(&mut self) -> Option<CloseReason> {
        let known = self.end.reason(Half::Receiving);
        if known.is_some() {
            return known;
        }
        let hung_up = self.end.ask_hang_up();
        if let Ok(Peek::Closed(kind)) = self.consumer.peek() {
            let _ = self.end.learn(Event::FoundClose(kind));
        }
        // What is in the queue may still contain the reason.
        self.end.told(Half::Receiving).or(hung_up.then_some(CloseReason::PeerDied))
    }

    /// Waits for the end without taking any message: prepares to sleep, past control records.
    /// `Ready` if a message comes first; an error if the end comes next.
    pub(crate) fn prepare_wait_for_end(&mut self) -> Result<Wait, RecvError> {
        self.check_open()?;
        // Of a batch whose iterator was leaked.
        self.release_controls();
        // A peer that writes endless control records is not served forever.
        for _ in 0..MOST_CONTROL_RECORDS {
            if self.prepare_wait()? == Wait::Sleep {
                return Ok(Wait::Sleep);
            }
            match self.look()? {
                Peek::Empty => self.release_taken(),
                Peek::Message(_) => return Ok(Wait::Ready),
                Peek::Closed(kind) => return Err(self.ended_by(Event::FoundClose(kind))),
            }
        }
        Ok(Wait::Ready)
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.end
    }

    pub(super) fn consumer(&self) -> &Consumer {
        &self.consumer
    }

    /// What is needed to debug a hang.
    pub(crate) fn debug_fields(&self, out: &mut fmt::DebugStruct<'_, '_>) {
        let lane = self.consumer.memory().lane();
        out.field("cursor", &self.consumer.cursor())
            .field("tail", &lane.producer.tail)
            .field("head", &lane.consumer.head)
            .field("sleepers", &lane.sleepers)
            .field("consumed", &lane.consumed)
            .field("trusted", &self.end.is_trusted());
    }

    /// Whether messages of this half are in use in the ring.
    pub(crate) fn has_lent(&self) -> bool {
        !self.lent.is_empty()
    }

    /// Returns a message, in place or copied out. `None` if there is no memory for the copy.
    fn take(&mut self, record: &Record) -> Option<Payload> {
        if record.is_short() {
            return Some(self.take_short(record));
        }
        if self.end.is_trusted() {
            return Some(self.lend(record));
        }
        let (handle, blocks) = self.copies.next()?;
        let payload = Payload::copied(self.consumer.window(), record, blocks, handle)?;
        self.finish_copy(record);
        Some(payload)
    }

    /// Returns a short message, which is its own copy.
    fn take_short(&mut self, record: &Record) -> Payload {
        (self.empty_looks, self.pools_in_a_row) = (0, 0);
        let payload = Payload::of_short(self.consumer.window(), record);
        self.consumer.take(record);
        self.release_taken();
        payload
    }

    /// Returns a message in place.
    #[inline(always)]
    fn lend(&mut self, record: &Record) -> Payload {
        (self.empty_looks, self.pools_in_a_row) = (0, 0);
        let start = self.consumer.position();
        let handle = self.lent.lend(start);
        let payload = Payload::in_ring(self.consumer.window(), record, handle);
        self.consumer.take(record);
        payload
    }

    /// Steps over a message whose copy is in a free entry of the slab, and takes the entry.
    fn finish_copy(&mut self, record: &Record) {
        (self.empty_looks, self.pools_in_a_row) = (0, 0);
        self.copies.take();
        self.consumer.take(record);
        self.release(record.end);
    }

    /// Allocates the memory for short messages when one comes. This one does not need it, as it is
    /// for later ones.
    fn allocate_ahead(&mut self, record: &Record) {
        if ReadAhead::fits(record.len as usize) {
            let _ = self.ahead.allocate();
        }
    }

    /// What comes next, after the peer's pools, which are accepted.
    #[inline(always)]
    fn look(&mut self) -> Result<Peek, RecvError> {
        loop {
            let peek = match self.consumer.peek() {
                Ok(peek) => peek,
                Err(corruption) => return Err(self.broken(corruption)),
            };
            let Peek::Message(record) = peek else { return Ok(peek) };
            if !matches!(record.attached, Attached::Pool { .. }) {
                return Ok(peek);
            }
            self.take_pool(&record)?;
        }
    }

    /// Finds out what comes next on the slow path: passes control records, and makes room for a
    /// copy, or copies in chunks of `chunk` bytes if the message is longer.
    #[cold]
    fn settle(&mut self, chunk: usize) -> Result<Next, RecvError> {
        self.check_open()?;
        self.spare_fences();
        loop {
            match self.look()? {
                Peek::Message(record) => return self.settle_message(record, chunk),
                Peek::Closed(kind) => return Err(self.ended_by(Event::FoundClose(kind))),
                Peek::Empty => {
                    if self.found_nothing()? == Wait::Sleep {
                        return Ok(Next::Nothing);
                    }
                }
            }
        }
    }

    /// What follows from an empty lane: `Sleep`, or the end as an error.
    fn found_nothing(&mut self) -> Result<Wait, RecvError> {
        self.release_controls();
        self.end.ring_again();
        if self.end.state().is_closed_here(Half::Receiving) {
            return Err(self.ended_by(Event::Drained { after_hang_up: false }));
        }
        // A hang-up may have become known since the look.
        if self.watched.is_some() || self.end.state().is_hung_up() {
            return self.prepare_wait();
        }
        self.empty_looks = self.empty_looks.wrapping_add(1);
        if self.empty_looks == 1 {
            // One pause after a message, about 20 ns: a receiver that comes back at once takes the
            // cache line of `tail` away from a sender that is about to post the next one.
            hint::spin_loop();
        }
        if self.empty_looks.is_multiple_of(LOOKS_PER_CLOCK) && self.asked.elapsed() > ASK_EVERY {
            self.asked = Instant::now();
            self.map_pools();
            if self.end.ask_hang_up() {
                return self.prepare_wait();
            }
        }
        Ok(Wait::Sleep)
    }

    /// Spares the sender its fences once this half has not slept for long, and omits those that the
    /// sender spares it.
    fn spare_fences(&mut self) {
        if self.consumer.may_stay_awake() && barrier::is_supported() {
            self.consumer.stay_awake();
        }
        if self.consumer.fences_in_vain() && barrier::takes_part() {
            self.consumer.omit_fences();
        }
    }

    /// Before the flag is armed: from here on the sender fences.
    fn get_ready(&mut self) {
        if self.consumer.get_ready() == Before::Barrier {
            barrier::run();
        }
    }

    fn broken(&mut self, corruption: Corruption) -> RecvError {
        self.end.mark_corrupt(corruption);
        self.close(CloseKind::Closed);
        self.ended()
    }

    /// An error if receiving has ended.
    fn check_open(&self) -> Result<(), RecvError> {
        if self.end.state().has_receiving_ended() { Err(self.ended()) } else { Ok(()) }
    }

    /// The error of a half that has ended by `event`, or before.
    fn ended_by(&self, event: Event) -> RecvError {
        let _ = self.end.learn(event);
        self.ended()
    }

    #[cold]
    fn ended(&self) -> RecvError {
        if self.end.learn(Event::Telling).sweeps {
            self.end.discard_packets();
        }
        let reason = self.end.told(Half::Receiving).expect("receiving has ended");
        RecvError::Closed { reason }
    }

    /// Publishes everything taken and passed, for the next owner of this end. Messages that are
    /// still lent were leaked, as the end could not move otherwise.
    pub(crate) fn release_everything(&mut self) {
        // Of a batch whose iterator was leaked.
        self.end_batch();
        self.release(self.consumer.position());
    }

    /// From now on, until `end_batch`, messages are released without a look for a waiting sender
    /// while more are known.
    pub(crate) fn begin_batch(&mut self) {
        self.is_in_batch = true;
    }

    /// Looks for a waiting sender, if a batch has not.
    pub(crate) fn end_batch(&mut self) {
        self.is_in_batch = false;
        if self.consumer.has_unreleased() && !self.has_lent() {
            return self.release_passed();
        }
        let wake = self.consumer.end_batch();
        self.wake(wake);
    }

    /// Whether this half was closed here, or has moved.
    pub(crate) fn is_finished(&self) -> bool {
        self.end.state().is_closed_here(Half::Receiving)
    }

    /// Releases what was passed and not released yet: control records that nothing follows, as the
    /// producer may wait for exactly their room, and what a batch has taken.
    fn release_controls(&mut self) {
        if self.consumer.has_unreleased() {
            self.release_taken();
        }
    }

    /// Releases everything taken and passed so far, unless messages are in use in the ring.
    #[inline(always)]
    fn release_taken(&mut self) {
        if !self.has_lent() {
            self.release_passed();
        }
    }

    fn release(&mut self, position: u64) {
        if position == self.consumer.position() {
            return self.release_passed();
        }
        let wake = self.consumer.release(position);
        self.wake(wake);
    }

    /// Releases everything taken and passed so far, whatever is lent.
    #[inline(always)]
    fn release_passed(&mut self) {
        if self.is_in_batch && self.consumer.release_quietly() {
            return;
        }
        let wake = self.consumer.release_all();
        self.wake(wake);
    }

    #[inline]
    fn wake(&self, wake: Wake) {
        self.end.wake(wake, self.consumer.memory(), Sleeper::Sender);
    }
}

/// Empty polls between two readings of the clock, each of which costs about 25 ns.
const LOOKS_PER_CLOCK: u32 = 64;
/// The most control records that are passed in one poll for the end.
const MOST_CONTROL_RECORDS: u32 = 64;
/// How often a receiver that only looks, and finds nothing, asks whether its peer is alive.
const ASK_EVERY: Duration = Duration::from_millis(100);
