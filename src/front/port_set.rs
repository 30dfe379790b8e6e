//! Waiting on many ports without callbacks.

use crate::error::{LoopError, RecvError};
use crate::front::add_error::AddError;
use crate::link::endpoint::LOOK_AGAIN;
use crate::link::receiving::chunks::Polled;
use crate::os::backoff::Backoff;
use crate::os::clock::{self, Deadline};
use crate::os::epoll::{Epoll, MOST_EVENTS};
use crate::os::reaper;
use crate::os::spin::MOST_LOOKS;
use crate::port::MessagePort;
use crate::port::event::MessageEvent;
use crate::port::events::{Called, Watcher};
use crate::port::id::PortId;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// Receives from many ports. Each message comes with the id of its port.
///
/// Ports with messages take turns. When a port is closed, here or by the peer, or when the peer
/// dies, the set returns `Closed` for it once, after its last message. The port then stays in the
/// set until the program removes it.
///
/// A message of more than 2 MiB is copied out of an untrusted port in chunks of 32 KiB; between two
/// chunks the set returns messages of other ports. A port that brings descriptors faster than they
/// can be closed is left out for 50 ms at a time.
///
/// ```
/// use messageport::{MessageChannel, PortSet};
///
/// let (one, other) = (MessageChannel::new()?, MessageChannel::new()?);
/// let mut set = PortSet::new()?;
/// let first = set.add(one.port2)?;
/// set.add(other.port2)?;
/// one.port1.post_text("from the first")?;
///
/// let (id, message) = set.recv()?;
/// assert_eq!((id, message?.text()?), (first, "from the first"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PortSet {
    epoll: Epoll,
    ports: BTreeMap<u64, MessagePort>,
    /// Ports that were closed here, which no descriptor reports.
    called: Arc<Called>,
    state: RefCell<State>,
    /// The program has asked for the set's descriptor.
    is_nested: Cell<bool>,
    /// When the set next looks at all ports, whatever epoll reports.
    look_again_at: Cell<Duration>,
    /// Tells when ports that are delayed are looked at next. There from the first such port on.
    backoff: OnceCell<Backoff>,
}

#[derive(Default)]
struct State {
    /// Ports that may have a message or an end, in the order of their turns.
    ready: VecDeque<u64>,
    /// The same ports, to find them.
    queued: BTreeSet<u64>,
    /// Ports whose end was reported.
    ended: BTreeSet<u64>,
    /// Ports whose next message waits until more of what came through them is closed.
    delayed: Vec<u64>,
    marks: Vec<u64>,
    /// Whether epoll had room for every port that it could report when it was last asked.
    told_all: bool,
    /// Messages since epoll was last asked for other ports, by their cost.
    given: u32,
    /// Looks that were made since then.
    looks: u32,
}

impl State {
    fn queue(&mut self, id: u64) {
        if self.queued.insert(id) {
            self.ready.push_back(id);
        }
    }

    fn next(&mut self) -> Option<u64> {
        let id = self.ready.pop_front()?;
        self.queued.remove(&id);
        Some(id)
    }
}

/// What one of the ports has: a message, or the reason why it has no more.
pub type PortEvent<'p> = Result<MessageEvent<'p>, RecvError>;

impl PortSet {
    /// Creates an empty set. It uses one descriptor.
    ///
    /// # Errors
    /// [`LoopError::Io`].
    pub fn new() -> Result<PortSet, LoopError> {
        let (ports, state) = (BTreeMap::new(), RefCell::default());
        // No bell: while one of its methods waits, no port of the set can be closed here.
        let called = Arc::new(Called::new(None));
        Ok(PortSet {
            epoll: Epoll::new()?,
            ports,
            called,
            state,
            is_nested: Cell::new(false),
            look_again_at: Cell::default(),
            backoff: OnceCell::new(),
        })
    }

    /// Adds a port, and returns its [id](MessagePort::id).
    ///
    /// # Errors
    /// [`AddError`] with the port, if the kernel refuses to watch it.
    pub fn add(&mut self, port: MessagePort) -> Result<PortId, AddError> {
        let id = port.id().number();
        if self.is_nested.get() {
            let _ = port.as_fd();
        }
        if let Err(error) = self.epoll.add(port.receiver().level_triggered_fd(), id) {
            return Err(AddError::new(error.into(), port));
        }
        port.set_watcher(Some(Watcher { shared: self.called.clone(), id }));
        self.ports.insert(id, port);
        // The next call looks for messages that came before.
        self.state.get_mut().queue(id);
        Ok(PortId::new(id))
    }

