//! B-trees: every node has what iterating over it reads.
//!
//! An inner node has `E` entries and up to `E + 1` children, a leaf up to `E` entries. An iterator
//! of rkyv follows the first child of each inner node and reads the first entry of each leaf
//! without checking that they exist.
//!
//! INVARIANT (nodes): each inner node has its first child, and each leaf has at least one entry.
//! Together they have as many entries as the tree says.
#![allow(unsafe_code)]

use super::shape::ShapeWriter;
use super::{ArchiveCheck, SafeArchive, Unsafe, most};
use rkyv::collections::btree_map::ArchivedBTreeMap;
use rkyv::collections::btree_set::ArchivedBTreeSet;
use rkyv::primitive::{ArchivedIsize, ArchivedUsize};
use rkyv::rancor::{BoxedError, Source};
use std::mem::{MaybeUninit, offset_of};

/// rkyv's layout of a tree. The 0.8 series has one archive format, so it does not change; a test
/// reads honest trees of every size with it.
#[repr(C)]
struct RawTree {
    root: ArchivedIsize,
    len: ArchivedUsize,
}

#[repr(C)]
struct RawNode<K, V, const E: usize> {
    kind: u8,
    keys: [MaybeUninit<K>; E],
    values: [MaybeUninit<V>; E],
}

#[repr(C)]
struct RawLeaf<K, V, const E: usize> {
    node: RawNode<K, V, E>,
    len: ArchivedUsize,
}

#[repr(C)]
struct RawInner<K, V, const E: usize> {
    node: RawNode<K, V, E>,
    /// The last one follows the `E` others.
    lesser: [ArchivedIsize; E],
    greater: ArchivedIsize,
}

const LEAF: u8 = 0;
const INNER: u8 = 1;

/// The most nodes above each other in an honest tree: each inner one has at least two children, and
/// a length has 32 bits.
const MOST_NODES: u32 = 33;

/// The distance of a pointer to nothing.
const NOTHING: isize = 1;

const _: () = {
    assert!(size_of::<RawTree>() == size_of::<ArchivedBTreeMap<u8, u8>>());
    assert!(align_of::<RawTree>() == align_of::<ArchivedBTreeMap<u8, u8>>());
    assert!(size_of::<RawTree>() == size_of::<ArchivedBTreeSet<u8>>());
    assert!(offset_of!(RawTree, root) == 0);
};

/// Establishes (nodes) for the tree that `value` is.
fn check_tree<T, K, V, const E: usize>(
    value: &T,
    len: usize,
    check: &mut ArchiveCheck<'_>,
) -> Result<(), BoxedError> {
    const { assert!(size_of::<T>() == size_of::<RawTree>()) }
    if len == 0 {
        return Ok(());
    }
    // The pointer to the root comes first.
    let found = check_node::<K, V, E>(check.place_of(value), len, check)?;
    if found != len {
        return Err(BoxedError::new(Unsafe::Node { len, what: "entries that are not counted" }));
    }
    Ok(())
}

/// Checks the node that the pointer at `pointer` leads to, and those below it. Returns how many
/// entries they have. rkyv's check has refused nodes that are reached twice.
fn check_node<K, V, const E: usize>(
    pointer: usize,
    len: usize,
    check: &mut ArchiveCheck<'_>,
) -> Result<usize, BoxedError> {
    let bad = |what| BoxedError::new(Unsafe::Node { len, what });
    let node = pointer.wrapping_add_signed(check.distance_at(pointer)?);
    const { assert!(offset_of!(RawNode<K, V, E>, kind) == 0) }
    match check.slice(node, 1)?[0] {
        LEAF => match check.count_at(node + offset_of!(RawLeaf<K, V, E>, len))? {
            0 => Err(bad("no entry")),
            entries if entries > E => Err(bad("more entries than it has room for")),
            entries => Ok(entries),
        },
        INNER => {
            let lesser = node + offset_of!(RawInner<K, V, E>, lesser);
            if check.distance_at(lesser)? == NOTHING {
                return Err(bad("no first child"));
            }
            let mut entries = E;
            check.enter(|check| {
                for child in 0..=E {
                    let pointer = lesser + child * size_of::<ArchivedIsize>();
                    if check.distance_at(pointer)? != NOTHING {
                        entries += check_node::<K, V, E>(pointer, len, check)?;
                    }
                }
                Ok(())
            })?;
            Ok(entries)
        }
        _ => Err(bad("an unknown kind")),
    }
}

// SAFETY: (nodes) holds, and the entries are walked.
unsafe impl<K, V, const E: usize> SafeArchive for ArchivedBTreeMap<K, V, E>
where
    K: SafeArchive,
    V: SafeArchive,
{
    const CHECKS: bool = true;
    const LEVELS: u32 = most(&[K::LEVELS, V::LEVELS]).saturating_add(MOST_NODES);
    const HAS_SHAPE: bool = K::HAS_SHAPE && V::HAS_SHAPE;

    fn check(&self, check: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
        check_tree::<_, K, V, E>(self, self.len(), check)?;
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

    fn describe(shape: &mut ShapeWriter) {
        shape.container(&node_size::<E>("BTreeMap<{}, {}"), &[K::describe, V::describe]);
    }
}

// SAFETY: (nodes) holds, and the entries are walked.
unsafe impl<K: SafeArchive, const E: usize> SafeArchive for ArchivedBTreeSet<K, E> {
    const CHECKS: bool = true;
    const LEVELS: u32 = K::LEVELS.saturating_add(MOST_NODES);
    const HAS_SHAPE: bool = K::HAS_SHAPE;

    fn check(&self, check: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
        check_tree::<_, K, (), E>(self, self.len(), check)?;
        if !K::CHECKS {
            return Ok(());
        }
        check.enter(|check| self.iter().try_for_each(|key| key.check(check)))
    }

    fn describe(shape: &mut ShapeWriter) {
        shape.container(&node_size::<E>("BTreeSet<{}"), &[K::describe]);
    }
}

/// Ends the pattern of a tree's shape: its nodes' size belongs to it, if it is not the usual one.
fn node_size<const E: usize>(pattern: &str) -> String {
    match E {
        5 => format!("{pattern}>"),
        _ => format!("{pattern}, {E}>"),
    }
}
