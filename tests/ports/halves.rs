//! A port in two halves, each with an end of its own.

use super::{assert_works, bounded, channel};
use crate::common::census::Census;
use crate::common::role::play;
use crate::common::{receive_end, receive_text, refusal};
use messageport::{CloseReason, MessageChannel, MessagePort, PostError, RecvError};
use std::thread;

#[test]
fn f55_a_dropped_sender_half_ends_only_its_own_direction() {
    let MessageChannel { port1, port2 } = channel();
    let (sender, receiver) = port1.split();
    sender.post_text("last").expect("room");
    drop(sender);
    assert_eq!(receive_text(&port2), "last");
    assert_eq!(receive_end(&port2), CloseReason::PeerDropped);
    for _ in 0..3 {
        port2.post_text("the other direction").expect("it is open");
        let event = receiver.recv().expect("a message");
        assert_eq!(event.text().expect("a text"), "the other direction");
    }
    assert!(!port2.is_closed());
    drop(receiver);
    assert_eq!(refusal(port2.post_text("late")), CloseReason::PeerDropped);
}

#[test]
fn f55_a_dropped_receiver_half_ends_only_its_own_direction() {
    let MessageChannel { port1, port2 } = channel();
    let (sender, receiver) = port1.split();
    port2.post_text("never read").expect("room");
    drop(receiver);
    assert_eq!(refusal(port2.post_text("late")), CloseReason::PeerDropped);
    assert_eq!(port2.backlog().messages, 1);
    for _ in 0..3 {
        sender.post_text("the other direction").expect("it is open");
        assert_eq!(receive_text(&port2), "the other direction");
    }
    sender.close();
    drop(sender);
    assert_eq!(receive_end(&port2), CloseReason::PeerClosed);
}

#[test]
fn f55_a_closed_half_ends_only_its_own_direction() {
    let MessageChannel { port1, port2 } = channel();
    let (sender, receiver) = port1.split();
    port2.post_text("queued").expect("room");
    receiver.close();
    assert_eq!(refusal(port2.post_text("late")), CloseReason::PeerClosed);
    assert_eq!(receiver.recv().expect("what was queued").bytes(), b"queued");
    let end = receiver.recv().map(|event| event.format());
    assert!(matches!(end, Err(RecvError::Closed { reason: CloseReason::Local })), "{end:?}");
    sender.post_text("open").expect("the other direction");
    assert_eq!(receive_text(&port2), "open");
    sender.close();
    assert!(sender.is_closed() && receiver.is_closed());
    assert_eq!(refusal(sender.post_text("late")), CloseReason::Local);
    assert_eq!(receive_end(&port2), CloseReason::PeerClosed);
}

#[test]
fn halves_of_one_port_join_again_and_go_on_where_they_were() {
    let MessageChannel { port1, port2 } = channel();
    let mut port = port1;
    for round in 0..10 {
        let (sender, receiver) = port.split();
        let thread = thread::spawn(move || {
            sender.post_text("from a half").expect("room");
            sender
        });
        port2.post_text("to a half").expect("room");
        assert_eq!(receiver.recv().expect("a message").bytes(), b"to a half");
        let sender = thread.join().expect("no panic");
        port = MessagePort::join(sender, receiver).expect("halves of one port");
        assert_eq!(receive_text(&port2), "from a half", "round {round}");
        assert_works(&port, &port2);
    }
}

#[test]
fn f37_halves_of_different_ports_come_back_unharmed() {
    let [one, two] = [channel(), channel()];
    let (sender1, receiver1) = one.port1.split();
    let (sender2, receiver2) = two.port1.split();
    let error = MessagePort::join(sender1, receiver2).expect_err("halves of different ports");
    let (sender1, receiver2) = error.into_halves();
    // The two ends of one pair are different ports as well.
    let (sender3, receiver3) = one.port2.split();
    let error = MessagePort::join(sender3, receiver1).expect_err("the ends of a pair");
    let (sender3, receiver1) = error.into_halves();
    let port1 = MessagePort::join(sender1, receiver1).expect("halves of one port");
    let port2 = MessagePort::join(sender2, receiver2).expect("halves of one port");
    let port3 = MessagePort::join(sender3, receiver3).expect("halves of one port");
    assert_works(&port1, &port3);
    assert_works(&port2, &two.port2);
}

#[test]
fn halves_count_and_refuse_like_the_port() {
    let MessageChannel { port1, port2 } = bounded();
    let (sender, receiver) = port1.split();
    let posted = (0..).find(|_| sender.post_bytes(&[0; 500]).is_err()).expect("a full lane");
    assert!(matches!(sender.post_message(&[0u8; 500]), Err(PostError::QueueFull { .. })));
    assert_eq!(sender.backlog().messages, posted);
    assert_eq!((sender.stats().messages, sender.stats().full), (posted, 2));
    port2.post_text("one").expect("room");
    assert_eq!((receiver.stats().messages, receiver.stats().received), (1, 0));
    assert!(receiver.try_recv().expect("an open port").is_some());
    assert_eq!(receiver.stats().received, 1);
}

#[test]
fn a_pair_takes_five_descriptors_and_gives_them_back() {
    const TEST: &str = "halves::a_pair_takes_five_descriptors_and_gives_them_back";
    fn counts() {
        let before = Census::take();
        let MessageChannel { port1, port2 } = channel();
        let pair = Census::take();
        assert_eq!(pair.descriptors, before.descriptors + 5);
        assert_eq!((pair.memfds, pair.mappings > 0), (before.memfds + 1, true));
        let (sender, receiver) = port1.split();
        pair.wait_for("meanwhile");
        drop(sender);
        drop(port2);
        assert!(Census::take().descriptors > before.descriptors);
        drop(receiver);
        before.wait_for("at the end");
        for _ in 0..100 {
            let MessageChannel { port1, port2 } = channel();
            let canceller = port1.canceller().expect("a canceller");
            port1.post_text("unread").expect("room");
            drop((port2, port1, canceller));
        }
        before.wait_for("at the end");
    }
    play(TEST, &[("counts", counts)]);
}
