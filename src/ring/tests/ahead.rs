//! Reading ahead, quiet releases and ends that are awake: what the link does with a consumer that
//! the rig does not.

use crate::ring::awake::{Before, LONG};
use crate::ring::consumer::{Consumer, Peek};
use crate::ring::harness::Rig;
use crate::ring::lane;
use crate::ring::memory::Memory;
use crate::ring::notifier::{self, Sleep, Wake};
use crate::ring::producer::Producer;
use crate::ring::segment::Geometry;
use crate::sync::Ordering;
use crate::wire::record::Format;

/// The ends of a lane in which messages of these lengths are committed, and its memory.
fn lane_with(lens: &[u32]) -> (Memory, Producer, Consumer) {
    let memory = Memory::on_heap(1024);
    let start = 0u64.wrapping_sub(64);
    let (mut producer, consumer) = lane::fresh(&memory, Geometry::new(256, 1024), start);
    lens.iter().for_each(|len| stage(&mut producer, *len));
    assert_eq!(producer.commit(), Wake::NoSleeper);
    (memory, producer, consumer)
}

fn stage(producer: &mut Producer, len: u32) {
    let plan = producer.plan(u64::from(len)).expect("there is room");
    producer.stage(plan, len, Format::Bytes);
}

fn counts(memory: &Memory) -> (u64, u64) {
    let consumed = &memory.lane().consumed;
    (consumed.messages.load(Ordering::Relaxed), consumed.bytes.load(Ordering::Relaxed))
}

fn head(memory: &Memory) -> u64 {
    memory.lane().consumer.head.load(Ordering::Relaxed)
}

#[test]
fn a_copy_says_which_of_its_units_come_next_until_they_are_taken() {
    let (memory, _, mut consumer) = lane_with(&[20, 16, 8]);
    let start = consumer.position();
    assert!(!consumer.has_known() && consumer.unread() == 0, "nothing was looked at");
    assert_eq!(consumer.ahead_at(start), None, "nothing was copied");
    assert!(matches!(consumer.peek(), Ok(Peek::Message(_))));
    assert!(consumer.has_known());
    assert_eq!(consumer.unread(), 48 + 32 + 32);

    consumer.copied_ahead(5); // the first two
    assert_eq!(consumer.ahead_at(start), Some(0..5));
    assert_eq!(consumer.ahead_at(start.wrapping_add(16)), None, "the consumer is elsewhere");
    consumer.take_plain(48, 20);
    let second = start.wrapping_add(48);
    assert_eq!(consumer.ahead_at(start), None, "it was taken");
    assert_eq!(consumer.ahead_at(second), Some(3..5));
    let third = consumer.take_copied_at(second, 32, 16);
    assert_eq!((third, consumer.position()), (start.wrapping_add(80), third));
    assert_eq!(consumer.ahead_at(third), None, "the copy has ended");
    assert_eq!(consumer.unread(), 0, "the window is closed");
    consumer.find_window();
    assert_eq!(consumer.unread(), 32);
    consumer.take_plain(32, 8);
    assert!(!consumer.has_known());
    assert_eq!((head(&memory), counts(&memory)), (start, (0, 0)), "nothing was released");
    assert_eq!(consumer.release_all(), Wake::NoSleeper);
    assert_eq!((head(&memory), counts(&memory)), (consumer.position(), (3, 44)));
}

/// What is found by the window moves it; what comes from a copy does not.
#[test]
fn a_window_that_is_opened_ends_the_copy() {
    let (_, _, mut consumer) = lane_with(&[16, 16, 16]);
    let start = consumer.position();
    assert!(matches!(consumer.peek(), Ok(Peek::Message(_))));
    consumer.copied_ahead(6);
    let second = consumer.take_copied_at(start, 32, 16);
    assert_eq!(consumer.ahead_at(second), Some(2..6));
    let Ok(Peek::Message(record)) = consumer.peek() else { panic!("no message") };
    assert_eq!(record.end, start.wrapping_add(64));
    assert_eq!(consumer.ahead_at(second), None);
    consumer.take(&record);
    assert_eq!(consumer.unread(), 32);
}

