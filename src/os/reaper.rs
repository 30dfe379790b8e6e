//! Closing what others made, away from the caller.
//!
//! The last close of a descriptor can take as long as its maker likes: a TCP socket lingers, a file
//! of a FUSE daemon asks the daemon, a Unix socket closes what waits in its queue. So a descriptor
//! that came from outside is wrapped in [`Foreign`] from the moment it arrives until the program
//! takes it. What surely closes at once is closed by the caller. Everything else goes to one thread
//! of this process, which does nothing else, is started when it is first needed, and ends when it
//! has had nothing to do for a while.
//!
//! The caller closes after all where there is no such thread: where the kernel refuses to start
//! one, in a child of a bare `fork`, and when [`MOST_WAITING`] jobs wait.

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

/// A descriptor that another process may have made. Dropping it holds up nobody.
#[derive(Debug)]
pub(crate) struct Foreign {
    /// `None` only while it is dropped.
    descriptor: Option<OwnedFd>,
    account: Option<Arc<Account>>,
}

/// How many descriptors of one port wait to be closed: a port that fills the queue is not served
/// until the thread has caught up.
#[derive(Debug, Default)]
pub(crate) struct Account {
    waiting: AtomicUsize,
    /// There was no room: there is none until few are waiting.
    is_full: AtomicBool,
    /// The port's socket is to be drained, and the thread has not begun with it.
    is_drained_soon: AtomicBool,
}

impl Foreign {
    /// One that counts for nobody, or for the port that it came through.
    pub(crate) fn new(descriptor: OwnedFd, account: Option<Arc<Account>>) -> Foreign {
        Foreign { descriptor: Some(descriptor), account }
    }

    /// The descriptor, which its new owner closes.
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
            hand_over(Job { descriptor, task: Task::Close, account: self.account.take() });
        }
    }
}

/// Closes many descriptors. Which of them would be closed at once is not asked: the question costs
/// more than the hand-over.
pub(crate) fn close_all(descriptors: impl Iterator<Item = Foreign>) {
    let job = |mut foreign: Foreign| {
        let descriptor = foreign.descriptor.take()?;
        Some(Job { descriptor, task: Task::Close, account: foreign.account.take() })
    };
    hand_over_all(descriptors.filter_map(job).collect());
}

impl Account {
    /// Whether more may be received through the port. If not, [`wait_for_progress`] waits.
    pub(crate) fn has_room(&self) -> bool {
        // Relaxed, all: a bound, not a lock; who reads an old number receives one packet more or
        // less.
        let is_full = self.is_full.load(Ordering::Relaxed);
        let bound = if is_full { MOST_OF_ONE / 4 } else { MOST_OF_ONE };
        let has_room = self.waiting.load(Ordering::Relaxed) < bound
            && is_within(2 * WAITING.load(Ordering::Relaxed));
        if is_full == has_room {
            self.is_full.store(!has_room, Ordering::Relaxed);
        }
        has_room
    }

    /// Whether what waits at the port's socket now is drained without a further job.
    pub(crate) fn is_drained_soon(&self) -> bool {
        // Relaxed: who reads an old `true` leaves a packet to the next job, or to the socket's end.
        self.is_drained_soon.load(Ordering::Relaxed)
    }
}

/// Closes a descriptor in the thread.
pub(crate) fn close_later(descriptor: OwnedFd) {
    hand_over(Job { descriptor, task: Task::Close, account: None });
}

/// Takes out everything that waits at a port's socket in the thread, and closes it there. The
/// kernel does both in one call: no descriptor gets a number in this process, so that closing it
/// releases no `fcntl` lock of the process.
pub(crate) fn drain_later(socket: OwnedFd, account: &Arc<Account>) {
    // Relaxed: see `is_drained_soon`.
    account.is_drained_soon.store(true, Ordering::Relaxed);
    hand_over(Job { descriptor: socket, task: Task::Drain, account: Some(account.clone()) });
}

/// Waits until the thread has closed something, at most for `timeout`.
pub(crate) fn wait_for_progress(timeout: Duration) {
    if is_forked() {
        return;
    }
    let mut queue = lock();
    // Relaxed: what is counted now is done later, and the thread takes the lock after that.
    if WAITING.load(Ordering::Relaxed) == 0 {
        return;
    }
    queue.onlookers += 1;
    let (mut queue, _) =
        PROGRESS.wait_timeout(queue, timeout).unwrap_or_else(PoisonError::into_inner);
    queue.onlookers -= 1;
}

