#![allow(unsafe_code)]

use super::*;
use crate::os::eventfd::Bell;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use std::os::unix::process::ExitStatusExt;
use std::time::Instant;

/// A child that runs until it is killed.
fn sleeper() -> ChildProcess {
    let mut command = Command::new("sleep");
    command.arg("1000");
    let bell = Bell::new().expect("an eventfd").as_fd().try_clone_to_owned().expect("a descriptor");
    spawn_with_descriptor(command, "MESSAGEPORT_TEST", bell, Confinement::default()).expect("sleep")
}

fn copy(pidfd: BorrowedFd<'_>) -> OwnedFd {
    pidfd.try_clone_to_owned().expect("a descriptor")
}

/// Whether the child was reaped; it stays as it is.
fn is_gone(pidfd: &OwnedFd) -> bool {
    let look = look(pidfd.as_fd(), libc::WNOWAIT);
    look.is_err_and(|error| error.raw_os_error() == Some(libc::ECHILD))
}

/// Reaps the leftovers until this one is gone.
fn wait_until_reaped(pidfd: &OwnedFd) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_gone(pidfd) {
        assert!(Instant::now() < deadline, "it is left over");
        reap_leftovers();
        thread::sleep(NAP);
    }
}

#[test]
fn a_leftover_that_still_runs_stays_one() {
    let child = sleeper();
    let pidfd = copy(child.pidfd());
    reap_later(Leftover::Child(copy(child.pidfd())));
    // The last one found the others at work.
    (0..3).for_each(|_| reap_leftovers());
    assert!(!is_gone(&pidfd));
    child.kill().expect("a child of our own");
    wait_until_reaped(&pidfd);
}

#[test]
fn a_leftover_without_a_pidfd_is_killed_once_it_has_come() {
    let child = sleeper();
    let pidfd = copy(child.pidfd());
    let (ours, theirs) = socket::packet_pair().expect("sockets");
    reap_later(Leftover::Unnamed(ours));
    (0..3).for_each(|_| reap_leftovers());
    assert!(!poll::is_readable(pidfd.as_fd()), "nothing said which it is");
    socket::send_packet(theirs.as_fd(), &[0], &[child.pidfd()]).expect("room");
    wait_until_reaped(&pidfd);
}

#[test]
fn a_pidfd_is_waited_for_until_there_is_room() {
    let foreign = || {
        let bell = Bell::new().expect("an eventfd");
        Foreign::new(copy(bell.as_fd()), None)
    };
    let mut answers =
        [Ok(Received::NoRoom), Ok(Received::NoRoom), Ok(Received::Packet(1, vec![foreign()]))]
            .into_iter();
    pidfd_by(Deadline::NEVER, || answers.next().expect("no call more")).expect("a pidfd");
    let failed = |answer: fn() -> Result<Received, SystemError>| {
        let error = pidfd_by(Deadline::after(Duration::ZERO), answer).expect_err("no pidfd");
        (error.call, error.source.raw_os_error())
    };
    let lacks = ("recvmsg", Some(libc::EMFILE));
    assert_eq!(failed(|| Ok(Received::NoRoom)), lacks);
    assert_eq!(failed(|| Ok(Received::Nothing)), lacks);
    assert_eq!(failed(|| Ok(Received::Packet(1, vec![]))), lacks);
    assert_eq!(failed(|| Err(named("x")(Errno::EPERM))), ("x", Some(libc::EPERM)));
}

#[test]
fn a_status_is_told_as_often_as_it_is_asked_for() {
    let mut child = sleeper();
    assert_eq!(child.id(), child.child.id());
    assert_eq!((child.try_wait().expect("a child"), child.status()), (None, None));
    assert_eq!(child.wait_until(Deadline::after(Duration::ZERO)).expect("a child"), None);
    child.kill().expect("a child of our own");
    let status = child.wait_killed(Deadline::NEVER).expect("a child");
    assert_eq!(status.signal(), Some(libc::SIGKILL));
    for _ in 0..2 {
        assert_eq!(child.try_wait().expect("a child"), Some(status));
        assert_eq!(child.wait_until(Deadline::NEVER).expect("a child"), Some(status));
        assert_eq!(child.wait_killed(Deadline::NEVER).expect("a child"), status);
    }
    assert_eq!(child.status(), Some(status));
    child.kill().expect("it does nothing");
    assert!(child.end(Duration::ZERO), "it had ended");
}

#[test]
fn a_child_that_is_ended_is_reaped() {
    let child = sleeper();
    let pidfd = copy(child.pidfd());
    assert!(!child.end(Duration::ZERO), "it was killed");
    wait_until_reaped(&pidfd);
    // By a thread.
    let child = sleeper();
    let pidfd = copy(child.pidfd());
    child.end_later(Duration::ZERO);
    wait_until_reaped(&pidfd);
}

#[test]
fn only_a_descriptor_that_came_through_exec_is_claimed() {
    let bell = Bell::new().expect("an eventfd");
    let number = bell.as_fd().as_raw_fd();
    let ours = inode(bell.as_fd()).expect("an inode");
    let flags = || FdFlag::from_bits_retain(fcntl(&bell, FcntlArg::F_GETFD).expect("flags"));
    assert_eq!(inherited(&format!("{number}:{ours}")), None, "it has the flag");
    fcntl(&bell, FcntlArg::F_SETFD(FdFlag::empty())).expect("a flag");
    assert_eq!(inherited(&format!("{number}:{}", ours + 1)), None);
    assert_eq!(flags(), FdFlag::empty());
    assert_eq!(inherited(&format!("{number}:{ours}")), Some(number));
    assert_eq!(flags(), FdFlag::FD_CLOEXEC);
    // No standard stream is one, though it looks so.
    let error = inode(io::stderr().as_fd()).expect("an inode");
    assert_eq!(inherited(&format!("2:{error}")), None);
}

#[test]
fn two_files_have_two_inodes() {
    let inodes = [(); 2].map(|()| {
        let file = crate::os::memfd::create_sealed(4096).expect("a memfd");
        (inode(file.as_fd()).expect("an inode"), file)
    });
    assert_ne!(inodes[0].0, inodes[1].0);
}

/// The next process with the number of this one would be no copy of it, but a copy of a copy.
#[test]
fn a_forked_copy_is_known_by_more_than_its_number() {
    let this = Maker::this();
    assert!(this.is_this());
    // SAFETY: the child reads two numbers and ends.
    match unsafe { fork() }.expect("a child") {
        ForkResult::Child => {
            let copy = Maker::this();
            let differs = copy.forks != this.forks && copy.is_this() && !this.is_this();
            // SAFETY: the call ends this process.
            unsafe { libc::_exit(i32::from(!differs)) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
        }
    }
    assert!(this.is_this());
}
