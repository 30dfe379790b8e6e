//! Event targets that are no ports: the clauses about listeners, once more.

use crate::Log;
use messageport::{
    AbortController, Event, EventListener, EventTarget, ListenerFailure, ListenerId,
    ListenerOptions,
};
use std::error::Error;
use std::panic::panic_any;
use std::sync::{Arc, Mutex};
use std::thread;

fn add(
    target: &EventTarget,
    options: ListenerOptions,
    log: &Log,
    word: &'static str,
) -> ListenerId {
    target.add_event_listener("ping", options, log.says(word))
}

fn ping(target: &EventTarget) -> bool {
    target.dispatch_event(Event::new("ping").cancelable()).expect("a fresh event")
}

#[test]
fn listeners_are_called_in_the_order_of_the_web() {
    let (target, log) = (EventTarget::new(), Log::new());
    let plain = ListenerOptions::new;
    add(&target, plain(), &log, "first");
    target.set_handler("ping", log.says("handler"));
    add(&target, plain(), &log, "second");
    add(&target, plain().capture(), &log, "capturing");
    add(&target, plain().once(), &log, "once");
    target.add_event_listener("pong", plain(), log.says("another type"));
    assert!(ping(&target));
    assert_eq!(log.take(), ["capturing", "first", "handler", "second", "once"]);
    target.set_handler("ping", log.says("replaced"));
    assert!(ping(&target));
    assert_eq!(log.take(), ["capturing", "first", "replaced", "second"]);
    target.clear_handler("ping");
    target.set_handler("ping", log.says("at the end"));
    assert!(ping(&target));
    assert_eq!(log.take(), ["capturing", "first", "second", "at the end"]);
}

#[test]
fn listeners_are_removed_by_their_id_their_signal_and_as_objects() {
    struct Object(Log);
    impl EventListener for Object {
        fn handle_event(&self, _: &Event<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
            self.0.note("object");
            Ok(())
        }
    }
    let (target, log, controller) = (EventTarget::new(), Log::new(), AbortController::new());
    let id = add(&target, ListenerOptions::new(), &log, "by id");
    let signal = ListenerOptions::new().signal(controller.signal());
    add(&target, signal, &log, "by signal");
    let object: Arc<dyn EventListener> = Arc::new(Object(log.clone()));
    for _ in 0..2 {
        target.add_listener_object("ping", ListenerOptions::new(), object.clone());
    }
    ping(&target);
    assert_eq!(log.take(), ["by id", "by signal", "object"]);
    assert!(target.remove_event_listener(id) && !target.remove_event_listener(id));
    controller.abort();
    assert!(target.remove_listener_object("ping", &object, false));
    assert!(!target.remove_listener_object("ping", &object, false));
    ping(&target);
    assert_eq!(log.take(), [""; 0]);
}

#[test]
fn an_event_is_cancelled_and_stopped() {
    let (target, log) = (EventTarget::new(), Log::new());
    target.add_event_listener("ping", ListenerOptions::new(), |event| event.prevent_default());
    assert!(!ping(&target));
    let passive = ListenerOptions::new().passive();
    let target = EventTarget::new();
    target.add_event_listener("ping", passive, |event| event.prevent_default());
    assert!(ping(&target));
    target.set_handler("ping", |event| event.stop_immediate_propagation());
    add(&target, ListenerOptions::new(), &log, "never");
    assert!(ping(&target));
    assert_eq!(log.take(), [""; 0]);
}

#[test]
fn an_event_knows_its_target_and_no_port() {
    let (target, log) = (Arc::new(Mutex::new(EventTarget::new())), Log::new());
    let inner = log.clone();
    let here = target.lock().expect("no thread panicked while holding it");
    let address = std::ptr::from_ref(&*here).addr();
    here.set_handler("ping", move |event| {
        let found = event.event_target().map(|target| std::ptr::from_ref(target).addr());
        let detail: Option<&u32> = event.detail();
        let is_alone = event.port_id().is_none() && event.broadcast_channel().is_none();
        inner.note(format!("{} {detail:?} {is_alone}", found == Some(address)));
        assert!(!event.defer(|_| {}) && !event.is_trusted());
    });
    here.dispatch_event(Event::new("ping").with_detail(&7u32)).expect("a fresh event");
    assert_eq!(log.take(), ["true Some(7) true"]);
    assert!(Event::new("ping").event_target().is_none());
}

/// A listener may dispatch at its own target, and add and remove listeners.
#[test]
fn a_listener_changes_its_own_target() {
    let (target, log) = (EventTarget::new(), Log::new());
    let inner = log.clone();
    target.add_event_listener("ping", ListenerOptions::new().once(), move |event| {
        let target = event.event_target().expect("its target");
        add(target, ListenerOptions::new(), &inner, "added");
        ping(target);
        inner.note("outer");
    });
    ping(&target);
    assert_eq!(log.take(), ["added", "outer"], "not for the event that it was added in");
}

#[test]
fn a_failure_is_reported_with_its_event_and_the_others_run() {
    let (target, log) = (EventTarget::new(), Log::new());
    let inner = log.clone();
    target.on_listener_failure(move |failure, event| {
        let is_panic = matches!(failure, ListenerFailure::Panic(_));
        inner.note(format!("{:?} {is_panic} {}", event.kind(), event.event_target().is_some()));
    });
    target.add_event_listener("ping", ListenerOptions::new(), |_| Err::<(), _>("an error"));
    target.add_event_listener("ping", ListenerOptions::new(), |_| {
        panic_any("on purpose");
    });
    add(&target, ListenerOptions::new(), &log, "runs");
    ping(&target);
    let failed = |is_panic| format!("Other(\"ping\") {is_panic} true");
    assert_eq!(log.take(), [failed(false), failed(true), "runs".to_owned()]);
}

#[test]
fn a_target_goes_to_another_thread_with_its_listeners() {
    let (target, log) = (EventTarget::new(), Log::new());
    add(&target, ListenerOptions::new(), &log, "elsewhere");
    thread::spawn(move || ping(&target)).join().expect("no panic");
    assert_eq!(log.take(), ["elsewhere"]);
}
