//! The same scribbling against tasks: each future that is polled, and dropped if it is not ready,
//! gives what is allowed.

use super::modes::{End, ROUNDS, posted, while_scribbled_over};
use crate::common::reactors::on_each;
use futures_lite::future::poll_once;
use messageport::{CallError, MessagePort, PostError, RecvError, TypedError};
use std::pin::pin;

fn on_each_while_scribbled_over(test: &str, suffer: impl AsyncFn(MessagePort)) {
    on_each(test, async || {
        // Inside of the runtime, whose reactor it takes.
        while_scribbled_over(test, |victim| futures_lite::future::block_on(suffer(victim)));
    });
}

#[test]
fn a_port_of_a_task_that_is_scribbled_over_ends_at_worst() {
    const TEST: &str = "tasks::a_port_of_a_task_that_is_scribbled_over_ends_at_worst";
    on_each_while_scribbled_over(TEST, async |victim| {
        let mut victim = victim.into_async().expect("a reactor");
        let (mut end, mut sent) = (End::default(), End::default());
        for round in 0..ROUNDS {
            match poll_once(victim.recv()).await {
                None | Some(Ok(_)) => end.is_not_yet(),
                Some(Err(RecvError::Closed { reason })) => end.is(reason),
                Some(Err(error)) => panic!("{error}\n{victim:#?}"),
            }
            let answer = match round % 3 {
                0 => poll_once(victim.post_bytes(&[1; 100])).await,
                1 => poll_once(victim.post_message(&round)).await,
                _ => poll_once(victim.wait_for_room(5000)).await,
            };
            if let Some(answer) = answer {
                posted(&mut sent, answer);
            }
            futures_lite::future::yield_now().await;
        }
    });
}

#[test]
fn a_typed_port_of_a_task_that_is_scribbled_over_ends_at_worst() {
    const TEST: &str = "tasks::a_typed_port_of_a_task_that_is_scribbled_over_ends_at_worst";
    on_each_while_scribbled_over(TEST, async |victim| {
        let victim = victim.typed::<u64, Vec<u64>>().into_async().expect("a reactor");
        let (mut sender, mut receiver) = victim.split();
        let (mut end, mut sent) = (End::default(), End::default());
        for round in 0..ROUNDS {
            match poll_once(receiver.recv()).await {
                // The types that the peer has declared are scribbled over as well.
                Some(Err(TypedError::TypeMismatch(_))) => {}
                None | Some(Ok(_) | Err(TypedError::Message(_))) => end.is_not_yet(),
                Some(Err(TypedError::Recv(RecvError::Closed { reason }))) => end.is(reason),
                Some(Err(error)) => panic!("{error}\n{receiver:#?}"),
            }
            match poll_once(sender.post_message(&vec![round; 5])).await {
                None | Some(Err(PostError::TypeMismatch(_))) => {}
                Some(answer) => posted(&mut sent, answer),
            }
            futures_lite::future::yield_now().await;
        }
    });
}

#[test]
fn a_requester_of_a_task_that_is_scribbled_over_ends_at_worst() {
    const TEST: &str = "tasks::a_requester_of_a_task_that_is_scribbled_over_ends_at_worst";
    on_each_while_scribbled_over(TEST, async |victim| {
        let victim = victim.into_async().expect("a reactor");
        let (requester, driver) = victim.requester::<u64, u64>();
        let mut driver = pin!(driver);
        let (mut end, mut reason) = (End::default(), None);
        for round in 0..ROUNDS {
            let mut call = pin!(requester.call(&round));
            for _ in 0..2 {
                let Some(outcome) = poll_once(call.as_mut()).await else {
                    if reason.is_none() {
                        reason = poll_once(driver.as_mut()).await;
                    }
                    continue;
                };
                match outcome {
                    // A forged reply is one.
                    Ok(_) | Err(CallError::Unanswered | CallError::Refused { .. }) => {}
                    Err(CallError::Message(_)) => {}
                    Err(CallError::Closed { reason }) => end.is(reason),
                    // The types that the peer has declared are scribbled over as well.
                    Err(CallError::Post(PostError::TypeMismatch(_))) => {}
                    Err(error) => panic!("{error}\n{requester:#?}"),
                }
                break;
            }
            futures_lite::future::yield_now().await;
        }
        assert_eq!(requester.requester().open_calls(), 0);
    });
}

#[test]
fn a_responder_of_a_task_that_is_scribbled_over_ends_at_worst() {
    const TEST: &str = "tasks::a_responder_of_a_task_that_is_scribbled_over_ends_at_worst";
    on_each_while_scribbled_over(TEST, async |victim| {
        let victim = victim.into_async().expect("a reactor");
        let mut responder = victim.responder::<u64, u64>();
        let (mut end, mut sent) = (End::default(), End::default());
        for _ in 0..ROUNDS {
            match poll_once(responder.recv()).await {
                None | Some(Err(TypedError::Message(_))) => end.is_not_yet(),
                Some(Ok(request)) => {
                    end.is_not_yet();
                    let number = request.data().to_native();
                    if let Some(answer) = poll_once(request.reply_async(&number)).await {
                        posted(&mut sent, answer);
                    }
                }
                Some(Err(TypedError::Recv(RecvError::Closed { reason }))) => end.is(reason),
                Some(Err(TypedError::TypeMismatch(_))) => {}
                Some(Err(error)) => panic!("{error}\n{responder:#?}"),
            }
            futures_lite::future::yield_now().await;
        }
    });
}
