//! Where the segments of an area are, and how large a record each may hold: pure arithmetic.
//!
//! ```text
//! area     segment 0 (C) | segment 1 (C) | segment 2 (2C) | segment 3 (4C) | …    together = limit
//! ```

use crate::wire::layout::{MAX_SEGMENTS, RECORD_ALIGN};
use crate::wire::record::HEADER_LEN;

/// Capacity and limit of a lane, and everything that follows from them.
///
/// INVARIANT (geometry): both are powers of two, `32 <= capacity <= limit`, and
/// `segments() <= MAX_SEGMENTS`; so each segment lies inside the area and indices can be masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    capacity: u64,
    limit: u64,
    /// Derived from the two, because every post needs them.
    segments: u32,
    largest_record: u64,
    largest_in_base: u64,
}

impl Geometry {
    /// # Panics
    /// If the invariant does not hold: the builder and the region's check come before this.
    pub(crate) fn new(capacity: u64, limit: u64) -> Geometry {
        assert!(capacity.is_power_of_two() && limit.is_power_of_two());
        assert!(32 <= capacity && capacity <= limit);
        let segments = (limit / capacity).trailing_zeros() + 1;
        assert!(segments as usize <= MAX_SEGMENTS);
        // A bounded lane cannot leave its segment to enter it again.
        let largest_record = if segments == 1 { capacity / 2 } else { limit / 2 } - RESERVE;
        // If the smallest segment holds no message at all, no length fits it.
        let largest_in_base = (capacity / 2).saturating_sub(RESERVE + HEADER_LEN);
        Geometry { capacity, limit, segments, largest_record, largest_in_base }
    }

    /// Bytes of segment 0.
    #[inline]
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes of the area: of all segments together.
    #[inline]
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Count of segments: 1 for a bounded lane.
    #[inline]
    pub(crate) fn segments(&self) -> u32 {
        self.segments
    }

    /// Bytes of a segment: a power of two.
    #[inline]
    pub(crate) fn segment_len(&self, segment: u32) -> u64 {
        self.capacity << segment.saturating_sub(1)
    }

    /// Where a segment starts, in bytes from the area's start.
    #[inline]
    pub(crate) fn segment_offset(&self, segment: u32) -> u64 {
        if segment == 0 { 0 } else { self.segment_len(segment) }
    }

    /// Whether a record of `len` bytes fits a segment at every index: once the segment is empty it
    /// fits, wherever the cursor is.
    ///
    /// For a larger record both the part up to the end and the part before the cursor may be too
    /// short. It would then never fit, even if the segment is empty.
    #[inline]
    pub(crate) fn goes_round(&self, segment: u32, len: u64) -> bool {
        len + RESERVE <= self.segment_len(segment) / 2
    }

    /// Bytes of the largest payload whose record fits segment 0 at every index.
    #[inline(always)]
    pub(crate) fn largest_in_base(&self) -> u64 {
        self.largest_in_base
    }

    /// The smallest segment in which a record of `len` bytes fits at every index, if there is one.
    pub(crate) fn smallest_fit(&self, len: u64) -> Option<u32> {
        (0..self.segments).find(|&segment| self.goes_round(segment, len))
    }

    /// Whether a record of `len` bytes fits a segment that is entered at its start.
    #[inline]
    pub(crate) fn holds(&self, segment: u32, len: u64) -> bool {
        len + RESERVE <= self.segment_len(segment)
    }

    /// Bytes of the largest record that can ever be posted, its header included.
    #[inline]
    pub(crate) fn largest_record(&self) -> u64 {
        self.largest_record
    }

    /// Bytes of the largest payload that can ever be posted.
    pub(crate) fn largest_message(&self) -> u64 {
        self.largest_record() - HEADER_LEN
    }
}

/// Where one segment is, kept with each cursor: every post and every receive needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Bytes from the area's start.
    pub start: u64,
    /// Its length less one, to mask with.
    pub mask: u64,
}

impl Geometry {
    /// Where a segment is.
    #[inline]
    pub(crate) fn span(&self, segment: u32) -> Span {
        Span { start: self.segment_offset(segment), mask: self.segment_len(segment) - 1 }
    }
}

/// Room that is always kept for one control record, so that a jump never waits.
pub(crate) const RESERVE: u64 = RECORD_ALIGN;

#[cfg(all(test, not(messageport_loom)))]
mod tests {
    use super::*;

    fn geometries() -> impl Iterator<Item = Geometry> {
        (5..12).flat_map(|c| (0..8).map(move |n| Geometry::new(1 << c, 1 << (c + n))))
    }

    #[test]
    fn segments_tile_the_area() {
        for geometry in geometries() {
            let mut offset = 0;
            for segment in 0..geometry.segments() {
                assert_eq!(geometry.segment_offset(segment), offset);
                assert!(geometry.segment_len(segment).is_power_of_two());
                offset += geometry.segment_len(segment);
            }
            assert_eq!(offset, geometry.limit());
        }
    }

    #[test]
    fn largest_record_fits_the_last_segment_and_nothing_larger_does() {
        for geometry in geometries() {
            let last = geometry.segments() - 1;
            let largest = geometry.largest_record();
            if last == 0 {
                assert!(geometry.goes_round(0, largest));
                assert!(!geometry.goes_round(0, largest + RECORD_ALIGN));
            } else {
                assert!(geometry.holds(last, largest));
                assert!(!geometry.holds(last, largest + RECORD_ALIGN));
            }
        }
    }

    /// Claim of `goes_round`, by exhaustion: from every index of an empty segment such a record
    /// fits, either up to the end or after padding. The exact bound is half of the segment, of
    /// which `goes_round` leaves one unit unused; for the next size there is an index from which a
    /// record does not fit.
    #[test]
    fn f49_a_record_of_half_a_segment_fits_from_every_index() {
        for geometry in geometries().filter(|geometry| geometry.segments() == 1) {
            let size = geometry.segment_len(0);
            let fits_from = |index: u64, len: u64| {
                let need = if index + len <= size { len } else { size - index + len };
                need + RESERVE <= size
            };
            for len in (16..size).step_by(16) {
                let always = (0..size).step_by(16).all(|index| fits_from(index, len));
                assert_eq!(always, len <= size / 2, "record {len} of {size}");
                assert_eq!(geometry.goes_round(0, len), always && len != size / 2);
            }
        }
    }
}
