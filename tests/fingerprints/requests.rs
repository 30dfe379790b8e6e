//! Requesters and responders compare both of their types, in threads, event loops and tasks.

use crate::common::DEADLINE;
use crate::common::watchdog::watch;
use messageport::{
    CallError, EventLoop, MessageChannel, MessageError, MessagePort, Post, PostError, Reply,
    Requester, RunEnd, SafeArchive, TypeMismatch, TypedError, rkyv,
};
use std::sync::{Arc, Mutex};

mod old {
    #[messageport::message]
    pub struct Job {
        pub id: u32,
    }
}

#[messageport::message]
struct Job {
    id: u32,
    is_urgent: bool,
}

fn channel() -> (MessagePort, MessagePort) {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    (port1, port2)
}

fn mismatch<T>(received: Result<T, TypedError>) -> TypeMismatch {
    match received.map(drop) {
        Err(TypedError::TypeMismatch(error)) => error,
        other => panic!("no mismatch: {other:?}"),
    }
}

#[test]
fn a_request_of_another_type_is_not_posted() {
    let (port1, port2) = channel();
    let requester = port1.requester::<old::Job, u8>();
    let responder = port2.responder::<Job, u8>();
    let job = old::Job { id: 1 };
    let posted = requester.start(&job);
    let Err(PostError::TypeMismatch(error)) = posted else { panic!("{posted:?}") };
    assert!(error.is_outgoing());
    assert_eq!(error.here(), "request Job\nstruct Job { id: u32 }");
    assert_eq!(error.difference(), "field `is_urgent: bool` of `Job` is only there");
    let called = requester.call_timeout(&job, DEADLINE);
    assert!(matches!(called, Err(CallError::Post(PostError::TypeMismatch(_)))), "{called:?}");
    // What would have moved comes back.
    let file = std::fs::File::open("/dev/null").expect("a device");
    let error = requester.start_with(&job, [file.into()]).expect_err("another type");
    let (reason, list) = error.into_parts();
    assert!(matches!(reason, PostError::TypeMismatch(_)) && list.len() == 1);
    assert_eq!(requester.open_calls(), 0);
    // The other side is told as well, although nothing came.
    assert!(!mismatch(responder.try_recv()).is_outgoing());
    // Also a call without a limit.
    let _watch = watch("a_request_of_another_type_is_not_posted");
    mismatch(responder.recv());
    mismatch(responder.recv_timeout(DEADLINE));
}

#[test]
fn a_reply_of_another_type_fails_before_the_request_is_posted() {
    let (port1, port2) = channel();
    let requester = port1.requester::<u8, u32>();
    let responder = port2.responder::<u8, f32>();
    let posted = requester.start(&1);
    let Err(PostError::TypeMismatch(error)) = posted else { panic!("{posted:?}") };
    assert!(!error.is_outgoing());
    assert_eq!(error.difference(), "the type is `reply u32` here and `reply f32` there");
    assert!(mismatch(responder.try_recv()).is_outgoing());
}

/// The requester could not know.
#[test]
fn requests_from_before_the_responder_had_types_are_refused_with_what_differs() {
    let (port1, port2) = channel();
    let requester = port1.requester::<old::Job, u8>();
    let calls = [1, 2].map(|id| requester.start(&old::Job { id }).expect("room"));
    let responder = port2.responder::<Job, u8>();
    // Each is an error here, whether it is looked at alone or read ahead, and then there is none.
    for _ in 0..3 {
        mismatch(responder.recv_timeout(DEADLINE));
    }
    for call in calls {
        let refused = call.wait().map(drop);
        let Err(CallError::Refused { text }) = refused else { panic!("{refused:?}") };
        // In the words of the requester, which reads it: the responder has the field.
        assert!(text.contains("field `is_urgent: bool` of `Job` is only there"), "{text}");
        assert!(text.starts_with("this port posts `request Job`"), "{text}");
    }
}

/// The responder has agreed before, and the bytes would do.
#[test]
fn a_request_after_another_type_was_declared_is_refused() {
    let (port1, port2) = channel();
    let responder = port1.responder::<u32, u8>();
    // As `docs/protocol.md` has it: the fifth byte from the end says that it is a request.
    let request = |id| (7u32, [id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0u8]);
    for id in 1..4 {
        port2.post_message(&request(id)).expect("room");
        let request = responder.try_recv().expect("a request").expect("a request");
        request.reply(&1).expect("room");
        assert!(port2.try_recv().expect("a reply").is_some());
    }
    let port2 = port2.typed::<u8, f32>();
    port2.port().post_message(&request(4)).expect("room");
    mismatch(responder.try_recv());
    let port2 = port2.into_inner();
    let refusal = port2.try_recv().expect("an open port").expect("an answer");
    assert_eq!(refusal.bytes()[refusal.bytes().len() - 4], 4);
}

