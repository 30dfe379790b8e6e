//! The bytes that are sent, and what a receiver does with them.
//!
//! Every message begins with its sequence number, so that a lost, doubled or reordered one is
//! noticed in the timed runs as well. A receiver reads one word of each cache line: who only looks
//! at the header would be measured without the transfer of the payload.

use std::hint::{black_box, spin_loop};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use super::shared::{LINE, Shared, SharedMemory};

/// Returns `len` bytes that differ from place to place and from seed to seed.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let word = |index: u64| (index + 1).wrapping_mul(seed.wrapping_mul(2).wrapping_add(1) ^ ODD);
    let words = (0..len.div_ceil(8) as u64).flat_map(|index| word(index).to_ne_bytes());
    words.take(len).collect()
}

/// Reads one word of each cache line and returns the first one, the sequence number.
#[inline]
pub fn touch(message: &[u8]) -> u64 {
    let word = |at: usize| {
        let bytes = message[at..at + 8].try_into().expect("a slice of eight bytes");
        u64::from_ne_bytes(bytes)
    };
    let mut sum = 0_u64;
    let mut at = 0;
    while at + 8 <= message.len() {
        sum ^= word(at);
        at += READ_EVERY;
    }
    black_box(sum);
    word(0)
}

/// The sending side's message, numbered again for each use.
pub struct Outgoing {
    bytes: Vec<u8>,
    sequence: u64,
}

impl Outgoing {
    pub fn new(len: usize) -> Self {
        Self::numbered(len, 0)
    }

    /// Continues after message `sequence`.
    pub fn numbered(len: usize, sequence: u64) -> Self {
        assert!(len >= 8, "a message holds its sequence number");
        let bytes = pattern(0, len);
        Self { bytes, sequence }
    }

    /// Numbers the message and lends it.
    #[inline]
    pub fn next(&mut self) -> &[u8] {
        self.sequence += 1;
        self.bytes[..8].copy_from_slice(&self.sequence.to_ne_bytes());
        &self.bytes
    }

    /// Lends the message once more.
    #[inline]
    pub fn current(&self) -> &[u8] {
        &self.bytes
    }

    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Reads an answer and panics unless it is the one to the last message.
    #[inline]
    pub fn confirm(&self, answer: &[u8]) {
        assert_eq!(answer.len(), self.bytes.len(), "length of the answer");
        assert_eq!(touch(answer), self.sequence, "sequence number of the answer");
    }
}

/// Asserts that `exchange` answers messages of `len` bytes with the same bytes.
pub fn assert_echo(len: usize, mut exchange: impl FnMut(&[u8]) -> Vec<u8>) {
    for seed in 0..CHECKED {
        let message = pattern(seed, len);
        assert_eq!(exchange(&message), message, "message {seed} came back changed");
    }
}

/// A page that both sides of a one-way transfer share beside the transport itself.
struct Page {
    /// Messages that were taken; written by the receiving side.
    taken: Shared<AtomicU64>,
    /// Messages that were not as they should be; written by the receiving side.
    wrong: Shared<AtomicU64>,
    /// How often nothing was found behind a message; written by the receiving side.
    pauses: Shared<AtomicU64>,
}

impl Page {
    fn new(memory: &Rc<SharedMemory>) -> Self {
        let (taken, wrong, pauses) = (memory.word(0), memory.word(LINE), memory.word(LINE + 8));
        Self { taken, wrong, pauses }
    }
}

/// The sending side of a one-way transfer: numbers messages and waits until they were taken.
pub struct Source {
    memory: Rc<SharedMemory>,
    page: Page,
    pub message: Outgoing,
}

impl Source {
    pub fn new(len: usize) -> Self {
        let memory = SharedMemory::create(2 * LINE);
        Self { page: Page::new(&memory), memory, message: Outgoing::new(len) }
    }

    /// Descriptor from which the other side makes its [`Tally`].
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.memory.descriptor()
    }

    /// Waits until every message so far was taken, and panics if one arrived wrong.
    pub fn wait_until_taken(&self) {
        // Acquire: pairs with the Release in `Tally::publish`.
        while self.page.taken.load(Acquire) != self.message.sequence {
            spin_loop();
        }
        assert_eq!(self.page.wrong.load(Acquire), 0, "messages that arrived wrong");
    }

    /// How often the receiving side has found nothing behind a message so far: by this many
    /// handovers from core to core the messages came.
    pub fn pauses(&self) -> u64 {
        self.page.pauses.load(Acquire)
    }
}

/// The receiving side of a one-way transfer: checks, reads and counts.
pub struct Tally {
    page: Page,
    /// Every byte of the message, its number aside.
    expected: Vec<u8>,
    taken: u64,
    wrong: u64,
    published: u64,
    pauses: u64,
}

impl Tally {
    pub fn new(memory: &Rc<SharedMemory>, len: usize) -> Self {
        let (page, expected) = (Page::new(memory), pattern(0, len));
        Self { page, expected, taken: 0, wrong: 0, published: 0, pauses: 0 }
    }

    /// Reads one message. The first ones are compared byte by byte, the others by their number.
    #[inline]
    pub fn take(&mut self, message: &[u8]) {
        self.taken += 1;
        let is_right = message.len() == self.expected.len()
            && touch(message) == self.taken
            && (self.taken > CHECKED || message[8..] == self.expected[8..]);
        self.wrong += u64::from(!is_right);
    }

    /// Tells the sending side how far we are; called when nothing is left to take, so that it costs
    /// nothing while messages come.
    #[inline]
    pub fn publish(&mut self) {
        if self.published != self.taken {
            self.published = self.taken;
            self.pauses += 1;
            self.page.wrong.store(self.wrong, Release);
            self.page.pauses.store(self.pauses, Release);
            // Release: pairs with the Acquire in `Source::wait_until_taken`.
            self.page.taken.store(self.taken, Release);
        }
    }
}

/// Messages that are compared byte by byte before anything is timed.
pub const CHECKED: u64 = 100;
/// Length of a cache line.
pub const READ_EVERY: usize = 64;
/// Any large odd number; this one is 2^64 divided by the golden ratio.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
