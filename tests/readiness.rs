//! Readiness is never missed: a thread that waits for a descriptor, or in a loop, gets every
//! message of a sender that stops and goes at random, in another thread and in another process.
//! `tests/asynchronous.rs` has the same for tasks.

mod common;
#[path = "readiness/edges.rs"]
mod edges;

use common::ends::between_two_ends;
use common::messages::stop_and_go;
use common::watchdog::progress;
use common::{DEADLINE, wanted};
use messageport::{
    BroadcastChannel, CloseReason, EventLoop, Listener, MessageChannel, MessageEvent, MessagePort,
    PortSet, RecvError,
};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Messages of each of the two senders of a test, so that it takes a million.
fn count() -> u64 {
    wanted("MESSAGEPORT_READINESS", 500_000)
}

/// For those whose waits are in other tests as well.
fn few() -> u64 {
    count() / 10
}

fn sends(port: MessagePort) {
    stop_and_go(&port, count());
}

fn sends_few(port: MessagePort) {
    stop_and_go(&port, few());
}

/// Fails unless `event` is the message with this number.
fn check(event: &MessageEvent<'_>, number: u64) {
    assert_eq!(event.deserialize::<u64>().expect("a number"), number);
    if number.is_multiple_of(1000) {
        progress();
    }
}

fn check_end(error: RecvError) {
    let reason = CloseReason::PeerDropped;
    assert!(matches!(error, RecvError::Closed { reason: why } if why == reason), "{error}");
}

/// A foreign epoll instance, which waits for one descriptor.
struct Foreign(Epoll);

impl Foreign {
    fn new(descriptor: impl AsFd) -> Foreign {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
        epoll.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, 0)).expect("room for one");
        Foreign(epoll)
    }

    /// Waits until the descriptor is readable; says whether it is.
    fn wait(&self) -> bool {
        let timeout: EpollTimeout = DEADLINE.try_into().expect("a minute");
        self.0.wait(&mut [EpollEvent::empty()], timeout).expect("an epoll") == 1
    }
}

fn by_epoll(port: MessagePort) {
    let epoll = Foreign::new(port.as_fd());
    let mut received = 0;
    loop {
        match port.try_recv() {
            Ok(Some(event)) => {
                check(&event, received);
                received += 1;
            }
            Ok(None) => assert!(epoll.wait(), "nothing came for {DEADLINE:?}\n{port:#?}"),
            Err(error) => break check_end(error),
        }
    }
    assert_eq!(received, count());
}

between_two_ends!(an_epoll_user_misses_nothing, by_epoll, sends);

/// A started port whose messages are checked and counted.
fn counted(port: &MessagePort) -> Arc<AtomicU64> {
    let received = Arc::new(AtomicU64::new(0));
    let (count, end) = (received.clone(), received.clone());
    port.on_message(move |event| {
        // What is wrong is seen in the count: a handler's panic is reported, and no more.
        check(event.message().expect("a message"), count.load(Relaxed));
        count.fetch_add(1, Relaxed);
    });
    port.on_close(move |event| {
        assert_eq!(event.close_reason(), Some(CloseReason::PeerDropped));
        end.fetch_add(END, Relaxed);
    });
    received
}

const END: u64 = 1 << 40;

fn by_a_loop(port: MessagePort) {
    let received = counted(&port);
    let mut event_loop = EventLoop::new().expect("a loop");
    event_loop.add(port).expect("room for a port");
    event_loop.run().expect("the loop waits");
    assert_eq!(received.load(Relaxed), few() + END);
}

between_two_ends!(a_loop_misses_nothing, by_a_loop, sends_few);

/// A turn each time that the loop's descriptor is readable, and none otherwise.
fn by_a_nested_loop(port: MessagePort) {
    let received = counted(&port);
    let mut event_loop = EventLoop::new().expect("a loop");
    event_loop.add(port).expect("room for a port");
    let epoll = Foreign::new(event_loop.as_fd());
    while event_loop.ids().next().is_some() {
        assert!(epoll.wait(), "nothing came for {DEADLINE:?}\n{event_loop:#?}");
        event_loop.poll_once(Duration::ZERO).expect("the loop waits");
    }
    assert_eq!(received.load(Relaxed), count() + END);
}

between_two_ends!(a_nested_loop_misses_nothing, by_a_nested_loop, sends);

fn by_a_nested_set(port: MessagePort) {
    let mut set = PortSet::new().expect("a set");
    set.add(port).expect("room for a port");
    let epoll = Foreign::new(set.as_fd());
    let mut received = 0;
    loop {
        match set.try_recv().expect("the set waits") {
            Some((_, Ok(event))) => {
                check(&event, received);
                received += 1;
            }
            None => assert!(epoll.wait(), "nothing came for {DEADLINE:?}\n{set:#?}"),
            Some((_, Err(error))) => break check_end(error),
        }
    }
    assert_eq!(received, few());
}

between_two_ends!(a_nested_set_misses_nothing, by_a_nested_set, sends_few);

fn by_sleeping(port: MessagePort) {
    let mut received = 0;
    loop {
        match port.recv_timeout(DEADLINE) {
            Ok(event) => {
                check(&event, received);
                received += 1;
            }
            Err(error) => break check_end(error),
        }
    }
    assert_eq!(received, few());
}

between_two_ends!(a_sleeper_misses_nothing, by_sleeping, sends_few);

#[cfg(not(any(feature = "tokio", feature = "async-io")))]
#[test]
#[ignore = "run `cargo test --all-features`: without a reactor no test of AsyncPort is compiled"]
fn tasks_are_tested_as_well() {}

/// For libraries that take numbers: it is the descriptor of `AsFd`, and the same at each call.
#[test]
fn the_number_of_each_descriptor_is_that_of_its_borrowed_form() {
    fn compare(what: impl AsFd + AsRawFd) {
        let number = what.as_raw_fd();
        assert_eq!((number, number), (what.as_fd().as_raw_fd(), what.as_raw_fd()));
    }
    let ports = || MessageChannel::new().expect("a channel").port1;
    compare(ports());
    compare(ports().split().1);
    compare(ports().typed::<u8, u8>());
    compare(ports().typed::<u8, u8>().split().1);
    compare(PortSet::new().expect("a set"));
    compare(EventLoop::new().expect("a loop"));
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("name");
    compare(Listener::bind_at(path, MessageChannel::builder()).expect("a listener"));
    let name = format!("test-numbers-{}", std::process::id());
    compare(BroadcastChannel::open(&name).expect("a member"));
}
