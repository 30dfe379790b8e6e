//! What the handles of one requester share: the port's halves and the open calls.

use crate::error::{CallError, CloseReason, MessageError, PostError};
use crate::link::biased::{AlreadyInside, BiasedGuard};
use crate::link::payload::Post;
use crate::port::cancel::Canceller;
use crate::port::content::{self, Content};
use crate::port::message::Message;
use crate::port::receiver::Receiver;
use crate::port::requests::calls::{Callback, Calls, Notice, Outcome};
use crate::port::requests::request::without_trailer;
use crate::port::requests::shared::Shared;
use crate::port::requests::trailer::{Body, CallId, Kind, Labelled, Trailer};
use crate::port::requests::types::Types;
use crate::port::sender::Sender;
use crate::port::transfer::{TransferError, Transferable};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Poll, Waker};

pub(crate) struct Core {
    shared: Shared<State>,
    pub types: Types,
    /// Where tasks wait until there is room.
    #[cfg_attr(not(any(feature = "tokio", feature = "async-io")), allow(dead_code))]
    pub room: Option<Arc<dyn AsyncRoom>>,
}

/// Where the tasks of an async port wait until there is room.
#[cfg_attr(not(any(feature = "tokio", feature = "async-io")), allow(dead_code))]
pub(crate) trait AsyncRoom: Send + Sync {
    /// Prepares to wait, before one more attempt to post.
    fn arm(&self, sender: &Sender, waker: &Waker);

    /// Waits, after that attempt. Ready if another one may succeed.
    fn poll(&self) -> Poll<Result<(), PostError>>;

    /// There may be room for others.
    fn wake(&self);
}

pub(crate) struct State {
    sender: Sender,
    pub calls: Calls,
    /// `None` while a thread has it, and receives for all; and always if a task does.
    pub receiver: Option<Box<Receiver>>,
    /// The mark of that thread.
    pub leader: u64,
    /// The event loop or task that receives, if there is one.
    pub driver: Option<Waker>,
    /// Outcomes whose callbacks that loop has to call.
    pub ready: VecDeque<(Callback, Outcome)>,
    /// Ends the sleep of the thread that has the receiver.
    pub interrupt: Option<Canceller>,
    /// Why no more replies can come.
    ended: Option<CloseReason>,
    /// Cancellations for which there was no room. Each follows a request that was posted, and the
    /// next request waits for them, so they are never more than there were calls at one time.
    owed: Vec<CallId>,
    /// Messages that were the reply to no open call.
    discarded: u64,
}

pub(crate) type Guard<'c> = BiasedGuard<'c, State>;

/// Gives the lock back, and tells those who may receive next: after a call has ended, or its thread
/// has put the receiver back.
#[inline(always)]
pub(crate) fn unlock(state: Guard<'_>) {
    if state.receiver.is_some() && (state.calls.is_awaited() || state.driver.is_some()) {
        unlock_and_tell(state);
    }
}

#[cold]
#[inline(never)]
fn unlock_and_tell(state: Guard<'_>) {
    let successors = [state.driver.clone(), state.calls.first_waiting().cloned()];
    drop(state);
    successors.into_iter().flatten().for_each(Waker::wake);
}

impl Core {
    pub(crate) fn new(
        sender: Sender,
        types: Types,
        receiver: Option<Receiver>,
        room: Option<Arc<dyn AsyncRoom>>,
    ) -> Core {
        let state = State {
            sender,
            calls: Calls::default(),
            receiver: receiver.map(Box::new),
            leader: 0,
            driver: None,
            ready: VecDeque::new(),
            interrupt: None,
            ended: None,
            owed: Vec::new(),
            discarded: 0,
        };
        Core { shared: Shared::new(state), types, room }
    }

