//! What keeps `run` going, and why it returned.

use super::timers::TimerId;
use super::{EventLoop, PortId, SourceId};

/// Why [`EventLoop::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunEnd {
    /// [`LoopHandle::stop`](crate::LoopHandle::stop) was called.
    Stopped,
    /// The loop has no port, no timer and no source.
    NothingLeft,
    /// Something is left, and none of it keeps `run` going: it is [unreferenced](EventLoop::unref),
    /// or a port that was closed here and never started.
    NothingReferenced,
}

/// A port, timer or source of an [`EventLoop`], by its id. Each of these ids converts into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LoopItem {
    /// A port.
    Port(PortId),
    /// A timer.
    Timer(TimerId),
    /// Another source of events.
    Source(SourceId),
}

impl LoopItem {
    /// Ports, timers and sources have different numbers.
    fn number(self) -> u64 {
        match self {
            LoopItem::Port(id) => id.number(),
            LoopItem::Timer(TimerId(number)) | LoopItem::Source(SourceId(number)) => number,
        }
    }
}

impl From<PortId> for LoopItem {
    fn from(id: PortId) -> LoopItem {
        LoopItem::Port(id)
    }
}

impl From<TimerId> for LoopItem {
    fn from(id: TimerId) -> LoopItem {
        LoopItem::Timer(id)
    }
}

impl From<SourceId> for LoopItem {
    fn from(id: SourceId) -> LoopItem {
        LoopItem::Source(id)
    }
}

impl EventLoop {
    /// Lets [`run`](Self::run) return although this port, timer or source is in the loop. Returns
    /// whether it is there.
    ///
    /// It stays in the loop and is served as before; only `run` does not wait for it: once nothing
    /// else is left, `run` returns, even if events of it are there. A second call does nothing. A
    /// port that is taken out and added again is referenced again.
    ///
    /// Node: [`port.unref()`](https://nodejs.org/api/worker_threads.html#portunref),
    /// `timeout.unref()`.
    ///
    /// ```
    /// use messageport::{EventLoop, MessageChannel, RunEnd};
    /// use std::time::Duration;
    ///
    /// let (channel, mut event_loop) = (MessageChannel::new()?, EventLoop::new()?);
    /// let port = event_loop.add(channel.port2)?;
    /// let clock = event_loop.add_interval(Duration::from_secs(1), |_| println!("still here"));
    /// event_loop.unref(clock);
    /// drop(channel.port1);
    /// // The port has ended, and the clock is not waited for.
    /// assert_eq!(event_loop.run()?, RunEnd::NothingReferenced);
    /// assert!(!event_loop.has_ref(port) && !event_loop.has_ref(clock));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unref(&mut self, item: impl Into<LoopItem>) -> bool {
        let id = item.into().number();
        let is_there = self.is_there(id);
        if is_there {
            self.recount(id, |event_loop| event_loop.unreferenced.insert(id));
        }
        is_there
    }

    /// Undoes [`unref`](Self::unref). Returns whether the port, timer or source is there.
    ///
    /// Node: [`port.ref()`](https://nodejs.org/api/worker_threads.html#portref).
    pub fn reference(&mut self, item: impl Into<LoopItem>) -> bool {
        let id = item.into().number();
        self.recount(id, |event_loop| event_loop.unreferenced.remove(&id));
        self.is_there(id)
    }

    /// Whether a port, timer or source is there and [referenced](Self::reference), as all of them
    /// are at first.
    ///
    /// Node: [`port.hasRef()`](https://nodejs.org/api/worker_threads.html#porthasref).
    pub fn has_ref(&self, item: impl Into<LoopItem>) -> bool {
        let id = item.into().number();
        self.is_there(id) && !self.unreferenced.contains(&id)
    }

    /// Changes a port, timer or source, and counts anew whether `run` continues for it.
    pub(super) fn recount<T>(&mut self, id: u64, change: impl FnOnce(&mut EventLoop) -> T) -> T {
        let did_hold = self.holds_run(id);
        let result = change(self);
        if !self.is_there(id) {
            self.unreferenced.remove(&id);
        }
        self.holding += usize::from(self.holds_run(id));
        self.holding -= usize::from(did_hold);
        result
    }

    /// Why `run` ends, if nothing keeps it going: no event can come that it waits for, unless
    /// another thread posts work.
    pub(super) fn ended(&mut self) -> Option<RunEnd> {
        self.look_at_lent();
        // Ports of which something was found out, and that were not looked at yet.
        let has_ready = self.ready.iter().any(|id| !self.unreferenced.contains(id));
        let is_through = self.holding == 0 && !has_ready;
        let has_deferred = !self.deferred.get_mut().is_empty();
        if !is_through || has_deferred || !self.shared.called.is_empty() || !self.has_no_work() {
            return None;
        }
        let is_empty = self.ports.is_empty() && self.sources.is_empty() && self.timers.is_empty();
        Some(if is_empty { RunEnd::NothingLeft } else { RunEnd::NothingReferenced })
    }

    fn holds_run(&self, id: u64) -> bool {
        !self.unreferenced.contains(&id)
            && self.is_there(id)
            && self.ports.get(&id).is_none_or(|entry| entry.holds_run)
    }

    /// A port whose `close` was delivered is about to be dropped.
    fn is_there(&self, id: u64) -> bool {
        match self.ports.get(&id) {
            Some(entry) => !entry.has_ended,
            None => self.sources.contains_key(&id) || self.timers.has(id),
        }
    }
}
