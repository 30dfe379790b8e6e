//! What a port does between two threads of one process, or in a single one.

mod common;
#[path = "ports/halves.rs"]
mod halves;
#[path = "ports/lending.rs"]
mod lending;
#[path = "ports/memory.rs"]
mod memory;
#[path = "ports/posting.rs"]
mod posting;
#[path = "ports/serializing.rs"]
mod serializing;
#[path = "ports/short.rs"]
mod short;

use common::{receive, receive_end, receive_text, refusal};
use messageport::{
    Backlog, ChannelError, CloseReason, MessageChannel, MessagePort, PostError, SchemaError,
};

fn channel() -> MessageChannel {
    MessageChannel::new().expect("a channel")
}

/// A channel whose lanes hold seven messages of 500 bytes, and never grow.
fn bounded() -> MessageChannel {
    MessageChannel::builder().capacity(4096).bounded().build().expect("a channel")
}

/// No message is there, and the peer has not left.
#[track_caller]
fn assert_empty(port: &MessagePort) {
    let answer = port.try_recv().expect("an open port");
    assert!(answer.is_none(), "{answer:?}");
}

/// The port posts and the other one receives, in both directions.
#[track_caller]
fn assert_works(port1: &MessagePort, port2: &MessagePort) {
    for (from, to) in [(port1, port2), (port2, port1)] {
        assert_empty(to);
        from.post_text("as ever").expect("room");
        assert_eq!(receive_text(to), "as ever");
        assert_empty(to);
    }
}

// Closing.

#[test]
fn a_close_lets_both_ends_drain_first() {
    let MessageChannel { port1, port2 } = channel();
    port1.post_text("to the peer").expect("room");
    port2.post_text("to the one who closes").expect("room");
    port1.close();
    port1.close();
    assert_eq!(refusal(port1.post_text("late")), CloseReason::Local);
    assert_eq!(refusal(port2.post_text("late")), CloseReason::PeerClosed);
    assert_eq!(receive_text(&port1), "to the one who closes");
    assert_eq!(receive_text(&port2), "to the peer");
    assert_eq!(receive_end(&port1), CloseReason::Local);
    assert_eq!(receive_end(&port2), CloseReason::PeerClosed);
    // A drop adds nothing to a close.
    drop(port1);
    assert_eq!(receive_end(&port2), CloseReason::PeerClosed);
}

#[test]
fn a_closed_port_that_is_dropped_was_closed() {
    let MessageChannel { port1, port2 } = channel();
    port1.post_text("before").expect("room");
    port1.close();
    drop(port1);
    assert_eq!(refusal(port2.post_text("late")), CloseReason::PeerClosed);
    assert_eq!(receive_text(&port2), "before");
    assert_eq!(receive_end(&port2), CloseReason::PeerClosed);
}

#[test]
fn two_ports_that_close_at_once_are_both_closed() {
    let MessageChannel { port1, port2 } = channel();
    port1.post_text("one").expect("room");
    port2.post_text("two").expect("room");
    port1.close();
    port2.close();
    for port in [&port1, &port2] {
        receive(port);
        let reason = receive_end(port);
        assert!(matches!(reason, CloseReason::Local | CloseReason::PeerClosed), "{reason:?}");
        assert!(port.is_closed());
    }
}

#[test]
fn a_port_that_is_not_read_knows_that_it_is_closed() {
    let ends: [fn(MessagePort) -> Option<MessagePort>; 2] = [
        |port| {
            port.close();
            Some(port)
        },
        |port| {
            drop(port);
            None
        },
    ];
    for unread in [0, 3] {
        for end in ends {
            let MessageChannel { port1, port2 } = channel();
            assert!(!port1.is_closed() && !port2.is_closed());
            for _ in 0..unread {
                port1.post_text("unread").expect("room");
            }
            let _kept = end(port1);
            assert!(port2.is_closed());
            let (sender, receiver) = port2.split();
            assert!(sender.is_closed(), "the peer no longer reads");
            assert!(unread > 0 || receiver.is_closed(), "nothing more will come");
            assert_eq!(receiver.iter().count(), unread);
        }
    }
}

#[test]
fn iteration_ends_with_the_port() {
    let MessageChannel { port1, port2 } = channel();
    for number in 0..100u64 {
        port1.post_message(&number).expect("room");
    }
    drop(port1);
    let mut messages = port2.iter();
    for number in 0..100u64 {
        let event = messages.next().expect("a message");
        assert_eq!(event.deserialize::<u64>().expect("a number"), number);
    }
    assert!(messages.next().is_none() && messages.next().is_none());
    assert_eq!((&port2).into_iter().count(), 0);
}

// What a port tells about itself.

