//! A request, as a responder receives it.

use crate::error::{MessageError, PostError};
use crate::link::archive::Receive;
use crate::link::archive::pool::ReceiveOwned;
use crate::link::attachment::{AttachmentKind, Attachments};
use crate::link::buffer::Buffer;
use crate::link::payload::Post;
use crate::link::pool::{Frame, PooledBuffer};
use crate::port::MessagePort;
use crate::port::content::{self, Content};
use crate::port::event::MessageEvent;
use crate::port::message::Message;
use crate::port::requests::answers::Answers;
use crate::port::requests::responder::Incoming;
use crate::port::requests::trailer::{CallId, TrailerBytes, without_end};
use crate::port::transfer::{TransferError, TransferList};
use crate::port::typed::TypedError;
use crate::wire::record::Format;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A request that waits for its answer; made by [`Responder::recv`](crate::Responder::recv).
///
/// It borrows the responder, and was checked to be a `Req`. Answer it by [`reply`](Self::reply) or
/// [`refuse`](Self::refuse), or make it an [`OwnedRequest`] to answer it later or from another
/// thread. If it is dropped unanswered, its call ends at once with
/// [`CallError::Unanswered`](crate::CallError::Unanswered).
///
/// If the caller cancels the call, or its time is up, [`is_cancelled`](Self::is_cancelled) becomes
/// true. A reply to it is then dropped here, together with what would move with it.
#[must_use = "a request that is dropped fails at its caller"]
pub struct Request<'r, Req, Resp> {
    incoming: &'r Incoming,
    held: Held<'r>,
    id: CallId,
    is_answered: Cell<bool>,
    types: PhantomData<fn(Req) -> Resp>,
}

/// Where a request's bytes are; nowhere once it was taken out.
///
/// Not an enum: the bytes of its variants would be moved as such, and a move that loads several
/// words at once waits until each of them has reached the cache.
#[derive(Default)]
pub(crate) struct Held<'r> {
    /// Where the receiving half has put them.
    event: Option<MessageEvent<'r>>,
    /// In a copy, as they were read to look for cancellations behind them.
    copy: Option<Box<Message>>,
}

impl<'r> Held<'r> {
    #[inline(always)]
    pub(crate) fn event(event: MessageEvent<'r>) -> Held<'r> {
        Held { event: Some(event), copy: None }
    }

    pub(crate) fn copy(message: Box<Message>) -> Held<'r> {
        Held { event: None, copy: Some(message) }
    }
}

/// A request that borrows nothing, to be answered later or from another thread; made by
/// [`Request::into_owned`].
///
/// It has the methods of a [`Request`], and those of the [`Message`] that it holds. It notices a
/// cancellation only while the responder receives, or the task or loop that serves it runs.
#[must_use = "a request that is dropped fails at its caller"]
pub struct OwnedRequest<Req, Resp> {
    answers: Arc<Answers>,
    message: Message,
    id: CallId,
    is_answered: AtomicBool,
    types: PhantomData<fn(Req) -> Resp>,
}

impl<'r, Req: Receive, Resp: Post> Request<'r, Req, Resp> {
    /// The call is in the list of those that are lent.
    #[inline(always)]
    pub(crate) fn new(incoming: &'r Incoming, held: Held<'r>, id: CallId) -> Self {
        Request { incoming, held, id, is_answered: Cell::new(false), types: PhantomData }
    }

    /// What to make it of again.
    pub(crate) fn into_parts(mut self) -> (Held<'r>, CallId) {
        let parts = (mem::take(&mut self.held), self.id);
        mem::forget(self);
        parts
    }

    pub(crate) fn check(&self) -> Result<(), MessageError> {
        content::check_refused(&self.held)?;
        content::data::<Req>(&self.held).map(drop)
    }

    pub(crate) fn answers(&self) -> &Answers {
        self.incoming.answers()
    }

    /// Refuses a request that cannot be read.
    #[cold]
    pub(crate) fn refuse_for(self, error: &TypedError) {
        self.incoming.answers().refuse_or_owe(self.id, &error.for_requester());
        self.is_answered.set(true);
    }

