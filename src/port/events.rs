//! A port as an event target: its listeners, its handlers, and the delivery of what has arrived.

use crate::error::{CloseReason, MessageError, RecvError};
use crate::link::receiving::chunks::Polled;
use crate::os::eventfd::Bell;
use crate::port::MessagePort;
use crate::port::content;
use crate::port::listener::{
    Event, EventListener, EventType, IntoListenerResult, InvalidState, ListenerFailure, ListenerId,
    ListenerOptions, Scope, callback,
};
use crate::ring::notifier::Wait;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tells the event loop that owns a port what it cannot see itself: that the port was started or
/// closed from outside.
#[derive(Clone)]
pub(crate) struct Watcher {
    pub shared: Arc<Called>,
    pub id: u64,
}

/// Ports that have called, and the bell that they ring, if there is one.
pub(crate) struct Called {
    bell: Option<Bell>,
    ids: Mutex<Vec<u64>>,
}

impl Called {
    pub(crate) fn new(bell: Option<Bell>) -> Called {
        Called { bell, ids: Mutex::default() }
    }

    pub(crate) fn ring(&self) {
        self.bell.iter().for_each(Bell::ring);
    }

    pub(crate) fn drain(&self) {
        self.bell.iter().for_each(Bell::drain);
    }

    /// Returns the ports that have called since the last call.
    pub(crate) fn take(&self) -> Vec<u64> {
        std::mem::take(&mut self.ids())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ids().is_empty()
    }

    fn ids(&self) -> MutexGuard<'_, Vec<u64>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher {
    fn call(&self) {
        self.shared.ids().push(self.id);
        self.shared.ring();
    }
}

/// What a turn of delivery found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// An event; there may be more.
    Event,
    /// A part of a long message: the rest after others had their turn.
    Chunk,
    /// Nothing is there.
    Nothing,
    /// Something is there that cannot be received at the moment: retry a little later.
    Later,
    /// Messages are there, but the port is not started.
    Unwanted,
    /// No more can come.
    End,
}

impl MessagePort {
    /// Adds a listener for events of a type.
    ///
    /// The listener may reply, and may add and remove listeners. It returns nothing, or a `Result`
    /// whose error is reported.
    ///
    /// An [`EventLoop`](crate::EventLoop) delivers messages once the port is
    /// [started](Self::start).
    ///
    /// DOM: [`addEventListener`](https://dom.spec.whatwg.org/#dom-eventtarget-addeventlistener).
    ///
    /// ```
    /// use messageport::{Event, ListenerOptions, MessageChannel};
    ///
    /// let channel = MessageChannel::new()?;
    /// let id = channel.port1.add_event_listener("refresh", ListenerOptions::new(), |event| {
    ///     event.port().post_text("refreshed").expect("room");
    /// });
    /// channel.port1.dispatch_event(Event::new("refresh"))?;
    /// assert_eq!(channel.port2.recv()?.text()?, "refreshed");
    /// assert!(channel.port1.remove_event_listener(id));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn add_event_listener<O: IntoListenerResult>(
        &self,
        kind: impl Into<EventType>,
        options: ListenerOptions,
        listener: impl Fn(&Event<'_>) -> O + Send + 'static,
    ) -> ListenerId {
        self.events.add(kind.into(), callback(listener), None, options)
    }

