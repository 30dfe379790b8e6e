//! What is done beside the messages: control records are released, pools are counted and mapped.

use super::*;
use crate::link::payload;
use crate::link::pool::PoolMemory;
use crate::link::sending::Sending;
use crate::link::transfer;
use crate::os::futex::sleeping::DEADLINE;
use crate::os::poll;
use crate::os::reaper::Foreign;
use crate::ring::awake::LONG;
use crate::ring::notifier;
use crate::wire::record::Format;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// A sending half, and the receiving half of the other end.
fn lane() -> (Sending, Receiving) {
    let ((sending, _), (_, receiving)) =
        transfer::create_pair(4096, 16_384, 0, false, Default::default()).expect("a small channel");
    (sending, receiving)
}

fn post(sending: &mut Sending) {
    sending.stage_bytes(&[1; 1000], Format::Bytes).expect("room");
    sending.commit();
}

/// Looks at an empty lane until a poll takes the fast path.
fn look_twice(receiving: &mut Receiving) {
    for _ in 0..2 {
        assert!(receiving.poll().expect("an open end").is_none());
    }
    assert!(receiving.is_still_empty());
}

/// A lane that holds one control record, and nothing else.
fn lane_with_a_control_record() -> (Sending, Receiving) {
    let (mut sending, mut receiving) = lane();
    // They leave the first segment: it has room for three.
    (0..5).for_each(|_| post(&mut sending));
    for _ in 0..5 {
        let payload = receiving.poll().expect("an open end").expect("a message");
        receiving.give_back(payload.handle());
    }
    assert_eq!(sending.backlog(), (0, 0));
    look_twice(&mut receiving);
    sending.trim().expect("it returns to the base segment");
    let (messages, bytes) = sending.backlog();
    assert!(messages == 0 && bytes > 0, "{messages} messages, {bytes} bytes");
    (sending, receiving)
}

/// A message of a copy that is kept takes the memory of all of it, from wherever it is.
#[test]
fn a_message_takes_the_memory_of_its_copy_along() {
    let (mut sending, mut receiving) = lane();
    for text in ["the first", "the second", "the third", "the fourth"] {
        sending.stage_bytes(text.as_bytes(), Format::Text).expect("room");
    }
    sending.commit();
    // The slow path allocates the memory for the next ones.
    let first = receiving.poll().expect("an open end").expect("the first");
    receiving.give_back(first.handle());
    receiving.read_ahead(true);
    let second = receiving.poll_next_in_copy().expect("the second");
    let third = receiving.poll_next_in_copy().expect("the third");
    assert_eq!((second.bytes(), third.bytes()), (&b"the second"[..], &b"the third"[..]));
    let memory = receiving.take_memory(third.handle()).expect("private memory");
    let blocks = crate::link::payload::into_blocks(&third, memory);
    assert_eq!(crate::link::payload::blocks_as_bytes(&blocks)[..9], *b"the third");
    assert!(receiving.poll_next_in_copy().is_none(), "the copy is gone");
    let fourth = receiving.poll().expect("an open end").expect("the fourth");
    assert_eq!(fourth.bytes(), b"the fourth");
}

/// A copy that went to the slab, because its memory had room, does not keep others from the page.
#[test]
fn short_messages_after_a_long_one_have_the_memory_for_short_ones() {
    let in_use = Cell::new(0);
    // The first segment holds all: a control record would lead to the slow path.
    let ((mut sending, _), (_, mut receiving)) =
        transfer::create_pair(65_536, 65_536, 0, false, Default::default()).expect("a channel");
    for len in [5000, 9, 9] {
        sending.stage_bytes(&vec![1; len], Format::Bytes).expect("room");
        sending.commit();
    }
    for len in [5000, 9] {
        let payload = receiving.poll().expect("an open end").expect("a message");
        assert_eq!(payload.len(), len);
        receiving.give_back(payload.handle());
    }
    assert!(receiving.poll_fast(&in_use).expect("a plain message").is_ahead());
    assert_eq!(in_use.get(), 1);
}

