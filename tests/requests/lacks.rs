//! What is lacking: room, memory, descriptors.

use crate::common::DEADLINE;
use crate::common::limits::{
    allow_all_address_space, allow_all_descriptors, allow_more_address_space,
    allow_more_descriptors,
};
use crate::common::role::{play, skip};
use crate::common::watchdog::{progress, watch};
use crate::{answer, bounded, expected, failure, filter, pair_of, question};
use messageport::{
    Buffer, CallError, MessageChannel, MessageError, PostError, Transferable, TypedError,
};
use std::fs::File;
use std::thread;
use std::time::Duration;

fn file() -> File {
    File::open("/dev/null").expect("a file")
}

#[test]
fn a_full_queue_gives_the_list_back() {
    let (requester, responder) = pair_of(bounded());
    let mut calls = Vec::new();
    let error = loop {
        match requester.start(&question(4)) {
            Ok(call) => calls.push(call),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, PostError::QueueFull { .. }), "{error}");
    let error = requester.start_with(&question(4), [file().into()]).map(drop).expect_err("full");
    let (reason, list) = error.into_parts();
    assert!(matches!(reason, PostError::QueueFull { .. }) && list.len() == 1, "{reason}");
    let error = failure(requester.call_timeout(&question(4), Duration::from_millis(5)));
    assert!(matches!(error, CallError::Post(PostError::Timeout)), "{error}");
    assert_eq!(requester.open_calls(), calls.len());
    // Cancellations for which there is no room go before the next request.
    let first = calls.remove(0);
    drop(calls);
    crate::answer_next(&responder);
    assert_eq!(first.wait().expect("a reply").deserialize().expect("an answer"), expected(4));
    while responder.try_recv().expect("an open port").is_some() {}
    let last = requester.start(&question(1)).expect("room");
    crate::answer_next(&responder);
    assert_eq!(last.wait().expect("a reply").deserialize().expect("an answer"), expected(1));
    assert!(responder.try_recv().expect("an open port").is_none());
}