    /// Adds an object as a listener. Adding it twice for one type and phase adds one listener.
    pub fn add_listener_object(
        &self,
        kind: impl Into<EventType>,
        options: ListenerOptions,
        object: Arc<dyn EventListener>,
    ) -> ListenerId {
        let called = object.clone();
        let listener = Box::new(move |event: &Event<'_>| called.handle_event(event));
        self.events.add(kind.into(), listener, Some(object), options)
    }

    /// Removes a listener; returns whether it was there.
    ///
    /// It is no longer called, even if it is due in a dispatch that is running.
    pub fn remove_event_listener(&self, id: ListenerId) -> bool {
        self.events.remove(id)
    }

    /// Removes a listener that was added as this object; returns whether it was there.
    pub fn remove_listener_object(
        &self,
        kind: impl Into<EventType>,
        object: &Arc<dyn EventListener>,
        capture: bool,
    ) -> bool {
        self.events.remove_object(&kind.into(), object, capture)
    }

    /// Dispatches an event that the program has created: calls its listeners before it returns.
    /// Returns false if one of them cancelled the event.
    ///
    /// # Errors
    /// [`InvalidState`] if the event is already being dispatched.
    ///
    /// DOM: [`dispatchEvent`](https://dom.spec.whatwg.org/#dom-eventtarget-dispatchevent).
    ///
    /// The event is taken by value, so that it cannot be dispatched again, inside a listener or
    /// afterwards:
    ///
    /// ```compile_fail,E0382
    /// let port = messageport::MessageChannel::new().unwrap().port1;
    /// let event = messageport::Event::new("refresh");
    /// let _ = port.dispatch_event(event);
    /// let _ = port.dispatch_event(event);
    /// ```
    pub fn dispatch_event<'e>(&'e self, event: Event<'e>) -> Result<bool, InvalidState> {
        self.events.dispatch(&event.at(self))
    }

