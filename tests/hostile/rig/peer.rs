//! The other end of a channel without this crate: the region, the sockets, and a second, correct
//! implementation of the protocol. A peer made of these is honest until it chooses not to be.

use crate::common::messages::{Order, Rng, mix};
use crate::common::parts::{ATTACHMENTS, DOORBELL, PACKETS, Parts, receive};
use crate::common::region::{self, END, JUMP, MESSAGE, PADDING, Region, SMALL, record};
use messageport::rkyv::{rancor, to_bytes};
use messageport::{MessageChannel, MessagePort};
use nix::sys::socket::{MsgFlags, send};
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::LazyLock;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

/// Lane of the peer's posts, and of the victim's, of a [`pair`].
pub const INTO: usize = 0;
pub const FROM: usize = 1;

pub const CAPACITY: u64 = 4096;
pub const LIMIT: u64 = 64 << 10;
const SEGMENTS: usize = 5;
/// A record's header, and the room that is kept for one.
const HEADER: u64 = 16;

const BYTES: u64 = 1;
const TEXT: u64 = 2;

pub struct Peer {
    pub region: Region,
    pub parts: Parts,
    pub writing: Writing,
    pub reading: Reading,
    /// Lane of this peer's posts, and of the victim's.
    into: usize,
    from: usize,
    /// Packets sent so far.
    pub sequence: u64,
}

/// The producer of one lane.
#[derive(Default)]
pub struct Writing {
    lane: usize,
    place: Place,
    head: u64,
    /// For each segment the position after the jump by which it was last left.
    left: [u64; SEGMENTS],
    /// Records that the victim has not released, as far as is known.
    unread: VecDeque<Staged>,
    /// The largest tail that was ever published, lies included.
    pub highest: u64,
}

/// The consumer of the other one.
#[derive(Default)]
pub struct Reading {
    lane: usize,
    place: Place,
    /// This peer does not know any more where the victim's records start: it has lied too much.
    is_lost: bool,
    /// The largest head that was ever published.
    pub highest: u64,
}

#[derive(Clone, Copy, Default)]
struct Place {
    position: u64,
    entered: u64,
    segment: usize,
}

/// A record that was written and may not be read yet.
#[derive(Clone, Copy)]
pub struct Staged {
    /// Offset of its header in the region.
    pub at: usize,
    pub header: u64,
    pub detail: u64,
    pub len: u64,
    /// Position after it.
    pub end: u64,
    /// Another header that is as good: the record then ends where a record inside it begins.
    pub twin: Option<u64>,
}

impl Staged {
    /// Position of its header.
    fn start(&self) -> u64 {
        self.end - record_len(self.len)
    }
}

const fn segment_len(segment: usize) -> u64 {
    CAPACITY << segment.saturating_sub(1)
}

const fn segment_start(segment: usize) -> u64 {
    if segment == 0 { 0 } else { segment_len(segment) }
}

const fn record_len(len: u64) -> u64 {
    HEADER + len.next_multiple_of(16)
}

impl Place {
    fn index(self) -> u64 {
        (self.position - self.entered) % segment_len(self.segment)
    }

    /// Offset in the area.
    fn offset(self) -> usize {
        (segment_start(self.segment) + self.index()) as usize
    }

    fn enter(&mut self, segment: usize) {
        self.entered = self.position;
        self.segment = segment;
    }
}

/// A victim's port, and the other end of its channel taken apart.
pub fn pair() -> (MessagePort, Peer) {
    let builder = MessageChannel::builder().capacity(CAPACITY as usize).limit(LIMIT as usize);
    let MessageChannel { port1, port2 } = builder.build().expect("a channel");
    (port2, Peer::of(port1))
}

/// The word that stands at an offset of the region when it is part of a payload. It tells the
/// offset, and that it is such a word.
fn mark(offset: usize) -> u64 {
    mix(offset as u64 + 1) << 24 | offset as u64
}

/// The offset in the region that this payload word was read from, if it is one of ours.
fn marked(word: u64) -> Option<usize> {
    let offset = (word & 0xff_ffff) as usize;
    (mark(offset) == word).then_some(offset)
}

