//! Clauses C: the channel, its two queues, and its end.

use crate::common::role::{command, play};
use crate::common::{die, receive, receive_end, receive_text, refusal, wait_until};
use crate::{
    Log, between_two_ends, channel, logged, loop_of, new_loop, numbers, post_numbers, run_until,
    settle, text_of, wait_for_posts,
};
use messageport::{
    CloseReason, ListenerOptions, MessageChannel, MessagePort, PostError, Worker, parent_port,
};
use std::sync::Arc;

/// Enough for several turns of a loop, and for the ring to grow.
const MANY: u64 = 2000;

/// Has the far end keep its port until the answer is dropped.
fn hold(port: &MessagePort) -> MessagePort {
    let MessageChannel { port1, port2 } = channel();
    port.post_text_with("stay", [port2.into()]).expect("room");
    port1
}

/// The far end of the tests in which the near one closes: posts, and stays.
fn posts_many_and_stays(port: MessagePort) {
    let held = receive(&port).take_port().expect("a port");
    post_numbers(&port, 0..MANY);
    assert_eq!(receive_end(&port), CloseReason::PeerClosed);
    assert_eq!(receive_end(&held), CloseReason::PeerDropped);
}

/// What `MANY` messages and then an end look like.
fn many_and(end: &str) -> Vec<String> {
    let mut all = numbers(0..MANY);
    all.push(end.to_string());
    all
}

/// The far end of several tests: posts, and is dropped.
fn posts_many_and_goes(port: MessagePort) {
    post_numbers(&port, 0..MANY);
}

fn c01_near(port: MessagePort) {
    assert!(!port.is_started() && !port.is_closed());
    port.post_text("there").expect("room");
    assert_eq!(receive_text(&port), "back");
    assert!(!port.is_started(), "a call starts nothing");
}

fn c01_far(port: MessagePort) {
    assert!(!port.is_started() && !port.is_closed());
    assert_eq!(receive_text(&port), "there");
    port.post_text("back").expect("room");
    assert_eq!(receive_end(&port), CloseReason::PeerDropped);
}

between_two_ends!("channel", c01_a_channel_is_two_entangled_ports, c01_near, c01_far);

/// The web's channel object gives the same port each time. Here each port is a value with one
/// owner, and stays the same end wherever that owner puts it.
fn c02_near(port: MessagePort) {
    for round in ["one", "two"] {
        port.post_text(round).expect("room");
        assert_eq!(receive_text(&port), round);
    }
    let mut boxed = Some(Box::new(port));
    let port = *boxed.take().expect("the port");
    port.post_text("three").expect("room");
    assert_eq!(receive_text(&port), "three");
}

/// Answers until the end.
fn echoes(port: MessagePort) {
    for event in &port {
        port.post_text(event.text().expect("a text")).expect("room");
    }
}

between_two_ends!("channel", c02_each_port_is_one_value, c02_near, echoes);

/// A port is never entangled again: it keeps its peer, whichever processes hold the two.
fn c03_near(port: MessagePort) {
    let MessageChannel { port1, port2 } = channel();
    port.post_text_with("yours", [port2.into()]).expect("room");
    port1.post_text("to the new owner").expect("room");
    assert_eq!(receive_text(&port1), "from the new owner");
    // Both ends in one hand are still each other's.
    let event = receive(&port);
    let port2 = event.take_port().expect("a port");
    port1.post_text("home").expect("room");
    assert_eq!(receive_text(&port2), "home");
    assert!(port.try_recv().expect("an open port").is_none());
}

fn c03_far(port: MessagePort) {
    let moved = receive(&port).take_port().expect("a port");
    assert_eq!(receive_text(&moved), "to the new owner");
    moved.post_text("from the new owner").expect("room");
    port.post_text_with("back", [moved.into()]).expect("room");
    assert_eq!(receive_end(&port), CloseReason::PeerDropped);
}

between_two_ends!("channel", c03_a_port_has_one_peer_wherever_it_is, c03_near, c03_far);

