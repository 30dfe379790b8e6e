//! Events without a loop of this crate: `dispatch`, called from a foreign one.

#![allow(unsafe_code)]

mod common;

use common::limits::{allow_all_descriptors, allow_more_descriptors};
use common::region::{Region, tail};
use common::role::{command, play};
use common::watchdog::watch;
use common::{DEADLINE, die, receive, receive_text, wait_until};
use messageport::{
    CloseReason, Event, ListenerOptions, MessageChannel, MessagePort, PostError, RecvError, Worker,
    parent_port,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::thread;

/// The most events of one call; any number would do.
const LIMIT: u32 = 8;

fn channel() -> MessageChannel {
    MessageChannel::new().expect("a channel")
}

/// What listeners saw, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().expect("no thread panicked while holding it").push(what.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no thread panicked while holding it"))
    }

    /// Has everything that comes to a port written down; does not start it.
    fn listen(&self, port: &MessagePort) {
        for kind in ["message", "messageerror", "close"] {
            let log = self.clone();
            port.add_event_listener(kind, ListenerOptions::new(), move |event| {
                log.note(words(event));
            });
        }
    }
}

fn words(event: &Event<'_>) -> String {
    if let Some(message) = event.message() {
        return message.text().expect("a text").to_owned();
    }
    match event.close_reason() {
        Some(reason) => format!("close: {reason:?}"),
        None => format!("error: {}", event.message_error().is_some()),
    }
}

fn logged() -> (MessagePort, MessagePort, Log) {
    let (MessageChannel { port1, port2 }, log) = (channel(), Log::default());
    log.listen(&port2);
    port2.start();
    (port1, port2, log)
}

fn dispatch(port: &MessagePort) -> u32 {
    port.dispatch(LIMIT).expect("an open port")
}

fn end_of(port: &MessagePort) -> CloseReason {
    match port.dispatch(LIMIT) {
        Err(RecvError::Closed { reason }) => reason,
        other => panic!("expected the end: {other:?}"),
    }
}

