//! Threads that wait for replies. One leads: it receives for all until its own reply comes.

use crate::error::{CallError, CloseReason, PostError};
use crate::front::requests::lead::{FULL, Lease, Led, Take};
use crate::front::requests::park::{park, with_waker};
use crate::link::archive::pool::ReceiveOwned;
use crate::link::archive::{self, Receive};
use crate::link::biased::thread_number;
use crate::link::payload::Post;
use crate::os::clock::Deadline;
use crate::port::content;
use crate::port::event::MessageEvent;
use crate::port::message::Message;
use crate::port::requests::call::{Call, Reply};
use crate::port::requests::core::{Core, Guard, unlock};
use crate::port::requests::request::without_trailer;
use crate::port::requests::requester::Requester;
use crate::port::requests::trailer::{Body, CallId};
use std::marker::PhantomData;
use std::mem;
use std::thread;
use std::time::{Duration, Instant};

impl<Req: Post, Resp: ReceiveOwned> Requester<Req, Resp> {
    /// Posts a request and waits for its reply, without a limit.
    ///
    /// Waits for room if the queue is full, and receives replies meanwhile. To borrow the reply
    /// instead, use [`call_map`](Requester::call_map); for one that brings transferables, use
    /// [`start`](Self::start).
    ///
    /// # Errors
    /// Any [`CallError`] except `Timeout` and `Cancelled`. [`PostError::Busy`] if this thread
    /// receives for others at the moment: inside a `Deserialize`.
    pub fn call(&self, request: &Req) -> Result<Resp, CallError> {
        self.call_until(request, Deadline::NEVER)
    }

    /// Posts a request and waits for its reply, at most for `timeout`. Then the call is cancelled.
    ///
    /// # Errors
    /// As [`call`](Self::call), and [`CallError::Timeout`].
    ///
    /// ```
    /// use messageport::{CallError, MessageChannel};
    /// use std::time::Duration;
    ///
    /// let channel = MessageChannel::new()?;
    /// let requester = channel.port1.requester::<u32, u32>();
    /// let answer = requester.call_timeout(&7, Duration::from_millis(1));
    /// assert!(matches!(answer, Err(CallError::Timeout)));
    ///
    /// // The responder was told, and skips the request.
    /// let responder = channel.port2.responder::<u32, u32>();
    /// assert!(responder.try_recv()?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call_timeout(&self, request: &Req, timeout: Duration) -> Result<Resp, CallError> {
        self.call_until(request, Deadline::after(timeout))
    }

    /// Posts a request and waits for its reply until `deadline`. Then the call is cancelled.
    ///
    /// # Errors
    /// As [`call_timeout`](Self::call_timeout).
    pub fn call_deadline(&self, request: &Req, deadline: Instant) -> Result<Resp, CallError> {
        self.call_until(request, Deadline::at(deadline))
    }

    #[inline]
    fn call_until(&self, request: &Req, deadline: Deadline) -> Result<Resp, CallError> {
        self.post_and_wait(request, deadline.into(), Value(PhantomData))
    }

    /// The same. While it waits it asks from time to time whether the peer lives, as `lives` says:
    /// a process that the peer has forked may hold its port open. If not, the call ends with
    /// `Closed`.
    pub(crate) fn call_while(
        &self,
        request: &Req,
        deadline: Deadline,
        lives: &dyn Fn() -> bool,
    ) -> Result<Resp, CallError> {
        let patience = Patience { deadline, lives: Some(lives) };
        self.post_and_wait(request, patience, Value(PhantomData))
    }
}

