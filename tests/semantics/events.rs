//! Clauses E, without the handlers' slots: listeners, and how an event reaches them.

use crate::{Log, channel, logged, loop_of, settle};
use messageport::{
    AbortController, Event, EventListener, EventType, ListenerFailure, ListenerId, ListenerOptions,
    MessagePort,
};
use std::cell::Cell;
use std::error::Error;
use std::sync::{Arc, Mutex};

/// A port to dispatch at, and what its listeners do.
fn target() -> (MessagePort, Log) {
    let port = channel().port1;
    let log = Log::new();
    log.watch_failures(&port);
    (port, log)
}

/// Dispatches a `ping`, and says whether no listener cancelled it.
fn ping(port: &MessagePort) -> bool {
    port.dispatch_event(Event::new("ping")).expect("a fresh event")
}

fn plain() -> ListenerOptions {
    ListenerOptions::new()
}

/// Where a listener finds a name that is known only later.
type Later = Arc<Mutex<Option<ListenerId>>>;

fn remove(event: &Event<'_>, later: &Later) -> bool {
    let id = later.lock().expect("no thread panicked while holding it").expect("a listener");
    event.port().remove_event_listener(id)
}

fn set(later: &Later, id: ListenerId) {
    *later.lock().expect("no thread panicked while holding it") = Some(id);
}

