//! Many ports on one thread: epoll, a fair share for each, and callbacks one at a time.

mod handle;
mod lend;
mod turn;

pub use handle::LoopHandle;

use crate::error::LoopError;
use crate::os::epoll::Epoll;
use crate::os::eventfd::Bell;
use crate::port::MessagePort;
use crate::port::events::{Called, Watcher};
use handle::Shared;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Delivers the events of many ports, on the thread that runs it.
///
/// A port that is [started](MessagePort::start) has its messages delivered, at most 64 of them
/// before the others have their turn. A port that is not started costs nothing, and keeps its
/// messages. When a port has said `close` it is dropped, and [`run`](EventLoop::run) returns once
/// no port is left.
///
/// Inside a handler the event lends the loop's ports, by [`Event::loop_port`], and
/// [`Event::defer`] has something done by the loop afterwards: that is how ports are added, taken
/// and moved away from inside a handler, the one that is being served included.
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
    /// Ports that are not started yet, as far as was seen.
    unstarted: Vec<u64>,
    /// Ports whose next message cannot be had at the moment.
    delayed: Vec<u64>,
    /// Somebody asked for the descriptor.
    is_nested: Cell<bool>,
    deferred: RefCell<Vec<Box<dyn Any>>>,
    shared: Arc<Shared>,
    marks: Vec<u64>,
    /// What else is waited for, and what to do then. A source is out of its place while it is
    /// served.
    sources: BTreeMap<u64, Option<Source>>,
}

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
        let called = Arc::new(Called { bell, ids: Mutex::default() });
        let is_stopped = AtomicBool::new(false);
        let shared = Shared { called, is_stopped, work: Mutex::new(Some(VecDeque::new())) };
        Ok(EventLoop {
            epoll,
            ports: BTreeMap::new(),
            next: 0,
            ready: VecDeque::new(),
            unstarted: Vec::new(),
            delayed: Vec::new(),
            is_nested: Cell::new(false),
            deferred: RefCell::default(),
            shared: Arc::new(shared),
            marks: Vec::new(),
            sources: BTreeMap::new(),
        })
    }

    /// Takes a port in, a typed one with its type: then what is no such message is a
    /// `messageerror`.
    ///
    /// # Errors
    /// [`LoopError::Io`]; the port is dropped then.
    pub fn add(&mut self, port: impl Into<MessagePort>) -> Result<PortId, LoopError> {
        let (id, port) = (self.next, port.into());
        self.epoll.add(port.as_fd(), id)?;
        self.next += 1;
        port.set_watcher(Some(Watcher { shared: self.shared.called.clone(), id }));
        self.ports.insert(id, Slot { port, is_watched: true, is_delayed: false, is_ready: true });
        self.unstarted.push(id);
        // What has come before is looked for at the next turn.
        self.ready.push_back(id);
        self.shared.called.bell.ring();
        Ok(PortId(id))
    }

    /// Takes a port out again, for other uses: with its listeners, and as started as it is.
    pub fn take(&mut self, id: PortId) -> Option<MessagePort> {
        let slot = self.ports.remove(&id.0)?;
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
        self.ports.get(&id.0).map(|slot| &slot.port)
    }

    /// The ports of this loop.
    pub fn ids(&self) -> impl Iterator<Item = PortId> {
        self.ports.keys().map(|id| PortId(*id))
    }

    /// Waits for something else as well: a [`Listener`](crate::Listener), a socket, a timer's
    /// descriptor. `on_ready` is called whenever it is readable, and has to use that up. Sources
    /// that are readable at the same time are served in the order in which they were added. While
    /// there is a source [`run`](Self::run) goes on without ports, until it is stopped.
    ///
    /// # Errors
    /// [`LoopError::Io`]; the source is dropped then.
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
    ) -> Result<SourceId, LoopError> {
        let id = self.next;
        self.epoll.add(source.as_fd(), id)?;
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

    /// Delivers events until the loop is stopped, or no port is left.
    ///
    /// # Errors
    /// [`LoopError::Io`] if the kernel refuses to wait.
    pub fn run(&mut self) -> Result<(), LoopError> {
        while !self.is_through() {
            self.turn(None)?;
        }
        Ok(())
    }

    /// Delivers events until nothing is there at the moment.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_until_idle(&mut self) -> Result<(), LoopError> {
        while self.turn(Some(Duration::ZERO))? && !self.is_stopped() {}
        Ok(())
    }

    /// Waits for events at most for `timeout`, and delivers a fair share of what has come. Says
    /// whether there was anything.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn poll_once(&mut self, timeout: Duration) -> Result<bool, LoopError> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            if self.is_empty() {
                return Ok(false);
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let was_something = self.turn(left)?;
            let is_late = deadline.is_some_and(|at| Instant::now() >= at);
            if was_something || is_late || self.is_through() {
                return Ok(was_something);
            }
        }
    }

    fn is_through(&self) -> bool {
        self.is_stopped() || self.is_empty()
    }

    /// Whether nothing can come any more.
    fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.sources.is_empty() && self.has_no_work()
    }

    /// Whether it was stopped. The question takes the request.
    fn is_stopped(&self) -> bool {
        // Acquire: pairs with the Release in `stop`.
        self.shared.is_stopped.swap(false, Ordering::Acquire)
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
        if !self.is_nested.replace(true) && !self.delayed.is_empty() {
            self.shared.called.bell.ring();
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
