//! Calls beside events: stopping delivery, reading while it goes on, looking without taking, and
//! the end of a port whose messages are not read. The web has none of it.

use crate::common::region::{Region, tail};
use crate::common::role::{command, play};
use crate::common::{
    DEADLINE, die, discard, limits, receive, receive_end, receive_text, wait_until,
    wait_until_closed,
};
use crate::{Log, channel, logged, loop_of, numbers, post_numbers, run_until, settle};
use messageport::{
    Buffer, BufferPool, CloseReason, EventLoop, Format, ListenerOptions, LoopEvent, MessageChannel,
    MessagePort, NextMessage, RecvError, RunEnd, Worker, parent_port,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

// Stopping.

#[test]
fn a_port_that_is_stopped_keeps_its_messages_until_it_is_started_again() {
    let pair = channel();
    let (port, log) = logged(pair.port2);
    port.start();
    let (mut event_loop, id) = loop_of(port);
    post_numbers(&pair.port1, 0..2);
    settle(&mut event_loop);
    event_loop.get(id).expect("the port").stop();
    assert!(!event_loop.get(id).expect("the port").is_started());
    post_numbers(&pair.port1, 2..5);
    settle(&mut event_loop);
    assert_eq!(log.take(), numbers(0..2));
    assert_eq!(receive_text(event_loop.get(id).expect("the port")), "2");
    event_loop.get(id).expect("the port").start();
    settle(&mut event_loop);
    assert_eq!(log.take(), numbers(3..5));
    drop(pair.port1);
    assert_eq!(event_loop.run().expect("the loop waits"), RunEnd::NothingLeft);
    assert_eq!(log.take(), ["close: PeerDropped"]);
}

/// The next message of the same turn is not delivered any more.
#[test]
fn a_listener_stops_its_own_port() {
    let (pair, log) = (channel(), Log::new());
    let inner = log.clone();
    pair.port2.on_message(move |event| {
        inner.note(crate::text_of(event));
        event.port().stop();
    });
    let (mut event_loop, id) = loop_of(pair.port2);
    post_numbers(&pair.port1, 0..3);
    settle(&mut event_loop);
    assert_eq!(log.take(), ["0"]);
    let port = event_loop.take(id).expect("the port");
    assert_eq!([(); 2].map(|()| receive_text(&port)), ["1", "2"]);
    port.stop();
    assert!(!port.is_started(), "twice is once");
}

#[test]
fn a_port_that_was_closed_here_and_is_stopped_does_not_hold_run() {
    let (pair, log) = (channel(), Log::new());
    pair.port2.on_message(log.text());
    let (mut event_loop, id) = loop_of(pair.port2);
    settle(&mut event_loop);
    event_loop.get(id).expect("the port").stop();
    post_numbers(&pair.port1, 0..1);
    event_loop.get(id).expect("the port").close();
    assert_eq!(event_loop.run().expect("nothing to wait for"), RunEnd::NothingReferenced);
    event_loop.get(id).expect("the port").start();
    assert_eq!(event_loop.run().expect("its message comes"), RunEnd::NothingLeft);
    assert_eq!(log.take(), ["0"]);
}

// Reading while events are delivered.

#[test]
fn a_call_takes_a_message_of_a_port_that_is_started() {
    let pair = channel();
    let (port, log) = logged(pair.port2);
    port.start();
    assert!(port.receive_message().expect("an open port").is_none());
    post_numbers(&pair.port1, 0..3);
    let first = port.receive_message().expect("an open port").expect("a message");
    assert_eq!(first.text().expect("a text"), "0");
    drop(first);
    assert!(matches!(port.try_recv(), Err(RecvError::Started)), "the others refuse as before");
    let (mut event_loop, id) = loop_of(port);
    settle(&mut event_loop);
    assert_eq!(log.take(), numbers(1..3));
    post_numbers(&pair.port1, 3..4);
    let port = event_loop.get(id).expect("the port");
    assert!(port.receive_message().expect("an open port").is_some());
    post_numbers(&pair.port1, 4..5);
    settle(&mut event_loop);
    assert_eq!(log.take(), numbers(4..5));
}

/// As in Node, where a listener may drain its port.
#[test]
fn a_listener_takes_the_messages_after_its_own() {
    let (pair, log) = (channel(), Log::new());
    let inner = log.clone();
    pair.port2.on_message(move |event| {
        let mut words = crate::text_of(event);
        while let Ok(Some(next)) = event.port().receive_message() {
            words = format!("{words}, {}", next.text().expect("a text"));
        }
        inner.note(format!("{words}; {}", crate::text_of(event)));
    });
    let (mut event_loop, _) = loop_of(pair.port2);
    post_numbers(&pair.port1, 0..3);
    settle(&mut event_loop);
    assert_eq!(log.take(), ["0, 1, 2; 0"]);
}

/// The call tells the end, and the event still comes.
#[test]
fn a_call_that_finds_the_end_does_not_take_the_event() {
    let pair = channel();
    let (port, log) = logged(pair.port2);
    port.start();
    pair.port1.close();
    for _ in 0..2 {
        let end = port.receive_message().expect_err("the end");
        assert!(matches!(end, RecvError::Closed { reason: CloseReason::PeerClosed }));
    }
    let (mut event_loop, _) = loop_of(port);
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), ["close: PeerClosed"]);
}

