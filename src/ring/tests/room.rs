//! Room: what fits, what never fits, and what waits for what.

use crate::ring::consumer::Peek;
use crate::ring::cursor::{Cursor, distance};
use crate::ring::harness::{Op, Rig};
use crate::ring::notifier::{Sleep, Wait, Wake};
use crate::ring::producer::Refusal;
use crate::ring::segment::Geometry;
use crate::wire::record::{HEADER_LEN, record_len};

/// Lanes of one segment and of several, small enough to try every place.
fn small_geometries() -> impl Iterator<Item = Geometry> {
    let capacities: &[u64] = if cfg!(miri) { &[64] } else { &[64, 128, 256] };
    let doublings: &[u32] = if cfg!(miri) { &[0, 2] } else { &[0, 1, 2, 3] };
    capacities.iter().flat_map(move |&capacity| {
        doublings.iter().map(move |n| Geometry::new(capacity, capacity << n))
    })
}

/// Every cursor that an empty lane can have: each segment, each index, before and after the wrap of
/// positions.
fn cursors(geometry: Geometry) -> impl Iterator<Item = Cursor> {
    let entries = [0u64.wrapping_sub(48), 0, 1 << 40];
    let count = if cfg!(miri) { 1 } else { entries.len() };
    (0..geometry.segments()).flat_map(move |segment| {
        entries.into_iter().take(count).flat_map(move |entered| {
            (0..geometry.segment_len(segment))
                .step_by(16)
                .map(move |index| Cursor { position: entered, segment, entered }.advanced(index))
        })
    })
}

/// All of the area, as words.
fn area(rig: &Rig) -> Vec<[u64; 2]> {
    (0..rig.geometry.limit()).step_by(16).map(|offset| rig.memory.read_header(offset)).collect()
}

#[test]
fn f49_a_record_of_the_largest_size_fits_from_every_offset_of_every_segment() {
    for geometry in small_geometries() {
        for cursor in cursors(geometry) {
            let mut rig = Rig::at(geometry, cursor);
            for _ in 0..3 {
                rig.send_into_drained(geometry.largest_message());
            }
            rig.finish();
        }
    }
}

#[test]
fn f49_after_a_drain_any_record_fits_within_one_hop() {
    for geometry in small_geometries().filter(|geometry| geometry.limit() <= 512) {
        for cursor in cursors(geometry) {
            for len in (0..=geometry.largest_message()).step_by(if cfg!(miri) { 48 } else { 16 }) {
                let mut rig = Rig::at(geometry, cursor);
                rig.send_into_drained(len);
                rig.send_into_drained(0);
                rig.send_into_drained(len);
                rig.drain();
            }
        }
    }
}

#[test]
fn f49_too_large_is_said_at_once_and_exactly_beyond_the_largest() {
    for geometry in small_geometries() {
        for cursor in cursors(geometry).step_by(3) {
            let mut rig = Rig::at(geometry, cursor);
            let largest = geometry.largest_message();
            for beyond in [1, 2, 15, 16, 17, geometry.limit(), u64::from(u32::MAX)] {
                assert_eq!(rig.producer.plan(largest + beyond), Err(Refusal::TooLarge));
            }
            assert!(!matches!(rig.producer.plan(largest), Err(Refusal::TooLarge)));
            // A wish is not a requirement: it gets the room that there is.
            let open = rig.producer.plan_open(u64::from(u32::MAX)).expect("an honest peer");
            assert!(open.is_none_or(|plan| plan.payload_room() <= largest));
        }
    }
}

#[test]
fn a_full_lane_holds_at_least_half_of_its_limit() {
    for geometry in [(128, 128), (128, 1024), (256, 512)].map(|(c, l)| Geometry::new(c, l)) {
        let mut rig = Rig::new(geometry, 0);
        let bytes = rig.fill(16) * (16 + HEADER_LEN);
        assert!(2 * bytes >= geometry.limit(), "{bytes} bytes in {geometry:?}");
        rig.finish();
    }
}

/// The waiting producer needs only the jump after the message: the release of the message gives it
/// back as well, as the consumer may be busy elsewhere from now on.
#[test]
fn f52_a_release_gives_the_control_records_behind_it_back() {
    let geometry = Geometry::new(64, 128);
    let mut rig = Rig::new(geometry, 0);
    rig.send(32); // fills segment 0, and leaves it by a jump
    rig.send(32); // fills segment 1, and finds nowhere to go
    rig.apply(Op::SleepForRoom { len: 32, sleep: Sleep::Futex });
    assert!(rig.take());
    rig.release_all(); // one message; asserts the wake
    rig.send(32);
    rig.finish();
}

#[test]
fn f52_padding_behind_a_message_is_released_with_it() {
    let mut rig = Rig::new(Geometry::new(256, 256), 0);
    for _ in 0..5 {
        rig.send(32); // 48 each, 240 in all: 16 are left
        rig.drain();
    }
    rig.send(0);
    rig.send(96); // 256: the end
    rig.drain();
    rig.send(96);
    rig.drain();
    rig.send(48); // 176 of 256
    rig.send(96); // 80 of padding, then 112 at the start
    assert!(rig.take());
    rig.release_all();
    let unreleased = rig.producer.unreleased().expect("an honest peer");
    assert_eq!(unreleased, 96 + HEADER_LEN, "the padding is still held");
    rig.finish();
}

/// A record that does not fit at every index leaves its segment at once: so the next such record
/// enters the segment as soon as the first is released, without a hop.
#[test]
fn a_stream_of_the_largest_records_needs_no_hop() {
    for geometry in small_geometries() {
        let mut rig = Rig::new(geometry, 0);
        for _ in 0..20 {
            rig.send(geometry.largest_message());
            rig.drain();
        }
    }
}

