//! What a worker is started with beside its command.

use crate::error::{PostError, SpawnError, SystemError};
use crate::meet::spawn::{VARIABLE, Worker};
#[cfg(feature = "seccomp")]
use crate::meet::syscall_filter::SyscallFilter;
use crate::meet::worker_process::WorkerProcess;
use crate::os::process::confine::{Confinement, Resource, WRITE_CGROUP, open_cgroup};
use crate::os::process::spawn_with_descriptor;
use crate::port::channel::{ChannelBuilder, MessageChannel};
use crate::wire::label::Label;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Starts a worker with options; made by [`Worker::builder`], or from a [`Command`].
///
/// All of them are applied by the child itself before it runs its program, in this order: cgroup,
/// limits, parent-death signal, filter. What `pre_exec` of the command sets comes before. If the
/// kernel refuses one, the worker is not started.
///
/// ```
/// use messageport::{MessageChannel, ResourceLimit, Worker};
///
/// let worker = Worker::builder(std::process::Command::new("true"))
///     .channel(MessageChannel::builder().limit(1 << 20))
///     .limit(ResourceLimit::AddressSpace, 1 << 30)
///     .limit(ResourceLimit::OpenFiles, 32)
///     .end_with_parent()
///     .spawn()?;
/// assert_eq!(worker.port().limit(), 1 << 20);
/// # Ok::<(), messageport::SpawnError>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder starts nothing until `spawn`"]
pub struct WorkerBuilder {
    command: Command,
    channel: ChannelBuilder,
    label: Label,
    ends_with_parent: bool,
    limits: Vec<(Resource, u64)>,
    cgroup: Option<PathBuf>,
    #[cfg(feature = "seccomp")]
    filter: Option<SyscallFilter>,
}

/// What [`WorkerBuilder::limit`] limits: a resource of setrlimit(2).
///
/// Memory that is shared through a port counts as address space of both processes. With the default
/// sizes a channel takes 128 MiB of it, whatever is used; a
/// [`limit`](ChannelBuilder::limit) of the channel makes it smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResourceLimit {
    /// Bytes of address space (`RLIMIT_AS`). Allocations fail beyond it; most programs abort.
    AddressSpace,
    /// Bytes of heap and other private writable memory (`RLIMIT_DATA`).
    Data,
    /// Bytes of the main thread's stack (`RLIMIT_STACK`).
    Stack,
    /// Seconds of processor time (`RLIMIT_CPU`). The kernel kills the process when they are over.
    CpuTime,
    /// The number of descriptors (`RLIMIT_NOFILE`). A port takes five.
    OpenFiles,
    /// Bytes of a file that is written (`RLIMIT_FSIZE`). The kernel sends SIGXFSZ beyond it.
    FileSize,
    /// Bytes of a core dump (`RLIMIT_CORE`). Zero makes none.
    CoreSize,
    /// The number of processes and threads of the *user*, not of the worker (`RLIMIT_NPROC`). It is
    /// not checked for root. A cgroup with `pids.max` limits a worker.
    Processes,
    /// Bytes of locked memory (`RLIMIT_MEMLOCK`).
    LockedMemory,
}

impl ResourceLimit {
    fn number(self) -> Resource {
        match self {
            ResourceLimit::AddressSpace => libc::RLIMIT_AS,
            ResourceLimit::Data => libc::RLIMIT_DATA,
            ResourceLimit::Stack => libc::RLIMIT_STACK,
            ResourceLimit::CpuTime => libc::RLIMIT_CPU,
            ResourceLimit::OpenFiles => libc::RLIMIT_NOFILE,
            ResourceLimit::FileSize => libc::RLIMIT_FSIZE,
            ResourceLimit::CoreSize => libc::RLIMIT_CORE,
            ResourceLimit::Processes => libc::RLIMIT_NPROC,
            ResourceLimit::LockedMemory => libc::RLIMIT_MEMLOCK,
        }
    }
}

impl WorkerBuilder {
    pub(crate) fn new(command: Command) -> WorkerBuilder {
        WorkerBuilder {
            command,
            channel: MessageChannel::builder(),
            label: Label::default(),
            ends_with_parent: false,
            limits: Vec::new(),
            cgroup: None,
            #[cfg(feature = "seccomp")]
            filter: None,
        }
    }

    /// Sets the sizes and limits of the channel.
    pub fn channel(mut self, channel: ChannelBuilder) -> WorkerBuilder {
        self.channel = channel;
        self
    }

    /// Sets the label of this process' port to the worker. See
    /// [`MessagePort::set_label`](crate::MessagePort::set_label). The child sees only the label of
    /// the [channel](ChannelBuilder::label).
    pub fn label(mut self, text: &str) -> WorkerBuilder {
        self.label = Label::new(text);
        self
    }

