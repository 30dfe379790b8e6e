//! The physical limit: cache lines bounced between two cores by plain atomics.

use std::hint::spin_loop;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::child::{Job, Peer};
use super::machine::{Machine, Probe};
use super::shared::{LINE, Shared, SharedMemory};
use super::workload::{RoundTrip, Subject, Trips, Workload};

/// A number bounced between two processes, in one line or in one for each direction.
pub struct Bounce {
    ours: Shared<AtomicU64>,
    peers: Shared<AtomicU64>,
    number: u64,
    /// What stands in `peers` as the answer: the number itself, or one more in the same word.
    step: u64,
    pause: bool,
    peer: Peer,
}

impl Bounce {
    fn start(core: usize, lines: Lines) -> Self {
        let memory = SharedMemory::create(2 * LINE);
        let (role, peers, step, pause) = match lines {
            Lines::One => ("one-line:plain", 0, 1, false),
            Lines::Two => ("two-lines:plain", LINE, 0, false),
            Lines::TwoWithPause => ("two-lines:pause", LINE, 0, true),
        };
        let peer = Peer::start(role, core, 8, &[memory.descriptor()]);
        let (ours, peers) = (memory.word(0), memory.word(peers));
        Self { ours, peers, number: 0, step, pause, peer }
    }
}

impl RoundTrip for Bounce {
    fn check(&mut self) {
        // Waiting for exactly the right number is the check, so each round trip holds it.
        self.round_trip();
    }

    #[inline]
    fn round_trip(&mut self) {
        self.number += 2;
        // Release and Acquire: what a ring needs to publish a message, and to take one.
        self.ours.store(self.number, Release);
        wait_for(&self.peers, self.number + self.step, self.pause);
    }

    fn peer(&self) -> u32 {
        self.peer.id()
    }
}

/// How many lines are bounced, and how the other side's is polled.
#[derive(Clone, Copy)]
pub enum Lines {
    One,
    Two,
    TwoWithPause,
}

/// The limits as subjects of a round trip benchmark.
pub fn subjects(core: usize, count: u64) -> Vec<Subject> {
    let subject = |variant: &str, lines| {
        Subject::new(variant, 8, count, move || Trips(Bounce::start(core, lines)))
    };
    vec![
        subject(ONE_LINE, Lines::One),
        subject(TWO_LINES, Lines::Two),
        subject(TWO_LINES_PAUSE, Lines::TwoWithPause),
    ]
}

/// What any ring with a tail line has to move for 64 bytes: the record's lines, at places that
/// advance, and then the tail. Nothing is checked, copied twice, counted or woken.
pub struct Records {
    ours: Track,
    peers: Track,
    number: u64,
    peer: Peer,
}

/// One direction: a tail, and an area of words behind it.
///
/// INVARIANT (area): `AREA / 8` words from `area` are valid while `tail` keeps the mapping.
struct Track {
    tail: Shared<AtomicU64>,
    area: NonNull<AtomicU64>,
    at: usize,
}

impl Track {
    fn new(memory: &Rc<SharedMemory>, index: usize) -> Self {
        let base = index * (LINE + AREA);
        let area = memory.bytes(base + LINE, AREA).cast();
        Self { tail: memory.word(base), area, at: 0 }
    }

    /// Words of the next record.
    #[inline]
    fn next(&mut self) -> impl Iterator<Item = &AtomicU64> {
        let first = self.at;
        self.at = (first + RECORD / 8) % (AREA / 8);
        (first..first + RECORD / 8).map(|word| {
            // SAFETY: (area) the remainder is inside.
            let at = unsafe { self.area.add(word % (AREA / 8)) };
            // SAFETY: as above; an atomic may be written by the other process.
            unsafe { at.as_ref() }
        })
    }

    #[inline]
    fn write(&mut self, number: u64) {
        self.next().for_each(|word| word.store(number, Relaxed));
        self.tail.store(number, Release);
    }

    #[inline]
    fn read(&mut self, number: u64) {
        wait_for(&self.tail, number, true);
        assert!(self.next().all(|word| word.load(Relaxed) == number), "a record of other words");
    }
}

impl Records {
    fn start(core: usize) -> Self {
        let memory = SharedMemory::create(2 * (LINE + AREA));
        let peer = Peer::start("records", core, PAYLOAD, &[memory.descriptor()]);
        let (ours, peers) = (Track::new(&memory, 0), Track::new(&memory, 1));
        Self { ours, peers, number: 0, peer }
    }
}

impl RoundTrip for Records {
    fn check(&mut self) {
        // Each word of each record is compared.
        self.round_trip();
    }

    #[inline]
    fn round_trip(&mut self) {
        self.number += 1;
        self.ours.write(self.number);
        self.peers.read(self.number);
    }

    fn peer(&self) -> u32 {
        self.peer.id()
    }
}

/// The least that a record and a tail take, as a subject.
pub fn records(core: usize, count: u64) -> Subject {
    Subject::new(RECORDS, PAYLOAD, count, move || Trips(Records::start(core)))
}

/// Plays the other side of [`Records`].
pub fn serve_records(mut job: Job) {
    let memory = SharedMemory::open(job.descriptor());
    let (mut peers, mut ours) = (Track::new(&memory, 0), Track::new(&memory, 1));
    for number in 1.. {
        peers.read(number);
        ours.write(number);
    }
}

/// Measures how far the two cores are from each other, over about `count` round trips; `None` where
/// there is one core.
pub fn probe(machine: &Machine, count: u64) -> Option<Probe> {
    let (_, core) = machine.pair?;
    let part = count.div_ceil(PROBE_PARTS);
    let line = least(&mut Trips(Bounce::start(core, Lines::One)), part);
    let record = least(&mut Trips(Records::start(core)), part);
    Some(Probe { line, record })
}

/// The least of a few parts: a slice lost to another guest must not make a near pair look far.
fn least(trips: &mut dyn Workload, part: u64) -> f64 {
    trips.run(part);
    let parts = (0..PROBE_PARTS).map(|_| trips.run(part));
    parts.min().expect("some parts").as_nanos() as f64 / part as f64
}

/// Plays the other side of [`Lines::One`].
pub fn serve_one_line(mut job: Job) {
    let memory = SharedMemory::open(job.descriptor());
    let word = memory.word(0);
    for number in (2..).step_by(2) {
        wait_for(&word, number, false);
        word.store(number + 1, Release);
    }
}

/// Plays the other side of [`Lines::Two`] and [`Lines::TwoWithPause`].
pub fn serve_two_lines(mut job: Job) {
    let pause = job.role.ends_with(":pause");
    let memory = SharedMemory::open(job.descriptor());
    let (peers, ours) = (memory.word(0), memory.word(LINE));
    for number in (2..).step_by(2) {
        wait_for(&peers, number, pause);
        ours.store(number, Release);
    }
}

#[inline]
fn wait_for(word: &AtomicU64, number: u64, pause: bool) {
    while word.load(Acquire) != number {
        if pause {
            spin_loop();
        }
    }
}

/// Variant names, which the reports name as baselines.
pub const ONE_LINE: &str = "one-line";
pub const TWO_LINES: &str = "two-lines";
pub const TWO_LINES_PAUSE: &str = "two-lines-pause";
pub const RECORDS: &str = "tail-and-record";
/// Bytes of a message, and of its record: a header of 16 before it.
const PAYLOAD: usize = 64;
const RECORD: usize = PAYLOAD + 16;
/// Bytes that the records of one direction go round in: those of a port's first segment.
const AREA: usize = 64 << 10;
const PROBE_PARTS: u64 = 5;
