//! Socket pairs: the doorbell, and packets with descriptors. unix(7), sendmsg(2), recvmsg(2).
//!
//! Every call has MSG_DONTWAIT and MSG_NOSIGNAL. The flags belong to the call, not to the
//! description, which a peer shares and could change.
#![allow(unsafe_code)]

use crate::error::SystemError;
use crate::os::named;
use crate::os::reaper::{self, Account, Foreign};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, getsockopt,
    recv, recvmsg, send, sendmsg, setsockopt, shutdown, socketpair, sockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::process;
use std::sync::Arc;

mod options;
#[cfg(test)]
mod tests;
mod turn;
use options::number;
pub(crate) use options::{groups, refuse_descriptors, takes_descriptors};
use turn::Turn;

/// A connected pair of byte-stream sockets, for a doorbell.
pub(crate) fn stream_pair() -> Result<(OwnedFd, OwnedFd), SystemError> {
    pair(SockType::Stream)
}

/// A connected pair of packet sockets, for attachments.
pub(crate) fn packet_pair() -> Result<(OwnedFd, OwnedFd), SystemError> {
    pair(SockType::SeqPacket)
}

/// What draining a doorbell found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    /// It did not ring.
    Silent,
    /// It rang. It is silent now, or rang so often that some is left in it.
    Rang,
    /// The other end has gone.
    HungUp,
}

/// The result of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    /// It rings, or rang already.
    Rings,
    /// The kernel had no memory for it.
    Failed,
    /// The other end has gone.
    HungUp,
}

/// Rings: one byte to the other end. A full doorbell rings already.
pub(crate) fn ring(doorbell: BorrowedFd<'_>) -> Rung {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    ring_by(|| send(doorbell.as_raw_fd(), &[1], flags))
}

fn ring_by(mut send: impl FnMut() -> nix::Result<usize>) -> Rung {
    loop {
        match send() {
            Err(Errno::EINTR) => {}
            Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => return Rung::HungUp,
            Err(Errno::ENOBUFS | Errno::ENOMEM) => return Rung::Failed,
            _ => return Rung::Rings,
        }
    }
}

/// How far a doorbell is drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DrainTo {
    /// Until it is silent, as far as one call shows. What is left in it, even the end, keeps the
    /// descriptor readable, which suffices for a level-triggered waiter.
    Silence,
    /// Until the kernel says that nothing is left, or that this is the end. An edge-triggered
    /// waiter is not told of what came before.
    TheEnd,
}

/// Reads what was rung. Makes at most a few calls, however fast the peer rings; to the end, at most
/// as many as empty a socket of the usual size.
///
/// Only for a doorbell that refuses descriptors: this call would make the kernel close them, and
/// wait for that. See [`drain_all`].
pub(crate) fn drain(doorbell: BorrowedFd<'_>, to: DrainTo) -> Drained {
    drain_by(to, |bytes| recv(doorbell.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT))
}

/// The same for a doorbell on which a hostile peer may have sent descriptors. The first ones are
/// received, and closed as [`Foreign`] ones are; they count as a hang-up.
pub(crate) fn drain_all(doorbell: BorrowedFd<'_>, account: &Arc<Account>, to: DrainTo) -> Drained {
    drain_by(to, |bytes| {
        match receive_now(doorbell, bytes, Some(account)) {
            Ok(Received::Packet(len, descriptors)) if descriptors.is_empty() => Ok(len),
            // Only a hostile peer sends some, and could go on: this is its end.
            Ok(Received::Packet(..) | Received::CutOff) => Ok(0),
            Ok(Received::Nothing | Received::NoRoom) => Err(Errno::EAGAIN),
            Err(error) if error.is_lack() => Err(Errno::ENOMEM),
            Err(_) => Ok(0),
        }
    })
}

