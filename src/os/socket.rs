//! Socket pairs: the doorbell, and packets with descriptors. unix(7), sendmsg(2), recvmsg(2).
//!
//! Every call has MSG_DONTWAIT and MSG_NOSIGNAL. The flags are the call's, not the description's,
//! which a peer shares and could change.
#![allow(unsafe_code)]

use crate::error::SystemError;
use crate::os::named;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    getsockopt, recv, recvmsg, send, sendmsg, socketpair, sockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A connected pair of byte-stream sockets, for a doorbell.
pub(crate) fn stream_pair() -> Result<(OwnedFd, OwnedFd), SystemError> {
    pair(SockType::Stream)
}

/// A connected pair of packet sockets, for attachments.
pub(crate) fn packet_pair() -> Result<(OwnedFd, OwnedFd), SystemError> {
    pair(SockType::SeqPacket)
}

/// What a doorbell said when it was drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    /// It is silent now, or so noisy that more was left in it.
    Silent,
    /// The other end has gone.
    HungUp,
}

/// Rings: one byte to the other end. A full doorbell rings already.
pub(crate) fn ring(doorbell: BorrowedFd<'_>) -> Drained {
    loop {
        match send(doorbell.as_raw_fd(), &[1], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Err(Errno::EINTR) => {}
            Err(Errno::EPIPE | Errno::ECONNRESET) => return Drained::HungUp,
            _ => return Drained::Silent,
        }
    }
}

/// Takes out what was rung. At most a few calls, however fast somebody rings.
///
/// Descriptors that a hostile peer hangs on the bytes are closed by the kernel, as there is no room
/// for them.
pub(crate) fn drain(doorbell: BorrowedFd<'_>) -> Drained {
    let mut bytes = [0; 512];
    for _ in 0..MAX_DRAIN_CALLS {
        match recv(doorbell.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Drained::HungUp,
            // A short read has emptied it: one call in the usual case.
            Ok(len) if len < bytes.len() => return Drained::Silent,
            // A reset is reported once, before the end of the stream.
            Ok(_) | Err(Errno::EINTR | Errno::ECONNRESET) => {}
            Err(_) => return Drained::Silent,
        }
    }
    Drained::Silent
}

/// Sends one packet with descriptors.
pub(crate) fn send_packet(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), SystemError> {
    let raw: Vec<_> = descriptors.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    loop {
        let sent = sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            if raw.is_empty() { &[] } else { &rights },
            flags,
            None,
        );
        match sent {
            Err(Errno::EINTR) => {}
            answer => return answer.map(drop).map_err(named("sendmsg")),
        }
    }
}

/// Receives one packet of at most `bytes.len()` bytes: its length and its descriptors.
///
/// Whatever did not fit, bytes or descriptors, makes the whole packet an error; descriptors that
/// came are closed then. Ancillary data that nobody asked for is dropped, its descriptors closed.
pub(crate) fn receive_packet(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> Result<(usize, Vec<OwnedFd>), SystemError> {
    // Full size, plus what SO_PASSCRED and its like would add.
    let mut control = vec![0; 4096];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    loop {
        let mut parts = [IoSliceMut::new(bytes)];
        match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(named("recvmsg")(errno)),
            Ok(message) => {
                let mut descriptors = Vec::new();
                for part in message.cmsgs().map_err(named("recvmsg"))? {
                    if let ControlMessageOwned::ScmRights(raw) = part {
                        // SAFETY: the kernel has just made these descriptors for this process, and
                        // nothing else knows their numbers yet.
                        descriptors
                            .extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                    }
                }
                if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
                    let source = io::Error::other("the packet or its descriptors were cut off");
                    return Err(SystemError { call: "recvmsg", source });
                }
                return Ok((message.bytes, descriptors));
            }
        }
    }
}

/// Whether a descriptor that somebody else made is a Unix socket of this type.
pub(crate) fn is_unix(fd: BorrowedFd<'_>, kind: Kind) -> bool {
    let kind = match kind {
        Kind::Stream => SockType::Stream,
        Kind::Packet => SockType::SeqPacket,
    };
    let mut domain: libc::c_int = 0;
    let mut len = size_of_val(&domain) as libc::socklen_t;
    // SAFETY: both out-pointers are valid for the call, and `len` says how large the first one is.
    let answer = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DOMAIN,
            (&raw mut domain).cast(),
            &raw mut len,
        )
    };
    answer == 0 && domain == libc::AF_UNIX && getsockopt(&fd, sockopt::SockType) == Ok(kind)
}

/// Types of socket that ports use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Stream,
    Packet,
}

/// Clears the options of an imported socket that would make the kernel add ancillary data.
pub(crate) fn clear_passing(socket: BorrowedFd<'_>) {
    for option in [libc::SO_PASSCRED, libc::SO_PASSSEC, SO_PASSPIDFD] {
        let off: libc::c_int = 0;
        // SAFETY: `off` is valid for the call, with its length. An option that this kernel does not
        // know is refused, and then it cannot be on either.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const off).cast(),
                size_of_val(&off) as libc::socklen_t,
            )
        };
    }
}

fn pair(kind: SockType) -> Result<(OwnedFd, OwnedFd), SystemError> {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).map_err(named("socketpair"))
}

const MAX_DRAIN_CALLS: u32 = 16;
/// `SO_PASSPIDFD` of Linux 6.5, which the C library's headers do not always have.
const SO_PASSPIDFD: libc::c_int = 76;
