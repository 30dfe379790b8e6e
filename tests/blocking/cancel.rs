//! Calling a thread back from its own wait.

use super::{bounded, fill, sleeper};
use crate::common::watchdog::{progress, watch};
use crate::common::{receive, receive_text, wait_until_asleep};
use messageport::{MessageChannel, MessagePort, PostError, RecvError};
use nix::sys::resource::{UsageWho, getrusage};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

fn receives_nothing(port: &MessagePort) {
    let answer = port.recv_timeout(Duration::from_millis(1)).map(|event| event.format());
    assert!(matches!(answer, Err(RecvError::Timeout)), "{answer:?}");
}

#[test]
fn a_canceller_ends_a_blocked_recv_once() {
    let _watch = watch("a_canceller_ends_a_blocked_recv_once");
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let canceller = port2.canceller().expect("a canceller");
    let (receiver, id) = sleeper(move || {
        let answer = port2.recv().map(|event| event.format());
        assert!(matches!(answer, Err(RecvError::Cancelled)), "{answer:?}");
        receives_nothing(&port2);
        port2
    });
    wait_until_asleep(id);
    canceller.cancel();
    let port2 = receiver.join().expect("no panic");
    port1.post_text("after").expect("room");
    assert_eq!(receive_text(&port2), "after");
}

#[test]
fn a_canceller_ends_a_blocked_post_of_a_whole_port() {
    let _watch = watch("a_canceller_ends_a_blocked_post_of_a_whole_port");
    let MessageChannel { port1, port2 } = bounded();
    let count = fill(&port1);
    let canceller = port1.canceller().expect("a canceller");
    let (sender, id) = sleeper(move || {
        let answer = port1.post_bytes_timeout(&[2; 500], Duration::MAX);
        assert!(matches!(answer, Err(PostError::Cancelled)), "{answer:?}");
        port1
    });
    wait_until_asleep(id);
    canceller.cancel();
    let port1 = sender.join().expect("no panic");
    for _ in 0..count {
        assert_eq!(receive(&port2).bytes(), [1; 500]);
    }
    assert!(port2.try_recv().expect("an open port").is_none(), "nothing of it was posted");
    port1.post_text("after").expect("room");
    assert_eq!(receive_text(&port2), "after");
}

#[test]
fn a_canceller_of_one_half_leaves_the_other_half_alone() {
    let _watch = watch("a_canceller_of_one_half_leaves_the_other_half_alone");
    let MessageChannel { port1, port2 } = bounded();
    fill(&port1);
    let (sender, receiver) = port1.split();
    let of_sender = sender.canceller().expect("a canceller");
    let of_receiver = receiver.canceller().expect("a canceller");
    let (receiving, receiving_id) =
        sleeper(move || (receiver.recv().map(|event| event.format()), receiver));
    let (sending, sending_id) =
        sleeper(move || (sender.post_bytes_timeout(&[2; 500], Duration::MAX), sender));
    wait_until_asleep(receiving_id);
    wait_until_asleep(sending_id);
    of_sender.cancel();
    let (answer, sender) = sending.join().expect("no panic");
    assert!(matches!(answer, Err(PostError::Cancelled)), "{answer:?}");
    assert!(!receiving.is_finished());
    of_receiver.cancel();
    let (answer, receiver) = receiving.join().expect("no panic");
    assert!(matches!(answer, Err(RecvError::Cancelled)), "{answer:?}");
    drop((sender, receiver, port2));
}

#[test]
fn a_canceller_of_a_joined_port_ends_posts_whatever_its_halves_had() {
    let _watch = watch("a_canceller_of_a_joined_port_ends_posts_whatever_its_halves_had");
    let MessageChannel { port1, port2: _port2 } = bounded();
    fill(&port1);
    let (sender, receiver) = port1.split();
    let old = sender.canceller().expect("a canceller");
    let port1 = MessagePort::join(sender, receiver).expect("halves of one port");
    let new = port1.canceller().expect("a canceller");
    for canceller in [new, old] {
        canceller.cancel();
        let answer = port1.post_bytes_timeout(&[2; 500], Duration::MAX);
        assert!(matches!(answer, Err(PostError::Cancelled)), "{answer:?}");
    }
}

