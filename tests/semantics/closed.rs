//! Ports that have ended and are still in a loop: closed before their start, or through and taken.

use crate::common::ends::between_two_ends;
use crate::common::region::{self, Region};
use crate::common::watchdog::watch;
use crate::common::{receive, receive_end, receive_text, wait_until};
use crate::{Log, channel, end_of, logged, loop_of, new_loop, numbers, post_numbers, settle};
use messageport::{
    CloseReason, EventLoop, ListenerOptions, MessageChannel, MessagePort, PostError, TypedPort,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

const MANY: u64 = 100;

// C15: closed here before the start.

/// By the letter `close` leaves the queue alone, and `start` enables it without a look at who was
/// closed.
fn c15_near(port: MessagePort) {
    let held = receive(&port).take_port().expect("a port");
    wait_until("all was posted", || port.stats().received.messages >= MANY + 2);
    let (port, log) = logged(port);
    let (mut event_loop, id) = loop_of(port);
    for _ in 0..3 {
        settle(&mut event_loop);
        event_loop.get(id).expect("it stays").close();
    }
    settle(&mut event_loop);
    assert_eq!(log.take(), [""; 0]);
    assert!(!held.is_closed(), "what moved with a message waits with it");
    let taken = held.try_recv().expect("an open port").is_some();
    assert!(!taken);
    event_loop.get(id).expect("it stays").start();
    event_loop.run().expect("the loop has no port left");
    assert_eq!(log.take(), [numbers(0..MANY), vec!["a port".into()]].concat());
    assert_eq!(event_loop.ids().count(), 0);
    assert_eq!(receive_end(&held), CloseReason::PeerDied, "closed with the event that it came by");
}

fn c15_far(port: MessagePort) {
    let (held, moving) = (channel(), channel());
    // The near end has the other end of what moves.
    port.post_text_with("held", [moving.port1.into()]).expect("room");
    post_numbers(&port, 0..MANY);
    port.post_text_with("a port", [moving.port2.into()]).expect("room");
    assert_eq!(receive_end(&port), CloseReason::PeerClosed);
    drop(held);
}

between_two_ends!(
    "closed",
    c15_a_port_that_was_closed_before_its_start_is_delivered_once_it_is_started,
    c15_near,
    c15_far
);

/// A port with messages in its queue that was closed and not started, in a loop.
fn closed_unstarted() -> (EventLoop, messageport::PortId, Log, MessagePort) {
    let pair = channel();
    let (port, log) = logged(pair.port2);
    post_numbers(&pair.port1, 0..3);
    let (mut event_loop, id) = loop_of(port);
    settle(&mut event_loop);
    event_loop.get(id).expect("the port").close();
    (event_loop, id, log, pair.port1)
}

/// Nothing can come to it any more, and only the program can start it: `run` does not wait for
/// that.
#[test]
fn c15_run_does_not_wait_for_a_port_that_was_closed_before_its_start() {
    let _watch = watch("c15_run_does_not_wait_for_a_port_that_was_closed_before_its_start");
    let (mut event_loop, id, log, peer) = closed_unstarted();
    for _ in 0..3 {
        event_loop.run().expect("nothing to wait for");
        assert!(!event_loop.poll_once(Duration::MAX).expect("nothing to wait for"));
    }
    assert_eq!(receive_end(&peer), CloseReason::PeerClosed);
    assert_eq!(event_loop.ids().collect::<Vec<_>>(), [id], "it can still be started");
    event_loop.get(id).expect("the port").start();
    event_loop.run().expect("the loop waits");
    assert_eq!((log.take(), event_loop.ids().count()), (numbers(0..3), 0));
}

#[test]
fn c15_a_handler_closes_an_unstarted_port_and_another_one_starts_it() {
    let (pair, waiting) = (channel(), channel());
    let mut event_loop = new_loop();
    let (port, log) = logged(waiting.port2);
    let id = event_loop.add(port).expect("room for a port");
    post_numbers(&waiting.port1, 0..3);
    pair.port2.on_message(move |event| {
        let port = event.loop_port(id).expect("it stays");
        if port.is_closed() { port.start() } else { port.close() }
    });
    event_loop.add(pair.port2).expect("room for a port");
    post_numbers(&pair.port1, 0..1);
    settle(&mut event_loop);
    assert_eq!((log.take(), event_loop.ids().count()), (vec![], 2));
    post_numbers(&pair.port1, 1..2);
    settle(&mut event_loop);
    assert_eq!((log.take(), event_loop.ids().count()), (numbers(0..3), 1));
}

#[test]
fn c15_a_closed_port_that_is_read_by_calls_leaves_the_loop_when_its_queue_is_empty() {
    let (mut event_loop, id, log, _peer) = closed_unstarted();
    for number in numbers(0..3) {
        settle(&mut event_loop);
        assert_eq!(receive_text(event_loop.get(id).expect("it stays")), number);
    }
    event_loop.run().expect("the loop has no port left");
    assert_eq!((log.take(), event_loop.ids().count()), (vec![], 0));
}

#[test]
fn c15_a_closed_port_lets_a_nested_loop_rest_until_it_is_started() {
    let is_readable = |event_loop: &EventLoop| {
        let mut waited_for = [PollFd::new(event_loop.as_fd(), PollFlags::POLLIN)];
        poll(&mut waited_for, PollTimeout::ZERO).expect("the kernel looks") == 1
    };
    let (mut event_loop, id, log, peer) = closed_unstarted();
    for _ in 0..3 {
        settle(&mut event_loop);
        assert!(!is_readable(&event_loop));
    }
    drop(peer);
    settle(&mut event_loop);
    assert!(!is_readable(&event_loop), "its hang-up is no news");
    event_loop.get(id).expect("it stays").start();
    while is_readable(&event_loop) {
        event_loop.poll_once(Duration::ZERO).expect("the loop waits");
    }
    assert_eq!((log.take(), event_loop.ids().count()), (numbers(0..3), 0));
}

#[test]
fn c15_a_typed_port_that_was_closed_before_its_start_is_delivered_as_its_type() {
    let MessageChannel { port1, port2 } = channel();
    port1.post_message(&7u32).expect("room");
    port1.post_text("no number").expect("room");
    let (port2, log): (TypedPort<u32, u32>, _) = (port2.typed(), Log::new());
    let inner = log.clone();
    port2.port().add_event_listener("message", ListenerOptions::new(), move |event| {
        let number = *event.message().expect("a message").data::<u32>().expect("a number");
        inner.note(format!("{number}"));
    });
    port2.port().on_message_error({
        let log = log.clone();
        move |_| log.note("messageerror")
    });
    let mut event_loop = new_loop();
    let id = event_loop.add(port2).expect("room for a port");
    event_loop.get(id).expect("the port").close();
    settle(&mut event_loop);
    event_loop.get(id).expect("it stays").start();
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), ["7", "messageerror"]);
}

