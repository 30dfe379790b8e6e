//! Sleeping and waking: no message is missed, no thread waits for itself, and every waiter can
//! be called back.

#![allow(unsafe_code)]

#[path = "blocking/batches.rs"]
mod batches;
#[path = "blocking/cancel.rs"]
mod cancel;
mod common;
#[path = "common/filter.rs"]
mod filter;
#[path = "blocking/lost.rs"]
mod lost;
#[path = "blocking/mixed.rs"]
mod mixed;
#[path = "blocking/peer_gone.rs"]
mod peer_gone;
#[path = "blocking/readiness.rs"]
mod readiness;
#[path = "blocking/refused.rs"]
mod refused;

use common::messages::{Rng, Stream};
use common::region::{self, Region};
use common::role::{command, play};
use common::watchdog::{progress, watch};
use common::{DEADLINE, receive, wait_until, wait_until_asleep};
use messageport::{
    MessageChannel, MessagePort, PostError, Receiver, RecvError, Sender, Worker, parent_port,
};
use nix::unistd::{Pid, gettid};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// A channel whose lanes hold seven messages of 500 bytes, and never grow.
fn bounded() -> MessageChannel {
    MessageChannel::builder().capacity(4096).bounded().build().expect("a channel")
}

/// Posts until there is no room. Returns how many.
fn fill(port: &MessagePort) -> u64 {
    for posted in 0.. {
        match port.post_bytes(&[1; 500]) {
            Ok(()) => {}
            Err(PostError::QueueFull { .. }) => return posted,
            Err(error) => panic!("{error}\n{port:#?}"),
        }
    }
    unreachable!("a bounded lane is full at last")
}

/// Runs `body` in a thread, and tells which one it is.
fn sleeper<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> (thread::JoinHandle<T>, Pid) {
    let (send, id) = mpsc::channel();
    let thread = thread::spawn(move || {
        send.send(gettid()).expect("the test waits for it");
        body()
    });
    (thread, id.recv().expect("a thread has an id"))
}

// Lost wake-ups.

/// Lets the other side look for a while, or fall asleep, or be just about to.
fn hesitate(rng: &mut Rng) {
    let most = [5, 50, 150, 500][rng.below(4) as usize];
    rng.dawdle(Duration::from_micros(most));
}

/// Answers each message with itself, at another instant each time.
fn echo(port: &MessagePort, seed: u64) {
    let mut rng = Rng(seed);
    for event in port {
        hesitate(&mut rng);
        port.post_bytes(event.bytes()).expect("room");
        progress();
    }
}

/// Rounds in which each side sleeps, or is just about to, when the other one posts.
fn ping_pong(port: &MessagePort, rounds: u64) {
    let mut rng = Rng(rounds);
    for round in 0..rounds {
        port.post_message(&round).expect("room");
        hesitate(&mut rng);
        let answer = receive(port);
        assert_eq!(answer.bytes(), round.to_le_bytes());
        drop(answer);
        hesitate(&mut rng);
        progress();
    }
}

#[test]
fn f25_no_wake_up_is_lost_between_threads() {
    let _watch = watch("f25_no_wake_up_is_lost_between_threads");
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let other = thread::spawn(move || echo(&port2, 25));
    ping_pong(&port1, 5000);
    assert!(port1.stats().sent.wakes > 0, "a side slept");
    drop(port1);
    other.join().expect("no panic");
}

#[test]
fn f25_no_wake_up_is_lost_between_processes() {
    const TEST: &str = "f25_no_wake_up_is_lost_between_processes";
    fn echoes() {
        echo(&parent_port().expect("a port to the parent"), 26);
    }
    fn posts() {
        let worker = Worker::spawn(command(TEST, "echoes")).expect("a worker");
        ping_pong(worker.port(), 5000);
        assert!(worker.port().stats().sent.wakes > 0, "a side slept");
    }
    play(TEST, &[("posts", posts), ("echoes", echoes)]);
}

#[test]
fn f25_a_sender_and_a_receiver_at_changing_speeds_never_wait_for_each_other() {
    let _watch = watch("f25_a_sender_and_a_receiver_at_changing_speeds");
    let channel = MessageChannel::builder().capacity(4096).limit(16 << 10).build();
    let MessageChannel { port1, port2 } = channel.expect("a channel");
    let other = thread::spawn(move || {
        let mut rng = Rng(7);
        for number in 0..20_000u64 {
            let pause = if rng.below(100) == 0 { 500 } else { 1 };
            port1.post_bytes_timeout(&[number as u8; 700], Duration::MAX).expect("room");
            rng.dawdle(Duration::from_micros(pause));
            progress();
        }
    });
    let mut rng = Rng(8);
    for (number, event) in port2.iter().enumerate() {
        assert_eq!(event.bytes(), [number as u8; 700]);
        let pause = if rng.below(100) == 0 { 500 } else { 1 };
        rng.dawdle(Duration::from_micros(pause));
    }
    other.join().expect("no panic");
}

