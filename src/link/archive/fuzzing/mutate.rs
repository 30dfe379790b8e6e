//! Changes of archives that keep most of what makes them valid.

use super::Family;
use super::types::{Indexed, Inner, Niches, Node, Shape, Tree};
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroI8, NonZeroU32, NonZeroU64};
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Numbers from a seed (xorshift).
struct Random(u64);

impl Random {
    fn new(seed: u32) -> Random {
        Random(u64::from(seed) << 1 | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound.max(1)
    }

    fn word(&mut self) -> String {
        let len = self.below(20);
        "abcdefghijklmnopqrstuvwxyz"[..len].to_owned() + &self.below(1000).to_string()
    }
}

/// Replaces the first `len` bytes of `data` by others that have a meaning. Returns their number:
/// sometimes an honest archive, and otherwise what was there with a few changes of numbers,
/// pointers and control bytes.
pub fn mutate(family: Family, data: &mut [u8], len: usize, seed: u32) -> usize {
    let mut random = Random::new(seed);
    if len < 9 || random.below(16) == 0 {
        let kind = random.below(256) as u8;
        // What does not fit is tried again, smaller.
        for most in [120, 30, 8, 2, 0] {
            let archive = honest(family, kind, random.below(most + 1), &mut random);
            if archive.len() < data.len() {
                data[0] = kind;
                data[1..=archive.len()].copy_from_slice(&archive);
                return 1 + archive.len();
            }
        }
        return len;
    }
    for _ in 0..=random.below(4) {
        change(&mut data[1..len], &mut random);
    }
    len
}

fn change(bytes: &mut [u8], random: &mut Random) {
    let len = bytes.len();
    let word = |at: usize| (at & !3).min((len & !3) - 4);
    // The root and what is near it are at the end.
    let at = match random.below(3) {
        0 => len - 1 - random.below(len.min(48)),
        _ => random.below(len),
    };
    match random.below(8) {
        0 => bytes[at] = random.below(256) as u8,
        1 => bytes[at] = [0xff, 0x80, 0, 1, 2, 0x7f, 0xfe, 5][random.below(8)],
        2 => bytes[at] = bytes[random.below(len)],
        3 => bytes[at] ^= 1 << random.below(8),
        4 => {
            let number = [0, 1, 2, 5, len as u32, u32::MAX, 16, 1 << 31][random.below(8)];
            bytes[word(at)..][..4].copy_from_slice(&number.to_le_bytes());
        }
        5 => {
            let distance = random.below(len) as i32 - word(at) as i32;
            bytes[word(at)..][..4].copy_from_slice(&distance.to_le_bytes());
        }
        6 => {
            let place = word(at);
            let number = i32::from_le_bytes(bytes[place..place + 4].try_into().expect("four"));
            let changed = number.wrapping_add(random.below(17) as i32 - 8);
            bytes[place..place + 4].copy_from_slice(&changed.to_le_bytes());
        }
        _ => {
            let count = [1, 4, 8, 12, 16][random.below(5)].min(len);
            let (from, to) = (random.below(len - count + 1), random.below(len - count + 1));
            bytes.copy_within(from..from + count, to);
        }
    }
}

fn archive(value: &impl for<'a> rkyv::Serialize<Serializer<'a>>) -> AlignedVec {
    rkyv::to_bytes::<Failure>(value).expect("an honest value can be serialised")
}

type Serializer<'a> =
    rkyv::api::high::HighSerializer<AlignedVec, rkyv::ser::allocator::ArenaHandle<'a>, Failure>;

fn honest(family: Family, kind: u8, n: usize, random: &mut Random) -> AlignedVec {
    match family {
        Family::Maps => maps(kind, n, random),
        Family::Trees => trees(kind, n, random),
        Family::Shared => shared(kind, n, random),
        Family::Text => text(kind, n, random),
        Family::Nested => nested(kind, n, random),
    }
}

type Map<K, V> = std::collections::HashMap<K, V>;
type Sorted<K, V> = std::collections::BTreeMap<K, V>;

fn words<T: FromIterator<String>>(n: usize, random: &mut Random) -> T {
    (0..n).map(|_| random.word()).collect()
}

fn maps(kind: u8, n: usize, random: &mut Random) -> AlignedVec {
    match kind % 8 {
        0 => archive(&(0..n).map(|key| (key as u8, 1)).collect::<Map<u8, u8>>()),
        1 => archive(&(0..n).map(|key| (key as u32 * 3, 7)).collect::<Map<u32, u64>>()),
        2 => {
            let pairs = (0..n).map(|_| (random.word(), random.word()));
            archive(&pairs.collect::<Map<String, String>>())
        }
        3 => archive(&words::<std::collections::HashSet<String>>(n, random)),
        4 => {
            let pairs = (0..n).map(|key| (key as u64, vec![7; random.below(4)]));
            archive(&pairs.collect::<Map<u64, Vec<u16>>>())
        }
        5 => {
            let inner = |key: usize, random: &mut Random| {
                let pairs = (0..key).map(|_| (random.word(), 7));
                (key as u8, pairs.collect::<Map<String, u8>>())
            };
            archive(&(0..n / 8).map(|key| inner(key, random)).collect::<Map<_, _>>())
        }
        6 => {
            let pairs = (0..n).map(|key| (key as u16, random.word().into_boxed_str()));
            archive(&pairs.collect::<Map<u16, Box<str>>>())
        }
        _ => archive(&Indexed((0..n).map(|key| (format!("key {key}"), 7)).collect())),
    }
}

fn trees(kind: u8, n: usize, random: &mut Random) -> AlignedVec {
    match kind % 5 {
        0 => archive(&(0..n).map(|key| (key as u8, 1)).collect::<Sorted<u8, u8>>()),
        1 => {
            let pairs = (0..n).map(|_| (random.word(), random.word()));
            archive(&pairs.collect::<Sorted<String, String>>())
        }
        2 => archive(&(0..n as u32).collect::<std::collections::BTreeSet<u32>>()),
        3 => {
            let pairs = (0..n).map(|key| (key as u64, words::<Vec<_>>(key % 3, random)));
            archive(&pairs.collect::<Sorted<_, _>>())
        }
        _ => {
            let inner = |key: usize| (0..key as u16).collect::<std::collections::BTreeSet<u16>>();
            archive(&(0..n / 8).map(|key| (key as u8, inner(key))).collect::<Sorted<_, _>>())
        }
    }
}

fn shared(kind: u8, n: usize, random: &mut Random) -> AlignedVec {
    let strings: Vec<Rc<String>> = (0..=n / 3).map(|_| Rc::new(random.word())).collect();
    let one = |random: &mut Random| Rc::clone(&strings[random.below(strings.len())]);
    match kind % 7 {
        0 => archive(&(0..n).map(|_| one(random)).collect::<Vec<_>>()),
        1 => {
            let (narrow, wide) = (Rc::new(7u32), Rc::new(9usize));
            let pairs = (0..n).map(|_| (Rc::clone(&narrow), Rc::clone(&wide)));
            archive(&pairs.collect::<Vec<_>>())
        }
        2 => archive(&vec![Arc::<str>::from(random.word()); n]),
        3 => {
            let (bytes, numbers) = (Rc::<[u8]>::from([7; 9]), Arc::<[u16]>::from([8; 5]));
            archive(&(vec![bytes; n], vec![numbers; n]))
        }
        4 => {
            let mut nodes = vec![Rc::new(Node { left: None, right: None })];
            for _ in 0..n {
                let mut pick = || {
                    let place = random.below(nodes.len() + 1);
                    nodes.get(place).cloned()
                };
                let (left, right) = (pick(), pick());
                nodes.push(Rc::new(Node { left, right }));
            }
            archive(&nodes)
        }
        5 => {
            let weak = (0..n).map(|_| Rc::downgrade(&one(random))).collect::<Vec<_>>();
            archive(&(Some(one(random)), weak))
        }
        _ => {
            let map = (0..n).map(|key| (key as u8, random.word())).collect::<Map<u8, String>>();
            archive(&std::iter::repeat_n(Rc::new(map), 3).collect::<Vec<_>>())
        }
    }
}

fn text(kind: u8, n: usize, random: &mut Random) -> AlignedVec {
    match kind % 7 {
        0 => archive(&random.word().repeat(n)),
        1 => archive(&words::<Vec<_>>(n, random)),
        2 => {
            let c_string = std::ffi::CString::new(random.word()).expect("no zero");
            archive(&(random.word().into_boxed_str(), Some(random.word()), c_string))
        }
        3 => {
            let shape = |random: &mut Random| match random.below(4) {
                0 => Shape::Nothing,
                1 => Shape::Circle { radius: 1.0, name: random.word() },
                2 => Shape::Path(vec![(1, 2); random.below(5)], Some('ß')),
                _ => Shape::Group(vec![7; random.below(5)].into_boxed_slice(), 9, true),
            };
            archive(&(0..n).map(|_| shape(random)).collect::<Vec<_>>())
        }
        4 => {
            let niches = |random: &mut Random| Niches {
                boxed: (random.below(2) == 0).then(|| Box::new(random.word())),
                number: NonZeroU32::new(random.below(2) as u32),
                flag: (random.below(2) == 0).then_some(true),
                float: (random.below(2) == 0).then_some(1.5),
                inner: (random.below(2) == 0)
                    .then(|| Box::new(Inner { boxed: Some(vec![7; 3].into_boxed_slice()) })),
            };
            archive(&(0..n).map(|_| niches(random)).collect::<Vec<_>>())
        }
        5 => {
            let (signed, wide) = (NonZeroI8::MIN, NonZeroU64::MAX);
            archive(&vec![('ß', true, signed, wide); n])
        }
        _ => {
            let mut tree = Tree::Leaf(random.word());
            for _ in 0..n {
                tree = match random.below(3) {
                    0 => Tree::Branches(vec![tree, Tree::Leaf(random.word())]),
                    _ => Tree::Branches(vec![tree]),
                };
            }
            archive(&tree)
        }
    }
}

fn nested(kind: u8, n: usize, random: &mut Random) -> AlignedVec {
    match kind % 7 {
        0 => archive(&(0..n).map(|len| vec![7u8; len % 9]).collect::<Vec<_>>()),
        1 => {
            let inner = |len: usize| (!len.is_multiple_of(3)).then(|| (7u16, vec![-1i32; len % 5]));
            archive(&(0..n).map(|len| (1u8, 2u64, inner(len))).collect::<Vec<_>>())
        }
        2 => {
            let found: Result<Vec<String>, u8> = match random.below(3) {
                0 => Err(7),
                _ => Ok(words(n, random)),
            };
            archive(&Some(Box::new(found)))
        }
        3 => archive(&(1u8..9, -1i64..=1, Bound::Excluded(random.word()), Bound::<u8>::Unbounded)),
        4 => {
            let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
            let times = (0..n).map(|n| {
                let ip = if n % 2 == 0 { v4 } else { v6 };
                (Duration::new(n as u64, 999_999_999), ip, SocketAddr::new(ip, 80))
            });
            archive(&times.collect::<Vec<_>>())
        }
        5 => {
            let row = || [Some(vec![1u16; n % 9]), None, Some(vec![])];
            archive(&[row(), row()])
        }
        _ => archive(&vec![vec![vec![vec![7u32; n % 5].into_boxed_slice(); 2]; n / 8]; 2]),
    }
}
