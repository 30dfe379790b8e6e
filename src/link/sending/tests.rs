//! What is done beside the messages: looks after the peer, waits for room, pages, scratch.

use super::*;
use crate::link::receiving::Receiving;
use crate::link::transfer;
use crate::os::futex::sleeping::DEADLINE;
use crate::ring::awake::LONG;
use crate::ring::notifier;
use crate::wire::record::Format;
use nix::sys::socket::{getsockopt, sockopt};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

fn lane_of(capacity: u64, limit: u64) -> (Sending, Receiving) {
    let ((sending, _), (_, receiving)) =
        transfer::create_pair(capacity, limit, 0, false, Default::default()).expect("a channel");
    (sending, receiving)
}

/// A sending half, and the receiving half of the other end.
fn lane() -> (Sending, Receiving) {
    lane_of(4096, 16_384)
}

fn fill(sending: &mut Sending) {
    while sending.stage_bytes(&[1; 1000], Format::Bytes).is_ok() {}
    sending.commit();
}

fn drain(receiving: &mut Receiving) {
    while let Some(payload) = receiving.poll().expect("an open end") {
        receiving.give_back(payload.handle());
    }
}

/// Bytes of pages that the region has.
fn memory(sending: &Sending) -> u64 {
    let file = sending.end.region().memfd().try_clone_to_owned().expect("a descriptor");
    std::fs::File::from(file).metadata().expect("fstat").blocks() * 512
}

fn room_flag(sending: &Sending) -> u32 {
    sending.producer.memory().lane().sleepers.room_sleeper.load(Ordering::Relaxed)
}

#[test]
fn the_attachment_socket_is_enlarged_before_the_first_move_by_its_maker_alone() {
    let (mut sending, _receiving) = lane();
    let size = |sending: &Sending| {
        getsockopt(&sending.end.attachment_socket(), sockopt::SndBuf).expect("a size")
    };
    let before = size(&sending);
    assert!(sending.is_socket_small);
    sending.settle();
    assert!(!sending.is_socket_small);
    // The kernel's bound may be the usual size.
    let bound = std::fs::read_to_string("/proc/sys/net/core/wmem_max").ok();
    if bound.and_then(|bound| bound.trim().parse().ok()).is_some_and(|bound: usize| bound > before)
    {
        assert!(size(&sending) > before);
    }
    let end = sending.end.clone();
    let later = Sending::resume(end, Cursor::start(0), [0; MAX_SEGMENTS], 0).expect("a cursor");
    assert!(!later.is_socket_small);
}

#[test]
fn a_post_may_fit_until_the_lane_is_full_and_again_once_it_has_ended() {
    let (mut sending, mut receiving) = lane();
    assert!(sending.may_fit(1000));
    fill(&mut sending);
    assert!(!sending.may_fit(1000));
    receiving.close(CloseKind::Closed);
    assert!(sending.may_fit(1000), "a post fails for another reason");
}

#[test]
fn a_wait_for_room_asks_whether_the_peer_is_gone() {
    let (mut sending, receiving) = lane();
    fill(&mut sending);
    assert_eq!(sending.prepare_wait(1000).expect("an open end"), Wait::Sleep);
    drop(receiving);
    let failure = sending.prepare_wait(1000).expect_err("there is no peer");
    assert!(matches!(failure, PostError::Closed { reason: CloseReason::PeerDied }));
}

#[test]
fn a_wait_for_something_else_arms_the_room_flag() {
    let (mut sending, mut receiving) = lane();
    sending.stage_bytes(&[1; 8], Format::Bytes).expect("room");
    sending.arm_room_flag();
    assert_eq!(room_flag(&sending), Sleep::Futex.code());
    assert!(receiving.has_message(), "what was staged is committed");
}

