//! Where the messages of a receiving half are while they are in use: private copies, and places in
//! the ring.

use crate::link::payload::Block;
use crate::os::reaper;
use std::collections::{TryReserveError, VecDeque};

/// Private memory for messages that are long, or come while others are in use: one entry for each
/// of them. Free entries keep their memory, up to a bound, for later messages. A handle is the
/// number of an entry.
#[derive(Debug, Default)]
pub(crate) struct CopySlab {
    /// The buffers, all of length 0: a message in use is found by its start.
    entries: Vec<Vec<Block>>,
    /// The last one is used next: its memory is warm.
    free: Vec<u64>,
    /// Bytes of the buffers of free entries.
    idle: usize,
    /// Long copies were made in chunks: their memory is not freed at once either.
    is_shared: bool,
}

impl CopySlab {
    /// A free entry; it may have too little memory.
    pub(crate) fn next(&mut self) -> Option<(u64, &mut Vec<Block>)> {
        let entry = *self.free.last()?;
        Some((entry, &mut self.entries[entry as usize]))
    }

    /// Takes the entry that `next` has returned.
    pub(crate) fn take(&mut self) {
        if let Some(entry) = self.free.pop() {
            self.idle -= self.bytes_of(entry);
        }
    }

    /// Gives the entry that is taken next room for a message of `len` bytes.
    pub(crate) fn make_room(&mut self, len: usize) -> Result<(), TryReserveError> {
        let count = len.div_ceil(size_of::<Block>());
        let entry = self.free_entry();
        let before = self.bytes_of(entry);
        self.entries[entry as usize].try_reserve_exact(count)?;
        self.idle += self.bytes_of(entry) - before;
        Ok(())
    }

    /// A free entry with this memory instead of its own; `take` takes it.
    pub(crate) fn next_with(&mut self, blocks: Vec<Block>) -> (u64, &mut Vec<Block>) {
        let entry = self.free_entry();
        self.idle -= self.bytes_of(entry);
        self.entries[entry as usize] = blocks;
        self.is_shared = true;
        self.idle += self.bytes_of(entry);
        (entry, &mut self.entries[entry as usize])
    }

    /// The entry that is taken next.
    fn free_entry(&mut self) -> u64 {
        if self.free.is_empty() {
            self.entries.push(Vec::new());
            self.free.push(self.entries.len() as u64 - 1);
        }
        self.free[self.free.len() - 1]
    }

    /// Takes the memory of an entry that is in use. The entry itself is put back later, empty.
    pub(crate) fn take_memory(&mut self, entry: u64) -> Vec<Block> {
        std::mem::take(&mut self.entries[entry as usize])
    }

    pub(crate) fn put(&mut self, entry: u64) {
        let idle = self.idle + self.bytes_of(entry);
        self.free.push(entry);
        if idle <= MOST_POOLED_BYTES && self.free.len() <= MOST_POOLED {
            self.idle = idle;
        } else {
            self.shrink(entry);
        }
    }

    #[cold]
    fn shrink(&mut self, entry: u64) {
        let memory = std::mem::take(&mut self.entries[entry as usize]);
        if self.is_shared {
            free(memory);
        }
        if self.free.len() == self.entries.len() && self.entries.len() > MOST_ENTRIES {
            (self.entries, self.free, self.idle) = (Vec::new(), Vec::new(), 0);
        }
    }

    fn bytes_of(&self, entry: u64) -> usize {
        self.entries[entry as usize].capacity() * size_of::<Block>()
    }
}

/// Frees a copy, a long one in another thread: the kernel takes milliseconds to free 32 MiB, in
/// which a loop or a task serves no other port.
pub(crate) fn free(memory: Vec<Block>) {
    if memory.capacity() * size_of::<Block>() > MOST_POOLED_BYTES {
        reaper::free_later(Box::new(memory));
    }
}

/// Messages that are in use in the ring, oldest first.
///
/// Usually there is one at a time, which costs no more than a word.
#[derive(Debug, Default)]
pub(crate) struct LentRecords {
    /// Whether exactly one is in use, lent when none was.
    is_sole: bool,
    /// Where that one starts.
    sole: u64,
    /// Otherwise: where each starts, and whether it was given back.
    positions: VecDeque<(u64, bool)>,
    /// Number of the oldest.
    first: u64,
}

impl LentRecords {
    #[inline(always)]
    pub(crate) fn lend(&mut self, start: u64) -> u64 {
        if self.is_empty() {
            (self.is_sole, self.sole) = (true, start);
            return self.first;
        }
        self.lend_more(start)
    }

    #[cold]
    fn lend_more(&mut self, start: u64) -> u64 {
        if std::mem::take(&mut self.is_sole) {
            self.positions.push_back((self.sole, false));
        }
        self.positions.push_back((start, false));
        self.first + self.positions.len() as u64 - 1
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        !self.is_sole && self.positions.is_empty()
    }

    /// Gives the sole one back; returns whether there was one.
    #[inline(always)]
    pub(crate) fn give_back_sole(&mut self) -> bool {
        let was_sole = std::mem::take(&mut self.is_sole);
        self.first += u64::from(was_sole);
        was_sole
    }

