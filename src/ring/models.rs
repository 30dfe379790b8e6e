//! The ring under loom: every interleaving of two threads, and every value that a load may see.
//!
//! The area's 16-byte units are tracked cells, headers and payload alike: a model fails when one
//! end reads a unit that the other may be writing, whatever was read. The kernel's sleep is a
//! `Notify`, which a thread touches only when it sleeps or wakes, so it hides no ordering. A lost
//! wake-up leaves a thread asleep without a waker, which loom reports.
//!
//! `loom_whole` runs the models; `loom_weakened` removes one ordering or one step at a time and
//! requires them to fail. Posts and polls take the paths of the link: the fast path first, if the
//! model has it, and the slow path when that finds nothing.

mod awake;
mod batches;
mod bias;
mod leaving;
mod loom_weakened;

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::Notify;
use loom::thread;

use crate::ring::consumer::{Consumer, Peek, Record};
use crate::ring::handover;
use crate::ring::lane;
use crate::ring::memory::Memory;
use crate::ring::notifier::{self, Sleep, Wait, Wake};
use crate::ring::producer::{Producer, Refusal};
use crate::ring::segment::Geometry;
use crate::sync::{AtomicBool, AtomicU32, Ordering, Site};
use crate::wire::record::{CloseKind, Format};

/// Publishing, reading and reuse in one segment, without a wait.
///
/// The lane is full, and the next record is placed at the segment's start. It covers bytes of the
/// record whose release makes the room for it. Bytes of an older one would not show a weak `head`,
/// as the fence of the release in between orders them as well.
fn ring() {
    let mut lane = Lane::new(Geometry::new(128, 128), &[1, 1, 1, 1, 2, 1]);
    lane.preload(4, 1);
    lane.race(4);
}

/// The same on the fast paths: a contiguous place, a peek at a plain message.
fn quick() {
    let mut lane = Lane::new(Geometry::new(128, 128), &[1, 1, 1, 1, 1, 1]);
    lane.is_quick = true;
    lane.preload(4, 1);
    lane.race(4);
}

/// A producer that changes its owner here. It loads what it knows of `head` once, when it takes the
/// end over.
fn resumed() {
    let mut lane = Lane::new(Geometry::new(128, 128), &[1, 1, 1, 1, 2]);
    lane.preload(4, 1);
    let Lane { producer, mut consumer, units, .. } = lane;
    let (memory, geometry) = (producer.memory().clone(), *producer.geometry());
    let (cursor, vacated_at) = (producer.cursor(), producer.vacated_at());
    drop(producer);
    let posting = thread::spawn(move || {
        let resumed = Producer::resume(memory, geometry, cursor, vacated_at);
        post(&mut resumed.expect("an honest peer"), 4, units[4], false).is_ok()
    });
    for number in 1..4 {
        assert!(receive_next(&mut consumer, number, units[number], false));
    }
    if posting.join().expect("the producer ends") {
        assert!(receive_next(&mut consumer, 4, units[4], false), "a message is lost");
    }
}

/// The producer goes back to the segment that a burst has left, once the lane is empty: the record
/// there covers bytes of the first one.
fn shrink() {
    let mut lane = Lane::new(Geometry::new(128, 256), &[5, 1, 1, 1]);
    lane.preload(3, 0);
    lane.race(3);
}

/// The same for segments that are left and entered again: each message fills one of the two.
fn growth() {
    let mut lane = Lane::new(Geometry::new(64, 128), &[2; 4]);
    lane.preload(2, 0);
    lane.race(3);
}

/// Growth after a shrink: the burst enters the segment that the lane has just left, before the
/// consumer has passed the jump. The last message covers that jump.
fn capped() {
    let mut lane = Lane::new(Geometry::new(128, 256), &[5, 1, 1, 2, 2, 1, 3]);
    lane.preload(4, 3);
    assert!(post(&mut lane.producer, 4, 2, false).is_ok(), "the base segment has room");
    lane.posted = 5;
    lane.race(2);
}

/// The consumer waits for messages, the producer never waits.
fn messages() {
    Lane::new(Geometry::new(128, 128), &[1; 2]).run();
}