// Looking.

fn peek(port: &MessagePort) -> NextMessage {
    port.peek().expect("an open port").expect("a message")
}

#[test]
fn a_look_says_length_format_and_descriptors_and_takes_nothing() {
    let pair = channel();
    assert!(pair.port2.peek().expect("an open port").is_none());
    assert!(pair.port2.peek_message().expect("an open port").is_none());
    pair.port1.post_text("words").expect("room");
    pair.port1.post_bytes(&[]).expect("room");
    pair.port1.post_message(&7u32).expect("room");
    let file = File::open("/dev/null").expect("a file");
    let list = [file.into(), channel().port1.into(), Buffer::from_slice(&[1]).expect("it").into()];
    pair.port1.post_bytes_with(&[7; 100], list).expect("room");
    let expected = [
        (5, Format::Text, 0),
        (0, Format::Bytes, 0),
        (4, Format::Archive, 0),
        (100, Format::Bytes, 5),
    ];
    for (len, format, descriptors) in expected {
        for _ in 0..2 {
            let next = peek(&pair.port2);
            assert_eq!((next.len(), next.format()), (len, format));
            assert_eq!(next.descriptors(), descriptors);
        }
        let copy = pair.port2.peek_message().expect("an open port").expect("a message");
        assert_eq!((copy.transferred(), copy.format()), ((0, 0, 0), format));
        let event = receive(&pair.port2);
        assert_eq!((event.bytes(), event.format()), (copy.bytes(), format));
        assert_eq!(event.transferred() != (0, 0, 0), descriptors > 0);
    }
    assert!(pair.port2.peek().expect("an open port").is_none());
}

/// Of each length, from a ring that wraps, in a batch as well, whether the peer is trusted or not.
#[test]
fn a_copy_of_the_next_message_is_what_is_received() {
    for is_trusted in [false, true] {
        let sizes = MessageChannel::builder().capacity(4096).limit(8 << 20).build();
        let MessageChannel { port1, port2 } = sizes.expect("a channel");
        if is_trusted {
            // SAFETY: both ends stay in this test.
            unsafe { port2.trust_peer() };
        }
        let lens = [0, 1, 7, 8, 9, 16, 100, 511, 512, 513, 3000, 5000, 70_000, 3 << 20];
        for round in 0..20u8 {
            for len in lens {
                port1.post_bytes(&vec![round; len]).expect("room");
            }
            let has_batch = round % 2 == 1;
            if has_batch {
                assert_eq!(port2.try_iter().take(4).count(), 4);
            }
            for len in lens.into_iter().skip(if has_batch { 4 } else { 0 }) {
                assert_eq!(peek(&port2).len(), len);
                let copy = port2.peek_message().expect("an open port").expect("a message");
                assert_eq!(copy.bytes(), vec![round; len]);
                assert_eq!(receive(&port2).bytes(), copy.bytes());
            }
        }
    }
}

#[test]
fn a_look_works_while_events_are_delivered() {
    let (pair, log) = (channel(), Log::new());
    let inner = log.clone();
    pair.port2.on_message(move |event| {
        let next = event.port().peek_message().expect("an open port");
        inner.note(next.map_or("none".to_owned(), |next| next.text().expect("text").to_owned()));
    });
    let (mut event_loop, _) = loop_of(pair.port2);
    post_numbers(&pair.port1, 0..3);
    settle(&mut event_loop);
    assert_eq!(log.take(), ["1", "2", "none"]);
}

