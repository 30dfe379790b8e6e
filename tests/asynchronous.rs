//! Ports in async programs: nothing is lost when a future is dropped, on every reactor.
#![cfg(any(feature = "tokio", feature = "async-io"))]

mod common;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;

use common::watchdog::watch;
use futures_util::{SinkExt, StreamExt};
use messageport::{AsyncPort, CloseReason, MessageChannel, MessagePort, PostError, RecvError};

/// Runs a test on every reactor that is compiled in.
fn on_each(test: &str, body: impl AsyncFn()) {
    let _watch = watch(test);
    #[cfg(feature = "tokio")]
    {
        let current = tokio::runtime::Builder::new_current_thread().enable_all().build();
        current.expect("a runtime").block_on(body());
        let mut several = tokio::runtime::Builder::new_multi_thread();
        let several = several.worker_threads(2).enable_all().build();
        several.expect("a runtime").block_on(body());
    }
    #[cfg(feature = "async-io")]
    futures_lite::future::block_on(body());
}

fn into_async(port: MessagePort) -> AsyncPort {
    port.into_async().expect("a reactor")
}

fn is_send<T: Send>(value: T) -> T {
    value
}

#[test]
fn messages_come_and_go() {
    on_each("messages_come_and_go", async || {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let mut port2 = into_async(port2);
        let echo = thread::spawn(move || {
            for event in &port1 {
                port1.post_bytes(event.bytes()).expect("room");
            }
        });
        for number in 0..500u64 {
            is_send(port2.post_message(&number)).await.expect("room");
            let answer = is_send(port2.recv()).await.expect("an answer");
            assert_eq!(answer.bytes(), number.to_le_bytes());
        }
        port2.close();
        drop(port2);
        echo.join().expect("an echo");
    });
}

#[test]
fn a_post_waits_for_room_and_both_halves_hear_one_doorbell() {
    on_each("a_post_waits_for_room_and_both_halves_hear_one_doorbell", async || {
        const COUNT: u64 = 3_000;
        let builder = MessageChannel::builder().capacity(4096).bounded();
        let MessageChannel { port1, port2 } = builder.build().expect("a channel");
        // The other side echoes through lanes that are just as small.
        let echo = thread::spawn(move || {
            for event in &port1 {
                port1.post_bytes_timeout(event.bytes(), common::DEADLINE).expect("room");
            }
        });
        let (mut sender, mut receiver) = into_async(port2).split();
        let sending = async move {
            for number in 0..COUNT {
                let bytes = [number as u8; 300];
                sender.post_bytes(&bytes).await.expect("room, after a while");
            }
            sender
        };
        let receiving = async {
            for number in 0..COUNT {
                let message = receiver.recv().await.expect("an answer");
                assert_eq!(message.bytes(), [number as u8; 300]);
            }
        };
        let (sender, ()) = futures_lite::future::zip(sending, receiving).await;
        drop((sender, receiver));
        echo.join().expect("an echo");
    });
}

#[test]
fn a_recv_that_is_dropped_at_any_poll_loses_no_message() {
    on_each("a_recv_that_is_dropped_at_any_poll_loses_no_message", async || {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let mut port2 = into_async(port2);
        let poster = thread::spawn(move || {
            for number in 0..2_000u64 {
                port1.post_message(&number).expect("room");
                if number % 7 == 0 {
                    thread::yield_now();
                }
            }
        });
        let mut expected = 0u64;
        let mut dropped = 0;
        while expected < 2_000 {
            // Polled once, and dropped wherever it stands.
            let polled = {
                let mut recv = pin!(port2.recv());
                recv.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            };
            let message = match polled {
                Poll::Ready(message) => message,
                Poll::Pending => {
                    dropped += 1;
                    port2.recv().await
                }
            };
            let message = message.expect("a message");
            assert_eq!(message.data::<u64>().expect("a number").to_native(), expected);
            expected += 1;
        }
        poster.join().expect("a poster");
        assert!(dropped < 2_000);
        let end = port2.recv().await;
        let reason = CloseReason::PeerDropped;
        assert!(matches!(end, Err(RecvError::Closed { reason: why }) if why == reason), "{end:?}");
    });
}

#[test]
fn a_post_that_is_dropped_has_posted_nothing() {
    on_each("a_post_that_is_dropped_has_posted_nothing", async || {
        let builder = MessageChannel::builder().capacity(4096).bounded();
        let MessageChannel { port1, port2 } = builder.build().expect("a channel");
        let mut port1 = into_async(port1);
        let mut posted = 0;
        loop {
            let bytes = [posted as u8; 1000];
            let polled = {
                let mut post = pin!(port1.post_bytes(&bytes));
                post.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            };
            match polled {
                Poll::Ready(answer) => answer.expect("room"),
                Poll::Pending => break,
            }
            posted += 1;
        }
        drop(port1);
        let received: Vec<_> = port2.iter().map(|event| event.bytes()[0]).collect();
        assert_eq!(received, (0..posted).map(|number| number as u8).collect::<Vec<_>>());
    });
}

#[test]
fn a_stream_ends_with_the_peer_and_a_sink_flushes_what_it_kept() {
    on_each("a_stream_ends_with_the_peer_and_a_sink_flushes_what_it_kept", async || {
        let builder = MessageChannel::builder().capacity(4096).bounded();
        let MessageChannel { port1, port2 } = builder.build().expect("a channel");
        let (mut port1, mut port2) = (into_async(port1), into_async(port2));
        let sending = async {
            for number in 0..100u8 {
                port1.send(vec![number; 900]).await.expect("room");
            }
            SinkExt::close(&mut port1).await.expect("flushed");
            let late = port1.post_bytes(b"late").await;
            assert!(matches!(late, Err(PostError::Closed { .. })), "{late:?}");
        };
        let receiving = async {
            let mut count = 0u8;
            while let Some(message) = port2.next().await {
                assert_eq!(message.expect("a message").bytes(), [count; 900]);
                count += 1;
            }
            assert_eq!(count, 100);
        };
        futures_lite::future::zip(sending, receiving).await;
        // It can be had back, for calls.
        assert!(matches!(port2.into_inner().try_recv(), Err(RecvError::Closed { .. })));
    });
}

#[test]
fn ports_move_through_it() {
    on_each("ports_move_through_it", async || {
        let carrier = MessageChannel::new().expect("a channel");
        let (mut here, mut there) = (into_async(carrier.port1), into_async(carrier.port2));
        let channel = MessageChannel::new().expect("a channel");
        channel.port1.post_text("before").expect("room");
        here.post_message_with(&1u8, [channel.port2.into()]).expect("room");
        let port = there.recv().await.expect("a message").take_port().expect("a port");
        assert_eq!(
            into_async(port).recv().await.expect("a message").text().expect("text"),
            "before"
        );
    });
}

#[cfg(all(feature = "tokio", not(feature = "async-io")))]
#[test]
fn without_a_runtime_it_is_an_error() {
    let channel = MessageChannel::new().expect("a channel");
    assert!(channel.port1.into_async().is_err());
}
