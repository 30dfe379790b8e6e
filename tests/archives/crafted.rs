//! Archives that no rkyv serialises, made from honest ones.

use messageport::rkyv;
use rkyv::collections::swiss_table::{ArchivedIndexMap, IndexMapResolver};
use rkyv::hash::FxHasher64;
use rkyv::rancor::{Error, Failure, Fallible, Source};
use rkyv::ser::{Allocator, Writer};
use rkyv::util::AlignedVec;
use rkyv::{Archive, Place, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};

/// Bytes that are posted as an archive.
pub struct Raw<'a>(pub &'a [u8]);

impl Archive for Raw<'_> {
    type Archived = ();
    type Resolver = ();

    fn resolve(&self, (): (), _: Place<()>) {}
}

impl<S: Writer + Fallible + ?Sized> Serialize<S> for Raw<'_> {
    fn serialize(&self, serializer: &mut S) -> Result<(), S::Error> {
        serializer.write(self.0)
    }
}

/// Archived as an index map, in this order.
pub struct Indexed(pub Vec<(String, u64)>);

impl Archive for Indexed {
    type Archived = ArchivedIndexMap<rkyv::string::ArchivedString, rkyv::rend::u64_le>;
    type Resolver = IndexMapResolver;

    fn resolve(&self, resolver: IndexMapResolver, out: Place<Self::Archived>) {
        ArchivedIndexMap::resolve_from_len(self.0.len(), (7, 8), resolver, out);
    }
}

impl<S> Serialize<S> for Indexed
where
    S: Writer + Allocator + Fallible<Error: Source> + ?Sized,
{
    fn serialize(&self, serializer: &mut S) -> Result<IndexMapResolver, S::Error> {
        let entries = self.0.iter().map(|(key, value)| (key, value));
        Self::Archived::serialize_from_iter::<_, _, _, String, u64, _>(entries, (7, 8), serializer)
    }
}

pub fn rkyv_accepts<T>(bytes: &[u8]) -> bool
where
    T: rkyv::Portable
        + for<'a> rkyv::bytecheck::CheckBytes<rkyv::api::high::HighValidator<'a, Failure>>,
{
    let mut aligned = AlignedVec::<16>::new();
    aligned.extend_from_slice(bytes);
    rkyv::access::<T, Failure>(&aligned).is_ok()
}

