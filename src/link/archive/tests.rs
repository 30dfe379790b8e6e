//! The check on bytes that rkyv's own check has not seen: so each of its own is looked at.

use super::shape::{Shape, ShapeWriter};
use super::{
    ArchiveCheck, LEAST_TOO_DEEP, MAX_LEVELS, Receive, SafeArchive, access, check_alone, is_valid,
    may_be_too_deep, most,
};
use rkyv::api::high::HighSerializer;
use rkyv::collections::btree_map::ArchivedBTreeMap;
use rkyv::collections::btree_set::ArchivedBTreeSet;
use rkyv::collections::swiss_table::{
    ArchivedIndexMap, ArchivedIndexSet, IndexMapResolver, IndexSetResolver,
};
use rkyv::ops::ArchivedBound;
use rkyv::rancor::{BoxedError, Failure, Fallible, Source};
use rkyv::rend::{u16_le, u32_le};
use rkyv::result::ArchivedResult;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::ser::{Allocator, Sharing, Writer};
use rkyv::util::AlignedVec;
use rkyv::validation::{ArchiveContext, SharedContext};
use rkyv::with::{DefaultNiche, Niche};
use rkyv::{Archive, Place, Serialize};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::ops::Bound;
use std::rc::Rc;

/// Its archived form has no shape.
#[derive(Archive, messageport_macros::SafeArchive)]
#[messageport(crate = crate)]
struct Unnamed(u8);

type Unshaped = <Unnamed as Archive>::Archived;

type Boxes<T> = Box<Box<Box<Box<Box<T>>>>>;
type Trees<T> = BTreeMap<u8, BTreeMap<u8, BTreeMap<u8, T>>>;
/// Of 254 levels: 33 for each tree, and one for each box.
type Deepest = Trees<Trees<BTreeMap<u8, Boxes<Boxes<Boxes<Boxes<Box<Box<Box<u8>>>>>>>>>>;

fn text_of(found: Result<(), BoxedError>) -> String {
    found.expect_err("it is refused").to_string()
}

#[test]
fn levels_are_counted_up_to_the_last_one() {
    assert_eq!((MAX_LEVELS, LEAST_TOO_DEEP), (254, 255 * 4));
    assert_eq!([most(&[]), most(&[3, 1, 2]), most(&[1, 3, 2]), most(&[2, 2])], [0, 3, 3, 2]);
    assert_eq!(<rkyv::Archived<Deepest>>::LEVELS, 254);
    assert!(!may_be_too_deep::<u8>() && !may_be_too_deep::<Deepest>());
    assert!(may_be_too_deep::<Box<Deepest>>() && may_be_too_deep::<Boxes<Deepest>>());
    assert!(may_be_too_deep::<Link>());
}

#[test]
fn no_pointer_leads_below_the_last_level() {
    fn nest(check: &mut ArchiveCheck<'_>, levels: usize) -> Result<(), BoxedError> {
        match levels {
            0 => Ok(()),
            _ => check.enter(|check| nest(check, levels - 1)),
        }
    }
    let mut check = ArchiveCheck::new(&[]);
    // One after the other is no deeper than one.
    for _ in 0..300 {
        nest(&mut check, 2).expect("two levels");
    }
    assert_eq!((check.level, check.deepest), (0, 2));
    nest(&mut check, 254).expect("the last level");
    assert_eq!((check.level, check.deepest), (0, 254));
    assert!(text_of(nest(&mut check, 255)).contains("254 levels"));
    assert_eq!(check.level, 0);
    let seen = check.enter(|check| {
        check.descend(253)?;
        assert!(check.descend(254).is_err(), "there is one level above");
        Err(BoxedError::new(Told))
    });
    assert_eq!(text_of(seen), "told");
}

#[derive(Debug, thiserror::Error)]
#[error("told")]
struct Told;

#[test]
fn bytes_are_read_where_they_are_and_nowhere_else() {
    let bytes = [9, 8, 7, 6, 0xfe, 0xff, 0xff, 0xff, 0x2a, 1, 0, 0];
    let check = ArchiveCheck::new(&bytes);
    assert_eq!([check.place_of(&bytes[0]), check.place_of(&bytes[5])], [0, 5]);
    assert_eq!(check.slice(1, 3).expect("inside"), [8, 7, 6]);
    assert!(check.slice(12, 0).expect("nothing").is_empty());
    for (place, len) in [(0, 13), (12, 1), (13, 0), (usize::MAX, 2)] {
        let found = check.slice(place, len).map(drop);
        assert!(text_of(found).contains("does not lie in the message"), "{len} from {place}");
    }
    assert_eq!(check.count_at(8).expect("inside"), 0x12a);
    assert_eq!(check.distance_at(4).expect("inside"), -2);
    assert!(check.count_at(9).is_err() && check.distance_at(9).is_err());
}

