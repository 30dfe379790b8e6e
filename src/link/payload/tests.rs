//! Payloads on the heap: every copy has its bytes, and none reaches beyond what was checked.

use super::*;
use crate::ring::harness::Rig;
use crate::ring::segment::Geometry;
use crate::wire::record::Attached;
use rkyv::rancor::{Failure, Source};
use rkyv::ser::{Allocator, Writer};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Place};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Where the header of the one record is.
const AT: u64 = 64;
const AREA: u64 = 2048;

/// What the byte at `offset` of the area is, except in the record's header.
fn byte_at(offset: u64) -> u8 {
    (offset % 251) as u8
}

fn bytes_at(offset: u64, len: u64) -> Vec<u8> {
    (offset..offset + len).map(byte_at).collect()
}

fn words_of(bytes: &[u8]) -> [u64; 2] {
    [0, 8].map(|at| word_of(&bytes[at..at + 8]))
}

/// An area, and a window on one record of `len` bytes and what is behind it, up to `end`.
fn window(len: u32, end: u64) -> (Window, Record) {
    let memory = Memory::on_heap(AREA);
    for offset in (0..AREA).step_by(16) {
        memory.write_header(offset, words_of(&bytes_at(offset, 16)));
    }
    memory.write_header(AT, Header::plain(len, Format::Text));
    let mut window = Window::new(memory);
    window.open(AT, end - AT);
    let attached = Attached::Nothing;
    let record = Record { payload_offset: AT + 16, len, format: Format::Text, attached, end: 0 };
    (window, record)
}

#[track_caller]
fn panics<T>(act: impl FnOnce() -> T) {
    assert!(catch_unwind(AssertUnwindSafe(act)).is_err(), "it goes beyond its bounds");
}

#[test]
fn a_copy_has_the_bytes_of_its_record() {
    for len in [9, 15, 16, 17, 100, 1000] {
        let (window, record) = window(len, AREA);
        for spare in [0, 100] {
            let mut blocks = blocks_for(len as usize + spare).expect("some memory");
            let copy = Payload::copied(&window, &record, &mut blocks, 7).expect("room");
            assert_eq!(copy.bytes(), bytes_at(AT + 16, len.into()));
            assert_eq!((copy.handle(), copy.len()), (PayloadHandle::Copy(7), len));
            assert_eq!(
                (copy.format(), copy.is_own(), copy.is_ahead()),
                (Format::Text, false, false)
            );
        }
        let mut few = Vec::with_capacity(blocks_of(len) - 1);
        assert!(
            few.capacity() >= blocks_of(len) || {
                Payload::copied(&window, &record, &mut few, 7).is_none()
            }
        );
    }
    let (window, record) = window(48, AT + 16 + 32);
    let mut blocks = blocks_for(48).expect("some memory");
    panics(|| Payload::copied(&window, &record, &mut blocks, 7));
}

#[test]
fn a_short_message_is_its_own_copy() {
    let word = u64::from_ne_bytes(*b"abcdefgh");
    let short = Payload::short([Header::short(3, Format::Text), word]);
    assert_eq!((short.bytes(), short.len()), (&b"abc"[..], 3));
    assert_eq!((short.handle(), short.format()), (PayloadHandle::Own, Format::Text));
    assert!(short.is_own() && !short.is_ahead());
    let (window, mut record) = window(8, AREA);
    window.memory().write_header(AT, [Header::short(8, Format::Bytes), word]);
    (record.payload_offset, record.format) = (AT + 8, Format::Bytes);
    let short = Payload::of_short(&window, &record);
    assert_eq!((short.bytes(), short.handle()), (&b"abcdefgh"[..], PayloadHandle::Own));
    assert_eq!(short.format(), Format::Bytes);
}

#[test]
fn a_copy_in_parts_is_whole_at_its_last_part() {
    let (window, record) = window(100, AREA);
    let mut blocks = blocks_for(100).expect("some memory");
    for (done, is_whole) in [(3, false), (6, false), (7, true)] {
        assert_eq!(copy_further(window.memory(), &record, &mut blocks, 3), is_whole);
        assert_eq!(blocks.len(), done);
        assert_eq!(blocks_as_bytes(&blocks), bytes_at(AT + 16, 16 * done as u64));
    }
    assert!(copy_further(window.memory(), &record, &mut blocks, 3), "nothing is left");
    let copy = Payload::of_copy(&record, &mut blocks, 9);
    assert_eq!(copy.bytes(), bytes_at(AT + 16, 100));
    assert_eq!((copy.handle(), copy.len()), (PayloadHandle::Copy(9), 100));
    blocks.pop();
    panics(|| Payload::of_copy(&record, &mut blocks, 9));
    let beyond = Record { payload_offset: AREA - 32, len: 48, ..record };
    panics(|| copy_further(window.memory(), &beyond, &mut Vec::with_capacity(3), 3));
}

