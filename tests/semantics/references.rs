//! What keeps `run` going, and why it returned.

use crate::common::role::play;
use crate::common::{DEADLINE, limits, receive_text};
use crate::{Log, channel, hear, loop_of, new_loop, numbers, post_numbers, settle};
use messageport::{LoopItem, RunEnd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const NEVER: Duration = Duration::MAX;

#[test]
fn run_says_why_it_returned() {
    let mut event_loop = new_loop();
    assert_eq!(event_loop.run().expect("nothing to wait for"), RunEnd::NothingLeft);
    event_loop.handle().stop();
    assert_eq!(event_loop.run().expect("it does not begin"), RunEnd::Stopped);
    let pair = channel();
    let id = event_loop.add(pair.port2).expect("room for a port");
    assert!(event_loop.unref(id));
    assert_eq!(event_loop.run().expect("nothing to wait for"), RunEnd::NothingReferenced);
    event_loop.handle().stop();
    assert_eq!(event_loop.run().expect("it does not begin"), RunEnd::Stopped);
    event_loop.remove(id);
    assert_eq!(event_loop.run().expect("nothing to wait for"), RunEnd::NothingLeft);
}

/// A port that was closed here before its start waits for a start, and `run` does not.
#[test]
fn a_closed_port_that_was_never_started_is_not_waited_for() {
    let pair = channel();
    post_numbers(&pair.port1, 0..1);
    let (mut event_loop, id) = loop_of(pair.port2);
    event_loop.get(id).expect("the port").close();
    assert_eq!(event_loop.run().expect("nothing to wait for"), RunEnd::NothingReferenced);
    event_loop.get(id).expect("the port").start();
    assert_eq!(event_loop.run().expect("its message comes"), RunEnd::NothingLeft);
}

#[test]
fn ports_timers_and_sources_are_referenced_until_they_are_not() {
    let (near, _far) = UnixStream::pair().expect("sockets");
    let (mut event_loop, pair) = (new_loop(), channel());
    let items: [LoopItem; 4] = [
        event_loop.add(pair.port2).expect("room for a port").into(),
        event_loop.add_timer(NEVER, |_| {}).into(),
        event_loop.add_interval(NEVER, |_| {}).into(),
        event_loop.add_source(near, |_, _| {}).expect("room for a source").into(),
    ];
    for item in items {
        assert!(event_loop.has_ref(item) && event_loop.reference(item));
        assert!(event_loop.unref(item) && event_loop.unref(item), "twice is once");
        assert!(!event_loop.has_ref(item));
    }
    assert_eq!(event_loop.run().expect("nothing to wait for"), RunEnd::NothingReferenced);
    for item in items {
        let LoopItem::Port(id) = item else {
            assert!(event_loop.reference(item) && event_loop.has_ref(item));
            let handle = event_loop.handle();
            handle.clone().post(move |_| handle.stop());
            assert_eq!(event_loop.run().expect("the loop waits"), RunEnd::Stopped);
            assert!(event_loop.unref(item));
            continue;
        };
        assert!(event_loop.remove(id));
    }
    assert_eq!(event_loop.run().expect("nothing to wait for"), RunEnd::NothingReferenced);
}

#[test]
fn what_is_not_there_is_not_referenced() {
    let pair = channel();
    let (mut event_loop, id) = loop_of(pair.port2);
    let timer = event_loop.add_timer(Duration::ZERO, |_| {});
    event_loop.unref(timer);
    settle(&mut event_loop);
    assert!(event_loop.remove(id));
    for item in [LoopItem::from(id), timer.into()] {
        assert!(!event_loop.unref(item) && !event_loop.reference(item));
        assert!(!event_loop.has_ref(item));
    }
    assert_eq!(event_loop.run().expect("nothing to wait for"), RunEnd::NothingLeft);
}

#[test]
fn an_unreferenced_port_is_served_as_before() {
    let (kept, other, log) = (channel(), channel(), Log::new());
    log.watch_end(&other.port2);
    other.port2.on_message(log.text());
    let (mut event_loop, _) = loop_of(kept.port2);
    let id = event_loop.add(other.port2).expect("room for a port");
    event_loop.unref(id);
    post_numbers(&other.port1, 0..2);
    settle(&mut event_loop);
    assert_eq!(log.take(), numbers(0..2));
    drop(other.port1);
    settle(&mut event_loop);
    assert_eq!(log.take(), ["close: PeerDropped"]);
    drop(kept.port1);
    assert_eq!(event_loop.run().expect("the loop waits"), RunEnd::NothingLeft);
}

/// Also a program that turns the loop itself.
#[test]
fn a_turn_serves_a_loop_in_which_nothing_is_referenced() {
    let (pair, log) = (channel(), Log::new());
    pair.port2.on_message(log.text());
    let (mut event_loop, id) = loop_of(pair.port2);
    event_loop.unref(id);
    let other = thread::spawn(move || {
        post_numbers(&pair.port1, 0..1);
        pair.port1
    });
    while log.len() == 0 {
        event_loop.poll_once(DEADLINE).expect("the loop waits");
    }
    drop(other.join().expect("no panic"));
    assert_eq!(log.take(), ["0"]);
}

/// A port that posts to itself without end is always ready.
#[test]
fn an_unreferenced_port_that_never_rests_does_not_hold_run() {
    let pair = channel();
    for port in [&pair.port1, &pair.port2] {
        port.on_message(|event| event.port().post_text("again"));
    }
    pair.port1.post_text("begin").expect("room");
    let mut event_loop = new_loop();
    for port in [pair.port1, pair.port2] {
        let id = event_loop.add(port).expect("room for a port");
        event_loop.unref(id);
    }
    let (says, said) = mpsc::channel();
    event_loop.add_timer(Duration::from_millis(2), move |_| says.send(()).expect("a listener"));
    assert_eq!(event_loop.run().expect("the loop waits"), RunEnd::NothingReferenced);
    hear(&said);
}

#[test]
fn a_port_that_is_added_again_is_referenced() {
    let pair = channel();
    let (mut event_loop, id) = loop_of(pair.port2);
    event_loop.unref(id);
    let port = event_loop.take(id).expect("the port");
    let id = event_loop.add(port).expect("room for a port");
    assert!(event_loop.has_ref(id));
}

#[test]
fn a_source_unreferences_itself_while_it_is_called() {
    let (near, far) = UnixStream::pair().expect("sockets");
    let mut event_loop = new_loop();
    let own = std::rc::Rc::new(std::cell::Cell::new(None));
    let id = own.clone();
    let source = event_loop.add_source(near, move |event_loop, mut near: &UnixStream| {
        let _ = std::io::Read::read(&mut near, &mut [0; 8]);
        let id: messageport::SourceId = id.get().expect("it was added");
        assert!(event_loop.unref(id));
    });
    own.set(Some(source.expect("room for a source")));
    std::io::Write::write_all(&mut &far, b"x").expect("room");
    assert_eq!(event_loop.run().expect("the loop waits"), RunEnd::NothingReferenced);
}

#[test]
fn another_thread_references_a_port_again() {
    let pair = channel();
    pair.port2.on_message(|event| event.port().post_text("heard"));
    let (mut event_loop, id) = loop_of(pair.port2);
    event_loop.unref(id);
    let handle = event_loop.handle();
    handle.post(move |event_loop| assert!(event_loop.reference(id)));
    let other = thread::spawn(move || {
        post_numbers(&pair.port1, 0..1);
        assert_eq!(receive_text(&pair.port1), "heard");
    });
    assert_eq!(event_loop.run().expect("until the other thread is done"), RunEnd::NothingLeft);
    other.join().expect("no panic");
}

/// The timer of an outer loop takes a descriptor. Without one the loop's descriptor stays readable,
/// so that the timer comes all the same.
#[test]
fn without_descriptors_an_outer_loop_serves_timers_all_the_same() {
    const TEST: &str = "references::without_descriptors_an_outer_loop_serves_timers_all_the_same";
    fn lacks() {
        let (mut event_loop, log) = (new_loop(), Log::new());
        let _ = std::os::fd::AsFd::as_fd(&event_loop);
        let inner = log.clone();
        event_loop.add_timer(Duration::from_millis(5), move |_| inner.note("ran"));
        limits::allow_more_descriptors(0);
        crate::wait_until("the timer has run", || {
            let fd = std::os::fd::AsFd::as_fd(&event_loop);
            let mut fds = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
            let count = nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO);
            assert_eq!(count.expect("the kernel looks"), 1, "it is readable");
            settle(&mut event_loop);
            log.has("ran")
        });
    }
    play(TEST, &[("lacks", lacks)]);
}
