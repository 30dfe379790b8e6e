//! Both ends of a lane together, beside a model of the lane: for tests and fuzzing.
//!
//! A [`Rig`] takes operations in any order, does what the link would do around them, and compares
//! each result of the ring with the model: three queues of messages, and which side sleeps how.
#![allow(unsafe_code)]

use std::collections::VecDeque;

use crate::ring::consumer::{Consumer, Peek, Record};
use crate::ring::counters::Counters;
use crate::ring::cursor::Cursor;
use crate::ring::lane;
use crate::ring::memory::Memory;
use crate::ring::notifier::{Sleep, Wait, Wake};
use crate::ring::producer::{Producer, Refusal};
use crate::ring::route::Plan;
use crate::ring::segment::Geometry;
use crate::sync::Ordering;
#[cfg(test)]
use crate::wire::layout::MAX_SEGMENTS;
use crate::wire::record::{CloseKind, Format, HEADER_LEN, record_len};

/// One step of either end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// Plan for exactly `len` payload bytes, write, stage.
    Post {
        len: u64,
    },
    /// Plan for up to `wish` payload bytes, write what there is room for of `len`, stage.
    PostOpen {
        wish: u64,
        len: u64,
    },
    /// Plan, write, and give up.
    GiveUp {
        len: u64,
    },
    Commit,
    /// Hop, if a record of `len` payload bytes does not fit.
    Hop {
        len: u64,
    },
    GoToBase,
    /// Peek, compare, take.
    Take,
    /// A stream of messages of one length, of which the consumer stays `behind` behind.
    Stream {
        len: u64,
        count: u64,
        behind: usize,
    },
    /// Release up to the end of the oldest message taken.
    Release,
    /// Release everything that was passed.
    ReleaseAll,
    SleepForMessage(Sleep),
    SleepForRoom {
        len: u64,
        sleep: Sleep,
    },
    CancelSleeps,
    /// The producer moves: a new one continues at its cursor.
    ResumeProducer,
    /// The consumer moves.
    ResumeConsumer,
}

/// What the model knows of a message; its bytes follow from its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    number: u64,
    len: u32,
    format: Format,
}

/// A lane, and what must be in it.
pub(crate) struct Rig {
    pub(crate) geometry: Geometry,
    pub(crate) memory: Memory,
    pub(crate) producer: Producer,
    pub(crate) consumer: Consumer,
    staged: VecDeque<Message>,
    committed: VecDeque<Message>,
    taken: VecDeque<(Record, Message)>,
    posted: u64,
    sleeps_for_message: Option<Sleep>,
    sleeps_for_room: Option<Sleep>,
}

impl Rig {
    /// A fresh lane whose first record is at `start`.
    pub(crate) fn new(geometry: Geometry, start: u64) -> Rig {
        let memory = Memory::on_heap(geometry.limit());
        let (producer, consumer) = lane::fresh(&memory, geometry, start);
        Rig::with_ends(geometry, memory, producer, consumer)
    }

    /// An empty lane whose ends are at `cursor`.
    #[cfg(test)]
    pub(crate) fn at(geometry: Geometry, cursor: Cursor) -> Rig {
        let memory = Memory::on_heap(geometry.limit());
        // Relaxed, both: no other thread knows this memory yet.
        memory.lane().producer.tail.store(cursor.position, Ordering::Relaxed);
        memory.lane().consumer.head.store(cursor.position, Ordering::Relaxed);
        let producer =
            Producer::resume(memory.clone(), geometry, cursor, [cursor.position; MAX_SEGMENTS])
                .expect("head is where it was just stored");
        let consumer = Consumer::resume(memory.clone(), geometry, cursor);
        Rig::with_ends(geometry, memory, producer, consumer)
    }

    fn with_ends(
        geometry: Geometry,
        memory: Memory,
        producer: Producer,
        consumer: Consumer,
    ) -> Rig {
        Rig {
            geometry,
            memory,
            producer,
            consumer,
            staged: VecDeque::new(),
            committed: VecDeque::new(),
            taken: VecDeque::new(),
            posted: 0,
            sleeps_for_message: None,
            sleeps_for_room: None,
        }
    }

