//! Buffers that are mapped at both ends of a trusted pair: handing one over is a record, giving it
//! back is a store.
//!
//! ```text
//! +0x000  waiting   u32   raised by the maker while it waits for a slot
//! +0x004  users     u32   how many receivers were added by passing buffers on
//! +0x080  freed     u32 for each slot: how often it was freed
//!         user      u32 for each slot, from the next multiple of 128 on: to which user it was
//!                   handed over last
//! from the next page on: the slots, each a multiple of a page
//! ```
//!
//! A slot is free, or has one user, who frees it: the maker, a record in flight, or the receiver.
//! Only the maker takes free slots. It notes in private memory at which count it took each one: a
//! slot whose count has changed since is free. So a slot that goes over and comes back moves one
//! cache line each way, and taking it moves none.
//!
//! A receiver may pass a buffer on through another trusted port. That port's receiver maps the same
//! file, and is a *user* with an own number. It has the lock of the file's byte of that number as
//! long as it, or its descriptor on its way, exists. So the maker can take back what a user held
//! that has died. The maker is user 0, and the receiver at the pool's own port user 1, without a
//! lock: if it is gone, so is the port.
#![allow(unsafe_code)]

mod peer;

use crate::error::{BufferError, SystemError};
use crate::link::frames::Frames;
use crate::link::payload::copy_shared;
use crate::link::region::mapped;
use crate::os::mapping::{Mapping, page_size};
use crate::os::{futex, lock, memfd};
use crate::ring::handover;
use crate::ring::notifier::{self, Sleep, Wake};
use crate::sync::Site;
pub(crate) use peer::{PeerPool, Pooled};
use std::cell::Cell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The memory of a pool, at one of the two ends.
///
/// INVARIANT (mapping): `mapping` has `total(slots, len)` bytes, of a file whose length is sealed.
/// INVARIANT (slot): only the user of a slot touches its bytes, at either end. Both ends are
/// trusted to keep to that, or the slots are `frames`: those only the maker can write, it believes
/// the peer about no slot that it has itself, and the other end reads them by atomic loads only.
pub(crate) struct PoolMemory {
    mapping: Mapping,
    slots: u32,
    len: u64,
    /// By which further receivers map it. It keeps the lock of this user, if it has one. Nothing
    /// is passed on of frames.
    descriptor: Option<OwnedFd>,
    /// The slots, if they are not in `mapping`.
    frames: Option<Frames>,
}

impl PoolMemory {
    /// Creates a pool with all of its pages.
    pub(crate) fn create(slots: u32, len: u64) -> Result<Arc<PoolMemory>, BufferError> {
        let total = allowed_total(slots, len)?;
        let descriptor = memfd::create_sealed(total)?;
        let mapping = map(&descriptor, total)?;
        let descriptor = Some(descriptor);
        Ok(Arc::new(PoolMemory { mapping, slots, len, descriptor, frames: None }))
    }

    /// Creates a pool whose slots the peer can only read, and the descriptors of its two files.
    pub(crate) fn create_frames(
        slots: u32,
        len: u64,
    ) -> Result<(Arc<PoolMemory>, [OwnedFd; 2]), BufferError> {
        allowed_total(slots, len)?;
        let counts = memfd::create_sealed(slots_start(slots.into()))?;
        let mapping = map(&counts, slots_start(slots.into()))?;
        let (frames, descriptor) = Frames::create(slots, u64::from(slots) * stride(len))?;
        let frames = Some(frames);
        let memory = PoolMemory { mapping, slots, len, descriptor: None, frames };
        Ok((Arc::new(memory), [counts, descriptor]))
    }

