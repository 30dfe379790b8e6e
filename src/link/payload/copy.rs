//! Copies into the ring and out of it.
#![allow(unsafe_code)]

// Miri and AddressSanitizer see nothing of what assembly does.
#[cfg_attr(
    all(target_arch = "x86_64", not(any(miri, fuzzing, messageport_portable))),
    path = "x86_64.rs"
)]
#[cfg_attr(
    not(all(target_arch = "x86_64", not(any(miri, fuzzing, messageport_portable)))),
    path = "portable.rs"
)]
mod wide;

use super::{Block, blocks_as_bytes, blocks_of, planned};
use crate::ring::consumer::Record;
use crate::ring::memory::Memory;
use crate::ring::producer::Producer;
use crate::ring::route::Plan;
use crate::sync::{AtomicU64, Ordering};
use std::ptr::{self, NonNull};
pub(super) use wide::prefetch;

/// Copies `count` blocks that a peer may write at the same time. Which bytes of such a write are
/// seen is unspecified; each is loaded once.
///
/// # Safety
/// `from` must be valid for reads by atomic words, `to` for writes, both of `count` blocks and
/// aligned like one; they must not overlap.
#[inline(always)]
pub(super) unsafe fn copy_out(from: NonNull<u8>, to: NonNull<u8>, count: usize) {
    // SAFETY: upheld by the caller, see `# Safety`.
    let done = unsafe { wide::copy_out(from, to, count) };
    for word in 2 * done..2 * count {
        // SAFETY: upheld by the caller, see `# Safety`.
        let place = unsafe { from.cast::<u64>().add(word) };
        // SAFETY: valid and aligned as above; the peer may write at the same time, and relaxed
        // atomic loads make that a value and not a data race.
        let value = unsafe { AtomicU64::from_ptr(place.as_ptr()) }.load(Ordering::Relaxed);
        // SAFETY: upheld by the caller, see `# Safety`.
        let copy = unsafe { to.cast::<u64>().add(word) };
        // SAFETY: as above, and a block is aligned for words.
        unsafe { copy.write(value) };
    }
}

/// Copies a message into its record.
///
/// # Safety
/// `to` must be 16-aligned and valid for writes of `from.len()` bytes that do not overlap `from`.
#[inline(always)]
pub(super) unsafe fn copy_in(from: &[u8], to: NonNull<u8>) {
    if from.len() < size_of::<Block>() {
        // SAFETY: upheld by the caller, see `# Safety`.
        return unsafe { copy_few(from, to) };
    }
    // SAFETY: upheld by the caller, see `# Safety`.
    let done = unsafe { wide::copy_in(from, to) };
    // SAFETY: upheld by the caller; `done` is at most the length.
    let place = unsafe { to.add(done) };
    let rest = &from[done..];
    if rest.len() < size_of::<Block>() {
        // SAFETY: upheld by the caller, see `# Safety`.
        unsafe { copy_few(rest, place) };
    } else {
        // SAFETY: upheld by the caller, see `# Safety`.
        unsafe { copy(rest, place) };
    }
}

/// Copies fewer than 16 bytes, by words that may overlap: a call of `memcpy` takes three times as
/// many instructions.
///
/// # Safety
/// As for `copy`.
#[inline(always)]
unsafe fn copy_few(from: &[u8], to: NonNull<u8>) {
    if let (Some(first), Some(last)) = (from.first_chunk::<8>(), from.last_chunk::<8>()) {
        // SAFETY: upheld by the caller.
        unsafe { copy_ends(first, last, from.len(), to) };
    } else if let (Some(first), Some(last)) = (from.first_chunk::<4>(), from.last_chunk::<4>()) {
        // SAFETY: upheld by the caller.
        unsafe { copy_ends(first, last, from.len(), to) };
    } else {
        for (index, byte) in from.iter().enumerate() {
            // SAFETY: upheld by the caller.
            let place = unsafe { to.add(index) };
            // SAFETY: upheld by the caller.
            unsafe { place.write(*byte) };
        }
    }
}

/// Copies `len` bytes of which `first` and `last` are the ends, which meet or overlap.
///
/// # Safety
/// `to` must be valid for writes of `len` bytes, which is at least `N`.
#[inline(always)]
unsafe fn copy_ends<const N: usize>(first: &[u8; N], last: &[u8; N], len: usize, to: NonNull<u8>) {
    // SAFETY: upheld by the caller.
    let end = unsafe { to.add(len - N) };
    // SAFETY: upheld by the caller; an array of bytes needs no alignment.
    unsafe { to.cast::<[u8; N]>().write(*first) };
    // SAFETY: as above.
    unsafe { end.cast::<[u8; N]>().write(*last) };
}