/// A listener that is an object.
struct Says(&'static str, Log);

impl EventListener for Says {
    fn handle_event(&self, event: &Event<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.1.note(self.0);
        match event.detail::<Cell<bool>>() {
            Some(fails) if fails.get() => Err("as it was asked to".into()),
            _ => Ok(()),
        }
    }
}

fn object(word: &'static str, log: &Log) -> Arc<dyn EventListener> {
    Arc::new(Says(word, log.clone()))
}

/// Two closures are never the same; an object is itself.
#[test]
fn e01_a_listener_added_twice_is_one() {
    let (port, log) = target();
    let object = object("object", &log);
    let first = port.add_listener_object("ping", plain(), object.clone());
    let signal = AbortController::new();
    let others = [plain().once(), plain().passive(), plain().signal(signal.signal())];
    for options in others {
        assert_eq!(port.add_listener_object("ping", options, object.clone()), first);
    }
    signal.abort();
    assert!(ping(&port) && ping(&port), "the first options hold");
    assert_eq!(log.take(), ["object"; 2]);

    let capturing = port.add_listener_object("ping", plain().capture(), object.clone());
    let other_type = port.add_listener_object("pong", plain(), object.clone());
    assert!(capturing != first && other_type != first && capturing != other_type);
    ping(&port);
    assert_eq!(log.take(), ["object"; 2]);
    assert!(port.remove_listener_object("ping", &object, true));
    assert!(!port.remove_listener_object("ping", &object, true));
    ping(&port);
    assert_eq!(log.take(), ["object"]);
    port.add_event_listener("pong", plain(), log.says("a closure"));
    port.add_event_listener("pong", plain(), log.says("a closure"));
    port.dispatch_event(Event::new("pong")).expect("a fresh event");
    assert_eq!(log.take(), ["object", "a closure", "a closure"]);
}

/// That there is no callback cannot be said here.
#[test]
fn e02_a_listener_whose_signal_has_aborted_is_not_added() {
    let (port, log) = target();
    let controller = AbortController::new();
    controller.abort();
    assert!(controller.signal().is_aborted());
    let options = plain().signal(controller.signal());
    let id = port.add_event_listener("ping", options.clone(), log.says("never"));
    let object = object("never", &log);
    port.add_listener_object("ping", options, object.clone());
    ping(&port);
    assert_eq!(log.take(), [""; 0]);
    assert!(!port.remove_event_listener(id), "it is not there");
    assert!(!port.remove_listener_object("ping", &object, false));
}

#[test]
fn e03_capturing_listeners_come_first_and_each_kind_in_its_order() {
    let (port, log) = target();
    port.add_event_listener("ping", plain(), log.says("1"));
    port.add_event_listener("ping", plain().capture(), log.says("2, capturing"));
    port.add_event_listener("ping", plain(), log.says("3"));
    port.add_event_listener("ping", plain().capture(), log.says("4, capturing"));
    port.add_event_listener("pong", plain(), log.says("another type"));
    ping(&port);
    assert_eq!(log.take(), ["2, capturing", "4, capturing", "1", "3"]);
}

#[test]
fn e04_listeners_added_during_a_dispatch_do_not_run_for_it() {
    let (port, log) = target();
    let inner = log.clone();
    port.add_event_listener("ping", plain().once(), move |event| {
        inner.note("adds");
        event.port().add_event_listener("ping", plain(), inner.says("added"));
        event.port().add_event_listener("ping", plain().capture(), inner.says("too late"));
    });
    port.add_event_listener("ping", plain(), log.says("last"));
    ping(&port);
    assert_eq!(log.take(), ["adds", "last"]);
    ping(&port);
    assert_eq!(log.take(), ["too late", "last", "added"]);
}

#[test]
fn e04_the_list_is_taken_once_per_phase() {
    let (port, log) = target();
    let inner = log.clone();
    port.add_event_listener("ping", plain().capture().once(), move |event| {
        event.port().add_event_listener("ping", plain(), inner.says("of the next phase"));
        event.port().add_event_listener("ping", plain().capture(), inner.says("of this phase"));
    });
    ping(&port);
    assert_eq!(log.take(), ["of the next phase"]);
    ping(&port);
    assert_eq!(log.take(), ["of this phase", "of the next phase"]);
}

#[test]
fn e05_listeners_removed_during_a_dispatch_do_not_run_any_more() {
    let (port, log) = target();
    let (later, inner) = (Later::default(), log.clone());
    let object = object("an object", &log);
    let (victim, other_victim) = (later.clone(), object.clone());
    let first = port.add_event_listener("ping", plain(), move |event| {
        inner.note(format!("removes: {}", remove(event, &victim)));
        let removed = event.port().remove_listener_object("ping", &other_victim, false);
        inner.note(format!("removes the object: {removed}"));
    });
    set(&later, port.add_event_listener("ping", plain(), log.says("removed")));
    port.add_listener_object("ping", plain(), object);
    port.add_event_listener("ping", plain(), log.says("stays"));
    ping(&port);
    assert_eq!(log.take(), ["removes: true", "removes the object: true", "stays"]);
    ping(&port);
    assert_eq!(log.take(), ["removes: false", "removes the object: false", "stays"]);
    assert!(port.remove_event_listener(first) && !port.remove_event_listener(first));
}

#[test]
fn e05_a_listener_may_remove_itself_and_come_back() {
    let (port, log) = target();
    let (later, inner) = (Later::default(), log.clone());
    let own = later.clone();
    let id = port.add_event_listener("ping", plain(), move |event| {
        inner.note(format!("goes: {}", remove(event, &own)));
        let again = event.port().add_event_listener("ping", plain(), inner.says("again"));
        set(&own, again);
    });
    set(&later, id);
    port.add_event_listener("ping", plain(), log.says("the other"));
    ping(&port);
    assert_eq!(log.take(), ["goes: true", "the other"]);
    ping(&port);
    assert_eq!(log.take(), ["the other", "again"]);
}

#[test]
fn e06_once_is_removed_before_its_call() {
    let (port, log) = target();
    let (later, inner) = (Later::default(), log.clone());
    let own = later.clone();
    let id = port.add_event_listener("ping", plain().once(), move |event| {
        inner.note(format!("still there: {}", remove(event, &own)));
        ping(event.port());
        inner.note("back");
    });
    set(&later, id);
    port.add_event_listener("ping", plain(), log.says("the other"));
    ping(&port);
    assert_eq!(log.take(), ["still there: false", "the other", "back", "the other"]);
    ping(&port);
    assert_eq!(log.take(), ["the other"]);
}

#[test]
fn e06_a_listener_that_runs_once_may_be_added_again_from_inside() {
    let (port, log) = target();
    let object: Arc<Mutex<Option<Arc<dyn EventListener>>>> = Arc::default();
    let inner = log.clone();
    let says = self::object("the object", &log);
    *object.lock().expect("no thread panicked while holding it") = Some(says.clone());
    port.add_listener_object("ping", plain().once(), says);
    port.add_event_listener("ping", plain().once(), move |event| {
        let object =
            object.lock().expect("no thread panicked while holding it").take().expect("the object");
        event.port().add_listener_object("ping", plain(), object);
        inner.note("adds it again");
    });
    ping(&port);
    assert_eq!(log.take(), ["the object", "adds it again"]);
    assert!(ping(&port) && ping(&port));
    assert_eq!(log.take(), ["the object", "the object"]);
}

/// The web reports to the console; we report to a hook, an error as well as a panic.
#[test]
fn e07_a_listener_that_fails_is_reported_and_starves_no_other() {
    let port = channel().port1;
    let log = Log::new();
    let inner = log.clone();
    port.on_listener_failure(move |failure, _| match failure {
        ListenerFailure::Error(error) => inner.note(format!("error: {error}")),
        ListenerFailure::Panic(what) => {
            inner.note(format!("panic: {:?}", what.downcast_ref::<&str>()));
        }
        _ => inner.note("something else"),
    });
    port.add_event_listener("ping", plain(), |_| Err::<(), &str>("an error of its own"));
    port.add_event_listener("ping", plain(), |_| -> () { std::panic::panic_any("on purpose") });
    port.add_listener_object("ping", plain(), object("object", &log));
    port.add_event_listener("ping", plain(), log.says("last"));
    let fails = Cell::new(true);
    assert_eq!(port.dispatch_event(Event::new("ping").with_detail(&fails)), Ok(true));
    let expected = [
        "error: an error of its own",
        "panic: Some(\"on purpose\")",
        "object",
        "error: as it was asked to",
        "last",
    ];
    assert_eq!(log.take(), expected);
}

#[test]
fn e07_a_hook_that_panics_starves_no_listener() {
    let port = channel().port1;
    let log = Log::new();
    let inner = log.clone();
    port.on_listener_failure(move |_, _| {
        inner.note("the hook");
        std::panic::panic_any("the hook panics as well");
    });
    port.add_event_listener("ping", plain(), |_| Err::<(), &str>("first"));
    port.add_event_listener("ping", plain(), |_| Err::<(), &str>("second"));
    port.add_event_listener("ping", plain(), log.says("last"));
    ping(&port);
    assert_eq!(log.take(), ["the hook", "the hook", "last"]);
    // Without a hook of one's own.
    let port = channel().port1;
    port.add_event_listener("ping", plain(), |_| Err::<(), &str>("for standard error"));
    port.add_event_listener("ping", plain(), log.says("last"));
    ping(&port);
    assert_eq!(log.take(), ["last"]);
}

#[test]
fn e08_an_object_is_called_with_the_event() {
    let (port, log) = target();
    let object = object("object", &log);
    port.add_listener_object("ping", plain(), object.clone());
    ping(&port);
    assert_eq!(log.take(), ["object"]);
    assert!(Arc::strong_count(&object) > 1, "the port has it as well");
    drop(port);
    assert_eq!(Arc::strong_count(&object), 1);
}

#[test]
fn e09_stopping_ends_the_phase_or_all() {
    let (port, log) = target();
    let controller = AbortController::new();
    let capturing = || plain().capture().signal(controller.signal());
    port.add_event_listener("ping", capturing(), |event| event.stop_propagation());
    port.add_event_listener("ping", capturing(), log.says("of the same phase"));
    port.add_event_listener("ping", plain(), log.says("of the other phase"));
    ping(&port);
    assert_eq!(log.take(), ["of the same phase"]);
    controller.abort();

    port.add_event_listener("ping", plain(), |event| event.stop_propagation());
    port.add_event_listener("ping", plain(), log.says("behind"));
    ping(&port);
    assert_eq!(log.take(), ["of the other phase", "behind"], "there is no phase after this one");

    port.add_event_listener("ping", plain(), |event| event.stop_immediate_propagation());
    port.add_event_listener("ping", plain(), log.says("never"));
    ping(&port);
    assert_eq!(log.take(), ["of the other phase", "behind"]);
}

#[test]
fn e09_stopping_at_once_while_capturing_ends_both_phases() {
    let (port, log) = target();
    let capture = || plain().capture();
    port.add_event_listener("ping", capture(), |event| event.stop_immediate_propagation());
    port.add_event_listener("ping", capture(), log.says("of the same phase"));
    port.add_event_listener("ping", plain(), log.says("of the other phase"));
    ping(&port);
    assert_eq!(log.take(), [""; 0]);
}

/// Dispatching consumes an event, so a second dispatch with reset flags cannot be observed. An
/// event that was stopped before reaches no listener, as on the web.
#[test]
fn e09_an_event_that_was_stopped_before_reaches_no_listener() {
    let (port, log) = target();
    port.add_event_listener("ping", plain().capture(), log.says("capturing"));
    port.add_event_listener("ping", plain(), log.says("plain"));
    let event = Event::new("ping");
    event.stop_propagation();
    assert_eq!(port.dispatch_event(event), Ok(true));
    assert_eq!(log.take(), [""; 0]);
    ping(&port);
    assert_eq!(log.take(), ["capturing", "plain"]);
}

#[test]
fn e10_only_a_cancelable_event_is_cancelled_and_not_by_a_passive_listener() {
    let (port, log) = target();
    let inner = log.clone();
    let cancels = move |event: &Event<'_>| {
        event.prevent_default();
        inner.note(format!("{}", event.default_prevented()));
    };
    let cancelable = || Event::new("ping").cancelable();
    let passive = port.add_event_listener("ping", plain().passive(), cancels.clone());
    assert_eq!(port.dispatch_event(cancelable()), Ok(true));
    port.add_event_listener("ping", plain(), cancels);
    assert_eq!(port.dispatch_event(Event::new("ping")), Ok(true));
    assert_eq!(port.dispatch_event(cancelable()), Ok(false));
    assert_eq!(log.take(), ["false", "false", "false", "false", "true"]);
    assert!(port.remove_event_listener(passive));
    port.add_event_listener("ping", plain(), log.says("behind"));
    assert_eq!(port.dispatch_event(cancelable()), Ok(false));
    assert_eq!(log.take(), ["true", "behind"], "cancelling stops no listener");
}

