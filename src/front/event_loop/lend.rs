//! What a handler can reach of the loop that calls it.

use super::{Deferred, EventLoop, PortId, Slot};
use crate::port::MessagePort;
use crate::port::target::{Event, Scope};
use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

/// What a handler can reach of the loop.
pub(super) struct Lender<'l> {
    pub(super) ports: &'l BTreeMap<u64, Slot>,
    pub(super) lent: &'l RefCell<Vec<u64>>,
    pub(super) deferred: &'l RefCell<VecDeque<Box<dyn Any>>>,
    pub(super) served: u64,
}

impl Scope for Lender<'_> {
    fn port(&self, id: u64) -> Option<&MessagePort> {
        self.ports.get(&id).map(|slot| slot.lend(id, self.lent))
    }

    fn ids(&self) -> Vec<u64> {
        let live = self.ports.iter().filter(|(_, slot)| !slot.port.has_said_close());
        live.map(|(id, _)| *id).collect()
    }

    fn served(&self) -> u64 {
        self.served
    }

    fn defer(&self, action: Box<dyn Any>) {
        self.deferred.borrow_mut().push_back(action);
    }
}

impl<'e> Event<'e> {
    /// The id of the port that this event is delivered to; `None` if no loop delivers it.
    pub fn port_id(&self) -> Option<PortId> {
        self.scope().map(|scope| PortId(scope.served()))
    }

    /// A port of the loop that delivers this event; `None` for other ids and other events.
    pub fn loop_port(&self, id: PortId) -> Option<&'e MessagePort> {
        self.scope()?.port(id.0)
    }

    /// All ports of the loop that delivers this event, but those that have said their end: a server
    /// answers all of its clients so.
    pub fn loop_ports(&self) -> impl Iterator<Item = (PortId, &'e MessagePort)> {
        let scope = self.scope();
        let ids = scope.map_or_else(Vec::new, |scope| scope.ids());
        ids.into_iter().filter_map(move |id| Some((PortId(id), scope?.port(id)?)))
    }

    /// Has the loop do something once this event's listeners have returned. Says whether a loop
    /// delivers this event; otherwise nothing is done.
    pub fn defer(&self, action: impl FnOnce(&mut EventLoop) + 'static) -> bool {
        let Some(scope) = self.scope() else { return false };
        let action: Deferred = Box::new(action);
        scope.defer(Box::new(action));
        true
    }
}