/// # Safety
/// `to` must be valid for writes of `from.len()` bytes that do not overlap `from`.
pub(super) unsafe fn copy(from: &[u8], to: NonNull<u8>) {
    // SAFETY: upheld by the caller, see `# Safety`.
    unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), from.len()) };
}

/// Copies bytes that a peer may write at the same time; each is loaded once.
///
/// # Safety
/// The aligned words that the `to.len()` bytes from `from` on lie in must be valid for reads by
/// atomic words, and must not overlap `to`.
pub(crate) unsafe fn copy_shared(from: NonNull<u8>, mut to: &mut [u8]) {
    let mut skip = from.as_ptr().addr() % size_of::<u64>();
    // SAFETY: upheld by the caller: the word's start is readable as well.
    let mut place = unsafe { from.sub(skip) };
    let is_block = |at: *const u8| at.addr().is_multiple_of(size_of::<Block>());
    if is_block(from.as_ptr()) && is_block(to.as_ptr()) {
        let count = to.len() / size_of::<Block>();
        let (blocks, rest) = to.split_at_mut(count * size_of::<Block>());
        // SAFETY: upheld by the caller; both are aligned, as was just seen.
        unsafe { copy_out(from, NonNull::from(&mut *blocks).cast(), count) };
        // SAFETY: upheld by the caller: the bytes up to there were just read.
        place = unsafe { place.add(blocks.len()) };
        to = rest;
    }
    while !to.is_empty() {
        // SAFETY: upheld by the caller: valid and aligned, and relaxed atomic loads make what the
        // peer writes at the same time a value and not a data race.
        let word = unsafe { AtomicU64::from_ptr(place.cast().as_ptr()) }.load(Ordering::Relaxed);
        let bytes = word.to_ne_bytes();
        let count = to.len().min(bytes.len() - skip);
        let (part, rest) = to.split_at_mut(count);
        match part.first_chunk_mut::<8>() {
            Some(whole) => *whole = bytes,
            None => part.copy_from_slice(&bytes[skip..skip + count]),
        }
        (to, skip) = (rest, 0);
        // SAFETY: at most one word behind the last one that was read.
        place = unsafe { place.add(size_of::<u64>()) };
    }
}

/// Copies `bytes` to where `plan` says, behind the first `at` bytes of the payload.
pub(crate) fn fill_behind(producer: &Producer, plan: &Plan, at: u64, bytes: &[u8]) {
    let start = planned(producer, plan, at + bytes.len() as u64);
    // SAFETY: `planned` has checked that the payload has so many bytes.
    let place = unsafe { start.add(at as usize) };
    // SAFETY: (planned) the place is the producer's and long enough; no slice of ours overlaps it.
    unsafe { copy(bytes, place) };
}

/// Copies a part of a record's payload, each byte once, into `to`: from `at` on.
pub(crate) fn copy_part(memory: &Memory, record: &Record, at: u32, to: &mut [u8]) {
    let end = u64::from(at) + to.len() as u64;
    assert!(end <= u64::from(record.len), "a part that the payload has not");
    let from = memory.bytes(record.payload_offset + u64::from(at), to.len() as u64);
    // SAFETY: just checked to be inside of the record, which begins and ends at multiples of 16;
    // `to` is private.
    unsafe { copy_shared(from, to) };
}

/// The last bytes of a record's payload, without the rest. `None` if it has fewer.
#[cold]
pub(crate) fn copy_end(memory: &Memory, record: &Record) -> Option<[u8; 16]> {
    let mut copy = [Block::default(); 2];
    let at = (record.len as usize).checked_sub(size_of::<Block>())?;
    let first = at / size_of::<Block>();
    let blocks = copy.get_mut(..blocks_of(record.len) - first)?;
    let offset = (first * size_of::<Block>()) as u64;
    let from = memory.bytes(record.payload_offset + offset, size_of_val(blocks) as u64);
    // SAFETY: the source was just checked, and starts at a multiple of 16; the destination is a
    // slice of as many blocks, which no other code has.
    unsafe { copy_out(from, NonNull::from(&mut *blocks).cast(), blocks.len()) };
    blocks_as_bytes(&copy)[at % size_of::<Block>()..].first_chunk().copied()
}