    /// Does one step and compares its result with the model.
    pub(crate) fn apply(&mut self, op: Op) {
        match op {
            Op::Post { len } => {
                let _ = self.post(len);
            }
            Op::PostOpen { wish, len } => self.post_open(wish, len),
            Op::GiveUp { len } => self.give_up(len),
            Op::Commit => self.commit(),
            Op::Hop { len } => {
                if self.plan(len) == Err(Refusal::Full) {
                    self.hop(len);
                }
            }
            Op::GoToBase => self.go_to_base(),
            Op::Take => {
                self.take();
            }
            Op::Stream { len, count, behind } => self.stream(len, count, behind),
            Op::Release => self.release_oldest(),
            Op::ReleaseAll => self.release_all(),
            Op::SleepForMessage(sleep) => self.sleep_for_message(sleep),
            Op::SleepForRoom { len, sleep } => self.sleep_for_room(len, sleep),
            Op::CancelSleeps => self.cancel_sleeps(),
            Op::ResumeProducer => self.resume_producer(),
            Op::ResumeConsumer => self.resume_consumer(),
        }
    }

    /// Stages one message. A refusal has changed nothing.
    pub(crate) fn post(&mut self, len: u64) -> Result<(), Refusal> {
        let plan = self.plan(len)?;
        assert_eq!(plan.payload_room() / 16, len.div_ceil(16), "more or less room than asked for");
        self.write(plan, len);
        Ok(())
    }

    /// Stages and commits one message for which there is room.
    pub(crate) fn send(&mut self, len: u64) {
        self.post(len).expect("there is room");
        self.commit();
    }

    /// Plans, and checks the result against what a plan promises.
    pub(crate) fn plan(&mut self, len: u64) -> Result<Plan, Refusal> {
        let before = self.producer_state();
        let plain = self.producer.plan_fast(len);
        let plan = self.producer.plan(len);
        assert_eq!(self.producer_state(), before, "a plan changed something");
        assert!(plain.is_none() || plain == plan.ok(), "a plain place is not the right one");
        let too_large = len > self.geometry.largest_message();
        match &plan {
            Ok(plan) => self.check_plan(plan),
            Err(Refusal::TooLarge) => assert!(too_large, "{len} is not too large"),
            Err(Refusal::Full) => {
                let unreleased = self.producer.unreleased().expect("an honest peer");
                let away = self.producer.has_staged() || unreleased > 0;
                assert!(away || self.can_hop(len), "full, though the lane is empty");
            }
            Err(Refusal::Corrupt(corruption)) => panic!("an honest peer: {corruption}"),
        }
        assert_eq!(plan == Err(Refusal::TooLarge), too_large);
        plan
    }

    /// Commits what is staged; a sleeper is woken exactly once, in its own way.
    pub(crate) fn commit(&mut self) {
        let any = self.producer.has_staged();
        let wake = self.producer.commit();
        if any {
            self.expect_committed(wake);
        } else {
            assert_eq!(wake, Wake::NoSleeper, "woken for nothing");
        }
        assert!(!self.producer.has_staged());
    }

    /// Hops, if there is no other way to room for `len` payload bytes. Returns whether it did.
    pub(crate) fn hop(&mut self, len: u64) -> bool {
        let wake = self.producer.hop(len);
        if let Some(wake) = wake {
            self.expect_committed(wake);
        }
        wake.is_some()
    }

