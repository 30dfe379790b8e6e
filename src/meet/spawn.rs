//! A child process with a port to it: `Worker` on one side, `parent_port` on the other.

use crate::error::{ParentPortError, SpawnError};
use crate::meet::builder::WorkerBuilder;
use crate::meet::worker_process::{WorkerEnd, WorkerProcess};
use crate::os::process::{self, Unclaimed};
use crate::port::MessagePort;
use crate::port::channel::{ChannelBuilder, MessageChannel};
use std::io;
use std::os::fd::BorrowedFd;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

/// A child process that holds the other end of a port, like a worker on the web.
///
/// The child inherits one descriptor, and calls [`parent_port`] to get its port. The parent can
/// post before that, and the messages wait. When the child ends, in whatever way, the port returns
/// `Closed` after the last message that the child posted.
///
/// Dropping a worker closes its port, gives the child 250 ms to exit, then kills it if it still
/// runs, and reaps it. In a tokio runtime, and after a call of `wait_async` or
/// [`background`](Self::background), a thread of the crate does the waiting, and the drop returns
/// at once; otherwise the drop waits. Drops of several workers that hang cost one wait, see
/// [`WorkerProcess`]. To choose the time, and to learn how the child ended, use
/// [`shutdown`](Self::shutdown). If this process dies, the child's port returns `Closed`; nothing
/// else happens to the child.
///
/// The child is identified by a pidfd from its start, never by its process id. So nothing here
/// signals another process, even if another part of the program reaps the child with `waitpid(-1)`
/// or ignores SIGCHLD. Dropping waits at most about two seconds for a killed child. One that cannot
/// be reaped by then, because a debugger holds it, is reaped when the next worker is started or
/// dropped. A worker cannot be started where `pidfd_open` is refused.
///
/// A copy of a worker in a forked child does nothing when it is dropped.
///
/// HTML: [`Worker`](https://html.spec.whatwg.org/#dedicated-workers-and-the-worker-interface).
///
/// ```
/// use messageport::Worker;
/// use std::process::Command;
///
/// // `cat` does not know about ports; it inherits one nevertheless.
/// let mut command = Command::new("cat");
/// command.stdin(std::process::Stdio::null());
/// let mut worker = Worker::spawn(command)?;
/// worker.port().post_text("never read")?;
/// assert!(worker.wait()?.success());
/// assert_eq!(worker.port().backlog().messages, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a worker that is dropped ends its child"]
pub struct Worker {
    /// Both are taken by `split` only.
    port: Option<MessagePort>,
    process: Option<WorkerProcess>,
}

impl Worker {
    /// Starts a child process with a port of the default sizes.
    ///
    /// The command may be set up in any way, except for the environment variable
    /// `MESSAGEPORT_PARENT`, which names the descriptor. What `pre_exec` sets already applies while
    /// the child starts. At that time the child still has copies of this process's descriptors, and
    /// opens a pidfd. So an `RLIMIT_NOFILE` that is too low for this makes the start fail with
    /// EMFILE, and a seccomp filter must allow `pidfd_open` and `sendmsg`.
    ///
    /// # Errors
    /// [`SpawnError`]; nothing is left behind.
    pub fn spawn(command: Command) -> Result<Worker, SpawnError> {
        Worker::spawn_with(command, MessageChannel::builder())
    }

    /// Starts a child process with a port of other sizes.
    ///
    /// # Errors
    /// [`SpawnError`]; nothing is left behind.
    ///
    /// ```
    /// use messageport::{MessageChannel, Worker};
    ///
    /// let sizes = MessageChannel::builder().limit(1 << 20);
    /// let worker = Worker::spawn_with(std::process::Command::new("true"), sizes)?;
    /// assert_eq!(worker.port().limit(), 1 << 20);
    /// # Ok::<(), messageport::SpawnError>(())
    /// ```
    pub fn spawn_with(command: Command, builder: ChannelBuilder) -> Result<Worker, SpawnError> {
        Worker::builder(command).channel(builder).spawn()
    }

    /// Returns a builder for a child process with other options than its command has.
    pub fn builder(command: Command) -> WorkerBuilder {
        WorkerBuilder::new(command)
    }

    pub(crate) fn of(port: MessagePort, process: WorkerProcess) -> Worker {
        Worker { port: Some(port), process: Some(process) }
    }

    /// The port to the child.
    pub fn port(&self) -> &MessagePort {
        self.port.as_ref().expect("taken by `split` only, which consumes the worker")
    }

    /// The child's process id.
    pub fn id(&self) -> u32 {
        self.process().id()
    }

