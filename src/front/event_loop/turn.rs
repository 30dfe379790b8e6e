//! One turn: who is served, for how long, and what is done afterwards.

use super::lend::Lender;
use super::{BELL, Deferred, EventLoop, PortId};
use crate::error::{LoopError, SystemError};
use crate::port::events::Delivered;
use std::os::fd::AsFd;
use std::sync::PoisonError;
use std::time::Duration;

impl EventLoop {
    /// Waits, and serves every port that has something once. Says whether anything was there.
    ///
    /// A port that cannot be watched keeps nobody else from being served.
    pub(super) fn turn(&mut self, timeout: Option<Duration>) -> Result<bool, LoopError> {
        let started_before = self.look_for_started();
        let mut timeout = timeout;
        if !self.ready.is_empty() {
            timeout = Some(Duration::ZERO);
        } else if !self.delayed.is_empty() {
            timeout = Some(timeout.unwrap_or(RETRY).min(RETRY));
        }
        let mut marks = std::mem::take(&mut self.marks);
        self.epoll.wait(&mut marks, timeout)?;
        let mut was_something = false;
        for mark in &marks {
            match *mark {
                BELL => self.shared.called.bell.silence(),
                id if self.sources.contains_key(&id) => {}
                id => self.make_ready(id),
            }
        }
        // In the order in which they were added.
        marks.retain(|id| self.sources.contains_key(id));
        marks.sort_unstable();
        for id in &marks {
            self.serve_source(*id);
            was_something = true;
        }
        self.marks = marks;
        let called = std::mem::take(
            &mut *self.shared.called.ids.lock().unwrap_or_else(PoisonError::into_inner),
        );
        called.into_iter().for_each(|id| self.make_ready(id));
        let delayed = self.look_at_delayed();
        was_something |= self.do_work();
        let started = self.look_for_started();
        // Those that become ready meanwhile have their turn later.
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { break };
            was_something |= self.serve(id)?;
            self.do_deferred();
        }
        if !self.ready.is_empty() || (self.is_nested.get() && !self.delayed.is_empty()) {
            // So that a loop in which this one nests comes back for the rest. Where none does, what
            // is delayed waits for its time.
            self.shared.called.bell.ring();
        }
        started_before.and(delayed).and(started).map(|()| was_something)
    }

    /// Gives ports that were delayed another turn. Those that cannot be watched stay.
    fn look_at_delayed(&mut self) -> Result<(), LoopError> {
        let mut failure = None;
        for id in std::mem::take(&mut self.delayed) {
            if let Err(error) = self.watch(id) {
                failure = Some(error);
                self.delayed.push(id);
                continue;
            }
            if let Some(slot) = self.ports.get_mut(&id) {
                slot.is_delayed = false;
            }
            self.make_ready(id);
        }
        failure.map_or(Ok(()), |error: SystemError| Err(error.into()))
    }

    fn serve_source(&mut self, id: u64) {
        let Some(mut source) = self.sources.get_mut(&id).and_then(Option::take) else { return };
        (source.on_ready)(self);
        match self.sources.get_mut(&id) {
            Some(place) => *place = Some(source),
            // It was removed meanwhile.
            None => drop(self.epoll.remove(source.fd.as_fd())),
        }
    }

    /// Delivers a share of what a port has. Says whether it had anything.
    fn serve(&mut self, id: u64) -> Result<bool, LoopError> {
        let Some(slot) = self.ports.get_mut(&id) else { return Ok(false) };
        slot.is_ready = false;
        let Some(slot) = self.ports.get(&id) else { return Ok(false) };
        let scope = Lender { ports: &self.ports, deferred: &self.deferred, served: id };
        let mut count = 0;
        loop {
            let delivered = match slot.port.is_started() {
                true => slot.port.deliver(Some(&scope)),
                false => slot.port.deliver_early_close(Some(&scope)),
            };
            match delivered {
                Delivered::Event => count += 1,
                Delivered::Nothing => return Ok(count > 0),
                Delivered::Later => {
                    self.delay(id);
                    return Ok(count > 0);
                }
                Delivered::Unwanted => {
                    // A hang-up behind the messages would be told again and again.
                    self.unwatch(id);
                    return Ok(false);
                }
                Delivered::End => {
                    self.remove(PortId(id));
                    return Ok(true);
                }
            }
            // What a handler wants done comes before the next message.
            if count == SHARE || !self.deferred.borrow().is_empty() {
                self.make_ready(id);
                return Ok(true);
            }
        }
    }

    /// Finds ports that were started since, and listens to their messages from now on.
    fn look_for_started(&mut self) -> Result<(), LoopError> {
        let mut unstarted = std::mem::take(&mut self.unstarted);
        let mut failure = None;
        unstarted.retain(|id| {
            let Some(slot) = self.ports.get(id) else { return false };
            let is_started = slot.port.is_started();
            let is_let_be = slot.is_watched || slot.is_delayed;
            // What stood before its end may have been read by calls.
            if is_started || (!is_let_be && !slot.port.receiver().has_message()) {
                if let Err(error) = self.watch(*id) {
                    failure = Some(error);
                    return true;
                }
                self.make_ready(*id);
            }
            !is_started
        });
        self.unstarted = unstarted;
        failure.map_or(Ok(()), |error: SystemError| Err(error.into()))
    }

    /// Tries a port again a little later. Until then its doorbell, which rings for what cannot be
    /// had, is not waited for.
    fn delay(&mut self, id: u64) {
        self.unwatch(id);
        if let Some(slot) = self.ports.get_mut(&id) {
            slot.is_delayed = true;
            self.delayed.push(id);
        }
    }

    fn watch(&mut self, id: u64) -> Result<(), SystemError> {
        if let Some(slot) = self.ports.get_mut(&id)
            && !slot.is_watched
        {
            self.epoll.add(slot.port.as_fd(), id)?;
            slot.is_watched = true;
        }
        Ok(())
    }

    fn unwatch(&mut self, id: u64) {
        if let Some(slot) = self.ports.get_mut(&id)
            && std::mem::replace(&mut slot.is_watched, false)
        {
            // It fails only for a descriptor that is not there.
            let _ = self.epoll.remove(slot.port.endpoint().doorbell());
        }
    }

    fn make_ready(&mut self, id: u64) {
        if let Some(slot) = self.ports.get_mut(&id)
            && !slot.is_ready
        {
            slot.is_ready = true;
            self.ready.push_back(id);
        }
    }

    /// Does what other threads have given.
    fn do_work(&mut self) -> bool {
        let work = self.shared.work().as_mut().map(std::mem::take).unwrap_or_default();
        let any = !work.is_empty();
        work.into_iter().for_each(|work| work(self));
        any
    }

    fn do_deferred(&mut self) {
        loop {
            let deferred = std::mem::take(&mut *self.deferred.borrow_mut());
            if deferred.is_empty() {
                return;
            }
            for action in deferred {
                let action = action.downcast::<Deferred>().expect("made by `Event::defer`");
                action(self);
            }
        }
    }
}

/// Messages of one port before the others have their turn.
const SHARE: u32 = 64;
/// How soon a message that cannot be had is tried again.
const RETRY: Duration = Duration::from_millis(10);
