//! An end that moves: what is in its queues, what its peer does meanwhile, how often it moves.

use crate::common::messages::{Rng, Stream, mix};
use crate::common::watchdog::{progress, watch};
use crate::common::{
    DEADLINE, receive, receive_end, receive_text, refusal, wait_until, wait_until_asleep,
};
use crate::list::trust;
use crate::{assert_entangled, channel, growing, moved, number_of, token};
use messageport::{
    Buffer, CloseReason, MessageChannel, MessagePort, PostError, RecvError, Transferable,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::gettid;
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

// What moves along.

#[test]
fn the_queue_moves_along_with_what_is_unread_in_it() {
    let MessageChannel { port1, port2 } = growing();
    let inner = channel();
    let stream = Stream { seed: 11 };
    // Through segments of every size, with transferables here and there.
    for number in 0..60 {
        stream.post(&port1, number).expect("room");
        if number % 7 == 0 {
            port1.post_message_with(&number, [token(1 + number as u32).into()]).expect("room");
        }
    }
    port1.post_text_with("a port", [inner.port2.into()]).expect("room");
    assert!(port1.stats().sent.growth > 2, "{port1:#?}");
    stream.check(&receive(&port2), 0);
    let mut port2 = moved(port2);
    let check_token = |port: &MessagePort, number: u64| {
        let event = receive(port);
        assert_eq!(*event.data::<u64>().expect("a number"), number);
        assert_eq!(number_of(&event.take_descriptor().expect("a descriptor")), 1 + number as u32);
    };
    check_token(&port2, 0);
    for number in 1..60 {
        stream.check(&receive(&port2), number);
        if number % 7 == 0 {
            check_token(&port2, number);
        }
        if number % 10 == 0 {
            port2 = moved(port2);
        }
    }
    let event = receive(&port2);
    assert_eq!(event.text().expect("a text"), "a port");
    assert_entangled(&inner.port1, &event.take_port().expect("a port"));
    drop(event);
    assert_entangled(&port1, &port2);
}

#[test]
fn the_sending_end_moves_with_its_messages_and_packets_unread() {
    let MessageChannel { port1, port2 } = growing();
    let mut sender = port1;
    let stream = Stream { seed: 12 };
    let mut received = 0u64;
    let take = |number: u64| {
        stream.check(&receive(&port2), number);
        let event = receive(&port2);
        assert_eq!(*event.data::<u64>().expect("a number"), number);
        assert_eq!(number_of(&event.take_descriptor().expect("a descriptor")), 1 + number as u32);
    };
    for number in 0..200 {
        stream.post(&sender, number).expect("room");
        sender.post_message_with(&number, [token(1 + number as u32).into()]).expect("room");
        if number % 20 == 19 {
            sender = moved(sender);
            // Its next owner may have little room before these were read.
            while received < number {
                take(received);
                received += 1;
            }
            sender = moved(sender);
        }
    }
    while received < 200 {
        take(received);
        received += 1;
    }
    assert_entangled(&sender, &port2);
}

#[test]
fn a_sending_end_that_has_moved_grows_the_lane_up_to_its_limit() {
    let MessageChannel { port1, port2 } = growing();
    for _ in 0..3 {
        port1.post_bytes(&[1; 1000]).expect("room");
    }
    let port1 = moved(port1);
    for number in 0..100 {
        port1.post_bytes(&[2; 1000]).unwrap_or_else(|error| panic!("post {number}: {error}"));
    }
    for number in 0..103 {
        assert_eq!(receive(&port2).bytes(), [if number < 3 { 1 } else { 2 }; 1000]);
    }
}

#[test]
fn sizes_schema_and_counters_move_along() {
    let builder = MessageChannel::builder().capacity(8192).limit(1 << 20).schema(77);
    let MessageChannel { port1, port2 } = builder.build().expect("a channel");
    for number in 0..1000u32 {
        port1.post_message(&number).expect("room");
        port2.post_bytes(&[7; 100]).expect("room");
    }
    for number in 0..300u32 {
        assert_eq!(receive(&port2).deserialize::<u32>().expect("a number"), number);
    }
    let (stats, backlog) = (port2.stats(), port2.backlog());
    let port2 = moved(port2);
    assert_eq!((port2.capacity(), port2.limit(), port2.schema()), (8192, 1 << 20, 77));
    assert_eq!((port2.stats(), port2.backlog()), (stats, backlog));
    assert_eq!((stats.received.received, backlog.messages), (300, 1000));
    assert_eq!(receive(&port2).deserialize::<u32>().expect("a number"), 300);
    port2.post_text("one more").expect("room");
    assert_eq!(port1.stats().received.messages, 1001);
    assert_eq!(port2.stats().received.received, 301);
}

#[test]
fn a_full_lane_is_still_full_after_the_move_and_has_room_again_later() {
    let sizes = MessageChannel::builder().capacity(4096).limit(32 << 10);
    let MessageChannel { port1, port2 } = sizes.build().expect("a channel");
    let mut posted = 0u64;
    while port1.post_bytes(&[posted as u8; 700]).is_ok() {
        posted += 1;
    }
    let (port1, port2) = (moved(port1), moved(port2));
    let refused = port1.post_bytes(&[0; 700]).expect_err("a full lane");
    assert!(matches!(refused, PostError::QueueFull { is_socket: false, .. }), "{refused}");
    for number in 0..posted {
        assert_eq!(receive(&port2).bytes(), [number as u8; 700]);
    }
    // All sizes up to the largest have room again, once the receiver has looked.
    for len in [1, 2000, 8000, port1.max_message_len()] {
        wait_until("there is room", || {
            assert!(port2.try_recv().expect("an open port").is_none());
            port1.post_bytes(&vec![5; len]).is_ok()
        });
        assert_eq!(receive(&port2).bytes().len(), len);
    }
}

#[test]
fn f57_what_a_leaked_burst_has_staged_is_published_by_the_move() {
    let MessageChannel { port1, port2 } = channel();
    let burst = port1.burst();
    burst.stage_text("staged").expect("room");
    std::mem::forget(burst);
    assert!(port2.try_recv().expect("an open port").is_none());
    let port1 = moved(port1);
    assert_eq!(receive_text(&port2), "staged");
    assert_entangled(&port1, &port2);
}

#[test]
fn f57_what_a_burst_has_staged_comes_before_a_message_with_transferables() {
    let MessageChannel { port1, port2 } = channel();
    let burst = port1.burst();
    burst.stage_text("first").expect("room");
    port1.post_text_with("second", [token(1).into()]).expect("room");
    burst.stage_text("third").expect("room");
    // Published although the next one is refused.
    let closed = channel();
    closed.port2.close();
    port1.post_text_with("refused", [closed.port2.into()]).expect_err("a closed port");
    assert_eq!(receive_text(&port2), "first");
    let event = receive(&port2);
    assert_eq!(event.text().expect("a text"), "second");
    assert_eq!(number_of(&event.take_descriptor().expect("a descriptor")), 1);
    drop(event);
    assert_eq!(receive_text(&port2), "third");
    burst.commit();
    assert!(port2.try_recv().expect("an open port").is_none());
}

// Hops.

#[test]
fn f13_a_port_moves_twenty_times_through_threads_and_the_stream_goes_on() {
    let MessageChannel { port1, port2 } = growing();
    let stream = Stream { seed: 13 };
    let mut port = port2;
    for hop in 0..20 {
        for number in 30 * hop..30 * (hop + 1) {
            stream.post(&port1, number).expect("room");
        }
        let carrier = channel();
        carrier.port1.post_text_with("yours", [port.into()]).expect("room");
        let thread = thread::spawn(move || {
            let port = receive(&carrier.port2).take_port().expect("a port");
            // Some of them stay for the next owner.
            let from = if hop == 0 { 0 } else { 30 * hop - 10 };
            for number in from..30 * hop + 20 {
                stream.check(&receive(&port), number);
            }
            for number in 3 * hop..3 * hop + 3 {
                port.post_message(&number).expect("room");
            }
            port
        });
        port = thread.join().expect("no panic");
        if hop % 4 == 0 {
            port = MessagePort::from_fd(port.into_fd().expect("an open port")).expect("a port");
        }
    }
    for number in 590..600 {
        stream.check(&receive(&port), number);
    }
    for number in 0..60 {
        assert_eq!(*receive(&port1).data::<u64>().expect("a number"), number);
    }
    assert_entangled(&port1, &port);
}

#[test]
fn f9_both_ends_move_again_and_again_at_once() {
    let _watch = watch("f9_both_ends_move_again_and_again_at_once");
    let MessageChannel { port1, port2 } = growing();
    let body = |seed: u64, number: u64| {
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.resize(8 + (mix(number ^ seed << 32) % 1500) as usize, seed as u8);
        bytes
    };
    let ends = [(port1, 1), (port2, 2)].map(|(mut port, seed)| {
        thread::spawn(move || {
            let mut rng = Rng(seed);
            let (mut posted, mut received) = (0, 0);
            while posted < 1000 || received < 1000 {
                for _ in 0..rng.below(20) {
                    // When the lane is full the other one has to read first, and does.
                    if posted < 1000 && port.post_bytes(&body(seed, posted)).is_ok() {
                        posted += 1;
                    }
                }
                for _ in 0..rng.below(20) {
                    let Some(event) = port.try_recv().expect("an open port") else { break };
                    assert!(*event.bytes() == *body(3 - seed, received), "message {received}");
                    received += 1;
                }
                port = moved(port);
                progress();
            }
            port
        })
    });
    let [port1, port2] = ends.map(|end| end.join().expect("no panic"));
    assert_entangled(&port1, &port2);
}

#[test]
fn f9_both_ends_are_in_flight_at_the_same_time() {
    let carrier = channel();
    let MessageChannel { port1, port2 } = growing();
    port1.post_text("from one").expect("room");
    port2.post_text("from two").expect("room");
    carrier.port1.post_text_with("one", [port1.into()]).expect("room");
    carrier.port2.post_text_with("two", [port2.into()]).expect("room");
    let port1 = receive(&carrier.port2).take_port().expect("a port");
    let port2 = receive(&carrier.port1).take_port().expect("a port");
    assert_eq!(receive_text(&port1), "from two");
    assert_eq!(receive_text(&port2), "from one");
    assert_entangled(&port1, &port2);
}

#[test]
fn f13_a_hundred_ports_within_each_others_queues_arrive() {
    let mut held = channel();
    let outermost = held.port2;
    let mut kept = Vec::new();
    let mut inner = outermost;
    for level in 0..100u32 {
        let next = channel();
        next.port1.post_message_with(&level, [inner.into()]).expect("room");
        kept.push(next.port1);
        inner = next.port2;
    }
    for level in (0..100u32).rev() {
        let next = {
            let event = receive(&inner);
            assert_eq!(*event.data::<u32>().expect("a number"), level);
            event.take_port().expect("a port")
        };
        inner = next;
    }
    held.port2 = inner;
    assert_entangled(&held.port1, &held.port2);
}

// What the peer does meanwhile.

#[test]
fn f8_a_peer_that_sleeps_in_recv_is_woken_by_the_new_owner() {
    for how in ["before", "after", "both"] {
        let MessageChannel { port1, port2 } = channel();
        let (id, known) = mpsc::channel();
        let thread = thread::spawn(move || {
            id.send(gettid()).expect("the test waits");
            assert_eq!(receive_text(&port1), "to a sleeper");
            port1
        });
        let sleeper = known.recv().expect("an id");
        if how != "after" {
            wait_until_asleep(sleeper);
        }
        let port2 = moved(port2);
        if how != "before" {
            wait_until_asleep(sleeper);
        }
        port2.post_text("to a sleeper").expect("room");
        let port1 = thread.join().expect("no panic");
        assert_entangled(&port1, &port2);
    }
}

#[test]
fn f8_a_peer_that_sleeps_for_room_is_woken_by_the_new_owner() {
    let builder = MessageChannel::builder().capacity(4096).limit(8192);
    let MessageChannel { port1, port2 } = builder.build().expect("a channel");
    let mut posted = 0;
    while port1.post_bytes(&[posted; 500]).is_ok() {
        posted += 1;
    }
    let (id, known) = mpsc::channel();
    let thread = thread::spawn(move || {
        id.send(gettid()).expect("the test waits");
        port1.post_bytes_timeout(&[posted; 500], DEADLINE).expect("room, after a while");
        port1
    });
    wait_until_asleep(known.recv().expect("an id"));
    let port2 = moved(port2);
    for number in 0..=posted {
        assert_eq!(receive(&port2).bytes(), [number; 500]);
    }
    assert_entangled(&thread.join().expect("no panic"), &port2);
}

#[test]
fn f8_a_peer_posts_and_grows_while_the_end_moves() {
    let _watch = watch("f8_a_peer_posts_and_grows_while_the_end_moves");
    const MESSAGES: u64 = 1500;
    let MessageChannel { port1, port2 } = growing();
    let stream = Stream { seed: 8 };
    let thread = thread::spawn(move || {
        for number in 0..MESSAGES {
            stream.post(&port1, number).expect("room");
            progress();
        }
        port1
    });
    let mut port = port2;
    let mut number = 0;
    while number < MESSAGES {
        for _ in 0..1 + mix(number) % 30 {
            if number < MESSAGES {
                stream.check(&receive(&port), number);
                number += 1;
            }
        }
        port = moved(port);
    }
    assert_entangled(&thread.join().expect("no panic"), &port);
}

#[test]
fn f8_flags_that_a_former_owner_left_up_cost_nothing() {
    let MessageChannel { port1, port2 } = channel();
    // Watched, as an event loop would, and then moved.
    let _ = port2.as_fd();
    assert!(port2.try_recv().expect("an open port").is_none());
    let port2 = moved(port2);
    port1.post_text("rings without a watcher").expect("room");
    assert_eq!(receive_text(&port2), "rings without a watcher");
    let answer = port2.recv_timeout(Duration::from_millis(1)).map(|event| event.format());
    assert!(matches!(answer, Err(RecvError::Timeout)), "{answer:?}");
    assert_entangled(&port1, &port2);
}

#[test]
fn f43_a_port_that_arrived_tells_by_its_descriptor_of_what_came_before_and_after() {
    let MessageChannel { port1, port2 } = channel();
    port1.post_text("before the move").expect("room");
    let port2 = moved(port2);
    assert_eq!(port2.stats().received.received, 0, "nothing was taken for it");
    let bell = port2.as_fd();
    let event = port2.try_recv().expect("an open port").expect("a text");
    assert_eq!(event.text().expect("a text"), "before the move");
    drop(event);
    assert!(port2.try_recv().expect("an open port").is_none());
    port1.post_text("after the move").expect("room");
    let mut waited = [PollFd::new(bell, PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(DEADLINE).expect("a timeout");
    assert_eq!(poll(&mut waited, timeout), Ok(1));
    assert_eq!(receive_text(&port2), "after the move");
}

#[test]
fn an_end_that_comes_while_the_port_is_in_flight_reaches_its_last_owner() {
    for reason in [CloseReason::PeerClosed, CloseReason::PeerDropped] {
        let (carrier, second) = (channel(), channel());
        let MessageChannel { port1, port2 } = growing();
        carrier.port1.post_text_with("in flight", [port2.into()]).expect("room");
        port1.post_bytes(&[1; 10_000]).expect("room");
        let _kept = match reason {
            CloseReason::PeerClosed => {
                port1.close();
                Some(port1)
            }
            _ => {
                drop(port1);
                None
            }
        };
        let port = receive(&carrier.port2).take_port().expect("a port");
        second.port1.post_text_with("once more", [port.into()]).expect("room");
        let port = receive(&second.port2).take_port().expect("a port");
        assert_eq!(refusal(port.post_text("never read")), reason);
        assert_eq!(receive(&port).bytes(), [1; 10_000]);
        assert_eq!(receive_end(&port), reason);
        // An owner that has seen the end passes the port on.
        let port = moved(port);
        assert_eq!(receive_end(&port), reason);
        assert!(port.is_closed());
    }
}

#[test]
fn the_last_owner_closes_and_the_peer_hears_of_that_alone() {
    let MessageChannel { port1, port2 } = channel();
    let port2 = moved(moved(port2));
    assert!(!port1.is_closed(), "a move is no end");
    port2.post_text("last words").expect("room");
    port2.close();
    assert_eq!(receive_text(&port1), "last words");
    assert_eq!(receive_end(&port1), CloseReason::PeerClosed);
}

// Trust.

/// The port that comes out of a carrier, with trust in either given or not.
fn carried(carrier_is_trusted: bool, port_is_trusted: bool) -> (MessagePort, MessagePort) {
    let carrier = channel();
    if carrier_is_trusted {
        trust(&carrier.port2);
    }
    let MessageChannel { port1, port2 } = channel();
    if port_is_trusted {
        trust(&port2);
    }
    carrier.port1.post_text_with("a port", [port2.into()]).expect("room");
    let port2 = receive(&carrier.port2).take_port().expect("a port");
    (port1, port2)
}

#[test]
fn f46_trust_moves_over_a_trusted_carrier_only() {
    for (carrier, port) in [(false, false), (false, true), (true, false), (true, true)] {
        let (port1, port2) = carried(carrier, port);
        assert_eq!(port2.is_trusted(), carrier && port, "carrier {carrier}, port {port}");
        assert_entangled(&port1, &port2);
    }
    let port = channel().port1;
    trust(&port);
    let port = MessagePort::from_fd(port.into_fd().expect("an open port")).expect("a port");
    assert!(!port.is_trusted(), "any holder of the descriptor could have written that");
}

#[test]
fn f46_a_trusted_stream_goes_on_in_place_after_the_move() {
    let (port1, port2) = carried(true, true);
    trust(&port1);
    let stream = Stream { seed: 46 };
    let inner = channel();
    port1.post_text_with("with a port", [inner.port2.into()]).expect("room");
    for number in 0..200 {
        stream.post(&port1, number).expect("room");
    }
    let held = receive(&port2);
    let events: Vec<_> = (0..200).map(|_| receive(&port2)).collect();
    for (event, number) in events.iter().zip(0..) {
        stream.check(event, number);
    }
    assert_entangled(&inner.port1, &held.take_port().expect("a port"));
    drop((events, held));
    wait_until("all is released", || port1.backlog().messages == 0);
}

#[test]
fn a_message_that_was_leaked_in_place_is_released_by_the_move() {
    let MessageChannel { port1, port2 } = growing();
    trust(&port2);
    port1.post_bytes(&[1; 1000]).expect("room");
    std::mem::forget(receive(&port2));
    assert!(port1.backlog().bytes > 1000, "it may be in use for ever");
    let port2 = moved(port2);
    assert_eq!(port1.backlog().bytes, 0, "no more, as its port is gone");
    assert_entangled(&port1, &port2);
}

#[test]
fn a_buffer_and_a_port_of_a_halved_port_move_with_its_sender_half() {
    let MessageChannel { port1, port2 } = channel();
    let (sender, receiver) = port1.split();
    let inner = channel();
    let list: Vec<Transferable> =
        vec![inner.port2.into(), Buffer::from_slice(b"bytes").expect("a buffer").into()];
    sender.post_message_with(&1u8, list).expect("room");
    let event = receive(&port2);
    assert_entangled(&inner.port1, &event.take_port().expect("a port"));
    assert_eq!(&*event.take_buffer().expect("a buffer"), b"bytes");
    port2.post_text_with("back", [token(2).into()]).expect("room");
    let event = receiver.recv_timeout(DEADLINE).expect("a message");
    assert_eq!(number_of(&event.take_descriptor().expect("a descriptor")), 2);
}
