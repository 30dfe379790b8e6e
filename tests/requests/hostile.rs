//! A peer that does not keep the protocol: it cannot make a call end wrongly, hang a caller beyond
//! its deadline, or end anything but its own calls.

use crate::common::watchdog::{progress, watch};
use crate::common::{DEADLINE, messages::Rng};
use crate::{answer, expected, failure, question};
use messageport::{CallError, MessageChannel, MessageError, MessagePort, PostError, TypedError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// Kinds of messages, as `docs/protocol.md` numbers them.
pub const CALL: u8 = 1;
pub const CANCEL: u8 = 2;
pub const REPLY: u8 = 3;
pub const REFUSAL: u8 = 4;
pub const UNANSWERED: u8 = 5;

pub fn trailer(sequence: u64, slot: u32, kind: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&sequence.to_le_bytes());
    bytes[8..12].copy_from_slice(&slot.to_le_bytes());
    bytes[12] = kind;
    bytes
}

/// The trailer of the next message.
pub fn read_trailer(port: &MessagePort) -> [u8; 16] {
    let event = crate::common::receive(port);
    *event.bytes().last_chunk().expect("a trailer")
}

#[test]
fn the_wire_form_is_the_documented_one() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let requester = port1.requester::<u32, u32>();
    let first = requester.start(&7).expect("room");
    let event = crate::common::receive(&port2);
    assert_eq!(event.bytes(), [&7u32.to_le_bytes()[..], &trailer(1, 0, CALL)].concat());
    drop(event);
    let second = requester.start(&8).expect("room");
    assert_eq!(read_trailer(&port2), trailer(2, 1, CALL));
    drop(first);
    assert_eq!(crate::common::receive(&port2).bytes(), trailer(1, 0, CANCEL));
    // The slot is used again, the sequence never.
    let third = requester.start(&9).expect("room");
    assert_eq!(read_trailer(&port2), trailer(3, 0, CALL));
    port2.post_message(&(5u32, trailer(3, 0, REPLY))).expect("room");
    assert_eq!(*third.wait_timeout(DEADLINE).expect("a reply").data(), 5);
    port2.post_message(&("no".to_owned(), trailer(2, 1, REFUSAL))).expect("room");
    let error = failure(second.wait_timeout(DEADLINE));
    assert!(matches!(&error, CallError::Refused { text } if text == "no"), "{error}");
    let fourth = requester.start(&9).expect("room");
    port2.post_message(&((), trailer(4, 1, UNANSWERED))).expect("room");
    assert!(matches!(failure(fourth.wait_timeout(DEADLINE)), CallError::Unanswered));
    assert_eq!(requester.discarded(), 0);
}

#[test]
fn forged_and_doubled_replies_reach_no_call() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let requester = port1.requester::<u32, u32>();
    // One call is over, and one was cancelled, so that both slots were used.
    for sequence in [1, 2] {
        let call = requester.start(&0).expect("room");
        if sequence == 1 {
            port2.post_message(&(1u32, trailer(1, 0, REPLY))).expect("room");
            assert!(call.wait_timeout(DEADLINE).is_ok());
        }
    }
    let call = requester.start(&0).expect("room");
    let mut forged = 0;
    let mut forge = |sequence, slot, kind| {
        port2.post_message(&(9u32, trailer(sequence, slot, kind))).expect("room");
        forged += 1;
    };
    for kind in [REPLY, REFUSAL, UNANSWERED] {
        // Calls that are over, one that comes later, slots that do not exist.
        for (sequence, slot) in [(1, 0), (2, 0), (4, 0), (0, 0), (3, 1), (3, u32::MAX)] {
            forge(sequence, slot, kind);
        }
    }
    // Kinds that go the other way, and kinds that do not exist.
    for kind in [CALL, CANCEL, 0, 6, 255] {
        forge(3, 0, kind);
    }
    port2.post_message(&(9u32, [0xff; 16])).expect("room");
    port2.post_text("no reply, though longer than one").expect("room");
    port2.post_bytes(&trailer(3, 0, REPLY)).expect("room");
    port2.post_bytes(b"").expect("room");
    port2.post_message(&(5u32, trailer(3, 0, REPLY))).expect("room");
    port2.post_message(&(6u32, trailer(3, 0, REPLY))).expect("room");
    assert_eq!(*call.wait_timeout(DEADLINE).expect("the reply").data(), 5);
    let last = requester.start(&0).expect("room");
    port2.post_message(&(7u32, trailer(4, 0, REPLY))).expect("room");
    assert_eq!(*last.wait_timeout(DEADLINE).expect("the reply").data(), 7);
    assert_eq!(requester.discarded(), forged + 5);
}

