//! The process of a worker without its port.

use crate::os::process::{ChildProcess, Maker};
use std::io;
use std::process::{Child, ExitStatus};
use std::time::Duration;

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
/// A copy in a forked child does nothing when it is dropped.
#[derive(Debug)]
#[must_use = "a worker that is dropped ends its child"]
pub struct WorkerProcess {
    /// Taken by the calls that consume it only.
    child: Option<ChildProcess>,
    is_in_background: bool,
    maker: Maker,
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
        self.child_mut().wait()
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
        child.wait_killed()
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
            match self.is_in_background || is_in_runtime() {
                true => child.end_later(GRACE),
                false => child.end(GRACE),
            }
        }
    }
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
