//! One turn of the loop: which ports it serves, for how long, and what it does afterwards.
//!
//! A turn does not walk through all ports, except twice a second to find messages whose ring was
//! refused. A turn looks at a port if epoll reports it, if it has called its
//! [`Watcher`](crate::port::events::Watcher), if the program has borrowed it, or if a retry is due.

use super::lend::Lender;
use super::{ALARM, BELL, Deferred, EventLoop, LoopItem, LoopPort, PortId, Source, SourceId};
use crate::error::{LoopError, SystemError};
use crate::link::endpoint::LOOK_AGAIN;
use crate::os::alarm::Alarm;
use crate::os::clock::Deadline;
use crate::os::spin::MOST_LOOKS;
use crate::os::{clock, reaper};
use crate::port::delivery::Delivered;
use crate::port::listener::ListenerFailure;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

impl EventLoop {
    /// Waits, and serves every port with events once. Returns whether there were any.
    ///
    /// If a port cannot be watched, the others are served all the same. Timers that repeat are
    /// called as [`run_timers`](Self::run_timers) says.
    pub(super) fn turn(
        &mut self,
        timeout: Option<Duration>,
        repeated_until: Option<Instant>,
    ) -> Result<bool, LoopError> {
        self.turns += 1;
        let turn = self.turns;
        self.look_at_lent();
        self.may_wait = timeout != Some(Duration::ZERO);
        let timeout = self.shortened(timeout);
        let mut marks = std::mem::take(&mut self.marks);
        self.epoll.wait(&mut marks, timeout)?;
        // Ports with new messages go before those that have had a share and have more.
        let again = std::mem::take(&mut self.ready);
        for mark in &marks {
            match *mark {
                BELL => self.shared.called.drain(),
                ALARM => self.end_alarm(),
                id if self.sources.contains_key(&id) => {}
                id => self.make_ready(id),
            }
        }
        self.ready.extend(again);
        // Sources are served in the order in which they were added.
        marks.retain(|id| self.can_serve(*id));
        marks.sort_unstable();
        // Sources, ports and work; timers apart from them.
        let mut was_something = !marks.is_empty();
        let ran_timers = self.run_timers(repeated_until);
        self.do_deferred();
        for id in &marks {
            if self.turns != turn {
                // Code of the program has run the loop. What epoll said is out of date: a source
                // that is still readable is reported again.
                break;
            }
            self.serve_source(*id);
            self.do_deferred();
        }
        self.marks = marks;
        was_something |= self.do_work();
        self.do_deferred();
        for id in self.shared.called.take() {
            self.make_ready(id);
        }
        self.retry_delayed(was_something || ran_timers);
        self.look_for_lost();
        let mut outcome = self.watch_rested();
        // Ports that become ready meanwhile are served in the next turn.
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { break };
            match self.serve(id) {
                Ok(had_something) => was_something |= had_something,
                Err(error) => outcome = Err(error),
            }
            self.do_deferred();
            self.drop_if_ended(id);
        }
        self.look_at_lent();
        let has_no_alarm = self.is_nested.get() && self.set_alarm().is_err();
        if !self.ready.is_empty() || has_no_alarm {
            // Makes the descriptor readable, so that an outer loop comes back for the rest. Without
            // an outer loop, delayed ports wait for their time.
            self.shared.called.ring();
        }
        self.ran_timers_only = ran_timers && !was_something;
        outcome.map(|()| was_something || ran_timers)
    }

    fn end_alarm(&self) {
        self.alarm_at.set(None);
        if let Some(alarm) = self.alarm.get() {
            // A timer that exists can be stopped.
            let _ = alarm.set(None);
        }
    }

    /// When an outer loop has to come back for what no descriptor reports: a retry, or a timer.
    pub(super) fn next_alarm(&self) -> Option<Instant> {
        let has_retries = !self.delayed.is_empty() || !self.resting.is_empty();
        let retry = has_retries.then(|| Instant::now() + RETRY);
        retry.into_iter().chain(self.timers.next()).min()
    }

    /// Makes the descriptor readable then.
    fn set_alarm(&self) -> Result<(), SystemError> {
        let Some(next) = self.next_alarm() else { return Ok(()) };
        if self.alarm_at.get().is_some_and(|at| at <= next) {
            // The turn that it causes sets it anew.
            return Ok(());
        }
        let alarm = match self.alarm.get() {
            Some(alarm) => alarm,
            None => {
                let alarm = Alarm::new()?;
                self.epoll.add(alarm.as_fd(), ALARM)?;
                self.alarm.get_or_init(|| alarm)
            }
        };
        alarm.set(Some(next.saturating_duration_since(Instant::now())))?;
        self.alarm_at.set(Some(next));
        Ok(())
    }

    /// The longest time that a turn may wait.
    fn shortened(&self, timeout: Option<Duration>) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let delayed = (!self.delayed.is_empty()).then_some(reaper::PAUSE);
        let rested = self.resting.front().map(|(due, _)| *due);
        let due = rested.into_iter().chain(self.timers.next()).min();
        let due = due.map(|due| due.saturating_duration_since(Instant::now()));
        let again = (!self.ports.is_empty()).then_some(LOOK_AGAIN);
        delayed.into_iter().chain(due).chain(timeout).chain(again).min()
    }

    /// Looks at all watched ports twice a second: the kernel may have refused a ring of a peer that
    /// never calls again, or a ring of this end.
    fn look_for_lost(&mut self) {
        let now = clock::coarse();
        if now < self.look_again_at {
            return;
        }
        self.look_again_at = now + LOOK_AGAIN;
        let mut lost = Vec::new();
        for (id, entry) in &self.ports {
            entry.port.endpoint().ring_again();
            let has_news = match entry.is_aside() {
                true => entry.port.awaits_peer_gone() && entry.port.endpoint().has_reader_left(),
                false => entry.is_watched && entry.port.receiver().has_news(),
            };
            if has_news {
                lost.push(*id);
            }
        }
        lost.into_iter().for_each(|id| self.make_ready(id));
    }

    /// Looks at ports that were set aside and that the program has borrowed since: it may have
    /// received the messages before their end.
    pub(super) fn look_at_lent(&mut self) {
        for id in std::mem::take(self.lent.get_mut()) {
            let Some(entry) = self.ports.get(&id) else { continue };
            entry.is_lent.set(false);
            if entry.is_aside() && !entry.port.receiver().has_message() {
                self.make_ready(id);
            }
        }
    }

    /// Retries delayed ports: all of them if the turn had no event, otherwise some from time to
    /// time.
    fn retry_delayed(&mut self, was_something: bool) {
        if self.delayed.is_empty() {
            return;
        }
        let (is_idle, now) = (!was_something && self.ready.is_empty(), Instant::now());
        if !is_idle && now < self.retry_at {
            return;
        }
        self.retry_at = now + reaper::PAUSE;
        let most = if is_idle { self.delayed.len() } else { SHARE as usize };
        for _ in 0..most.min(self.delayed.len()) {
            let Some(id) = self.delayed.pop_front() else { break };
            if let Some(entry) = self.ports.get_mut(&id) {
                entry.is_delayed = false;
            }
            self.make_ready(id);
        }
    }

    /// Watches sources again that panicked a while ago.
    fn watch_rested(&mut self) -> Result<(), LoopError> {
        let now = if self.resting.is_empty() { return Ok(()) } else { Instant::now() };
        while self.resting.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, id)) = self.resting.pop_front() else { break };
            self.watch_source(id)?;
        }
        Ok(())
    }

    /// Whether the callback of a source can be called. One that is being called has run the loop:
    /// its source is readable all the time, and is left out until the callback returns.
    fn can_serve(&mut self, id: u64) -> bool {
        match self.sources.get(&id) {
            None => false,
            Some(Source { on_ready: None, .. }) => {
                self.unwatch_source(id);
                false
            }
            Some(_) => true,
        }
    }

    fn unwatch_source(&mut self, id: u64) {
        if let Some(source) = self.sources.get_mut(&id)
            && std::mem::replace(&mut source.is_watched, false)
        {
            // It fails only if epoll does not have the descriptor.
            let _ = self.epoll.remove(source.fd.as_fd());
        }
    }

    /// Watches a source again, a little later if the kernel refuses.
    fn watch_source(&mut self, id: u64) -> Result<(), LoopError> {
        let Some(source) = self.sources.get_mut(&id) else { return Ok(()) };
        if !source.is_watched && !source.is_paused {
            if let Err(error) = self.epoll.add(source.fd.as_fd(), id) {
                self.resting.push_back((Instant::now() + RETRY, id));
                return Err(error.into());
            }
            source.is_watched = true;
        }
        Ok(())
    }

    /// Leaves a source out, or takes it back.
    pub(in crate::front) fn pause_source(&mut self, SourceId(id): SourceId, is_paused: bool) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        source.is_paused = is_paused;
        match is_paused {
            true => self.unwatch_source(id),
            // If it fails, a later turn says so.
            false => _ = self.watch_source(id),
        }
    }

    fn serve_source(&mut self, id: u64) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        let Some(mut on_ready) = source.on_ready.take() else { return };
        let is_well = self.isolate(Some(SourceId(id).into()), &mut on_ready);
        // Unless it was removed meanwhile.
        let Some(source) = self.sources.get_mut(&id) else { return };
        source.on_ready = Some(on_ready);
        if is_well {
            // If it fails, a later turn says so.
            let _ = self.watch_source(id);
        } else {
            // It may not have consumed what made it readable.
            self.unwatch_source(id);
            self.resting.push_back((Instant::now() + RETRY, id));
        }
    }

    /// Delivers a share of a port's messages. Returns whether it had any.
    fn serve(&mut self, id: u64) -> Result<bool, LoopError> {
        let Some(entry) = self.ports.get_mut(&id) else { return Ok(false) };
        entry.is_ready = false;
        if self.handlers.is_calling(id) {
            // A handler that runs the loop: its port comes after it.
            self.unwatch(id);
            return Ok(false);
        }
        if entry.is_delayed || entry.has_ended {
            return Ok(false);
        }
        if !entry.holds_run {
            self.set_holding(id, true);
        }
        let Some(entry) = self.ports.get_mut(&id) else { return Ok(false) };
        if !entry.is_watched {
            if std::mem::replace(&mut entry.awaits_end, false) {
                // It fails only if epoll does not have the descriptor.
                let _ = self.epoll.remove(entry.port.endpoint().doorbell());
            }
            if let Err(error) = self.epoll.add(entry.port.receiver().level_triggered_fd(), id) {
                self.delay(id);
                return Err(error.into());
            }
            entry.is_watched = true;
        }
        // A panic of a listener is caught at the listener. This catches one in the program's code
        // that checks a message, or that runs when a listener is dropped.
        Ok(catch_unwind(AssertUnwindSafe(|| self.deliver_share(id))).unwrap_or_else(|panic| {
            self.arrived.get_mut().clear();
            self.report(&ListenerFailure::Panic(panic), Some(PortId::new(id).into()));
            self.delay(id);
            true
        }))
    }

    pub(super) fn deliver_share(&mut self, id: u64) -> bool {
        // Counts cost: one message with many descriptors, or of many bytes, can be a whole share.
        let mut count = 0;
        self.looks.set(MOST_LOOKS);
        loop {
            let delivered = self.deliver_some(id, &mut count);
            let had_something = count > 0;
            match delivered {
                Delivered::Event | Delivered::Nothing => {}
                Delivered::Chunk => count = SHARE,
                Delivered::Later(_) => self.delay(id),
                Delivered::Unwanted => self.set_aside(id),
                Delivered::End(_) => self.end(id),
            }
            if !self.arrived.get_mut().is_empty() {
                self.call_handler(id);
            }
            match delivered {
                // Deferred actions of a listener run before the next message.
                Delivered::Event if count < SHARE && self.deferred.get_mut().is_empty() => {}
                Delivered::Event | Delivered::Chunk => {
                    self.make_ready(id);
                    return true;
                }
                Delivered::End(_) => return true,
                Delivered::Nothing | Delivered::Later(_) => return had_something,
                Delivered::Unwanted => return false,
            }
        }
    }

    /// Delivers events to the listeners of a port, until its share is over or something else has to
    /// be done before the next one: a deferred action, or a call of the port's handler.
    fn deliver_some(&self, id: u64, count: &mut u32) -> Delivered {
        let Some(entry) = self.ports.get(&id) else { return Delivered::Nothing };
        let scope = Lender {
            ports: &self.ports,
            lent: &self.lent,
            deferred: &self.deferred,
            arrived: self.handlers.has(id).then_some(&self.arrived),
            served: Some(id),
        };
        loop {
            if *count > 0 {
                self.look_for_next(entry);
            }
            let delivered = entry.port.deliver_next(Some(&scope));
            if !matches!(delivered, Delivered::Event) {
                return delivered;
            }
            *count += entry.port.take_spent().max(1);
            let is_interrupted =
                !self.deferred.borrow().is_empty() || !self.arrived.borrow().is_empty();
            if *count >= SHARE || is_interrupted {
                return delivered;
            }
        }
    }

    /// Looks for the next message of a port that has just delivered one: a peer that spins answers
    /// sooner than this loop falls asleep. Not while something else is ready, or if the turn must
    /// not wait. Other ports wait meanwhile, so the looks of a share have a bound then.
    fn look_for_next(&self, entry: &LoopPort) {
        let receiver = entry.port.receiver();
        let is_busy = !self.ready.is_empty() || self.shared.called.has_rung();
        if !self.may_wait || is_busy || receiver.has_news() {
            return;
        }
        if self.ports.len() > 1 || !self.sources.is_empty() {
            receiver.spin().run_briefly(&self.looks, || receiver.has_news());
            return;
        }
        let timer = self.timers.next().map_or(Deadline::NEVER, Deadline::at);
        // A peer that answers each look in time would keep it waiting until the share is over.
        if !timer.is_over() {
            receiver.spin().run(timer, || receiver.has_news());
        }
    }

    /// Retries a port a little later. Until then its doorbell is not watched, as it rings for a
    /// message that cannot be received.
    fn delay(&mut self, id: u64) {
        self.unwatch(id);
        if let Some(entry) = self.ports.get_mut(&id)
            && !std::mem::replace(&mut entry.is_delayed, true)
        {
            if self.delayed.is_empty() {
                self.retry_at = Instant::now() + reaper::PAUSE;
            }
            self.delayed.push_back(id);
        }
    }

    /// Stops watching a port that has messages and is not started, except for the end of its peer.
    /// Otherwise epoll would report a hang-up behind them each time.
    fn set_aside(&mut self, id: u64) {
        self.unwatch(id);
        let Some(entry) = self.ports.get_mut(&id) else { return };
        if entry.port.is_closed_here() {
            self.set_holding(id, false);
        } else if entry.port.awaits_peer_gone() {
            // Without memory for it the end is found when the messages were read.
            let doorbell = entry.port.endpoint().doorbell();
            entry.awaits_end = self.epoll.add_for_end(doorbell, id).is_ok();
        }
    }

    /// Marks a port as ended. It stays until the deferred actions of its listeners are done.
    fn end(&mut self, id: u64) {
        self.unwatch(id);
        self.recount(id, |event_loop| {
            if let Some(entry) = event_loop.ports.get_mut(&id) {
                entry.has_ended = true;
            }
        });
    }

    fn drop_if_ended(&mut self, id: u64) {
        if self.ports.get(&id).is_some_and(|entry| entry.has_ended) {
            self.remove(PortId::new(id));
        }
    }

    /// Whether `run` continues for this port: not if it was closed here and is not started.
    fn set_holding(&mut self, id: u64, holds: bool) {
        self.recount(id, |event_loop| {
            if let Some(entry) = event_loop.ports.get_mut(&id) {
                entry.holds_run = holds;
            }
        });
    }

    fn unwatch(&mut self, id: u64) {
        if let Some(entry) = self.ports.get_mut(&id)
            && (std::mem::replace(&mut entry.is_watched, false)
                | std::mem::replace(&mut entry.awaits_end, false))
        {
            // It fails only if epoll does not have the descriptor.
            let _ = self.epoll.remove(entry.port.endpoint().doorbell());
        }
    }

    pub(super) fn make_ready(&mut self, id: u64) {
        if let Some(entry) = self.ports.get_mut(&id)
            && !entry.is_ready
        {
            entry.is_ready = true;
            self.ready.push_back(id);
        }
    }

    /// Runs the work that other threads have given so far. It takes one item at a time, so that a
    /// panic loses no other item, and so that work which runs the loop finds the rest.
    fn do_work(&mut self) -> bool {
        let count = self.shared.work().as_ref().map_or(0, VecDeque::len);
        for _ in 0..count {
            let work = self.shared.work().as_mut().and_then(VecDeque::pop_front);
            let Some(work) = work else { break };
            self.isolate(None, work);
        }
        count > 0
    }

    fn do_deferred(&mut self) {
        while let Some(action) = self.next_deferred() {
            let action = action.downcast::<Deferred>().expect("made by `Event::defer`");
            self.isolate(None, *action);
        }
    }

    fn next_deferred(&mut self) -> Option<Box<dyn std::any::Any>> {
        self.deferred.get_mut().pop_front()
    }

    /// Runs code of the program, and reports a panic in it. Returns whether there was no panic.
    pub(super) fn isolate(
        &mut self,
        of: Option<LoopItem>,
        act: impl FnOnce(&mut EventLoop),
    ) -> bool {
        let outcome = catch_unwind(AssertUnwindSafe(|| act(self)));
        match outcome {
            Ok(()) => true,
            Err(panic) => {
                self.report(&ListenerFailure::Panic(panic), of);
                false
            }
        }
    }

    /// Without a hook this does nothing: the panic has already printed its message.
    pub(super) fn report(&mut self, failure: &ListenerFailure, of: Option<LoopItem>) {
        if let Some(hook) = &mut self.hook {
            // A panic of the hook is ignored.
            let _ = catch_unwind(AssertUnwindSafe(|| hook(failure, of)));
        }
    }
}

/// Messages of one port before the others are served.
const SHARE: u32 = 64;
/// The delay before a source that panicked is called again.
const RETRY: Duration = Duration::from_millis(10);