/// Posts a stream that needs room again and again; sleeps on the room's flag.
fn send_all(sender: &Sender, count: u64) {
    for number in 0..count {
        let body = [number as u8; 900];
        sender.post_bytes_timeout(&body, Duration::MAX).expect("room");
        progress();
    }
}

/// Receives it; sleeps on the doorbell.
fn receive_all(receiver: &Receiver, count: u64) {
    for number in 0..count {
        let event = receiver.recv().expect("a message");
        assert_eq!(event.bytes(), [number as u8; 900]);
    }
}

#[test]
fn f47_two_halves_that_both_wait_do_not_take_each_others_wake_ups() {
    let _watch = watch("f47_two_halves_that_both_wait_do_not_take_each_others_wake_ups");
    const COUNT: u64 = 20_000;
    let MessageChannel { port1, port2 } = bounded();
    let (sender1, receiver1) = port1.split();
    // The other end sends back what it receives, by halves as well.
    let (sender2, receiver2) = port2.split();
    thread::scope(|scope| {
        scope.spawn(move || send_all(&sender1, COUNT));
        scope.spawn(move || {
            for event in receiver2.iter().take(COUNT as usize) {
                sender2.post_bytes_timeout(event.bytes(), Duration::MAX).expect("room");
            }
        });
        receive_all(&receiver1, COUNT);
    });
}

#[test]
fn f50_each_release_of_a_busy_receiver_wakes_a_sender_that_waits_for_room() {
    let _watch = watch("f50_each_release_of_a_busy_receiver_wakes_a_sender_that_waits_for_room");
    // Where the consumer counts its wake-ups; see `docs/layout.md`.
    const WAKES: usize = 0x80 + 0x200 + 0x10;
    const ROUNDS: u64 = 50;
    let mut woken = 0;
    for _ in 0..ROUNDS {
        let MessageChannel { port1, port2 } = bounded();
        let region = Region::of(&port1);
        fill(&port1);
        let (sender, _) =
            sleeper(move || port1.post_bytes_timeout(&[2; 500], Duration::MAX).map(|()| port1));
        // The first one makes too little room, as the end of the segment is too short.
        for _ in 0..2 {
            let flag = region.half_word(region::room_sleeper(0));
            wait_until("the sender sleeps", || flag.load(SeqCst) != 0);
            receive(&port2);
        }
        // The receiver is busy elsewhere from here on.
        drop(sender.join().expect("no panic").expect("room"));
        woken += region.word(WAKES).load(SeqCst);
    }
    // A sender between two slices of its sleep needs no wake, but that is seldom.
    assert!(woken > ROUNDS, "{woken} of {} releases woke the sleeper", 2 * ROUNDS);
}

// Waiting for oneself.

#[test]
fn f41_two_full_ends_answer_instead_of_waiting_for_each_other() {
    let MessageChannel { port1, port2 } = bounded();
    let counts = [fill(&port1), fill(&port2)];
    for port in [&port1, &port2] {
        assert!(matches!(port.post_bytes(&[1; 500]), Err(PostError::QueueFull { .. })));
        let waited = port.post_bytes_timeout(&[1; 500], Duration::from_millis(1));
        assert!(matches!(waited, Err(PostError::Timeout)), "{waited:?}");
        let waited = port.wait_for_room(500, Duration::from_millis(1));
        assert!(matches!(waited, Err(PostError::Timeout)), "{waited:?}");
    }
    for (port, count) in [(&port2, counts[0]), (&port1, counts[1])] {
        for _ in 0..count {
            assert_eq!(receive(port).bytes(), [1; 500]);
        }
        assert!(port.try_recv().expect("an open port").is_none());
    }
}

#[test]
fn f57_a_staged_burst_is_published_before_its_owner_waits() {
    let _watch = watch("f57_a_staged_burst_is_published_before_its_owner_waits");
    let MessageChannel { port1, port2 } = bounded();
    let burst = port1.burst();
    let staged = (0..).find(|_| burst.stage_bytes(&[3; 500]).is_err()).expect("a full lane");
    assert_eq!(staged, 7, "all of the lane is staged");
    // Only what the waiting sender publishes can make room.
    let (other, id) = sleeper(move || {
        for _ in 0..7 {
            assert_eq!(receive(&port2).bytes(), [3; 500]);
        }
        assert_eq!(receive(&port2).bytes(), [4; 500]);
        port2
    });
    wait_until_asleep(id);
    port1.post_bytes_timeout(&[4; 500], Duration::MAX).expect("room");
    drop(burst);
    let port2 = other.join().expect("no panic");
    assert!(port2.try_recv().expect("an open port").is_none(), "nothing is published twice");
}

#[test]
fn f57_waiting_for_room_publishes_a_burst_as_well() {
    let _watch = watch("f57_waiting_for_room_publishes_a_burst_as_well");
    let MessageChannel { port1, port2 } = bounded();
    let (sender, receiver) = port1.split();
    let burst = sender.burst();
    while burst.stage_bytes(&[3; 500]).is_ok() {}
    let (other, id) = sleeper(move || {
        assert_eq!(port2.iter().map(|event| event.bytes().len()).sum::<usize>(), 7 * 500 + 3);
    });
    wait_until_asleep(id);
    sender.wait_for_room(1000, Duration::MAX).expect("room");
    burst.stage_bytes(b"end").expect("room");
    drop(burst);
    drop((sender, receiver));
    other.join().expect("no panic");
}

