//! Listeners, and how an event reaches them: the DOM's algorithms, on one target without a tree.
//!
//! A listener may add, remove and dispatch from inside itself. So the list only grows while a
//! dispatch runs: a listener removed meanwhile is marked, and swept out when no dispatch runs.

use crate::error::{AsIoError, CloseReason, MessageError, into_io_error};
use crate::port::MessagePort;
use crate::port::event::MessageEvent;
use crate::port::listener_result::IntoListenerResult;
use crate::port::message::Message;
use elsa::FrozenVec;
use std::any::Any;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The type of an event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventType {
    /// A message has arrived.
    Message,
    /// A message has arrived that is not of the declared type.
    MessageError,
    /// The peer closed its port, dropped it, or died. Raised once, after the last message.
    Close,
    /// An event type of the program's own.
    Other(Cow<'static, str>),
}

impl From<&'static str> for EventType {
    /// Converts `message`, `messageerror`, `close`, or a name of the program's own.
    fn from(name: &'static str) -> EventType {
        match name {
            "message" => EventType::Message,
            "messageerror" => EventType::MessageError,
            "close" => EventType::Close,
            other => EventType::Other(Cow::Borrowed(other)),
        }
    }
}

/// What listeners are called with.
///
/// DOM: [`Event`](https://dom.spec.whatwg.org/#interface-event).
pub struct Event<'e> {
    kind: EventType,
    detail: Detail<'e>,
    is_cancelable: bool,
    is_trusted: bool,
    port: Option<&'e MessagePort>,
    /// What it is delivered to, if that is not a port.
    host: Option<&'e dyn Any>,
    scope: Option<&'e dyn Scope>,
    flags: Flags,
}

enum Detail<'e> {
    Nothing,
    Message(&'e MessageEvent<'e>),
    Broadcast(&'e Message),
    Error(&'e MessageError),
    Close(CloseReason),
    Own(&'e dyn Any),
}

#[derive(Default)]
struct Flags {
    is_dispatched: Cell<bool>,
    is_stopped: Cell<bool>,
    is_stopped_at_once: Cell<bool>,
    is_canceled: Cell<bool>,
    is_in_passive: Cell<bool>,
}

/// What an event loop lends to a handler.
pub(crate) trait Scope {
    fn port(&self, id: u64) -> Option<&MessagePort>;
    fn ids(&self) -> Vec<u64>;
    fn served(&self) -> u64;
    fn defer(&self, action: Box<dyn Any>);
}

impl<'e> Event<'e> {
    /// Creates an event of the program's own, to be dispatched by [`MessagePort::dispatch_event`].
    pub fn new(kind: impl Into<EventType>) -> Event<'e> {
        Event {
            kind: kind.into(),
            detail: Detail::Nothing,
            is_cancelable: false,
            is_trusted: false,
            port: None,
            host: None,
            scope: None,
            flags: Flags::default(),
        }
    }

    /// Lets listeners cancel the event.
    #[must_use]
    pub fn cancelable(self) -> Event<'e> {
        Event { is_cancelable: true, ..self }
    }

    /// Attaches a value for the listeners.
    #[must_use]
    pub fn with_detail(self, detail: &'e dyn Any) -> Event<'e> {
        Event { detail: Detail::Own(detail), ..self }
    }

    pub(crate) fn of_transport(
        kind: EventType,
        port: &'e MessagePort,
        scope: Option<&'e dyn Scope>,
    ) -> Event<'e> {
        Event { is_trusted: true, port: Some(port), scope, ..Event::new(kind) }
    }

    pub(crate) fn with_message(self, message: &'e MessageEvent<'e>) -> Event<'e> {
        Event { detail: Detail::Message(message), ..self }
    }

    /// An event that the transport delivers to something other than a port.
    pub(crate) fn of_host(kind: EventType, host: &'e dyn Any) -> Event<'e> {
        Event { is_trusted: true, ..Event::new(kind).hosted(host) }
    }

    pub(crate) fn hosted(self, host: &'e dyn Any) -> Event<'e> {
        Event { host: Some(host), ..self }
    }

    pub(crate) fn host(&self) -> Option<&'e dyn Any> {
        self.host
    }

    pub(crate) fn with_broadcast(self, message: &'e Message) -> Event<'e> {
        Event { detail: Detail::Broadcast(message), ..self }
    }

    pub(crate) fn with_error(self, error: &'e MessageError) -> Event<'e> {
        Event { detail: Detail::Error(error), ..self }
    }

    pub(crate) fn with_reason(self, reason: CloseReason) -> Event<'e> {
        Event { detail: Detail::Close(reason), ..self }
    }

    pub(crate) fn at(self, port: &'e MessagePort) -> Event<'e> {
        Event { port: Some(port), ..self }
    }

    pub(crate) fn scope(&self) -> Option<&'e dyn Scope> {
        self.scope
    }

    /// The type of the event.
    pub fn kind(&self) -> &EventType {
        &self.kind
    }

    /// The message, if this is one that came through a port. For one of a
    /// [`BroadcastChannel`](crate::BroadcastChannel) use [`broadcast`](Self::broadcast).
    pub fn message(&self) -> Option<&'e MessageEvent<'e>> {
        if let Detail::Message(message) = self.detail { Some(message) } else { None }
    }

    /// The message, if this is one of a [`BroadcastChannel`](crate::BroadcastChannel).
    pub fn broadcast(&self) -> Option<&'e Message> {
        if let Detail::Broadcast(message) = self.detail { Some(message) } else { None }
    }

    /// What is wrong with the message, if this is a `messageerror`.
    pub fn message_error(&self) -> Option<&'e MessageError> {
        if let Detail::Error(error) = self.detail { Some(error) } else { None }
    }

    /// How the peer ended, if this is a `close`.
    pub fn close_reason(&self) -> Option<CloseReason> {
        if let Detail::Close(reason) = self.detail { Some(reason) } else { None }
    }

    /// The value attached to an event of the program's own.
    pub fn detail<T: Any>(&self) -> Option<&'e T> {
        if let Detail::Own(detail) = self.detail { detail.downcast_ref() } else { None }
    }

    /// The port that the event is delivered to or dispatched at.
    ///
    /// # Panics
    /// If the program's own event is not being dispatched, or if it is an event of a
    /// [`BroadcastChannel`](crate::BroadcastChannel).
    pub fn port(&self) -> &'e MessagePort {
        self.port.expect("an event of a broadcast channel, or not being dispatched, has no port")
    }

    /// Whether the transport made the event, not the program.
    pub fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// Cancels the event, if it is cancelable and the listener is not passive.
    pub fn prevent_default(&self) {
        if self.is_cancelable && !self.flags.is_in_passive.get() {
            self.flags.is_canceled.set(true);
        }
    }

    /// Whether the event was cancelled.
    pub fn default_prevented(&self) -> bool {
        self.flags.is_canceled.get()
    }

    /// Called in a capturing listener: listeners that do not capture are not called.
    pub fn stop_propagation(&self) {
        self.flags.is_stopped.set(true);
    }

    /// Prevents all further listeners from being called.
    pub fn stop_immediate_propagation(&self) {
        self.flags.is_stopped.set(true);
        self.flags.is_stopped_at_once.set(true);
    }
}

