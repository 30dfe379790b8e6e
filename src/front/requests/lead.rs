//! The thread that leads: it has the receiving half, and receives for all.

use crate::error::{CallError, MessageError, RecvError};
use crate::link::biased::thread_number;
use crate::link::receiving::chunks::Polled;
use crate::os::clock::Deadline;
use crate::port::event::MessageEvent;
use crate::port::message::Message;
use crate::port::receiver::Receiver;
use crate::port::requests::core::{Core, Guard, unlock};
use crate::port::requests::trailer::{CallId, Kind, Trailer, without_end};
use std::task::Waker;
use std::thread;
use std::time::Duration;

/// The receiving half, while this thread receives for all.
pub(super) struct Lease<'c> {
    core: &'c Core,
    receiver: Option<Box<Receiver>>,
    /// Another thread can end a sleep of this one.
    has_interrupt: bool,
}

/// How leading has ended.
pub(super) enum Led<'l> {
    /// With the reply.
    Reply(MessageEvent<'l>),
    /// The call has its outcome in its slot, or another thread has taken it out.
    Ended,
    /// The call has no outcome.
    Failed(CallError),
}

/// What may be there after a share.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    More,
    /// A message that waits until there is room for its descriptors, and comes without them in a
    /// tenth of a second.
    Later,
}

/// What a caller takes out of a reply.
pub(super) trait Take: Sized {
    type Answer;

    /// Fast path of `of_event`: takes it out of the bytes of the value. Gives itself back if they
    /// are not valid, or if it is not taken in this way.
    fn of_bytes(self, bytes: &[u8]) -> Result<Self::Answer, Self>;

    /// Takes it where the receiving half has put the reply, with its trailer.
    fn of_event(self, event: MessageEvent<'_>) -> Result<Self::Answer, CallError>;

    /// Takes it out of a reply that another thread has received.
    fn of_message(self, message: Message) -> Result<Self::Answer, CallError>;
}

impl<'c> Lease<'c> {
    /// Takes the receiver, unless another thread has it.
    #[inline(always)]
    pub(super) fn take(core: &'c Core, mut state: Guard<'c>) -> Result<Lease<'c>, Guard<'c>> {
        let Some(receiver) = state.receiver.take() else { return Err(state) };
        state.leader = thread_number();
        if state.interrupt.is_none() {
            // Without a descriptor for it, this thread looks from time to time.
            state.interrupt = receiver.canceller().ok();
        }
        let has_interrupt = state.interrupt.is_some();
        Ok(Lease { core, receiver: Some(receiver), has_interrupt })
    }

    #[inline(always)]
    fn receiver(&self) -> &Receiver {
        self.receiver.as_ref().expect("put back last")
    }

    /// Receives until the call has ended.
    #[cold]
    #[inline(never)]
    pub(super) fn lead(&self, id: CallId, deadline: Deadline) -> Led<'_> {
        let wanted = Some(Trailer::new(Kind::Reply, id));
        let mut others = 0u32;
        if let Some(event) = self.receiver().take_aside() {
            if Trailer::of(&event) == wanted {
                return Led::Reply(event);
            }
            self.core.accept(event, MessageEvent::try_into_message);
        }
        if !self.is_open(id) {
            return Led::Ended;
        }
        loop {
            let ended = match self.recv(deadline) {
                Ok(event) if Trailer::of(&event) == wanted => return Led::Reply(event),
                Ok(event) => self.core.accept(event, MessageEvent::try_into_message),
                Err(error) => match self.recover(error) {
                    Ok(ended) => ended,
                    Err(error) => return Led::Failed(error),
                },
            };
            if ended == Some(id) {
                return Led::Ended;
            }
            others = others.wrapping_add(1);
            // A hostile peer can post without end.
            if (ended.is_none() || others.is_multiple_of(LOOK)) && !self.is_open(id) {
                return Led::Ended;
            }
            if (ended.is_none() || others.is_multiple_of(LOOK)) && deadline.is_over() {
                return Led::Failed(CallError::Timeout);
            }
        }
    }

    /// Polls for the reply for some microseconds; often it comes within that time. Fast path of
    /// `lead`, which comes next if this gives `take` back: what was received meanwhile is put aside
    /// for it.
    #[inline(always)]
    pub(super) fn poll_for<T: Take>(&self, id: CallId, take: T) -> Result<T::Answer, T> {
        let wanted = Some(Trailer::new(Kind::Reply, id));
        let (receiver, mut looks) = (self.receiver(), 0);
        let message = loop {
            if let Some(event) = receiver.poll_fast() {
                break receiver.set_aside(event);
            }
            if !receiver.is_still_empty() {
                match receiver.poll_slow() {
                    Ok(Some(event)) => break receiver.set_aside(event),
                    Ok(None) => {}
                    // It comes again.
                    Err(_) => return Err(take),
                }
            }
            looks += 1;
            if looks == POLLS {
                return Err(take);
            }
        };
        if Trailer::of_payload(&message) != wanted || !self.core.types.are_agreed() {
            return Err(take);
        }
        let answer = take.of_bytes(without_end(message.bytes()))?;
        drop(receiver.take_back(message));
        Ok(answer)
    }

