//! Requests and replies in async programs, on each reactor.

use crate::common::reactors::on_each;
use crate::common::watchdog::progress;
use crate::{Answer, Question, answer, bounded, expected, failure, question};
use futures_util::future::{Either, join_all, select};
use futures_util::{StreamExt, pin_mut};
use messageport::{
    AsyncRequester, AsyncResponder, CallError, CloseReason, MessageChannel, MessagePort, PostError,
    RecvError, RequesterDriver, TypedError,
};
use std::fs::File;
use std::future::poll_fn;
use std::task::Poll;
use std::thread;

type Asks = AsyncRequester<Question, Answer>;
type Answers = AsyncResponder<Question, Answer>;

fn asks(port: MessagePort) -> (Asks, RequesterDriver) {
    port.into_async().expect("a reactor").requester()
}

fn answers(port: MessagePort) -> Answers {
    port.into_async().expect("a reactor").responder()
}

/// Runs `work` beside the driver, which must not end before it.
async fn beside<T>(driver: &mut RequesterDriver, work: impl Future<Output = T>) -> T {
    pin_mut!(work);
    match select(work, driver).await {
        Either::Left((done, _)) => done,
        Either::Right((reason, _)) => panic!("the driver has ended: {reason}"),
    }
}

fn is_send<T: Send>(value: T) -> T {
    value
}

/// Answers all requests, each a little later than the one after it.
async fn serve(mut responder: Answers) {
    let mut held = Vec::new();
    loop {
        match is_send(responder.recv()).await {
            Ok(request) => held.push(request),
            Err(TypedError::Recv(_)) => return,
            Err(error) => panic!("{error}"),
        }
        if held.len() >= 3 || held[0].data().number == 0 {
            while let Some(request) = held.pop() {
                is_send(request.reply_async(&answer(request.data()))).await.expect("a requester");
                progress();
            }
        }
    }
}

#[test]
fn calls_of_many_tasks_get_their_replies() {
    on_each("calls_of_many_tasks_get_their_replies", async || {
        for channel in [MessageChannel::new().expect("a channel"), bounded()] {
            let (requester, mut driver) = asks(channel.port1);
            let server = serve(answers(channel.port2));
            let work = async {
                let calls = (0..300u64).map(|number| {
                    let requester = requester.clone();
                    async move {
                        // Those with 0 have the responder answer what it holds.
                        let number = if number > 290 { 0 } else { number };
                        let reply = requester.call(&question(number)).await.expect("a reply");
                        assert_eq!(reply.deserialize().expect("an answer"), expected(number));
                    }
                });
                join_all(calls).await;
            };
            pin_mut!(server);
            let both = select(server, beside(&mut driver, is_send(work)).left_boxed());
            assert!(matches!(both.await, Either::Right(_)));
            assert_eq!(requester.requester().open_calls(), 0);
        }
    });
}

/// A future behind a pointer, as `select` takes only those that may move.
trait Boxed<T> {
    fn left_boxed<'f>(self) -> std::pin::Pin<Box<dyn Future<Output = T> + 'f>>
    where
        Self: 'f;
}

impl<F: Future> Boxed<F::Output> for F {
    fn left_boxed<'f>(self) -> std::pin::Pin<Box<dyn Future<Output = F::Output> + 'f>>
    where
        Self: 'f,
    {
        Box::pin(self)
    }
}