impl fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// A listener as an object.
///
/// DOM: [`EventListener`](https://dom.spec.whatwg.org/#callbackdef-eventlistener).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a listener object",
    note = "implement `EventListener` for it, or give a closure to `add_event_listener`"
)]
pub trait EventListener: Send + Sync {
    /// Called with each event of its type.
    ///
    /// # Errors
    /// The listener's own error. It is reported; the other listeners are called nevertheless.
    fn handle_event(
        &self,
        event: &Event<'_>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// How a listener failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum ListenerFailure {
    /// It returned an error.
    Error(Box<dyn std::error::Error + Send + Sync>),
    /// It panicked, with this payload.
    Panic(Box<dyn Any + Send>),
}

/// How a listener is to be called.
#[derive(Clone, Debug, Default)]
pub struct ListenerOptions {
    once: bool,
    capture: bool,
    passive: bool,
    signal: Option<AbortSignal>,
}

impl ListenerOptions {
    /// The default: called at every event of its type, after the capturing listeners.
    pub fn new() -> ListenerOptions {
        ListenerOptions::default()
    }

    /// Removes the listener before its first call.
    #[must_use]
    pub fn once(self) -> ListenerOptions {
        ListenerOptions { once: true, ..self }
    }

    /// Calls the listener before those that do not capture.
    #[must_use]
    pub fn capture(self) -> ListenerOptions {
        ListenerOptions { capture: true, ..self }
    }

    /// Promises that the listener does not cancel events.
    #[must_use]
    pub fn passive(self) -> ListenerOptions {
        ListenerOptions { passive: true, ..self }
    }

    /// Removes the listener when the signal's controller aborts.
    #[must_use]
    pub fn signal(self, signal: &AbortSignal) -> ListenerOptions {
        ListenerOptions { signal: Some(signal.clone()), ..self }
    }
}

/// Removes, all at once, the listeners that were added with its signal.
///
/// DOM: [`AbortController`](https://dom.spec.whatwg.org/#interface-abortcontroller).
#[derive(Clone, Debug, Default)]
pub struct AbortController {
    signal: AbortSignal,
}

/// The signal that listeners are added with; see [`AbortController`].
#[derive(Clone, Debug, Default)]
pub struct AbortSignal {
    is_aborted: Arc<AtomicBool>,
}

impl AbortController {
    /// Creates a controller that has not aborted.
    pub fn new() -> AbortController {
        AbortController::default()
    }

