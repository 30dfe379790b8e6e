//! What the decode targets run: bytes that are read as archives, and used if they are accepted.
//!
//! The first byte says as which type the others are read. An accepted value is used in every way
//! that a program could: looked up, iterated, compared, formatted, hashed, deserialised.

mod mutate;
mod types;

pub use mutate::mutate;

use super::pool::ReceiveDeserializer;
use super::{Receive, access, deserialize};
use rkyv::Deserialize;
use rkyv::util::AlignedVec;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::CString;
use std::fmt::{self, Debug, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroI8, NonZeroU64};
use std::ops::{Bound, Range, RangeInclusive};
use std::rc::{Rc, Weak};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use types::{Indexed, Niches, Node, Shape, Tree};

/// A family of types: one fuzz target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Hash maps, hash sets and index maps.
    Maps,
    /// B-trees.
    Trees,
    /// Values behind `Rc`, `Arc` and `Weak`.
    Shared,
    /// Strings, enums and niches.
    Text,
    /// Tuples, options, vectors and what they hold.
    Nested,
}

impl Family {
    /// All families.
    pub const ALL: [Family; 5] =
        [Family::Maps, Family::Trees, Family::Shared, Family::Text, Family::Nested];

    fn run(self, kind: u8, bytes: &[u8]) -> bool {
        match self {
            Family::Maps => maps(kind, bytes),
            Family::Trees => trees(kind, bytes),
            Family::Shared => shared(kind, bytes),
            Family::Text => text(kind, bytes),
            Family::Nested => nested(kind, bytes),
        }
    }
}

/// Reads the bytes as an archive, and uses it if it is accepted. Returns whether it was.
pub fn decode(family: Family, data: &[u8]) -> bool {
    let Some((&kind, data)) = data.split_first() else { return false };
    // In separate memory of exactly the length, so that a read beside it is noticed.
    let mut bytes = AlignedVec::<16>::with_capacity(data.len());
    bytes.extend_from_slice(data);
    family.run(kind, &bytes)
}

/// Reads a value, uses it, and takes it out.
fn read<T>(bytes: &[u8], using: impl FnOnce(&T::Archived)) -> bool
where
    T: Receive<Archived: Deserialize<T, ReceiveDeserializer>>,
{
    let Ok(value) = access::<T>(bytes) else { return false };
    using(value);
    let _ = black_box(deserialize::<T>(bytes));
    true
}

fn see<T>(value: T) {
    black_box(value);
}

/// Formats it into nothing: an allocation costs most under AddressSanitizer.
fn show(value: &impl Debug) {
    struct Nothing;

    impl fmt::Write for Nothing {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            // Each byte is read, as by a program that prints it.
            black_box(text.bytes().fold(0, u8::wrapping_add));
            Ok(())
        }
    }

    write!(Nothing, "{value:?}").expect("nothing fails");
}

fn hash(value: &(impl Hash + ?Sized)) {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    black_box(hasher.finish());
}

#[allow(clippy::eq_op)]
fn compare<T: PartialEq + ?Sized>(value: &T) {
    black_box(value == value);
}

/// Words that are in no honest map, and that start in many places of a table.
fn absent_words() -> impl Iterator<Item = &'static str> {
    static WORDS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let numbered = (0..40).map(|number| format!("absent {number}"));
        numbered.chain(["lamp".to_owned(), String::new()]).collect()
    });
    WORDS.iter().map(String::as_str)
}

