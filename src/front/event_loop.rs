//! Many ports on one thread: epoll, a fair share for each, and callbacks one at a time.

mod handle;
mod lend;
#[cfg(test)]
mod tests;
mod turn;

pub use handle::LoopHandle;

use crate::error::LoopError;
use crate::front::add_error::AddError;
use crate::os::epoll::Epoll;
use crate::os::eventfd::Bell;
use crate::port::MessagePort;
use crate::port::events::{Called, Watcher};
use crate::port::target::ListenerFailure;
use crate::ring::handover;
use handle::Shared;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Delivers the events of many ports, on the thread that runs it.
///
/// A port that is [started](MessagePort::start) has its messages delivered, at most 64 of them (a
/// descriptor beside a message and each 4 KiB of one count as much as a message)
/// before the others have their turn. A port that is not started keeps its messages, and costs a
/// turn nothing. When a port has said `close` it is dropped, and [`run`](EventLoop::run) returns
/// once no port is left. A port that was closed here before it was started stays until what is in
/// its queue was delivered, or read by calls.
///
/// Inside a handler the event lends the loop's ports, by
/// [`Event::loop_port`](crate::Event::loop_port), and [`Event::defer`](crate::Event::defer) has
/// something done by the loop afterwards: that is how ports are added, taken and moved away from
/// inside a handler, the one that is being served included.
///
/// A panic ends neither the loop nor anything that is queued, be it in a listener, a source, work
/// of a [`LoopHandle`], or a deferred action: it is reported, by
/// [`MessagePort::on_listener_failure`] for a listener and by
/// [`EventLoop::on_listener_failure`] for the others, and the loop goes on. What panicked is called
/// again when it is due again. (A program that is built with `panic = "abort"` ends, of course.)
///
/// ```
/// use messageport::{EventLoop, MessageChannel};
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
/// event_loop.run()?; // returns, as its only port has ended
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct EventLoop {
    epoll: Epoll,
    ports: BTreeMap<u64, Slot>,
    next: u64,
    /// Ports that have to be looked at, whatever epoll says.
    ready: VecDeque<u64>,
    /// Ports for which `run` goes on.
    holding: usize,
    /// Ports that were set aside, and that the program has had in its hands since.
    lent: RefCell<Vec<u64>>,
    /// Ports whose next message cannot be had at the moment, and when they are tried again at the
    /// latest.
    delayed: VecDeque<u64>,
    retry_at: Instant,
    /// When all ports are looked at next, whatever epoll says.
    look_again_at: Duration,
    /// Sources that panicked, and when each is listened to again.
    resting: VecDeque<(Instant, u64)>,
    /// Somebody asked for the descriptor.
    is_nested: Cell<bool>,
    deferred: RefCell<VecDeque<Box<dyn Any>>>,
    shared: Arc<Shared>,
    marks: Vec<u64>,
    /// What else is waited for, and what to do then. A source is out of its place while it is
    /// served.
    sources: BTreeMap<u64, Option<Source>>,
    /// What is told of panics.
    hook: Option<Hook>,
}

type Hook = Box<dyn FnMut(&ListenerFailure)>;

struct Source {
    fd: Rc<dyn AsFd>,
    on_ready: Box<dyn FnMut(&mut EventLoop)>,
}

struct Slot {
    port: MessagePort,
    /// Its doorbell is waited for.
    is_watched: bool,
    /// What stands next cannot be had at the moment.
    is_delayed: bool,
    is_ready: bool,
    /// `run` goes on for it: more may come of it.
    holds_run: bool,
    /// Nothing more comes of it.
    has_ended: bool,
    /// It is in the list of those that were lent.
    is_lent: Cell<bool>,
}

impl Slot {
    fn new(port: MessagePort) -> Slot {
        Slot {
            port,
            is_watched: true,
            is_delayed: false,
            is_ready: true,
            holds_run: true,
            has_ended: false,
            is_lent: Cell::new(false),
        }
    }

    /// Whether it waits to be started, with messages, and nothing tells of it.
    fn is_aside(&self) -> bool {
        !self.is_watched && !self.is_delayed && !self.has_ended
    }

    /// Gives the port into the program's hands, which may read by calls what it was set aside for.
    fn lend(&self, id: u64, lent: &RefCell<Vec<u64>>) -> &MessagePort {
        if self.is_aside() && !self.is_lent.replace(true) {
            lent.borrow_mut().push(id);
        }
        &self.port
    }
}

type Deferred = Box<dyn FnOnce(&mut EventLoop)>;

/// Tells the ports of an [`EventLoop`], or of a [`PortSet`](crate::PortSet), apart; never used
/// twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(u64);