    /// See [`Shared::lock`].
    #[inline]
    pub(crate) fn lock(&self) -> Result<Guard<'_>, AlreadyInside> {
        self.shared.lock()
    }

    /// What has to come before a request, and the identity of its call.
    #[inline]
    fn prepare(&self, state: &mut State) -> Result<CallId, PostError> {
        self.types.check().map_err(PostError::TypeMismatch)?;
        state.prepare()
    }

    /// Posts a request. The call is open then.
    #[inline(always)]
    pub(crate) fn post<T: Post>(
        &self,
        state: &mut State,
        request: &T,
    ) -> Result<CallId, PostError> {
        let id = self.prepare(state)?;
        let value = Labelled::new(request, Trailer::new(Kind::Call, id));
        state.sender.post_message(&value)?;
        state.calls.open(id);
        Ok(id)
    }

    /// Posts a request and what moves with it.
    pub(crate) fn post_with<T: Post>(
        &self,
        state: &mut State,
        request: &T,
        list: Vec<Transferable>,
    ) -> Result<CallId, TransferError> {
        let id = match self.prepare(state) {
            Ok(id) => id,
            Err(reason) => return Err(TransferError::new(reason, list)),
        };
        let value = Labelled::new(request, Trailer::new(Kind::Call, id));
        state.sender.post_message_with(&value, list)?;
        state.calls.open(id);
        Ok(id)
    }

    /// Whether a reply that was just received is of the type of this end.
    #[inline(always)]
    pub(crate) fn check_types(&self) -> Result<(), MessageError> {
        self.types.check().map_err(MessageError::TypeMismatch)
    }

    /// Ends the call that a message belongs to; returns which. A message that belongs to none is
    /// dropped, and what moved with it is closed.
    pub(crate) fn accept<C: Content>(
        &self,
        message: C,
        into_message: impl FnOnce(C) -> Result<Message, MessageError>,
    ) -> Option<CallId> {
        let trailer = Trailer::of(&message);
        let mut state = self.lock().ok()?;
        let open = trailer.filter(|trailer| {
            !matches!(trailer.kind, Kind::Call | Kind::Cancel) && state.calls.is_open(trailer.id)
        });
        let Some(Trailer { id, kind }) = open else {
            state.discarded += 1;
            drop(state);
            return None;
        };
        let outcome = match kind {
            Kind::Reply => content::check_refused(&message)
                .and_then(|()| self.check_types())
                .and_then(|()| into_message(message))
                .map(without_trailer)
                .map_err(CallError::Message),
            Kind::Refusal => Err(refusal(&message)),
            _ => Err(CallError::Unanswered),
        };
        self.finish(state, id, outcome);
        Some(id)
    }

    /// Ends a call, if it is open, and tells those who wait for it.
    pub(crate) fn finish(&self, mut state: Guard<'_>, id: CallId, outcome: Outcome) {
        let notice = state.calls.finish(id, outcome);
        let wake = state.note(notice);
        drop(state);
        if let Some(waker) = wake {
            waker.wake();
        }
    }

    /// Ends all calls: no reply can come any more.
    pub(crate) fn end(&self, reason: CloseReason) {
        let Ok(mut state) = self.lock() else { return };
        let reason = *state.ended.get_or_insert(reason);
        let mut wakers = Vec::new();
        let mut calls = std::mem::take(&mut state.calls);
        calls.finish_all(
            || CallError::Closed { reason, is_posted: true },
            |notice| wakers.extend(state.note(notice)),
        );
        state.calls = calls;
        state.owed.clear();
        // A loop that receives stops.
        wakers.extend(state.driver.clone());
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The caller no longer wants the call: frees its slot, and tells the responder if there was
    /// no reply yet.
    pub(crate) fn abandon(&self, id: CallId) {
        // Inside a `Serialize` of a request the slot stays in use.
        let Ok(mut state) = self.lock() else { return };
        state.abandon(id);
        unlock(state);
    }
}

impl Drop for Core {
    /// The loop or task that receives stops.
    fn drop(&mut self) {
        if let Ok(mut state) = self.lock()
            && let Some(driver) = state.driver.take()
        {
            driver.wake();
        }
    }
}

impl State {
    #[inline]
    fn prepare(&mut self) -> Result<CallId, PostError> {
        if let Some(reason) = self.ended {
            return Err(PostError::Closed { reason });
        }
        if !self.owed.is_empty() {
            self.post_owed()?;
        }
        Ok(self.calls.next_id())
    }

    /// Frees a call's slot, and tells the responder if there was no reply yet.
    pub(crate) fn abandon(&mut self, id: CallId) {
        if self.calls.close(id) {
            self.owe_cancel(id);
        }
    }

    /// Tells the responder that a call has ended here.
    pub(crate) fn owe_cancel(&mut self, id: CallId) {
        if self.ended.is_none() {
            self.owed.push(id);
            // What does not fit now goes before the next request.
            let _ = self.post_owed();
        }
    }

    /// Posts the cancellations that are owed.
    #[cold]
    pub(crate) fn post_owed(&mut self) -> Result<(), PostError> {
        while let Some(id) = self.owed.last() {
            let cancel = Trailer::new(Kind::Cancel, *id);
            match self.sender.post_message(&Labelled::new(&(), cancel)) {
                Ok(()) | Err(PostError::Closed { .. }) => self.owed.pop(),
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    /// Who has to be woken for a notice. Callbacks wait for the loop.
    fn note(&mut self, notice: Notice) -> Option<Waker> {
        match notice {
            Notice::Nothing => None,
            Notice::Wake(waker) => Some(waker),
            Notice::Run(callback, outcome) => {
                self.ready.push_back((callback, outcome));
                self.driver.clone()
            }
        }
    }

    /// The thread that led puts the receiver back.
    #[inline]
    pub(crate) fn put_back(&mut self, receiver: Option<Box<Receiver>>) {
        (self.receiver, self.leader) = (receiver, 0);
        if self.ended == Some(CloseReason::Local) {
            self.close_receiver();
        }
    }

    /// Posts of the peer fail from now on. If a thread has the receiver, that happens when it puts
    /// it back.
    #[cold]
    pub(crate) fn close_receiver(&self) {
        if let Some(receiver) = &self.receiver {
            receiver.close();
        }
    }

    pub(crate) fn ended(&self) -> Option<CloseReason> {
        self.ended
    }

    pub(crate) fn discarded(&self) -> u64 {
        self.discarded
    }

    /// How many cancellations are owed.
    pub(crate) fn owed(&self) -> usize {
        self.owed.len()
    }

    pub(crate) fn sender(&self) -> &Sender {
        &self.sender
    }
}

fn refusal(message: &impl Content) -> CallError {
    match Body(message).data::<String>() {
        Ok(text) => CallError::Refused { text: shortened(text).to_owned() },
        Err(error) => error.into(),
    }
}

/// The longest start of a text that a refusal can have.
pub(crate) fn shortened(text: &str) -> &str {
    let mut end = text.len().min(MOST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The longest text of a refusal, in bytes.
const MOST_TEXT: usize = 1024;
