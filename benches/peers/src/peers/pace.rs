//! A word beside a ring that overwrites what is unread: with it a writer waits for its reader.

use std::hint::spin_loop;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use crate::harness::shared::Shared;

/// The writer's side.
pub struct Leader {
    taken: Shared<AtomicU64>,
    sent: u64,
    /// The least that the reader has taken, as far as is known.
    known: u64,
    most: u64,
}

impl Leader {
    /// For a ring that holds `most` messages.
    pub fn new(taken: Shared<AtomicU64>, most: u64) -> Self {
        Self { taken, sent: 0, known: 0, most }
    }

    /// Counts one more message; waits until it overwrites none that is unread.
    #[inline]
    pub fn wait_for_room(&mut self) {
        self.sent += 1;
        while self.sent - self.known > self.most {
            // Acquire: pairs with the Release in `publish`; the reader is done with these.
            self.known = self.taken.load(Acquire);
            spin_loop();
        }
    }
}

/// The reader's side.
pub struct Taken {
    word: Shared<AtomicU64>,
    taken: u64,
    published: u64,
    /// Told at the latest after so many.
    step: u64,
}

impl Taken {
    /// For a ring that holds `most` messages.
    pub fn new(word: Shared<AtomicU64>, most: u64) -> Self {
        Self { word, taken: 0, published: 0, step: most.div_ceil(8) }
    }

    /// Counts a message that was read.
    #[inline]
    pub fn add_one(&mut self) {
        self.taken += 1;
        if self.taken - self.published >= self.step {
            self.publish();
        }
    }

    /// Tells the writer; called when nothing is left to read.
    #[inline]
    pub fn publish(&mut self) {
        if self.published != self.taken {
            self.published = self.taken;
            // Release: pairs with the Acquire in `wait_for_room`; our reads are done.
            self.word.store(self.taken, Release);
        }
    }
}
