//! The part of a loop that its handlers can reach.

use super::{Deferred, EventLoop, LoopPort, PortId};
use crate::port::MessagePort;
use crate::port::delivery::LoopEvent;
use crate::port::listener::{Event, Scope};
use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

/// The part of the loop that a handler can reach.
pub(super) struct Lender<'l> {
    pub(super) ports: &'l BTreeMap<u64, LoopPort>,
    pub(super) lent: &'l RefCell<Vec<u64>>,
    pub(super) deferred: &'l RefCell<VecDeque<Box<dyn Any>>>,
    /// `None` if the port that is served has no handler.
    pub(super) arrived: Option<&'l RefCell<Vec<LoopEvent>>>,
    pub(super) served: Option<u64>,
}

impl Scope for Lender<'_> {
    fn port(&self, id: u64) -> Option<&MessagePort> {
        self.ports.get(&id).map(|entry| entry.lend(id, self.lent))
    }

    fn ids(&self) -> Vec<u64> {
        let live = self.ports.iter().filter(|(_, entry)| !entry.port.has_said_close());
        live.map(|(id, _)| *id).collect()
    }

    fn served(&self) -> Option<u64> {
        self.served
    }

    fn has_handler(&self) -> bool {
        self.arrived.is_some()
    }

    fn hand_over(&self, event: LoopEvent) {
        if let Some(arrived) = self.arrived {
            arrived.borrow_mut().push(event);
        }
    }

    fn defer(&self, action: Box<dyn Any>) {
        self.deferred.borrow_mut().push_back(action);
    }

    fn has_deferred(&self) -> bool {
        !self.deferred.borrow().is_empty()
    }
}

impl EventLoop {
    /// Gives listeners of something else than a port access to the loop.
    pub(crate) fn with_scope<T>(&self, act: impl FnOnce(&dyn Scope) -> T) -> T {
        let scope = Lender {
            ports: &self.ports,
            lent: &self.lent,
            deferred: &self.deferred,
            arrived: None,
            served: None,
        };
        let result = act(&scope);
        if scope.has_deferred() {
            // Outside of a turn, the next one must not wait.
            self.shared.called.ring();
        }
        result
    }
}

impl<'e> Event<'e> {
    /// The id of the port that this event is delivered to. `None` if no loop delivers it, or if it
    /// is delivered to a [`BroadcastChannel`](crate::BroadcastChannel).
    pub fn port_id(&self) -> Option<PortId> {
        self.scope()?.served().map(PortId::new)
    }

    /// Returns a port of the loop that delivers this event. `None` for other ids and other events.
    pub fn loop_port(&self, id: PortId) -> Option<&'e MessagePort> {
        self.scope()?.port(id.number())
    }

    /// Returns all ports of the loop that delivers this event, except those that have ended. A
    /// server can use it to post to all of its clients, for example.
    pub fn loop_ports(&self) -> impl Iterator<Item = (PortId, &'e MessagePort)> {
        let scope = self.scope();
        let ids = scope.map_or_else(Vec::new, |scope| scope.ids());
        ids.into_iter().filter_map(move |id| Some((PortId::new(id), scope?.port(id)?)))
    }

    /// Has the loop run an action after this event's listeners have returned. Returns whether a
    /// loop delivers this event; otherwise the action is dropped.
    pub fn defer(&self, action: impl FnOnce(&mut EventLoop) + 'static) -> bool {
        let Some(scope) = self.scope() else { return false };
        let action: Deferred = Box::new(action);
        scope.defer(Box::new(action));
        true
    }
}
