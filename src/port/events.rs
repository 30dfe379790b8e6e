//! A port as an event target: its listeners and its handlers. What has arrived is delivered in
//! [`delivery`](crate::port::delivery).

use crate::error::RecvError;
use crate::os::eventfd::Bell;
use crate::port::MessagePort;
use crate::port::event::MessageEvent;
use crate::port::listener::{
    Event, EventListener, EventType, IntoListenerResult, InvalidState, ListenerFailure, ListenerId,
    ListenerOptions, callback,
};
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Whether the bell was rung since it was last drained; its partner is the bell itself.
    has_rung: AtomicBool,
    ids: Mutex<Vec<u64>>,
}

impl Called {
    pub(crate) fn new(bell: Option<Bell>) -> Called {
        Called { bell, has_rung: AtomicBool::new(false), ids: Mutex::default() }
    }

    pub(crate) fn ring(&self) {
        // Relaxed: it only ends looks early; the bell wakes the loop.
        self.has_rung.store(true, Ordering::Relaxed);
        self.bell.iter().for_each(Bell::ring);
    }

    /// Whether there is a reason not to look any longer before epoll is asked.
    pub(crate) fn has_rung(&self) -> bool {
        // Relaxed: see `ring`.
        self.has_rung.load(Ordering::Relaxed)
    }

    pub(crate) fn drain(&self) {
        // Relaxed: a ring in between is seen by epoll.
        self.has_rung.store(false, Ordering::Relaxed);
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

impl MessagePort {
    /// Adds a listener for events of a type.
    ///
    /// The listener may reply, and may add and remove listeners. It returns nothing, or a `Result`
    /// whose error is reported.
    ///
    /// An [`EventLoop`](crate::EventLoop), or [`dispatch`](Self::dispatch), delivers messages once
    /// the port is [started](Self::start).
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
        self.events.add_object(kind.into(), object, options)
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
    /// The hook gets the failure and the event, whose [`port`](Event::port) is this one. It is not
    /// called for a failure inside itself, and a panic in it is ignored. Without a hook the error
    /// is printed to standard error. In either case the other listeners are called.
    ///
    /// ```
    /// use messageport::MessageChannel;
    ///
    /// let channel = MessageChannel::new()?;
    /// channel.port2.on_message(|_| Err::<(), _>("unreadable"));
    /// channel.port2.on_listener_failure(|failure, event| {
    ///     let text = format!("{failure:?} for {:?}", event.kind());
    ///     event.port().post_text(&text).expect("room");
    /// });
    /// channel.port1.post_text("hello")?;
    /// channel.port2.dispatch(1)?;
    /// assert_eq!(channel.port1.recv()?.text()?, r#"Error("unreadable") for Message"#);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_listener_failure(
        &self,
        hook: impl Fn(&ListenerFailure, &Event<'_>) + Send + 'static,
    ) {
        self.events.set_hook(Box::new(hook));
    }

    /// Enables the delivery of messages as events, until [`stop`](Self::stop), which the web does
    /// not have.
    ///
    /// Messages that came before are delivered first. Receiving calls on the port return
    /// [`RecvError::Started`] from then on.
    ///
    /// HTML: [`start()`](https://html.spec.whatwg.org/#dom-messageport-start).
    pub fn start(&self) {
        if !self.is_started.replace(true) {
            // An iterator that runs does not ask for each message whether the port was started.
            self.receiver.end_copy();
            self.call_watcher();
        }
    }

    /// Stops the delivery of messages as events, until the next [`start`](Self::start). Receiving
    /// calls work again.
    ///
    /// Messages stay in the queue from then on, also those that a running call of
    /// [`dispatch`](Self::dispatch) or a turn of a loop has not delivered yet. The listeners stay.
    /// Does nothing if the port is not started.
    ///
    /// The web has no such call: there a port that was started stays started. Node stops a port in
    /// this way when its last listener for messages is
    /// [removed](https://nodejs.org/api/worker_threads.html#event-message).
    ///
    /// ```
    /// use messageport::MessageChannel;
    ///
    /// let channel = MessageChannel::new()?;
    /// channel.port2.on_message(|event| event.port().stop()); // one message is enough
    /// channel.port1.post_text("an event")?;
    /// channel.port1.post_text("by a call")?;
    /// assert_eq!(channel.port2.dispatch(64)?, 1);
    /// assert_eq!(channel.port2.recv()?.text()?, "by a call");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stop(&self) {
        if self.is_started.replace(false) {
            self.call_watcher();
        }
    }

    /// Takes the next message, if there is one, even from a port that delivers events. The message
    /// is not delivered.
    ///
    /// For a port that is not started this is [`try_recv`](Self::try_recv), which has the costs and
    /// the details. On one that is started, messages that no call takes are delivered as before. An
    /// event loop that owns the port may have delivered a message a moment earlier; inside a
    /// listener, the call takes the message after the one that is being delivered.
    ///
    /// The web has no such call. Node:
    /// [`receiveMessageOnPort(port)`](https://nodejs.org/api/worker_threads.html).
    ///
    /// # Errors
    /// As [`try_recv`](Self::try_recv), except `Started`. After `Closed` the `close` event is still
    /// delivered.
    ///
    /// ```
    /// use messageport::MessageChannel;
    ///
    /// let channel = MessageChannel::new()?;
    /// channel.port2.on_message(|_| unreachable!("no loop runs"));
    /// channel.port1.post_text("by a call")?;
    /// assert_eq!(channel.port2.receive_message()?.expect("a message").text()?, "by a call");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn receive_message(&self) -> Result<Option<MessageEvent<'_>>, RecvError> {
        match self.receiver.poll_fast() {
            Some(event) => Ok(Some(event)),
            None if self.receiver.is_still_empty() => Ok(None),
            None => self.try_recv_slow().map_err(|failure| *failure),
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
}

#[cfg(test)]
thread_local! {
    /// How often a port was asked whether it is started: each loop asks before it delivers.
    pub(crate) static LOOKS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}
