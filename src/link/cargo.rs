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
use crate::link::transfer::{self, Halves, Parts};
use crate::os::reaper::{self, Foreign};
use crate::wire::frame::{Entry, MAX_ENTRIES, decode_packet, encode_packet};
use crate::wire::record::MAX_DESCRIPTORS;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

/// One transferable that is about to move, still its owner's.
pub(crate) enum Item<'a> {
    Port(&'a mut Sending, &'a mut Receiving),
    Buffer(&'a mut Buffer),
    Descriptor(BorrowedFd<'a>),
}

impl Item<'_> {
    fn descriptors(&self) -> usize {
        match self {
            Item::Port(..) => 3,
            Item::Buffer(_) | Item::Descriptor(_) => 1,
        }
    }
}

/// Checks the shape of a list: its size, and that no port of the carrier's own pair is in it.
/// Returns how many descriptors it takes.
pub(crate) fn check_shape(items: &[Item<'_>], carrier: &Region) -> Result<u16, PostError> {
    let descriptors = items.iter().map(Item::descriptors).sum::<usize>();
    if items.len() > MAX_ENTRIES || descriptors > usize::from(MAX_DESCRIPTORS) {
        return Err(PostError::TooManyTransferables {
            transferables: items.len(),
            descriptors,
            max_transferables: MAX_ENTRIES,
            max_descriptors: usize::from(MAX_DESCRIPTORS),
        });
    }
    let is_own = |item: &Item<'_>| match item {
        Item::Port(sending, _) => sending.endpoint().region().object() == carrier.object(),
        _ => false,
    };
    match items.iter().position(is_own) {
        Some(index) => Err(PostError::TransferLoop { index }),
        None => Ok(descriptors as u16),
    }
}

/// Checks that every port of a list is still open, and can move. Done after the message was
/// serialised, as that runs foreign code.
pub(crate) fn check_open(items: &[Item<'_>]) -> Result<(), PostError> {
    let is_closed = |item: &Item<'_>| match item {
        Item::Port(sending, receiving) => sending.is_finished() || receiving.is_finished(),
        _ => false,
    };
    if let Some(index) = items.iter().position(is_closed) {
        return Err(PostError::Detached { index });
    }
    let has_pools = |item: &Item<'_>| match item {
        Item::Port(sending, receiving) => sending.has_pools() || receiving.has_pools(),
        _ => false,
    };
    match items.iter().position(has_pools) {
        Some(index) => Err(PostError::HasPool { index }),
        None => Ok(()),
    }
}

/// Makes the items ready to move: ports publish what they have staged and read, buffers are sealed.
/// This is not undone if the packet does not leave; all items stay usable.
pub(crate) fn settle(items: &mut [Item<'_>]) -> Result<(), SystemError> {
    for item in items {
        match item {
            Item::Port(sending, receiving) => transfer::settle(sending, receiving),
            Item::Buffer(buffer) => buffer.freeze()?,
            Item::Descriptor(_) => {}
        }
    }
    Ok(())
}

/// The packet of items that have settled.
pub(crate) fn pack<'a>(sequence: u64, items: &'a mut [Item<'_>]) -> (Vec<u8>, Vec<BorrowedFd<'a>>) {
    let mut descriptors = Vec::new();
    let entries: Vec<Entry> = items
        .iter()
        .map(|item| match item {
            Item::Port(sending, receiving) => {
                descriptors.extend(sending.endpoint().descriptors());
                Entry::Port(Box::new(transfer::capsule(sending, receiving)))
            }
            Item::Buffer(buffer) => {
                descriptors.push(buffer.descriptor());
                Entry::Buffer { len: buffer.len() as u64 }
            }
            Item::Descriptor(descriptor) => {
                descriptors.push(*descriptor);
                Entry::Descriptor
            }
        })
        .collect();
    (encode_packet(sequence, &entries), descriptors)
}

/// The packet has left: its ports send no farewell.
pub(crate) fn forget(items: &mut [Item<'_>]) {
    for item in items {
        if let Item::Port(sending, receiving) = item {
            sending.forget();
            receiving.forget();
        }
    }
}

/// One transferable that arrived.
#[derive(Debug)]
pub(crate) enum Part {
    Port(Box<Parts>),
    Buffer { descriptor: Foreign, len: u64 },
    Descriptor(Foreign),
    Pool { descriptor: Foreign, number: u32, slots: u64, len: u64 },
}

/// The kinds that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Port,
    Buffer,
    Descriptor,
    Pool,
}

/// The transferables of one message that were not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Parcel {
    parts: VecDeque<Part>,
    /// Separate from the others, as it costs no allocation here.
    pub pooled: Pooled,
    /// Descriptors that the kernel destroyed, as this process had too few free ones.
    pub lost: u16,
    /// Descriptors that this end has refused.
    pub refused: u16,
    /// Whether the sender was trusted.
    pub is_trusted: bool,
}