#[test]
fn a_root_is_aligned_and_lies_in_its_bytes() {
    let mut bytes = AlignedVec::<16>::new();
    bytes.extend_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(access::<u32>(&bytes).expect("a number").to_native(), 2);
    assert!(is_valid::<u32>(&bytes) && is_valid::<[u32; 2]>(&bytes));
    assert!(!is_valid::<[u32; 3]>(&bytes), "too short");
    assert!(is_valid::<u32>(&bytes[..4]) && !is_valid::<u32>(&bytes[1..5]), "not aligned");
    assert!(is_valid::<bool>(&bytes[..1]) && !is_valid::<bool>(&bytes[..5]), "no truth value");
}

/// A list whose links are levels, and in which nothing is to be looked at by this crate's check.
#[derive(Archive, Serialize, messageport_macros::SafeArchive)]
#[rkyv(
    serialize_bounds(__S: Writer + Allocator, __S::Error: Source),
    bytecheck(bounds(__C: ArchiveContext, __C::Error: Source)),
)]
#[messageport(crate = crate)]
struct Link(#[rkyv(omit_bounds)] Option<Box<Link>>);

#[test]
fn rkyv_s_own_check_goes_no_deeper_than_this_crate_s() {
    for (links, is_accepted) in [(0, true), (254, true), (255, false), (300, false)] {
        let list = (0..links).fold(Link(None), |link, _| Link(Some(Box::new(link))));
        let bytes = rkyv::to_bytes::<Failure>(&list).expect("a list");
        assert_eq!(is_valid::<Link>(&bytes), is_accepted, "{links} levels");
        assert_eq!(access::<Link>(&bytes).is_ok(), is_accepted, "{links} levels");
    }
}

/// Links that lead to a shared list.
#[derive(Archive, Serialize, messageport_macros::SafeArchive)]
#[rkyv(
    serialize_bounds(__S: Writer + Allocator + Sharing, __S::Error: Source),
    bytecheck(bounds(__C: ArchiveContext + SharedContext, __C::Error: Source)),
)]
#[messageport(crate = crate)]
struct Path {
    #[rkyv(omit_bounds)]
    next: Option<Box<Path>>,
    shared: Option<Rc<Link>>,
}

#[test]
fn each_path_to_a_shared_list_counts_its_levels() {
    let list = (0..153).fold(Link(None), |link, _| Link(Some(Box::new(link))));
    let list = Rc::new(list);
    let path = |links| {
        let end = Path { next: None, shared: Some(list.clone()) };
        (0..links).fold(end, |path, _| Path { next: Some(Box::new(path)), shared: None })
    };
    // rkyv's check goes along the first path only.
    for (links, is_accepted) in [(0, true), (100, true), (101, false)] {
        let bytes = rkyv::to_bytes::<Failure>(&[path(10), path(links)]).expect("two paths");
        assert_eq!(is_valid::<[Path; 2]>(&bytes), is_accepted, "{links} links");
    }
}

/// The trees of `value`, changed by `change`; and what the check says to that.
fn changed<T>(value: &T, change: impl FnOnce(&T::Archived, usize, &mut [u8])) -> Result<(), String>
where
    T: Receive + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Failure>>,
{
    let honest = rkyv::to_bytes::<Failure>(value).expect("an honest value");
    let mut bytes = honest.clone();
    let found = access::<T>(&honest).expect("an honest archive");
    change(found, honest.as_ptr().addr(), &mut bytes);
    check_alone::<T>(&bytes).map_err(|error| error.to_string())
}

/// One more entry than the tree at `tree` has.
fn add_one<T>(tree: &T, start: usize, bytes: &mut [u8]) {
    bytes[(tree as *const T).addr() - start + 4] += 1;
}

fn tree() -> BTreeMap<u8, u8> {
    (0..3).map(|key| (key, 7)).collect()
}

/// A tree as a key, which is compared with no other one.
#[derive(
    PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, messageport_macros::SafeArchive,
)]
#[messageport(crate = crate)]
struct Key(BTreeMap<u8, u8>);

