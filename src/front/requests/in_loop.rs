//! Requests and replies in an event loop.
//!
//! A requester or responder has three sources there: the doorbell of its port, a bell that other
//! threads ring, and an alarm. Each of them has the loop serve it.

use crate::error::{CallError, LoopError, PostError, RecvError, SystemError};
use crate::front::add_error::AddError;
use crate::front::event_loop::{EventLoop, SourceId};
use crate::front::requests::lead::{Lease, Left};
use crate::link::archive::Receive;
use crate::link::biased::AlreadyInside;
use crate::link::payload::Post;
use crate::os::alarm::Alarm;
use crate::os::eventfd::Bell;
use crate::port::requests::call::Reply;
use crate::port::requests::core::Core;
use crate::port::requests::request::Request;
use crate::port::requests::requester::Requester;
use crate::port::requests::responder::Responder;
use crate::port::transfer::{TransferError, TransferList};
use crate::port::typed::TypedError;
use std::cell::{Cell, OnceCell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

impl EventLoop {
    /// Has this loop receive the replies of a requester, and call the callbacks of
    /// [`start_then`](Requester::start_then).
    ///
    /// Other threads may use the requester meanwhile. The loop stops serving it when the last
    /// handle is dropped, when it is closed, when it is added to another loop, or when the peer has
    /// ended. Until then [`run`](Self::run) continues. It takes three descriptors.
    ///
    /// # Errors
    /// [`LoopError::Io`] if the process is out of descriptors, or the kernel refuses to watch them.
    ///
    /// ```
    /// use messageport::{EventLoop, MessageChannel};
    ///
    /// let channel = MessageChannel::new()?;
    /// let requester = channel.port1.requester::<u32, u32>();
    /// let mut event_loop = EventLoop::new()?;
    /// event_loop.add_responder(channel.port2.responder::<u32, u32>(), |_, request| {
    ///     let double = 2 * request.data().to_native();
    ///     request.reply(&double).expect("room for a reply");
    /// })?;
    /// event_loop.add_requester(&requester)?;
    /// requester.start_then(&21, None, |reply| {
    ///     assert_eq!(*reply.expect("a reply").data(), 42);
    /// })?;
    /// event_loop.run_until_idle()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn add_requester<Req: Post, Resp: Receive>(
        &mut self,
        requester: &Requester<Req, Resp>,
    ) -> Result<(), LoopError> {
        let core = &requester.core;
        let (served, waker) = (Arc::downgrade(core), Rc::new(OnceCell::new()));
        let told = waker.clone();
        let mut state = core.lock().map_err(busy)?;
        let doorbell = state.sender().endpoint().doorbell().try_clone_to_owned();
        let doorbell = doorbell.map_err(|source| SystemError { call: "fcntl(F_DUPFD)", source })?;
        let kick = Driven::add(self, doorbell, move |_| match served.upgrade() {
            Some(core) => serve_requester(&core, told.get()),
            None => Next::End,
        })?;
        let driver = waker.get_or_init(|| Waker::from(kick.clone()));
        let before = state.driver.replace(driver.clone());
        drop(state);
        before.into_iter().for_each(Waker::wake);
        // What has come before.
        kick.bell.ring();
        Ok(())
    }

    /// Serves a responder: calls `handler` with each request.
    ///
    /// The handler answers at once, or makes the request an
    /// [`OwnedRequest`](crate::OwnedRequest), which it or another thread answers later. At most 64
    /// requests are handled before the loop serves others. A handler may run the loop; the next
    /// request comes when it has returned. A request that is no valid `Req` is refused without a
    /// call of the handler. The loop drops the responder when the peer has ended.
    /// It takes three descriptors.
    ///
    /// # Errors
    /// [`AddError`] with the responder, as for [`add_requester`](Self::add_requester).
    pub fn add_responder<Req: Receive + 'static, Resp: Post + 'static>(
        &mut self,
        responder: Responder<Req, Resp>,
        mut handler: impl FnMut(&mut EventLoop, Request<'_, Req, Resp>) + 'static,
    ) -> Result<(), AddError<Responder<Req, Resp>>> {
        let doorbell = responder.incoming.receiver().endpoint().doorbell().try_clone_to_owned();
        let doorbell = match doorbell {
            Ok(doorbell) => doorbell,
            Err(source) => {
                let error = SystemError { call: "fcntl(F_DUPFD)", source };
                return Err(AddError::new(error.into(), responder));
            }
        };
        let responder = Rc::new(RefCell::new(Some(responder)));
        let (served, waker) = (responder.clone(), Rc::new(OnceCell::new()));
        let told = waker.clone();
        let added = Driven::add(self, doorbell, move |event_loop| {
            let responder = served.borrow();
            let Some(responder) = &*responder else { return Next::End };
            serve_responder(event_loop, responder, told.get(), &mut handler)
        });
        match added {
            Ok(kick) => {
                if let Some(responder) = &*responder.borrow() {
                    responder.incoming.take_turns();
                    // From now on a poll that finds nothing has armed the flag.
                    let _ = responder.incoming.receiver().level_triggered_fd();
                }
                waker.get_or_init(|| Waker::from(kick.clone()));
                kick.bell.ring();
                Ok(())
            }
            Err(error) => {
                let responder = responder.borrow_mut().take().expect("nothing has taken it");
                Err(AddError::new(error, responder))
            }
        }
    }
}

impl<Req: Post, Resp: Receive> Requester<Req, Resp> {
    /// Posts a request; the event loop to which this requester was
    /// [added](EventLoop::add_requester) calls `then` with the outcome. Never blocks.
    ///
    /// If `timeout` is over first, the call is cancelled, and the outcome is
    /// [`CallError::Timeout`]. Without such a loop, the outcome waits for one. If the last handle
    /// of the requester is dropped first, `then` is dropped without being called.
    ///
    /// # Errors
    /// As [`start`](Self::start); `then` is dropped.
    pub fn start_then(
        &self,
        request: &Req,
        timeout: Option<Duration>,
        then: impl FnOnce(Result<Reply<Resp>, CallError>) + Send + 'static,
    ) -> Result<(), PostError> {
        let mut state = self.core.lock()?;
        let id = self.core.post(&mut state, request)?;
        set_callback(state, id, timeout, then);
        Ok(())
    }

    /// Posts a request and moves what is in the list; otherwise like
    /// [`start_then`](Self::start_then).
    ///
    /// # Errors
    /// As [`start_with`](Self::start_with); `then` is dropped.
    pub fn start_with_then(
        &self,
        request: &Req,
        transfer: impl TransferList,
        timeout: Option<Duration>,
        then: impl FnOnce(Result<Reply<Resp>, CallError>) + Send + 'static,
    ) -> Result<(), TransferError> {
        let list = transfer.into_list();
        let mut state = match self.core.lock() {
            Ok(state) => state,
            Err(inside) => return Err(TransferError::new(inside.into(), list)),
        };
        let id = self.core.post_with(&mut state, request, list)?;
        set_callback(state, id, timeout, then);
        Ok(())
    }
}

/// Sets the callback of a call that was just posted.
fn set_callback<Resp: Receive>(
    mut state: crate::port::requests::core::Guard<'_>,
    id: crate::port::requests::trailer::CallId,
    timeout: Option<Duration>,
    then: impl FnOnce(Result<Reply<Resp>, CallError>) + Send + 'static,
) {
    let before = state.calls.next_deadline();
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let callback = Box::new(move |outcome: Result<_, _>| then(outcome.and_then(Reply::new)));
    state.calls.set_callback(id, callback, deadline);
    let is_first = deadline.is_some() && state.calls.next_deadline() != before;
    let driver = if is_first { state.driver.clone() } else { None };
    drop(state);
    if let Some(driver) = driver {
        driver.wake();
    }
}

/// When a requester or responder is to be served next.
enum Next {
    /// After the others: it has more.
    Again,
    /// After a time, or when its doorbell or bell rings.
    After(Duration),
    /// When one of them rings.
    Ring,
    /// When its bell rings, or after a time. Its doorbell may be readable meanwhile.
    Rest(Option<Duration>),
    /// Never.
    End,
}

/// What the loop serves.
struct Driven<F> {
    serve: RefCell<F>,
    kick: Arc<Kick>,
    alarm: Rc<Alarm>,
    /// The doorbell is the first one.
    sources: Cell<Vec<SourceId>>,
    /// A handler has run the loop, which came back here.
    is_due: Cell<bool>,
    /// The doorbell is left out at present.
    is_silent: Cell<bool>,
}

/// Has the loop serve it, from any thread.
struct Kick {
    bell: Bell,
}

impl Wake for Kick {
    fn wake(self: Arc<Self>) {
        self.bell.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.bell.ring();
    }
}

/// The bell, as a source.
struct Kicked(Arc<Kick>);

impl AsFd for Kicked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }
}

