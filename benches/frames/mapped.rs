//! The reference: memory that both sides have mapped and populated before, and two words.
//!
//! ```text
//! +0x000  written  u32  frames that the maker has written
//! +0x080  freed    u32  frames that the reader no longer uses
//! from 2 MiB on: the frames, each a multiple of 2 MiB
//! ```

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};

use memmap2::Advice;

use crate::harness::shared::{LINE, Shared, SharedMemory, fresh_memfd};
use crate::links::SLOTS;

/// One side of a link.
pub struct MappedEnd {
    memory: Rc<SharedMemory>,
    written: Shared<AtomicU32>,
    freed: Shared<AtomicU32>,
    bytes: usize,
    /// Frames that this side has written, or read.
    number: u32,
}

impl MappedEnd {
    /// Maps a link, and populates it.
    pub fn new(descriptor: OwnedFd, bytes: usize) -> MappedEnd {
        let memory = SharedMemory::open(descriptor);
        // Refused where the kernel has no huge pages at all.
        let _ = memory.advise(Advice::HugePage);
        memory.advise(Advice::PopulateWrite).expect("memory for the frames");
        let (written, freed) = (memory.half_word(0), memory.half_word(LINE));
        MappedEnd { memory, written, freed, bytes, number: 0 }
    }

    /// Waits for a free frame, has it written, and hands it over.
    pub fn write(&mut self, fill: impl FnOnce(&mut [u8])) {
        let most = self.number.wrapping_sub(SLOTS as u32 - 1);
        while (self.freed.load(Acquire).wrapping_sub(most) as i32) < 0 {
            wait(&self.freed, most.wrapping_sub(1));
        }
        let at = self.place();
        // SAFETY: `place` checked the bounds; the reader has freed the frame, and does not touch it
        // before it is counted as written.
        fill(unsafe { std::slice::from_raw_parts_mut(at, self.bytes) });
        self.number = self.number.wrapping_add(1);
        self.written.store(self.number, Release);
        wake(&self.written);
    }

    /// Waits for the next frame, lends it, and frees it.
    pub fn read(&mut self, look: impl FnOnce(&[u8])) {
        while self.written.load(Acquire) == self.number {
            wait(&self.written, self.number);
        }
        let at = self.place();
        // SAFETY: `place` checked the bounds; the maker does not touch it before it is freed.
        look(unsafe { std::slice::from_raw_parts(at, self.bytes) });
        self.number = self.number.wrapping_add(1);
        self.freed.store(self.number, Release);
        wake(&self.freed);
    }

    fn place(&self) -> *mut u8 {
        let slot = self.number as usize % SLOTS;
        self.memory.bytes(HUGE_PAGE + slot * stride(self.bytes), self.bytes).as_ptr()
    }
}

/// The file of a link for frames of so many bytes.
pub fn file(bytes: usize) -> OwnedFd {
    fresh_memfd(HUGE_PAGE + SLOTS * stride(bytes)).into()
}

fn stride(bytes: usize) -> usize {
    bytes.next_multiple_of(HUGE_PAGE)
}

fn wait(word: &AtomicU32, seen: u32) {
    futex(word, libc::FUTEX_WAIT, seen);
}

fn wake(word: &AtomicU32) {
    futex(word, libc::FUTEX_WAKE, 1);
}

/// Calls the kernel for a word that another process uses as well, so not the private variant.
fn futex(word: &AtomicU32, operation: libc::c_int, value: u32) {
    let no_timeout = std::ptr::null::<libc::timespec>();
    // SAFETY: the word lives as long as its mapping, and the kernel writes nothing. A failure means
    // that the word has changed or a signal came; the caller looks at the word again.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, no_timeout) };
}

const HUGE_PAGE: usize = 2 << 20;
