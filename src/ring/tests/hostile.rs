//! A peer that writes what no producer and no consumer of this crate writes.

use proptest::prelude::*;

use super::config;
use crate::error::Corruption;
use crate::ring::consumer::{Consumer, Peek};
use crate::ring::cursor::{Cursor, distance};
use crate::ring::fuzzing;
use crate::ring::harness::Rig;
use crate::ring::lane;
use crate::ring::memory::Memory;
use crate::ring::notifier::{Sleep, Wait};
use crate::ring::producer::{Producer, Refusal};
use crate::ring::segment::Geometry;
use crate::sync::Ordering;
use crate::wire::layout::MAX_SEGMENTS;
use crate::wire::record::{Attached, CloseKind, Format, Header, record_len};

proptest! {
    #![proptest_config(config(4_000, 15))]

    #[test]
    fn f28_foreign_records_and_cursors_are_corrupt_or_in_bounds(
        data in prop::collection::vec(any::<u8>(), 0..if cfg!(miri) { 80 } else { 300 }),
    ) {
        fuzzing::record_stream(&data);
    }
}

/// Every header word, at every cursor of small lanes, before every tail: the result is the one that
/// the rules of the record give, computed here in another way.
#[test]
fn f28_every_header_at_every_cursor_is_judged_by_the_rules() {
    let mut accepted = 0;
    let mut refused = 0;
    for geometry in tiny_geometries() {
        for cursor in cursors(geometry) {
            let memory = Memory::on_heap(geometry.limit());
            for words in headers(geometry) {
                memory.write_header(cursor.offset(&geometry), words);
                for ahead in (8..=geometry.limit() + 24).step_by(if cfg!(miri) { 24 } else { 8 }) {
                    publish(&memory, cursor.position.wrapping_add(ahead));
                    let mut consumer = Consumer::resume(memory.clone(), geometry, cursor);
                    let found = consumer.peek();
                    let expected = judge(geometry, cursor, words, ahead);
                    assert_eq!(
                        found.map_err(drop),
                        expected,
                        "{words:x?} at {cursor:?}, {ahead} bytes before the tail"
                    );
                    accepted += u64::from(found.is_ok());
                    refused += u64::from(found.is_err());
                }
            }
        }
    }
    assert!(accepted > 0 && refused > accepted, "{accepted} accepted, {refused} refused");
}

/// Whether a header's fields are those of a message, with what may come beside it.
fn is_message(kind: u8, format: u64, descriptors: u64, len: u64, detail: u64) -> bool {
    match kind {
        1 if descriptors == 0 => format <= 3 && detail == 0,
        1 => format <= 3 && descriptors <= 253,
        5 => format <= 3 && descriptors == 0,
        _ => format == 0 && descriptors == 1 && len == 0,
    }
}

/// What a consumer must return for a header with `ahead` committed bytes from its start on; the
/// rest of the area is zero, which is not a header.
fn judge(geometry: Geometry, cursor: Cursor, words: [u64; 2], ahead: u64) -> Result<Peek, ()> {
    if ahead > geometry.limit() || !ahead.is_multiple_of(16) {
        return Err(());
    }
    let until_end = geometry.segment_len(cursor.segment) - cursor.index(&geometry);
    let (len, kind, rest) = (words[0] & 0xffff_ffff, (words[0] >> 32) as u8, words[0] >> 40);
    match (kind, rest, words[1]) {
        (1 | 5 | 6, rest, detail)
            if is_message(kind, rest & 0xff, rest >> 8, len, detail)
                && record_len(len) <= until_end.min(ahead) =>
        {
            let probe = Header::decode(words).expect("judged to be a message");
            let Header::Message { len, format, attached } = probe else { panic!("{probe:?}") };
            Ok(Peek::Message(crate::ring::consumer::Record {
                payload_offset: cursor.offset(&geometry) + 16,
                len,
                format,
                attached,
                end: cursor.position.wrapping_add(record_len(u64::from(len))),
            }))
        }
        // What follows a control record is not a header, unless nothing follows; but after padding
        // from the start on, the same padding follows.
        (2, 0, 0) if len + 16 == until_end && until_end == ahead => Ok(Peek::Empty),
        (2, 0, 0) if len + 16 == until_end && cursor.index(&geometry) == 0 => {
            if ahead.is_multiple_of(until_end) && ahead / until_end <= 8 {
                Ok(Peek::Empty)
            } else {
                Err(())
            }
        }
        (3, 0, segment)
            if len == 0
                && segment < u64::from(geometry.segments())
                && segment != u64::from(cursor.segment)
                && ahead == 16 =>
        {
            Ok(Peek::Empty)
        }
        _ => Err(()),
    }
}

