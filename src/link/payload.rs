//! Payloads: rkyv straight into the ring, and out of it by a private copy or in place.
//!
//! A message of an untrusted peer is copied once into private memory, by relaxed atomic words or in
//! assembly, and the code uses only that copy. On a trusted pair the bytes are used in place. No
//! safe function hands out a reference to memory that an untrusted process can write.
#![allow(unsafe_code)]

mod arena;
mod copy;
#[cfg(feature = "value")]
pub(crate) mod encoded;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use copy::{copy_end, copy_part, copy_shared, fill_behind};

use crate::error::SystemError;
use crate::link::archive::{self, Receive, SafeArchive};
use crate::link::region::Region;
use crate::ring::consumer::Record;
use crate::ring::memory::{Grant, Memory, Plain, Window};
use crate::ring::producer::Producer;
use crate::ring::route::Plan;
use crate::wire::record::{Format, HEADER_LEN, Header, MOST_IN_HEADER, is_short_len, record_len};
pub use arena::PostArena;
use rkyv::Serialize;
use rkyv::api::high::HighSerializer;
use rkyv::rancor::{BoxedError, Fallible, Strategy};
use rkyv::ser::allocator::Arena;
use rkyv::ser::{Positional, Serializer, sharing::Share};
use std::ops::Range;
use std::ptr::NonNull;
pub use writer::PayloadWriter;

/// The serializer that [`post_message`](crate::MessagePort::post_message) passes to a value.
pub type PostSerializer<'a> = HighSerializer<PayloadWriter<'a>, PostArena<'a>, BoxedError>;

/// A value that can be posted: of a type with [`message`](macro@crate::message), or with derives of
/// [`rkyv::Archive`], [`rkyv::Serialize`] and [`SafeArchive`](derive@crate::SafeArchive).
///
/// Implemented for all such types; do not implement it yourself. Post a value of another crate's
/// type that lacks `SafeArchive` as bytes: `post_bytes` of what `rkyv::to_bytes` returns. The
/// receiver passes [`MessageEvent::bytes`](crate::MessageEvent::bytes) to rkyv.
///
/// ```
/// use messageport::MessageChannel;
///
/// #[messageport::message]
/// struct Order { id: u64, item: String }
///
/// fn announce<T: messageport::Post>(port: &messageport::MessagePort, value: &T) {
///     port.post_message(value).expect("there is room for one message");
/// }
///
/// let channel = MessageChannel::new()?;
/// announce(&channel.port1, &Order { id: 1, item: "lamp".into() });
/// assert_eq!(channel.port2.recv()?.data::<Order>()?.item, "lamp");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be posted as a message",
    note = "a type of yours needs `#[messageport::message]`, \
            or `#[derive(rkyv::Archive, rkyv::Serialize, messageport::SafeArchive)]`",
    note = "text is posted by `post_text`, bytes by `post_bytes`; \
            inside a value write `String` for `&str`, and `Vec<T>` for `&[T]`"
)]
pub trait Post: Receive + for<'a> Serialize<PostSerializer<'a>> {}

impl<T: Receive + for<'a> Serialize<PostSerializer<'a>>> Post for T {}

/// Serialises `value` where `plan` says; without a plan, only counts. Returns how many bytes it
/// took or would have taken; what exceeds the plan's room is not written.
#[inline(always)]
pub(crate) fn serialize<T: Post>(
    value: &T,
    producer: &Producer,
    plan: Option<&Plan>,
    arena: &mut Arena,
) -> Result<u64, BoxedError> {
    let writer = match plan {
        None => PayloadWriter::counting(),
        Some(plan) => {
            let start = planned(producer, plan, plan.payload_room());
            PayloadWriter::new(start, plan.payload_room() as usize)
        }
    };
    run(value, writer, arena).map(|written| written as u64)
}

