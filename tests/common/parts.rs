//! A port taken apart: its capsule and its three descriptors, as they travel. For tests that change
//! one of them, or keep a duplicate.
#![allow(unsafe_code)]

use messageport::{AttachError, MessagePort};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    recvmsg, sendmsg, socketpair,
};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What an end consists of while it is in no port.
pub struct Parts {
    /// The capsule's words.
    pub words: Vec<u64>,
    /// Memory, doorbell, attachments.
    pub descriptors: Vec<OwnedFd>,
}

/// Places in `descriptors`.
pub const DOORBELL: usize = 1;
pub const ATTACHMENTS: usize = 2;

/// Places in `words`.
pub const EPOCH: usize = 2;
pub const PACKETS: usize = 12;
pub const TRUSTED: usize = 13;

impl Parts {
    pub fn of(port: MessagePort) -> Parts {
        let socket = port.into_fd().expect("an open port");
        let (bytes, descriptors) = receive(&socket).expect("a capsule");
        let words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        Parts { words: words.collect(), descriptors }
    }

    /// The port that they make.
    pub fn into_port(self) -> Result<MessagePort, AttachError> {
        let (ours, theirs) = packet_sockets();
        send(&ours, &self.capsule(), &self.borrowed()).expect("an empty socket");
        drop(self);
        MessagePort::from_fd(theirs)
    }

    pub fn capsule(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    pub fn borrowed(&self) -> Vec<BorrowedFd<'_>> {
        self.descriptors.iter().map(AsFd::as_fd).collect()
    }

    /// A second descriptor of one of them.
    pub fn duplicate(&self, index: usize) -> OwnedFd {
        self.descriptors[index].try_clone().expect("a descriptor")
    }
}

pub fn packet_sockets() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .expect("a pair of sockets")
}

/// Sends one packet, without waiting.
pub fn send(socket: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[] } else { &rights[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let bytes = [IoSlice::new(bytes)];
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &bytes, rights, flags, None).map(drop)
}

/// Receives one packet, without waiting.
pub fn receive(socket: &OwnedFd) -> nix::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; 1 << 16];
    let mut control = nix::cmsg_space!([RawFd; 253]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut descriptors = Vec::new();
    for header in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = header {
            // SAFETY: the kernel has just made them for this process, and no other code has them.
            descriptors.extend(numbers.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }));
        }
    }
    let len = message.bytes;
    bytes.truncate(len);
    Ok((bytes, descriptors))
}