impl<Req: Post, Resp: Receive> Requester<Req, Resp> {
    /// Posts a request, waits for its reply without a limit, and returns what `read` makes of the
    /// archived value, which it borrows without a copy.
    ///
    /// Inside `read` this thread receives for the others, so be quick. A blocking call of this
    /// requester returns [`PostError::Busy`] there.
    ///
    /// # Errors
    /// As [`call`](Self::call); `read` is not called then.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// let responder = channel.port2.responder::<u32, Vec<String>>();
    /// let thread = std::thread::spawn(move || {
    ///     let request = responder.recv().expect("a request");
    ///     request.reply(&vec!["one".to_string(), "two".to_string()]).expect("room for a reply");
    /// });
    /// let requester = channel.port1.requester::<u32, Vec<String>>();
    /// assert_eq!(requester.call_map(&7, |words| words[1].len())?, 3);
    /// thread.join().unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call_map<T>(
        &self,
        request: &Req,
        read: impl FnOnce(&Resp::Archived) -> T,
    ) -> Result<T, CallError> {
        self.post_and_wait(request, Deadline::NEVER.into(), Map::<Resp, _>(read, PhantomData))
    }

    /// The same, waiting at most for `timeout`. Then the call is cancelled.
    ///
    /// # Errors
    /// As [`call_map`](Self::call_map), and [`CallError::Timeout`].
    pub fn call_map_timeout<T>(
        &self,
        request: &Req,
        timeout: Duration,
        read: impl FnOnce(&Resp::Archived) -> T,
    ) -> Result<T, CallError> {
        let deadline = Deadline::after(timeout);
        self.post_and_wait(request, deadline.into(), Map::<Resp, _>(read, PhantomData))
    }

    #[inline]
    fn post_and_wait<T: Take>(
        &self,
        request: &Req,
        patience: Patience<'_>,
        take: T,
    ) -> Result<T::Answer, CallError> {
        let core = &*self.core;
        let mut state = core.lock()?;
        let (id, state) = match core.post(&mut state, request) {
            Ok(id) => (id, state),
            Err(error) => {
                drop(state);
                post_slow(core, request, patience.deadline, error)?
            }
        };
        wait_from(core, Lease::take(core, state), id, patience, take)
    }
}

/// Waits until the call ends, and frees its slot.
#[inline(always)]
fn wait_from<'c, T: Take>(
    core: &'c Core,
    turn: Turn<'c>,
    id: CallId,
    patience: Patience<'_>,
    take: T,
) -> Result<T::Answer, CallError> {
    let open = Open { core, id };
    let answer = match turn {
        Ok(lease) => match lease.poll_for(id, take) {
            Ok(answer) => {
                lease.finish(id);
                mem::forget(open);
                return Ok(answer);
            }
            Err(take) => wait(Ok(lease), &open, patience, take),
        },
        turn => wait(turn, &open, patience, take),
    };
    mem::forget(open);
    answer
}

/// Whose turn it is to receive for all: this thread's, or another one's, which shares the state.
type Turn<'c> = Result<Lease<'c>, Guard<'c>>;

impl<Resp: Receive> Call<Resp> {
    /// Waits for the reply, without a limit.
    ///
    /// # Errors
    /// Any [`CallError`] except `Post` and `Timeout`. [`PostError::Busy`] as for
    /// [`Requester::call`].
    pub fn wait(self) -> Result<Reply<Resp>, CallError> {
        self.wait_until(Deadline::NEVER)
    }

    /// Waits for the reply, at most for `timeout`. Then the call is cancelled.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), and [`CallError::Timeout`].
    pub fn wait_timeout(self, timeout: Duration) -> Result<Reply<Resp>, CallError> {
        self.wait_until(Deadline::after(timeout))
    }

    /// Waits for the reply until `deadline`. Then the call is cancelled.
    ///
    /// # Errors
    /// As [`wait_timeout`](Self::wait_timeout).
    pub fn wait_deadline(self, deadline: Instant) -> Result<Reply<Resp>, CallError> {
        self.wait_until(Deadline::at(deadline))
    }