/// The producer waits for room, while the consumer takes what is there.
fn room() {
    let mut lane = Lane::new(Geometry::new(128, 128), &[1; 4]);
    lane.preload(3, 0);
    lane.run();
}

/// Both wait. The last message has room only after a hop. The consumer may find only the jump of
/// that hop, and gives it back before it sleeps.
///
/// The first two messages fill the other segments while the third is posted, so that one stays
/// where it is, in the only segment that holds the last.
fn hop() {
    let mut lane = Lane::new(Geometry::new(64, 256), &[2, 2, 6, 6]);
    lane.preload(3, 2);
    lane.run();
}

/// The other segments become free by the release that also empties the only one that holds the next
/// message: a producer that is about to sleep then finds no room, but can hop.
fn late_hop() {
    let mut lane = Lane::new(Geometry::new(64, 256), &[2, 2, 6, 6]);
    lane.preload(3, 0);
    let Lane { mut producer, mut consumer, bells, units, .. } = lane;
    let producer_bells = bells.clone();
    let posting = thread::spawn(move || {
        assert!(post_waiting(&mut producer, &producer_bells, 3, units[3], false));
    });
    for number in 0..3 {
        let record = next_waiting(&mut consumer, &bells, false);
        read(&consumer, &record, number, units[number]);
        consumer.take(&record);
    }
    bells.room.wake(consumer.release(consumer.position()));
    let record = next_waiting(&mut consumer, &bells, false);
    bells.room.wake(receive(&mut consumer, &record, 3, units[3]));
    posting.join().expect("the producer ends");
}

/// The consumer takes a message, and looks again only when the producer has posted the next one:
/// for that the jump after the message must be given back with it.
fn controls() {
    let mut lane = Lane::new(Geometry::new(64, 256), &[6, 6]);
    lane.preload(1, 0);
    let Lane { mut producer, mut consumer, bells, units, .. } = lane;
    let producer_bells = bells.clone();
    let posting = thread::spawn(move || {
        assert!(post_waiting(&mut producer, &producer_bells, 1, units[1], false));
    });
    let record = next_waiting(&mut consumer, &bells, false);
    bells.room.wake(receive(&mut consumer, &record, 0, units[0]));
    posting.join().expect("the producer ends");
    assert!(receive_next(&mut consumer, 1, units[1], false), "a message is lost");
}

/// A former owner of the consumer left a flag behind, for another way of sleeping: the new owner's
/// flag is not lost by it.
fn take() {
    let lane = Lane::new(Geometry::new(128, 128), &[1; 2]);
    let flag = &lane.producer.memory().lane().sleepers.message_sleeper;
    // Relaxed: before the threads.
    flag.store(Sleep::Futex.code(), Ordering::Relaxed);
    lane.run();
}

/// A slot of a pool comes back while its maker waits for one, and is written again.
fn slot() {
    struct Slot {
        count: AtomicU32,
        waiting: AtomicU32,
        bytes: Cell,
    }
    let slot = Arc::new(Slot {
        count: AtomicU32::new(0),
        waiting: AtomicU32::new(0),
        bytes: Cell::default(),
    });
    let bell = Bell::default();
    let user = thread::spawn({
        let (slot, bell) = (slot.clone(), bell.clone());
        move || {
            slot.bytes.read();
            handover::return_slot(&slot.count);
            bell.wake(notifier::look_strictly(&slot.waiting, Site::FenceBeforeLook));
        }
    });
    // As `BufferPool` waits: it looks, and looks again after arming the flag.
    while handover::slot_count(&slot.count) == 0 {
        notifier::arm(&slot.waiting, Sleep::Doorbell);
        if handover::slot_count(&slot.count) == 0 {
            bell.sleep();
        }
        notifier::disarm(&slot.waiting);
    }
    slot.bytes.write();
    user.join().expect("the user ends");
}

/// A request is made, and seen or taken: then what was done before it is seen as well.
fn request(is_there: fn(&AtomicBool) -> bool) {
    let shared = Arc::new((AtomicBool::new(false), Cell::default()));
    let maker = thread::spawn({
        let shared = shared.clone();
        move || {
            shared.1.write();
            handover::request(&shared.0);
        }
    });
    if is_there(&shared.0) {
        shared.1.read();
    }
    maker.join().expect("the maker ends");
}