fn c04_near(port: MessagePort) {
    let (port, log) = logged(port);
    wait_for_posts(&port, MANY);
    let (mut event_loop, id) = loop_of(port);
    settle(&mut event_loop);
    assert_eq!(log.take(), [""; 0], "nothing before the start");
    event_loop.get(id).expect("the port").start();
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), many_and("close: PeerDropped"));
}

between_two_ends!(
    "channel",
    c04_messages_wait_in_a_queue_that_is_not_enabled,
    c04_near,
    posts_many_and_goes
);

/// The standard has no way to disable a queue, and neither have we: a message without a listener
/// is lost.
fn c05_near(port: MessagePort) {
    let log = Log::new();
    log.watch_end(&port);
    port.on_message(log.text());
    let (mut event_loop, id) = loop_of(port);
    run_until(&mut event_loop, "the first message came", || log.has("one"));
    let port = event_loop.get(id).expect("the port");
    port.clear_handler("message");
    assert!(port.is_started());
    port.post_text("no listener").expect("room");
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), ["one", "close: PeerDropped"]);
}

fn c05_far(port: MessagePort) {
    port.post_text("one").expect("room");
    assert_eq!(receive_text(&port), "no listener");
    port.post_text("two").expect("room");
    wait_until("the message was taken", || port.backlog().messages == 0);
}

between_two_ends!("channel", c05_an_enabled_queue_stays_enabled, c05_near, c05_far);

fn c06_near(port: MessagePort) {
    let (port, log) = logged(port);
    let _hold = hold(&port);
    wait_for_posts(&port, MANY);
    port.start();
    port.start();
    assert!(port.is_started());
    port.close();
    port.start();
    let (mut event_loop, _) = loop_of(port);
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), numbers(0..MANY));
    let closed = channel().port1;
    closed.close();
    closed.start();
    assert!(closed.is_started() && closed.is_closed());
}

between_two_ends!("channel", c06_start_is_idempotent_and_harmless, c06_near, posts_many_and_stays);

fn c07_near(port: MessagePort) {
    let log = Log::new();
    log.watch_end(&port);
    port.on_message_error(log.says("an error"));
    port.add_event_listener("message", ListenerOptions::new(), log.says("the listener"));
    assert!(!port.is_started());
    wait_for_posts(&port, 1);
    let (mut event_loop, id) = loop_of(port);
    settle(&mut event_loop);
    assert_eq!(log.len(), 0);
    let port = event_loop.get(id).expect("the port");
    port.on_message(log.says("the handler"));
    assert!(port.is_started());
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), ["the listener", "the handler", "close: PeerDropped"]);
}

fn c07_far(port: MessagePort) {
    post_numbers(&port, 0..1);
}

between_two_ends!(
    "channel",
    c07_setting_on_message_starts_the_port_and_adding_a_listener_does_not,
    c07_near,
    c07_far
);

fn c08_near(port: MessagePort) {
    let (port, log) = logged(port);
    wait_for_posts(&port, MANY / 2);
    port.start();
    port.post_text("enabled").expect("room");
    let (mut event_loop, _) = loop_of(port);
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), many_and("close: PeerDropped"));
}

fn c08_far(port: MessagePort) {
    post_numbers(&port, 0..MANY / 2);
    assert_eq!(receive_text(&port), "enabled");
    post_numbers(&port, MANY / 2..MANY);
}

between_two_ends!(
    "channel",
    c08_messages_come_in_the_order_posted_before_and_after_the_start,
    c08_near,
    c08_far
);

/// Each channel keeps its own order. None is promised, or asked for here, across two.
fn c09_near(port: MessagePort) {
    let MessageChannel { port1, port2 } = channel();
    port.post_text_with("a second channel", [port2.into()]).expect("room");
    let ((first, log), (second, other_log)) = (logged(port), logged(port1));
    let mut event_loop = new_loop();
    for port in [first, second] {
        port.start();
        event_loop.add(port).expect("room for a port");
    }
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), many_and("close: PeerDropped"));
    assert_eq!(other_log.take(), many_and("close: PeerDropped"));
}

fn c09_far(port: MessagePort) {
    let second = receive(&port).take_port().expect("a port");
    for number in 0..MANY {
        post_numbers(&port, number..number + 1);
        post_numbers(&second, number..number + 1);
    }
}