fn drain_by(to: DrainTo, mut take: impl FnMut(&mut [u8]) -> nix::Result<usize>) -> Drained {
    let mut bytes = [0; 512];
    let mut drained = Drained::Silent;
    let most = match to {
        DrainTo::Silence => MAX_DRAIN_CALLS,
        DrainTo::TheEnd => MAX_DRAIN_CALLS_TO_THE_END,
    };
    for _ in 0..most {
        match take(&mut bytes) {
            Ok(0) => return Drained::HungUp,
            // A short read has emptied it: usually one call. Whether the end follows takes a second
            // one.
            Ok(len) if len < bytes.len() && to == DrainTo::Silence => return Drained::Rang,
            Ok(_) => drained = Drained::Rang,
            // A reset is reported once, before the end of the stream.
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            // Without memory for the call, what rings stays in it, and it stays readable.
            Err(Errno::EAGAIN | Errno::ENOMEM | Errno::ENOBUFS) => return drained,
            // For example a socket without a peer: it will never ring.
            Err(_) => return Drained::HungUp,
        }
    }
    drained
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

/// Makes the peer's sends to this socket fail from now on. What has come before can still be
/// received.
pub(crate) fn refuse_more(socket: BorrowedFd<'_>) {
    // It fails only if nothing more can come.
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
}

/// The result of reading a packet socket.
#[derive(Debug)]
pub(crate) enum Received {
    /// A packet: its length in bytes, and its descriptors.
    Packet(usize, Vec<Foreign>),
    /// A packet whose bytes or descriptors did not fit. Those that came are closed.
    CutOff,
    /// This process has too few free descriptors at the moment. The packet waits.
    NoRoom,
    /// None is there.
    Nothing,
}

/// Receives one packet of at most `bytes.len()` bytes and without descriptors. A packet with some
/// is [`CutOff`](Received::CutOff), and stays in the socket: the socket's close is one job, and
/// each descriptor would be another.
pub(crate) fn receive_bytes(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> Result<Received, SystemError> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
    let mut parts = [IoSliceMut::new(bytes)];
    for _ in 0..MAX_RESETS {
        // Without a place for them the kernel only says that there are descriptors.
        match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, None, flags) {
            // A reset is reported once, before what is left in the queue.
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            Err(Errno::EAGAIN) => return Ok(Received::Nothing),
            Err(errno) => return Err(named("recvmsg")(errno)),
            Ok(found) if found.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) => {
                return Ok(Received::CutOff);
            }
            Ok(found) => {
                discard_packet(socket);
                return Ok(Received::Packet(found.bytes, Vec::new()));
            }
        }
    }
    Ok(Received::Nothing)
}

/// Receives one packet of at most `bytes.len()` bytes and of about `count` descriptors.
///
/// The kernel destroys descriptors that exceed the process's limit. So this first makes sure that
/// there is room, in a turn that makes both one step among the threads that use this crate.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    count: usize,
) -> Result<Received, SystemError> {
    receive_for(None, socket, bytes, count)
}

/// The same for a port, which has an account of what is closed for it.
pub(crate) fn receive_for(
    account: Option<&Arc<Account>>,
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    count: usize,
) -> Result<Received, SystemError> {
    let _turn = Turn::take();
    if has_room(count) {
        return receive_now(socket, bytes, account);
    }
    // As many are made, and closed again.
    let stand_ins: Result<Vec<_>, _> = (0..count).map(|_| socket.try_clone_to_owned()).collect();
    match stand_ins {
        Ok(stand_ins) => drop(stand_ins),
        // EINVAL: the limit is below the first number that a duplicate may have (`F_DUPFD`).
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::EINVAL)) =>
        {
            return Ok(Received::NoRoom);
        }
        Err(source) => return Err(SystemError { call: "fcntl(F_DUPFD_CLOEXEC)", source }),
    }
    receive_now(socket, bytes, account)
}

/// Whether the highest `count` numbers below the process's limit are free, as they nearly always
/// are: then there is room, for a sixth of the cost of making and closing as many.
fn has_room(count: usize) -> bool {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return false };
    let Ok(limit) = RawFd::try_from(limit) else { return false };
    let Some(first) = RawFd::try_from(count).ok().and_then(|count| limit.checked_sub(count)) else {
        return false;
    };
    first >= 0 && (first..limit).all(is_free)
}

fn is_free(number: RawFd) -> bool {
    // SAFETY: F_GETFD only looks whether the number is in use; it touches no file.
    let answer = unsafe { libc::fcntl(number, libc::F_GETFD) };
    Errno::result(answer) == Err(Errno::EBADF)
}

/// Receives one packet of at most `bytes.len()` bytes: its length and its descriptors.
///
/// If bytes or descriptors did not fit, the whole packet is an error, and descriptors that came are
/// closed. Unexpected ancillary data is dropped, its descriptors closed.
pub(crate) fn receive_packet(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> Result<(usize, Vec<Foreign>), SystemError> {
    let failed = |source| Err(SystemError { call: "recvmsg", source });
    match receive_now(socket, bytes, None)? {
        Received::Packet(len, descriptors) => Ok((len, descriptors)),
        Received::Nothing => failed(io::ErrorKind::WouldBlock.into()),
        Received::CutOff | Received::NoRoom => {
            failed(io::Error::other("the packet or its descriptors were cut off"))
        }
    }
}

/// Takes out the packets that wait and lets the kernel close their descriptors, which may take
/// long: for the reaper's thread.
pub(crate) fn discard_packets(socket: BorrowedFd<'_>) {
    let mut empty = 0;
    for _ in 0..MAX_DISCARDED {
        match discard_packet(socket) {
            Discarded::Packet => {}
            Discarded::EmptyOrEnd if empty < MAX_EMPTY => empty += 1,
            Discarded::EmptyOrEnd | Discarded::Nothing => return,
        }
    }
}

/// Takes the next packet out and lets the kernel close its descriptors, which may take long: for a
/// process that has no room to receive them.
pub(crate) fn discard_packet(socket: BorrowedFd<'_>) -> Discarded {
    let mut byte = [0];
    for _ in 0..MAX_RESETS {
        match recv(socket.as_raw_fd(), &mut byte, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC) {
            Ok(0) => return Discarded::EmptyOrEnd,
            Ok(_) => return Discarded::Packet,
            // A reset is reported once, before what is left in the queue.
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            Err(_) => return Discarded::Nothing,
        }
    }
    Discarded::Nothing
}

/// What was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discarded {
    Packet,
    /// A packet without bytes, or the end of the stream: the call says the same of both.
    EmptyOrEnd,
    Nothing,
}

