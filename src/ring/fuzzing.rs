//! What the fuzz targets run: bytes in, a script of steps out, and checks at each step.
//!
//! `cargo test` runs the same over random bytes and over the checked-in corpus.

use crate::ring::consumer::{Consumer, Peek, Record};
use crate::ring::cursor::{Cursor, distance};
use crate::ring::harness::{CLOSE_KINDS, Op, Rig, read_payload};
use crate::ring::lane;
use crate::ring::memory::Memory;
use crate::ring::notifier::Sleep;
use crate::ring::producer::Producer;
use crate::ring::segment::Geometry;
use crate::sync::Ordering;
use crate::wire::record::{Attached, Format, Header, is_short_len, record_len};

/// An honest producer and an honest consumer against a model, step by step.
pub fn lane_ops(data: &[u8]) {
    let mut script = Script { data };
    let geometry = script.geometry();
    let start = script.start();
    let mut rig = Rig::new(geometry, start);
    while let Some(op) = script.op(&geometry) {
        rig.apply(op);
    }
    rig.finish();
}

/// A peer that writes any word of the lane between the calls of a consumer and a producer.
///
/// Both victims may return `Corruption` and nothing worse: no panic, no record outside of the area,
/// no endless look.
pub fn record_stream(data: &[u8]) {
    let mut script = Script { data };
    let geometry = script.geometry();
    let start = script.start();
    let memory = Memory::on_heap(geometry.limit());
    let (producer, consumer) = lane::fresh(&memory, geometry, start);
    let shadow = Cursor::start(start);
    let mut scene = Scene { geometry, memory, producer, consumer, shadow };
    while let Some(step) = script.byte() {
        match step % 16 {
            0..=6 => scene.peer_writes_record(&mut script),
            7 => scene.peer_writes_words(&mut script),
            8 | 9 => scene.peer_publishes(&mut script),
            10..=12 => scene.consumer_reads(),
            13 => scene.consumer_does(&mut script),
            _ => scene.producer_does(&mut script),
        }
    }
}

/// Bytes, read as numbers and steps. An end of the bytes is the end of the script.
struct Script<'a> {
    data: &'a [u8],
}

impl Script<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.data.split_first()?;
        self.data = rest;
        Some(first)
    }

    /// A byte; 0 after the end.
    fn small(&mut self) -> u64 {
        u64::from(self.byte().unwrap_or(0))
    }

    fn medium(&mut self) -> u64 {
        self.small() | self.small() << 8
    }

    fn large(&mut self) -> u64 {
        (0..8).fold(0, |word, at| word | self.small() << (8 * at))
    }

    /// Bounded and growing lanes, of a few units and of a few hundred.
    fn geometry(&mut self) -> Geometry {
        let shape = self.small();
        let (capacity, doublings) = (6 + shape % 4, shape / 4 % 5);
        Geometry::new(1 << capacity, 1 << (capacity + doublings))
    }

    /// Before and after the wrap of positions, where a mistake would show.
    fn start(&mut self) -> u64 {
        let units = self.small();
        if units < 128 { 16 * units } else { 0u64.wrapping_sub(16 * (units - 128)) }
    }

    /// A payload length around one of the bounds: nothing, a unit, what fits at every index, the
    /// largest.
    fn len(&mut self, geometry: &Geometry) -> u64 {
        let choice = self.medium();
        let (class, value) = (choice % 8, choice / 8);
        let largest = geometry.largest_message();
        match class {
            0..=3 => value % 41,
            4 | 5 => value % (largest + 1),
            6 => (largest + 1).saturating_sub(value % 24),
            _ => (geometry.capacity() / 2).saturating_sub(value % 48),
        }
    }

    fn sleep(&mut self) -> Sleep {
        if self.small().is_multiple_of(2) { Sleep::Futex } else { Sleep::Doorbell }
    }

    fn op(&mut self, geometry: &Geometry) -> Option<Op> {
        Some(match self.byte()? % 41 {
            0..=7 => Op::Post { len: self.len(geometry) },
            8 | 9 => Op::PostOpen { wish: self.len(geometry), len: self.len(geometry) },
            10 => Op::GiveUp { len: self.len(geometry) },
            11..=15 => Op::Commit,
            16 | 17 => Op::Hop { len: self.len(geometry) },
            18 => Op::GoToBase,
            19..=27 => Op::Take,
            28..=31 => Op::Release,
            32..=34 => Op::ReleaseAll,
            35 => Op::SleepForMessage(self.sleep()),
            36 => Op::SleepForRoom { len: self.len(geometry), sleep: self.sleep() },
            37 => Op::CancelSleeps,
            38 => Op::ResumeProducer,
            39 => Op::ResumeConsumer,
            _ => {
                let (count, behind) = (self.small() % 100, self.small() as usize % 4);
                Op::Stream { len: self.len(geometry), count, behind }
            }
        })
    }
}