/// Batches that find nothing count as looks, of which some ask the kernel.
#[test]
fn a_receiver_that_only_takes_batches_learns_that_its_peer_has_died() {
    let (sending, mut receiving) = lane();
    drop(sending);
    // The kernel is asked ten times a second, and this many looks take two seconds at least.
    let failure = (0..100_000_000).find_map(|_| {
        receiving.begin_batch();
        receiving.read_ahead(true);
        let answer = receiving.poll();
        receiving.end_batch();
        answer.map(|payload| assert!(payload.is_none())).err()
    });
    let failure = failure.expect("the kernel is asked");
    assert!(matches!(*failure, RecvError::Closed { reason: CloseReason::PeerDied }));
}

/// The iterator of the batch may be leaked, and no call may receive before the end.
#[test]
fn a_wait_for_the_end_releases_what_a_batch_has_taken() {
    let (mut sending, mut receiving) = lane();
    for _ in 0..4 {
        sending.stage_bytes(&[1; 8], Format::Bytes).expect("room");
    }
    sending.commit();
    let first = receiving.poll().expect("an open end").expect("a message");
    receiving.give_back(first.handle());
    receiving.begin_batch();
    receiving.read_ahead(true);
    for _ in 0..3 {
        receiving.poll_next_in_copy().expect("a message");
    }
    assert_ne!(sending.backlog(), (0, 0), "they are released together");
    assert_eq!(receiving.prepare_wait_for_end().expect("an open end"), Wait::Sleep);
    assert_eq!(sending.backlog(), (0, 0));
}

/// The sender may wait for exactly the room of the record.
#[test]
fn a_look_for_a_message_releases_control_records() {
    let (mut sending, mut receiving) = lane_with_a_control_record();
    assert!(!receiving.has_message());
    assert_eq!(sending.backlog(), (0, 0));
}

#[test]
fn a_wait_for_the_end_releases_control_records() {
    let (mut sending, mut receiving) = lane_with_a_control_record();
    assert_eq!(receiving.prepare_wait_for_end().expect("an open end"), Wait::Sleep);
    assert_eq!(sending.backlog(), (0, 0));
}

/// A question about the end passes them, and releases nothing.
#[test]
fn a_later_look_releases_control_records_that_a_question_passed() {
    let (mut sending, mut receiving) = lane_with_a_control_record();
    assert_eq!(receiving.end_reason(), None);
    assert_ne!(sending.backlog(), (0, 0));
    assert!(receiving.poll().expect("an open end").is_none());
    assert_eq!(sending.backlog(), (0, 0));
}

/// The fast path of an empty poll leaves nothing to a later one.
#[test]
fn a_look_at_a_lane_that_is_still_empty_sees_what_has_changed() {
    let (mut sending, mut receiving) = lane();
    look_twice(&mut receiving);
    post(&mut sending);
    let payload = receiving.poll().expect("an open end").expect("a message");
    receiving.give_back(payload.handle());

    look_twice(&mut receiving);
    receiving.waits_for_reaper = true;
    assert!(receiving.poll().expect("an open end").is_none());
    assert!(!receiving.waits_for_reaper);

    receiving.arm_doorbell(DrainTo::Silence);
    assert!(receiving.poll().expect("an open end").is_none());
    assert!(receiving.drained);
}

#[test]
fn a_look_at_a_lane_that_is_still_empty_hears_of_the_end() {
    let (_sending, mut receiving) = lane();
    look_twice(&mut receiving);
    let _ = receiving.endpoint().learn(Event::HungUp);
    let failure = receiving.poll().expect_err("the peer is gone");
    assert!(matches!(*failure, RecvError::Closed { reason: CloseReason::PeerDied }));

    let (_sending, mut receiving) = lane();
    look_twice(&mut receiving);
    receiving.close(CloseKind::Closed);
    let failure = receiving.poll().expect_err("it was closed here");
    assert!(matches!(*failure, RecvError::Closed { reason: CloseReason::Local }));
}

/// Pools in a row indicate a flood; with messages between them they are not in a row.
#[test]
fn a_message_that_is_discarded_ends_a_row_of_pools() {
    let (mut sending, mut receiving) = lane();
    sending.endpoint().trust();
    receiving.endpoint().trust();
    for _ in 0..2 {
        sending.add_pool(1, 1, false).expect("a pool of one byte");
        post(&mut sending);
        assert!(receiving.discard().expect("an open end"));
        assert_eq!(receiving.pools_in_a_row, 0);
    }
    assert_eq!(receiving.pools.len(), 2);
}