/// The second message is in another segment, at the same distance as more units of the copy.
#[test]
fn a_copy_ends_where_the_lane_continues_elsewhere() {
    let (_, _, mut consumer) = lane_with(&[16, 200]);
    let start = consumer.position();
    assert!(matches!(consumer.peek(), Ok(Peek::Message(_))));
    consumer.copied_ahead(16);
    consumer.take_plain(32, 16);
    assert_eq!(consumer.ahead_at(start.wrapping_add(32)), Some(2..16));
    assert!(matches!(consumer.peek(), Ok(Peek::Message(_))), "behind a jump");
    assert_eq!(consumer.position(), start.wrapping_add(48));
    assert_eq!(consumer.ahead_at(consumer.position()), None);
}

#[test]
fn a_quiet_release_leaves_the_look_for_a_sleeper_to_the_end_of_the_batch() {
    let (memory, producer, mut consumer) = lane_with(&[16, 16, 16]);
    let start = consumer.position();
    assert_eq!(consumer.end_batch(), Wake::NoSleeper);
    assert!(matches!(consumer.peek(), Ok(Peek::Message(_))));
    consumer.take_plain(32, 16);
    assert!(consumer.release_quietly(), "more is known");
    assert!(!consumer.has_unreleased());
    assert_eq!((head(&memory), counts(&memory)), (start.wrapping_add(32), (1, 16)));
    producer.arm_room_flag(Sleep::Futex);
    consumer.take_plain(32, 16);
    assert!(!consumer.release_quietly(), "it sees the sleeper");
    assert_eq!(head(&memory), start.wrapping_add(32));
    assert_eq!(consumer.end_batch(), Wake::Futex, "for what was released before");
    assert_eq!(consumer.release_all(), Wake::NoSleeper, "it was woken");
    producer.arm_room_flag(Sleep::Doorbell);
    assert_eq!(consumer.end_batch(), Wake::NoSleeper, "this batch has no quiet release");
    producer.cancel_wait();
    consumer.take_plain(32, 16);
    assert!(!consumer.release_quietly(), "nothing more is known");
    assert_eq!(consumer.release_all(), Wake::NoSleeper);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of messages")]
fn each_end_stays_awake_after_many_messages_and_says_so() {
    let mut rig = Rig::new(Geometry::new(256, 256), 0);
    let flag = |rig: &Rig, of_producer: bool| {
        let sleepers = &rig.memory.lane().sleepers;
        let flag = if of_producer { &sleepers.room_sleeper } else { &sleepers.message_sleeper };
        notifier::is_awake(flag)
    };
    for count in 0..LONG {
        assert!(!rig.consumer.may_stay_awake() && !rig.producer.may_stay_awake(), "{count}");
        rig.send(0);
        rig.drain();
    }
    assert!(rig.consumer.may_stay_awake() && rig.producer.may_stay_awake());
    assert!(!rig.consumer.fences_in_vain() && !rig.producer.fences_in_vain());
    rig.consumer.stay_awake();
    assert!(flag(&rig, false) && !flag(&rig, true) && !rig.consumer.may_stay_awake());
    assert!(rig.producer.fences_in_vain() && !rig.consumer.fences_in_vain());
    rig.producer.stay_awake();
    assert!(flag(&rig, true) && !rig.producer.may_stay_awake());
    assert!(rig.consumer.fences_in_vain());
    rig.consumer.omit_fences();
    rig.producer.omit_fences();
    assert!(!rig.consumer.fences_in_vain() && !rig.producer.fences_in_vain());
    assert_eq!(rig.consumer.get_ready(), Before::Barrier);
    assert_eq!(rig.producer.get_ready(), Before::Barrier);
    assert!(!flag(&rig, false) && !flag(&rig, true));
    assert!(!rig.consumer.may_stay_awake() && !rig.producer.may_stay_awake(), "not for long");
}

/// What a consumer that omits its fences reads as "awake" is no sleeper, and nothing is taken.
#[test]
fn an_end_that_omits_its_fences_leaves_the_flag_of_one_that_is_awake() {
    let mut rig = Rig::new(Geometry::new(256, 256), 0);
    rig.consumer.stay_awake();
    rig.producer.omit_fences();
    rig.send(8);
    assert!(notifier::is_awake(&rig.memory.lane().sleepers.message_sleeper));
    rig.drain();
}
