//! The ring against a model, on the heap, one step at a time.
//!
//! `Rig` holds both ends and the model; it documents what it checks at every step. Sizes shrink
//! under Miri, which checks each access.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::ring::awake::{Awake, Before, LONG};
use crate::ring::consumer::Peek;
use crate::ring::cursor::{Cursor, distance};
use crate::ring::fuzzing;
use crate::ring::harness::{CLOSE_KINDS, Op, Rig};
use crate::ring::notifier::{self, Fences, Sleep, Wake};
use crate::ring::producer::Refusal;
use crate::ring::segment::Geometry;
use crate::sync::{AtomicU32, Ordering, Site};
use crate::wire::layout::MAX_SEGMENTS;
use crate::wire::record::{CloseKind, record_len};

mod ahead;
mod hostile;
mod memory;
mod parts;
mod room;
mod threads;

proptest! {
    #![proptest_config(config(2_000, 4))]

    #[test]
    fn any_sequence_of_steps_delivers_each_message_once_in_order_and_whole(
        script in prop::collection::vec(any::<u8>(), 0..if cfg!(miri) { 120 } else { 600 }),
    ) {
        fuzzing::lane_ops(&script);
    }

    #[test]
    fn a_burst_is_seen_at_its_commit_and_not_before(
        geometry in geometries(),
        start in starts(),
        lens in prop::collection::vec(0..64u64, 1..40),
    ) {
        let mut rig = Rig::new(geometry, start);
        let mut staged = 0;
        for len in lens {
            staged += u64::from(rig.post(len).is_ok());
            prop_assert_eq!(rig.consumer.peek(), Ok(Peek::Empty));
        }
        rig.commit();
        let mut taken = 0;
        while rig.take() {
            taken += 1;
        }
        prop_assert_eq!(taken, staged);
        rig.finish();
    }

    #[test]
    fn ends_resumed_in_mid_stream_go_on(
        geometry in geometries(),
        segment in 0..8u32,
        entered in starts(),
        units in 0..100u64,
        lens in prop::collection::vec((0..200u64, 0..4u8), 1..40),
    ) {
        let segment = segment % geometry.segments();
        let cursor = Cursor { position: entered, segment, entered }.advanced(16 * units);
        let mut rig = Rig::at(geometry, cursor);
        for (len, step) in lens {
            let _ = rig.post(len);
            match step {
                0 => rig.apply(Op::ResumeProducer),
                1 => rig.apply(Op::ResumeConsumer),
                2 => rig.apply(Op::Take),
                _ => rig.apply(Op::Commit),
            }
        }
        rig.finish();
    }
}

/// What the fuzzer kept in its corpus, run without the fuzzer.
#[test]
#[cfg_attr(miri, ignore = "Miri reads no files")]
fn scripts_of_the_corpus_find_nothing() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    if !corpus.exists() {
        return; // The published package has none.
    }
    let record_stream: fn(&[u8]) = fuzzing::record_stream;
    for (target, body) in [("record_stream", record_stream), ("lane_ops", fuzzing::lane_ops)] {
        let files = fs::read_dir(corpus.join(target)).expect("each target has a corpus");
        let mut count = 0;
        for file in files {
            let path = file.expect("a readable directory").path();
            body(&fs::read(&path).expect("a readable file"));
            count += 1;
        }
        assert!(count > 10, "{count} scripts for {target}");
    }
}

#[test]
fn a_burst_grows_and_the_lane_shrinks_after_it() {
    let mut rig = Rig::new(Geometry::new(256, 4096), 0);
    let posted = rig.fill(40);
    rig.commit();
    assert!(posted > 4096 / 64 / 2, "{posted} messages filled the area");
    assert_ne!(rig.producer.cursor().segment, 0);
    assert_eq!(rig.producer.counters().growth, 4);
    rig.drain();
    // It shrinks at the first post after enough small ones, once the lane is empty.
    for _ in 0..64 {
        rig.send(40);
        rig.drain();
    }
    assert_eq!(rig.producer.cursor().segment, 0);
    rig.finish();
}

