//! Payloads: rkyv straight into the ring, and out of it by a private copy or in place.
//!
//! What is read from an untrusted peer is copied out once, by relaxed atomic words or in assembly,
//! into private memory, and only the copy is looked at. On a trusted pair the bytes are used where
//! they are.
//! No safe function hands out a reference to memory that an untrusted process can write.
#![allow(unsafe_code)]

use crate::error::SystemError;
use crate::link::region::Region;
use crate::ring::consumer::Record;
use crate::ring::memory::Memory;
use crate::ring::producer::{Plan, Producer};
use crate::sync::{AtomicU64, Ordering};
use crate::wire::record::Format;
use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Error, Fallible, Strategy};
use rkyv::ser::allocator::{Arena, ArenaHandle};
use rkyv::ser::{Positional, Serializer, Writer, sharing::Share};
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use rkyv::{Archive, Portable, Serialize};
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::{self, NonNull};

/// The serializer that [`post_message`](crate::MessagePort::post_message) gives to a value.
pub type PostSerializer<'a> = HighSerializer<PayloadWriter<'a>, ArenaHandle<'a>, Error>;

/// A value that can be posted: anything that derives [`rkyv::Archive`] and [`rkyv::Serialize`].
///
/// Implemented for all such types; there is nothing to implement by hand.
///
/// ```
/// use messageport::{MessageChannel, rkyv};
///
/// #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
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
pub trait Post: Archive + for<'a> Serialize<PostSerializer<'a>> {}

impl<T: Archive + for<'a> Serialize<PostSerializer<'a>>> Post for T {}

/// The bytes of a future record, to be written front to back. Counts on when they are used up.
///
/// Three words, and not one more: a post moves this around, and each further word costs it as much
/// as the copy of a small message.
///
/// INVARIANT (room): `start` is valid for writes of `room` bytes while it lives, and they are the
/// producer's: see `planned`. Without room it is dangling, or it is a `Vec<u8>` that is this
/// writer's alone, and takes everything.
#[derive(Debug)]
pub struct PayloadWriter<'a> {
    start: NonNull<u8>,
    room: usize,
    written: usize,
    _room: PhantomData<&'a mut [u8]>,
}

impl<'a> PayloadWriter<'a> {
    /// INVARIANT (room): the caller has established it.
    fn new(start: NonNull<u8>, room: usize) -> PayloadWriter<'a> {
        let start = if room == 0 { NonNull::dangling() } else { start };
        PayloadWriter { start, room, written: 0, _room: PhantomData }
    }

    /// A writer that only counts.
    fn counting() -> PayloadWriter<'static> {
        PayloadWriter::new(NonNull::dangling(), 0)
    }

    /// A writer that appends to `bytes`.
    fn appending(bytes: &'a mut Vec<u8>) -> PayloadWriter<'a> {
        let start = NonNull::from(bytes).cast();
        PayloadWriter { start, room: 0, written: 0, _room: PhantomData }
    }
}

impl Positional for PayloadWriter<'_> {
    #[inline(always)]
    fn pos(&self) -> usize {
        self.written
    }
}

impl Writer<Error> for PayloadWriter<'_> {
    #[inline(always)]
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        // A value can have this count past any number: it stays there then, beyond all room.
        let end = self.written.saturating_add(bytes.len());
        if end <= self.room {
            // SAFETY: (room) `end` was just compared with it.
            let place = unsafe { self.start.add(self.written) };
            // SAFETY: as above; a slice of ours cannot overlap the ring.
            unsafe { copy(bytes, place) };
        } else if self.room == 0 && self.start != NonNull::dangling() {
            // SAFETY: (room) it is a vector, borrowed for as long as this lives.
            unsafe { append(self.start.cast(), bytes) };
        }
        self.written = end;
        Ok(())
    }
}

/// Apart, and by value: a writer whose place is lent to a call would lie in memory on the path of a
/// post too, which doubles what that costs.
///
/// # Safety
/// `to` must be a vector that nobody else uses meanwhile.
#[cold]
#[inline(never)]
unsafe fn append(mut to: NonNull<Vec<u8>>, bytes: &[u8]) {
    // SAFETY: the caller's word.
    unsafe { to.as_mut() }.extend_from_slice(bytes);
}

/// Serialises `value` where `plan` says, or only counts without one. Returns how many bytes it took
/// or would have taken; what exceeds the plan's room is not written.
#[inline(always)]
pub(crate) fn serialize<T: Post>(
    value: &T,
    producer: &Producer,
    plan: Option<&Plan>,
    arena: &mut Arena,
) -> Result<u64, Error> {
    let writer = match plan {
        None => PayloadWriter::counting(),
        Some(plan) => {
            let start = planned(producer, plan, plan.payload_room());
            PayloadWriter::new(start, plan.payload_room() as usize)
        }
    };
    run(value, writer, arena).map(|written| written as u64)
}

