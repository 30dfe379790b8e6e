//! What starting and ending a child takes: one inherited descriptor, pidfd_open(2).
#![allow(unsafe_code)]

use crate::error::SystemError;
use crate::os::{named, poll};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Duration;

/// Starts `command` with `descriptor` open in the child, under the number that `variable` names.
/// No other child of this process inherits it.
pub(crate) fn spawn_with_descriptor(
    mut command: Command,
    variable: &str,
    descriptor: BorrowedFd<'_>,
) -> Result<Child, SystemError> {
    let number = descriptor.as_raw_fd();
    command.env(variable, number.to_string());
    // SAFETY: fcntl is async-signal-safe, and the closure neither allocates nor locks. The
    // descriptor is open until `spawn` returns, which is when the child has run the closure.
    unsafe {
        command.pre_exec(move || {
            if libc::fcntl(number, libc::F_SETFD, 0) == -1 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        })
    };
    command.spawn().map_err(|source| SystemError { call: "spawn", source })
}

/// Takes the descriptor with this number, which the process that started this one left open.
///
/// # Safety
/// Nothing else in this process may own the descriptor: it was named by the parent, and this is
/// called once.
pub(crate) unsafe fn claim(number: RawFd) -> Result<OwnedFd, SystemError> {
    if number <= 2 {
        return Err(named("fcntl(F_SETFD)")(Errno::EBADF));
    }
    // SAFETY: borrowed for one call, which answers with EBADF if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(named("fcntl(F_SETFD)"))?;
    // SAFETY: it is open, and the caller says that nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Waits until `child` has ended, at most for `timeout`. Says whether it has. Does not reap it.
pub(crate) fn wait_exit(child: &Child, timeout: Duration) -> Result<bool, SystemError> {
    // SAFETY: the call takes two integers. The child is not reaped yet, so the number is its own.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id() as libc::pid_t, 0) };
    let number = Errno::result(answer).map_err(named("pidfd_open"))? as RawFd;
    // SAFETY: the kernel has just made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(number) };
    let deadline = std::time::Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        poll::wait_readable(&[pidfd.as_fd()], Some(left))?;
        let ended = poll::is_readable(pidfd.as_fd());
        if ended || left.is_zero() {
            return Ok(ended);
        }
    }
}
