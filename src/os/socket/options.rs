//! Options of sockets that no crate wraps: socket(7), unix(7).
#![allow(unsafe_code)]

use crate::error::SystemError;
use crate::os::named;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Makes the kernel refuse descriptors that are sent to this socket: Linux 6.16, no effect before.
///
/// Otherwise an unexpected descriptor is closed when the socket is drained or closed, and that
/// close can take long, for example for a TCP socket that lingers. Only for a socket that was just
/// made: setting an option waits for the socket's lock, which another holder can keep.
///
/// Returns whether the kernel does so.
pub(crate) fn refuse_descriptors(socket: BorrowedFd<'_>) -> bool {
    let value: libc::c_int = 0;
    // SAFETY: `value` is valid for the call, with its length. A kernel that does not know the
    // option refuses it.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    answer == 0
}

/// Whether descriptors can be sent to this socket; a former owner may have turned that off. Linux
/// 6.16; before, they always can be.
pub(crate) fn takes_descriptors(socket: BorrowedFd<'_>) -> bool {
    number(socket, SO_PASSRIGHTS).is_none_or(|value| value != 0)
}

/// The supplementary groups of the process at the other end, when it connected: `SO_PEERGROUPS`.
pub(crate) fn groups(socket: BorrowedFd<'_>) -> Result<Vec<u32>, SystemError> {
    let mut groups = vec![0u32; 32];
    loop {
        let mut len = size_of_val(&*groups) as libc::socklen_t;
        // SAFETY: `groups` is valid for the call, and `len` says how many bytes it has.
        let answer = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let found = len as usize / size_of::<u32>();
        match Errno::result(answer) {
            Ok(_) => {
                groups.truncate(found);
                return Ok(groups);
            }
            // The kernel has said how many there are: at most 65,536.
            Err(Errno::ERANGE) if found > groups.len() => groups.resize(found, 0),
            Err(errno) => return Err(named("getsockopt(SO_PEERGROUPS)")(errno)),
        }
    }
}

/// An option of a socket that is a number. Reading one waits for no lock.
pub(super) fn number(socket: BorrowedFd<'_>, option: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: both out-pointers are valid for the call, and `len` says how large the first one is.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    (answer == 0).then_some(value)
}

/// `SO_PASSRIGHTS` of Linux 6.16, which the C library's headers do not always have.
const SO_PASSRIGHTS: libc::c_int = 83;
/// `SO_PEERGROUPS` of Linux 4.13: the same number on every architecture that this runs on.
const SO_PEERGROUPS: libc::c_int = 59;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::eventfd::Bell;
    use crate::os::process::confine::tests::refusing;
    use crate::os::socket::{Received, packet_pair, receive, send_packet, stream_pair};
    use std::os::fd::AsFd;
    use std::thread;

    /// Linux 6.16 has the option, and perhaps an older one of a distribution.
    #[test]
    fn descriptors_are_refused_where_the_kernel_can_do_it() {
        let (ours, theirs) = packet_pair().expect("sockets");
        let refuses = refuse_descriptors(ours.as_fd());
        if let Ok(release) = std::fs::read_to_string("/proc/sys/kernel/osrelease") {
            let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
            let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
            assert!(refuses || version < (6, 16), "{release}");
        }
        let bell = Bell::new().expect("an eventfd");
        let sent = send_packet(theirs.as_fd(), b"1", &[bell.as_fd()]);
        assert_eq!(sent.is_err(), refuses, "{sent:?}");
    }

    #[test]
    fn an_option_is_read_where_there_is_one() {
        let (socket, _peer) = stream_pair().expect("sockets");
        assert_eq!(number(socket.as_fd(), libc::SO_DOMAIN), Some(libc::AF_UNIX));
        assert_eq!(number(socket.as_fd(), 10_000), None);
        let bell = Bell::new().expect("an eventfd");
        assert_eq!(number(bell.as_fd(), libc::SO_DOMAIN), None);
    }

    #[test]
    fn a_socket_refuses_descriptors_if_the_kernel_says_so() {
        let (socket, peer) = stream_pair().expect("sockets");
        assert!(takes_descriptors(socket.as_fd()));
        let refuses = refuse_descriptors(socket.as_fd());
        assert_eq!(takes_descriptors(socket.as_fd()), !refuses);
        match send_packet(peer.as_fd(), b"x", &[peer.as_fd()]) {
            Err(error) => {
                assert_eq!((refuses, error.source.raw_os_error()), (true, Some(libc::EPERM)))
            }
            Ok(()) => {
                let received = receive(socket.as_fd(), &mut [0; 8], 1).expect("a packet");
                let has_come = matches!(received, Received::Packet(1, list) if list.len() == 1);
                assert_eq!((refuses, has_come), (false, true));
            }
        }
        let bell = Bell::new().expect("an eventfd");
        assert!(!refuse_descriptors(bell.as_fd()));
    }

    /// The groups of this thread become these, and those of no other one.
    fn take_groups(groups: &[u32]) -> Result<(), Errno> {
        // SAFETY: the list is valid for the call, with its length. Past the C library, which would
        // tell the other threads.
        let answer = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
        Errno::result(answer).map(drop)
    }

    #[test]
    fn all_groups_of_a_peer_are_told_however_many_they_are() {
        // The first list has room for 32.
        for count in [0, 1, 31, 32, 33, 100] {
            let expected: Vec<u32> = (1000..1000 + count).collect();
            let told = thread::scope(|scope| {
                let of_thread = || {
                    take_groups(&expected).ok()?;
                    let (socket, _peer) = stream_pair().expect("sockets");
                    Some(groups(socket.as_fd()).expect("groups"))
                };
                scope.spawn(of_thread).join().expect("no panic")
            });
            // Only root chooses its groups.
            assert!(told.is_none_or(|told| told == expected), "{count}");
        }
    }

    #[test]
    fn a_kernel_that_does_not_say_how_many_groups_there_are_is_not_asked_again() {
        let (socket, _peer) = stream_pair().expect("sockets");
        let ask = || groups(socket.as_fd()).expect_err("refused").to_string();
        let told = refusing(libc::SYS_getsockopt, Errno::ERANGE, ask);
        assert!(told.is_none_or(|told| told.contains("SO_PEERGROUPS")));
    }
}