    /// The descriptor by which the receiver at the pool's own port maps it, and others; none of
    /// frames.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.descriptor.as_ref().map(AsFd::as_fd)
    }

    /// Adds a user: its number, and the descriptor that keeps its lock and by which it maps the
    /// pool.
    pub(crate) fn add_user(&self, file: BorrowedFd<'_>) -> Result<(u32, OwnedFd), SystemError> {
        // Relaxed: it only gives numbers.
        let before = self.word(USERS).fetch_add(1, Ordering::Relaxed);
        let user = before.checked_add(FIRST_PASSED).unwrap_or(FIRST_PASSED);
        Ok((user, lock::reopen_locked(file, user)?))
    }

    pub(crate) fn slots(&self) -> u32 {
        self.slots
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Sleeps for at most `slice` until a slot may have come back. The caller looks before.
    pub(crate) fn wait(&self, slice: Duration, look: impl FnOnce() -> bool) {
        notifier::arm(self.waiting(), Sleep::Futex);
        if !look() {
            futex::wait(self.waiting(), Sleep::Futex.code(), slice);
        }
        notifier::disarm(self.waiting());
    }

    fn free(&self, slot: u32) {
        handover::return_slot(self.freed(slot));
        if notifier::look_strictly(self.waiting(), Site::FenceBeforeLook) != Wake::NoSleeper {
            futex::wake(self.waiting());
        }
    }

    fn waiting(&self) -> &AtomicU32 {
        self.word(0)
    }

    fn freed(&self, slot: u32) -> &AtomicU32 {
        assert!(slot < self.slots);
        self.word(COUNTS + COUNT_LEN * u64::from(slot))
    }

    /// To which user the slot was handed over last.
    fn user(&self, slot: u32) -> &AtomicU32 {
        assert!(slot < self.slots);
        self.word(users_start(self.slots.into()) + COUNT_LEN * u64::from(slot))
    }

    fn word(&self, offset: u64) -> &AtomicU32 {
        let place = mapped(&self.mapping, offset, 4).cast::<u32>();
        // SAFETY: (mapping) the place lies in the mapping, which `self` keeps, and is aligned, as
        // the mapping is and as offsets of words are multiples of four. It is only accessed as an
        // atomic.
        unsafe { AtomicU32::from_ptr(place.as_ptr()) }
    }

    fn bytes(&self, slot: u32) -> NonNull<u8> {
        let offset = u64::from(slot) * stride(self.len);
        match &self.frames {
            Some(frames) => mapped(frames.mapping(), offset, self.len),
            None => mapped(&self.mapping, slots_start(u64::from(self.slots)) + offset, self.len),
        }
    }
}

/// The maker's end of a pool.
///
/// INVARIANT (slot): a slot whose count is not the noted one is free: it was never taken, or its
/// user increased the count when it freed it. Only this value takes slots, as a memory has one
/// maker, in the process that made it.
#[derive(Debug)]
pub(crate) struct PoolMaker {
    memory: Arc<PoolMemory>,
    /// At which count each slot was last taken.
    noted: Vec<Cell<u32>>,
    /// Where to look next after the first few.
    next: Cell<u32>,
}

impl PoolMaker {
    /// The maker's end of a pool that was just made, all of whose counts are zero.
    pub(crate) fn new(memory: Arc<PoolMemory>) -> PoolMaker {
        let noted = vec![Cell::new(NEVER); memory.slots as usize];
        PoolMaker { memory, noted, next: Cell::new(0) }
    }

    pub(crate) fn memory(&self) -> &PoolMemory {
        &self.memory
    }

    /// Takes the first free slot: so no more slots than necessary are in turn, and the caches hold
    /// those. After the first few, whose counts are in one pair of cache lines, it takes turns, so
    /// that it does not look at all slots in use each time.
    pub(crate) fn take(&self) -> Option<PooledBuffer> {
        let slots = self.memory.slots;
        let first = slots.min(FIRST);
        if let Some(buffer) = (0..first).find_map(|slot| self.take_slot(slot)) {
            return Some(buffer);
        }
        let others = slots - first;
        let mut round = (0..others).map(|step| first + (self.next.get() + step) % others);
        let buffer = round.find_map(|slot| self.take_slot(slot))?;
        self.next.set(buffer.slot - first + 1);
        Some(buffer)
    }

    fn take_slot(&self, slot: u32) -> Option<PooledBuffer> {
        let count = handover::slot_count(self.memory.freed(slot));
        let noted = &self.noted[slot as usize];
        let is_free = noted.get() != count
            && self.memory.frames.as_ref().is_none_or(|frames| frames.take(slot));
        is_free.then(|| {
            noted.set(count);
            let buffer = PooledBuffer { memory: self.memory.clone(), slot };
            buffer.hand_to(MAKER);
            buffer
        })
    }

