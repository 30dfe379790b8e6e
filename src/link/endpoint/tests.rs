//! Which sleepers on the room flag are woken, whose sleeps have no slices here; and what an end
//! keeps.

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

#[test]
fn whatever_an_end_learns_it_trusts_its_peer_as_before() {
    for is_trusted in [false, true] {
        for event in [Event::HungUp, Event::Closed(Half::Sending), Event::Moved] {
            let (sending, _receiving) = lane();
            let end = sending.endpoint();
            if is_trusted {
                end.trust();
            }
            let _ = end.learn(event);
            let _ = end.learn(event);
            assert_eq!(end.is_trusted(), is_trusted, "{event:?}");
            assert_ne!(end.state(), State::OPEN);
        }
    }
}

#[test]
fn pools_that_were_refused_stay_refused() {
    let (sending, receiving) = lane();
    let refused = || -> Vec<u32> {
        (0..40).filter(|number| sending.endpoint().has_refused_pool(*number)).collect()
    };
    assert!(refused().is_empty());
    for number in [3, 0, 31, 3, 32] {
        receiving.endpoint().refuse_pool(number);
    }
    assert_eq!(refused(), [0, 3, 31]);
    assert!(!receiving.endpoint().has_refused_pool(3), "that is of the other direction");
}

#[test]
fn an_end_knows_whether_the_reader_of_its_messages_has_left() {
    let (sending, mut receiving) = lane();
    assert!(!sending.endpoint().has_reader_left());
    receiving.close(CloseKind::Dropped);
    assert!(sending.endpoint().has_reader_left());
    assert!(!receiving.endpoint().has_reader_left());
}

#[test]
fn a_half_gives_its_reason_before_its_queue_is_empty() {
    let (_sending, mut receiving) = lane();
    assert_eq!(receiving.endpoint().reason(Half::Receiving), None);
    receiving.close(CloseKind::Closed);
    assert_eq!(receiving.endpoint().reason(Half::Receiving), Some(CloseReason::Local));
    assert_eq!(receiving.endpoint().told(Half::Receiving), None);
}

#[test]
fn each_move_of_an_end_counts() {
    let (mut halves, _peer) =
        transfer::create_pair(4096, 4096, 0, false, Default::default()).expect("a small channel");
    for moves in 0..4 {
        assert_eq!(halves.0.endpoint().epoch(), moves);
        let port = transfer::into_descriptor(&mut halves.0, &mut halves.1).expect("an open port");
        halves = transfer::receive(port).expect("a port that has just left");
    }
}

#[test]
fn an_end_keeps_what_it_was_told() {
    let label = Label::new("a channel");
    let ((sending, _), _peer) =
        transfer::create_pair(4096, 4096, 0, false, label).expect("a small channel");
    let end = sending.endpoint();
    assert_eq!((end.channel_label(), end.label()), (label, Label::default()));
    assert_eq!(end.peer_credentials(), None);
    let peer = PeerCredentials { pid: 1, uid: 2, gid: 3 };
    end.set_peer_credentials(peer);
    assert_eq!(end.peer_credentials(), Some(peer));
    assert!(Arc::ptr_eq(end.account(), end.account()));
}

#[test]
fn an_end_is_honest_until_its_region_leaves_and_once_it_is_trusted() {
    let (sending, _receiving) = lane();
    let end = sending.endpoint();
    assert!(end.is_honest(), "no other process has it");
    end.region().mark_shared();
    assert!(!end.is_honest());
    end.trust();
    assert!(end.is_honest());
}

#[test]
fn a_sender_wakes_the_other_half_for_a_ring_and_for_an_end() {
    let (sending, receiving) = lane();
    let end = sending.endpoint();
    assert!(!end.drain_doorbell_for_sender());
    assert!(matches!(socket::ring(receiving.endpoint().doorbell()), Rung::Rings));
    assert!(end.drain_doorbell_for_sender());
    assert!(!end.drain_doorbell_for_sender(), "it was drained");
    drop(receiving);
    assert!(end.drain_doorbell_for_sender());
    assert!(end.state().is_hung_up());
}

#[test]
fn a_thread_that_slept_on_the_room_flag_takes_it_back() {
    let (sending, _receiving) = lane();
    let end = sending.endpoint();
    with_room_flag(end, |flag| notifier::arm(flag, Sleep::Futex));
    end.sleep_on_own_room(Deadline::after(std::time::Duration::ZERO));
    assert!(!is_room_flag_up(end));
}
