//! The side that answers.

use crate::error::{MessageError, RecvError};
use crate::link::archive::{self, Receive};
use crate::link::payload::Post;
use crate::link::receiving::chunks::Polled;
use crate::port::MessagePort;
use crate::port::cancel::Canceller;
use crate::port::content::Content;
use crate::port::event::MessageEvent;
use crate::port::message::Message;
use crate::port::receiver::Receiver;
use crate::port::requests::answers::Answers;
use crate::port::requests::lent::LentCalls;
use crate::port::requests::request::{Held, NO_MEMORY, Request, without_trailer};
use crate::port::requests::trailer::{CallId, Kind, Trailer, without_end};
use crate::port::requests::types::Types;
use crate::port::sender::Sender;
use crate::port::typed::TypedError;
use crate::wire::record::Format;
use rkyv::rancor::{BoxedError, Source};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// Receives requests of type `Req` and answers each with a `Resp`; made by
/// [`MessagePort::responder`].
///
/// One thread receives. It answers a [`Request`] at once, or makes it an
/// [`OwnedRequest`](crate::OwnedRequest), which another thread answers at any time. To serve many
/// requesters, add the responders to an [`EventLoop`](crate::EventLoop).
///
/// A request that is no valid `Req` is refused, and is an error here; the next call gives the next
/// request. If the requester has declared types of another [`Shape`](crate::Shape), its requests
/// are refused with what differs, and each receiving call here fails with
/// [`TypedError::TypeMismatch`]. A request whose call was cancelled before it was received here is
/// skipped. Dropping the responder ends the conversation once the last owned request is answered or
/// dropped.
///
/// ```
/// use messageport::MessageChannel;
/// use std::thread;
///
/// let channel = MessageChannel::new()?;
/// let requester = channel.port1.requester::<u64, Result<u64, String>>();
/// let responder = channel.port2.responder::<u64, Result<u64, String>>();
/// let server = thread::spawn(move || {
///     while let Ok(request) = responder.recv() {
///         let request = request.into_owned().expect("memory for a copy");
///         thread::spawn(move || {
///             let root = request.data().to_native().isqrt();
///             request.reply(&Ok(root)).expect("room for a reply");
///         });
///     }
/// });
/// assert_eq!(requester.call(&81)?, Ok(9));
/// drop(requester);
/// server.join().unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Responder<Req, Resp> {
    pub(crate) incoming: Incoming,
    types: PhantomData<fn(Req) -> Resp>,
}

/// A responder without its types.
pub(crate) struct Incoming {
    receiver: Receiver,
    answers: Arc<Answers>,
    types: Types,
    limit: Cell<usize>,
    /// The calls of the requests that are lent.
    lent: LentCalls,
    ahead: RefCell<Ahead>,
    /// Whether something may have been read ahead.
    has_ahead: Cell<bool>,
    /// What was received on the slow path, as an event loop counts it; starts anew beyond 2³².
    spent: Cell<u32>,
    /// Whether others wait for their turn in the same loop: a long message is copied in parts.
    takes_turns: Cell<bool>,
    /// Memory for copies. In boxes, which are used again as well: a request that moves is a
    /// pointer.
    #[allow(clippy::vec_box)]
    spare: RefCell<Vec<Box<Message>>>,
}

/// Requests that were read to look for cancellations behind them, and not received by the program.
#[derive(Default)]
pub(crate) struct Ahead {
    /// Without a call: what is no request.
    queue: VecDeque<(Option<CallId>, Box<Message>)>,
    bytes: usize,
}

/// What a message is to a responder.
pub(crate) enum Sorted {
    Request(CallId),
    Cancel(CallId),
    /// No program of this crate posts it to a responder.
    Strange,
}

