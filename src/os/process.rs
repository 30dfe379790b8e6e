//! Starting, waiting for and ending a child process: pidfd_open(2), waitid(2),
//! pidfd_send_signal(2). It also distinguishes a process from its forked copies.
//!
//! A process id may belong to an unrelated process as soon as the child was reaped, and another
//! part of the program may reap it at any time. So a child is signalled and waited for through a
//! pidfd, which identifies that process forever, and never by process id.
#![allow(unsafe_code)]

pub(crate) mod confine;
mod endings;
mod spawner;
#[cfg(test)]
mod tests;

use crate::error::SystemError;
use crate::os::clock::Deadline;
use crate::os::process::confine::{Confinement, Step};
use crate::os::reaper::{self, Foreign};
use crate::os::socket::{self, Received};
use crate::os::{named, poll};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::stat::fstat;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::Duration;

/// A process that this one has started, identified by a pidfd.
#[derive(Debug)]
pub(crate) struct ChildProcess {
    child: Child,
    pidfd: OwnedFd,
    /// Set once the child was reaped here.
    status: Option<ExitStatus>,
}

/// Starts `command` with `descriptor` open in the child, under the number that `variable` contains.
/// No other child of this process inherits it. The child is confined before it runs its program.
///
/// The child itself opens its pidfd and sends it back. If this process called `pidfd_open` with the
/// process id, it would be a race: where SIGCHLD is ignored, or another thread reaps all children,
/// the id may belong to another process by then.
pub(crate) fn spawn_with_descriptor(
    command: Command,
    variable: &'static str,
    descriptor: OwnedFd,
    confinement: Confinement,
) -> Result<ChildProcess, SystemError> {
    reap_leftovers();
    match confinement.ends_with_parent {
        true => spawner::run(move || spawn(command, variable, descriptor, confinement))?,
        false => spawn(command, variable, descriptor, confinement),
    }
}

fn spawn(
    mut command: Command,
    variable: &str,
    descriptor: OwnedFd,
    mut confinement: Confinement,
) -> Result<ChildProcess, SystemError> {
    let number = descriptor.as_raw_fd();
    let inode = inode(descriptor.as_fd())?;
    command.env(variable, format!("{number}:{inode}"));
    let (ours, theirs) = socket::packet_pair()?;
    let (reply, parent) = (theirs.as_raw_fd(), std::process::id());
    let prepare = move || {
        // SAFETY: the call takes integers; it is async-signal-safe.
        Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, 0) })?;
        // Before the limits, which may leave no room for a descriptor.
        send_own_pidfd(reply)?;
        confinement.apply(parent).map_err(|(step, errno)| {
            send_byte(reply, step as u8);
            errno
        })?;
        Ok(())
    };
    // SAFETY: the closure makes async-signal-safe calls only, and neither allocates nor locks. The
    // descriptors are open until `spawn` returns, which is when the child has run the closure.
    unsafe { command.pre_exec(prepare) };
    let spawned = command.spawn();
    drop((theirs, descriptor, command));
    match spawned {
        Ok(child) => match receive_pidfd(ours) {
            Ok(pidfd) => Ok(ChildProcess { child, pidfd, status: None }),
            Err((ours, error)) => {
                reap_later(Leftover::Unnamed(ours));
                Err(error)
            }
        },
        Err(source) => Err(SystemError { call: refused_step(&ours).unwrap_or("spawn"), source }),
    }
}

/// Which step of the closure was refused, if one was: a packet without a descriptor names it.
fn refused_step(socket: &OwnedFd) -> Option<&'static str> {
    let mut byte = [0; 2];
    loop {
        match socket::receive(socket.as_fd(), &mut byte, 1) {
            Ok(Received::Packet(1, descriptors)) if descriptors.is_empty() => {
                return Step::of_byte(byte[0]).map(Step::call);
            }
            Ok(Received::Packet(1, _)) => {}
            // The child has ended.
            _ => return None,
        }
    }
}