/// The segment in which the first burst ended is left by a jump at the first record of the second,
/// and entered again before the consumer has passed that jump: so the second burst makes no pages,
/// except for its last record.
#[test]
fn a_second_burst_ends_where_the_first_did() {
    let geometry = Geometry::new(256, 1 << 15);
    let mut rig = Rig::new(geometry, 0u64.wrapping_sub(1 << 12));
    let burst = |rig: &mut Rig, count| (0..count).for_each(|_| rig.send(40));
    burst(&mut rig, 200);
    let first = rig.producer.cursor();
    rig.drain();
    burst(&mut rig, 199);
    assert_eq!(rig.producer.cursor().segment, first.segment);
    assert_eq!(rig.producer.cursor().index(&geometry) + 64, first.index(&geometry));
    rig.send(40);
    assert_eq!(rig.producer.cursor().segment, first.segment + 1, "over the jump");
    rig.drain();
    burst(&mut rig, 200);
    assert_eq!(rig.producer.cursor().segment, first.segment, "the third finds all of it free");
    rig.drain();

    // Half of a burst: then it moves, and the new owner does not know how far it may go.
    burst(&mut rig, 190);
    assert_eq!(rig.producer.cursor().segment, first.segment);
    rig.apply(Op::ResumeProducer);
    rig.send(40);
    assert_eq!(rig.producer.cursor().segment, first.segment + 1);
    assert_eq!(rig.producer.close(CloseKind::Closed), Wake::NoSleeper);
    (0..191).for_each(|_| assert!(rig.take()));
    assert_eq!(rig.consumer.peek(), Ok(Peek::Closed(CloseKind::Closed)));
}

/// Otherwise the bytes in use would move while the lane is still busy with others.
#[test]
fn a_lane_shrinks_only_once_it_has_drained() {
    let mut rig = Rig::new(Geometry::new(256, 4096), 0);
    rig.fill(40);
    rig.commit();
    let away = rig.producer.cursor().segment;
    for behind in [3, 1] {
        rig.stream(40, 80, behind);
        assert_eq!(rig.producer.cursor().segment, away, "{behind} messages are still to come");
    }
    rig.stream(40, 1, 0);
    assert_eq!(rig.producer.cursor().segment, 0);
    rig.finish();
}

#[test]
fn a_stream_that_mixes_large_and_small_stays_where_both_fit() {
    let mut rig = Rig::new(Geometry::new(256, 4096), 0);
    rig.send(500);
    let settled = rig.producer.cursor().segment;
    for round in 0..if cfg!(miri) { 70 } else { 200 } {
        rig.send(if round % 10 == 0 { 500 } else { 8 });
        rig.drain();
        assert_eq!(rig.producer.cursor().segment, settled, "round {round}");
    }
}

#[test]
fn returning_to_the_base_waits_for_the_drain() {
    let mut rig = Rig::new(Geometry::new(64, 256), 0);
    rig.send(32);
    rig.send(32);
    assert_ne!(rig.producer.cursor().segment, 0);
    assert_eq!(rig.producer.go_to_base(), Ok(None));
    rig.take();
    rig.take();
    assert_eq!(rig.producer.go_to_base(), Ok(None));
    rig.release_all();
    assert_eq!(rig.producer.go_to_base(), Ok(Some(Wake::NoSleeper)));
    assert_eq!(rig.producer.go_to_base(), Ok(None));
    rig.drain();
    rig.finish();
}

#[test]
fn a_close_is_seen_after_every_message_and_stays() {
    for kind in CLOSE_KINDS {
        // At every fill: a close needs no room.
        for count in 0..12 {
            let mut rig = Rig::new(Geometry::new(64, 256), u64::MAX - 79);
            let sent = (0..count).filter(|_| rig.post(16).is_ok()).count();
            rig.commit();
            assert_eq!(rig.producer.close(kind), Wake::NoSleeper);
            for _ in 0..sent {
                assert!(rig.take());
                rig.release_all();
            }
            for _ in 0..2 {
                assert_eq!(rig.consumer.peek(), Ok(Peek::Closed(kind)));
            }
        }
    }
}

#[test]
fn a_close_commits_what_is_staged() {
    let mut rig = Rig::new(Geometry::new(64, 256), 0);
    rig.post(16).expect("there is room");
    assert_eq!(rig.producer.close(CloseKind::Closed), Wake::NoSleeper);
    assert!(matches!(rig.consumer.peek(), Ok(Peek::Message(_))));
}

#[test]
fn a_close_wakes_the_consumer_that_waits() {
    let mut rig = Rig::new(Geometry::new(64, 256), 0);
    rig.apply(Op::SleepForMessage(Sleep::Doorbell));
    assert_eq!(rig.producer.close(CloseKind::Dropped), Wake::Doorbell);
}

