//! A plain single-producer single-consumer byte ring, the yardstick for the crate's own.
//!
//! It is what one writes in an afternoon between two processes that trust each other: records with
//! an 8-byte header, a tail line and a head line, each remote cursor cached. It never sleeps, never
//! grows, never checks what the other side wrote, and does not notice its death.
//!
//! ```text
//! +0x000  tail   one line, one writer: the producer
//! +0x080  head   one line, one writer: the consumer
//! +0x100  capacity bytes of records: length u32 | kind u32 | payload | zero to seven bytes of rest
//! ```

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::message::pattern;
use super::shared::{LINE, Shared, SharedMemory};

/// INVARIANT (bounds): `base` is valid for `capacity` bytes while `tail_word` keeps the mapping.
/// INVARIANT (owner): bytes from `tail` up to `cached_head + capacity` belong to the producer.
pub struct Producer {
    base: NonNull<u8>,
    capacity: u64,
    tail_word: Shared<AtomicU64>,
    head_word: Shared<AtomicU64>,
    /// Position after the last staged record; published by `commit`.
    tail: u64,
    cached_head: u64,
}

impl Producer {
    /// Takes the producer's end of the ring at `offset`.
    pub fn new(memory: &Rc<SharedMemory>, offset: usize, capacity: usize) -> Self {
        assert!(capacity.is_power_of_two() && offset.is_multiple_of(LINE));
        Self {
            base: memory.bytes(offset + RECORDS, capacity),
            capacity: capacity as u64,
            tail_word: memory.word(offset),
            head_word: memory.word(offset + LINE),
            tail: 0,
            cached_head: 0,
        }
    }

    /// Appends a record that the consumer sees at once; false if there is no room.
    #[inline]
    pub fn push(&mut self, payload: &[u8]) -> bool {
        let staged = self.stage(payload);
        if staged {
            self.commit();
        }
        staged
    }

    /// Appends a record that the consumer sees after `commit`; false if there is no room.
    #[inline]
    pub fn stage(&mut self, payload: &[u8]) -> bool {
        let record = record_len(payload.len() as u64);
        assert!(record <= self.capacity / 2, "a record takes at most half of the ring");
        let mut index = self.tail & (self.capacity - 1);
        let left = self.capacity - index;
        let padding = if record > left { left } else { 0 };
        if !self.has_room(record + padding) {
            return false;
        }
        if padding > 0 {
            self.write_header(index, Kind::Padding, 0);
            self.tail += padding;
            index = 0;
        }
        self.write_header(index, Kind::Message, payload.len() as u64);
        // SAFETY: (bounds) a record fits between `index` and the end, as `padding` saw to, and the
        // header is its first part.
        let to = unsafe { self.base.add((index + HEADER) as usize) };
        // SAFETY: (owner) `has_room` found these bytes free, and `tail` is not yet published.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(payload).cast(), payload.len()) };
        self.tail += record;
        true
    }

    /// Publishes what was staged.
    #[inline]
    pub fn commit(&mut self) {
        // Release: pairs with the Acquire in `Consumer::peek`; publishes the records.
        self.tail_word.store(self.tail, Release);
    }

    #[inline]
    fn has_room(&mut self, len: u64) -> bool {
        if self.tail + len - self.cached_head <= self.capacity {
            return true;
        }
        // Acquire: pairs with the Release in `Consumer::publish`; the consumer has read the bytes.
        self.cached_head = self.head_word.load(Acquire);
        self.tail + len - self.cached_head <= self.capacity
    }

    #[inline]
    fn write_header(&self, index: u64, kind: Kind, len: u64) {
        // SAFETY: (bounds) positions are multiples of eight, as the capacity is, so a header fits.
        let at = unsafe { self.base.add(index as usize) };
        // SAFETY: (owner) `has_room` found these bytes free; the place is aligned to eight.
        unsafe { at.cast().write(len | (kind as u64) << 32) };
    }
}

/// INVARIANT (bounds): `base` is valid for `capacity` bytes while `tail_word` keeps the mapping.
/// INVARIANT (owner): bytes from `head` up to `cached_tail` belong to the consumer, who trusts the
/// producer to have written whole records there.
pub struct Consumer {
    base: NonNull<u8>,
    capacity: u64,
    tail_word: Shared<AtomicU64>,
    head_word: Shared<AtomicU64>,
    head: u64,
    cached_tail: u64,
    /// What the producer knows of `head`.
    published: u64,
    /// Length of the record that `peek` returned last.
    peeked: u64,
}

impl Consumer {
    /// Takes the consumer's end of the ring at `offset`.
    pub fn new(memory: &Rc<SharedMemory>, offset: usize, capacity: usize) -> Self {
        assert!(capacity.is_power_of_two() && offset.is_multiple_of(LINE));
        Self {
            base: memory.bytes(offset + RECORDS, capacity),
            capacity: capacity as u64,
            tail_word: memory.word(offset),
            head_word: memory.word(offset + LINE),
            head: 0,
            cached_tail: 0,
            published: 0,
            peeked: 0,
        }
    }

