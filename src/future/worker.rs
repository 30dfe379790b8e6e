//! Waiting for the end of a worker's process in a task.

use crate::error::SystemError;
use crate::future::reactor::{Reactor, Timer};
use crate::meet::spawn::Worker;
use crate::meet::worker_process::WorkerProcess;
use crate::os::clock::Deadline;
use crate::os::process::{LONGEST_END, LONGEST_REAPING, NAP, still_running, still_traced};
use std::io;
use std::process::ExitStatus;

impl Worker {
    /// Waits until the child has exited, without blocking the thread. Cancel-safe.
    ///
    /// A child that reads until its port ends does not exit before that, so close the port first,
    /// with `worker.port().close()`. From this call on, dropping the worker does not block the
    /// thread either.
    ///
    /// # Errors
    /// As [`Worker::wait`]; also if there is no reactor, see
    /// [`MessagePort::into_async`](crate::MessagePort::into_async).
    ///
    #[cfg_attr(feature = "tokio", doc = "```")]
    #[cfg_attr(not(feature = "tokio"), doc = "```ignore")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut worker = messageport::Worker::spawn(std::process::Command::new("true"))?;
    /// assert!(worker.wait_async().await?.success());
    /// # Ok(())
    /// # }
    /// ```
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tokio", feature = "async-io"))))]
    pub async fn wait_async(&mut self) -> io::Result<ExitStatus> {
        self.process_mut().wait_async().await
    }
}

impl WorkerProcess {
    /// Waits until the child has exited, without blocking the thread. Cancel-safe. See
    /// [`Worker::wait_async`].
    ///
    /// # Errors
    /// As [`Worker::wait_async`].
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tokio", feature = "async-io"))))]
    pub async fn wait_async(&mut self) -> io::Result<ExitStatus> {
        self.background();
        self.child_mut().close_stdin();
        if let Some(status) = self.try_wait()? {
            return Ok(status);
        }
        let reactor = self.watch()?;
        // Ready as well for a child that had ended before this watched it.
        reactor.readable().await.map_err(source_of)?;
        self.reap_ended().await
    }

    /// Kills the child at once, and waits until it has exited, without blocking the thread. What it
    /// posted can still be received.
    ///
    /// A future that is dropped before it is ready leaves the rest to a thread of the crate.
    ///
    /// # Errors
    /// As [`WorkerProcess::terminate`]; also if there is no reactor, see
    /// [`MessagePort::into_async`](crate::MessagePort::into_async).
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tokio", feature = "async-io"))))]
    pub async fn terminate_async(mut self) -> io::Result<ExitStatus> {
        self.background();
        if let Some(status) = self.try_wait()? {
            return Ok(status);
        }
        self.kill()?;
        let (reactor, end) = (self.watch()?, Timer::after(LONGEST_END).map_err(source_of)?);
        if reactor.readable_or(&end).await.map_err(source_of)? {
            return Err(still_running());
        }
        self.reap_ended().await
    }

    fn watch(&mut self) -> io::Result<Reactor> {
        Reactor::watch(self.child_mut().pidfd()).map_err(source_of)
    }

    async fn reap_ended(&mut self) -> io::Result<ExitStatus> {
        let deadline = Deadline::after(LONGEST_REAPING);
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if deadline.is_over() {
                return Err(still_traced());
            }
            Timer::after(NAP).map_err(source_of)?.over().await.map_err(source_of)?;
        }
    }
}

fn source_of(error: SystemError) -> io::Error {
    error.into()
}