/// There was no memory for it when it came, and buffers of it that were dropped since wait for it.
#[test]
fn a_pool_is_mapped_before_a_sleep() {
    let (_sending, mut receiving) = lane();
    let memory = PoolMemory::create(1, 1).expect("a pool of one byte");
    let descriptor = memory.descriptor().expect("one").try_clone_to_owned().expect("a descriptor");
    let pool = PeerPool::new(Foreign::new(descriptor, None), 1, 1).expect("it is one");
    let pool = Arc::new(pool);
    receiving.pools.push((0, pool.clone()));
    assert!(!pool.is_mapped());
    assert_eq!(receiving.prepare_wait().expect("an open end"), Wait::Sleep);
    assert!(pool.is_mapped());
}

/// A lost wake would leave it asleep for ever: it waits for the doorbell alone.
#[test]
fn a_receiver_that_was_awake_is_woken() {
    const ROUNDS: u64 = if cfg!(miri) { 0 } else { 40 };
    let ((mut sending, _), (_, mut receiving)) =
        transfer::create_pair(1 << 20, 1 << 20, 0, false, Default::default()).expect("a channel");
    let taken = Arc::new(AtomicU64::new(0));
    let seen = taken.clone();
    let sender = thread::spawn(move || {
        for round in 1..=ROUNDS {
            for _ in 0..LONG {
                sending.stage_bytes(&[1; 8], Format::Bytes).expect("room");
                sending.commit();
            }
            while seen.load(Ordering::SeqCst) < round * (LONG + 1) - 1 {
                thread::yield_now();
            }
            // The receiver is about to sleep, or asleep.
            (0..round * 50).for_each(|_| hint::spin_loop());
            sending.stage_bytes(&[1; 8], Format::Bytes).expect("room");
            sending.commit();
            while seen.load(Ordering::SeqCst) < round * (LONG + 1) {
                thread::yield_now();
            }
        }
    });
    let mut barriers = 0;
    while taken.load(Ordering::SeqCst) < ROUNDS * (LONG + 1) {
        if let Some(payload) = receiving.poll().expect("an open end") {
            receiving.give_back(payload.handle());
            taken.fetch_add(1, Ordering::SeqCst);
        } else if taken.load(Ordering::SeqCst) % (LONG + 1) == LONG {
            let is_awake =
                notifier::is_awake(&receiving.consumer.memory().lane().sleepers.message_sleeper);
            barriers += u64::from(is_awake);
            if receiving.prepare_wait().expect("an open end") == Wait::Sleep {
                poll::wait_readable(&[receiving.end.doorbell()], None).expect("a ring");
                receiving.consumer.cancel_wait();
            }
        }
    }
    sender.join().expect("the sender ends");
    assert!(barriers > 0 || ROUNDS == 0 || !barrier::is_supported(), "it was never awake");
}

/// Lets two threads go on at the same instant.
fn meet(arrived: &AtomicU64, round: u64) {
    arrived.fetch_add(1, Ordering::SeqCst);
    for looks in 1u64.. {
        if arrived.load(Ordering::SeqCst) >= 2 * round {
            return;
        }
        // The other one may wait for this very processor.
        if looks.is_multiple_of(1000) {
            thread::yield_now();
        }
        hint::spin_loop();
    }
}

