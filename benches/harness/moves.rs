//! A port that moves, and what the kernel alone takes for it.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use messageport::MessageChannel;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    recvmsg, sendmsg, socketpair,
};

use super::local::Local;

/// A port that moves from one end of a carrier to the other, with so many messages in its queue.
pub fn move_port(queued: u64) -> Local<impl FnMut(), impl FnMut()> {
    let carrier = MessageChannel::new().expect("a channel");
    let MessageChannel { port1: far, port2 } = MessageChannel::new().expect("a channel");
    for number in 0..queued {
        far.post_message(&number).expect("room");
    }
    let mut port = Some(port2);
    let operation = move || {
        let moved = port.take().expect("it comes back");
        carrier.port1.post_bytes_with(b"", [moved.into()]).expect("an open carrier");
        let event = carrier.port2.try_recv().expect("an open carrier").expect("a message");
        port = Some(event.take_port().expect("a port"));
    };
    Local::new(check_moves, operation)
}

/// The queue, and the connection, survive a few moves.
fn check_moves() {
    let carrier = MessageChannel::new().expect("a channel");
    let MessageChannel { port1, mut port2 } = MessageChannel::new().expect("a channel");
    for number in 0..10u64 {
        port1.post_message(&number).expect("room");
        carrier.port1.post_bytes_with(b"", [port2.into()]).expect("an open carrier");
        port2 = carrier.port2.recv().expect("a message").take_port().expect("a port");
    }
    for number in 0..10u64 {
        assert_eq!(port2.recv().expect("a message").data::<u64>().expect("a number"), &number);
    }
}

/// `sendmsg`, `recvmsg`, `mmap` and `munmap` of as many descriptors and as much memory; also with a
/// word of the memory read and written, without which no end can be used.
pub fn bare_calls(is_touched: bool) -> Local<impl FnMut(), impl FnMut()> {
    let pair = |kind| {
        socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).expect("sockets")
    };
    let (carrier, carrier2) = pair(SockType::SeqPacket);
    let (doorbell, _doorbell2) = pair(SockType::Stream);
    let (attachments, _attachments2) = pair(SockType::SeqPacket);
    let memory = nix::sys::memfd::memfd_create(c"bare", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
    let memory = memory.expect("a memfd");
    nix::unistd::ftruncate(&memory, REGION as i64).expect("a length");
    let mut held = vec![memory, doorbell, attachments];
    let operation = move || {
        let raw: Vec<_> = held.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let (flags, part) = (MsgFlags::MSG_DONTWAIT, [IoSlice::new(&[0; 128])]);
        let _kept = (&_doorbell2, &_attachments2);
        sendmsg::<UnixAddr>(carrier.as_raw_fd(), &part, &rights, flags, None).expect("a packet");
        held.clear();
        let mut bytes = [0; 128];
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let mut control = nix::cmsg_space!([i32; 3]);
        let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
        let fd = carrier2.as_raw_fd();
        let message = recvmsg::<UnixAddr>(fd, &mut parts, Some(&mut control), flags);
        let message = message.expect("a packet");
        for rights in message.cmsgs().expect("room for three") {
            let ControlMessageOwned::ScmRights(list) = rights else { continue };
            // SAFETY: the kernel has just made these descriptors for us.
            held.extend(list.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }));
        }
        assert_eq!(held.len(), 3);
        let mapping = memmap2::MmapOptions::new().len(REGION).map_raw(&held[0]);
        let mapping = mapping.expect("a mapping");
        if is_touched {
            // SAFETY: the first word of a mapping that no other code uses.
            let word = unsafe { AtomicU64::from_ptr(mapping.as_mut_ptr().cast()) };
            word.fetch_add(1, Relaxed);
        }
    };
    Local::new(|| {}, operation)
}

/// Bytes of a region with the default limit.
const REGION: usize = 0x10000 + 2 * (64 << 20);