/// In the forked child: says which step was refused.
fn send_byte(socket: RawFd, byte: u8) {
    // No signal can come: this process has a copy of the other end, too.
    // SAFETY: the byte is valid for the call.
    let _ = unsafe { libc::send(socket, (&raw const byte).cast(), 1, libc::MSG_DONTWAIT) };
}

/// In the forked child: sends a pidfd of this process, or an empty word if there is none.
fn send_own_pidfd(socket: RawFd) -> Result<(), Errno> {
    // The id is our own, in the namespace of processes that this one is in.
    let id = std::process::id() as libc::pid_t;
    // SAFETY: the call takes two integers.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_open, id, 0) };
    let pidfd = Errno::result(answer).map(|number| number as RawFd);
    let mut byte = [0u8];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // Room for one descriptor, aligned for its header.
    let mut control = [0u64; 4];
    // SAFETY: all fields of this C struct may be zero.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if let Ok(number) = pidfd {
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: only arithmetic.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as usize;
        // SAFETY: the control buffer has room for a header and one number.
        let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        // SAFETY: only arithmetic.
        let len = unsafe { libc::CMSG_LEN(size_of::<RawFd>() as u32) } as usize;
        let value = libc::cmsghdr {
            cmsg_len: len,
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        };
        // SAFETY: the header lies in `control`, which is aligned for it.
        unsafe { header.write(value) };
        // SAFETY: the data of a header follows it in the buffer.
        let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
        // SAFETY: as above, for the number.
        unsafe { data.write_unaligned(number) };
    }
    // SAFETY: the message points to buffers of the lengths it says, valid for the call.
    Errno::result(unsafe { libc::sendmsg(socket, &raw const message, libc::MSG_DONTWAIT) })?;
    pidfd.map(drop)
}

/// The pidfd that the child has sent before it ran its program. Returns the socket, with the pidfd
/// still in it, while this process is at its limit of descriptors.
fn receive_pidfd(socket: OwnedFd) -> Result<OwnedFd, (OwnedFd, SystemError)> {
    let receive = || socket::receive(socket.as_fd(), &mut [0; 2], 1);
    pidfd_by(Deadline::after(LONGEST_END), receive).map_err(|error| (socket, error))
}

fn pidfd_by(
    deadline: Deadline,
    mut receive: impl FnMut() -> Result<Received, SystemError>,
) -> Result<OwnedFd, SystemError> {
    loop {
        let pidfd = match receive()? {
            Received::Packet(_, mut descriptors) => descriptors.pop(),
            Received::NoRoom if !deadline.is_over() => {
                thread::sleep(NAP);
                continue;
            }
            _ => None,
        };
        let none = || named("recvmsg")(Errno::EMFILE);
        return pidfd.map(Foreign::into_owned).ok_or_else(none);
    }
}

impl ChildProcess {
    /// The process id, for display and for calls that the user makes.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The standard library's handle. It waits and kills by process id.
    pub(crate) fn into_child(self) -> Child {
        self.child
    }

