//! Replies that wait for room: they sleep until there is some, and end in every way that a wait
//! ends.

use crate::bounded;
use crate::common::region::{Region, room_sleeper};
use crate::common::role::{command, play};
use crate::common::watchdog::{progress, watch};
use crate::common::{DEADLINE, wait_until};
use messageport::{
    Call, CloseReason, MessageChannel, MessagePort, OwnedRequest, PostError, Requester, Worker,
    parent_port,
};
use std::fs::File;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

/// A reply of which few fit.
type Long = [u64; 64];

/// The lane of a port's own posts, if it is `port2`.
const REPLIES: usize = 1;

/// Calls until a reply finds no room, and some more. Returns the calls and the requests that have
/// no reply.
fn fill(
    requester: &Requester<u8, Long>,
    mut next: impl FnMut() -> OwnedRequest<u8, Long>,
) -> (Vec<Call<Long>>, Vec<OwnedRequest<u8, Long>>) {
    let (mut calls, mut requests) = (Vec::new(), Vec::new());
    while requests.len() < 3 {
        calls.push(requester.start(&1).expect("room"));
        let request = next();
        match request.reply(&[1; 64]) {
            Ok(()) => {}
            Err(PostError::QueueFull { .. }) => requests.push(request),
            Err(error) => panic!("{error}"),
        }
    }
    (calls, requests)
}

fn wait_until_asleep(region: &Region) {
    wait_until("a reply sleeps until there is room", || {
        region.half_word(room_sleeper(REPLIES)).load(SeqCst) == 1
    });
}

fn pair() -> (MessagePort, MessagePort, Region) {
    let MessageChannel { port1, port2 } = bounded();
    let region = Region::of(&port1);
    (port1, port2, region)
}

#[test]
fn replies_of_several_threads_sleep_until_there_is_room() {
    let _watch = watch("replies_of_several_threads_sleep_until_there_is_room");
    let (port1, port2, region) = pair();
    let (requester, responder) = (port1.requester(), port2.responder());
    for _ in 0..20 {
        let next = || {
            let request = responder.recv_timeout(DEADLINE).expect("a request");
            request.into_owned().expect("memory")
        };
        let (calls, requests) = fill(&requester, next);
        let quick = requests[0].reply_timeout(&[1; 64], Duration::from_millis(1));
        assert!(matches!(quick, Err(PostError::Timeout)), "{quick:?}");
        thread::scope(|scope| {
            let waiting: Vec<_> = requests
                .into_iter()
                .enumerate()
                .map(|(number, request)| {
                    scope.spawn(move || {
                        let list = [File::open("/dev/null").expect("a file").into()];
                        match number {
                            0 => request.reply_with_timeout(&[2; 64], list, Duration::MAX).is_ok(),
                            _ => request.reply_timeout(&[2; 64], Duration::MAX).is_ok(),
                        }
                    })
                })
                .collect();
            wait_until_asleep(&region);
            for call in calls {
                assert!(call.wait_timeout(DEADLINE).is_ok());
            }
            waiting.into_iter().for_each(|it| assert!(it.join().expect("no panic")));
        });
        progress();
    }
}

#[test]
fn a_wait_for_room_for_a_reply_ends_with_a_canceller_and_with_the_peer() {
    let _watch = watch("a_wait_for_room_for_a_reply_ends_with_a_canceller_and_with_the_peer");
    let (port1, port2, region) = pair();
    let canceller = port2.canceller().expect("a canceller");
    let (requester, responder) = (port1.requester(), port2.responder());
    let next = || {
        let request = responder.recv_timeout(DEADLINE).expect("a request");
        request.into_owned().expect("memory")
    };
    let (calls, mut requests) = fill(&requester, next);
    let request = requests.pop().expect("three");
    let waiting = thread::spawn(move || {
        let ended = request.reply_timeout(&[2; 64], Duration::MAX);
        assert!(matches!(ended, Err(PostError::Cancelled)), "{ended:?}");
        // It can be answered again.
        request.reply_timeout(&[2; 64], Duration::MAX)
    });
    wait_until_asleep(&region);
    canceller.cancel();
    let others: Vec<_> = requests
        .into_iter()
        .map(|request| thread::spawn(move || request.reply_timeout(&[2; 64], Duration::MAX)))
        .collect();
    wait_until_asleep(&region);
    drop((calls, requester));
    for waiting in others.into_iter().chain([waiting]) {
        let ended = waiting.join().expect("no panic");
        let reason = CloseReason::PeerDropped;
        let is_end = matches!(ended, Err(PostError::Closed { reason: it }) if it == reason);
        assert!(is_end, "{ended:?}");
    }
}

#[test]
fn a_requester_that_is_killed_ends_the_wait_for_room_for_a_reply() {
    const TEST: &str = "room::a_requester_that_is_killed_ends_the_wait_for_room_for_a_reply";
    fn asks() {
        let requester = parent_port().expect("a port to the parent").requester::<u8, Long>();
        let _calls = [(); 50].map(|()| requester.start(&1).expect("room"));
        loop {
            thread::park();
        }
    }
    fn answers() {
        let builder = MessageChannel::builder().capacity(4096).bounded();
        let worker = Worker::spawn_with(command(TEST, "asks"), builder).expect("a worker");
        let (port, mut process) = worker.split();
        let responder = port.responder::<u8, Long>();
        let request = loop {
            let request = responder.recv_timeout(DEADLINE).expect("a request");
            if request.reply(&[1; 64]).is_err() {
                break request.into_owned().expect("memory");
            }
        };
        let waiting = thread::spawn(move || request.reply_timeout(&[2; 64], Duration::MAX));
        process.kill().expect("a child of our own");
        let ended = waiting.join().expect("no panic");
        let reason = CloseReason::PeerDied;
        let is_end = matches!(ended, Err(PostError::Closed { reason: it }) if it == reason);
        assert!(is_end, "{ended:?}");
        process.wait().expect("a child of our own");
    }
    play(TEST, &[("answers", answers), ("asks", asks)]);
}

/// A thread and a task wait for room through the same flag.
#[cfg(any(feature = "tokio", feature = "async-io"))]
#[test]
fn a_thread_that_waits_for_room_takes_none_from_a_task() {
    use crate::common::reactors::on_each;
    use futures_lite::future::poll_once;
    use std::pin::pin;

    const TEST: &str = "room::a_thread_that_waits_for_room_takes_none_from_a_task";
    on_each(TEST, async || {
        for _ in 0..20 {
            let (port1, port2, region) = pair();
            let requester = port1.requester::<u8, Long>();
            let mut responder = port2.into_async().expect("a reactor").responder();
            let (mut calls, mut requests) = (Vec::new(), Vec::new());
            while requests.len() < 2 {
                calls.push(requester.start(&1).expect("room"));
                let request: OwnedRequest<u8, Long> = responder.recv().await.expect("a request");
                if request.reply(&[1; 64]).is_err() {
                    requests.push(request);
                }
            }
            let (of_thread, of_task) = (requests.remove(0), requests.remove(0));
            let mut task = pin!(of_task.reply_async(&[2; 64]));
            assert!(poll_once(task.as_mut()).await.is_none(), "there is no room");
            let thread = thread::spawn(move || of_thread.reply_timeout(&[2; 64], Duration::MAX));
            wait_until_asleep(&region);
            let caller = thread::spawn(move || {
                for call in calls {
                    assert!(call.wait_timeout(DEADLINE).is_ok());
                }
            });
            task.await.expect("room, after a while");
            thread.join().expect("no panic").expect("room, after a while");
            caller.join().expect("no panic");
            progress();
        }
    });
}