    /// Takes the next message; its bytes must be what was posted. Returns whether there was one.
    pub(crate) fn take(&mut self) -> bool {
        let fast = self.consumer.peek_fast();
        let peek = self.consumer.peek().expect("an honest peer");
        assert!(fast.is_none_or(|record| peek == Peek::Message(record)), "a wrong fast peek");
        match peek {
            Peek::Empty => {
                assert!(self.committed.is_empty(), "{} messages are lost", self.committed.len());
                false
            }
            Peek::Message(record) => {
                let message = self.committed.pop_front().expect("a message that was never sent");
                self.compare(&record, &message);
                assert_eq!(self.consumer.peek(), Ok(Peek::Message(record)), "a second look");
                assert_eq!(self.consumer.peek_fast(), Some(record), "plain to see by now");
                self.consumer.take(&record);
                self.taken.push_back((record, message));
                true
            }
            Peek::Closed(kind) => panic!("no side closed, but the peek says {kind:?}"),
        }
    }

    /// Releases everything that was passed; bytes that were held must still be what was posted.
    pub(crate) fn release_all(&mut self) {
        for (record, message) in std::mem::take(&mut self.taken) {
            self.compare(&record, &message);
        }
        self.release(self.consumer.position());
        assert!(!self.consumer.has_unreleased());
    }

    /// Takes and releases everything that is committed, control records at the end included.
    pub(crate) fn drain(&mut self) {
        while self.take() {}
        self.release_all();
        let head = self.memory.lane().consumer.head.load(Ordering::Relaxed);
        let tail = self.memory.lane().producer.tail.load(Ordering::Relaxed);
        assert_eq!(head, tail, "something is left after a drain");
    }

    /// Stages messages of `len` bytes until the lane is full, and returns how many.
    #[cfg(test)]
    pub(crate) fn fill(&mut self, len: u64) -> u64 {
        let mut count = 0;
        while self.post(len).is_ok() {
            count += 1;
            // A ring that is never full must not use up the machine's memory.
            assert!(count * record_len(len) <= self.geometry.limit(), "more than the area holds");
        }
        count
    }

    /// Receives all but the last few messages before it sends one, as long as there is room.
    pub(crate) fn stream(&mut self, len: u64, count: u64, behind: usize) {
        for _ in 0..count {
            while self.committed.len() > behind && self.take() {}
            while !self.taken.is_empty() {
                self.release_oldest();
            }
            if self.post(len).is_err() {
                return;
            }
            self.commit();
        }
    }

    /// After a drain, a record that is not too large fits: at once, or after one hop and a drain.
    pub(crate) fn send_into_drained(&mut self, len: u64) {
        self.commit();
        self.drain();
        if self.plan(len) == Err(Refusal::Full) {
            assert!(self.hop(len), "{len} bytes are stuck for ever");
            self.drain();
        }
        self.send(len);
    }

    /// Commits and drains, and checks that the lane is in order.
    pub(crate) fn finish(mut self) {
        self.commit();
        self.drain();
        self.send_into_drained(self.geometry.largest_message());
        self.drain();
    }

    fn producer_state(&self) -> (Cursor, bool, Counters) {
        (self.producer.cursor(), self.producer.has_staged(), self.producer.counters())
    }

    /// Whether a hop would make the missing room for `len`.
    fn can_hop(&self, len: u64) -> bool {
        let (record, here) = (record_len(len), self.producer.cursor().segment);
        let others = || (0..self.geometry.segments()).filter(|&segment| segment != here);
        let only_here = !others().any(|segment| self.geometry.holds(segment, record));
        only_here && others().any(|segment| self.producer.is_free(segment))
    }

    fn check_plan(&self, plan: &Plan) {
        let (segment, end) = plan.extent(&self.geometry);
        let first = plan.payload_offset();
        let segment_start = self.geometry.segment_offset(segment);
        let segment_end = segment_start + self.geometry.segment_len(segment);
        assert!(first.is_multiple_of(16) && segment_start + HEADER_LEN <= first);
        assert!(first + plan.payload_room() <= segment_end, "a plan across a segment's end");
        let reserve = (segment_end - first - plan.payload_room()).min(16);
        assert_eq!(segment_start + end, first + plan.payload_room() + reserve);
        let here = self.producer.cursor().offset(&self.geometry) + HEADER_LEN;
        assert!(plan.turns() || first == here, "a plan elsewhere without a turn");
    }