/// A slot that is free has the sequence 0.
#[test]
fn what_names_a_free_slot_ends_no_later_call() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let requester = port1.requester::<u32, u32>();
    let [first, second] = [1, 2].map(|number| requester.start(&number).expect("room"));
    port2.post_message(&(1u32, trailer(1, 0, REPLY))).expect("room");
    assert_eq!(*first.wait_timeout(DEADLINE).expect("a reply").data(), 1);
    for kind in [REPLY, REFUSAL, UNANSWERED] {
        port2.post_message(&(9u32, trailer(0, 0, kind))).expect("room");
    }
    port2.post_message(&(2u32, trailer(2, 1, REPLY))).expect("room");
    assert_eq!(*second.wait_timeout(DEADLINE).expect("a reply").data(), 2);
    assert_eq!(requester.discarded(), 3);
    let calls = [(3u32, 1), (4, 0)].map(|(number, slot)| {
        let call = requester.start(&number).expect("room");
        port2.post_message(&(number, trailer(number.into(), slot, REPLY))).expect("room");
        call
    });
    let replies = calls.map(|call| *call.wait_timeout(DEADLINE).expect("a reply").data());
    assert_eq!(replies, [3, 4]);
    assert_eq!(requester.discarded(), 3);
}

#[test]
fn garbage_of_an_open_call_fails_that_call_alone() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let requester = port1.requester::<u32, String>();
    let calls: Vec<_> = (0..4).map(|number| requester.start(&number).expect("room")).collect();
    let text = |slot| trailer(u64::from(slot) + 1, slot, REPLY);
    // A string whose bytes lie elsewhere, a refusal without a text, no string at all.
    port2.post_message(&([0xfe_u8; 8], text(0))).expect("room");
    port2.post_message(&(3u8, trailer(2, 1, REFUSAL))).expect("room");
    port2.post_message(&((), text(2))).expect("room");
    port2.post_message(&("right".to_owned(), text(3))).expect("room");
    let mut calls = calls.into_iter();
    for _ in 0..3 {
        let error = failure(calls.next().expect("four").wait_timeout(DEADLINE));
        assert!(matches!(error, CallError::Message(MessageError::Invalid { .. })), "{error}");
    }
    let reply = calls.next().expect("four").wait_timeout(DEADLINE).expect("a reply");
    assert_eq!(reply.data().as_str(), "right");
}