/// Serialises `value` into `bytes`, which are 16-aligned unless there are none. Returns how many
/// bytes it took or would have taken.
pub(crate) fn serialize_to<T: Post>(value: &T, bytes: &mut [u8]) -> Result<usize, Error> {
    let writer = PayloadWriter::new(NonNull::from(&mut *bytes).cast(), bytes.len());
    run(value, writer, &mut Arena::new())
}

/// The archive of `value`, to be posted several times. Serialises it once: its `Serialize` may be
/// costly, and may say something else the second time. The bytes need no alignment of their own, as
/// pointers in an archive are relative; each copy is aligned where it is received.
pub(crate) fn archive<T: Post>(value: &T) -> Result<Vec<u8>, Error> {
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
fn run<T: Post>(value: &T, writer: PayloadWriter<'_>, arena: &mut Arena) -> Result<usize, Error> {
    const { assert!(align_of::<T::Archived>() <= 16, "payloads are aligned to 16 bytes") };
    let mut serializer = Serializer::new(writer, arena.acquire(), Share::new());
    rkyv::api::serialize_using::<_, Error>(value, &mut serializer)?;
    Ok(serializer.into_writer().written)
}

/// Copies `bytes` to where `plan` says.
#[inline(always)]
pub(crate) fn fill(producer: &Producer, plan: &Plan, bytes: &[u8]) {
    let place = planned(producer, plan, bytes.len() as u64);
    // SAFETY: (planned) the place is the producer's and long enough, and a payload's first byte is
    // 16-aligned; no slice of ours overlaps it.
    unsafe { copy_in(bytes, place) };
}

/// The bytes of a message that is being written: in the ring of a trusted peer, or private.
///
/// INVARIANT (room): `len` initialised bytes from `start` are this end's alone until the half that
/// reserved them posts or reserves again: in the ring they lie where it stands, and the peer is
/// trusted not to touch them before they are published. Whoever holds this keeps that half alive,
/// and from posting.
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
    // SAFETY: `supply` passes bytes of segments that the consumer has left for good, and of the one
    // that a drained producer has left, without the jump; while a loan is open its half is lent to
    // nobody else (`Sender::lending`), and posting it ends the loan first.
    unsafe { region.remove(lane, bytes) }
}

/// A message that was taken out: where its bytes are, until `ticket` is given back.
///
/// INVARIANT (payload): `len` bytes from `start` are initialised, and nobody writes them before the
/// ticket is given back: they are a private copy in a slot of the pool; or they lie in the ring of
/// a trusted peer, not released yet. Whoever holds this keeps the half that it came from alive.
#[derive(Debug)]
pub(crate) struct Payload {
    start: NonNull<u8>,
    /// Length, format and kind in one word. A field with values to spare would hold the tag of the
    /// results that carry this, and each move of such a result stalls.
    traits: u64,
    ticket: u64,
}

/// Whose a ticket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ticket {
    /// A slot of the pool, with a private copy.
    Slot(u64),
    /// A message that is lent where it lies.
    Lent(u64),
}

impl Payload {
    /// Copies a record's payload out of the area, once, into `blocks`, which the pool keeps as they
    /// are until `ticket` comes back. `None` if they are too few.
    #[inline(always)]
    pub(crate) fn copied(
        memory: &Memory,
        record: &Record,
        blocks: &mut Vec<Block>,
        ticket: u64,
    ) -> Option<Payload> {
        let count = (record.len as usize).div_ceil(size_of::<Block>());
        if count > blocks.capacity() {
            return None;
        }
        let from = memory.bytes(record.payload_offset, (count * size_of::<Block>()) as u64);
        prefetch(from, record.len as usize);
        let start = NonNull::from(blocks.spare_capacity_mut()).cast::<u8>();
        // SAFETY: the source was just checked, and starts at a multiple of 16; there is room for
        // `count` blocks, which nobody else has.
        unsafe { copy_out(from, start, count) };
        Some(Payload { start, traits: traits_of(record) | IS_COPY, ticket })
    }

    /// A record's payload in the ring of a trusted peer, released when `ticket` is given back.
    #[inline(always)]
    pub(crate) fn in_ring(memory: &Memory, record: &Record, ticket: u64) -> Payload {
        let start = memory.bytes(record.payload_offset, u64::from(record.len));
        prefetch(start, record.len as usize);
        Payload { start, traits: traits_of(record), ticket }
    }

    /// What the bytes are.
    #[inline(always)]
    pub(crate) fn format(&self) -> Format {
        match (self.traits >> 32) & 3 {
            0 => Format::Archive,
            1 => Format::Bytes,
            _ => Format::Text,
        }
    }