/// A passive listener that dispatches has no say in the other event, and the other way round.
#[test]
fn e10_passive_is_said_of_one_listener_and_one_event() {
    let (port, log) = target();
    let inner = log.clone();
    port.add_event_listener("ping", plain().passive(), move |event| {
        let pong = Event::new("pong").cancelable();
        inner.note(format!("pong: {:?}", event.port().dispatch_event(pong)));
        event.prevent_default();
        inner.note(format!("ping: {}", event.default_prevented()));
    });
    port.add_event_listener("pong", plain(), |event| event.prevent_default());
    assert_eq!(port.dispatch_event(Event::new("ping").cancelable()), Ok(true));
    assert_eq!(log.take(), ["pong: Ok(false)", "ping: false"]);
}

/// To dispatch an event again while it is being dispatched, its owner would have to give it away
/// twice: the compiler forbids it.
#[test]
fn e11_an_event_of_the_program_is_not_trusted() {
    let channel = channel();
    let log = Log::new();
    let inner = log.clone();
    channel.port2.on_message(move |event| {
        inner.note(format!("{:?}, trusted: {}", event.kind(), event.is_trusted()));
    });
    assert_eq!(channel.port2.dispatch_event(Event::new("message")), Ok(true));
    channel.port1.post_text("by the transport").expect("room");
    let (mut event_loop, _) = loop_of(channel.port2);
    settle(&mut event_loop);
    assert_eq!(log.take(), ["Message, trusted: false", "Message, trusted: true"]);
}

