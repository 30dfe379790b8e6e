//! Waiting for many descriptors: epoll(7).

use crate::error::SystemError;
use crate::os::named;
use nix::errno::Errno;
use nix::sys::epoll::{EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// A set of descriptors that are watched together, level-triggered except for ends. A descriptor
/// that is closed leaves the set by itself, but one that a thread of the reaper still has does not.
pub(crate) struct Epoll(nix::sys::epoll::Epoll);

impl Epoll {
    pub(crate) fn new() -> Result<Epoll, SystemError> {
        nix::sys::epoll::Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map(Epoll)
            .map_err(named("epoll_create1"))
    }

    /// Watches `fd` for being readable, too; `mark` identifies it.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, mark: u64) -> Result<(), SystemError> {
        let wanted = EpollEvent::new(EpollFlags::EPOLLIN, mark);
        self.0.add(fd, wanted).map_err(named("epoll_ctl(EPOLL_CTL_ADD)"))
    }

    /// Watches `fd` for the end of its peer alone, which is always reported, and here once.
    pub(crate) fn add_for_end(&self, fd: BorrowedFd<'_>, mark: u64) -> Result<(), SystemError> {
        let wanted = EpollEvent::new(EpollFlags::EPOLLET, mark);
        self.0.add(fd, wanted).map_err(named("epoll_ctl(EPOLL_CTL_ADD)"))
    }

    /// Stops watching `fd`, if it was watched.
    pub(crate) fn leave_out(&self, fd: BorrowedFd<'_>) -> Result<(), SystemError> {
        match self.0.delete(fd) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(named("epoll_ctl(EPOLL_CTL_DEL)")(errno)),
        }
    }

    /// Watches `fd` again, if it is not watched.
    pub(crate) fn take_back(&self, fd: BorrowedFd<'_>, mark: u64) -> Result<(), SystemError> {
        match self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, mark)) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(named("epoll_ctl(EPOLL_CTL_ADD)")(errno)),
        }
    }

    /// Stops watching `fd`.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) -> Result<(), SystemError> {
        self.0.delete(fd).map_err(named("epoll_ctl(EPOLL_CTL_DEL)"))
    }

    /// Waits for at most `timeout` until some of them are readable, `None` meaning forever;
    /// returns their marks. Returns early, with none, for a signal.
    pub(crate) fn wait(
        &self,
        marks: &mut Vec<u64>,
        timeout: Option<Duration>,
    ) -> Result<(), SystemError> {
        let mut events = [EpollEvent::empty(); MOST_EVENTS];
        // Rounded up: a wait that ends early would be repeated forever.
        let millis = timeout.map(|left| left.as_micros().div_ceil(1000));
        let timeout = match millis {
            None => EpollTimeout::NONE,
            Some(millis) => {
                EpollTimeout::try_from(millis.min(i32::MAX as u128) as i32).expect("not negative")
            }
        };
        marks.clear();
        match self.0.wait(&mut events, timeout) {
            Ok(count) => marks.extend(events[..count].iter().map(EpollEvent::data)),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(named("epoll_wait")(errno)),
        }
        Ok(())
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

/// The most marks that one wait returns.
pub(crate) const MOST_EVENTS: usize = 64;
