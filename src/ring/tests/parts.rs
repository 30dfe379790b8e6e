//! Parts that the rig does not use, because only the link does: who owns a lock, requests, slots,
//! short messages, and what an end tells its next owner.

use crate::ring::bias::{Bias, Entered, Entry};
use crate::ring::consumer::{Peek, Record};
use crate::ring::handover;
use crate::ring::harness::{Op, Rig};
use crate::ring::lane;
use crate::ring::memory::Memory;
use crate::ring::notifier::{self, Fences, Wake};
use crate::ring::segment::Geometry;
use crate::sync::{AtomicBool, AtomicU32, Ordering, Site};
use crate::wire::record::{Attached, Format};

/// How often in a row a thread takes a lock before it owns it.
const OFTEN: u32 = 1024;
const ONE: u64 = 7;
const OTHER: u64 = 8;

/// A thread without ownership takes and gives back the lock so often.
fn take_as(bias: &Bias, me: u64, times: u32, may_own: bool) {
    for _ in 0..times {
        assert_eq!(bias.enter(me), Entered::No);
        assert_eq!(bias.take(), Entry::Nothing);
        bias.hold(me);
        assert_eq!(bias.enter(me), Entered::Before);
        assert_eq!(bias.enter(ONE + OTHER), Entered::No, "it is inside, and no other");
        bias.let_go(|| may_own);
    }
}

#[test]
fn a_lock_is_owned_by_the_thread_that_takes_it_often_in_a_row() {
    let bias = Bias::new();
    take_as(&bias, ONE, OFTEN - 1, true);
    take_as(&bias, OTHER, 1, true);
    take_as(&bias, ONE, OFTEN, false);
    take_as(&bias, ONE, OFTEN, true);
    assert_eq!(bias.enter(OTHER), Entered::No);
    assert!(bias.is_free());
    for _ in 0..2 {
        assert_eq!(bias.enter(ONE), Entered::Yes);
        assert!(!bias.is_free());
        assert_eq!(bias.enter(ONE), Entered::Before);
        assert_eq!(bias.enter(OTHER), Entered::No);
        bias.leave();
        assert!(bias.is_free());
    }
}

#[test]
fn a_lock_that_another_thread_took_from_its_owner_has_none_any_more() {
    let bias = Bias::new();
    take_as(&bias, ONE, OFTEN, true);
    assert_eq!(bias.take(), Entry::Barrier);
    bias.hold(OTHER);
    bias.let_go(|| true);
    take_as(&bias, ONE, 2 * OFTEN, true);
}

#[test]
fn a_request_is_taken_once() {
    let flag = AtomicBool::new(false);
    assert!(!handover::has_request(&flag) && !handover::take_request(&flag));
    handover::request(&flag);
    assert!(handover::has_request(&flag) && handover::has_request(&flag), "a look leaves it");
    assert!(handover::take_request(&flag));
    assert!(!handover::take_request(&flag) && !handover::has_request(&flag));
}

#[test]
fn each_return_of_a_slot_counts_and_the_count_goes_round() {
    let count = AtomicU32::new(u32::MAX - 1);
    for expected in [u32::MAX - 1, u32::MAX, 0, 1, 2] {
        assert_eq!(handover::slot_count(&count), expected);
        handover::return_slot(&count);
    }
}

#[test]
fn a_short_message_is_found_in_its_header_by_each_peek() {
    let mut rig = Rig::new(Geometry::new(256, 256), 32);
    rig.producer.renew_contiguous(256);
    for payload_offset in [8u64, 24] {
        let end = 32 + payload_offset + 8;
        let (len, format, attached) = (3, Format::Text, Attached::Nothing);
        let record = Record { payload_offset, len, format, attached, end };
        assert!(record.is_short());
        assert!(rig.producer.stage_short(3, Format::Text, 0x63_6261));
        assert_eq!(rig.producer.commit(), Wake::NoSleeper);
        assert_eq!(rig.consumer.peek(), Ok(Peek::Message(record)));
        assert_eq!(rig.consumer.peek_fast(), Some(record));
        rig.consumer.take(&record);
    }
    let produced = rig.producer.counters();
    assert_eq!((produced.messages, produced.bytes), (2, 6));
}

#[test]
fn what_comes_behind_a_message_in_its_payload_is_not_the_message() {
    let attached = Attached::Small { count: 2, len: 16 };
    let whole = Record { payload_offset: 16, len: 56, format: Format::Bytes, attached, end: 72 };
    assert_eq!(whole.message(), Record { len: 40, ..whole });
    assert!(!whole.is_short());
    let plain = Record { attached: Attached::Nothing, ..whole };
    assert_eq!(plain.message(), plain);
}

#[test]
fn an_end_that_moved_counts_on() {
    let mut rig = Rig::new(Geometry::new(64, 256), 0);
    (0..3).for_each(|_| rig.send(32));
    rig.producer.count_full();
    let counters = rig.producer.counters();
    assert!(counters.growth > 0 && counters.messages == 3 && counters.full == 1);
    rig.apply(Op::ResumeProducer);
    assert_eq!(rig.producer.counters(), counters);
}