#[test]
fn a_cancel_before_the_call_ends_the_next_one_that_would_block() {
    let MessageChannel { port1, port2 } = bounded();
    let canceller = port2.canceller().expect("a canceller");
    canceller.cancel();
    port1.post_text("there").expect("room");
    assert_eq!(receive_text(&port2), "there");
    assert!(matches!(port2.recv(), Err(RecvError::Cancelled)));
    receives_nothing(&port2);
    fill(&port2);
    canceller.cancel();
    let answer = port2.post_bytes_timeout(&[2; 500], Duration::MAX);
    assert!(matches!(answer, Err(PostError::Cancelled)), "{answer:?}");
    let answer = port2.post_bytes_timeout(&[2; 500], Duration::from_millis(1));
    assert!(matches!(answer, Err(PostError::Timeout)), "{answer:?}");
}

#[test]
fn a_canceller_that_outlives_its_port_disturbs_no_wait() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let canceller = port2.canceller().expect("a canceller");
    drop(port2);
    canceller.cancel();
    // The peer sees the drop, though the canceller is alive.
    let answer = port1.recv().map(|event| event.format());
    assert!(matches!(answer, Err(RecvError::Closed { .. })), "{answer:?}");
    canceller.clone().cancel();
}

/// How often this thread has given up the processor by itself.
fn times_asleep() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("a thread knows what it has used");
    usage.voluntary_context_switches()
}

#[test]
fn a_cancel_at_any_instant_ends_one_call_and_leaves_the_next_ones_asleep() {
    let _watch = watch("a_cancel_at_any_instant_ends_one_call_and_leaves_the_next_ones_asleep");
    const ROUNDS: u64 = 200;
    let MessageChannel { port1: _port1, port2 } = MessageChannel::new().expect("a channel");
    let canceller = port2.canceller().expect("a canceller");
    let (both, mut awake) = (Barrier::new(2), Vec::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                both.wait();
                canceller.cancel();
                both.wait();
            }
        });
        for round in 0..ROUNDS {
            both.wait();
            // Never asleep, so that the request is found at every possible instant.
            loop {
                match port2.recv_timeout(Duration::ZERO) {
                    Err(RecvError::Timeout) => {}
                    Err(RecvError::Cancelled) => break,
                    other => panic!("{other:?}"),
                }
            }
            both.wait();
            receives_nothing(&port2);
            // It sleeps, and is not kept awake by a bell that is not drained. On a busy machine a
            // wait may be over before it has begun to sleep.
            let sleeps = || {
                let before = times_asleep();
                let _ = port2.recv_timeout(Duration::from_millis(4));
                times_asleep() > before
            };
            if !(0..20).any(|_| sleeps()) {
                awake.push(round);
            }
            progress();
        }
    });
    assert!(awake.is_empty(), "awake all the time in the rounds {awake:?}");
}

#[test]
fn many_threads_cancel_and_no_call_hangs() {
    let _watch = watch("many_threads_cancel_and_no_call_hangs");
    const EACH: usize = 500;
    let MessageChannel { port1: _port1, port2 } = bounded();
    fill(&port2);
    let canceller = port2.canceller().expect("a canceller");
    thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..EACH {
                        canceller.cancel();
                        thread::yield_now();
                    }
                })
            })
            .collect();
        let mut cancelled = 0;
        while !threads.iter().all(|thread| thread.is_finished()) {
            // Requests may fall together, so the last of these calls may find none.
            let (received, posted) = (
                port2.recv_timeout(Duration::from_millis(1)).map(|event| event.format()),
                port2.post_bytes_timeout(&[2; 500], Duration::from_millis(1)),
            );
            cancelled += usize::from(matches!(received, Err(RecvError::Cancelled)));
            cancelled += usize::from(matches!(posted, Err(PostError::Cancelled)));
            progress();
        }
        assert!((1..=3 * EACH).contains(&cancelled), "{cancelled} calls were ended");
    });
    // One request may be left.
    let _ = port2.recv_timeout(Duration::ZERO);
    receives_nothing(&port2);
}