    /// What to give back once nobody needs the bytes.
    #[inline(always)]
    pub(crate) fn ticket(&self) -> Ticket {
        if self.traits & IS_COPY != 0 {
            Ticket::Slot(self.ticket)
        } else {
            Ticket::Lent(self.ticket)
        }
    }

    /// The message.
    #[inline(always)]
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: (payload).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.traits as u32 as usize) }
    }
}

/// Copies `count` blocks that a peer may write at the same time. Which bytes of such a write are
/// seen is anybody's guess; each is loaded once.
///
/// # Safety
/// `from` must be valid for reads by atomic words, `to` for writes, both of `count` blocks and
/// aligned like one; they must not overlap.
#[inline(always)]
unsafe fn copy_out(from: NonNull<u8>, to: NonNull<u8>, count: usize) {
    #[cfg_attr(not(all(target_arch = "x86_64", not(miri))), allow(unused_mut))]
    let mut done = 0;
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    while done + 4 <= count {
        // SAFETY: the caller's word: four blocks are left.
        let line = unsafe { from.cast::<Block>().add(done) };
        // SAFETY: as above.
        let copy = unsafe { to.cast::<Block>().add(done) };
        // SAFETY: as above; a block is aligned.
        unsafe { copy_line(line.cast(), copy.cast()) };
        done += 4;
    }
    for word in 2 * done..2 * count {
        // SAFETY: the caller's word.
        let place = unsafe { from.cast::<u64>().add(word) };
        // SAFETY: valid and aligned as above; the peer may write at the same time, and relaxed
        // atomic loads make that a value and not a data race.
        let value = unsafe { AtomicU64::from_ptr(place.as_ptr()) }.load(Ordering::Relaxed);
        // SAFETY: the caller's word.
        let copy = unsafe { to.cast::<u64>().add(word) };
        // SAFETY: as above, and a block is aligned for words.
        unsafe { copy.write(value) };
    }
}

