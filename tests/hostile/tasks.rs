//! The same scribbling against tasks: each future that is polled, and dropped if it is not ready,
//! gives what is allowed.

use super::Stop;
use super::modes::{End, ROUNDS, posted, while_scribbled_over};
use super::scribble::{AIMS, scribble};
use crate::common::messages::Rng;
use crate::common::reactors::on_each;
use crate::common::region::{self, Region};
use crate::common::role::play;
use crate::common::wanted;
use crate::common::watchdog::progress;
use futures_lite::future::poll_once;
use messageport::{
    AsyncBroadcastChannel, AsyncPort, BroadcastChannel, BroadcastError, BroadcastEvent, CallError,
    Connect, ConnectError, Listener, MessageChannel, MessagePort, PostError, RecvError, TypedError,
};
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

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
                    Err(CallError::Closed { reason, .. }) => end.is(reason),
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

#[test]
fn a_client_of_a_task_whose_listener_scribbles_has_a_port_that_ends_at_worst() {
    const TEST: &str =
        "tasks::a_client_of_a_task_whose_listener_scribbles_has_a_port_that_ends_at_worst";
    on_each(TEST, async || {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("name");
        for round in 0..wanted("MESSAGEPORT_SCRIBBLES", 70) {
            let stop = Arc::new(Stop::new());
            let listener = Listener::bind_at(&path, MessageChannel::builder()).expect("a name");
            let scribbler = thread::spawn({
                let stop = stop.clone();
                move || accept_and_scribble(&listener, &stop, round)
            });
            {
                let _at_end = stop.at_end();
                match Connect::new().at_async(&path).await {
                    Ok(port) => suffer(port.into_async().expect("a reactor"), round).await,
                    // The header of the region is scribbled over as well.
                    Err(ConnectError::Attach(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            scribbler.join().expect("it ends");
            progress();
        }
    });
}

/// The client may not have its port yet.
fn accept_and_scribble(listener: &Listener, stop: &Stop, round: u64) {
    let peer = listener.accept().expect("a client");
    let (region, mut rng) = (Region::of(&peer), Rng(round));
    while !stop.is_set() {
        let _ = peer.post_message(&round);
        scribble(&region, AIMS[round as usize % AIMS.len()], &mut rng);
        rng.dawdle(Duration::from_micros(5));
    }
}

async fn suffer(mut victim: AsyncPort, round: u64) {
    let (mut end, mut sent) = (End::default(), End::default());
    for _ in 0..ROUNDS {
        match poll_once(victim.recv()).await {
            None | Some(Ok(_)) => end.is_not_yet(),
            Some(Err(RecvError::Closed { reason })) => end.is(reason),
            Some(Err(error)) => panic!("{error}\n{victim:#?}"),
        }
        if let Some(answer) = poll_once(victim.post_message(&round)).await {
            posted(&mut sent, answer);
        }
        futures_lite::future::yield_now().await;
    }
}

#[test]
fn a_member_of_a_task_that_is_scribbled_over_loses_the_scribbler_at_worst() {
    const TEST: &str =
        "tasks::a_member_of_a_task_that_is_scribbled_over_loses_the_scribbler_at_worst";
    /// In a process of its own, whose regions are those of the members.
    fn suffers() {
        on_each(TEST, async || {
            let name = format!("test-scribble-{}", std::process::id());
            let open = || BroadcastChannel::open(&name).expect("a member");
            let mut victim = open().into_async().expect("a reactor");
            for round in 0..wanted("MESSAGEPORT_SCRIBBLES", 70) {
                let (peer, mut rng) = (open(), Rng(round));
                // Once it is here, their pair has its region.
                while victim.get_ref().peers().expect("open").is_empty() {
                    thread::yield_now();
                }
                let regions: Vec<_> = region::all().into_iter().map(Region::map).collect();
                assert!(!regions.is_empty(), "nothing to scribble over");
                for number in 0..20u64 {
                    let _ = peer.post_message(&number);
                    for region in &regions {
                        scribble(region, AIMS[round as usize % AIMS.len()], &mut rng);
                    }
                    be_a_member(&mut victim, number).await;
                }
                drop(peer);
                meet_another(&mut victim, &open(), round).await;
                progress();
            }
        });
    }
    play(TEST, &[("suffers", suffers)]);
}

/// Whatever comes, and whatever a post says, it is no panic, and not the end of this member.
async fn be_a_member(victim: &mut AsyncBroadcastChannel, number: u64) {
    for _ in 0..3 {
        match poll_once(victim.recv_event()).await {
            None | Some(Ok(_) | Err(BroadcastError::Message(_))) => {}
            Some(Err(error)) => panic!("{error}\n{victim:#?}"),
        }
    }
    match victim.post_message(&number) {
        Ok(_) | Err(BroadcastError::Missed { .. }) => {}
        Err(error) => panic!("{error}\n{victim:#?}"),
    }
}

/// A member that joins now is heard.
async fn meet_another(victim: &mut AsyncBroadcastChannel, other: &BroadcastChannel, round: u64) {
    other.post_text(&format!("round {round}")).expect("room");
    loop {
        match victim.recv_event().await {
            Ok(BroadcastEvent::Message { message, .. })
                if message.text().is_ok_and(|text| text == format!("round {round}")) =>
            {
                return;
            }
            Ok(_) | Err(BroadcastError::Message(_)) => {}
            Err(error) => panic!("{error}\n{victim:#?}"),
        }
    }
}
