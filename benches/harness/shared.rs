//! Memory that two processes share, for the baselines.

use std::fs::File;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use memmap2::{Advice, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A mapped memfd.
///
/// INVARIANT (bounds): `map` is valid for reads and writes of `map.len()` bytes, page aligned,
/// while this lives.
pub struct SharedMemory {
    map: MmapRaw,
    file: File,
}

impl SharedMemory {
    /// Creates `len` bytes of zeroes, with every page already there.
    pub fn create(len: usize) -> Rc<Self> {
        let memory = Self::from_file(fresh_memfd(len));
        for offset in (0..len).step_by(PAGE) {
            let at = memory.bytes(offset, 1);
            // SAFETY: (bounds) `bytes` checked that it is inside; no other code has it yet.
            unsafe { at.write_volatile(0) };
        }
        Rc::new(memory)
    }

    /// Maps what the other process created.
    pub fn open(descriptor: OwnedFd) -> Rc<Self> {
        Rc::new(Self::from_file(File::from(descriptor)))
    }

    /// Borrows the descriptor to pass on.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// madvise(2) for all of it.
    pub fn advise(&self, advice: Advice) -> std::io::Result<()> {
        self.map.advise(advice)
    }

    /// The 64-bit word at `offset`.
    pub fn word(self: &Rc<Self>, offset: usize) -> Shared<AtomicU64> {
        self.typed(offset)
    }

    /// The 32-bit word at `offset`, which is what a futex can wait on.
    pub fn half_word(self: &Rc<Self>, offset: usize) -> Shared<AtomicU32> {
        self.typed(offset)
    }

    /// Pointer to the byte at `offset`; panics where `len` bytes from there are not inside.
    pub fn bytes(&self, offset: usize, len: usize) -> NonNull<u8> {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len()));
        // SAFETY: (bounds) the offset is inside the mapping, as asserted.
        let at = unsafe { self.map.as_mut_ptr().add(offset) };
        NonNull::new(at).expect("a mapping is not at address zero")
    }

    /// Only for types that are valid for all bytes and may be written by others: atomics.
    fn typed<T>(self: &Rc<Self>, offset: usize) -> Shared<T> {
        assert!(offset.is_multiple_of(align_of::<T>()));
        let at = self.bytes(offset, size_of::<T>()).cast();
        Shared { at, _memory: Rc::clone(self) }
    }

    fn from_file(file: File) -> Self {
        let map = MmapRaw::map_raw(&file).expect("mapping a memfd");
        Self { map, file }
    }
}

/// Creates a memfd of `len` bytes that has no pages yet.
pub fn fresh_memfd(len: usize) -> File {
    let file = File::from(memfd_create(c"baseline", MFdFlags::MFD_CLOEXEC).expect("memfd_create"));
    file.set_len(len as u64).expect("length of a memfd");
    file
}

/// A word in shared memory, which it keeps alive.
pub struct Shared<T> {
    at: NonNull<T>,
    _memory: Rc<SharedMemory>,
}

impl<T> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: (bounds) `typed` checked place and alignment; `T` is an atomic, so that a write
        // by the other process is no data race; `_memory` keeps the mapping.
        unsafe { self.at.as_ref() }
    }
}

/// Bytes that one writer's words keep away from another's: two lines, as processors fetch pairs.
pub const LINE: usize = 128;
/// Size of a page; where pages are larger, some are written twice.
pub const PAGE: usize = 4096;
