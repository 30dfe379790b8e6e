//! Threads that close descriptors of other processes, so that no caller waits for a close.
//!
//! The process that made a descriptor can make its last close take arbitrarily long: a TCP socket
//! lingers, a FUSE file asks its daemon, a Unix socket closes the descriptors in its queue. So each
//! received descriptor is wrapped in [`Foreign`] until the program takes it. If a close is known to
//! be quick, the caller makes it. All other descriptors are queued for a thread of this process,
//! which only closes them. It starts when it is first needed, and ends after some idle time.
//!
//! A job that takes longer than a [`MOMENT`] is *slow*. One thread works at a time, apart from
//! those with slow jobs. A spare thread waits until the worker's job is slow, and then goes on with
//! the queue. Jobs of one account run one after the other, so one hostile port occupies one thread.
//! There are at most [`MOST_THREADS`].
//!
//! The queue itself has no bound: each job owns a descriptor, so `RLIMIT_NOFILE` bounds it. What
//! other processes can put into it is bounded where descriptors are received, see
//! [`Account::has_room`]. The caller closes a descriptor itself only if the kernel refuses to start
//! the first thread, and in a child of a bare `fork`.

#[cfg(test)]
mod tests;

use crate::os::{clock, memfd, socket};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, SigmaskHow};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// A descriptor that another process may have made. Dropping it never waits for the close.
#[derive(Debug)]
pub(crate) struct Foreign {
    /// `None` only while it is dropped.
    descriptor: Option<OwnedFd>,
    account: Option<Arc<Account>>,
}

/// Counts the descriptors of one port, or of one listening socket, that are queued to be closed. An
/// account with too many of them receives no more until they are closed.
#[derive(Debug, Default)]
pub(crate) struct Account {
    waiting: AtomicUsize,
    /// There was no room: there is none until few are waiting.
    is_full: AtomicBool,
    /// A job to drain the port's socket is queued, and no thread has started it.
    is_drained_soon: AtomicBool,
    /// Descriptors that were ever queued. It wraps.
    queued: AtomicUsize,
}

/// Bounds how fast a port brings descriptors that nothing takes: [`MOST_OF_ONE`] of them in a
/// [`PAUSE`]. However fast they are closed, receiving them takes the time of the other ports.
#[derive(Debug, Default)]
pub(crate) struct Share {
    /// When it began, by [`clock::coarse`].
    began: Duration,
    /// How many descriptors had been queued then.
    queued: usize,
}

impl Share {
    /// Whether the port has had its share of the present pause.
    pub(crate) fn is_used_up(&mut self, account: &Account) -> bool {
        // Relaxed: a bound, see `has_room`.
        let queued = account.queued.load(Ordering::Relaxed);
        if queued.wrapping_sub(self.queued) < MOST_OF_ONE {
            return false;
        }
        let now = clock::coarse();
        if now.saturating_sub(self.began) < PAUSE {
            return true;
        }
        *self = Share { began: now, queued };
        false
    }
}

impl Foreign {
    /// Wraps a descriptor. With an account it counts for the port that it came through.
    pub(crate) fn new(descriptor: OwnedFd, account: Option<Arc<Account>>) -> Foreign {
        Foreign { descriptor: Some(descriptor), account }
    }

    /// Unwraps the descriptor. Its new owner closes it.
    pub(crate) fn into_owned(mut self) -> OwnedFd {
        self.descriptor.take().expect("taken once, with the value")
    }
}

impl AsFd for Foreign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_ref().expect("there until it is dropped").as_fd()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(descriptor) = self.descriptor.take()
            && !memfd::is_small(&descriptor)
        {
            hand_over(Job { task: Task::Close(descriptor), account: self.account.take() });
        }
    }
}

