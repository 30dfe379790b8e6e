//! Who has which worker of a pool: the workers that are idle, busy or to be started, the tasks that
//! wait for one, and when the next one may be started. No function here waits.
//!
//! A task has a [`Place`] in the queue. Only the first place gets anything: an idle worker, or the
//! permission to start one. So the order of the tasks is kept, and each waker is woken for a
//! reason. A [`Busy`] worker and a permission are values that tell their end when they are dropped:
//! a task that is cancelled or panics leaves no worker behind without a task that waits for it.

use crate::error::{LostWorker, SpawnError, TaskError, worker};
use crate::group::worker_pool::member::{Line, Member};
use crate::meet::worker_process::WorkerProcess;
use crate::os::clock::Deadline;
use crate::os::process::Maker;
use std::collections::VecDeque;
use std::mem;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

pub(crate) struct Slots<L: Line> {
    limits: Limits,
    /// Outside of the lock: a copy in a forked child may have it locked forever.
    maker: Maker,
    state: Mutex<State<L>>,
}

/// What a builder sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub workers: usize,
    pub queue: usize,
    /// How many workers a task is given to.
    pub attempts: u32,
    /// How long each of them may take.
    pub attempt: Duration,
    /// How many starts may fail in a row.
    pub restarts: u32,
}

struct State<L: Line> {
    /// All that run.
    members: Vec<Arc<Member<L>>>,
    /// Those without a task; the last one has worked last.
    idle: Vec<Arc<Member<L>>>,
    /// Those that were given to a task, and permissions.
    busy: usize,
    /// Workers that are to be started.
    vacant: usize,
    /// None is started before.
    not_before: Option<Instant>,
    queue: VecDeque<(u64, Waker)>,
    next_ticket: u64,
    /// Workers lost since the last reply.
    lost_in_a_row: u32,
    /// Those of them that had not received a request.
    failed_starts: u32,
    end: Option<End>,
    /// Woken when no worker is busy any more.
    on_return: Vec<Waker>,
    answered: u64,
    redone: u64,
    restarts: u64,
}

/// Why there are no more tasks.
#[derive(Clone)]
enum End {
    Closed,
    Broken { restarts: u32, last: Arc<str> },
}

/// Counters of a pool, from [`WorkerPool::stats`](crate::WorkerPool::stats).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerPoolStats {
    /// Workers that run, as far as the pool knows: an idle one that has died counts until the next
    /// task finds out.
    pub workers: usize,
    /// Workers that have a task.
    pub busy: usize,
    /// Tasks that wait for a worker.
    pub waiting: usize,
    /// Tasks that have had their reply.
    pub answered: u64,
    /// Attempts that were made again, because a worker died or hung.
    pub redone: u64,
    /// Workers that were started in the place of others.
    pub restarts: u64,
}

/// How a worker was lost.
pub(crate) enum Loss<'e> {
    /// It was found dead when a task came for it.
    Idle,
    /// It has died or hung with a task.
    Failed(&'e LostWorker),
    /// The task has no more use for it.
    Abandoned,
}