/// What is wrong with the place that a message was read from: its words must stand in a row, in one
/// segment of the peer's lane.
pub fn misplaced(bytes: &[u8]) -> Option<String> {
    let words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
    let mut found = words.enumerate().filter_map(|(index, word)| {
        marked(word).map(|offset| offset.wrapping_sub(8 * index)).map(|start| (index, start))
    });
    let (_, start) = found.next()?;
    if let Some((index, other)) = found.find(|(_, other)| *other != start) {
        return Some(format!("word {index} is of {other:#x}, the first one of {start:#x}"));
    }
    let first = start.wrapping_sub(region::AREA) as u64;
    let segment = (0..SEGMENTS).rev().find(|segment| segment_start(*segment) <= first)?;
    let end = segment_start(segment) + segment_len(segment);
    let fits = first >= segment_start(segment) + HEADER && first + bytes.len() as u64 <= end;
    (!fits).then(|| format!("{} bytes at {first:#x}, beyond segment {segment}", bytes.len()))
}

fn archives() -> &'static [Vec<u8>] {
    static ARCHIVES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        let order = |number: u64| {
            let body = "words ".repeat(number as usize * 3);
            to_bytes::<rancor::Error>(&Order { number, body }).expect("an archive").to_vec()
        };
        let words = |count: usize| {
            let words: Vec<String> = (0..count).map(|n| format!("word number {n}")).collect();
            to_bytes::<rancor::Error>(&words).expect("an archive").to_vec()
        };
        (0..6).map(order).chain((0..6).map(words)).collect()
    });
    &ARCHIVES
}

impl Writing {
    /// Learns what the victim has released. What this peer has scribbled there itself is ignored.
    fn refresh(&mut self, region: &Region) {
        let head = region.word(region::head(self.lane)).load(Acquire);
        if head > self.head && head <= self.place.position {
            self.head = head;
            // Of one that the victim has read as two, the first may be released alone. Then its
            // header is free memory as well.
            while self.unread.front().is_some_and(|record| record.start() < head) {
                self.unread.pop_front();
            }
        }
    }

    /// Writes an empty message where the next record will stand, without publishing it.
    pub fn leave_bait(&self, region: &Region) {
        let at = region.area(self.lane, self.place.offset());
        region.write_record(at, record(0, MESSAGE, BYTES), 0);
    }

    fn used(&self) -> u64 {
        let place = self.place;
        (place.position - self.head).min(place.position - place.entered) + HEADER
    }

    fn is_free(&self, segment: usize) -> bool {
        segment != self.place.segment && self.head >= self.left[segment]
    }

    /// Goes where a record of `record` bytes fits, by the control records that lead there.
    fn make_room(&mut self, region: &Region, record: u64, rng: &mut Rng) -> bool {
        let size = segment_len(self.place.segment);
        let until_end = size - self.place.index();
        let wanders = rng.below(64) == 0;
        if record <= until_end && self.used() + record <= size && !wanders {
            return true;
        }
        if record > until_end && self.used() + until_end + record <= size && !wanders {
            let padding = region::record(until_end - HEADER, PADDING, 0);
            region.write_record(region.area(self.lane, self.place.offset()), padding, 0);
            self.place.position += until_end;
            return true;
        }
        let first = rng.below(SEGMENTS as u64) as usize;
        let mut all = (0..SEGMENTS).map(|n| (first + n) % SEGMENTS);
        let holds = |segment: usize| record + HEADER <= segment_len(segment);
        let Some(next) = all.find(|segment| self.is_free(*segment) && holds(*segment)) else {
            return false;
        };
        let at = region.area(self.lane, self.place.offset());
        region.write_record(at, region::record(0, JUMP, 0), next as u64);
        self.place.position += HEADER;
        self.left[self.place.segment] = self.place.position;
        self.place.enter(next);
        true
    }

    /// Stages a record whose payload `fill` writes, from this offset of the region on.
    fn stage(
        &mut self,
        region: &Region,
        (header, detail, len): (u64, u64, u64),
        rng: &mut Rng,
        fill: impl FnOnce(usize) -> Option<u64>,
    ) -> bool {
        if !self.make_room(region, record_len(len), rng) {
            self.refresh(region);
            if !self.make_room(region, record_len(len), rng) {
                return false;
            }
        }
        let at = region.area(self.lane, self.place.offset());
        let twin = fill(at + HEADER as usize);
        region.write_record(at, header, detail);
        self.place.position += record_len(len);
        let end = self.place.position;
        self.unread.push_back(Staged { at, header, detail, len, end, twin });
        true
    }
}

impl Reading {
    /// Reads nothing more: what the victim posted is gone.
    pub fn forgive(&mut self) {
        self.is_lost = true;
    }