impl MessagePort {
    /// Makes this port the answering end: it receives requests and posts their replies.
    ///
    /// The other end has to be a [`requester`](Self::requester) of the same types. Set trust
    /// before. Handlers and listeners of the port are no longer called.
    pub fn responder<Req: Receive, Resp: Post>(self) -> Responder<Req, Resp> {
        let (sender, receiver) = self.split();
        let incoming = Incoming {
            receiver,
            types: Types::declare::<Req, Resp>(sender.endpoint(), false),
            answers: Arc::new(Answers::new(sender, None)),
            limit: Cell::new(LIMIT),
            lent: LentCalls::default(),
            ahead: RefCell::default(),
            has_ahead: Cell::new(false),
            spent: Cell::new(0),
            takes_turns: Cell::new(false),
            spare: RefCell::default(),
        };
        Responder { incoming, types: PhantomData }
    }
}

impl<Req: Receive, Resp: Post> Responder<Req, Resp> {
    /// Takes the next request, if there is one, and if fewer owned requests are open than the
    /// [limit](Self::set_limit).
    ///
    /// # Errors
    /// [`TypedError::Recv`] as for [`MessagePort::try_recv`]. [`TypedError::Message`] if a message
    /// came that is no valid `Req`; its caller is told, and the next call gives the next request.
    /// [`TypedError::TypeMismatch`] if the requester has declared other types; the caller of what
    /// came is told.
    #[inline(always)]
    pub fn try_recv(&self) -> Result<Option<Request<'_, Req, Resp>>, TypedError> {
        // Twice: a request that comes between an attempt and the look needs no slow path.
        for _ in 0..2 {
            if let Some(request) = self.try_recv_fast() {
                return Ok(Some(request));
            }
            if self.incoming.is_still_empty() {
                return Ok(None);
            }
        }
        let mut parts = None;
        match self.try_recv_slow(&mut parts) {
            Ok(()) => Ok(parts.map(|(held, id)| Request::new(&self.incoming, held, id))),
            Err(error) => Err(*error),
        }
    }

    /// Fast path of whatever receives: a valid request with nothing behind it. `None` says nothing
    /// more; a message that came may have been put aside, for the slow path.
    #[inline(always)]
    pub(crate) fn try_recv_fast(&self) -> Option<Request<'_, Req, Resp>> {
        let incoming = &self.incoming;
        if !incoming.is_plain() {
            return None;
        }
        if incoming.receiver.has_aside() {
            return None;
        }
        let message = incoming.receiver.set_aside(incoming.receiver.poll_fast()?);
        let Some(Trailer { id, kind: Kind::Call }) = Trailer::of_payload(&message) else {
            return None;
        };
        let is_valid = || archive::is_valid::<Req>(without_end(message.bytes()));
        if incoming.receiver.has_news()
            || !incoming.types.are_agreed()
            || !incoming.receiver.check_aside(is_valid)
            || !incoming.lent.add_first(id)
        {
            return None;
        }
        Some(Request::new(incoming, Held::event(incoming.receiver.take_back(message)), id))
    }

    /// It gives the parts of a request in a place of their own: a request that a call may fill is
    /// in memory on the fast path too.
    #[cold]
    #[inline(never)]
    fn try_recv_slow<'r>(
        &'r self,
        parts: &mut Option<(Held<'r>, CallId)>,
    ) -> Result<(), Box<TypedError>> {
        *parts = self.try_recv_further()?.map(Request::into_parts);
        Ok(())
    }

    fn try_recv_further(&self) -> Result<Option<Request<'_, Req, Resp>>, TypedError> {
        let before = self.incoming.spent();
        while self.incoming.spent().wrapping_sub(before) < MOST_IN_A_ROW {
            let event = match self.incoming.receiver.take_aside() {
                Some(event) => event,
                None if self.incoming.is_full() => return Ok(None),
                None => {
                    if let Some(request) = self.next_ahead()? {
                        return Ok(Some(request));
                    }
                    let polled = self.incoming.poll().map_err(|failure| *failure);
                    let Some(event) = self.incoming.recover(polled)? else {
                        self.incoming.types.check()?;
                        return Ok(None);
                    };
                    event
                }
            };
            if let Some(request) = self.admit(event)? {
                return Ok(Some(request));
            }
        }
        Ok(None)
    }

    /// Sets how many [`OwnedRequest`](crate::OwnedRequest)s may be open before no more requests are
    /// received; 1,024 if it is not called, and at least 1. The other requests stay in the queue,
    /// whose limit then holds up the requester.
    pub fn set_limit(&self, requests: usize) {
        self.incoming.limit.set(requests.max(1));
    }

    /// Returns a handle that ends a blocked [`recv`](Self::recv) from another thread.
    ///
    /// # Errors
    /// As [`MessagePort::canceller`].
    pub fn canceller(&self) -> Result<Canceller, RecvError> {
        self.incoming.receiver.canceller()
    }

    /// Closes the port. No more requests come, and no request that is open can be answered: a reply
    /// returns [`PostError::Closed`](crate::PostError::Closed), and the calls of the requester end
    /// with [`CallError::Closed`](crate::CallError::Closed). Does nothing the second time.
    ///
    /// Dropping the responder lets the open requests be answered first.
    ///
    /// ```
    /// use messageport::{MessageChannel, PostError};
    ///
    /// let channel = MessageChannel::new()?;
    /// let requester = channel.port1.requester::<u64, u64>();
    /// let responder = channel.port2.responder::<u64, u64>();
    /// let call = requester.start(&7)?;
    /// let request = responder.recv()?.into_owned()?;
    /// responder.close();
    /// assert!(matches!(request.reply(&8), Err(PostError::Closed { .. })));
    /// assert!(call.wait().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) {
        self.incoming.receiver.close();
        // Busy inside a reply's `Serialize`: the receiving half alone is closed then, which ends
        // the conversation of the requester as well.
        let _ = self.incoming.answers.with_sender(Sender::close);
    }

    /// Whether no more requests can come and no replies can be posted. Makes at most one system
    /// call.
    pub fn is_closed(&self) -> bool {
        self.incoming.answers.with_sender(|sender| sender.is_closed()).unwrap_or(false)
    }

    /// A request that comes from the queue. `None` if it was a cancellation, or was cancelled.
    #[cold]
    #[inline(never)]
    pub(crate) fn admit<'r>(
        &'r self,
        event: MessageEvent<'r>,
    ) -> Result<Option<Request<'r, Req, Resp>>, TypedError> {
        let incoming = &self.incoming;
        incoming.spend(&event);
        let id = match sort(&event) {
            Sorted::Request(id) => id,
            Sorted::Cancel(id) => {
                incoming.cancel(id);
                return Ok(None);
            }
            Sorted::Strange => return Err(strange(&event).into()),
        };
        incoming.lent.add(id);
        let request = Request::new(incoming, Held::event(event), id);
        if incoming.receiver.has_news() {
            incoming.read_ahead();
            if incoming.is_lent_cancelled(id) {
                return Ok(None);
            }
        }
        self.checked(request)
    }

    /// The next request that was read ahead.
    pub(crate) fn next_ahead(&self) -> Result<Option<Request<'_, Req, Resp>>, TypedError> {
        if !self.incoming.has_ahead.get() {
            return Ok(None);
        }
        self.incoming.read_ahead();
        let next = self.incoming.ahead.borrow_mut().pop();
        self.incoming.has_ahead.set(next.is_some());
        match next {
            None => Ok(None),
            Some((None, message)) => Err(strange(&*message).into()),
            Some((Some(id), message)) => {
                self.incoming.lent.add(id);
                self.checked(Request::new(&self.incoming, Held::copy(message), id))
            }
        }
    }

    fn checked<'r>(
        &'r self,
        request: Request<'r, Req, Resp>,
    ) -> Result<Option<Request<'r, Req, Resp>>, TypedError> {
        let checked = match self.incoming.types.check() {
            Ok(()) => request.check().map_err(TypedError::Message),
            Err(error) => Err(TypedError::TypeMismatch(error)),
        };
        match checked {
            Ok(()) => Ok(Some(request)),
            Err(error) => {
                request.refuse_for(&error);
                Err(error)
            }
        }
    }
}