    /// Borrows the archived value. Each call checks it again, so keep the reference.
    #[inline]
    pub fn data(&self) -> &Req::Archived {
        content::data::<Req>(&self.held).expect("checked before, and unchanged since")
    }

    /// Returns the request as an owned `Req`.
    ///
    /// # Errors
    /// What the deserialisation itself refuses.
    pub fn deserialize(&self) -> Result<Req, MessageError>
    where
        Req: ReceiveOwned,
    {
        content::deserialize(&self.held)
    }

    /// Posts the reply; never blocks. The request takes one.
    ///
    /// If the call is known to be cancelled, nothing is posted, and the result is `Ok`.
    ///
    /// # Errors
    /// As [`MessagePort::post_message`]; the request can be answered again then.
    /// [`PostError::Answered`] if it was answered before.
    #[inline]
    pub fn reply(&self, reply: &Resp) -> Result<(), PostError> {
        if self.is_answered.get() {
            return Err(PostError::Answered);
        }
        if !self.incoming.is_lent_cancelled(self.id) {
            self.incoming.answers().reply(self.id, reply)?;
        }
        self.is_answered.set(true);
        Ok(())
    }

    /// Posts the reply, and moves what is in the list; never blocks.
    ///
    /// If the call is known to be cancelled, nothing is posted, what is in the list is dropped, and
    /// the result is `Ok`.
    ///
    /// # Errors
    /// [`TransferError`] with the list, for the reasons of [`reply`](Self::reply) and
    /// [`MessagePort::post_message_with`].
    pub fn reply_with(
        &self,
        reply: &Resp,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        let list = transfer.into_list();
        if self.is_answered.get() {
            return Err(TransferError::new(PostError::Answered, list));
        }
        if !self.incoming.is_lent_cancelled(self.id) {
            self.incoming.answers().reply_with(self.id, reply, list)?;
        }
        self.is_answered.set(true);
        Ok(())
    }