/// Waits a moment until the port of an account may receive again, if the thread makes progress.
/// Says whether it may.
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

/// Wakes a task once its port may receive again, as the thread has closed enough.
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
    } else if !queue.wakers.iter().any(|(_, known)| known.will_wake(waker)) {
        queue.wakers.push((account.clone(), waker.clone()));
    }
}

struct Job {
    descriptor: OwnedFd,
    task: Task,
    account: Option<Arc<Account>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Task {
    Close,
    Drain,
}

impl Job {
    fn run(self) {
        if self.task == Task::Drain {
            if let Some(account) = &self.account {
                // Relaxed: see `is_drained_soon`. First the word, so that what comes from now on
                // has a job of its own.
                account.is_drained_soon.store(false, Ordering::Relaxed);
            }
            socket::discard_packets(self.descriptor.as_fd());
        }
        drop(self.descriptor);
    }
}

struct Queue {
    jobs: VecDeque<Job>,
    is_running: bool,
    /// The thread waits for a job.
    is_idle: bool,
    /// When the thread began with the job that it does, if it does one.
    began: Option<Instant>,
    /// Threads that wait for progress.
    onlookers: u32,
    /// Tasks that wait for room, each with its port's account.
    wakers: Vec<(Arc<Account>, Waker)>,
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
/// Jobs that are not done.
static WAITING: AtomicUsize = AtomicUsize::new(0);
/// The process that the thread is of; 0 before the first job.
static OWNER: AtomicU32 = AtomicU32::new(0);

fn lock() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this process is a copy of one that has used the queue: the copy has no thread, and the
/// lock may have been held when it was made.
fn is_forked() -> bool {
    let this = process::id();
    // Relaxed: it is written once, before this process first takes the lock, and a copy of the
    // process has what was written.
    match OWNER.compare_exchange(0, this, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => false,
        Err(owner) => owner != this,
    }
}

/// Gives a job to the thread, or does it here where that cannot be.
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

/// Starts the thread, which runs no handler of a signal of the program's.
fn start(queue: &mut Queue) -> bool {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let started =
        thread::Builder::new().name(THREAD_NAME.into()).stack_size(STACK).spawn(work).is_ok();
    if let Ok(before) = before {
        // It was in force a moment ago.
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
    let wakers: Vec<_> =
        queue.wakers.extract_if(.., |(account, _)| is_done || account.has_room()).collect();
    drop(queue);
    // A waker runs code of the executor's, which may panic: the others are woken all the same.
    for (_, waker) in wakers {
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}

/// The next job. `None` if there was none for so long that the thread ends.
fn next() -> Option<Job> {
    let mut queue = lock();
    queue.began = None;
    loop {
        if let Some(job) = queue.jobs.pop_front() {
            queue.began = Some(Instant::now());
            return Some(job);
        }
        queue.is_idle = true;
        let (woken, waited) =
            NEWS.wait_timeout(queue, PATIENCE).unwrap_or_else(PoisonError::into_inner);
        queue = woken;
        queue.is_idle = false;
        if waited.timed_out() && queue.jobs.is_empty() {
            queue.is_running = false;
            return None;
        }
    }
}

/// Whether one job more may wait beside `waiting` others: as many may as a quarter of the
/// descriptors that this process can have. A system call only where it is not clear.
fn is_within(waiting: usize) -> bool {
    let limit = || getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    waiting < LEAST_BOUND || (waiting < MOST_WAITING && (waiting as u64) < limit() / 4)
}

/// Jobs that wait, at the most.
const MOST_WAITING: usize = 1 << 10;
const LEAST_BOUND: usize = 16;
/// Descriptors of one port that wait before it is not served any more.
const MOST_OF_ONE: usize = 256;
/// How long the thread waits for a job before it ends.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a caller waits for the thread, and how long a job takes before the thread counts as
/// stuck.
const MOMENT: Duration = Duration::from_millis(20);
const THREAD_NAME: &str = "port-reaper";
/// Bytes: it makes system calls, and little else.
const STACK: usize = 128 << 10;

#[cfg(test)]
mod tests {
    use super::*;

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