    /// Takes back what users held that were passed a buffer and have died. Returns whether a slot
    /// came back.
    pub(crate) fn reclaim(&self) -> bool {
        let memory = &self.memory;
        // Frames are not passed on, and their peer may write anything.
        let (Some(file), None) = (&memory.descriptor, &memory.frames) else { return false };
        // Relaxed: what a user wrote before its end comes by the kernel, which says that it ended.
        let user_of = |slot| memory.user(slot).load(Ordering::Relaxed);
        let mut passed: Vec<u32> =
            (0..memory.slots).map(user_of).filter(|user| *user >= FIRST_PASSED).collect();
        passed.sort_unstable();
        passed.dedup();
        passed.retain(|user| !lock::is_locked(file, *user));
        let mut has_freed = false;
        for slot in 0..memory.slots {
            // Read again now: until its end the user may have passed it on, or freed it.
            let is_in_use =
                handover::slot_count(memory.freed(slot)) == self.noted[slot as usize].get();
            if is_in_use && passed.binary_search(&user_of(slot)).is_ok() {
                memory.free(slot);
                has_freed = true;
            }
        }
        has_freed
    }

    /// How many slots are in use. While it is less than all, `take` finds one: a peer that frees
    /// what the maker has must not turn a wait into a loop.
    pub(crate) fn in_use(&self) -> u32 {
        // Relaxed: a number for people, or a poll that another one follows.
        let count = |slot| self.memory.freed(slot).load(Ordering::Relaxed);
        let is_held = |slot| self.memory.frames.as_ref().is_some_and(|frames| frames.is_held(slot));
        let taken =
            |(slot, noted): &(u32, &Cell<u32>)| count(*slot) == noted.get() || is_held(*slot);
        (0..).zip(&self.noted).filter(taken).count() as u32
    }
}

/// A buffer of a [`BufferPool`](crate::BufferPool). Dropping it returns it to the pool.
///
/// The maker of the pool fills it and posts it. The receiver uses it, or passes it on: it posts it
/// through another trusted port, and the next receiver has the same memory.
///
/// INVARIANT (slot): the slot is this value's until it is dropped or handed over.
pub struct PooledBuffer {
    memory: Arc<PoolMemory>,
    slot: u32,
}

impl PooledBuffer {
    pub(crate) fn is_of(&self, memory: &Arc<PoolMemory>) -> bool {
        Arc::ptr_eq(&self.memory, memory)
    }

    pub(crate) fn slot(&self) -> u32 {
        self.slot
    }

    pub(crate) fn memory(&self) -> &Arc<PoolMemory> {
        &self.memory
    }

    /// Notes whose it will be. It stays this value's until the record is published.
    pub(crate) fn hand_to(&self, user: u32) {
        // Relaxed: the record that hands it over publishes it; else only the maker reads it.
        self.memory.user(self.slot).store(user, Ordering::Relaxed);
    }

    /// It was handed over: the peer owns it now.
    pub(crate) fn mark_moved(self) {
        let mut this = std::mem::ManuallyDrop::new(self);
        if let Some(frames) = &this.memory.frames {
            frames.hand_over(this.slot);
        }
        // SAFETY: the value is not dropped, and is not used again.
        unsafe { std::ptr::drop_in_place(&raw mut this.memory) };
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        if let Some(frames) = &self.memory.frames {
            frames.hand_over(self.slot);
        }
        self.memory.free(self.slot);
    }
}

impl Deref for PooledBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let bytes = self.memory.bytes(self.slot);
        // SAFETY: (slot) it is this value's, and the other end is trusted to leave it alone, or
        // cannot write it, as it is the maker's: a frame of another maker is in a `Frame` only;
        // (mapping) the memory is kept by `self`, and initialised, as shared memory is.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr(), self.memory.len as usize) }
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let bytes = self.memory.bytes(self.slot);
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_ptr(), self.memory.len as usize) }
    }
}

/// A frame of a [`BufferPool`](crate::BufferPool) whose maker is not trusted: its bytes are copied
/// out, whole or in parts. Dropping it returns it to the pool.
///
/// Its memory is reused, so nothing is allocated for it, and it is not copied on its way. In
/// exchange, the maker can change it at any time. A hostile one can so make two copies of the same
/// bytes differ; it can do no more. Copy what you check, and use that copy.
///
/// A part that fits the first cache of a core, about 16 KiB, is used from there: processing a
/// frame part by part is then nearly as fast as in place.
///
/// ```
/// use messageport::{BufferPool, MessageChannel};
///
/// let channel = MessageChannel::new()?; // no end trusts the other one
/// let pool = BufferPool::for_untrusted(&channel.port1, 3, 1 << 20)?;
/// let mut frame = pool.take()?;
/// frame.fill(7);
/// channel.port1.post_message_pooled(&1u32, frame)?;
///
/// let frame = channel.port2.recv()?.take_frame()?;
/// let (mut part, mut sum) = (vec![0; 16 << 10], 0u64);
/// for from in (0..frame.len()).step_by(part.len()) {
///     frame.copy_to(from, &mut part);
///     sum += part.iter().map(|byte| u64::from(*byte)).sum::<u64>();
/// }
/// assert_eq!(sum, 7 << 20);
/// drop(frame);
/// assert_eq!(pool.in_use(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Frame {
    /// INVARIANT (shared): never lent as a slice, as the maker may write to it.
    buffer: PooledBuffer,
}