impl Parcel {
    /// A parcel whose descriptors are lost.
    pub(crate) fn lost(descriptors: u16) -> Parcel {
        Parcel { lost: descriptors, ..Parcel::default() }
    }

    /// A parcel whose descriptors were refused.
    pub(crate) fn refused(descriptors: u16) -> Parcel {
        Parcel { refused: descriptors, ..Parcel::default() }
    }

    /// Why nothing can be taken, although something was sent.
    pub(crate) fn check(&self) -> Result<(), MessageError> {
        match (self.lost, self.refused) {
            (0, 0) => Ok(()),
            (0, descriptors) => Err(MessageError::TransfersRefused { descriptors }),
            (descriptors, _) => Err(MessageError::TransfersLost { descriptors }),
        }
    }

    /// A parcel with the pooled buffer of a message, or what there is of it.
    pub(crate) fn pooled(pooled: Pooled) -> Parcel {
        Parcel { pooled, ..Parcel::default() }
    }

    /// Reads a packet. `None` if it is not one, or has other descriptors than it says.
    pub(crate) fn open(bytes: &[u8], descriptors: Vec<Foreign>) -> Option<(u64, Parcel)> {
        let (sequence, entries) = decode_packet(bytes)?;
        if entries.iter().map(|entry| entry.descriptors()).sum::<usize>() != descriptors.len() {
            return None;
        }
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next();
        let mut parts = VecDeque::with_capacity(entries.len());
        for entry in entries {
            parts.push_back(match entry {
                Entry::Port(capsule) => {
                    Part::Port(Box::new(Parts::new(*capsule, [next()?, next()?, next()?])))
                }
                Entry::Buffer { len } => Part::Buffer { descriptor: next()?, len },
                Entry::Descriptor => Part::Descriptor(next()?),
                Entry::Pool { number, slots, len } => {
                    let number = u32::try_from(number).ok()?;
                    Part::Pool { descriptor: next()?, number, slots, len }
                }
            });
        }
        Some((sequence, Parcel { parts, ..Parcel::default() }))
    }

    /// How many of a kind remain.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.parts.iter().filter(|part| part.kind() == kind).count()
    }

    /// Takes the first part of a kind, and returns its place as well.
    pub(crate) fn take(&mut self, kind: Kind) -> Option<(usize, Part)> {
        let place = self.parts.iter().position(|part| part.kind() == kind)?;
        Some((place, self.parts.remove(place)?))
    }

    /// Puts a part back to its place.
    pub(crate) fn put_back(&mut self, place: usize, part: Part) {
        self.parts.insert(place.min(self.parts.len()), part);
    }

    /// Ends what the program has not taken. Each port of a trusted sender announces a drop. What an
    /// untrusted sender sent is only closed, as mapping a port costs more than sending one: the
    /// peer of such a port learns of the end from the kernel.
    pub(crate) fn abandon(self) {
        if !self.is_trusted {
            if self.parts.len() >= MANY {
                reaper::close_all(self.parts.into_iter().flat_map(Part::into_descriptors));
            }
            return;
        }
        for part in self.parts {
            if let Part::Port(parts) = part
                && let Ok(halves) = transfer::unpack(*parts, false)
            {
                farewell(halves);
            }
        }
    }
}

impl Part {
    fn into_descriptors(self) -> impl Iterator<Item = Foreign> {
        let (first, others) = match self {
            Part::Port(parts) => (parts.memory, Some([parts.doorbell, parts.attachments])),
            Part::Buffer { descriptor, .. }
            | Part::Descriptor(descriptor)
            | Part::Pool { descriptor, .. } => (descriptor, None),
        };
        std::iter::once(first).chain(others.into_iter().flatten())
    }

    fn kind(&self) -> Kind {
        match self {
            Part::Port(_) => Kind::Port,
            Part::Buffer { .. } => Kind::Buffer,
            Part::Descriptor(_) => Kind::Descriptor,
            Part::Pool { .. } => Kind::Pool,
        }
    }
}

fn farewell((mut sending, mut receiving): Halves) {
    use crate::wire::record::Farewell;
    sending.close(Farewell::Dropped);
    receiving.leave(Farewell::Dropped);
}

/// Transferables of one message that are closed together, on another thread.
const MANY: usize = 16;