    /// Writes the next message where `plan` says, and stages it.
    fn write(&mut self, plan: Plan, len: u64) {
        let len = u32::try_from(len).expect("an area is shorter than that");
        let format = FORMATS[self.posted as usize % FORMATS.len()];
        let message = Message { number: self.posted, len, format };
        write_payload(&self.memory, plan.payload_offset(), &message.bytes());
        // The fast path has the same place, or none.
        let grant = if plan.turns() { None } else { self.producer.grant(u64::from(len)) };
        match grant.map(|grant| grant.seal(u64::from(len), format)) {
            Some(record) => self.producer.stage_fast(record, len),
            None => self.producer.stage(plan, len, format),
        }
        self.staged.push_back(message);
        self.posted += 1;
        // As the link does, with more and with fewer pages allocated.
        if !self.producer.has_contiguous() {
            let size = self.geometry.segment_len(self.producer.cursor().segment);
            self.producer.renew_contiguous(size >> (self.posted % 3));
        }
    }

    fn post_open(&mut self, wish: u64, len: u64) {
        let before = self.producer_state();
        let plain = self.producer.plan_open_fast(wish);
        let plan = self.producer.plan_open(wish).expect("an honest peer");
        assert_eq!(self.producer_state(), before, "a plan changed something");
        let Some(plan) = plain.or(plan) else { return };
        self.check_plan(&plan);
        match plain {
            Some(_) => assert!(plan.payload_room() >= wish, "less room than asked for"),
            None => assert!(plan.payload_room() <= wish.next_multiple_of(16), "more room"),
        }
        self.write(plan, len.min(plan.payload_room()));
    }

    /// What a failed post leaves behind: bytes that will not be read.
    fn give_up(&mut self, len: u64) {
        if let Ok(plan) = self.plan(len) {
            let nonsense = vec![0xff; plan.payload_room() as usize];
            write_payload(&self.memory, plan.payload_offset(), &nonsense);
        }
    }

    fn go_to_base(&mut self) {
        let away = self.producer.cursor().segment != 0;
        let gone = self.producer.go_to_base().expect("an honest peer");
        let empty = self.staged.is_empty() && self.committed.is_empty() && self.taken.is_empty();
        assert!(gone.is_none() || (away && empty), "returned to the base segment in a burst");
        if let Some(wake) = gone {
            self.expect_committed(wake);
            assert_eq!(self.producer.cursor().segment, 0);
        }
    }

    fn release_oldest(&mut self) {
        if let Some((record, message)) = self.taken.pop_front() {
            self.compare(&record, &message);
            self.release(record.end);
        }
    }

    /// Releases; a producer that waits is woken exactly once, in its own way.
    fn release(&mut self, position: u64) {
        let wake = self.consumer.release(position);
        assert_eq!(wake, wake_for(self.sleeps_for_room.take()));
        assert_eq!(self.room_flag(), 0, "a flag was left after a wake");
    }

    fn sleep_for_message(&mut self, sleep: Sleep) {
        self.sleeps_for_message = None;
        let wait = self.consumer.prepare_wait(sleep).expect("an honest peer");
        if wait == Wait::Sleep {
            assert!(self.committed.is_empty(), "sleeps over a message");
            self.sleeps_for_message = Some(sleep);
            return;
        }
        assert_eq!(self.memory.lane().sleepers.message_sleeper.load(Ordering::Relaxed), 0);
        let before = self.consumer.position();
        let found = self.take();
        assert!(found || self.consumer.position() != before, "ready, but nothing is there");
    }

    fn sleep_for_room(&mut self, len: u64, sleep: Sleep) {
        self.commit();
        self.sleeps_for_room = None;
        if self.producer.prepare_wait(len, sleep) == Wait::Sleep {
            let unreleased = self.producer.unreleased().expect("an honest peer");
            assert!(unreleased > 0, "sleeps although nothing will be released");
            assert_eq!(self.plan(len), Err(Refusal::Full));
            assert!(!self.hop(len), "sleeps although it could hop");
            self.sleeps_for_room = Some(sleep);
            return;
        }
        assert_eq!(self.room_flag(), 0);
        let ready = self.plan(len) != Err(Refusal::Full) || self.hop(len);
        assert!(ready, "ready, but there is no room");
    }