between_two_ends!("channel", c09_each_channel_keeps_its_own_order, c09_near, c09_far);

fn c10_near(port: MessagePort) {
    let log = Log::new();
    log.watch_end(&port);
    let inner = log.clone();
    port.on_message(move |event| {
        inner.note(format!("{} begins", text_of(event)));
        event.port().post_text("answer").expect("room");
        inner.note(format!("{} ends", text_of(event)));
    });
    wait_for_posts(&port, 2);
    for _ in 0..100 {
        port.post_text("question").expect("room");
    }
    assert_eq!(log.len(), 0, "no handler runs inside a post");
    let (mut event_loop, _) = loop_of(port);
    run_until(&mut event_loop, "both have come", || log.len() == 4);
    assert_eq!(log.take(), ["0 begins", "0 ends", "1 begins", "1 ends"]);
}

fn c10_far(port: MessagePort) {
    post_numbers(&port, 0..2);
    let words: Vec<String> = port.iter().map(|event| event.text().unwrap().to_string()).collect();
    assert_eq!(words.len(), 102);
    assert!(words[100..].iter().all(|word| word == "answer"));
}

between_two_ends!("channel", c10_no_handler_runs_inside_a_post, c10_near, c10_far);

fn c11_near(port: MessagePort) {
    let (port, log) = logged(port);
    port.start();
    let mut event_loop = new_loop();
    // Two ports of this loop answer each other for ever, and never run dry.
    let MessageChannel { port1, port2 } = channel();
    post_numbers(&port1, 0..200);
    for end in [port1, port2] {
        end.on_message(|event| event.port().post_text("again"));
        event_loop.add(end).expect("room for a port");
    }
    event_loop.add(port).expect("room for a port");
    let worked = Log::new();
    let work = worked.clone();
    event_loop.handle().post(move |_| work.note("work"));
    run_until(&mut event_loop, "the other port has ended", || log.has("close: PeerDropped"));
    assert_eq!(log.take(), many_and("close: PeerDropped"));
    assert_eq!(worked.take(), ["work"]);
}

between_two_ends!(
    "channel",
    c11_a_port_that_never_runs_dry_starves_no_other,
    c11_near,
    posts_many_and_goes
);

fn c12_near(port: MessagePort) {
    let _hold = hold(&port);
    port.post_text("last words").expect("room");
    port.close();
    port.close();
    assert!(port.is_closed());
    assert_eq!(receive_end(&port), CloseReason::Local);
    // What the web marks as detached cannot be moved.
    let carrier = channel();
    let error = carrier.port1.post_text_with("a closed port", [port.into()]).unwrap_err();
    assert!(matches!(error.reason(), PostError::Detached { index: 0 }), "{error:?}");
}

fn c12_far(port: MessagePort) {
    let held = receive(&port).take_port().expect("a port");
    let (port, log) = logged(port);
    port.start();
    let (mut event_loop, _) = loop_of(port);
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), ["last words", "close: PeerClosed"]);
    assert_eq!(receive_end(&held), CloseReason::PeerDropped);
}

between_two_ends!("channel", c12_close_detaches_and_is_idempotent, c12_near, c12_far);

/// A deviation: HTML drops the message silently. Here the post is an error with the reason, and
/// what was to move comes back.
fn c13_near(port: MessagePort) {
    wait_until("the peer is gone", || port.is_closed());
    assert_eq!(refusal(port.post_text("late")), CloseReason::PeerDropped);
    let moving = channel();
    let refused = port.post_text_with("late", [moving.port2.into()]).unwrap_err();
    assert!(matches!(refused.reason(), PostError::Closed { .. }), "{refused:?}");
    let (_, list) = refused.into_parts();
    assert!(list.len() == 1 && !moving.port1.is_closed(), "it came back as it was");
    port.close();
    assert!(matches!(port.post_text("later"), Err(PostError::Closed { .. })));
    let closed = channel();
    closed.port1.close();
    assert_eq!(refusal(closed.port1.post_text("here")), CloseReason::Local);
}

between_two_ends!("channel", c13_a_post_to_a_closed_port_is_an_error, c13_near, drop);