fn number(bytes: &[u8], at: usize) -> i32 {
    i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

/// Where the pointer at `at` leads.
fn follow(bytes: &[u8], at: usize) -> usize {
    at.checked_add_signed(number(bytes, at) as isize).expect("a place in the bytes")
}

/// An archived string of `len` bytes, `offset` bytes from where it stands: not of the message.
fn far_string(len: u32, offset: i32) -> [u8; 8] {
    let out_of_line = (len & 0x3f) | 0x80 | (len & !0x3f) << 2;
    let mut string = [0; 8];
    string[..4].copy_from_slice(&out_of_line.to_le_bytes());
    string[4..].copy_from_slice(&offset.to_le_bytes());
    string
}

/// A map in which the lookup of the absent key "lamp" finds a value of `len` bytes, `offset` bytes
/// away.
pub fn hostile_map(len: u32, offset: i32) -> Vec<u8> {
    hostile_table(16, |n| {
        let map: HashMap<String, String> = (0..n).map(|i| (format!("k{i}"), "v".into())).collect();
        rkyv::to_bytes::<Error>(&map).unwrap().to_vec()
    })
    .map(|(mut bytes, bucket)| {
        bytes[bucket..bucket + 8].copy_from_slice(b"lamp\xff\xff\xff\xff");
        bytes[bucket + 8..bucket + 16].copy_from_slice(&far_string(len, offset));
        bytes
    })
    .expect("some capacity has such a place")
}

/// A set in which the lookup of an absent key compares it with one of `len` bytes, `offset` bytes
/// away.
pub fn hostile_set(len: u32, offset: i32) -> Vec<u8> {
    hostile_table(8, |n| {
        let set: HashSet<String> = (0..n).map(|i| format!("k{i}")).collect();
        rkyv::to_bytes::<Error>(&set).unwrap().to_vec()
    })
    .map(|(mut bytes, bucket)| {
        bytes[bucket..bucket + 8].copy_from_slice(&far_string(len, offset));
        bytes
    })
    .expect("some capacity has such a place")
}

/// An honest table of which one mirrored byte was changed, so that the lookup of "lamp" comes to an
/// empty bucket; and where that bucket is.
fn hostile_table(bucket_len: usize, honest: impl Fn(usize) -> Vec<u8>) -> Option<(Vec<u8>, usize)> {
    let mut hasher = FxHasher64::default();
    "lamp".hash(&mut hasher);
    let hash = hasher.finish();
    for n in 30usize..400 {
        // Its capacity makes "lamp" probe the last buckets.
        let capacity = usize::max(n * 8 / 7, n + 1);
        let start = (hash % capacity as u64) as usize;
        if start + 15 < capacity {
            continue;
        }
        let mut bytes = honest(n);
        let root = bytes.len() - 12;
        let control = follow(&bytes, root);
        let control_count = capacity.next_multiple_of(16) + 15;
        for mirrored in start..start + 16 {
            if mirrored < capacity || mirrored >= control_count {
                continue;
            }
            let bucket = mirrored - capacity;
            if bytes[control + bucket] & 0x80 == 0 {
                continue; // in use, so checked
            }
            bytes[control + mirrored] = (hash >> 57) as u8;
            return Some((bytes, control - bucket_len * (bucket + 1)));
        }
    }
    None
}

/// A map in which the lookup of an absent key never comes to an empty byte: the only one of the
/// bytes that rkyv compares with nothing is not there.
pub fn map_without_an_empty_byte() -> Vec<u8> {
    let map: HashMap<String, String> = (0..100).map(|i| (format!("k{i}"), "v".into())).collect();
    let mut bytes = rkyv::to_bytes::<Error>(&map).unwrap().to_vec();
    let root = bytes.len() - 12;
    let control = follow(&bytes, root);
    let capacity = number(&bytes, root + 8) as usize;
    for byte in &mut bytes[control..control + capacity.next_multiple_of(16) + 15] {
        if *byte == 0xff {
            *byte = 0x80;
        }
    }
    bytes
}

/// The map of `hostile_map` in a vector in a map, and where its root is.
pub fn map_in_a_map() -> (Vec<u8>, usize) {
    let inner: HashMap<String, String> = (0..100).map(|i| (format!("k{i}"), "v".into())).collect();
    let outer = HashMap::from([(1u8, vec![None, Some(inner)])]);
    let mut bytes = rkyv::to_bytes::<Error>(&outer).unwrap().to_vec();
    // Outer table: one bucket of twelve bytes (a key and padding, a pointer, a length) of two.
    let root = bytes.len() - 12;
    let control = follow(&bytes, root);
    let bucket = (0..2).find(|&bucket| bytes[control + bucket] & 0x80 == 0).unwrap();
    let vector = control - 12 * (bucket + 1) + 4;
    // Its second element: a tag, and a table of twelve bytes.
    let table = follow(&bytes, vector) + 16 + 4;
    let inner = follow(&bytes, table);
    let capacity = number(&bytes, table + 8) as usize;
    let empty = (0..16).find(|&index| bytes[inner + index] == 0xff).unwrap_or(0);
    bytes[inner + capacity + empty] ^= 0x55;
    (bytes, table)
}

/// A tree with an empty leaf in a set, and one as the key of a map.
pub fn trees_in_tables() -> [Vec<u8>; 2] {
    let tree: BTreeMap<String, String> = (0..7).map(|i| (format!("k{i}"), "v".into())).collect();
    let set = rkyv::to_bytes::<Error>(&HashSet::from([tree.clone()])).unwrap().to_vec();
    let map = rkyv::to_bytes::<Error>(&HashMap::from([(tree, 1u8)])).unwrap().to_vec();
    // One bucket of two: a pointer to the root and a length, and a value with its padding.
    [(set, 8), (map, 12)].map(|(bytes, bucket_len)| {
        let control = follow(&bytes, bytes.len() - 12);
        let bucket = (0..2).find(|&bucket| bytes[control + bucket] & 0x80 == 0).unwrap();
        empty_leaf(bytes, control - bucket_len * (bucket + 1), node_end(8))
    })
}

/// Offsets in the nodes of a tree with strings as keys, and values of `value` bytes.
fn node_end(value: usize) -> usize {
    4 + 5 * 8 + 5 * value
}

/// A tree of an inner node and a leaf that says it has no entry, and whose first key is far away:
/// iterating reads it.
pub fn tree_with_an_empty_leaf() -> Vec<u8> {
    let map: BTreeMap<String, String> = (0..7).map(|i| (format!("k{i}"), "v".into())).collect();
    let bytes = rkyv::to_bytes::<Error>(&map).unwrap().to_vec();
    let root = bytes.len() - 8;
    empty_leaf(bytes, root, node_end(8))
}

pub fn set_with_an_empty_leaf() -> Vec<u8> {
    let set: BTreeSet<String> = (0..7).map(|i| format!("k{i}")).collect();
    let bytes = rkyv::to_bytes::<Error>(&set).unwrap().to_vec();
    let root = bytes.len() - 8;
    empty_leaf(bytes, root, node_end(0))
}

fn empty_leaf(mut bytes: Vec<u8>, root: usize, node_end: usize) -> Vec<u8> {
    let inner = follow(&bytes, root);
    assert_eq!(bytes[inner], 1, "an inner node");
    let leaf = follow(&bytes, inner + node_end);
    assert_eq!((bytes[leaf], number(&bytes, leaf + node_end)), (0, 2), "a leaf of two");
    bytes[leaf + 4..leaf + 12].copy_from_slice(&far_string(1 << 14, -(1 << 16)));
    put(&mut bytes, leaf + node_end, 0);
    put(&mut bytes, root + 4, 5);
    bytes
}

/// A tree of an inner node only, without the child that an iterator follows first.
pub fn tree_without_a_first_child() -> Vec<u8> {
    let map: BTreeMap<String, String> = (0..7).map(|i| (format!("k{i}"), "v".into())).collect();
    let mut bytes = rkyv::to_bytes::<Error>(&map).unwrap().to_vec();
    let root = bytes.len() - 8;
    let inner = follow(&bytes, root);
    put(&mut bytes, inner + node_end(8), 1);
    put(&mut bytes, root + 4, 5);
    bytes
}

/// An index map one of whose buckets says 77, which is no entry: a lookup would panic.
pub fn index_map_with_a_far_index() -> Vec<u8> {
    let entries = (0..10).map(|i| (format!("k{i}"), i)).collect();
    let mut bytes = rkyv::to_bytes::<Error>(&Indexed(entries)).unwrap().to_vec();
    let root = bytes.len() - 16;
    let control = follow(&bytes, root);
    let bucket = (0..11).find(|&bucket| bytes[control + bucket] & 0x80 == 0).unwrap();
    put(&mut bytes, control - 4 * (bucket + 1), 77);
    bytes
}

/// Cannot be serialised.
pub struct Failing;

#[derive(Debug, thiserror::Error)]
#[error("no more paper")]
struct NoMorePaper;

impl Archive for Failing {
    type Archived = ();
    type Resolver = ();

    fn resolve(&self, (): (), _: Place<()>) {}
}

impl<S: Fallible<Error: Source> + ?Sized> Serialize<S> for Failing {
    fn serialize(&self, _: &mut S) -> Result<(), S::Error> {
        rkyv::rancor::fail!(NoMorePaper)
    }
}
