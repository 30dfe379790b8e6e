//! Requests and replies for async programs.

use crate::error::{CallError, CloseReason, MessageError, PostError, RecvError};
use crate::front::requests::lead;
use crate::future::halves::{AsyncReceiver, Wakers};
use crate::future::port::AsyncPort;
use crate::future::reactor::Reactor;
use crate::link::archive::Receive;
use crate::link::payload::Post;
use crate::port::content;
use crate::port::message::Message;
use crate::port::requests::answers::Answers;
use crate::port::requests::call::{Call, Reply};
use crate::port::requests::core::{AsyncRoom, Core};
use crate::port::requests::request::{Answering, NO_MEMORY, OwnedRequest, without_trailer};
use crate::port::requests::requester::Requester;
use crate::port::requests::responder::{Ahead, LIMIT, Sorted, sort, strange};
use crate::port::requests::trailer::{CallId, Kind, Trailer};
use crate::port::requests::types::Types;
use crate::port::sender::Sender;
use crate::port::transfer::{TransferError, TransferList};
use crate::port::typed::TypedError;
use futures_core::Stream;
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker, ready};

/// Posts requests and receives the replies, for async programs; made by [`AsyncPort::requester`].
///
/// The async form of a [`Requester`]. Tasks share a handle, or each has a clone. Dropping the
/// future of a call cancels the call, so a timeout of the runtime is a deadline:
///
#[cfg_attr(feature = "tokio", doc = "```")]
#[cfg_attr(not(feature = "tokio"), doc = "```ignore")]
/// use messageport::MessageChannel;
/// use std::time::Duration;
/// use tokio::time::timeout;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let channel = MessageChannel::new()?;
/// let mut responder = channel.port2.into_async()?.responder::<u32, u32>();
/// tokio::spawn(async move {
///     while let Ok(request) = responder.recv().await {
///         let double = 2 * request.data().to_native();
///         request.reply_async(&double).await.expect("a requester");
///     }
/// });
///
/// let (requester, driver) = channel.port1.into_async()?.requester::<u32, u32>();
/// tokio::spawn(driver);
/// let reply = timeout(Duration::from_secs(10), requester.call(&21)).await??;
/// assert_eq!(*reply.data(), 42);
/// # Ok(())
/// # }
/// ```
pub struct AsyncRequester<Req, Resp> {
    requester: Requester<Req, Resp>,
}

/// Receives the replies of an [`AsyncRequester`]; made by [`AsyncPort::requester`].
///
/// Spawn it as a task of its own: calls get no reply unless it runs. It ends, with the reason, when
/// the peer has ended, when the requester is closed, or when its last handle is dropped. If it is
/// dropped before, all calls end with [`CallError::Closed`].
#[must_use = "calls get no reply unless this runs: spawn it"]
pub struct RequesterDriver {
    core: Weak<Core>,
    receiver: AsyncReceiver,
}

/// Receives requests, for async programs; made by [`AsyncPort::responder`].
///
/// The async form of a [`Responder`](crate::Responder). Its requests are owned, so each can go to a
/// task of its own. As a [`Stream`] it yields requests until the port is closed, and an error for
/// each message that is no valid request, whose caller was told.
pub struct AsyncResponder<Req, Resp> {
    receiver: AsyncReceiver,
    types: Types,
    answers: Arc<Answers>,
    ahead: Ahead,
    limit: usize,
    has_ended: bool,
    kind: PhantomData<fn(Req) -> Resp>,
}

impl AsyncPort {
    /// Makes this port the calling end, and returns what receives its replies.
    ///
    /// The other end has to be a responder of the same types.
    pub fn requester<Req: Post, Resp: Receive>(
        self,
    ) -> (AsyncRequester<Req, Resp>, RequesterDriver) {
        let (sender, receiver) = self.split();
        let (sender, reactor, wakers) = sender.into_parts();
        let types = Types::declare::<Req, Resp>(sender.endpoint(), true);
        let room = Room::shared(reactor, wakers);
        let core = Arc::new(Core::new(sender, types, None, Some(room)));
        let driver = RequesterDriver { core: Arc::downgrade(&core), receiver };
        (AsyncRequester { requester: Requester::of(core) }, driver)
    }

    /// Makes this port the answering end.
    ///
    /// The other end has to be a requester of the same types.
    pub fn responder<Req: Receive, Resp: Post>(self) -> AsyncResponder<Req, Resp> {
        let (sender, receiver) = self.split();
        let (sender, reactor, wakers) = sender.into_parts();
        let types = Types::declare::<Req, Resp>(sender.endpoint(), false);
        let answers = Answers::new(sender, Some(Room::shared(reactor, wakers)));
        AsyncResponder {
            receiver,
            types,
            answers: Arc::new(answers),
            ahead: Ahead::default(),
            limit: LIMIT,
            has_ended: false,
            kind: PhantomData,
        }
    }
}

