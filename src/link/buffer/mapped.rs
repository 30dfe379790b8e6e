//! The mapping of a buffer, and how much of it is the buffer.

use crate::os::mapping::HUGE_PAGE;
use std::ops::{Deref, DerefMut};

/// A mapping whose first `len` bytes are the buffer. With huge pages there are bytes behind them,
/// which are zero.
pub(super) struct Mapped<M> {
    pages: M,
    len: usize,
}

impl<M: Deref<Target = [u8]>> Mapped<M> {
    /// # Panics
    /// If the mapping is shorter.
    pub(super) fn new(pages: M, len: usize) -> Mapped<M> {
        assert!(len <= pages.len(), "{len} bytes do not fit into a mapping of {}", pages.len());
        Mapped { pages, len }
    }

    /// All of it.
    pub(super) fn pages(&self) -> &M {
        &self.pages
    }
}

impl<M: DerefMut<Target = [u8]>> Mapped<M> {
    /// Makes the buffer shorter: to the bytes behind it that may have been written, up to
    /// `written_to`, zeroes are written.
    pub(super) fn shorten(&mut self, len: usize, written_to: usize) {
        self.pages[len..written_to].fill(0);
        self.len = len;
    }
}

impl<M: Deref<Target = [u8]>> Deref for Mapped<M> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.pages[..self.len]
    }
}

impl<M: DerefMut<Target = [u8]>> DerefMut for Mapped<M> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.pages[..self.len]
    }
}

/// How long the file of a buffer of `len` bytes is if the kernel gives huge pages: whole ones.
///
/// A rest that is no whole huge page would have pages of 4 KiB, each of which takes a fault of its
/// maker and its share of one of each reader: of a buffer of 33 MB, a rest of 1.7 MB took half the
/// time of all of it. `None` for a buffer that is too short to have one: its file would be more
/// than twice as long.
pub(super) fn whole_huge_pages(len: u64) -> Option<u64> {
    if len < HUGE_PAGE / 2 { None } else { len.checked_next_multiple_of(HUGE_PAGE) }
}