/// Lets nothing more come to this socket, which only this end uses.
pub(crate) fn stop_receiving(socket: BorrowedFd<'_>) {
    // It fails only if nothing more can come.
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Read);
}

/// Whether something waits at a socket that its close would close. For a stream socket, and if only
/// this crate sends to the other end (`is_honest`), the count of bytes suffices. Packets without
/// bytes show only in the kernel's own count of descriptors.
pub(crate) fn holds_something(socket: BorrowedFd<'_>, is_honest: bool) -> bool {
    match waiting_bytes(socket) {
        Some(0) if is_honest => false,
        _ => has_descriptors_waiting(socket),
    }
}

/// Bytes that wait at a socket: FIONREAD. It waits for no lock that another holder can keep.
fn waiting_bytes(socket: BorrowedFd<'_>) -> Option<u64> {
    let mut count: libc::c_int = 0;
    // SAFETY: the call writes one integer to the place that it is given.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    u64::try_from(count).ok().filter(|_| answer == 0)
}

/// Whether everything that was sent on a packet socket has been received, or will never be: the
/// kernel counts the memory of packets for the socket that has sent them, until they are freed.
pub(crate) fn is_all_received(socket: BorrowedFd<'_>) -> bool {
    let mut count: libc::c_int = 0;
    // SAFETY: the call writes one integer to the place that it is given.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    answer == 0 && count == 0
}

/// Whether descriptors wait at a socket, by /proc; true if that is not known.
fn has_descriptors_waiting(socket: BorrowedFd<'_>) -> bool {
    let path = format!("/proc/thread-self/fdinfo/{}", socket.as_raw_fd());
    let Ok(text) = std::fs::read_to_string(path) else { return true };
    let count = text.lines().find_map(|line| line.strip_prefix("scm_fds:"));
    count.is_none_or(|count| count.trim() != "0")
}

/// A socket of this process at which another process may have left descriptors. Dropping it delays
/// no caller, and tells the peer at once: what may take long to close goes to the reaper's thread.
#[derive(Debug)]
pub(crate) struct Socket {
    /// `None` only while it is dropped.
    descriptor: Option<OwnedFd>,
    /// Descriptors cannot come to it.
    pub refuses_descriptors: bool,
    /// Only this crate sends to it: no packet is without bytes.
    pub is_honest: bool,
    /// Another process owns it by now, or will.
    pub has_moved: bool,
    /// Counts what is closed for it.
    pub account: Option<Arc<Account>>,
    /// The process that owns it: a forked copy of that process must not shut it down.
    owner: u32,
}

impl Socket {
    pub(crate) fn new(descriptor: OwnedFd) -> Socket {
        Socket::of(process::id(), descriptor)
    }

    /// A socket of the process `owner`, which is this one.
    pub(crate) fn of(owner: u32, descriptor: OwnedFd) -> Socket {
        Socket {
            descriptor: Some(descriptor),
            refuses_descriptors: false,
            is_honest: false,
            has_moved: false,
            account: None,
            owner,
        }
    }

    /// A socket that was just made here, and gets no descriptors, if the kernel can refuse them.
    pub(crate) fn without_descriptors(owner: u32, descriptor: OwnedFd) -> Socket {
        let refuses_descriptors = refuse_descriptors(descriptor.as_fd());
        let mut socket = Socket::of(owner, descriptor);
        socket.refuses_descriptors = refuses_descriptors;
        socket
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_ref().expect("there until it is dropped").as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let Some(socket) = self.descriptor.take() else { return };
        if !self.refuses_descriptors {
            if !self.has_moved && self.owner == process::id() {
                // Nothing comes between the check and the close; and the peer learns of it now.
                let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
            }
            if holds_something(socket.as_fd(), self.is_honest || self.has_moved) {
                reaper::close_later(socket, self.account.take());
            }
        }
    }
}

