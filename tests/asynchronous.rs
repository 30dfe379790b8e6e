//! Ports in async programs: nothing is lost when a future is dropped, on every reactor.
#![cfg(any(feature = "tokio", feature = "async-io"))]
#![allow(unsafe_code)]

#[path = "asynchronous/children.rs"]
mod children;
mod common;
#[path = "asynchronous/doorbell.rs"]
mod doorbell;
#[path = "common/filter.rs"]
mod filter;
#[path = "asynchronous/gone.rs"]
mod gone;
#[path = "asynchronous/lacks.rs"]
mod lacks;
#[path = "asynchronous/lists.rs"]
mod lists;
#[path = "asynchronous/lost.rs"]
mod lost;
#[path = "asynchronous/meeting.rs"]
mod meeting;
#[path = "asynchronous/members.rs"]
mod members;
#[path = "asynchronous/memory.rs"]
mod memory;
#[path = "asynchronous/services.rs"]
mod services;
#[path = "asynchronous/typed.rs"]
mod typed;
#[path = "asynchronous/whole.rs"]
mod whole;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use common::messages::{Rng, stop_and_go};
use common::reactors::on_each;
use common::role::{command, play};
use common::wanted;
use common::watchdog::progress;
use futures_util::{SinkExt, StreamExt};
use messageport::{
    AsyncPort, Buffer, CloseReason, Message, MessageChannel, MessagePort, PostError, RecvError,
    Transferable, Worker, parent_port,
};
use nix::sys::eventfd::EventFd;

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
fn a_port_that_no_reactor_takes_comes_back() {
    on_each("a_port_that_no_reactor_takes_comes_back", async || {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        #[cfg(feature = "tokio")]
        let runtime = tokio::runtime::Handle::try_current().ok();
        let attempt = thread::spawn(move || {
            #[cfg(feature = "tokio")]
            let _inside = runtime.as_ref().map(|runtime| runtime.enter());
            // Each half needs a duplicate of the doorbell's descriptor.
            let duplicates = filter::When::Equals(1, libc::F_DUPFD_CLOEXEC as u32);
            filter::answer(libc::SYS_fcntl, duplicates, libc::EMFILE).expect("a filter");
            port2.into_async().expect_err("no descriptor is left")
        });
        let refused = attempt.join().expect("no panic");
        assert!(refused.to_string().contains("RLIMIT_NOFILE"), "{refused}");
        port1.post_text("as before").expect("room");
        assert_eq!(common::receive_text(&refused.into_inner()), "as before");
    });
}

