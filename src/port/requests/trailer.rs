//! The last 16 bytes of a request, a reply or a cancellation: what it is, and which call it belongs
//! to. `docs/protocol.md` has the table.

use crate::error::MessageError;
use crate::link::archive::{self, Receive};
use crate::link::attachment::Attachments;
use crate::link::payload::Payload;
use crate::port::content::{self, Content};
use crate::wire::record::Format;
use rkyv::munge::munge;
use rkyv::rancor::{BoxedError, Fallible};
use rkyv::tuple::ArchivedTuple2;
use rkyv::{Archive, Place, Serialize};

/// Identifies a call of a requester. No requester uses a sequence twice, so a reply that comes too
/// late belongs to no call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CallId {
    /// The number of the call: 1 for the first one.
    pub sequence: u64,
    /// Where the requester keeps it.
    pub slot: u32,
}

/// What a message of the protocol is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To the responder: a request.
    Call = 1,
    /// To the responder: the call ended without its reply.
    Cancel = 2,
    /// To the requester: the reply.
    Reply = 3,
    /// To the requester: a text that says why there is no reply.
    Refusal = 4,
    /// To the requester: the request was dropped.
    Unanswered = 5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub id: CallId,
    pub kind: Kind,
}

/// The bytes of a trailer.
pub(crate) type TrailerBytes = [u8; 16];

impl Trailer {
    #[inline(always)]
    pub(crate) fn new(kind: Kind, id: CallId) -> Trailer {
        Trailer { id, kind }
    }

    /// Sequence, slot, kind, and three bytes of zero; numbers in little-endian order.
    #[inline(always)]
    pub(crate) fn encode(self) -> TrailerBytes {
        let word = u64::from(self.id.slot) | (self.kind as u64) << 32;
        (u128::from(self.id.sequence) | u128::from(word) << 64).to_le_bytes()
    }

    /// `None` if no program of this crate writes that.
    #[inline(always)]
    pub(crate) fn decode(bytes: TrailerBytes) -> Option<Trailer> {
        let both = u128::from_le_bytes(bytes);
        let (sequence, word) = (both as u64, (both >> 64) as u64);
        let kind = match word >> 32 {
            1 => Kind::Call,
            2 => Kind::Cancel,
            3 => Kind::Reply,
            4 => Kind::Refusal,
            5 => Kind::Unanswered,
            _ => return None,
        };
        Some(Trailer { id: CallId { sequence, slot: word as u32 }, kind })
    }

    /// The trailer of a message; that of one whose transferables were refused has been kept.
    #[inline(always)]
    pub(crate) fn of(message: &impl Content) -> Option<Trailer> {
        match message.content().last_chunk() {
            Some(bytes) if message.posted_as() == Format::Archive => Trailer::decode(*bytes),
            _ => Trailer::of_refused(message),
        }
    }

    /// The trailer of a message that has its bytes.
    #[inline(always)]
    pub(crate) fn of_payload(payload: &Payload) -> Option<Trailer> {
        let trailer = Trailer::decode(*payload.bytes().last_chunk()?)?;
        (payload.format() == Format::Archive).then_some(trailer)
    }

    #[cold]
    fn of_refused(message: &impl Content) -> Option<Trailer> {
        let end = message.with_attachments(|attachments| attachments.refused_end).flatten();
        Trailer::decode(end?)
    }
}

/// The value of a message: what stands before the trailer.
///
/// A trailer needs no alignment, and its length is a multiple of each alignment. So nothing is
/// between the two or behind them, and the rest without the trailer is the archive of the value.
pub(crate) struct Body<'m, C>(pub &'m C);

/// What stands before the trailer.
#[inline(always)]
pub(crate) fn without_end(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().saturating_sub(size_of::<TrailerBytes>())]
}

impl<C: Content> Content for Body<'_, C> {
    #[inline(always)]
    fn content(&self) -> &[u8] {
        without_end(self.0.content())
    }

    #[inline(always)]
    fn posted_as(&self) -> Format {
        self.0.posted_as()
    }

    fn with_attachments<T>(&self, act: impl FnOnce(&mut Attachments) -> T) -> Option<T> {
        self.0.with_attachments(act)
    }
}

impl<'m, C: Content> Body<'m, C> {
    /// Borrows the archived value.
    #[inline]
    pub(crate) fn data<T: Receive>(&self) -> Result<&'m T::Archived, MessageError> {
        content::require(self.0, Format::Archive)?;
        archive::access::<T>(without_end(self.0.content())).map_err(content::invalid::<T>)
    }
}

/// A value and the trailer behind it, posted as one archive.
pub(crate) struct Labelled<'v, T> {
    value: &'v T,
    trailer: Trailer,
}

impl<'v, T> Labelled<'v, T> {
    #[inline(always)]
    pub(crate) fn new(value: &'v T, trailer: Trailer) -> Labelled<'v, T> {
        Labelled { value, trailer }
    }
}

impl<T: Archive> Archive for Labelled<'_, T> {
    type Archived = ArchivedTuple2<T::Archived, TrailerBytes>;
    type Resolver = T::Resolver;

    #[inline(always)]
    fn resolve(&self, resolver: T::Resolver, out: Place<Self::Archived>) {
        munge!(let ArchivedTuple2(value, trailer) = out);
        self.value.resolve(resolver, value);
        // Not before: sixteen bytes that were just stored as two words cannot be loaded at once
        // before those stores have reached the cache.
        trailer.write(self.trailer.encode());
    }
}

impl<S: Fallible<Error = BoxedError> + ?Sized, T: Serialize<S>> Serialize<S> for Labelled<'_, T> {
    #[inline(always)]
    fn serialize(&self, serializer: &mut S) -> Result<T::Resolver, BoxedError> {
        self.value.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::payload::{self, Post};
    use crate::port::channel::MessageChannel;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_trailer_comes_out_as_it_went_in(sequence: u64, slot: u32, kind in 0..5usize) {
            let kinds = [Kind::Call, Kind::Cancel, Kind::Reply, Kind::Refusal, Kind::Unanswered];
            let trailer = Trailer::new(kinds[kind], CallId { sequence, slot });
            prop_assert_eq!(Trailer::decode(trailer.encode()), Some(trailer));
        }

        #[test]
        fn bytes_are_the_trailer_that_writes_them_or_none(bytes: TrailerBytes, kind in 0..8u8) {
            let mut likely = bytes;
            likely[12..].copy_from_slice(&[kind, 0, 0, 0]);
            for bytes in [bytes, likely] {
                prop_assert!(Trailer::decode(bytes).is_none_or(|read| read.encode() == bytes));
            }
        }
    }

    /// The trailer stands at the very end, whatever the value's size and alignment are.
    #[test]
    fn nothing_follows_the_trailer() {
        fn ends<T: Post>(value: &T) {
            let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
            let id = CallId { sequence: 0x0102_0304_0506_0708, slot: 0x0a0b_0c0d };
            let trailer = Trailer::new(Kind::Reply, id);
            port1.post_message(&Labelled::new(value, trailer)).expect("room");
            let event = port2.recv().expect("a message");
            assert_eq!(Trailer::of(&event), Some(trailer));
            assert!(Body(&event).data::<T>().is_ok());
            let plain = payload::archive(value).expect("a value");
            assert_eq!(Body(&event).content(), plain);
        }
        ends(&());
        ends(&1u8);
        ends(&(1u8, 2u32));
        ends(&[3u16; 5]);
        ends(&(4u64, 5u8));
        ends(&6u128);
        ends(&(7u128, 8u8));
        ends(&"text".to_owned());
        ends(&vec!["one".to_owned(), "two".to_owned()]);
    }
}