    /// Kills the child, if it has not ended yet.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match self.status {
            Some(_) => Ok(()),
            None => kill(self.pidfd.as_fd()),
        }
    }

    /// Waits until the child has ended, and reaps it. `None` if it has not ended by the deadline.
    ///
    /// Once it has ended this waits no longer than a moment: another process that traces the child
    /// can keep its exit status for as long as it likes, and then this is an error.
    pub(crate) fn wait_until(&mut self, deadline: Deadline) -> io::Result<Option<ExitStatus>> {
        // As the standard library does: a child that reads its input to the end must see the end.
        self.close_stdin();
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(Some(status));
            }
            if poll::is_readable(self.pidfd.as_fd()) {
                return self.reap_ended().map(Some);
            }
            let left = deadline.left();
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            poll::wait_readable(&[self.pidfd.as_fd()], left).map_err(|error| error.source)?;
        }
    }

    /// Waits for a child that was killed, and reaps it: an error if it has not ended by `deadline`.
    pub(crate) fn wait_killed(&mut self, deadline: Deadline) -> io::Result<ExitStatus> {
        if !has_ended(self.pidfd.as_fd(), deadline.left_at_most(LONGEST_END)) {
            return Err(still_running());
        }
        self.reap_ended()
    }

    /// The exit status, if the child has ended. Reaps it then.
    pub(crate) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() && look(self.pidfd.as_fd(), libc::WNOWAIT)? {
            // While it is unreaped the id is its own. The handle remembers the status, so that a
            // later user of the handle cannot signal the next process with that id.
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// The exit status, if the child was reaped here.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    fn reap_ended(&mut self) -> io::Result<ExitStatus> {
        let deadline = Deadline::after(LONGEST_REAPING);
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if deadline.is_over() {
                return Err(still_traced());
            }
            thread::sleep(NAP);
        }
    }

    /// Readable once the child has ended.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Closes the child's standard input, as a wait does.
    pub(crate) fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// As `end`, but a thread of this process waits. In a copy that was forked from a process with
    /// such a thread, the caller waits.
    pub(crate) fn end_later(self, grace: Duration) {
        if reaper::is_forked() {
            self.end(grace);
            return;
        }
        reap_leftovers();
        if !is_reaped(self.pidfd.as_fd()) {
            endings::end_later(self.pidfd, grace);
        }
    }

    /// Gives the child `grace` to end by itself, kills it if it has not, and reaps it. If it cannot
    /// be reaped within the bounds, a later call of this or of `spawn_with_descriptor` does it.
    /// Returns whether the child has ended by itself.
    pub(crate) fn end(self, grace: Duration) -> bool {
        reap_leftovers();
        let pidfd = self.pidfd.as_fd();
        if is_reaped(pidfd) {
            return true;
        }
        let by_itself = has_ended(pidfd, grace);
        let ended = by_itself || kill(pidfd).is_ok() && has_ended(pidfd, LONGEST_END);
        let deadline = Deadline::after(LONGEST_REAPING);
        while ended && !deadline.is_over() {
            if is_reaped(pidfd) {
                return by_itself;
            }
            thread::sleep(NAP);
        }
        reap_later(Leftover::Child(self.pidfd));
        by_itself
    }
}