/// Each descriptor beside a message, and each 4 KiB of it, count as a message.
#[test]
fn a_task_lets_others_have_their_turn_after_few_costly_messages() {
    on_each("a_task_lets_others_have_their_turn_after_few_costly_messages", async || {
        const MESSAGES: usize = 60;
        let in_a_row = async |post: fn(&MessagePort)| {
            let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
            (0..MESSAGES).for_each(|_| post(&port1));
            let (mut receiving, received) = (into_async(port2), Cell::new(0));
            let all = async {
                for _ in 0..MESSAGES {
                    receiving.recv().await.expect("a message");
                    received.set(received.get() + 1);
                }
            };
            futures_lite::future::zip(all, async { received.get() }).await.1
        };
        let plain = in_a_row(|port| port.post_text("plain").expect("room")).await;
        assert_eq!(plain, MESSAGES, "as many are one share");
        let buffers = in_a_row(|port| {
            let buffer = || Buffer::from_slice(b"x").expect("a buffer");
            let list: Vec<Transferable> = (0..8).map(|_| buffer().into()).collect();
            port.post_text_with("buffers", list).expect("room");
        });
        let buffers = buffers.await;
        assert!(buffers <= 10, "{buffers} messages with 8 descriptors each");
        let long = in_a_row(|port| port.post_bytes(&[7; 64 << 10]).expect("room")).await;
        assert!(long <= 5, "{long} messages of 64 KiB each");
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

/// Posts numbers at random instants, from a thread of its own.
fn numbers(count: u64) -> (AsyncPort, thread::JoinHandle<()>) {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let poster = thread::spawn(move || stop_and_go(&port1, count));
    (into_async(port2), poster)
}

fn number_of(message: &Message) -> u64 {
    message.deserialize().expect("a number")
}

/// No future lives for longer than one poll; the task sleeps on what the dropped one left behind.
#[test]
fn a_recv_that_is_dropped_after_each_poll_loses_nothing_and_is_woken() {
    on_each("a_recv_that_is_dropped_after_each_poll_loses_nothing_and_is_woken", async || {
        const COUNT: u64 = 20_000;
        let (mut port, poster) = numbers(COUNT);
        let mut pending = 0;
        for number in 0..COUNT {
            let message = poll_fn(|context| {
                let polled = pin!(port.recv()).poll(context);
                pending += u64::from(polled.is_pending());
                polled
            });
            assert_eq!(number_of(&message.await.expect("a message")), number);
        }
        assert!(pending > 0, "nothing was dropped while it waited");
        poster.join().expect("a poster");
        assert!(matches!(port.recv().await, Err(RecvError::Closed { .. })));
    });
}

/// A future is polled some times, each time that it is woken and at other times, and then dropped.
#[test]
fn a_recv_that_is_dropped_at_its_nth_poll_loses_nothing() {
    on_each("a_recv_that_is_dropped_at_its_nth_poll_loses_nothing", async || {
        const COUNT: u64 = 20_000;
        let (mut port, poster) = numbers(COUNT);
        let mut rng = Rng(7);
        let mut number = 0;
        while number < COUNT {
            let most = rng.below(4);
            let patience = async {
                for _ in 0..most {
                    futures_lite::future::yield_now().await;
                }
                None
            };
            let recv = async { Some(port.recv().await) };
            if let Some(message) = futures_lite::future::or(recv, patience).await {
                assert_eq!(number_of(&message.expect("a message")), number);
                number += 1;
            }
        }
        poster.join().expect("a poster");
    });
}

/// The same for what a stream's user drops, and for halves.
#[test]
fn a_next_that_is_dropped_after_each_poll_loses_nothing() {
    on_each("a_next_that_is_dropped_after_each_poll_loses_nothing", async || {
        const COUNT: u64 = 5_000;
        let (port, poster) = numbers(COUNT);
        let (_sender, mut receiver) = port.split();
        let mut number = 0;
        while let Some(message) = poll_fn(|context| pin!(receiver.next()).poll(context)).await {
            assert_eq!(number_of(&message.expect("a message")), number);
            number += 1;
        }
        assert_eq!(number, COUNT);
        poster.join().expect("a poster");
    });
}

/// Only the sender drains the doorbell, which would be full after some hundred waits.
#[test]
fn a_sender_waits_for_room_again_and_again_while_its_end_does_not_receive() {
    const TEST: &str = "a_sender_waits_for_room_again_and_again_while_its_end_does_not_receive";
    on_each(TEST, async || {
        const COUNT: u64 = 10_000;
        let builder = MessageChannel::builder().capacity(4096).bounded();
        let MessageChannel { port1, port2 } = builder.build().expect("a channel");
        let mut port1 = into_async(port1);
        let reader = thread::spawn(move || port2.iter().map(|it| it.bytes().len()).sum::<usize>());
        for _ in 0..COUNT {
            port1.post_bytes(&[1; 300]).await.expect("room, after a while");
        }
        drop(port1);
        assert_eq!(reader.join().expect("a reader"), COUNT as usize * 300);
    });
}

/// One task, in which a flooded port and another one are received from: the other one has its turn
/// although the flood never runs dry.
#[test]
fn a_flooded_port_leaves_turns_to_others_of_its_task() {
    on_each("a_flooded_port_leaves_turns_to_others_of_its_task", async || {
        const FLOOD: u64 = 10_000;
        let [flood, other] = [(); 2].map(|()| MessageChannel::new().expect("a channel"));
        (0..FLOOD).for_each(|number| flood.port1.post_message(&number).expect("room"));
        other.port1.post_text("let me in").expect("room");
        let (mut flooded, mut quiet) = (into_async(flood.port2), into_async(other.port2));
        let received = Cell::new(0);
        let taking = async {
            for number in 0..FLOOD {
                let message = flooded.recv().await.expect("a message");
                assert_eq!(number_of(&message), number);
                received.set(number + 1);
            }
        };
        let waiting = async {
            quiet.recv().await.expect("a message");
            received.get()
        };
        let ((), before) = futures_lite::future::zip(taking, waiting).await;
        assert!(before <= 100, "{before} messages came first");
    });
}

/// Copying a long message takes milliseconds; it is done in parts.
#[test]
fn a_long_message_leaves_turns_to_others_of_its_task() {
    on_each("a_long_message_leaves_turns_to_others_of_its_task", async || {
        const LONG: usize = 8 << 20;
        let [flood, other] = [(); 2].map(|()| MessageChannel::new().expect("a channel"));
        flood.port1.post_bytes(&vec![7; LONG]).expect("room");
        other.port1.post_text("let me in").expect("room");
        let (mut flooded, mut quiet) = (into_async(flood.port2), into_async(other.port2));
        let received = Cell::new(0);
        let taking = async { received.set(flooded.recv().await.expect("a message").bytes().len()) };
        let waiting = async {
            quiet.recv().await.expect("a message");
            received.get()
        };
        let ((), before) = futures_lite::future::zip(taking, waiting).await;
        assert_eq!((before, received.get()), (0, LONG));
    });
}

/// Posts that wait for room are dropped at each poll, and tried again: none is lost or doubled.
#[test]
fn a_post_that_is_dropped_after_each_poll_is_posted_once() {
    on_each("a_post_that_is_dropped_after_each_poll_is_posted_once", async || {
        const COUNT: u64 = 5_000;
        let builder = MessageChannel::builder().capacity(4096).bounded();
        let MessageChannel { port1, port2 } = builder.build().expect("a channel");
        let mut port1 = into_async(port1);
        let reader = thread::spawn(move || {
            let mut rng = Rng(3);
            for (event, number) in port2.iter().zip(0u64..) {
                assert_eq!(event.bytes(), [number as u8; 300]);
                rng.dawdle(Duration::from_micros(5));
            }
            port2.stats().received.messages
        });
        for number in 0..COUNT {
            let bytes = [number as u8; 300];
            let posted = poll_fn(|context| pin!(port1.post_bytes(&bytes)).poll(context));
            posted.await.expect("room, after a while");
        }
        drop(port1);
        assert_eq!(reader.join().expect("a reader"), COUNT);
    });
}

/// A port whose descriptors nothing takes waits a while; its task is woken afterwards.
#[test]
fn a_task_comes_back_to_a_port_that_had_its_share() {
    const TEST: &str = "a_task_comes_back_to_a_port_that_had_its_share";
    fn victim() {
        on_each(TEST, async || {
            let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
            let mut port = into_async(port2);
            for _ in 0..12 {
                let event = || OwnedFd::from(EventFd::new().expect("a descriptor"));
                let list: Vec<Transferable> = (0..64).map(|_| event().into()).collect();
                port1.post_text_with("a flood", list).expect("room");
            }
            for _ in 0..12 {
                drop(port.recv().await.expect("a message"));
            }
        });
    }
    play(TEST, &[("victim", victim)]);
}

/// A task gets every message of a sender that stops and goes at random, in another thread and in
/// another process; on every reactor. See `tests/readiness.rs` for those who wait otherwise.
#[test]
fn a_task_misses_nothing() {
    const TEST: &str = "a_task_misses_nothing";
    fn count() -> u64 {
        // Twice on each of up to three reactors, so that it takes a million.
        wanted("MESSAGEPORT_READINESS", 500_000) / 3
    }
    fn sends() {
        stop_and_go(&parent_port().expect("a port to the parent"), count());
    }
    async fn receive_all(mut port: AsyncPort) {
        for number in 0..count() {
            assert_eq!(number_of(&port.recv().await.expect("a message")), number);
            if number % 1000 == 0 {
                progress();
            }
        }
        let end = port.recv().await.expect_err("the end");
        let reason = CloseReason::PeerDropped;
        assert!(matches!(end, RecvError::Closed { reason: why } if why == reason), "{end}");
    }
    fn receives() {
        on_each(TEST, async || {
            let (port, poster) = numbers(count());
            receive_all(port).await;
            poster.join().expect("a poster");
            let worker = Worker::spawn(command(TEST, "sends")).expect("a worker");
            let (port, mut child) = worker.into_parts();
            receive_all(into_async(port)).await;
            assert!(child.wait().expect("a child").success());
        });
    }
    play(TEST, &[("receives", receives), ("sends", sends)]);
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
        here.post_message_with(&1u8, [channel.port2.into()]).await.expect("room");
        let port = there.recv().await.expect("a message").take_port().expect("a port");
        assert_eq!(
            into_async(port).recv().await.expect("a message").text().expect("text"),
            "before"
        );
    });
}

#[test]
fn a_sink_learns_that_its_peer_was_killed() {
    const TEST: &str = "a_sink_learns_that_its_peer_was_killed";
    fn lingers() {
        let port = parent_port().expect("a port to the parent");
        port.post_text("here").expect("room");
        loop {
            thread::park();
        }
    }
    fn posts() {
        on_each(TEST, async || {
            let worker = Worker::spawn(command(TEST, "lingers")).expect("a worker");
            let (port, mut child) = worker.into_parts();
            let (mut sink, mut stream) = into_async(port).split();
            assert_eq!(stream.recv().await.expect("a message").text().expect("text"), "here");
            sink.send(vec![7; 8]).await.expect("the peer lives");
            child.kill().expect("a child of our own");
            child.wait().expect("a child of our own");
            // It never receives. Long before this many its lane would not be full.
            let mut ended = None;
            for _ in 0..10_000 {
                if let Err(error) = sink.send(vec![7; 8]).await {
                    ended = Some(error);
                    break;
                }
                thread::sleep(Duration::from_millis(1));
            }
            let reason = CloseReason::PeerDied;
            let is_death =
                matches!(ended, Some(PostError::Closed { reason: why }) if why == reason);
            assert!(is_death, "{ended:?}: {sink:#?}");
        });
    }
    play(TEST, &[("posts", posts), ("lingers", lingers)]);
}

#[cfg(all(feature = "tokio", not(feature = "async-io")))]
#[test]
fn without_a_runtime_it_is_an_error() {
    let channel = MessageChannel::new().expect("a channel");
    assert!(channel.port1.into_async().is_err());
}