/// Closes many descriptors. Which of them would be closed at once is not asked: the question costs
/// more than the hand-over.
pub(crate) fn close_all(descriptors: impl Iterator<Item = Foreign>) {
    let job = |mut foreign: Foreign| {
        let descriptor = foreign.descriptor.take()?;
        Some(Job { task: Task::Close(descriptor), account: foreign.account.take() })
    };
    hand_over_all(descriptors.filter_map(job).collect());
}

impl Account {
    /// Whether the port may receive more descriptors. If not, [`wait_for_progress`] waits.
    ///
    /// A port of which nothing is queued has room for one message more, whatever other ports have
    /// queued, until that is half of the process's descriptors.
    pub(crate) fn has_room(&self) -> bool {
        // Relaxed, all: a bound, not a lock. An old value only admits or delays one packet.
        let is_full = self.is_full.load(Ordering::Relaxed);
        let bound = if is_full { MOST_OF_ONE / 4 } else { MOST_OF_ONE };
        let waiting = self.waiting.load(Ordering::Relaxed);
        let all = WAITING.load(Ordering::Relaxed);
        let has_room = waiting < bound && may_receive(waiting, all, most_descriptors);
        if is_full == has_room {
            self.is_full.store(!has_room, Ordering::Relaxed);
        }
        has_room
    }

    /// How many descriptors were ever queued for it.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Whether a queued job will drain what is in the port's socket now.
    pub(crate) fn is_drained_soon(&self) -> bool {
        // Relaxed: after an old `true` the packet stays until the next job, or until the socket is
        // closed.
        self.is_drained_soon.load(Ordering::Relaxed)
    }
}

/// Has a thread close a descriptor.
pub(crate) fn close_later(descriptor: OwnedFd, account: Option<Arc<Account>>) {
    hand_over(Job { task: Task::Close(descriptor), account });
}

/// Frees memory in a thread, or in the caller if a thread already has memory to free. This
/// bounds the memory that waits for a close that takes long.
pub(crate) fn free_later(memory: Box<dyn Send>) {
    free_one_at_a_time(memory, &IS_FREEING);
}

/// Has a thread run a job that may take long. One thread is busy with it.
pub(crate) fn run_later(job: Box<dyn FnOnce() + Send>) {
    hand_over(Job { task: Task::Run(job), account: None });
}

fn free_one_at_a_time(memory: Box<dyn Send>, is_freeing: &'static AtomicBool) {
    // Relaxed: a bound; nothing is published by it.
    if !is_freeing.swap(true, Ordering::Relaxed) {
        hand_over(Job { task: Task::Free(memory, is_freeing), account: None });
    }
}

/// Has a thread discard all packets that are in a port's socket. The kernel closes their
/// descriptors in the same call. They never get a number in this process, so that closing them
/// releases no `fcntl` lock of the process.
pub(crate) fn drain_later(socket: OwnedFd, account: &Arc<Account>) {
    // Relaxed: see `is_drained_soon`.
    account.is_drained_soon.store(true, Ordering::Relaxed);
    hand_over(Job { task: Task::Drain(socket), account: Some(account.clone()) });
}

/// Waits until a thread has finished a job, at most for `timeout`.
pub(crate) fn wait_for_progress(timeout: Duration) {
    if is_forked() {
        return;
    }
    let mut queue = lock();
    // Relaxed: a thread takes the lock after each job that is counted here, and notifies then.
    if WAITING.load(Ordering::Relaxed) == 0 {
        return;
    }
    queue.onlookers += 1;
    let (mut queue, _) =
        PROGRESS.wait_timeout(queue, timeout).unwrap_or_else(PoisonError::into_inner);
    queue.onlookers -= 1;
}

/// Waits up to [`MOMENT`] until the account has room, unless its jobs wait for a slow one. Returns
/// whether it has room.
pub(crate) fn wait_for_room(account: &Account) -> bool {
    if is_forked() {
        return account.has_room();
    }
    let deadline = Instant::now() + MOMENT;
    loop {
        let queue = lock();
        let is_stuck = queue.is_stuck_for(account);
        let left = deadline.saturating_duration_since(Instant::now());
        if account.has_room() || is_stuck || left.is_zero() {
            return account.has_room();
        }
        drop(queue);
        wait_for_progress(left);
    }
}