/// What a place in the queue gets.
pub(crate) enum Turn<'s, L: Line> {
    Worker(Busy<'s, L>),
    /// Start a worker.
    Start(Starting<'s, L>),
    /// Wait for the waker, or until then.
    Wait(Deadline),
}

impl<L: Line> Slots<L> {
    /// Slots of workers that were started by the caller, all of them idle.
    pub(crate) fn new(limits: Limits, members: Vec<Arc<Member<L>>>) -> Slots<L> {
        let state = State {
            idle: members.clone(),
            vacant: limits.workers.saturating_sub(members.len()),
            members,
            ..State::empty()
        };
        Slots { limits, maker: Maker::this(), state: Mutex::new(state) }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn stats(&self) -> WorkerPoolStats {
        let state = self.lock();
        WorkerPoolStats {
            workers: state.members.len(),
            busy: state.busy,
            waiting: state.queue.len(),
            answered: state.answered,
            redone: state.redone,
            restarts: state.restarts,
        }
    }

    /// The process ids of the workers that run.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.lock().members.iter().map(|member| member.id()).collect()
    }

    /// Why there are no more tasks, if so.
    pub(crate) fn ended(&self) -> Option<TaskError> {
        self.lock().end.as_ref().map(End::error)
    }

    pub(crate) fn count_redone(&self) {
        self.lock().redone += 1;
    }

    /// Refuses all tasks from now on, those that wait included, and closes the ports of the workers
    /// that have none.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.end = Some(End::Closed);
        let (idle, wakers) = (mem::take(&mut state.idle), state.wakers_of_all());
        drop(state);
        idle.iter().for_each(|member| member.close());
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether no worker has a task. If one has, `waker` is woken once none has.
    pub(crate) fn poll_quiet(&self, waker: &Waker) -> bool {
        let mut state = self.lock();
        if state.busy > 0 && !state.on_return.iter().any(|known| known.will_wake(waker)) {
            state.on_return.push(waker.clone());
        }
        state.busy == 0
    }

    /// Takes all processes out, and closes all ports. Calls that are open end by this.
    pub(crate) fn take_all(&self) -> Vec<WorkerProcess> {
        let mut state = self.lock();
        state.idle.clear();
        let members = mem::take(&mut state.members);
        drop(state);
        // The processes first: a call that ends kills its worker.
        let processes = members.iter().filter_map(|member| member.take_process()).collect();
        members.iter().for_each(|member| member.close());
        processes
    }

    fn lock(&self) -> MutexGuard<'_, State<L>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes whom that concerns once the lock is free: a waker runs code of
    /// the executor, which may drop a task of this pool.
    fn change(&self, change: impl FnOnce(&mut State<L>)) {
        let mut state = self.lock();
        change(&mut state);
        let first = state.waker_of_first();
        let on_return = match state.busy {
            0 => mem::take(&mut state.on_return),
            _ => Vec::new(),
        };
        drop(state);
        first.into_iter().chain(on_return).for_each(Waker::wake);
    }

    /// A worker has done its task, or has refused it. `works` says that it received the request.
    fn give_back(&self, member: Arc<Member<L>>, works: bool, is_answered: bool) {
        if works {
            member.set_served();
        }
        let mut left_over = None;
        self.change(|state| {
            state.busy -= 1;
            state.answered += u64::from(is_answered);
            if works {
                (state.lost_in_a_row, state.failed_starts, state.not_before) = (0, 0, None);
            }
            match state.end {
                None => state.idle.push(member),
                Some(_) => left_over = Some(member),
            }
        });
        left_over.into_iter().for_each(|member| member.close());
    }

    fn lose(&self, member: &Arc<Member<L>>, loss: &Loss<'_>) {
        let is_failed_start = match loss {
            Loss::Idle => !member.has_served(),
            Loss::Failed(lost) => !member.has_served() && lost.is_unread(),
            Loss::Abandoned => false,
        };
        let status = is_failed_start.then(|| member.status()).flatten();
        self.change(|state| {
            state.members.retain(|other| !Arc::ptr_eq(other, member));
            state.busy -= 1;
            state.vacant += 1;
            if !matches!(loss, Loss::Abandoned) {
                state.pause();
            }
            if is_failed_start {
                let last = match loss {
                    Loss::Failed(lost) => lost.to_string(),
                    _ => ended_idle(member.name(), status),
                };
                state.count_failed_start(self.limits.restarts, &last);
            }
        });
        member.kill();
    }
}

impl<L: Line> State<L> {
    /// Of no workers.
    fn empty() -> State<L> {
        State {
            members: Vec::new(),
            idle: Vec::new(),
            busy: 0,
            vacant: 0,
            not_before: None,
            queue: VecDeque::new(),
            next_ticket: 0,
            lost_in_a_row: 0,
            failed_starts: 0,
            end: None,
            on_return: Vec::new(),
            answered: 0,
            redone: 0,
            restarts: 0,
        }
    }

    /// The waker of the first place, if there is something for it.
    fn waker_of_first(&self) -> Option<Waker> {
        let is_something = self.end.is_some() || self.vacant > 0 || !self.idle.is_empty();
        self.queue.front().filter(|_| is_something).map(|(_, waker)| waker.clone())
    }

    fn wakers_of_all(&self) -> Vec<Waker> {
        self.queue.iter().map(|(_, waker)| waker.clone()).collect()
    }

    /// Delays the next start, by more with each loss.
    fn pause(&mut self) {
        self.lost_in_a_row = self.lost_in_a_row.saturating_add(1);
        // The first restart is not delayed.
        let doublings = self.lost_in_a_row.checked_sub(2);
        let pause = doublings.map(|times| (FIRST_PAUSE * (1 << times.min(16))).min(LONGEST_PAUSE));
        self.not_before = pause.map(|pause| Instant::now() + pause);
    }

    fn count_failed_start(&mut self, limit: u32, last: &str) {
        self.failed_starts += 1;
        if self.failed_starts >= limit && self.end.is_none() {
            self.end = Some(End::Broken { restarts: self.failed_starts, last: last.into() });
        }
    }
}

impl End {
    fn error(&self) -> TaskError {
        match self {
            End::Closed => TaskError::Closed,
            End::Broken { restarts, last } => {
                TaskError::Broken { restarts: *restarts, last: last.clone() }
            }
        }
    }
}

impl<L: Line> Drop for Slots<L> {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !self.maker.is_this() {
            // A forked copy: the ports' memory is not here. Another thread may have been changing
            // the state at the moment of the fork, so that it is looked at no more.
            mem::forget(mem::replace(state, State::empty()));
            return;
        }
        // All ports first, so that the workers end at the same time.
        state.members.iter().for_each(|member| member.close());
    }
}

