//! Releases of a consumer that takes several messages in a row.

use super::Consumer;
use crate::ring::notifier::Wake;
use crate::sync::{Ordering, Site, step};

impl Consumer {
    /// Fast path of `release` in a batch: gives everything taken back, and leaves the look for a
    /// producer that waits for it to `end_batch`, which the caller makes before it waits or stops.
    /// Returns whether it did; not if nothing more is known, or if it sees a sleeper all the same.
    #[inline(always)]
    pub(crate) fn release_quietly(&mut self) -> bool {
        let lane = self.window.memory().lane();
        // Relaxed: a hint that saves a sleeper the wait; the release that follows looks again.
        let sleeps = || lane.sleepers.room_sleeper.load(Ordering::Relaxed) != 0;
        if self.cursor.position == self.tail || sleeps() {
            return false;
        }
        self.released = self.cursor.position;
        self.publish_head();
        self.owes_look = true;
        true
    }

    /// Ends a batch: looks for a waiting producer, if a quiet release has not.
    pub(crate) fn end_batch(&mut self) -> Wake {
        if std::mem::take(&mut self.owes_look) && step(Site::LookAfterBatch) {
            return self.release(self.released);
        }
        Wake::NoSleeper
    }
}