/// Names a source of an [`EventLoop`], for its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceId(u64);

impl PortId {
    pub(crate) fn new(number: u64) -> PortId {
        PortId(number)
    }

    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

impl EventLoop {
    /// A loop without ports. Takes two descriptors.
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
            next: 0,
            ready: VecDeque::new(),
            holding: 0,
            lent: RefCell::default(),
            delayed: VecDeque::new(),
            retry_at: Instant::now(),
            look_again_at: Duration::ZERO,
            resting: VecDeque::new(),
            is_nested: Cell::new(false),
            deferred: RefCell::default(),
            shared: Arc::new(shared),
            marks: Vec::new(),
            sources: BTreeMap::new(),
            hook: None,
        })
    }

    /// Takes a port in, a typed one with its type: then what is no such message is a
    /// `messageerror`.
    ///
    /// # Errors
    /// [`AddError`] with the port, if the kernel refuses.
    pub fn add(&mut self, port: impl Into<MessagePort>) -> Result<PortId, AddError> {
        let (id, port) = (self.next, port.into());
        if let Err(error) = self.epoll.add(port.receiver().level_triggered_fd(), id) {
            return Err(AddError::new(error.into(), port));
        }
        self.next += 1;
        port.set_watcher(Some(Watcher { shared: self.shared.called.clone(), id }));
        self.ports.insert(id, Slot::new(port));
        self.holding += 1;
        // What has come before is looked for at the next turn.
        self.ready.push_back(id);
        self.shared.called.ring();
        Ok(PortId(id))
    }

    /// Takes a port out again, for other uses: with its listeners, and as started as it is.
    ///
    /// A port whose peer has ended can be taken out as well, and moved: its next owner is told of
    /// the end. The last to do so is an action that a listener of its `close` has
    /// [deferred](crate::Event::defer), as the loop drops the port behind it.
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
        let slot = self.ports.remove(&id.0)?;
        self.holding -= usize::from(slot.holds_run);
        slot.port.set_watcher(None);
        // It fails only for a descriptor that is not there.
        let _ = self.epoll.remove(slot.port.endpoint().doorbell());
        Some(slot.port)
    }

    /// Takes a port out and drops it. Says whether it was there.
    pub fn remove(&mut self, id: PortId) -> bool {
        self.take(id).is_some()
    }

    /// A port of this loop.
    pub fn get(&self, id: PortId) -> Option<&MessagePort> {
        self.ports.get(&id.0).map(|slot| slot.lend(id.0, &self.lent))
    }

    /// The ports of this loop, except one that has said its end and is about to be dropped.
    pub fn ids(&self) -> impl Iterator<Item = PortId> {
        self.ports.iter().filter(|(_, slot)| !slot.has_ended).map(|(id, _)| PortId(*id))
    }

    /// Waits for something else as well: a [`Listener`](crate::Listener), a socket, a timer's
    /// descriptor. `on_ready` is called whenever it is readable, and has to use that up. Sources
    /// that are readable at the same time are served in the order in which they were added. While
    /// there is a source [`run`](Self::run) goes on without ports, until it is stopped.
    ///
    /// A source that panics stays, and is called again a hundredth of a second later.
    ///
    /// # Errors
    /// [`AddError`] with the source, if the kernel refuses: a file of a disk cannot be waited for.
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
        let id = self.next;
        if let Err(error) = self.epoll.add(source.as_fd(), id) {
            return Err(AddError::new(error.into(), source));
        }
        self.next += 1;
        let source = Rc::new(source);
        let served = source.clone();
        let source = Source {
            fd: source,
            on_ready: Box::new(move |event_loop| on_ready(event_loop, &served)),
        };
        self.sources.insert(id, Some(source));
        Ok(SourceId(id))
    }

    /// Takes a source out and drops it. Says whether it was there. The one that is being served
    /// goes when that is through.
    pub fn remove_source(&mut self, id: SourceId) -> bool {
        match self.sources.remove(&id.0) {
            None => false,
            Some(source) => {
                if let Some(source) = source {
                    // It fails only for a descriptor that is not there.
                    let _ = self.epoll.remove(source.fd.as_fd());
                }
                true
            }
        }
    }

    /// A handle that stops the loop, or gives it work, from another thread.
    pub fn handle(&self) -> LoopHandle {
        LoopHandle { shared: self.shared.clone() }
    }

    /// Sets what is told of panics in sources, in work of a [`LoopHandle`], and in deferred
    /// actions. Without it the panic's own message, on standard error, is all that is seen.
    ///
    /// ```
    /// use messageport::{EventLoop, ListenerFailure};
    /// use std::cell::Cell;
    /// use std::rc::Rc;
    ///
    /// let (mut event_loop, panics) = (EventLoop::new()?, Rc::new(Cell::new(0)));
    /// let counted = panics.clone();
    /// event_loop.on_listener_failure(move |failure| {
    ///     assert!(matches!(failure, ListenerFailure::Panic(_)));
    ///     counted.set(counted.get() + 1);
    /// });
    /// event_loop.handle().post(|_| panic!("on purpose"));
    /// event_loop.handle().post(|_| println!("it goes on"));
    /// event_loop.run()?;
    /// assert_eq!(panics.get(), 1);
    /// # Ok::<(), messageport::LoopError>(())
    /// ```
    pub fn on_listener_failure(&mut self, hook: impl FnMut(&ListenerFailure) + 'static) {
        self.hook = Some(Box::new(hook));
    }

    /// Delivers events until the loop is [stopped](LoopHandle::stop), or nothing is left to wait
    /// for: no port, no source, and no work.
    ///
    /// A port that was closed here and never started counts as none, though messages may be in its
    /// queue: it stays, and they are delivered by the next `run` once it is started.
    ///
    /// # Errors
    /// [`LoopError::Io`] if the kernel refuses to wait.
    pub fn run(&mut self) -> Result<(), LoopError> {
        while !self.take_stop_request() && !self.is_empty() {
            self.turn(None)?;
        }
        Ok(())
    }

    /// Delivers events until nothing can be had at the moment. A message whose descriptors wait
    /// until earlier ones of its port are closed stays for a later turn. Once the loop is
    /// [being stopped](Self::is_stopping) it delivers a fair share and returns; the request is left
    /// for `run`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_until_idle(&mut self) -> Result<(), LoopError> {
        while self.turn(Some(Duration::ZERO))? && !self.is_stopping() {}
        Ok(())
    }

    /// Waits for events at most for `timeout`, and delivers a fair share of what has come. Says
    /// whether there was anything: an event, or a part of a message of more than 2 MiB, which an
    /// untrusted port copies in parts between the turns of other ports.
    ///
    /// Does not wait if [`run`](Self::run) would return at once, as no port and no source is there
    /// that something could come of, and while the loop is [being stopped](Self::is_stopping). So a
    /// program with a loop of its own asks for that, and tells a stop from a timeout:
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
        let deadline = Instant::now().checked_add(timeout);
        loop {
            if self.is_empty() {
                return Ok(false);
            }
            let left = match self.is_stopping() {
                true => Some(Duration::ZERO),
                false => deadline.map(|at| at.saturating_duration_since(Instant::now())),
            };
            let was_something = self.turn(left)?;
            let is_late = deadline.is_some_and(|at| Instant::now() >= at);
            if was_something || is_late || self.is_stopping() {
                return Ok(was_something);
            }
        }
    }

    /// Whether the loop was asked to [stop](LoopHandle::stop), and neither [`run`](Self::run) nor
    /// [`take_stop_request`](Self::take_stop_request) has taken the request since.
    pub fn is_stopping(&self) -> bool {
        handover::has_request(&self.shared.is_stopped)
    }

    /// Takes a request to [stop](LoopHandle::stop), so that it does not end the next `run`. Says
    /// whether there was one.
    pub fn take_stop_request(&mut self) -> bool {
        self.is_stopping() && handover::take_request(&self.shared.is_stopped)
    }

    /// Whether nothing can come any more, unless another thread gives work.
    fn is_empty(&mut self) -> bool {
        self.look_at_lent();
        let is_through = self.holding == 0 && self.sources.is_empty() && self.ready.is_empty();
        is_through && self.shared.called.is_empty() && self.has_no_work()
    }

    fn has_no_work(&self) -> bool {
        self.shared.work().as_ref().is_none_or(VecDeque::is_empty)
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        // Taken out before it is dropped: what it owns may reach for the queue.
        let left = self.shared.work().take();
        drop(left);
    }
}

/// Readable when [`run_until_idle`](EventLoop::run_until_idle) may find something: so it nests in
/// any other loop that is level-triggered. Once the descriptor was asked for, it also stays
/// readable while a port waits for room for descriptors or for memory, which has to be tried again
/// and again. A port that is not started but read by calls does not make it readable at its end,
/// which the next turn tells.
impl AsFd for EventLoop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        if !self.is_nested.replace(true) && self.has_retries() {
            self.shared.called.ring();
        }
        self.epoll.as_fd()
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

/// The mark of the loop's own bell.
const BELL: u64 = u64::MAX;
