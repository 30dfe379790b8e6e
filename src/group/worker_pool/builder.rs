//! What a pool of workers is built with.

use crate::error::SpawnError;
use crate::group::worker_pool::slots::Limits;
use crate::group::worker_pool::{Launch, WorkerPool};
use crate::link::archive::Receive;
use crate::link::payload::Post;
use crate::meet::builder::WorkerBuilder;
use std::fmt;
use std::marker::PhantomData;
use std::thread;
use std::time::Duration;

/// Sets the limits of a pool, and starts its workers; made by
/// [`WorkerPool::builder`](crate::WorkerPool::builder).
#[must_use = "a builder starts nothing until `build`"]
pub struct WorkerPoolBuilder<Req, Resp> {
    pub(crate) launch: Launch,
    pub(crate) limits: Limits,
    types: PhantomData<fn(Req) -> Resp>,
}

impl<Req, Resp> WorkerPoolBuilder<Req, Resp> {
    pub(crate) fn new<B: Into<WorkerBuilder>>(
        launch: impl Fn() -> B + Send + Sync + 'static,
    ) -> WorkerPoolBuilder<Req, Resp> {
        let limits = Limits {
            workers: thread::available_parallelism().map_or(1, usize::from),
            queue: 1024,
            attempts: 3,
            attempt: Duration::from_secs(30),
            restarts: 10,
        };
        let launch: Launch = Box::new(move || launch().into());
        WorkerPoolBuilder { launch, limits, types: PhantomData }
    }

    /// Sets how many workers there are: at least one, by default one for each processor.
    pub fn workers(mut self, workers: usize) -> Self {
        self.limits.workers = workers.max(1);
        self
    }

    /// Sets how many tasks may wait for a worker: by default 1,024. One more is refused with
    /// [`QueueFull`](crate::TaskError::QueueFull).
    pub fn queue_limit(mut self, tasks: usize) -> Self {
        self.limits.queue = tasks;
        self
    }

    /// Sets to how many workers a task is given: at least one, by default three. After a task has
    /// cost that many workers it ends with [`Lost`](crate::TaskError::Lost).
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.limits.attempts = attempts.max(1);
        self
    }

    /// Sets how long one worker may take for a task: by default 30 seconds. A worker that takes
    /// longer is killed, and the task is given to another one.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.limits.attempt = timeout;
        self
    }

    /// Sets after how many failures in a row no more workers are started: at least one, by default
    /// ten. A failure is a worker that cannot be started, or that ends before it has received a
    /// request; a worker that has answered one makes the count zero. From the last failure on, each
    /// task ends with [`Broken`](crate::TaskError::Broken).
    pub fn restart_limit(mut self, failures: u32) -> Self {
        self.limits.restarts = failures.max(1);
        self
    }
}

impl<Req: Post, Resp: Receive> WorkerPoolBuilder<Req, Resp> {
    /// Starts the workers.
    ///
    /// # Errors
    /// [`SpawnError`] if one of them cannot be started. Those that were started are ended, as if
    /// they were dropped.
    pub fn build(self) -> Result<WorkerPool<Req, Resp>, SpawnError> {
        WorkerPool::new(self)
    }
}

impl<Req, Resp> fmt::Debug for WorkerPoolBuilder<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WorkerPoolBuilder").field(&self.limits).finish()
    }
}
