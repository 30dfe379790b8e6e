//! What a message costs in addition to its transport: writing, checking and copying its payload.
//!
//! A post to a default port writes, the receiver copies and checks; on a trusted port the copy
//! falls away. The copy is done with relaxed atomic words, as the peer may write meanwhile.

#![allow(unsafe_code, missing_docs)]

mod harness;

use std::fmt::Debug;
use std::hint::black_box;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use harness::local::{self, Local};
use harness::message::pattern;
use harness::report::{Baseline, Report};
use harness::typed::{Document, Order, Typed};
use harness::workload::Subject;
use harness::{Harness, plain_subjects};
use messageport::rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator, to_bytes_in};
use messageport::rkyv::bytecheck::CheckBytes;
use messageport::rkyv::rancor::Error;
use messageport::rkyv::ser::allocator::ArenaHandle;
use messageport::rkyv::util::AlignedVec;
use messageport::rkyv::{Deserialize, Serialize, access, access_unchecked, deserialize, to_bytes};

fn main() {
    let Some(mut harness) = Harness::start("payload") else {
        return;
    };
    let mut subjects = costs(64, harness.count(1_000_000, 100), Order::example);
    subjects.extend(costs(1 << 10, harness.count(200_000, 100), Document::example));
    subjects
        .extend(costs(64 << 10, harness.count(10_000, 20), || (0..8191_u64).collect::<Vec<u64>>()));
    for (bytes, count) in [(64, 1_000_000), (1 << 10, 500_000), (64 << 10, 10_000)] {
        let count = harness.count(count, 20);
        subjects.push(copy_words(bytes, count));
        subjects.push(local::memcpy(bytes, count));
        subjects.push(plain_subjects::alone(bytes, 1 << 20, count));
    }
    let report = Report {
        group: "payload",
        title: "one payload (8 fields, 1 KiB of strings and vectors, 64 KiB of numbers)",
        baselines: vec![Baseline::same(local::MEMCPY), Baseline::same(plain_subjects::PLAIN_RING)],
        targets: Vec::new(),
        is_throughput: false,
        is_slow: false,
    };
    harness.run(&report, &subjects);
    harness.finish();
}

/// Writing, checked and unchecked access, and a whole copy into a value of one's own.
fn costs<T>(bytes: usize, count: u64, make: fn() -> T) -> Vec<Subject>
where
    T: Debug + PartialEq + 'static,
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>>,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, Error>>,
    T::Archived: Deserialize<T, HighDeserializer<Error>>,
{
    let archive = move || to_bytes::<Error>(&make()).expect("serialising in memory");
    assert_eq!(archive().len(), bytes, "the archive is as long as its label says");
    let check = move || {
        let archive = archive();
        let archived = access::<T::Archived, Error>(&archive).expect("a valid archive");
        let value: T = deserialize::<T, Error>(archived).expect("a valid archive");
        assert_eq!(value, make());
    };
    vec![
        Subject::new("rkyv-write", bytes, count, move || {
            let (value, mut to) = (make(), AlignedVec::with_capacity(2 * bytes));
            Local::new(check, move || {
                to.clear();
                let written = to_bytes_in::<_, Error>(black_box(&value), std::mem::take(&mut to));
                to = black_box(written.expect("serialising in memory"));
            })
        }),
        Subject::new("rkyv-check", bytes, count, move || {
            let archive = archive();
            Local::new(check, move || {
                let archived = access::<T::Archived, Error>(black_box(&archive));
                black_box(archived.expect("a valid archive"));
            })
        }),
        Subject::new("rkyv-unchecked", bytes, count, move || {
            let archive = archive();
            Local::new(check, move || {
                // SAFETY: the archive was written above, and `check` found it valid.
                black_box(unsafe { access_unchecked::<T::Archived>(black_box(&archive)) });
            })
        }),
        Subject::new("rkyv-deserialize", bytes, count, move || {
            let archive = archive();
            Local::new(check, move || {
                let archived = access::<T::Archived, Error>(black_box(&archive));
                let archived = archived.expect("a valid archive");
                black_box(deserialize::<T, Error>(archived).expect("a valid archive"));
            })
        }),
    ]
}

/// The copy out of memory that another process may write: one relaxed load for each word.
fn copy_words(bytes: usize, count: u64) -> Subject {
    Subject::new("copy-words", bytes, count, move || {
        let words = |bytes: Vec<u8>| -> Vec<u64> {
            let chunks = bytes.chunks_exact(8);
            chunks.map(|chunk| u64::from_ne_bytes(chunk.try_into().expect("eight"))).collect()
        };
        let expected = words(pattern(1, bytes));
        let from: Vec<AtomicU64> = expected.iter().copied().map(AtomicU64::new).collect();
        let mut copied = vec![0; expected.len()];
        copy(&from, &mut copied);
        let mut to = vec![0; expected.len()];
        Local::new(
            move || assert_eq!(copied, expected),
            move || {
                copy(black_box(&from), &mut to);
                black_box(&mut to);
            },
        )
    })
}

#[inline]
fn copy(from: &[AtomicU64], to: &mut [u64]) {
    for (from, to) in from.iter().zip(to) {
        // Relaxed: the words need no order among themselves, only each to be read in one piece.
        *to = from.load(Relaxed);
    }
}