#[test]
fn a_future_that_is_dropped_cancels_its_call() {
    on_each("a_future_that_is_dropped_cancels_its_call", async || {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let (requester, mut driver) = asks(port1);
        let mut responder = answers(port2);
        for number in [1, 2] {
            let question = question(number);
            let mut call = Box::pin(requester.call(&question));
            poll_fn(|context| {
                assert!(call.as_mut().poll(context).is_pending());
                Poll::Ready(())
            })
            .await;
            if number == 1 {
                // Before it is received.
                drop(call);
                continue;
            }
            let request = responder.recv().await.expect("a request");
            assert_eq!(request.data().number, 2);
            assert!(!request.is_cancelled());
            drop(call);
            poll_fn(|context| {
                let next = Box::pin(responder.recv()).as_mut().poll(context).map(drop);
                assert!(next.is_pending());
                Poll::Ready(())
            })
            .await;
            assert!(request.is_cancelled());
            request.reply(&answer(request.data())).expect("no reply is wanted");
        }
        let call = async { requester.call(&question(3)).await.expect("a reply") };
        let served = async {
            let request = responder.recv().await.expect("a request");
            request.reply(&answer(request.data())).expect("room");
        };
        let both = futures_util::future::join(call, served);
        let (reply, ()) = beside(&mut driver, both).await;
        assert_eq!(reply.deserialize().expect("an answer"), expected(3));
    });
}

#[test]
fn transferables_and_refusals_reach_a_task() {
    on_each("transferables_and_refusals_reach_a_task", async || {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let (requester, mut driver) = asks(port1);
        let mut responder = answers(port2);
        let served = async {
            let request = responder.recv().await.expect("a request");
            let file = request.take_descriptor().expect("a descriptor");
            request.reply_with(&answer(request.data()), [file.into()]).expect("room");
            drop(request);
            responder.recv().await.expect("a request").refuse("on purpose").expect("room");
            drop(responder.recv().await.expect("a request"));
        };
        let called = async {
            let list = [File::open("/dev/null").expect("a file").into()];
            let reply = requester.call_with(&question(1), list).await.expect("room");
            assert_eq!(reply.expect("a reply").take_descriptors().expect("one").len(), 1);
            let error = failure(requester.call(&question(2)).await);
            assert!(matches!(&error, CallError::Refused { text } if text == "on purpose"));
            let error = failure(requester.call(&question(3)).await);
            assert!(matches!(error, CallError::Unanswered), "{error}");
        };
        beside(&mut driver, futures_util::future::join(served, called)).await;
    });
}

#[test]
fn a_stream_yields_requests_until_the_end() {
    on_each("a_stream_yields_requests_until_the_end", async || {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let caller = thread::spawn(move || {
            let requester = port1.requester::<Question, Answer>();
            requester.start(&question(1)).map(std::mem::forget).expect("room");
            (2..40).for_each(|number| {
                assert_eq!(requester.call(&question(number)).expect("a reply"), expected(number));
            });
            requester.close();
        });
        let mut responder = answers(port2);
        let mut count = 0;
        while let Some(request) = responder.next().await {
            let request = request.expect("a question");
            request.reply_async(&answer(request.data())).await.expect("a requester");
            count += 1;
        }
        assert_eq!(count, 39);
        assert!(responder.next().await.is_none());
        caller.join().expect("no panic");
    });
}

#[test]
fn the_end_of_the_peer_fails_all_calls() {
    on_each("the_end_of_the_peer_fails_all_calls", async || {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let (requester, driver) = asks(port1);
        let responder = port2.responder::<Question, Answer>();
        let calls = join_all((0..20).map(|number| {
            let requester = requester.clone();
            async move { failure(requester.call(&question(number)).await) }
        }));
        let end = thread::spawn(move || {
            for _ in 0..5 {
                drop(responder.recv().expect("a request"));
            }
        });
        let (reason, errors) = futures_util::future::join(driver, calls).await;
        assert_eq!(reason, CloseReason::PeerDropped);
        let is_end = |error: &&CallError| matches!(error, CallError::Closed { .. });
        assert_eq!(errors.iter().filter(is_end).count(), 15, "{errors:?}");
        assert!(requester.is_closed());
        end.join().expect("no panic");
    });
}