    /// Sets the handler for messages, and [starts](Self::start) the port.
    ///
    /// HTML: [`onmessage`](https://html.spec.whatwg.org/#handler-messageeventtarget-onmessage).
    pub fn on_message<O: IntoListenerResult>(
        &self,
        handler: impl Fn(&Event<'_>) -> O + Send + 'static,
    ) {
        self.events.set_handler(EventType::Message, Some(callback(handler)));
        self.start();
    }

    /// Sets the handler for messages that are not of the declared type.
    pub fn on_message_error<O: IntoListenerResult>(
        &self,
        handler: impl Fn(&Event<'_>) -> O + Send + 'static,
    ) {
        self.events.set_handler(EventType::MessageError, Some(callback(handler)));
    }

    /// Sets the handler for `close`: the peer closed its port, dropped it, or died.
    pub fn on_close<O: IntoListenerResult>(
        &self,
        handler: impl Fn(&Event<'_>) -> O + Send + 'static,
    ) {
        self.events.set_handler(EventType::Close, Some(callback(handler)));
    }

    /// Removes a handler. If a new one is set later, it is called after the listeners that were
    /// added before it.
    pub fn clear_handler(&self, kind: impl Into<EventType>) {
        self.events.set_handler(kind.into(), None);
    }

    /// Sets the hook that is called when a listener panics or returns an error.
    ///
    /// Without a hook the error is printed to standard error. In either case the other listeners
    /// are called.
    pub fn on_listener_failure(&self, hook: impl Fn(&ListenerFailure) + Send + 'static) {
        self.events.set_hook(Box::new(hook));
    }

    /// Enables the delivery of messages as events; this cannot be undone.
    ///
    /// Messages that came before are delivered first. Receiving calls on the port return
    /// [`RecvError::Started`] from then on.
    ///
    /// HTML: [`start()`](https://html.spec.whatwg.org/#dom-messageport-start).
    pub fn start(&self) {
        if !self.is_started.replace(true) {
            self.call_watcher();
        }
    }

    /// Tells the event loop that owns this port.
    pub(crate) fn call_watcher(&self) {
        if let Some(watcher) = &*self.watcher.borrow() {
            watcher.call();
        }
    }

    /// Sets the watcher that is told when the port is started or closed.
    pub(crate) fn set_watcher(&self, watcher: Option<Watcher>) {
        self.receiver.set_patient(watcher.is_none());
        *self.watcher.borrow_mut() = watcher;
    }

    /// Whether messages are delivered as events.
    pub fn is_started(&self) -> bool {
        #[cfg(test)]
        LOOKS.set(LOOKS.get() + 1);
        self.is_started.get()
    }

    /// Whether this end was closed, by the program or because its peer broke the protocol.
    pub(crate) fn is_closed_here(&self) -> bool {
        self.sender.is_closing()
    }

    /// The cost of the messages delivered since the last call; a message without transferables
    /// costs 1.
    pub(crate) fn take_spent(&self) -> u32 {
        self.spent.take()
    }

    pub(crate) fn has_said_close(&self) -> bool {
        self.has_said_close.get()
    }

    /// Delivers what has arrived next, if the port is started.
    pub(crate) fn deliver(&self, scope: Option<&dyn Scope>) -> Delivered {
        if self.has_said_close.get() {
            return Delivered::End;
        }
        match self.receiver.poll_in_chunks().map_err(|failure| *failure) {
            Ok(Polled::Nothing) => Delivered::Nothing,
            Ok(Polled::Unfinished) => Delivered::Chunk,
            Ok(Polled::Message(message)) => {
                let cost = message.cost();
                self.spent.set(self.spent.get().saturating_add(cost));
                let valid = content::check_refused(&message).and_then(|()| self.validate(&message));
                match valid {
                    Ok(()) => {
                        self.fire(EventType::Message, scope, |event| event.with_message(&message))
                    }
                    Err(error) => self.fire_error(scope, &error),
                }
                Delivered::Event
            }
            Err(RecvError::Closed { reason }) => self.deliver_close(reason, scope),
            Err(RecvError::OutOfDescriptors { .. }) => Delivered::Later,
            Err(RecvError::OutOfMemory { len }) => {
                // The message may never fit; its loss is reported.
                let _ = self.receiver.discard_next();
                self.fire_error(scope, &MessageError::OutOfMemory { len });
                Delivered::Event
            }
            Err(_) => Delivered::Later,
        }
    }

    /// Delivers the end of a port that was not started, if no message comes before it. If it was
    /// closed here, what is in its queue waits for its start.
    pub(crate) fn deliver_early_close(&self, scope: Option<&dyn Scope>) -> Delivered {
        if self.has_said_close.get() {
            return Delivered::End;
        }
        match self.receiver.prepare_wait_for_end() {
            // The peer can post nothing more.
            Ok(Wait::Sleep) if self.is_closed_here() => {
                self.deliver_close(CloseReason::Local, scope)
            }
            Ok(Wait::Sleep) => Delivered::Nothing,
            Ok(Wait::Ready) => Delivered::Unwanted,
            Err(RecvError::Closed { reason }) => self.deliver_close(reason, scope),
            Err(_) => Delivered::Later,
        }
    }

    fn deliver_close(&self, reason: CloseReason, scope: Option<&dyn Scope>) -> Delivered {
        self.has_said_close.set(true);
        // It fires at the other end only: not where `close` was called, however the peer ended
        // then. Read it first, as a port whose peer broke the protocol is closed now.
        let is_news = reason != CloseReason::Local && !self.is_closed_here();
        self.end_if_broken(&RecvError::Closed { reason });
        if is_news {
            // A peer that has found other types here may have left for that.
            if let Err(error) = self.check_incoming_type() {
                self.fire_error(scope, &error);
            }
            self.fire(EventType::Close, scope, |event| event.with_reason(reason));
        }
        Delivered::End
    }

    fn fire_error(&self, scope: Option<&dyn Scope>, error: &MessageError) {
        self.fire(EventType::MessageError, scope, |event| event.with_error(error));
    }

    fn fire<'e>(
        &'e self,
        kind: EventType,
        scope: Option<&'e dyn Scope>,
        complete: impl FnOnce(Event<'e>) -> Event<'e>,
    ) {
        let event = complete(Event::of_transport(kind, self, scope));
        // A fresh event is not being dispatched.
        let _ = self.events.dispatch(&event);
    }
}

#[cfg(test)]
thread_local! {
    /// How often a port was asked whether it is started: each loop asks before it delivers.
    pub(crate) static LOOKS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}
