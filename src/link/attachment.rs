//! What travels beside a message: ports, buffers and descriptors, in one packet of the attachment
//! socket.
//!
//! The list is not changed before all of it was checked; what has left is what the kernel accepted.

use crate::error::{MessageError, PostError, SystemError};
use crate::link::buffer::Buffer;
use crate::link::pool::Pooled;
use crate::link::receiving::Receiving;
use crate::link::region::Region;
use crate::link::sending::Sending;
use crate::link::transfer::{self, Halves, PortParts};
use crate::os::reaper::{self, Foreign};
use crate::wire::frame::{MAX_ENTRIES, ManifestEntry, decode_packet, encode_packet};
use crate::wire::record::MAX_DESCRIPTORS;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

/// One transferable that is about to move, still its owner's.
pub(crate) enum OutgoingAttachment<'a> {
    Port(&'a mut Sending, &'a mut Receiving),
    Buffer(&'a mut Buffer),
    Descriptor(BorrowedFd<'a>),
}

impl OutgoingAttachment<'_> {
    fn descriptors(&self) -> usize {
        match self {
            OutgoingAttachment::Port(..) => 3,
            OutgoingAttachment::Buffer(_) | OutgoingAttachment::Descriptor(_) => 1,
        }
    }
}

/// Checks the shape of a list: its size, and that no port of the carrier's own pair is in it.
/// Returns how many descriptors it takes.
pub(crate) fn check_shape(
    items: &[OutgoingAttachment<'_>],
    carrier: &Region,
) -> Result<u16, PostError> {
    let descriptors = items.iter().map(OutgoingAttachment::descriptors).sum::<usize>();
    if items.len() > MAX_ENTRIES || descriptors > usize::from(MAX_DESCRIPTORS) {
        return Err(PostError::TooManyTransferables {
            transferables: items.len(),
            descriptors,
            max_transferables: MAX_ENTRIES,
            max_descriptors: usize::from(MAX_DESCRIPTORS),
        });
    }
    let is_own = |item: &OutgoingAttachment<'_>| match item {
        OutgoingAttachment::Port(sending, _) => {
            sending.endpoint().region().object() == carrier.object()
        }
        _ => false,
    };
    match items.iter().position(is_own) {
        Some(index) => Err(PostError::TransferLoop { index }),
        None => Ok(descriptors as u16),
    }
}

/// Checks that every port of a list is still open, and can move. Done after the message was
/// serialised, as that runs foreign code.
pub(crate) fn check_open(items: &[OutgoingAttachment<'_>]) -> Result<(), PostError> {
    let is_closed = |item: &OutgoingAttachment<'_>| match item {
        OutgoingAttachment::Port(sending, receiving) => {
            sending.is_finished() || receiving.is_finished()
        }
        _ => false,
    };
    if let Some(index) = items.iter().position(is_closed) {
        return Err(PostError::Detached { index });
    }
    let has_pools = |item: &OutgoingAttachment<'_>| match item {
        OutgoingAttachment::Port(sending, receiving) => {
            sending.has_pools() || receiving.has_pools()
        }
        _ => false,
    };
    match items.iter().position(has_pools) {
        Some(index) => Err(PostError::HasPool { index }),
        None => Ok(()),
    }
}

/// Makes the items ready to move: ports publish what they have staged and read, buffers are sealed.
/// This is not undone if the packet does not leave; all items stay usable.
pub(crate) fn settle(items: &mut [OutgoingAttachment<'_>]) -> Result<(), SystemError> {
    for item in items {
        match item {
            OutgoingAttachment::Port(sending, receiving) => transfer::settle(sending, receiving),
            OutgoingAttachment::Buffer(buffer) => buffer.freeze()?,
            OutgoingAttachment::Descriptor(_) => {}
        }
    }
    Ok(())
}

/// The packet of items that have settled.
pub(crate) fn pack<'a>(
    sequence: u64,
    items: &'a mut [OutgoingAttachment<'_>],
) -> (Vec<u8>, Vec<BorrowedFd<'a>>) {
    let mut descriptors = Vec::new();
    let entries: Vec<ManifestEntry> = items
        .iter()
        .map(|item| match item {
            OutgoingAttachment::Port(sending, receiving) => {
                descriptors.extend(sending.endpoint().descriptors());
                ManifestEntry::Port(Box::new(transfer::capsule(sending, receiving)))
            }
            OutgoingAttachment::Buffer(buffer) => {
                descriptors.push(buffer.descriptor());
                ManifestEntry::Buffer { len: buffer.len() as u64 }
            }
            OutgoingAttachment::Descriptor(descriptor) => {
                descriptors.push(*descriptor);
                ManifestEntry::Descriptor
            }
        })
        .collect();
    (encode_packet(sequence, &entries), descriptors)
}