#[test]
fn e11_another_event_may_be_dispatched_from_inside() {
    let (port, log) = target();
    let inner = log.clone();
    port.add_event_listener("ping", plain(), move |event| {
        inner.note("ping");
        event.port().add_event_listener("pong", plain().once(), inner.says("added inside"));
        let depth = event.detail::<Cell<u32>>().expect("a depth");
        depth.set(depth.get() + 1);
        if depth.get() < 3 {
            let again = Event::new("ping").with_detail(depth);
            inner.note(format!("{:?}", event.port().dispatch_event(again)));
        }
        event.port().dispatch_event(Event::new("pong")).expect("a fresh event");
    });
    port.add_event_listener("ping", plain(), log.says("behind"));
    let depth = Cell::new(0u32);
    let event = Event::new("ping").with_detail(&depth);
    assert_eq!(port.dispatch_event(event), Ok(true));
    let seen = log.take();
    assert_eq!(seen.iter().filter(|word| *word == "behind").count(), 3);
    assert_eq!(seen.iter().filter(|word| *word == "added inside").count(), 3);
    assert_eq!(seen[..4], ["ping", "ping", "ping", "added inside"]);
}

/// There is no tree, and so no phase to ask for, and the target is the current one.
#[test]
fn e12_the_port_is_the_target() {
    let pair = channel();
    let log = Log::new();
    let inner = log.clone();
    for options in [plain(), plain().capture()] {
        let inner = inner.clone();
        pair.port1.add_event_listener("ping", options, move |event| {
            let place = event.detail::<Cell<*const MessagePort>>().expect("a place");
            inner.note(format!("the target: {}", std::ptr::eq(event.port(), place.get())));
            inner.note(format!("{:?}", event.kind()));
        });
    }
    let place = Cell::new(&raw const pair.port1);
    pair.port1.dispatch_event(Event::new("ping").with_detail(&place)).expect("a fresh event");
    let own = "Other(\"ping\")";
    assert_eq!(log.take(), ["the target: true", own, "the target: true", own]);
    assert_eq!(*Event::new("ping").kind(), EventType::from("ping"));
}