/// A lane whose current segment is the only one that holds the largest record, but not at every
/// index; the others were in use when it came, and are free now.
fn lane_before_a_hop(start: u64) -> Rig {
    let geometry = Geometry::new(64, 256);
    let mut rig = Rig::new(geometry, start);
    rig.send(32); // fills segment 0
    rig.send(32); // fills segment 1
    rig.send(geometry.largest_message()); // fills segment 2, and finds nowhere to go
    assert_eq!(rig.producer.cursor().segment, 2);
    assert!(rig.take() && rig.take());
    rig.release_all();
    rig
}

/// A jump that no message followed: the consumer finds nothing after it, and gives it back before
/// it sleeps. Otherwise both would sleep forever.
#[test]
fn a_jump_alone_is_given_back_before_the_consumer_sleeps() {
    let mut rig = lane_before_a_hop(0);
    let largest = rig.geometry.largest_message();
    rig.drain();
    assert_eq!(rig.plan(largest), Err(Refusal::Full), "it cannot go round here");
    assert!(rig.producer.can_hop(largest));
    assert!(rig.hop(largest));
    assert!(!rig.producer.can_hop(largest));
    rig.apply(Op::SleepForRoom { len: largest, sleep: Sleep::Doorbell });
    assert_eq!(rig.consumer.peek(), Ok(Peek::Empty));
    assert!(rig.consumer.has_unreleased(), "the jump was passed");
    rig.release_all(); // asserts the wake
    rig.send(largest);
    rig.finish();
}

#[test]
fn f58_a_failed_plan_changes_nothing() {
    for geometry in small_geometries() {
        for cursor in cursors(geometry) {
            let mut rig = Rig::at(geometry, cursor);
            let largest = geometry.largest_message();
            // At every fill: full for the largest, too large, and given up half-way, in a row.
            for round in 0..if cfg!(miri) { 4 } else { 20 } {
                let before = area(&rig);
                let full = rig.plan(largest) == Err(Refusal::Full);
                assert_eq!(rig.plan(largest + 1), Err(Refusal::TooLarge));
                assert!(area(&rig) == before, "a plan wrote something");
                rig.apply(Op::GiveUp { len: if full { 0 } else { largest } });
                if rig.post(round % 3 * 8).is_err() {
                    break;
                }
            }
            rig.finish();
        }
    }
}

/// A hop that did not help yet keeps its jump committed, and position, segment and entry agree: the
/// next records, small or large, are where the consumer looks for them.
#[test]
fn f58_a_post_that_fails_after_its_hop_leaves_the_lane_in_order() {
    for after in [0, 16, 32, 48, 96] {
        let mut rig = lane_before_a_hop(0u64.wrapping_sub(64));
        let largest = rig.geometry.largest_message();
        assert_eq!(rig.post(largest), Err(Refusal::Full));
        assert!(rig.hop(largest));
        assert_eq!(rig.post(largest), Err(Refusal::Full), "the consumer has not followed");
        assert!(!rig.hop(largest), "a second hop would lead nowhere");
        if after < largest {
            let _ = rig.post(after);
            rig.commit();
        }
        rig.drain();
        rig.send_into_drained(after);
        rig.finish();
    }
}

#[test]
fn only_a_record_that_fits_nowhere_else_hops() {
    let mut rig = Rig::new(Geometry::new(64, 256), 0);
    rig.fill(0);
    rig.commit();
    assert_eq!(rig.producer.hop(0), None);
    let mut bounded = Rig::new(Geometry::new(64, 64), 0);
    bounded.fill(0);
    bounded.commit();
    assert_eq!(bounded.producer.hop(0), None, "one segment, nowhere to hop");
}

#[test]
fn a_wait_that_cannot_help_is_ready_at_once() {
    let geometry = Geometry::new(64, 256);
    let mut rig = Rig::new(geometry, 0);
    let too_large = geometry.largest_message() + 1;
    assert_eq!(rig.producer.prepare_wait(too_large, Sleep::Futex), Wait::Ready);
    assert_eq!(rig.producer.prepare_wait(0, Sleep::Futex), Wait::Ready);
    // The flag was taken back: no later wake comes.
    rig.send(0);
    rig.take();
    assert_eq!(rig.consumer.release(rig.consumer.position()), Wake::NoSleeper);
}

/// Contiguous room ends with the segment, with the pages that exist, and with what is not released;
/// up to there it is used.
#[test]
fn plain_room_goes_as_far_as_it_may_and_no_further() {
    let geometry = Geometry::new(256, 1024);
    for cursor in cursors(geometry).filter(|cursor| cursor.segment == 0) {
        for (unread, made) in [0, 1, 3]
            .into_iter()
            .flat_map(|unread| [0, 16, 64, 240, 256].into_iter().map(move |made| (unread, made)))
        {
            let mut rig = Rig::at(geometry, cursor);
            (0..unread).for_each(|_| rig.send(16));
            rig.producer.renew_contiguous(made);
            let here = rig.producer.cursor();
            let (index, used) = (here.index(&geometry), distance(here.position, cursor.position));
            for len in 0..=geometry.largest_message() {
                let record = record_len(len);
                let is_made = made == 256 || index + record + 16 <= made;
                let is_free = used + record + 16 <= 256;
                let is_plain = len <= 96 && index + record <= 256 && is_made && is_free;
                assert_eq!(
                    rig.producer.plan_fast(len).is_some(),
                    is_plain && here.segment == 0,
                    "{len} bytes at {index}, {used} used, {made} made"
                );
            }
        }
    }
}
