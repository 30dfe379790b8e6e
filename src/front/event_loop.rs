//! Many ports on one thread: epoll, a fair share for each, and callbacks one at a time.

mod handle;
mod handlers;
mod lend;
mod references;
#[cfg(test)]
mod tests;
mod timers;
mod turn;

pub use handle::LoopHandle;
pub use references::{LoopItem, RunEnd};
pub use timers::TimerId;

use crate::error::LoopError;
use crate::front::add_error::AddError;
use crate::link::endpoint::fresh_number;
use crate::os::alarm::Alarm;
use crate::os::clock::Deadline;
use crate::os::epoll::Epoll;
use crate::os::eventfd::Bell;
use crate::port::MessagePort;
use crate::port::delivery::LoopEvent;
use crate::port::events::{Called, Watcher};
use crate::port::id::PortId;
use crate::port::listener::ListenerFailure;
use crate::ring::handover;
use handle::Shared;
use handlers::Handlers;
use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use timers::Timers;

/// Delivers the events of many ports, on the thread that runs it.
///
/// The loop delivers the messages of each [started](MessagePort::start) port, at most 64 of one
/// port before it serves the others. Each descriptor of a message, and each 4 KiB of its length,
/// count as one additional message. A port that is not started keeps its messages, and takes no
/// time. If its peer ends while messages are unread,
/// [`peergone`](crate::EventType::PeerGone) is delivered.
///
/// A turn that may wait looks for the next message of a port that has just had one, for one or two
/// microseconds, before it sleeps: longer, up to 30, if that has paid off. With several ports or
/// sources it looks no longer than 30 microseconds for 64 messages.
///
/// [Timers](EventLoop::add_timer) and [other sources](EventLoop::add_source) of events can be added
/// as well.
///
/// The loop drops a port after its `close` event, and [`run`](EventLoop::run) returns when no port,
/// timer and source is left. If a port was closed here before it was started, the loop keeps it
/// until its queue is empty.
///
/// A listener of a port is `Send`, and is called with a borrowed event. A handler that is given to
/// the loop with a port, by [`add_with`](EventLoop::add_with), gets the loop itself.
///
/// Inside a listener, [`Event::loop_port`](crate::Event::loop_port) borrows the loop's ports, and
/// [`Event::defer`](crate::Event::defer) runs an action after the listener. Such an action can add,
/// take and transfer ports, including the port that the loop is serving.
///
/// After a panic in a listener, in a timer or source, in work that was posted through a
/// [`LoopHandle`], or in a deferred action, the loop continues. The hook of
/// [`MessagePort::on_listener_failure`] is called for a panic in a listener, and that of
/// [`EventLoop::on_listener_failure`] for the others. A listener or source that has panicked is
/// called again at its next event. With `panic = "abort"` the program ends.
///
/// ```
/// use messageport::{EventLoop, MessageChannel, RunEnd};
///
/// let MessageChannel { port1, port2 } = MessageChannel::new()?;
/// port2.on_message(|event| event.port().post_text("you are welcome"));
/// let mut event_loop = EventLoop::new()?;
/// event_loop.add(port2)?;
///
/// port1.post_text("thank you")?;
/// event_loop.run_until_idle()?;
/// assert_eq!(port1.recv()?.text()?, "you are welcome");
/// drop(port1);
/// assert_eq!(event_loop.run()?, RunEnd::NothingLeft); // its only port has ended
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct EventLoop {
    epoll: Epoll,
    ports: BTreeMap<u64, LoopPort>,
    handlers: Handlers,
    /// What came to the port that is served, for its handler.
    arrived: RefCell<Vec<LoopEvent>>,
    /// Ports to serve in the next turn, whatever epoll reports.
    ready: VecDeque<u64>,
    /// The number of ports, timers and sources for which `run` continues.
    holding: usize,
    /// Ports, timers and sources for which the program does not want it to.
    unreferenced: BTreeSet<u64>,
    /// Ports that were set aside, and that the program has borrowed since.
    lent: RefCell<Vec<u64>>,
    /// Ports whose next message cannot be received at present, and the latest time of the next
    /// attempt.
    delayed: VecDeque<u64>,
    retry_at: Instant,
    /// When the loop next looks at all ports, whatever epoll reports.
    look_again_at: Duration,
    /// Sources that panicked, and when the loop watches each of them again.
    resting: VecDeque<(Instant, u64)>,
    /// The program has asked for the loop's descriptor.
    is_nested: Cell<bool>,
    /// For an outer loop: the time of the next retry or timer. Made when there is one.
    alarm: OnceCell<Alarm>,
    alarm_at: Cell<Option<Instant>>,
    deferred: RefCell<VecDeque<Box<dyn Any>>>,
    shared: Arc<Shared>,
    marks: Vec<u64>,
    /// Other descriptors that the loop watches, with their callbacks.
    sources: BTreeMap<u64, Source>,
    timers: Timers,
    /// How many turns have begun.
    turns: u64,
    /// Whether the last turn has run timers, and had nothing else to do.
    ran_timers_only: bool,
    /// Whether the present turn may wait.
    may_wait: bool,
    /// How often a port whose share is served may still be looked at before the loop sleeps.
    looks: Cell<u32>,
    /// Called for each panic.
    hook: Option<Hook>,
}

