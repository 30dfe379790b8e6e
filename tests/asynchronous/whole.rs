//! An async port has what a port has, and its sink and its posts keep their order.

use crate::common::role::{command, play};
use crate::{into_async, on_each};
use futures_lite::future::{poll_once, zip};
use futures_util::{AsyncBufReadExt, SinkExt, StreamExt, TryStreamExt};
use messageport::{CloseReason, MessageChannel, MessageError, PostError, RecvError, Worker};

#[test]
fn an_async_port_has_what_a_port_has() {
    on_each("whole::an_async_port_has_what_a_port_has", async || {
        let builder = MessageChannel::builder().capacity(4096).limit(1 << 20).schema(7);
        let MessageChannel { port1, port2 } = builder.build().expect("a channel");
        let (limit, largest) = (port1.limit(), port1.max_message_len());
        let mut port1 = into_async(port1);
        assert_eq!(
            (port1.capacity(), port1.limit(), port1.max_message_len()),
            (4096, limit, largest)
        );
        assert_eq!((port1.schema(), port1.peer_credentials().is_none()), (7, true));
        assert_eq!(port1.require_schema(8).expect_err("another one").found, 7);
        port1.require_schema(7).expect("the same");

        port1.post_text("text").await.expect("room");
        let mut loan = port1.loan(3).await.expect("room");
        loan.copy_from_slice(b"abc");
        loan.post().expect("an open port");
        let burst = port1.burst();
        burst.stage(&1u8).expect("room");
        burst.stage_text("two").expect("room");
        burst.commit();
        port1.wait_for_room(100).await.expect("room");
        port1.as_sender().post_bytes(b"at once").expect("room");
        assert_eq!((port1.backlog().messages, port1.stats().sent.messages), (5, 5));
        let received: Vec<_> = port2.try_iter().map(|event| event.bytes().to_vec()).collect();
        assert_eq!(received, [&b"text"[..], b"abc", &[1], b"two", b"at once"]);

        assert!(port1.try_recv().expect("an open port").is_none());
        assert!(!port1.discard_next().expect("an open port"));
        ["unwanted", "wanted"].iter().for_each(|text| port2.post_text(text).expect("room"));
        assert_eq!(port1.peek().expect("an open port").expect("a message").len(), 8);
        let copy = port1.peek_message().expect("an open port").expect("a message");
        assert_eq!(copy.text().expect("a text"), "unwanted");
        assert!(port1.discard_next().expect("an open port"));
        let message = port1.try_recv().expect("an open port").expect("a message");
        assert_eq!(message.text().expect("a text"), "wanted");
        assert_eq!(port1.stats().received.messages, 2);
        assert!(port1.trim().is_ok());

        assert!(!port1.refuses_transfers());
        port1.refuse_transfers();
        assert!(port1.refuses_transfers());
        let file = std::fs::File::open("/dev/null").expect("a file");
        port2.post_text_with("a file", [file.into()]).expect("room");
        let refused = port1.recv().await.expect("a message").text().map(str::to_owned);
        assert!(matches!(refused, Err(MessageError::TransfersRefused { .. })), "{refused:?}");

        assert!(!port1.is_trusted());
        // SAFETY: both ends are this test's.
        unsafe { port1.trust_peer() };
        assert!(port1.is_trusted() && !port1.is_closed());
        drop(port2);
        assert!(port1.is_closed());
        let end = port1.try_recv().expect_err("the end");
        assert!(matches!(end, RecvError::Closed { reason: CloseReason::PeerDropped }), "{end}");
    });
}

/// What is longer than a part is copied whole by a call that does not wait.
#[test]
fn a_long_message_is_there_at_once_for_a_call_that_does_not_wait() {
    on_each("whole::a_long_message_is_there_at_once_for_a_call_that_does_not_wait", async || {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        port1.post_bytes(&vec![7; 5 << 20]).expect("room");
        let mut port2 = into_async(port2);
        let message = port2.try_recv().expect("an open port").expect("a message");
        assert!(message.bytes() == vec![7; 5 << 20]);
        assert!(port2.try_recv().expect("an open port").is_none());
        port1.post_text("after").expect("room");
        assert_eq!(port2.recv().await.expect("a message").text().expect("a text"), "after");
    });
}

#[test]
fn a_loan_waits_for_room_and_a_burst_says_that_there_is_none() {
    on_each("whole::a_loan_waits_for_room_and_a_burst_says_that_there_is_none", async || {
        let builder = MessageChannel::builder().capacity(4096).bounded();
        let MessageChannel { port1, port2 } = builder.build().expect("a channel");
        let mut port1 = into_async(port1);
        let full = loop {
            let burst = port1.burst();
            if let Err(error) = burst.stage_bytes(&[1; 700]) {
                break error;
            }
        };
        assert!(matches!(full, PostError::QueueFull { .. }), "{full}");
        assert!(poll_once(port1.loan(700)).await.is_none(), "there is no room");
        assert!(poll_once(port1.wait_for_room(700)).await.is_none(), "there is no room");
        let taking = async {
            // After the other future has begun to wait.
            (0..3).for_each(|_| assert_eq!(port2.recv().expect("a message").bytes(), [1; 700]));
        };
        let lending = async {
            let mut loan = port1.loan(700).await.expect("room, after a while");
            loan.fill(2);
            loan.post().expect("an open port");
        };
        zip(lending, taking).await;
        let last = port2.try_iter().last().map(|event| event.bytes().to_vec());
        assert_eq!(last.expect("a message"), [2; 700]);

        let too_large = port1.loan(1 << 20).await.map(drop);
        assert!(matches!(too_large, Err(PostError::TooLarge { .. })), "{too_large:?}");
        drop(port2);
        let closed = port1.loan(1).await.map(drop);
        assert!(matches!(closed, Err(PostError::Closed { .. })), "{closed:?}");
    });
}

