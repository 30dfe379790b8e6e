//! Looks at the next message, which stays in the queue.

use super::Receiving;
use crate::error::RecvError;
use crate::link::end::Event;
use crate::link::payload::{Block, Payload, blocks_as_bytes_mut, blocks_for, into_blocks};
use crate::ring::consumer::{Peek, Record};
use crate::ring::notifier::Wait;

impl Receiving {
    /// The next message, if there is one. The peer's pools before it are accepted.
    pub(crate) fn peek(&mut self) -> Result<Option<Record>, RecvError> {
        self.check_open()?;
        loop {
            match self.look()? {
                Peek::Message(record) => return Ok(Some(record)),
                Peek::Closed(kind) => return Err(self.ended_by(Event::FoundClose(kind))),
                Peek::Empty if self.found_nothing()? == Wait::Sleep => return Ok(None),
                Peek::Empty => {}
            }
        }
    }

    /// A private copy of the next message's bytes, none if its transferables are refused.
    pub(crate) fn copy_next(&mut self) -> Result<Option<(Record, Vec<Block>)>, RecvError> {
        let Some(mut record) = self.peek()?.map(|record| record.message()) else {
            return Ok(None);
        };
        if record.attached.refusable().is_some() && self.end.refuses_transfers() {
            record.len = 0;
            return Ok(Some((record, Vec::new())));
        }
        let lack = RecvError::OutOfMemory { len: u64::from(record.len) };
        // A copy of no bytes takes a block as well.
        let Some(mut blocks) = blocks_for((record.len as usize).max(1)) else { return Err(lack) };
        if record.is_short() {
            // It is in the header, and not behind it.
            let short = Payload::of_short(self.consumer.window(), &record);
            blocks.resize(1, Block::default());
            blocks_as_bytes_mut(&mut blocks)[..short.bytes().len()].copy_from_slice(short.bytes());
            return Ok(Some((record, blocks)));
        }
        let copied = Payload::copied(self.consumer.window(), &record, &mut blocks, 0);
        let Some(payload) = copied else { return Err(lack) };
        let blocks = into_blocks(&payload, blocks);
        Ok(Some((record, blocks)))
    }
}