    /// Waits until the child has exited.
    ///
    /// A child that reads until its port ends does not exit before that, so close the port first,
    /// with `worker.port().close()`. In an async program use `wait_async`.
    ///
    /// # Errors
    /// Those of [`Child::wait`]: ECHILD if another part of the program has reaped the child. Also
    /// [`TimedOut`](io::ErrorKind::TimedOut) if the child has exited and a process that traces it
    /// (ptrace) keeps its exit status.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.process_mut().wait()
    }

    /// Waits until the child has exited, at most for `timeout`. Returns `None` if it has not exited
    /// by then; it still runs, and can be waited for again.
    ///
    /// A child that reads until its port ends does not exit before that, so close the port first.
    /// Or use [`shutdown`](Self::shutdown), which also kills a child that is late.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    ///
    /// ```
    /// use messageport::Worker;
    /// use std::time::Duration;
    ///
    /// let mut command = std::process::Command::new("sleep");
    /// command.arg("1000");
    /// let mut worker = Worker::spawn(command)?;
    /// assert!(worker.wait_timeout(Duration::from_millis(5))?.is_none());
    /// # worker.terminate()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_timeout(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        self.process_mut().wait_timeout(timeout)
    }

    /// The child's exit status, if it has exited.
    ///
    /// # Errors
    /// Those of [`Child::try_wait`]: ECHILD if another part of the program has reaped the child.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.process_mut().try_wait()
    }

    /// Kills the child at once, and reaps it.
    ///
    /// What it posted is lost with the worker. To read it, take the port out with
    /// [`split`](Self::split) first.
    ///
    /// HTML: [terminate a worker](https://html.spec.whatwg.org/#terminate-a-worker).
    ///
    /// # Errors
    /// Those of [`wait`](Self::wait), and [`TimedOut`](io::ErrorKind::TimedOut) if the child has
    /// not exited two seconds after it was killed. It is reaped later in that case.
    ///
    /// ```
    /// use messageport::Worker;
    /// use std::os::unix::process::ExitStatusExt;
    ///
    /// let mut command = std::process::Command::new("sleep");
    /// command.arg("1000");
    /// let status = Worker::spawn(command)?.terminate()?;
    /// assert_eq!(status.signal(), Some(9));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn terminate(mut self) -> io::Result<ExitStatus> {
        let process = self.process.take().expect("taken once, here");
        process.terminate()
    }

    /// Closes the port, waits until the child has exited, at most for `timeout`, then kills it if
    /// it still runs, and reaps it. Returns how it ended.
    ///
    /// The child receives what was posted before, and then `Closed` with
    /// [`PeerClosed`](crate::CloseReason::PeerClosed). What it posts is lost with the worker; to
    /// read it, [`split`](Self::split) the worker, close the port, and receive until `Closed`.
    /// A timeout of zero kills a child that has not exited yet.
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate). The child is reaped later in that case.
    ///
    /// ```
    /// use messageport::{Worker, WorkerEnd};
    /// use std::time::Duration;
    ///
    /// let worker = Worker::spawn(std::process::Command::new("true"))?;
    /// match worker.shutdown(Duration::from_secs(10))? {
    ///     WorkerEnd::Exited(status) => assert!(status.success()),
    ///     WorkerEnd::Killed(_) => println!("it did not exit within ten seconds"),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn shutdown(self, timeout: Duration) -> io::Result<WorkerEnd> {
        self.into_leaving().shutdown(timeout)
    }

    /// Shuts down several workers at once: first all ports are closed, then all children share one
    /// `timeout`, then those that are late are killed. Returns how each ended, in their order. See
    /// [`shutdown`](Self::shutdown).
    ///
    /// ```
    /// use messageport::Worker;
    /// use std::process::Command;
    /// use std::time::Duration;
    ///
    /// let workers = [Worker::spawn(Command::new("true"))?, Worker::spawn(Command::new("true"))?];
    /// for end in Worker::shutdown_all(workers, Duration::from_secs(10)) {
    ///     assert!(end?.status().success());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn shutdown_all(
        workers: impl IntoIterator<Item = Worker>,
        timeout: Duration,
    ) -> Vec<io::Result<WorkerEnd>> {
        let leaving: Vec<_> = workers.into_iter().map(Worker::into_leaving).collect();
        WorkerProcess::shutdown_all(leaving, timeout)
    }

    /// A descriptor that becomes readable when the child ends, and stays readable: a pidfd. See
    /// [`WorkerProcess::pidfd`].
    ///
    /// ```
    /// use messageport::Worker;
    /// use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    ///
    /// let mut worker = Worker::spawn(std::process::Command::new("true"))?;
    /// let mut ends = [PollFd::new(worker.pidfd(), PollFlags::POLLIN)];
    /// assert_eq!(poll(&mut ends, PollTimeout::NONE)?, 1);
    /// assert!(worker.try_wait()?.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.process().pidfd()
    }

    /// Has a thread of the crate do the waiting when this worker is dropped; see
    /// [`WorkerProcess`].
    ///
    /// For programs on executors other than tokio, where the crate cannot know that a thread must
    /// not be blocked.
    pub fn background(&mut self) {
        self.process_mut().background();
    }

    /// Separates the port and the process. The port can then have types, go to a task or a loop, or
    /// move, while the [`WorkerProcess`] still ends the child when it is dropped.
    ///
    /// ```
    /// use messageport::{RecvError, Worker};
    ///
    /// let (port, mut process) = Worker::spawn(std::process::Command::new("true"))?.split();
    /// assert!(matches!(port.recv(), Err(RecvError::Closed { .. })));
    /// assert!(process.wait()?.success());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// A worker whose port is in a loop, which terminates it after a time:
    ///
    /// ```
    /// use messageport::{EventLoop, LoopEvent, Worker};
    /// use std::{process::Command, time::Duration};
    ///
    /// let mut command = Command::new("sleep");
    /// command.arg("1000");
    /// let (port, process) = Worker::spawn(command)?.split();
    /// let mut event_loop = EventLoop::new()?;
    /// event_loop.add_with(port, |_, _, event| match event {
    ///     LoopEvent::Close(reason) => println!("the worker has ended: {reason}"),
    ///     event => println!("{event:?}"),
    /// })?;
    /// event_loop.add_timer(Duration::from_millis(10), move |_| {
    ///     println!("{:?}", process.terminate());
    /// });
    /// event_loop.run()?; // until the port has ended
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn split(mut self) -> (MessagePort, WorkerProcess) {
        let port = self.port.take().expect("taken once, here");
        (port, self.process.take().expect("taken once, here"))
    }

    /// Separates the port and the process. From then on, nothing here kills or reaps the child.
    ///
    /// The [`Child`] waits and kills by process id, so let nothing else in the program reap it. See
    /// [`split`](Self::split) for a process that is ended when it is dropped.
    pub fn into_parts(self) -> (MessagePort, Child) {
        let (port, process) = self.split();
        (port, process.detach())
    }

    /// Closes the port, and leaves the process.
    pub(crate) fn into_leaving(self) -> WorkerProcess {
        let (port, process) = self.split();
        port.close();
        process
    }

    fn process(&self) -> &WorkerProcess {
        self.process.as_ref().expect("taken by `split` only, which consumes the worker")
    }

    pub(crate) fn process_mut(&mut self) -> &mut WorkerProcess {
        self.process.as_mut().expect("taken by `split` only, which consumes the worker")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let port = self.port.take();
        if self.process.as_ref().is_some_and(|process| !process.is_ours()) {
            // A forked copy: the port's memory is not here.
            std::mem::forget(port);
        }
        // First the port, so that the child learns of the end; then the process.
    }
}

