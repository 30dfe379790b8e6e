//! Which system calls a process may make: a seccomp filter from the crate's own table.

use crate::error::SystemError;
use crate::os::process::confine::{self, Instruction};
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::{BTreeMap, BTreeSet};

/// A set of system calls that a process may make; any other call kills it, by SIGSYS (seccomp(2)).
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
/// Threads are allowed, and with them `clone3`, so a process can also fork: limit that by the
/// `pids.max` of a [`cgroup`](crate::WorkerBuilder::cgroup).
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
    calls: BTreeSet<c_long>,
}

impl SyscallFilter {
    /// What a running program needs that takes a port from its parent, receives and posts messages
    /// and transferables, answers requests, allocates, has threads, writes to its standard streams,
    /// and ends.
    pub fn port() -> SyscallFilter {
        let tables = [PORT, RUNTIME];
        SyscallFilter { calls: tables.into_iter().flatten().copied().collect() }
    }

    /// The same, and what a dynamically linked program needs to start, and to
    /// [`apply`](Self::apply) a filter of its own.
    pub fn program() -> SyscallFilter {
        let mut filter = SyscallFilter::port();
        filter.calls.extend(START);
        filter
    }

    /// Allows one more call, by its number: one of the constants `SYS_*` of the crate `libc`.
    #[must_use]
    pub fn allow(mut self, call: c_long) -> SyscallFilter {
        self.calls.insert(call);
        self
    }

    /// Whether a call is allowed, at least with some arguments.
    #[must_use]
    pub fn allows(&self, call: c_long) -> bool {
        self.calls.contains(&call)
    }

    /// Puts the filter in force in all threads of this process.
    ///
    /// # Errors
    /// [`SystemError`] of `seccomp`, if the kernel has no filters, or EBUSY if another thread has a
    /// filter that this one has not. Nothing has changed then, except `PR_SET_NO_NEW_PRIVS`.
    pub fn apply(&self) -> Result<(), SystemError> {
        confine::filter_this_process(&self.compile())
    }

    /// The program that the kernel runs at each call.
    pub(crate) fn compile(&self) -> Vec<Instruction> {
        let rules: BTreeMap<_, _> =
            self.calls.iter().map(|call| (*call, rules_of(*call))).collect();
        let (refused, allowed) = (SeccompAction::KillProcess, SeccompAction::Allow);
        let filter = SeccompFilter::new(rules, refused, allowed, ARCHITECTURE);
        let program = filter.and_then(BpfProgram::try_from);
        let program = program.expect("a table of a few hundred calls is a valid filter");
        let instruction = |it: seccompiler::sock_filter| Instruction {
            code: it.code,
            jt: it.jt,
            jf: it.jf,
            k: it.k,
        };
        program.into_iter().map(instruction).collect()
    }
}

/// For which arguments a call is allowed; for all of them without a rule.
fn rules_of(call: c_long) -> Vec<SeccompRule> {
    let condition = match call {
        libc::SYS_madvise => (2, SeccompCmpOp::Ne, libc::MADV_REMOVE),
        // Neither for writing, nor to make or shorten a file.
        libc::SYS_openat => (2, SeccompCmpOp::MaskedEq(WRITES as u64), libc::O_RDONLY),
        _ => return Vec::new(),
    };
    let (argument, test, value) = condition;
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, test, value as u64);
    let rule = condition.and_then(|condition| SeccompRule::new(vec![condition]));
    vec![rule.expect("a call has six arguments")]
}

const WRITES: libc::c_int = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: TargetArch = TargetArch::aarch64;
#[cfg(target_arch = "riscv64")]
const ARCHITECTURE: TargetArch = TargetArch::riscv64;

/// The first table of `docs/safety.md`, as far as a worker with a port needs it.
const PORT: &[c_long] = &[
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
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
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
];

/// What a program needs to start, and to apply a filter of its own.
const START: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    #[cfg(not(target_arch = "x86_64"))]
    libc::SYS_readlinkat,
    libc::SYS_rt_sigaction,
    libc::SYS_seccomp,
    libc::SYS_set_tid_address,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_arch_prctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
];