impl Incoming {
    pub(crate) fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    /// Whether the requester has other types, once all that it has posted was refused.
    #[inline]
    pub(crate) fn check_types_if_empty(&self) -> Result<(), TypedError> {
        if self.types.are_agreed() || self.receiver.has_news() {
            return Ok(());
        }
        Ok(self.types.check()?)
    }

    /// Whether the requester has gone, and nothing of it is unread. Where types differ, that is
    /// reported instead of the end.
    #[cold]
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.receiver.prepare_wait_for_end(), Err(RecvError::Closed { .. }))
    }

    pub(crate) fn answers(&self) -> &Arc<Answers> {
        &self.answers
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit.get()
    }

    /// Whether as many requests are open as the limit allows.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.answers.open() >= self.limit.get()
    }

    /// Reads what is in the queue, so that cancellations are seen, up to a bound. The cancellations
    /// count as well: a hostile peer can post them as fast as they are read.
    #[cold]
    pub(crate) fn read_ahead(&self) {
        let (mut messages, mut bytes) = (0, 0);
        // Failures stay for the next call that receives.
        while messages < MOST_AHEAD
            && bytes < MOST_BYTES_AHEAD
            && !self.is_full()
            && self.ahead.borrow().has_room()
        {
            let event = match self.receiver.take_aside() {
                Some(event) => event,
                None => match self.poll() {
                    Ok(Some(event)) => event,
                    _ => return,
                },
            };
            self.spend(&event);
            messages += 1;
            bytes += event.bytes().len();
            let call = match sort(&event) {
                Sorted::Request(id) => Some(id),
                Sorted::Cancel(id) => {
                    self.cancel(id);
                    continue;
                }
                Sorted::Strange => None,
            };
            match self.copy(event) {
                Ok(message) => {
                    self.ahead.borrow_mut().push(call, message);
                    self.has_ahead.set(true);
                }
                Err(_) => {
                    if let Some(id) = call {
                        self.answers.refuse_or_owe(id, NO_MEMORY);
                    }
                }
            }
        }
    }

    /// The next message. In a loop with others a long one comes once all its parts were copied, one
    /// by each call; until then it is unread.
    fn poll(&self) -> Result<Option<MessageEvent<'_>>, Box<RecvError>> {
        if !self.takes_turns.get() {
            return self.receiver.poll();
        }
        Ok(match self.receiver.poll_in_chunks()? {
            Polled::Message(event) => Some(event),
            Polled::Nothing => None,
            Polled::Unfinished => {
                self.spent.set(self.spent().wrapping_add(MOST_IN_A_ROW));
                None
            }
        })
    }

    /// Others have their turn between two shares from now on.
    pub(crate) fn take_turns(&self) {
        self.takes_turns.set(true);
        self.receiver.set_patient(false);
    }

    /// What was received on the slow path so far, as an event loop counts it.
    pub(crate) fn spent(&self) -> u32 {
        self.spent.get()
    }

    fn spend(&self, event: &MessageEvent<'_>) {
        self.spent.set(self.spent().wrapping_add(event.cost()));
    }

    /// Whether there may be another request.
    pub(crate) fn has_more(&self) -> bool {
        self.has_ahead.get() || self.receiver.has_aside() || self.receiver.has_news()
    }

    /// A copy without the trailer, in memory that an earlier one has left.
    fn copy(&self, event: MessageEvent<'_>) -> Result<Box<Message>, MessageError> {
        let Some(mut spare) = self.spare.borrow_mut().pop() else {
            return Ok(Box::new(without_trailer(event.try_into_message()?)));
        };
        let memory = spare.take_short_memory().unwrap_or_default();
        *spare = without_trailer(event.into_message_in(memory)?);
        Ok(spare)
    }

    /// Whether nothing was read ahead, and there may be another request.
    #[inline(always)]
    fn is_plain(&self) -> bool {
        !self.has_ahead.get() && !self.is_full()
    }

    /// Whether it is certain that there is nothing: neither a request nor an error.
    #[inline(never)]
    fn is_still_empty(&self) -> bool {
        self.is_plain()
            && !self.receiver.has_aside()
            && self.receiver.is_still_empty()
            && self.types.are_agreed()
    }

    /// If there is no memory for the next request, refuses it and steps over it.
    pub(crate) fn recover<T>(&self, polled: Result<T, RecvError>) -> Result<T, TypedError> {
        polled.map_err(|error| match error {
            RecvError::OutOfMemory { len } => {
                let end = self.receiver.end_of_next();
                let _ = self.receiver.discard_next();
                match end.and_then(Trailer::decode) {
                    Some(Trailer { id, kind: Kind::Call }) => {
                        self.answers.refuse_or_owe(id, NO_MEMORY);
                    }
                    Some(Trailer { id, kind: Kind::Cancel }) => self.cancel(id),
                    _ => {}
                }
                TypedError::Message(MessageError::OutOfMemory { len })
            }
            error => self.types.explain(error),
        })
    }

    /// A requester no longer waits for a call.
    #[cold]
    pub(crate) fn cancel(&self, id: CallId) {
        self.ahead.borrow_mut().remove(id);
        self.lent.cancel(id);
        self.answers.cancel(id);
    }

    /// Whether a request that is lent was cancelled.
    #[inline(always)]
    pub(crate) fn is_lent_cancelled(&self, id: CallId) -> bool {
        self.lent.is_cancelled(id)
    }

    /// A request is no longer lent. Returns whether its call was cancelled.
    #[inline(always)]
    pub(crate) fn give_back(&self, id: CallId) -> bool {
        self.lent.remove(id)
    }

    /// Keeps the memory of a copy for the next one.
    pub(crate) fn recycle(&self, mut message: Box<Message>) {
        message.close_unclaimed();
        let mut spare = self.spare.borrow_mut();
        if spare.len() < MOST_AHEAD && message.is_short() {
            spare.push(message);
        }
    }
}