    /// Gives one back. Returns the position up to which everything is free now, if that has moved
    /// and some are still in use: the start of the oldest, after the control records that lead to
    /// it.
    pub(crate) fn give_back(&mut self, number: u64) -> Option<u64> {
        if self.give_back_sole() {
            return None;
        }
        self.positions[(number - self.first) as usize].1 = true;
        let before = self.first;
        while let Some((_, true)) = self.positions.front() {
            self.positions.pop_front();
            self.first += 1;
        }
        let oldest = self.positions.front().map(|(start, _)| *start);
        oldest.filter(|_| self.first != before)
    }
}

/// The most buffers, and bytes in them, that are kept for later messages.
const MOST_POOLED: usize = 16;
const MOST_POOLED_BYTES: usize = 2 << 20;
/// The number of entries beyond which all are dropped once none is in use.
const MOST_ENTRIES: usize = 1 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes that many entries at once, each with room for `len` bytes, and gives all of them back.
    fn use_at_once(slab: &mut CopySlab, count: u64, len: usize) {
        let mut taken = Vec::new();
        for _ in 0..count {
            slab.make_room(len).expect("there is memory");
            let entry = slab.next().expect("there is a free entry").0;
            slab.take();
            taken.push(entry);
        }
        taken.into_iter().for_each(|entry| slab.put(entry));
    }

    fn kept(slab: &CopySlab) -> (usize, usize) {
        let buffers = slab.entries.iter().filter(|buffer| buffer.capacity() > 0);
        let bytes = buffers.clone().map(|buffer| buffer.capacity() * size_of::<Block>());
        (buffers.count(), bytes.sum())
    }

    #[test]
    fn copies_that_were_given_back_keep_few_buffers_and_few_bytes() {
        let mut slab = CopySlab::default();
        use_at_once(&mut slab, 100, 64);
        assert!((1..=MOST_POOLED).contains(&kept(&slab).0), "{:?}", kept(&slab));
        use_at_once(&mut slab, 4, MOST_POOLED_BYTES / 2);
        assert!((1..=MOST_POOLED_BYTES).contains(&kept(&slab).1), "{:?}", kept(&slab));
        use_at_once(&mut slab, 1, MOST_POOLED_BYTES + 1);
        assert!(kept(&slab).1 <= MOST_POOLED_BYTES, "{:?}", kept(&slab));
        assert_eq!(slab.idle, kept(&slab).1);
    }

    #[test]
    fn many_copies_are_forgotten_once_none_is_in_use() {
        let mut slab = CopySlab::default();
        use_at_once(&mut slab, MOST_ENTRIES as u64 + 1, 64);
        assert!(slab.entries.len() <= MOST_ENTRIES, "{} entries", slab.entries.len());
    }

    #[test]
    fn a_slab_counts_the_bytes_of_free_entries_whatever_becomes_of_their_memory() {
        let mut slab = CopySlab::default();
        slab.make_room(64).expect("there is memory");
        slab.make_room(640).expect("there is memory");
        assert_eq!(slab.idle, kept(&slab).1);
        let (entry, _) = slab.next_with(vec![Block::default(); 4]);
        assert_eq!((slab.idle, kept(&slab).1), (4 * size_of::<Block>(), 4 * size_of::<Block>()));
        slab.take();
        assert_eq!(slab.idle, 0);
        assert_eq!(slab.take_memory(entry).len(), 4);
        slab.put(entry);
        assert_eq!((slab.idle, slab.free.as_slice()), (0, &[entry][..]));
    }

    #[test]
    fn as_many_entries_as_are_kept_outlive_their_messages() {
        let mut slab = CopySlab::default();
        use_at_once(&mut slab, MOST_ENTRIES as u64, 64);
        assert_eq!((slab.entries.len(), slab.free.len()), (MOST_ENTRIES, MOST_ENTRIES));
    }

    /// Every order in which four messages of one moment are given back, after some that came alone.
    #[test]
    fn bytes_are_free_up_to_the_oldest_message_in_use_in_whatever_order_they_come_back() {
        for order in 0..4 * 3 * 2 {
            let (mut records, mut starts) = (LentRecords::default(), vec![100, 200, 300, 400]);
            for start in [10, 20] {
                let number = records.lend(start);
                assert!(!records.is_empty());
                assert_eq!(records.give_back(number), None);
                assert!(records.is_empty());
            }
            let numbers: Vec<u64> = starts.iter().map(|start| records.lend(*start)).collect();
            assert_eq!(numbers, [2, 3, 4, 5]);
            let (mut left, mut choice, mut oldest) = (numbers, order, 100);
            while !left.is_empty() {
                assert!(!records.is_empty());
                let at = choice % left.len();
                choice /= left.len();
                starts.remove(at);
                let free = records.give_back(left.remove(at));
                // Of the last one the receiver releases everything that it has passed.
                let next = starts.first().copied().filter(|next| *next != oldest);
                assert_eq!(free, next, "{order}: {starts:?}");
                oldest = next.unwrap_or(oldest);
            }
            assert!(records.is_empty());
            assert_eq!(records.lend(500), 6);
            assert!(records.give_back_sole());
            assert!(!records.give_back_sole());
        }
    }
}
