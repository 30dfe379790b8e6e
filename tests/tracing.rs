//! The events of the feature `tracing`: each rare event of a port once, and none for a message.
#![cfg(feature = "tracing")]

mod common;

use common::region::{Region, tail};
use common::role::{command, play};
use messageport::{MessageChannel, PostError, RecvError, Worker, parent_port};
use std::fmt::{Debug, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Keeps each event of the crate as a line of text.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no test panics with it"))
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "messageport"
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = event.metadata().level().to_string();
        event.record(&mut Fields(&mut line));
        self.0.lock().expect("no test panics with it").push(line);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Writes the fields of an event, without the pair, whose id is random.
struct Fields<'l>(&'l mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => write!(self.0, " {value:?}"),
            // Its id is random.
            "pair" => {
                assert_eq!(format!("{value:?}").len(), 32);
                Ok(())
            }
            name => write!(self.0, " {name}={value:?}"),
        }
        .expect("a string takes all");
    }
}

/// Runs `act` under a subscriber of this thread, and returns what it was told.
fn told(act: impl FnOnce()) -> Vec<String> {
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), act);
    lines.take()
}

#[track_caller]
fn assert_told(lines: &[String], expected: &[&str]) {
    for expected in expected {
        let count = lines.iter().filter(|line| line.contains(expected)).count();
        assert_eq!(count, 1, "{expected}\n{lines:#?}");
    }
}

#[test]
fn messages_and_empty_polls_are_no_events() {
    let lines = told(|| {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        for number in 0..2_000u32 {
            port1.post_message(&number).expect("room");
            assert!(port2.try_recv().expect("open").is_some());
            assert!(port2.try_recv().expect("open").is_none());
        }
        std::mem::forget((port1, port2));
    });
    assert!(lines.is_empty(), "{lines:#?}");
}

#[test]
fn the_end_of_each_direction_is_told_with_its_reason() {
    let lines = told(|| {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        port1.close();
        assert!(matches!(port2.recv(), Err(RecvError::Closed { .. })));
        assert!(matches!(port2.post_bytes(b"late"), Err(PostError::Closed { .. })));
        std::mem::forget((port1, port2));
    });
    assert_told(
        &lines,
        &[
            "side=1 direction=\"receiving\" reason=\"closed by the peer\"",
            "side=1 direction=\"sending\" reason=\"closed by the peer\"",
            "side=0 direction=\"sending\" reason=\"closed here\"",
        ],
    );
}

#[test]
fn events_of_a_labelled_port_name_it() {
    let lines = told(|| {
        let channel = MessageChannel::builder().label("prices").build().expect("a channel");
        channel.port1.set_label("shop");
        channel.port1.close();
        assert!(matches!(channel.port2.recv(), Err(RecvError::Closed { .. })));
        std::mem::forget(channel);
    });
    let here = "side=0 channel=\"prices\" label=\"shop\" direction=\"sending\"";
    assert_told(&lines, &[here, "side=1 channel=\"prices\" direction=\"receiving\""]);
}

#[test]
fn a_port_that_moves_is_told_at_both_places() {
    let lines = told(|| {
        let carrier = MessageChannel::new().expect("a channel");
        let cargo = MessageChannel::new().expect("a channel");
        carrier.port1.post_text_with("take it", [cargo.port2.into()]).expect("room");
        let port = carrier.port2.recv().expect("a message").take_port().expect("a port");
        std::mem::forget((carrier.port1, carrier.port2, cargo.port1, port));
    });
    assert_told(&lines, &["a port has moved away side=1", "a port has arrived side=1 epoch=1"]);
    assert_eq!(lines.len(), 2, "{lines:#?}");
}

#[test]
fn a_full_queue_and_one_that_grows_are_told() {
    let lines = told(|| {
        let channel = MessageChannel::builder().capacity(4096).limit(64 << 10).build();
        let MessageChannel { port1, port2 } = channel.expect("a channel");
        while port1.post_bytes(&[7; 1000]).is_ok() {}
        std::mem::forget((port1, port2));
    });
    assert!(lines.iter().any(|line| line.contains("changed its size side=0 from=4096")));
    assert_told(&lines, &["TRACE the queue is full side=0 len=1000 unread="]);
}

#[test]
fn a_peer_that_breaks_the_protocol_is_told_as_a_warning() {
    let lines = told(|| {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        Region::of(&port1).word(tail(0)).store(3, Relaxed);
        assert!(matches!(port2.recv(), Err(RecvError::Closed { .. })));
        std::mem::forget((port1, port2));
    });
    assert_told(
        &lines,
        &["WARN the peer has broken the protocol side=1", "\"receiving\" reason=\"corrupt\""],
    );
}

#[test]
fn a_death_is_told() {
    const TEST: &str = "a_death_is_told";
    fn dies() {
        let port = parent_port().expect("a port");
        port.post_text("here").expect("room");
        std::process::abort();
    }
    fn sees() {
        let lines = told(|| {
            let worker = Worker::spawn(command(TEST, "dies")).expect("a child");
            worker.port().recv().expect("a message");
            assert!(matches!(worker.port().recv(), Err(RecvError::Closed { .. })));
        });
        assert_told(&lines, &["direction=\"receiving\" reason=\"the peer has died\""]);
    }
    play(TEST, &[("sees", sees), ("dies", dies)]);
}
