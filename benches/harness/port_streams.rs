//! The crate itself as a subject of a one-way transfer, and alone in one thread.

use std::hint::spin_loop;
use std::time::{Duration, Instant};

use messageport::{ChannelBuilder, MessageChannel, MessagePort, PostError, Worker, parent_port};

use super::child::{self, Job};
use super::message::{CHECKED, Outgoing, Source, Tally, assert_echo};
use super::ports::trust;
use super::shared::SharedMemory;
use super::workload::{Subject, Workload};

/// How the sending side posts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Posting {
    Single,
    /// The same, received with `try_iter`.
    SingleBatch,
    /// Bursts of [`BURST`] messages, published together.
    Burst,
    /// The same, received with `try_iter`.
    BurstBatch,
    /// Written where it will be read, on a trusted port.
    Loan,
}

/// Messages to a worker that takes everything.
struct OneWay {
    worker: Worker,
    source: Source,
    posting: Posting,
}

impl OneWay {
    fn start(core: usize, bytes: usize, is_trusted: bool, posting: Posting) -> Self {
        let source = Source::new(bytes);
        let trusted = if is_trusted { "trusted" } else { "default" };
        let is_batch = matches!(posting, Posting::SingleBatch | Posting::BurstBatch);
        let batch = if is_batch { ":batch" } else { "" };
        let role = format!("port-sink:{trusted}{batch}");
        let command = child::command(&role, core, bytes, &[source.descriptor()]);
        // Bounded, as an unbounded poster outruns its reader into segments that leave the cache.
        let builder = MessageChannel::builder().capacity(capacity(bytes)).bounded();
        let worker = Worker::spawn_with(command, builder).expect("starting this executable again");
        if is_trusted {
            trust(worker.port());
        }
        Self { worker, source, posting }
    }
}

impl Workload for OneWay {
    fn check(&mut self) {
        self.run(CHECKED);
    }

    fn run(&mut self, count: u64) -> Duration {
        let (port, message) = (self.worker.port(), &mut self.source.message);
        let start = Instant::now();
        match self.posting {
            Posting::Single | Posting::SingleBatch => {
                (0..count).for_each(|_| post(port, message.next()));
            }
            Posting::Burst | Posting::BurstBatch => post_bursts(port, message, count),
            Posting::Loan => (0..count).for_each(|_| post_loan(port, message.next())),
        }
        self.source.wait_until_taken();
        start.elapsed()
    }

    fn pauses(&self) -> Option<u64> {
        Some(self.source.pauses())
    }

    fn peer(&self) -> Option<u32> {
        Some(self.worker.id())
    }
}

#[inline]
fn post(port: &MessagePort, message: &[u8]) {
    while is_full(port.post_bytes(message)) {
        spin_loop();
    }
}

/// Fills a loan with what the other variants copy, so that all of them write as much.
#[inline]
fn post_loan(port: &MessagePort, message: &[u8]) {
    loop {
        match port.loan(message.len()) {
            Ok(mut loan) => {
                loan.copy_from_slice(message);
                return loan.post().expect("posting what was reserved");
            }
            Err(error) => assert!(is_full(Err(error))),
        }
        spin_loop();
    }
}

fn post_bursts(port: &MessagePort, message: &mut Outgoing, count: u64) {
    let last = message.sequence() + count;
    while message.sequence() < last {
        let mut burst = port.burst();
        for _ in 0..BURST.min(last - message.sequence()) {
            message.next();
            while is_full(burst.stage_bytes(message.current())) {
                // What was staged so far has to be seen, or the worker can make no room.
                burst.commit();
                spin_loop();
                burst = port.burst();
            }
        }
        burst.commit();
    }
}

#[inline]
fn is_full(answer: Result<(), PostError>) -> bool {
    match answer {
        Ok(()) => false,
        Err(PostError::QueueFull { .. }) => true,
        Err(error) => panic!("posting to a worker that lives: {error}"),
    }
}

/// Plays the other side of [`OneWay`].
pub fn serve_sink(mut job: Job) {
    let mut tally = Tally::new(&SharedMemory::open(job.descriptor()), job.bytes);
    let port = parent_port().expect("a port to the parent");
    if job.role.contains(":trusted") {
        trust(&port);
    }
    if job.role.ends_with(":batch") {
        return take_batches(&port, &mut tally);
    }
    // An error means that the parent is gone.
    while let Ok(answer) = port.try_recv() {
        if let Some(event) = answer {
            tally.take(event.bytes());
        } else {
            tally.publish();
            spin_loop();
        }
    }
}

/// Takes all that is there in one go, until the parent is gone.
fn take_batches(port: &MessagePort, tally: &mut Tally) {
    loop {
        let mut is_empty = true;
        for event in port.try_iter() {
            tally.take(event.bytes());
            is_empty = false;
        }
        tally.publish();
        if !is_empty {
            continue;
        }
        // Says what the iterator does not: whether the parent is gone.
        match port.try_recv() {
            Ok(Some(event)) => tally.take(event.bytes()),
            Ok(None) => spin_loop(),
            Err(_) => return,
        }
    }
}

/// Both ends in one thread.
struct Alone {
    channel: MessageChannel,
    message: Outgoing,
}

impl Workload for Alone {
    fn check(&mut self) {
        let MessageChannel { port1, port2 } = &self.channel;
        assert_echo(self.message.current().len(), |message| {
            port1.post_bytes(message).expect("posting to our own other end");
            let event = port2.try_recv().expect("our own other end lives");
            event.expect("what was just posted").bytes().to_vec()
        });
    }

    fn run(&mut self, count: u64) -> Duration {
        let MessageChannel { port1, port2 } = &self.channel;
        let start = Instant::now();
        for _ in 0..count {
            port1.post_bytes(self.message.next()).expect("posting to our own other end");
            let event = port2.try_recv().expect("our own other end lives");
            self.message.confirm(event.expect("what was just posted").bytes());
        }
        start.elapsed()
    }
}

/// Ports as a subject of a throughput benchmark.
pub fn one_way(
    core: usize,
    bytes: usize,
    count: u64,
    is_trusted: bool,
    posting: Posting,
) -> Subject {
    let trust = if is_trusted { "trusted" } else { "default" };
    let posted = match posting {
        Posting::Single => "single",
        Posting::SingleBatch => "single-batch",
        Posting::Burst => "burst",
        Posting::BurstBatch => "burst-batch",
        Posting::Loan => "loan",
    };
    Subject::new(format!("{trust}-{posted}"), bytes, count, move || {
        OneWay::start(core, bytes, is_trusted, posting)
    })
}

/// Ports as a subject of a benchmark in one thread.
pub fn alone(
    variant: &str,
    bytes: usize,
    count: u64,
    is_trusted: bool,
    builder: fn() -> ChannelBuilder,
) -> Subject {
    Subject::new(variant, bytes, count, move || {
        let channel = builder().build().expect("a channel");
        if is_trusted {
            trust(&channel.port1);
            trust(&channel.port2);
        }
        Alone { channel, message: Outgoing::new(bytes) }
    })
}

/// Messages of one burst.
pub const BURST: u64 = 32;
/// Capacity of each lane: small enough for the cache, large enough for a few of 64 KiB.
pub const CAPACITY: usize = 1 << 20;

/// Capacity for messages of `bytes`: room for four of them at least.
pub fn capacity(bytes: usize) -> usize {
    CAPACITY.max(4 * bytes.next_power_of_two())
}