#[test]
fn a_look_tells_the_end_behind_the_last_message() {
    let pair = channel();
    post_numbers(&pair.port1, 0..1);
    pair.port1.close();
    assert_eq!(peek(&pair.port2).len(), 1);
    discard(&pair.port2);
    for _ in 0..2 {
        let end = pair.port2.peek().expect_err("the end");
        assert!(matches!(end, RecvError::Closed { reason: CloseReason::PeerClosed }));
    }
    assert_eq!(receive_end(&pair.port2), CloseReason::PeerClosed);
    let pair = channel();
    post_numbers(&pair.port1, 0..1);
    pair.port2.close();
    assert_eq!(peek(&pair.port2).len(), 1, "what is in the queue can be received");
    discard(&pair.port2);
    assert!(pair.port2.peek_message().is_err());
}

#[test]
fn a_look_at_what_no_program_writes_ends_the_port() {
    let pair = channel();
    Region::of(&pair.port2).word(tail(0)).store(u64::MAX, Relaxed);
    let end = pair.port2.peek().expect_err("the end");
    assert!(matches!(end, RecvError::Closed { reason: CloseReason::Corrupt(_) }));
    assert!(pair.port2.is_closed() && pair.port2.post_text("late").is_err());
    drop(pair.port1);
}

/// The peer writes into the message that was looked at: what is received is checked anew.
#[test]
fn a_message_that_changes_after_a_look_is_received_as_it_is_then() {
    let pair = channel();
    pair.port1.post_bytes(&[7; 100]).expect("room");
    let copy = pair.port2.peek_message().expect("an open port").expect("a message");
    let region = Region::of(&pair.port2);
    let place = region.area(0, 16);
    region.word(place).store(0, Relaxed);
    assert_eq!(copy.bytes(), [7; 100], "a copy is private");
    let event = receive(&pair.port2);
    assert_eq!((&event.bytes()[..8], &event.bytes()[8..]), (&[0; 8][..], &[7; 92][..]));
}

#[test]
fn a_look_past_a_pool_and_at_refused_transferables() {
    let pair = channel();
    for port in [&pair.port1, &pair.port2] {
        // SAFETY: both ends stay in this test.
        unsafe { port.trust_peer() };
    }
    let pool = BufferPool::new(&pair.port1, 1, 4096).expect("a pool");
    assert!(pair.port2.peek().expect("an open port").is_none(), "a pool is no message");
    pair.port1.post_message_pooled(&1u8, pool.take().expect("a buffer")).expect("room");
    assert_eq!((peek(&pair.port2).len(), peek(&pair.port2).descriptors()), (1, 0));
    assert!(receive(&pair.port2).take_pooled().is_ok());

    let pair = channel();
    pair.port2.refuse_transfers();
    let file = File::open("/dev/null").expect("a file");
    pair.port1.post_text_with("a file", [file.into()]).expect("room");
    assert_eq!((peek(&pair.port2).len(), peek(&pair.port2).descriptors()), (6, 1));
    let copy = pair.port2.peek_message().expect("an open port").expect("a message");
    assert_eq!(copy.bytes(), [0; 0]);
    assert!(receive(&pair.port2).text().is_err());
}

#[test]
fn a_half_looks_as_its_port_does_and_a_look_stays_behind_a_move() {
    let (pair, way) = (channel(), channel());
    post_numbers(&pair.port1, 0..1);
    assert_eq!(peek(&pair.port2).len(), 1);
    way.port1.post_text_with("a port", [pair.port2.into()]).expect("room");
    let moved = receive(&way.port2).take_port().expect("a port");
    let (_sender, receiver) = moved.split();
    let next = receiver.peek().expect("an open half").expect("a message");
    assert_eq!(next.len(), 1);
    let copy = receiver.peek_message().expect("an open half").expect("a message");
    assert_eq!(copy.text().expect("a text"), "0");
}

