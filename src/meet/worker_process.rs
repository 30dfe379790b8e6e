//! The process of a worker without its port.

use crate::os::clock::Deadline;
use crate::os::process::{ChildProcess, LONGEST_END, Maker};
use std::cell::Cell;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// The process of a [`Worker`](crate::Worker) whose port went its own way; made by
/// [`Worker::split`](crate::Worker::split).
///
/// Dropping it gives the child 250 ms to exit, then kills it if it still runs, and reaps it. It
/// does not close the port: drop that first, as a child that reads until its port ends does not
/// exit before.
///
/// In a tokio runtime, and after a call of `wait_async`, `terminate_async` or
/// [`background`](Self::background), a thread of the crate does this, so that the drop never waits.
/// If the process exits within the 250 ms, the child is killed at the end of them, before the exit.
/// Otherwise the drop itself waits. It also waits if the kernel refuses to start that thread.
///
/// Drops in one thread share their waits: after a drop has waited 250 ms for a child that did not
/// exit, the drops of the next second do not wait, and leave their children to that thread of the
/// crate. So dropping a list of workers that hang takes 250 ms, whatever its length. To wait for
/// all, and to learn how each ended, use [`shutdown_all`](Self::shutdown_all).
///
/// A copy in a forked child does nothing when it is dropped.
#[must_use = "a worker that is dropped ends its child"]
pub struct WorkerProcess {
    /// Taken by the calls that consume it only.
    child: Option<ChildProcess>,
    is_in_background: bool,
    maker: Maker,
}

/// How the child of a worker ended when it was shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerEnd {
    /// It ended by itself within the timeout. The status says how: by an exit code, or by a signal
    /// that came from elsewhere.
    Exited(ExitStatus),
    /// It had not ended within the timeout, and was killed.
    Killed(ExitStatus),
}

impl WorkerEnd {
    /// The child's exit status.
    pub fn status(self) -> ExitStatus {
        match self {
            WorkerEnd::Exited(status) | WorkerEnd::Killed(status) => status,
        }
    }

    /// The end of a child that was sent SIGKILL. It may have exited just before.
    pub(crate) fn of_killed(status: ExitStatus) -> WorkerEnd {
        match status.signal() {
            Some(libc::SIGKILL) => WorkerEnd::Killed(status),
            _ => WorkerEnd::Exited(status),
        }
    }
}

impl WorkerProcess {
    pub(crate) fn new(child: ChildProcess) -> WorkerProcess {
        WorkerProcess { child: Some(child), is_in_background: false, maker: Maker::this() }
    }

