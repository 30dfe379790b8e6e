//! What travels with a message: ports, buffers and descriptors, in one packet of the attachment
//! socket.
//!
//! A list is walked once to check it and once to move it, and is not changed before all of it was
//! checked. What has left is what the kernel accepted.

use crate::error::{Corruption, MessageError, PostError, SystemError};
use crate::link::buffer::{Buffer, MOST_SMALL, SmallBytes};
use crate::link::endpoint::Endpoint;
use crate::link::payload;
use crate::link::pool::Pooled;
use crate::link::receiving::Receiving;
use crate::link::region::Region;
use crate::link::sending::Sending;
use crate::link::transfer::{self, Halves, PortParts};
use crate::os::reaper::{self, Foreign};
use crate::os::socket;
use crate::ring::consumer::Record;
use crate::ring::memory::Memory;
use crate::ring::producer::Producer;
use crate::ring::route::Plan;
pub(crate) use crate::wire::frame::{Attachment, AttachmentKind};
use crate::wire::frame::{MAX_ENTRIES, ManifestEntry, PORT_DESCRIPTORS, PoolShape};
use crate::wire::frame::{decode_packet, encode_packet};
use crate::wire::record::MAX_DESCRIPTORS;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

/// An attachment that is about to move, still its owner's.
pub(crate) type Outgoing<'a> = Attachment<
    (&'a mut Sending, &'a mut Receiving),
    &'a mut Buffer,
    BorrowedFd<'a>,
    (BorrowedFd<'a>, PoolShape),
>;

/// An attachment that has arrived.
pub(crate) type Arrived = Attachment<Box<PortParts>, ArrivedBuffer, Foreign, (Foreign, PoolShape)>;

/// A buffer that has arrived.
#[derive(Debug)]
pub(crate) enum ArrivedBuffer {
    /// In a packet: what should be sealed memory, of so many bytes.
    File(Foreign, u64),
    /// In the record of its message: a copy.
    Small(Buffer),
}

/// What was found in a list. It stays true while the list is borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Checked {
    /// Descriptors that it takes.
    pub descriptors: u16,
    /// The first port that is closed, and the first one with a pool: their indices.
    closed: Option<usize>,
    with_pool: Option<usize>,
}

impl Checked {
    /// Whether every port can move. Asked after the message was serialised, as in HTML's steps.
    #[inline]
    pub(crate) fn check_ports(self) -> Result<(), PostError> {
        match (self.closed, self.with_pool) {
            (None, None) => Ok(()),
            (Some(index), _) => Err(PostError::Detached { index }),
            (None, Some(index)) => Err(PostError::HasPool { index }),
        }
    }
}

/// Looks at a list once. Checks its size, and that no port of the carrier's own pair is in it.
#[inline]
pub(crate) fn check(items: &[Outgoing<'_>], carrier: &Region) -> Result<Checked, PostError> {
    let (mut descriptors, mut own, mut closed, mut with_pool) = (0, None, None, None);
    for (index, item) in items.iter().enumerate() {
        descriptors += item.descriptors();
        let Attachment::Port((sending, receiving)) = item else { continue };
        if sending.endpoint().region().object()? == carrier.object()? {
            own.get_or_insert(index);
        }
        if sending.is_finished() || receiving.is_finished() {
            closed.get_or_insert(index);
        }
        if sending.has_pools() || receiving.has_pools() {
            with_pool.get_or_insert(index);
        }
    }
    if items.len() > MAX_ENTRIES {
        return Err(PostError::TooManyTransferables {
            transferables: items.len(),
            descriptors,
            max_transferables: MAX_ENTRIES,
            max_descriptors: usize::from(MAX_DESCRIPTORS),
        });
    }
    if let Some(index) = own {
        return Err(PostError::TransferLoop { index });
    }
    Ok(Checked { descriptors: descriptors as u16, closed, with_pool })
}

/// Small buffers that move in the record of their message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SmallBuffers {
    pub count: u32,
    /// Bytes that they take in the record, with their lengths.
    pub len: u32,
}

