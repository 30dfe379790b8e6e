//! Copies by 16-byte registers, and hints to fetch lines: what x86-64 does in assembly.
#![allow(unsafe_code)]

use super::super::Block;
use crate::wire::record::HEADER_LEN;
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::ptr::NonNull;

/// Copies `count` blocks, and returns how many it has copied: all.
///
/// # Safety
/// As for `super::copy_out`.
#[inline(always)]
pub(super) unsafe fn copy_out(from: NonNull<u8>, to: NonNull<u8>, count: usize) -> usize {
    if count < 4 {
        // Short ones first, and without a loop, which takes twice as many instructions.
        for number in 0..3 {
            if number < count {
                // SAFETY: upheld by the caller: the block is there; a block is aligned.
                unsafe { copy_block_at(from, to, number) };
            }
        }
        return count;
    }
    prefetch(from, count * size_of::<Block>());
    let mut done = 0;
    while done + 4 <= count {
        // SAFETY: upheld by the caller: four blocks are left.
        let line = unsafe { from.cast::<Block>().add(done) };
        // SAFETY: as above.
        let copy = unsafe { to.cast::<Block>().add(done) };
        // SAFETY: as above; a block is aligned.
        unsafe { copy_line(line.cast(), copy.cast()) };
        done += 4;
    }
    // Without a loop, which takes twice as many instructions.
    for left in 1..4 {
        if count - done >= left {
            // SAFETY: upheld by the caller: as many blocks are left; a block is aligned.
            unsafe { copy_block_at(from, to, done + left - 1) };
        }
    }
    count
}

/// Copies what this does better than `memcpy`, from a message's start on, and returns how many
/// bytes those are.
///
/// A short and a very long one by stores of 16 bytes, each inside one cache line, as a payload is
/// aligned like that. `memcpy` uses wider stores. In a short message some of them would cross two
/// lines, both of which the other end's core may hold. A very long one took about 15 % longer by
/// `memcpy` if it began shortly after the start of a page, as its place does and as a block of an
/// allocator often does. By lines, four loads before four stores, a trusted port took the same at
/// the three places that were tried (`docs/performance-notes.md`).
///
/// # Safety
/// As for `super::copy_in`.
#[inline(always)]
pub(super) unsafe fn copy_in(from: &[u8], to: NonNull<u8>) -> usize {
    let mut done = 0;
    if from.len() <= MOST_BY_BLOCKS {
        debug_assert!(to.cast::<Block>().is_aligned(), "a store to {to:?} would be a fault");
        for block in from.chunks_exact(size_of::<Block>()) {
            // SAFETY: upheld by the caller: the block lies inside the message's place.
            let place = unsafe { to.add(done) };
            // SAFETY: sixteen bytes are read from a slice of as many, and written to where they
            // belong, 16-aligned as the place's start is.
            unsafe { copy_block(NonNull::from(block).cast(), place) };
            done += size_of::<Block>();
        }
    } else if from.len() >= LEAST_BY_LINES {
        // SAFETY: upheld by the caller, see `# Safety`.
        done = unsafe { copy_lines(from, to) };
    }
    done
}

/// Copies the whole lines of a very long message and returns their bytes.
///
/// # Safety
/// As for `super::copy_in`.
#[inline(never)]
unsafe fn copy_lines(from: &[u8], to: NonNull<u8>) -> usize {
    let mut done = 0;
    for line in from.chunks_exact(LINE) {
        // SAFETY: upheld by the caller: the line lies inside the message's place.
        let place = unsafe { to.add(done) };
        // SAFETY: the line is a slice of 64 bytes, and its place is 16-aligned as the message's is.
        unsafe { copy_line(NonNull::from(line).cast(), place) };
        done += LINE;
    }
    done
}

/// Copies the block of that number.
///
/// # Safety
/// As for `copy_block`, of `number + 1` blocks.
#[inline(always)]
unsafe fn copy_block_at(from: NonNull<u8>, to: NonNull<u8>, number: usize) {
    // SAFETY: upheld by the caller.
    let block = unsafe { from.cast::<Block>().add(number) };
    // SAFETY: upheld by the caller.
    let copy = unsafe { to.cast::<Block>().add(number) };
    // SAFETY: upheld by the caller.
    unsafe { copy_block(block.cast(), copy.cast()) };
}

/// Copies a block. In assembly, since a loop of plain copies becomes one call of `memcpy`, and a
/// peer may write where it reads.
///
/// # Safety
/// `from` must be valid for reads of 16 bytes, `to` for writes of as many and 16-aligned; they must
/// not overlap.
#[inline(always)]
unsafe fn copy_block(from: NonNull<u8>, to: NonNull<u8>) {
    // SAFETY: upheld by the caller; for Rust's memory model see `copy_line`.
    unsafe {
        std::arch::asm!(
            "movdqu {block}, [{from}]",
            "movdqa [{to}], {block}",
            from = in(reg) from.as_ptr(),
            to = in(reg) to.as_ptr(),
            block = out(xmm_reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// Copies four blocks, by loads twice as wide as an atomic can be.
///
/// # Safety
/// `from` must be valid for reads of 64 bytes, `to` for writes of as many and 16-aligned; they must
/// not overlap.
#[inline(always)]
unsafe fn copy_line(from: NonNull<u8>, to: NonNull<u8>) {
    debug_assert!(to.cast::<Block>().is_aligned(), "a store to {to:?} would be a fault");
    // SAFETY: upheld by the caller. Rust's memory model treats this as one relaxed load per byte,
    // in some order: a race with the peer gives some values, and is not a data race.
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
pub(in super::super) fn prefetch(start: NonNull<u8>, len: usize) {
    if len <= MOST_BEHIND_HEADER {
        return;
    }
    let from = start.addr().get();
    let first = (from - HEADER_LEN as usize) / LINE * LINE + LINE;
    for line in (first..from + len.min(MOST_PREFETCHED)).step_by(LINE) {
        let line = start.as_ptr().with_addr(line).cast();
        // SAFETY: a hint, which may name any address and changes nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
    }
}

/// Bytes of a payload that has at most one line after its header's: a copy is as fast as a hint.
const MOST_BEHIND_HEADER: usize = LINE - HEADER_LEN as usize;
/// Bytes of a payload whose lines are asked for at once: a core has a few dozen requests under way.
const MOST_PREFETCHED: usize = 2 << 10;
/// Bytes of a cache line, where it matters for speed alone.
const LINE: usize = 64;
/// Bytes of a message that is copied in by blocks: 64 were measured. A longer one is `memcpy`'s.
const MOST_BY_BLOCKS: usize = 256;
/// Bytes from which on a message is copied in by lines: 1 MiB gained by it, 256 KiB did not.
const LEAST_BY_LINES: usize = 512 << 10;
