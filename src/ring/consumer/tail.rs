//! The tail as input: loaded once and checked; and what its lowest bits say.

use super::Consumer;
use crate::error::Corruption;
use crate::ring::cursor::distance;
use crate::sync::{Ordering, Site, ordering};
use crate::wire::layout::RECORD_ALIGN;
use crate::wire::record::CloseKind;

impl Consumer {
    /// Loads the tail; returns how many bytes were newly committed.
    #[inline]
    pub(super) fn refresh_tail(&mut self) -> Result<u64, Corruption> {
        let lane = self.window.memory().lane();
        // Acquire: pairs with the Release in `Producer::commit`; the records before it are whole.
        let tail = lane.producer.tail.load(ordering(Site::ReadTail, Ordering::Acquire));
        let committed = distance(tail, self.tail);
        if committed > self.most_committed() || !committed.is_multiple_of(RECORD_ALIGN) {
            return self.refresh_tail_slow(tail);
        }
        self.tail = tail;
        Ok(committed)
    }

    /// Fast path of `refresh_tail`, when everything known was taken. `None` if the slow path has to
    /// look at the tail.
    ///
    /// As strict as the slow path if everything taken was released. Otherwise the peer may say more
    /// than fits behind what was not: messages that are lent, for which it is trusted, or those of
    /// a batch, which were copied. Records are compared with the tail and the segment in any case.
    #[inline(always)]
    pub(crate) fn look_at_tail(&mut self) -> Option<()> {
        let lane = self.window.memory().lane();
        // Acquire: pairs with the Release in `Producer::commit`; the records before it are whole.
        let tail = lane.producer.tail.load(ordering(Site::ReadTail, Ordering::Acquire));
        // In units of records, less one: one comparison finds what is nothing, too much, or
        // misaligned. After nothing, a look at the header would take its line away from the
        // producer, which is about to write it.
        let units = distance(tail, self.tail).rotate_right(RECORD_ALIGN.trailing_zeros());
        if units.wrapping_sub(1) >= self.most_units {
            return None;
        }
        self.tail = tail;
        Some(())
    }

    /// Slow path of `refresh_tail`: a tail with the end of the lane in its lowest bits, or one that
    /// no producer stores.
    #[cold]
    fn refresh_tail_slow(&mut self, tail: u64) -> Result<u64, Corruption> {
        let code = tail % RECORD_ALIGN;
        let committed = distance(tail - code, self.tail);
        let room = self.most_committed();
        if committed > room {
            return Err(Corruption::new("bytes newly committed by the producer", committed, room));
        }
        let end = CloseKind::from_code(code);
        if end.is_none() {
            return Err(Corruption::misaligned("position of the tail", tail, RECORD_ALIGN));
        }
        (self.tail, self.end) = (tail - code, end);
        Ok(committed)
    }

    /// The most bytes that the producer can have committed since the last look.
    #[inline(always)]
    fn most_committed(&self) -> u64 {
        self.geometry.limit().saturating_sub(distance(self.tail, self.released))
    }
}