/// The alarm, as a source.
struct Timed(Rc<Alarm>);

impl AsFd for Timed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<F: FnMut(&mut EventLoop) -> Next + 'static> Driven<F> {
    /// Adds its sources.
    fn add(
        event_loop: &mut EventLoop,
        doorbell: OwnedFd,
        serve: F,
    ) -> Result<Arc<Kick>, LoopError> {
        let kick = Arc::new(Kick { bell: Bell::new()? });
        let alarm = Rc::new(Alarm::new()?);
        let (sources, serve) = (Cell::default(), RefCell::new(serve));
        let (kick_of, alarm_of) = (kick.clone(), alarm.clone());
        let driven = Rc::new(Driven {
            serve,
            kick: kick_of,
            alarm: alarm_of,
            sources,
            is_due: Cell::new(false),
            is_silent: Cell::new(false),
        });
        let mut added = Vec::new();
        let doorbell = driven.source(event_loop, doorbell, |_| {});
        let kicked =
            driven.source(event_loop, Kicked(kick.clone()), |kicked| kicked.0.bell.drain());
        // Setting the alarm again makes it unreadable; serving does.
        let timed = driven.source(event_loop, Timed(alarm), |_| {});
        let mut failure = None;
        for source in [doorbell, kicked, timed] {
            match source {
                Ok(id) => added.push(id),
                Err(error) => failure = Some(error),
            }
        }
        if let Some(error) = failure {
            added.into_iter().for_each(|id| _ = event_loop.remove_source(id));
            return Err(error);
        }
        driven.sources.set(added);
        Ok(kick)
    }

    fn source<S: AsFd + 'static>(
        self: &Rc<Self>,
        event_loop: &mut EventLoop,
        source: S,
        drain: impl Fn(&S) + 'static,
    ) -> Result<SourceId, LoopError> {
        let driven = self.clone();
        let added = event_loop.add_source(source, move |event_loop, source| {
            drain(source);
            driven.turn(event_loop);
        });
        added.map_err(|error| error.into_parts().0)
    }

    fn turn(&self, event_loop: &mut EventLoop) {
        // A handler that runs the loop comes back here; the outer call goes on after it. What is
        // readable stays so until then.
        let Ok(mut serve) = self.serve.try_borrow_mut() else {
            self.is_due.set(true);
            return self.pause(event_loop, true);
        };
        let next = catch_unwind(AssertUnwindSafe(|| serve(event_loop)));
        if self.is_due.take() {
            self.pause(event_loop, false);
            self.kick.bell.ring();
        }
        let next = next.unwrap_or_else(|panic| {
            // What is left is served later.
            self.kick.bell.ring();
            resume_unwind(panic)
        });
        self.leave_doorbell_out(event_loop, matches!(next, Next::Rest(_)));
        let after = match next {
            Next::Again => {
                self.kick.bell.ring();
                None
            }
            Next::After(after) => Some(after),
            Next::Ring => None,
            Next::Rest(after) => after,
            Next::End => {
                for source in self.sources.take() {
                    event_loop.remove_source(source);
                }
                return;
            }
        };
        if self.alarm.set(after).is_err() {
            // It is looked at again at once, rather than never.
            self.kick.bell.ring();
        }
    }

    /// Leaves its sources out, or takes them back.
    fn pause(&self, event_loop: &mut EventLoop, is_paused: bool) {
        let sources = self.sources.take();
        for source in &sources {
            event_loop.pause_source(*source, is_paused);
        }
        self.sources.set(sources);
        self.is_silent.set(false);
    }

    /// Leaves the doorbell out, or takes it back: nothing drains it while nothing is received.
    fn leave_doorbell_out(&self, event_loop: &mut EventLoop, is_left_out: bool) {
        if self.is_silent.replace(is_left_out) == is_left_out {
            return;
        }
        let sources = self.sources.take();
        if let Some(doorbell) = sources.first() {
            event_loop.pause_source(*doorbell, is_left_out);
        }
        self.sources.set(sources);
    }
}