#[test]
fn a_deadline_holds_while_the_peer_posts_without_end() {
    let _watch = watch("a_deadline_holds_while_the_peer_posts_without_end");
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let requester = port1.requester::<u32, u32>();
    let is_over = Arc::new(AtomicBool::new(false));
    let flag = is_over.clone();
    let flood = thread::spawn(move || {
        while !flag.load(SeqCst) {
            match port2.post_message(&(9u32, trailer(77, 7, REPLY))) {
                Ok(()) | Err(PostError::QueueFull { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    for _ in 0..20 {
        let error = failure(requester.call_timeout(&1, Duration::from_millis(5)));
        assert!(matches!(error, CallError::Timeout), "{error}");
        progress();
    }
    is_over.store(true, SeqCst);
    flood.join().expect("no panic");
}

#[test]
fn a_responder_returns_though_cancellations_come_without_end() {
    let _watch = watch("a_responder_returns_though_cancellations_come_without_end");
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let responder = port1.responder::<u32, u32>();
    let is_over = Arc::new(AtomicBool::new(false));
    let flag = is_over.clone();
    let flood = thread::spawn(move || {
        let mut rng = Rng(5);
        while !flag.load(SeqCst) {
            let trailer = trailer(rng.below(4), rng.below(4) as u32, CANCEL);
            match port2.post_message(&((), trailer)) {
                Ok(()) | Err(PostError::QueueFull { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    for _ in 0..20 {
        let received = responder.recv_timeout(Duration::from_millis(5)).map(drop);
        assert!(matches!(received, Err(TypedError::Recv(_))), "{received:?}");
        assert!(responder.try_recv().expect("an open port").is_none());
        progress();
    }
    is_over.store(true, SeqCst);
    flood.join().expect("no panic");
}

#[test]
fn what_is_no_request_is_an_error_and_the_next_one_follows() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let responder = port1.responder::<String, u32>();
    port2.post_text("words").expect("room");
    port2.post_bytes(b"").expect("room");
    port2.post_message(&7u8).expect("room");
    port2.post_message(&("reply".to_owned(), trailer(1, 0, REPLY))).expect("room");
    port2.post_message(&("nothing".to_owned(), [0xff; 16])).expect("room");
    // A request that is no text: its caller is told.
    port2.post_message(&(7u8, trailer(5, 6, CALL))).expect("room");
    port2.post_message(&("right".to_owned(), trailer(6, 0, CALL))).expect("room");
    for _ in 0..6 {
        let error = responder.recv_timeout(DEADLINE).map(drop).expect_err("no request");
        assert!(matches!(error, TypedError::Message(_)), "{error}");
    }
    assert_eq!(read_trailer(&port2), trailer(5, 6, REFUSAL));
    assert_eq!(responder.recv_timeout(DEADLINE).expect("a request").data().as_str(), "right");
    assert_eq!(read_trailer(&port2), trailer(6, 0, UNANSWERED));
}

#[test]
fn several_requests_of_one_call_end_each() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let responder = port1.responder::<u32, u32>();
    responder.set_limit(3);
    for number in 0..6u32 {
        port2.post_message(&(number, trailer(1, 0, CALL))).expect("room");
    }
    let mut owned: Vec<_> = (0..3)
        .map(|_| responder.recv_timeout(DEADLINE).expect("a request").into_owned())
        .map(|request| request.expect("memory"))
        .collect();
    assert!(responder.try_recv().expect("an open port").is_none(), "doubles count as well");
    for request in owned.drain(..) {
        request.reply(&8).expect("room");
    }
    assert!(responder.try_recv().expect("an open port").is_some());
    for _ in 0..3 {
        assert_eq!(read_trailer(&port2), trailer(1, 0, REPLY));
    }
    port2.post_message(&((), trailer(1, 0, CANCEL))).expect("room");
    assert!(responder.try_recv().expect("an open port").is_none(), "all are skipped");
}

#[test]
fn requests_beyond_the_limit_stay_in_the_queue() {
    let _watch = watch("requests_beyond_the_limit_stay_in_the_queue");
    let (requester, responder) = crate::pair();
    responder.set_limit(2);
    let calls: Vec<_> =
        (0..300).map(|number| requester.start(&question(number)).expect("room")).collect();
    let mut owned = Vec::new();
    for _ in 0..2 {
        let request = responder.recv_timeout(DEADLINE).expect("a request");
        owned.push(request.into_owned().expect("memory"));
    }
    assert!(responder.try_recv().expect("an open port").is_none());
    let received = responder.recv_timeout(Duration::from_millis(5)).map(drop);
    assert!(matches!(received, Err(TypedError::Recv(messageport::RecvError::Timeout))));
    // Another thread answers, and this one goes on.
    let first = owned.remove(0);
    let other = thread::spawn(move || first.reply(&answer(first.data())).expect("room"));
    let request = responder.recv_timeout(DEADLINE).expect("room for a request");
    request.reply(&answer(request.data())).expect("room");
    other.join().expect("no panic");
    drop((request, owned));
    for _ in 3..300 {
        crate::answer_next(&responder);
    }
    for (number, call) in calls.into_iter().enumerate() {
        match call.wait_timeout(DEADLINE) {
            Ok(reply) => {
                assert_eq!(reply.deserialize().expect("an answer"), expected(number as u64));
            }
            Err(error) => assert!(matches!(error, CallError::Unanswered) && number == 1, "{error}"),
        }
    }
}

/// A hostile requester can post cancellations as fast as they are read.
#[test]
fn a_look_for_cancellations_has_a_bound() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let responder = port1.responder::<u32, u32>();
    let post = |value: u32, trailer| port2.post_message(&(value, trailer)).expect("room");
    post(1, trailer(1, 0, CALL));
    for _ in 0..10_000 {
        post(0, trailer(7, 7, CANCEL));
    }
    let request = responder.try_recv().expect("an open port").expect("a request");
    let left = port2.backlog().messages;
    assert!(left > 9_900, "{left} are left after one call");
    assert!(!request.is_cancelled());
    let left = port2.backlog().messages;
    assert!(left > 9_800, "{left} are left after one look");
    // Requests that are cancelled at once fill no queue either.
    drop(request);
    for number in 2..5_000 {
        post(1, trailer(number, 0, CALL));
        post(0, trailer(number, 0, CANCEL));
    }
    let before = port2.backlog().messages;
    assert!(responder.try_recv().expect("an open port").is_none());
    let read = before - port2.backlog().messages;
    assert!(read < 300, "one call has read {read} messages");
}