impl SmallBuffers {
    /// Those of a list that has nothing else, unless they have too many bytes together.
    pub(crate) fn of(items: &[Outgoing<'_>]) -> Option<SmallBuffers> {
        let mut found = SmallBuffers::default();
        for item in items {
            let Attachment::Buffer(buffer) = item else { return None };
            found.count += 1;
            found.len += (buffer.small_bytes()?.len() + LENGTH) as u32;
        }
        (found.count > 0 && found.len <= MOST_TOGETHER).then_some(found)
    }

    /// Writes them behind the `at` bytes of a message that was written where `plan` says. Seals
    /// them. They take `len` bytes.
    pub(crate) fn write(
        producer: &Producer,
        plan: &Plan,
        mut at: u64,
        items: &mut [Outgoing<'_>],
    ) -> Result<(), SystemError> {
        let mut lengths = Vec::with_capacity(items.len() * LENGTH);
        for item in items {
            let Attachment::Buffer(buffer) = item else { continue };
            buffer.freeze()?;
            let bytes = buffer.small_bytes().unwrap_or_default();
            payload::fill_behind(producer, plan, at, bytes);
            at += bytes.len() as u64;
            lengths.extend((bytes.len() as u32).to_le_bytes());
        }
        payload::fill_behind(producer, plan, at, &lengths);
        Ok(())
    }

    /// Copies them out of a record.
    pub(crate) fn read(self, memory: &Memory, record: &Record) -> Result<Attachments, SmallError> {
        let mut lengths = [0; MAX_ENTRIES * LENGTH];
        let lengths = &mut lengths[..self.count as usize * LENGTH];
        if (self.len as usize) < lengths.len() {
            let (len, least) = (self.len.into(), lengths.len() as u64);
            let corruption = Corruption::too_small("bytes of small buffers", len, least);
            return Err(SmallError::Corrupt(corruption));
        }
        let end = record.len - lengths.len() as u32;
        payload::copy_part(memory, record, end, lengths);
        let mut at = record.len - self.len;
        let mut unclaimed = VecDeque::with_capacity(self.count as usize);
        for length in lengths.chunks_exact(LENGTH) {
            let len = u32::from_le_bytes(length.try_into().expect("four bytes"));
            let most = (end - at).min(MOST_SMALL as u32);
            if len > most {
                let (len, most) = (len.into(), most.into());
                return Err(SmallError::Corrupt(Corruption::new("small buffer", len, most)));
            }
            let mut bytes =
                SmallBytes::zeroed(len as usize).map_err(|_| SmallError::OutOfMemory)?;
            payload::copy_part(memory, record, at, &mut bytes);
            at += len;
            let buffer = Buffer::small(bytes, true);
            unclaimed.push_back(Arrived::Buffer(ArrivedBuffer::Small(buffer)));
        }
        if at != end {
            let corruption = Corruption::unequal("small buffers", at.into(), end.into());
            return Err(SmallError::Corrupt(corruption));
        }
        Ok(Attachments { unclaimed, ..Attachments::default() })
    }
}

/// Why the small buffers of a record cannot be read.
#[derive(Debug)]
pub(crate) enum SmallError {
    Corrupt(Corruption),
    /// There is no memory for a copy.
    OutOfMemory,
}

/// Bytes of the length of a small buffer in a record.
const LENGTH: usize = size_of::<u32>();
/// The most bytes that small buffers take in a record: more of them move by a packet, so that they
/// take no more of the ring than a few messages.
const MOST_TOGETHER: u32 = 16 << 10;
// So a list that is not too long has not too many descriptors either.
const _: () = assert!(MAX_ENTRIES * PORT_DESCRIPTORS <= MAX_DESCRIPTORS as usize);

/// A packet that is ready to leave.
pub(crate) struct Packet<'a> {
    bytes: Vec<u8>,
    descriptors: Vec<BorrowedFd<'a>>,
    /// The ends that move.
    ends: Vec<&'a Endpoint>,
}

impl<'a> Packet<'a> {
    /// Makes the items ready to move: ports publish what they have staged and read, buffers are
    /// sealed. This is not undone if the packet does not leave; all items stay usable.
    pub(crate) fn new(
        sequence: u64,
        items: &'a mut [Outgoing<'_>],
    ) -> Result<Packet<'a>, SystemError> {
        let (mut entries, mut descriptors, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for item in items {
            entries.push(match item {
                Attachment::Port((sending, receiving)) => {
                    transfer::settle(sending, receiving);
                    let capsule = transfer::capsule(sending, receiving);
                    let end: &Endpoint = sending.endpoint();
                    descriptors.extend(end.descriptors());
                    ends.push(end);
                    ManifestEntry::Port(Box::new(capsule))
                }
                Attachment::Buffer(buffer) => {
                    buffer.freeze()?;
                    descriptors.push(buffer.descriptor()?);
                    ManifestEntry::Buffer(buffer.len() as u64)
                }
                Attachment::Descriptor(descriptor) => {
                    descriptors.push(*descriptor);
                    ManifestEntry::Descriptor(())
                }
                Attachment::Pool((descriptor, shape)) => {
                    descriptors.push(*descriptor);
                    ManifestEntry::Pool(*shape)
                }
            });
        }
        Ok(Packet { bytes: encode_packet(sequence, &entries), descriptors, ends })
    }

    /// Sends it. What has left is another process's: its ports announce no close.
    pub(crate) fn send(self, socket: BorrowedFd<'_>) -> Result<(), SystemError> {
        socket::send_packet(socket, &self.bytes, &self.descriptors)?;
        self.ends.into_iter().for_each(Endpoint::mark_moved);
        Ok(())
    }
}

