//! A thread that closes descriptors of other processes, so that no caller waits for a close.
//!
//! The process that made a descriptor can make its last close take arbitrarily long: a TCP socket
//! lingers, a FUSE file asks its daemon, a Unix socket closes the descriptors in its queue. So each
//! received descriptor is wrapped in [`Foreign`] until the program takes it. If a close is known to
//! be quick, the caller makes it. All other descriptors go to one thread of this process, which
//! only closes them. It starts when it is first needed, and ends after some idle time.
//!
//! The caller closes a descriptor itself if it cannot use the thread: if the kernel refuses to
//! start one, in a child of a bare `fork`, and while [`MOST_WAITING`] jobs are queued.

use crate::os::{memfd, socket};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, SigmaskHow};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

/// A descriptor that another process may have made. Dropping it never waits for the close.
#[derive(Debug)]
pub(crate) struct Foreign {
    /// `None` only while it is dropped.
    descriptor: Option<OwnedFd>,
    account: Option<Arc<Account>>,
}

/// Counts the descriptors of one port that are queued to be closed. A port with too many of them
/// receives no more until the thread has caught up.
#[derive(Debug, Default)]
pub(crate) struct Account {
    waiting: AtomicUsize,
    /// There was no room: there is none until few are waiting.
    is_full: AtomicBool,
    /// A job to drain the port's socket is queued, and the thread has not started it.
    is_drained_soon: AtomicBool,
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
    pub(crate) fn has_room(&self) -> bool {
        // Relaxed, all: a bound, not a lock. An old value only admits or delays one packet.
        let is_full = self.is_full.load(Ordering::Relaxed);
        let bound = if is_full { MOST_OF_ONE / 4 } else { MOST_OF_ONE };
        let waiting = self.waiting.load(Ordering::Relaxed);
        // What other ports have filled keeps none from its next message that has nothing waiting.
        let has_room =
            waiting < bound && (waiting == 0 || is_within(2 * WAITING.load(Ordering::Relaxed)));
        if is_full == has_room {
            self.is_full.store(!has_room, Ordering::Relaxed);
        }
        has_room
    }

    /// Whether a queued job will drain what is in the port's socket now.
    pub(crate) fn is_drained_soon(&self) -> bool {
        // Relaxed: after an old `true` the packet stays until the next job, or until the socket is
        // closed.
        self.is_drained_soon.load(Ordering::Relaxed)
    }
}

/// Has the thread close a descriptor.
pub(crate) fn close_later(descriptor: OwnedFd) {
    hand_over(Job { task: Task::Close(descriptor), account: None });
}

/// Frees memory in the thread, or in the caller if the thread already has memory to free. This
/// bounds the memory that waits for a close that takes long.
pub(crate) fn free_later(memory: Box<dyn Send>) {
    // Relaxed: a bound; nothing is published by it.
    if !IS_FREEING.swap(true, Ordering::Relaxed) {
        hand_over(Job { task: Task::Free(memory), account: None });
    }
}

/// Has the thread discard all packets that are in a port's socket. The kernel closes their
/// descriptors in the same call. They never get a number in this process, so that closing them
/// releases no `fcntl` lock of the process.
pub(crate) fn drain_later(socket: OwnedFd, account: &Arc<Account>) {
    // Relaxed: see `is_drained_soon`.
    account.is_drained_soon.store(true, Ordering::Relaxed);
    hand_over(Job { task: Task::Drain(socket), account: Some(account.clone()) });
}

/// Waits until the thread has finished a job, at most for `timeout`.
pub(crate) fn wait_for_progress(timeout: Duration) {
    if is_forked() {
        return;
    }
    let mut queue = lock();
    // Relaxed: the thread takes the lock after each job that is counted here, and notifies then.
    if WAITING.load(Ordering::Relaxed) == 0 {
        return;
    }
    queue.onlookers += 1;
    let (mut queue, _) =
        PROGRESS.wait_timeout(queue, timeout).unwrap_or_else(PoisonError::into_inner);
    queue.onlookers -= 1;
}