/// The port to the process that started this one with [`Worker::spawn`].
///
/// There is one such port, so a second call is an error. The descriptor is checked like any
/// untrusted input, and becomes close-on-exec. Call this early: until then a child of this process
/// inherits the descriptor, and hides the death of this process from the parent.
///
/// The environment variable `MESSAGEPORT_PARENT` holds the descriptor's number and its inode. A
/// program that sets the variable itself promises that no part of it owns that descriptor.
///
/// HTML: the implicit port of a
/// [`DedicatedWorkerGlobalScope`](https://html.spec.whatwg.org/#dedicatedworkerglobalscope).
///
/// # Errors
/// - [`NotAWorker`](ParentPortError::NotAWorker) if this process was not started by
///   `Worker::spawn`, even if it inherited the environment of a worker.
/// - [`AlreadyTaken`](ParentPortError::AlreadyTaken) if the port was taken before.
/// - [`Attach`](ParentPortError::Attach) if what was inherited is not a port, or comes from an
///   incompatible program.
/// ```no_run
/// let port = messageport::parent_port()?;
/// for event in &port {
///     port.post_bytes(event.bytes())?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn parent_port() -> Result<MessagePort, ParentPortError> {
    let not_a_worker = ParentPortError::NotAWorker { variable: VARIABLE };
    let Ok(value) = std::env::var(VARIABLE) else { return Err(not_a_worker) };
    let descriptor = process::claim(&value).map_err(|unclaimed| match unclaimed {
        Unclaimed::Taken => ParentPortError::AlreadyTaken,
        Unclaimed::NotOurs => not_a_worker,
    })?;
    Ok(MessagePort::from_fd(descriptor)?)
}

pub(super) const VARIABLE: &str = "MESSAGEPORT_PARENT";