impl Frame {
    /// A buffer of a trusted maker, read as a frame.
    pub(crate) fn of(buffer: PooledBuffer) -> Frame {
        Frame { buffer }
    }

    /// Bytes of the frame.
    #[allow(clippy::len_without_is_empty, reason = "a pool has no empty buffers")]
    pub fn len(&self) -> usize {
        self.buffer.memory.len as usize
    }

    /// Copies the bytes from `from` on, as many as `to` has. Fastest if `from` is a multiple of 16.
    ///
    /// # Panics
    /// If the frame has fewer.
    pub fn copy_to(&self, from: usize, to: &mut [u8]) {
        let end = from.checked_add(to.len());
        assert!(
            end.is_some_and(|end| end <= self.len()),
            "{} bytes from {from} on of a frame of {}",
            to.len(),
            self.len()
        );
        // SAFETY: it was just checked that this is inside the slot.
        let place = unsafe { self.buffer.memory.bytes(self.buffer.slot).add(from) };
        // SAFETY: (mapping) the slot starts and ends with its pages, so whole words are readable;
        // `to` is not part of it, as (shared) no slice is.
        unsafe { copy_shared(place, to) };
    }

    /// Copies all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        self.copy_to(0, &mut bytes);
        bytes
    }
}

impl fmt::Debug for PooledBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledBuffer")
            .field("slot", &self.slot)
            .field("len", &self.memory.len)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PoolMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolMemory")
            .field("slots", &self.slots)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

fn stride(len: u64) -> u64 {
    len.next_multiple_of(page_size())
}

fn users_start(slots: u64) -> u64 {
    (COUNTS + COUNT_LEN * slots).next_multiple_of(LINES)
}

fn slots_start(slots: u64) -> u64 {
    (users_start(slots) + COUNT_LEN * slots).next_multiple_of(page_size())
}

/// Maps and populates a pool.
fn map(descriptor: impl AsFd, total: u64) -> Result<Mapping, SystemError> {
    let mapping = Mapping::new(descriptor, total)?;
    mapping.advise_huge_pages();
    mapping.populate(0..total)?;
    Ok(mapping)
}

/// The total length of a pool; `None` if it overflows.
pub(crate) fn total(slots: u64, len: u64) -> Option<u64> {
    let stride = len.checked_next_multiple_of(page_size())?;
    let counts = COUNT_LEN.checked_mul(slots)?;
    let users = counts.checked_add(COUNTS)?.checked_next_multiple_of(LINES)?;
    let start = users.checked_add(counts)?.checked_next_multiple_of(page_size())?;
    stride.checked_mul(slots)?.checked_add(start)
}

/// The total length of a pool, if this process may make files as long.
fn allowed_total(slots: u32, len: u64) -> Result<u64, BufferError> {
    let total = total(u64::from(slots), len).unwrap_or(u64::MAX);
    let allowed = memfd::file_size_limit()?;
    if allowed < total {
        return Err(BufferError::TooLarge { len: total, allowed });
    }
    Ok(total)
}

/// Where the counts begin: the word before them is the maker's, and has lines of its own.
const COUNTS: u64 = 0x80;
/// Where the count of the users is.
const USERS: u64 = 4;
/// The counts and the users' numbers are apart by a pair of cache lines.
const LINES: u64 = 0x80;
/// The number of the maker, and of the receiver at the pool's own port; then come those to whom
/// buffers were passed on.
const MAKER: u32 = 0;
pub(crate) const FIRST_RECEIVER: u32 = 1;
const FIRST_PASSED: u32 = 2;
/// Bytes of a count. Close together, as the maker looks at all those before the one it takes.
const COUNT_LEN: u64 = 4;
/// The most slots of a pool of frames.
pub(crate) const MOST_FRAMES: u32 = 1024;
/// Slots among which the first free one is taken.
const FIRST: u32 = 32;
/// Noted for a slot that was never taken: no count gets there before the first time.
const NEVER: u32 = u32::MAX;

#[cfg(test)]
mod tests;