/// Without the barrier most runs of this lose a message on x86, if both threads have a processor.
#[test]
fn a_receiver_that_stops_being_awake_as_a_message_comes_does_not_sleep_over_it() {
    const ROUNDS: u64 = 100_000;
    /// Where other programs take the processors, a round may take milliseconds.
    const ENOUGH: Duration = Duration::from_secs(8);
    /// Steps by which each thread may be late.
    const SPREAD: u64 = 100;
    if !barrier::is_supported() {
        return;
    }
    let began = Instant::now();
    while !barrier::takes_part() {
        assert!(began.elapsed() < DEADLINE, "the kernel neither refuses nor answers");
        thread::yield_now();
    }
    let (mut sending, mut receiving) = lane();
    receiving.consumer.stay_awake();
    // The sender looks whether the receiver is awake at least this often.
    for _ in 0..64 {
        sending.stage_bytes(&[1; 8], Format::Bytes).expect("room");
        sending.commit();
        let payload = receiving.poll().expect("an open end").expect("a message");
        receiving.give_back(payload.handle());
    }
    let (arrived, last) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(ROUNDS)));
    let (met, end) = (arrived.clone(), last.clone());
    let memory = receiving.end.region().lane(receiving.end.incoming());
    let sender = thread::spawn(move || {
        for round in 1..=ROUNDS {
            sending.stage_bytes(&[1; 8], Format::Bytes).expect("room");
            meet(&met, round);
            (0..round % SPREAD).for_each(|_| hint::spin_loop());
            // With the flag in its cache it looks at it before the receiver can see its tail.
            let _ = notifier::is_awake(&memory.lane().sleepers.message_sleeper);
            sending.commit();
            if round == end.load(Ordering::SeqCst) {
                break;
            }
        }
        sending
    });
    let began = Instant::now();
    for round in 1..=ROUNDS {
        if began.elapsed() > ENOUGH {
            last.fetch_min(round, Ordering::SeqCst);
        }
        receiving.consumer.stay_awake();
        meet(&arrived, round);
        (0..round / SPREAD % 10).for_each(|_| hint::spin_loop());
        let payload = loop {
            if let Some(payload) = receiving.poll().expect("an open end") {
                break payload;
            }
            if receiving.prepare_wait().expect("an open end") == Wait::Sleep {
                let (doorbell, began) = (receiving.end.doorbell(), Instant::now());
                while !poll::is_readable(doorbell) {
                    assert!(began.elapsed() < DEADLINE, "round {round} was slept over");
                    poll::wait_readable(&[doorbell], Some(DEADLINE)).expect("a wait");
                }
                receiving.consumer.cancel_wait();
            }
        };
        receiving.give_back(payload.handle());
        if round == last.load(Ordering::SeqCst) {
            break;
        }
    }
    sender.join().expect("the sender ends");
}

/// The other half may find the peer corrupt at any time.
#[test]
fn nothing_comes_from_a_copy_after_the_end() {
    let (mut sending, mut receiving) = lane();
    for _ in 0..3 {
        sending.stage_bytes(&[1; 8], Format::Bytes).expect("room");
    }
    sending.commit();
    receiving.read_ahead(true);
    receiving.poll().expect("an open end").expect("the first");
    receiving.poll_next_in_copy().expect("the second");
    receiving.endpoint().mark_corrupt(Corruption::unknown("head", 1));
    assert!(receiving.poll_next_in_copy().is_none());
}

#[test]
fn the_end_of_the_next_message_is_read_without_taking_it() {
    let (mut sending, mut receiving) = lane();
    assert_eq!(receiving.end_of_next(), None);
    let bytes: Vec<u8> = (0..100).collect();
    sending.stage_bytes(&bytes, Format::Bytes).expect("room");
    sending.stage_bytes(&bytes[..15], Format::Bytes).expect("room");
    sending.commit();
    for _ in 0..2 {
        assert_eq!(receiving.end_of_next().expect("a message").as_slice(), &bytes[84..]);
    }
    assert!(receiving.discard().expect("an open end"));
    assert_eq!(receiving.end_of_next(), None, "it has fewer bytes");
}

#[cfg(any(feature = "tokio", feature = "async-io"))]
#[test]
fn a_drained_doorbell_is_told_once() {
    let (_sending, mut receiving) = lane();
    assert!(!receiving.has_drained());
    assert_eq!(receiving.prepare_wait().expect("an open end"), Wait::Sleep);
    assert!(receiving.has_drained());
    assert!(!receiving.has_drained());
}

#[cfg(any(feature = "tokio", feature = "async-io"))]
#[test]
fn a_half_knows_whether_a_short_message_comes_next() {
    for len in [0, 1, 8, 9, 16] {
        let (mut sending, mut receiving) = lane();
        assert!(!receiving.has_short());
        sending.stage_bytes(&vec![1; len], Format::Bytes).expect("room");
        sending.commit();
        for _ in 0..2 {
            assert_eq!(receiving.has_short(), (1..=8).contains(&len), "{len}");
        }
    }
}

