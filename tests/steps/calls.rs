//! The system calls that the crate makes, and how the kernel may refuse each.

use libc::user_regs_struct;
use nix::errno::Errno::{self, *};

/// What a refusal does to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The kernel does nothing.
    Skip,
    /// The kernel does what it was asked for, and then says that it failed: so close(2) is.
    DoneAllTheSame,
}

/// A row of the table: the errors that the manual page of the call lists, without those that only a
/// wrong argument brings. An empty list: the call cannot fail, or not so that a program could go on.
pub struct Row {
    pub name: &'static str,
    number: i64,
    pub errors: &'static [Errno],
    pub refusal: Refusal,
}

const fn row(name: &'static str, number: i64, errors: &'static [Errno]) -> Row {
    Row { name, number, errors, refusal: Refusal::Skip }
}

/// Whether a call is one of the standard library's own, which panics or aborts if it fails: memory
/// of the allocator, and the socket by which it starts a child. Calls of this crate on a socket
/// never wait.
pub fn is_of_std(registers: &user_regs_struct) -> bool {
    let has = |register: u64, flag: libc::c_int| register & flag as u64 != 0;
    match registers.orig_rax as i64 {
        libc::SYS_mmap => {
            has(registers.r10, libc::MAP_ANONYMOUS) && !has(registers.r10, libc::MAP_STACK)
        }
        libc::SYS_recvfrom | libc::SYS_sendto => !has(registers.r10, libc::MSG_DONTWAIT),
        libc::SYS_recvmsg | libc::SYS_sendmsg => !has(registers.rdx, libc::MSG_DONTWAIT),
        _ => false,
    }
}

/// The row of a call.
pub fn row_of(registers: &user_regs_struct) -> &'static Row {
    let number = registers.orig_rax as i64;
    ROWS.iter().find(|row| row.number == number).unwrap_or_else(|| {
        panic!("the call {number} is made and has no row: add one to tests/steps/calls.rs")
    })
}