/// Fast path of `serialize`: into the grant of the record.
#[inline(always)]
pub(crate) fn serialize_in<T: Post>(
    value: &T,
    grant: &Grant<'_>,
    arena: &mut Arena,
) -> Result<u64, BoxedError> {
    // (room) by (planned): see `fill_grant`.
    let writer = PayloadWriter::new(grant.payload(), grant.payload_len() as usize);
    run(value, writer, arena).map(|written| written as u64)
}

/// The same, of a value that may fit the header of its record.
#[inline(always)]
pub(crate) fn serialize_short<T: Post>(
    value: &T,
    grant: &Grant<'_>,
    arena: &mut Arena,
) -> Result<u64, BoxedError> {
    // (room) by (planned): see `fill_grant`; these are bytes of its header.
    let writer = PayloadWriter::new(grant.short_payload(), MOST_IN_HEADER as usize);
    run(value, writer, arena).map(|written| written as u64)
}

/// Whether the archive of a `T` fits the header of a record, unless it has bytes of its own outside
/// of the value.
#[inline(always)]
pub(crate) const fn may_be_short<T: Post>() -> bool {
    is_short_len(size_of::<T::Archived>() as u64)
}

/// Serialises `value` into `bytes`, which are 16-aligned unless there are none. Returns how many
/// bytes it took or would have taken.
pub(crate) fn serialize_to<T: Post>(value: &T, bytes: &mut [u8]) -> Result<usize, BoxedError> {
    let writer = PayloadWriter::new(NonNull::from(&mut *bytes).cast(), bytes.len());
    run(value, writer, &mut Arena::new())
}

/// The archive of `value`, to be posted several times. Serialises it once: its `Serialize` may be
/// costly, and may write something else the second time. The bytes need no alignment, as pointers
/// in an archive are relative; each copy is aligned where it is received.
pub(crate) fn archive<T: Post>(value: &T) -> Result<Vec<u8>, BoxedError> {
    let mut bytes = Vec::new();
    run(value, PayloadWriter::appending(&mut bytes), &mut Arena::new())?;
    Ok(bytes)
}

/// A `Serialize` that writes another length the second time.
#[derive(Debug, thiserror::Error)]
#[error("the value took {len} bytes at first and {again} bytes when it was serialised again")]
pub(crate) struct LengthChanged {
    pub len: u64,
    pub again: u64,
}

#[inline(always)]
fn run<T: Post>(
    value: &T,
    writer: PayloadWriter<'_>,
    arena: &mut Arena,
) -> Result<usize, BoxedError> {
    const {
        assert!(align_of::<T::Archived>() <= 16, "payloads are aligned to 16 bytes");
        // A value that can never be received is not posted either.
        let _ = <T::Archived as SafeArchive>::CHECKS;
    };
    let mut serializer = Serializer::new(writer, PostArena::new(arena), Share::new());
    writer::write(value, Strategy::wrap(&mut serializer))?;
    let written = serializer.pos();
    if const { archive::may_be_too_deep::<T>() } && written >= archive::LEAST_TOO_DEEP {
        check_depth(value)?;
    }
    Ok(written)
}

/// Refuses a value that is nested too deep to be read: archives it again in private memory, and
/// checks it there. Types that do not contain themselves, and short values, never get here.
#[cold]
fn check_depth<T: Post>(value: &T) -> Result<(), BoxedError> {
    let mut bytes = Vec::new();
    let mut arena = Arena::new();
    let writer = PayloadWriter::appending(&mut bytes);
    let mut serializer = Serializer::new(writer, PostArena::new(&mut arena), Share::new());
    rkyv::api::serialize_using::<_, BoxedError>(value, &mut serializer)?;
    archive::check_own::<T>(&bytes)
}

/// Wipes the payload bytes of a plan whose message is not posted.
#[cold]
pub(crate) fn wipe(producer: &Producer, plan: &Plan) {
    let (place, len) = (planned(producer, plan, plan.payload_room()), plan.payload_room());
    // SAFETY: (planned) the bytes are the producer's alone, and their pages were made.
    unsafe { place.as_ptr().write_bytes(0, len as usize) };
}

