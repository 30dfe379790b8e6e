//! How a consumer waits for a message, and how it leaves its lane.

use super::Consumer;
use crate::error::Corruption;
use crate::ring::awake::Before;
use crate::ring::notifier::{self, Fences, Sleep, Wait, Wake};
use crate::sync::{Ordering, Site, step};
use crate::wire::record::CloseKind;

impl Consumer {
    /// Before `prepare_wait`: tells the producer to fence, if it may omit that.
    pub(crate) fn get_ready(&mut self) -> Before {
        let flag = &self.window.memory().lane().sleepers.message_sleeper;
        self.awake.get_ready(flag, self.messages)
    }

    /// Whether this end has not slept for long; see [`Awake`](crate::ring::awake::Awake).
    pub(crate) fn may_stay_awake(&self) -> bool {
        self.awake.is_due(self.messages)
    }

    /// Tells the producer to omit its fences until the next `get_ready`.
    pub(crate) fn stay_awake(&mut self) {
        self.awake.stay_awake(&self.window.memory().lane().sleepers.message_sleeper);
    }

    /// Whether the producer is awake, and this end fences all the same.
    pub(crate) fn fences_in_vain(&self) -> bool {
        self.fences == Fences::ALWAYS
            && notifier::is_awake(&self.window.memory().lane().sleepers.room_sleeper)
    }

    /// Omits the fence of each look for a producer that is awake: the threads of this process take
    /// part in its barriers.
    pub(crate) fn omit_fences(&mut self) {
        self.fences = Fences::UNLESS_AWAKE;
    }

    /// Second check of a consumer that waits for a message, after `get_ready`.
    pub(crate) fn prepare_wait(&mut self, sleep: Sleep) -> Result<Wait, Corruption> {
        notifier::arm(&self.window.memory().lane().sleepers.message_sleeper, sleep);
        let look = self.refresh_tail();
        if look.is_ok() && self.cursor.position == self.tail && !self.sees_end() {
            return Ok(Wait::Sleep);
        }
        self.cancel_wait();
        look.map(|_| Wait::Ready)
    }

    /// Takes the flag back after a sleep that did not end by a wake.
    pub(crate) fn cancel_wait(&self) {
        notifier::disarm(&self.window.memory().lane().sleepers.message_sleeper);
    }

    /// Says that this lane is no longer read, and returns whether the producer waits for room in
    /// it.
    pub(crate) fn close(&mut self, kind: CloseKind) -> Wake {
        let sleepers = &self.window.memory().lane().sleepers;
        // Relaxed: it publishes nothing; ordered before the poll by the fence.
        sleepers.reader_gone.store(kind.code(), Ordering::Relaxed);
        // The fence in `look` pairs with the one in `arm`, as for a release.
        let wake = notifier::look_strictly(&sleepers.room_sleeper, Site::FenceReaderGone);
        self.count(wake)
    }

    /// Whether the producer has ended the lane. A waiter must not sleep then: no wake follows.
    fn sees_end(&self) -> bool {
        self.end.is_some() && step(Site::LookForEnd)
    }

    #[inline]
    pub(super) fn count(&mut self, wake: Wake) -> Wake {
        if wake != Wake::NoSleeper {
            self.wakes = self.wakes.wrapping_add(1);
            // Relaxed: a number for people.
            self.window.memory().lane().consumed.wakes.store(self.wakes, Ordering::Relaxed);
        }
        wake
    }
}