/// Bytes that loom tracks.
#[derive(Default)]
struct Cell(UnsafeCell<u8>);

impl Cell {
    fn read(&self) {
        self.0.with(|_| ());
    }

    fn write(&self) {
        self.0.with_mut(|_| ());
    }
}

/// Both ends, and how each is woken. Messages are numbered in their payload.
struct Lane {
    producer: Producer,
    consumer: Consumer,
    bells: Bells,
    /// Payload units of each message.
    units: &'static [u64],
    posted: usize,
    taken: usize,
    /// Whether the fast paths are tried first.
    is_quick: bool,
}

impl Lane {
    fn new(geometry: Geometry, units: &'static [u64]) -> Lane {
        let memory = Memory::on_heap(geometry.limit());
        let (producer, consumer) = lane::fresh(&memory, geometry, 0u64.wrapping_sub(64));
        let bells = Bells::default();
        Lane { producer, consumer, bells, units, posted: 0, taken: 0, is_quick: false }
    }

    /// Posts the first messages, and takes some of them, before the threads start.
    fn preload(&mut self, posts: usize, takes: usize) {
        let before_takes = takes.max(posts - 1);
        for number in 0..posts {
            if number == before_takes {
                (0..takes).for_each(|number| {
                    receive_next(&mut self.consumer, number, self.units[number], self.is_quick);
                });
            }
            let wake = post(&mut self.producer, number, self.units[number], self.is_quick);
            assert_eq!(wake, Ok(Wake::NoSleeper), "there is room");
        }
        (self.posted, self.taken) = (posts, takes);
    }

    /// Posts what is left in one thread as far as there is room, and takes up to `takes` messages
    /// in another; neither waits. Takes the rest afterwards: nothing is lost, duplicated or out of
    /// order.
    fn race(self, takes: usize) {
        let Lane { mut producer, mut consumer, units, posted, mut taken, is_quick, .. } = self;
        let posting = thread::spawn(move || {
            (posted..units.len())
                .find(|&number| post(&mut producer, number, units[number], is_quick).is_err())
                .unwrap_or(units.len())
        });
        for _ in 0..takes {
            taken += usize::from(receive_next(&mut consumer, taken, units[taken], is_quick));
        }
        let posted = posting.join().expect("the producer ends");
        while taken < posted {
            let found = receive_next(&mut consumer, taken, units[taken], is_quick);
            assert!(found, "a message is lost");
            taken += 1;
        }
        assert_eq!(consumer.peek(), Ok(Peek::Empty));
    }

    /// Posts what is left in one thread and receives all in another, each waiting if it has to. A
    /// side that no longer sleeps has left no flag.
    fn run(self) {
        let Lane { mut producer, mut consumer, bells, units, posted, taken, is_quick } = self;
        let producer_bells = bells.clone();
        let posting = thread::spawn(move || {
            for number in posted..units.len() {
                let units = units[number];
                assert!(post_waiting(&mut producer, &producer_bells, number, units, is_quick));
            }
        });
        for number in taken..units.len() {
            let record = next_waiting(&mut consumer, &bells, is_quick);
            bells.room.wake(receive(&mut consumer, &record, number, units[number]));
        }
        posting.join().expect("the producer ends");
        let sleepers = &consumer.memory().lane().sleepers;
        for flag in [&sleepers.message_sleeper, &sleepers.room_sleeper] {
            assert!(!notifier::is_armed(flag), "{FLAG_LEFT}");
        }
    }
}

/// Writes and commits message `number`.
fn post(
    producer: &mut Producer,
    number: usize,
    units: u64,
    is_quick: bool,
) -> Result<Wake, Refusal> {
    stage(producer, number, units, is_quick)?;
    Ok(producer.commit())
}