#[test]
fn a_watched_doorbell_is_armed_at_once_unless_receiving_has_ended() {
    for has_ended in [false, true] {
        let (_sending, mut receiving) = lane();
        if has_ended {
            receiving.endpoint().mark_corrupt(Corruption::unknown("head", 1));
        }
        receiving.arm_doorbell(DrainTo::Silence);
        let flag = &receiving.consumer.memory().lane().sleepers.message_sleeper;
        let expected = if has_ended { 0 } else { Sleep::Doorbell.code() };
        assert_eq!(flag.load(Ordering::Relaxed), expected);
        assert_eq!(receiving.watched, Some(DrainTo::Silence));
    }
}

/// A fence that is omitted too early may lose a wake.
#[test]
fn a_half_omits_and_spares_fences_once_both_sides_were_awake_for_long() {
    let began = Instant::now();
    while barrier::is_supported() && !barrier::takes_part() {
        assert!(began.elapsed() < DEADLINE, "the kernel neither refuses nor answers");
        thread::yield_now();
    }
    let (mut sending, mut receiving) = lane();
    let is_awake = |receiving: &Receiving| {
        notifier::is_awake(&receiving.consumer.memory().lane().sleepers.message_sleeper)
    };
    receiving.spare_fences();
    assert!(!is_awake(&receiving), "it has received nothing");
    let room_flag = &sending.producer().memory().lane().sleepers.room_sleeper;
    room_flag.store(notifier::AWAKE, Ordering::Relaxed);
    assert!(receiving.consumer.fences_in_vain(), "no fence was omitted yet");
    receiving.spare_fences();
    assert_eq!(receiving.consumer.fences_in_vain(), !barrier::is_supported());
    for _ in 0..LONG {
        sending.stage_bytes(&[1; 8], Format::Bytes).expect("room");
        sending.commit();
        receiving.poll().expect("an open end").expect("a message");
    }
    receiving.spare_fences();
    assert_eq!(is_awake(&receiving), barrier::is_supported());
    assert_eq!(receiving.prepare_wait().expect("an open end"), Wait::Sleep);
    assert_eq!(receiving.consumer.get_ready(), Before::Nothing, "it was made ready before");
}

/// It armed its flag behind a release that did not look for it.
#[test]
fn a_batch_that_ends_wakes_a_sender_that_waits() {
    let (mut sending, mut receiving) = lane();
    for is_in_batch in [false, true] {
        (0..3).for_each(|_| post(&mut sending));
        if is_in_batch {
            receiving.begin_batch();
        }
        receiving.poll().expect("an open end").expect("a message");
        sending.arm_room_flag();
        receiving.end_batch();
        let memory = sending.producer().memory();
        let flag = memory.lane().sleepers.room_sleeper.load(Ordering::Relaxed);
        assert_eq!(flag == Sleep::Futex.code(), !is_in_batch);
        (0..2).for_each(|_| _ = receiving.poll().expect("an open end").expect("a message"));
    }
}

#[test]
fn a_batch_that_ends_releases_what_is_not_in_use() {
    let (mut sending, mut receiving) = lane();
    receiving.endpoint().trust();
    receiving.consumer.find_window();
    receiving.begin_batch();
    post(&mut sending);
    let lent = receiving.poll_fast(&Cell::new(0)).expect("a message in place");
    receiving.end_batch();
    assert_eq!(sending.backlog().0, 1, "it is in use");
    receiving.give_back(lent.handle());
    assert_eq!(sending.backlog(), (0, 0));
    (0..3).for_each(|_| sending.stage_bytes(&[1; 8], Format::Bytes).expect("room"));
    sending.commit();
    receiving.begin_batch();
    receiving.read_ahead(true);
    (0..3).for_each(|_| _ = receiving.poll_next_in_copy().expect("a message"));
    receiving.end_batch();
    assert_eq!(sending.backlog(), (0, 0));
}

