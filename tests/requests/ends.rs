//! The end of a port ends every open call at once.

use crate::common::role::{command, play};
use crate::common::watchdog::watch;
use crate::common::{DEADLINE, die};
use crate::{answer, expected, failure, pair, question};
use messageport::{
    CallError, CloseReason, MessageChannel, PostError, RecvError, Requester, TypedError, Worker,
    parent_port,
};
use std::thread;
use std::time::Duration;

fn reason(error: CallError) -> CloseReason {
    match error {
        CallError::Closed { reason, .. } => reason,
        other => panic!("expected the end: {other}"),
    }
}

#[test]
fn a_responder_that_is_dropped_ends_all_calls() {
    let _watch = watch("a_responder_that_is_dropped_ends_all_calls");
    let (requester, responder) = pair();
    let calls: Vec<_> =
        (0..20).map(|number| requester.start(&question(number)).expect("room")).collect();
    let waiting: Vec<_> =
        calls.into_iter().map(|call| thread::spawn(move || call.wait().map(drop))).collect();
    thread::sleep(Duration::from_millis(10));
    drop(responder);
    for thread in waiting {
        let error = failure(thread.join().expect("no panic"));
        assert!(error.to_string().contains("the call may have been carried out"), "{error}");
        assert_eq!(reason(error), CloseReason::PeerDropped);
    }
    assert!(requester.is_closed());
    let error = failure(requester.call(&question(1)));
    assert!(matches!(error, CallError::Closed { is_posted: false, .. }), "{error:?}");
    assert!(error.to_string().contains("the request was not posted"), "{error}");
    assert_eq!(reason(error), CloseReason::PeerDropped);
    let posted = requester.start(&question(1)).map(drop);
    assert!(matches!(posted, Err(PostError::Closed { .. })), "{posted:?}");
}

#[test]
fn a_responder_that_is_closed_answers_nothing_more() {
    let _watch = watch("a_responder_that_is_closed_answers_nothing_more");
    let (requester, responder) = pair();
    let calls = [1, 2].map(|number| requester.start(&question(number)).expect("room"));
    let request = responder.recv().expect("a request").into_owned().expect("memory");
    responder.close();
    responder.close();
    assert!(responder.is_closed());
    let replied = request.reply(&answer(request.data()));
    let Err(PostError::Closed { reason: CloseReason::Local }) = replied else {
        panic!("{replied:?}")
    };
    // The second request has come before, and can be read. Nothing follows.
    if let Ok(request) = responder.recv() {
        request.refuse("too late").expect_err("a closed port");
    }
    match responder.recv().map(drop) {
        Err(TypedError::Recv(RecvError::Closed { reason: CloseReason::Local })) => {}
        other => panic!("{other:?}"),
    }
    for call in calls {
        assert_eq!(reason(failure(call.wait())), CloseReason::PeerClosed);
    }
    assert!(requester.is_closed());
}

/// Also a reply that waits for room in another thread.
#[test]
fn a_responder_that_is_closed_ends_the_wait_of_a_reply() {
    let _watch = watch("a_responder_that_is_closed_ends_the_wait_of_a_reply");
    let channel = MessageChannel::builder().capacity(4096).limit(4096).build().expect("a channel");
    let requester = channel.port1.requester::<u8, Vec<u8>>();
    let responder = channel.port2.responder::<u8, Vec<u8>>();
    let mut calls = Vec::new();
    let mut take = || {
        calls.push(requester.start(&1).expect("room"));
        responder.recv().expect("a request").into_owned().expect("memory")
    };
    while take().reply(&vec![1; 1000]).is_ok() {}
    let request = take();
    let waits = thread::spawn(move || request.reply_timeout(&vec![1; 1000], Duration::MAX));
    thread::sleep(Duration::from_millis(20));
    responder.close();
    let replied = waits.join().expect("no panic");
    assert!(matches!(replied, Err(PostError::Closed { .. })), "{replied:?}");
}

#[test]
fn replies_before_the_end_are_delivered() {
    let (requester, responder) = pair();
    let calls = [1, 2].map(|number| requester.start(&question(number)).expect("room"));
    crate::answer_next(&responder);
    drop(responder);
    let [first, second] = calls;
    assert_eq!(reason(failure(second.wait())), CloseReason::PeerDropped);
    assert_eq!(first.wait().expect("a reply").deserialize().expect("an answer"), expected(1));
}