/// Writes message `number`.
fn stage(
    producer: &mut Producer,
    number: usize,
    units: u64,
    is_quick: bool,
) -> Result<(), Refusal> {
    let quick = if is_quick { producer.plan_fast(16 * units) } else { None };
    let plan = quick.map_or_else(|| producer.plan(16 * units), Ok)?;
    let first = plan.payload_offset();
    for unit in 0..units {
        producer.memory().write_unit(first + 16 * unit, [number as u64, unit]);
    }
    let len = (16 * units) as u32;
    match quick.and_then(|_| producer.grant(u64::from(len))) {
        Some(grant) => {
            let record = grant.seal(u64::from(len), Format::Bytes);
            producer.stage_fast(record, len);
        }
        None => producer.stage(plan, len, Format::Bytes),
    }
    if is_quick && !producer.has_contiguous() {
        producer.renew_contiguous(producer.geometry().segment_len(producer.cursor().segment));
    }
    Ok(())
}

/// The link's loop around `post`. Returns whether the message was sent; it is not if the consumer
/// has left.
fn post_waiting(
    producer: &mut Producer,
    bells: &Bells,
    number: usize,
    units: u64,
    is_quick: bool,
) -> bool {
    loop {
        match post(producer, number, units, is_quick) {
            Ok(wake) => {
                bells.message.wake(wake);
                return true;
            }
            Err(Refusal::Full) => {}
            Err(refusal) => panic!("{refusal:?}"),
        }
        if producer.reader_gone() != 0 {
            return false;
        }
        if let Some(wake) = producer.hop(16 * units) {
            bells.message.wake(wake);
            continue;
        }
        awake::act(producer.get_ready());
        if producer.prepare_wait(16 * units, Sleep::Doorbell) == Wait::Sleep {
            bells.room.sleep();
            producer.cancel_wait();
        }
    }
}

/// The link's loop around `peek`.
fn next_waiting(consumer: &mut Consumer, bells: &Bells, is_quick: bool) -> Record {
    loop {
        if is_quick && let Some(record) = consumer.peek_fast() {
            return record;
        }
        match consumer.peek().expect("an honest peer") {
            Peek::Message(record) => return record,
            Peek::Empty if consumer.has_unreleased() => {
                bells.room.wake(consumer.release(consumer.position()));
            }
            Peek::Empty => {
                awake::act(consumer.get_ready());
                if consumer.prepare_wait(Sleep::Doorbell) == Ok(Wait::Sleep) {
                    bells.message.sleep();
                    consumer.cancel_wait();
                }
            }
            Peek::Closed(kind) => panic!("no side closed, but the peek says {kind:?}"),
        }
    }
}

/// Receives message `number` if it is there, and returns whether it was.
fn receive_next(consumer: &mut Consumer, number: usize, units: u64, is_quick: bool) -> bool {
    let quick = if is_quick { consumer.peek_fast() } else { None };
    let found = quick.map_or_else(|| consumer.peek().expect("an honest peer"), Peek::Message);
    let Peek::Message(record) = found else { return false };
    let wake = receive(consumer, &record, number, units);
    assert_eq!(wake, Wake::NoSleeper);
    true
}

/// Reads message `number`, takes and releases it.
fn receive(consumer: &mut Consumer, record: &Record, number: usize, units: u64) -> Wake {
    read(consumer, record, number, units);
    consumer.take(record);
    consumer.release(record.end)
}

/// Reads message `number`, and compares it.
fn read(consumer: &Consumer, record: &Record, number: usize, units: u64) {
    assert_eq!(u64::from(record.len), 16 * units);
    for unit in 0..units {
        let found = consumer.memory().read_unit(record.payload_offset + 16 * unit);
        assert_eq!(found, [number as u64, unit], "message {number}");
    }
}

/// The doorbell of either end.
#[derive(Clone, Default)]
struct Bells {
    message: Bell,
    room: Bell,
}

/// The kernel's part of a doorbell: it remembers that it was rung. It also wakes spuriously once,
/// as a ring that came late does.
#[derive(Clone, Default)]
struct Bell(Arc<Notify>);

impl Bell {
    /// Wakes as the ring said. A futex call has no effect here: all sleep on their bells.
    fn wake(&self, wake: Wake) {
        if wake == Wake::Doorbell {
            self.0.notify();
        }
    }

    fn sleep(&self) {
        self.0.wait();
    }
}

/// A model, and how many preemptions of a thread are explored: all, except where that takes
/// minutes.
struct Model {
    run: fn(),
    preemptions: Option<usize>,
}