    /// Returns the outcome if it is there, and the call if it is not. Receives what is in the
    /// queue, unless another thread does.
    ///
    /// # Errors
    /// The call itself, which is still open.
    ///
    /// ```
    /// let channel = messageport::MessageChannel::new()?;
    /// let responder = channel.port2.responder::<u32, u32>();
    /// let requester = channel.port1.requester::<u32, u32>();
    /// let call = requester.start(&1)?.try_wait().expect_err("no reply yet");
    /// responder.recv()?.reply(&2)?;
    /// assert_eq!(*call.try_wait().expect("a reply")?.data(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_wait(self) -> Result<Result<Reply<Resp>, CallError>, Call<Resp>> {
        let Ok(state) = self.core.lock() else { return Err(self) };
        if let Ok(lease) = Lease::take(&self.core, state) {
            lease.receive_all();
        }
        match self.core.lock().ok().and_then(|mut state| state.calls.take(self.id)) {
            Some(outcome) => Ok(outcome.and_then(Reply::new)),
            None => Err(self),
        }
    }

    fn wait_until(self, deadline: Deadline) -> Result<Reply<Resp>, CallError> {
        let (core, id) = (&*self.core, self.id);
        let mut state = core.lock()?;
        if let Some(outcome) = state.calls.take(id) {
            unlock(state);
            return outcome.and_then(Reply::new);
        }
        wait_from(core, Lease::take(core, state), id, deadline.into(), Whole(PhantomData))
    }
}

/// The value, deserialised.
struct Value<Resp>(PhantomData<Resp>);

impl<Resp: ReceiveOwned> Take for Value<Resp> {
    type Answer = Resp;

    #[inline(always)]
    fn of_bytes(self, bytes: &[u8]) -> Result<Resp, Self> {
        archive::deserialize(bytes).map_err(|_| self)
    }

    fn of_event(self, event: MessageEvent<'_>) -> Result<Resp, CallError> {
        match content::deserialize(&Body(&event)) {
            Ok(value) => Ok(value),
            Err(error) => Err(content::check_refused(&event).err().unwrap_or(error).into()),
        }
    }

    fn of_message(self, message: Message) -> Result<Resp, CallError> {
        Ok(message.deserialize()?)
    }
}

/// What a function makes of the archived value.
struct Map<Resp, F>(F, PhantomData<Resp>);

impl<Resp: Receive, T, F: FnOnce(&Resp::Archived) -> T> Take for Map<Resp, F> {
    type Answer = T;

    #[inline(always)]
    fn of_bytes(self, bytes: &[u8]) -> Result<T, Self> {
        match archive::access::<Resp>(bytes) {
            Ok(value) => Ok((self.0)(value)),
            Err(_) => Err(self),
        }
    }

    fn of_event(self, event: MessageEvent<'_>) -> Result<T, CallError> {
        match Body(&event).data::<Resp>() {
            Ok(value) => Ok((self.0)(value)),
            Err(error) => Err(content::check_refused(&event).err().unwrap_or(error).into()),
        }
    }

    fn of_message(self, message: Message) -> Result<T, CallError> {
        Ok((self.0)(message.data::<Resp>()?))
    }
}

/// The reply itself.
struct Whole<Resp>(PhantomData<Resp>);

impl<Resp: Receive> Take for Whole<Resp> {
    type Answer = Reply<Resp>;

    fn of_bytes(self, _: &[u8]) -> Result<Reply<Resp>, Self> {
        Err(self)
    }

    fn of_event(self, event: MessageEvent<'_>) -> Result<Reply<Resp>, CallError> {
        content::check_refused(&event)?;
        Reply::new(without_trailer(event.try_into_message()?))
    }

    fn of_message(self, message: Message) -> Result<Reply<Resp>, CallError> {
        Reply::new(message)
    }
}

/// How long a caller waits.
#[derive(Clone, Copy)]
struct Patience<'p> {
    deadline: Deadline,
    /// Whether the peer lives, where that is known otherwise than by its port.
    lives: Option<&'p dyn Fn() -> bool>,
}

impl From<Deadline> for Patience<'_> {
    fn from(deadline: Deadline) -> Self {
        Patience { deadline, lives: None }
    }
}

impl Patience<'_> {
    /// When to stop waiting for a look at the peer, or for good.
    fn next(self) -> Deadline {
        match self.lives {
            None => self.deadline,
            Some(_) => Deadline::after(WATCH).min(self.deadline),
        }
    }

    fn is_over(self) -> bool {
        self.deadline.is_over()
    }

    fn has_lost_peer(self) -> bool {
        self.lives.is_some_and(|lives| !lives())
    }
}

