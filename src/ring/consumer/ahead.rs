//! Reading ahead: the caller copies the records that come next, and takes them from its copy.
//!
//! For the ring they stay unread until they are taken, one by one, and unreleased until then: an
//! end that moves leaves the others where they are.

use super::Consumer;
use crate::ring::cursor::distance;
use crate::ring::memory::Plain;
use crate::wire::layout::RECORD_ALIGN;
use crate::wire::record::{is_short_len, record_len};
use std::ops::Range;

/// Which bytes of the lane the caller has copied.
///
/// INVARIANT (copied): what the cursor points to is in the copy, at its distance from `from`, if
/// that is less than `len`: a control record, after which the lane may continue elsewhere, ends the
/// copy when it is passed. The window is closed as long as `len` is not 0.
#[derive(Debug, Default)]
pub(super) struct Copied {
    from: u64,
    len: u64,
}

/// The unit in which a caller counts: a header is one, and a payload is padded to whole ones.
const UNIT: u64 = RECORD_ALIGN;

impl Consumer {
    /// Fast path: which units of the caller's copy come next, up to its end, if the next record is
    /// at `position`. `None` if the copy has ended, or `position` is not the consumer's. Where the
    /// caller has that in a register, this call does not wait until the last step has stored the
    /// position and this one has loaded it.
    #[inline(always)]
    pub(crate) fn ahead_at(&self, position: u64) -> Option<Range<usize>> {
        let offset = distance(position, self.copied.from);
        // Two tests: joined to one, they take two steps more.
        if offset >= self.copied.len {
            return None;
        }
        if self.cursor.position != position {
            return None;
        }
        let units = |bytes| (bytes / UNIT) as usize;
        Some(units(offset)..units(self.copied.len))
    }

    /// Fast path of `peek`, where more is known to be committed: the next record, if it is a
    /// message, whole and committed, without a packet, and with no control record before it, and
    /// not short. `None` says nothing more: `peek` looks more closely, and reports any fault.
    #[inline(always)]
    pub(crate) fn next_plain(&self) -> Option<Plain<'_>> {
        debug_assert!(self.has_known());
        self.window.plain(distance(self.tail, self.cursor.position))
    }

    /// The same, if it is a short message: its header, with the payload. What is committed is at
    /// least as long as one.
    #[inline(always)]
    pub(crate) fn next_short(&self) -> Option<[u64; 2]> {
        debug_assert!(self.has_known());
        self.window.short()
    }

    /// Whether more was committed than was taken, as far as that is known.
    #[inline(always)]
    pub(crate) fn has_known(&self) -> bool {
        self.tail != self.cursor.position
    }

    /// How many bytes are known to be committed that come next in the window.
    pub(crate) fn unread(&self) -> u64 {
        distance(self.tail, self.cursor.position).min(self.window.left())
    }

    /// Notes that the caller has copied as many of the units that come next. The window is closed,
    /// so that what is taken from the copy moves the cursor alone.
    pub(crate) fn copied_ahead(&mut self, units: usize) {
        self.copied = Copied { from: self.cursor.position, len: units as u64 * UNIT };
        self.window.close();
    }

    /// Opens the window, if it is closed, as it is behind a copy.
    pub(crate) fn find_window(&mut self) {
        if self.window.left() == 0 {
            self.open_window();
        }
    }

    /// Bytes of the smallest segment.
    pub(crate) fn capacity(&self) -> u64 {
        self.geometry.capacity()
    }

    /// Steps over a plain message whose record takes `record` bytes, its payload `len`. Its bytes
    /// stay readable until the release.
    #[inline(always)]
    pub(crate) fn take_plain(&mut self, record: u64, len: u32) {
        debug_assert!(record == record_len(u64::from(len)) || is_short_len(u64::from(len)));
        self.step(record);
        self.count_message(len);
    }

    /// The same for one at `position`, which is the consumer's, and in the caller's copy. Returns
    /// the next position.
    #[inline(always)]
    pub(crate) fn take_copied_at(&mut self, position: u64, record: u64, len: u32) -> u64 {
        debug_assert_eq!(position, self.cursor.position);
        debug_assert!(record == record_len(u64::from(len)) || is_short_len(u64::from(len)));
        debug_assert_eq!(self.window.left(), 0, "a window that stays behind");
        self.cursor.position = position.wrapping_add(record);
        self.controls = 0;
        self.count_message(len);
        self.cursor.position
    }

    /// The copy has ended: the lane continues elsewhere, or its messages are taken otherwise.
    pub(crate) fn end_copy(&mut self) {
        self.copied.len = 0;
    }
}