/// Up to eight bytes, and zeros, in a word.
#[inline(always)]
pub(crate) fn word_of(bytes: &[u8]) -> u64 {
    if let Some(word) = bytes.first_chunk::<8>() {
        return u64::from_ne_bytes(*word);
    }
    let mut word = [0; 8];
    for (to, from) in word.iter_mut().zip(bytes) {
        *to = *from;
    }
    u64::from_ne_bytes(word)
}

/// Fast path of `fill`: copies `bytes` into the grant of their record.
#[inline(always)]
pub(crate) fn fill_grant(grant: &Grant<'_>, bytes: &[u8]) {
    assert!(record_len(bytes.len() as u64) <= grant.len(), "more bytes than the grant has");
    // SAFETY: (planned) a grant of a producer is at its cursor, and its bytes are the producer's.
    // It is long enough, and its payload 16-aligned; no slice of ours overlaps it.
    unsafe { copy::copy_in(bytes, grant.payload()) };
}

/// Copies `bytes` to where `plan` says.
#[inline(always)]
pub(crate) fn fill(producer: &Producer, plan: &Plan, bytes: &[u8]) {
    let place = planned(producer, plan, bytes.len() as u64);
    // SAFETY: (planned) the place is the producer's and long enough, and a payload's first byte is
    // 16-aligned; no slice of ours overlaps it.
    unsafe { copy::copy_in(bytes, place) };
}

/// The bytes of a message that is being written: in the ring of a trusted peer, or private.
///
/// INVARIANT (room): `len` initialised bytes from `start` are this end's alone until the half that
/// reserved them posts or reserves again: in the ring they lie where it stands, and the peer is
/// trusted not to touch them before they are published. The holder of this value keeps that half
/// alive, and from posting.
#[derive(Debug)]
pub(crate) struct Room {
    start: NonNull<u8>,
    len: usize,
}

impl Room {
    /// Room in the ring of a trusted pair.
    #[inline(always)]
    pub(crate) fn in_place(producer: &Producer, plan: &Plan, len: usize) -> Room {
        Room { start: planned(producer, plan, len as u64), len }
    }

    /// Private room, copied when it is posted.
    #[inline(always)]
    pub(crate) fn private(scratch: &mut [Block], len: usize) -> Room {
        assert!(len <= size_of_val(scratch), "more bytes than there is scratch for");
        Room { start: NonNull::from(scratch).cast(), len }
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Keeps the first `len` bytes; a greater length changes nothing.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    #[inline(always)]
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: (room).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    #[inline(always)]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: (room).
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Where the payload of a planned record goes.
///
/// INVARIANT (planned): a plan comes from this producer and is not staged yet, so its bytes lie
/// outside of what the consumer may read: they are the producer's alone.
#[inline(always)]
fn planned(producer: &Producer, plan: &Plan, len: u64) -> NonNull<u8> {
    assert!(len <= plan.payload_room(), "more bytes than were planned for");
    producer.memory().bytes(plan.payload_offset(), len)
}

/// Frees pages of a lane that hold nothing.
pub(crate) fn remove_free(
    region: &Region,
    lane: usize,
    bytes: Range<u64>,
) -> Result<u64, SystemError> {
    if bytes.is_empty() {
        return Ok(0);
    }
    // SAFETY: `prefault` passes bytes of segments that the consumer has left for good, and of the
    // one that a drained producer has left, without the jump. While a loan is open no other code
    // can use its half (`Sender::lending`), and posting it ends the loan first.
    unsafe { region.remove(lane, bytes) }
}

/// A message that was taken out: where its bytes are, until `handle` is given back.
///
/// INVARIANT (payload): `len` bytes from `start` are initialised, and are not written before the
/// handle is given back: they are a private copy, in a slab entry or in the memory for messages
/// that were read ahead, or they lie in the ring of a trusted peer, not released yet. The holder of
/// this value keeps the half that it came from alive, and gives the handle back once: of clones,
/// one becomes an event. A short message, of at most eight bytes, is in the word of the handle
/// instead, and nothing is to be given back. So that word is aligned as every payload is: an empty
/// vector of `u128` takes eight bytes, and points to where its elements would begin.
#[derive(Clone, Debug)]
#[repr(C, align(16))]
pub(crate) struct Payload {
    /// What is given back, or the bytes of a short message.
    handle: u64,
    start: NonNull<u8>,
    /// The first word of the record's header, which holds length and format, and what the handle
    /// belongs to, in one word. A field with spare values would hold the tag of the results that
    /// carry this, and each move of such a result stalls.
    traits: u64,
}

// SAFETY: (payload) nothing writes the bytes, so each thread may read them; and the half, which the
// holder keeps alive, is on the same thread.
unsafe impl Send for Payload {}

/// What a handle belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PayloadHandle {
    /// An entry of the copy slab, with a private copy.
    Copy(u64),
    /// The message itself, which is short.
    Own,
    /// A place in the private copy of the records that were read ahead.
    Ahead,
    /// A message that is read in place.
    Lent(u64),
}

impl Payload {
    /// Copies the payload of the consumer's next record out of the area, once, into `blocks`, which
    /// the slab keeps unchanged until `handle` comes back. `None` if they are too few. Not for a
    /// short message.
    #[inline(always)]
    pub(crate) fn copied(
        window: &Window,
        record: &Record,
        blocks: &mut Vec<Block>,
        handle: u64,
    ) -> Option<Payload> {
        debug_assert!(!record.is_short());
        let count = blocks_of(record.len);
        if count > blocks.capacity() {
            return None;
        }
        let from = window.payload((count * size_of::<Block>()) as u64);
        let start = NonNull::from(blocks.spare_capacity_mut()).cast::<u8>();
        // SAFETY: the source was just checked, and starts at a multiple of 16; there is room for
        // `count` blocks, which no other code has.
        unsafe { copy::copy_out(from, start, count) };
        Some(Payload { start, traits: traits_of(record) | IS_COPY, handle })
    }