type Hook = Box<dyn FnMut(&ListenerFailure, Option<LoopItem>)>;

type OnReady = Box<dyn FnMut(&mut EventLoop)>;

struct Source {
    fd: Rc<dyn AsFd>,
    /// `None` while it is called.
    on_ready: Option<OnReady>,
    is_watched: bool,
    /// Not watched until it is resumed.
    is_paused: bool,
}

struct LoopPort {
    port: MessagePort,
    /// The loop watches its doorbell for messages and the end.
    is_watched: bool,
    /// The loop watches it for the end alone.
    awaits_end: bool,
    /// Its next message cannot be received at present.
    is_delayed: bool,
    is_ready: bool,
    /// `run` continues for it: it may have more events.
    holds_run: bool,
    /// It has no more events.
    has_ended: bool,
    /// It is in the list `lent`.
    is_lent: Cell<bool>,
}

impl LoopPort {
    fn new(port: MessagePort) -> LoopPort {
        LoopPort {
            port,
            is_watched: true,
            awaits_end: false,
            is_delayed: false,
            is_ready: true,
            holds_run: true,
            has_ended: false,
            is_lent: Cell::new(false),
        }
    }

    /// Whether it has messages, is not started, and is not watched.
    fn is_aside(&self) -> bool {
        !self.is_watched && !self.is_delayed && !self.has_ended
    }

    /// Returns the port to the program, which may receive the messages that it was set aside for.
    fn lend(&self, id: u64, lent: &RefCell<Vec<u64>>) -> &MessagePort {
        if self.is_aside() && !self.is_lent.replace(true) {
            lent.borrow_mut().push(id);
        }
        &self.port
    }
}

type Deferred = Box<dyn FnOnce(&mut EventLoop)>;

/// Names a source of an [`EventLoop`], for its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceId(u64);

impl EventLoop {
    /// Creates a loop without ports. It uses two descriptors.
    ///
    /// # Errors
    /// [`LoopError::Io`].
    pub fn new() -> Result<EventLoop, LoopError> {
        let epoll = Epoll::new()?;
        let bell = Bell::new()?;
        epoll.add(bell.as_fd(), BELL)?;
        let called = Arc::new(Called::new(Some(bell)));
        let is_stopped = AtomicBool::new(false);
        let shared = Shared { called, is_stopped, work: Mutex::new(Some(VecDeque::new())) };
        Ok(EventLoop {
            epoll,
            ports: BTreeMap::new(),
            handlers: Handlers::default(),
            arrived: RefCell::default(),
            ready: VecDeque::new(),
            holding: 0,
            unreferenced: BTreeSet::new(),
            lent: RefCell::default(),
            delayed: VecDeque::new(),
            retry_at: Instant::now(),
            look_again_at: Duration::ZERO,
            resting: VecDeque::new(),
            is_nested: Cell::new(false),
            alarm: OnceCell::new(),
            alarm_at: Cell::new(None),
            deferred: RefCell::default(),
            shared: Arc::new(shared),
            marks: Vec::new(),
            sources: BTreeMap::new(),
            timers: Timers::default(),
            turns: 0,
            ran_timers_only: false,
            may_wait: false,
            looks: Cell::new(0),
            hook: None,
        })
    }