/// Receives replies, ends calls whose time is up, and calls callbacks.
fn serve_requester(core: &Core, waker: Option<&Waker>) -> Next {
    let left = match core.lock() {
        Err(_) => return Next::Again,
        // Another loop does.
        Ok(state) if !is_driver(state.driver.as_ref(), waker) => return Next::End,
        // Another thread receives, and wakes the loop when it stops.
        Ok(state) => {
            Lease::take(core, state).map_or(Left::Nothing, |lease| lease.receive_for_loop())
        }
    };
    expire(core);
    for _ in 0..SHARE {
        let Ok(mut state) = core.lock() else { return Next::Again };
        let Some((callback, outcome)) = state.ready.pop_front() else { break };
        drop(state);
        callback(outcome);
    }
    let Ok(mut state) = core.lock() else { return Next::Again };
    if left == Left::More || !state.ready.is_empty() {
        return Next::Again;
    }
    if state.ended().is_some() {
        state.driver = None;
        return Next::End;
    }
    let deadline = state.calls.next_deadline();
    let after = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    match after {
        _ if left == Left::Later => Next::Rest(Some(after.map_or(RETRY, |after| after.min(RETRY)))),
        Some(after) => Next::After(after),
        None => Next::Ring,
    }
}

fn is_driver(driver: Option<&Waker>, waker: Option<&Waker>) -> bool {
    matches!((driver, waker), (Some(driver), Some(waker)) if driver.will_wake(waker))
}

