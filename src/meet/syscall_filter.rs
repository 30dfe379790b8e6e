//! Which system calls a process may make: a seccomp filter from the crate's own table.

use crate::error::SystemError;
use crate::os::process::confine::{self, Instruction, OWN_ID};
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// A set of system calls that a process may make; any other call kills it, by SIGSYS (seccomp(2)).
/// With [`refuse_with_eperm`](Self::refuse_with_eperm) it fails instead.
///
/// There are two ways to use it, as there are two kinds of plug-ins:
///
/// - **The program is not trusted.** The host gives [`program()`](Self::program) to
///   [`WorkerBuilder::filter`](crate::WorkerBuilder::filter). The filter is in force when the
///   program starts, so it has to allow what the dynamic loader does: to open files for reading, to
///   map code, and `execve` itself.
/// - **The program is trusted, and runs code that is not**: it loads a library, or interprets a
///   script. It opens what it needs, and then calls [`apply`](Self::apply) of
///   [`port()`](Self::port), which allows no `execve`, before it runs that code.
///
/// Both can be used together: a filter never allows what an earlier one has refused.
///
/// The sets are those of the tables in `docs/safety.md`, which the tests check, and what Rust's
/// standard library and glibc call. Another C library, allocator or runtime may need more:
/// [`allow`](Self::allow) it. `openat` is allowed for reading only. `fallocate`, and `madvise` with
/// `MADV_REMOVE`, are refused, as with them a process can delay a peer that reads its messages;
/// so [`trim`](crate::MessagePort::trim), and freeing pages on a trusted port, kills the process.
///
/// Nor can a process send signals to another one, by `tgkill` or through the owner of a descriptor
/// (`fcntl`), set limits of another one, type into its terminal (`ioctl`), send datagrams to
/// sockets that have names, or undo [`end_with_parent`](crate::WorkerBuilder::end_with_parent)
/// (`prctl`): of these calls the filter allows what the standard library and this crate need.
///
/// What it cannot hide are the files that the user of the process may read. Among them may be the
/// memory of this user's other processes, as `/proc/<number>/mem`, unless they are not dumpable
/// (`PR_SET_DUMPABLE`) or `kernel.yama.ptrace_scope` is at least 1. So run a program that is not
/// trusted at all as another user, or where it sees other files.
///
/// Threads are allowed, and new processes are not: `clone` is allowed with the flags of a thread
/// only. A filter cannot read the flags of `clone3`, which are in memory. So `clone3` fails with
/// `ENOSYS`, as on a kernel that does not have it, and glibc calls `clone` then. How many threads
/// there are is limited by the `pids.max` of a [`cgroup`](crate::WorkerBuilder::cgroup). A program
/// that starts processes needs `allow(SYS_clone)` and what its child calls.
///
/// Nothing takes a filter back. It stays in force in the processes that the process starts. Without
/// privileges it sets `PR_SET_NO_NEW_PRIVS`, so that no program gains any (set-user-ID).
///
/// ```
/// use messageport::{SyscallFilter, Worker};
/// use std::os::unix::process::ExitStatusExt;
/// use std::process::Command;
///
/// let filter = SyscallFilter::program();
/// // `true` needs nothing more; `mkdir` does.
/// let mut fine = Worker::builder(Command::new("true")).filter(&filter).spawn()?;
/// assert!(fine.wait()?.success());
/// let mut command = Command::new("mkdir");
/// command.arg("/nonexistent/directory");
/// let mut stopped = Worker::builder(command).filter(&filter).spawn()?;
/// assert_eq!(stopped.wait()?.signal(), Some(31)); // SIGSYS
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyscallFilter {
    calls: BTreeMap<c_long, Arguments>,
    /// Whether a refused call fails with EPERM, and does not kill.
    fails: bool,
}

/// With which arguments a call is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arguments {
    /// With those of [`rules_of`].
    Checked,
    /// With all: the program has asked for it.
    Any,
}

impl SyscallFilter {
    /// What a running program needs that takes a port from its parent, receives and posts messages
    /// and transferables, answers requests, allocates, has threads, writes to its standard streams,
    /// and ends.
    pub fn port() -> SyscallFilter {
        SyscallFilter { calls: checked(&[PORT, RUNTIME]).collect(), fails: false }
    }

    /// The same, and what a dynamically linked program needs to start, and to
    /// [`apply`](Self::apply) a filter of its own.
    pub fn program() -> SyscallFilter {
        let mut filter = SyscallFilter::port();
        filter.calls.extend(checked(&[START]));
        filter
    }

