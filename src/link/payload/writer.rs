//! The writer that rkyv serialises into: the bytes of a record, or a vector.
#![allow(unsafe_code)]

use super::{Post, PostSerializer, copy};
use rkyv::Place;
use rkyv::rancor::{BoxedError, Source};
use rkyv::ser::{Positional, Writer};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// Writes the bytes of a record from front to back. When the room is used up, it continues to count
/// the bytes.
///
/// It has exactly three words: a post moves this around, and each further word costs as much as the
/// copy of a small message.
///
/// INVARIANT (room): `start` is valid for writes of `room` bytes while it lives, and they are the
/// producer's: see `planned`. Without room it is dangling, or it is a `Vec<u8>` that only this
/// writer uses, and takes everything.
#[derive(Debug)]
pub struct PayloadWriter<'a> {
    start: NonNull<u8>,
    room: usize,
    written: usize,
    _room: PhantomData<&'a mut [u8]>,
}

impl<'a> PayloadWriter<'a> {
    /// INVARIANT (room): the caller has established it.
    pub(super) fn new(start: NonNull<u8>, room: usize) -> PayloadWriter<'a> {
        let start = if room == 0 { NonNull::dangling() } else { start };
        PayloadWriter { start, room, written: 0, _room: PhantomData }
    }

    /// A writer that only counts.
    pub(super) fn counting() -> PayloadWriter<'static> {
        PayloadWriter::new(NonNull::dangling(), 0)
    }

    /// A writer that appends to `bytes`.
    pub(super) fn appending(bytes: &'a mut Vec<u8>) -> PayloadWriter<'a> {
        let start = NonNull::from(bytes).cast();
        PayloadWriter { start, room: 0, written: 0, _room: PhantomData }
    }
}

impl Positional for PayloadWriter<'_> {
    /// How many bytes it has written and counted.
    #[inline(always)]
    fn pos(&self) -> usize {
        self.written
    }
}

impl Writer<BoxedError> for PayloadWriter<'_> {
    #[inline(always)]
    fn write(&mut self, bytes: &[u8]) -> Result<(), BoxedError> {
        // A value can make this count overflow: it saturates, beyond all room.
        let end = self.written.saturating_add(bytes.len());
        if end <= self.room {
            // SAFETY: (room) `end` was just compared with it.
            let place = unsafe { self.start.add(self.written) };
            // SAFETY: as above; a slice of ours cannot overlap the ring.
            unsafe { copy::copy(bytes, place) };
        } else if self.room == 0 && self.start != NonNull::dangling() {
            // SAFETY: (room) it is a vector, borrowed for as long as this lives.
            unsafe { append(self.start.cast(), bytes) }?;
        }
        self.written = end;
        Ok(())
    }
}

/// A separate function, by value: if a call borrowed the writer, the writer would be kept in memory
/// in every post, which doubles its cost.
///
/// # Safety
/// `to` must be a vector that is not used otherwise meanwhile.
#[cold]
#[inline(never)]
unsafe fn append(mut to: NonNull<Vec<u8>>, bytes: &[u8]) -> Result<(), BoxedError> {
    // SAFETY: upheld by the caller, see `# Safety`.
    let to = unsafe { to.as_mut() };
    to.try_reserve(bytes.len()).map_err(BoxedError::new)?;
    to.extend_from_slice(bytes);
    Ok(())
}

/// What `rkyv::api::serialize_using` does. If the compiler does not inline that, and it does so in
/// some callers only, the serializer goes through memory, which takes as long as the message.
#[inline(always)]
pub(super) fn write<T: Post>(
    value: &T,
    serializer: &mut PostSerializer<'_>,
) -> Result<(), BoxedError> {
    let resolver = value.serialize(serializer)?;
    let align = align_of::<T::Archived>();
    serializer.write(&[0; 16][..serializer.pos().wrapping_neg() % align])?;
    let mut archived = MaybeUninit::<T::Archived>::uninit();
    // SAFETY: the local's own bytes. Its padding too is written, which the peer will read.
    unsafe { archived.as_mut_ptr().write_bytes(0, 1) };
    // SAFETY: the place is the local, aligned and initialised.
    let place = unsafe { Place::new_unchecked(serializer.pos(), archived.as_mut_ptr()) };
    value.resolve(resolver, place);
    serializer.write(place.as_slice())
}