    /// Whether `peek` has something to return. Padding is always published with what follows it.
    #[inline]
    pub fn has_message(&mut self) -> bool {
        self.head != self.cached_tail || self.look_again()
    }

    /// Borrows the payload of the next record where it stands; `None` if there is none.
    #[inline]
    pub fn peek(&mut self) -> Option<&[u8]> {
        loop {
            if !self.has_message() {
                return None;
            }
            let index = self.head & (self.capacity - 1);
            // SAFETY: (bounds) positions are multiples of eight, so a header fits.
            let at = unsafe { self.base.add(index as usize) };
            // SAFETY: (owner) `head` is before `cached_tail`, so a record stands here.
            let header: u64 = unsafe { at.cast().read() };
            if header >> 32 == Kind::Padding as u64 {
                self.head += self.capacity - index;
                continue;
            }
            let len = header & 0xffff_ffff;
            self.peeked = record_len(len);
            // SAFETY: (bounds) a payload follows its header inside the same record.
            let payload = unsafe { at.add(HEADER as usize) };
            // SAFETY: (owner) the producer leaves the record alone until `release` says so, which
            // needs the borrow of `self` that the slice holds.
            return Some(unsafe { NonNull::slice_from_raw_parts(payload, len as usize).as_ref() });
        }
    }

    /// Frees the record that `peek` returned last.
    ///
    /// The producer is told once an eighth of the ring is free again, or all of it: each time would
    /// cost a line's transfer for a handful of bytes.
    #[inline]
    pub fn release(&mut self) {
        self.head += std::mem::take(&mut self.peeked);
        if self.head - self.published >= self.capacity / 8 {
            self.publish();
        }
    }

    #[inline]
    fn look_again(&mut self) -> bool {
        // Acquire: pairs with the Release in `Producer::commit`; the records are readable.
        self.cached_tail = self.tail_word.load(Acquire);
        let is_empty = self.head == self.cached_tail;
        if is_empty && self.head != self.published {
            self.publish();
        }
        !is_empty
    }

    #[inline]
    fn publish(&mut self) {
        self.published = self.head;
        // Release: pairs with the Acquire in `Producer::has_room`; our reads are done.
        self.head_word.store(self.head, Release);
    }
}

/// Bytes of shared memory that a ring of `capacity` takes.
pub const fn region_len(capacity: usize) -> usize {
    RECORDS + capacity
}

/// Asserts that the ring keeps every record, in order and whole, against a model of it: a yardstick
/// that drops messages would be a fast one.
pub fn assert_keeps_records() {
    let capacity = 4096;
    let memory = SharedMemory::create(region_len(capacity));
    let mut producer = Producer::new(&memory, 0, capacity);
    let mut consumer = Consumer::new(&memory, 0, capacity);
    let mut model = VecDeque::new();
    let mut random = 1_u64;
    for seed in 0..100_000 {
        // A linear congruential generator; its upper bits are random enough here.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let payload = pattern(seed, (random >> 33) as usize % (capacity / 2 - HEADER as usize + 1));
        if random >> 62 != 0 && producer.push(&payload) {
            model.push_back(payload);
        } else {
            assert_eq!(consumer.peek().map(<[u8]>::to_vec), model.pop_front());
            consumer.release();
        }
    }
    assert!(memory.word(0).load(Relaxed) > 100 * capacity as u64, "the ring went round");
    // Full means full: records of 16 bytes fill it, and none is overwritten.
    while let Some(expected) = model.pop_front() {
        assert_eq!(consumer.peek(), Some(expected.as_slice()));
        consumer.release();
    }
    assert_eq!(consumer.peek(), None);
    let room = (0_u64..).take_while(|number| producer.push(&number.to_ne_bytes())).count();
    assert!(room + 1 >= capacity / 16, "all but a rest at the end, {room} records");
    for number in 0..room as u64 {
        assert_eq!(consumer.peek(), Some(number.to_ne_bytes().as_slice()));
        consumer.release();
    }
    assert!(producer.stage(b"unseen"));
    assert_eq!(consumer.peek(), None);
    producer.commit();
    assert_eq!(consumer.peek(), Some(b"unseen".as_slice()));
}

/// Bytes of a whole record: positions stay multiples of eight.
const fn record_len(payload: u64) -> u64 {
    (HEADER + payload + 7) & !7
}

/// What a record is.
#[derive(Clone, Copy)]
enum Kind {
    Message = 0,
    /// Nothing up to the end of the ring.
    Padding = 1,
}

/// Length and kind.
const HEADER: u64 = 8;
/// Where the records begin, after the two cursors.
const RECORDS: usize = 2 * LINE;