    /// Removes a port and returns it.
    pub fn remove(&mut self, id: PortId) -> Option<MessagePort> {
        let port = self.ports.remove(&id.number())?;
        port.set_watcher(None);
        let state = self.state.get_mut();
        if state.queued.remove(&id.number()) {
            state.ready.retain(|ready| *ready != id.number());
        }
        state.delayed.retain(|delayed| *delayed != id.number());
        if !state.ended.remove(&id.number()) {
            // It fails only for a descriptor that is not there.
            let _ = self.epoll.remove(port.endpoint().doorbell());
        }
        Some(port)
    }

    /// Has the next turn look at a port even if its doorbell is silent: other code drained it.
    pub(crate) fn look_again(&mut self, id: PortId) {
        if self.ports.contains_key(&id.number()) {
            self.state.get_mut().queue(id.number());
        }
    }

    /// Returns a port of the set, for posts. Receiving from it is allowed too.
    pub fn get(&self, id: PortId) -> Option<&MessagePort> {
        self.ports.get(&id.number())
    }

    /// Returns the ports of the set, in the order in which they were made.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, &MessagePort)> {
        self.ports.iter().map(|(id, port)| (PortId::new(*id), port))
    }

    /// The number of ports, including those that have ended.
    pub fn len(&self) -> usize {
        self.ports.len()
    }

    /// Whether there is no port.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// Waits for the next message of any port. If every port is closed, it waits forever.
    ///
    /// # Errors
    /// [`LoopError::Io`].
    pub fn recv(&self) -> Result<(PortId, PortEvent<'_>), LoopError> {
        loop {
            if let Some(event) = self.recv_until(Deadline::NEVER)? {
                return Ok(event);
            }
        }
    }

    /// Waits for the next message of any port, at most for `timeout`.
    ///
    /// The call may return later, if long messages have arrived before the deadline. For 20 ms
    /// after the deadline it copies them in chunks, and serves other ports in between. Then it
    /// copies the rest of one message at once, and returns it.
    ///
    /// # Errors
    /// [`LoopError::Io`].
    pub fn recv_timeout(
        &self,
        timeout: Duration,
    ) -> Result<Option<(PortId, PortEvent<'_>)>, LoopError> {
        self.recv_until(Deadline::after(timeout))
    }

    /// Returns the next message of any port, if there is one.
    ///
    /// # Errors
    /// [`LoopError::Io`].
    pub fn try_recv(&self) -> Result<Option<(PortId, PortEvent<'_>)>, LoopError> {
        self.recv_until(Deadline::after(Duration::ZERO))
    }

    /// The descriptor, for a level-triggered watcher of this crate.
    pub(crate) fn level_triggered_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn recv_until(&self, deadline: Deadline) -> Result<Option<(PortId, PortEvent<'_>)>, LoopError> {
        let (mut is_last_look, mut in_parts) = (false, true);
        let mut asks = self.most_asks();
        self.look_for_next(deadline);
        loop {
            if self.state.borrow().given >= SHARE {
                // Ports that had no message a while ago may have one now.
                self.ask(Some(Duration::ZERO))?;
            }
            if let Some(event) = self.look(in_parts) {
                self.state.borrow_mut().given += 1;
                return Ok(Some(event));
            }
            if self.has_queued() {
                // A part of a long message was copied, which is there whatever the time is.
                in_parts = deadline.overdue() <= GRACE;
                continue;
            }
            if is_last_look {
                return Ok(None);
            }
            let left = deadline.left();
            let any = self.ask(left)?;
            if left.is_some_and(|left| left.is_zero()) {
                // One more look, if epoll has reported all. If not, the others are asked for: an
                // edge-triggered watcher of the set is not told of them again. But there is a last
                // question, as a peer may ring again and again without a message.
                asks = asks.saturating_sub(1);
                is_last_look = asks == 0 || self.state.borrow().told_all;
                if !any {
                    return Ok(None);
                }
            }
        }
    }

    /// Looks for the next message of the port that has given the last one, unless another one is
    /// queued: a peer that spins answers sooner than this set falls asleep. Other ports wait
    /// meanwhile, so between two questions to epoll the looks have a bound then.
    fn look_for_next(&self, deadline: Deadline) {
        let state = self.state.borrow();
        let (&[id], true) = (state.ready.as_slices().0, state.given > 0) else { return };
        let Some(port) = self.ports.get(&id).filter(|_| state.ready.len() == 1) else { return };
        let (receiver, left) = (port.receiver(), Cell::new(MOST_LOOKS - state.looks));
        drop(state);
        if receiver.has_news() || deadline.is_over() {
            return;
        }
        if self.ports.len() == 1 {
            receiver.spin().run(deadline, || receiver.has_news());
            return;
        }
        receiver.spin().run_briefly(&left, || receiver.has_news());
        self.state.borrow_mut().looks = MOST_LOOKS - left.get();
    }

    /// Asks epoll which ports may have a message. Returns whether there are any. They go before the
    /// ports that have given messages and may have more; behind those once they have given one.
    fn ask(&self, timeout: Option<Duration>) -> Result<bool, LoopError> {
        let again = std::mem::take(&mut self.state.borrow_mut().ready);
        let answer = self.ask_for_news(timeout);
        self.state.borrow_mut().ready.extend(again);
        answer
    }

    fn ask_for_news(&self, timeout: Option<Duration>) -> Result<bool, LoopError> {
        let called = self.called.take();
        let was_lost = self.look_for_lost();
        let is_idle = called.is_empty() && !was_lost;
        // A ring of a peer, or one of ours, may have been refused.
        let longest = if is_idle { LOOK_AGAIN } else { Duration::ZERO };
        let timeout = Some(timeout.map_or(longest, |timeout| timeout.min(longest)));
        let state = &mut *self.state.borrow_mut();
        let mut marks = std::mem::take(&mut state.marks);
        self.epoll.wait(&mut marks, timeout)?;
        state.told_all = marks.len() < MOST_EVENTS;
        if marks.contains(&PAUSE_IS_OVER) {
            self.end_pause(state)?;
            marks.retain(|mark| *mark != PAUSE_IS_OVER);
        }
        called.iter().chain(&marks).for_each(|id| state.queue(*id));
        (state.given, state.looks) = (0, 0);
        state.marks = marks;
        Ok(!is_idle || !state.marks.is_empty())
    }

    /// Twice a second: queues ports that have a message although no ring came, and repeats refused
    /// rings. Returns whether a port is queued.
    fn look_for_lost(&self) -> bool {
        let now = clock::coarse();
        if now < self.look_again_at.get() {
            return false;
        }
        self.look_again_at.set(now + LOOK_AGAIN);
        self.ports.values().for_each(|port| port.endpoint().ring_again());
        self.queue_news();
        self.has_queued()
    }

    /// Leaves a port out for a pause, in which its received descriptors are closed. Returns whether
    /// the kernel allows it.
    fn delay(&self, id: u64, port: &MessagePort) -> bool {
        let backoff = match self.backoff.get() {
            Some(backoff) => backoff,
            None => match Backoff::new(&self.epoll, PAUSE_IS_OVER, reaper::PAUSE) {
                Ok(backoff) => self.backoff.get_or_init(|| backoff),
                Err(_) => return false,
            },
        };
        let doorbell = port.endpoint().doorbell();
        let is_out = match backoff.is_on() {
            true => self.epoll.leave_out(doorbell),
            false => backoff.begin(&self.epoll, std::iter::once(doorbell)),
        };
        let delayed = &mut self.state.borrow_mut().delayed;
        if is_out.is_ok() && !delayed.contains(&id) {
            delayed.push(id);
        }
        is_out.is_ok()
    }

    /// Queues the ports that were delayed.
    fn end_pause(&self, state: &mut State) -> Result<(), LoopError> {
        let Some(backoff) = self.backoff.get() else { return Ok(()) };
        let doorbell = |id: &u64| Some((self.ports.get(id)?.endpoint().doorbell(), *id));
        backoff.end(&self.epoll, state.delayed.iter().filter_map(doorbell))?;
        for id in std::mem::take(&mut state.delayed) {
            state.queue(id);
        }
        Ok(())
    }

    /// Receives from the queued ports, in turn. After a part of a long message, epoll is asked for
    /// other ports.
    fn look(&self, in_parts: bool) -> Option<(PortId, PortEvent<'_>)> {
        let (id, event) = match in_parts {
            true => self.look_with(MessagePort::poll_in_chunks, |_| false)?,
            false => self.look_once(|_| false)?,
        };
        if event.is_ok() {
            // It may have more, so it is queued behind the others.
            self.state.borrow_mut().queue(id.number());
        }
        Some((id, event))
    }

    /// The same without ports for which `has_enough` is true. A port that has given a message is
    /// queued again by [`look_again`](Self::look_again), or when it is found to have more.
    pub(crate) fn look_once(
        &self,
        has_enough: impl Fn(PortId) -> bool,
    ) -> Option<(PortId, PortEvent<'_>)> {
        self.look_with(
            |port| Ok(port.try_recv()?.map_or(Polled::Nothing, Polled::Message)),
            has_enough,
        )
    }

    fn look_with<'s>(
        &'s self,
        poll: impl Fn(&'s MessagePort) -> Result<Polled<MessageEvent<'s>>, RecvError>,
        has_enough: impl Fn(PortId) -> bool,
    ) -> Option<(PortId, PortEvent<'s>)> {
        loop {
            let id = self.state.borrow_mut().next()?;
            let Some(port) = self.ports.get(&id) else { continue };
            if self.state.borrow().ended.contains(&id) || has_enough(PortId::new(id)) {
                continue;
            }
            match poll(port) {
                Ok(Polled::Nothing) => {}
                Ok(Polled::Unfinished) => {
                    let state = &mut *self.state.borrow_mut();
                    state.queue(id);
                    state.given = SHARE;
                    return None;
                }
                Err(_) if port.receiver().waits_for_reaper() && self.delay(id, port) => {}
                Ok(Polled::Message(event)) => {
                    // After a few costly messages, or many others, epoll is asked for other ports.
                    let state = &mut *self.state.borrow_mut();
                    state.given = state.given.saturating_add(event.cost() - 1);
                    return Some((PortId::new(id), Ok(event)));
                }
                Err(error) => {
                    if matches!(error, RecvError::Closed { .. }) {
                        let state = &mut *self.state.borrow_mut();
                        state.ended.insert(id);
                        state.delayed.retain(|delayed| *delayed != id);
                        // Otherwise epoll would report its hang-up each time.
                        let _ = self.epoll.remove(port.endpoint().doorbell());
                    } else {
                        self.state.borrow_mut().queue(id);
                    }
                    return Some((PortId::new(id), Err(error)));
                }
            }
        }
    }

    /// Queues every port that epoll reports. One call of epoll reports some of them, and the next
    /// call reports others.
    pub(crate) fn ask_all(&self) -> Result<(), LoopError> {
        for _ in 0..self.most_asks() {
            self.ask(Some(Duration::ZERO))?;
            if self.state.borrow().told_all {
                break;
            }
        }
        Ok(())
    }

    /// After how many questions epoll has reported every port that rang before the first of them.
    fn most_asks(&self) -> usize {
        1 + self.ports.len() / MOST_EVENTS
    }

    /// Queues every port that has a record in its memory, without a system call.
    pub(crate) fn queue_news(&self) {
        let state = &mut *self.state.borrow_mut();
        for (id, port) in &self.ports {
            if port.receiver().has_news() {
                state.queue(*id);
            }
        }
    }

    /// Whether a port is queued.
    pub(crate) fn has_queued(&self) -> bool {
        !self.state.borrow().ready.is_empty()
    }
}