    /// The next message.
    fn recv(&self, deadline: Deadline) -> Result<MessageEvent<'_>, RecvError> {
        let deadline = match self.has_interrupt {
            true => deadline,
            false => Deadline::after(deadline.left_at_most(SLICE)),
        };
        match deadline.time() {
            None => self.receiver().recv(),
            Some(time) => self.receiver().recv_deadline(time),
        }
    }

    /// Goes on after a failure, if that is possible; returns which call has ended by it.
    #[cold]
    fn recover(&self, error: RecvError) -> Result<Option<CallId>, CallError> {
        match error {
            RecvError::Closed { reason } => {
                self.core.end(reason);
                Ok(None)
            }
            RecvError::OutOfMemory { len } => Ok(skip(self.core, self.receiver(), len)),
            RecvError::OutOfDescriptors { .. } => {
                // It comes without them in a tenth of a second.
                thread::sleep(FULL);
                Ok(None)
            }
            RecvError::Io(error) => Err(error.into()),
            // The caller looks at its deadline, and whether its call is still open.
            RecvError::Timeout | RecvError::Cancelled | RecvError::Started => Ok(None),
        }
    }

    fn is_open(&self, id: CallId) -> bool {
        self.core.lock().is_ok_and(|state| state.calls.is_open(id))
    }

    /// Receives what comes until the deadline, at most a share.
    pub(super) fn receive_until(&self, deadline: Deadline) {
        for _ in 0..LOOK {
            match self.recv(deadline) {
                Ok(event) => _ = self.core.accept(event, MessageEvent::try_into_message),
                Err(RecvError::Timeout | RecvError::Cancelled) => return,
                Err(error) => match self.recover(error) {
                    Ok(_) if !self.receiver().has_news() => return,
                    Ok(_) => {}
                    Err(_) => return,
                },
            }
            if !self.receiver().has_news() {
                return;
            }
        }
    }

    /// Receives what is there, at most a share.
    pub(super) fn receive_all(&self) -> Left {
        self.receive_share(|receiver| Ok(receiver.poll()?.map_or(Polled::Nothing, Polled::Message)))
    }

    /// The same, by one of two polls. Counts cost, as the share of a port in a loop does.
    fn receive_share<'l>(
        &'l self,
        poll: impl Fn(&'l Receiver) -> Result<Polled<MessageEvent<'l>>, Box<RecvError>>,
    ) -> Left {
        let mut cost = 0;
        while cost < LOOK {
            match poll(self.receiver()).map_err(|failure| *failure) {
                Ok(Polled::Nothing) => return Left::Nothing,
                Ok(Polled::Unfinished) => return Left::More,
                Ok(Polled::Message(event)) => {
                    cost = event.cost().saturating_add(cost);
                    self.core.accept(event, MessageEvent::try_into_message);
                }
                Err(error @ RecvError::OutOfMemory { .. }) => {
                    cost += 1;
                    let _ = self.recover(error);
                }
                Err(error @ RecvError::Closed { .. }) => {
                    let _ = self.recover(error);
                    return Left::Nothing;
                }
                Err(RecvError::OutOfDescriptors { .. }) => return Left::Later,
                Err(_) => return Left::Nothing,
            }
        }
        Left::More
    }

    /// The same for an event loop, which watches the doorbell. It is told of what comes next by
    /// that, and not by itself.
    pub(super) fn receive_for_loop(mut self) -> Left {
        // From here on a poll that finds nothing has armed the flag.
        let _ = self.receiver().level_triggered_fd();
        // Others wait for their turn: a long reply is copied in parts.
        let left = self.receive_share(Receiver::poll_in_chunks);
        if let Ok(mut state) = self.core.lock() {
            state.put_back(self.receiver.take());
            // A thread that waits may lead as well: the loop may not be run again for long.
            let waiting = state.calls.first_waiting().cloned();
            drop(state);
            waiting.into_iter().for_each(Waker::wake);
        }
        left
    }

    /// Frees the slot of the call that this thread has led for, and puts the receiver back.
    #[inline]
    pub(super) fn finish(mut self, id: CallId) {
        let receiver = self.receiver.take();
        if let Ok(mut state) = self.core.lock() {
            state.calls.close(id);
            state.put_back(receiver);
            unlock(state);
        }
    }

    /// Puts the receiver back. The caller goes on with the lock, and tells the successors.
    pub(super) fn put_back(mut self, state: &mut Guard<'_>) {
        state.put_back(self.receiver.take());
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let Some(receiver) = self.receiver.take() else { return };
        // A reply that code of the program has read as it panicked.
        drop(receiver.take_aside());
        // This thread posts nothing at present, so the lock is not its own.
        if let Ok(mut state) = self.core.lock() {
            state.put_back(Some(receiver));
            unlock(state);
        }
    }
}

/// Steps over a reply for which there is no memory; ends its call, and returns which.
pub(crate) fn skip(core: &Core, receiver: &Receiver, len: u64) -> Option<CallId> {
    let trailer = receiver.end_of_next().and_then(Trailer::decode);
    let _ = receiver.discard_next();
    let Trailer { id, .. } = trailer?;
    let state = core.lock().ok()?;
    core.finish(state, id, Err(MessageError::OutOfMemory { len }.into()));
    Some(id)
}

/// Polls before a sleep.
const POLLS: u32 = 500;
/// Messages for others between two looks at the clock.
const LOOK: u32 = 64;
/// How long to wait for room, or for descriptors, before another attempt.
pub(super) const FULL: Duration = Duration::from_millis(1);
/// How long a thread sleeps that no other can interrupt.
const SLICE: Duration = Duration::from_millis(20);