    /// Has the kernel kill the child, by SIGKILL, when this process dies.
    ///
    /// Without this the child's port returns `Closed` when this process dies, which suffices for a
    /// child that receives from it: it can still save what it has. This is for children that do not
    /// look at their port, or do not end by it.
    ///
    /// The kernel's call, `PR_SET_PDEATHSIG` of prctl(2), is about the death of the *thread* that
    /// started the child. So a thread of the crate starts the child; there is one for all such
    /// workers, and it lives as long as this process. The child inherits from it what belongs to a
    /// thread (namespaces, processor affinity, filters), as it was when that thread started; it
    /// inherits the signal mask of the caller. In a forked copy of this process the caller starts
    /// the child, and its end ends the child.
    ///
    /// If this process has died before the child could say so to the kernel, the child ends at
    /// once. The kernel forgets the request when the child runs a program with other credentials
    /// (set-user-ID), and the child can take it back. Processes that the child starts are not
    /// killed.
    pub fn end_with_parent(mut self) -> WorkerBuilder {
        self.ends_with_parent = true;
        self
    }

    /// Limits a resource of the child, and of the processes that it starts: the soft and the hard
    /// limit, so that it cannot raise it again. The unit depends on the [`ResourceLimit`].
    ///
    /// A value above the hard limit of this process needs a privilege, and otherwise makes the
    /// start fail with EPERM.
    pub fn limit(mut self, resource: ResourceLimit, value: u64) -> WorkerBuilder {
        self.limits.push((resource.number(), value));
        self
    }

    /// Has the child join a cgroup of version 2, by its directory, such as
    /// `/sys/fs/cgroup/plugins/one`. Processes that it starts are in it as well.
    ///
    /// The directory must exist, and its `cgroup.procs` be writable for this process. Limits of
    /// memory, processes and processor time are set in its files, and `cgroup.kill` ends all of its
    /// processes at once.
    pub fn cgroup(mut self, directory: impl Into<PathBuf>) -> WorkerBuilder {
        self.cgroup = Some(directory.into());
        self
    }

    /// Filters the system calls of the child, and of the processes that it starts, from its
    /// `execve` on. A call that the filter does not allow kills the child, by SIGSYS, or
    /// [fails](SyscallFilter::refuse_with_eperm).
    ///
    /// This is for a program that is not trusted: it has not run yet when the filter is in force.
    /// So the filter must allow what the dynamic loader does, see [`SyscallFilter::program`].
    #[cfg(feature = "seccomp")]
    #[cfg_attr(docsrs, doc(cfg(feature = "seccomp")))]
    pub fn filter(mut self, filter: &SyscallFilter) -> WorkerBuilder {
        self.filter = Some(filter.clone());
        self
    }

    /// Starts the child process. See [`Worker::spawn`].
    ///
    /// # Errors
    /// [`SpawnError`]; nothing is left behind.
    pub fn spawn(self) -> Result<Worker, SpawnError> {
        let procs = self.cgroup.map(|directory| directory.join("cgroup.procs"));
        let open = |path: &Path| match open_cgroup(path) {
            Ok(Some(file)) => Ok(file),
            Ok(None) => Err(SpawnError::NotACgroup { path: path.to_owned() }),
            Err(error) => Err(SpawnError::from(error).at(path)),
        };
        let cgroup = procs.as_deref().map(open);
        let confinement = Confinement {
            ends_with_parent: self.ends_with_parent,
            limits: self.limits,
            cgroup: cgroup.transpose()?,
            #[cfg(feature = "seccomp")]
            filter: self.filter.map_or(Vec::new(), |filter| filter.compile()),
            #[cfg(not(feature = "seccomp"))]
            filter: Vec::new(),
        };
        let MessageChannel { port1, port2 } = self.channel.build()?;
        let theirs = port2.into_fd().map_err(|error| match error.into_reason() {
            PostError::Io(error) => SpawnError::Io(error),
            PostError::TooManyInFlight => {
                let source = io::Error::from_raw_os_error(libc::ETOOMANYREFS);
                SpawnError::Io(SystemError { call: "sendmsg", source })
            }
            other => unreachable!("a fresh port is open: {other}"),
        })?;
        let program = PathBuf::from(self.command.get_program());
        let child = spawn_with_descriptor(self.command, VARIABLE, theirs, confinement);
        let child = child.map_err(|error| match (error.call, procs) {
            ("spawn", _) => SpawnError::Program { program, source: error.source },
            (WRITE_CGROUP, Some(path)) => SpawnError::from(error).at(&path),
            _ => error.into(),
        })?;
        port1.set_label(self.label.as_str());
        Ok(Worker::of(port1, WorkerProcess::new(child)))
    }
}

impl From<Command> for WorkerBuilder {
    fn from(command: Command) -> WorkerBuilder {
        WorkerBuilder::new(command)
    }
}