    /// Steps over what the victim has posted, some of it, and gives it back.
    fn take_some(&mut self, region: &Region) {
        let tail = region.word(region::tail(self.lane)).load(Acquire) & !END;
        for _ in 0..64 {
            if self.place.position == tail || self.is_lost {
                break;
            }
            let at = region.area(self.lane, self.place.offset());
            let header = region.word(at).load(Relaxed);
            let (len, kind) = (header & 0xffff_ffff, header >> 32 & 0xff);
            let next = region.word(at + 8).load(Relaxed) as usize;
            match kind {
                MESSAGE if len < LIMIT => self.place.position += record_len(len),
                PADDING if len < LIMIT => self.place.position += HEADER + len,
                JUMP if next < SEGMENTS => {
                    self.place.position += HEADER;
                    self.place.enter(next);
                }
                _ => self.is_lost = true,
            }
            self.is_lost |= self.place.position > tail;
        }
        if !self.is_lost {
            self.highest = self.highest.max(self.place.position);
            region.word(region::head(self.lane)).store(self.place.position, Release);
        }
    }
}

impl Peer {
    /// Takes a port of that capacity and limit apart, and goes on where it stands.
    pub fn of(port: MessagePort) -> Peer {
        let parts = Parts::of(port);
        assert_eq!(parts.words[3..5], [CAPACITY, LIMIT], "the sizes that are known here");
        let region = Region::map(File::from(parts.duplicate(0)));
        let into = (parts.words[1] >> 32) as usize;
        let place = |at: usize| Place {
            position: parts.words[at],
            entered: parts.words[at + 1],
            segment: parts.words[at + 2] as usize,
        };
        let left = std::array::from_fn(|segment| parts.words[14 + segment]);
        let highest = parts.words[6];
        let writing = Writing { lane: into, place: place(6), left, highest, ..Writing::default() };
        let reading = Reading { lane: 1 - into, place: place(9), ..Reading::default() };
        let sequence = parts.words[PACKETS];
        Peer { region, parts, writing, reading, into, from: 1 - into, sequence }
    }

    /// Posts up to `most` messages of all kinds, by one commit, and says whether there was room for
    /// any. One in `twins` has a twin.
    pub fn post_some(&mut self, most: u64, twins: u64, rng: &mut Rng) -> bool {
        self.writing.refresh(&self.region);
        let before = self.tail();
        for _ in 0..1 + rng.below(most) {
            let staged = match rng.below(8) {
                _ if rng.below(twins) == 0 => self.stage_twin(rng),
                0 => self.stage_archive(rng),
                1 => self.stage_text(rng),
                2 => self.stage_small(rng),
                _ => self.stage_bytes(rng),
            };
            if !staged {
                break;
            }
        }
        self.commit();
        self.tail() != before
    }

    /// Publishes what is staged, and rings if the victim sleeps.
    pub fn commit(&mut self) {
        self.writing.highest = self.writing.highest.max(self.writing.place.position);
        self.region.word(region::tail(self.into)).store(self.writing.place.position, Release);
        fence(SeqCst);
        let flag = self.region.half_word(region::message_sleeper(self.into));
        if flag.load(Relaxed) != 0 && flag.swap(0, SeqCst) == 2 {
            self.ring(&[0]);
        }
    }