    /// Refuses the request: its call ends with [`CallError::Refused`](crate::CallError::Refused)
    /// and the first 1,024 bytes of the text. Never blocks.
    ///
    /// For what is wrong with the request as such. A failure that the caller distinguishes belongs
    /// in `Resp`, for example as a `Result`.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub fn refuse(&self, text: &str) -> Result<(), PostError> {
        if self.is_answered.get() {
            return Err(PostError::Answered);
        }
        if !self.incoming.is_lent_cancelled(self.id) {
            self.incoming.answers().refuse(self.id, text)?;
        }
        self.is_answered.set(true);
        Ok(())
    }

    /// Whether the caller no longer waits for the reply.
    ///
    /// Looks into the queue for a cancellation, and copies the requests before it, at most 64 and
    /// about 256 KiB.
    pub fn is_cancelled(&self) -> bool {
        self.incoming.is_lent_cancelled(self.id) || {
            self.incoming.read_ahead();
            self.incoming.is_lent_cancelled(self.id)
        }
    }

    /// Makes the request an owned one, to be answered later or from another thread. From then on it
    /// counts towards the responder's [limit](crate::Responder::set_limit).
    ///
    /// # Errors
    /// [`MessageError::OutOfMemory`] if its bytes cannot be copied; the call ends with
    /// [`CallError::Refused`](crate::CallError::Refused).
    pub fn into_owned(mut self) -> Result<OwnedRequest<Req, Resp>, MessageError> {
        let Held { event, copy } = mem::take(&mut self.held);
        let message = match (event, copy) {
            (Some(event), _) => event.try_into_message().map(without_trailer),
            (None, Some(message)) => Ok(*message),
            (None, None) => unreachable!("only a call that ends a request takes it out"),
        };
        let was_answered = self.is_answered.replace(true);
        match message {
            Ok(message) => {
                let is_cancelled = self.incoming.is_lent_cancelled(self.id);
                let answers = self.incoming.answers().clone();
                let mut owned = OwnedRequest::new(answers, message, self.id, is_cancelled);
                *owned.is_answered.get_mut() = was_answered;
                Ok(owned)
            }
            Err(error) => {
                if !was_answered {
                    self.incoming.answers().refuse_or_owe(self.id, NO_MEMORY);
                }
                Err(error)
            }
        }
    }

    /// Takes the next port that moved with the request. See [`MessageEvent::take_port`].
    ///
    /// # Errors
    /// As [`MessageEvent::take_port`].
    pub fn take_port(&self) -> Result<MessagePort, MessageError> {
        content::take_port(&self.held)
    }

    /// Takes the next buffer that moved with the request. See [`MessageEvent::take_buffer`].
    ///
    /// # Errors
    /// As [`MessageEvent::take_buffer`].
    pub fn take_buffer(&self) -> Result<Buffer, MessageError> {
        content::take_buffer(&self.held)
    }

    /// Takes the next descriptor that moved with the request. See
    /// [`MessageEvent::take_descriptor`].
    ///
    /// # Errors
    /// As [`MessageEvent::take_descriptor`].
    pub fn take_descriptor(&self) -> Result<OwnedFd, MessageError> {
        content::take_descriptor(&self.held)
    }

    /// Takes the pooled buffer that came with the request. See [`MessageEvent::take_pooled`].
    ///
    /// # Errors
    /// As [`MessageEvent::take_pooled`].
    pub fn take_pooled(&self) -> Result<PooledBuffer, MessageError> {
        content::take_pooled(&self.held)
    }

    /// Takes the frame that came with the request. See [`MessageEvent::take_frame`].
    ///
    /// # Errors
    /// As [`MessageEvent::take_frame`].
    pub fn take_frame(&self) -> Result<Frame, MessageError> {
        content::take_frame(&self.held)
    }

    /// Takes all remaining ports. See [`MessageEvent::take_ports`].
    ///
    /// # Errors
    /// As [`MessageEvent::take_ports`].
    pub fn take_ports(&self) -> Result<Vec<MessagePort>, MessageError> {
        content::take_all(&self.held, AttachmentKind::Port, content::take_port)
    }

    /// Takes all remaining buffers. See [`MessageEvent::take_buffers`].
    ///
    /// # Errors
    /// As [`MessageEvent::take_buffers`].
    pub fn take_buffers(&self) -> Result<Vec<Buffer>, MessageError> {
        content::take_all(&self.held, AttachmentKind::Buffer, content::take_buffer)
    }

    /// Takes all remaining descriptors. See [`MessageEvent::take_descriptors`].
    ///
    /// # Errors
    /// As [`MessageEvent::take_descriptors`].
    pub fn take_descriptors(&self) -> Result<Vec<OwnedFd>, MessageError> {
        content::take_all(&self.held, AttachmentKind::Descriptor, content::take_descriptor)
    }

    /// How many ports, buffers and descriptors remain to be taken.
    pub fn transferred(&self) -> (usize, usize, usize) {
        content::transferred(&self.held)
    }
}

impl<Req, Resp> Drop for Request<'_, Req, Resp> {
    #[inline]
    fn drop(&mut self) {
        let was_cancelled = self.incoming.give_back(self.id);
        if let Some(message) = self.held.copy.take() {
            self.incoming.recycle(message);
        }
        if !self.is_answered.get() && !was_cancelled {
            self.incoming.answers().leave_unanswered(self.id);
        }
    }
}

impl Content for Held<'_> {
    #[inline]
    fn content(&self) -> &[u8] {
        match (&self.event, &self.copy) {
            (Some(event), _) => without_end(event.bytes()),
            (None, Some(message)) => message.bytes(),
            (None, None) => &[],
        }
    }

    #[inline]
    fn posted_as(&self) -> Format {
        match (&self.event, &self.copy) {
            (Some(event), _) => event.format(),
            (None, Some(message)) => message.format(),
            (None, None) => Format::Bytes,
        }
    }

    fn with_attachments<T>(&self, act: impl FnOnce(&mut Attachments) -> T) -> Option<T> {
        match (&self.event, &self.copy) {
            (Some(event), _) => event.with_attachments(act),
            (None, Some(message)) => message.with_attachments(act),
            (None, None) => None,
        }
    }
}

pub(crate) fn without_trailer(mut message: Message) -> Message {
    let _: Option<TrailerBytes> = message.split_off_end();
    message
}