static ROWS: &[Row] = &[
    row("accept4", libc::SYS_accept4, &[EINTR, EAGAIN, ECONNABORTED, EMFILE, ENFILE, ENOMEM]),
    row("bind", libc::SYS_bind, &[EACCES, ENOMEM, EADDRINUSE]),
    row("brk", libc::SYS_brk, &[]),
    row("cachestat", 451, &[ENOSYS, EPERM]),
    row("chmod", libc::SYS_chmod, &[EPERM, ENOMEM]),
    row("clock_nanosleep", libc::SYS_clock_nanosleep, &[EINTR]),
    row("clone", libc::SYS_clone, &[EAGAIN, ENOMEM]),
    row("clone3", libc::SYS_clone3, &[EAGAIN, ENOMEM]),
    // Not EIO, at which the standard library panics if it closes a directory.
    Row { refusal: Refusal::DoneAllTheSame, ..row("close", libc::SYS_close, &[EINTR]) },
    // Not ECONNREFUSED, ENOENT or EACCES, which say that no process of this user listens there.
    row("connect", libc::SYS_connect, &[EINTR, EAGAIN]),
    row("epoll_create1", libc::SYS_epoll_create1, &[EMFILE, ENFILE, ENOMEM]),
    row("epoll_ctl", libc::SYS_epoll_ctl, &[ENOMEM, ENOSPC]),
    row("epoll_wait", libc::SYS_epoll_wait, &[EINTR]),
    row("eventfd2", libc::SYS_eventfd2, &[EMFILE, ENFILE, ENOMEM]),
    row("fallocate", libc::SYS_fallocate, &[EINTR, ENOSPC]),
    row("fchmod", libc::SYS_fchmod, &[EPERM, EIO]),
    row("fchmodat", libc::SYS_fchmodat, &[EPERM, EIO]),
    row("fcntl", libc::SYS_fcntl, &[EMFILE, EBUSY]),
    row("flock", libc::SYS_flock, &[EINTR, ENOLCK]),
    row("fstat", libc::SYS_fstat, &[ENOMEM]),
    row("fstatfs", libc::SYS_fstatfs, &[EINTR, EIO]),
    row("ftruncate", libc::SYS_ftruncate, &[EINTR, EIO, ENOSPC]),
    row("futex", libc::SYS_futex, &[EINTR, EAGAIN]),
    row("getcwd", libc::SYS_getcwd, &[EACCES, ENOENT]),
    row("getdents64", libc::SYS_getdents64, &[]),
    row("geteuid", libc::SYS_geteuid, &[]),
    row("getpid", libc::SYS_getpid, &[]),
    row("getppid", libc::SYS_getppid, &[]),
    row("getrandom", libc::SYS_getrandom, &[EINTR]),
    row("getsockopt", libc::SYS_getsockopt, &[]),
    row("gettid", libc::SYS_gettid, &[]),
    row("getuid", libc::SYS_getuid, &[]),
    row("ioctl", libc::SYS_ioctl, &[ENOTTY]),
    row("kill", libc::SYS_kill, &[]),
    row("listen", libc::SYS_listen, &[EADDRINUSE]),
    row("lseek", libc::SYS_lseek, &[EINVAL]),
    row("madvise", libc::SYS_madvise, &[EAGAIN, ENOMEM, EINVAL, EINTR]),
    row("membarrier", libc::SYS_membarrier, &[ENOSYS, EPERM]),
    row("memfd_create", libc::SYS_memfd_create, &[EMFILE, ENFILE, ENOMEM, EINVAL, EACCES]),
    row("mkdir", libc::SYS_mkdir, &[EACCES, ENOSPC, EDQUOT, EROFS]),
    row("mmap", libc::SYS_mmap, &[ENOMEM, EAGAIN, ENFILE, EPERM]),
    row("mprotect", libc::SYS_mprotect, &[]),
    row("mremap", libc::SYS_mremap, &[]),
    row("munmap", libc::SYS_munmap, &[]),
    row("newfstatat", libc::SYS_newfstatat, &[ENOMEM, EACCES]),
    row("openat", libc::SYS_openat, &[EINTR, EMFILE, ENFILE, ENOMEM, EACCES, ENOSPC]),
    row("pidfd_open", libc::SYS_pidfd_open, &[EMFILE, ENFILE, ENOMEM]),
    row("pidfd_send_signal", libc::SYS_pidfd_send_signal, &[EPERM]),
    row("pipe2", libc::SYS_pipe2, &[EMFILE, ENFILE]),
    row("poll", libc::SYS_poll, &[EINTR, ENOMEM]),
    row("ppoll", libc::SYS_ppoll, &[EINTR, ENOMEM]),
    row("prctl", libc::SYS_prctl, &[]),
    row("prlimit64", libc::SYS_prlimit64, &[EPERM]),
    row("pwrite64", libc::SYS_pwrite64, &[EINTR, ENOSPC, EIO]),
    row("read", libc::SYS_read, &[EINTR, EAGAIN, EIO]),
    row("readlink", libc::SYS_readlink, &[EACCES, EIO]),
    row("recvfrom", libc::SYS_recvfrom, &[EINTR, EAGAIN, ENOMEM, ECONNRESET]),
    // Not EAGAIN, which says that nothing is there: a packet is there before its record is.
    row("recvmsg", libc::SYS_recvmsg, &[EINTR, ENOMEM, ECONNRESET]),
    row("renameat", libc::SYS_renameat, &[EACCES, ENOSPC, ENOMEM]),
    row("renameat2", libc::SYS_renameat2, &[EACCES, ENOSPC, ENOMEM]),
    row("restart_syscall", libc::SYS_restart_syscall, &[EINTR]),
    row("rmdir", libc::SYS_rmdir, &[EACCES, EBUSY]),
    row("rseq", libc::SYS_rseq, &[]),
    row("rt_sigaction", libc::SYS_rt_sigaction, &[]),
    row("rt_sigprocmask", libc::SYS_rt_sigprocmask, &[]),
    row("rt_sigreturn", libc::SYS_rt_sigreturn, &[]),
    row("sched_getaffinity", libc::SYS_sched_getaffinity, &[EPERM]),
    row("sched_yield", libc::SYS_sched_yield, &[]),
    row("sendmsg", libc::SYS_sendmsg, SENDMSG),
    row("sendto", libc::SYS_sendto, &[EINTR, EAGAIN, ENOBUFS, ENOMEM]),
    row("set_robust_list", libc::SYS_set_robust_list, &[]),
    row("setsockopt", libc::SYS_setsockopt, &[ENOMEM, EPERM, ENOPROTOOPT]),
    row("shutdown", libc::SYS_shutdown, &[ENOTCONN]),
    row("sigaltstack", libc::SYS_sigaltstack, &[]),
    row("socket", libc::SYS_socket, &[EMFILE, ENFILE, ENOMEM, EACCES]),
    row("socketpair", libc::SYS_socketpair, &[EMFILE, ENFILE, ENOMEM]),
    row("statx", libc::SYS_statx, &[ENOMEM, EACCES]),
    row("timerfd_create", libc::SYS_timerfd_create, &[EMFILE, ENFILE, ENOMEM]),
    row("timerfd_settime", libc::SYS_timerfd_settime, &[]),
    row("unlink", libc::SYS_unlink, &[EACCES, EBUSY]),
    row("unlinkat", libc::SYS_unlinkat, &[EACCES, EBUSY]),
    row("vfork", libc::SYS_vfork, &[EAGAIN, ENOMEM]),
    row("wait4", libc::SYS_wait4, &[EINTR]),
    row("waitid", libc::SYS_waitid, &[EINTR]),
    row("write", libc::SYS_write, &[EINTR, EAGAIN, ENOSPC]),
];

// EPIPE and ECONNRESET say that the peer has gone, and EPERM that it takes no descriptors: other
// tests bring these about.
const SENDMSG: &[Errno] = &[EINTR, EAGAIN, ENOBUFS, ENOMEM, ETOOMANYREFS];
