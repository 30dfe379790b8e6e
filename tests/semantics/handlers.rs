//! Clause E14: the slots of handlers, and their place among the listeners.

use crate::{Log, channel};
use messageport::{Event, ListenerOptions, MessagePort};

fn target() -> (MessagePort, Log) {
    let port = channel().port1;
    let log = Log::new();
    log.watch_failures(&port);
    (port, log)
}

fn listen(port: &MessagePort, word: &'static str, log: &Log) {
    port.add_event_listener("message", ListenerOptions::new(), log.says(word));
}

fn message(port: &MessagePort) {
    port.dispatch_event(Event::new("message")).expect("a fresh event");
}

#[test]
fn e14_a_handler_keeps_the_place_of_the_first_one_in_its_slot() {
    let (port, log) = target();
    listen(&port, "before", &log);
    port.on_message(log.says("first handler"));
    listen(&port, "after", &log);
    message(&port);
    assert_eq!(log.take(), ["before", "first handler", "after"]);
    for word in ["second handler", "third handler"] {
        port.on_message(log.says(word));
        message(&port);
        assert_eq!(log.take(), ["before", word, "after"]);
    }
}

#[test]
fn e14_a_handler_that_is_set_after_none_goes_to_the_end() {
    let (port, log) = target();
    port.on_message(log.says("first"));
    listen(&port, "listener", &log);
    port.clear_handler("message");
    port.clear_handler("message");
    message(&port);
    assert_eq!(log.take(), ["listener"]);
    port.on_message(log.says("again"));
    message(&port);
    assert_eq!(log.take(), ["listener", "again"]);
}

#[test]
fn e14_each_type_has_a_slot_of_its_own() {
    let (port, log) = target();
    port.on_close(log.says("close"));
    port.on_message_error(log.says("messageerror"));
    assert!(!port.is_started());
    port.on_message(log.says("message"));
    port.clear_handler("messageerror");
    for kind in ["message", "messageerror", "close"] {
        port.dispatch_event(Event::new(kind)).expect("a fresh event");
    }
    assert_eq!(log.take(), ["message", "close"]);
}

#[test]
fn e14_a_handler_replaced_before_its_turn_runs_as_the_new_one() {
    let (port, log) = target();
    let inner = log.clone();
    port.add_event_listener("message", ListenerOptions::new().once(), move |event| {
        event.port().on_message(inner.says("never"));
        event.port().on_message(inner.says("new"));
    });
    port.on_message(log.says("old"));
    listen(&port, "behind", &log);
    message(&port);
    assert_eq!(log.take(), ["new", "behind"]);
    message(&port);
    assert_eq!(log.take(), ["new", "behind"]);
}

#[test]
fn e14_a_handler_that_replaces_itself_runs_once_for_this_event() {
    let (port, log) = target();
    let inner = log.clone();
    port.on_message(move |event| {
        inner.note("old");
        event.port().on_message(inner.says("new"));
    });
    listen(&port, "behind", &log);
    message(&port);
    assert_eq!(log.take(), ["old", "behind"]);
    message(&port);
    assert_eq!(log.take(), ["new", "behind"]);
}

#[test]
fn e14_a_handler_cleared_before_its_turn_does_not_run() {
    let (port, log) = target();
    let inner = log.clone();
    port.add_event_listener("message", ListenerOptions::new().once(), move |event| {
        event.port().clear_handler("message");
        inner.note("cleared");
    });
    port.on_message(log.says("never"));
    message(&port);
    assert_eq!(log.take(), ["cleared"]);
    message(&port);
    assert_eq!(log.take(), [""; 0]);
}

/// It is a new listener then, and the list of this phase was taken before.
#[test]
fn e14_a_handler_cleared_and_set_again_during_a_dispatch_waits_for_the_next() {
    let (port, log) = target();
    let inner = log.clone();
    port.add_event_listener("message", ListenerOptions::new().once(), move |event| {
        event.port().clear_handler("message");
        event.port().on_message(inner.says("new"));
    });
    port.on_message(log.says("old"));
    listen(&port, "behind", &log);
    message(&port);
    assert_eq!(log.take(), ["behind"]);
    message(&port);
    assert_eq!(log.take(), ["behind", "new"]);
}

/// A handler that was replaced in one nested dispatch and cleared in another leaves nothing behind.
#[test]
fn e14_handlers_change_inside_nested_dispatches() {
    let (port, log) = target();
    let inner = log.clone();
    port.on_message(move |event| {
        let again = inner.clone();
        event.port().on_message(move |event| {
            again.note("second");
            event.port().clear_handler("message");
            message(event.port());
        });
        inner.note("first");
        message(event.port());
        inner.note("first ends");
    });
    listen(&port, "listener", &log);
    message(&port);
    assert_eq!(log.take(), ["first", "second", "listener", "listener", "first ends", "listener"]);
    message(&port);
    assert_eq!(log.take(), ["listener"]);
}
