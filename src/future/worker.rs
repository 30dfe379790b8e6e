//! Waiting for the end of a worker's process in a task.

use crate::error::SystemError;
use crate::future::reactor::{Reactor, Timer};
use crate::meet::spawn::Worker;
use crate::meet::worker_process::{WorkerEnd, WorkerProcess};
use crate::os::clock::Deadline;
use crate::os::process::{LONGEST_END, LONGEST_REAPING, NAP, still_running, still_traced};
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

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

    /// Waits until the child has exited, at most for `timeout`, without blocking the thread. `None`
    /// if it has not exited by then. Cancel-safe. See [`Worker::wait_timeout`].
    ///
    /// # Errors
    /// As [`wait_async`](Self::wait_async).
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tokio", feature = "async-io"))))]
    pub async fn wait_timeout_async(
        &mut self,
        timeout: Duration,
    ) -> io::Result<Option<ExitStatus>> {
        self.process_mut().wait_timeout_async(timeout).await
    }

    /// Closes the port, waits until the child has exited, at most for `timeout`, then kills it if
    /// it still runs, and reaps it, without blocking the thread. See [`Worker::shutdown`].
    ///
    /// The port is closed by the call itself. A future that is dropped before it is ready leaves
    /// the rest to a thread of the crate, which gives the child 250 ms.
    ///
    /// # Errors
    /// As [`Worker::shutdown`]; also if there is no reactor, see
    /// [`MessagePort::into_async`](crate::MessagePort::into_async).
    ///
    #[cfg_attr(feature = "tokio", doc = "```")]
    #[cfg_attr(not(feature = "tokio"), doc = "```ignore")]
    /// use messageport::Worker;
    /// use std::{process::Command, time::Duration};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let worker = Worker::spawn(Command::new("true"))?;
    /// assert!(worker.shutdown_async(Duration::from_secs(10)).await?.status().success());
    /// # Ok(())
    /// # }
    /// ```
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tokio", feature = "async-io"))))]
    pub fn shutdown_async(
        self,
        timeout: Duration,
    ) -> impl Future<Output = io::Result<WorkerEnd>> + Send {
        self.into_leaving().shutdown_async(timeout)
    }

    /// Shuts down several workers at once, without blocking the thread: all ports are closed by the
    /// call itself, and all children share one `timeout`. Returns how each ended, in their order.
    /// See [`shutdown_async`](Self::shutdown_async).
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tokio", feature = "async-io"))))]
    pub fn shutdown_all_async(
        workers: impl IntoIterator<Item = Worker>,
        timeout: Duration,
    ) -> impl Future<Output = Vec<io::Result<WorkerEnd>>> + Send {
        let leaving: Vec<_> = workers.into_iter().map(Worker::into_leaving).collect();
        WorkerProcess::shutdown_all_async(leaving, timeout)
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
        let ended = self.wait_until_async(Deadline::NEVER).await?;
        Ok(ended.expect("without a deadline it waits for the end"))
    }

    /// Waits until the child has exited, at most for `timeout`, without blocking the thread. `None`
    /// if it has not exited by then. Cancel-safe.
    ///
    /// # Errors
    /// As [`Worker::wait_async`].
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tokio", feature = "async-io"))))]
    pub async fn wait_timeout_async(
        &mut self,
        timeout: Duration,
    ) -> io::Result<Option<ExitStatus>> {
        self.wait_until_async(Deadline::after(timeout)).await
    }

    /// Waits until the child has exited, at most for `timeout`, then kills it, and reaps it. Does
    /// not block the thread. Drop the port first; see [`WorkerProcess::shutdown`].
    ///
    /// # Errors
    /// As [`Worker::shutdown_async`].
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tokio", feature = "async-io"))))]
    pub fn shutdown_async(
        self,
        timeout: Duration,
    ) -> impl Future<Output = io::Result<WorkerEnd>> + Send {
        let all = WorkerProcess::shutdown_all_async([self], timeout);
        async { all.await.pop().expect("one for each process") }
    }

    /// Shuts down several processes at once, without blocking the thread: all of them share one
    /// `timeout`. Returns how each ended, in their order. See
    /// [`shutdown_async`](Self::shutdown_async).
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tokio", feature = "async-io"))))]
    pub fn shutdown_all_async(
        processes: impl IntoIterator<Item = WorkerProcess>,
        timeout: Duration,
    ) -> impl Future<Output = Vec<io::Result<WorkerEnd>>> + Send {
        let deadline = Deadline::after(timeout);
        let mut processes: Vec<_> = processes.into_iter().collect();
        for process in &mut processes {
            // If the future is dropped, no drop of a process waits.
            process.background();
            process.child_mut().close_stdin();
        }
        async move {
            let mut waited = Vec::new();
            for process in &mut processes {
                waited.push(match process.wait_until_async(deadline).await {
                    Ok(None) => process.kill().map(|()| None),
                    waited => waited,
                });
            }
            let (mut ends, deadline) = (Vec::new(), Deadline::after(LONGEST_END));
            for (process, waited) in processes.iter_mut().zip(waited) {
                ends.push(match waited {
                    Ok(Some(status)) => Ok(WorkerEnd::Exited(status)),
                    Ok(None) => process.wait_killed(deadline).await.map(WorkerEnd::of_killed),
                    Err(error) => Err(error),
                });
            }
            ends
        }
    }

    async fn wait_until_async(&mut self, deadline: Deadline) -> io::Result<Option<ExitStatus>> {
        self.background();
        self.child_mut().close_stdin();
        if let Some(status) = self.try_wait()? {
            return Ok(Some(status));
        }
        let (reactor, end) = (self.watch()?, Timer::until(deadline).map_err(source_of)?);
        // Ready as well for a child that had ended before this watched it.
        if reactor.readable_or(&end).await.map_err(source_of)? {
            return Ok(None);
        }
        self.reap_ended().await.map(Some)
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
        self.wait_killed(Deadline::after(LONGEST_END)).await
    }

    async fn wait_killed(&mut self, deadline: Deadline) -> io::Result<ExitStatus> {
        let ended = self.wait_until_async(deadline).await?;
        ended.ok_or_else(still_running)
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
