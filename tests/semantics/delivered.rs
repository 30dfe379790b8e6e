//! Clauses E with events of the transport: what listeners do to messages that another thread, and
//! another process, has posted. `events.rs` and `handlers.rs` go deeper, with events of the program.

use crate::common::receive_text;
use crate::{Log, between_two_ends, loop_of, post_numbers, text_of};
use messageport::{
    AbortController, Event, EventListener, ListenerFailure, ListenerOptions, MessagePort,
};
use std::error::Error;
use std::sync::{Arc, Mutex};

const MESSAGE: &str = "message";

fn plain() -> ListenerOptions {
    ListenerOptions::new()
}

/// Has `listen` add its listeners, and delivers two messages and the end. Returns what was seen.
fn seen(port: MessagePort, listen: impl FnOnce(&MessagePort, &Log)) -> Vec<String> {
    let log = Log::new();
    log.watch_failures(&port);
    listen(&port, &log);
    port.start();
    let (mut event_loop, _) = loop_of(port);
    event_loop.run().expect("the loop waits");
    log.take()
}

fn posts_two(port: MessagePort) {
    post_numbers(&port, 0..2);
}

/// A listener that is an object.
struct Says(Log);

impl EventListener for Says {
    fn handle_event(&self, event: &Event<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.0.note(format!("the object: {}", text_of(event)));
        Ok(())
    }
}

fn e01_near(port: MessagePort) {
    let seen = seen(port, |port, log| {
        let object: Arc<dyn EventListener> = Arc::new(Says(log.clone()));
        let first = port.add_listener_object(MESSAGE, plain(), object.clone());
        assert_eq!(port.add_listener_object(MESSAGE, plain().once(), object.clone()), first);
        assert_eq!(port.add_listener_object(MESSAGE, plain().passive(), object), first);
    });
    assert_eq!(seen, ["the object: 0", "the object: 1"]);
}

between_two_ends!("delivered", e01_the_same_listener_twice_is_one, e01_near, posts_two);

fn e02_near(port: MessagePort) {
    let seen = seen(port, |port, log| {
        let controller = AbortController::new();
        controller.abort();
        let options = plain().signal(controller.signal());
        port.add_event_listener(MESSAGE, options, log.says("never"));
        port.add_event_listener(MESSAGE, plain(), log.text());
    });
    assert_eq!(seen, ["0", "1"]);
}

between_two_ends!("delivered", e02_with_an_aborted_signal_none_is_added, e02_near, posts_two);

fn e03_near(port: MessagePort) {
    let seen = seen(port, |port, log| {
        port.add_event_listener(MESSAGE, plain(), log.says("2"));
        port.add_event_listener(MESSAGE, plain().capture(), log.says("1"));
        port.add_event_listener(MESSAGE, plain(), log.says("3"));
    });
    assert_eq!(seen, ["1", "2", "3", "1", "2", "3"]);
}

between_two_ends!("delivered", e03_capturing_listeners_come_first, e03_near, posts_two);

fn e04_near(port: MessagePort) {
    let seen = seen(port, |port, log| {
        let inner = log.clone();
        port.add_event_listener(MESSAGE, plain().once(), move |event| {
            inner.note("adds");
            event.port().add_event_listener(MESSAGE, plain(), inner.text());
        });
    });
    assert_eq!(seen, ["adds", "1"]);
}

between_two_ends!("delivered", e04_added_meanwhile_it_hears_the_next_one, e04_near, posts_two);

fn e05_near(port: MessagePort) {
    let seen = seen(port, |port, log| {
        let victim = Arc::new(Mutex::new(None));
        let (inner, due) = (log.clone(), victim.clone());
        port.add_event_listener(MESSAGE, plain(), move |event| {
            let id = due.lock().expect("no thread panicked while holding it").expect("a listener");
            inner.note(format!("removes: {}", event.port().remove_event_listener(id)));
        });
        let id = port.add_event_listener(MESSAGE, plain(), log.says("never"));
        *victim.lock().expect("no thread panicked while holding it") = Some(id);
    });
    assert_eq!(seen, ["removes: true", "removes: false"]);
}

between_two_ends!("delivered", e05_removed_meanwhile_it_does_not_run, e05_near, posts_two);

fn e06_near(port: MessagePort) {
    let seen = seen(port, |port, log| {
        port.add_event_listener(MESSAGE, plain().once(), log.says("once"));
        port.add_event_listener(MESSAGE, plain(), log.text());
    });
    assert_eq!(seen, ["once", "0", "1"]);
}

between_two_ends!("delivered", e06_once_is_once, e06_near, posts_two);

fn e07_near(port: MessagePort) {
    let seen = seen(port, |port, log| {
        let hook = log.clone();
        port.on_listener_failure(move |failure, _| match failure {
            ListenerFailure::Error(error) => hook.note(error.to_string()),
            ListenerFailure::Panic(_) => hook.note("a panic"),
            _ => hook.note("something else"),
        });
        port.add_event_listener(MESSAGE, plain(), |_| Err::<(), _>("an error"));
        port.add_event_listener(MESSAGE, plain(), |_| std::panic::panic_any("on purpose"));
        port.add_event_listener(MESSAGE, plain(), log.text());
    });
    assert_eq!(seen, ["an error", "a panic", "0", "an error", "a panic", "1"]);
}