#[test]
fn a_post_comes_after_what_the_sink_has_kept() {
    on_each("whole::a_post_comes_after_what_the_sink_has_kept", async || {
        let builder = MessageChannel::builder().capacity(4096).bounded();
        let MessageChannel { port1, port2 } = builder.build().expect("a channel");
        let mut port1 = into_async(port1);
        let mut fed = 0u8;
        while poll_once(port1.feed(vec![fed; 700])).await.is_some() {
            fed += 1;
        }
        // The last one is kept. There is room for the short one, but not before it.
        assert!(poll_once(port1.post_text("behind")).await.is_none());
        let posting = async {
            port1.post_text("behind").await.expect("room, after a while");
            drop(port1);
        };
        let taking = async {
            let mut port2 = into_async(port2);
            for number in 0..fed {
                let message = port2.recv().await.expect("a message");
                assert_eq!(message.bytes(), [number; 700]);
            }
            let last = port2.recv().await.expect("a message");
            assert_eq!(last.text().expect("a text"), "behind");
            assert!(port2.next().await.is_none() && port2.next().await.is_none());
        };
        zip(posting, taking).await;
    });
}

#[test]
fn a_stream_of_messages_is_read_as_bytes() {
    on_each("whole::a_stream_of_messages_is_read_as_bytes", async || {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let parts = [&b"one\ntw"[..], b"", b"o\n", b"three"];
        parts.iter().for_each(|part| port1.post_bytes(part).expect("room"));
        drop(port1);
        let mut port2 = into_async(port2);
        let bytes = (&mut port2).map_err(std::io::Error::from).into_async_read();
        let lines: Vec<_> = bytes.lines().map(|line| line.expect("open")).collect().await;
        assert_eq!(lines, ["one", "two", "three"]);
        let end = port2.recv().await.expect_err("the end");
        assert!(matches!(end, RecvError::Closed { reason: CloseReason::PeerDropped }), "{end}");
    });
}

#[test]
fn the_halves_close_alone_and_make_a_port_again() {
    on_each("whole::the_halves_close_alone_and_make_a_port_again", async || {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let (mut sender, mut receiver) = into_async(port1).split();
        sender.close();
        assert!(sender.is_closed() && !receiver.is_closed());
        assert!(matches!(sender.post_text("late").await, Err(PostError::Closed { .. })));
        port2.post_text("still").expect("room");
        assert_eq!(receiver.recv().await.expect("a message").text().expect("a text"), "still");
        receiver.close();
        assert!(receiver.is_closed());
        let end = receiver.recv().await.expect_err("the end");
        assert!(matches!(end, RecvError::Closed { reason: CloseReason::Local }), "{end}");
        let port1 = messageport::MessagePort::join(sender.into_inner(), receiver.into_inner());
        assert!(port1.expect("halves of one port").is_closed());
    });
}

/// Each call that waits ends when the peer is killed.
#[test]
fn calls_that_wait_end_with_a_peer_that_is_killed() {
    const TEST: &str = "whole::calls_that_wait_end_with_a_peer_that_is_killed";
    fn lingers() {
        let port = messageport::parent_port().expect("a port to the parent");
        port.post_text("here").expect("room");
        loop {
            std::thread::park();
        }
    }
    fn waits() {
        on_each(TEST, async || {
            let builder = MessageChannel::builder().capacity(4096).bounded();
            let worker = Worker::spawn_with(command(TEST, "lingers"), builder).expect("a worker");
            let (port, mut process) = worker.split();
            let (mut sender, mut receiver) = into_async(port).split();
            assert_eq!(receiver.recv().await.expect("a message").text().expect("text"), "here");
            while poll_once(sender.post_bytes(&[1; 700])).await.is_some() {}
            let posting = async {
                let end = sender.post_bytes(&[1; 700]).await.expect_err("the end");
                let lending = sender.loan(700).await.map(drop).expect_err("the end");
                let waiting = sender.wait_for_room(1).await.expect_err("the end");
                for end in [end, lending, waiting] {
                    let reason = CloseReason::PeerDied;
                    assert!(
                        matches!(end, PostError::Closed { reason: it } if it == reason),
                        "{end}"
                    );
                }
            };
            let receiving = async {
                let end = receiver.recv().await.expect_err("the end");
                let reason = CloseReason::PeerDied;
                assert!(matches!(end, RecvError::Closed { reason: it } if it == reason), "{end}");
            };
            let killing = async { process.kill().expect("a child of our own") };
            zip(zip(posting, receiving), killing).await;
            process.wait_async().await.expect("a child of our own");
        });
    }
    play(TEST, &[("waits", waits), ("lingers", lingers)]);
}
