//! Which sleepers on the room flag are woken. Their sleeps have no slices here.

use super::*;
use crate::link::receiving::Receiving;
use crate::link::sending::Sending;
use crate::link::transfer;
use crate::os::futex::sleeping;
use crate::wire::record::Format;
use std::sync::mpsc::Receiver;

/// A sending half, and the receiving half of the other end.
fn lane() -> (Sending, Receiving) {
    let ((sending, _), (_, receiving)) =
        transfer::create_pair(4096, 4096, 0, false, Default::default()).expect("a small channel");
    (sending, receiving)
}

fn with_room_flag<T>(end: &Endpoint, act: impl FnOnce(&AtomicU32) -> T) -> T {
    let memory = end.region().lane(end.outgoing());
    act(Sleeper::Sender.flag(&memory))
}

fn is_room_flag_up(end: &Endpoint) -> bool {
    with_room_flag(end, |flag| flag.load(Ordering::Relaxed) == Sleep::Futex.code())
}

/// Makes a thread wait for room at `end`.
fn wait_for_room(end: &Arc<Endpoint>) -> Receiver<()> {
    let waiter = end.clone();
    sleeping::start(
        || is_room_flag_up(end),
        move || {
            with_room_flag(&waiter, |flag| {
                notifier::arm(flag, Sleep::Futex);
                futex::wait(flag, Sleep::Futex.code(), sleeping::FOR_EVER);
            });
        },
    )
}

#[test]
fn room_ends_the_wait_for_it() {
    let (mut sending, mut receiving) = lane();
    sending.stage_bytes(&[1; 100], Format::Bytes).expect("room");
    sending.commit();
    let ended = wait_for_room(sending.endpoint());
    let payload = receiving.poll().expect("an open end").expect("a message");
    receiving.give_back(payload.handle());
    ended.recv_timeout(sleeping::DEADLINE).expect("a release wakes who waits for room");
}

#[test]
fn an_interruption_ends_the_wait_for_room() {
    let (sending, _receiving) = lane();
    let ended = wait_for_room(sending.endpoint());
    sending.endpoint().interrupt_sender();
    ended.recv_timeout(sleeping::DEADLINE).expect("an interruption wakes who waits for room");
}

/// A request after the last poll and before the sleep: the word has another value by then, so the
/// kernel does not put the thread to sleep.
#[test]
fn an_interruption_keeps_a_sender_from_a_sleep_that_has_not_begun() {
    let (sending, _receiving) = lane();
    let end = sending.endpoint();
    with_room_flag(end, |flag| notifier::arm(flag, Sleep::Futex));
    assert!(is_room_flag_up(end));
    end.interrupt_sender();
    assert!(!is_room_flag_up(end));
}

#[test]
fn a_look_at_a_lane_that_is_still_empty_repeats_a_refused_ring() {
    let (_sending, mut receiving) = lane();
    for _ in 0..2 {
        assert!(receiving.poll().expect("an open end").is_none());
    }
    receiving.endpoint().owes_ring.store(true, Ordering::Relaxed);
    assert!(receiving.poll().expect("an open end").is_none());
    assert!(!receiving.endpoint().owes_ring.load(Ordering::Relaxed));
}