impl<Req: Post, Resp: Receive> AsyncRequester<Req, Resp> {
    /// Posts a request and waits for its reply. Waits for room if the queue is full.
    ///
    /// A future that is dropped before it is ready cancels the call, if it was posted.
    ///
    /// # Errors
    /// Any [`CallError`] except `Timeout` and `Cancelled`.
    pub async fn call(&self, request: &Req) -> Result<Reply<Resp>, CallError> {
        let core = &self.requester.core;
        let id = poll_fn(|context| poll_post(core, context, request)).await?;
        self.wait(id).await
    }

    /// Posts a request, moves what is in the list, and waits for the reply. Does not wait for room.
    ///
    /// # Errors
    /// The outer error is [`TransferError`] with the list, as for [`Requester::start_with`]:
    /// nothing was posted. The inner one is as for [`call`](Self::call).
    pub async fn call_with(
        &self,
        request: &Req,
        transfer: impl TransferList,
    ) -> Result<Result<Reply<Resp>, CallError>, TransferError> {
        let call = self.requester.start_with(request, transfer)?;
        Ok(wait(&call).await)
    }

    async fn wait(&self, id: CallId) -> Result<Reply<Resp>, CallError> {
        wait(&Call::new(self.requester.core.clone(), id)).await
    }

    /// The handle for threads that do not run tasks; its blocking calls work while the driver runs.
    pub fn requester(&self) -> &Requester<Req, Resp> {
        &self.requester
    }
}

impl<Req, Resp> AsyncRequester<Req, Resp> {
    /// Closes the port. See [`Requester::close`].
    pub fn close(&self) {
        self.requester.close();
    }

    pub(crate) fn has_read_nothing(&self) -> bool {
        self.requester.has_read_nothing()
    }

    pub(crate) fn has_other_types(&self) -> bool {
        self.requester.has_other_types()
    }

    /// Whether requests can no longer be posted. See [`Requester::is_closed`].
    pub fn is_closed(&self) -> bool {
        self.requester.is_closed()
    }
}

async fn wait<Resp: Receive>(call: &Call<Resp>) -> Result<Reply<Resp>, CallError> {
    let outcome = poll_fn(|context| {
        let mut state = match call.core.lock() {
            Ok(state) => state,
            Err(error) => return Poll::Ready(Err(error.into())),
        };
        match state.calls.take_or_wait(call.id, context.waker()) {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        }
    });
    outcome.await.and_then(Reply::new)
}

/// Posts, or prepares to wait for room and posts again before it waits.
fn poll_post<Req: Post>(
    core: &Core,
    context: &mut Context<'_>,
    request: &Req,
) -> Poll<Result<CallId, CallError>> {
    let room = core.room.as_deref().expect("an async requester has one");
    loop {
        for is_armed in [false, true] {
            let mut state = core.lock()?;
            if is_armed {
                room.arm(state.sender(), context.waker());
            }
            let posted = core.post(&mut state, request);
            drop(state);
            match posted {
                Err(PostError::QueueFull { .. }) => {}
                Err(PostError::Closed { reason }) => {
                    return Poll::Ready(Err(CallError::Closed { reason, is_posted: false }));
                }
                posted => {
                    room.wake();
                    return Poll::Ready(posted.map_err(CallError::Post));
                }
            }
        }
        ready!(room.poll())?;
    }
}