/// Waits up to [`MOMENT`] until the account has room, while the thread makes progress. Returns
/// whether it has room.
pub(crate) fn wait_for_room(account: &Account) -> bool {
    if is_forked() {
        return account.has_room();
    }
    let deadline = Instant::now() + MOMENT;
    loop {
        let queue = lock();
        let is_stuck = queue.began.is_some_and(|began| began.elapsed() >= MOMENT);
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
    // Relaxed: as above.
    if WAITING.load(Ordering::Relaxed) == 0 {
        drop(queue);
        waker.wake_by_ref();
    } else if !queue
        .wakers
        .iter()
        .any(|(_, of, known)| Arc::ptr_eq(of, account) && known.will_wake(waker))
    {
        queue.wakers.push((Instant::now() + PAUSE, account.clone(), waker.clone()));
    }
}

struct Job {
    task: Task,
    account: Option<Arc<Account>>,
}

enum Task {
    Close(OwnedFd),
    Drain(OwnedFd),
    Free(Box<dyn Send>),
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
            Task::Free(memory) => {
                drop(memory);
                // Relaxed: see `free_later`.
                IS_FREEING.store(false, Ordering::Relaxed);
            }
        }
    }
}

struct Queue {
    jobs: VecDeque<Job>,
    is_running: bool,
    /// The thread is waiting for a job.
    is_idle: bool,
    /// When the thread started its present job, if it has one.
    began: Option<Instant>,
    /// Threads that wait for progress.
    onlookers: u32,
    /// Tasks that wait for room: when each may be woken, its port's account.
    wakers: Vec<(Instant, Arc<Account>, Waker)>,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    jobs: VecDeque::new(),
    is_running: false,
    is_idle: false,
    began: None,
    onlookers: 0,
    wakers: Vec::new(),
});
static NEWS: Condvar = Condvar::new();
static PROGRESS: Condvar = Condvar::new();
/// Whether a job is about memory.
static IS_FREEING: AtomicBool = AtomicBool::new(false);
/// Jobs that are not finished.
static WAITING: AtomicUsize = AtomicUsize::new(0);
/// The process that owns the thread; 0 before the first job.
static OWNER: AtomicU32 = AtomicU32::new(0);

fn lock() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this process was forked from one that has used the queue. It then has no such thread,
/// and the lock may have been held at the time of the fork.
fn is_forked() -> bool {
    let this = process::id();
    // Relaxed: it is written once, before this process first takes the lock, and a forked process
    // inherits the value.
    match OWNER.compare_exchange(0, this, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => false,
        Err(owner) => owner != this,
    }
}

/// Queues a job for the thread, or runs it here if the thread cannot take it.
fn hand_over(job: Job) {
    hand_over_all(vec![job]);
}

/// Gives jobs to the thread under one lock, or does them here where that cannot be.
fn hand_over_all(jobs: Vec<Job>) {
    if is_forked() {
        return jobs.into_iter().for_each(Job::run);
    }
    let mut queue = lock();
    if !is_within(queue.jobs.len()) || (!queue.is_running && !start(&mut queue)) {
        drop(queue);
        return jobs.into_iter().for_each(Job::run);
    }
    // Relaxed, both: see `has_room`.
    WAITING.fetch_add(jobs.len(), Ordering::Relaxed);
    for account in jobs.iter().filter_map(|job| job.account.as_ref()) {
        account.waiting.fetch_add(1, Ordering::Relaxed);
    }
    queue.jobs.extend(jobs);
    if queue.is_idle {
        NEWS.notify_one();
    }
}

