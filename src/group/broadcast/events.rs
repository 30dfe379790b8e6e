//! A member as an event target: its listeners, its handlers, and the delivery of what has arrived.

use crate::error::BroadcastError;
use crate::front::event_loop::EventLoop;
use crate::group::broadcast::{BroadcastChannel, SHARE, Shared, order};
use crate::port::listener::{
    Event, EventListener, EventType, IntoListenerResult, InvalidState, ListenerFailure, ListenerId,
    ListenerOptions, Scope, callback,
};
use std::sync::Arc;

impl BroadcastChannel {
    /// Sets the handler for messages, which [`dispatch`](Self::dispatch) delivers.
    ///
    /// HTML: [`onmessage`](https://html.spec.whatwg.org/#handler-broadcastchannel-onmessage).
    pub fn on_message<O: IntoListenerResult>(
        &self,
        handler: impl Fn(&Event<'_>) -> O + Send + 'static,
    ) {
        self.events.set_handler(EventType::Message, Some(callback(handler)));
    }

    /// Sets the handler for messages that [`require_type`](Self::require_type) refuses, or that
    /// could not be received.
    ///
    /// HTML:
    /// [`onmessageerror`](https://html.spec.whatwg.org/#handler-broadcastchannel-onmessageerror).
    pub fn on_message_error<O: IntoListenerResult>(
        &self,
        handler: impl Fn(&Event<'_>) -> O + Send + 'static,
    ) {
        self.events.set_handler(EventType::MessageError, Some(callback(handler)));
    }

    /// Removes a handler.
    pub fn clear_handler(&self, kind: impl Into<EventType>) {
        self.events.set_handler(kind.into(), None);
    }

    /// Adds a listener for events of a type. See
    /// [`MessagePort::add_event_listener`](crate::MessagePort::add_event_listener).
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
    pub fn dispatch_event<'e>(&'e self, event: Event<'e>) -> Result<bool, InvalidState> {
        self.events.dispatch(&event.hosted(self))
    }

    /// Sets the hook that is called when a listener panics or returns an error.
    ///
    /// The hook gets the failure and the event. Without a hook the error is printed to standard
    /// error. In either case the other listeners are called.
    pub fn on_listener_failure(
        &self,
        hook: impl Fn(&ListenerFailure, &Event<'_>) + Send + 'static,
    ) {
        self.events.set_hook(Box::new(hook));
    }

    /// Delivers up to 64 messages as events, and returns how many.
    ///
    /// Messages longer than 4 KiB count for more. A closed channel delivers none. If messages are
    /// left, the descriptor stays readable, so that an [`EventLoop`](crate::EventLoop) comes back
    /// for them.
    ///
    /// If several members of one name call `dispatch` on one thread, they deliver messages in the
    /// order of the posts. A message that several of them have is delivered in the order in which
    /// the members were opened. So a call may deliver fewer messages than have arrived, or none. In
    /// that case another member has an older message, and that member's descriptor is readable.
    /// When the turn passes to another member, this takes a few system calls. If a member is read
    /// with [`recv`](Self::recv) or similar calls, or does not call `dispatch`, it delays the
    /// others only for a few turns.
    ///
    /// Call this from a source of a loop. It drops a message that comes while there is no listener,
    /// as on the web; before the first call all messages are kept. [`recv`](Self::recv) and similar
    /// calls take from the same queue.
    ///
    /// # Errors
    /// [`BroadcastError::Io`]; what was delivered before stays delivered.
    ///
    /// ```
    /// use messageport::{BroadcastChannel, EventLoop};
    ///
    /// # let name = format!("doc-dispatch-{}", std::process::id());
    /// let asking = BroadcastChannel::open(&name)?;
    /// let answering = BroadcastChannel::open(&name)?;
    /// answering.on_message(|event| -> Result<(), messageport::BroadcastError> {
    ///     let question = event.broadcast().expect("a message").text().unwrap_or("what?");
    ///     event.broadcast_channel().expect("its channel").post_text(&format!("{question} Yes."))
    /// });
    /// let mut event_loop = EventLoop::new()?;
    /// event_loop.add_source(answering, |_, answering| {
    ///     if let Err(error) = answering.dispatch() {
    ///         // For example, out of descriptors. This may pass: the loop retries in 50 ms.
    ///         eprintln!("{error}");
    ///     }
    /// })?;
    /// asking.post_text("Is anybody there?")?;
    /// event_loop.run_until_idle()?;
    /// assert_eq!(asking.recv()?.text()?, "Is anybody there? Yes.");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dispatch(&self) -> Result<u32, BroadcastError> {
        self.dispatch_within(None)
    }

    /// Delivers as [`dispatch`](Self::dispatch) does, and gives the listeners access to a loop.
    ///
    /// In the events, [`loop_port`](Event::loop_port) and [`loop_ports`](Event::loop_ports) return
    /// the loop's ports, and [`defer`](Event::defer) runs an action with the loop. Deferred actions
    /// run before the next message, so the call returns early when there is one: in the turn that
    /// runs the source which has made the call, or else in the loop's next turn.
    ///
    /// # Errors
    /// As [`dispatch`](Self::dispatch).
    ///
    /// ```
    /// use messageport::{BroadcastChannel, EventLoop, MessageChannel};
    ///
    /// # let name = format!("doc-dispatch-in-{}", std::process::id());
    /// let news = BroadcastChannel::open(&name)?;
    /// let member = BroadcastChannel::open(&name)?;
    /// let client = MessageChannel::new()?;
    /// let mut event_loop = EventLoop::new()?;
    /// event_loop.add(client.port2)?;
    /// member.on_message(|event| -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    ///     let text = event.broadcast().ok_or("a message")?.text()?;
    ///     for (_, port) in event.loop_ports() {
    ///         port.post_text(text)?; // to all clients of this process
    ///     }
    ///     Ok(())
    /// });
    /// event_loop.add_source(member, |event_loop, member| {
    ///     if let Err(error) = member.dispatch_in(event_loop) {
    ///         eprintln!("{error}");
    ///     }
    /// })?;
    /// news.post_text("It rains.")?;
    /// event_loop.run_until_idle()?;
    /// assert_eq!(client.port1.recv()?.text()?, "It rains.");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dispatch_in(&self, event_loop: &EventLoop) -> Result<u32, BroadcastError> {
        event_loop.with_scope(|scope| self.dispatch_within(Some(scope)))
    }

