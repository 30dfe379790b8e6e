//! However a peer ends, and whatever it does afterwards: what a port said of its end stays.

use super::{OUT, Pair, pair};
use crate::common::parts::{ATTACHMENTS, Parts};
use crate::common::region::{CLOSED, head, reader_gone, record, tail};
use crate::common::{DEADLINE, receive_end, receive_text, refusal, wait_until_closed};
use messageport::{CloseReason, MessagePort, PostError, RecvError};
use nix::sys::socket::{Shutdown, shutdown};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::SeqCst;

/// A pair, and a second descriptor of the peer's attachment socket.
fn pair_with_attachments() -> (Pair, OwnedFd) {
    let Pair { victim, peer, region } = pair();
    let parts = Parts::of(peer);
    let attachments = parts.duplicate(ATTACHMENTS);
    let peer = parts.into_port().expect("an honest end");
    (Pair { victim, peer, region }, attachments)
}

fn a_file() -> File {
    File::open("/dev/null").expect("a device")
}

fn refusal_with(port: &MessagePort) -> CloseReason {
    let posted = port.post_message_with(&7u8, [a_file().into()]);
    refusal(posted.map_err(|error| error.into_parts().0))
}

/// Every call that posts says so, again and again.
#[track_caller]
fn assert_posts_say(victim: &MessagePort, reason: CloseReason) {
    for _ in 0..3 {
        assert_eq!(refusal(victim.post_text("late")), reason);
        assert_eq!(refusal(victim.post_message(&7u64)), reason);
        assert_eq!(refusal(victim.post_bytes(&[1; 2000])), reason);
        assert_eq!(refusal_with(victim), reason);
        assert_eq!(refusal(victim.loan(10).map(drop)), reason);
        assert_eq!(refusal(victim.burst().stage(&7u8)), reason);
        assert_eq!(refusal(victim.post_text_timeout("late", DEADLINE)), reason);
        assert_eq!(refusal(victim.wait_for_room(10, DEADLINE)), reason);
        assert!(victim.is_closed());
        if let Err(error) = victim.trim() {
            assert_eq!(refusal(Err(error)), reason);
        }
    }
}

#[test]
fn a_peer_that_shuts_its_attachment_socket_has_ended_for_every_call() {
    let (Pair { victim, peer, .. }, attachments) = pair_with_attachments();
    peer.post_text("before").expect("room");
    shutdown(attachments.as_raw_fd(), Shutdown::Both).expect("a connected socket");
    victim.post_text("nothing is known yet").expect("room");
    assert_eq!(refusal_with(&victim), CloseReason::PeerDied);
    assert_posts_say(&victim, CloseReason::PeerDied);
    // What was in the queue comes first; then no look says that nothing is there.
    assert_eq!(victim.try_recv().expect("a message").expect("a message").bytes(), b"before");
    let end = victim.try_recv().map(|event| event.is_some());
    assert!(matches!(end, Err(RecvError::Closed { reason: CloseReason::PeerDied })), "{end:?}");
    // A close that comes late changes nothing.
    drop(peer);
    assert_eq!(receive_end(&victim), CloseReason::PeerDied);
    assert_posts_say(&victim, CloseReason::PeerDied);
}

#[test]
fn a_look_at_an_empty_queue_says_the_end_that_a_post_has_said() {
    for asks_for_readiness in [false, true] {
        let (Pair { victim, peer: _peer, .. }, attachments) = pair_with_attachments();
        if asks_for_readiness {
            let _ = std::os::fd::AsFd::as_fd(&victim);
        }
        assert!(victim.try_recv().expect("an open port").is_none());
        shutdown(attachments.as_raw_fd(), Shutdown::Both).expect("a connected socket");
        assert_eq!(refusal_with(&victim), CloseReason::PeerDied);
        let end = victim.discard_next();
        assert!(matches!(end, Err(RecvError::Closed { reason: CloseReason::PeerDied })), "{end:?}");
        assert_eq!(receive_end(&victim), CloseReason::PeerDied);
    }
}