/// Readable when there may be a message. Call [`try_recv`](PortSet::try_recv) until it returns
/// `None`, and only then wait. The watcher may be edge-triggered, as for a port.
impl AsFd for PortSet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        if !self.is_nested.replace(true) {
            self.ports.values().for_each(|port| _ = port.as_fd());
        }
        self.epoll.as_fd()
    }
}

/// As `AsFd`.
impl AsRawFd for PortSet {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortSet").field("ports", &self.ports.keys()).finish_non_exhaustive()
    }
}

/// Messages that are returned before epoll is asked again.
const SHARE: u32 = 64;
/// How long parts of long messages are copied after the deadline of a call, which then copies the
/// rest of one of them at once.
const GRACE: Duration = Duration::from_millis(20);
/// The mark of the timer; ports have smaller ones.
const PAUSE_IS_OVER: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::channel::MessageChannel;

    /// Otherwise its hang-up would wake the set again and again once the pause is over.
    #[test]
    fn a_port_that_ends_in_a_pause_is_not_watched_again() {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let mut set = PortSet::new().expect("a set");
        let id = set.add(port2).expect("a descriptor");
        assert!(set.delay(id.number(), set.get(id).expect("a member")));
        assert!(set.delay(id.number(), set.get(id).expect("a member")));
        assert_eq!(set.state.borrow().delayed, [id.number()]);
        drop(port1);
        let (of, event) = set.try_recv().expect("a turn").expect("the end");
        assert!(of == id && event.is_err());
        assert!(set.state.borrow().delayed.is_empty());
        set.end_pause(&mut set.state.borrow_mut()).expect("no socket is watched");
        assert!(set.epoll.remove(set.ports[&id.number()].endpoint().doorbell()).is_err());
    }
}
