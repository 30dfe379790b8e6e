//! What starting and ending a child takes: one inherited descriptor, pidfd_open(2), waitid(2).
#![allow(unsafe_code)]

use crate::error::SystemError;
use crate::os::{named, poll};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::stat::fstat;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Starts `command` with `descriptor` open in the child, under the number that `variable` names.
/// No other child of this process inherits it.
pub(crate) fn spawn_with_descriptor(
    mut command: Command,
    variable: &str,
    descriptor: BorrowedFd<'_>,
) -> Result<Child, SystemError> {
    let number = descriptor.as_raw_fd();
    let inode = inode(descriptor)?;
    command.env(variable, format!("{number}:{inode}"));
    let keep_open = move || {
        // SAFETY: the call takes integers; it is async-signal-safe.
        match unsafe { libc::fcntl(number, libc::F_SETFD, 0) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: the closure makes one async-signal-safe call, and neither allocates nor locks. The
    // descriptor is open until `spawn` returns, which is when the child has run the closure.
    unsafe { command.pre_exec(keep_open) };
    command.spawn().map_err(|source| SystemError { call: "spawn", source })
}

/// Why an inherited descriptor is not given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unclaimed {
    /// It was, before.
    Taken,
    /// It is not here: the value was meant for another process, one that passed its environment on.
    NotOurs,
}

/// Takes the descriptor that `value` names, as `spawn_with_descriptor` wrote it into the
/// environment: once in the life of this process, which nothing else here can own.
pub(crate) fn claim(value: &str) -> Result<OwnedFd, Unclaimed> {
    static TAKEN: Mutex<bool> = Mutex::new(false);
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if *taken {
        return Err(Unclaimed::Taken);
    }
    let number = inherited(value).ok_or(Unclaimed::NotOurs)?;
    *taken = true;
    // SAFETY: it is open, it is the one that was left for us, and under the lock it is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The number of the inherited descriptor, which is closed on exec from now on.
fn inherited(value: &str) -> Option<RawFd> {
    let (number, expected) = value.split_once(':')?;
    let number: RawFd = number.parse().ok().filter(|number| *number > 2)?;
    // SAFETY: borrowed for calls which answer with EBADF if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    // What came through exec has no close-on-exec flag; what this process has opened since has it,
    // as far as the standard library opened it. The inode tells the rest apart.
    let flags = FdFlag::from_bits_retain(fcntl(borrowed, FcntlArg::F_GETFD).ok()?);
    if flags.contains(FdFlag::FD_CLOEXEC)
        || inode(borrowed).ok()? != expected.parse::<u64>().ok()?
    {
        return None;
    }
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    Some(number)
}

fn inode(descriptor: BorrowedFd<'_>) -> Result<u64, SystemError> {
    fstat(descriptor).map(|stat| stat.st_ino).map_err(named("fstat"))
}

/// Waits until `child` has ended, at most for `timeout`. Says whether it has. Does not reap it.
pub(crate) fn wait_exit(child: &Child, timeout: Duration) -> Result<bool, SystemError> {
    let deadline = Instant::now() + timeout;
    // Where a sandbox refuses the call, the child is looked at from time to time.
    let Ok(pidfd) = pidfd_of(child) else { return wait_exit_by_looking(child, deadline) };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        poll::wait_readable(&[pidfd.as_fd()], Some(left))?;
        let ended = poll::is_readable(pidfd.as_fd());
        if ended || left.is_zero() {
            return Ok(ended);
        }
    }
}

fn pidfd_of(child: &Child) -> Result<OwnedFd, SystemError> {
    // SAFETY: the call takes two integers. The child is not reaped yet, so the number is its own.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id() as libc::pid_t, 0) };
    let number = Errno::result(answer).map_err(named("pidfd_open"))? as RawFd;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn wait_exit_by_looking(child: &Child, deadline: Instant) -> Result<bool, SystemError> {
    let id = || Id::Pid(Pid::from_raw(child.id() as libc::pid_t));
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    loop {
        let status = waitid(id(), look).map_err(named("waitid"))?;
        let ended = status != WaitStatus::StillAlive;
        if ended || Instant::now() >= deadline {
            return Ok(ended);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