#[test]
fn open_room_ends_where_the_segment_or_what_is_released_does() {
    let mut rig = Rig::new(Geometry::new(256, 256), 0);
    (0..5).for_each(|_| rig.send(16));
    let room = |rig: &mut Rig| {
        let plan = rig.producer.plan_open(112).expect("an honest peer");
        plan.map(|plan| plan.payload_room())
    };
    assert_eq!(room(&mut rig), Some(256 - 160 - 32), "up to what is kept free");
    rig.drain();
    assert_eq!(room(&mut rig), Some(256 - 160 - 16), "up to the end");
    rig.send(16);
    assert_eq!(room(&mut rig), Some(48));
    rig.send(16);
    assert_eq!(room(&mut rig), None, "next to nothing");
}

#[test]
fn backlog_counts_what_is_committed_and_not_released() {
    let mut rig = Rig::new(Geometry::new(256, 256), 0);
    rig.send(16);
    rig.send(16);
    rig.post(16).expect("there is room");
    assert_eq!(rig.producer.backlog_messages(), 2);
    rig.take();
    rig.release_all();
    assert_eq!(rig.producer.backlog_messages(), 1);
    rig.commit();
    assert_eq!(rig.producer.backlog_messages(), 2);
    rig.memory.lane().consumed.messages.store(u64::MAX, Ordering::Relaxed);
    assert_eq!(rig.producer.backlog_messages(), 0, "a peer may say anything");
}

#[test]
fn a_reader_that_leaves_is_seen_and_ends_a_wait_for_room() {
    for (kind, code) in CLOSE_KINDS.into_iter().zip([1, 2]) {
        let mut rig = Rig::new(Geometry::new(64, 64), 0);
        rig.fill(0);
        rig.commit();
        rig.apply(Op::SleepForRoom { len: 0, sleep: Sleep::Futex });
        assert_eq!(rig.producer.reader_gone(), 0);
        assert_eq!(rig.consumer.close(kind), Wake::Futex);
        assert_eq!(rig.producer.reader_gone(), code);
        assert_eq!(rig.producer.prepare_wait(0, Sleep::Futex), notifier::Wait::Ready);
        assert_eq!(rig.consumer.close(kind), Wake::NoSleeper, "the flag was taken back");
    }
}