impl<Req: Receive, Resp: Post> OwnedRequest<Req, Resp> {
    /// Without its trailer, and checked.
    pub(crate) fn new(
        answers: Arc<Answers>,
        message: Message,
        id: CallId,
        is_cancelled: bool,
    ) -> Self {
        answers.begin_owned(id, is_cancelled);
        OwnedRequest {
            answers,
            message,
            id,
            is_answered: AtomicBool::new(false),
            types: PhantomData,
        }
    }

    pub(crate) fn answers(&self) -> &Answers {
        &self.answers
    }

    /// What answers it, without the message.
    pub(crate) fn answering(&self) -> Answering<'_> {
        Answering { answers: &self.answers, id: self.id, is_answered: &self.is_answered }
    }

    /// Borrows the archived value. Each call checks it again, so keep the reference.
    pub fn data(&self) -> &Req::Archived {
        self.message.data::<Req>().expect("checked before, and unchanged since")
    }

    /// Returns the request as an owned `Req`.
    ///
    /// # Errors
    /// What the deserialisation itself refuses.
    pub fn deserialize(&self) -> Result<Req, MessageError>
    where
        Req: ReceiveOwned,
    {
        self.message.deserialize()
    }

    /// Posts the reply; never blocks. See [`Request::reply`].
    ///
    /// # Errors
    /// As [`Request::reply`].
    pub fn reply(&self, reply: &Resp) -> Result<(), PostError> {
        self.answering().reply(reply)
    }

    /// Posts the reply, and moves what is in the list; never blocks. See [`Request::reply_with`].
    ///
    /// # Errors
    /// As [`Request::reply_with`].
    pub fn reply_with(
        &self,
        reply: &Resp,
        transfer: impl TransferList,
    ) -> Result<(), TransferError> {
        let mut list = transfer.into_list();
        let answered = self.answering().answer(|answers, id| {
            answers.reply_with(id, reply, mem::take(&mut list)).map_err(|error| {
                let (reason, back) = error.into_parts();
                list = back;
                reason
            })
        });
        answered.map_err(|reason| TransferError::new(reason, list))
    }

    /// Refuses the request with a text. See [`Request::refuse`].
    ///
    /// # Errors
    /// As [`Request::reply`].
    pub fn refuse(&self, text: &str) -> Result<(), PostError> {
        self.answering().answer(|answers, id| answers.refuse(id, text))
    }

    /// Whether the caller no longer waits for the reply, as far as the responder has received.
    pub fn is_cancelled(&self) -> bool {
        self.answers.is_cancelled(self.id)
    }
}

/// An owned request without its message, which tasks cannot share.
#[derive(Clone, Copy)]
pub(crate) struct Answering<'r> {
    pub answers: &'r Arc<Answers>,
    id: CallId,
    is_answered: &'r AtomicBool,
}

impl Answering<'_> {
    pub(crate) fn reply<Resp: Post>(self, reply: &Resp) -> Result<(), PostError> {
        self.answer(|answers, id| answers.reply(id, reply))
    }

    fn answer(
        self,
        post: impl FnOnce(&Answers, CallId) -> Result<(), PostError>,
    ) -> Result<(), PostError> {
        // Relaxed, both: the flag guards nothing else; it makes one of several threads the one that
        // answers.
        if self.is_answered.swap(true, Ordering::Relaxed) {
            return Err(PostError::Answered);
        }
        if self.answers.is_cancelled(self.id) {
            return Ok(());
        }
        post(self.answers, self.id)
            .inspect_err(|_| self.is_answered.store(false, Ordering::Relaxed))
    }
}

impl<Req, Resp> Drop for OwnedRequest<Req, Resp> {
    fn drop(&mut self) {
        if !*self.is_answered.get_mut() && !self.answers.is_cancelled(self.id) {
            self.answers.leave_unanswered(self.id);
        }
        self.answers.end_owned(self.id);
    }
}

impl<Req, Resp> Deref for OwnedRequest<Req, Resp> {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl<Req, Resp> fmt::Debug for Request<'_, Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("number", &self.id.sequence).finish_non_exhaustive()
    }
}

impl<Req, Resp> fmt::Debug for OwnedRequest<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedRequest").field("number", &self.id.sequence).finish_non_exhaustive()
    }
}

/// What a caller is told whose request there is no memory for.
pub(crate) const NO_MEMORY: &str = "the responder has no memory for the request";