/// Ends the calls with callbacks whose time is up.
fn expire(core: &Core) {
    let now = Instant::now();
    while let Ok(mut state) = core.lock()
        && let Some(id) = state.calls.next_expired(now)
    {
        state.owe_cancel(id);
        core.finish(state, id, Err(CallError::Timeout));
    }
}

/// Receives requests and calls the handler with each.
fn serve_responder<Req: Receive, Resp: Post>(
    event_loop: &mut EventLoop,
    responder: &Responder<Req, Resp>,
    waker: Option<&Waker>,
    handler: &mut impl FnMut(&mut EventLoop, Request<'_, Req, Resp>),
) -> Next {
    let incoming = &responder.incoming;
    if incoming.answers().has_owed() {
        incoming.answers().retry_owed();
    }
    let (before, mut calls) = (incoming.spent(), 0);
    while calls < SHARE && incoming.spent().wrapping_sub(before) < SHARE {
        calls += 1;
        match responder.try_recv() {
            Ok(Some(request)) => handler(event_loop, request),
            // Its caller was told.
            Err(TypedError::Message(_)) => {}
            Ok(None) => {
                let is_full = incoming.is_full();
                if is_full
                    && let Some(waker) = waker
                    && !incoming.answers().wait_for_fewer(incoming.limit(), waker)
                {
                    continue;
                }
                // Cancellations that came in a row are no end of what is there, nor is a part.
                return match incoming.answers().has_owed().then_some(RETRY) {
                    retry if is_full => Next::Rest(retry),
                    _ if incoming.has_more() => Next::Again,
                    Some(retry) => Next::After(retry),
                    None => Next::Ring,
                };
            }
            Err(TypedError::Recv(RecvError::Closed { .. })) => return Next::End,
            Err(TypedError::TypeMismatch(_)) if incoming.has_ended() => return Next::End,
            // A type can change back.
            Err(TypedError::Recv(_) | TypedError::TypeMismatch(_)) => {
                return Next::Rest(Some(RETRY));
            }
        }
    }
    Next::Again
}

fn busy(_: AlreadyInside) -> LoopError {
    let source = std::io::Error::from_raw_os_error(libc::EDEADLK);
    SystemError { call: "a lock of the requester", source }.into()
}

/// Requests, or replies, that are served before others have their turn.
const SHARE: u32 = 64;
/// How long until something is tried again that failed for lack of room or descriptors.
const RETRY: Duration = Duration::from_millis(10);