    /// The signal to add listeners with.
    pub fn signal(&self) -> &AbortSignal {
        &self.signal
    }

    /// Aborts, from any thread: its listeners are not called any more.
    pub fn abort(&self) {
        // Relaxed: a listener that is running at this moment runs to its end.
        self.signal.is_aborted.store(true, Ordering::Relaxed);
    }
}

impl AbortSignal {
    /// Whether the controller has aborted.
    pub fn is_aborted(&self) -> bool {
        self.is_aborted.load(Ordering::Relaxed)
    }
}

/// Identifies a listener, for its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(u64);

type Callback =
    Box<dyn Fn(&Event<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + Send>;
type Hook = Box<dyn Fn(&ListenerFailure) + Send>;

struct Entry {
    id: u64,
    /// Place among the others: that of the first one in its handler's slot, or its own.
    place: u64,
    kind: EventType,
    callback: Callback,
    /// The listener, if it is an object.
    object: Option<Arc<dyn EventListener>>,
    is_handler: bool,
    options: ListenerOptions,
    is_removed: Cell<bool>,
    /// The handler that replaced this one.
    successor: Cell<Option<usize>>,
}

impl Entry {
    fn is_live(&self) -> bool {
        let is_aborted = self.options.signal.as_ref().is_some_and(AbortSignal::is_aborted);
        !self.is_removed.get() && !is_aborted
    }
}

/// The listeners of one port.
#[derive(Default)]
pub(crate) struct EventTarget {
    entries: RefCell<FrozenVec<Box<Entry>>>,
    next: Cell<u64>,
    hook: RefCell<Option<Arc<std::sync::Mutex<Hook>>>>,
}

impl EventTarget {
    /// DOM: [add an event listener](https://dom.spec.whatwg.org/#add-an-event-listener).
    pub(crate) fn add(
        &self,
        kind: EventType,
        callback: Callback,
        object: Option<Arc<dyn EventListener>>,
        options: ListenerOptions,
    ) -> ListenerId {
        self.sweep();
        let entries = self.entries.borrow();
        if let Some(object) = &object {
            let same = |entry: &&Entry| {
                let is_same = entry.object.as_ref().is_some_and(|known| Arc::ptr_eq(known, object));
                is_same && entry.kind == kind && entry.options.capture == options.capture
            };
            if let Some(known) = entries.iter().filter(|entry| entry.is_live()).find(same) {
                return ListenerId(known.id);
            }
        }
        let id = self.number();
        let is_removed = options.signal.as_ref().is_some_and(AbortSignal::is_aborted);
        entries.push(Box::new(Entry {
            id,
            place: id,
            kind,
            callback,
            object,
            is_handler: false,
            options,
            is_removed: Cell::new(is_removed),
            successor: Cell::new(None),
        }));
        ListenerId(id)
    }

    /// Removes a listener, even one that is due in a running dispatch. Returns whether it was
    /// there.
    pub(crate) fn remove(&self, id: ListenerId) -> bool {
        let entries = self.entries.borrow();
        let found = entries.iter().find(|entry| entry.id == id.0 && entry.is_live());
        found.is_some_and(|entry| !entry.is_removed.replace(true))
    }

    /// Removes the listener that is this object.
    pub(crate) fn remove_object(
        &self,
        kind: &EventType,
        object: &Arc<dyn EventListener>,
        capture: bool,
    ) -> bool {
        let entries = self.entries.borrow();
        let found = entries.iter().filter(|entry| entry.is_live()).find(|entry| {
            let is_same = entry.object.as_ref().is_some_and(|known| Arc::ptr_eq(known, object));
            is_same && entry.kind == *kind && entry.options.capture == capture
        });
        found.is_some_and(|entry| !entry.is_removed.replace(true))
    }

    /// Sets the handler of a type. It is placed when the slot was empty; a handler that replaces
    /// another one keeps that place.
    ///
    /// HTML: [event handlers](https://html.spec.whatwg.org/#event-handler-attributes).
    pub(crate) fn set_handler(&self, kind: EventType, callback: Option<Callback>) {
        self.sweep();
        let entries = self.entries.borrow();
        let present =
            entries.iter().find(|entry| entry.is_handler && entry.kind == kind && entry.is_live());
        let Some(callback) = callback else {
            if let Some(entry) = present {
                entry.is_removed.set(true);
            }
            return;
        };
        let id = self.number();
        if let Some(entry) = present {
            entry.is_removed.set(true);
            entry.successor.set(Some(entries.len()));
        }
        entries.push(Box::new(Entry {
            id,
            place: present.map_or(id, |entry| entry.place),
            kind,
            callback,
            object: None,
            is_handler: true,
            options: ListenerOptions::default(),
            is_removed: Cell::new(false),
            successor: Cell::new(None),
        }));
    }

    /// Sets the hook that is called with listeners' failures.
    pub(crate) fn set_hook(&self, hook: Hook) {
        let former = self.hook.replace(Some(Arc::new(std::sync::Mutex::new(hook))));
        // What it owns may come back here when it is dropped.
        drop(former);
    }

    /// Calls the listeners. Returns false if one of them cancelled the event; an error if the event
    /// is being dispatched already.
    ///
    /// DOM: [dispatch](https://dom.spec.whatwg.org/#concept-event-dispatch).
    pub(crate) fn dispatch(&self, event: &Event<'_>) -> Result<bool, InvalidState> {
        if event.flags.is_dispatched.replace(true) {
            return Err(InvalidState);
        }
        for capture in [true, false] {
            if !event.flags.is_stopped.get() {
                self.invoke(event, capture);
            }
        }
        event.flags.is_dispatched.set(false);
        event.flags.is_stopped.set(false);
        event.flags.is_stopped_at_once.set(false);
        self.sweep();
        Ok(!event.flags.is_canceled.get())
    }

    /// DOM: [inner invoke](https://dom.spec.whatwg.org/#concept-event-listener-inner-invoke).
    fn invoke(&self, event: &Event<'_>, capture: bool) {
        let entries = self.entries.borrow();
        let mut due: Vec<(u64, usize)> = entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.kind == event.kind && entry.options.capture == capture)
            .filter(|(_, entry)| entry.is_live())
            .map(|(index, entry)| (entry.place, index))
            .collect();
        due.sort_unstable();
        for (_, index) in due {
            let mut entry = &entries[index];
            while let Some(successor) = entry.successor.get() {
                entry = &entries[successor];
            }
            if !entry.is_live() {
                continue;
            }
            if entry.options.once {
                entry.is_removed.set(true);
            }
            event.flags.is_in_passive.set(entry.options.passive);
            let outcome = catch_unwind(AssertUnwindSafe(|| (entry.callback)(event)));
            event.flags.is_in_passive.set(false);
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.report(&ListenerFailure::Error(error)),
                Err(panic) => self.report(&ListenerFailure::Panic(panic)),
            }
            if event.flags.is_stopped_at_once.get() {
                return;
            }
        }
    }

