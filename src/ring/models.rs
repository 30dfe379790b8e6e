//! The ring under loom: every interleaving of two threads, and every value that a load may see.
//!
//! The area's 16-byte units are tracked cells, headers and payload alike: a model fails when one
//! end reads a unit that the other may be writing, whatever was read. The kernel's sleep is a
//! `Notify`, touched by nobody who neither sleeps nor wakes, so no ordering is hidden by
//! it; a lost wake-up leaves a thread asleep that nobody will wake, which loom reports.
//!
//! `loom_whole` runs the models; `loom_weakened` takes one ordering or one step away at a time and
//! wants them to fail.

use std::sync::Arc;

use loom::sync::Notify;
use loom::thread;

use crate::ring::consumer::{Consumer, Peek, Record};
use crate::ring::lane;
use crate::ring::memory::Memory;
use crate::ring::notifier::{Sleep, Wait, Wake};
use crate::ring::producer::{Producer, Refusal};
use crate::ring::segment::Geometry;
use crate::sync::Ordering;
use crate::wire::record::{Farewell, Format};

/// Publishing, reading and reuse in a segment that goes round, without a wait.
///
/// The lane is full, and the next record stands at the segment's start. It covers bytes of the
/// record whose release makes the room for it: those of an older one would not show a weak `head`,
/// as the fence of the release in between orders them as well.
fn ring() {
    let mut lane = Lane::new(Geometry::new(128, 128), &[1, 1, 1, 1, 2, 1]);
    lane.preload(4, 1);
    lane.race(4);
}

