//! Releases: how a consumer gives bytes back, after each message or after several in a row.

use super::Consumer;
use crate::ring::notifier::{self, Wake};
use crate::sync::{Ordering, Site, ordering, step};
use crate::wire::layout::LaneHeader;

impl Consumer {
    /// Gives everything before `position` back to the producer, and returns whether it waits for
    /// that.
    ///
    /// Control records that follow are given back as well: a producer may wait for exactly those
    /// while this end is busy with the message before them.
    #[inline(always)]
    pub(crate) fn release(&mut self, position: u64) -> Wake {
        self.released = position;
        if position == self.cursor.position {
            return self.release_all();
        }
        self.publish_and_look()
    }

    /// Gives everything that was passed back to the producer; see `release`.
    #[inline(always)]
    pub(crate) fn release_all(&mut self) -> Wake {
        self.released = self.cursor.position;
        if step(Site::ReleaseControls) && self.pass_known_controls() {
            self.released = self.cursor.position;
        }
        self.publish_and_look()
    }

    #[inline(always)]
    fn publish_and_look(&mut self) -> Wake {
        let lane = self.window.memory().lane();
        self.publish_head(lane);
        let wake = notifier::look(&lane.sleepers.room_sleeper, self.fences, Site::FenceBeforeLook);
        self.count(wake)
    }

    #[inline(always)]
    fn publish_head(&self, lane: &LaneHeader) {
        // All loaded first: after a store to the lane a compiler loads the others again.
        let (messages, bytes, released) = (self.messages, self.bytes, self.released);
        // Relaxed, both: numbers for people; nothing is decided by them.
        lane.consumed.messages.store(messages, Ordering::Relaxed);
        lane.consumed.bytes.store(bytes, Ordering::Relaxed);
        // Release: pairs with the Acquire in `Producer::refresh_head`; the bytes have been read.
        lane.consumer.head.store(released, ordering(Site::PublishHead, Ordering::Release));
    }

    /// Whether bytes were passed that are not released yet.
    #[inline]
    pub(crate) fn has_unreleased(&self) -> bool {
        self.released != self.cursor.position
    }

    /// Fast path of `release` in a batch: gives everything passed back, and leaves the look for a
    /// producer that waits for it to `end_batch`, which the caller makes before it waits or stops.
    /// Returns whether it did; not if nothing more is known, or if it sees a sleeper all the same.
    pub(crate) fn release_quietly(&mut self) -> bool {
        let lane = self.window.memory().lane();
        // A hint that saves a sleeper the wait; the release that follows looks again.
        let sleeps = || notifier::is_armed(&lane.sleepers.room_sleeper);
        if self.cursor.position == self.tail || sleeps() {
            return false;
        }
        self.released = self.cursor.position;
        self.publish_head(self.window.memory().lane());
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
