//! One worker of a pool: its process, and the requester that calls it.

use crate::meet::worker_process::WorkerProcess;
use crate::os::poll;
use crate::port::requests::requester::Requester;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The calling end of a worker's port: with or without a reactor.
pub(crate) trait Line {
    /// Closes the port. An open call ends by this.
    fn close(&self);

    /// Whether the worker has had a request, and has read none. One that is read in place counts
    /// once the worker has dropped it.
    fn has_read_nothing(&self) -> bool;

    /// Whether the worker is known to have other types than the pool.
    fn has_other_types(&self) -> bool;
}

pub(crate) struct Member<L> {
    /// Before the process: the worker is told before it is ended.
    pub line: L,
    /// Taken by the thread that ends it.
    process: Mutex<Option<WorkerProcess>>,
    id: u32,
    label: String,
    has_served: AtomicBool,
}

impl<L: Line> Member<L> {
    /// `label`: what its builder calls it.
    pub(crate) fn new(line: L, process: WorkerProcess, label: String) -> Member<L> {
        let (id, has_served) = (process.id(), AtomicBool::new(false));
        Member { line, process: Mutex::new(Some(process)), id, label, has_served }
    }

    /// Its process id, and its label.
    pub(crate) fn name(&self) -> (u32, String) {
        (self.id, self.label.clone())
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Whether the process has ended. One system call.
    pub(crate) fn has_died(&self) -> bool {
        self.process().as_ref().is_none_or(|process| poll::is_readable(process.pidfd()))
    }

    /// How the process has ended, if it has. Reaps it.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        self.process().as_mut().and_then(|process| process.try_wait().ok().flatten())
    }

    /// Waits for the end of the process.
    pub(crate) fn wait_for_end(&self, timeout: Duration) {
        if let Some(process) = self.process().as_mut() {
            // Without an answer there is no status to report.
            let _ = process.wait_timeout(timeout);
        }
    }

    /// Whether it has received a request and answered.
    pub(crate) fn has_served(&self) -> bool {
        // Relaxed: read and written by the task that has the worker.
        self.has_served.load(Relaxed)
    }

    pub(crate) fn set_served(&self) {
        self.has_served.store(true, Relaxed);
    }

    pub(crate) fn close(&self) {
        self.line.close();
    }

    /// Takes the process out, which ends with the pool otherwise.
    pub(crate) fn take_process(&self) -> Option<WorkerProcess> {
        self.process().take()
    }

    /// Ends the worker at once. A thread of the crate reaps it.
    pub(crate) fn kill(&self) {
        self.close();
        if let Some(mut process) = self.take_process() {
            process.background();
            // If the kernel refuses, the drop tries again after its grace.
            let _ = process.kill();
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<WorkerProcess>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Req, Resp> Line for Requester<Req, Resp> {
    fn close(&self) {
        Requester::close(self);
    }

    fn has_read_nothing(&self) -> bool {
        Requester::has_read_nothing(self)
    }

    fn has_other_types(&self) -> bool {
        Requester::has_other_types(self)
    }
}