#[test]
fn a_message_in_place_is_where_its_record_is() {
    let (window, record) = window(100, AREA);
    let lent = Payload::in_ring(&window, &record, 5);
    assert_eq!(lent.bytes(), bytes_at(AT + 16, 100));
    assert_eq!((lent.handle(), lent.format()), (PayloadHandle::Lent(5), Format::Text));
    let plain = window.plain(AREA).expect("a plain message");
    let mut lent = Payload::plain_in_ring(&plain, 6);
    assert_eq!(lent.bytes(), bytes_at(AT + 16, 100));
    assert_eq!((lent.handle(), lent.is_own()), (PayloadHandle::Lent(6), false));
    lent.shorten(40);
    assert_eq!((lent.len(), lent.format()), (60, Format::Text));
    assert_eq!(lent.bytes(), bytes_at(AT + 16, 60));
    panics(|| lent.shorten(61));
}

#[test]
fn records_that_were_read_ahead_are_taken_from_their_copy() {
    let (window, _) = window(20, AREA);
    window.memory().write_header(AT + 48, [Header::short(2, Format::Text), 7]);
    let mut copy = vec![Block::default(); 6];
    copy_records(&window, &mut copy[1..]);
    assert_eq!(words_of(&blocks_as_bytes(&copy)[16..]), Header::plain(20, Format::Text));
    let (ahead, record) = Payload::ahead(&copy, 1..4).expect("all of it is there");
    assert_eq!((ahead.bytes(), record), (&bytes_at(AT + 16, 20)[..], 48));
    assert_eq!((ahead.handle(), ahead.len()), (PayloadHandle::Ahead, 20));
    assert!(ahead.is_ahead() && !ahead.is_own());
    assert!(Payload::ahead(&copy, 1..6).is_some(), "there is more behind it");
    assert!(Payload::ahead(&copy, 1..3).is_none(), "it is cut off");
    assert!(Payload::ahead(&copy, 6..6).is_none() && Payload::ahead(&copy, 1..7).is_none());
    assert!(Payload::ahead(&copy, 4..6).is_none(), "no plain message");
    let words = [Header::short(2, Format::Text), 7];
    assert_eq!(Payload::short_words(&copy, 4), Some(words));
    assert_eq!([1, 6].map(|number| Payload::short_words(&copy, number)), [None, None]);
    let (window, _) = self::window(20, AT + 32);
    panics(|| copy_records(&window, &mut copy[..3]));
}

#[test]
fn one_message_is_read_ahead_alone() {
    let (window, _) = window(20, AREA);
    let plain = window.plain(AREA).expect("a plain message");
    let mut blocks = vec![Block::default(); 3];
    assert!(Payload::alone(&plain, &mut blocks[..1]).is_none());
    let alone = Payload::alone(&plain, &mut blocks[..2]).expect("as many as it takes");
    assert_eq!(alone.bytes(), bytes_at(AT + 16, 20));
    assert_eq!((alone.handle(), alone.len()), (PayloadHandle::Ahead, 20));
    assert_eq!(blocks_as_bytes(&blocks)[32..], [0; 16], "no more than it takes");
}

#[test]
fn lengths_are_whole_blocks() {
    assert_eq!([0, 1, 16, 17, 100].map(blocks_of), [0, 1, 1, 2, 7]);
    assert!(blocks_for(17).is_some_and(|blocks| blocks.is_empty() && blocks.capacity() >= 2));
    assert!(blocks_for(usize::MAX).is_none(), "there is no such memory");
    let mut blocks = [Block::default(); 2];
    blocks_as_bytes_mut(&mut blocks)[17] = 3;
    assert_eq!((blocks[1].0[1], blocks_as_bytes(&blocks).len()), (3, 32));
    assert_eq!(
        [&b""[..], b"\x01\x02", b"abcdefgh", b"abcdefghi"].map(word_of),
        [
            0,
            u64::from_ne_bytes([1, 2, 0, 0, 0, 0, 0, 0]),
            u64::from_ne_bytes(*b"abcdefgh"),
            u64::from_ne_bytes(*b"abcdefgh"),
        ]
    );
}