/// Headers around every rule: each kind, each length up to beyond the area, wrong details.
fn headers(geometry: Geometry) -> impl Iterator<Item = [u64; 2]> {
    let lens = (0..=geometry.limit() + 16)
        .step_by(if cfg!(miri) { 16 } else { 1 })
        .chain([u64::from(u32::MAX) - 15, u64::from(u32::MAX)]);
    lens.flat_map(move |len| {
        (0..6u64).flat_map(move |kind| {
            let word = len | kind << 32;
            let details = (0..u64::from(geometry.segments()) + 2).chain([1 << 32, u64::MAX]);
            details
                .map(move |detail| [word, detail])
                .chain([1u64, 2, 3, 4].map(move |format| [word | format << 40, 0]))
                .chain([[word | 1 << 48, 0], [word | 1 << 63, 0]])
        })
    })
}

fn tiny_geometries() -> impl Iterator<Item = Geometry> {
    let all = [(32, 32), (64, 64), (32, 64), (32, 128)];
    let count = if cfg!(miri) { 1 } else { all.len() };
    all.into_iter().take(count).map(|(capacity, limit)| Geometry::new(capacity, limit))
}

fn cursors(geometry: Geometry) -> impl Iterator<Item = Cursor> {
    (0..geometry.segments()).flat_map(move |segment| {
        [0, 0u64.wrapping_sub(16)].into_iter().flat_map(move |entered| {
            (0..geometry.segment_len(segment))
                .step_by(16)
                .map(move |index| Cursor { position: entered, segment, entered }.advanced(index))
        })
    })
}

/// Before the wrap of positions, and away from it.
const STARTS: &[u64] =
    if cfg!(miri) { &[0u64.wrapping_sub(48)] } else { &[0u64.wrapping_sub(48), 0] };

/// Distances around nothing, aligned and not, and the farthest.
fn offsets(most: i64) -> impl Iterator<Item = i64> {
    let step = if cfg!(miri) { 72 } else { 8 };
    (-most..=most).step_by(step).chain([-16, 0, 8, 16, i64::MIN, i64::MAX])
}

/// Every tail, against every state of a consumer: what was taken, and what was released of it.
#[test]
fn f28_a_tail_is_taken_only_between_the_last_one_and_the_limit() {
    let geometry = Geometry::new(128, 128);
    for &start in STARTS {
        for (taken, released) in (0..=3u64).flat_map(|t| (0..=t).map(move |r| (t, r))) {
            for offset in offsets(320) {
                let mut rig = Rig::new(geometry, start);
                (0..3).for_each(|_| rig.send(0));
                // The bytes beyond the tail look like messages, so only the tail can be wrong.
                let message =
                    Header::Message { len: 0, format: Format::Bytes, attached: Attached::Nothing };
                (3..8).for_each(|unit| rig.memory.write_header(16 * unit, message.encode()));
                assert!(matches!(rig.consumer.peek(), Ok(Peek::Message(_))));
                (0..taken).for_each(|_| assert!(rig.take()));
                if released > 0 {
                    let _wake = rig.consumer.release(start.wrapping_add(16 * released));
                }
                let tail = start.wrapping_add(48).wrapping_add_signed(offset);
                publish(&rig.memory, tail);
                let held = distance(tail, start).wrapping_sub(16 * released);
                let fits = 0 <= offset && held <= 128 && offset % 16 == 0;
                // The wait loads the tail at once, a peek only after everything known.
                let wait = rig.consumer.prepare_wait(Sleep::Futex);
                let sleeps = offset == 0 && taken == 3;
                let expected = if sleeps { Wait::Sleep } else { Wait::Ready };
                assert_eq!(wait.ok(), fits.then_some(expected));
                let flag = &rig.memory.lane().sleepers.message_sleeper;
                assert_eq!(flag.load(Ordering::Relaxed) != 0, sleeps, "the flag of a sleeper");
                (taken..3).for_each(|_| next(&mut rig.consumer).expect("known before"));
                let answer = rig.consumer.peek();
                assert_eq!(answer.is_ok(), fits, "{offset} from the last tail: {answer:?}");
            }
        }
    }
}

