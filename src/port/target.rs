//! How an event reaches its listeners: the DOM's algorithms, on one target without a tree.
//!
//! A listener may add, remove and dispatch from inside itself. So the list only grows while a
//! dispatch runs: a listener removed meanwhile is marked, and swept out when no dispatch runs.

use crate::port::listener::{
    AbortSignal, Callback, Event, EventListener, EventType, Hook, InvalidState, ListenerFailure,
    ListenerId, ListenerOptions,
};
use elsa::FrozenVec;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

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

/// The listeners of one target.
#[derive(Default)]
pub(crate) struct Listeners {
    entries: RefCell<FrozenVec<Box<Entry>>>,
    next: Cell<u64>,
    hook: RefCell<Option<Arc<Mutex<Hook>>>>,
}

impl Listeners {
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

    /// Adds an object as a listener.
    pub(crate) fn add_object(
        &self,
        kind: EventType,
        object: Arc<dyn EventListener>,
        options: ListenerOptions,
    ) -> ListenerId {
        let called = object.clone();
        let listener = Box::new(move |event: &Event<'_>| called.handle_event(event));
        self.add(kind, listener, Some(object), options)
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
        let former = self.hook.replace(Some(Arc::new(Mutex::new(hook))));
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
            .filter(|(_, entry)| entry.kind == *event.kind() && entry.options.capture == capture)
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
                Ok(Err(error)) => self.report(&ListenerFailure::Error(error), event),
                Err(panic) => self.report(&ListenerFailure::Panic(panic), event),
            }
            if event.flags.is_stopped_at_once.get() {
                return;
            }
        }
    }

    fn report(&self, failure: &ListenerFailure, event: &Event<'_>) {
        let hook = self.hook.borrow().clone();
        match (hook, failure) {
            (Some(hook), _) => {
                // A hook that fails, or that is called from inside itself, is skipped.
                if let Ok(hook) = hook.try_lock() {
                    let _ = catch_unwind(AssertUnwindSafe(|| hook(failure, event)));
                }
            }
            (None, ListenerFailure::Error(error)) => {
                // Not `eprintln`, which panics where standard error is broken.
                let of = event.labels().map(|labels| format!(" of {labels}")).unwrap_or_default();
                let _ = writeln!(io::stderr(), "messageport: a listener{of} has failed: {error}");
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

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.entries.try_borrow().map_or(0, |entries| entries.len());
        f.debug_struct("Listeners").field("listeners", &count).finish_non_exhaustive()
    }
}