#[test]
fn the_memory_of_a_copy_becomes_a_vector_that_begins_with_it() {
    for (len, first) in [(20, 0), (20, 1), (20, 2), (1, 3), (64, 0), (0, 0)] {
        let (window, _) = window(len, AREA);
        let plain = window.plain(AREA).expect("a plain message");
        let mut memory = Vec::with_capacity(4);
        memory.resize(4, Block::default());
        let payload = Payload::alone(&plain, &mut memory[first..]).expect("it fits");
        let blocks = into_blocks(&payload, memory);
        assert_eq!(blocks.len(), blocks_of(len));
        assert_eq!(blocks_as_bytes(&blocks)[..len as usize], bytes_at(AT + 16, len.into()));
    }
    let (window, _) = window(20, AREA);
    let plain = window.plain(AREA).expect("a plain message");
    let mut memory = vec![Block::default(); 4];
    let payload = Payload::alone(&plain, &mut memory[2..]).expect("it fits");
    panics(|| into_blocks(&payload, Vec::with_capacity(4)));
    memory.truncate(3);
    memory.shrink_to_fit();
    if memory.capacity() == 3 && memory.as_ptr().addr() + 32 == payload.bytes().as_ptr().addr() {
        panics(|| into_blocks(&payload, memory));
    }
    let nothing = Payload::short([Header::plain(0, Format::Text)[0], 0]);
    assert!(into_blocks(&nothing, Vec::with_capacity(1)).is_empty());
}

#[test]
fn any_part_of_a_payload_is_copied_and_nothing_behind_it() {
    let (window, record) = window(100, AREA);
    for (at, len) in [(0, 100), (3, 20), (16, 32), (99, 1), (100, 0), (60, 40)] {
        let mut part = vec![0; len];
        copy_part(window.memory(), &record, at, &mut part);
        assert_eq!(part, bytes_at(AT + 16 + u64::from(at), len as u64));
    }
    for (at, len) in [(0, 101), (100, 1), (60, 41)] {
        panics(|| copy_part(window.memory(), &record, at, &mut vec![0; len]));
    }
}

#[test]
fn the_last_sixteen_bytes_of_a_payload_are_copied() {
    for len in [16, 17, 31, 32, 33, 40, 100] {
        let (window, record) = window(len, AREA);
        let end = copy_end(window.memory(), &record).expect("as many");
        assert_eq!(end[..], bytes_at(AT + 16 + u64::from(len) - 16, 16), "{len} bytes");
    }
    let (window, record) = window(15, AREA);
    assert!(copy_end(window.memory(), &record).is_none());
}

/// The bytes where a plan puts its payload.
fn planned_bytes(rig: &Rig, plan: &Plan, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    let (payload_offset, len) = (plan.payload_offset(), len as u32);
    let (format, attached) = (Format::Bytes, Attached::Nothing);
    copy_part(
        &rig.memory,
        &Record { payload_offset, len, format, attached, end: 0 },
        0,
        &mut bytes,
    );
    bytes
}

#[test]
fn bytes_are_written_where_they_were_planned_and_wiped_there() {
    let mut rig = Rig::new(Geometry::new(1024, 1024), 0);
    let plan = rig.producer.plan(48).expect("room");
    assert_eq!(plan.payload_room(), 48);
    let bytes = bytes_at(1, 40);
    fill(&rig.producer, &plan, &bytes);
    assert_eq!(planned_bytes(&rig, &plan, 40), bytes);
    fill_behind(&rig.producer, &plan, 40, b"end");
    assert_eq!(planned_bytes(&rig, &plan, 43), [&bytes[..], b"end"].concat());
    fill_behind(&rig.producer, &plan, 45, b"end");
    panics(|| fill_behind(&rig.producer, &plan, 46, b"end"));
    panics(|| fill(&rig.producer, &plan, &[0; 49]));
    let mut room = Room::in_place(&rig.producer, &plan, 30);
    assert_eq!((room.len(), room.bytes()), (30, &bytes[..30]));
    room.bytes_mut()[0] = 9;
    assert_eq!(planned_bytes(&rig, &plan, 1), [9]);
    wipe(&rig.producer, &plan);
    assert_eq!(planned_bytes(&rig, &plan, 48), [0; 48]);
    let (window, _) = window(0, AREA);
    let grant = window.grant(48).expect("room");
    fill_grant(&grant, &[5; 32]);
    assert_eq!(window.memory().read_header(AT + 16), [0x0505_0505_0505_0505; 2]);
    panics(|| fill_grant(&grant, &[5; 33]));
}

