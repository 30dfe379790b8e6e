//! Calls between a requester and a responder that keep the protocol.

use crate::common::watchdog::{progress, watch};
use crate::common::{DEADLINE, wait_until};
use crate::{Answer, answer, answer_next, expected, failure, pair, question};
use messageport::{
    Buffer, CallError, MessageChannel, MessageError, PostError, RecvError, SafeArchive, TypedError,
    rkyv,
};
use std::fs::File;
use std::panic;
use std::thread;
use std::time::Duration;

#[test]
fn a_call_returns_its_reply() {
    let _watch = watch("a_call_returns_its_reply");
    let (requester, responder) = pair();
    let server = thread::spawn(move || {
        for _ in 0..1000 {
            answer_next(&responder);
        }
        responder.recv().map(drop).expect_err("the end")
    });
    for number in 0..1000 {
        assert_eq!(requester.call(&question(number)).expect("a reply"), expected(number));
        progress();
    }
    assert_eq!(requester.open_calls(), 0);
    drop(requester);
    let end = server.join().expect("no panic");
    assert!(matches!(end, TypedError::Recv(RecvError::Closed { .. })), "{end}");
}

#[test]
fn calls_are_answered_in_any_order() {
    let (requester, responder) = pair();
    let calls: Vec<_> =
        (0..50).map(|number| requester.start(&question(number)).expect("room")).collect();
    let mut requests: Vec<_> =
        (0..50).map(|_| responder.recv_timeout(DEADLINE).expect("a request")).collect();
    // In an order of its own, and not simply backwards.
    requests.sort_by_key(|request| request.data().number.to_native() * 17 % 50);
    for request in requests {
        request.reply(&answer(request.data())).expect("room");
    }
    assert_eq!(requester.open_calls(), 50);
    for (number, call) in calls.into_iter().enumerate().rev() {
        let reply = call.wait_timeout(DEADLINE).expect("a reply");
        assert_eq!(reply.deserialize().expect("an answer"), expected(number as u64));
        assert_eq!(reply.data().number.to_native(), number as u64);
    }
    assert_eq!((requester.open_calls(), requester.discarded()), (0, 0));
}

#[test]
fn a_call_that_is_not_waited_for_is_found_by_try_wait() {
    let (requester, responder) = pair();
    let mut call = requester.start(&question(3)).expect("room");
    for _ in 0..3 {
        call = call.try_wait().expect_err("no reply yet");
    }
    answer_next(&responder);
    let reply = call.try_wait().expect("a reply").expect("a reply");
    assert_eq!(reply.deserialize().expect("an answer"), expected(3));
}

#[test]
fn transferables_move_both_ways() {
    let (requester, responder) = pair();
    let buffer = Buffer::from_slice(b"of the request").expect("memory");
    let file = File::open("/dev/null").expect("a file");
    let call = requester.start_with(&question(1), [buffer.into(), file.into()]).expect("room");
    let request = responder.recv_timeout(DEADLINE).expect("a request");
    assert_eq!(request.transferred(), (0, 1, 1));
    assert_eq!(&*request.take_buffer().expect("a buffer"), b"of the request");
    assert_eq!(request.take_descriptors().expect("descriptors").len(), 1);
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    port1.post_text("inside").expect("room");
    request.reply_with(&answer(request.data()), [port2.into()]).expect("room");
    let reply = call.wait_timeout(DEADLINE).expect("a reply");
    let port = reply.take_port().expect("a port");
    assert_eq!(port.recv().expect("a message").text().expect("a text"), "inside");
    assert_eq!(reply.deserialize().expect("an answer"), expected(1));
}

