//! Handlers that belong to the loop: they get the loop itself, and what came as a value.

use super::{EventLoop, PortId};
use crate::front::add_error::AddError;
use crate::port::MessagePort;
use crate::port::delivery::LoopEvent;
use crate::port::listener::{IntoListenerResult, ListenerFailure};
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The handlers of the ports that have one.
#[derive(Default)]
pub(super) struct Handlers {
    idle: BTreeMap<u64, Handler>,
    /// The ports whose handlers are being called, each inside the one before.
    calling: Vec<u64>,
}

type Handler = Box<dyn FnMut(&mut EventLoop, PortId, LoopEvent) -> Outcome>;
type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

impl EventLoop {
    /// Adds a port with a handler of its own, which the loop calls with each event, and
    /// [starts](MessagePort::start) the port.
    ///
    /// Unlike a listener of the port, the handler stays on this thread. So it need not be `Send`,
    /// and may change what it owns. It gets the loop itself and an owned event, so that nothing of
    /// the port is borrowed while it runs: it may take the port out, close it, transfer it, drop
    /// it or add it again, and likewise any other port, timer or source, without
    /// [`defer`](crate::Event::defer).
    ///
    /// Listeners of the port are called first. What they take out of the message is no longer in
    /// the event. The handler returns nothing, or a `Result`; an error or a panic is reported to
    /// [`on_listener_failure`](Self::on_listener_failure), and the next event comes all the same.
    /// An error without a hook is printed to standard error.
    ///
    /// A message of at most 64 KiB is copied to memory of its own; a longer one is moved, unless
    /// the port trusts its peer. If there is no memory for that, the event is a
    /// [`MessageError`](LoopEvent::MessageError).
    ///
    /// The handler belongs to the port in this loop. [`take`](Self::take) drops it, except inside
    /// the handler: if it takes its port and adds it again, by [`add`](Self::add), the port keeps
    /// the handler. While a handler runs the loop, no event of its port is delivered.
    ///
    /// Another thread gives a handler by [`LoopHandle::post`](crate::LoopHandle::post), to which it
    /// moves, so such a handler has to be `Send`.
    ///
    /// # Errors
    /// [`AddError`] with the port, which was not started, if the kernel refuses to watch it. The
    /// handler is dropped.
    ///
    /// ```
    /// use messageport::{EventLoop, LoopEvent, MessageChannel};
    /// use std::{cell::RefCell, rc::Rc};
    ///
    /// let (log, mut count) = (Rc::new(RefCell::new(Vec::new())), 0);
    /// let (channel, mut event_loop) = (MessageChannel::new()?, EventLoop::new()?);
    /// let written = log.clone();
    /// event_loop.add_with(channel.port2, move |event_loop, port, event| {
    ///     if let LoopEvent::Message(message) = event {
    ///         count += 1;
    ///         written.borrow_mut().push(message.text().expect("text").to_owned());
    ///     }
    ///     if count == 2 {
    ///         event_loop.remove(port); // at once: the third message is not delivered
    ///     }
    /// })?;
    /// for text in ["one", "two", "three"] {
    ///     channel.port1.post_text(text)?;
    /// }
    /// event_loop.run()?;
    /// assert_eq!(*log.borrow(), ["one", "two"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn add_with<O: IntoListenerResult>(
        &mut self,
        port: impl Into<MessagePort>,
        mut handler: impl FnMut(&mut EventLoop, PortId, LoopEvent) -> O + 'static,
    ) -> Result<PortId, AddError> {
        let id = self.add(port)?;
        let handler: Handler =
            Box::new(move |event_loop, id, event| handler(event_loop, id, event).into_result());
        self.handlers.idle.insert(id.number(), handler);
        if let Some(entry) = self.ports.get(&id.number()) {
            entry.port.set_loop_handler(true);
            entry.port.start();
        }
        Ok(id)
    }

    /// Calls the handler of a port with what came for it.
    pub(super) fn call_handler(&mut self, id: u64) {
        for event in std::mem::take(self.arrived.get_mut()) {
            // One event is handed over at a time, so that a handler which takes its port away
            // misses none.
            let Some(mut handler) = self.handlers.idle.remove(&id) else { return };
            self.handlers.calling.push(id);
            let outcome = catch_unwind(AssertUnwindSafe(|| handler(self, PortId::new(id), event)));
            self.handlers.calling.pop();
            if let Some(entry) = self.ports.get(&id) {
                // Unless it has added the port with another one.
                self.handlers.idle.entry(id).or_insert(handler);
                entry.port.set_loop_handler(true);
                if !entry.is_watched {
                    // It has run the loop, which has left the port out.
                    self.make_ready(id);
                }
            }
            let failure = match outcome {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => ListenerFailure::Error(error),
                Err(panic) => ListenerFailure::Panic(panic),
            };
            if let (None, ListenerFailure::Error(error)) = (&self.hook, &failure) {
                // Not `eprintln`, which panics where standard error is broken.
                let labels = self.ports.get(&id).map(|entry| entry.port.labels());
                let labels = labels.filter(|labels| !labels.is_empty());
                let of = labels.map(|labels| format!(" of {labels}")).unwrap_or_default();
                let _ = writeln!(io::stderr(), "messageport: a handler{of} has failed: {error}");
            }
            self.report(&failure, Some(PortId::new(id).into()));
        }
    }
}

impl Handlers {
    /// Whether events of this port are handed over as values.
    pub(super) fn has(&self, id: u64) -> bool {
        self.idle.contains_key(&id)
    }

    /// Whether this port's handler is being called.
    pub(super) fn is_calling(&self, id: u64) -> bool {
        self.calling.contains(&id)
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.idle.remove(&id);
    }
}