#[test]
fn a_flag_that_a_peer_made_up_is_a_ring_of_the_doorbell() {
    for (code, wake) in [(0, Wake::NoSleeper), (1, Wake::Futex), (2, Wake::Doorbell)]
        .into_iter()
        .chain([4, 255, u32::MAX].map(|nonsense| (nonsense, Wake::Doorbell)))
    {
        let flag = AtomicU32::new(code);
        assert_eq!(notifier::look_strictly(&flag, Site::FenceBeforeLook), wake);
        assert_eq!(flag.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_flag_is_not_put_back_over_one_that_was_armed_since() {
    let flag = AtomicU32::new(0);
    notifier::put_back(&flag, Sleep::Doorbell);
    assert_eq!(notifier::look_strictly(&flag, Site::FenceBeforeLook), Wake::Doorbell);
    // The next owner of the end sleeps another way.
    notifier::arm(&flag, Sleep::Futex);
    notifier::put_back(&flag, Sleep::Doorbell);
    assert_eq!(notifier::look_strictly(&flag, Site::FenceBeforeLook), Wake::Futex);
}

#[test]
fn a_side_that_sleeps_after_it_was_awake_needs_one_barrier() {
    let flag = AtomicU32::new(0);
    let mut awake = Awake::resume(&flag, 7);
    assert!(!awake.is_due(7 + LONG - 1) && awake.is_due(7 + LONG));
    assert_eq!(awake.get_ready(&flag, 8), Before::Nothing);
    assert!(!awake.is_due(8 + LONG - 1), "it was about to sleep");
    awake.stay_awake(&flag);
    assert!(!awake.is_due(u64::MAX), "it is awake already");
    for (fences, now) in [(Fences::UNLESS_AWAKE, 3), (Fences::ALWAYS, 3)] {
        assert_eq!(notifier::look(&flag, fences, Site::FenceBeforeLook), Wake::NoSleeper);
        assert_eq!(flag.load(Ordering::Relaxed), now);
    }
    // The next owner finds the flag, and so does one that takes over later.
    assert_eq!(Awake::resume(&flag, 0).get_ready(&flag, 0), Before::Barrier);
    assert_eq!(awake.get_ready(&flag, 9), Before::Barrier);
    assert_eq!(flag.load(Ordering::Relaxed), 0);
    assert_eq!(awake.get_ready(&flag, 9), Before::Nothing);
    notifier::arm(&flag, Sleep::Doorbell);
    assert_eq!(notifier::look(&flag, Fences::UNLESS_AWAKE, Site::FenceBeforeLook), Wake::Doorbell);
}

/// Halves that threads share: one of them sleeps, while others post.
#[test]
fn a_side_that_is_asleep_does_not_say_that_it_is_awake() {
    for sleep in [Sleep::Futex, Sleep::Doorbell] {
        let flag = AtomicU32::new(0);
        let mut awake = Awake::resume(&flag, 0);
        notifier::arm(&flag, sleep);
        awake.stay_awake(&flag);
        assert!(awake.is_due(LONG), "later");
        assert_eq!(flag.load(Ordering::Relaxed), sleep.code());
        notifier::disarm(&flag);
        awake.stay_awake(&flag);
        assert!(notifier::is_awake(&flag) && !awake.is_due(LONG));
    }
}

#[test]
fn counters_say_what_happened() {
    let mut rig = Rig::new(Geometry::new(64, 256), 0);
    rig.send(32);
    rig.apply(Op::SleepForMessage(Sleep::Futex));
    rig.take();
    rig.apply(Op::SleepForMessage(Sleep::Futex));
    rig.send(32);
    rig.fill(32);
    rig.producer.count_full();
    rig.commit();
    rig.apply(Op::SleepForRoom { len: 96, sleep: Sleep::Doorbell });
    rig.drain();
    let counters = rig.producer.counters();
    let lane = rig.memory.lane();
    let produced = [
        &lane.produced.messages,
        &lane.produced.bytes,
        &lane.produced.full,
        &lane.produced.growth,
        &lane.produced.wakes,
    ]
    .map(|word| word.load(Ordering::Relaxed));
    let own = [counters.messages, counters.bytes, counters.full, counters.growth, counters.wakes];
    assert_eq!(produced, own);
    assert_eq!((counters.full, counters.wakes), (1, 1));
    assert_eq!(counters.bytes, 32 * counters.messages);
    let consumed = [&lane.consumed.messages, &lane.consumed.bytes, &lane.consumed.wakes]
        .map(|word| word.load(Ordering::Relaxed));
    assert_eq!(consumed, [counters.messages, counters.bytes, 1]);
}

#[test]
fn unreleased_counts_committed_bytes_only() {
    let mut rig = Rig::new(Geometry::new(256, 256), u64::MAX - 15);
    rig.send(16);
    rig.send(16);
    rig.post(16).expect("there is room");
    assert_eq!(rig.producer.unreleased(), Ok(2 * record_len(16)));
    rig.take();
    assert_eq!(rig.producer.unreleased(), Ok(2 * record_len(16)));
    rig.release_all();
    assert_eq!(rig.producer.unreleased(), Ok(record_len(16)));
}

#[test]
fn a_producer_is_not_resumed_before_a_head_beyond_its_reach() {
    use crate::ring::producer::Producer;
    let geometry = Geometry::new(64, 256);
    let memory = crate::ring::memory::Memory::on_heap(256);
    for (position, head, fits) in [
        (0u64, 0u64, true),
        (256, 0, true),
        (272, 0, false),
        (0, 16, false),
        (248, 0, false),
        (128, 0u64.wrapping_sub(128), true),
        (128, 0u64.wrapping_sub(144), false),
    ] {
        memory.lane().consumer.head.store(head, Ordering::Relaxed);
        let producer = Producer::resume(
            memory.clone(),
            geometry,
            Cursor::start(position),
            [position; MAX_SEGMENTS],
        );
        assert_eq!(producer.is_ok(), fits, "{} behind", distance(position, head));
    }
}

/// Bounded and growing lanes, of a few units and of a few hundred.
fn geometries() -> impl Strategy<Value = Geometry> {
    (6..10u32, 0..5u32)
        .prop_map(|(capacity, doublings)| Geometry::new(1 << capacity, 1 << (capacity + doublings)))
}

/// Positions are compared by distance, so the wrap is where a mistake would show.
fn starts() -> impl Strategy<Value = u64> {
    (0..400u64, any::<bool>())
        .prop_map(|(units, before)| if before { 0u64.wrapping_sub(16 * units) } else { 16 * units })
}

fn config(cases: u32, cases_under_miri: u32) -> Config {
    let cases = if cfg!(miri) { cases_under_miri } else { cases };
    // No files: a failure is printed with its smallest input, which then becomes a test.
    Config { cases, failure_persistence: None, ..Config::default() }
}

#[test]
fn full_is_an_answer_and_not_an_error() {
    let mut rig = Rig::new(Geometry::new(64, 64), 0);
    rig.fill(0);
    rig.commit();
    assert_eq!(rig.plan(0), Err(Refusal::Full));
    rig.take();
    assert_eq!(rig.plan(0), Err(Refusal::Full), "taken is not released");
    rig.release_all();
    rig.send(0);
    rig.finish();
}