impl Ord for ArchivedKey {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

impl PartialOrd for ArchivedKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ArchivedKey {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for ArchivedKey {}

impl Hash for ArchivedKey {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// Whether it was refused for one more entry than a tree has.
#[track_caller]
fn refused(found: Result<(), String>) {
    let text = found.expect_err("it is refused");
    assert!(text.contains("entries that are not counted"), "{text}");
}

/// A tree in a set or a map is looked at: as a key, as a value, and as either of both.
macro_rules! looks_into_each_tree {
    ($set:ident, $map:ident) => {
        refused(changed(&$set::from([Key(tree())]), |outer, start, bytes| {
            add_one(outer.iter().next().expect("one"), start, bytes);
        }));
        refused(changed(&$map::from([(Key(tree()), 2u8)]), |outer, start, bytes| {
            add_one(outer.iter().next().expect("one").0, start, bytes);
        }));
        refused(changed(&$map::from([(2u8, tree())]), |outer, start, bytes| {
            add_one(outer.iter().next().expect("one").1, start, bytes);
        }));
        for key_too in [false, true] {
            refused(changed(&$map::from([(Key(tree()), tree())]), |outer, start, bytes| {
                let (key, value) = outer.iter().next().expect("one");
                if key_too { add_one(key, start, bytes) } else { add_one(value, start, bytes) }
            }));
        }
    };
}

#[test]
fn a_tree_in_a_tree_is_looked_at_whether_it_is_a_key_or_a_value() {
    refused(changed(&tree(), add_one));
    refused(changed(&BTreeSet::from([1u8, 2]), add_one));
    looks_into_each_tree!(BTreeSet, BTreeMap);
}

#[test]
fn a_tree_in_a_table_is_looked_at_whether_it_is_a_key_or_a_value() {
    looks_into_each_tree!(HashSet, HashMap);
}

/// In places that an option leaves free.
#[derive(Archive, Serialize, messageport_macros::SafeArchive)]
#[messageport(crate = crate)]
#[allow(clippy::box_collection, reason = "a box has the free places")]
struct Niched {
    #[rkyv(with = Niche)]
    boxed: Option<Box<BTreeMap<u8, u8>>>,
    #[rkyv(with = DefaultNiche)]
    other: Option<Box<BTreeMap<u8, u8>>>,
}

#[test]
fn a_tree_in_any_other_container_is_looked_at() {
    refused(changed(&vec![tree()], |outer, start, bytes| add_one(&outer[0], start, bytes)));
    refused(changed(&[tree(), tree()], |outer, start, bytes| add_one(&outer[1], start, bytes)));
    refused(changed(&Box::new(tree()), |outer, start, bytes| add_one(&**outer, start, bytes)));
    refused(changed(&Some(tree()), |outer, start, bytes| {
        add_one(outer.as_ref().expect("some"), start, bytes);
    }));
    for value in [Ok(tree()), Err(tree())] {
        refused(changed(&value, |outer, start, bytes| match outer {
            ArchivedResult::Ok(tree) | ArchivedResult::Err(tree) => add_one(tree, start, bytes),
        }));
    }
    for value in [Bound::Included(tree()), Bound::Excluded(tree())] {
        refused(changed(&value, |outer, start, bytes| match outer {
            ArchivedBound::Included(tree) | ArchivedBound::Excluded(tree) => {
                add_one(tree, start, bytes);
            }
            ArchivedBound::Unbounded => panic!("it has a bound"),
        }));
    }
    refused(changed(&Rc::new(tree()), |outer, start, bytes| add_one(&**outer, start, bytes)));
    let shared = Rc::new(tree());
    refused(changed(&Rc::downgrade(&shared), |outer, start, bytes| {
        add_one(outer.upgrade().expect("it is there").get(), start, bytes);
    }));
    for first in [true, false] {
        let of = |is_there: bool| is_there.then(|| Box::new(tree()));
        let niched = Niched { boxed: of(first), other: of(!first) };
        refused(changed(&niched, |outer, start, bytes| {
            let tree = outer.boxed.as_ref().or(outer.other.as_ref()).expect("one of them");
            add_one(&**tree, start, bytes);
        }));
    }
}

/// Archived as an index map.
struct Indexed<K, V>(Vec<(K, V)>);

impl<K, V, const N: usize> From<[(K, V); N]> for Indexed<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        Indexed(entries.into())
    }
}

impl<K: Archive, V: Archive> Archive for Indexed<K, V> {
    type Archived = ArchivedIndexMap<K::Archived, V::Archived>;
    type Resolver = IndexMapResolver;