#[test]
fn a_requester_that_is_closed_here_ends_all_calls() {
    let _watch = watch("a_requester_that_is_closed_here_ends_all_calls");
    let (requester, responder) = pair();
    let calls: Vec<_> =
        (0..4).map(|number| requester.start(&question(number)).expect("room")).collect();
    let waiting: Vec<_> =
        calls.into_iter().map(|call| thread::spawn(move || call.wait().map(drop))).collect();
    thread::sleep(Duration::from_millis(10));
    requester.close();
    for thread in waiting {
        let error = failure(thread.join().expect("no panic"));
        assert_eq!(reason(error), CloseReason::Local);
    }
    requester.close();
    assert_eq!(reason(failure(requester.call(&question(1)))), CloseReason::Local);
    // What was posted before comes first.
    for number in 0..4 {
        assert_eq!(responder.recv().expect("a request").data().number, number);
    }
    let end = responder.recv().map(drop);
    assert!(matches!(end, Err(TypedError::Recv(RecvError::Closed { .. }))), "{end:?}");
}

#[test]
fn the_port_closes_with_the_last_call() {
    let (requester, responder) = pair();
    let call = requester.start(&question(1)).expect("room");
    drop(requester);
    crate::answer_next(&responder);
    assert!(!responder.is_closed());
    assert!(call.wait().is_ok());
    assert!(responder.is_closed());
    let request = responder.recv().map(drop);
    assert!(matches!(request, Err(TypedError::Recv(RecvError::Closed { .. }))), "{request:?}");
}

#[test]
fn a_reply_to_a_requester_that_is_gone_is_refused() {
    let (requester, responder) = pair();
    let call = requester.start(&question(1)).expect("room");
    let request = responder.recv_timeout(DEADLINE).expect("a request");
    let owned = {
        let call = requester.start(&question(2)).expect("room");
        std::mem::forget(call);
        responder.recv_timeout(DEADLINE).expect("a request").into_owned().expect("memory")
    };
    requester.close();
    drop((call, requester));
    let posted = request.reply(&answer(request.data()));
    assert!(matches!(posted, Err(PostError::Closed { .. })), "{posted:?}");
    let posted = owned.reply_timeout(&answer(owned.data()), DEADLINE);
    assert!(matches!(posted, Err(PostError::Closed { .. })), "{posted:?}");
}

#[test]
fn a_responder_that_is_killed_ends_all_calls() {
    const TEST: &str = "ends::a_responder_that_is_killed_ends_all_calls";
    fn dies() {
        let port = parent_port().expect("a port to the parent");
        let responder = port.responder::<u64, u64>();
        let mut held = Vec::new();
        for answered in 0.. {
            let request = responder.recv().expect("a request");
            match answered {
                0..10 => request.reply(&(request.data().to_native() + 1)).expect("room"),
                10..20 => held.push(request.into_owned().expect("memory")),
                _ => die(),
            }
        }
    }
    fn calls() {
        let (port, mut child) =
            Worker::spawn(command(TEST, "dies")).expect("a worker").into_parts();
        let requester: Requester<u64, u64> = port.requester();
        let calls: Vec<_> = (0..40).map(|number| requester.start(&number).expect("room")).collect();
        let waiting: Vec<_> =
            calls.into_iter().map(|call| thread::spawn(move || call.wait())).collect();
        for (number, thread) in waiting.into_iter().enumerate() {
            match thread.join().expect("no panic") {
                Ok(reply) => {
                    assert!(number < 10);
                    assert_eq!(reply.data().to_native(), number as u64 + 1);
                }
                Err(error) => {
                    assert!(number >= 10);
                    assert_eq!(reason(error), CloseReason::PeerDied);
                }
            }
        }
        child.wait().expect("a child");
    }
    play(TEST, &[("calls", calls), ("dies", dies)]);
}

#[test]
fn a_requester_shows_what_it_waits_for() {
    let (requester, responder) = pair();
    let call = requester.start(&question(1)).expect("room");
    let shown = format!("{requester:?}");
    for part in
        ["request: \"", "reply: \"", "pair: ", "open_calls: 1", "discarded: 0", "ended: None"]
    {
        assert!(shown.contains(part), "no {part}: {shown}");
    }
    drop(responder);
    assert_eq!(reason(failure(call.wait())), CloseReason::PeerDropped);
    let shown = format!("{requester:?}");
    assert!(shown.contains("open_calls: 0") && shown.contains("Some(PeerDropped)"), "{shown}");
}