/// Wakes a task once its port has room for more descriptors, after a [`PAUSE`] at the earliest.
#[cfg(any(feature = "tokio", feature = "async-io"))]
pub(crate) fn wake_for_room(account: &Arc<Account>, waker: &Waker) {
    if is_forked() {
        return waker.wake_by_ref();
    }
    let mut queue = lock();
    // The pause needs a thread, even if nothing waits to be closed.
    queue.keep_one_idle();
    if queue.threads == 0 {
        drop(queue);
        return waker.wake_by_ref();
    }
    let is_known = |(_, of, known): &(Instant, Arc<Account>, Waker)| {
        Arc::ptr_eq(of, account) && known.will_wake(waker)
    };
    if !queue.wakers.iter().any(is_known) {
        queue.wakers.push((Instant::now() + PAUSE, account.clone(), waker.clone()));
        queue.notify();
    }
}

struct Job {
    task: Task,
    account: Option<Arc<Account>>,
}

enum Task {
    Close(OwnedFd),
    Drain(OwnedFd),
    Free(Box<dyn Send>, &'static AtomicBool),
    Run(Box<dyn FnOnce() + Send>),
}

impl Job {
    fn run(self) {
        match self.task {
            Task::Close(descriptor) => drop(descriptor),
            Task::Drain(socket) => {
                if let Some(account) = &self.account {
                    // Relaxed: see `is_drained_soon`. First the word, so that what comes from now
                    // on has a job of its own.
                    account.is_drained_soon.store(false, Ordering::Relaxed);
                }
                socket::discard_packets(socket.as_fd());
            }
            Task::Free(memory, is_freeing) => {
                drop(memory);
                // Relaxed: see `free_one_at_a_time`.
                is_freeing.store(false, Ordering::Relaxed);
            }
            Task::Run(job) => job(),
        }
    }
}

struct Queue {
    jobs: VecDeque<Job>,
    /// Threads that were started, and have not ended.
    threads: usize,
    /// What the threads work on.
    running: Vec<Running>,
    /// Idle threads that look again when the running jobs have become slow.
    watchers: usize,
    /// An idle thread was notified, and no thread has looked at the queue since.
    is_notified: bool,
    /// Threads that wait for progress.
    onlookers: u32,
    /// Tasks that wait for room: when each may be woken, its port's account.
    wakers: Vec<(Instant, Arc<Account>, Waker)>,
}

/// A job that a thread has taken.
struct Running {
    thread: ThreadId,
    began: Instant,
    account: Option<Arc<Account>>,
}

impl Running {
    /// How long until the job is slow.
    fn until_slow(&self) -> Duration {
        MOMENT.saturating_sub(self.began.elapsed())
    }

    fn is_of(&self, account: &Account) -> bool {
        self.account.as_ref().is_some_and(|of| ptr::eq(&raw const **of, account))
    }
}

impl Queue {
    /// Threads without a job.
    fn idle(&self) -> usize {
        self.threads - self.running.len()
    }

    /// How long until all running jobs are slow: then another thread may start one.
    fn until_slow(&self) -> Duration {
        self.running.iter().map(Running::until_slow).max().unwrap_or_default()
    }

    /// The first job of an account of which none is running.
    fn first_job(&self) -> Option<usize> {
        let is_running = |of: &Arc<Account>| self.running.iter().any(|running| running.is_of(of));
        self.jobs.iter().position(|job| !job.account.as_ref().is_some_and(is_running))
    }

    /// Whether jobs of this account make no progress at the moment.
    fn is_stuck_for(&self, account: &Account) -> bool {
        let is_slow = |running: &Running| running.until_slow().is_zero();
        let own = self.running.iter().find(|running| running.is_of(account));
        own.is_some_and(is_slow) || (self.idle() == 0 && self.running.iter().all(is_slow))
    }