impl Future for RequesterDriver {
    type Output = CloseReason;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<CloseReason> {
        let Some(core) = self.core.upgrade() else { return Poll::Ready(CloseReason::Local) };
        match core.lock() {
            Ok(mut state) => match &mut state.driver {
                Some(driver) => driver.clone_from(context.waker()),
                driver => *driver = Some(context.waker().clone()),
            },
            Err(_) => return self.again(context),
        }
        loop {
            match self.receiver.poll_recv(context) {
                Poll::Ready(Ok(message)) => _ = core.accept(message, Ok),
                Poll::Ready(Err(RecvError::OutOfMemory { len })) => {
                    _ = lead::skip(&core, self.receiver.receiver(), len);
                }
                Poll::Ready(Err(RecvError::OutOfDescriptors { .. })) => {
                    self.receiver.wait_for_descriptors(context);
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => {
                    let reason = match error {
                        RecvError::Closed { reason } => reason,
                        // The reactor is gone.
                        _ => CloseReason::Local,
                    };
                    core.end(reason);
                    return Poll::Ready(reason);
                }
                Poll::Pending => {
                    let ended = core.lock().ok().and_then(|state| state.ended());
                    return ended.map_or(Poll::Pending, Poll::Ready);
                }
            }
        }
    }
}

impl RequesterDriver {
    fn again(&self, context: &Context<'_>) -> Poll<CloseReason> {
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for RequesterDriver {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            if let Ok(state) = core.lock() {
                state.sender().close();
            }
            core.end(CloseReason::Local);
        }
    }
}

impl<Req: Receive, Resp: Post> AsyncResponder<Req, Resp> {
    /// The next request. Cancel-safe.
    ///
    /// While as many requests are open as the [limit](Self::set_limit) allows, it waits until one
    /// is answered or dropped.
    ///
    /// # Errors
    /// As [`Responder::recv`](crate::Responder::recv).
    pub async fn recv(&mut self) -> Result<OwnedRequest<Req, Resp>, TypedError> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// Closes the port. See [`Responder::close`](crate::Responder::close).
    pub fn close(&self) {
        self.receiver.close();
        // Busy inside a reply's `Serialize`: see there.
        let _ = self.answers.with_sender(Sender::close);
    }

    /// Whether no more requests can come and no replies can be posted. Makes at most one system
    /// call.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.answers.with_sender(Sender::is_closed).unwrap_or(false)
    }

    /// Sets how many requests may be open before no more are received. See
    /// [`Responder::set_limit`](crate::Responder::set_limit).
    pub fn set_limit(&mut self, requests: usize) {
        self.limit = requests.max(1);
    }

    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<OwnedRequest<Req, Resp>, TypedError>> {
        loop {
            let end = self.read_ahead(context);
            if self.answers.open() < self.limit
                && let Some((call, message)) = self.ahead.pop()
            {
                return Poll::Ready(self.checked(call, *message));
            }
            if let Some(error) = end {
                return Poll::Ready(Err(error));
            }
            self.types.check()?;
            if self.answers.wait_for_fewer(self.limit, context.waker()) {
                return Poll::Pending;
            }
            if self.answers.open() >= self.limit {
                continue;
            }
            return self.poll_owed(context);
        }
    }

    /// Reads what is there, so that cancellations are seen, up to a bound. Returns what ends it, if
    /// that is not the lack of messages.
    fn read_ahead(&mut self, context: &mut Context<'_>) -> Option<TypedError> {
        while self.answers.open() < self.limit && self.ahead.has_room() {
            let message = match self.receiver.poll_recv(context) {
                Poll::Pending => return None,
                Poll::Ready(Ok(message)) => message,
                Poll::Ready(Err(RecvError::OutOfMemory { len })) => {
                    self.step_over();
                    return Some(MessageError::OutOfMemory { len }.into());
                }
                Poll::Ready(Err(RecvError::OutOfDescriptors { .. })) => {
                    self.receiver.wait_for_descriptors(context);
                    return None;
                }
                Poll::Ready(Err(error)) => return Some(self.types.explain(error)),
            };
            match sort(&message) {
                Sorted::Request(id) => {
                    self.ahead.push(Some(id), Box::new(without_trailer(message)));
                }
                Sorted::Cancel(id) => {
                    self.ahead.remove(id);
                    self.answers.cancel(id);
                }
                Sorted::Strange => self.ahead.push(None, Box::new(message)),
            }
        }
        None
    }

    /// Refuses the next request, for which there is no memory.
    fn step_over(&mut self) {
        let end = self.receiver.receiver().end_of_next();
        let _ = self.receiver.receiver().discard_next();
        if let Some(Trailer { id, kind: Kind::Call }) = end.and_then(Trailer::decode) {
            self.answers.refuse_or_owe(id, NO_MEMORY);
        }
    }

    fn checked(
        &self,
        call: Option<CallId>,
        message: Message,
    ) -> Result<OwnedRequest<Req, Resp>, TypedError> {
        let Some(id) = call else { return Err(strange(&message).into()) };
        let checked = match self.types.check() {
            Ok(()) => content::check_refused(&message)
                .and_then(|()| message.data::<Req>().map(drop))
                .map_err(TypedError::Message),
            Err(error) => Err(TypedError::TypeMismatch(error)),
        };
        match checked {
            Ok(()) => Ok(OwnedRequest::new(self.answers.clone(), message, id, false)),
            Err(error) => {
                self.answers.refuse_or_owe(id, &error.for_requester());
                Err(error)
            }
        }
    }

