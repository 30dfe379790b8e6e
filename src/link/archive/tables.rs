//! Hash tables: every lookup reads checked buckets only, and ends.
//!
//! A table of `capacity` buckets has `control_count` control bytes: one for each bucket, and then
//! the first ones again, so that a lookup may read 16 in a row from any bucket on. A byte is full
//! (its top bit is clear; a part of the hash) or empty.
//!
//! A lookup starts at a bucket `start < capacity`, and reads the groups of 16 bytes at `start`
//! modulo 16 and its multiples of 16 further on, below the capacity rounded up to 16, in some
//! order, until a group has an empty byte. A full byte at `i` that matches makes it read the bucket
//! `i % capacity`, which rkyv's check has checked if the byte there, below `capacity`, is full.
//!
//! INVARIANT (control): each byte is full or empty; a byte at `i >= capacity` equals the one at `i
//! % capacity`, except that it may be empty from `2 * capacity` on; some byte below `capacity` is
//! empty.
//!
//! So a full byte anywhere leads to a checked bucket. And every lookup ends: together its groups
//! read all bytes from `r = start % 16` up to the rounded capacity and `r` more. An empty byte at
//! `e >= r` is among them; one at `e < r` has its mirror at `capacity + e`, which is below
//! `2 * capacity` (for a capacity of less than 16, `r` is `start` and so below it) and among them.
//! The test below tries every start for all small capacities.
#![allow(unsafe_code)]

use super::shape::{ShapeWriter, shape_is};
use super::{ArchiveCheck, SafeArchive, Unsafe, most};
use rkyv::collections::swiss_table::{
    ArchivedHashMap, ArchivedHashSet, ArchivedIndexMap, ArchivedIndexSet,
};
use rkyv::primitive::{ArchivedIsize, ArchivedUsize};
use rkyv::rancor::{BoxedError, Source};
use std::mem::offset_of;

/// The value of an empty control byte.
const EMPTY: u8 = 0xff;

/// Bytes that a lookup reads at once.
const GROUP: usize = 16;

/// rkyv's layout of a table. The 0.8 series has one archive format, so it does not change; a test
/// reads honest tables of every size with it.
#[repr(C)]
struct RawTable {
    /// From here to the first control byte. The buckets are before those, the last one first.
    control: ArchivedIsize,
    len: ArchivedUsize,
    capacity: ArchivedUsize,
}

const _: () = {
    assert!(size_of::<RawTable>() == size_of::<ArchivedHashMap<u8, u8>>());
    assert!(align_of::<RawTable>() == align_of::<ArchivedHashMap<u8, u8>>());
    assert!(size_of::<RawTable>() == size_of::<ArchivedHashSet<u8>>());
    assert!(align_of::<RawTable>() == align_of::<ArchivedHashSet<u8>>());
    // A table, and the pointer to the entries.
    let more = size_of::<ArchivedIsize>();
    assert!(size_of::<RawTable>() + more == size_of::<ArchivedIndexMap<u8, u8>>());
    assert!(size_of::<RawTable>() + more == size_of::<ArchivedIndexSet<u8>>());
};

/// The control bytes of a table that was found safe.
struct Table<'a> {
    control: &'a [u8],
    /// Where they start.
    place: usize,
    capacity: usize,
}

/// Establishes (control) for the table that is, or starts, `value`.
fn check_table<'a, T>(
    value: &T,
    len: usize,
    check: &ArchiveCheck<'a>,
) -> Result<Option<Table<'a>>, BoxedError> {
    const { assert!(size_of::<T>() >= size_of::<RawTable>()) }
    let place = check.place_of(value);
    let raw_len = check.count_at(place + offset_of!(RawTable, len))?;
    let capacity = check.count_at(place + offset_of!(RawTable, capacity))?;
    if raw_len != len {
        return Err(BoxedError::new(Unsafe::Length { len, capacity, found: raw_len }));
    }
    if len == 0 {
        // Neither a lookup nor an iterator looks further.
        return Ok(None);
    }
    let control = place.wrapping_add_signed(check.distance_at(place)?);
    let count = capacity.next_multiple_of(GROUP) + GROUP - 1;
    let table = Table { control: check.slice(control, count)?, place: control, capacity };
    table.check(len)?;
    Ok(Some(table))
}