    fn cancel_sleeps(&mut self) {
        self.consumer.cancel_wait();
        self.producer.cancel_wait();
        (self.sleeps_for_message, self.sleeps_for_room) = (None, None);
    }

    fn resume_producer(&mut self) {
        self.commit();
        self.producer.unreleased().expect("an honest peer");
        let free = |producer: &Producer| -> Vec<bool> {
            (0..self.geometry.segments()).map(|segment| producer.is_free(segment)).collect()
        };
        let (cursor, vacated_at, before) =
            (self.producer.cursor(), self.producer.vacated_at(), free(&self.producer));
        let producer = Producer::resume(self.memory.clone(), self.geometry, cursor, vacated_at)
            .expect("an honest peer's head lies within the limit");
        assert_eq!(free(&producer), before, "a move has changed the room");
        self.producer = producer;
    }

    fn resume_consumer(&mut self) {
        self.release_all();
        let cursor = self.consumer.cursor();
        self.consumer = Consumer::resume(self.memory.clone(), self.geometry, cursor);
    }

    fn expect_committed(&mut self, wake: Wake) {
        assert_eq!(wake, wake_for(self.sleeps_for_message.take()));
        self.committed.append(&mut self.staged);
    }

    fn room_flag(&self) -> u32 {
        self.memory.lane().sleepers.room_sleeper.load(Ordering::Relaxed)
    }

    fn compare(&self, record: &Record, message: &Message) {
        assert_eq!((record.len, record.format), (message.len, message.format), "{message:?}");
        let found = read_payload(&self.memory, record);
        assert!(found == message.bytes(), "{message:?} came as {found:?}");
    }
}

impl Message {
    fn bytes(&self) -> Vec<u8> {
        payload(self.number, self.len)
    }
}

/// The bytes of message `number`: neighbours, and words in a message, differ.
pub(crate) fn payload(number: u64, len: u32) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for chunk in bytes.chunks_mut(8) {
        word = word.wrapping_add(0x0102_0305_0709_0b0d);
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
    bytes
}

/// Writes payload bytes where a plan said.
///
/// Whole words under Miri, which stops at an atomic access to a word of which a part was written
/// plainly after an earlier atomic access; a plan's room is whole units.
pub(crate) fn write_payload(memory: &Memory, offset: u64, bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(if cfg!(miri) { 8 } else { 1 }), 0);
    let place = memory.bytes(offset, bytes.len() as u64);
    // SAFETY: (writers) the caller's plan lies outside `head..tail`, so the bytes are the
    // producer's; `bytes` checked that they lie inside the area, and `bytes` is private memory.
    unsafe { place.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
}

/// Reads payload bytes by plain loads, so that Miri notices a producer that writes them too early.
pub(crate) fn read_payload(memory: &Memory, record: &Record) -> Vec<u8> {
    let mut bytes = vec![0; record.len as usize];
    let place = memory.bytes(record.payload_offset, u64::from(record.len));
    // SAFETY: (owner) the record is committed and not released, so the bytes are the consumer's;
    // `bytes` checked that they lie inside the area.
    unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(place.as_ptr(), bytes.len()) };
    bytes
}

fn wake_for(sleep: Option<Sleep>) -> Wake {
    match sleep {
        None => Wake::NoSleeper,
        Some(Sleep::Futex) => Wake::Futex,
        Some(Sleep::Doorbell) => Wake::Doorbell,
    }
}

/// Both ways in which a producer ends its direction.
pub(crate) const CLOSE_KINDS: [CloseKind; 2] = [CloseKind::Closed, CloseKind::Dropped];
const FORMATS: [Format; 4] = [Format::Archive, Format::Bytes, Format::Text, Format::Value];