    /// A short message, of which these are the words of the header. It is its own copy: nothing is
    /// to be given back.
    #[inline(always)]
    pub(crate) fn short([first, word]: [u64; 2]) -> Payload {
        Payload { start: NonNull::dangling(), traits: first | IS_OWN, handle: word }
    }

    /// The same, of the consumer's next record, which is one.
    pub(crate) fn of_short(window: &Window, record: &Record) -> Payload {
        Payload::short([traits_of(record), window.short_word()])
    }

    /// A payload that [`copy_further`] has copied out in full. The slab keeps `blocks` as they are
    /// until `handle` comes back.
    pub(crate) fn of_copy(record: &Record, blocks: &mut Vec<Block>, handle: u64) -> Payload {
        let count = blocks_of(record.len);
        assert_eq!(blocks.len(), count, "the copy of another payload, or a part of one");
        Payload {
            start: NonNull::from(blocks.as_mut_slice()).cast(),
            traits: traits_of(record) | IS_COPY,
            handle,
        }
    }

    /// The payload of the consumer's next record in the ring of a trusted peer, released when
    /// `handle` is given back. Not for a short message.
    #[inline(always)]
    pub(crate) fn in_ring(window: &Window, record: &Record, handle: u64) -> Payload {
        debug_assert!(!record.is_short());
        Payload::lent(window.payload(u64::from(record.len)), traits_of(record), handle)
    }

    /// The same, of a plain message.
    #[inline(always)]
    pub(crate) fn plain_in_ring(message: &Plain<'_>, handle: u64) -> Payload {
        Payload::lent(message.payload(), message.header(), handle)
    }

    #[inline(always)]
    fn lent(start: NonNull<u8>, traits: u64, handle: u64) -> Payload {
        copy::prefetch(start, traits as u32 as usize);
        Payload { start, traits, handle }
    }

    /// The header with that number in `copy`, a private copy of records, if it is that of a short
    /// message.
    #[inline(always)]
    pub(crate) fn short_words(copy: &[Block], number: usize) -> Option<[u64; 2]> {
        let words = copy.get(number)?.words();
        Header::is_short_message(words[0]).then_some(words)
    }

