//! What the open requests of one responder share: the sending half, and which calls were cancelled.

use crate::error::PostError;
use crate::link::biased::BiasedGuard;
use crate::link::endpoint::Endpoint;
use crate::link::payload::Post;
use crate::port::requests::core::{AsyncRoom, shortened};
use crate::port::requests::shared::Shared;
use crate::port::requests::trailer::{CallId, Kind, Labelled, Trailer};
use crate::port::sender::Sender;
use crate::port::shared::Turns;
use crate::port::transfer::{TransferError, Transferable};
use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

pub(crate) struct Answers {
    shared: Shared<State>,
    /// Owned requests that were not answered, and answers that are owed. Written under the lock.
    open: AtomicUsize,
    /// Answers that are owed. Written under the lock.
    owed: AtomicUsize,
    end: Arc<Endpoint>,
    turns: Turns,
    /// Where tasks wait until there is room.
    #[cfg_attr(not(any(feature = "tokio", feature = "async-io")), allow(dead_code))]
    pub room: Option<Arc<dyn AsyncRoom>>,
}

struct State {
    sender: Sender,
    /// The calls of owned requests.
    owned: HashMap<CallId, Owned>,
    /// For calls that end without a reply, and for which there was no room: a requester must not
    /// wait for nothing.
    owed: Vec<Trailer>,
    /// Who waits until fewer requests are open.
    room: Option<Waker>,
}

#[derive(Default)]
struct Owned {
    is_cancelled: bool,
    /// Usually 1. A hostile requester may post several requests of one call.
    requests: usize,
}