fn maps(kind: u8, bytes: &[u8]) -> bool {
    match kind % 8 {
        0 => read::<HashMap<u8, u8>>(bytes, |map| {
            show(map);
            compare(map);
            (0..=255).for_each(|key| see(map.get(&key)));
        }),
        1 => read::<HashMap<u32, u64>>(bytes, |map| {
            show(map);
            map.keys().for_each(|key| see(map.get(key)));
            (0..200u32).for_each(|key| see(map.get(&key.into())));
        }),
        2 => read::<HashMap<String, String>>(bytes, |map| {
            show(map);
            compare(map);
            map.keys().for_each(|key| show(&map.get(key.as_str())));
            absent_words().for_each(|key| show(&map.get(key)));
            map.values().for_each(|value| hash(value.as_str()));
        }),
        3 => read::<HashSet<String>>(bytes, |set| {
            show(set);
            set.iter().for_each(|key| show(&set.get(key.as_str())));
            absent_words().for_each(|key| show(&set.get(key)));
        }),
        4 => read::<HashMap<u64, Vec<u16>>>(bytes, |map| {
            show(map);
            compare(map);
            (0..100u64).for_each(|key| show(&map.get(&key.into())));
        }),
        5 => read::<HashMap<u8, HashMap<String, u8>>>(bytes, |map| {
            show(map);
            for inner in map.values() {
                absent_words().for_each(|key| show(&inner.get(key)));
            }
            (0..=255).for_each(|key| show(&map.get(&key)));
        }),
        6 => read::<HashMap<u16, Box<str>>>(bytes, |map| {
            for key in 0..300u16 {
                show(&map.get(&key.into()).map(|value| value.len()));
            }
            map.iter().for_each(|(_, value)| hash(value.get()));
        }),
        _ => access::<Indexed>(bytes).is_ok_and(|map| {
            show(map);
            compare(map);
            map.keys().for_each(|key| show(&map.get_full(key.as_str())));
            absent_words().for_each(|key| show(&map.get_full(key)));
            (0..map.len() + 2).for_each(|index| show(&map.get_index(index)));
            true
        }),
    }
}

fn trees(kind: u8, bytes: &[u8]) -> bool {
    match kind % 5 {
        0 => read::<BTreeMap<u8, u8>>(bytes, |map| {
            show(map);
            compare(map);
            hash(map);
            (0..=255).for_each(|key| see(map.get(&key)));
            for start in (0..=255).step_by(16) {
                map.range(start..).for_each(|entry| show(&entry));
                map.range(..=start).for_each(|entry| show(&entry));
                map.range(start..start.saturating_add(40)).for_each(|entry| show(&entry));
            }
        }),
        1 => read::<BTreeMap<String, String>>(bytes, |map| {
            show(map);
            hash(map);
            map.keys().for_each(|key| show(&map.get(key.as_str())));
            absent_words().for_each(|key| show(&map.get(key)));
            map.values().for_each(|value| hash(value.as_str()));
            for word in absent_words().take(4) {
                map.range::<str, _>((Bound::Excluded(word), Bound::Unbounded))
                    .for_each(|entry| show(&entry));
            }
        }),
        2 => read::<BTreeSet<u32>>(bytes, |set| {
            show(set);
            (0..300u32).for_each(|key| see(set.get(&key.into())));
            set.iter().for_each(show);
        }),
        3 => read::<BTreeMap<u64, Vec<String>>>(bytes, |map| {
            show(map);
            compare(map);
            (0..100u64).for_each(|key| show(&map.get(&key.into())));
        }),
        _ => read::<BTreeMap<u8, BTreeSet<u16>>>(bytes, |map| {
            show(map);
            map.values().for_each(|set| set.iter().for_each(show));
        }),
    }
}

fn shared(kind: u8, bytes: &[u8]) -> bool {
    match kind % 7 {
        0 => read::<Vec<Rc<String>>>(bytes, |all| {
            show(all);
            compare(all);
            hash(all);
        }),
        1 => read::<Vec<(Rc<u32>, Rc<usize>)>>(bytes, show),
        2 => read::<Vec<Arc<str>>>(bytes, |all| {
            show(all);
            hash(all);
        }),
        3 => read::<(Vec<Rc<[u8]>>, Vec<Arc<[u16]>>)>(bytes, show),
        // It has many paths: nothing is done here that would follow them all.
        4 => read::<Vec<Rc<Node>>>(bytes, |all| show(&all.len())),
        5 => read::<(Option<Rc<String>>, Vec<Weak<String>>)>(bytes, |all| {
            show(&all.0);
            all.1.iter().for_each(|weak| show(&weak.upgrade()));
        }),
        _ => read::<Vec<Rc<HashMap<u8, String>>>>(bytes, |all| {
            show(all);
            all.iter().for_each(|map| (0..40).for_each(|key| show(&map.get().get(&key))));
        }),
    }
}