/// Two victims on one lane, and the peer of both.
struct Scene {
    geometry: Geometry,
    memory: Memory,
    producer: Producer,
    consumer: Consumer,
    /// Where the peer would be if it were honest: scripts that follow it reach deep states.
    shadow: Cursor,
}

impl Scene {
    /// A record at the shadow cursor: right in most scripts, wrong by any field in others.
    fn peer_writes_record(&mut self, script: &mut Script<'_>) {
        let until_end = self.shadow.until_end(&self.geometry);
        let value = script.small();
        let len = (value / 4 * 5) as u32;
        let segment = (value / 4) as u32 % (self.geometry.segments() + 1);
        let (header, next) = match value % 4 {
            1 if is_short_len(u64::from(len)) => {
                let header = Header::Short { len, format: Format::Bytes, bytes: [value as u8; 8] };
                (header, self.shadow.advanced(16))
            }
            0 | 1 => {
                let header =
                    Header::Message { len, format: Format::Bytes, attached: Attached::Nothing };
                (header, self.shadow.advanced(record_len(u64::from(len))))
            }
            2 => {
                let len = (until_end - 16) as u32;
                (Header::Padding { len }, self.shadow.advanced(until_end))
            }
            _ if segment < self.geometry.segments() => {
                let next = self.shadow.advanced(16).entering(segment);
                (Header::Jump { segment }, next)
            }
            _ => {
                let kind = CLOSE_KINDS[value as usize / 4 % 2];
                return self.publish(self.shadow.position | u64::from(kind.code()));
            }
        };
        let mut words = header.encode();
        let twist = script.small();
        if twist >= 250 {
            words[(twist % 2) as usize] ^= script.large();
        }
        self.memory.write_header(self.shadow.offset(&self.geometry), words);
        // A record across the segment's end is where a consumer must stop; the peer continues.
        self.shadow = next;
        self.publish(self.shadow.position);
    }

    fn peer_writes_words(&mut self, script: &mut Script<'_>) {
        let offset = script.medium() * 16 % self.geometry.limit();
        self.memory.write_header(offset, [script.large(), script.large()]);
    }

    fn peer_publishes(&mut self, script: &mut Script<'_>) {
        let choice = script.small();
        let near = script.medium().wrapping_sub(1 << 15).wrapping_mul(8);
        let lane = self.memory.lane();
        // Relaxed, all: one thread.
        match choice % 8 {
            0 => self.publish(script.large()),
            1 => self.publish(self.consumer.position().wrapping_add(near)),
            2 => self.publish(self.shadow.position),
            3 => lane.consumer.head.store(script.large(), Ordering::Relaxed),
            4 => {
                let head = self.producer.cursor().position.wrapping_add(near);
                lane.consumer.head.store(head, Ordering::Relaxed);
            }
            5 => lane.sleepers.message_sleeper.store(near as u32, Ordering::Relaxed),
            6 => lane.sleepers.room_sleeper.store(near as u32, Ordering::Relaxed),
            _ => lane.sleepers.reader_gone.store(near as u32, Ordering::Relaxed),
        }
    }

    fn publish(&self, tail: u64) {
        // Relaxed: one thread.
        self.memory.lane().producer.tail.store(tail, Ordering::Relaxed);
    }

