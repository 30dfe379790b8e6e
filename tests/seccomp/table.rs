//! The tables of system calls in `docs/safety.md`, read from the document itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use libc::c_long;

/// The title of the part of the document that holds the tables.
const PART: &str = "## System calls in use";

/// Every call that the two tables name.
pub fn calls_in_the_document() -> BTreeSet<c_long> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/safety.md");
    let text = fs::read_to_string(path).expect("the document is there");
    let (_, part) = text.split_once(PART).expect("the document has the part");
    let part = part.split_once("\n## ").map_or(part, |(part, _)| part);
    let calls = calls_in(part).unwrap_or_else(|name| panic!("{name} is no call that is known"));
    assert!(calls.len() > 40, "{calls:?}");
    calls
}

/// The numbers of the calls in the tables' last columns; or the name of one that is none.
fn calls_in(part: &str) -> Result<BTreeSet<c_long>, String> {
    let rows = part.lines().filter_map(|line| line.strip_prefix("| "));
    let last = rows.filter_map(|row| row.trim_end_matches([' ', '|']).rsplit_once(" | "));
    let names = last.flat_map(|(_, calls)| calls.split('`').skip(1).step_by(2));
    // Others are the names of flags, and paths.
    let is_call = |name: &&str| name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_'));
    names.filter(is_call).map(|name| number(name).ok_or_else(|| name.to_owned())).collect()
}

/// The number of a call. A name that the document gains is added here.
fn number(name: &str) -> Option<c_long> {
    let numbers = [
        ("accept4", libc::SYS_accept4),
        ("access", libc::SYS_access),
        ("arch_prctl", libc::SYS_arch_prctl),
        ("bind", libc::SYS_bind),
        ("brk", libc::SYS_brk),
        ("cachestat", 451),
        ("chdir", libc::SYS_chdir),
        ("chmod", libc::SYS_chmod),
        ("clock_gettime", libc::SYS_clock_gettime),
        ("clock_nanosleep", libc::SYS_clock_nanosleep),
        ("clone", libc::SYS_clone),
        ("clone3", libc::SYS_clone3),
        ("close", libc::SYS_close),
        ("connect", libc::SYS_connect),
        ("dup2", libc::SYS_dup2),
        ("dup3", libc::SYS_dup3),
        ("epoll_create1", libc::SYS_epoll_create1),
        ("epoll_ctl", libc::SYS_epoll_ctl),
        ("epoll_pwait", libc::SYS_epoll_pwait),
        ("epoll_wait", libc::SYS_epoll_wait),
        ("eventfd2", libc::SYS_eventfd2),
        ("execve", libc::SYS_execve),
        ("exit", libc::SYS_exit),
        ("exit_group", libc::SYS_exit_group),
        ("fchmod", libc::SYS_fchmod),
        ("fchmodat", libc::SYS_fchmodat),
        ("fcntl", libc::SYS_fcntl),
        ("flock", libc::SYS_flock),
        ("fstat", libc::SYS_fstat),
        ("fstatfs", libc::SYS_fstatfs),
        ("ftruncate", libc::SYS_ftruncate),
        ("futex", libc::SYS_futex),
        ("getcwd", libc::SYS_getcwd),
        ("getdents64", libc::SYS_getdents64),
        ("geteuid", libc::SYS_geteuid),
        ("getpid", libc::SYS_getpid),
        ("getppid", libc::SYS_getppid),
        ("getrandom", libc::SYS_getrandom),
        ("getsockname", libc::SYS_getsockname),
        ("getsockopt", libc::SYS_getsockopt),
        ("gettid", libc::SYS_gettid),
        ("ioctl", libc::SYS_ioctl),
        ("kill", libc::SYS_kill),
        ("listen", libc::SYS_listen),
        ("lseek", libc::SYS_lseek),
        ("madvise", libc::SYS_madvise),
        ("membarrier", libc::SYS_membarrier),
        ("memfd_create", libc::SYS_memfd_create),
        ("mkdir", libc::SYS_mkdir),
        ("mmap", libc::SYS_mmap),
        ("mprotect", libc::SYS_mprotect),
        ("mremap", libc::SYS_mremap),
        ("munmap", libc::SYS_munmap),
        ("newfstatat", libc::SYS_newfstatat),
        ("openat", libc::SYS_openat),
        ("pidfd_open", libc::SYS_pidfd_open),
        ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
        ("pipe2", libc::SYS_pipe2),
        ("poll", libc::SYS_poll),
        ("ppoll", libc::SYS_ppoll),
        ("pread64", libc::SYS_pread64),
        ("prctl", libc::SYS_prctl),
        ("prlimit64", libc::SYS_prlimit64),
        ("pwrite64", libc::SYS_pwrite64),
        ("read", libc::SYS_read),
        ("readlink", libc::SYS_readlink),
        ("readlinkat", libc::SYS_readlinkat),
        ("recvfrom", libc::SYS_recvfrom),
        ("recvmsg", libc::SYS_recvmsg),
        ("renameat", libc::SYS_renameat),
        ("restart_syscall", libc::SYS_restart_syscall),
        ("rmdir", libc::SYS_rmdir),
        ("rseq", libc::SYS_rseq),
        ("rt_sigaction", libc::SYS_rt_sigaction),
        ("rt_sigprocmask", libc::SYS_rt_sigprocmask),
        ("rt_sigreturn", libc::SYS_rt_sigreturn),
        ("sched_getaffinity", libc::SYS_sched_getaffinity),
        ("sched_yield", libc::SYS_sched_yield),
        ("seccomp", libc::SYS_seccomp),
        ("sendmsg", libc::SYS_sendmsg),
        ("sendto", libc::SYS_sendto),
        ("set_robust_list", libc::SYS_set_robust_list),
        ("set_tid_address", libc::SYS_set_tid_address),
        ("setpgid", libc::SYS_setpgid),
        ("setsockopt", libc::SYS_setsockopt),
        ("shutdown", libc::SYS_shutdown),
        ("sigaltstack", libc::SYS_sigaltstack),
        ("socket", libc::SYS_socket),
        ("socketpair", libc::SYS_socketpair),
        ("statx", libc::SYS_statx),
        ("tgkill", libc::SYS_tgkill),
        ("timerfd_create", libc::SYS_timerfd_create),
        ("timerfd_settime", libc::SYS_timerfd_settime),
        ("uname", libc::SYS_uname),
        ("unlink", libc::SYS_unlink),
        ("unlinkat", libc::SYS_unlinkat),
        ("vfork", libc::SYS_vfork),
        ("wait4", libc::SYS_wait4),
        ("waitid", libc::SYS_waitid),
        ("write", libc::SYS_write),
        ("writev", libc::SYS_writev),
    ];
    numbers.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

#[test]
fn the_calls_of_a_table_are_found_and_a_wrong_name_is_told() {
    let part = "| When | Calls |\n|---|---|\n| `x` | `read` (`FLAG`), `write`; `mmap` |\n\n`brk`\n";
    let expected = [libc::SYS_read, libc::SYS_write, libc::SYS_mmap];
    assert_eq!(calls_in(part), Ok(BTreeSet::from(expected)));
    assert_eq!(calls_in("| x | `raed` |"), Err("raed".to_owned()));
}