impl Ahead {
    pub(crate) fn has_room(&self) -> bool {
        self.queue.len() < MOST_AHEAD && self.bytes < MOST_BYTES_AHEAD
    }

    pub(crate) fn push(&mut self, call: Option<CallId>, message: Box<Message>) {
        self.bytes += message.bytes().len();
        self.queue.push_back((call, message));
    }

    pub(crate) fn pop(&mut self) -> Option<(Option<CallId>, Box<Message>)> {
        let next = self.queue.pop_front()?;
        self.bytes -= next.1.bytes().len();
        Some(next)
    }

    /// Drops the request of a call.
    pub(crate) fn remove(&mut self, id: CallId) {
        let bytes = &mut self.bytes;
        self.queue.retain(|(call, message)| {
            let is_other = *call != Some(id);
            if !is_other {
                *bytes -= message.bytes().len();
            }
            is_other
        });
    }
}

/// What a message is to a responder.
#[inline]
pub(crate) fn sort(message: &impl Content) -> Sorted {
    match Trailer::of(message) {
        Some(Trailer { id, kind: Kind::Call }) => Sorted::Request(id),
        Some(Trailer { id, kind: Kind::Cancel }) => Sorted::Cancel(id),
        _ => Sorted::Strange,
    }
}

/// What is wrong with a message that is no request.
#[cold]
pub(crate) fn strange(message: &impl Content) -> MessageError {
    #[derive(Debug, thiserror::Error)]
    #[error("its last 16 bytes do not say so: have the peer post it through a `Requester`")]
    struct NoRequest;

    let found = message.posted_as();
    match found {
        Format::Archive => {
            MessageError::Invalid { expected: "a request", source: BoxedError::new(NoRequest) }
        }
        _ => MessageError::Format { expected: "a request", found: found.name() },
    }
}

impl<Req, Resp> fmt::Debug for Responder<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder")
            .field("receiver", &self.incoming.receiver)
            .field("open", &self.incoming.answers.open())
            .field("limit", &self.incoming.limit)
            .finish_non_exhaustive()
    }
}

/// Owned requests that may be open, unless `set_limit` says otherwise.
pub(crate) const LIMIT: usize = 1024;
/// Messages that one call passes that are no requests for the program: a hostile peer can post
/// cancellations without end. Long ones count for more.
pub(crate) const MOST_IN_A_ROW: u32 = 64;
/// Requests that are read ahead, and about how many bytes of them.
const MOST_AHEAD: usize = 64;
const MOST_BYTES_AHEAD: usize = 256 << 10;
