//! What a producer counts, for people and tools: nothing is decided by these numbers.

use crate::sync::Ordering;
use crate::wire::layout::ProducedLine;

/// The producer's own counts, published with each commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub messages: u64,
    // Between the two, so that one instruction adds to each: a compiler that finds them side by
    // side adds to both at once, which takes seven.
    pub full: u64,
    pub bytes: u64,
    pub growth: u64,
    pub wakes: u64,
}

impl Counters {
    /// Reads counters that a former owner of this end, or the peer, has left.
    ///
    /// Relaxed, all: numbers for people; nothing is decided by them.
    pub(crate) fn read(line: &ProducedLine) -> Counters {
        Counters {
            messages: line.messages.load(Ordering::Relaxed),
            bytes: line.bytes.load(Ordering::Relaxed),
            full: line.full.load(Ordering::Relaxed),
            growth: line.growth.load(Ordering::Relaxed),
            wakes: line.wakes.load(Ordering::Relaxed),
        }
    }

    /// Publishes what changes with each message.
    #[inline(always)]
    pub(crate) fn publish(&self, line: &ProducedLine) {
        // Relaxed, both: numbers for people; nothing is decided by them.
        line.messages.store(self.messages, Ordering::Relaxed);
        line.bytes.store(self.bytes, Ordering::Relaxed);
    }
}
