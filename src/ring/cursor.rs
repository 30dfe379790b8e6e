//! The place of an end: arithmetic over positions, without memory.
//!
//! A *position* is a `u64` byte count that never decreases and may wrap; it is compared by
//! distance. An *index* is the place inside a segment: the distance from the position at which the
//! segment was entered, modulo its length.

use crate::ring::segment::{Geometry, Span};

/// A place in the stream of one lane: the position, and the segment that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Bytes since the lane's start, through all segments.
    pub position: u64,
    /// The segment in use.
    pub segment: u32,
    /// Position at which this segment was entered; it lies at index 0.
    pub entered: u64,
}

impl Cursor {
    /// A lane's first cursor: the start of segment 0.
    pub(crate) const fn start(position: u64) -> Cursor {
        Cursor { position, segment: 0, entered: position }
    }

    /// Place inside the segment, in bytes from its start.
    pub(crate) fn index(self, geometry: &Geometry) -> u64 {
        self.index_in(geometry.span(self.segment))
    }

    /// Bytes from here to the segment's end: from 1 to all of it.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn until_end(self, geometry: &Geometry) -> u64 {
        self.until_end_of(geometry.span(self.segment))
    }

    /// Place inside the area, in bytes from its start.
    pub(crate) fn offset(self, geometry: &Geometry) -> u64 {
        self.offset_in(geometry.span(self.segment))
    }

    /// As `index`, with the segment's span at hand.
    #[inline(always)]
    pub(crate) fn index_in(self, span: Span) -> u64 {
        distance(self.position, self.entered) & span.mask
    }

    /// As `until_end`, with the segment's span at hand.
    #[inline(always)]
    pub(crate) fn until_end_of(self, span: Span) -> u64 {
        span.mask + 1 - self.index_in(span)
    }

    /// As `offset`, with the segment's span at hand.
    #[inline(always)]
    pub(crate) fn offset_in(self, span: Span) -> u64 {
        span.start + self.index_in(span)
    }

    /// This cursor, `len` bytes further.
    #[inline]
    #[must_use]
    pub(crate) fn advanced(self, len: u64) -> Cursor {
        Cursor { position: self.position.wrapping_add(len), ..self }
    }

    /// This cursor at the start of `segment`.
    #[inline]
    #[must_use]
    pub(crate) fn entering(self, segment: u32) -> Cursor {
        Cursor { position: self.position, segment, entered: self.position }
    }
}

/// Bytes from `earlier` to `later`. Huge if `later` is the earlier one.
#[inline]
pub(crate) const fn distance(later: u64, earlier: u64) -> u64 {
    later.wrapping_sub(earlier)
}

/// Whether `position` has reached or passed `mark`. Valid for marks less than 2⁶³ bytes away.
#[inline]
pub(crate) const fn reached(position: u64, mark: u64) -> bool {
    (distance(position, mark) as i64) >= 0
}

#[cfg(all(test, not(messageport_loom)))]
mod tests {
    use super::*;

    #[test]
    fn index_goes_round_from_every_entry_and_across_the_wrap() {
        let geometry = Geometry::new(64, 256);
        for segment in 0..geometry.segments() {
            let len = geometry.segment_len(segment);
            for entered in (0..=512).step_by(16).map(|back| 0u64.wrapping_sub(back)) {
                for step in (0..3 * len).step_by(16) {
                    let position = entered.wrapping_add(step);
                    let cursor = Cursor { position, segment, entered };
                    assert_eq!(cursor.index(&geometry), step % len);
                    assert_eq!(cursor.until_end(&geometry), len - step % len);
                    let start = geometry.segment_offset(segment);
                    assert_eq!(cursor.offset(&geometry), start + step % len);
                }
            }
        }
    }

    #[test]
    fn reached_compares_by_distance() {
        for base in [0, 1, u64::MAX - 5, u64::MAX, 1 << 63] {
            for ahead in [0u64, 1, 16, 1 << 40] {
                assert!(reached(base.wrapping_add(ahead), base));
                assert_eq!(reached(base, base.wrapping_add(ahead)), ahead == 0);
            }
        }
    }
}