/// The place of a task in the queue. Dropping it leaves the queue.
pub(crate) struct Place<'s, L: Line> {
    slots: &'s Slots<L>,
    ticket: Option<u64>,
}

impl<'s, L: Line> Place<'s, L> {
    pub(crate) fn new(slots: &'s Slots<L>) -> Place<'s, L> {
        Place { slots, ticket: None }
    }

    /// Asks for a worker. `waker` is woken when it is time to ask again.
    ///
    /// # Errors
    /// `QueueFull`, `Broken` or `Closed`.
    pub(crate) fn poll(&mut self, waker: &Waker) -> Result<Turn<'s, L>, TaskError> {
        let mut state = self.slots.lock();
        if let Some(end) = &state.end {
            return Err(end.error());
        }
        let first = state.queue.front().map(|(ticket, _)| *ticket);
        let is_first = first == self.ticket;
        if is_first && let Some(turn) = self.take(&mut state) {
            if self.ticket.take().is_some() {
                state.queue.pop_front();
            }
            let next = state.waker_of_first();
            drop(state);
            next.into_iter().for_each(Waker::wake);
            return Ok(turn);
        }
        match self.ticket {
            None if state.queue.len() >= self.slots.limits.queue => {
                return Err(TaskError::QueueFull { limit: self.slots.limits.queue });
            }
            None => {
                let ticket = state.next_ticket;
                state.next_ticket += 1;
                state.queue.push_back((ticket, waker.clone()));
                self.ticket = Some(ticket);
            }
            Some(own) => {
                let place = state.queue.iter_mut().find(|(ticket, _)| *ticket == own);
                place.expect("it leaves the queue by this value only").1.clone_from(waker);
            }
        }
        let is_first = state.queue.front().map(|(ticket, _)| *ticket) == self.ticket;
        let start = state.not_before.filter(|_| is_first && state.vacant > 0);
        Ok(Turn::Wait(start.map_or(Deadline::NEVER, Deadline::at)))
    }

    fn take(&self, state: &mut State<L>) -> Option<Turn<'s, L>> {
        let slots = self.slots;
        if let Some(member) = state.idle.pop() {
            state.busy += 1;
            return Some(Turn::Worker(Busy { slots, member: Some(member) }));
        }
        if state.vacant == 0 || state.not_before.is_some_and(|time| time > Instant::now()) {
            return None;
        }
        state.vacant -= 1;
        state.busy += 1;
        Some(Turn::Start(Starting { slots, is_over: false }))
    }
}