    fn report(&self, failure: &ListenerFailure) {
        let hook = self.hook.borrow().clone();
        match (hook, failure) {
            (Some(hook), _) => {
                // A hook that fails, or that is called from inside itself, is skipped.
                if let Ok(hook) = hook.try_lock() {
                    let _ = catch_unwind(AssertUnwindSafe(|| hook(failure)));
                }
            }
            (None, ListenerFailure::Error(error)) => {
                // Not `eprintln`, which panics where standard error is broken.
                let _ = writeln!(io::stderr(), "messageport: a listener has failed: {error}");
            }
            // The panic has printed its message by itself.
            (None, ListenerFailure::Panic(_)) => {}
        }
    }

    /// Drops removed listeners, unless a dispatch runs.
    fn sweep(&self) {
        let Ok(mut entries) = self.entries.try_borrow_mut() else { return };
        if entries.iter().all(|entry| entry.is_live()) {
            return;
        }
        let all = std::mem::take(entries.as_mut());
        let (live, dead): (Vec<_>, Vec<_>) = all.into_iter().partition(|entry| entry.is_live());
        *entries.as_mut() = live;
        drop(entries);
        // What they own may come back here when it is dropped.
        drop(dead);
    }

    fn number(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }
}

/// The event is already being dispatched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the event is being dispatched already, which it can be once at a time: dispatch a new one"
)]
pub struct InvalidState;

impl AsIoError for InvalidState {
    fn kind(&self) -> std::io::ErrorKind {
        std::io::ErrorKind::ResourceBusy
    }
}

into_io_error!(InvalidState);

/// A callback as the target keeps it.
pub(crate) fn callback<O: IntoListenerResult>(
    listener: impl Fn(&Event<'_>) -> O + Send + 'static,
) -> Callback {
    Box::new(move |event| listener(event).into_result())
}

impl fmt::Debug for EventTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.entries.try_borrow().map_or(0, |entries| entries.len());
        f.debug_struct("EventTarget").field("listeners", &count).finish_non_exhaustive()
    }
}