#[test]
fn a_responder_of_a_task_is_closed() {
    on_each("tasks::a_responder_of_a_task_is_closed", async || {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let ((requester, mut driver), mut responder) = (asks(port1), answers(port2));
        let question = question(1);
        let call = beside(&mut driver, async {
            let call = requester.requester().start(&question).expect("room");
            let request = responder.recv().await.expect("a request");
            assert!(!responder.is_closed());
            responder.close();
            assert!(responder.is_closed());
            let replied = request.reply_async(&answer(request.data())).await;
            assert!(matches!(replied, Err(PostError::Closed { .. })), "{replied:?}");
            match responder.recv().await {
                Err(TypedError::Recv(RecvError::Closed { reason: CloseReason::Local })) => {}
                other => panic!("{other:?}"),
            }
            call
        });
        let call = call.await;
        assert_eq!(driver.await, CloseReason::PeerClosed);
        let error = failure(call.wait());
        assert!(matches!(error, CallError::Closed { .. }), "{error}");
    });
}

#[test]
fn a_driver_that_is_dropped_ends_all_calls() {
    on_each("a_driver_that_is_dropped_ends_all_calls", async || {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let (requester, driver) = asks(port1);
        let question = question(1);
        let mut call = Box::pin(requester.call(&question));
        poll_fn(|context| {
            assert!(call.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(driver);
        let error = failure(call.await);
        assert!(matches!(error, CallError::Closed { reason: CloseReason::Local, .. }), "{error}");
        assert!(port2.is_closed());
    });
}

#[test]
fn a_driver_ends_with_the_last_handle_and_when_the_requester_is_closed() {
    on_each("a_driver_ends_with_the_last_handle", async || {
        let MessageChannel { port1, port2: _port2 } = MessageChannel::new().expect("a channel");
        let (requester, driver) = asks(port1);
        let clone = requester.clone();
        let other = thread::spawn(move || drop(clone));
        drop(requester);
        assert_eq!(driver.await, CloseReason::Local);
        other.join().expect("no panic");

        let MessageChannel { port1, port2: _port2 } = MessageChannel::new().expect("a channel");
        let (requester, driver) = asks(port1);
        let clone = requester.clone();
        let other = thread::spawn(move || clone.close());
        assert_eq!(driver.await, CloseReason::Local);
        let error = failure(requester.call(&question(1)).await);
        assert!(matches!(error, CallError::Closed { .. }), "{error}");
        other.join().expect("no panic");
    });
}

#[test]
fn a_task_receives_no_more_than_the_limit() {
    on_each("a_task_receives_no_more_than_the_limit", async || {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let requester = port1.requester::<Question, Answer>();
        let calls: Vec<_> =
            (0..10).map(|number| requester.start(&question(number)).expect("room")).collect();
        let mut responder = answers(port2);
        responder.set_limit(2);
        let first = responder.recv().await.expect("a request");
        let _second = responder.recv().await.expect("a request");
        poll_fn(|context| {
            assert!(Box::pin(responder.recv()).as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        let other = thread::spawn(move || first.reply(&answer(first.data())).expect("room"));
        let third = responder.recv().await.expect("room for a request");
        assert_eq!(third.data().number, 2);
        other.join().expect("no panic");
        drop((third, responder));
        drop(calls);
    });
}

#[test]
fn a_reply_waits_for_room_only_where_there_is_a_reactor() {
    on_each("a_reply_waits_for_room_only_where_there_is_a_reactor", async || {
        let MessageChannel { port1, port2 } = bounded();
        let (requester, responder) =
            (port1.requester::<u8, [u64; 32]>(), port2.responder::<u8, [u64; 32]>());
        let mut calls = Vec::new();
        let error = loop {
            calls.push(requester.start(&1).expect("room"));
            let request = responder.recv().expect("a request");
            let request = request.into_owned().expect("memory");
            if let Err(error) = request.reply_async(&[7; 32]).await {
                break error;
            }
        };
        assert!(matches!(error, PostError::QueueFull { .. }), "{error}");
    });
}