/// Copies four blocks, by loads twice as wide as an atomic can be.
///
/// # Safety
/// `from` must be valid for reads of 64 bytes, `to` for writes of as many and 16-aligned; they must
/// not overlap.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
unsafe fn copy_line(from: NonNull<u8>, to: NonNull<u8>) {
    debug_assert!(to.cast::<Block>().is_aligned(), "a store to {to:?} would be a fault");
    // SAFETY: the caller's word. To the language this does what relaxed loads of the single bytes
    // would do, in some order, each once: a race with the peer gives values and is none of its own.
    unsafe {
        std::arch::asm!(
            "movdqu {a}, [{from}]",
            "movdqu {b}, [{from} + 16]",
            "movdqu {c}, [{from} + 32]",
            "movdqu {d}, [{from} + 48]",
            "movdqa [{to}], {a}",
            "movdqa [{to} + 16], {b}",
            "movdqa [{to} + 32], {c}",
            "movdqa [{to} + 48], {d}",
            from = in(reg) from.as_ptr(),
            to = in(reg) to.as_ptr(),
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// Asks for the lines of a payload that is about to be read: they come all at once then, while a
/// reader in place would ask for one after the other as it gets there. A copy gains little by it.
///
/// From the line after the header's, which is here already, to the last one with a byte of the
/// payload, and not further: those behind may be the producer's.
#[inline(always)]
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn prefetch(start: NonNull<u8>, len: usize) {
    use crate::wire::record::HEADER_LEN;
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    let from = start.addr().get();
    let first = (from - HEADER_LEN as usize) / LINE * LINE + LINE;
    for line in (first..from + len.min(MOST_PREFETCHED)).step_by(LINE) {
        let line = start.as_ptr().with_addr(line).cast();
        // SAFETY: a hint, which may name any address and changes nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
    }
}

/// Where the language has no such hint.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
fn prefetch(_start: NonNull<u8>, _len: usize) {}

/// Length in the low half, format above it.
#[inline(always)]
fn traits_of(record: &Record) -> u64 {
    let format = match record.format {
        Format::Archive => 0,
        Format::Bytes => 1,
        Format::Text => 2,
    };
    u64::from(record.len) | format << 32
}

/// Set in the traits of a private copy.
const IS_COPY: u64 = 1 << 40;

/// Sixteen bytes of private memory, aligned like a record's payload.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(16))]
pub(crate) struct Block([u8; 16]);

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

/// Copies a message to where its record stands.
///
/// A short and a very long one by stores of 16 bytes, each inside of one cache line, as a payload
/// is aligned like that. `memcpy` takes wider ones. Of a short message some would lie across two
/// lines, both of which the other end's core may hold. A very long one took some 15 % longer by
/// `memcpy` where it began close behind the start of a page, as its place does and as a block of an
/// allocator often does; by lines, four loads before four stores, it took the same at each place
/// that was tried (`docs/performance.md`).
///
/// # Safety
/// `to` must be 16-aligned and valid for writes of `from.len()` bytes that do not overlap `from`.
#[inline(always)]
unsafe fn copy_in(from: &[u8], to: NonNull<u8>) {
    #[cfg_attr(not(all(target_arch = "x86_64", not(miri))), allow(unused_mut))]
    let mut done = 0;
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if from.len() <= MOST_BY_BLOCKS {
        debug_assert!(to.cast::<Block>().is_aligned(), "a store to {to:?} would be a fault");
        for block in from.chunks_exact(size_of::<Block>()) {
            // SAFETY: the caller's word: the block lies inside of the message's place.
            let place = unsafe { to.add(done) };
            // SAFETY: sixteen bytes are read from a slice of as many, and written to where they
            // belong, 16-aligned as the place's start is. In assembly, since a loop of plain copies
            // becomes one call of `memcpy`.
            unsafe {
                std::arch::asm!(
                    "movdqu {block}, [{from}]",
                    "movdqa [{to}], {block}",
                    from = in(reg) block.as_ptr(),
                    to = in(reg) place.as_ptr(),
                    block = out(xmm_reg) _,
                    options(nostack, preserves_flags),
                );
            }
            done += size_of::<Block>();
        }
    } else if from.len() >= LEAST_BY_LINES {
        // SAFETY: the caller's word.
        done = unsafe { copy_lines(from, to) };
    }
    // SAFETY: the caller's word; `done` is at most the length.
    let rest = unsafe { to.add(done) };
    // SAFETY: the caller's word.
    unsafe { copy(&from[done..], rest) };
}

/// Copies the whole lines of a very long message and returns their bytes.
///
/// # Safety
/// As for `copy_in`.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(never)]
unsafe fn copy_lines(from: &[u8], to: NonNull<u8>) -> usize {
    let mut done = 0;
    for line in from.chunks_exact(LINE) {
        // SAFETY: the caller's word: the line lies inside of the message's place.
        let place = unsafe { to.add(done) };
        // SAFETY: the line is a slice of 64 bytes, and its place is 16-aligned as the message's is.
        unsafe { copy_line(NonNull::from(line).cast(), place) };
        done += LINE;
    }
    done
}

/// # Safety
/// `to` must be valid for writes of `from.len()` bytes that do not overlap `from`.
unsafe fn copy(from: &[u8], to: NonNull<u8>) {
    // SAFETY: the caller's word.
    unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), from.len()) };
}

/// Checked access to an archive.
///
/// The check recurses where the type does, and the bytes are the peer's: so the depth is bounded.
pub(crate) fn access<T>(bytes: &[u8]) -> Result<&T, Error>
where
    T: Portable + for<'a> CheckBytes<HighValidator<'a, Error>>,
{
    let archive = ArchiveValidator::with_max_depth(bytes, NonZeroUsize::new(MAX_DEPTH));
    let mut validator = Validator::new(archive, SharedValidator::new());
    rkyv::api::access_with_context::<T, _, Error>(bytes, &mut validator)
}

/// Access without a check.
///
/// # Safety
/// The bytes must be a valid archive with a `T` at its root.
pub(crate) unsafe fn access_unchecked<T: Portable>(bytes: &[u8]) -> &T {
    // SAFETY: the caller's word.
    unsafe { rkyv::access_unchecked::<T>(bytes) }
}

/// Bytes of a payload whose lines are asked for at once: a core has a few dozen requests under way.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const MOST_PREFETCHED: usize = 2 << 10;
/// Bytes of a cache line, where it matters for speed alone.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const LINE: usize = 64;
/// Bytes of a message that is copied in by blocks: 64 were measured. A longer one is `memcpy`'s.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const MOST_BY_BLOCKS: usize = 256;
/// Bytes from which on a message is copied in by lines: 1 MiB gained by it, 256 KiB did not.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const LEAST_BY_LINES: usize = 512 << 10;

/// Levels of pointers in an archive: a `Box` in a `Box` is two. Far below what a thread's stack of
/// 2 MiB holds, in a debug build too.
pub(crate) const MAX_DEPTH: usize = 256;

/// Names the serializer's parts, so that a change of rkyv's that breaks [`PostSerializer`] is a
/// compile error here and not at a user's.
const _: fn() = || {
    fn same<S: Fallible<Error = Error>>() {}
    same::<Strategy<Serializer<PayloadWriter<'static>, ArenaHandle<'static>, Share>, Error>>();
};