#[test]
fn nothing_is_read_ahead_while_its_memory_is_in_use() {
    for is_free in [false, true] {
        let (mut sending, mut receiving) = lane();
        (0..3).for_each(|_| sending.stage_bytes(&[1; 8], Format::Bytes).expect("room"));
        sending.commit();
        receiving.read_ahead(is_free);
        assert_eq!(receiving.poll_next_in_copy().is_some(), is_free);
        receiving.end_copy();
        assert!(receiving.poll_next_in_copy().is_none(), "the copy has ended");
        receiving.poll().expect("an open end").expect("the messages are in the ring as before");
    }
}

#[test]
fn no_message_is_seen_after_the_other_half_found_the_peer_corrupt() {
    let (mut sending, mut receiving) = lane();
    post(&mut sending);
    assert!(receiving.peek().expect("an open end").is_some());
    receiving.endpoint().mark_corrupt(Corruption::unknown("head", 1));
    let failure = receiving.peek().expect_err("it has ended");
    assert!(matches!(failure, RecvError::Closed { reason: CloseReason::Corrupt(_) }));
}

#[test]
fn the_next_message_can_be_copied_and_stays() {
    for (refuses, len) in [(false, 0), (false, 5), (false, 8), (false, 1000), (true, 1000)] {
        let ((mut sending, _), (_, mut receiving)) =
            transfer::create_pair(4096, 4096, 0, refuses, Default::default()).expect("a channel");
        assert!(receiving.copy_next().expect("an open end").is_none());
        let bytes: Vec<u8> = (0..len).map(|index| index as u8).collect();
        sending.stage_bytes(&bytes, Format::Bytes).expect("room");
        sending.commit();
        for _ in 0..2 {
            let (record, blocks) = receiving.copy_next().expect("an open end").expect("a message");
            assert_eq!(record.len as usize, len);
            assert_eq!(payload::blocks_as_bytes(&blocks)[..len], bytes);
        }
    }
}

/// In the ring of a trusted peer stays what costs more to copy than to keep there.
#[test]
fn a_message_of_a_trusted_peer_is_copied_if_it_is_short_and_comes_alone() {
    for (len, in_use, is_copied) in
        [(100, 0, true), (512, 0, true), (513, 0, false), (100, 1, false)]
    {
        let (mut sending, mut receiving) = lane();
        receiving.endpoint().trust();
        receiving.ahead.allocate().expect("memory");
        receiving.consumer.find_window();
        sending.stage_bytes(&vec![1; len], Format::Bytes).expect("room");
        sending.commit();
        let payload = receiving.poll_fast(&Cell::new(in_use)).expect("a message");
        assert_eq!(payload.is_ahead(), is_copied, "{len} bytes, {in_use} in use");
        assert_eq!(receiving.has_lent(), !is_copied);
    }
    let (mut sending, mut receiving) = lane();
    post(&mut sending);
    receiving.copies.make_room(1000).expect("memory");
    receiving.endpoint().trust();
    assert!(receiving.peek().expect("an open end").is_some());
    assert!(receiving.poll_long().is_none(), "it is not copied");
}

#[test]
fn the_first_look_after_a_message_takes_the_slow_path() {
    let (mut sending, mut receiving) = lane();
    for _ in 0..2 {
        assert!(!receiving.is_still_empty());
        look_twice(&mut receiving);
        sending.stage_bytes(&[1; 8], Format::Bytes).expect("room");
        sending.commit();
        receiving.poll().expect("an open end").expect("a message");
    }
}

#[test]
fn a_poll_for_chunks_is_of_a_caller_that_serves_others_as_well() {
    let (_sending, mut receiving) = lane();
    assert!(receiving.poll_in_chunks().is_ok());
    assert!(receiving.is_in_turns);
    assert!(receiving.poll_slow().is_ok());
    assert!(!receiving.is_in_turns);
}

#[test]
fn a_half_says_where_it_is() {
    struct Shown(Receiving);
    impl fmt::Debug for Shown {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let mut out = f.debug_struct("Receiving");
            self.0.debug_fields(&mut out);
            out.finish()
        }
    }
    let text = format!("{:?}", Shown(lane().1));
    for field in ["cursor", "tail", "head", "sleepers", "consumed", "trusted: false"] {
        assert!(text.contains(field), "{text}");
    }
}