/// The fast path looks by itself, and leaves to the slow one what it does not take.
#[test]
fn f28_the_fast_look_takes_no_tail_beyond_the_limit() {
    let geometry = Geometry::new(128, 256);
    for &start in STARTS {
        for offset in offsets(320) {
            let mut rig = Rig::new(geometry, start);
            publish(&rig.memory, start.wrapping_add_signed(offset));
            assert_eq!(rig.consumer.has_news(), offset != 0, "{offset} from the last tail");
            let fits = 0 < offset && offset <= 256 && offset % 16 == 0;
            let looked = rig.consumer.look_at_tail();
            assert_eq!(looked.is_some(), fits, "{offset} from the last tail");
        }
    }
}

/// Each value of the lowest bits of a tail, with messages before it, and with more bytes than the
/// lane holds.
#[test]
fn f28_the_lowest_bits_of_a_tail_are_a_close_or_corrupt() {
    let geometry = Geometry::new(128, 128);
    for (&start, code) in STARTS.iter().flat_map(|start| (0..16).map(move |code| (start, code))) {
        for count in 0..=7u64 {
            let mut rig = Rig::new(geometry, start);
            (0..count).for_each(|_| rig.send(0));
            let tail = start.wrapping_add(16 * count);
            publish(&rig.memory, tail | code);
            let end = match code {
                0 => Some(Peek::Empty),
                1 => Some(Peek::Closed(CloseKind::Closed)),
                2 => Some(Peek::Closed(CloseKind::Dropped)),
                _ => None,
            };
            if end.is_some() {
                (0..count).for_each(|_| next(&mut rig.consumer).expect("an honest tail"));
                let wait = if code == 0 { Wait::Sleep } else { Wait::Ready };
                assert_eq!(rig.consumer.prepare_wait(Sleep::Futex), Ok(wait), "code {code}");
            }
            assert_eq!(rig.consumer.peek().ok(), end, "code {code} after {count} messages");
            publish(&rig.memory, start.wrapping_add(16 * count + 128 + 16) | code);
            let mut fresh = Consumer::resume(rig.memory.clone(), geometry, Cursor::start(start));
            assert!(fresh.peek().is_err(), "code {code}, beyond the limit");
            let message = Header::plain(0, Format::Bytes);
            (0..8).for_each(|unit| rig.memory.write_header(16 * unit, message));
            publish(&rig.memory, start.wrapping_add(128) | code);
            let mut fresh = Consumer::resume(rig.memory.clone(), geometry, Cursor::start(start));
            assert_eq!(fresh.peek().is_ok(), end.is_some(), "code {code}, at the limit");
        }
    }
}

/// Where the padding leads there is a message: it is beyond the tail, and was not sent.
#[test]
fn f28_padding_that_ends_beyond_the_tail_is_corrupt() {
    let geometry = Geometry::new(128, 128);
    for &start in STARTS {
        for ahead in [16, 32, 48] {
            let mut rig = Rig::new(geometry, start);
            (0..5).for_each(|_| rig.send(0));
            rig.drain();
            rig.memory.write_header(0, Header::plain(0, Format::Bytes));
            rig.memory.write_header(80, Header::Padding { len: 32 }.encode());
            publish(&rig.memory, start.wrapping_add(80 + ahead));
            let found = rig.consumer.peek();
            assert_eq!(found.ok(), (ahead == 48).then_some(Peek::Empty), "{ahead} bytes ahead");
        }
    }
}