impl Answers {
    pub(crate) fn new(sender: Sender, room: Option<Arc<dyn AsyncRoom>>) -> Answers {
        let (end, turns) = (sender.endpoint().clone(), Turns::default());
        let state = State { sender, owned: HashMap::new(), owed: Vec::new(), room: None };
        let (open, owed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Answers { shared: Shared::new(state), open, owed, end, turns, room }
    }

    /// Requests that are open outside of the responder.
    #[inline]
    pub(crate) fn open(&self) -> usize {
        // Relaxed: a count that is late delays nothing for good, as a thread that waits for a
        // smaller one compares it under the lock.
        self.open.load(Ordering::Relaxed)
    }

    /// Whether answers wait for room.
    #[inline]
    pub(crate) fn has_owed(&self) -> bool {
        // Relaxed: only a hint to retry soon.
        self.owed.load(Ordering::Relaxed) != 0
    }

    /// Posts the reply to a call.
    #[inline]
    pub(crate) fn reply<T: Post>(&self, id: CallId, reply: &T) -> Result<(), PostError> {
        let mut state = self.shared.lock()?;
        if self.has_owed() {
            self.post_owed(&mut state)?;
        }
        state.sender.post_message(&Labelled::new(reply, Trailer::new(Kind::Reply, id)))
    }

    /// Posts the reply to a call, and what moves with it.
    pub(crate) fn reply_with<T: Post>(
        &self,
        id: CallId,
        reply: &T,
        list: Vec<Transferable>,
    ) -> Result<(), TransferError> {
        let prepared = self.shared.lock().map_err(PostError::from).and_then(|mut state| {
            self.post_owed(&mut state)?;
            Ok(state)
        });
        let state = match prepared {
            Ok(state) => state,
            Err(reason) => return Err(TransferError::new(reason, list)),
        };
        let reply = Labelled::new(reply, Trailer::new(Kind::Reply, id));
        state.sender.post_message_with(&reply, list)
    }

    /// Refuses a call with a text.
    pub(crate) fn refuse(&self, id: CallId, text: &str) -> Result<(), PostError> {
        let mut state = self.shared.lock()?;
        self.post_owed(&mut state)?;
        let text = shortened(text).to_owned();
        state.sender.post_message(&Labelled::new(&text, Trailer::new(Kind::Refusal, id)))
    }

    /// Refuses a call that this program cannot answer, or has it end otherwise if there is no room
    /// for a text.
    pub(crate) fn refuse_or_owe(&self, id: CallId, text: &str) {
        if self.refuse(id, text).is_err() {
            self.leave_unanswered(id);
        }
    }

    /// Tells the requester that a call gets no reply; if there is no room, later.
    pub(crate) fn leave_unanswered(&self, id: CallId) {
        // Inside a `Serialize` of a reply, the call ends when its requester no longer waits.
        let Ok(mut state) = self.shared.lock() else { return };
        state.owed.push(Trailer::new(Kind::Unanswered, id));
        self.count(&mut state, 1, 1);
        // What does not fit now goes before the next answer.
        let _ = self.post_owed(&mut state);
        self.tell(state);
    }

    /// Posts what is owed. Called from time to time while there is something.
    pub(crate) fn retry_owed(&self) {
        if let Ok(mut state) = self.shared.lock() {
            let _ = self.post_owed(&mut state);
            self.tell(state);
        }
    }

    fn post_owed(&self, state: &mut State) -> Result<(), PostError> {
        while let Some(trailer) = state.owed.last() {
            match state.sender.post_message(&Labelled::new(&(), *trailer)) {
                Ok(()) | Err(PostError::Closed { .. }) => state.owed.pop(),
                Err(error) => return Err(error),
            };
            self.count(state, -1, -1);
        }
        Ok(())
    }

    /// A request is owned from now on.
    pub(crate) fn begin_owned(&self, id: CallId, is_cancelled: bool) {
        let Ok(mut state) = self.shared.lock() else { return };
        let owned = state.owned.entry(id).or_default();
        owned.requests += 1;
        owned.is_cancelled |= is_cancelled;
        self.count(&mut state, 1, 0);
    }

    /// An owned request is no longer open.
    pub(crate) fn end_owned(&self, id: CallId) {
        let Ok(mut state) = self.shared.lock() else { return };
        if let Some(owned) = state.owned.get_mut(&id) {
            owned.requests -= 1;
            if owned.requests == 0 {
                state.owned.remove(&id);
            }
            self.count(&mut state, -1, 0);
        }
        self.tell(state);
    }

    /// Notes that a call was cancelled, if its request is owned.
    pub(crate) fn cancel(&self, id: CallId) {
        if self.open() == 0 {
            return;
        }
        if let Ok(mut state) = self.shared.lock()
            && let Some(owned) = state.owned.get_mut(&id)
        {
            owned.is_cancelled = true;
        }
    }

    /// Whether the call of an owned request was cancelled, or the port is closed.
    pub(crate) fn is_cancelled(&self, id: CallId) -> bool {
        self.shared
            .lock()
            .is_ok_and(|state| state.owned.get(&id).is_some_and(|owned| owned.is_cancelled))
    }

    /// Registers who is woken when fewer than `limit` requests are open. Returns false if that is
    /// so already.
    pub(crate) fn wait_for_fewer(&self, limit: usize, waker: &Waker) -> bool {
        let Ok(mut state) = self.shared.lock() else { return false };
        if self.open() < limit {
            return false;
        }
        state.room = Some(waker.clone());
        true
    }

    pub(crate) fn with_sender<T>(&self, act: impl FnOnce(&Sender) -> T) -> Result<T, PostError> {
        Ok(act(&self.shared.lock()?.sender))
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.end
    }

    pub(crate) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Changes the counts, under the lock.
    fn count(&self, _: &mut State, open: isize, owed: isize) {
        // Relaxed, both: see `open` and `has_owed`.
        self.open.fetch_add(open as usize, Ordering::Relaxed);
        self.owed.fetch_add(owed as usize, Ordering::Relaxed);
    }

    /// Wakes who waits until fewer requests are open.
    fn tell(&self, mut state: BiasedGuard<'_, State>) {
        let room = mem::take(&mut state.room);
        drop(state);
        if let Some(waker) = room {
            waker.wake();
        }
    }
}
