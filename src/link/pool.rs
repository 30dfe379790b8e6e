//! Buffers that are mapped at both ends of a trusted pair: handing one over is a record, giving it
//! back is a store.
//!
//! ```text
//! +0x000  waiting   u32   raised by the maker while it waits for a slot
//! +0x080  states    u32, 128 bytes apart: one for each slot
//! from the next page on: the slots, each a multiple of a page
//! ```
//!
//! A slot is free, or somebody's. Who has it frees it, wherever it is: in the maker's hands, in a
//! record, in the receiver's hands. Only the maker takes free ones.
#![allow(unsafe_code)]

use crate::error::{BufferError, Corruption};
use crate::link::region::mapped;
use crate::os::mapping::{Mapping, page_size};
use crate::os::{futex, memfd};
use crate::ring::notifier::{self, Sleep, Wake};
use crate::sync::Site;
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
/// INVARIANT (slot): the bytes of a slot are whose it is, at either end; both are trusted to keep
/// to that, as a pool exists between trusted ends only.
pub(crate) struct PoolMemory {
    mapping: Mapping,
    descriptor: OwnedFd,
    slots: u32,
    len: u64,
}

impl PoolMemory {
    /// Makes a pool, all of its pages included.
    pub(crate) fn create(slots: u32, len: u64) -> Result<Arc<PoolMemory>, BufferError> {
        let total = total(u64::from(slots), len).unwrap_or(u64::MAX);
        let allowed = memfd::file_size_limit()?;
        if slots == 0 || len == 0 || allowed < total || total > i64::MAX as u64 {
            return Err(BufferError::TooLarge { len: total, allowed });
        }
        PoolMemory::map(memfd::create_sealed(total)?, slots, len)
    }

    /// Maps a pool that a trusted peer has made.
    pub(crate) fn attach(
        descriptor: OwnedFd,
        slots: u64,
        len: u64,
    ) -> Result<Arc<PoolMemory>, BufferError> {
        let refused = |what| Err(BufferError::Refused { what });
        let (Ok(count), Some(total)) = (u32::try_from(slots), total(slots, len)) else {
            return refused("a pool of an impossible size");
        };
        let nature = memfd::examine(&descriptor)?;
        if !nature.sealed || !nature.plain_memory || nature.len != total || slots * len == 0 {
            return refused("the memory of a pool is not what was said");
        }
        PoolMemory::map(descriptor, count, len)
    }

    fn map(descriptor: OwnedFd, slots: u32, len: u64) -> Result<Arc<PoolMemory>, BufferError> {
        let bytes = total(u64::from(slots), len).expect("it was computed before");
        let mapping = Mapping::new(&descriptor, bytes)?;
        mapping.populate(0..bytes)?;
        Ok(Arc::new(PoolMemory { mapping, descriptor, slots, len }))
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    pub(crate) fn slots(&self) -> u32 {
        self.slots
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Takes the first free slot from `hint` on, for the maker.
    pub(crate) fn take(self: &Arc<Self>, hint: u32) -> Option<PooledBuffer> {
        let slots = (0..self.slots).map(|step| (hint + step) % self.slots);
        for slot in slots {
            // Acquire: pairs with the Release in `free`; who had it before is through with it.
            if self.state(slot).load(Ordering::Acquire) == FREE {
                // Relaxed: only the maker takes.
                self.state(slot).store(TAKEN, Ordering::Relaxed);
                return Some(PooledBuffer { memory: self.clone(), slot });
            }
        }
        None
    }

    /// The slot that a record of the trusted peer names.
    pub(crate) fn received(self: &Arc<Self>, slot: u32) -> Result<PooledBuffer, Corruption> {
        if slot >= self.slots {
            return Err(Corruption::new("slot of a pool", slot.into(), self.slots.into()));
        }
        Ok(PooledBuffer { memory: self.clone(), slot })
    }

    /// How many slots are somebody's.
    pub(crate) fn in_use(&self) -> u32 {
        // Relaxed: a number for people.
        let taken = |slot: &u32| self.state(*slot).load(Ordering::Relaxed) != FREE;
        (0..self.slots).filter(taken).count() as u32
    }

    /// Sleeps until a slot may have come back, at most for `slice`. The caller looks before.
    pub(crate) fn wait(&self, slice: Duration, look: impl FnOnce() -> bool) {
        notifier::arm(self.waiting(), Sleep::Futex);
        if !look() {
            futex::wait(self.waiting(), Sleep::Futex.code(), slice);
        }
        notifier::disarm(self.waiting());
    }

    fn free(&self, slot: u32) {
        // Release: pairs with the Acquire in `take`; the bytes are no longer used here.
        self.state(slot).store(FREE, Ordering::Release);
        if notifier::look(self.waiting(), Site::FenceBeforeLook) != Wake::Nobody {
            futex::wake(self.waiting());
        }
    }

    fn waiting(&self) -> &AtomicU32 {
        self.word(0)
    }

    fn state(&self, slot: u32) -> &AtomicU32 {
        assert!(slot < self.slots);
        self.word(STATES + LINE * u64::from(slot))
    }

    fn word(&self, offset: u64) -> &AtomicU32 {
        let place = mapped(&self.mapping, offset, 4).cast::<u32>();
        // SAFETY: (mapping) the place lies in the mapping, which `self` keeps, and is aligned, as
        // the mapping is and as offsets of words are multiples of 128. It is only accessed as an
        // atomic.
        unsafe { AtomicU32::from_ptr(place.as_ptr()) }
    }

    fn bytes(&self, slot: u32) -> NonNull<u8> {
        let offset = slots_start(u64::from(self.slots)) + u64::from(slot) * stride(self.len);
        mapped(&self.mapping, offset, self.len)
    }
}

/// A buffer of a [`BufferPool`](crate::BufferPool): in the hands of the maker, to be filled, or of
/// the receiver, to be used. Dropping it returns it to the pool.
///
/// INVARIANT (slot): the slot is this value's, until it is dropped or handed over.
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

    /// It was handed over: it is the peer's now.
    pub(crate) fn forget(self) {
        let mut this = std::mem::ManuallyDrop::new(self);
        // SAFETY: the value is not dropped, and nobody looks at it again.
        unsafe { std::ptr::drop_in_place(&raw mut this.memory) };
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        self.memory.free(self.slot);
    }
}

impl Deref for PooledBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let bytes = self.memory.bytes(self.slot);
        // SAFETY: (slot) it is this value's, and the other end is trusted to leave it alone;
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

fn slots_start(slots: u64) -> u64 {
    (STATES + LINE * slots).next_multiple_of(page_size())
}

/// Bytes of a pool; `None` if that is no number.
fn total(slots: u64, len: u64) -> Option<u64> {
    let stride = len.checked_next_multiple_of(page_size())?;
    let states = LINE.checked_mul(slots)?.checked_add(STATES)?;
    let start = states.checked_next_multiple_of(page_size())?;
    stride.checked_mul(slots)?.checked_add(start)
}

const FREE: u32 = 0;
const TAKEN: u32 = 1;
const STATES: u64 = 0x80;
/// Bytes from one state to the next, so that both ends' stores stay out of each other's way.
const LINE: u64 = 128;
