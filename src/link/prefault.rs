//! Pages allocated ahead of the producer, and given back when idle.
//!
//! Writing a shared page for the first time needs memory, and without memory the writer gets a
//! signal. So the producer has its pages allocated before it writes, and running out of memory is
//! an error of the post.

use crate::error::SystemError;
use crate::link::payload;
use crate::link::region::Region;
use crate::ring::cursor::Cursor;
use crate::ring::producer::Producer;
use crate::ring::route::Plan;
use crate::wire::layout::MAX_SEGMENTS;
use crate::wire::record::HEADER_LEN;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The pages of one lane: the prefix of each segment that is known to have some, and when each
/// segment was last in use.
pub(crate) struct Prefault {
    region: Arc<Region>,
    lane: usize,
    made: [u64; MAX_SEGMENTS],
    used: [Instant; MAX_SEGMENTS],
}

impl Prefault {
    pub(crate) fn new(region: Arc<Region>, lane: usize) -> Prefault {
        let used = [Instant::now(); MAX_SEGMENTS];
        Prefault { region, lane, made: [0; MAX_SEGMENTS], used }
    }

    /// Allocates the pages that `plan`, made at `cursor`, will write to. One or two compares if
    /// they exist.
    #[inline]
    pub(crate) fn ensure(&mut self, plan: &Plan, cursor: Cursor) -> Result<(), SystemError> {
        if plan.turns() {
            // The control record that leads there is written here.
            self.ensure_control(cursor)?;
        }
        let (segment, end) = plan.extent(self.region.geometry());
        let made = self.made[segment as usize];
        if end <= made {
            return Ok(());
        }
        let step = if made < LARGE_STEP { SMALL_STEP } else { LARGE_STEP };
        self.make(segment, made, end.next_multiple_of(step))
    }

    /// Allocates the pages for a control record at `cursor`, and no more: it may be the only record
    /// that is ever written there.
    pub(crate) fn ensure_control(&mut self, cursor: Cursor) -> Result<(), SystemError> {
        let end = cursor.index(self.region.geometry()) + HEADER_LEN;
        let made = self.made[cursor.segment as usize];
        if end <= made {
            return Ok(());
        }
        self.make(cursor.segment, made, end.next_multiple_of(CONTROL_STEP))
    }

    /// Bytes of a segment that have pages; those of the current one stay.
    pub(crate) fn made(&self, segment: u32) -> u64 {
        self.made[segment as usize]
    }

    /// Frees the pages of all free segments except segment 0. Returns bytes.
    pub(crate) fn reclaim(&mut self, producer: &Producer) -> Result<u64, SystemError> {
        self.reclaim_if(producer, |_| true)
    }

    fn reclaim_if(
        &mut self,
        producer: &Producer,
        may_go: impl Fn(Instant) -> bool,
    ) -> Result<u64, SystemError> {
        let geometry = *self.region.geometry();
        let mut freed = 0;
        for segment in 1..geometry.segments() {
            let made = self.made[segment as usize];
            let used = self.used[segment as usize];
            if made == 0 || !producer.is_free(segment) || !may_go(used) {
                continue;
            }
            let start = geometry.segment_offset(segment);
            freed += payload::remove_free(&self.region, self.lane, start..start + made)?;
            self.made[segment as usize] = 0;
        }
        Ok(freed)
    }

    /// Frees the pages of every free segment that was not in use for [`IDLE`], except segment 0:
    /// `from` and `to` are in use at `now`. Returns bytes.
    ///
    /// The delay keeps the pages for the next burst of a stream: giving a large segment back and
    /// faulting it in again costs many times the burst itself.
    pub(crate) fn reclaim_idle(
        &mut self,
        producer: &Producer,
        (from, to): (u32, u32),
        now: Instant,
    ) -> Result<u64, SystemError> {
        self.used[from as usize] = now;
        self.used[to as usize] = now;
        self.reclaim_if(producer, |used| now.saturating_duration_since(used) >= IDLE)
    }

    /// Whether a segment other than `current` and segment 0 has pages, which may become idle.
    pub(crate) fn is_spread(&self, current: u32) -> bool {
        (1..).zip(&self.made[1..]).any(|(segment, &made)| made != 0 && segment != current)
    }

    /// As if no segment had been in use for [`IDLE`].
    #[cfg(test)]
    pub(crate) fn age(&mut self) {
        self.used = self.used.map(|used| used - IDLE);
    }

    /// Frees the pages of the segment that a drained producer has just left by the jump at
    /// `vacated`, for which `ensure_control` was called: all except the jump's own.
    pub(crate) fn reclaim_vacated(&mut self, vacated: Cursor) -> Result<u64, SystemError> {
        let geometry = self.region.geometry();
        let made = std::mem::take(&mut self.made[vacated.segment as usize]);
        let start = geometry.segment_offset(vacated.segment);
        let jump = vacated.offset(geometry);
        let before = payload::remove_free(&self.region, self.lane, start..jump)?;
        let behind = jump + HEADER_LEN..start + made;
        Ok(before + payload::remove_free(&self.region, self.lane, behind)?)
    }

    /// Allocates the pages of a segment from `made` up to `target`, or up to its end.
    #[cold]
    fn make(&mut self, segment: u32, made: u64, target: u64) -> Result<(), SystemError> {
        let geometry = self.region.geometry();
        let target = target.min(geometry.segment_len(segment));
        let start = geometry.segment_offset(segment);
        self.region.populate(self.lane, start + made..start + target)?;
        self.made[segment as usize] = target;
        Ok(())
    }
}

/// How long a segment of a trusted lane must be unused before its pages are given back.
pub(crate) const IDLE: Duration = Duration::from_secs(1);
/// Bytes allocated at a time for a control record: a page.
const CONTROL_STEP: u64 = 4 << 10;
/// Bytes allocated at a time at first: a pair that posts little uses little.
const SMALL_STEP: u64 = 16 << 10;
/// Bytes allocated at a time once a segment is used heavily. A larger step would delay one post for
/// longer; a smaller one costs more calls for the same work.
const LARGE_STEP: u64 = 64 << 10;

#[cfg(test)]
mod tests;
