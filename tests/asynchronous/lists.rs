//! Transfer lists and pooled buffers wait for room, and come back with an error.

use std::fs::File;
use std::time::Duration;

use crate::common::parts::{ATTACHMENTS, Parts};
use crate::{into_async, on_each};
use futures_lite::future::{poll_once, zip};
use messageport::{
    Buffer, BufferPool, CloseReason, MessageChannel, MessagePort, PostError, RecvError,
    Transferable,
};
use nix::sys::socket::{setsockopt, sockopt};

fn small() -> MessageChannel {
    MessageChannel::builder().capacity(4096).bounded().build().expect("a channel")
}

fn token() -> Transferable {
    File::open("/dev/null").expect("a file").into()
}

#[test]
fn a_list_waits_for_room_and_arrives() {
    on_each("lists::a_list_waits_for_room_and_arrives", async || {
        let (carrier, carried) = (small(), MessageChannel::new().expect("a channel"));
        let mut port1 = into_async(carrier.port1);
        while poll_once(port1.post_bytes(&[1; 700])).await.is_some() {}
        let posting = async {
            let list = [carried.port1.into(), token()];
            port1.post_message_with(&[2u8; 700], list).await.expect("room, after a while");
            port1.post_bytes_with(&[3; 7], [token()]).await.expect("room, after a while");
            port1.post_text_with("four", [token()]).await.expect("room, after a while");
            drop(port1);
        };
        let taking = async {
            let mut port2 = into_async(carrier.port2);
            let mut others = Vec::new();
            loop {
                match port2.recv().await {
                    Ok(message) if message.bytes() == [1; 700] => {}
                    Ok(message) => others.push(message),
                    Err(end) => break (others, end),
                }
            }
        };
        let ((), (others, end)) = zip(posting, taking).await;
        assert!(matches!(end, RecvError::Closed { reason: CloseReason::PeerDropped }), "{end}");
        let moved: Vec<_> = others.iter().map(|message| message.transferred()).collect();
        assert_eq!(moved, [(1, 0, 1), (0, 0, 1), (0, 0, 1)]);
        others[0].take_port().expect("a port").post_text("moved").expect("room");
        assert_eq!(crate::common::receive_text(&carried.port2), "moved");
        assert_eq!(others[2].text().expect("a text"), "four");
    });
}

/// The ring has room, and the socket that carries the descriptors has none.
#[test]
fn a_list_waits_for_the_socket_that_carries_it() {
    on_each("lists::a_list_waits_for_the_socket_that_carries_it", async || {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let parts = Parts::of(port1);
        setsockopt(&parts.descriptors[ATTACHMENTS], sockopt::SndBuf, &4096).expect("an option");
        let mut port1 = into_async(parts.into_port().expect("a port"));
        let full = loop {
            if let Err(error) = port1.as_sender().post_text_with("one", [token()]) {
                break error;
            }
        };
        assert!(matches!(full.reason(), PostError::QueueFull { is_socket: true, .. }), "{full}");
        let mut port2 = into_async(port2);
        for _ in 0..50 {
            let posting = async {
                let list = [token()];
                port1.post_text_with("more", list).await.expect("room, after a while");
            };
            // One is taken at a time, after the other future has begun to wait.
            let taking = async { drop(port2.recv().await.expect("a message")) };
            zip(posting, taking).await;
        }
    });
}

#[test]
fn a_list_comes_back_with_an_error_and_is_closed_with_a_dropped_future() {
    const TEST: &str = "lists::a_list_comes_back_with_an_error_and_is_closed_with_a_dropped_future";
    on_each(TEST, async || {
        let (carrier, carried) = (small(), MessageChannel::new().expect("a channel"));
        let mut port1 = into_async(carrier.port1);
        let own = carrier.port2;
        let error = port1.post_text_with("a loop", [own.into()]).await.expect_err("a loop");
        assert!(matches!(error.reason(), PostError::TransferLoop { index: 0 }), "{error}");
        let Some(Transferable::Port(port2)) = error.into_list().pop() else { panic!("no port") };

        while poll_once(port1.post_bytes(&[1; 700])).await.is_some() {}
        {
            let [dropped, other] = [carried.port1, carried.port2];
            let list = [dropped.into()];
            assert!(poll_once(port1.post_bytes_with(&[2; 700], list)).await.is_none());
            let end = crate::common::receive_end(&other);
            assert_eq!(end, CloseReason::PeerDropped);
        }
        let closing = async { drop(port2) };
        let posting = async {
            let error = port1.post_bytes_with(&[2; 700], [token()]).await.expect_err("the end");
            let reason = CloseReason::PeerDropped;
            let is_end =
                |it: &PostError| matches!(it, PostError::Closed { reason: it } if *it == reason);
            assert!(is_end(error.reason()), "{error}");
            assert_eq!(error.into_list().len(), 1);
        };
        zip(posting, closing).await;
    });
}

