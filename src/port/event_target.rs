//! An event target that is no port, for objects of the program's own.

use crate::port::listener::{
    Event, EventListener, EventType, IntoListenerResult, InvalidState, ListenerFailure, ListenerId,
    ListenerOptions, callback,
};
use crate::port::target::Listeners;
use std::fmt;
use std::sync::Arc;

/// An event target that is no port: an object of the program's own that others listen to.
///
/// It has the listeners, options, handlers and the order of a [`MessagePort`](crate::MessagePort),
/// and nothing is delivered to it but what [`dispatch_event`](Self::dispatch_event) is given. A
/// script engine can give it to objects such as an `AbortSignal` or a worker's global scope. It is
/// `Send` but not `Sync`, and takes no descriptor.
///
/// DOM: [`EventTarget`](https://dom.spec.whatwg.org/#interface-eventtarget), without a tree.
///
/// ```
/// use messageport::{Event, EventTarget, ListenerOptions};
///
/// let target = EventTarget::new();
/// target.add_event_listener("upgrade", ListenerOptions::new().once(), |event| {
///     let version: &u32 = event.detail().expect("a version");
///     if *version > 2 {
///         event.prevent_default();
///     }
/// });
/// let upgrade = || Event::new("upgrade").cancelable().with_detail(&3u32);
/// assert!(!target.dispatch_event(upgrade())?, "it was cancelled");
/// assert!(target.dispatch_event(upgrade())?, "no listener is left");
/// # Ok::<(), messageport::InvalidState>(())
/// ```
#[derive(Default)]
pub struct EventTarget {
    listeners: Listeners,
}

impl EventTarget {
    /// Creates a target without listeners.
    pub fn new() -> EventTarget {
        EventTarget::default()
    }

    /// Adds a listener for events of a type. See
    /// [`MessagePort::add_event_listener`](crate::MessagePort::add_event_listener).
    pub fn add_event_listener<O: IntoListenerResult>(
        &self,
        kind: impl Into<EventType>,
        options: ListenerOptions,
        listener: impl Fn(&Event<'_>) -> O + Send + 'static,
    ) -> ListenerId {
        self.listeners.add(kind.into(), callback(listener), None, options)
    }

    /// Adds an object as a listener. Adding it twice for one type and phase adds one listener.
    pub fn add_listener_object(
        &self,
        kind: impl Into<EventType>,
        options: ListenerOptions,
        object: Arc<dyn EventListener>,
    ) -> ListenerId {
        self.listeners.add_object(kind.into(), object, options)
    }

    /// Removes a listener; returns whether it was there.
    ///
    /// It is no longer called, even if it is due in a dispatch that is running.
    pub fn remove_event_listener(&self, id: ListenerId) -> bool {
        self.listeners.remove(id)
    }

    /// Removes a listener that was added as this object; returns whether it was there.
    pub fn remove_listener_object(
        &self,
        kind: impl Into<EventType>,
        object: &Arc<dyn EventListener>,
        capture: bool,
    ) -> bool {
        self.listeners.remove_object(&kind.into(), object, capture)
    }

    /// Sets the handler of a type, as an event handler attribute such as `onupgrade` does: there is
    /// one, and a handler that replaces another one keeps its place among the listeners.
    ///
    /// HTML: [event handlers](https://html.spec.whatwg.org/#event-handler-attributes).
    ///
    /// ```
    /// use messageport::{Event, EventTarget, ListenerOptions};
    /// use std::sync::mpsc;
    ///
    /// let (target, (says, said)) = (EventTarget::new(), mpsc::channel());
    /// let note = |word: &'static str| {
    ///     let says = says.clone();
    ///     move |_: &Event<'_>| says.send(word).expect("a receiver")
    /// };
    /// target.set_handler("upgrade", note("handler"));
    /// target.add_event_listener("upgrade", ListenerOptions::new(), note("listener"));
    /// target.set_handler("upgrade", note("another handler"));
    /// target.dispatch_event(Event::new("upgrade"))?;
    /// assert_eq!(said.try_iter().collect::<Vec<_>>(), ["another handler", "listener"]);
    /// # Ok::<(), messageport::InvalidState>(())
    /// ```
    pub fn set_handler<O: IntoListenerResult>(
        &self,
        kind: impl Into<EventType>,
        handler: impl Fn(&Event<'_>) -> O + Send + 'static,
    ) {
        self.listeners.set_handler(kind.into(), Some(callback(handler)));
    }

    /// Removes a handler. If a new one is set later, it is called after the listeners that were
    /// added before it.
    pub fn clear_handler(&self, kind: impl Into<EventType>) {
        self.listeners.set_handler(kind.into(), None);
    }

    /// Dispatches an event: calls its listeners before it returns. Returns false if one of them
    /// cancelled the event. Listeners find this target by
    /// [`Event::event_target`](crate::Event::event_target).
    ///
    /// # Errors
    /// [`InvalidState`] if the event is already being dispatched.
    pub fn dispatch_event<'e>(&'e self, event: Event<'e>) -> Result<bool, InvalidState> {
        self.listeners.dispatch(&event.hosted(self))
    }

    /// Sets the hook that is called when a listener panics or returns an error.
    ///
    /// The hook gets the failure and the event. Without a hook the error is printed to standard
    /// error. In either case the other listeners are called.
    pub fn on_listener_failure(
        &self,
        hook: impl Fn(&ListenerFailure, &Event<'_>) + Send + 'static,
    ) {
        self.listeners.set_hook(Box::new(hook));
    }
}

impl fmt::Debug for EventTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventTarget").field("listeners", &self.listeners).finish()
    }
}

impl<'e> Event<'e> {
    /// The target that the event is dispatched at, if that is an [`EventTarget`].
    pub fn event_target(&self) -> Option<&'e EventTarget> {
        self.host()?.downcast_ref()
    }
}
