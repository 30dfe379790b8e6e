//! Events and their listeners: the words in which a program speaks of them. How an event reaches
//! its listeners is in [`target`](crate::port::target).

use crate::error::{AsIoError, CloseReason, MessageError, into_io_error};
use crate::port::MessagePort;
use crate::port::delivery::LoopEvent;
use crate::port::event::MessageEvent;
use crate::port::message::Message;
use crate::wire::label::PortLabels;
use std::any::Any;
use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
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
    /// The peer closed its port, dropped it, or died, while messages are unread on a port that is
    /// not started. Raised once; `Close` follows after the last message. The web has no such event.
    PeerGone,
    /// An event type of the program's own.
    Other(Cow<'static, str>),
}

impl From<&'static str> for EventType {
    /// Converts `message`, `messageerror`, `close`, `peergone`, or a name of the program's own.
    fn from(name: &'static str) -> EventType {
        match name {
            "message" => EventType::Message,
            "messageerror" => EventType::MessageError,
            "close" => EventType::Close,
            "peergone" => EventType::PeerGone,
            other => EventType::Other(Cow::Borrowed(other)),
        }
    }
}

/// An event, as it is passed to listeners.
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
    pub(super) flags: Flags,
}

enum Detail<'e> {
    Nothing,
    Message(&'e MessageEvent<'e>),
    Broadcast(&'e Message),
    Error(&'e MessageError),
    Close(CloseReason),
    Own(&'e dyn Any),
}

/// What a dispatch and its listeners note about an event.
#[derive(Default)]
pub(super) struct Flags {
    pub is_dispatched: Cell<bool>,
    pub is_stopped: Cell<bool>,
    pub is_stopped_at_once: Cell<bool>,
    pub is_canceled: Cell<bool>,
    pub is_in_passive: Cell<bool>,
}

/// What an event loop gives a handler access to.
pub(crate) trait Scope {
    fn port(&self, id: u64) -> Option<&MessagePort>;
    fn ids(&self) -> Vec<u64>;
    /// `None` if it is no port.
    fn served(&self) -> Option<u64>;
    /// Whether the port that is served has a handler of the loop.
    fn has_handler(&self) -> bool;
    /// Gives an event to that handler, which is called later.
    fn hand_over(&self, event: LoopEvent);
    fn defer(&self, action: Box<dyn Any>);
    fn has_deferred(&self) -> bool;
}

impl<'e> Event<'e> {
    /// Creates an event that the program dispatches with [`MessagePort::dispatch_event`], or at an
    /// [`EventTarget`](crate::EventTarget).
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

    pub(crate) fn within(self, scope: Option<&'e dyn Scope>) -> Event<'e> {
        Event { scope, ..self }
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

    /// The labels of its port, if it has both a port and labels.
    pub(super) fn labels(&self) -> Option<PortLabels> {
        self.port.map(MessagePort::labels).filter(|labels| !labels.is_empty())
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

    /// Why the conversation is over, if this is a `close` or `peergone`.
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
    /// [`BroadcastChannel`](crate::BroadcastChannel) or [`EventTarget`](crate::EventTarget).
    pub fn port(&self) -> &'e MessagePort {
        self.port
            .expect("an event of another target, or one that is not being dispatched, has no port")
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

    /// If a capturing listener calls this, listeners that do not capture are not called.
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
    pub(super) once: bool,
    pub(super) capture: bool,
    pub(super) passive: bool,
    pub(super) signal: Option<AbortSignal>,
}

impl ListenerOptions {
    /// Creates the defaults: the listener is called at every event of its type, after the capturing
    /// listeners.
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

    /// Aborts, from any thread: its listeners are no longer called.
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
pub struct ListenerId(pub(super) u64);

/// A listener as the target keeps it.
pub(crate) type Callback =
    Box<dyn Fn(&Event<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + Send>;
pub(super) type Hook = Box<dyn Fn(&ListenerFailure, &Event<'_>) + Send>;

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

/// A closure as the target keeps it.
pub(crate) fn callback<O: IntoListenerResult>(
    listener: impl Fn(&Event<'_>) -> O + Send + 'static,
) -> Callback {
    Box::new(move |event| listener(event).into_result())
}

/// What a listener may return: nothing, or a `Result` whose error is reported. It may also never
/// return.
#[diagnostic::on_unimplemented(
    message = "a listener cannot return `{Self}`",
    label = "this listener returns `{Self}`",
    note = "return `()`, or `Result<(), E>` whose `E` converts into `Box<dyn Error + Send + Sync>`"
)]
pub trait IntoListenerResult {
    /// Returns the error, if there is one.
    fn into_result(self) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

impl IntoListenerResult for () {
    fn into_result(self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
}

// Without this attribute an error would be about `dyn Error`, and not about what is returned.
#[diagnostic::do_not_recommend]
impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> IntoListenerResult for Result<(), E> {
    fn into_result(self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.map_err(Into::into)
    }
}

/// The type `!`, which has no name of its own yet: for a listener that only panics.
type Never = <fn() -> ! as Function>::Output;

/// Names what a function returns.
#[doc(hidden)]
pub trait Function {
    /// What it returns.
    type Output;
}

impl<R> Function for fn() -> R {
    type Output = R;
}

impl IntoListenerResult for Never {
    fn into_result(self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self
    }
}