/// Every head, against every state of a producer.
#[test]
fn f28_a_head_is_taken_only_between_the_last_one_and_the_tail() {
    let geometry = Geometry::new(128, 128);
    for &start in STARTS {
        for (committed, released) in (0..=3u64).flat_map(|c| (0..=c).map(move |r| (c, r))) {
            for offset in offsets(160) {
                let mut rig = Rig::new(geometry, start);
                (0..committed).for_each(|_| rig.send(0));
                store_head(&rig.memory, start.wrapping_add(16 * released));
                assert_eq!(rig.producer.unreleased(), Ok(16 * (committed - released)));
                let head = start.wrapping_add(16 * released).wrapping_add_signed(offset);
                store_head(&rig.memory, head);
                // A record that is staged and not committed cannot be released.
                rig.post(0).expect("there is room");
                let most = 16 * (committed - released) as i64;
                let fits = (0..=most).contains(&offset) && offset % 16 == 0;
                let answer = rig.producer.unreleased();
                assert_eq!(answer.is_ok(), fits, "{offset} from the last head: {answer:?}");
                assert_eq!(matches!(answer, Err(Refusal::Corrupt(_))), !fits);
            }
        }
    }
}

/// A head that lies costs the liar its own bytes: the producer stays inside its area.
#[test]
fn f28_a_head_that_lies_about_another_segment_keeps_records_in_bounds() {
    let geometry = Geometry::new(64, 256);
    for segment in 0..geometry.segments() {
        for index in (0..geometry.segment_len(segment)).step_by(16) {
            for behind in (0..=geometry.limit()).step_by(if cfg!(miri) { 80 } else { 16 }) {
                let cursor = Cursor { position: 4096, segment, entered: 4096 - 256 };
                let cursor = cursor.advanced(index);
                let memory = Memory::on_heap(geometry.limit());
                store_head(&memory, cursor.position - behind);
                let mut producer = Producer::resume(
                    memory.clone(),
                    geometry,
                    cursor,
                    [cursor.position; MAX_SEGMENTS],
                )
                .expect("within the limit");
                for len in [0, 16, 96, 0] {
                    if let Ok(plan) = producer.plan(len) {
                        let _ = memory.bytes(plan.payload_offset(), len);
                        producer.stage(plan, len as u32, Format::Bytes);
                    } else {
                        let _wake = producer.hop(len);
                    }
                }
                let _wake = producer.close(CloseKind::Dropped);
            }
        }
    }
}

#[test]
fn f52_eight_control_records_pass_and_the_ninth_is_corrupt() {
    let geometry = Geometry::new(32, 32 << 12);
    for controls in 0..=12u64 {
        let (memory, mut consumer, cursor) = stream_of_jumps(geometry, controls);
        let message =
            Header::Message { len: 0, format: Format::Bytes, attached: Attached::Nothing };
        memory.write_header(cursor.offset(&geometry), message.encode());
        publish(&memory, cursor.position.wrapping_add(16));
        let found = consumer.peek();
        assert_eq!(found.is_ok(), controls <= 8, "{controls} control records: {found:?}");
        assert_eq!(consumer.peek().is_ok(), found.is_ok(), "the same at a second look");
    }
}

/// Two jumps that lead to each other, and a tail at the greatest distance.
#[test]
fn f52_a_circle_of_jumps_is_corrupt_and_not_endless() {
    let geometry = Geometry::new(256, 512);
    let memory = Memory::on_heap(geometry.limit());
    let (_, mut consumer) = lane::fresh(&memory, geometry, 0);
    for segment in 0..2 {
        let cursor = Cursor { position: 0, segment, entered: 0 };
        let jump = Header::Jump { segment: 1 - segment };
        memory.write_header(cursor.offset(&geometry), jump.encode());
    }
    publish(&memory, geometry.limit());
    assert!(consumer.peek().is_err());
    assert_eq!(consumer.position(), 8 * 16);
}