    /// The message at the start of the range of `copy`, which stays unchanged until the handle
    /// comes back, and the bytes of its record. `None` if no plain message is there that is whole
    /// in that range, or a short one.
    #[inline(always)]
    pub(crate) fn ahead(copy: &[Block], range: Range<usize>) -> Option<(Payload, u64)> {
        let words @ [first, _] = copy.get(range.start)?.words();
        let rest = copy.get(range.start + 1..range.end)?;
        let (traits, len) = (first | IS_AHEAD, first as u32);
        if Header::is_plain(words) && len as usize <= size_of_val(rest) {
            let start = NonNull::from(rest).cast();
            return Some((Payload { start, traits, handle: 0 }, record_len(u64::from(len))));
        }
        None
    }

    /// Copies the payload of a message out of the area, each byte once, into the first of `blocks`,
    /// which stay unchanged until the handle comes back. `None` if they are too few.
    #[inline(always)]
    pub(crate) fn alone(message: &Plain<'_>, blocks: &mut [Block]) -> Option<Payload> {
        let count = message.padded_len() as usize / size_of::<Block>();
        let start = NonNull::from(blocks.get_mut(..count)?).cast();
        // SAFETY: (plain) the source has as many blocks, and starts at a multiple of 16; the
        // destination is a slice of as many, which no other code has.
        unsafe { copy::copy_out(message.payload(), start, count) };
        Some(Payload { start, traits: message.header() | IS_AHEAD, handle: 0 })
    }

    /// What the bytes are.
    #[inline(always)]
    pub(crate) fn format(&self) -> Format {
        Format::of_header(self.traits)
    }

    /// What to give back once the bytes are no longer needed.
    #[inline(always)]
    pub(crate) fn handle(&self) -> PayloadHandle {
        if self.is_own() {
            PayloadHandle::Own
        } else if self.is_ahead() {
            PayloadHandle::Ahead
        } else if self.traits & IS_COPY != 0 {
            PayloadHandle::Copy(self.handle)
        } else {
            PayloadHandle::Lent(self.handle)
        }
    }

    #[inline(always)]
    pub(crate) fn is_ahead(&self) -> bool {
        self.traits & IS_AHEAD != 0
    }

    /// Whether it is short, and holds its bytes itself.
    #[inline(always)]
    pub(crate) fn is_own(&self) -> bool {
        self.traits & IS_OWN != 0
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        self.traits as u32
    }

    /// Leaves off the last `len` bytes, of a message that is not short.
    pub(crate) fn shorten(&mut self, len: u32) {
        assert!(len <= self.len(), "more bytes than the message has");
        self.traits -= u64::from(len);
    }

