//! Receiving transferables: lists, pools, and buffers of pools.

use super::Receiving;
use crate::error::{Corruption, RecvError};
use crate::link::attachment::{Attachment, AttachmentKind, Attachments, SmallBuffers, SmallError};
use crate::link::frames::FramesError;
use crate::link::payload::{Payload, PayloadHandle, copy_end};
use crate::link::pool::{PeerPool, Pooled};
use crate::os::reaper;
use crate::os::socket::{self, Discarded, Received};
use crate::ring::consumer::Record;
use crate::wire::frame::MAX_PACKET_LEN;
use crate::wire::record::{Attached, Format};
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Receiving {
    /// Discards the packet of a message. Its ports then end as if this process had died.
    pub(super) fn discard_packet(
        &mut self,
        descriptors: u16,
        sequence: u64,
    ) -> Result<(), RecvError> {
        self.short_since = None;
        if self.end.refuses_transfers() {
            self.end.discard_packets();
            return Ok(());
        }
        match self.receive_attachments(descriptors, sequence) {
            Ok(mut attachments) => {
                attachments.is_trusted = self.end.is_trusted();
                attachments.close_unclaimed();
            }
            // Its packet waits until others are closed.
            Err(error) if self.waits_for_reaper => return Err(error),
            Err(RecvError::OutOfDescriptors { .. }) => {
                self.short_since = None;
                socket::discard_packet(self.end.attachment_socket());
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes a message with its transferables; `settle` has allocated its memory.
    #[cold]
    #[inline(never)]
    pub(super) fn take_attached(&mut self, record: &Record) -> Result<Option<Payload>, RecvError> {
        if let Some(count) = record.attached.refusable()
            && self.end.refuses_transfers()
        {
            return self.take_refused(record, count).map(Some);
        }
        let mut attachments = match record.attached {
            Attached::Packet { descriptors, sequence } => {
                self.receive_attachments(descriptors, sequence)?
            }
            Attached::Pooled { pool, slot } => self.pooled(pool, slot)?,
            Attached::Small { count, len } => self.small(record, SmallBuffers { count, len })?,
            Attached::Nothing | Attached::Pool { .. } => unreachable!("settled as attached"),
        };
        attachments.is_trusted = self.end.is_trusted();
        let mut payload = self.take_slow(record);
        if let Some(payload) = &mut payload {
            payload.shorten(record.attached.len_in_payload());
            self.attachments.push((payload.handle(), attachments));
        }
        Ok(payload)
    }

    /// The small buffers in a record.
    fn small(&mut self, record: &Record, small: SmallBuffers) -> Result<Attachments, RecvError> {
        match small.read(self.consumer.memory(), record) {
            Ok(attachments) => {
                self.cost = self.cost.saturating_add(small.count);
                Ok(attachments)
            }
            Err(SmallError::Corrupt(corruption)) => Err(self.broken(corruption)),
            Err(SmallError::OutOfMemory) => Err(RecvError::OutOfMemory { len: small.len.into() }),
        }
    }

    /// Takes a message whose transferables this end refuses: its bytes are not copied, and its
    /// packet is not received. This end takes no packet at all, so it waits for none.
    fn take_refused(&mut self, record: &Record, descriptors: u16) -> Result<Payload, RecvError> {
        self.end.discard_packets();
        let no_memory = RecvError::OutOfMemory { len: 0 };
        let empty = Record { len: 0, format: Format::Bytes, ..*record };
        let (true, Some((handle, blocks))) = (self.copies.make_room(0).is_ok(), self.copies.next())
        else {
            return Err(no_memory);
        };
        let window = self.consumer.window();
        let payload = Payload::copied(window, &empty, blocks, handle).ok_or(no_memory)?;
        self.copies.take();
        let end = copy_end(self.consumer.memory(), &record.message());
        (self.empty_looks, self.pools_in_a_row) = (0, 0);
        self.consumer.take(record);
        self.release_taken();
        self.attachments.push((payload.handle(), Attachments::refused(descriptors, end)));
        Ok(payload)
    }

    /// The slot that a record names. Without trust there is none to give: it stays with the peer.
    pub(super) fn pooled(&mut self, pool: u32, slot: u32) -> Result<Attachments, RecvError> {
        let Some((_, known)) = self.pools.iter().find(|(number, _)| *number == pool) else {
            // Known to a former owner of this end, perhaps.
            self.end.refuse_pool(pool);
            return Ok(Attachments::pooled(Pooled::Unknown));
        };
        match known.received(slot) {
            Ok(pooled) => Ok(Attachments::pooled(pooled)),
            Err(corruption) => Err(self.broken(corruption)),
        }
    }

    /// Accepts a pool of a trusted peer, or one of frames of any peer. Others are closed, and so is
    /// any pool if this end refuses transferables; then the peer is told.
    #[cold]
    pub(super) fn take_pool(&mut self, record: &Record) -> Result<(), RecvError> {
        let Attached::Pool { number, sequence, has_frames } = record.attached else {
            unreachable!("asked for");
        };
        let in_a_row = self.pools_in_a_row + 1;
        if in_a_row > MOST_POOLS_IN_A_ROW || self.pools.len() == MOST_POOLS {
            let (found, bound) = (in_a_row.into(), MOST_POOLS_IN_A_ROW.into());
            return Err(self.broken(Corruption::new("pools in a row", found, bound)));
        }
        let is_welcome = match has_frames {
            true => {
                let others = self.pools.iter().filter(|(_, pool)| pool.has_frames());
                others.count() < MOST_POOLS_OF_FRAMES
            }
            false => self.end.is_trusted(),
        };
        let descriptors = 1 + u16::from(has_frames);
        if is_welcome && !self.end.refuses_transfers() {
            let attachments = self.receive_attachments(descriptors, sequence)?;
            self.accept_pool(number, has_frames, attachments)?;
        } else {
            self.discard_packet(descriptors, sequence)?;
            self.end.refuse_pool(number);
        }
        // Counted once it is taken: it may have waited for a descriptor, and been looked at many
        // times.
        self.pools_in_a_row = in_a_row;
        self.consumer.skip(record);
        self.release_taken();
        Ok(())
    }

    /// Maps the pool that has come, or tells the peer that it was lost.
    fn accept_pool(
        &mut self,
        number: u32,
        has_frames: bool,
        mut attachments: Attachments,
    ) -> Result<(), RecvError> {
        if attachments.lost > 0 {
            self.end.refuse_pool(number);
            return Ok(());
        }
        let Some((_, Attachment::Pool((descriptor, shape)))) =
            attachments.take(AttachmentKind::Pool)
        else {
            return Err(self.broken(Corruption::unequal("pools in the packet of one", 0, 1)));
        };
        let pool = if has_frames {
            let Some((_, Attachment::Descriptor(frames))) =
                attachments.take(AttachmentKind::Descriptor)
            else {
                return Err(self.broken(Corruption::unequal("files of frames", 0, 1)));
            };
            match PeerPool::of_frames([descriptor, frames], shape.slots, shape.len) {
                Ok(pool) => pool,
                Err(FramesError::Corrupt(corruption)) => return Err(self.broken(corruption)),
                Err(FramesError::System) => {
                    self.end.refuse_pool(number);
                    return Ok(());
                }
            }
        } else {
            let pool = PeerPool::new(descriptor, shape.slots, shape.len);
            pool.map_err(|corruption| self.broken(corruption))?
        };
        // Ahead of its first message; if it fails, each message retries it.
        let _ = pool.memory();
        self.pools.push((number, Arc::new(pool)));
        Ok(())
    }

    /// Maps what could not be mapped before, so that buffers that were dropped meanwhile come back.
    pub(super) fn map_pools(&self) {
        for (_, pool) in &self.pools {
            let _ = pool.memory();
        }
    }

    /// Whether this half has pools, which stay where they are mapped. A peer that is not trusted
    /// cannot keep this end from moving: the next owner refuses its frames.
    pub(crate) fn has_pools(&self) -> bool {
        self.pools.iter().any(|(_, pool)| !pool.has_frames())
    }

    /// Receives the packet that a record announces. The packet left before the record was
    /// published, so it must be there; older packets are of posts that were never published.
    fn receive_attachments(
        &mut self,
        expected: u16,
        sequence: u64,
    ) -> Result<Attachments, RecvError> {
        let wrong = |found| Corruption::unequal("number of a packet", found, sequence);
        let mut bytes = [0; MAX_PACKET_LEN + 1];
        for _ in 0..MOST_ORPHANS {
            let (socket, account) = (self.end.attachment_socket(), self.end.account());
            let has_room = account.has_room() || self.is_patient && reaper::wait_for_room(account);
            self.waits_for_reaper = !has_room || self.is_in_turns && self.share.is_used_up(account);
            if self.waits_for_reaper {
                return Err(RecvError::OutOfDescriptors { needed: expected });
            }
            let count = usize::from(expected);
            let received = match socket::receive_for(Some(account), socket, &mut bytes, count) {
                // For example a socket without a peer: nothing will ever come from it.
                Err(error) if !error.is_lack() => return Err(self.broken(wrong(0))),
                received => received?,
            };
            match received {
                Received::NoRoom => return self.short_of_descriptors(expected),
                Received::CutOff => {
                    self.short_since = None;
                    return Ok(Attachments::lost(expected));
                }
                Received::Nothing => return Err(self.broken(wrong(0))),
                Received::Packet(len, descriptors) => {
                    let count = descriptors.len();
                    self.cost = self.cost.saturating_add(count as u32);
                    let Some((found, attachments)) = Attachments::open(&bytes[..len], descriptors)
                    else {
                        return Err(self.broken(wrong(count as u64)));
                    };
                    // Compared by distance, as sequences may wrap.
                    let ahead = found.wrapping_sub(sequence) as i64;
                    if ahead == 0 && count == usize::from(expected) {
                        self.short_since = None;
                        return Ok(attachments);
                    }
                    if ahead >= 0 {
                        return Err(self.broken(wrong(found)));
                    }
                    // Closed silently: its record was never published, so its content may still be
                    // its sender's.
                    drop(attachments);
                }
            }
        }
        Err(self.broken(wrong(u64::from(MOST_ORPHANS))))
    }

    /// There is no room for the descriptors. The message waits for a while, and then comes without
    /// them, so that a peer that sends more than this process can ever have does not block the
    /// port.
    fn short_of_descriptors(&mut self, needed: u16) -> Result<Attachments, RecvError> {
        let since = *self.short_since.get_or_insert_with(Instant::now);
        if since.elapsed() < SHORTAGE {
            return Err(RecvError::OutOfDescriptors { needed });
        }
        self.short_since = None;
        // There is no room to receive its descriptors into, so they are closed here.
        if socket::discard_packet(self.end.attachment_socket()) != Discarded::Packet {
            return Err(self.broken(Corruption::unequal("packets beside a message", 0, 1)));
        }
        Ok(Attachments::lost(needed))
    }

    /// Descriptors that were received since the last call.
    pub(crate) fn take_cost(&mut self) -> u32 {
        std::mem::take(&mut self.cost)
    }

    /// Whether a poll waits a moment if more of this port's descriptors are about to be closed. A
    /// caller that also serves other ports serves those instead.
    pub(crate) fn set_patient(&mut self, is_patient: bool) {
        self.is_patient = is_patient;
        if is_patient {
            // No more parts are requested.
            self.unfinished = None;
        }
    }

    /// Whether the last poll found a message whose packet waits until more of this port's
    /// descriptors are closed.
    pub(crate) fn waits_for_reaper(&self) -> bool {
        self.waits_for_reaper
    }

    /// The remaining transferables of a message that is alive.
    pub(crate) fn attachments(&mut self, handle: PayloadHandle) -> Option<&mut Attachments> {
        self.attachments
            .iter_mut()
            .find(|(of, _)| *of == handle)
            .map(|(_, attachments)| attachments)
    }

    /// Takes out what the program did not take, when the message is dropped.
    #[inline(always)]
    pub(crate) fn take_attachments(&mut self, handle: PayloadHandle) -> Option<Attachments> {
        if self.attachments.is_empty() { None } else { self.find_attachments(handle) }
    }

    #[cold]
    fn find_attachments(&mut self, handle: PayloadHandle) -> Option<Attachments> {
        let place = self.attachments.iter().position(|(of, _)| *of == handle)?;
        Some(self.attachments.swap_remove(place).1)
    }
}

/// The most pools of one peer, and of those between two messages: an honest peer makes few.
const MOST_POOLS: usize = 1 << 10;
const MOST_POOLS_IN_A_ROW: u32 = 64;
/// Pools of frames of one peer, each of which is two mappings.
const MOST_POOLS_OF_FRAMES: usize = 4;
/// How long a message waits for room for its descriptors.
const SHORTAGE: Duration = Duration::from_millis(100);
/// The most packets without a record before one with: an honest peer that lives leaves none.
const MOST_ORPHANS: u32 = 64;
