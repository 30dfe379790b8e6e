//! Locks of single bytes of a memfd, by which other processes see that a holder lives: fcntl(2).
//!
//! The kernel releases such a lock when the last descriptor of its open file description is closed,
//! in whatever way its holder ends. A descriptor that is on its way in a socket counts too.

use crate::error::SystemError;
use crate::os::{has_proc, named, no_proc, uninterrupted};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// A second open file description of a memfd, which has the lock of one byte.
///
/// Needs /proc. It waits for no other holder of the file.
pub(crate) fn reopen_locked(file: impl AsFd, byte: u32) -> Result<OwnedFd, SystemError> {
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let open = || open(path.as_str(), flags, Mode::empty());
    let again = match uninterrupted(open) {
        Err(Errno::ENOENT) if !has_proc() => return Err(no_proc(REOPEN)),
        answer => answer.map_err(named(REOPEN))?,
    };
    fcntl(&again, FcntlArg::F_OFD_SETLK(&lock_of(byte))).map_err(named("fcntl(F_OFD_SETLK)"))?;
    Ok(again)
}

const REOPEN: &str = "open(/proc/self/fd)";

/// Whether another open file description of the file has the lock of a byte. True where the kernel
/// does not tell.
pub(crate) fn is_locked(file: impl AsFd, byte: u32) -> bool {
    let mut lock = lock_of(byte);
    let answer: Result<_, Errno> = fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock));
    answer.is_err() || i32::from(lock.l_type) != libc::F_UNLCK
}

fn lock_of(byte: u32) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte.into(),
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::memfd;

    #[test]
    fn a_byte_is_locked_as_long_as_a_descriptor_of_its_holder_is_open() {
        let file = memfd::create_sealed(4096).expect("a memfd");
        let holder = reopen_locked(&file, 7).expect("a lock");
        assert!(is_locked(&file, 7) && !is_locked(&file, 8));
        let other = reopen_locked(&file, 8).expect("a lock");
        let copy = holder.try_clone().expect("a descriptor");
        drop(holder);
        assert!(is_locked(&file, 7) && is_locked(&file, 8));
        reopen_locked(&file, 7).expect_err("another one has it");
        drop(copy);
        assert!(!is_locked(&file, 7) && is_locked(&file, 8));
        drop(other);
        assert!(!is_locked(&file, 8));
    }
}
