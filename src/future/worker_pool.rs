//! A pool of workers for async programs.

use crate::error::{CallError, CloseReason, LoopError, SpawnError, TaskError};
use crate::future::reactor::{Alarm, Reactor};
use crate::future::requests::{AsyncRequester, RequesterDriver};
use crate::group::worker_pool::Launch;
use crate::group::worker_pool::attempts::{Attempts, STATUS, may_have_ended};
use crate::group::worker_pool::builder::WorkerPoolBuilder;
use crate::group::worker_pool::member::{Line, Member};
use crate::group::worker_pool::slots::{Busy, Loss, Place, Slots, Turn, WorkerPoolStats};
use crate::link::archive::Receive;
use crate::link::payload::Post;
use crate::meet::worker_process::{WorkerEnd, WorkerProcess};
use crate::os::clock::Deadline;
use crate::port::requests::call::Reply;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Several worker processes of one program, which do tasks, for async programs; made by
/// [`WorkerPoolBuilder::build_async`].
///
/// The async form of a [`WorkerPool`](crate::WorkerPool), whose page has the rules: among them, a
/// task can be done more than once. It needs no task of its own: the future of a call receives its
/// reply, watches its worker and the time. Any number of tasks share a pool, in an
/// [`Arc`] or by reference.
///
/// Dropping the future of a [`call`](Self::call) cancels its task. If a worker is at it, that
/// worker is ended, as nothing else is certain to stop it, and replaced when a task needs another.
/// Starting a worker takes about a millisecond, in which the thread is blocked. Build the pool and
/// use it in one runtime.
///
#[cfg_attr(feature = "tokio", doc = "```no_run")]
#[cfg_attr(not(feature = "tokio"), doc = "```ignore")]
/// use messageport::{AsyncWorkerPool, WorkerPool};
/// use std::process::Command;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let launch = || Command::new("doubler");
/// let pool: AsyncWorkerPool<u64, u64> = WorkerPool::builder(launch).workers(4).build_async()?;
/// let (one, two) = tokio::join!(pool.call(&20), pool.call(&21));
/// assert_eq!((*one?.data(), *two?.data()), (40.into(), 42.into()));
/// # Ok(())
/// # }
/// ```
pub struct AsyncWorkerPool<Req, Resp> {
    slots: Slots<AsyncLine<Req, Resp>>,
    launch: Launch,
}

impl<Req: Post, Resp: Receive> WorkerPoolBuilder<Req, Resp> {
    /// Starts the workers of a pool for async programs.
    ///
    /// # Errors
    /// As [`build`](Self::build); also if there is no reactor, see
    /// [`MessagePort::into_async`](crate::MessagePort::into_async).
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tokio", feature = "async-io"))))]
    pub fn build_async(self) -> Result<AsyncWorkerPool<Req, Resp>, SpawnError> {
        let WorkerPoolBuilder { launch, limits, .. } = self;
        let members = (0..limits.workers).map(|_| start(&launch).map(Arc::new));
        let members = members.collect::<Result<_, _>>()?;
        Ok(AsyncWorkerPool { slots: Slots::new(limits, members), launch })
    }
}

impl<Req: Post, Resp: Receive> AsyncWorkerPool<Req, Resp> {
    /// Has a worker do a task, and waits for its reply. Waits while all workers are busy.
    ///
    /// # Errors
    /// As [`WorkerPool::call`](crate::WorkerPool::call).
    pub async fn call(&self, request: &Req) -> Result<Reply<Resp>, TaskError> {
        self.call_until(request, Deadline::NEVER).await
    }

    /// The same, waiting at most for `timeout`, all attempts included.
    ///
    /// # Errors
    /// As [`WorkerPool::call_timeout`](crate::WorkerPool::call_timeout).
    pub async fn call_timeout(
        &self,
        request: &Req,
        timeout: Duration,
    ) -> Result<Reply<Resp>, TaskError> {
        self.call_until(request, Deadline::after(timeout)).await
    }

    async fn call_until(
        &self,
        request: &Req,
        deadline: Deadline,
    ) -> Result<Reply<Resp>, TaskError> {
        let mut attempts = Attempts::new(&self.slots, deadline);
        loop {
            let busy = self.check_out(deadline).await?;
            let until = attempts.begin();
            let outcome = busy.member().line.call(request, until).await;
            if may_have_ended(&outcome) && !busy.member().has_died() {
                let until = Deadline::after(deadline.left_at_most(STATUS));
                busy.member().line.wait_for_end(until).await;
            }
            if let Some(end) = attempts.end(busy, outcome) {
                return end;
            }
        }
    }

    /// Waits for a worker, until the deadline.
    async fn check_out(
        &self,
        deadline: Deadline,
    ) -> Result<Busy<'_, AsyncLine<Req, Resp>>, TaskError> {
        let (mut place, mut alarm) = (Place::new(&self.slots), Alarm::default());
        poll_fn(|context| {
            loop {
                match place.poll(context.waker())? {
                    Turn::Worker(busy) if busy.member().has_died() => busy.lost(&Loss::Idle),
                    Turn::Worker(busy) => return Poll::Ready(Ok(busy)),
                    Turn::Start(starting) => match start(&self.launch) {
                        Ok(member) => return Poll::Ready(starting.started(member)),
                        Err(error) => starting.failed(&error),
                    },
                    Turn::Wait(_) if deadline.is_over() => {
                        return Poll::Ready(Err(TaskError::Timeout));
                    }
                    Turn::Wait(until) => {
                        let alarmed = ready!(alarm.poll(until.min(deadline), context));
                        alarmed.map_err(CallError::Io)?;
                    }
                }
            }
        })
        .await
    }
}

