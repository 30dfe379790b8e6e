//! Pools of the peer, and what comes of them with a message.

use super::{Frame, MOST_FRAMES, PoolMemory, PooledBuffer, map, slots_start, stride, total};
use crate::error::{Corruption, SystemError};
use crate::link::frames::{Frames, FramesError};
use crate::os::memfd;
use crate::os::reaper::Foreign;
use std::io;
use std::os::fd::OwnedFd;
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// A pool that the trusted peer has made: mapped and populated as soon as there is memory for it.
#[derive(Debug)]
pub(crate) struct PeerPool {
    slots: u32,
    len: u64,
    memory: OnceLock<Arc<PoolMemory>>,
    unmapped: Mutex<Unmapped>,
    /// The process that received it. A forked child has the descriptor too, but no part in the
    /// pool.
    process: u32,
}

/// What is kept of a pool until it is mapped.
#[derive(Debug)]
struct Unmapped {
    descriptor: Option<OwnedFd>,
    /// Slots that were dropped, and are still to be freed.
    dropped: Vec<u32>,
}

impl PeerPool {
    /// The pool that the peer announces, if it is valid.
    pub(crate) fn new(descriptor: Foreign, slots: u64, len: u64) -> Result<PeerPool, Corruption> {
        let Ok(count) = u32::try_from(slots) else {
            return Err(Corruption::new("slots of a pool", slots, u32::MAX.into()));
        };
        let expected = if slots == 0 || len == 0 { None } else { total(slots, len) };
        // It fails only for a file that is not ours.
        let found = match memfd::examine(&descriptor) {
            Ok(nature) if nature.sealed && nature.plain_memory => nature.len,
            _ => 0,
        };
        if expected != Some(found) {
            let bound = expected.unwrap_or(0);
            return Err(Corruption::unequal("bytes of a pool's sealed memory", found, bound));
        }
        Ok(PeerPool {
            slots: count,
            len,
            memory: OnceLock::new(),
            unmapped: Mutex::new(Unmapped {
                descriptor: Some(descriptor.into_owned()),
                dropped: Vec::new(),
            }),
            process: process::id(),
        })
    }

    /// The pool of frames that a peer announces, which need not be trusted: its counts, and its
    /// slots.
    pub(crate) fn of_frames(
        [counts, frames]: [Foreign; 2],
        slots: u64,
        len: u64,
    ) -> Result<PeerPool, FramesError> {
        let bound = u64::from(MOST_FRAMES);
        if slots > bound {
            let what = "frames of a pool of an untrusted peer";
            return Err(FramesError::Corrupt(Corruption::new(what, slots, bound)));
        }
        let is_possible = slots > 0 && len > 0 && total(slots, len).is_some();
        let expected = if is_possible { slots_start(slots) } else { 0 };
        let found = match memfd::examine(&counts) {
            Ok(nature) if nature.sealed && nature.plain_memory => nature.len,
            _ => 0,
        };
        if !is_possible || found != expected {
            let what = "bytes of a pool's sealed counts";
            return Err(FramesError::Corrupt(Corruption::unequal(what, found, expected)));
        }
        let frames = Some(Frames::open(&frames, slots * stride(len))?);
        let mapping = map(&counts, expected)?;
        let slots = slots as u32;
        let memory = Arc::new(PoolMemory { mapping, slots, len, descriptor: None, frames });
        Ok(PeerPool {
            slots,
            len,
            memory: OnceLock::from(memory),
            unmapped: Mutex::new(Unmapped { descriptor: None, dropped: Vec::new() }),
            process: process::id(),
        })
    }

    /// Whether its slots are frames.
    pub(crate) fn has_frames(&self) -> bool {
        self.memory.get().is_some_and(|memory| memory.frames.is_some())
    }

    /// Maps it now, unless it is mapped. What the kernel refuses can be retried.
    #[inline]
    pub(crate) fn memory(&self) -> Result<&Arc<PoolMemory>, SystemError> {
        match self.memory.get() {
            Some(memory) => Ok(memory),
            None => self.map(),
        }
    }

    #[cold]
    #[inline(never)]
    fn map(&self) -> Result<&Arc<PoolMemory>, SystemError> {
        let mut unmapped = self.unmapped();
        if let Some(descriptor) = &unmapped.descriptor {
            if process::id() != self.process {
                let source = io::Error::other("a fork has no part in a pool");
                return Err(SystemError { call: "mmap", source });
            }
            let total = total(self.slots.into(), self.len).expect("it was computed before");
            let mapping = map(descriptor, total)?;
            let descriptor = unmapped.descriptor.take().expect("it was just there");
            let (slots, len) = (self.slots, self.len);
            let descriptor = Some(descriptor);
            let memory = Arc::new(PoolMemory { mapping, slots, len, descriptor, frames: None });
            unmapped.dropped.drain(..).for_each(|slot| memory.free(slot));
            self.memory.set(memory).expect("its descriptor was still there");
        }
        Ok(self.memory.get().expect("mapped"))
    }

    #[cfg(test)]
    pub(crate) fn is_mapped(&self) -> bool {
        self.memory.get().is_some()
    }

    fn unmapped(&self) -> MutexGuard<'_, Unmapped> {
        self.unmapped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot that a record of the trusted peer names.
    pub(crate) fn received(self: &Arc<Self>, slot: u32) -> Result<Pooled, Corruption> {
        if slot >= self.slots {
            let last = self.slots.saturating_sub(1);
            return Err(Corruption::new("slot of a pool", slot.into(), last.into()));
        }
        Ok(match self.memory() {
            Ok(memory) => {
                let buffer = PooledBuffer { memory: memory.clone(), slot };
                match &memory.frames {
                    None => Pooled::Buffer(buffer),
                    Some(_) => Pooled::Frame(Frame { buffer }),
                }
            }
            Err(_) => Pooled::Unmapped(UnmappedBuffer { pool: self.clone(), slot: Some(slot) }),
        })
    }
}

/// What came with a message of a pooled buffer.
#[derive(Debug, Default)]
pub(crate) enum Pooled {
    #[default]
    Nothing,
    /// It is of a pool that this end does not have.
    Unknown,
    /// It is of a pool that could not be mapped.
    Unmapped(UnmappedBuffer),
    Buffer(PooledBuffer),
    Frame(Frame),
}

/// A buffer of a pool that could not be mapped. Dropping it returns it once the pool is mapped.
#[derive(Debug)]
pub(crate) struct UnmappedBuffer {
    pool: Arc<PeerPool>,
    /// `None` once it has become a buffer.
    slot: Option<u32>,
}

impl UnmappedBuffer {
    pub(crate) fn map(mut self) -> Result<PooledBuffer, (SystemError, UnmappedBuffer)> {
        let memory = match self.pool.memory() {
            Ok(memory) => memory.clone(),
            Err(error) => return Err((error, self)),
        };
        let slot = self.slot.take().expect("only this takes it, once");
        Ok(PooledBuffer { memory, slot })
    }
}

impl Drop for UnmappedBuffer {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        let mut unmapped = self.pool.unmapped();
        match self.pool.memory.get() {
            Some(memory) => memory.free(slot),
            None => unmapped.dropped.push(slot),
        }
    }
}