/// The error of a wait for a killed child that has not ended within [`LONGEST_END`].
pub(crate) fn still_running() -> io::Error {
    let what = "the child was killed and has not ended yet: it is reaped later";
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// The error of a wait for a child that has ended, and was not reaped within [`LONGEST_REAPING`].
pub(crate) fn still_traced() -> io::Error {
    let what = "the child has ended, but a process that traces it (ptrace) keeps its exit status: \
                end that process, then wait again";
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// Children that have not been reaped when their owner went.
enum Leftover {
    Child(OwnedFd),
    /// A child whose pidfd still waits in this socket, as there was no room for it.
    Unnamed(OwnedFd),
}

static LEFTOVERS: Mutex<Vec<Leftover>> = Mutex::new(Vec::new());

fn reap_later(leftover: Leftover) {
    LEFTOVERS.lock().unwrap_or_else(PoisonError::into_inner).push(leftover);
}

/// Tries again to reap the leftovers. Never waits.
fn reap_leftovers() {
    // Another thread that is doing this does the work for all.
    let Ok(mut leftovers) = LEFTOVERS.try_lock() else { return };
    for leftover in mem::take(&mut *leftovers) {
        let pidfd = match leftover {
            Leftover::Child(pidfd) => pidfd,
            Leftover::Unnamed(socket) => match socket::receive(socket.as_fd(), &mut [0; 2], 1) {
                Ok(Received::Packet(_, mut descriptors)) => {
                    match descriptors.pop().map(Foreign::into_owned) {
                        Some(pidfd) => {
                            let _ = kill(pidfd.as_fd());
                            pidfd
                        }
                        None => continue,
                    }
                }
                _ => {
                    leftovers.push(Leftover::Unnamed(socket));
                    continue;
                }
            },
        };
        if !is_reaped(pidfd.as_fd()) {
            leftovers.push(Leftover::Child(pidfd));
        }
    }
}

fn has_ended(pidfd: BorrowedFd<'_>, timeout: Duration) -> bool {
    let deadline = Deadline::after(timeout);
    loop {
        let left = deadline.left_at_most(timeout);
        if poll::wait_readable(&[pidfd], Some(left)).is_err() {
            return false;
        }
        let ended = poll::is_readable(pidfd);
        if ended || left.is_zero() {
            return ended;
        }
    }
}

/// Reaps the child if it has ended. Returns whether nothing is left of it, even if another part of
/// the program has reaped it.
fn is_reaped(pidfd: BorrowedFd<'_>) -> bool {
    look(pidfd, 0).unwrap_or_else(|error| error.raw_os_error() == Some(libc::ECHILD))
}

/// Whether the child has ended and can be reaped, which this does unless told `WNOWAIT`. ECHILD if
/// it was reaped before, here or by another part of the program. Never waits.
fn look(pidfd: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<bool> {
    let flags = flags | libc::WEXITED | libc::WNOHANG;
    // SAFETY: all fields of this C struct may be zero.
    let mut found: libc::siginfo_t = unsafe { mem::zeroed() };
    let id = pidfd.as_raw_fd() as libc::id_t;
    // SAFETY: `found` is valid for the call.
    Errno::result(unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut found, flags) })?;
    // SAFETY: the call has filled the fields that belong to a child, or left them zero.
    Ok(unsafe { found.si_pid() } != 0)
}

fn kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let (number, none) = (pidfd.as_raw_fd(), 0usize);
    // SAFETY: the call takes integers and a null pointer.
    let answer =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, number, libc::SIGKILL, none, 0) };
    match Errno::result(answer) {
        // It has ended, and was reaped.
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Why an inherited descriptor is not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unclaimed {
    /// It was returned before.
    Taken,
    /// It is not here: the value was meant for another process, which passed its environment on.
    NotOurs,
}

/// Takes the descriptor that `value` names, as `spawn_with_descriptor` wrote it into the
/// environment: once in the life of this process, in which no other code can own it.
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
    // A descriptor that came through exec has no close-on-exec flag. One that this process has
    // opened since has it, as far as the standard library opened it. The inode distinguishes the
    // rest.
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

/// A process, as distinct from copies that `fork` made of it: what a copy holds is not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Maker {
    id: u32,
    forks: u64,
}

impl Maker {
    /// The process that runs this.
    pub(crate) fn this() -> Maker {
        static START: Once = Once::new();
        // The id alone would be enough if it were never given to a new process: a copy of a copy
        // may have the id of the first one. A fork past the C library is detected by the id.
        START.call_once(|| {
            // SAFETY: the handler is a function of this program that only adds to an atomic. It
            // fails only for lack of memory, and then the ids alone are compared.
            let _ = unsafe { libc::pthread_atfork(None, None, Some(count_fork)) };
        });
        // Relaxed: the thread that forks is the one that runs in the copy.
        Maker { id: std::process::id(), forks: FORKS.load(Relaxed) }
    }

    /// Whether the process that runs this is that one.
    pub(crate) fn is_this(self) -> bool {
        self == Maker::this()
    }
}

/// Has a function called when this process exits, once. Does nothing the second time, and nothing
/// if there is no memory for it.
fn at_exit(function: extern "C" fn()) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the function takes and returns nothing, and is there as long as the process.
        let _ = unsafe { libc::atexit(function) };
    });
}

/// How often this process was copied by fork since its start.
static FORKS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_fork() {
    // Relaxed: no other thread runs yet.
    FORKS.fetch_add(1, Relaxed);
}

/// How long a killed child may take to end: much longer than it takes.
pub(crate) const LONGEST_END: Duration = Duration::from_secs(2);
/// How long to ask for the status of a child that has ended. It is there at once, unless another
/// process traces the child.
pub(crate) const LONGEST_REAPING: Duration = Duration::from_millis(100);
pub(crate) const NAP: Duration = Duration::from_millis(1);