impl<L: Line> Drop for Place<'_, L> {
    fn drop(&mut self) {
        if let Some(own) = self.ticket {
            self.slots.change(|state| state.queue.retain(|(ticket, _)| *ticket != own));
        }
    }
}

/// A worker that has a task. If it is dropped, the worker is ended: it may be at the task still.
pub(crate) struct Busy<'s, L: Line> {
    slots: &'s Slots<L>,
    /// Taken by the calls that consume it only.
    member: Option<Arc<Member<L>>>,
}

impl<L: Line> Busy<'_, L> {
    pub(crate) fn member(&self) -> &Member<L> {
        self.member.as_ref().expect(THERE)
    }

    /// The worker has replied.
    pub(crate) fn answered(mut self) {
        self.slots.give_back(self.member.take().expect(THERE), true, true);
    }

    /// The worker has refused the task.
    pub(crate) fn refused(mut self) {
        self.slots.give_back(self.member.take().expect(THERE), true, false);
    }

    /// The worker was not told of the task.
    pub(crate) fn unused(mut self) {
        self.slots.give_back(self.member.take().expect(THERE), false, false);
    }

    pub(crate) fn lost(mut self, loss: &Loss<'_>) {
        self.slots.lose(&self.member.take().expect(THERE), loss);
    }
}

impl<L: Line> Drop for Busy<'_, L> {
    fn drop(&mut self) {
        if let Some(member) = self.member.take() {
            self.slots.lose(&member, &Loss::Abandoned);
        }
    }
}

/// The permission to start a worker. If it is dropped, another task has it.
pub(crate) struct Starting<'s, L: Line> {
    slots: &'s Slots<L>,
    is_over: bool,
}

impl<'s, L: Line> Starting<'s, L> {
    /// The worker runs, and is the caller's. An error if the pool has ended meanwhile.
    pub(crate) fn started(mut self, member: Member<L>) -> Result<Busy<'s, L>, TaskError> {
        let mut state = self.slots.lock();
        if let Some(end) = &state.end {
            let error = end.error();
            drop(state);
            member.kill();
            return Err(error);
        }
        self.is_over = true;
        state.restarts += 1;
        let member = Arc::new(member);
        state.members.push(member.clone());
        drop(state);
        Ok(Busy { slots: self.slots, member: Some(member) })
    }

    /// The worker could not be started.
    pub(crate) fn failed(mut self, error: &SpawnError) {
        self.is_over = true;
        let limit = self.slots.limits.restarts;
        self.slots.change(|state| {
            state.busy -= 1;
            state.vacant += 1;
            state.pause();
            state.count_failed_start(limit, &error.to_string());
        });
    }
}

impl<L: Line> Drop for Starting<'_, L> {
    fn drop(&mut self) {
        if !self.is_over {
            self.slots.change(|state| {
                state.busy -= 1;
                state.vacant += 1;
            });
        }
    }
}

/// What happened to a worker that was found dead when a task came for it.
fn ended_idle((id, label): (u32, String), status: Option<ExitStatus>) -> String {
    let status = status.map_or_else(String::new, |status| format!(": {status}"));
    format!("{} ended before it was given a task{status}", worker(id, &label))
}

const THERE: &str = "taken by calls only that consume it";
/// How long the second restart in a row is delayed; each further one twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    struct NoLine;

    impl Line for NoLine {
        fn close(&self) {}

        fn has_read_nothing(&self) -> bool {
            false
        }

        fn has_other_types(&self) -> bool {
            false
        }
    }

    /// As in a forked child, if another thread had the lock at the moment of the fork.
    #[test]
    fn a_copy_whose_lock_is_held_forever_can_be_dropped() {
        let limits =
            Limits { workers: 1, queue: 1, attempts: 1, attempt: Duration::MAX, restarts: 1 };
        let slots: Slots<NoLine> = Slots::new(limits, Vec::new());
        mem::forget(slots.lock());
        drop(slots);
    }
}