/// The transferables of one message that were not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    unclaimed: VecDeque<Arrived>,
    /// Separate from the others, as it costs no allocation here.
    pub pooled: Pooled,
    /// Descriptors that the kernel destroyed, as this process had too few free ones.
    pub lost: u16,
    /// Descriptors that this end has refused.
    pub refused: u16,
    /// The last bytes of a message that was refused because of them.
    pub refused_end: Option<[u8; 16]>,
    /// Whether the sender was trusted.
    pub is_trusted: bool,
}

impl Attachments {
    /// Attachments whose descriptors are lost.
    pub(crate) fn lost(descriptors: u16) -> Attachments {
        Attachments { lost: descriptors, ..Attachments::default() }
    }

    /// Attachments whose descriptors were refused.
    pub(crate) fn refused(descriptors: u16, end: Option<[u8; 16]>) -> Attachments {
        Attachments { refused: descriptors, refused_end: end, ..Attachments::default() }
    }

    /// Why nothing can be taken, although something was sent.
    pub(crate) fn check(&self) -> Result<(), MessageError> {
        match (self.lost, self.refused) {
            (0, 0) => Ok(()),
            (0, descriptors) => Err(MessageError::TransfersRefused { descriptors }),
            (descriptors, _) => Err(MessageError::TransfersLost { descriptors }),
        }
    }

    /// Attachments with the pooled buffer of a message, or what there is of it.
    pub(crate) fn pooled(pooled: Pooled) -> Attachments {
        Attachments { pooled, ..Attachments::default() }
    }

    /// Reads a packet. `None` if it is not one, or has other descriptors than it says.
    pub(crate) fn open(bytes: &[u8], descriptors: Vec<Foreign>) -> Option<(u64, Attachments)> {
        let (sequence, entries) = decode_packet(bytes)?;
        if entries.iter().map(ManifestEntry::descriptors).sum::<usize>() != descriptors.len() {
            return None;
        }
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next();
        let mut unclaimed = VecDeque::with_capacity(entries.len());
        for entry in entries {
            unclaimed.push_back(match entry {
                ManifestEntry::Port(capsule) => {
                    let descriptors = [next()?, next()?, next()?];
                    Arrived::Port(Box::new(PortParts::new(*capsule, descriptors)))
                }
                ManifestEntry::Buffer(len) => Arrived::Buffer(ArrivedBuffer::File(next()?, len)),
                ManifestEntry::Descriptor(()) => Arrived::Descriptor(next()?),
                ManifestEntry::Pool(shape) => Arrived::Pool((next()?, shape)),
            });
        }
        Some((sequence, Attachments { unclaimed, ..Attachments::default() }))
    }

    /// How many of a kind remain.
    pub(crate) fn count(&self, kind: AttachmentKind) -> usize {
        self.unclaimed.iter().filter(|attachment| attachment.kind() == kind).count()
    }

    /// Takes the first attachment of a kind, and returns its place as well.
    pub(crate) fn take(&mut self, kind: AttachmentKind) -> Option<(usize, Arrived)> {
        let place = self.unclaimed.iter().position(|attachment| attachment.kind() == kind)?;
        Some((place, self.unclaimed.remove(place)?))
    }

    /// Puts an attachment back to its place.
    pub(crate) fn put_back(&mut self, place: usize, attachment: Arrived) {
        self.unclaimed.insert(place.min(self.unclaimed.len()), attachment);
    }

    /// Ends what the program has not taken. Each port of a trusted sender announces a drop. What an
    /// untrusted sender sent is only closed, as mapping a port costs more than sending one: the
    /// peer of such a port learns of the end from the kernel.
    pub(crate) fn close_unclaimed(self) {
        if !self.is_trusted {
            if self.unclaimed.len() >= MANY {
                reaper::close_all(self.unclaimed.into_iter().flat_map(into_descriptors));
            }
            return;
        }
        for attachment in self.unclaimed {
            if let Attachment::Port(port) = attachment
                && let Ok(halves) = transfer::unpack(*port, false)
            {
                announce_drop(halves);
            }
        }
    }
}

fn into_descriptors(attachment: Arrived) -> impl Iterator<Item = Foreign> {
    let (first, others) = match attachment {
        Attachment::Port(port) => {
            (Some(port.memory), Some([port.doorbell, port.attachment_socket]))
        }
        Attachment::Buffer(ArrivedBuffer::Small(_)) => (None, None),
        Attachment::Buffer(ArrivedBuffer::File(descriptor, _))
        | Attachment::Descriptor(descriptor)
        | Attachment::Pool((descriptor, _)) => (Some(descriptor), None),
    };
    first.into_iter().chain(others.into_iter().flatten())
}

fn announce_drop((mut sending, mut receiving): Halves) {
    use crate::wire::record::CloseKind;
    sending.close(CloseKind::Dropped);
    receiving.close(CloseKind::Dropped);
}

/// Transferables of one message that are closed together, on another thread.
const MANY: usize = 16;

#[cfg(test)]
mod tests;