#[test]
fn f52_control_records_count_across_looks_and_start_again_at_a_message() {
    let geometry = Geometry::new(32, 32 << 12);
    let (memory, mut consumer, mut cursor) = stream_of_jumps(geometry, 5);
    assert_eq!(consumer.peek(), Ok(Peek::Empty));
    cursor = write_jumps(&memory, geometry, cursor, 3);
    assert_eq!(consumer.peek(), Ok(Peek::Empty));
    let message = Header::Message { len: 0, format: Format::Bytes, attached: Attached::Nothing };
    memory.write_header(cursor.offset(&geometry), message.encode());
    cursor = cursor.advanced(16);
    publish(&memory, cursor.position);
    assert_eq!(next(&mut consumer), Ok(()));
    cursor = write_jumps(&memory, geometry, cursor, 8);
    assert_eq!(consumer.peek(), Ok(Peek::Empty));
    write_jumps(&memory, geometry, cursor, 1);
    assert!(consumer.peek().is_err());
}

/// The release of a message looks at what follows, and is as bounded as a peek.
#[test]
fn f52_a_release_passes_eight_control_records_at_most() {
    let geometry = Geometry::new(32, 32 << 12);
    let memory = Memory::on_heap(geometry.limit());
    let (_, mut consumer) = lane::fresh(&memory, geometry, 0);
    let message = Header::Message { len: 0, format: Format::Bytes, attached: Attached::Nothing };
    memory.write_header(0, message.encode());
    write_jumps(&memory, geometry, Cursor::start(0).advanced(16), 12);
    assert_eq!(next(&mut consumer), Ok(()));
    let _wake = consumer.release(consumer.position());
    assert_eq!(consumer.position(), 16 + 8 * 16);
    assert!(consumer.peek().is_err());
}

#[test]
fn f52_padding_elsewhere_than_up_to_the_end_is_corrupt() {
    let geometry = Geometry::new(64, 128);
    for cursor in cursors(geometry) {
        for len in (0..=128).step_by(16) {
            let memory = Memory::on_heap(geometry.limit());
            let mut consumer = Consumer::resume(memory.clone(), geometry, cursor);
            memory.write_header(cursor.offset(&geometry), Header::Padding { len }.encode());
            publish(&memory, cursor.position.wrapping_add(16 + u64::from(len)));
            let to_end = u64::from(len) + 16 == cursor.until_end(&geometry);
            assert_eq!(consumer.peek().is_ok(), to_end, "{len} bytes at {cursor:?}");
        }
    }
}

/// A lane that starts with this many jumps back and forth, and where it continues.
fn stream_of_jumps(geometry: Geometry, count: u64) -> (Memory, Consumer, Cursor) {
    let memory = Memory::on_heap(geometry.limit());
    let (_, consumer) = lane::fresh(&memory, geometry, 0);
    let cursor = write_jumps(&memory, geometry, Cursor::start(0), count);
    (memory, consumer, cursor)
}

/// Writes and publishes jumps, each to the next segment, round and round. A jump enters a segment
/// at its start, so two jumps on the way through one segment would be one.
fn write_jumps(memory: &Memory, geometry: Geometry, mut cursor: Cursor, count: u64) -> Cursor {
    for _ in 0..count {
        let segment = (cursor.segment + 1) % geometry.segments();
        memory.write_header(cursor.offset(&geometry), Header::Jump { segment }.encode());
        cursor = cursor.advanced(16).entering(segment);
    }
    publish(memory, cursor.position);
    cursor
}

/// Takes one message.
fn next(consumer: &mut Consumer) -> Result<(), Corruption> {
    match consumer.peek()? {
        Peek::Message(record) => {
            consumer.take(&record);
            Ok(())
        }
        other => panic!("no message, but {other:?}"),
    }
}

fn publish(memory: &Memory, tail: u64) {
    // Relaxed: one thread.
    memory.lane().producer.tail.store(tail, Ordering::Relaxed);
}

fn store_head(memory: &Memory, head: u64) {
    // Relaxed: one thread.
    memory.lane().consumer.head.store(head, Ordering::Relaxed);
}
