//! A peer that writes any word at any time: what is held stays as it was, wherever it was copied.

use super::*;
use crate::link::payload::{PayloadHandle, into_blocks};
use crate::link::transfer;
use crate::ring::consumer::Peek;
use crate::ring::cursor::Cursor;
use crate::ring::memory::Memory;
use crate::ring::segment::Geometry;
use crate::sync::Ordering;
use crate::wire::record::{Attached, Format, Header, is_short_len, record_len};

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// The receiving side of a lane, and the messages that are in use, with what they held at first.
struct Victim {
    memory: Memory,
    consumer: Consumer,
    ahead: ReadAhead,
    held: Vec<(Payload, Vec<u8>)>,
    /// Messages that were taken alone, and from a copy.
    taken: [u64; 2],
}

impl Victim {
    fn new() -> Victim {
        let memory = Memory::on_heap(LIMIT);
        let consumer =
            Consumer::resume(memory.clone(), Geometry::new(CAPACITY, LIMIT), Cursor::start(0));
        let (ahead, held) = (ReadAhead::default(), Vec::new());
        Victim { memory, consumer, ahead, held, taken: [0; 2] }
    }

    /// A word that the peer writes anywhere, mostly near what comes next.
    fn attack(&mut self, random: &mut Random) {
        let len = [0, 16, 100, 500, 3000, u32::MAX][random.below(6) as usize];
        let attached = match random.below(4) {
            0 => Attached::Packet { descriptors: 1, sequence: 0 },
            _ => Attached::Nothing,
        };
        let words = match random.below(8) {
            0 => Header::Padding { len: len & !15 }.encode(),
            1 => Header::Jump { segment: random.below(3) as u32 }.encode(),
            2 => [random.below(u64::MAX), 0],
            3 => [Header::short(len % 10, Format::Bytes), random.below(u64::MAX)],
            _ => Header::Message { len, format: Format::Bytes, attached }.encode(),
        };
        let place = match random.below(2) {
            0 => self.consumer.position() % CAPACITY + random.below(32) * 16,
            _ => random.below(LIMIT / 16) * 16,
        };
        self.memory.write_header(place % LIMIT, words);
        if random.below(20) == 0 {
            let tail = self.consumer.position() + random.below(5000);
            self.memory.lane().producer.tail.store(tail, Ordering::Relaxed);
        }
    }

    /// Messages in a row, as far as the peer can know where they have to be.
    fn post(&mut self, random: &mut Random) {
        let mut position = self.consumer.position();
        for _ in 0..random.below(20) {
            let len = [0, 1, 8, 16, 100, 500, 3000][random.below(7) as usize];
            let is_short = is_short_len(u64::from(len)) && random.below(2) == 0;
            let (header, record) = match is_short {
                true => ([Header::short(len, Format::Bytes), random.below(u64::MAX)], 16),
                false => (Header::plain(len, Format::Bytes), record_len(u64::from(len))),
            };
            self.memory.write_header(position % CAPACITY, header);
            position += record;
        }
        let tail = &self.memory.lane().producer.tail;
        tail.store(position.max(tail.load(Ordering::Relaxed) & !15), Ordering::Relaxed);
    }

    /// One step of a receiver, as the half and the port above it take it.
    fn receive(&mut self, random: &mut Random) {
        let is_free = self.held.is_empty();
        match random.below(8) {
            0 if is_free => {
                let _ = self.consumer.release_all();
                self.ahead.copy_run(&mut self.consumer);
            }
            1 if is_free => _ = self.ahead.allocate(),
            2 if self.held.len() == 1 => {
                let (payload, content) = self.held.pop().expect("one");
                if payload.handle() != PayloadHandle::Own {
                    assert_eq!(payload.handle(), PayloadHandle::Ahead);
                    let blocks = into_blocks(&payload, self.ahead.take_memory());
                    assert_eq!(payload::blocks_as_bytes(&blocks)[..content.len()], content);
                }
            }
            3 => self.held.clear(),
            4 => self.take_slowly(),
            _ => self.take(is_free),
        }
        assert!(self.held.iter().all(|(payload, content)| payload.bytes() == content));
    }