#[test]
fn a_request_is_answered_later_from_another_thread() {
    let (requester, responder) = pair();
    let file = File::open("/dev/null").expect("a file");
    let call = requester.start_with(&question(4), [file.into()]).expect("room");
    let request = responder.recv_timeout(DEADLINE).expect("a request");
    let request = request.into_owned().expect("memory");
    let other = requester.start(&question(2)).expect("room");
    answer_next(&responder);
    assert_eq!(other.wait().expect("a reply").deserialize().expect("an answer"), expected(2));
    let worker = thread::spawn(move || {
        assert_eq!(request.take_descriptors().expect("a descriptor").len(), 1);
        assert_eq!(request.deserialize().expect("a question"), question(4));
        request.reply(&answer(request.data())).expect("room");
        let again = request.reply(&answer(request.data())).expect_err("answered before");
        assert!(matches!(again, PostError::Answered), "{again}");
        let list = [File::open("/dev/null").expect("a file").into()];
        let again = request.reply_with(&answer(request.data()), list).expect_err("answered");
        assert_eq!(again.into_parts().1.len(), 1, "the list comes back");
    });
    assert_eq!(call.wait().expect("a reply").deserialize().expect("an answer"), expected(4));
    worker.join().expect("no panic");
}

#[test]
fn a_refusal_says_why() {
    let (requester, responder) = pair();
    for is_owned in [false, true] {
        let call = requester.start(&question(1)).expect("room");
        let request = responder.recv_timeout(DEADLINE).expect("a request");
        let text = format!("too hard{}", "é".repeat(1000));
        if is_owned {
            request.into_owned().expect("memory").refuse(&text).expect("room");
        } else {
            request.refuse(&text).expect("room");
            assert!(matches!(request.refuse("again"), Err(PostError::Answered)));
        }
        match failure(call.wait_timeout(DEADLINE)) {
            CallError::Refused { text: found } => {
                assert!(found.starts_with("too hardéé") && found.len() == 1024, "{found}");
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_request_that_is_dropped_fails_at_once() {
    let (requester, responder) = pair();
    let calls = [0, 1].map(|number| requester.start(&question(number)).expect("room"));
    drop(responder.recv_timeout(DEADLINE).expect("a request"));
    drop(responder.recv_timeout(DEADLINE).expect("a request").into_owned().expect("memory"));
    for call in calls {
        let error = failure(call.wait());
        assert!(matches!(error, CallError::Unanswered), "{error}");
    }
}

#[test]
fn a_call_that_is_cancelled_before_it_is_handled_is_skipped() {
    let (requester, responder) = pair();
    let calls: Vec<_> =
        (0..6).map(|number| requester.start(&question(number)).expect("room")).collect();
    for (number, call) in calls.into_iter().enumerate() {
        match number {
            // The first, one in between, and the last.
            0 | 3 | 5 => drop(call),
            _ => std::mem::forget(call),
        }
    }
    for number in [1, 2, 4] {
        let request = responder.recv_timeout(DEADLINE).expect("a request");
        assert_eq!(request.data().number, number);
        request.reply(&answer(request.data())).expect("room");
    }
    assert!(responder.try_recv().expect("an open port").is_none());
}

#[test]
fn a_call_that_is_cancelled_while_it_is_handled_is_known_to_be() {
    let (requester, responder) = pair();
    let call = requester.start(&question(1)).expect("room");
    let request = responder.recv_timeout(DEADLINE).expect("a request");
    assert!(!request.is_cancelled());
    drop(call);
    assert!(request.is_cancelled());
    // Nothing is posted for it, and what would move is closed.
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    request.reply_with(&answer(request.data()), [port2.into()]).expect("no reply is wanted");
    assert!(port1.is_closed());
    drop(request);

    let call = requester.start(&question(2)).expect("room");
    let request = responder.recv_timeout(DEADLINE).expect("a request").into_owned();
    let request = request.expect("memory");
    assert!(!request.is_cancelled());
    drop(call);
    assert!(responder.try_recv().expect("an open port").is_none());
    assert!(request.is_cancelled());
    request.reply(&answer(request.data())).expect("no reply is wanted");
    drop(request);
    assert_eq!(requester.discarded(), 0);
}

#[test]
fn a_late_reply_is_discarded_with_what_moved() {
    let (requester, responder) = pair();
    let call = requester.start(&question(1)).expect("room");
    let request = responder.recv_timeout(DEADLINE).expect("a request");
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    // The responder has not looked since the call was cancelled.
    drop(call);
    request.reply_with(&answer(request.data()), [port2.into()]).expect("room");
    drop(request);
    // Another call in the same slot is not answered by it.
    let call = requester.start(&question(2)).expect("room");
    answer_next(&responder);
    assert_eq!(call.wait().expect("a reply").deserialize().expect("an answer"), expected(2));
    assert_eq!(requester.discarded(), 1);
    wait_until("the port is closed", || port1.is_closed());
}

#[test]
fn a_call_ends_when_its_time_is_up() {
    let (requester, responder) = pair();
    let error = failure(requester.call_timeout(&question(1), Duration::from_millis(2)));
    assert!(matches!(error, CallError::Timeout), "{error}");
    let call = requester.start(&question(2)).expect("room");
    let error = failure(call.wait_timeout(Duration::ZERO));
    assert!(matches!(error, CallError::Timeout), "{error}");
    assert_eq!(requester.open_calls(), 0);
    // A reply that is there is returned, whatever the time is.
    let call = requester.start(&question(3)).expect("room");
    answer_next(&responder);
    assert!(call.wait_timeout(Duration::ZERO).is_ok());
    // The others were skipped.
    assert!(responder.try_recv().expect("an open port").is_none());
}

#[test]
fn another_thread_cancels_a_call_that_is_waited_for() {
    let _watch = watch("another_thread_cancels_a_call_that_is_waited_for");
    let (requester, responder) = pair();
    // One leads, and the other one follows.
    let calls = [1, 2].map(|number| requester.start(&question(number)).expect("room"));
    let cancellers = calls.each_ref().map(|call| call.canceller());
    let waiting = calls.map(|call| thread::spawn(move || call.wait().map(drop)));
    thread::sleep(Duration::from_millis(20));
    for canceller in &cancellers {
        canceller.cancel();
    }
    for thread in waiting {
        let error = failure(thread.join().expect("no panic"));
        assert!(matches!(error, CallError::Cancelled), "{error}");
    }
    cancellers.iter().for_each(|canceller| canceller.cancel());
    assert!(responder.try_recv().expect("an open port").is_none(), "both are skipped");
    // The requester goes on.
    let call = requester.start(&question(3)).expect("room");
    answer_next(&responder);
    assert_eq!(call.wait().expect("a reply").deserialize().expect("an answer"), expected(3));
}

/// Its types are not compared, so the other end sees the bytes.
#[derive(rkyv::Archive, rkyv::Serialize, SafeArchive)]
struct Unshaped(u8);

#[test]
fn a_responder_of_another_type_refuses() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let requester = port1.requester::<Unshaped, u8>();
    let responder = port2.responder::<String, u8>();
    let call = requester.start(&Unshaped(7)).expect("room");
    let error = responder.try_recv().map(drop).expect_err("no text");
    assert!(matches!(error, TypedError::Message(MessageError::Invalid { .. })), "{error}");
    match failure(call.wait_timeout(crate::common::DEADLINE)) {
        CallError::Refused { text } => assert!(text.contains("String"), "{text}"),
        other => panic!("{other}"),
    }
}

#[test]
fn a_reply_of_another_type_fails_its_own_call_only() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let requester = port1.requester::<u8, String>();
    let responder = port2.responder::<u8, Unshaped>();
    let calls = [1, 2].map(|number| requester.start(&number).expect("room"));
    for _ in 0..2 {
        responder.recv_timeout(DEADLINE).expect("a request").reply(&Unshaped(3)).expect("room");
    }
    for call in calls {
        let error = failure(call.wait_timeout(DEADLINE));
        assert!(matches!(error, CallError::Message(MessageError::Invalid { .. })), "{error}");
    }
    assert!(!requester.is_closed());
}

#[test]
fn a_serialize_that_calls_is_told_that_the_requester_is_busy() {
    use messageport::{Requester, rkyv};
    use rkyv::{Archive, Place, Serialize};
    use std::cell::RefCell;

    thread_local! {
        static INNER: RefCell<Option<Requester<Nested, u8>>> = const { RefCell::new(None) };
    }
    struct Nested(u8);
    impl Archive for Nested {
        type Archived = u8;
        type Resolver = ();
        fn resolve(&self, (): (), out: Place<u8>) {
            out.write(self.0);
        }
    }
    impl<S: rkyv::rancor::Fallible + ?Sized> Serialize<S> for Nested {
        fn serialize(&self, _: &mut S) -> Result<(), S::Error> {
            INNER.with_borrow(|inner| {
                let inner = inner.as_ref().expect("set before");
                assert!(matches!(inner.start(&Nested(0)), Err(PostError::Busy)));
                assert!(matches!(inner.call(&Nested(0)), Err(CallError::Post(PostError::Busy))));
            });
            Ok(())
        }
    }
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let requester = port1.requester::<Nested, u8>();
    let responder = port2.responder::<u8, u8>();
    INNER.set(Some(requester.clone()));
    let call = requester.start(&Nested(9)).expect("room");
    let request = responder.recv_timeout(DEADLINE).expect("a request");
    request.reply(request.data()).expect("room");
    assert_eq!(*call.wait().expect("a reply").data(), 9);
    INNER.take();
}

#[test]
fn values_of_each_alignment_arrive() {
    fn there_and_back<T>(value: T)
    where
        T: messageport::Post + messageport::ReceiveOwned + PartialEq + std::fmt::Debug,
    {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let (requester, responder) = (port1.requester::<T, T>(), port2.responder::<T, T>());
        let call = requester.start(&value).expect("room");
        let request = responder.recv_timeout(DEADLINE).expect("a request");
        request.reply(&request.deserialize().expect("a value")).expect("room");
        let reply = call.wait_timeout(DEADLINE).expect("a reply");
        assert_eq!(reply.deserialize().expect("a value"), value);
        // Without the trailer it is the archive of the value.
        assert!(reply.bytes().len() < 300 && Answer::clone(&expected(0)) == expected(0));
    }
    there_and_back(());
    there_and_back(1u8);
    there_and_back((1u8, 2u16));
    there_and_back(u128::MAX);
    there_and_back("text".to_owned());
    there_and_back(vec![vec![1u32, 2], vec![]]);
    there_and_back(Some(Box::new([7u64; 9])));
    there_and_back(Err::<(), String>("an error of the responder".to_owned()));
}

/// Code of the program that panics as it reads a reply ends its own call and nothing else.
#[test]
fn a_panic_while_a_reply_is_read_ends_that_call_alone() {
    let channel = MessageChannel::new().expect("a channel");
    let requester = channel.port1.requester::<u32, u32>();
    let responder = channel.port2.responder::<u32, u32>();
    let server = thread::spawn(move || {
        while let Ok(request) = responder.recv() {
            let number = request.data().to_native();
            request.reply(&number).expect("room for a reply");
        }
    });
    let started = requester.start(&7).expect("room");
    for number in 0..100 {
        let read = panic::AssertUnwindSafe(|| {
            requester.call_map(&number, |_| -> u32 { panic!("on purpose") })
        });
        assert!(panic::catch_unwind(read).is_err(), "the panic is the program's");
        assert_eq!(requester.call(&number).expect("a reply"), number);
    }
    assert_eq!(*started.wait().expect("a reply").data(), 7);
    assert_eq!((requester.open_calls(), requester.discarded()), (0, 0));
    drop(requester);
    server.join().expect("no panic");
}

#[test]
fn a_request_that_is_owned_after_its_reply_takes_no_other() {
    let channel = MessageChannel::new().expect("a channel");
    let requester = channel.port1.requester::<u32, u32>();
    let responder = channel.port2.responder::<u32, u32>();
    let calls = [1, 2].map(|number| requester.start(&number).expect("room"));
    for number in [1, 2] {
        let request = responder.recv_timeout(DEADLINE).expect("a request");
        request.reply(&number).expect("room");
        let owned = request.into_owned().expect("memory");
        assert!(matches!(owned.reply(&9), Err(PostError::Answered)));
    }
    for (number, call) in (1..).zip(calls) {
        assert_eq!(*call.wait_timeout(DEADLINE).expect("a reply").data(), number);
    }
    assert_eq!(requester.discarded(), 0, "it is not told twice that they ended");
}