fn c14_near(port: MessagePort) {
    wait_until("the peer has closed", || port.is_closed());
    let (port, log) = logged(port);
    port.start();
    let (mut event_loop, _) = loop_of(port);
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), many_and("close: PeerClosed"));
}

fn c14_far(port: MessagePort) {
    post_numbers(&port, 0..MANY);
    port.close();
}

between_two_ends!(
    "channel",
    c14_what_was_posted_before_the_close_of_the_sender_is_delivered,
    c14_near,
    c14_far
);

/// By the letter of the standard, and as Node does; some browsers drop these messages.
fn c15_near(port: MessagePort) {
    let (port, log) = logged(port);
    let _hold = hold(&port);
    wait_for_posts(&port, MANY);
    port.start();
    port.close();
    let (mut event_loop, _) = loop_of(port);
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), numbers(0..MANY));
}

between_two_ends!(
    "channel",
    c15_what_was_in_the_queue_at_the_own_close_is_delivered,
    c15_near,
    posts_many_and_stays
);

/// The same, with the close inside the handler of the first message.
fn c15_near_inside(port: MessagePort) {
    let log = Log::new();
    log.watch_end(&port);
    let _hold = hold(&port);
    wait_for_posts(&port, MANY);
    let inner = log.clone();
    port.on_message(move |event| {
        event.port().close();
        inner.note(text_of(event));
    });
    let (mut event_loop, _) = loop_of(port);
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), numbers(0..MANY));
}

between_two_ends!(
    "channel",
    c15_a_close_inside_a_handler_leaves_the_queue_to_be_delivered,
    c15_near_inside,
    posts_many_and_stays
);

fn c16_near(port: MessagePort) {
    let (port, log) = logged(port);
    let _hold = hold(&port);
    port.start();
    port.close();
    let (mut event_loop, _) = loop_of(port);
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), [""; 0], "not where it was closed");
}

fn c16_far(port: MessagePort) {
    let held = receive(&port).take_port().expect("a port");
    let (port, log) = logged(port);
    port.start();
    let (mut event_loop, _) = loop_of(port);
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), ["close: PeerClosed"]);
    assert_eq!(receive_end(&held), CloseReason::PeerDropped);
}

between_two_ends!("channel", c16_close_fires_at_the_other_port_only, c16_near, c16_far);

/// The peer ends as well before the loop has looked: that fires nothing here, as the ports were
/// parted by the close.
fn c16_near_late(port: MessagePort) {
    let (port, log) = logged(port);
    let held = hold(&port);
    port.start();
    port.close();
    assert_eq!(receive_text(&held), "gone");
    let (mut event_loop, _) = loop_of(port);
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), [""; 0]);
}

fn c16_far_late(port: MessagePort) {
    let held = receive(&port).take_port().expect("a port");
    assert_eq!(receive_end(&port), CloseReason::PeerClosed);
    drop(port);
    held.post_text("gone").expect("room");
}

between_two_ends!(
    "channel",
    c16_no_close_where_it_was_closed_although_the_peer_ends_as_well,
    c16_near_late,
    c16_far_late
);

/// The same, asked by a call.
#[test]
fn c16_a_port_that_was_closed_here_says_so_whatever_the_peer_does() {
    let MessageChannel { port1, port2 } = channel();
    port1.close();
    drop(port2);
    assert_eq!(receive_end(&port1), CloseReason::Local);
}

fn c17_near(port: MessagePort) {
    let (port, log) = logged(port);
    port.start();
    let (mut event_loop, _) = loop_of(port);
    event_loop.run().expect("the loop waits");
    assert_eq!(log.take(), many_and("close: PeerDropped"));
}

between_two_ends!(
    "channel",
    c17_close_fires_when_the_peer_is_dropped,
    c17_near,
    posts_many_and_goes
);