#[test]
fn a_caller_waits_for_room_and_receives_meanwhile() {
    let _watch = watch("a_caller_waits_for_room_and_receives_meanwhile");
    let (requester, responder) = pair_of(bounded());
    let server = thread::spawn(move || {
        while let Ok(request) = responder.recv() {
            // Both lanes are full at times.
            match request.reply_timeout(&answer(request.data()), DEADLINE) {
                Ok(()) | Err(PostError::Closed { .. }) => progress(),
                Err(error) => panic!("{error}"),
            }
        }
    });
    let callers: Vec<_> = (0..4)
        .map(|caller| {
            let requester = requester.clone();
            thread::spawn(move || {
                let mut open = Vec::new();
                for round in 0..200 {
                    if let Ok(call) = requester.start(&question(round)) {
                        open.push((round, call));
                    }
                    let number = caller * 1000 + round;
                    assert_eq!(
                        requester.call(&question(number)).expect("a reply"),
                        expected(number)
                    );
                    progress();
                }
                for (number, call) in open {
                    let reply = call.wait().expect("a reply");
                    assert_eq!(reply.deserialize().expect("an answer"), expected(number));
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().expect("no panic");
    }
    drop(requester);
    server.join().expect("no panic");
}

#[test]
fn a_reply_without_room_can_be_posted_later_and_its_list_comes_back() {
    let MessageChannel { port1, port2 } = bounded();
    let (requester, responder) =
        (port1.requester::<u8, [u64; 32]>(), port2.responder::<u8, [u64; 32]>());
    let mut calls = Vec::new();
    let mut requests = Vec::new();
    let full = loop {
        calls.push(requester.start(&1).expect("room"));
        let request = responder.recv_timeout(DEADLINE).expect("a request");
        match request.reply(&[7; 32]) {
            Ok(()) => drop(request),
            Err(error) => {
                requests.push(request.into_owned().expect("memory"));
                break error;
            }
        }
    };
    assert!(matches!(full, PostError::QueueFull { .. }), "{full}");
    let request = requests.remove(0);
    let error = request.reply_with(&[8; 32], [file().into()]).expect_err("full");
    let (reason, list) = error.into_parts();
    assert!(matches!(reason, PostError::QueueFull { .. }) && list.len() == 1, "{reason}");
    let timeout = Duration::from_millis(2);
    let error = request.reply_with_timeout(&[8; 32], list, timeout).expect_err("full");
    let (reason, list) = error.into_parts();
    assert!(matches!(reason, PostError::Timeout) && list.len() == 1, "{reason}");
    let last = calls.pop().expect("one without a reply");
    for call in calls {
        assert_eq!(call.wait_timeout(DEADLINE).expect("a reply").data()[0], 7);
    }
    request.reply_with(&[8; 32], list).expect("room");
    let reply = last.wait_timeout(DEADLINE).expect("a reply");
    assert_eq!((reply.data()[0].to_native(), reply.transferred()), (8, (0, 0, 1)));
}

#[test]
fn a_call_whose_request_is_dropped_ends_though_there_is_no_room() {
    let _watch = watch("a_call_whose_request_is_dropped_ends_though_there_is_no_room");
    let MessageChannel { port1, port2 } = bounded();
    let (requester, responder) =
        (port1.requester::<u8, [u64; 32]>(), port2.responder::<u8, [u64; 32]>());
    let mut calls = Vec::new();
    loop {
        calls.push(requester.start(&1).expect("room"));
        let request = responder.recv_timeout(DEADLINE).expect("a request");
        if request.reply(&[7; 32]).is_err() {
            break;
        }
    }
    // Fill what is left with words that a short message takes.
    for _ in 0..30 {
        calls.push(requester.start(&1).expect("room"));
        drop(responder.recv_timeout(DEADLINE).expect("a request"));
    }
    let server = thread::spawn(move || responder.recv().map(drop));
    let mut unanswered = 0;
    for call in calls {
        match call.wait() {
            Ok(reply) => assert_eq!(reply.data()[0], 7),
            Err(CallError::Unanswered) => unanswered += 1,
            Err(error) => panic!("{error}"),
        }
        progress();
    }
    assert_eq!(unanswered, 31);
    drop(requester);
    assert!(server.join().expect("no panic").is_err());
}

#[test]
fn descriptors_that_cannot_be_received_are_lost_alone() {
    const TEST: &str = "lacks::descriptors_that_cannot_be_received_are_lost_alone";
    fn runs_out() {
        let (requester, responder) = crate::pair();
        // What each side takes once.
        let call = requester.start(&question(1)).expect("room");
        crate::answer_next(&responder);
        call.wait().expect("a reply");
        let call = requester.start_with(&question(2), [file().into()]).expect("room");
        allow_more_descriptors(0);
        let request = loop {
            match responder.recv() {
                Ok(request) => break request,
                Err(TypedError::Recv(messageport::RecvError::OutOfDescriptors { .. })) => {}
                Err(error) => panic!("{error}"),
            }
        };
        let lost = request.take_descriptor().map(drop);
        assert!(matches!(lost, Err(MessageError::TransfersLost { descriptors: 1 })), "{lost:?}");
        allow_all_descriptors();
        let list = [file().into()];
        request.reply_with(&answer(request.data()), list).expect("room");
        allow_more_descriptors(0);
        let reply = call.wait().expect("a reply");
        assert_eq!(reply.deserialize().expect("an answer"), expected(2));
        let lost = reply.take_descriptor().map(drop);
        assert!(matches!(lost, Err(MessageError::TransfersLost { descriptors: 1 })), "{lost:?}");
        allow_all_descriptors();
    }
    play(TEST, &[("runs_out", runs_out)]);
}

/// More than the allocator has in reserve.
const LONG: usize = 66 << 20;

#[test]
fn without_memory_one_call_fails() {
    const TEST: &str = "lacks::without_memory_one_call_fails";
    fn runs_out() {
        let builder = MessageChannel::builder().limit(256 << 20);
        let MessageChannel { port1, port2 } = builder.build().expect("a channel");
        let requester = port1.requester::<Vec<u8>, Vec<u8>>();
        let responder = port2.responder::<Vec<u8>, Vec<u8>>();
        let [short, long] = [vec![1; 10], vec![2; LONG]];

        // A request.
        let calls = [&long, &short].map(|value| requester.start(value).expect("room"));
        allow_more_address_space(LONG as u64 / 4);
        let received = responder.recv_timeout(DEADLINE).map(drop);
        allow_all_address_space();
        let error = received.expect_err("no memory");
        assert!(matches!(error, TypedError::Message(MessageError::OutOfMemory { .. })), "{error}");
        let request = responder.recv_timeout(DEADLINE).expect("a request");
        request.reply(&short).expect("room");
        drop(request);
        let [first, second] = calls;
        assert!(second.wait_timeout(DEADLINE).is_ok());
        let error = failure(first.wait_timeout(DEADLINE));
        assert!(matches!(error, CallError::Refused { .. }), "{error}");
        progress();

        // A reply.
        let calls = [0, 1, 2].map(|_| requester.start(&short).expect("room"));
        for reply in [&short, &long, &short] {
            responder.recv_timeout(DEADLINE).expect("a request").reply(reply).expect("room");
        }
        allow_more_address_space(LONG as u64 / 4);
        let [first, second, third] = calls.map(|call| call.wait_timeout(DEADLINE));
        allow_all_address_space();
        assert!(first.is_ok() && third.is_ok());
        let error = failure(second);
        assert!(matches!(error, CallError::Message(MessageError::OutOfMemory { .. })), "{error}");
    }
    play(TEST, &[("runs_out", runs_out)]);
}

#[test]
fn a_port_that_refuses_transferables_refuses_the_request_and_fails_the_reply() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    port2.refuse_transfers();
    let (requester, responder) = (port1.requester::<u8, u8>(), port2.responder::<u8, u8>());
    let small = Buffer::from_slice(b"in the record").expect("memory");
    for moved in [file().into(), Transferable::from(small)] {
        match requester.start_with(&1, [moved]) {
            Ok(call) => {
                let error = responder.recv_timeout(DEADLINE).map(drop).expect_err("refused");
                assert!(
                    matches!(error, TypedError::Message(MessageError::TransfersRefused { .. })),
                    "{error}"
                );
                let error = failure(call.wait_timeout(DEADLINE));
                assert!(matches!(error, CallError::Refused { .. }), "{error}");
            }
            // The kernel refuses it already.
            Err(error) => assert!(matches!(error.into_parts().0, PostError::Refused)),
        }
    }
    let call = requester.start(&1).expect("room");
    responder.recv_timeout(DEADLINE).expect("a request").reply(&2).expect("room");
    assert!(call.wait_timeout(DEADLINE).is_ok());
}

/// There is no fresh page for what is posted; what was not posted can be posted later.
#[test]
fn a_request_or_reply_without_memory_for_its_post_fails_alone() {
    const TEST: &str = "lacks::a_request_or_reply_without_memory_for_its_post_fails_alone";
    fn lacks_memory(error: &PostError) -> bool {
        matches!(error, PostError::Io(error) if error.source.raw_os_error() == Some(libc::ENOMEM))
    }
    fn without_memory<T: Send>(act: impl FnOnce() -> T + Send) -> Option<T> {
        let act = || {
            let when = filter::When::Equals(2, libc::MADV_POPULATE_WRITE as u32);
            let answered = filter::answer(libc::SYS_madvise, when, libc::ENOMEM);
            answered.is_ok().then(act)
        };
        thread::scope(|scope| scope.spawn(act).join().expect("errors and no panic"))
    }
    fn lacks() {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let requester = port1.requester::<Vec<u8>, Vec<u8>>();
        let responder = port2.responder::<Vec<u8>, Vec<u8>>();
        let [short, long] = [vec![1; 10], vec![2; 200 << 10]];
        let refused = without_memory(|| {
            let error = requester.start(&long).map(drop).expect_err("no memory");
            assert!(lacks_memory(&error), "{error}");
            let error = requester.start_with(&long, [file().into()]).map(drop);
            let (reason, list) = error.expect_err("no memory").into_parts();
            assert!(lacks_memory(&reason) && list.len() == 1, "{reason}");
            for error in [
                failure(requester.call(&long)),
                failure(requester.call_timeout(&long, DEADLINE)),
                failure(requester.call_map(&long, |_| ())),
            ] {
                let is_lack = matches!(&error, CallError::Post(reason) if lacks_memory(reason));
                assert!(is_lack, "{error}");
            }
        });
        if refused.is_none() {
            skip("no seccomp filter here");
            return;
        }
        assert_eq!(requester.open_calls(), 0);
        let call = requester.start(&long).expect("a post with memory");
        let request = responder.recv_timeout(DEADLINE).expect("a request");
        let request = request.into_owned().expect("memory");
        without_memory(|| {
            for error in [request.reply(&long), request.reply_timeout(&long, DEADLINE)] {
                let error = error.expect_err("no memory");
                assert!(lacks_memory(&error), "{error}");
            }
            let error = request.reply_with_timeout(&long, [file().into()], DEADLINE);
            let (reason, list) = error.expect_err("no memory").into_parts();
            assert!(lacks_memory(&reason) && list.len() == 1, "{reason}");
        });
        request.reply(&short).expect("it is still open");
        assert!(call.wait_timeout(DEADLINE).is_ok());
    }
    play(TEST, &[("lacks", lacks)]);
}