#[test]
fn a_schema_is_the_one_that_the_creator_chose() {
    let MessageChannel { port1, port2 } =
        MessageChannel::builder().schema(0xabc).build().expect("a channel");
    for port in [&port1, &port2] {
        assert_eq!(port.schema(), 0xabc);
        assert_eq!(port.require_schema(0xabc), Ok(()));
        assert_eq!(port.require_schema(1), Err(SchemaError { required: 1, found: 0xabc }));
    }
    assert_eq!(channel().port1.schema(), 0);
}

#[test]
fn sizes_are_rounded_up_and_bounded() {
    let sizes = |capacity: usize, limit: usize| {
        let builder = MessageChannel::builder().capacity(capacity).limit(limit);
        builder.build().map(|channel| (channel.port1.capacity(), channel.port2.limit()))
    };
    assert_eq!(sizes(0, 0).expect("a channel"), (4096, 4096));
    assert_eq!(sizes(5000, 20_000).expect("a channel"), (8192, 32_768));
    assert_eq!(sizes(1 << 20, 4096).expect("a channel"), (1 << 20, 1 << 20));
    for (capacity, limit) in [(usize::MAX, 0), (0, usize::MAX), (0, (1 << 32) + 1)] {
        let error = sizes(capacity, limit).expect_err("too large");
        assert!(matches!(error, ChannelError::TooLarge { .. }), "{error}");
    }
    assert_eq!(bounded().port1.max_message_len(), 2048 - 32);
    assert_eq!(channel().port2.max_message_len(), (32 << 20) - 32);
}

#[test]
fn counters_count_what_happened() {
    let MessageChannel { port1, port2 } = bounded();
    for number in 1..=3 {
        port1.post_bytes(&[0; 100][..number * 10]).expect("room");
    }
    receive(&port2);
    let [sent, received] = [port1.stats().sent, port2.stats().received];
    assert_eq!(sent, received, "both see the same lane");
    assert_eq!((sent.messages, sent.bytes, sent.received), (3, 60, 1));
    // The first one took two units of 16 bytes, the others three each.
    assert_eq!((sent.depth, sent.full, sent.growth, sent.wakes), (96, 0, 0, 0));
    while port1.post_bytes(&[0; 500]).is_ok() {}
    assert_eq!(port1.stats().sent.full, 1);
    let back = port1.stats().received;
    assert_eq!((back.messages, back.depth), (0, 0), "the other lane is another one");

    let MessageChannel { port1, port2 } = channel();
    for _ in 0..100 {
        port1.post_bytes(&[0; 10_000]).expect("room");
    }
    assert!(port1.stats().sent.growth > 0, "{:?}", port2.stats().received);
}

#[test]
fn what_is_undelivered_is_counted_to_the_end() {
    let MessageChannel { port1, port2 } = channel();
    assert_eq!(port1.backlog(), Backlog { messages: 0, bytes: 0 });
    for _ in 0..10 {
        port1.post_bytes(&[0; 16]).expect("room");
    }
    assert_eq!(port1.backlog(), Backlog { messages: 10, bytes: 320 });
    receive(&port2);
    assert_eq!(port1.backlog(), Backlog { messages: 9, bytes: 288 });
    let burst = port1.burst();
    burst.stage(&1u32).expect("room");
    assert_eq!(port1.backlog().messages, 9, "what is not committed was not posted");
    drop(burst);
    drop(port2);
    assert_eq!(refusal(port1.post_bytes(&[0; 16])), CloseReason::PeerDropped);
    assert_eq!(port1.backlog().messages, 10);
}

#[test]
fn debug_output_shows_cursors_segments_and_flags() {
    let MessageChannel { port1, port2 } = channel();
    port1.post_bytes(&[0; 100_000]).expect("room");
    let _ = port2.try_recv();
    let text = format!("{port1:?} {port2:?}");
    for word in [
        "pair",
        "side",
        "capacity",
        "limit",
        "position",
        "segment",
        "entered",
        "tail",
        "head",
        "message_sleeper",
        "room_sleeper",
        "reader_gone",
        "messages",
        "growth",
        "trusted",
    ] {
        assert!(text.contains(word), "no {word} in {text}");
    }
    let (sender, receiver) = port1.split();
    let text = format!("{sender:?} {receiver:?}");
    assert!(text.contains("tail") && text.contains("head"), "{text}");
    let error = PostError::QueueFull { len: 5, unread: 6, limit: 7, is_socket: false }.to_string();
    assert!(["5", "6", "7"].iter().all(|number| error.contains(number)), "{error}");
}

#[test]
fn ports_go_to_other_threads_and_back() {
    let MessageChannel { port1, port2 } = channel();
    let thread = std::thread::spawn(move || {
        port2.post_text("from there").expect("room");
        port2
    });
    let port2 = thread.join().expect("no panic");
    assert_eq!(receive_text(&port1), "from there");
    assert_works(&port1, &port2);
}