#[test]
fn a_copy_without_memory_is_an_error_and_the_message_stays() {
    const TEST: &str = "calls::a_copy_without_memory_is_an_error_and_the_message_stays";
    fn lacks() {
        let sizes = MessageChannel::builder().limit(256 << 20).build();
        let MessageChannel { port1, port2 } = sizes.expect("a channel");
        const LEN: usize = 80 << 20;
        port1.post_bytes(&vec![7; LEN]).expect("room");
        limits::allow_more_address_space(8 << 20);
        let lack = port2.peek_message();
        limits::allow_all_address_space();
        assert!(matches!(lack, Err(RecvError::OutOfMemory { len }) if len == LEN as u64));
        assert_eq!(receive(&port2).bytes().len(), LEN);
    }
    play(TEST, &[("lacks", lacks)]);
}

// The end of a port whose messages are not read.

fn listens(port: &MessagePort, log: &Log) {
    for kind in ["peergone", "close"] {
        let log = log.clone();
        port.add_event_listener(kind, ListenerOptions::new(), move |event| {
            log.note(format!("{kind}: {:?}", event.close_reason().expect("a reason")));
        });
    }
}

/// A loop with a port that is not started and has one message, and its peer.
fn unread() -> (EventLoop, messageport::PortId, MessagePort, Log) {
    let (MessageChannel { port1, port2 }, log) = (channel(), Log::new());
    listens(&port2, &log);
    post_numbers(&port1, 0..1);
    let (mut event_loop, id) = loop_of(port2);
    settle(&mut event_loop);
    (event_loop, id, port1, log)
}

#[test]
fn the_end_behind_unread_messages_wakes_a_loop_once() {
    let (mut event_loop, id, peer, log) = unread();
    let other = thread::spawn(move || {
        thread::sleep(Duration::from_millis(5));
        drop(peer);
    });
    run_until(&mut event_loop, "it is told", || log.len() == 1);
    other.join().expect("no panic");
    settle(&mut event_loop);
    assert!(!event_loop.poll_once(Duration::from_millis(1)).expect("the loop waits"), "once");
    assert_eq!(log.take(), ["peergone: PeerDropped"]);
    event_loop.get(id).expect("the port").start();
    assert_eq!(event_loop.run().expect("the loop waits"), RunEnd::NothingLeft);
    assert_eq!(log.take(), ["close: PeerDropped"]);
}

/// It may have ended before the loop looked for the first time.
#[test]
fn an_end_before_the_port_was_added_is_told() {
    let (MessageChannel { port1, port2 }, log) = (channel(), Log::new());
    listens(&port2, &log);
    post_numbers(&port1, 0..1);
    drop(port1);
    wait_until_closed(&port2);
    let (mut event_loop, id) = loop_of(port2);
    settle(&mut event_loop);
    assert_eq!(log.take(), ["peergone: PeerDropped"]);
    assert_eq!(receive_text(event_loop.get(id).expect("the port")), "0");
    settle(&mut event_loop);
    assert_eq!(log.take(), ["close: PeerDropped"]);
}

/// Nothing hangs up: the loop finds it when it looks at all ports.
#[test]
fn a_peer_that_closes_and_keeps_its_port_is_found() {
    let (mut event_loop, _, peer, log) = unread();
    peer.close();
    run_until(&mut event_loop, "it is told", || log.len() == 1);
    assert_eq!(log.take(), ["peergone: PeerClosed"]);
}

/// The port of a handler of the loop was stopped.
#[test]
fn a_handler_of_the_loop_hears_of_the_end_behind_unread_messages() {
    let (pair, log) = (channel(), Log::new());
    let (mut event_loop, inner) = (crate::new_loop(), log.clone());
    let added = event_loop.add_with(pair.port2, move |event_loop, id, event| {
        inner.note(format!("{event:?}"));
        if let LoopEvent::PeerGone(_) = event {
            event_loop.get(id).expect("the port").start();
        }
    });
    let id = added.expect("room for a port");
    event_loop.get(id).expect("the port").stop();
    post_numbers(&pair.port1, 0..1);
    settle(&mut event_loop);
    pair.port1.close();
    assert_eq!(event_loop.run().expect("the loop waits"), RunEnd::NothingLeft);
    let said = log.take();
    assert_eq!((&said[0], &said[2]), (&"PeerGone(PeerClosed)".into(), &"Close(PeerClosed)".into()));
    assert_eq!(said.len(), 3, "{said:?}");
}