#[test]
fn private_room_is_the_scratch_and_gets_shorter_only() {
    let mut scratch = [Block::default(); 2];
    panics(|| Room::private(&mut [Block::default(); 2], 33));
    let mut room = Room::private(&mut scratch, 20);
    room.bytes_mut().copy_from_slice(&bytes_at(7, 20));
    for (len, left) in [(30, 20), (5, 5), (9, 5)] {
        room.truncate(len);
        assert_eq!((room.len(), room.bytes()), (left, &bytes_at(7, left as u64)[..]));
    }
    assert_eq!(blocks_as_bytes(&scratch)[..20], bytes_at(7, 20));
}

#[test]
fn a_value_is_serialised_alike_wherever_it_goes() {
    let value = "longer than a header holds".to_owned();
    let expected = rkyv::to_bytes::<Failure>(&value).expect("a text");
    let len = expected.len() as u64;
    let (mut rig, arena) = (Rig::new(Geometry::new(1024, 1024), 0), &mut Arena::new());
    assert_eq!(serialize(&value, &rig.producer, None, arena).expect("counted"), len);
    let plan = rig.producer.plan(len).expect("room");
    assert_eq!(serialize(&value, &rig.producer, Some(&plan), arena).expect("written"), len);
    assert_eq!(planned_bytes(&rig, &plan, len), expected[..]);
    let (window, _) = window(0, AREA);
    let grant = window.grant(256).expect("room");
    assert_eq!(serialize_in(&value, &grant, arena).expect("written"), len);
    grant.seal(len, Format::Archive);
    let plain = window.plain(256).expect("a plain message");
    assert_eq!(Payload::plain_in_ring(&plain, 0).bytes(), &expected[..]);
    assert_eq!(serialize_short(&0x0102_0304u32, &grant, arena).expect("written"), 4);
    let [_, word] = window.memory().read_header(AT);
    assert_eq!(word as u32, 0x0102_0304u32.to_le());
    let mut bytes = [Block::default(); 4];
    let to = blocks_as_bytes_mut(&mut bytes);
    assert_eq!(serialize_to(&value, to).expect("written") as u64, len);
    assert_eq!(to[..len as usize], expected[..]);
    assert_eq!(archive(&value).expect("written"), expected[..]);
    assert!(may_be_short::<u64>() && may_be_short::<String>());
    assert!(!may_be_short::<()>() && !may_be_short::<[u8; 9]>());
}

/// A list whose links are levels.
#[derive(Archive, Serialize, messageport_macros::SafeArchive)]
#[rkyv(
    serialize_bounds(__S: Writer + Allocator, __S::Error: Source),
    bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: Source)),
)]
#[messageport(crate = crate)]
struct Link(#[rkyv(omit_bounds)] Option<Box<Link>>);

#[test]
fn a_value_that_no_receiver_could_read_is_refused() {
    let list = |links| (0..links).fold(Link(None), |link, _| Link(Some(Box::new(link))));
    assert!(archive(&list(3)).is_ok() && archive(&list(254)).is_ok());
    let refused = archive(&list(255)).expect_err("it is too deep");
    assert!(refused.to_string().contains("no receiver could read"), "{refused}");
}

/// Counts how often it is serialised.
struct Counted(Vec<u8>, Cell<u32>);

impl Archive for Counted {
    type Archived = ArchivedVec<u8>;
    type Resolver = VecResolver;

    fn resolve(&self, resolver: VecResolver, out: Place<ArchivedVec<u8>>) {
        ArchivedVec::resolve_from_len(self.0.len(), resolver, out);
    }
}

impl<S: Writer + Allocator + Fallible + ?Sized> Serialize<S> for Counted {
    fn serialize(&self, serializer: &mut S) -> Result<VecResolver, S::Error> {
        self.1.set(self.1.get() + 1);
        ArchivedVec::serialize_from_slice(self.0.as_slice(), serializer)
    }
}

#[test]
fn a_value_that_cannot_be_too_deep_is_serialised_once() {
    let counted = Counted(vec![7; 5000], Cell::new(0));
    assert_eq!(archive(&counted).expect("bytes").len(), 5008);
    assert_eq!(counted.1.get(), 1);
}
