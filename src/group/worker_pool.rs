//! Several workers of one program, and tasks that any of them can do.

pub(crate) mod attempts;
pub(crate) mod builder;
pub(crate) mod member;
pub(crate) mod slots;

use crate::error::{SpawnError, TaskError};
use crate::front::requests::park::{park, with_waker};
use crate::group::worker_pool::attempts::{Attempts, STATUS, may_have_ended};
use crate::group::worker_pool::builder::WorkerPoolBuilder;
use crate::group::worker_pool::member::Member;
use crate::group::worker_pool::slots::{Busy, Loss, Place, Slots, Turn, WorkerPoolStats};
use crate::link::archive::Receive;
use crate::link::archive::pool::ReceiveOwned;
use crate::link::payload::Post;
use crate::meet::builder::WorkerBuilder;
use crate::meet::worker_process::{WorkerEnd, WorkerProcess};
use crate::os::clock::Deadline;
use crate::port::requests::requester::Requester;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Makes the command of one worker.
pub(crate) type Launch = Box<dyn Fn() -> WorkerBuilder + Send + Sync>;

/// Several worker processes of one program, which do tasks: each task is a request of type `Req`,
/// and its reply of type `Resp`.
///
/// Each worker is a [`Responder`](crate::Responder) at its [`parent_port`](crate::parent_port), and
/// has one task at a time. Any number of threads [`call`](Self::call) through one pool; while
/// all workers are busy, the tasks wait in order.
///
/// **A task can be done more than once**, so it must be idempotent: doing it twice has to have the
/// effect of doing it once. If a worker dies, drops the request, sends what is no reply, or does
/// not reply within the [time for an attempt](WorkerPoolBuilder::attempt_timeout), it is killed,
/// and the task is given to another worker. A task is given to at most
/// [as many workers as the builder says](WorkerPoolBuilder::attempts). Each task ends exactly once:
/// with its own reply, or with its own [`TaskError`].
///
/// A worker whose program has other types than the pool ends its task with the error that says so,
/// and is ended as well, so that the next task gets one that is started for it.
///
/// A worker that was lost is replaced when a task needs it. The first replacement starts at once;
/// while workers are lost and no task is answered, each further one is delayed by more, from 10 ms
/// up to 1 s. If too many [in a row](WorkerPoolBuilder::restart_limit) cannot be started, or end
/// before they receive a request, every task ends with [`TaskError::Broken`].
///
/// The pool has no thread. The thread that calls also starts the replacement that it needs, which
/// takes about a millisecond; a thread of the crate reaps what was killed. A task costs little more
/// than a call of a [`Requester`]: two locks, and a system call that asks whether the worker lives.
/// To have workers end with this process, use
/// [`end_with_parent`](WorkerBuilder::end_with_parent), and not `PR_SET_PDEATHSIG` in the command:
/// the kernel would end them with the thread that happened to start them.
///
/// Dropping the pool closes all ports, gives the workers 250 ms to exit, kills those that still
/// run, and reaps them, as dropping a [`Worker`](crate::Worker) does. Use
/// [`shutdown`](Self::shutdown) to choose the time. A copy of a pool in a forked child must not be
/// used; dropping it there does nothing.
///
/// ```no_run
/// use messageport::{WorkerPool, parent_port};
/// use std::process::Command;
///
/// if std::env::args().any(|argument| argument == "worker") {
///     let responder = parent_port()?.responder::<u64, u64>();
///     while let Ok(request) = responder.recv() {
///         request.reply(&(request.data().to_native() * 2))?;
///     }
///     return Ok(());
/// }
/// let program = std::env::current_exe()?;
/// let launch = move || {
///     let mut command = Command::new(&program);
///     command.arg("worker");
///     command
/// };
/// let pool: WorkerPool<u64, u64> = WorkerPool::builder(launch).workers(4).build()?;
/// std::thread::scope(|scope| {
///     for number in 0..8 {
///         let pool = &pool;
///         scope.spawn(move || println!("{number} twice: {:?}", pool.call(&number)));
///     }
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct WorkerPool<Req, Resp> {
    slots: Slots<Requester<Req, Resp>>,
    launch: Launch,
}

impl<Req, Resp> WorkerPool<Req, Resp> {
    /// Returns a builder of a pool. It calls `launch` for each worker that it starts, from any
    /// thread. `launch` returns a [`Command`](std::process::Command), or a [`WorkerBuilder`] with
    /// options.
    pub fn builder<B: Into<WorkerBuilder>>(
        launch: impl Fn() -> B + Send + Sync + 'static,
    ) -> WorkerPoolBuilder<Req, Resp> {
        WorkerPoolBuilder::new(launch)
    }

    /// Counters, and how many workers and tasks there are.
    pub fn stats(&self) -> WorkerPoolStats {
        self.slots.stats()
    }