impl<Req, Resp> AsyncWorkerPool<Req, Resp> {
    /// Counters, and how many workers and tasks there are.
    pub fn stats(&self) -> WorkerPoolStats {
        self.slots.stats()
    }

    /// The process ids of the workers that run, for display.
    pub fn ids(&self) -> Vec<u32> {
        self.slots.ids()
    }

    /// Ends the pool. See [`WorkerPool::shutdown`](crate::WorkerPool::shutdown). The future of a
    /// task that is not polled meanwhile does not hold it up.
    ///
    /// From the first poll on the pool accepts no tasks. If the future is dropped before it is
    /// ready, the workers end when the pool is dropped.
    ///
    /// # Errors
    /// For each worker, as [`Worker::shutdown_async`](crate::Worker::shutdown_async).
    pub async fn shutdown(&self, timeout: Duration) -> Vec<io::Result<WorkerEnd>> {
        let (deadline, mut alarm) = (Deadline::after(timeout), Alarm::default());
        self.slots.close();
        // Without a descriptor for the alarm the time is up at once.
        poll_fn(|context| match self.slots.poll_quiet(context.waker()) {
            true => Poll::Ready(()),
            false => alarm.poll(deadline, context).map(drop),
        })
        .await;
        WorkerProcess::shutdown_all_async(self.slots.take_all(), deadline.left_at_most(timeout))
            .await
    }
}

fn start<Req: Post, Resp: Receive>(
    launch: &Launch,
) -> Result<Member<AsyncLine<Req, Resp>>, SpawnError> {
    let (port, mut process) = launch().spawn()?.split();
    process.background();
    let (end, label) = (Reactor::watch(process.pidfd())?, port.label());
    let port = port.into_async().map_err(|error| {
        let LoopError::Io(error) = error.into_parts().0;
        error
    })?;
    let (requester, driver) = port.requester();
    let line = AsyncLine { requester, driver: Mutex::new(driver), end, alarm: Mutex::default() };
    Ok(Member::new(line, process, label))
}

/// The calling end of a worker's port. The future of the call has it alone, so it also receives.
pub(crate) struct AsyncLine<Req, Resp> {
    requester: AsyncRequester<Req, Resp>,
    driver: Mutex<RequesterDriver>,
    /// Readable once the worker has ended.
    end: Reactor,
    /// Kept from call to call: a time that is not over yet need not be set again.
    alarm: Mutex<Alarm>,
}

impl<Req: Post, Resp: Receive> AsyncLine<Req, Resp> {
    async fn call(&self, request: &Req, deadline: Deadline) -> Result<Reply<Resp>, CallError> {
        let mut call = pin!(self.requester.call(request));
        poll_fn(|context| {
            if let Poll::Ready(outcome) = call.as_mut().poll(context) {
                return Poll::Ready(outcome);
            }
            if let Poll::Ready(outcome) = self.poll_received(call.as_mut(), context) {
                return Poll::Ready(outcome);
            }
            // A process that the worker has forked may hold its port open.
            if let Poll::Ready(ended) = self.end.poll_readable(context) {
                ended?;
                let outcome = self.poll_received(call.as_mut(), context);
                let died = CallError::Closed { reason: CloseReason::PeerDied, is_posted: true };
                return Poll::Ready(match outcome {
                    Poll::Ready(outcome) => outcome,
                    Poll::Pending => Err(died),
                });
            }
            ready!(lock(&self.alarm).poll(deadline, context))?;
            Poll::Ready(Err(CallError::Timeout))
        })
        .await
    }

    /// Waits for the end of the process.
    async fn wait_for_end(&self, deadline: Deadline) {
        poll_fn(|context| match self.end.poll_readable(context) {
            Poll::Ready(_) => Poll::Ready(()),
            // Without a descriptor for the alarm the time is up at once.
            Poll::Pending => lock(&self.alarm).poll(deadline, context).map(drop),
        })
        .await;
    }

    /// Receives what has come, and asks for the outcome.
    fn poll_received(
        &self,
        call: Pin<&mut impl Future<Output = Result<Reply<Resp>, CallError>>>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Reply<Resp>, CallError>> {
        // If it is ready it has ended all calls.
        let _ = Pin::new(&mut *lock(&self.driver)).poll(context);
        call.poll(context)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<Req, Resp> Line for AsyncLine<Req, Resp> {
    fn close(&self) {
        self.requester.close();
    }

    fn has_read_nothing(&self) -> bool {
        self.requester.has_read_nothing()
    }

    fn has_other_types(&self) -> bool {
        self.requester.has_other_types()
    }
}

impl<Req, Resp> fmt::Debug for AsyncWorkerPool<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncWorkerPool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
