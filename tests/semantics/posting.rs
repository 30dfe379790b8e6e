//! Clauses P: posting, and what moves with a message. `tests/transfer/` and `tests/ports/` go
//! deeper; here is each clause by its name, between two threads and between two processes. What the
//! compiler forbids (P1, P3, P4, P9) stands beside `MessagePort::post_message_with`.

use crate::common::{DEADLINE, receive, receive_end, receive_text, wait_until};
use crate::{Log, between_two_ends, channel, loop_of};
use messageport::rkyv::rancor::{Fallible, Source, fail};
use messageport::{
    Buffer, CloseReason, MessageChannel, MessageError, MessagePort, PostError, TransferError,
    Transferable, rkyv,
};
use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// Archives as nothing; does something when it is serialised, and may refuse.
struct Acts<F>(F);

impl<F> rkyv::Archive for Acts<F> {
    type Archived = ();
    type Resolver = ();

    fn resolve(&self, (): (), _: rkyv::Place<()>) {}
}

impl<S: Fallible + ?Sized, F: Fn() -> bool> rkyv::Serialize<S> for Acts<F>
where
    S::Error: Source,
{
    fn serialize(&self, _: &mut S) -> Result<(), S::Error> {
        if (self.0)() { Ok(()) } else { fail!(Refused) }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the value does not want to")]
struct Refused;

/// The far end of the tests in which something is refused: only what comes afterwards arrives.
fn hears_the_next_one_only(port: MessagePort) {
    assert_eq!(receive_text(&port), "the next one");
    assert_eq!(receive_end(&port), CloseReason::PeerDropped);
}

fn next_one(port: &MessagePort) {
    port.post_text("the next one").expect("room");
}

/// The only thing in a list that came back, which is a port.
fn only_port(error: TransferError) -> MessagePort {
    let mut list = error.into_list();
    match (list.pop(), list.len()) {
        (Some(Transferable::Port(port)), 0) => port,
        other => panic!("expected a port: {other:?}"),
    }
}

fn taken(port: &MessagePort) -> MessagePort {
    receive(port).take_port().expect("a port")
}

/// Both ends still talk to each other.
#[track_caller]
fn assert_entangled(one: &MessagePort, other: &MessagePort) {
    for (from, to) in [(one, other), (other, one)] {
        from.post_text("as ever").expect("room");
        assert_eq!(receive_text(to), "as ever");
    }
}

/// A deviation: on the web the message and all that moves with it are lost. Here it is an error,
/// and all comes back.
fn p02_near(port: MessagePort) {
    let MessageChannel { port1, port2 } = channel();
    // Also when it has been elsewhere since.
    port.post_text_with("there and back", [port2.into()]).expect("room");
    let port2 = taken(&port);
    let refused = port1.post_text_with("a loop", [port2.into()]).expect_err("a loop");
    assert!(matches!(refused.reason(), PostError::TransferLoop { index: 0 }), "{refused}");
    assert_entangled(&port1, &only_port(refused));
}

/// Sends a port back.
fn returns(port: MessagePort) {
    let moved = taken(&port);
    port.post_text_with("back", [moved.into()]).expect("room");
    assert_eq!(receive_end(&port), CloseReason::PeerDropped);
}

between_two_ends!("posting", p02_the_other_end_in_the_list_is_an_error, p02_near, returns);

/// The shape of the list comes first, then the value, and then what has been closed meanwhile. The
/// value is serialised before the socket or the ring is touched: it finds the carrier busy.
fn p06_near(port: MessagePort) {
    let (pair, looped) = (channel(), channel());
    let calls = Cell::new(0);
    let value = Acts(|| {
        calls.set(calls.get() + 1);
        assert!(matches!(port.post_text("inside"), Err(PostError::Busy)));
        true
    });
    let list: [Transferable; 1] = [looped.port2.into()];
    let loop_value = Acts(|| panic!("the list was looked at before"));
    let refused = looped.port1.post_message_with(&loop_value, list).expect_err("a loop");
    assert!(matches!(refused.reason(), PostError::TransferLoop { .. }), "{refused}");
    pair.port2.close();
    let refused = port.post_message_with(&value, [pair.port2.into()]).expect_err("closed");
    assert!(matches!(refused.reason(), PostError::Detached { .. }), "{refused}");
    assert_eq!(calls.get(), 1, "the value was serialised before that was seen");
    next_one(&port);
}

between_two_ends!(
    "posting",
    p06_the_list_then_the_value_then_what_is_detached,
    p06_near,
    hears_the_next_one_only
);

fn p07_near(port: MessagePort) {
    let (open, closed) = (channel(), channel());
    closed.port2.close();
    let list: [Transferable; 2] = [open.port2.into(), closed.port2.into()];
    let refused = port.post_text_with("one of them is closed", list).expect_err("closed");
    assert!(matches!(refused.reason(), PostError::Detached { index: 1 }), "{refused}");
    next_one(&port);
}

between_two_ends!(
    "posting",
    p07_a_detached_port_in_the_list_is_an_error,
    p07_near,
    hears_the_next_one_only
);

/// What stands before the one that is refused has not moved either.
fn p08_near(port: MessagePort) {
    let (pair, closed) = (channel(), channel());
    closed.port2.close();
    let list: [Transferable; 2] = [pair.port2.into(), closed.port2.into()];
    let refused = port.post_text_with("closed", list).expect_err("closed");
    let Some(Transferable::Port(back)) = refused.into_list().into_iter().next() else {
        panic!("a port was first")
    };
    assert_entangled(&pair.port1, &back);
    let value = Acts(|| false);
    let refused = port.post_message_with(&value, [back.into()]).expect_err("it refuses");
    assert!(matches!(refused.reason(), PostError::Serialize(_)), "{refused}");
    let back = only_port(refused);
    assert_entangled(&pair.port1, &back);
    port.post_text_with("now it moves", [back.into()]).expect("room");
    pair.port1.post_text("are you there?").expect("room");
    assert_eq!(receive_text(&pair.port1), "I am");
}

fn p08_far(port: MessagePort) {
    let event = receive(&port);
    assert_eq!(event.text().expect("a text"), "now it moves");
    let moved = event.take_port().expect("a port");
    assert_eq!(receive_text(&moved), "are you there?");
    moved.post_text("I am").expect("room");
    assert_eq!(receive_end(&moved), CloseReason::PeerDropped);
}

between_two_ends!("posting", p08_after_an_error_nothing_has_moved, p08_near, p08_far);

/// A deviation: the web detaches buffers although their message goes nowhere. Here they come back.
fn p10_near(port: MessagePort) {
    wait_until("the peer is gone", || port.is_closed());
    let buffer = Buffer::from_slice(b"kept").expect("a buffer");
    let refused = port.post_text_with("late", [buffer.into()]).expect_err("the peer has gone");
    assert!(matches!(refused.reason(), PostError::Closed { .. }), "{refused}");
    let Some(Transferable::Buffer(mut buffer)) = refused.into_list().pop() else {
        panic!("it was a buffer")
    };
    buffer.bytes_mut().expect("it is not even sealed")[0] = b'K';
    assert_eq!(&*buffer, b"Kept");
}

between_two_ends!("posting", p10_what_goes_nowhere_comes_back, p10_near, drop);

/// Started here, not started there; what came before the move and what comes after it is in order.
fn p11_near(port: MessagePort) {
    let MessageChannel { port1, port2 } = channel();
    port2.start();
    (0..100u32).for_each(|number| port1.post_message(&number).expect("room"));
    port.post_text_with("take it", [port2.into()]).expect("room");
    (100..200u32).for_each(|number| port1.post_message(&number).expect("room"));
    assert_eq!(receive_text(&port1), "all of them");
}

fn p11_far(port: MessagePort) {
    let moved = taken(&port);
    assert!(!moved.is_started());
    for number in 0..200 {
        assert_eq!(*receive(&moved).data::<u32>().expect("a number"), number);
    }
    moved.post_text("all of them").expect("room");
    assert_eq!(receive_end(&moved), CloseReason::PeerDropped);
}

between_two_ends!("posting", p11_the_queue_moves_along_disabled, p11_near, p11_far);

const HOPS: u32 = 20;

/// Both ends of a channel move back and forth all the time, and are posted to all the time.
fn p12_near(port: MessagePort) {
    let MessageChannel { mut port1, mut port2 } = channel();
    for hop in 0..HOPS {
        let number = 2 * hop;
        port1.post_message(&number).expect("room");
        port2.post_message(&number).expect("room");
        let both = [port1.into(), port2.into()];
        port.post_text_with("on they go", both).expect("room");
        let mut ports = receive(&port).take_ports().expect("two ports");
        port2 = ports.pop().expect("the second");
        port1 = ports.pop().expect("the first");
    }
    drop(port);
    for number in 0..2 * HOPS {
        assert_eq!(*receive(&port2).data::<u32>().expect("a number"), number);
        assert_eq!(*receive(&port1).data::<u32>().expect("a number"), number);
    }
    assert!(port1.try_recv().expect("an open port").is_none());
}

fn p12_far(port: MessagePort) {
    for hop in 0..HOPS {
        let ports = receive(&port).take_ports().expect("two ports");
        let number = 2 * hop + 1;
        ports.iter().for_each(|port| port.post_message(&number).expect("room"));
        let both: Vec<_> = ports.into_iter().map(Transferable::from).collect();
        port.post_text_with("and back", both).expect("room");
    }
    assert_eq!(receive_end(&port), CloseReason::PeerDropped);
}

between_two_ends!("posting", p12_any_number_of_hops_keeps_all_in_order, p12_near, p12_far);

fn p13_near(port: MessagePort) {
    let pairs = [(); 5].map(|()| channel());
    let (kept, list): (Vec<_>, Vec<Transferable>) =
        pairs.into_iter().map(|pair| (pair.port1, pair.port2.into())).unzip();
    port.post_text_with("five", list).expect("room");
    port.post_text("none").expect("room");
    for (kept, number) in kept.iter().zip(0u32..) {
        assert_eq!(*receive(kept).data::<u32>().expect("a number"), number);
    }
}

fn p13_far(port: MessagePort) {
    let five = receive(&port);
    let ports = five.take_ports().expect("five ports");
    assert_eq!(ports.len(), 5);
    for (port, number) in ports.iter().zip(0u32..) {
        port.post_message(&number).expect("room");
    }
    let none = receive(&port);
    assert!(none.take_ports().expect("none").is_empty());
    assert!(matches!(none.take_port(), Err(MessageError::NothingLeft { .. })));
    assert_eq!(receive_end(&port), CloseReason::PeerDropped);
}

between_two_ends!("posting", p13_ports_come_in_the_order_of_the_list, p13_near, p13_far);

/// The message says nothing of what moves with it.
fn p14_near(port: MessagePort) {
    let pair = channel();
    port.post_message_with(&7u64, [pair.port2.into()]).expect("room");
    assert_eq!(receive_text(&pair.port1), "here");
}

fn p14_far(port: MessagePort) {
    let event = receive(&port);
    assert_eq!(*event.data::<u64>().expect("a number"), 7);
    event.take_port().expect("a port").post_text("here").expect("room");
    assert_eq!(receive_end(&port), CloseReason::PeerDropped);
}

between_two_ends!("posting", p14_what_moves_need_not_stand_in_the_message, p14_near, p14_far);

fn p15_near(port: MessagePort) {
    let log = Log::new();
    log.watch_end(&port);
    let inner = log.clone();
    port.on_message(move |event| {
        event.prevent_default();
        inner.note(format!("{:?}, canceled: {}", event.kind(), event.default_prevented()));
        inner.note(format!("trusted: {}", event.is_trusted()));
        inner.note(event.message().expect("a message").text().expect("a text"));
        inner.note(format!("{:?}", (event.message_error().is_some(), event.close_reason())));
        event.port().post_text("its port is this one").expect("room");
    });
    let (mut event_loop, _) = loop_of(port);
    event_loop.run().expect("the loop waits");
    let expected = [
        "Message, canceled: false",
        "trusted: true",
        "data",
        "(false, None)",
        "close: PeerDropped",
    ];
    assert_eq!(log.take(), expected);
}

fn p15_far(port: MessagePort) {
    port.post_text("data").expect("room");
    assert_eq!(receive_text(&port), "its port is this one");
}

between_two_ends!("posting", p15_a_message_is_a_trusted_plain_event, p15_near, p15_far);

/// The handlers of messages see none that is no `String`; what moved with it ends; later messages
/// go on.
fn p16_near(port: MessagePort) {
    let log = Log::new();
    log.watch_end(&port);
    let [message, error] = [log.clone(), log.clone()];
    port.on_message(move |event| {
        let words = event.message().expect("a message").data::<String>().expect("a string");
        message.note(words.as_str());
    });
    port.on_message_error(move |event| {
        assert!(event.message_error().is_some() && event.message().is_none());
        error.note(format!("messageerror, trusted: {}", event.is_trusted()));
    });
    let (mut event_loop, _) = loop_of(port.typed::<String, ()>().into());
    event_loop.run().expect("the loop waits");
    let wrong = "messageerror, trusted: true";
    assert_eq!(log.take(), ["one", wrong, wrong, wrong, "two", "close: PeerDropped"]);
}

fn p16_far(port: MessagePort) {
    let moved = channel();
    port.post_message(&"one".to_string()).expect("room");
    port.post_text_with("posted as text", [moved.port2.into()]).expect("room");
    port.post_bytes(&[0; 8]).expect("room");
    port.post_message(&0u8).expect("room");
    port.post_message(&"two".to_string()).expect("room");
    assert_eq!(receive_end(&moved.port1), CloseReason::PeerDied);
}

between_two_ends!("posting", p16_what_cannot_be_read_is_a_message_error, p16_near, p16_far);

/// What has no archive does not compile; a value may refuse all the same.
fn p18_near(port: MessagePort) {
    let refused = port.post_message(&Acts(|| false)).expect_err("it refuses");
    assert!(matches!(refused, PostError::Serialize(_)), "{refused}");
    let first: &dyn std::error::Error = &refused;
    let mut chain = std::iter::successors(Some(first), |error| error.source());
    assert!(chain.any(|error| error.to_string().contains("does not want to")), "{refused:?}");
    next_one(&port);
}

between_two_ends!(
    "posting",
    p18_the_own_error_of_a_value_passes_and_nothing_is_sent,
    p18_near,
    hears_the_next_one_only
);

/// The port itself cannot stand in its list; its other end can, and is looked for before the value
/// is asked.
fn p19_near(port: MessagePort) {
    let MessageChannel { port1, port2 } = channel();
    let value = Acts(|| panic!("the value is not serialised"));
    let refused = port1.post_message_with(&value, [port2.into()]).expect_err("a loop");
    assert!(matches!(refused.reason(), PostError::TransferLoop { .. }), "{refused}");
    next_one(&port);
}

between_two_ends!(
    "posting",
    p19_a_list_that_cannot_be_is_refused_before_the_value_is_serialised,
    p19_near,
    hears_the_next_one_only
);

fn p20_near(port: MessagePort) {
    let mut value = vec![1u32, 2, 3];
    let mut text = "as it was".to_string();
    port.post_message(&value).expect("room");
    port.post_text(&text).expect("room");
    value.fill(0);
    text.replace_range(.., "as it is");
    port.post_message(&value).expect("room");
    port.post_text(&text).expect("room");
}

fn p20_far(port: MessagePort) {
    wait_until("all was posted", || port.stats().received.messages == 4);
    assert_eq!(receive(&port).deserialize::<Vec<u32>>().expect("numbers"), [1, 2, 3]);
    assert_eq!(receive_text(&port), "as it was");
    assert_eq!(receive(&port).deserialize::<Vec<u32>>().expect("numbers"), [0, 0, 0]);
    assert_eq!(receive_text(&port), "as it is");
}

between_two_ends!("posting", p20_the_clone_is_taken_at_the_call, p20_near, p20_far);

/// The sender blocks right after its post, in nothing of this crate's, until the message is there.
fn p21_near(port: MessagePort) {
    let (mut ours, theirs) = UnixStream::pair().expect("two sockets");
    ours.set_read_timeout(Some(DEADLINE)).expect("a socket has one");
    let theirs = std::os::fd::OwnedFd::from(theirs);
    port.post_text_with("answer there", [theirs.into()]).expect("room");
    for number in 0..100u8 {
        port.post_message(&number).expect("room");
        let mut answer = [0];
        ours.read_exact(&mut answer).expect("the message has come");
        assert_eq!(answer, [number]);
    }
}

fn p21_far(port: MessagePort) {
    let theirs = receive(&port).take_descriptor().expect("a socket");
    let mut theirs = UnixStream::from(theirs);
    for number in 0..100u8 {
        assert_eq!(*receive(&port).data::<u8>().expect("a number"), number);
        theirs.write_all(&[number]).expect("there is a reader");
    }
}

between_two_ends!("posting", p21_a_post_happens_at_once, p21_near, p21_far);