/// Starts the thread, with all signals blocked: it must not run the program's signal handlers.
fn start(queue: &mut Queue) -> bool {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let started =
        thread::Builder::new().name(THREAD_NAME.into()).stack_size(STACK).spawn(work).is_ok();
    if let Ok(before) = before {
        // Restores the mask of this thread.
        let _ = before.thread_set_mask();
    }
    queue.is_running = started;
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

/// Waits for the next job. `None` after [`PATIENCE`] without one: the thread then ends.
fn next() -> Option<Job> {
    let mut queue = lock();
    queue.began = None;
    loop {
        if let Some(job) = queue.jobs.pop_front() {
            queue.began = Some(Instant::now());
            return Some(job);
        }
        queue.is_idle = true;
        let due = queue.wakers.iter().map(|(due, ..)| *due).min();
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        let (woken, waited) = NEWS
            .wait_timeout(queue, left.unwrap_or(PATIENCE))
            .unwrap_or_else(PoisonError::into_inner);
        queue = woken;
        queue.is_idle = false;
        if waited.timed_out() && queue.jobs.is_empty() {
            if queue.wakers.is_empty() {
                queue.is_running = false;
                return None;
            }
            drop(queue);
            tell_progress();
            queue = lock();
        }
    }
}

/// Whether another job may be queued behind `waiting` others. The bound is a quarter of
/// `RLIMIT_NOFILE`, and [`MOST_WAITING`]. Asks the kernel only above [`LEAST_BOUND`].
fn is_within(waiting: usize) -> bool {
    let limit = || getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    waiting < LEAST_BOUND || (waiting < MOST_WAITING && (waiting as u64) < limit() / 4)
}

/// How long a port is left alone that brings descriptors faster than they are closed. It takes less
/// than a hundredth of the time then, so that the p99 of its neighbours does not see it.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);
/// The most jobs that can be queued.
const MOST_WAITING: usize = 1 << 10;
const LEAST_BOUND: usize = 16;
/// The most descriptors of one port that can be queued before it receives no more.
const MOST_OF_ONE: usize = 256;
/// How long the thread waits for a job before it ends.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a caller waits for the thread, and how long a job may take until the thread counts as
/// stuck.
const MOMENT: Duration = Duration::from_millis(20);
const THREAD_NAME: &str = "port-reaper";
/// The thread's stack in bytes. It makes little more than system calls.
const STACK: usize = 128 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Says when it is dropped, and by which thread; waits before that, if it has to.
    struct Memory(mpsc::Sender<thread::ThreadId>, Option<mpsc::Receiver<()>>);

    impl Drop for Memory {
        fn drop(&mut self) {
            if let Some(wait) = &self.1 {
                let _ = wait.recv();
            }
            let _ = self.0.send(thread::current().id());
        }
    }

    /// Otherwise a close that takes long would keep the memory of every message that comes.
    #[test]
    fn memory_is_freed_here_while_other_memory_waits_to_be_freed() {
        let (tell, told) = mpsc::channel();
        let (go_on, wait) = mpsc::channel();
        free_later(Box::new(Memory(tell.clone(), Some(wait))));
        free_later(Box::new(Memory(tell, None)));
        assert_eq!(told.recv().expect("it is freed"), thread::current().id());
        go_on.send(()).expect("the thread waits");
        assert_ne!(told.recv().expect("it is freed"), thread::current().id());
    }

    #[cfg(any(feature = "tokio", feature = "async-io"))]
    #[test]
    fn a_task_that_waits_for_two_ports_is_woken_for_each() {
        struct Task;
        impl std::task::Wake for Task {
            fn wake(self: Arc<Task>) {}
        }
        let waker = Waker::from(Arc::new(Task));
        let accounts = [(); 2].map(|()| Arc::new(Account::default()));
        WAITING.fetch_add(1, Ordering::Relaxed);
        // Twice, as a task asks at each of its polls.
        for account in accounts.iter().chain(&accounts) {
            wake_for_room(account, &waker);
        }
        WAITING.fetch_sub(1, Ordering::Relaxed);
        let is_ours = |of: &Arc<Account>| accounts.iter().any(|account| Arc::ptr_eq(account, of));
        let ours = lock().wakers.extract_if(.., |(_, of, _)| is_ours(of)).count();
        assert_eq!(ours, 2);
    }

    /// What other ports have filled.
    #[test]
    fn a_port_without_waiting_descriptors_has_room() {
        let (idle, busy) = (Account::default(), Account::default());
        busy.waiting.store(1, Ordering::Relaxed);
        WAITING.fetch_add(MOST_WAITING, Ordering::Relaxed);
        let has_room = [idle.has_room(), busy.has_room()];
        WAITING.fetch_sub(MOST_WAITING, Ordering::Relaxed);
        assert_eq!(has_room, [true, false]);
    }

    /// One descriptor that is closed is no reason to receive sixty-four more.
    #[test]
    fn a_port_that_was_full_has_no_room_until_few_of_its_descriptors_wait() {
        let account = Account::default();
        for (waiting, has_room) in [
            (MOST_OF_ONE - 1, true),
            (MOST_OF_ONE, false),
            (MOST_OF_ONE / 4, false),
            (MOST_OF_ONE / 4 - 1, true),
            (MOST_OF_ONE - 1, true),
        ] {
            account.waiting.store(waiting, Ordering::Relaxed);
            assert_eq!(account.has_room(), has_room, "{waiting} are waiting");
        }
    }
}