#[test]
fn e13_a_signal_removes_all_its_listeners_at_once() {
    let (port, log) = target();
    let controller = AbortController::new();
    let options = plain().signal(controller.signal());
    let object = object("object", &log);
    port.add_event_listener("ping", options.clone(), log.says("one"));
    port.add_event_listener("pong", options.clone(), log.says("of another type"));
    let id = port.add_event_listener("ping", options.clone().capture(), log.says("two"));
    port.add_listener_object("ping", options, object.clone());
    port.add_event_listener("ping", plain(), log.says("free"));
    ping(&port);
    assert_eq!(log.take(), ["two", "one", "object", "free"]);
    std::thread::spawn(move || controller.abort()).join().expect("no panic");
    ping(&port);
    port.dispatch_event(Event::new("pong")).expect("a fresh event");
    assert_eq!(log.take(), ["free"]);
    assert!(!port.remove_event_listener(id));
    port.add_listener_object("ping", plain(), object);
    ping(&port);
    assert_eq!(log.take(), ["free", "object"], "it may be added again");
}

#[test]
fn e13_a_signal_that_aborts_during_a_dispatch_ends_it_for_those_that_are_due() {
    let (port, log) = target();
    let controller = AbortController::new();
    let signal = controller.signal().clone();
    port.add_event_listener("ping", plain(), move |_| controller.abort());
    port.add_event_listener("ping", plain().signal(&signal), log.says("aborted"));
    port.add_event_listener("ping", plain(), log.says("last"));
    ping(&port);
    assert_eq!(log.take(), ["last"]);
}