impl Table<'_> {
    fn check(&self, len: usize) -> Result<(), BoxedError> {
        let (buckets, mirrored) = self.control.split_at(self.capacity);
        let full = buckets.iter().filter(|&&byte| is_full(byte)).count();
        let empty = buckets.iter().filter(|&&byte| byte == EMPTY).count();
        if full != len || full >= self.capacity {
            let capacity = self.capacity;
            return Err(BoxedError::new(Unsafe::Length { len, capacity, found: full }));
        }
        if full + empty != self.capacity {
            let (index, &found) = buckets
                .iter()
                .enumerate()
                .find(|&(_, &byte)| !is_full(byte) && byte != EMPTY)
                .expect("one is neither full nor empty, or the counts would add up");
            let expected = "a full or an empty one";
            return Err(BoxedError::new(Unsafe::ControlByte { len, index, found, expected }));
        }
        for (at, &found) in mirrored.iter().enumerate() {
            // For a capacity below 16 it takes turns more than once.
            let source = buckets[at % self.capacity];
            if found != source && !(found == EMPTY && at >= self.capacity) {
                let index = self.capacity + at;
                let expected = "the one that it repeats";
                return Err(BoxedError::new(Unsafe::ControlByte { len, index, found, expected }));
            }
        }
        Ok(())
    }

    /// Checks that each bucket in use holds an index below `len`.
    fn check_indices(&self, len: usize, check: &ArchiveCheck<'_>) -> Result<(), BoxedError> {
        for (bucket, &byte) in self.control[..self.capacity].iter().enumerate() {
            if !is_full(byte) {
                continue;
            }
            let before = (bucket + 1) * size_of::<ArchivedUsize>();
            let index = check.count_at(self.place.wrapping_sub(before))?;
            if index >= len {
                return Err(BoxedError::new(Unsafe::Index { len, index }));
            }
        }
        Ok(())
    }
}

fn is_full(byte: u8) -> bool {
    byte & 0x80 == 0
}

// SAFETY: (control) holds, and what the buckets hold is walked.
unsafe impl<K: SafeArchive, V: SafeArchive, H> SafeArchive for ArchivedHashMap<K, V, H> {
    const CHECKS: bool = true;
    const LEVELS: u32 = most(&[K::LEVELS, V::LEVELS]).saturating_add(1);

    shape_is!("HashMap<{}, {}>", K, V);

    fn check(&self, check: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
        check_table(self, self.len(), check)?;
        if !(K::CHECKS | V::CHECKS) {
            return Ok(());
        }
        check.enter(|check| {
            self.iter().try_for_each(|(key, value)| {
                key.check(check)?;
                value.check(check)
            })
        })
    }
}

// SAFETY: (control) holds, and what the buckets hold is walked.
unsafe impl<K: SafeArchive, H> SafeArchive for ArchivedHashSet<K, H> {
    const CHECKS: bool = true;
    const LEVELS: u32 = K::LEVELS.saturating_add(1);

    shape_is!("HashSet<{}>", K);

    fn check(&self, check: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
        check_table(self, self.len(), check)?;
        if !K::CHECKS {
            return Ok(());
        }
        check.enter(|check| self.iter().try_for_each(|key| key.check(check)))
    }
}

// SAFETY: (control) holds, what the buckets hold are indices of entries, and the entries are
// walked.
unsafe impl<K: SafeArchive, V: SafeArchive, H> SafeArchive for ArchivedIndexMap<K, V, H> {
    const CHECKS: bool = true;
    const LEVELS: u32 = most(&[K::LEVELS, V::LEVELS]).saturating_add(1);

    shape_is!("IndexMap<{}, {}>", K, V);

    fn check(&self, check: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
        if let Some(table) = check_table(self, self.len(), check)? {
            table.check_indices(self.len(), check)?;
        }
        if !(K::CHECKS | V::CHECKS) {
            return Ok(());
        }
        check.enter(|check| {
            self.iter().try_for_each(|(key, value)| {
                key.check(check)?;
                value.check(check)
            })
        })
    }
}

// SAFETY: as for the map.
unsafe impl<K: SafeArchive, H> SafeArchive for ArchivedIndexSet<K, H> {
    const CHECKS: bool = true;
    const LEVELS: u32 = K::LEVELS.saturating_add(1);

    shape_is!("IndexSet<{}>", K);

    fn check(&self, check: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
        if let Some(table) = check_table(self, self.len(), check)? {
            table.check_indices(self.len(), check)?;
        }
        if !K::CHECKS {
            return Ok(());
        }
        check.enter(|check| self.iter().try_for_each(|key| key.check(check)))
    }
}