// How a port ended, and who may have it then.

#[test]
fn c17_close_fires_when_the_peer_breaks_the_protocol() {
    for is_started in [true, false] {
        let MessageChannel { port1, port2 } = channel();
        let (region, log) = (Region::of(&port1), Log::new());
        let inner = log.clone();
        port2.on_close(move |event| {
            let is_corrupt = matches!(event.close_reason(), Some(CloseReason::Corrupt(_)));
            inner.note(format!("corrupt: {is_corrupt}"));
        });
        if is_started {
            port2.start();
        }
        // More is committed than there is room for.
        region.word(region::tail(0)).store(1 << 40, SeqCst);
        let mut event_loop = new_loop();
        event_loop.add(port2).expect("room for a port");
        event_loop.run().expect("the loop waits");
        assert_eq!(log.take(), ["corrupt: true"], "started: {is_started}");
    }
}

/// It can be moved by what its `close` defers, and says its end again to its next owner.
#[test]
fn a_port_that_has_ended_is_taken_by_what_its_close_has_deferred() {
    for order in ["started", "unstarted"] {
        let (pair, way, log) = (channel(), channel(), Log::new());
        let inner = log.clone();
        let (mut event_loop, id) = loop_of(pair.port2);
        let carrier = std::sync::Arc::new(std::sync::Mutex::new(way.port1));
        event_loop.get(id).expect("the port").on_close(move |event| {
            inner.note(end_of(event));
            let (id, carrier) = (event.port_id().expect("a loop"), carrier.clone());
            let inner = inner.clone();
            event.defer(move |event_loop| {
                let port = event_loop.take(id).expect("it is there until now");
                let carrier = carrier.lock().expect("no thread panicked while holding it");
                carrier.post_text_with("ended", [port.into()]).expect("it moves");
                inner.note(format!("left: {}", event_loop.get(id).is_none()));
            });
        });
        if order == "started" {
            event_loop.get(id).expect("the port").start();
        }
        drop(pair.port1);
        event_loop.run().expect("the loop has no port left");
        assert_eq!(log.take(), ["close: PeerDropped", "left: true"]);
        let moved = receive(&way.port2).take_port().expect("a port");
        assert_eq!(receive_end(&moved), CloseReason::PeerDropped, "{order}");
        let refused = moved.post_text("after the end").expect_err("it has ended");
        assert!(matches!(refused, PostError::Closed { reason: CloseReason::PeerDropped }));
    }
}

/// The loop that an action runs inside another turn does not wait for a port that has ended.
#[test]
fn what_a_close_has_deferred_may_run_the_loop() {
    let _watch = watch("what_a_close_has_deferred_may_run_the_loop");
    let (pair, log) = (channel(), Log::new());
    let (mut event_loop, id) = loop_of(pair.port2);
    let inner = log.clone();
    event_loop.get(id).expect("the port").on_close(move |event| {
        let inner = inner.clone();
        event.defer(move |event_loop| {
            event_loop.run().expect("nothing to wait for");
            inner.note("the inner run has ended");
        });
    });
    drop(pair.port1);
    event_loop.run().expect("the loop has no port left");
    assert_eq!(log.take(), ["the inner run has ended"]);
    assert!(event_loop.get(id).is_none());
}