#[test]
fn messages_reach_listeners_by_the_same_rules() {
    let channel = channel();
    let (port, log) = logged(channel.port2);
    port.add_event_listener("message", plain().once(), log.says("once"));
    port.add_event_listener("message", plain().capture(), |event| {
        if event.message().is_some_and(|message| message.bytes() == b"stop") {
            event.stop_propagation();
        }
    });
    port.start();
    for word in ["one", "stop", "two"] {
        channel.port1.post_text(word).expect("room");
    }
    let (mut event_loop, _) = loop_of(port);
    settle(&mut event_loop);
    assert_eq!(log.take(), ["one", "once", "two"]);
}

// Listeners that come back when they are dropped.

thread_local! {
    /// The port that they come back to.
    static TARGET: Cell<Option<&'static MessagePort>> = const { Cell::new(None) };
}

/// Does something to the port when it is dropped: what a listener owns may have such a `Drop`.
struct ComesBack(fn(&MessagePort), Log);

impl Drop for ComesBack {
    fn drop(&mut self) {
        let port = TARGET.get().expect("a port");
        (self.0)(port);
        self.1.note("dropped");
    }
}

impl ComesBack {
    /// A listener that owns one.
    fn listener(self) -> impl Fn(&Event<'_>) + Send + 'static {
        move |_| self.1.note("called")
    }
}

/// Removed listeners are dropped while nothing of the list is borrowed, whichever call removes
/// them.
#[test]
fn a_listener_may_come_back_to_its_port_when_it_is_dropped() {
    let (port, log) = target();
    let port: &'static MessagePort = Box::leak(Box::new(port));
    TARGET.set(Some(port));
    let deeds: [fn(&MessagePort); 5] = [
        |port| _ = port.add_event_listener("other", plain(), |_| {}),
        |port| {
            let id = port.add_event_listener("other", plain(), |_| {});
            assert!(port.remove_event_listener(id));
        },
        |port| assert!(ping(port)),
        |port| port.on_close(|_| {}),
        |port| port.clear_handler("close"),
    ];
    for deed in deeds {
        let comes_back = || ComesBack(deed, log.clone()).listener();
        // Swept out by the next one that is added.
        let id = port.add_event_listener("ping", plain(), comes_back());
        assert!(port.remove_event_listener(id));
        let other = port.add_event_listener("pong", plain(), |_| {});
        assert_eq!(log.take(), ["dropped"]);
        assert!(port.remove_event_listener(other));
        // By the dispatch that has called it.
        port.add_event_listener("ping", plain().once(), comes_back());
        ping(port);
        assert_eq!(log.take(), ["called", "dropped"]);
        // By the handler that replaces it, and the one after.
        port.on_message_error(comes_back());
        port.on_message_error(|_| {});
        port.clear_handler("messageerror");
        port.on_message_error(|_| {});
        assert_eq!(log.take(), ["dropped"]);
    }
}

#[test]
fn a_failure_hook_may_come_back_to_its_port_when_it_is_dropped() {
    let (port, log) = target();
    let port: &'static MessagePort = Box::leak(Box::new(port));
    TARGET.set(Some(port));
    port.add_event_listener("ping", plain(), |_| Err::<(), _>("as it was asked to"));
    let fails: fn(&MessagePort) = |port| assert!(ping(port));
    let comes_back = ComesBack(fails, log.clone());
    port.on_listener_failure(move |_, _| comes_back.1.note("the first hook"));
    let (inner, _) = (log.clone(), ping(port));
    assert_eq!(log.take(), ["the first hook"]);
    port.on_listener_failure(move |_, _| inner.note("the second hook"));
    assert_eq!(log.take(), ["the second hook", "dropped"]);
}

/// A listener that only panics has no type that could be named.
#[test]
fn e07_a_listener_that_never_returns_is_a_listener() {
    let (port, log) = target();
    port.add_event_listener("ping", plain(), |_| std::panic::panic_any("never returns"));
    port.add_event_listener("ping", plain(), log.says("the others run"));
    ping(&port);
    assert_eq!(log.take(), ["Panic(Any { .. })", "the others run"]);
}