between_two_ends!("delivered", e07_a_failure_is_reported_and_starves_no_other, e07_near, posts_two);

fn e08_near(port: MessagePort) {
    let seen = seen(port, |port, log| {
        port.add_listener_object(MESSAGE, plain(), Arc::new(Says(log.clone())));
    });
    assert_eq!(seen, ["the object: 0", "the object: 1"]);
}

between_two_ends!("delivered", e08_an_object_is_called, e08_near, posts_two);

/// The flags are of one event: the next message goes through.
fn e09_near(port: MessagePort) {
    let seen = seen(port, |port, log| {
        port.add_event_listener(MESSAGE, plain().capture().once(), |event| {
            event.stop_propagation();
        });
        port.add_event_listener(MESSAGE, plain().capture(), log.says("capturing"));
        port.add_event_listener(MESSAGE, plain(), |event| event.stop_immediate_propagation());
        port.add_event_listener(MESSAGE, plain(), log.says("never"));
        port.add_event_listener(MESSAGE, plain().capture(), log.text());
    });
    assert_eq!(seen, ["capturing", "0", "capturing", "1"]);
}

between_two_ends!("delivered", e09_stopping_is_for_one_event, e09_near, posts_two);

/// Events of the transport are not cancelable.
fn e10_near(port: MessagePort) {
    let seen = seen(port, |port, log| {
        for kind in [MESSAGE, "close"] {
            let inner = log.clone();
            port.add_event_listener(kind, plain(), move |event| {
                event.prevent_default();
                inner.note(format!("{:?}: {}", event.kind(), event.default_prevented()));
            });
        }
    });
    assert_eq!(seen, ["Message: false", "Message: false", "Close: false"]);
}

between_two_ends!("delivered", e10_what_is_not_cancelable_is_not_cancelled, e10_near, posts_two);

/// That an event is dispatched twice at once is forbidden by the compiler: see
/// `MessagePort::dispatch_event`.
fn e11_near(port: MessagePort) {
    let seen = seen(port, |port, log| {
        let inner = log.clone();
        port.add_event_listener(MESSAGE, plain(), move |event| {
            inner.note(format!("trusted: {}", event.is_trusted()));
            if event.is_trusted() {
                let own = event.port().dispatch_event(Event::new(MESSAGE));
                inner.note(format!("{own:?}"));
            }
        });
    });
    let one = ["trusted: true", "trusted: false", "Ok(true)"];
    assert_eq!(seen, [one, one].concat());
}

between_two_ends!("delivered", e11_events_of_the_program_are_not_trusted, e11_near, posts_two);

/// Without a tree there is one target, which the event names.
fn e12_near(port: MessagePort) {
    let seen = seen(port, |port, log| {
        let inner = log.clone();
        port.add_event_listener(MESSAGE, plain(), move |event| {
            event.port().post_text("to the one who posted").expect("room");
            let id = event.port_id().expect("a loop delivers it");
            let is_same = std::ptr::eq(event.port(), event.loop_port(id).expect("a port"));
            inner.note(format!("the same port: {is_same}"));
        });
    });
    assert_eq!(seen, ["the same port: true"; 2]);
}

fn e12_far(port: MessagePort) {
    for number in 0..2 {
        post_numbers(&port, number..number + 1);
        assert_eq!(receive_text(&port), "to the one who posted");
    }
}

between_two_ends!("delivered", e12_an_event_names_its_port, e12_near, e12_far);

fn e13_near(port: MessagePort) {
    let seen = seen(port, |port, log| {
        let controller = AbortController::new();
        for word in ["one", "two"] {
            let options = plain().signal(controller.signal());
            port.add_event_listener(MESSAGE, options, log.says(word));
        }
        let inner = log.clone();
        port.add_event_listener(MESSAGE, plain().once(), move |event| {
            controller.abort();
            event.port().add_event_listener(MESSAGE, plain(), inner.says("added again"));
        });
    });
    assert_eq!(seen, ["one", "two", "added again"]);
}

between_two_ends!("delivered", e13_a_signal_removes_all_of_its_listeners, e13_near, posts_two);

fn e14_near(port: MessagePort) {
    let seen = seen(port, |port, log| {
        port.on_message(log.says("replaced"));
        port.add_event_listener(MESSAGE, plain(), log.says("a listener"));
        port.on_message(log.says("the handler"));
        let inner = log.clone();
        port.add_event_listener(MESSAGE, plain().once(), move |event| {
            event.port().clear_handler(MESSAGE);
            event.port().on_message(inner.says("at the end"));
        });
        port.add_event_listener(MESSAGE, plain(), log.says("the last listener"));
    });
    let first = ["the handler", "a listener", "the last listener"];
    assert_eq!(seen, [first, ["a listener", "the last listener", "at the end"]].concat());
}

between_two_ends!("delivered", e14_a_handler_has_the_place_of_the_first_one, e14_near, posts_two);
