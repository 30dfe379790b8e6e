//! What the web defines, clause by clause: each test is named after its clause, and
//! `docs/semantics.md` is the table of them. Where we deviate, the test's comment says so.
//!
//! A panic inside a listener is reported and not passed on: so handlers write down what they see,
//! and the assertions stand outside.

#![allow(unsafe_code)]

#[path = "semantics/calls.rs"]
mod calls;
#[path = "semantics/channel.rs"]
mod channel;
#[path = "semantics/closed.rs"]
mod closed;
mod common;
#[path = "semantics/delivered.rs"]
mod delivered;
#[path = "semantics/event_loop.rs"]
mod event_loop;
#[path = "semantics/events.rs"]
mod events;
#[path = "semantics/handlers.rs"]
mod handlers;
#[path = "semantics/inside.rs"]
mod inside;
#[path = "semantics/nesting.rs"]
mod nesting;
#[path = "semantics/owned.rs"]
mod owned;
#[path = "semantics/panics.rs"]
mod panics;
#[path = "semantics/posting.rs"]
mod posting;
#[path = "semantics/references.rs"]
mod references;
#[path = "semantics/stopping.rs"]
mod stopping;
#[path = "semantics/targets.rs"]
mod targets;
#[path = "semantics/timers.rs"]
mod timers;

use common::ends::between_two_ends;
use common::{DEADLINE, wait_until};
use messageport::{Event, EventLoop, ListenerOptions, MessageChannel, MessagePort, PortId};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

fn channel() -> MessageChannel {
    MessageChannel::new().expect("a channel")
}

fn new_loop() -> EventLoop {
    EventLoop::new().expect("an event loop")
}

/// A loop with one port.
fn loop_of(port: MessagePort) -> (EventLoop, PortId) {
    let mut event_loop = new_loop();
    let id = event_loop.add(port).expect("room for a port");
    (event_loop, id)
}

/// Delivers all that is there.
fn settle(event_loop: &mut EventLoop) {
    event_loop.run_until_idle().expect("the loop waits");
}

/// What was seen, in order. Copies share it.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn new() -> Log {
        Log::default()
    }

    fn note(&self, what: impl Into<String>) {
        self.0.lock().expect("no thread panicked while holding it").push(what.into());
    }

    fn len(&self) -> usize {
        self.0.lock().expect("no thread panicked while holding it").len()
    }

    fn has(&self, what: &str) -> bool {
        self.0.lock().expect("no thread panicked while holding it").iter().any(|seen| seen == what)
    }

    /// What was seen since the last look.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no thread panicked while holding it"))
    }

    /// A listener that writes a word down.
    fn says(&self, word: &'static str) -> impl Fn(&Event<'_>) + Send + 'static {
        let log = self.clone();
        move |_| log.note(word)
    }

    /// A listener that writes down the message's text.
    fn text(&self) -> impl Fn(&Event<'_>) + Send + 'static {
        let log = self.clone();
        move |event| log.note(text_of(event))
    }

    /// Has the end of a port written down, and what its listeners do wrong.
    fn watch_end(&self, port: &MessagePort) {
        let log = self.clone();
        port.on_close(move |event| log.note(end_of(event)));
        self.watch_failures(port);
    }

    fn watch_failures(&self, port: &MessagePort) {
        let log = self.clone();
        port.on_listener_failure(move |failure, _| log.note(format!("{failure:?}")));
    }

    /// Has all that comes to a port written down, without starting it.
    fn listen(&self, port: &MessagePort) {
        port.add_event_listener("message", ListenerOptions::new(), self.text());
        self.watch_end(port);
    }
}

/// A port whose messages and end are written down once it is started.
fn logged(port: MessagePort) -> (MessagePort, Log) {
    let log = Log::new();
    log.listen(&port);
    (port, log)
}

fn text_of(event: &Event<'_>) -> String {
    let message = event.message().expect("a message event");
    message.text().expect("a text").to_string()
}

/// How a port ended, in words.
fn end_of(event: &Event<'_>) -> String {
    format!("close: {:?}", event.close_reason().expect("a close event"))
}

/// Runs the loop until `condition` holds.
fn run_until(event_loop: &mut EventLoop, what: &str, mut condition: impl FnMut() -> bool) {
    wait_until(what, || {
        condition() || {
            event_loop.poll_once(Duration::from_millis(20)).expect("the loop waits");
            condition()
        }
    });
}

/// Waits until so many messages were posted to a port, read or not.
fn wait_for_posts(port: &MessagePort, count: u64) {
    wait_until("the messages are there", || port.stats().received.messages >= count);
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

fn post_numbers(port: &MessagePort, range: std::ops::Range<u64>) {
    for number in numbers(range) {
        port.post_text_timeout(&number, DEADLINE).expect("room");
    }
}

/// Waits for a word from another thread, for a time that only a hang takes.
fn hear<T>(words: &mpsc::Receiver<T>) -> T {
    words.recv_timeout(DEADLINE).expect("a word from the other thread")
}