    /// Adds a port, and returns its [id](MessagePort::id). If it is a typed port, a message of
    /// another type is a `messageerror`.
    ///
    /// # Errors
    /// [`AddError`] with the port, if the kernel refuses to watch it.
    pub fn add(&mut self, port: impl Into<MessagePort>) -> Result<PortId, AddError> {
        let port = port.into();
        let id = port.id().number();
        if let Err(error) = self.epoll.add(port.receiver().level_triggered_fd(), id) {
            return Err(AddError::new(error.into(), port));
        }
        port.set_watcher(Some(Watcher { shared: self.shared.called.clone(), id }));
        self.recount(id, |event_loop| event_loop.ports.insert(id, LoopPort::new(port)));
        // The next turn looks for messages that came before.
        self.ready.push_back(id);
        self.shared.called.ring();
        Ok(PortId::new(id))
    }

    /// Removes a port and returns it. It keeps its listeners, and stays started if it was; it
    /// leaves the handler that the loop has for it.
    ///
    /// A port whose peer has ended can be taken too, and transferred: its next owner learns of the
    /// end. The loop drops such a port after its `close` event and the actions that the event's
    /// listeners [deferred](crate::Event::defer), so one of these actions can still take it.
    ///
    /// ```
    /// use messageport::{EventLoop, MessageChannel};
    /// use std::sync::mpsc;
    ///
    /// let MessageChannel { port1, port2 } = MessageChannel::new()?;
    /// let (keep, kept) = mpsc::channel();
    /// port2.on_close(move |event| {
    ///     let (id, keep) = (event.port_id().expect("a loop"), keep.clone());
    ///     event.defer(move |event_loop| keep.send(event_loop.take(id)).expect("a receiver"));
    /// });
    /// let mut event_loop = EventLoop::new()?;
    /// event_loop.add(port2)?;
    /// drop(port1);
    /// event_loop.run()?;
    /// assert!(kept.recv()?.is_some_and(|port| port.is_closed()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn take(&mut self, id: PortId) -> Option<MessagePort> {
        let id = id.number();
        let entry = self.recount(id, |event_loop| event_loop.ports.remove(&id))?;
        self.handlers.remove(id);
        if entry.is_delayed {
            self.delayed.retain(|delayed| *delayed != id);
        }
        entry.port.set_watcher(None);
        entry.port.set_loop_handler(false);
        // It fails only for a descriptor that is not there.
        let _ = self.epoll.remove(entry.port.endpoint().doorbell());
        Some(entry.port)
    }

    /// Removes a port and drops it. Returns whether it was there.
    pub fn remove(&mut self, id: PortId) -> bool {
        self.take(id).is_some()
    }

    /// Returns a port of this loop.
    pub fn get(&self, id: PortId) -> Option<&MessagePort> {
        let id = id.number();
        let port = self.ports.get(&id)?.lend(id, &self.lent);
        if self.is_nested.get() && !self.lent.borrow().is_empty() {
            // What is read by calls may stand before the end: the next turn looks.
            self.shared.called.ring();
        }
        Some(port)
    }

    /// Returns the ports of this loop, in the order in which they were made. A port whose `close`
    /// event was delivered, and that the loop will drop, is not among them.
    pub fn ids(&self) -> impl Iterator<Item = PortId> {
        self.ports.iter().filter(|(_, entry)| !entry.has_ended).map(|(id, _)| PortId::new(*id))
    }

    /// Adds another source of events: a [`Listener`](crate::Listener), a socket, any descriptor.
    ///
    /// The loop calls `on_ready` whenever it is readable, and `on_ready` has to consume what makes
    /// it readable. Sources that are readable at the same time are served in the order in which
    /// they were added. A callback may run the loop, which leaves its own source out meanwhile.
    /// While the loop has a source, [`run`](Self::run) continues without ports until it is stopped,
    /// unless the source is [unreferenced](Self::unref).
    ///
    /// A source that panics stays in the loop, which calls it again after 10 ms.
    ///
    /// # Errors
    /// [`AddError`] with the source, if the kernel refuses to watch it, as it does a regular file.
    ///
    /// ```
    /// use messageport::{EventLoop, Listener, connect};
    ///
    /// # let name = format!("doc-loop-{}", std::process::id());
    /// let mut event_loop = EventLoop::new()?;
    /// let handle = event_loop.handle();
    /// event_loop.add_source(Listener::bind(&name)?, |event_loop, listener| {
    ///     while let Ok(Some(port)) = listener.try_accept() {
    ///         port.on_message(|event| event.port().post_text("welcome"));
    ///         event_loop.add(port).expect("room for a port");
    ///     }
    /// })?;
    /// let client = std::thread::spawn(move || {
    ///     let port = connect(&name).unwrap();
    ///     port.post_text("hello").unwrap();
    ///     let answer = port.recv().unwrap().text().unwrap().to_owned();
    ///     handle.stop();
    ///     answer
    /// });
    /// event_loop.run()?;
    /// assert_eq!(client.join().unwrap(), "welcome");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn add_source<S: AsFd + 'static>(
        &mut self,
        source: S,
        mut on_ready: impl FnMut(&mut EventLoop, &S) + 'static,
    ) -> Result<SourceId, AddError<S>> {
        let id = fresh_number();
        if let Err(error) = self.epoll.add(source.as_fd(), id) {
            return Err(AddError::new(error.into(), source));
        }
        let source = Rc::new(source);
        let served = source.clone();
        let source = Source {
            fd: source,
            on_ready: Some(Box::new(move |event_loop| on_ready(event_loop, &served))),
            is_watched: true,
            is_paused: false,
        };
        self.recount(id, |event_loop| event_loop.sources.insert(id, source));
        Ok(SourceId(id))
    }

    /// Removes a source and drops it. Returns whether it was there. The source that the loop is
    /// serving is dropped after its callback returns.
    pub fn remove_source(&mut self, id: SourceId) -> bool {
        match self.recount(id.0, |event_loop| event_loop.sources.remove(&id.0)) {
            None => false,
            Some(source) => {
                // It fails only for a descriptor that is not there.
                let _ = self.epoll.remove(source.fd.as_fd());
                true
            }
        }
    }

    /// Returns a handle with which other threads stop the loop, or post work to it.
    pub fn handle(&self) -> LoopHandle {
        LoopHandle { shared: self.shared.clone() }
    }

    /// Sets the hook that is called for panics in timers, sources, posted work and deferred
    /// actions.
    ///
    /// Posted work is work that was posted through a [`LoopHandle`]. The hook gets the failure, and
    /// the timer or source that panicked; for posted work and deferred actions it gets `None`. It
    /// also gets a port, if the program's code that checks its messages panicked. Without a hook,
    /// only the panic's message appears, on standard error.
    ///
    /// ```
    /// use messageport::{EventLoop, ListenerFailure};
    /// use std::cell::Cell;
    /// use std::rc::Rc;
    ///
    /// let (mut event_loop, panics) = (EventLoop::new()?, Rc::new(Cell::new(0)));
    /// let counted = panics.clone();
    /// event_loop.on_listener_failure(move |failure, of| {
    ///     assert!(matches!(failure, ListenerFailure::Panic(_)) && of.is_none());
    ///     counted.set(counted.get() + 1);
    /// });
    /// event_loop.handle().post(|_| panic!("on purpose"));
    /// event_loop.handle().post(|_| println!("it goes on"));
    /// event_loop.run()?;
    /// assert_eq!(panics.get(), 1);
    /// # Ok::<(), messageport::LoopError>(())
    /// ```
    pub fn on_listener_failure(
        &mut self,
        hook: impl FnMut(&ListenerFailure, Option<LoopItem>) + 'static,
    ) {
        self.hook = Some(Box::new(hook));
    }

    /// Delivers events until the loop is [stopped](LoopHandle::stop), or has no port, timer, source
    /// and work any more. Returns which of them it was.
    ///
    /// What is [unreferenced](Self::unref) does not count. A port that was closed here and never
    /// started does not count either, even if its queue has messages. It stays in the loop, and the
    /// next `run` delivers them once it is started.
    ///
    /// # Errors
    /// [`LoopError::Io`] if the kernel refuses to wait.
    pub fn run(&mut self) -> Result<RunEnd, LoopError> {
        loop {
            if self.take_stop_request() {
                return Ok(RunEnd::Stopped);
            }
            if let Some(end) = self.ended() {
                return Ok(end);
            }
            self.turn(None, None)?;
        }
    }

    /// Delivers events, and runs timers that are due, until there are none at present.
    ///
    /// A timer that [repeats](Self::add_interval) is called at most once, and only if it was due
    /// when this call began: one whose period is shorter than a turn would always be due.
    ///
    /// Timers without delay that add one another forever do not keep it: it returns after 1,000
    /// turns in a row in which nothing but timers ran. Listeners of this loop that answer each
    /// other forever do keep it, until there is a request to stop.
    ///
    /// While too many earlier descriptors of a port are still being closed, its next message with
    /// descriptors is not delivered yet. If there is a [request to stop](Self::is_stopping), the
    /// call serves each port once, and returns. The request stays for `run`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_until_idle(&mut self) -> Result<(), LoopError> {
        let begin = Some(Instant::now());
        let mut turns_of_timers = 0;
        while self.turn(Some(Duration::ZERO), begin)? && !self.is_stopping() {
            turns_of_timers = if self.ran_timers_only { turns_of_timers + 1 } else { 0 };
            if turns_of_timers == MOST_TURNS_OF_TIMERS {
                break;
            }
        }
        Ok(())
    }

    /// Waits for events at most for `timeout`, and serves each port once. A timer that is due is an
    /// event, too.
    ///
    /// Returns whether there was an event, or a part of a long message: an untrusted port copies a
    /// message of more than 2 MiB in chunks, between the turns of other ports.
    ///
    /// Does not wait if the loop has no port, timer and source, or if there is a [request to
    /// stop](Self::is_stopping). A program that calls this in its own loop distinguishes a stop
    /// from a timeout as follows:
    ///
    /// ```
    /// use messageport::{EventLoop, MessageChannel};
    /// use std::time::Duration;
    ///
    /// let (mut event_loop, channel) = (EventLoop::new()?, MessageChannel::new()?);
    /// event_loop.add(channel.port2)?;
    /// let handle = event_loop.handle();
    /// std::thread::spawn(move || handle.stop());
    /// while !event_loop.take_stop_request() {
    ///     event_loop.poll_once(Duration::from_secs(1))?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn poll_once(&mut self, timeout: Duration) -> Result<bool, LoopError> {
        let deadline = Deadline::after(timeout);
        loop {
            if self.ended().is_some() && self.unreferenced.is_empty() {
                return Ok(false);
            }
            let left = match self.is_stopping() {
                true => Some(Duration::ZERO),
                false => deadline.left(),
            };
            let was_something = self.turn(left, None)?;
            let is_late = deadline.is_over();
            if was_something || is_late || self.is_stopping() {
                return Ok(was_something);
            }
        }
    }

    /// Whether there is a request to [stop](LoopHandle::stop) that neither [`run`](Self::run) nor
    /// [`take_stop_request`](Self::take_stop_request) has taken.
    pub fn is_stopping(&self) -> bool {
        handover::has_request(&self.shared.is_stopped)
    }

    /// Takes a request to [stop](LoopHandle::stop), so that it does not end the next `run`. Returns
    /// whether there was one.
    pub fn take_stop_request(&mut self) -> bool {
        self.is_stopping() && handover::take_request(&self.shared.is_stopped)
    }

    fn has_no_work(&self) -> bool {
        self.shared.work().as_ref().is_none_or(VecDeque::is_empty)
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        // Taken out before it is dropped: its drop may access the queue.
        let left = self.shared.work().take();
        drop(left);
    }
}

/// Readable when [`run_until_idle`](EventLoop::run_until_idle) may find an event. So the loop can
/// be nested in any other loop that is level-triggered. After the first call of `as_fd` the
/// descriptor also becomes readable when a timer is due, and 10 ms after a port lacked descriptors
/// or memory for its next message, so that it is retried. For these a third descriptor is made when
/// it is needed; without one the descriptor stays readable. If a port is not
/// started and has unread messages, a peer that calls `close` and keeps its port does not make the
/// descriptor readable: a turn within half a second finds it.
impl AsFd for EventLoop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        if !self.is_nested.replace(true) && self.next_alarm().is_some() {
            self.shared.called.ring();
        }
        self.epoll.as_fd()
    }
}

/// As `AsFd`.
impl AsRawFd for EventLoop {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoop")
            .field("ports", &self.ports.keys())
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

/// After so many turns in a row that run timers only, `run_until_idle` ends.
const MOST_TURNS_OF_TIMERS: u32 = 1000;
/// The mark of the loop's bell in epoll.
const BELL: u64 = u64::MAX;
/// The mark of the alarm.
const ALARM: u64 = u64::MAX - 1;
