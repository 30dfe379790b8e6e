//! What a producer does when a record has no room: it hops, shrinks, or waits; and how much
//! the consumer has not released.

use super::{Producer, Refusal};
use crate::ring::awake::Before;
use crate::ring::cursor::distance;
use crate::ring::notifier::{self, Fences, Sleep, Wait, Wake};
use crate::sync::{Ordering, Site, step};
use crate::wire::record::{Header, record_len};

impl Producer {
    /// Leaves the current segment although the record fits no other one, so that it can be entered
    /// at its start. Needed if only this segment holds a record of `len` payload bytes, but not at
    /// every index. The jump is committed; returns whether there was one.
    pub(crate) fn hop(&mut self, len: u64) -> Option<Wake> {
        let segment = self.state.hop_target(record_len(len))?;
        self.write_control(Header::Jump { segment });
        Some(self.commit())
    }

    /// Whether a record of `len` payload bytes waits for a hop.
    pub(crate) fn can_hop(&self, len: u64) -> bool {
        self.state.hop_target(record_len(len)).is_some()
    }

    /// Jumps to the base segment now, if the lane is empty after a burst. Commits. Returns whether
    /// it jumped.
    pub(crate) fn go_to_base(&mut self) -> Result<Option<Wake>, Refusal> {
        self.refresh_head(Site::HeadAtShrink)?;
        if self.state.cursor.segment == 0 || self.state.head != self.state.cursor.position {
            return Ok(None);
        }
        self.write_control(Header::Jump { segment: 0 });
        Ok(Some(self.commit()))
    }

    /// Before `prepare_wait` and `arm_room_flag`: tells the consumer to fence, if it may omit that.
    pub(crate) fn get_ready(&mut self) -> Before {
        let flag = &self.window.memory().lane().sleepers.room_sleeper;
        self.awake.get_ready(flag, self.counters.messages)
    }

    /// Whether this end has not waited for long; see [`Awake`](crate::ring::awake::Awake).
    pub(crate) fn may_stay_awake(&self) -> bool {
        self.awake.is_due(self.counters.messages)
    }

    /// Tells the consumer to omit its fences until the next `get_ready`.
    pub(crate) fn stay_awake(&mut self) {
        self.awake.stay_awake(&self.window.memory().lane().sleepers.room_sleeper);
    }

    /// Whether the consumer is awake, and this end fences all the same.
    pub(crate) fn fences_in_vain(&self) -> bool {
        self.fences == Fences::ALWAYS
            && notifier::is_awake(&self.window.memory().lane().sleepers.message_sleeper)
    }

    /// Omits the fence of each look for a consumer that is awake: the threads of this process take
    /// part in its barriers.
    pub(crate) fn omit_fences(&mut self) {
        self.fences = Fences::UNLESS_AWAKE;
    }

    /// Second check of a producer that waits for room for `len` payload bytes.
    pub(crate) fn prepare_wait(&mut self, len: u64, sleep: Sleep) -> Wait {
        let flag = &self.memory().lane().sleepers.room_sleeper;
        notifier::arm(flag, sleep);
        let full = matches!(self.plan(len), Err(Refusal::Full));
        let could_hop =
            || step(Site::LookForHop) && self.state.hop_target(record_len(len)).is_some();
        if full && !could_hop() && self.reader_gone() == 0 {
            return Wait::Sleep;
        }
        self.cancel_wait();
        Wait::Ready
    }

    /// Only arms the flag: the caller knows what else to look at.
    pub(crate) fn arm_room_flag(&self, sleep: Sleep) {
        notifier::arm(&self.memory().lane().sleepers.room_sleeper, sleep);
    }

    /// Takes the flag back after a sleep that did not end by a wake.
    pub(crate) fn cancel_wait(&self) {
        notifier::disarm(&self.memory().lane().sleepers.room_sleeper);
    }

    /// What the consumer's side wrote when it left: 0 while it is there.
    #[inline]
    pub(crate) fn reader_gone(&self) -> u32 {
        // Relaxed: it publishes nothing; a sleeper's look at it is ordered by the fences.
        self.memory().lane().sleepers.reader_gone.load(Ordering::Relaxed)
    }

    /// Counts one post that found the lane full.
    pub(crate) fn count_full(&mut self) {
        self.counters.full = self.counters.full.wrapping_add(1);
        self.memory().lane().produced.full.store(self.counters.full, Ordering::Relaxed);
    }

    /// Bytes that are committed and not released yet.
    pub(crate) fn unreleased(&mut self) -> Result<u64, Refusal> {
        self.refresh_head(Site::ReadHead)?;
        Ok(distance(self.committed, self.state.head))
    }

    /// Messages that are committed and that the consumer has not taken, by its own count. That
    /// count is input, and may be anything; it is bounded by what was committed.
    pub(crate) fn backlog_messages(&self) -> u64 {
        // Relaxed: a number for people.
        let taken = self.memory().lane().consumed.messages.load(Ordering::Relaxed);
        self.committed_messages.saturating_sub(taken)
    }

    /// Whether segment `k` holds nothing that the consumer may still read.
    pub(crate) fn is_free(&self, segment: u32) -> bool {
        self.state.is_free(segment)
    }
}