/// The same for segments that are left and entered again: each message fills one of the two.
fn growth() {
    let mut lane = Lane::new(Geometry::new(64, 128), &[2; 4]);
    lane.preload(2, 0);
    lane.race(3);
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

/// Both wait: the last message has room only after a hop, of which the consumer may find the jump
/// alone, and gives it back before it sleeps.
///
/// The first two messages fill the other segments while the third is posted, which so stays where
/// it is, in the only segment that holds the last.
fn hop() {
    let mut lane = Lane::new(Geometry::new(64, 256), &[2, 2, 6, 6]);
    lane.preload(3, 2);
    lane.run();
}

/// The consumer leaves, while the producer waits for room that nobody will make.
fn reader_gone() {
    let mut lane = Lane::new(Geometry::new(128, 128), &[1; 4]);
    lane.preload(3, 0);
    let Lane { mut producer, mut consumer, bells, .. } = lane;
    let producer_bells = bells.clone();
    let posting = thread::spawn(move || {
        let sent = post_waiting(&mut producer, &producer_bells, 3, 1);
        assert!(!sent, "there was no room");
    });
    bells.room.wake(consumer.leave(Farewell::Dropped));
    posting.join().expect("the producer ends");
}

/// A flag that a former owner of the consumer left behind, for another way of sleeping: the new
/// owner's is not lost by it.
fn take() {
    let lane = Lane::new(Geometry::new(128, 128), &[1; 2]);
    let flag = &lane.producer.memory().lane().sleepers.message_sleeper;
    // Relaxed: before the threads.
    flag.store(Sleep::Futex.code(), Ordering::Relaxed);
    lane.run();
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
}

impl Lane {
    fn new(geometry: Geometry, units: &'static [u64]) -> Lane {
        let memory = Memory::on_heap(geometry.limit());
        let (producer, consumer) = lane::fresh(&memory, geometry, 0u64.wrapping_sub(64));
        Lane { producer, consumer, bells: Bells::default(), units, posted: 0, taken: 0 }
    }

    /// Posts the first messages, and takes some of them, before the threads start.
    fn preload(&mut self, posts: usize, takes: usize) {
        let before_takes = takes.max(posts - 1);
        for number in 0..posts {
            if number == before_takes {
                (0..takes).for_each(|number| {
                    receive_next(&mut self.consumer, number, self.units[number]);
                });
            }
            let wake = post(&mut self.producer, number, self.units[number]).expect("there is room");
            assert_eq!(wake, Wake::Nobody);
        }
        (self.posted, self.taken) = (posts, takes);
    }

    /// Posts what is left in one thread as far as there is room, and takes up to `takes` messages
    /// in another, nobody waiting. What is left then is taken afterwards: nothing is lost, doubled
    /// or out of order.
    fn race(self, takes: usize) {
        let Lane { mut producer, mut consumer, units, posted, mut taken, .. } = self;
        let posting = thread::spawn(move || {
            (posted..units.len())
                .find(|&number| post(&mut producer, number, units[number]).is_err())
                .unwrap_or(units.len())
        });
        for _ in 0..takes {
            taken += usize::from(receive_next(&mut consumer, taken, units[taken]));
        }
        let posted = posting.join().expect("the producer ends");
        while taken < posted {
            assert!(receive_next(&mut consumer, taken, units[taken]), "a message is lost");
            taken += 1;
        }
        assert_eq!(consumer.peek(), Ok(Peek::Empty));
    }

    /// Posts what is left in one thread and receives all in another, each waiting if it has to.
    fn run(self) {
        let Lane { mut producer, mut consumer, bells, units, posted, taken } = self;
        let producer_bells = bells.clone();
        let posting = thread::spawn(move || {
            for number in posted..units.len() {
                assert!(post_waiting(&mut producer, &producer_bells, number, units[number]));
            }
        });
        for number in taken..units.len() {
            let record = next_waiting(&mut consumer, &bells);
            bells.room.wake(receive(&mut consumer, &record, number, units[number]));
        }
        posting.join().expect("the producer ends");
    }
}

/// Writes and commits message `number`.
fn post(producer: &mut Producer, number: usize, units: u64) -> Result<Wake, Refusal> {
    let plan = producer.plan(16 * units)?;
    let first = plan.payload_offset();
    for unit in 0..units {
        producer.memory().write_unit(first + 16 * unit, [number as u64, unit]);
    }
    producer.stage(plan, (16 * units) as u32, Format::Bytes);
    Ok(producer.commit())
}

/// The link's loop around `post`. Says whether the message was sent; not, if nobody reads.
fn post_waiting(producer: &mut Producer, bells: &Bells, number: usize, units: u64) -> bool {
    loop {
        match post(producer, number, units) {
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
        if producer.prepare_wait(16 * units, Sleep::Doorbell) == Wait::Sleep {
            bells.room.sleep();
        }
    }
}

/// The link's loop around `peek`.
fn next_waiting(consumer: &mut Consumer, bells: &Bells) -> Record {
    loop {
        match consumer.peek().expect("an honest peer") {
            Peek::Message(record) => return record,
            Peek::Empty if consumer.has_unreleased() => {
                bells.room.wake(consumer.release(consumer.position()));
            }
            Peek::Empty => {
                if consumer.prepare_wait(Sleep::Doorbell) == Ok(Wait::Sleep) {
                    bells.message.sleep();
                }
            }
            Peek::Closed(farewell) => panic!("nobody closed, but it says {farewell:?}"),
        }
    }
}

/// Receives message `number` if it is there, and says whether it was.
fn receive_next(consumer: &mut Consumer, number: usize, units: u64) -> bool {
    let Peek::Message(record) = consumer.peek().expect("an honest peer") else { return false };
    let wake = receive(consumer, &record, number, units);
    assert_eq!(wake, Wake::Nobody);
    true
}

/// Reads message `number`, takes and releases it.
fn receive(consumer: &mut Consumer, record: &Record, number: usize, units: u64) -> Wake {
    assert_eq!(u64::from(record.len), 16 * units);
    for unit in 0..units {
        let found = consumer.memory().read_unit(record.payload_offset + 16 * unit);
        assert_eq!(found, [number as u64, unit], "message {number}");
    }
    consumer.take(record);
    consumer.release(record.end)
}

/// The doorbell of either end.
#[derive(Clone, Default)]
struct Bells {
    message: Bell,
    room: Bell,
}

/// What the kernel does for a doorbell: it remembers that it was rung. It also wakes for nothing,
/// once, as a ring that came late does.
#[derive(Clone, Default)]
struct Bell(Arc<Notify>);

impl Bell {
    /// Wakes as the ring said. A futex call wakes nobody here: all sleep on their bells.
    fn wake(&self, wake: Wake) {
        if wake == Wake::Doorbell {
            self.0.notify();
        }
    }

    fn sleep(&self) {
        self.0.wait();
    }
}

/// A model, and how many preemptions of a thread are explored: all, but where that takes minutes.
struct Model {
    run: fn(),
    preemptions: Option<usize>,
}

const RING: Model = Model { run: ring, preemptions: None };
const GROWTH: Model = Model { run: growth, preemptions: None };
const MESSAGES: Model = Model { run: messages, preemptions: None };
const ROOM: Model = Model { run: room, preemptions: None };
const HOP: Model = Model { run: hop, preemptions: Some(3) };
const READER_GONE: Model = Model { run: reader_gone, preemptions: None };
const TAKE: Model = Model { run: take, preemptions: None };

impl Model {
    fn check(&self) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = self.preemptions;
        builder.check(self.run);
    }
}

mod loom_whole {
    use super::*;

    #[test]
    fn the_ring_loses_and_tears_nothing() {
        RING.check();
    }

    #[test]
    fn growth_reuses_a_segment_only_after_it_was_read() {
        GROWTH.check();
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
    fn a_hop_ends_with_both_awake() {
        HOP.check();
    }

    #[test]
    fn a_reader_that_leaves_wakes_the_producer() {
        READER_GONE.check();
    }

    #[test]
    fn a_flag_left_behind_takes_no_other_away() {
        TAKE.check();
    }
}

mod loom_weakened {
    use super::*;
    use crate::sync::{ALL_SITES, Site, with_weakened};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// What loom says when one end reads a unit that the other may be writing.
    const RACE: &str = "Causality violation";
    /// What loom says when everybody sleeps.
    const LOST_WAKE: &str = "deadlock";

    /// Asserts that each model fails without `site`, for the reason it is there.
    fn fail_without(site: Site, reason: &str, models: &[Model]) {
        for (index, model) in models.iter().enumerate() {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                with_weakened(site, || model.check());
            }));
            let panic = outcome.expect_err(&format!("model {index} holds without {site:?}"));
            let said = match panic.downcast::<String>() {
                Ok(said) => *said,
                Err(_) => "a panic without a text".to_owned(),
            };
            assert!(said.contains(reason), "model {index} without {site:?} says: {said}");
        }
    }

    #[test]
    fn without_publish_tail_release_the_ring_model_fails() {
        fail_without(Site::PublishTail, RACE, &[RING, GROWTH, MESSAGES]);
    }

    #[test]
    fn without_read_tail_acquire_the_ring_model_fails() {
        fail_without(Site::ReadTail, RACE, &[RING, GROWTH, MESSAGES]);
    }

    #[test]
    fn without_publish_head_release_the_ring_and_growth_models_fail() {
        fail_without(Site::PublishHead, RACE, &[RING, GROWTH]);
    }

    #[test]
    fn without_read_head_acquire_the_ring_and_growth_models_fail() {
        fail_without(Site::ReadHead, RACE, &[RING, GROWTH]);
    }

    #[test]
    fn without_the_wakers_fence_the_message_and_room_models_fail() {
        fail_without(Site::FenceBeforeLook, LOST_WAKE, &[MESSAGES, ROOM, HOP]);
    }

    #[test]
    fn without_the_sleepers_fence_the_message_and_room_models_fail() {
        fail_without(Site::FenceBeforeSleep, LOST_WAKE, &[MESSAGES, ROOM, HOP, READER_GONE]);
    }

    #[test]
    fn without_the_leavers_fence_the_reader_gone_model_fails() {
        fail_without(Site::FenceReaderGone, LOST_WAKE, &[READER_GONE]);
    }

    #[test]
    fn without_one_step_to_take_a_flag_the_take_model_fails() {
        fail_without(Site::TakeFlag, LOST_WAKE, &[TAKE, MESSAGES]);
    }

    /// A site that comes later needs a twin above: this match does not compile without it.
    #[test]
    fn every_site_has_a_twin() {
        let twins = ALL_SITES.map(|site| match site {
            Site::PublishTail
            | Site::ReadTail
            | Site::PublishHead
            | Site::ReadHead
            | Site::FenceBeforeLook
            | Site::FenceBeforeSleep
            | Site::FenceReaderGone
            | Site::TakeFlag => site,
        });
        for (index, site) in twins.iter().enumerate() {
            assert!(!twins[..index].contains(site), "{site:?} is listed twice");
        }
    }
}