fn post_numbers(port: &MessagePort, count: u32) {
    (0..count).for_each(|number| port.post_text(&number.to_string()).expect("room"));
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn a_call_delivers_no_more_than_its_limit() {
    let (peer, port, log) = logged();
    assert_eq!(dispatch(&port), 0);
    post_numbers(&peer, LIMIT + 3);
    assert_eq!(port.dispatch(0).expect("an open port"), 0);
    assert_eq!(dispatch(&port), LIMIT);
    assert_eq!(log.take(), numbers(0..LIMIT));
    assert_eq!((dispatch(&port), dispatch(&port)), (3, 0));
    assert_eq!(log.take(), numbers(LIMIT..LIMIT + 3));
}

/// The end comes behind all messages, once, and with the same answer ever after.
#[test]
fn an_end_is_delivered_once_behind_all_messages() {
    let (peer, port, log) = logged();
    post_numbers(&peer, 2);
    peer.close();
    assert_eq!(port.dispatch(2).expect("two messages"), 2);
    assert_eq!((end_of(&port), end_of(&port)), (CloseReason::PeerClosed, CloseReason::PeerClosed));
    assert_eq!(log.take(), ["0", "1", "close: PeerClosed"]);
}

#[test]
fn a_port_that_was_closed_here_delivers_its_queue_and_no_close() {
    let (peer, port, log) = logged();
    post_numbers(&peer, 2);
    port.close();
    assert_eq!(end_of(&port), CloseReason::Local);
    assert_eq!(end_of(&port), CloseReason::Local);
    assert_eq!(log.take(), ["0", "1"]);
}

/// Without a start there is only the end, and only if no message comes before it.
#[test]
fn a_port_that_is_not_started_keeps_its_messages() {
    let (MessageChannel { port1, port2 }, log) = (channel(), Log::default());
    log.listen(&port2);
    assert_eq!(dispatch(&port2), 0);
    post_numbers(&port1, 2);
    assert_eq!(dispatch(&port2), 0);
    assert_eq!(receive_text(&port2), "0");
    drop(port1);
    assert_eq!(dispatch(&port2), 1, "`peergone`, which has no listener here");
    assert_eq!(log.take(), [""; 0]);
    port2.start();
    assert_eq!(end_of(&port2), CloseReason::PeerDropped);
    assert_eq!(log.take(), ["1", "close: PeerDropped"]);
    let (MessageChannel { port1, port2 }, log) = (channel(), Log::default());
    log.listen(&port2);
    drop(port1);
    assert_eq!(end_of(&port2), CloseReason::PeerDropped);
    assert_eq!(log.take(), ["close: PeerDropped"]);
}

#[test]
fn a_message_of_another_type_is_a_messageerror_and_counts() {
    let MessageChannel { port1, port2 } = channel();
    let (typed, log) = (port2.typed::<u32, ()>(), Log::default());
    log.listen(typed.port());
    typed.port().start();
    port1.post_text("no number").expect("room");
    assert_eq!(dispatch(typed.port()), 1);
    assert_eq!(log.take(), ["error: true"]);
}

/// Handlers run one at a time, also if one of them dispatches.
#[test]
fn a_call_inside_a_listener_delivers_nothing() {
    let (MessageChannel { port1, port2 }, log) = (channel(), Log::default());
    let inner = log.clone();
    port2.on_message(move |event| {
        let count = event.port().dispatch(LIMIT).expect("an open port");
        inner.note(format!("{} and {count} more", words(event)));
    });
    post_numbers(&port1, 2);
    assert_eq!(dispatch(&port2), 2);
    assert_eq!(log.take(), ["0 and 0 more", "1 and 0 more"]);
}

/// A panic is the listener's own: the next call goes on.
#[test]
fn a_listener_that_panics_does_not_stop_the_delivery() {
    let (MessageChannel { port1, port2 }, log) = (channel(), Log::default());
    let inner = log.clone();
    port2.on_listener_failure(|_, _| {});
    port2.on_message(move |event| match words(event).as_str() {
        "0" => std::panic::panic_any("on purpose"),
        other => inner.note(other),
    });
    post_numbers(&port1, 2);
    assert_eq!((dispatch(&port2), dispatch(&port2)), (2, 0));
    assert_eq!(log.take(), ["1"]);
}

#[test]
fn a_listener_closes_its_port_and_the_rest_of_the_queue_comes() {
    let (MessageChannel { port1, port2 }, log) = (channel(), Log::default());
    let inner = log.clone();
    port2.on_message(move |event| {
        inner.note(words(event));
        event.port().close();
    });
    post_numbers(&port1, 3);
    assert_eq!(end_of(&port2), CloseReason::Local);
    assert_eq!(log.take(), numbers(0..3));
}

/// A port that moves away between two calls takes what was not delivered along.
#[test]
fn a_port_that_moves_between_two_calls_keeps_the_rest() {
    let (peer, port, log) = logged();
    let way = channel();
    post_numbers(&peer, 3);
    assert_eq!(port.dispatch(1).expect("an open port"), 1);
    way.port1.post_text_with("a port", [port.into()]).expect("room");
    let moved = receive(&way.port2).take_port().expect("a port");
    assert_eq!(dispatch(&moved), 0, "it is not started");
    log.listen(&moved);
    moved.start();
    assert_eq!(dispatch(&moved), 2);
    assert_eq!(log.take(), numbers(0..3));
}

/// A message that other ports of a loop would be copied in chunks for is copied as a whole.
#[test]
fn a_long_message_is_one_event() {
    let (MessageChannel { port1, port2 }, log) = (channel(), Log::default());
    let inner = log.clone();
    port2.on_message(move |event| {
        inner.note(event.message().expect("a message").bytes().len().to_string());
    });
    port1.post_bytes(&vec![7; 5 << 20]).expect("room");
    port1.post_bytes(&[7]).expect("room");
    assert_eq!(dispatch(&port2), 2);
    assert_eq!(log.take(), [(5 << 20).to_string(), "1".to_owned()]);
}

#[test]
fn a_peer_that_breaks_the_protocol_ends_the_port() {
    let (peer, port, log) = logged();
    assert_eq!(dispatch(&port), 0);
    Region::of(&port).word(tail(0)).store(u64::MAX, Relaxed);
    assert!(matches!(end_of(&port), CloseReason::Corrupt(_)));
    assert!(matches!(end_of(&port), CloseReason::Corrupt(_)));
    assert_eq!(log.take().len(), 1, "one close");
    assert!(port.is_closed());
    drop(peer);
}

// Foreign loops.

/// Runs until the port has ended; waits whenever fewer events than the limit came.
fn serve(port: &MessagePort, mut wait: impl FnMut()) -> CloseReason {
    loop {
        match port.dispatch(LIMIT) {
            Ok(LIMIT) => {}
            Ok(_) => wait(),
            Err(RecvError::Closed { reason }) => return reason,
            Err(other) => panic!("{other}"),
        }
    }
}

const ROUNDS: u32 = 500;

/// Posts in pieces of changing length, and waits for the echo of each piece.
fn post_and_hear(port: &MessagePort) {
    let mut next = 0;
    while next < ROUNDS {
        let count = (next % 21 + 1).min(ROUNDS - next);
        (next..next + count).for_each(|it| port.post_text(&it.to_string()).expect("room"));
        (next..next + count).for_each(|it| assert_eq!(receive_text(port), it.to_string()));
        next += count;
    }
}

/// A port that echoes, and a thread that posts to it and then drops its end.
fn echo() -> (MessagePort, thread::JoinHandle<()>) {
    let MessageChannel { port1, port2 } = channel();
    port2.on_message(|event| event.port().post_text(&words(event)));
    (port2, thread::spawn(move || post_and_hear(&port1)))
}

#[test]
fn a_poll_loop_misses_nothing() {
    let _watch = watch("a_poll_loop_misses_nothing");
    let (port, other) = echo();
    let doorbell = port.as_fd();
    let reason = serve(&port, || {
        let ready = poll(&mut [PollFd::new(doorbell, PollFlags::POLLIN)], PollTimeout::NONE);
        ready.expect("the kernel waits");
    });
    assert_eq!(reason, CloseReason::PeerDropped);
    other.join().expect("no panic");
}

#[test]
fn an_edge_triggered_loop_misses_nothing() {
    let _watch = watch("an_edge_triggered_loop_misses_nothing");
    let (port, other) = echo();
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("an epoll");
    let edges = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
    epoll.add(port.as_fd(), edges).expect("it can be watched");
    let reason = serve(&port, || {
        epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE).expect("the kernel waits");
    });
    assert_eq!(reason, CloseReason::PeerDropped);
    other.join().expect("no panic");
}

