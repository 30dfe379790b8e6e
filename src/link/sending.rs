//! The sending half of one end: allocates pages, writes, commits, wakes, waits for room.

mod liveness;
mod loan;
mod moving;
#[cfg(feature = "value")]
mod values;
mod writing;

use crate::error::{CloseReason, Corruption, PostError};
use crate::link::end::{Event, Half};
use crate::link::endpoint::{Endpoint, Sleeper};
use crate::link::payload::Block;
use crate::link::pool::PoolMemory;
use crate::link::prefault::Prefault;
use crate::link::trace;
use crate::os::barrier;
use crate::os::clock::{self, Deadline};
use crate::os::socket;
use crate::ring::awake::Before;
use crate::ring::cursor::Cursor;
use crate::ring::notifier::{Sleep, Wait, Wake};
use crate::ring::producer::{Producer, Refusal};
use crate::wire::layout::MAX_SEGMENTS;
use crate::wire::record::CloseKind;
use liveness::Liveness;
pub(crate) use loan::MOST_SCRATCH;
use loan::{Place, Reserved};
use rkyv::ser::allocator::Arena;
use std::fmt;
use std::sync::Arc;

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
    liveness: Liveness,
    /// Room for the message of the current loan, or of the last one.
    reserved: Reserved,
    /// Packets sent by this end and its former owners: the next packet's sequence.
    packets: u64,
    /// Whether the attachment socket, which was made here, still has the usual size.
    is_socket_small: bool,
    /// The pools that were announced, and which user of each the peer is; the index is the pool's
    /// number. They were made here, or a buffer of them was passed on.
    pools: Vec<(Arc<PoolMemory>, u32)>,
}

impl Sending {
    /// The sending half of an end that was just made here, with its sockets.
    pub(crate) fn begin(end: Arc<Endpoint>) -> Result<Sending, Corruption> {
        let sending = Sending::resume(end, Cursor::start(0), [0; MAX_SEGMENTS], 0)?;
        Ok(Sending { is_socket_small: true, ..sending })
    }

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
            // It grows when a value needs it.
            arena: Arena::with_capacity(0),
            scratch: Vec::new(),
            last_len: 0,
            liveness: Liveness::new(clock::coarse()),
            reserved: Reserved { place: Place::Nowhere, in_place: false },
            packets,
            is_socket_small: false,
            pools: Vec::new(),
        })
    }

    /// Publishes what is staged and wakes the receiver if it sleeps.
    #[inline(always)]
    pub(crate) fn commit(&mut self) {
        let wake = self.producer.commit();
        self.wake(wake);
    }

    /// The same, where something was just staged.
    #[inline(always)]
    pub(crate) fn commit_staged(&mut self) {
        let wake = self.producer.commit_staged();
        self.wake(wake);
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
        self.get_ready();
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
        self.get_ready();
        self.producer.arm_room_flag(Sleep::Futex);
    }

    /// Arms the flag so that the peer rings the doorbell, for a sender that waits on it alone.
    pub(crate) fn arm_room_doorbell(&mut self) {
        self.commit();
        self.get_ready();
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
        let wake = self.producer.close(kind);
        self.wake(wake);
    }

    /// Frees idle pages; returns how many bytes.
    pub(crate) fn trim(&mut self) -> Result<u64, PostError> {
        // Nothing may be staged after a close.
        let freed = if self.is_finished() { 0 } else { self.vacate()? };
        Ok(freed + self.prefault.reclaim(&self.producer)?)
    }

    /// Returns to the base segment if the lane is empty, and frees the pages of the one that it
    /// leaves; returns how many bytes.
    fn vacate(&mut self) -> Result<u64, PostError> {
        let vacated = self.producer.cursor();
        self.prefault.ensure_control(vacated)?;
        self.prefault.ensure_control(Cursor::start(0))?;
        match self.producer.go_to_base().map_err(|refusal| self.refused(refusal, 0))? {
            Some(wake) => {
                self.wake(wake);
                Ok(self.prefault.reclaim_vacated(vacated)?)
            }
            None => Ok(0),
        }
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

    /// Enlarges the attachment socket before the first packet or the first move: most channels have
    /// neither. Later owners do not: the call could wait for a lock that a former owner keeps.
    fn enlarge_socket(&mut self) {
        if std::mem::take(&mut self.is_socket_small) {
            socket::enlarge(self.end.attachment_socket());
        }
    }

    /// Publishes what is staged, and learns the peer's position, before this end moves.
    pub(crate) fn settle(&mut self) {
        self.enlarge_socket();
        self.commit();
        // The next owner finds an impossible head again.
        let _ = self.producer.unreleased();
    }

    /// When each segment was left, for the next owner.
    pub(crate) fn vacated_at(&self) -> [u64; MAX_SEGMENTS] {
        self.producer.vacated_at()
    }

    pub(super) fn producer(&self) -> &Producer {
        &self.producer
    }

    /// What is needed to debug a hang.
    pub(crate) fn debug_fields(&self, out: &mut fmt::DebugStruct<'_, '_>) {
        let lane = self.producer.memory().lane();
        out.field("cursor", &self.producer.cursor())
            .field("tail", &lane.producer.tail)
            .field("head", &lane.consumer.head)
            .field("sleepers", &lane.sleepers)
            .field("produced", &self.producer.counters())
            .field("segments", &self.producer.geometry().segments())
            .field("trusted", &self.end.is_trusted());
    }

    /// Asks the kernel about the peer.
    fn gone(&self) -> Option<CloseReason> {
        self.end.ask_hang_up();
        self.known_end()
    }

    /// One compare. A fast sender reads the clock once in 64 posts.
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
        let (asks, posts) = self.liveness.check(clock::coarse());
        self.producer.recheck_after(posts);
        if asks {
            self.gone();
        }
        self.spare_fences();
    }

    /// Spares the receiver its fences once this half has not waited for long, and omits those that
    /// the receiver spares it.
    fn spare_fences(&mut self) {
        if self.producer.may_stay_awake() && barrier::is_supported() {
            self.producer.stay_awake();
        }
        if self.producer.fences_in_vain() && barrier::takes_part() {
            self.producer.omit_fences();
        }
    }

    /// Before the flag is armed: from here on the receiver fences.
    fn get_ready(&mut self) {
        if self.producer.get_ready() == Before::Barrier {
            barrier::run();
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
                trace::queue_full(&self.end, len, unread, geometry.limit());
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

#[cfg(test)]
mod tests;