    fn take(&mut self, is_free: bool) {
        let copied = self.ahead.take_copied(&mut self.consumer, &Cell::new(0));
        let way = usize::from(copied.is_some());
        let payload = copied.or_else(|| {
            if !self.consumer.has_known() {
                self.consumer.look_at_tail()?;
            }
            if let Some(words) = self.consumer.next_short() {
                self.consumer.take_plain(16, words[0] as u32);
                return Some(Payload::short(words));
            }
            let message = self.consumer.next_plain().filter(|_| is_free)?;
            let payload = self.ahead.copy(&message)?;
            let record = message.record();
            self.consumer.take_plain(record, payload.len());
            Some(payload)
        });
        if let Some(payload) = payload {
            self.taken[way] += 1;
            let content = payload.bytes().to_vec();
            self.held.push((payload, content));
        }
    }

    /// Takes what is not plain, or discards; a peer that broke the protocol is left for a new one.
    fn take_slowly(&mut self) {
        match self.consumer.peek() {
            Ok(Peek::Message(record)) => {
                self.consumer.take(&record);
                let _ = self.consumer.release_all();
            }
            Ok(Peek::Empty) => {}
            Ok(Peek::Closed(_)) | Err(_) => *self = Victim { taken: self.taken, ..Victim::new() },
        }
    }
}

const CAPACITY: u64 = 16_384;
const LIMIT: u64 = 65_536;

#[test]
fn what_is_held_stays_as_it_was_whatever_the_peer_writes() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut victim = Victim::new();
    for _ in 0..if cfg!(miri) { 1_500 } else { 1_000_000 } {
        match random.below(12) {
            0 => victim.attack(&mut random),
            1 => victim.post(&mut random),
            _ => victim.receive(&mut random),
        }
    }
    assert!(victim.taken.iter().all(|taken| *taken > 10), "{:?}", victim.taken);
}

#[test]
#[cfg_attr(miri, ignore = "Miri maps no files")]
fn short_messages_are_read_ahead_if_there_are_several_and_no_further_than_they_go() {
    for (len, count, is_copied) in [(8, 3, true), (8, 1, false), (512, 2, true), (513, 2, false)] {
        let ((mut sending, _), (_, mut receiving)) =
            transfer::create_pair(CAPACITY, LIMIT, 0, false, Default::default())
                .expect("a channel");
        // So that what is behind the last one looks like a message as well.
        for _ in 0..2 * CAPACITY / 16 {
            sending.stage_bytes(&[1; 8], Format::Bytes).expect("room");
            sending.commit();
            receiving.poll().expect("an open end").expect("a message");
        }
        for _ in 0..count {
            sending.stage_bytes(&vec![2; len], Format::Bytes).expect("room");
        }
        sending.commit();
        receiving.read_ahead(true);
        let copied = std::iter::from_fn(|| receiving.poll_next_in_copy()).take(9).count();
        assert_eq!(copied, if is_copied { count } else { 0 }, "{count} of {len} bytes");
    }
    assert!(ReadAhead::fits(4096) && !ReadAhead::fits(4097));
}

/// The sender has to wait for the bytes of a copy until the next one.
#[test]
#[cfg_attr(miri, ignore = "Miri maps no files")]
fn a_copy_is_no_more_than_a_part_of_the_smallest_segment() {
    let ((mut sending, _), (_, mut receiving)) =
        transfer::create_pair(4096, 4096, 0, false, Default::default()).expect("a channel");
    for _ in 0..100 {
        sending.stage_bytes(&[1; 8], Format::Bytes).expect("room");
    }
    sending.commit();
    receiving.read_ahead(true);
    let copied = std::iter::from_fn(|| receiving.poll_next_in_copy()).count();
    assert_eq!(copied as u64, 4096 / LEAST_RUNS / HEADER_LEN);
}