    /// The message.
    #[inline(always)]
    pub(crate) fn bytes(&self) -> &[u8] {
        let start =
            if self.is_own() { (&raw const self.handle).cast() } else { self.start.as_ptr() };
        // SAFETY: (payload); the bytes of a short message are in the word of the handle.
        unsafe { std::slice::from_raw_parts(start, self.len() as usize) }
    }
}

/// Copies the consumer's next records, as they are in the ring, into `copy`, each byte once.
pub(crate) fn copy_records(window: &Window, copy: &mut [Block]) {
    let from = window.bytes(size_of_val(copy) as u64);
    // SAFETY: the source was just checked, and starts at a multiple of 16; the destination is a
    // slice of as many blocks, which no other code has.
    unsafe { copy::copy_out(from, NonNull::from(&mut *copy).cast(), copy.len()) };
}

/// Copies at most `most` more blocks of a record's payload after those in `blocks`, which has room
/// for all of them. Returns whether it holds the whole payload now.
pub(crate) fn copy_further(
    memory: &Memory,
    record: &Record,
    blocks: &mut Vec<Block>,
    most: usize,
) -> bool {
    let (done, all) = (blocks.len(), blocks_of(record.len));
    let count = most.min(all - done);
    assert!(done + count <= blocks.capacity(), "more blocks than there is room for");
    let (offset, len) = (done * size_of::<Block>(), count * size_of::<Block>());
    let from = memory.bytes(record.payload_offset + offset as u64, len as u64);
    let to = NonNull::from(blocks.spare_capacity_mut()).cast::<u8>();
    // SAFETY: the source was just checked, and starts at a multiple of 16; there is room for
    // `count` blocks after those that are there, which no other code has.
    unsafe { copy::copy_out(from, to, count) };
    // SAFETY: as many were just written.
    unsafe { blocks.set_len(done + count) };
    done + count == all
}

/// Blocks that a payload of `len` bytes takes.
#[inline(always)]
pub(crate) fn blocks_of(len: u32) -> usize {
    (record_len(u64::from(len)) - HEADER_LEN) as usize / size_of::<Block>()
}

/// Empty memory with room for a copy of `len` bytes. `None` if the allocation fails.
pub(crate) fn blocks_for(len: usize) -> Option<Vec<Block>> {
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(len.div_ceil(size_of::<Block>())).ok()?;
    Some(blocks)
}

/// Turns the memory of a private copy into a vector that holds the copy.
///
/// # Panics
/// If it is not this payload's memory.
pub(crate) fn into_blocks(payload: &Payload, mut memory: Vec<Block>) -> Vec<Block> {
    let count = payload.bytes().len().div_ceil(size_of::<Block>());
    let distance = payload.start.addr().get().wrapping_sub(memory.as_ptr().addr());
    let first = distance / size_of::<Block>();
    let is_inside = memory.capacity().checked_sub(first).is_some_and(|room| count <= room);
    assert!(is_inside || count == 0, "the memory of another payload");
    if first != 0 && count != 0 {
        let start = memory.as_mut_ptr();
        // SAFETY: just checked to be inside.
        let from = unsafe { start.add(first) };
        // SAFETY: both places are inside this vector, and may overlap.
        unsafe { std::ptr::copy(from, start, count) };
    }
    // SAFETY: (payload) `count` blocks of the payload were written, from the place that is now the
    // start of this vector, and nothing has written there since.
    unsafe { memory.set_len(count) };
    memory
}

/// Length and format, where a header has them.
#[inline(always)]
fn traits_of(record: &Record) -> u64 {
    Header::plain(record.len, record.format)[0]
}

// Bits above those of a plain header's first word.
/// Set in the traits of an entry of the copy slab.
const IS_COPY: u64 = 1 << 48;
/// Set in the traits of a message in the memory for those that were read ahead.
const IS_AHEAD: u64 = 1 << 49;
/// Set in the traits of a short message. The sign, which is tested fastest.
const IS_OWN: u64 = 1 << 63;

/// Sixteen bytes of private memory, aligned like a record's payload.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(16))]
pub(crate) struct Block([u8; 16]);

impl Block {
    /// The two words of a header.
    #[inline(always)]
    fn words(&self) -> [u64; 2] {
        let [first, second] = [0, 8].map(|at| self.0[at..].first_chunk().expect("eight bytes"));
        [u64::from_ne_bytes(*first), u64::from_ne_bytes(*second)]
    }
}

/// The bytes of some blocks.
pub(crate) fn blocks_as_bytes_mut(blocks: &mut [Block]) -> &mut [u8] {
    let len = size_of_val(blocks);
    // SAFETY: a block is sixteen initialised bytes without padding.
    unsafe { std::slice::from_raw_parts_mut(blocks.as_mut_ptr().cast(), len) }
}

/// The bytes of some blocks, to look at.
pub(crate) fn blocks_as_bytes(blocks: &[Block]) -> &[u8] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast(), size_of_val(blocks)) }
}

/// Names the serializer's parts, so that a change of rkyv's that breaks [`PostSerializer`] is a
/// compile error here and not at a user's.
const _: fn() = || {
    fn same<S: Fallible<Error = BoxedError>>() {}
    same::<Strategy<Serializer<PayloadWriter<'static>, PostArena<'static>, Share>, BoxedError>>();
};
