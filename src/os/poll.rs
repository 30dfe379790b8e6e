//! Waiting for descriptors: ppoll(2).

use crate::error::SystemError;
use crate::os::named;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Waits for at most `timeout` until one of `fds` is readable or hung up, `None` meaning forever.
/// Returns early for a signal: the caller always looks again.
pub(crate) fn wait_readable(
    fds: &[BorrowedFd<'_>],
    timeout: Option<Duration>,
) -> Result<(), SystemError> {
    wait(&mut fds.iter().map(|fd| readable(*fd)).collect::<Vec<_>>(), timeout)
}

/// The same for a number of descriptors that is known, without an allocation.
pub(crate) fn wait_readable_few<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> Result<(), SystemError> {
    wait(&mut fds.map(readable), timeout)
}

fn readable(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::new(fd, PollFlags::POLLIN)
}

fn wait(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<(), SystemError> {
    match ppoll(fds, timeout.map(TimeSpec::from_duration), None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(named("ppoll")(errno)),
    }
}

/// Waits for at most `timeout` until the other end of a socket has gone, whatever is unread in it,
/// or until the other descriptor is readable. Returns early for a signal.
pub(crate) fn wait_hung_up(
    socket: BorrowedFd<'_>,
    other: Option<BorrowedFd<'_>>,
    timeout: Option<Duration>,
) -> Result<(), SystemError> {
    // A hang-up is always reported, even if nothing is asked for.
    let socket = PollFd::new(socket, PollFlags::empty());
    match other {
        Some(other) => wait(&mut [socket, readable(other)], timeout),
        None => wait(&mut [socket], timeout),
    }
}

/// Whether the other end of a socket has gone. Never waits.
pub(crate) fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    match ppoll(&mut fds, Some(TimeSpec::from_duration(Duration::ZERO)), None) {
        Ok(0) | Err(_) => false,
        Ok(_) => {
            // Always reported, even if not asked for.
            let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
            fds[0].revents().is_some_and(|events| events.intersects(gone))
        }
    }
}

/// Whether a descriptor is readable now. Never waits.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    matches!(ppoll(&mut fds, Some(TimeSpec::from_duration(Duration::ZERO)), None), Ok(1..))
}
