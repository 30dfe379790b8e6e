//! A ring and its notifier: one direction of a pair, from its beginning.

use crate::ring::consumer::Consumer;
use crate::ring::cursor::Cursor;
use crate::ring::memory::Memory;
use crate::ring::producer::Producer;
use crate::ring::segment::Geometry;
use crate::wire::layout::MAX_SEGMENTS;

/// Both ends of a fresh lane over zeroed memory; its first record will stand at `start`.
///
/// A start other than 0 has to be in the shared words before either side looks.
pub(crate) fn fresh(memory: &Memory, geometry: Geometry, start: u64) -> (Producer, Consumer) {
    use crate::sync::Ordering::Relaxed;
    // Relaxed: the lane is handed to its two users by whatever gives them this pair.
    memory.lane().producer.tail.store(start, Relaxed);
    memory.lane().consumer.head.store(start, Relaxed);
    let producer =
        Producer::resume(memory.clone(), geometry, Cursor::start(start), [start; MAX_SEGMENTS])
            .expect("head is where it was just stored");
    (producer, Consumer::resume(memory.clone(), geometry, Cursor::start(start)))
}