fn trusted() -> (MessagePort, MessagePort) {
    let MessageChannel { port1, port2 } = small();
    // SAFETY: both ends are this test's.
    unsafe { port1.trust_peer() };
    // SAFETY: as above.
    unsafe { port2.trust_peer() };
    (port1, port2)
}

#[test]
fn a_pooled_buffer_waits_for_room_and_comes_back_with_an_error() {
    on_each("lists::a_pooled_buffer_waits_for_room_and_comes_back_with_an_error", async || {
        let ((port1, port2), (other, _peer)) = (trusted(), trusted());
        let (mut port1, mut port2) = (into_async(port1), into_async(port2));
        let pool = BufferPool::for_sender(port1.as_sender(), 2, 100).expect("a pool");
        let foreign = BufferPool::for_untrusted(&other, 1, 100).expect("a pool");
        let passed = BufferPool::new(&other, 1, 100).expect("a pool");
        let mut buffer = pool.take().expect("a buffer");
        buffer[..5].copy_from_slice(b"image");
        while poll_once(port1.post_bytes(&[1; 700])).await.is_some() {}
        let posting = async {
            port1.post_message_pooled(&[2u8; 700], buffer).await.expect("room, after a while");
        };
        let taking = async {
            loop {
                let message = port2.recv().await.expect("a message");
                if message.bytes() != [1; 700] {
                    break message.take_pooled().expect("a buffer");
                }
            }
        };
        let ((), arrived) = zip(posting, taking).await;
        assert_eq!((&arrived[..5], pool.in_use()), (&b"image"[..], 1));
        drop(arrived);
        assert_eq!(pool.take_timeout(Duration::ZERO).map(|it| it.len()).ok(), Some(100));

        let buffer = passed.take().expect("a buffer");
        port1.post_message_pooled(&1u8, buffer).await.expect("it is passed on");
        let arrived = port2.recv().await.expect("a message").take_pooled().expect("a buffer");
        assert_eq!((arrived.len(), passed.in_use()), (100, 1));
        drop(arrived);
        assert_eq!(passed.in_use(), 0);
        let buffer = foreign.take().expect("a buffer");
        let (reason, back) =
            port1.post_message_pooled(&1u8, buffer).await.expect_err("a frame").into_parts();
        assert!(matches!(reason, PostError::ForeignPool), "{reason}");
        assert_eq!((back.len(), foreign.in_use()), (100, 1));
        drop(port2);
        let buffer = pool.take().expect("a buffer");
        let error = port1.post_message_pooled(&1u8, buffer).await.expect_err("the end");
        assert!(matches!(error.reason(), PostError::Closed { .. }), "{error}");
        drop(error.into_buffer());
        assert_eq!(pool.in_use(), 0);
    });
}

#[test]
fn small_buffers_arrive_with_messages_of_every_length() {
    on_each("lists::small_buffers_arrive_with_messages_of_every_length", async || {
        let plain = MessageChannel::new().expect("a channel");
        for (port1, port2) in [(plain.port1, plain.port2), trusted()] {
            let (mut port1, mut port2) = (into_async(port1), into_async(port2));
            for len in [0, 1, 8, 9, 16, 500, 1_000] {
                let list = [3, 0, 400].map(|len| Buffer::from_slice(&vec![7; len]));
                let list = list.map(|buffer| buffer.expect("memory").into());
                port1.post_bytes_with(&vec![9; len], list).await.expect("room");
                let message = port2.recv().await.expect("a message");
                assert_eq!(message.bytes(), vec![9; len]);
                let lens = message.take_buffers().expect("three");
                assert_eq!(lens.iter().map(|buffer| buffer.len()).collect::<Vec<_>>(), [3, 0, 400]);
                assert!(lens.iter().all(|buffer| buffer.iter().all(|byte| *byte == 7)));
            }
        }
    });
}