#[test]
fn a_corruption_behind_an_end_is_not_the_reason() {
    let Pair { victim, peer, region } = pair();
    let (_sender, receiver) = peer.split();
    drop(receiver);
    assert_eq!(refusal(victim.post_text("late")), CloseReason::PeerDropped);
    region.word(head(OUT)).store(1 << 40, SeqCst);
    let trimmed = victim.trim();
    assert_eq!(refusal(trimmed.map(drop)), CloseReason::PeerDropped);
    assert_posts_say(&victim, CloseReason::PeerDropped);
    assert_eq!(receive_end(&victim), CloseReason::PeerDropped);
}

#[test]
fn a_corruption_that_was_first_stays_the_reason_whatever_the_peer_says_later() {
    let Pair { victim, peer, region } = pair();
    region.word(head(OUT)).store(1 << 40, SeqCst);
    let reason = loop {
        match victim.post_bytes(&[1; 500]) {
            Ok(()) => {}
            refused => break refusal(refused),
        }
    };
    assert!(matches!(reason, CloseReason::Corrupt(_)), "{reason:?}");
    region.half_word(reader_gone(OUT)).store(1, SeqCst);
    assert_posts_say(&victim, reason);
    drop(peer);
    assert_posts_say(&victim, reason);
    assert_eq!(receive_end(&victim), reason);
}

#[test]
fn a_reader_that_takes_its_close_back_has_gone_all_the_same() {
    for code in [1, 2] {
        let Pair { victim, peer, region } = pair();
        let word = region.half_word(reader_gone(OUT));
        word.store(code, SeqCst);
        let reason = refusal(victim.post_text("late"));
        for later in [0, 3 - code] {
            word.store(later, SeqCst);
            assert_posts_say(&victim, reason);
        }
        // The other direction is open until its own end, which has no reason of its own here.
        peer.post_text("still").expect("room");
        assert_eq!(receive_text(&victim), "still");
        drop(region);
        let parts = Parts::of(peer);
        drop(parts);
        assert_eq!(receive_end(&victim), reason);
    }
}

#[test]
fn a_death_that_posts_have_said_is_what_receiving_says_behind_the_last_message() {
    let Pair { victim, peer, region } = pair();
    peer.post_text("last").expect("room");
    let end = region.word(tail(super::IN)).load(SeqCst);
    let parts = Parts::of(peer);
    drop(parts);
    wait_until_closed(&victim);
    assert_eq!(refusal(victim.post_text("late")), CloseReason::PeerDied);
    region.word(tail(super::IN)).store(end | CLOSED, SeqCst);
    assert_eq!(receive_text(&victim), "last");
    assert_eq!(receive_end(&victim), CloseReason::PeerDied);
    assert_posts_say(&victim, CloseReason::PeerDied);
}

#[test]
fn a_close_here_behind_an_end_that_was_said_changes_no_reason() {
    let Pair { victim, peer, .. } = pair();
    drop(peer);
    assert_eq!(receive_end(&victim), CloseReason::PeerDropped);
    victim.close();
    assert_posts_say(&victim, CloseReason::PeerDropped);
    assert_eq!(receive_end(&victim), CloseReason::PeerDropped);
}

#[test]
fn after_a_close_here_a_broken_queue_ends_as_closed_here() {
    let Pair { victim, peer, region } = pair();
    peer.post_text("read").expect("room");
    let end = region.word(tail(super::IN)).load(SeqCst);
    region.write_record(region.area(super::IN, end as usize), record(1 << 20, 1, 0), 0);
    region.word(tail(super::IN)).store(end + 32, SeqCst);
    victim.close();
    assert_eq!(receive_text(&victim), "read");
    assert_eq!(receive_end(&victim), CloseReason::Local);
    assert_posts_say(&victim, CloseReason::Local);
    let loan = peer.loan(4);
    assert!(matches!(loan.map(drop), Err(PostError::Closed { reason: CloseReason::PeerClosed })));
}

#[test]
fn a_loan_that_a_close_overtook_says_what_the_port_said_before() {
    let Pair { victim, peer, .. } = pair();
    let loan = victim.loan(4).expect("room");
    drop(peer);
    assert_eq!(receive_end(&victim), CloseReason::PeerDropped);
    victim.close();
    assert_eq!(refusal(loan.post()), CloseReason::PeerDropped);
    assert_posts_say(&victim, CloseReason::PeerDropped);
}
