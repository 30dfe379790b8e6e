//! The open calls of a requester: one slot for each, used again and again. No input or output.

use crate::error::CallError;
use crate::port::message::Message;
use crate::port::requests::trailer::CallId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::mem;
use std::task::Waker;
use std::time::Instant;

/// How a call has ended.
pub(crate) type Outcome = Result<Message, CallError>;

/// What an event loop calls with the outcome.
pub(crate) type Callback = Box<dyn FnOnce(Outcome) + Send>;

/// Who has to learn of an outcome. The caller acts on it once it has let go of all locks.
#[must_use]
pub(crate) enum Notice {
    /// No thread waits, or the call is not open.
    Nothing,
    Wake(Waker),
    Run(Callback, Outcome),
}

/// The open calls.
///
/// Opening a call takes the slot that was freed last; only if all slots are in use does it allocate
/// one.
#[derive(Default)]
pub(crate) struct Calls {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Calls so far: the sequence of the last one.
    last: u64,
    waiting: Waiting,
    /// When calls with a callback end. Entries of calls that have ended are removed in time.
    deadlines: BinaryHeap<Reverse<(Instant, CallId)>>,
}

struct Slot {
    /// The sequence of its call; 0 while it is free.
    sequence: u64,
    state: State,
    /// Neighbours in the list of those that wait.
    previous: u32,
    next: u32,
}

enum State {
    /// No thread waits for it at present.
    Open,
    /// In the list.
    Waiting(Waker),
    Callback(Callback),
    Done(Outcome),
}

/// A list through the slots whose calls are waited for, in the order in which the waits began.
struct Waiting {
    first: u32,
    last: u32,
}

impl Default for Waiting {
    fn default() -> Waiting {
        Waiting { first: NONE, last: NONE }
    }
}

impl Calls {
    /// The identity of the call that is opened next.
    #[inline]
    pub(crate) fn next_id(&mut self) -> CallId {
        let slot = match self.free.last() {
            Some(slot) => *slot,
            None => self.add_slot(),
        };
        CallId { sequence: self.last + 1, slot }
    }

    /// Opens the call whose identity `next_id` has just returned: its request was posted.
    #[inline]
    pub(crate) fn open(&mut self, id: CallId) {
        self.free.pop();
        self.last = id.sequence;
        self.slots[id.slot as usize].sequence = id.sequence;
    }

    #[cold]
    fn add_slot(&mut self) -> u32 {
        let slot = u32::try_from(self.slots.len()).expect("fewer calls than four billion");
        assert_ne!(slot, NONE, "fewer calls than four billion");
        self.slots.push(Slot { sequence: 0, state: State::Open, previous: NONE, next: NONE });
        // So that freeing a slot never allocates.
        self.free.reserve(self.slots.len());
        self.free.push(slot);
        slot
    }

    /// Has `callback` called with the outcome of an open call, at the latest at `deadline`.
    pub(crate) fn set_callback(
        &mut self,
        id: CallId,
        callback: Callback,
        deadline: Option<Instant>,
    ) {
        if let Some(slot) = self.slot(id) {
            slot.state = State::Callback(callback);
        }
        if let Some(deadline) = deadline {
            if self.deadlines.len() >= 64 + 2 * self.len() {
                let mut deadlines = mem::take(&mut self.deadlines);
                deadlines.retain(|Reverse((_, id))| self.is_open(*id));
                self.deadlines = deadlines;
            }
            self.deadlines.push(Reverse((deadline, id)));
        }
    }

    /// Calls that were opened and not freed.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether the call has no outcome yet. No call has the sequence of a free slot, though a
    /// hostile peer may name it.
    pub(crate) fn is_open(&self, id: CallId) -> bool {
        if id.sequence == 0 {
            return false;
        }
        let slot = self.slots.get(id.slot as usize).filter(|slot| slot.sequence == id.sequence);
        slot.is_some_and(|slot| !matches!(slot.state, State::Done(_)))
    }

    /// Ends an open call.
    pub(crate) fn finish(&mut self, id: CallId, outcome: Outcome) -> Notice {
        if !self.is_open(id) {
            return Notice::Nothing;
        }
        self.unlink(id.slot);
        let state = &mut self.slots[id.slot as usize].state;
        match mem::replace(state, State::Open) {
            State::Callback(callback) => {
                self.release(id.slot);
                Notice::Run(callback, outcome)
            }
            before => {
                *state = State::Done(outcome);
                match before {
                    State::Waiting(waker) => Notice::Wake(waker),
                    _ => Notice::Nothing,
                }
            }
        }
    }