/// The packet has left: its ports announce no close.
pub(crate) fn mark_moved(items: &mut [OutgoingAttachment<'_>]) {
    for item in items {
        if let OutgoingAttachment::Port(sending, receiving) = item {
            sending.mark_moved();
            receiving.mark_moved();
        }
    }
}

/// One transferable that arrived.
#[derive(Debug)]
pub(crate) enum Attachment {
    Port(Box<PortParts>),
    Buffer { descriptor: Foreign, len: u64 },
    Descriptor(Foreign),
    Pool { descriptor: Foreign, number: u32, slots: u64, len: u64 },
}

/// The kinds that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttachmentKind {
    Port,
    Buffer,
    Descriptor,
    Pool,
}

/// The transferables of one message that were not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    unclaimed: VecDeque<Attachment>,
    /// Separate from the others, as it costs no allocation here.
    pub pooled: Pooled,
    /// Descriptors that the kernel destroyed, as this process had too few free ones.
    pub lost: u16,
    /// Descriptors that this end has refused.
    pub refused: u16,
    /// Whether the sender was trusted.
    pub is_trusted: bool,
}

impl Attachments {
    /// Attachments whose descriptors are lost.
    pub(crate) fn lost(descriptors: u16) -> Attachments {
        Attachments { lost: descriptors, ..Attachments::default() }
    }

    /// Attachments whose descriptors were refused.
    pub(crate) fn refused(descriptors: u16) -> Attachments {
        Attachments { refused: descriptors, ..Attachments::default() }
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
        if entries.iter().map(|entry| entry.descriptors()).sum::<usize>() != descriptors.len() {
            return None;
        }
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next();
        let mut unclaimed = VecDeque::with_capacity(entries.len());
        for entry in entries {
            unclaimed.push_back(match entry {
                ManifestEntry::Port(capsule) => Attachment::Port(Box::new(PortParts::new(
                    *capsule,
                    [next()?, next()?, next()?],
                ))),
                ManifestEntry::Buffer { len } => Attachment::Buffer { descriptor: next()?, len },
                ManifestEntry::Descriptor => Attachment::Descriptor(next()?),
                ManifestEntry::Pool { number, slots, len } => {
                    let number = u32::try_from(number).ok()?;
                    Attachment::Pool { descriptor: next()?, number, slots, len }
                }
            });
        }
        Some((sequence, Attachments { unclaimed, ..Attachments::default() }))
    }

    /// How many of a kind remain.
    pub(crate) fn count(&self, kind: AttachmentKind) -> usize {
        self.unclaimed.iter().filter(|attachment| attachment.kind() == kind).count()
    }

    /// Takes the first attachment of a kind, and returns its place as well.
    pub(crate) fn take(&mut self, kind: AttachmentKind) -> Option<(usize, Attachment)> {
        let place = self.unclaimed.iter().position(|attachment| attachment.kind() == kind)?;
        Some((place, self.unclaimed.remove(place)?))
    }

    /// Puts an attachment back to its place.
    pub(crate) fn put_back(&mut self, place: usize, attachment: Attachment) {
        self.unclaimed.insert(place.min(self.unclaimed.len()), attachment);
    }

    /// Ends what the program has not taken. Each port of a trusted sender announces a drop. What an
    /// untrusted sender sent is only closed, as mapping a port costs more than sending one: the
    /// peer of such a port learns of the end from the kernel.
    pub(crate) fn close_unclaimed(self) {
        if !self.is_trusted {
            if self.unclaimed.len() >= MANY {
                reaper::close_all(
                    self.unclaimed.into_iter().flat_map(Attachment::into_descriptors),
                );
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

impl Attachment {
    fn into_descriptors(self) -> impl Iterator<Item = Foreign> {
        let (first, others) = match self {
            Attachment::Port(port) => (port.memory, Some([port.doorbell, port.attachment_socket])),
            Attachment::Buffer { descriptor, .. }
            | Attachment::Descriptor(descriptor)
            | Attachment::Pool { descriptor, .. } => (descriptor, None),
        };
        std::iter::once(first).chain(others.into_iter().flatten())
    }

    fn kind(&self) -> AttachmentKind {
        match self {
            Attachment::Port(_) => AttachmentKind::Port,
            Attachment::Buffer { .. } => AttachmentKind::Buffer,
            Attachment::Descriptor(_) => AttachmentKind::Descriptor,
            Attachment::Pool { .. } => AttachmentKind::Pool,
        }
    }
}

fn announce_drop((mut sending, mut receiving): Halves) {
    use crate::wire::record::CloseKind;
    sending.close(CloseKind::Dropped);
    receiving.close(CloseKind::Dropped);
}

/// Transferables of one message that are closed together, on another thread.
const MANY: usize = 16;