    /// Starts a thread if none is idle. If the kernel refuses, the next job tries again.
    fn keep_one_idle(&mut self) {
        if self.idle() == 0 && self.threads < MOST_THREADS && start() {
            self.threads += 1;
        }
    }

    /// Notifies an idle thread of a new job, unless one will look at the queue anyway.
    fn notify(&mut self) {
        let is_watched = self.watchers > 0 && !self.until_slow().is_zero();
        if self.idle() > 0 && !self.is_notified && !is_watched {
            self.is_notified = true;
            NEWS.notify_one();
        }
    }
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    jobs: VecDeque::new(),
    threads: 0,
    running: Vec::new(),
    watchers: 0,
    is_notified: false,
    onlookers: 0,
    wakers: Vec::new(),
});
static NEWS: Condvar = Condvar::new();
static PROGRESS: Condvar = Condvar::new();
/// Whether a job is about memory.
static IS_FREEING: AtomicBool = AtomicBool::new(false);
/// Jobs that are not finished.
static WAITING: AtomicUsize = AtomicUsize::new(0);
/// The process that owns the threads; 0 before the first job.
static OWNER: AtomicU32 = AtomicU32::new(0);

type Queued = MutexGuard<'static, Queue>;

fn lock() -> Queued {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this process was forked from one that has used the queue. It then has no such threads,
/// and the lock may have been held at the time of the fork.
pub(crate) fn is_forked() -> bool {
    let this = process::id();
    // Relaxed: it is written once, before this process first takes the lock, and a forked process
    // inherits the value.
    match OWNER.compare_exchange(0, this, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => false,
        Err(owner) => owner != this,
    }
}

/// Queues a job for a thread, or runs it here if there is none.
fn hand_over(job: Job) {
    hand_over_all(vec![job]);
}

/// Queues jobs under one lock, or runs them here if there is no thread.
fn hand_over_all(jobs: Vec<Job>) {
    if is_forked() {
        return jobs.into_iter().for_each(Job::run);
    }
    let mut queue = lock();
    let idle = queue.idle();
    queue.keep_one_idle();
    if queue.threads == 0 {
        drop(queue);
        return jobs.into_iter().for_each(Job::run);
    }
    // Relaxed, both: see `has_room`.
    WAITING.fetch_add(jobs.len(), Ordering::Relaxed);
    for account in jobs.iter().filter_map(|job| job.account.as_ref()) {
        account.waiting.fetch_add(1, Ordering::Relaxed);
        account.queued.fetch_add(1, Ordering::Relaxed);
    }
    queue.jobs.extend(jobs);
    // A thread that was just started looks by itself.
    if idle > 0 {
        queue.notify();
    }
}

/// Starts a thread, with all signals blocked: it must not run the program's signal handlers.
fn start() -> bool {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let started =
        thread::Builder::new().name(THREAD_NAME.into()).stack_size(STACK).spawn(work).is_ok();
    if let Ok(before) = before {
        // Restores the mask of this thread.
        let _ = before.thread_set_mask();
    }
    started
}

fn work() {
    while let Some(job) = next() {
        let account = job.account.clone();
        job.run();
        // Relaxed: see `has_room`.
        WAITING.fetch_sub(1, Ordering::Relaxed);
        if let Some(account) = account {
            account.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        tell_progress();
    }
}

fn tell_progress() {
    let mut queue = lock();
    if queue.onlookers > 0 {
        PROGRESS.notify_all();
    }
    if queue.wakers.is_empty() {
        return;
    }
    // Relaxed: this thread counted it.
    let is_done = WAITING.load(Ordering::Relaxed) == 0;
    let now = Instant::now();
    let may_go = |(due, account, _): &mut (Instant, Arc<Account>, Waker)| {
        *due <= now && (is_done || account.has_room())
    };
    let wakers: Vec<_> = queue.wakers.extract_if(.., may_go).collect();
    drop(queue);
    // A waker runs code of the executor, which may panic. The other tasks must still be woken.
    for (.., waker) in wakers {
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}

/// Ends this thread's job, and waits for the next one. `None` if the thread is to end: after
/// [`PATIENCE`] without a job, or at once if others are idle.
fn next() -> Option<Job> {
    let mut queue = lock();
    let thread = thread::current().id();
    queue.running.retain(|running| running.thread != thread);
    loop {
        let first = queue.first_job();
        let until_slow = queue.until_slow();
        if let Some(index) = first
            && until_slow.is_zero()
            && let Some(job) = queue.jobs.remove(index)
        {
            let (began, account) = (Instant::now(), job.account.clone());
            queue.running.push(Running { thread, began, account });
            if !queue.jobs.is_empty() {
                queue.keep_one_idle();
            }
            return Some(job);
        }
        let is_over;
        // A worker and a spare suffice.
        if first.is_none() && queue.idle() > 2 && queue.wakers.is_empty() {
            queue.threads -= 1;
            return None;
        }
        (queue, is_over) = wait(queue, first.map(|_| until_slow));
        if is_over {
            queue.threads -= 1;
            return None;
        }
        if !queue.wakers.is_empty() {
            drop(queue);
            tell_progress();
            queue = lock();
        }
    }
}

/// Waits for a change, until the running jobs are slow if a job waits for that, and until the next
/// task may be woken. Returns whether there was nothing to do for [`PATIENCE`].
fn wait(mut queue: Queued, until_slow: Option<Duration>) -> (Queued, bool) {
    let now = Instant::now();
    // A task that is due and has no room is looked at after each job, and now and then.
    let left =
        |due: Instant| Some(due.saturating_duration_since(now)).filter(|left| !left.is_zero());
    let due = queue.wakers.iter().map(|(due, ..)| left(*due).unwrap_or(MOMENT)).min();
    let longest = until_slow.into_iter().chain(due).min().unwrap_or(PATIENCE);
    let watches = usize::from(until_slow.is_some());
    queue.watchers += watches;
    queue.is_notified = false;
    let (mut queue, waited) =
        NEWS.wait_timeout(queue, longest).unwrap_or_else(PoisonError::into_inner);
    queue.watchers -= watches;
    queue.is_notified = false;
    let has_nothing = queue.first_job().is_none() && queue.wakers.is_empty();
    let is_over = waited.timed_out() && longest == PATIENCE && has_nothing;
    (queue, is_over)
}

/// Whether a port of which `own` jobs are queued may receive more while there are `all` jobs, in a
/// process that may have `most` descriptors.
fn may_receive(own: usize, all: usize, most: impl Fn() -> u64) -> bool {
    all < LEAST_BOUND
        || (all < MOST_WAITING && (all as u64) < most() / 8)
        || (own == 0 && (all as u64) < most() / 2)
}

fn most_descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)
}

/// How long a port is left alone that brings descriptors faster than they are closed. It takes less
/// than a hundredth of the time then, so that the p99 of its neighbours does not see it.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);
/// The most jobs behind which ports with jobs receive more; and if a process can have only few
/// descriptors.
const MOST_WAITING: usize = 512;
const LEAST_BOUND: usize = 8;
/// The most descriptors of one port that can be queued before it receives no more.
const MOST_OF_ONE: usize = 256;
/// How long a thread waits for a job before it ends.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a caller waits for the threads, and how long a job takes that is not slow.
const MOMENT: Duration = Duration::from_millis(20);
/// The most threads. Each of them can have a job that takes long.
const MOST_THREADS: usize = 8;
const THREAD_NAME: &str = "port-reaper";
/// A thread's stack in bytes. It makes little more than system calls.
const STACK: usize = 128 << 10;