#[test]
fn posts_to_a_peer_that_takes_nothing_find_that_it_has_died() {
    let (mut sending, receiving) = lane_of(1 << 20, 1 << 20);
    drop(receiving);
    sending.stage_bytes(&[1; 8], Format::Bytes).expect("room");
    let began = Instant::now();
    while !sending.posts_may_fail() {
        assert!(began.elapsed() < DEADLINE, "the kernel is never asked");
        assert!(sending.stage_bytes_fast(&[1; 8], Format::Bytes) || sending.posts_may_fail());
        thread::sleep(Duration::from_millis(5));
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
    sending.spare_fences();
    assert_ne!(room_flag(&sending), notifier::AWAKE, "it has posted nothing");
    let sleepers = &sending.producer.memory().lane().sleepers;
    sleepers.message_sleeper.store(notifier::AWAKE, Ordering::Relaxed);
    assert!(sending.producer.fences_in_vain(), "no fence was omitted yet");
    sending.spare_fences();
    assert_eq!(sending.producer.fences_in_vain(), !barrier::is_supported());
    for _ in 0..LONG {
        sending.stage_bytes(&[1; 8], Format::Bytes).expect("room");
        sending.commit();
        drain(&mut receiving);
    }
    sending.spare_fences();
    assert_eq!(room_flag(&sending) == notifier::AWAKE, barrier::is_supported());
    let _ = sending.prepare_wait(8).expect("an open end");
    assert_eq!(sending.producer.get_ready(), Before::Nothing, "it was made ready before");
}

#[test]
fn trimming_returns_the_bytes_of_the_segment_that_is_left_and_of_the_free_ones() {
    let (mut sending, mut receiving) = lane_of(64 << 10, 1 << 20);
    fill(&mut sending);
    drain(&mut receiving);
    let full = memory(&sending);
    let current = sending.producer.cursor().segment;
    let of_current = sending.prefault.made(current);
    let freed = sending.trim().expect("pages that are given back");
    assert_eq!(full - memory(&sending), freed);
    assert!(freed > of_current, "{freed} bytes, {of_current} of them of the current segment");
}

#[test]
fn a_lane_of_a_peer_that_is_not_trusted_keeps_its_pages() {
    for is_trusted in [false, true] {
        let (mut sending, mut receiving) = lane_of(64 << 10, 1 << 20);
        if is_trusted {
            sending.end.trust();
        }
        fill(&mut sending);
        drain(&mut receiving);
        let full = memory(&sending);
        sending.prefault.age();
        // Once round the first segment, and more.
        for _ in 0..200 {
            sending.stage_bytes(&[1; 1000], Format::Bytes).expect("room");
            sending.commit();
            drain(&mut receiving);
            sending.prefault.age();
        }
        assert_eq!(memory(&sending) < full, is_trusted);
    }
}

#[test]
fn nothing_is_lent_or_posted_once_the_peer_has_closed() {
    let (mut sending, mut receiving) = lane();
    sending.stage_value(&1u32).expect("room");
    sending.stage_value(&vec![1u64; 8]).expect("room");
    let _ = sending.reserve(100).expect("room");
    sending.post_reserved(100);
    drain(&mut receiving);
    receiving.close(CloseKind::Closed);
    let is_refused = |failure: &PostError| {
        matches!(failure, PostError::Closed { reason: CloseReason::PeerClosed })
    };
    assert!(sending.reserve(100).is_err_and(|failure| is_refused(&failure)));
    assert!(sending.stage_value(&1u32).is_err_and(|failure| is_refused(&failure)));
    assert!(sending.stage_value(&vec![1u64; 8]).is_err_and(|failure| is_refused(&failure)));
    assert!(!sending.stage_bytes_fast(&[1; 100], Format::Bytes));
}

#[test]
fn the_room_for_a_loan_is_as_long_as_the_longest_of_them_and_is_kept_up_to_a_bound() {
    let (mut sending, mut receiving) = lane_of(4096, 16 << 20);
    for (len, blocks) in [(100, 7), (50, 7), (1000, 63), (MOST_SCRATCH, MOST_SCRATCH / 16)] {
        let _ = sending.reserve(len).expect("room");
        sending.post_reserved(len);
        sending.trim_scratch();
        assert_eq!(sending.scratch.len(), blocks, "{len} bytes");
    }
    let _ = sending.reserve(MOST_SCRATCH + 1).expect("room");
    sending.post_reserved(MOST_SCRATCH + 1);
    sending.trim_scratch();
    assert_eq!(sending.scratch.capacity(), 0);
    drain(&mut receiving);
}

#[test]
fn the_room_for_a_value_is_a_little_more_than_the_last_one_took() {
    let (mut sending, _receiving) = lane();
    for (last, wish) in [(0, 256), (100, 256), (1000, 1125), (1 << 20, 64 << 10)] {
        sending.last_len = last;
        assert_eq!(sending.wish(), wish);
    }
}

#[test]
fn short_values_are_in_the_header_of_their_record() {
    let (mut sending, mut receiving) = lane();
    for count in 0..3 {
        sending.stage_value(&1u32).expect("room");
        sending.commit();
        let record = receiving.peek().expect("an open end").expect("a message");
        // The first one finds out how much room there is.
        assert_eq!(record.is_short(), count > 0);
        assert!(receiving.discard().expect("an open end"));
    }
}