    pub fn ring(&self, bytes: &[u8]) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        // It fails when the bell is full, and when the victim has gone.
        let _ = send(self.parts.descriptors[DOORBELL].as_raw_fd(), bytes, flags);
    }

    /// Takes what the victim has posted; now and then also what came beside it, and its rings.
    pub fn take_some(&mut self, rng: &mut Rng) {
        self.reading.take_some(&self.region);
        if rng.below(64) == 0 {
            while receive(&self.parts.descriptors[ATTACHMENTS]).is_ok_and(|(bytes, _)| {
                // A socket that was shut down gives nothing, for ever.
                !bytes.is_empty()
            }) {}
        }
    }

    /// Tail of the peer's lane, as an honest one would publish it.
    pub fn tail(&self) -> u64 {
        self.writing.place.position
    }

    /// An unread record, the `index`th from the front.
    pub fn unread(&mut self, index: u64) -> Option<Staged> {
        self.writing.refresh(&self.region);
        self.writing.unread.get(index as usize).copied()
    }

    /// Whether the victim has released everything before `position`.
    pub fn has_released(&self, position: u64) -> bool {
        self.region.word(region::head(self.into)).load(Relaxed) >= position
    }

    /// Stages a record of one word that says that a packet is beside it.
    pub fn stage_beside(&mut self, descriptors: u64, sequence: u64, rng: &mut Rng) -> bool {
        let region = &self.region;
        let header = record(8, MESSAGE, BYTES) | descriptors << 48;
        self.writing.stage(region, (header, sequence, 8), rng, |at| {
            region.word(at).store(mark(at), Relaxed);
            None
        })
    }

    /// Takes back the record that was staged last, if it was not committed.
    pub fn unstage(&mut self) {
        if let Some(record) = self.writing.unread.pop_back() {
            self.writing.place.position -= record_len(record.len);
        }
    }

    fn stage_bytes(&mut self, rng: &mut Rng) -> bool {
        let len = match rng.below(512) {
            0 => rng.below(20_000),
            1..32 => rng.below(1000),
            _ => rng.below(100),
        };
        let region = &self.region;
        self.writing.stage(region, (record(len, MESSAGE, BYTES), 0, len), rng, |at| {
            write_marks(region, at, len);
            None
        })
    }

    /// A message in whose payload a whole record stands, up to its end.
    fn stage_twin(&mut self, rng: &mut Rng) -> bool {
        let (outer, inner) = (16 * rng.below(6), 16 * rng.below(6));
        let len = outer + HEADER + inner;
        let region = &self.region;
        self.writing.stage(region, (record(len, MESSAGE, BYTES), 0, len), rng, |at| {
            write_marks(region, at, len);
            region.write_record(at + outer as usize, record(inner, MESSAGE, BYTES), 0);
            Some(record(outer, MESSAGE, BYTES))
        })
    }

    fn stage_text(&mut self, rng: &mut Rng) -> bool {
        let len = rng.below(100);
        let region = &self.region;
        let letters = u64::from_le_bytes(*b"a letter");
        self.writing.stage(region, (record(len, MESSAGE, TEXT), 0, len), rng, |at| {
            for place in (at..at + len as usize).step_by(8) {
                region.word(place).store(letters, Relaxed);
            }
            None
        })
    }

    fn stage_archive(&mut self, rng: &mut Rng) -> bool {
        let archive = &archives()[rng.below(archives().len() as u64) as usize];
        let len = archive.len() as u64;
        let region = &self.region;
        self.writing.stage(region, (record(len, MESSAGE, 0), 0, len), rng, |at| {
            for (index, bytes) in archive.chunks(8).enumerate() {
                let mut word = [0; 8];
                word[..bytes.len()].copy_from_slice(bytes);
                region.word(at + 8 * index).store(u64::from_le_bytes(word), Relaxed);
            }
            None
        })
    }

    /// A message with small buffers in its record.
    fn stage_small(&mut self, rng: &mut Rng) -> bool {
        let most = if rng.below(16) == 0 { 64 } else { 4 };
        let count = 1 + rng.below(most);
        let lens: Vec<u64> = (0..count).map(|_| 8 * rng.below(12)).collect();
        let behind = lens.iter().sum::<u64>() + 4 * count;
        let message = 8 * rng.below(20);
        let len = message + behind;
        let header = (record(len, SMALL, BYTES), count << 32 | behind, len);
        let region = &self.region;
        self.writing.stage(region, header, rng, |at| {
            let table = at + (len - 4 * count) as usize;
            write_marks(region, at, len - 4 * count);
            for (index, len) in lens.iter().enumerate() {
                region.half_word(table + 4 * index).store(*len as u32, Relaxed);
            }
            None
        })
    }

    /// What the victim has published that it cannot have done if it kept the rules itself.
    pub fn accusation(&self) -> Option<String> {
        let head = self.region.word(region::head(self.into)).load(Acquire);
        if head > self.writing.highest {
            return Some(format!("head {head:#x} beyond each tail {:#x}", self.writing.highest));
        }
        let tail = self.region.word(region::tail(self.from)).load(Acquire) & !END;
        let most = self.reading.highest + LIMIT;
        (tail > most).then(|| format!("tail {tail:#x} beyond what was released and the limit"))
    }
}

fn write_marks(region: &Region, at: usize, len: u64) {
    for place in (at..at + len as usize).step_by(8) {
        region.word(place).store(mark(place), Relaxed);
    }
}
