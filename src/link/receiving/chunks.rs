//! Copies long messages in chunks: a caller that also serves other ports serves those between two
//! chunks.
//!
//! Nothing else depends on a chunk. The message stays in the lane until all of it was copied, so it
//! can be discarded, moved with its end, or copied at once from where the chunks stop.

#[cfg(test)]
mod tests;

use super::{Next, Receiving};
use crate::error::RecvError;
use crate::link::payload::{Block, Payload, blocks_for, copy_further};
#[cfg(any(feature = "tokio", feature = "async-io"))]
use crate::ring::consumer::Peek;
use crate::ring::consumer::Record;
#[cfg(any(feature = "tokio", feature = "async-io"))]
use crate::wire::record::MOST_IN_HEADER;

/// The result of a poll that copies no more than a chunk.
pub(crate) enum Polled<T> {
    Message(T),
    /// Nothing is there.
    Nothing,
    /// A chunk of a message was copied: the caller comes back after the others have had their turn.
    Unfinished,
}

impl<T> Polled<T> {
    /// The same, with another form of the message.
    pub(crate) fn map<U>(self, form: impl FnOnce(T) -> U) -> Polled<U> {
        match self {
            Polled::Message(message) => Polled::Message(form(message)),
            Polled::Nothing => Polled::Nothing,
            Polled::Unfinished => Polled::Unfinished,
        }
    }
}

/// A message that is being copied. Its header was read once, when the copy began: a peer that
/// rewrites it does not make the copy start again.
pub(super) struct Unfinished {
    /// Where the message is in the lane.
    at: u64,
    record: Record,
    /// The copy so far, with room for all of it.
    blocks: Vec<Block>,
}

impl Receiving {
    /// Takes the next message after `poll_fast` has taken none, if it is short. Of a longer one it
    /// copies a chunk; the last chunk gives the message.
    pub(crate) fn poll_in_chunks(&mut self) -> Result<Polled<Payload>, Box<RecvError>> {
        match self.poll_long() {
            Some(payload) => Ok(Polled::Message(payload)),
            None => self.poll_settled(CHUNK),
        }
    }

    /// Like `poll_in_chunks`, for a caller that copies what is lent or short. The memory for such a
    /// copy was allocated before the message was taken: it stays in the queue if that fails.
    #[cfg(any(feature = "tokio", feature = "async-io"))]
    pub(crate) fn poll_to_copy(&mut self) -> Result<(Polled<Payload>, Vec<Block>), RecvError> {
        if !self.end.is_trusted() {
            let memory = self.memory_for_short()?;
            let polled = self.poll_in_chunks().map_err(|failure| *failure)?;
            return Ok((polled, memory));
        }
        self.waits_for_reaper = false;
        let record = match self.settle(CHUNK)? {
            Next::Message(record) => record,
            Next::Nothing => return Ok((Polled::Nothing, Vec::new())),
            Next::Unfinished => unreachable!("messages of a trusted peer are lent"),
        };
        let Some(memory) = blocks_for(record.len as usize) else {
            return Err(RecvError::OutOfMemory { len: u64::from(record.len) });
        };
        let polled = self.take_settled(&record)?.map_or(Polled::Nothing, Polled::Message);
        Ok((polled, memory))
    }

    /// Memory for a copy of the next message, if it is short; else it may have none.
    #[cfg(any(feature = "tokio", feature = "async-io"))]
    fn memory_for_short(&mut self) -> Result<Vec<Block>, RecvError> {
        if let Some(memory) = blocks_for(MOST_IN_HEADER as usize) {
            return Ok(memory);
        }
        self.check_open()?;
        match self.look()? {
            Peek::Message(record) if record.is_short() => {
                Err(RecvError::OutOfMemory { len: u64::from(record.len) })
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Allocates memory for a message's copy, or copies one that is longer than `chunk` bytes.
    pub(super) fn settle_message(
        &mut self,
        mut record: Record,
        chunk: usize,
    ) -> Result<Next, RecvError> {
        self.allocate_ahead(&record);
        if self.end.is_trusted() {
            // The peer may be trusted since a copy began: messages are borrowed in place from then
            // on.
            self.unfinished = None;
            return Ok(Next::Message(record));
        }
        let is_refused = record.attached.refusable().is_some() && self.end.refuses_transfers();
        // A copy of another position is of a message that was taken since.
        let at = self.consumer.position();
        let unfinished = self.unfinished.take().filter(|copy| copy.at == at && !is_refused);
        let len = if is_refused { 0 } else { record.len as usize };
        if unfinished.is_none() && len <= chunk {
            return match self.copies.make_room(len) {
                Ok(()) => Ok(Next::Message(record)),
                Err(_) => Err(RecvError::OutOfMemory { len: u64::from(record.len) }),
            };
        }
        let mut copy = match unfinished {
            Some(copy) => copy,
            None => Unfinished::begin(at, record)?,
        };
        record = copy.record;
        let most = chunk / size_of::<Block>();
        let is_whole = copy_further(self.consumer.memory(), &record, &mut copy.blocks, most);
        self.unfinished = Some(copy);
        Ok(if is_whole { Next::Message(record) } else { Next::Unfinished })
    }

    /// Returns a message, in place or copied out that was settled, and that may have been copied by
    /// now.
    pub(super) fn take_slow(&mut self, record: &Record) -> Option<Payload> {
        let Some(Unfinished { blocks, .. }) = self.unfinished.take() else {
            return self.take(record);
        };
        let (handle, blocks) = self.copies.next_with(blocks);
        let payload = Payload::of_copy(record, blocks, handle);
        blocks.clear();
        self.finish_copy(record);
        Some(payload)
    }
}

impl Unfinished {
    fn begin(at: u64, record: Record) -> Result<Unfinished, RecvError> {
        match blocks_for(record.len as usize) {
            Some(blocks) => Ok(Unfinished { at, record, blocks }),
            None => Err(RecvError::OutOfMemory { len: u64::from(record.len) }),
        }
    }
}

/// Bytes of a message that are copied before the other ports have their turn. Touching that many
/// for the first time takes about 25 us.
const CHUNK: usize = 32 << 10;