    fn consumer_reads(&mut self) {
        let before = self.consumer.position();
        let tail = self.memory.lane().producer.tail.load(Ordering::Relaxed);
        let fast = self.consumer.peek_fast();
        let peek = self.consumer.peek();
        assert!(fast.is_none_or(|record| peek == Ok(Peek::Message(record))), "a wrong fast peek");
        match peek {
            Ok(Peek::Message(record)) => {
                self.check_record(&record);
                assert_eq!(self.consumer.peek(), Ok(Peek::Message(record)), "a second look");
                let is_plain = record.attached == Attached::Nothing;
                assert_eq!(self.consumer.peek_fast(), is_plain.then_some(record), "plain to see");
                let _bytes = read_payload(&self.memory, &record);
                self.consumer.take(&record);
                assert!(distance(self.consumer.position(), before) <= self.geometry.limit());
            }
            Ok(Peek::Empty) => assert_eq!(self.consumer.position(), tail, "empty before the tail"),
            Ok(Peek::Closed(_)) | Err(_) => {}
        }
    }

    /// The record is inside one segment, and equals what is in memory.
    fn check_record(&self, record: &Record) {
        let cursor = self.consumer.cursor();
        let at = cursor.offset(&self.geometry);
        let [first, detail] = self.memory.read_header(at);
        let (header, behind, len) = match record.is_short() {
            true => {
                let bytes = detail.to_ne_bytes();
                (Header::Short { len: record.len, format: record.format, bytes }, 8, 16)
            }
            false => {
                let Record { len, format, attached, .. } = *record;
                let header = Header::Message { len, format, attached };
                (header, 16, record_len(u64::from(len)))
            }
        };
        assert_eq!(record.payload_offset, at + behind);
        assert!(len <= cursor.until_end(&self.geometry), "a record across a segment's end");
        assert!(at + len <= self.geometry.limit(), "a record outside the area");
        assert_eq!(record.end, cursor.position.wrapping_add(len));
        assert_eq!([first, detail], header.encode());
    }

    fn consumer_does(&mut self, script: &mut Script<'_>) {
        match script.small() % 4 {
            0 | 1 => {
                let _wake = self.consumer.release(self.consumer.position());
                assert!(!self.consumer.has_unreleased());
            }
            2 => {
                let _wait = self.consumer.prepare_wait(script.sleep());
            }
            _ => {
                let cursor = self.consumer.cursor();
                self.consumer = Consumer::resume(self.memory.clone(), self.geometry, cursor);
            }
        }
    }

    /// A producer whose consumer lies: it may get `Corrupt`, and writes inside its area.
    fn producer_does(&mut self, script: &mut Script<'_>) {
        let choice = script.small();
        let len = script.len(&self.geometry);
        match choice % 8 {
            0..=2 => {
                let plain = self.producer.plan_fast(len);
                if let Some(plan) = plain.or_else(|| self.producer.plan(len).ok()) {
                    let _place = self.memory.bytes(plan.payload_offset(), len);
                    match plain.and_then(|_| self.producer.grant(len)) {
                        Some(grant) => {
                            let record = grant.seal(len, Format::Bytes);
                            self.producer.stage_fast(record, len as u32);
                        }
                        None => self.producer.stage(plan, len as u32, Format::Bytes),
                    }
                    let size = self.geometry.segment_len(self.producer.cursor().segment);
                    self.producer.renew_contiguous(size);
                    let _wake = self.producer.commit();
                }
            }
            3 => {
                if let Ok(Some(plan)) = self.producer.plan_open(len) {
                    let room = plan.payload_room();
                    let _place = self.memory.bytes(plan.payload_offset(), room);
                    self.producer.stage(plan, room.min(len) as u32, Format::Text);
                }
            }
            4 => {
                let _wake = self.producer.hop(len);
            }
            5 => {
                let _wake = self.producer.go_to_base();
            }
            6 => {
                let _wait = self.producer.prepare_wait(len, script.sleep());
            }
            _ => {
                let _wake = self.producer.commit();
                let (cursor, vacated_at) = (self.producer.cursor(), self.producer.vacated_at());
                // A capsule may lie as well.
                let vacated_at = if script.small().is_multiple_of(2) {
                    vacated_at
                } else {
                    [script.start(); 21]
                };
                let resumed =
                    Producer::resume(self.memory.clone(), self.geometry, cursor, vacated_at);
                if let Ok(producer) = resumed {
                    self.producer = producer;
                }
            }
        }
    }
}
