//! Panics of the program's code inside a loop: each is reported, nothing that is queued behind one
//! is lost, and the loop ends when nothing is left.

use crate::common::watchdog::watch;
use crate::{Log, channel, loop_of, new_loop, numbers, post_numbers, settle, text_of};
use messageport::{Event, EventLoop, ListenerFailure, ListenerOptions, MessageChannel};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::panic_any;

/// What a panic said.
fn words(failure: &ListenerFailure) -> String {
    match failure {
        ListenerFailure::Panic(panic) => panic.downcast_ref::<&str>().expect("words").to_string(),
        other => format!("{other:?}"),
    }
}

fn reporting_loop(log: &Log) -> EventLoop {
    let (mut event_loop, log) = (new_loop(), log.clone());
    event_loop.on_listener_failure(move |failure, _| log.note(words(failure)));
    event_loop
}

#[test]
fn work_behind_a_panic_is_done() {
    let log = Log::new();
    let mut event_loop = reporting_loop(&log);
    let handle = event_loop.handle();
    for number in 0..4 {
        let inner = log.clone();
        handle.post(move |_| match number {
            1 | 2 => panic_any("work"),
            _ => inner.note(format!("{number}")),
        });
    }
    event_loop.run().expect("the loop does its work");
    assert_eq!(log.take(), ["0", "work", "work", "3"]);
}

#[test]
fn deferred_actions_and_messages_behind_a_panic_are_delivered() {
    let (pair, log) = (channel(), Log::new());
    let mut event_loop = reporting_loop(&log);
    let inner = log.clone();
    pair.port2.on_message(move |event| {
        let text = text_of(event);
        event.defer(|_| panic_any("deferred"));
        let inner = inner.clone();
        event.defer(move |_| inner.note(text));
        panic_any("listener")
    });
    let inner = log.clone();
    pair.port2.on_listener_failure(move |failure, _| inner.note(words(failure)));
    event_loop.add(pair.port2).expect("room for a port");
    post_numbers(&pair.port1, 0..3);
    drop(pair.port1);
    event_loop.run().expect("the loop has no port left");
    let expected = numbers(0..3);
    let expected = expected.iter().flat_map(|text| ["listener", "deferred", text]);
    assert_eq!(log.take(), expected.collect::<Vec<_>>());
}

/// It is called again, and counts no longer once it was removed.
#[test]
fn a_source_that_panics_is_called_again_and_holds_up_no_other() {
    let _watch = watch("a_source_that_panics_is_called_again_and_holds_up_no_other");
    let log = Log::new();
    let mut event_loop = reporting_loop(&log);
    let (mut near, far) = UnixStream::pair().expect("a pair");
    let (inner, mut calls) = (log.clone(), 0);
    let first = event_loop.add_source(far, move |event_loop, far| {
        calls += 1;
        if calls < 3 {
            panic_any("source");
        }
        let mut byte = [0];
        (&*far).read_exact(&mut byte).expect("a byte");
        inner.note("the byte");
        event_loop.handle().stop();
    });
    let first = first.expect("room for a source");
    let (mut other_near, other_far) = UnixStream::pair().expect("a pair");
    let inner = log.clone();
    let second = event_loop.add_source(other_far, move |event_loop, far| {
        let mut byte = [0];
        (&*far).read_exact(&mut byte).expect("a byte");
        inner.note("the other");
        event_loop.handle().post(|_| {});
    });
    let second = second.expect("room for a source");
    near.write_all(&[0]).expect("room");
    other_near.write_all(&[0]).expect("room");
    event_loop.run().expect("it is stopped");
    assert_eq!(log.take(), ["source", "the other", "source", "the byte"]);
    assert!(event_loop.remove_source(first) && event_loop.remove_source(second));
    event_loop.run().expect("nothing is left");
}

/// As it is not listened to for a while, it does not keep a loop busy.
#[test]
fn a_source_that_always_panics_lets_the_loop_rest() {
    let _watch = watch("a_source_that_always_panics_lets_the_loop_rest");
    let log = Log::new();
    let mut event_loop = reporting_loop(&log);
    let (mut near, far) = UnixStream::pair().expect("a pair");
    let id = event_loop.add_source(far, |_, _| panic_any("source")).expect("room for a source");
    near.write_all(&[0]).expect("room");
    settle(&mut event_loop);
    assert_eq!(log.take(), ["source"]);
    assert!(event_loop.remove_source(id));
    event_loop.run().expect("nothing is left");
}

#[test]
fn a_source_that_removes_itself_and_panics_is_gone() {
    let log = Log::new();
    let mut event_loop = reporting_loop(&log);
    let (mut near, far) = UnixStream::pair().expect("a pair");
    let place = std::rc::Rc::new(std::cell::Cell::new(None));
    let own = place.clone();
    let id = event_loop.add_source(far, move |event_loop, _| {
        assert!(event_loop.remove_source(own.get().expect("its name")));
        panic_any("source")
    });
    place.set(Some(id.expect("room for a source")));
    near.write_all(&[0]).expect("room");
    event_loop.run().expect("nothing is left");
    assert_eq!(log.take(), ["source"]);
}

/// A listener's drop is code of the program as well, and runs where no listener is called.
#[test]
fn a_listener_that_panics_when_it_is_dropped_ends_nothing() {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic_any("drop");
            }
        }
    }
    let MessageChannel { port1, port2 } = channel();
    let log = Log::new();
    let (guard, inner) = (Panics, log.clone());
    let once = ListenerOptions::new().once();
    port2.add_event_listener("message", once, move |event: &Event<'_>| {
        let _ = &guard;
        inner.note(text_of(event));
    });
    log.listen(&port2);
    port2.start();
    let mut event_loop = reporting_loop(&log);
    event_loop.add(port2).expect("room for a port");
    post_numbers(&port1, 0..3);
    drop(port1);
    event_loop.run().expect("the loop has no port left");
    assert_eq!(log.take(), ["0", "0", "drop", "1", "2", "close: PeerDropped"]);
}

#[test]
fn a_hook_that_panics_is_left_alone() {
    let (mut event_loop, id) = loop_of(channel().port2);
    event_loop.on_listener_failure(|_, _| panic_any("hook"));
    event_loop.handle().post(|_| panic_any("work"));
    event_loop.handle().post(move |event_loop| assert!(event_loop.remove(id)));
    event_loop.run().expect("nothing is left");
}