#[cfg(test)]
mod tests {
    use super::{EMPTY, GROUP, Table, is_full};

    fn control_count(capacity: usize) -> usize {
        capacity.next_multiple_of(GROUP) + GROUP - 1
    }

    /// Control bytes as rkyv writes them, with these buckets in use.
    fn honest(capacity: usize, full: impl Fn(usize) -> bool) -> Vec<u8> {
        let mut control = vec![EMPTY; control_count(capacity)];
        for index in (0..capacity).filter(|&index| full(index)) {
            control[index] = (index % 0x80) as u8;
            if capacity + index < control.len() {
                control[capacity + index] = control[index];
            }
        }
        control
    }

    fn check(control: &[u8], capacity: usize) -> bool {
        let len = control[..capacity].iter().filter(|&&byte| is_full(byte)).count();
        Table { control, place: 0, capacity }.check(len).is_ok()
    }

    /// What a lookup from `start` for an absent key reads: rkyv's algorithm, with every full byte
    /// treated as a match. `None` if it would not end.
    fn buckets_read(control: &[u8], capacity: usize, start: usize) -> Option<Vec<usize>> {
        let probe_capacity = capacity.next_multiple_of(GROUP);
        let mask = control.len().next_power_of_two() - 1;
        let (mut place, mut stride) = (start, 0);
        let mut read = Vec::new();
        for _ in 0..=control.len() {
            let group = &control[place..place + GROUP];
            read.extend(
                (place..)
                    .zip(group)
                    .filter(|&(_, &byte)| is_full(byte))
                    .map(|(at, _)| at % capacity),
            );
            if group.contains(&EMPTY) {
                return Some(read);
            }
            loop {
                stride += GROUP;
                place = (place + stride) & mask;
                if place < probe_capacity {
                    break;
                }
            }
        }
        None
    }

    #[test]
    fn every_lookup_of_an_accepted_table_reads_checked_buckets_and_ends() {
        for capacity in 2..=300 {
            // One empty bucket is the hardest; and some others.
            let step = if capacity <= 64 { 1 } else { 23 };
            let only_empty =
                (0..capacity).step_by(step).map(|empty| honest(capacity, |index| index != empty));
            let thin = (1..4).map(|step| honest(capacity, |index| index % (step + 1) == 0));
            for control in only_empty.chain(thin) {
                assert!(check(&control, capacity), "an honest table of {capacity} buckets");
                for start in 0..capacity {
                    let read = buckets_read(&control, capacity, start)
                        .unwrap_or_else(|| panic!("no end: {capacity} buckets from {start}"));
                    assert!(read.iter().all(|&bucket| is_full(control[bucket])));
                }
            }
        }
    }

    #[test]
    fn the_control_byte_that_is_wrong_is_named() {
        // The one at 10 repeats the one at 2.
        for (place, byte, named) in [(5, 0x80, "0x80 at 5"), (10, 0x42, "0x42 at 10")] {
            let mut control = honest(8, |index| index == 3);
            control[place] = byte;
            let error = Table { control: &control, place: 0, capacity: 8 }.check(1);
            let text = error.expect_err("it would lie to a lookup").to_string();
            assert!(text.contains(&format!("control byte {named}")), "{text}");
        }
    }

    /// A lookup in a table without an empty byte would not end.
    #[test]
    fn a_table_has_an_empty_bucket() {
        for capacity in 1..=70 {
            assert!(!check(&honest(capacity, |_| true), capacity), "{capacity} buckets");
        }
    }

    #[test]
    fn no_control_byte_may_lie() {
        for capacity in (2..=70).chain([255, 256, 300]) {
            let control = honest(capacity, |index| index % 3 != 1);
            for index in 0..control.len() {
                for other in [0x00, 0x42, 0x7f, 0x80, 0xfe, EMPTY] {
                    let mut changed = control.clone();
                    changed[index] = other;
                    if !check(&changed, capacity) {
                        continue;
                    }
                    // What is accepted is safe from every start.
                    for start in 0..capacity {
                        let read = buckets_read(&changed, capacity, start).expect("an end");
                        assert!(read.iter().all(|&bucket| is_full(changed[bucket])));
                    }
                    assert!(
                        other != 0x80 && other != 0xfe,
                        "{capacity} buckets: {other} at {index}"
                    );
                }
            }
        }
    }
}