/// A call that is abandoned if this is dropped: if the program's code panics.
struct Open<'c> {
    core: &'c Core,
    id: CallId,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.core.abandon(self.id);
    }
}

/// Slow path of `wait_from`: the reply has not come at once, or is none for the fast path.
#[cold]
#[inline(never)]
fn wait<'c, T: Take>(
    mut turn: Turn<'c>,
    open: &Open<'c>,
    patience: Patience<'_>,
    take: T,
) -> Result<T::Answer, CallError> {
    let Open { core, id } = *open;
    let mut take = Some(take);
    loop {
        let mut state = match turn {
            Err(followed) => follow(core, followed, id, patience.deadline)?,
            Ok(lease) => {
                let led = match lease.lead(id, patience.next()) {
                    Led::Reply(event) => {
                        let agreed = core.check_types().map_err(CallError::Message);
                        Ok(agreed.and_then(|()| once(&mut take).of_event(event)))
                    }
                    Led::Ended => Err(None),
                    Led::Failed(error) => Err(Some(error)),
                };
                match led {
                    Ok(answer) => {
                        lease.finish(id);
                        return answer;
                    }
                    Err(None) => {}
                    Err(Some(CallError::Timeout)) if !patience.is_over() => {
                        if patience.has_lost_peer() {
                            // What it posted before its end, then the end.
                            lease.receive_all();
                            core.end(CloseReason::PeerDied);
                        }
                    }
                    Err(Some(error)) => {
                        drop(lease);
                        core.abandon(id);
                        return Err(error);
                    }
                }
                let mut state = core.lock()?;
                lease.put_back(&mut state);
                state
            }
        };
        if let Some(outcome) = state.calls.take(id) {
            unlock(state);
            return outcome.and_then(|message| once(&mut take).of_message(message));
        }
        turn = Lease::take(core, state);
    }
}

fn once<T>(take: &mut Option<T>) -> T {
    take.take().expect("a reply is taken once")
}

/// Sleeps while another thread receives, until it has the outcome, or until this thread shall
/// receive.
#[cold]
fn follow<'c>(
    core: &'c Core,
    mut state: Guard<'c>,
    id: CallId,
    deadline: Deadline,
) -> Result<Guard<'c>, CallError> {
    if state.leader == thread_number() {
        state.abandon(id);
        return Err(PostError::Busy.into());
    }
    if deadline.is_over() {
        drop(state);
        core.abandon(id);
        return Err(CallError::Timeout);
    }
    // There was no outcome a moment ago, under this lock.
    let _ = with_waker(|waker| state.calls.take_or_wait(id, waker));
    drop(state);
    park(deadline);
    let mut state = core.lock()?;
    state.calls.stop_waiting(id);
    Ok(state)
}

/// Waits for room, and receives meanwhile: the responder may be waiting for room as well. It looks
/// for room each millisecond: the thread that receives sleeps on the doorbell, which does not ring
/// for room, and a thread that sleeps on the flag for room could not go on to receive.
#[cold]
fn post_slow<'c, Req: Post>(
    core: &'c Core,
    request: &Req,
    deadline: Deadline,
    mut error: PostError,
) -> Result<(CallId, Guard<'c>), CallError> {
    loop {
        match error {
            PostError::QueueFull { .. } => {}
            PostError::Closed { reason } => {
                return Err(CallError::Closed { reason, is_posted: false });
            }
            error => return Err(error.into()),
        }
        if deadline.is_over() {
            return Err(PostError::Timeout.into());
        }
        match Lease::take(core, core.lock()?) {
            Ok(lease) => lease.receive_until(Deadline::after(deadline.left_at_most(FULL))),
            Err(state) if state.leader == thread_number() => return Err(PostError::Busy.into()),
            Err(state) => {
                drop(state);
                thread::sleep(deadline.left_at_most(FULL));
            }
        }
        let mut state = core.lock()?;
        match core.post(&mut state, request) {
            Ok(id) => return Ok((id, state)),
            Err(again) => error = again,
        }
    }
}

/// How often to look whether a peer lives whose port may be held open by others.
const WATCH: Duration = Duration::from_millis(100);
