//! What is counted: one round of each mode, in one thread.

use std::hint::black_box;
use std::thread;
use std::time::Duration;

use messageport::{MessageChannel, MessagePort};

/// A round is a post and its receipt, except in the last two modes.
pub const MODES: [Mode; 11] = [
    Mode::new("bytes-8", Round::Bytes(8), false, Some(150.0)),
    Mode::new("bytes-8-trusted", Round::Bytes(8), true, Some(110.0)),
    Mode::new("typed-u64", Round::Typed, false, None),
    Mode::new("typed-u64-trusted", Round::Typed, true, None),
    Mode::new("bytes-1K", Round::Bytes(1 << 10), false, None),
    Mode::new("bytes-1K-trusted", Round::Bytes(1 << 10), true, None),
    Mode::new("batch-8", Round::Batch, false, None),
    Mode::new("batch-8-trusted", Round::Batch, true, None),
    Mode::new("empty-receive", Round::Empty, false, None),
    Mode::new("empty-receive-trusted", Round::Empty, true, None),
    Mode::new(LOOP, Round::Loop, false, None),
];

/// The mode whose rounds do nothing: what the loop of this program adds to the others.
pub const LOOP: &str = "loop";

#[derive(Clone, Copy)]
pub struct Mode {
    pub name: &'static str,
    round: Round,
    is_trusted: bool,
    /// The target of the project, if there is one; see docs/performance-notes.md.
    pub target: Option<f64>,
}

#[derive(Clone, Copy)]
enum Round {
    /// So many bytes, received with `recv`.
    Bytes(usize),
    /// A `u64` as a value.
    Typed,
    /// 8 bytes, posted in bursts of [`BATCH`] and received with `try_iter`; a round is one of them.
    Batch,
    /// A `try_recv` that finds nothing.
    Empty,
    Loop,
}

impl Mode {
    const fn new(name: &'static str, round: Round, is_trusted: bool, target: Option<f64>) -> Self {
        Self { name, round, is_trusted, target }
    }

    /// Runs that many rounds.
    pub fn run(&self, rounds: usize) {
        // Large enough for a lane that is never full, bounded so that it does not grow.
        let channel = MessageChannel::builder().bounded().capacity(1 << 20).build();
        let MessageChannel { port1, port2 } = channel.expect("a channel");
        if self.is_trusted {
            for port in [&port1, &port2] {
                // SAFETY: both ends are this program's, which has one thread and writes shared
                // memory only through the crate.
                unsafe { port.trust_peer() };
            }
        }
        if !matches!(self.round, Round::Loop) {
            warm_up(&port1, &port2);
        }
        match self.round {
            Round::Bytes(bytes) => post_bytes(&port1, &port2, &vec![7; bytes], rounds),
            Round::Typed => post_values(&port1, &port2, rounds),
            Round::Batch => post_batches(&port1, &port2, rounds),
            Round::Empty => find_nothing(&port2, rounds),
            Round::Loop => (0..rounds).for_each(|round| {
                black_box(round);
            }),
        }
    }
}

/// Goes on until no side fences any more: after so many messages, once each side has looked whether
/// the other one is awake, and the crate's thread has registered this process for barriers.
fn warm_up(from: &MessagePort, to: &MessagePort) {
    for _ in 0..3 {
        post_bytes(from, to, &[7; 8], 20_000);
        find_nothing(to, 2);
        thread::sleep(Duration::from_millis(200));
    }
}

fn post_bytes(from: &MessagePort, to: &MessagePort, bytes: &[u8], rounds: usize) {
    for _ in 0..rounds {
        from.post_bytes(black_box(bytes)).expect("there is room");
        let event = to.recv().expect("a message was posted");
        black_box(event.bytes().len());
    }
}

fn post_values(from: &MessagePort, to: &MessagePort, rounds: usize) {
    for round in 0..rounds as u64 {
        from.post_message(&black_box(round)).expect("there is room");
        let event = to.recv().expect("a message was posted");
        black_box(*event.data::<u64>().expect("a u64 was posted"));
    }
}

fn post_batches(from: &MessagePort, to: &MessagePort, rounds: usize) {
    let bytes = vec![7; 8];
    for _ in 0..rounds / BATCH {
        let burst = from.burst();
        for _ in 0..BATCH {
            burst.stage_bytes(black_box(&bytes)).expect("there is room");
        }
        burst.commit();
        for event in to.try_iter() {
            black_box(event.bytes().len());
        }
    }
}

fn find_nothing(to: &MessagePort, rounds: usize) {
    for _ in 0..rounds {
        black_box(to.try_recv().expect("the other end lives").is_none());
    }
}

/// Messages of a batch.
const BATCH: usize = 32;