/// It shuts half of its doorbell: whatever that counts as, the loop does not turn for ever.
#[test]
fn a_peer_that_hangs_up_by_half_lets_the_loop_rest() {
    let (mut event_loop, _, peer, log) = unread();
    let half = nix::sys::socket::Shutdown::Write;
    nix::sys::socket::shutdown(peer.as_fd().as_raw_fd(), half).expect("a socket");
    settle(&mut event_loop);
    for _ in 0..3 {
        let mut fds = [PollFd::new(event_loop.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::ZERO), Ok(0));
        assert!(!event_loop.poll_once(Duration::ZERO).expect("the loop waits"));
    }
    assert!(log.len() <= 1);
}

#[test]
fn a_port_that_was_closed_here_tells_no_end_of_its_peer() {
    let (mut event_loop, id, peer, log) = unread();
    event_loop.get(id).expect("the port").close();
    settle(&mut event_loop);
    drop(peer);
    assert_eq!(event_loop.run().expect("the loop waits"), RunEnd::NothingReferenced);
    assert_eq!(log.take(), [""; 0]);
}

#[test]
fn the_death_of_a_peer_with_unread_messages_wakes_an_outer_loop() {
    const TEST: &str = "calls::the_death_of_a_peer_with_unread_messages_wakes_an_outer_loop";
    fn dies() {
        let port = parent_port().expect("a port to the parent");
        post_numbers(&port, 0..1);
        assert_eq!(receive_text(&port), "die");
        die();
    }
    fn watches() {
        let worker = Worker::spawn(command(TEST, "dies")).expect("a worker");
        let (port, _child) = worker.into_parts();
        let log = Log::new();
        listens(&port, &log);
        let (mut event_loop, id) = loop_of(port);
        let fd = event_loop.as_fd().try_clone_to_owned().expect("a descriptor");
        let has_one = |event_loop: &EventLoop| {
            event_loop.get(id).expect("the port").peek().expect("an open port").is_some()
        };
        wait_until("its message is there", || has_one(&event_loop));
        settle(&mut event_loop);
        event_loop.get(id).expect("the port").post_text("die").expect("room");
        let timeout = PollTimeout::try_from(DEADLINE).expect("a short time");
        wait_until("it is told", || {
            let count = poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout);
            assert_eq!(count.expect("the kernel waits"), 1, "the outer loop is woken");
            settle(&mut event_loop);
            log.len() == 1
        });
        assert_eq!(log.take(), ["peergone: PeerDied"]);
    }
    play(TEST, &[("watches", watches), ("dies", dies)]);
}

/// Through the loop's port messages are read by calls; the end behind them wakes the outer loop.
#[test]
fn an_end_behind_messages_that_calls_have_read_wakes_an_outer_loop() {
    let (mut event_loop, id, peer, log) = unread();
    let fd = event_loop.as_fd().try_clone_to_owned().expect("a descriptor");
    settle(&mut event_loop);
    assert_eq!(receive_text(event_loop.get(id).expect("the port")), "0");
    let serve = |event_loop: &mut EventLoop, is_done: &dyn Fn() -> bool| {
        wait_until("the outer loop is done", || {
            let timeout = PollTimeout::try_from(DEADLINE).expect("a short time");
            let count = poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout);
            assert_eq!(count.expect("the kernel waits"), 1, "the outer loop is woken");
            settle(event_loop);
            is_done()
        });
    };
    serve(&mut event_loop, &|| true);
    peer.close();
    serve(&mut event_loop, &|| log.len() == 1);
    assert_eq!(log.take(), ["close: PeerClosed"]);
}

#[test]
fn dispatch_tells_the_end_behind_unread_messages() {
    let (MessageChannel { port1, port2 }, log) = (channel(), Log::new());
    listens(&port2, &log);
    post_numbers(&port1, 0..1);
    assert_eq!(port2.dispatch(8).expect("an open port"), 0);
    drop(port1);
    wait_until_closed(&port2);
    assert_eq!(port2.dispatch(8).expect("an unread message"), 1);
    assert_eq!(port2.dispatch(8).expect("an unread message"), 0);
    assert_eq!(log.take(), ["peergone: PeerDropped"]);
    discard(&port2);
    assert!(port2.dispatch(8).is_err());
    assert_eq!(log.take(), ["close: PeerDropped"]);
}