// Deadlines and ends.

#[test]
fn receiving_ends_at_the_deadline_and_not_before() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    for timeout in [0, 1, 300, 5000].map(Duration::from_micros) {
        let start = Instant::now();
        let answer = port2.recv_timeout(timeout).map(|event| event.format());
        assert!(matches!(answer, Err(RecvError::Timeout)), "{answer:?}");
        assert!(start.elapsed() >= timeout);
        let answer = port2.recv_deadline(start + timeout * 2).map(|event| event.format());
        assert!(matches!(answer, Err(RecvError::Timeout)), "{answer:?}");
        assert!(start.elapsed() >= timeout * 2);
    }
    // A message that is there is worth more than a deadline that has passed.
    for _ in 0..3 {
        port1.post_text("here").expect("room");
    }
    assert!(port2.recv_timeout(Duration::ZERO).is_ok());
    assert!(port2.recv_deadline(Instant::now() - Duration::from_secs(1)).is_ok());
    assert!(port2.recv_timeout(Duration::MAX).is_ok());
}

#[test]
fn posting_ends_at_the_deadline_and_not_before() {
    let MessageChannel { port1, port2 } = bounded();
    fill(&port1);
    for timeout in [0, 1, 300, 5000, 50_000].map(Duration::from_micros) {
        let start = Instant::now();
        let answers = [
            port1.post_bytes_timeout(&[1; 500], timeout),
            port1.post_text_timeout(&"x".repeat(500), timeout),
            port1.post_message_timeout(&[1u8; 500], timeout),
            port1.wait_for_room(500, timeout),
        ];
        assert!(answers.iter().all(|answer| matches!(answer, Err(PostError::Timeout))));
        assert!(start.elapsed() >= 4 * timeout);
    }
    receive(&port2);
    receive(&port2);
    port1.wait_for_room(500, Duration::ZERO).expect("room that is there");
    port1.post_message_timeout(&[1u8; 500], Duration::ZERO).expect("room that is there");
}

#[test]
fn a_message_that_can_never_fit_is_not_waited_for() {
    let MessageChannel { port1, port2: _port2 } = bounded();
    fill(&port1);
    let long = vec![0; port1.max_message_len() + 1];
    for answer in [
        port1.post_bytes_timeout(&long, Duration::MAX),
        port1.post_message_timeout(&long, Duration::MAX),
        port1.wait_for_room(long.len(), Duration::MAX),
        port1.post_bytes(&long),
    ] {
        assert!(matches!(answer, Err(PostError::TooLarge { .. })), "{answer:?}");
    }
}

#[test]
fn a_blocked_receiver_wakes_at_each_kind_of_end() {
    let _watch = watch("a_blocked_receiver_wakes_at_each_kind_of_end");
    let ends: [(EndOf, &str); 3] = [
        (|port| port.close(), "the peer closed it"),
        (drop, "the peer dropped it"),
        (|port| drop(port.split().0), "the peer dropped it"),
    ];
    for (end, expected) in ends {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let (receiver, id) = sleeper(move || port2.recv().map(|event| event.format()));
        wait_until_asleep(id);
        end(port1);
        let error = receiver.join().expect("no panic").expect_err("the end");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_blocked_sender_wakes_at_each_kind_of_end() {
    let _watch = watch("a_blocked_sender_wakes_at_each_kind_of_end");
    let ends: [(EndOf, &str); 3] = [
        (|port| port.close(), "the peer closed it"),
        (drop, "the peer dropped it"),
        (|port| drop(port.split().1), "the peer dropped it"),
    ];
    for (end, expected) in ends {
        let MessageChannel { port1, port2 } = bounded();
        fill(&port1);
        let (sender, id) = sleeper(move || port1.post_bytes_timeout(&[1; 500], Duration::MAX));
        wait_until_asleep(id);
        end(port2);
        let error = sender.join().expect("no panic").expect_err("the end");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_stream_of_all_sizes_arrives_through_a_narrow_lane() {
    let _watch = watch("a_stream_of_all_sizes_arrives_through_a_narrow_lane");
    let channel = MessageChannel::builder().capacity(8192).limit(256 << 10).build();
    let MessageChannel { port1, port2 } = channel.expect("a channel");
    let stream = Stream { seed: 99 };
    let other = thread::spawn(move || {
        for number in 0..5000 {
            stream.post(&port1, number).expect("room, sooner or later");
        }
    });
    for number in 0..5000 {
        stream.check(&receive(&port2), number);
        progress();
    }
    other.join().expect("no panic");
    let end = port2.recv_timeout(DEADLINE).map(|event| event.format());
    assert!(matches!(end, Err(RecvError::Closed { .. })), "{end:?}");
}

/// A way in which a port ends.
type EndOf = fn(MessagePort);