const RING: Model = Model { run: ring, preemptions: None };
const GROWTH: Model = Model { run: growth, preemptions: None };
const CAPPED: Model = Model { run: capped, preemptions: None };
const QUICK: Model = Model { run: quick, preemptions: None };
const RESUMED: Model = Model { run: resumed, preemptions: None };
const SHRINK: Model = Model { run: shrink, preemptions: None };
const CONTROLS: Model = Model { run: controls, preemptions: Some(3) };
const SLOT: Model = Model { run: slot, preemptions: None };
const SEEN_REQUEST: Model = Model { run: || request(handover::has_request), preemptions: None };
const TAKEN_REQUEST: Model = Model { run: || request(handover::take_request), preemptions: None };
const MESSAGES: Model = Model { run: messages, preemptions: None };
const ROOM: Model = Model { run: room, preemptions: None };
const AWAKE_FOR_MESSAGES: Model = Model { run: awake::for_messages, preemptions: Some(3) };
const AWAKE_FOR_ROOM: Model = Model { run: awake::for_room, preemptions: Some(3) };
const BATCH: Model = Model { run: batches::batch, preemptions: None };
const AHEAD: Model = Model { run: batches::ahead, preemptions: None };
const HOP: Model = Model { run: hop, preemptions: Some(3) };
const LATE_HOP: Model = Model { run: late_hop, preemptions: Some(3) };
const READER_GONE: Model = Model { run: leaving::reader_gone, preemptions: None };
const END: Model = Model { run: leaving::end, preemptions: None };
const END_ALONE: Model = Model { run: leaving::end_alone, preemptions: None };
const BIAS: Model = Model { run: bias::bias, preemptions: None };
const TAKE: Model = Model { run: take, preemptions: None };

impl Model {
    fn check(&self) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = self.preemptions;
        builder.check(self.run);
    }
}

/// The message of a model that finds a sleeper's flag armed when no side sleeps.
const FLAG_LEFT: &str = "a flag is left";

mod loom_whole {
    use super::*;

    #[test]
    fn the_ring_loses_and_tears_nothing() {
        RING.check();
    }

    #[test]
    fn nor_do_its_quick_ways() {
        QUICK.check();
    }

    #[test]
    fn a_new_owner_overwrites_nothing_that_is_read() {
        RESUMED.check();
    }

    #[test]
    fn a_shrink_overwrites_nothing_that_is_read() {
        SHRINK.check();
    }

    #[test]
    fn a_release_gives_back_what_stands_behind_the_message() {
        CONTROLS.check();
    }

    #[test]
    fn a_slot_is_written_again_after_its_user_is_through() {
        SLOT.check();
    }

    #[test]
    fn a_request_publishes_what_was_done_before() {
        SEEN_REQUEST.check();
        TAKEN_REQUEST.check();
    }

    #[test]
    fn growth_reuses_a_segment_only_after_it_was_read() {
        GROWTH.check();
    }

    #[test]
    fn growth_overwrites_no_jump_before_it_was_read() {
        CAPPED.check();
    }

    #[test]
    fn no_message_is_slept_over() {
        MESSAGES.check();
    }

    #[test]
    fn no_room_is_slept_over() {
        ROOM.check();
    }

    #[test]
    fn nor_by_a_side_that_was_awake_before() {
        AWAKE_FOR_MESSAGES.check();
        AWAKE_FOR_ROOM.check();
    }

    #[test]
    fn no_room_of_a_batch_is_slept_over() {
        BATCH.check();
    }

    #[test]
    fn what_was_copied_ahead_is_what_was_posted() {
        AHEAD.check();
    }

    #[test]
    fn a_hop_ends_with_both_awake() {
        HOP.check();
    }

    #[test]
    fn a_hop_that_becomes_possible_late_is_made() {
        LATE_HOP.check();
    }

    #[test]
    fn a_reader_that_leaves_wakes_the_producer() {
        READER_GONE.check();
    }

    #[test]
    fn the_end_of_a_lane_is_not_slept_over() {
        END.check();
        END_ALONE.check();
    }

    #[test]
    fn a_flag_left_behind_takes_no_other_away() {
        TAKE.check();
    }
}