/// It is no flag that this crate writes: a peer harms itself with it.
#[test]
fn a_flag_at_which_no_fence_is_ever_omitted_wakes_no_one() {
    let flag = AtomicU32::new(u32::MAX);
    let look = |fences| notifier::look(&flag, fences, Site::FenceBeforeLook);
    assert_eq!(look(Fences::ALWAYS), Wake::NoSleeper);
    assert_eq!(flag.load(Ordering::Relaxed), u32::MAX);
    assert_eq!(look(Fences::UNLESS_AWAKE), Wake::Doorbell);
}

#[test]
fn a_waker_that_comes_after_another_one_wakes_no_sleeper() {
    for (code, wake) in [(0, Wake::NoSleeper), (3, Wake::NoSleeper), (1, Wake::Futex)] {
        let flag = AtomicU32::new(code);
        assert_eq!(notifier::take(&flag), wake);
        assert_eq!(flag.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_lane_shrinks_after_records_that_were_staged_by_plans_alone() {
    let memory = Memory::on_heap(4096);
    let (mut producer, mut consumer) = lane::fresh(&memory, Geometry::new(256, 4096), 0);
    let mut send = |len: u32| {
        let plan = producer.plan(u64::from(len)).expect("the lane is empty");
        producer.stage(plan, len, Format::Bytes);
        assert_eq!(producer.commit(), Wake::NoSleeper);
        let Ok(Peek::Message(record)) = consumer.peek() else { panic!("no message") };
        consumer.take(&record);
        assert_eq!(consumer.release_all(), Wake::NoSleeper);
        producer.cursor().segment
    };
    let settled = send(500);
    assert_ne!(settled, 0);
    assert!((0..64).all(|_| send(40) == settled), "before it has settled");
    assert_eq!(send(500), settled, "no smaller segment holds it");
    assert!((0..64).all(|_| send(40) == settled), "not 64 in a row");
    assert_eq!(send(40), 0);
    assert!((0..64).all(|_| send(40) == 0));
}

#[test]
fn a_plan_turns_where_a_control_record_leads_to_it() {
    let mut rig = Rig::new(Geometry::new(256, 1024), 0);
    for _ in 0..3 {
        assert!(!rig.plan(40).expect("there is room").turns());
        rig.send(40);
    }
    assert!(rig.plan(40).expect("the next segment is free").turns());
    assert!(!rig.producer.is_free(0) && rig.producer.is_free(1));
}

#[test]
fn each_end_knows_the_capacity() {
    let rig = Rig::new(Geometry::new(64, 256), 0);
    assert_eq!((rig.producer.geometry().capacity(), rig.consumer.capacity()), (64, 64));
    assert_eq!(rig.producer.geometry().limit(), 256);
}

/// Outside the base segment a place is found fast, unless it may be time to shrink: the lane is
/// empty, and enough records would have fitted a smaller segment.
#[test]
fn a_grant_is_refused_where_the_lane_may_shrink() {
    let geometry = Geometry::new(256, 1 << 14);
    let mut rig = Rig::new(geometry, 0);
    assert!(!rig.producer.has_contiguous() && rig.producer.grant(8).is_none());
    rig.send(1000);
    let here = geometry.segment_len(rig.producer.cursor().segment);
    rig.drain();
    for count in 0..64 {
        rig.producer.renew_contiguous(here);
        assert!(rig.producer.has_contiguous());
        assert!(rig.producer.grant(8).is_some(), "empty, and {count} would have fitted");
        rig.send(8);
        rig.drain();
    }
    rig.producer.renew_contiguous(here);
    assert!(rig.producer.grant(8).is_none(), "it may shrink");
    rig.post(8).expect("there is room");
    rig.producer.renew_contiguous(here);
    assert!(rig.producer.grant(8).is_some(), "it is not empty");
}

#[test]
fn an_open_grant_has_room_for_the_wish_or_more() {
    let mut rig = Rig::new(Geometry::new(256, 256), 0);
    assert!(rig.producer.open_grant(16).is_none(), "no page is known to be there");
    rig.producer.renew_contiguous(64 + 16);
    assert_eq!(rig.producer.open_grant(16).map(|grant| grant.len()), Some(64));
    assert_eq!(rig.producer.plan_open_fast(48).map(|plan| plan.payload_room()), Some(48));
    assert!(rig.producer.plan_open_fast(49).is_none());
    rig.producer.renew_contiguous(256);
    assert_eq!(rig.producer.plan_open_fast(8), rig.producer.plan_fast(96), "the most for a base");
}

#[test]
fn a_recheck_is_due_after_so_many_messages() {
    let mut rig = Rig::new(Geometry::new(256, 256), 0);
    for messages in [0u32, 1, 3] {
        rig.producer.recheck_after(messages);
        for _ in 0..messages {
            assert!(!rig.producer.is_recheck_due());
            rig.send(8);
            rig.drain();
        }
        assert!(rig.producer.is_recheck_due(), "after {messages}");
        rig.send(8);
        rig.drain();
        assert!(rig.producer.is_recheck_due(), "it stays due");
    }
}