    /// Allows one more call, by its number: one of the constants `SYS_*` of the crate `libc`.
    ///
    /// It is allowed with all arguments, also if the tables allow it with some: `SYS_openat` then
    /// opens files for writing, and `SYS_clone` and `SYS_clone3` start processes.
    #[must_use]
    pub fn allow(mut self, call: c_long) -> SyscallFilter {
        self.calls.insert(call, Arguments::Any);
        self
    }

    /// Has a refused call fail with `EPERM`, where it would kill the process otherwise.
    ///
    /// For plug-ins that can do without what is refused, and as a first step to find out what a
    /// program calls, for example by strace(1). A program that ignores the error goes on, perhaps
    /// in a state that its author has never seen; so a kill is the default. If several filters are
    /// in force, a call is allowed only if all of them allow it, and it kills if one of them says
    /// so.
    ///
    /// ```
    /// use messageport::{SyscallFilter, Worker};
    /// use std::process::Command;
    ///
    /// let filter = SyscallFilter::program().refuse_with_eperm();
    /// let mut command = Command::new("mkdir");
    /// command.arg("/tmp/refused").stderr(std::process::Stdio::null());
    /// let mut worker = Worker::builder(command).filter(&filter).spawn()?;
    /// assert_eq!(worker.wait()?.code(), Some(1)); // `mkdir` reports that it is not permitted
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn refuse_with_eperm(mut self) -> SyscallFilter {
        self.fails = true;
        self
    }

    /// Whether a call is allowed, at least with some arguments.
    #[must_use]
    pub fn allows(&self, call: c_long) -> bool {
        self.calls.contains_key(&call)
    }

    /// Puts the filter in force in all threads of this process.
    ///
    /// # Errors
    /// [`SystemError`] of `seccomp`, if the kernel has no filters, or EBUSY if another thread has a
    /// filter that this one has not. Nothing has changed then, except `PR_SET_NO_NEW_PRIVS`.
    pub fn apply(&self) -> Result<(), SystemError> {
        confine::filter_this_process(self.compile())
    }

    /// The program that the kernel runs at each call.
    pub(crate) fn compile(&self) -> Vec<Instruction> {
        let rules_for = |(call, arguments): (&c_long, &Arguments)| match arguments {
            Arguments::Any => (*call, Vec::new()),
            Arguments::Checked => (*call, rules_of(*call)),
        };
        let rules: BTreeMap<_, _> = self.calls.iter().map(rules_for).collect();
        let refused = match self.fails {
            true => SeccompAction::Errno(libc::EPERM as u32),
            false => SeccompAction::KillProcess,
        };
        let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, ARCHITECTURE);
        let program = filter.and_then(BpfProgram::try_from);
        let program = program.expect("a table of a few hundred calls is a valid filter");
        let instruction = |it: seccompiler::sock_filter| Instruction {
            code: it.code,
            jt: it.jt,
            jf: it.jf,
            k: it.k,
        };
        let start = if self.allows(libc::SYS_clone3) { &[][..] } else { &WITHOUT_CLONE3 };
        start.iter().copied().chain(program.into_iter().map(instruction)).collect()
    }
}

fn checked(tables: &'static [&'static [c_long]]) -> impl Iterator<Item = (c_long, Arguments)> {
    tables.iter().copied().flatten().map(|call| (*call, Arguments::Checked))
}

/// Ends with ENOSYS if the call is clone3, before the filter itself, which has one answer for all
/// refused calls. Its number is the same for all architectures.
const WITHOUT_CLONE3: [Instruction; 3] = [
    // The number of the call is the first field of `seccomp_data`.
    Instruction { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: 0 },
    Instruction {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: 1,
        k: libc::SYS_clone3 as u32,
    },
    Instruction {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
    },
];

/// For which arguments a call is allowed, each a rule of its own; for all of them without a rule.
fn rules_of(call: c_long) -> Vec<SeccompRule> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let among = |argument, values: &[u32]| {
        values.iter().map(|value| rule(&[(argument, Eq, *value)])).collect()
    };
    match call {
        libc::SYS_madvise => vec![rule(&[(2, Ne, libc::MADV_REMOVE as u32)])],
        // Neither for writing, nor to make or shorten a file.
        libc::SYS_openat => vec![rule(&[(2, MaskedEq(WRITES as u64), libc::O_RDONLY as u32)])],
        // Of all architectures above, the flags are the first argument.
        libc::SYS_clone => vec![rule(&[(0, MaskedEq(PROCESS as u64), THREAD as u32)])],
        libc::SYS_fcntl => among(1, &FCNTL),
        libc::SYS_ioctl => among(1, &IOCTL),
        libc::SYS_prctl => {
            let mut rules: Vec<_> = among(0, &PRCTL);
            // To be killed with its parent is what it may ask for, and not the contrary.
            let kill = (1, Eq, libc::SIGKILL as u32);
            rules.push(rule(&[(0, Eq, libc::PR_SET_PDEATHSIG as u32), kill]));
            rules
        }
        // Zero stands for the process that calls. Others can be killed by such a limit.
        libc::SYS_prlimit64 => among(0, &[0]),
        // Signals to itself, as `abort` sends one.
        libc::SYS_tgkill => among(0, &[OWN_ID]),
        libc::SYS_socketpair => {
            let kind = |kind| {
                let is_unix = (0, Eq, libc::AF_UNIX as u32);
                rule(&[is_unix, (1, MaskedEq(SOCKET_KIND), kind as u32)])
            };
            vec![kind(libc::SOCK_STREAM), kind(libc::SOCK_SEQPACKET)]
        }
        _ => Vec::new(),
    }
}