    fn dispatch_within(&self, scope: Option<&dyn Scope>) -> Result<u32, BroadcastError> {
        order::sit(&self.shared);
        let rivals = order::rivals(&self.shared);
        let _come_back = ComeBack(&self.shared);
        let mut spent: u32 = 0;
        for count in 0..SHARE {
            let has_deferred = scope.is_some_and(Scope::has_deferred);
            if has_deferred || self.shared.gives_way(&rivals) || spent >= SHARE {
                return Ok(count);
            }
            match self.next() {
                // Nothing of this channel is borrowed here: a handler may post, receive and close.
                Ok(Some(Ok(message))) => {
                    spent = spent.saturating_add(message.cost());
                    let event = Event::of_host(EventType::Message, self).within(scope);
                    self.fire(&event.with_broadcast(&message));
                }
                Ok(Some(Err(error))) => {
                    let event = Event::of_host(EventType::MessageError, self).within(scope);
                    self.fire(&event.with_error(&error));
                }
                Ok(None) | Err(BroadcastError::Closed { .. }) => return Ok(count),
                Err(error) => return Err(error),
            }
        }
        Ok(SHARE)
    }

    fn fire(&self, event: &Event<'_>) {
        // A fresh event is not being dispatched.
        let _ = self.events.dispatch(event);
    }
}

/// Makes the descriptor readable if anything is left, even after a panic in code of the program.
struct ComeBack<'m>(&'m Shared);

impl Drop for ComeBack<'_> {
    fn drop(&mut self) {
        self.0.come_back();
    }
}

impl<'e> Event<'e> {
    /// The channel that the event is delivered to or dispatched at, if that is a
    /// [`BroadcastChannel`].
    pub fn broadcast_channel(&self) -> Option<&'e BroadcastChannel> {
        self.host()?.downcast_ref()
    }
}