    fn resolve(&self, resolver: IndexMapResolver, out: Place<Self::Archived>) {
        ArchivedIndexMap::resolve_from_len(self.0.len(), (7, 8), resolver, out);
    }
}

impl<K, V, S> Serialize<S> for Indexed<K, V>
where
    K: Serialize<S> + Hash + Eq,
    V: Serialize<S>,
    S: Writer + Allocator + Fallible<Error: Source> + ?Sized,
{
    fn serialize(&self, serializer: &mut S) -> Result<IndexMapResolver, S::Error> {
        let entries = self.0.iter().map(|(key, value)| (key, value));
        Self::Archived::serialize_from_iter::<_, _, _, K, V, _>(entries, (7, 8), serializer)
    }
}

/// Archived as an index set.
struct IndexedSet<K>(Vec<K>);

impl<K, const N: usize> From<[K; N]> for IndexedSet<K> {
    fn from(entries: [K; N]) -> Self {
        IndexedSet(entries.into())
    }
}

impl<K: Archive> Archive for IndexedSet<K> {
    type Archived = ArchivedIndexSet<K::Archived>;
    type Resolver = IndexSetResolver;

    fn resolve(&self, resolver: IndexSetResolver, out: Place<Self::Archived>) {
        ArchivedIndexSet::resolve_from_len(self.0.len(), (7, 8), resolver, out);
    }
}

impl<K, S> Serialize<S> for IndexedSet<K>
where
    K: Serialize<S> + Hash + Eq,
    S: Writer + Allocator + Fallible<Error: Source> + ?Sized,
{
    fn serialize(&self, serializer: &mut S) -> Result<IndexSetResolver, S::Error> {
        Self::Archived::serialize_from_iter::<_, K, _>(self.0.iter(), (7, 8), serializer)
    }
}

#[test]
fn a_tree_in_an_index_is_looked_at_whether_it_is_a_key_or_a_value() {
    looks_into_each_tree!(IndexedSet, Indexed);
}

/// What the first bucket in use of the table at `table` holds becomes `index`.
fn point_to<T>(table: &T, start: usize, bytes: &mut [u8], index: u8) {
    let place = std::ptr::from_ref(table).addr() - start;
    let distance = i32::from_le_bytes(bytes[place..place + 4].try_into().expect("four"));
    let control = place.checked_add_signed(distance as isize).expect("a place in the bytes");
    let bucket = (0..16).find(|bucket| bytes[control + bucket] & 0x80 == 0).expect("one in use");
    bytes[control - 4 * (bucket + 1)] = index;
}

#[test]
fn an_index_is_that_of_an_entry() {
    for (index, is_accepted) in [(0, true), (2, true), (3, false), (255, false)] {
        let set = IndexedSet::from([7u8, 8, 9]);
        let found = changed(&set, |set, start, bytes| point_to(set, start, bytes, index));
        assert_eq!(found.is_ok(), is_accepted, "{index}: {found:?}");
        let map = Indexed::from([(7u8, 1u8), (8, 2), (9, 3)]);
        let found = changed(&map, |map, start, bytes| point_to(map, start, bytes, index));
        assert_eq!(found.is_ok(), is_accepted, "{index}: {found:?}");
    }
}

#[test]
fn a_leaf_has_room_for_its_entries() {
    for (entries, is_accepted) in [(1, false), (5, true), (6, false)] {
        let tree: BTreeSet<u16> = (0..5).collect();
        let found = changed(&tree, |found, start, bytes| {
            let place = std::ptr::from_ref(found).addr() - start;
            // The only node is a leaf, in front of the tree: a byte, five numbers, the count.
            let leaf = place - 16;
            assert_eq!((bytes[leaf], bytes[leaf + 12]), (0, 5), "a leaf of five");
            bytes[leaf + 12] = entries;
            if entries == 6 {
                bytes[place + 4] = 6;
            }
        });
        assert_eq!(found.is_ok(), is_accepted, "{entries} entries: {found:?}");
        if entries == 6 {
            let text = found.expect_err("it is refused");
            assert!(text.contains("more entries than it has room for"), "{text}");
        }
    }
}

#[test]
fn what_holds_a_type_without_a_shape_has_none() {
    const fn has<T: SafeArchive>() -> bool {
        T::HAS_SHAPE
    }
    assert!(has::<ArchivedBTreeMap<u16_le, u32_le>>() && has::<ArchivedBTreeSet<u16_le>>());
    assert!(!has::<Unshaped>() && !has::<ArchivedBTreeSet<Unshaped>>());
    assert!(!has::<ArchivedBTreeMap<u16_le, Unshaped>>());
    assert!(!has::<ArchivedBTreeMap<Unshaped, u16_le>>());
    assert!(Shape::of::<Unnamed>().is_none());
    // A container that promises more than it can keep.
    let mut writer = ShapeWriter::default();
    Unshaped::describe(&mut writer);
    assert!(writer.finish().is_none());
}