/// Between processes alone: a thread cannot die without dropping what it has.
#[test]
fn c17_close_fires_when_the_process_of_the_peer_dies() {
    const TEST: &str = "channel::c17_close_fires_when_the_process_of_the_peer_dies";
    fn dies() {
        let port = parent_port().expect("a port to the parent");
        post_numbers(&port, 0..MANY);
        die();
    }
    fn watches() {
        for start_first in [true, false] {
            let worker = Worker::spawn(command(TEST, "dies")).expect("a worker");
            let (port, mut child) = worker.into_parts();
            let (port, log) = logged(port);
            if !start_first {
                child.wait().expect("a child");
            }
            port.start();
            let (mut event_loop, _) = loop_of(port);
            event_loop.run().expect("the loop waits");
            assert_eq!(log.take(), many_and("close: PeerDied"));
            child.wait().expect("a child");
        }
    }
    play(TEST, &[("watches", watches), ("dies", dies)]);
}

fn c18_near(port: MessagePort) {
    let log = Log::new();
    let inner = log.clone();
    port.on_close(move |event| {
        event.prevent_default();
        inner.note(format!("canceled: {}", event.default_prevented()));
        inner.note(format!("trusted: {}", event.is_trusted()));
        inner.note(format!("a message: {}", event.message().is_some()));
        inner.note(format!("an error: {}", event.message_error().is_some()));
        inner.note(format!("{:?}: {:?}", event.kind(), event.close_reason()));
    });
    let (mut event_loop, _) = loop_of(port);
    event_loop.run().expect("the loop waits");
    let expected = [
        "canceled: false",
        "trusted: true",
        "a message: false",
        "an error: false",
        "Close: Some(PeerClosed)",
    ];
    assert_eq!(log.take(), expected);
}

fn c18_far(port: MessagePort) {
    port.close();
}

between_two_ends!("channel", c18_close_is_a_plain_event, c18_near, c18_far);

/// The end of the peer is not lost while a port is under way, however far it goes.
fn c19_near(port: MessagePort) {
    let (closed, dropped) = (channel(), channel());
    let list = [closed.port2.into(), dropped.port2.into()];
    port.post_text_with("two ports", list).expect("room");
    closed.port1.post_text("before").expect("room");
    closed.port1.close();
    drop(dropped.port1);
    port.post_text("both have ended").expect("room");
    // They come back, and the end with them.
    let ports = receive(&port).take_ports().expect("two ports");
    let ends: Vec<_> = ports.into_iter().map(logged).collect();
    let mut event_loop = new_loop();
    let mut logs = Vec::new();
    for (port, log) in ends {
        port.start();
        event_loop.add(port).expect("room for a port");
        logs.push(log);
    }
    event_loop.run().expect("the loop waits");
    assert_eq!(logs[0].take(), ["before", "close: PeerClosed"]);
    assert_eq!(logs[1].take(), ["close: PeerDropped"]);
}

fn c19_far(port: MessagePort) {
    wait_for_posts(&port, 2);
    let ports = receive(&port).take_ports().expect("two ports");
    assert!(ports.iter().all(MessagePort::is_closed));
    let list: Vec<_> = ports.into_iter().map(Into::into).collect();
    port.post_text_with("on they go", list).expect("room");
}

between_two_ends!(
    "channel",
    c19_an_end_during_a_transfer_is_told_to_the_last_receiver,
    c19_near,
    c19_far
);

/// What a garbage collector keeps alive has an owner here: the loop, while the port is open. The
/// listeners alone keep nothing.
fn c20_near(port: MessagePort) {
    let (port, log) = logged(port);
    port.start();
    let (mut event_loop, id) = loop_of(port);
    run_until(&mut event_loop, "the first message came", || log.has("0"));
    event_loop.get(id).expect("the loop has it").post_text("go on").expect("room");
    event_loop.run().expect("the loop waits");
    assert!(event_loop.get(id).is_none());
    assert_eq!(log.take(), ["0", "1", "close: PeerClosed"]);
    let (port, log) = logged(channel().port1);
    port.start();
    drop(port);
    assert_eq!(Arc::strong_count(&log.0), 1, "the listeners are gone");
}

fn c20_far(port: MessagePort) {
    post_numbers(&port, 0..1);
    assert_eq!(receive_text(&port), "go on");
    post_numbers(&port, 1..2);
    port.close();
}

between_two_ends!("channel", c20_a_loop_keeps_an_open_port_alive, c20_near, c20_far);