/// Allows a call all of whose named arguments are so. The kernel uses the lower half of each.
fn rule(conditions: &[(u8, SeccompCmpOp, u32)]) -> SeccompRule {
    let condition = |(argument, test, value): &(u8, SeccompCmpOp, u32)| {
        let length = SeccompCmpArgLen::Dword;
        SeccompCondition::new(*argument, length, test.clone(), u64::from(*value))
    };
    let rule = conditions.iter().map(condition).collect::<Result<_, _>>();
    rule.and_then(SeccompRule::new).expect("a call has six arguments")
}

/// What descriptors are duplicated, sealed and described by, and the locks by which users of a pool
/// are found. Not `F_SETOWN` and `F_SETSIG`, which send any signal to any process of the user, nor
/// leases and locks that delay other processes.
const FCNTL: [u32; 10] = [
    libc::F_DUPFD as u32,
    libc::F_DUPFD_CLOEXEC as u32,
    libc::F_GETFD as u32,
    libc::F_SETFD as u32,
    libc::F_GETFL as u32,
    libc::F_SETFL as u32,
    libc::F_ADD_SEALS as u32,
    libc::F_GET_SEALS as u32,
    libc::F_OFD_GETLK as u32,
    libc::F_OFD_SETLK as u32,
];

/// How many bytes wait, whether it is a terminal and how large, flags of the descriptor. Not
/// `TIOCSTI`, which types into the terminal of the host, nor `FIOSETOWN`.
const IOCTL: [u32; 7] = [
    libc::FIONREAD as u32,
    libc::FIONBIO as u32,
    libc::FIOCLEX as u32,
    libc::FIONCLEX as u32,
    libc::TCGETS as u32,
    libc::TCGETS2 as u32,
    libc::TIOCGWINSZ as u32,
];

/// Names of threads and of memory, and what precedes a filter.
const PRCTL: [u32; 4] = [
    libc::PR_SET_NAME as u32,
    libc::PR_GET_NAME as u32,
    libc::PR_SET_VMA as u32,
    libc::PR_SET_NO_NEW_PRIVS as u32,
];

/// The bits of a socket's type without its flags. Not datagrams: such a socket of a pair sends to
/// any other one of the system that has a name.
const SOCKET_KIND: u64 = 0xf;

const WRITES: libc::c_int = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;
/// Flags that every thread of this process has.
const THREAD: libc::c_int = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
/// These, and flags that no thread of a C library has: namespaces, and what is about processes.
const PROCESS: libc::c_int = THREAD
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_PTRACE
    | libc::CLONE_UNTRACED
    | libc::CLONE_VFORK
    | libc::CLONE_PARENT;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: TargetArch = TargetArch::aarch64;
#[cfg(target_arch = "riscv64")]
const ARCHITECTURE: TargetArch = TargetArch::riscv64;

/// The first table of `docs/safety.md`, as far as a worker with a port needs it.
const PORT: &[c_long] = &[
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_eventfd2,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockopt,
    libc::SYS_ioctl,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_openat,
    libc::SYS_ppoll,
    libc::SYS_prlimit64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sched_getaffinity,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
    libc::SYS_statx,
    libc::SYS_write,
    CACHESTAT,
];

/// The number is the same for all architectures that have the call; `libc` does not have it.
const CACHESTAT: c_long = 451;

/// The second table, without the start of programs.
const RUNTIME: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clone,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getcwd,
    libc::SYS_gettid,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_prctl,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(not(target_arch = "x86_64"))]
    libc::SYS_readlinkat,
];

/// What a program needs to start, and to apply a filter of its own.
const START: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_rt_sigaction,
    libc::SYS_seccomp,
    libc::SYS_set_tid_address,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_arch_prctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];
