//! Private copies of short messages, and of the records that come next.
//!
//! A receiver that finds several short messages copies them in one go, headers included, and takes
//! them from the copy one by one: one look at the tail, one copy, and shared memory that is touched
//! once. A message that comes alone is copied without its header.

#[cfg(test)]
mod tests;

use crate::link::payload::{self, Block, Payload};
use crate::ring::consumer::Consumer;
use crate::ring::memory::Plain;
use crate::wire::record::HEADER_LEN;
use std::cell::Cell;
use std::collections::TryReserveError;

/// The memory of the copy. The receiving half counts its messages that are in use, and does not let
/// it be overwritten meanwhile.
///
/// INVARIANT (copy): where the next record is in the copy, its blocks are as they were copied. A
/// message that is copied alone goes to the start, and always ends before the place of the record
/// after it. If the memory was taken, the new one is zeroed there, which is no header of a message.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    blocks: Vec<Block>,
}

impl ReadAhead {
    /// Takes the next message if it is in the copy, of which `in_use` messages are in use.
    #[inline(always)]
    pub(crate) fn take_copied(
        &self,
        consumer: &mut Consumer,
        in_use: &Cell<u32>,
    ) -> Option<Payload> {
        let position = consumer.position();
        self.take_copied_at(consumer, position, in_use).map(|(payload, _)| payload)
    }

    /// The same, if the next message is at `position`; with the position after it.
    #[inline(always)]
    pub(crate) fn take_copied_at(
        &self,
        consumer: &mut Consumer,
        position: u64,
        in_use: &Cell<u32>,
    ) -> Option<(Payload, u64)> {
        let copied = consumer.ahead_at(position)?;
        // Each kind by itself: what both do afterwards would ask again which it is.
        if let Some(words) = Payload::short_words(&self.blocks, copied.start) {
            let next = consumer.take_copied_at(position, HEADER_LEN, words[0] as u32);
            return Some((Payload::short(words), next));
        }
        let (payload, record) = Payload::ahead(&self.blocks, copied)?;
        in_use.set(in_use.get() + 1);
        let next = consumer.take_copied_at(position, record, payload.len());
        Some((payload, next))
    }

    /// Copies the records that come next, if there are several and the first is short. The memory
    /// must be free; it is allocated if there is none. Without it they are received one by one.
    pub(crate) fn copy_run(&mut self, consumer: &mut Consumer) {
        // It is closed behind the last copy.
        consumer.find_window();
        let Some((len, record)) = next(consumer) else { return };
        let unread = consumer.unread();
        if len > MOST_SHORT || unread <= record {
            return;
        }
        if self.blocks.is_empty() && self.allocate().is_err() {
            return;
        }
        let most = (consumer.capacity() / LEAST_RUNS).max(record);
        let count = unread.min(most) as usize / BLOCK;
        let copy = &mut self.blocks[..count.min(BLOCKS)];
        payload::copy_records(consumer.window(), copy);
        consumer.copied_ahead(copy.len());
    }

    /// Copies a message. `None` if it is too long.
    #[inline(always)]
    pub(crate) fn copy(&mut self, message: &Plain<'_>) -> Option<Payload> {
        Payload::alone(message, &mut self.blocks)
    }

    /// Whether a message of `len` bytes fits.
    pub(crate) fn fits(len: usize) -> bool {
        len <= BLOCKS * BLOCK
    }

    /// Allocates the memory, if that was not done yet.
    pub(crate) fn allocate(&mut self) -> Result<(), TryReserveError> {
        self.blocks.try_reserve_exact(BLOCKS - self.blocks.len())?;
        self.blocks.resize(BLOCKS, Block::default());
        Ok(())
    }

    /// Takes the memory, of which one message is in use.
    pub(crate) fn take_memory(&mut self) -> Vec<Block> {
        std::mem::take(&mut self.blocks)
    }
}

/// The length of the next message, if the fast path would take it, and of its record.
fn next(consumer: &mut Consumer) -> Option<(u32, u64)> {
    if !consumer.has_known() {
        consumer.look_at_tail()?;
    }
    match consumer.next_short() {
        Some([first, _]) => Some((first as u32, HEADER_LEN)),
        None => consumer.next_plain().map(|message| (message.header() as u32, message.record())),
    }
}

/// Bytes of a block.
const BLOCK: usize = size_of::<Block>();
/// Blocks of the copy: a page.
const BLOCKS: usize = 4096 / BLOCK;
/// The longest message that is read ahead: of longer ones too much of a page would be copied twice.
/// Also the longest that is copied even on a port that trusts its peer: it takes fewer instructions
/// than to keep a place in the ring.
pub(crate) const MOST_SHORT: u32 = 512;
/// A copy is no larger than this part of a segment, as its bytes are released together.
const LEAST_RUNS: u64 = 8;