// Other processes, and lacks.

#[test]
fn what_a_killed_peer_had_posted_is_delivered_first() {
    const TEST: &str = "what_a_killed_peer_had_posted_is_delivered_first";
    fn dies() {
        let port = parent_port().expect("a port to the parent");
        post_numbers(&port, 3);
        die();
    }
    fn watches() {
        let worker = Worker::spawn(command(TEST, "dies")).expect("a worker");
        let log = Log::default();
        log.listen(worker.port());
        worker.port().start();
        let doorbell = worker.port().as_fd();
        let reason = serve(worker.port(), || {
            let ready = poll(&mut [PollFd::new(doorbell, PollFlags::POLLIN)], PollTimeout::NONE);
            ready.expect("the kernel waits");
        });
        assert_eq!(reason, CloseReason::PeerDied);
        assert_eq!(log.take(), ["0", "1", "2", "close: PeerDied"]);
    }
    play(TEST, &[("watches", watches), ("dies", dies)]);
}

/// Nothing is lost while the process has no descriptor left for the next message.
#[test]
fn without_descriptors_the_call_says_so_and_goes_on_later() {
    const TEST: &str = "without_descriptors_the_call_says_so_and_goes_on_later";
    fn lacks() {
        let (peer, port, log) = logged();
        post_numbers(&peer, 1);
        let file = File::open("/dev/null").expect("a file");
        peer.post_text_with("a file", [file.into()]).expect("room");
        assert_eq!(port.dispatch(1).expect("a message"), 1);
        allow_more_descriptors(0);
        let lack = port.dispatch(LIMIT);
        allow_all_descriptors();
        assert!(matches!(lack, Err(RecvError::OutOfDescriptors { needed: 1 })), "{lack:?}");
        wait_until("it is delivered", || dispatch(&port) == 1);
        assert_eq!(log.take(), ["0", "a file"]);
    }
    play(TEST, &[("lacks", lacks)]);
}

/// A post of another thread ends the wait for its room, while this thread dispatches.
#[test]
fn a_delivery_makes_room_for_a_sender_that_waits() {
    let sizes = MessageChannel::builder().capacity(4096).bounded();
    let MessageChannel { port1, port2 } = sizes.build().expect("a channel");
    port2.on_message(|_| {});
    let other = thread::spawn(move || {
        (0..64).for_each(|_| port1.post_bytes_timeout(&[0; 1000], DEADLINE).expect("room"));
    });
    let mut count = 0;
    wait_until("all have come", || {
        count += port2.dispatch(1).unwrap_or(0);
        count == 64
    });
    other.join().expect("no panic");
}

/// A loop that keeps what did not fit: it is woken for room, and for messages meanwhile.
#[test]
fn a_loop_is_woken_for_room_and_misses_no_message() {
    const COUNT: u32 = 100_000;
    /// More than fit the ring, so room is all that the loop can be woken for.
    const ANSWERED: u32 = 1_000;
    let sizes = MessageChannel::builder().capacity(4096).bounded();
    let MessageChannel { port1: port, port2: peer } = sizes.build().expect("a channel");
    let other = thread::spawn(move || {
        for number in 0..COUNT {
            assert_eq!(*receive(&peer).data::<u32>().expect("a number"), number);
            if number % ANSWERED == 0 {
                peer.post_message(&number).expect("room");
            }
        }
    });
    let doorbell = port.as_fd();
    let (mut posted, mut received) = (0, 0);
    while posted < COUNT || received < COUNT {
        // After the last answer the peer is gone.
        while received < COUNT
            && let Some(event) = port.try_recv().expect("the peer is there")
        {
            assert_eq!(*event.data::<u32>().expect("a number"), received);
            received += ANSWERED;
        }
        let (mut rang, mut is_asked) = (false, false);
        while posted < COUNT {
            match port.post_message(&posted) {
                Ok(()) => posted += 1,
                Err(PostError::QueueFull { .. }) if is_asked => break,
                Err(PostError::QueueFull { .. }) => {
                    rang |= port.notify_room();
                    is_asked = true;
                }
                Err(error) => panic!("{error}"),
            }
        }
        if !rang && (posted < COUNT || received < COUNT) {
            let waits = &mut [PollFd::new(doorbell, PollFlags::POLLIN)];
            poll(waits, PollTimeout::NONE).expect("poll");
        }
    }
    other.join().expect("no panic");
}