    /// The process ids of the workers that run, for display.
    pub fn ids(&self) -> Vec<u32> {
        self.slots.ids()
    }

    /// Ends the pool: refuses new tasks and those that wait for a worker with
    /// [`TaskError::Closed`], closes the ports of the workers without a task, lets the others
    /// finish theirs, and waits until all workers have exited, at most for `timeout`. Then it kills
    /// those that still run, and reaps them. Returns how each worker ended that still ran.
    ///
    /// A task whose worker is killed ends with [`TaskError::Closed`] as well. A second call returns
    /// at once, without a worker.
    ///
    /// # Errors
    /// For each worker, as [`Worker::shutdown`](crate::Worker::shutdown).
    pub fn shutdown(&self, timeout: Duration) -> Vec<io::Result<WorkerEnd>> {
        let deadline = Deadline::after(timeout);
        self.slots.close();
        while !with_waker(|waker| self.slots.poll_quiet(waker)) && !deadline.is_over() {
            park(deadline);
        }
        WorkerProcess::shutdown_all(self.slots.take_all(), deadline.left_at_most(timeout))
    }
}

impl<Req: Post, Resp: Receive> WorkerPool<Req, Resp> {
    pub(crate) fn new(
        builder: WorkerPoolBuilder<Req, Resp>,
    ) -> Result<WorkerPool<Req, Resp>, SpawnError> {
        let WorkerPoolBuilder { launch, limits, .. } = builder;
        let members = (0..limits.workers).map(|_| start(&launch).map(Arc::new));
        let members = members.collect::<Result<_, _>>()?;
        Ok(WorkerPool { slots: Slots::new(limits, members), launch })
    }

    /// Waits for a worker, until the deadline.
    fn check_out(&self, deadline: Deadline) -> Result<Busy<'_, Requester<Req, Resp>>, TaskError> {
        let mut place = Place::new(&self.slots);
        loop {
            match with_waker(|waker| place.poll(waker))? {
                Turn::Worker(busy) if busy.member().has_died() => busy.lost(&Loss::Idle),
                Turn::Worker(busy) => return Ok(busy),
                Turn::Start(starting) => match start(&self.launch) {
                    Ok(member) => return starting.started(member),
                    Err(error) => starting.failed(&error),
                },
                Turn::Wait(_) if deadline.is_over() => return Err(TaskError::Timeout),
                Turn::Wait(until) => park(until.min(deadline)),
            }
        }
    }
}

impl<Req: Post, Resp: ReceiveOwned> WorkerPool<Req, Resp> {
    /// Has a worker do a task, and waits for its reply. Waits while all workers are busy.
    ///
    /// Without a limit of its own it ends all the same: each attempt has
    /// [its time](WorkerPoolBuilder::attempt_timeout), and there are
    /// [only so many](WorkerPoolBuilder::attempts).
    ///
    /// # Errors
    /// Any [`TaskError`] except `Timeout`.
    pub fn call(&self, request: &Req) -> Result<Resp, TaskError> {
        self.call_until(request, Deadline::NEVER)
    }

    /// The same, waiting at most for `timeout`, all attempts included. Then a worker that is at the
    /// task is ended, as nothing else is certain to stop it, and replaced.
    ///
    /// # Errors
    /// As [`call`](Self::call), and [`TaskError::Timeout`].
    pub fn call_timeout(&self, request: &Req, timeout: Duration) -> Result<Resp, TaskError> {
        self.call_until(request, Deadline::after(timeout))
    }

    /// The same, waiting until `deadline`.
    ///
    /// # Errors
    /// As [`call_timeout`](Self::call_timeout).
    pub fn call_deadline(&self, request: &Req, deadline: Instant) -> Result<Resp, TaskError> {
        self.call_until(request, Deadline::at(deadline))
    }

    fn call_until(&self, request: &Req, deadline: Deadline) -> Result<Resp, TaskError> {
        let mut attempts = Attempts::new(&self.slots, deadline);
        loop {
            let busy = self.check_out(deadline)?;
            let until = attempts.begin();
            let member = busy.member();
            let outcome = member.line.call_while(request, until, &|| !member.has_died());
            if may_have_ended(&outcome) {
                member.wait_for_end(deadline.left_at_most(STATUS));
            }
            if let Some(end) = attempts.end(busy, outcome) {
                return end;
            }
        }
    }
}

fn start<Req: Post, Resp: Receive>(
    launch: &Launch,
) -> Result<Member<Requester<Req, Resp>>, SpawnError> {
    let (port, process) = launch().spawn()?.split();
    let label = port.label();
    Ok(Member::new(port.requester(), process, label))
}

impl<Req, Resp> fmt::Debug for WorkerPool<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerPool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