fn text(kind: u8, bytes: &[u8]) -> bool {
    match kind % 7 {
        0 => read::<String>(bytes, |text| {
            show(text);
            hash(text);
            compare(text);
            text.chars().rev().for_each(|character| show(&character));
        }),
        1 => read::<Vec<String>>(bytes, |all| {
            show(all);
            hash(all);
        }),
        2 => read::<(Box<str>, Option<String>, CString)>(bytes, |all| {
            show(&all.0.get());
            show(&all.1);
            show(&all.2.as_c_str());
        }),
        3 => read::<Vec<Shape>>(bytes, |all| {
            show(all);
            compare(all);
        }),
        4 => read::<Vec<Niches>>(bytes, |all| {
            for niches in all.iter() {
                show(&niches.boxed.as_ref().map(|text| text.as_str()));
                show(&(niches.number.as_ref(), niches.flag.as_ref(), niches.float.as_ref()));
                show(&niches.inner.as_ref().and_then(|it| it.boxed.as_ref().map(|it| it.len())));
            }
        }),
        5 => read::<Vec<(char, bool, NonZeroI8, NonZeroU64)>>(bytes, |all| {
            show(all);
            hash(all);
        }),
        _ => read::<Tree>(bytes, show),
    }
}

fn nested(kind: u8, bytes: &[u8]) -> bool {
    match kind % 7 {
        0 => read::<Vec<Vec<u8>>>(bytes, |all| {
            show(all);
            hash(all);
        }),
        1 => read::<Vec<(u8, u64, Option<(u16, Vec<i32>)>)>>(bytes, |all| {
            show(all);
            compare(all);
        }),
        2 => read::<Option<Box<Result<Vec<String>, u8>>>>(bytes, |value| {
            if let Some(value) = value.as_ref() {
                show(value.get());
            }
        }),
        3 => read::<(Range<u8>, RangeInclusive<i64>, Bound<String>, Bound<u8>)>(bytes, |all| {
            show(all);
        }),
        4 => read::<Vec<(Duration, IpAddr, SocketAddr)>>(bytes, |all| {
            show(all);
            all.iter().for_each(|it| show(&it.1.as_ipaddr()));
        }),
        5 => read::<[[Option<Vec<u16>>; 3]; 2]>(bytes, |all| {
            show(all);
            compare(all);
        }),
        _ => read::<Vec<Vec<Vec<Box<[u32]>>>>>(bytes, |all| {
            all.iter().for_each(|all| {
                all.iter().flat_map(|all| all.iter()).for_each(|it| hash(it.get()));
            });
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::{Family, decode, mutate};

    #[test]
    fn archives_of_the_corpus_do_no_harm() {
        for family in Family::ALL {
            let name = format!("decode_{family:?}").to_lowercase();
            let corpus = format!("{}/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
            for entry in std::fs::read_dir(corpus).into_iter().flatten() {
                let path = entry.expect("a readable corpus").path();
                decode(family, &std::fs::read(path).expect("a readable file"));
            }
        }
    }

    /// Honest archives are accepted, and changed ones do no harm.
    #[test]
    fn archives_made_by_chance_do_no_harm() {
        for family in Family::ALL {
            let mut accepted = 0;
            for seed in 0..300u32 {
                let mut data = vec![0; 4096];
                let len = mutate(family, &mut data, 0, seed);
                accepted += u32::from(decode(family, &data[..len]));
                let len = mutate(family, &mut data, len, seed.wrapping_mul(0x9e37_79b9));
                decode(family, &data[..len]);
            }
            assert_eq!(accepted, 300, "{family:?}: what rkyv serialises is accepted");
        }
    }
}