    /// Ends all open calls; calls `tell` with each notice.
    pub(crate) fn finish_all(
        &mut self,
        error: impl Fn() -> CallError,
        mut tell: impl FnMut(Notice),
    ) {
        for slot in 0..self.slots.len() as u32 {
            let sequence = self.slots[slot as usize].sequence;
            if sequence != 0 {
                tell(self.finish(CallId { sequence, slot }, Err(error())));
            }
        }
    }

    /// Takes the outcome and frees the slot.
    pub(crate) fn take(&mut self, id: CallId) -> Option<Outcome> {
        let slot = self.slot(id)?;
        match mem::replace(&mut slot.state, State::Open) {
            State::Done(outcome) => {
                self.release(id.slot);
                Some(outcome)
            }
            before => {
                slot.state = before;
                None
            }
        }
    }

    /// Takes the outcome, or notes who waits for it.
    pub(crate) fn take_or_wait(&mut self, id: CallId, waker: &Waker) -> Option<Outcome> {
        let outcome = self.take(id);
        if outcome.is_none()
            && let Some(slot) = self.slot(id)
        {
            match &mut slot.state {
                State::Waiting(known) => known.clone_from(waker),
                state => {
                    *state = State::Waiting(waker.clone());
                    self.link(id.slot);
                }
            }
        }
        outcome
    }

    /// The wait ends without the outcome; the call stays open.
    pub(crate) fn stop_waiting(&mut self, id: CallId) {
        if let Some(slot) = self.slot(id)
            && matches!(slot.state, State::Waiting(_))
        {
            slot.state = State::Open;
            self.unlink(id.slot);
        }
    }

    /// Frees the slot, whatever its state. Returns whether the call had no outcome.
    #[inline]
    pub(crate) fn close(&mut self, id: CallId) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        if !matches!(slot.state, State::Open) {
            return self.close_slow(id);
        }
        self.release(id.slot);
        true
    }

    #[cold]
    fn close_slow(&mut self, id: CallId) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        let state = mem::replace(&mut slot.state, State::Open);
        if matches!(state, State::Waiting(_)) {
            self.unlink(id.slot);
        }
        self.release(id.slot);
        !matches!(state, State::Done(_))
    }

    /// Whether a thread or a task waits for a reply.
    #[inline(always)]
    pub(crate) fn is_awaited(&self) -> bool {
        self.waiting.first != NONE
    }

    /// The waker of the wait that began first.
    #[inline]
    pub(crate) fn first_waiting(&self) -> Option<&Waker> {
        if self.waiting.first == NONE {
            return None;
        }
        match &self.slots[self.waiting.first as usize].state {
            State::Waiting(waker) => Some(waker),
            _ => None,
        }
    }

    /// The next call with a callback whose deadline is over at `now`.
    pub(crate) fn next_expired(&mut self, now: Instant) -> Option<CallId> {
        while let Some(Reverse((deadline, id))) = self.deadlines.peek().copied() {
            if self.is_open(id) && deadline > now {
                return None;
            }
            self.deadlines.pop();
            if self.is_open(id) {
                return Some(id);
            }
        }
        None
    }

    /// When `next_expired` has to be asked next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.peek().map(|Reverse((deadline, _))| *deadline)
    }

    #[inline]
    fn slot(&mut self, id: CallId) -> Option<&mut Slot> {
        self.slots.get_mut(id.slot as usize).filter(|slot| slot.sequence == id.sequence)
    }

    #[inline]
    fn release(&mut self, slot: u32) {
        self.slots[slot as usize].sequence = 0;
        self.free.push(slot);
    }

    fn link(&mut self, slot: u32) {
        let last = mem::replace(&mut self.waiting.last, slot);
        let entry = &mut self.slots[slot as usize];
        (entry.previous, entry.next) = (last, NONE);
        match self.slots.get_mut(last as usize) {
            Some(last) => last.next = slot,
            None => self.waiting.first = slot,
        }
    }

    /// Takes a slot out of the list, if it is in it.
    fn unlink(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        let (previous, next) = (mem::replace(&mut entry.previous, NONE), entry.next);
        entry.next = NONE;
        if previous == NONE && self.waiting.first != slot {
            return;
        }
        match self.slots.get_mut(previous as usize) {
            Some(previous) => previous.next = next,
            None => self.waiting.first = next,
        }
        match self.slots.get_mut(next as usize) {
            Some(next) => next.previous = previous,
            None => self.waiting.last = previous,
        }
    }
}