/// However it is waited for: by a call, or by one that looks from time to time.
#[test]
fn a_reply_after_another_type_was_declared_is_an_error_of_its_call() {
    type Take = fn(Requester<u8, u32>) -> Result<u32, CallError>;
    let takes: [Take; 3] = [
        |requester| requester.call_timeout(&1, DEADLINE),
        |requester| requester.call_map_timeout(&1, DEADLINE, |reply| reply.to_native()),
        |requester| {
            let call = requester.start(&1).expect("room");
            let mut call = Some(call);
            loop {
                match call.take().expect("it is still open").try_wait() {
                    Ok(reply) => return reply.map(|reply| reply.data().to_native()),
                    Err(open) => call = Some(open),
                }
                std::thread::yield_now();
            }
        },
    ];
    for take in takes {
        let (port1, port2) = channel();
        let requester = port1.requester::<u8, u32>();
        let calling = std::thread::spawn(move || take(requester));
        let request = port2.recv_timeout(DEADLINE).expect("a request");
        let mut trailer: [u8; 16] = *request.bytes().last_chunk().expect("a trailer");
        drop(request);
        let port2 = port2.typed::<u8, f32>();
        // As `docs/protocol.md` has it: what a responder would post that does not compare.
        trailer[12] = 3;
        port2.port().post_message(&(7u32, trailer)).expect("room");
        let called = calling.join().expect("the caller does not panic");
        let is_refused = matches!(called, Err(CallError::Message(MessageError::TypeMismatch(_))));
        assert!(is_refused, "{called:?}");
    }
}

#[test]
fn a_requester_is_no_typed_port() {
    fn refuses<T: Post>(port: MessagePort, value: &T) {
        let port = port.typed::<u8, T>();
        assert!(matches!(port.post_message(value), Err(PostError::TypeMismatch(_))));
        mismatch(port.try_recv());
    }
    let (port1, port2) = channel();
    let responder = port1.responder::<u32, u8>();
    refuses(port2, &1u32);
    mismatch(responder.try_recv());
    let (port1, port2) = channel();
    let requester = port1.requester::<u8, u32>();
    refuses(port2, &1u32);
    assert!(matches!(requester.start(&1), Err(PostError::TypeMismatch(_))));
    // And neither are two of a kind a pair.
    let (port1, port2) = channel();
    let (one, other) = (port1.requester::<u8, u8>(), port2.requester::<u8, u8>());
    assert!(one.start(&1).is_err() && other.start(&1).is_err());
}

#[test]
fn types_that_agree_or_have_no_shape_pass() {
    #[derive(rkyv::Archive, rkyv::Serialize, SafeArchive)]
    struct Plain(u32);

    let (port1, port2) = channel();
    let requester = port1.requester::<Plain, Vec<u32>>();
    let responder = port2.responder::<u32, std::collections::VecDeque<u32>>();
    let call = requester.start(&Plain(3)).expect("room");
    let request = responder.recv().expect("a request");
    let answer = request.data().to_native();
    request.reply(&[answer].into()).expect("room");
    assert_eq!(call.wait().expect("a reply").data().as_slice(), [3]);
}

#[test]
fn a_loop_refuses_requests_of_another_type_without_its_handler() {
    let (port1, port2) = channel();
    let requester = port1.requester::<old::Job, u8>();
    let answers = Arc::new(Mutex::new(Vec::new()));
    let mut event_loop = EventLoop::new().expect("a loop");
    event_loop.add_requester(&requester).expect("room for a requester");
    let noted = answers.clone();
    let note = move |answer: Result<Reply<u8>, CallError>| {
        noted.lock().expect("no thread panicked").push(answer.map(drop));
    };
    requester.start_then(&old::Job { id: 1 }, None, note).expect("room");
    let responder = port2.responder::<Job, u8>();
    event_loop
        .add_responder(responder, |_, _| panic!("it is no request of this type"))
        .expect("room for a responder");
    event_loop.run_until_idle().expect("the loop waits");
    let answers = answers.lock().expect("no thread panicked");
    let [Err(CallError::Refused { text })] = answers.as_slice() else { panic!("{answers:?}") };
    assert!(text.contains("is_urgent"), "{text}");
}

/// Its types are no reason to keep a responder whose requester has gone.
#[test]
fn a_loop_drops_a_responder_of_another_type_at_the_end_of_its_requester() {
    let _watch = watch("a_loop_drops_a_responder_of_another_type_at_the_end_of_its_requester");
    for is_closed in [false, true] {
        let (port1, port2) = channel();
        let mut event_loop = EventLoop::new().expect("a loop");
        event_loop
            .add_responder(port2.responder::<Job, u8>(), |_, _| panic!("no request of this type"))
            .expect("room for a responder");
        let requester = port1.requester::<old::Job, u8>();
        event_loop.run_until_idle().expect("the loop waits");
        if is_closed {
            requester.close();
        }
        drop(requester);
        assert_eq!(event_loop.run().expect("the loop waits"), RunEnd::NothingLeft);
    }
}

#[cfg(feature = "tokio")]
#[tokio::test]
async fn tasks_compare_their_types() {
    use futures_util::StreamExt;

    let (port1, port2) = channel();
    let port1 = port1.into_async().expect("a reactor");
    let (requester, driver) = port1.requester::<old::Job, u8>();
    let driver = tokio::spawn(driver);
    let call = requester.requester().start(&old::Job { id: 1 }).expect("room");
    let mut responder = port2.into_async().expect("a reactor").responder::<Job, u8>();
    mismatch(responder.recv().await);
    let refused = tokio::task::spawn_blocking(|| call.wait().map(drop)).await.expect("no panic");
    assert!(matches!(refused, Err(CallError::Refused { .. })), "{refused:?}");
    let called = requester.call(&old::Job { id: 2 }).await;
    assert!(matches!(called, Err(CallError::Post(PostError::TypeMismatch(_)))), "{called:?}");
    // Nothing came, and the stream ends after it has said why.
    let item = responder.next().await;
    assert!(matches!(item, Some(Err(MessageError::TypeMismatch(_)))), "{item:?}");
    assert!(responder.next().await.is_none());
    drop(responder);
    driver.await.expect("no panic");
}
