//! The plain ring as a subject: round trip, one way, and alone in one thread.

use std::hint::spin_loop;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::child::{Job, Peer};
use super::message::{Outgoing, Source, Tally, assert_echo};
use super::plain_ring::{Consumer, Producer, region_len};
use super::port_streams::capacity;
use super::shared::SharedMemory;
use super::workload::{RoundTrip, Subject, Trips, Workload};

/// Two rings to another process that echoes.
struct Echo {
    out: Producer,
    back: Consumer,
    message: Outgoing,
    peer: Peer,
}

impl Echo {
    fn start(core: usize, bytes: usize) -> Self {
        let memory = SharedMemory::create(2 * region_len(TRIP_CAPACITY));
        let peer = Peer::start("plain-echo", core, bytes, &[memory.descriptor()]);
        Self {
            out: Producer::new(&memory, 0, TRIP_CAPACITY),
            back: Consumer::new(&memory, region_len(TRIP_CAPACITY), TRIP_CAPACITY),
            message: Outgoing::new(bytes),
            peer,
        }
    }
}

impl RoundTrip for Echo {
    fn check(&mut self) {
        assert_echo(self.message.current().len(), |message| {
            push(&mut self.out, message);
            let answer = wait(&mut self.back).to_vec();
            self.back.release();
            answer
        });
    }

    #[inline]
    fn round_trip(&mut self) {
        push(&mut self.out, self.message.next());
        self.message.confirm(wait(&mut self.back));
        self.back.release();
    }

    fn peer(&self) -> u32 {
        self.peer.id()
    }
}

/// Plays the other side of a round trip.
pub fn serve_echo(mut job: Job) {
    let memory = SharedMemory::open(job.descriptor());
    let mut incoming = Consumer::new(&memory, 0, TRIP_CAPACITY);
    let mut back = Producer::new(&memory, region_len(TRIP_CAPACITY), TRIP_CAPACITY);
    loop {
        push(&mut back, wait(&mut incoming));
        incoming.release();
    }
}

/// A ring to another process that takes everything.
struct OneWay {
    out: Producer,
    source: Source,
    burst: u64,
    peer: Peer,
}

impl OneWay {
    fn start(core: usize, bytes: usize, burst: u64) -> Self {
        let memory = SharedMemory::create(region_len(capacity(bytes)));
        let source = Source::new(bytes);
        let descriptors = [source.descriptor(), memory.descriptor()];
        let peer = Peer::start("plain-sink", core, bytes, &descriptors);
        Self { out: Producer::new(&memory, 0, capacity(bytes)), source, burst, peer }
    }

    fn stage(&mut self) {
        let message = self.source.message.next();
        while !self.out.stage(message) {
            // What was staged so far has to be seen, or the consumer can make no room.
            self.out.commit();
            spin_loop();
        }
    }
}

impl Workload for OneWay {
    fn check(&mut self) {
        self.run(super::message::CHECKED);
    }

    fn run(&mut self, count: u64) -> Duration {
        let start = Instant::now();
        if self.burst == 1 {
            for _ in 0..count {
                push(&mut self.out, self.source.message.next());
            }
        } else {
            for number in 1..=count {
                self.stage();
                if number % self.burst == 0 || number == count {
                    self.out.commit();
                }
            }
        }
        self.source.wait_until_taken();
        start.elapsed()
    }

    fn pauses(&self) -> Option<u64> {
        Some(self.source.pauses())
    }

    fn peer(&self) -> Option<u32> {
        Some(self.peer.id())
    }
}

/// Plays the other side of a one-way transfer.
pub fn serve_sink(mut job: Job) {
    let mut tally = Tally::new(&SharedMemory::open(job.descriptor()), job.bytes);
    let memory = SharedMemory::open(job.descriptor());
    let mut incoming = Consumer::new(&memory, 0, capacity(job.bytes));
    loop {
        if let Some(message) = incoming.peek() {
            tally.take(message);
            incoming.release();
        } else {
            tally.publish();
            spin_loop();
        }
    }
}

/// Both ends in one thread: what the ring's own work costs without another core.
struct Alone {
    out: Producer,
    back: Consumer,
    message: Outgoing,
    _memory: Rc<SharedMemory>,
}

impl Workload for Alone {
    fn check(&mut self) {
        assert_echo(self.message.current().len(), |message| {
            assert!(self.out.push(message));
            let answer = self.back.peek().expect("what was just pushed").to_vec();
            self.back.release();
            answer
        });
    }

    fn run(&mut self, count: u64) -> Duration {
        let start = Instant::now();
        for _ in 0..count {
            assert!(self.out.push(self.message.next()));
            self.message.confirm(self.back.peek().expect("what was just pushed"));
            self.back.release();
        }
        start.elapsed()
    }
}

/// The plain ring as a subject of a round trip benchmark.
pub fn round_trip(core: usize, bytes: usize, count: u64) -> Subject {
    Subject::new(PLAIN_RING, bytes, count, move || Trips(Echo::start(core, bytes)))
}

/// The plain ring as a subject of a throughput benchmark; `burst` messages for one tail store.
pub fn one_way(variant: &str, core: usize, bytes: usize, count: u64, burst: u64) -> Subject {
    Subject::new(variant, bytes, count, move || OneWay::start(core, bytes, burst))
}

/// The plain ring as a subject of a benchmark in one thread.
pub fn alone(bytes: usize, capacity: usize, count: u64) -> Subject {
    Subject::new(PLAIN_RING, bytes, count, move || {
        let memory = SharedMemory::create(region_len(capacity));
        Alone {
            out: Producer::new(&memory, 0, capacity),
            back: Consumer::new(&memory, 0, capacity),
            message: Outgoing::new(bytes),
            _memory: memory,
        }
    })
}

#[inline]
fn push(ring: &mut Producer, message: &[u8]) {
    while !ring.push(message) {
        spin_loop();
    }
}

#[inline]
fn wait(ring: &mut Consumer) -> &[u8] {
    while !ring.has_message() {
        spin_loop();
    }
    ring.peek().expect("the ring just had a message")
}

/// Variant name, which the reports name as a baseline.
pub const PLAIN_RING: &str = "plain-ring";
/// The same with one tail store for a burst of messages.
pub const PLAIN_RING_BURST: &str = "plain-ring-burst";
/// As long as segment 0 of a default channel.
const TRIP_CAPACITY: usize = 64 << 10;