const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CloseReason;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            // Relaxed: one thread.
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn open(calls: &mut Calls) -> CallId {
        let id = calls.next_id();
        calls.open(id);
        id
    }

    fn refused() -> Outcome {
        Err(CallError::Unanswered)
    }

    proptest! {
        /// Against a list of the open calls and one of those that wait.
        #[test]
        fn each_call_ends_once(ops in proptest::collection::vec((0..6u8, any::<usize>()), 1..200)) {
            let (mut calls, mut done) = (Calls::default(), Vec::new());
            let (mut live, mut waiting): (Vec<CallId>, Vec<(CallId, Waker)>) = Default::default();
            let mut over: Vec<CallId> = Vec::new();
            for (op, pick) in ops {
                let picked = live.get(pick % live.len().max(1)).copied();
                match (op, picked) {
                    (0 | 1, _) | (_, None) => {
                        let id = open(&mut calls);
                        prop_assert!(calls.is_open(id) && !over.contains(&id));
                        live.push(id);
                    }
                    (2, Some(id)) => {
                        let notice = calls.finish(id, refused());
                        let waits = waiting.iter().position(|(of, _)| *of == id);
                        let is_news = !done.contains(&id);
                        match (notice, waits) {
                            (Notice::Wake(waker), Some(place)) => {
                                prop_assert!(is_news && waker.will_wake(&waiting.remove(place).1));
                            }
                            (Notice::Nothing, None) => {}
                            _ => prop_assert!(false, "a wrong notice"),
                        }
                        if is_news {
                            done.push(id);
                        }
                    }
                    (3, Some(id)) => {
                        let waker = Waker::from(Arc::new(Woken::default()));
                        let is_done = done.contains(&id);
                        prop_assert_eq!(calls.take_or_wait(id, &waker).is_some(), is_done);
                        match waiting.iter_mut().find(|(of, _)| *of == id) {
                            Some((_, known)) => *known = waker,
                            None if !is_done => waiting.push((id, waker)),
                            None => {}
                        }
                        if is_done {
                            live.retain(|other| *other != id);
                            over.push(id);
                        }
                    }
                    (4, Some(id)) => {
                        calls.stop_waiting(id);
                        waiting.retain(|(of, _)| *of != id);
                    }
                    (_, Some(id)) => {
                        prop_assert_eq!(calls.close(id), !done.contains(&id));
                        waiting.retain(|(of, _)| *of != id);
                        live.retain(|other| *other != id);
                        over.push(id);
                    }
                }
                for id in &over {
                    prop_assert!(!calls.is_open(*id) && !calls.close(*id));
                    prop_assert!(calls.take(*id).is_none());
                }
                prop_assert_eq!(calls.len(), live.len());
                let first = waiting.first().map(|(_, waker)| waker);
                let same = match (calls.first_waiting(), first) {
                    (Some(found), Some(first)) => found.will_wake(first),
                    (found, first) => found.is_none() && first.is_none(),
                };
                prop_assert!(same, "the wait that began first");
            }
        }
    }

    #[test]
    fn a_callback_is_run_once_and_its_deadline_forgotten() {
        let (mut calls, now) = (Calls::default(), Instant::now());
        let ids: Vec<_> = (0..1000).map(|_| open(&mut calls)).collect();
        for id in &ids {
            let deadline = now + Duration::from_secs(1000 - id.sequence % 1000);
            calls.set_callback(*id, Box::new(drop), Some(deadline));
        }
        assert_eq!(calls.next_deadline(), Some(now + Duration::from_secs(1)));
        assert_eq!(calls.next_expired(now), None);
        for id in &ids[..998] {
            assert!(matches!(calls.finish(*id, refused()), Notice::Run(..)));
            assert!(matches!(calls.finish(*id, refused()), Notice::Nothing));
        }
        let late = now + Duration::from_secs(2000);
        assert_eq!(calls.next_expired(late), Some(ids[998]));
        assert!(matches!(calls.finish(ids[998], refused()), Notice::Run(..)));
        assert_eq!(calls.next_expired(late), Some(ids[999]));
        let mut ran = 0;
        let closed = || CallError::Closed { reason: CloseReason::Local, is_posted: true };
        calls.finish_all(closed, |notice| ran += u32::from(matches!(notice, Notice::Run(..))));
        assert_eq!((ran, calls.len(), calls.next_expired(late)), (1, 0, None));
        // Deadlines of calls that are over take no memory for long.
        for _ in 0..10_000 {
            let id = open(&mut calls);
            calls.set_callback(id, Box::new(drop), Some(late));
            assert!(matches!(calls.finish(id, refused()), Notice::Run(..)));
        }
        assert!(calls.deadlines.len() <= 64 + 2);
    }
}