fn receive_now(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    account: Option<&Arc<Account>>,
) -> Result<Received, SystemError> {
    // Full size, plus what SO_PASSCRED and its like would add; aligned for its headers.
    let mut control = [0u64; 512];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all fields of this C struct may be zero.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    let mut resets = 0;
    let len = loop {
        // SAFETY: the message points to buffers of the lengths it says, valid for the call.
        let answer = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
        match Errno::result(answer) {
            Err(Errno::EINTR) => {}
            // A reset is reported once, before what is left in the queue.
            Err(Errno::ECONNRESET) if resets < MAX_RESETS => resets += 1,
            Err(Errno::EAGAIN) => return Ok(Received::Nothing),
            Err(errno) => return Err(named("recvmsg")(errno)),
            Ok(len) => break len as usize,
        }
    };
    let (descriptors, unasked) = take_descriptors(&message);
    drop(unasked);
    let foreign = |descriptor| Foreign::new(descriptor, account.cloned());
    let descriptors = descriptors.into_iter().map(foreign).collect();
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Ok(Received::CutOff);
    }
    Ok(Received::Packet(len, descriptors))
}

/// The descriptors in a message's control buffer: those of SCM_RIGHTS, and others.
///
/// All are owned before anything else is decided, so that none can leak; `nix` refuses to look at a
/// buffer that was cut off, and does not know SCM_PIDFD.
fn take_descriptors(message: &libc::msghdr) -> (Vec<OwnedFd>, Vec<OwnedFd>) {
    let (mut rights, mut unasked) = (Vec::new(), Vec::new());
    // SAFETY: the kernel has filled the control buffer and said how much of it.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: the macro's answer lies in the buffer, which is aligned for headers.
        let header = unsafe { next.read() };
        let list = match (header.cmsg_level, header.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => Some(&mut rights),
            (libc::SOL_SOCKET, SCM_PIDFD) => Some(&mut unasked),
            _ => None,
        };
        if let Some(list) = list {
            // SAFETY: the data of a header follows it in the buffer.
            let data = unsafe { libc::CMSG_DATA(next) }.cast::<RawFd>();
            // SAFETY: an empty control message has this length; only arithmetic.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (header.cmsg_len as usize).saturating_sub(empty) / size_of::<RawFd>();
            for index in 0..count {
                // SAFETY: `count` numbers stand there, by the header's own length.
                let place = unsafe { data.add(index) };
                // SAFETY: as above; the kernel wrote it.
                let number = unsafe { place.read_unaligned() };
                if number >= 0 {
                    // SAFETY: the kernel has just made this descriptor for this process, and
                    // nothing else knows its number yet.
                    list.push(unsafe { OwnedFd::from_raw_fd(number) });
                }
            }
        }
        // SAFETY: `next` is a header of this message.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
    (rights, unasked)
}

/// Whether a received descriptor is a Unix socket of this type.
pub(crate) fn is_unix(fd: BorrowedFd<'_>, kind: Kind) -> bool {
    let kind = match kind {
        Kind::Stream => SockType::Stream,
        Kind::Packet => SockType::SeqPacket,
    };
    number(fd, libc::SO_DOMAIN) == Some(libc::AF_UNIX)
        && getsockopt(&fd, sockopt::SockType) == Ok(kind)
}

/// Types of socket that ports use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Stream,
    Packet,
}

fn pair(kind: SockType) -> Result<(OwnedFd, OwnedFd), SystemError> {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).map_err(named("socketpair"))
}

/// Owns a descriptor that the kernel has just made for this process.
pub(crate) fn fresh(number: RawFd) -> OwnedFd {
    // SAFETY: the callers pass what a call has just returned, which nothing else owns.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Lets as many packets wait in this socket's peer as the system allows.
pub(crate) fn enlarge(socket: BorrowedFd<'_>) {
    // The kernel reduces it to its own bound; if it refuses, the usual size suffices.
    let _ = setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER);
}

const MAX_DRAIN_CALLS: u32 = 16;
const MAX_DRAIN_CALLS_TO_THE_END: u32 = 1024;
/// The most resets and interruptions of one call that are waited out.
const MAX_RESETS: u32 = 16;
/// The most packets that are closed at a time; what is left goes with its socket.
const MAX_DISCARDED: u32 = 20_000;
/// The most packets without bytes, which only a hostile peer sends, before they count as the end.
const MAX_EMPTY: u32 = 64;
const SEND_BUFFER: usize = 8 << 20;
/// `SCM_PIDFD` of Linux 6.5.
const SCM_PIDFD: libc::c_int = 4;