    /// The child's process id.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect(THERE).id()
    }

    /// Waits until the child has exited. See [`Worker::wait`](crate::Worker::wait).
    ///
    /// # Errors
    /// As [`Worker::wait`](crate::Worker::wait).
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let ended = self.child_mut().wait_until(Deadline::NEVER)?;
        Ok(ended.expect("without a deadline it waits for the end"))
    }

    /// Waits until the child has exited, at most for `timeout`; `None` if it has not exited by
    /// then. See [`Worker::wait_timeout`](crate::Worker::wait_timeout).
    ///
    /// # Errors
    /// As [`Worker::wait`](crate::Worker::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        self.child_mut().wait_until(Deadline::after(timeout))
    }

    /// The child's exit status, if it has exited.
    ///
    /// # Errors
    /// As [`Worker::try_wait`](crate::Worker::try_wait).
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child_mut().try_wait()
    }

    /// Kills the child at once, and does not wait for its end. Does nothing if it has exited.
    ///
    /// # Errors
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied) if the child now runs as another user.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child_mut().kill()
    }

    /// Kills the child at once, and reaps it. What it posted can still be received.
    ///
    /// # Errors
    /// As [`Worker::terminate`](crate::Worker::terminate).
    pub fn terminate(mut self) -> io::Result<ExitStatus> {
        let child = self.child_mut();
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        child.kill()?;
        child.wait_killed(Deadline::after(LONGEST_END))
    }

    /// Waits until the child has exited, at most for `timeout`, then kills it, and reaps it.
    ///
    /// It does not close the port: drop that first, as a child that reads until its port ends does
    /// not exit before. What the child posted can still be received.
    ///
    /// # Errors
    /// As [`Worker::shutdown`](crate::Worker::shutdown).
    pub fn shutdown(self, timeout: Duration) -> io::Result<WorkerEnd> {
        WorkerProcess::shutdown_all([self], timeout).pop().expect("one for each process")
    }

    /// Shuts down several processes at once: all of them share one `timeout`. Returns how each
    /// ended, in their order. See [`shutdown`](Self::shutdown).
    pub fn shutdown_all(
        processes: impl IntoIterator<Item = WorkerProcess>,
        timeout: Duration,
    ) -> Vec<io::Result<WorkerEnd>> {
        let deadline = Deadline::after(timeout);
        let mut processes: Vec<_> = processes.into_iter().collect();
        for process in &mut processes {
            // One that fails has no wait of its own when it is dropped.
            process.background();
            // A child that reads its input to the end must see the end, whichever is asked first.
            process.child_mut().close_stdin();
        }
        let mut waited = Vec::new();
        for process in &mut processes {
            waited.push(process.child_mut().wait_until(deadline));
        }
        for (process, waited) in processes.iter_mut().zip(&mut waited) {
            if let Ok(None) = waited
                && let Err(error) = process.kill()
            {
                *waited = Err(error);
            }
        }
        let deadline = Deadline::after(LONGEST_END);
        let reap = |(process, waited): (&mut WorkerProcess, io::Result<_>)| match waited? {
            Some(status) => Ok(WorkerEnd::Exited(status)),
            None => process.child_mut().wait_killed(deadline).map(WorkerEnd::of_killed),
        };
        processes.iter_mut().zip(waited).map(reap).collect()
    }

    /// A descriptor that becomes readable when the child ends, and stays readable: a pidfd.
    ///
    /// It is for poll(2), an [`EventLoop`](crate::EventLoop) or a loop of another crate. It
    /// identifies this child forever, so it can also be given to pidfd_send_signal(2) or
    /// pidfd_getfd(2). Reap the child by [`wait`](Self::wait), not through this descriptor.
    ///
    /// It comes from the child, which opened it by pidfd_open(2) before it ran its program.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.as_ref().expect(THERE).pidfd()
    }

    /// Has a thread of the crate do the waiting when this is dropped.
    pub fn background(&mut self) {
        self.is_in_background = true;
    }

    /// Lets the child live on: returns the standard library's handle, which does not kill it.
    pub fn detach(mut self) -> Child {
        self.child.take().expect(THERE).into_child()
    }

    /// Whether this process started the child, and not one that it is a forked copy of.
    pub(crate) fn is_ours(&self) -> bool {
        self.maker.is_this()
    }

    pub(crate) fn child_mut(&mut self) -> &mut ChildProcess {
        self.child.as_mut().expect(THERE)
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        if let Some(child) = self.child.take() {
            if self.is_in_background || is_in_runtime() || has_waited_in_vain() {
                child.end_later(GRACE);
            } else if !child.end(GRACE) {
                WAITED_IN_VAIN.set(Some(Instant::now()));
            }
        }
    }
}

impl fmt::Debug for WorkerProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("WorkerProcess");
        if let Some(child) = &self.child {
            out.field("id", &child.id()).field("pidfd", &child.pidfd());
            out.field("status", &child.status());
        }
        out.finish_non_exhaustive()
    }
}

thread_local! {
    /// When a drop in this thread has last waited for a child that did not exit.
    static WAITED_IN_VAIN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Whether drops in this thread shall not wait at present: those of a list share one wait.
fn has_waited_in_vain() -> bool {
    WAITED_IN_VAIN.get().is_some_and(|time| time.elapsed() < SHARED)
}

/// Whether this thread must not be blocked, as far as that can be known.
fn is_in_runtime() -> bool {
    #[cfg(feature = "tokio")]
    let is_in_runtime = tokio::runtime::Handle::try_current().is_ok();
    #[cfg(not(feature = "tokio"))]
    let is_in_runtime = false;
    is_in_runtime
}

const THERE: &str = "taken by calls only that consume it";
/// How long a child may take to exit by itself when its worker is dropped.
const GRACE: Duration = Duration::from_millis(250);
/// For how long after a wait in vain the drops of a thread do not wait.
const SHARED: Duration = Duration::from_secs(1);