    /// There is no request: posts what is owed, or waits for room for it as well.
    fn poll_owed<T>(&self, context: &mut Context<'_>) -> Poll<Result<T, TypedError>> {
        let room = self.answers.room.as_deref().expect("an async responder has one");
        while self.answers.has_owed() {
            self.answers.retry_owed();
            let _ = self.answers.with_sender(|sender| room.arm(sender, context.waker()));
            self.answers.retry_owed();
            if self.answers.has_owed()
                && let Err(error) = ready!(room.poll())
            {
                let PostError::Io(error) = error else { return Poll::Pending };
                return Poll::Ready(Err(RecvError::Io(error).into()));
            }
        }
        Poll::Pending
    }
}

impl<Req: Receive, Resp: Post> Stream for AsyncResponder<Req, Resp> {
    type Item = Result<OwnedRequest<Req, Resp>, MessageError>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<OwnedRequest<Req, Resp>, MessageError>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.poll_recv(context)) {
            Ok(request) => Some(Ok(request)),
            Err(TypedError::Message(error)) => Some(Err(error)),
            Err(TypedError::TypeMismatch(error)) => {
                self.has_ended = true;
                Some(Err(MessageError::TypeMismatch(error)))
            }
            Err(TypedError::Recv(_)) => {
                self.has_ended = true;
                None
            }
        })
    }
}

impl<Req: Receive, Resp: Post> OwnedRequest<Req, Resp> {
    /// Posts the reply, waiting for room. A future that is dropped before it is ready has posted
    /// nothing.
    ///
    /// # Errors
    /// As [`reply`](Self::reply), except `QueueFull`. A request of a
    /// [`Responder`](crate::Responder) has no reactor, so there it does not wait.
    pub fn reply_async<'r>(
        &'r self,
        reply: &'r Resp,
    ) -> impl Future<Output = Result<(), PostError>> + use<'r, Req, Resp> {
        let answering = self.answering();
        poll_fn(move |context| poll_reply(answering, context, reply))
    }
}

/// Posts a reply, or prepares to wait for room and posts again before it waits.
fn poll_reply<Resp: Post>(
    answering: Answering<'_>,
    context: &mut Context<'_>,
    reply: &Resp,
) -> Poll<Result<(), PostError>> {
    let room = answering.answers.room.as_deref();
    loop {
        for is_armed in [false, true] {
            if let (Some(room), true) = (room, is_armed) {
                answering.answers.with_sender(|sender| room.arm(sender, context.waker()))?;
            }
            match (answering.reply(reply), room) {
                (Err(PostError::QueueFull { .. }), Some(_)) => {}
                (answered, room) => {
                    room.inspect(|room| room.wake());
                    return Poll::Ready(answered);
                }
            }
        }
        if let Some(room) = room {
            ready!(room.poll())?;
        }
    }
}

/// Where tasks wait for room: all with one waker, as a reactor knows only one.
struct Room {
    reactor: Reactor,
    wakers: Arc<Wakers>,
    waiting: Arc<Waiting>,
    /// That of `waiting`.
    waker: Waker,
}

#[derive(Default)]
struct Waiting(Mutex<Vec<Waker>>);

impl Room {
    fn shared(reactor: Reactor, wakers: Arc<Wakers>) -> Arc<dyn AsyncRoom> {
        let waiting = Arc::new(Waiting::default());
        let waker = Waker::from(waiting.clone());
        Arc::new(Room { reactor, wakers, waiting, waker })
    }
}

impl AsyncRoom for Room {
    fn arm(&self, sender: &Sender, waker: &Waker) {
        let mut waiting = self.waiting.list();
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
        drop(waiting);
        self.wakers.sender.register(&self.waker);
        self.reactor.use_up();
        if sender.endpoint().drain_doorbell_for_sender() {
            self.wakers.receiver.wake();
        }
        sender.arm_room_doorbell();
    }

    fn poll(&self) -> Poll<Result<(), PostError>> {
        let rung = self.reactor.poll_readable(&mut Context::from_waker(&self.waker));
        rung.map_err(PostError::Io)
    }

    fn wake(&self) {
        self.waiting.wake_by_ref();
    }
}

impl Waiting {
    fn list(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let wakers = mem::take(&mut *self.list());
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl<Req, Resp> Clone for AsyncRequester<Req, Resp> {
    fn clone(&self) -> Self {
        AsyncRequester { requester: self.requester.clone() }
    }
}

impl<Req, Resp> fmt::Debug for AsyncRequester<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncRequester").field(&self.requester).finish()
    }
}

impl fmt::Debug for RequesterDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequesterDriver").field("receiver", &self.receiver).finish_non_exhaustive()
    }
}

impl<Req, Resp> fmt::Debug for AsyncResponder<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncResponder")
            .field("receiver", &self.receiver)
            .field("open", &self.answers.open())
            .finish_non_exhaustive()
    }
}
