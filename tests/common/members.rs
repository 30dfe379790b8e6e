//! How a process joins a broadcast channel by hand, as one member sees it.

use super::parts::Parts;
use messageport::{MessageChannel, MessagePort};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use std::env;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

pub const HELLO: u64 = u64::from_le_bytes(*b"MPHELLO1");
pub const FORMAT: u64 = 8 << 32 | 1 << 16 | 4 << 8 | 8;
pub const VERSION: u64 = 1 << 32 | 12;

/// The directory of a channel's members.
pub fn directory_of(name: &str) -> PathBuf {
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let names = match runtime.filter(|path| path.is_absolute() && path.is_dir()) {
        Some(runtime) => runtime.join("messageport"),
        None => env::temp_dir().join(format!("messageport-{}", nix::unistd::getuid())),
    };
    names.join(format!("broadcast.{name}"))
}

/// Connects to the member whose socket this is.
pub fn connect_to(member: &Path) -> OwnedFd {
    let kind = SockType::SeqPacket;
    let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    connect(socket.as_raw_fd(), &UnixAddr::new(member).expect("a short path")).expect("a member");
    socket
}

pub fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// What a member says before its capsule.
pub fn member_hello(version: u64, schema: u64) -> Vec<u8> {
    words(&[HELLO, version, FORMAT, schema, 1, 2])
}

pub fn post(socket: &OwnedFd, bytes: &[u8], descriptors: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let rights = if descriptors.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(bytes)], rights, flags, None)
        .expect("room");
}

/// A port as it travels, behind some words.
pub fn port_behind(words: Vec<u8>) -> (Vec<u8>, Vec<OwnedFd>, MessagePort) {
    channel_behind(words, MessageChannel::new().expect("a channel"))
}

pub fn channel_behind(
    words: Vec<u8>,
    MessageChannel { port1, port2 }: MessageChannel,
) -> (Vec<u8>, Vec<OwnedFd>, MessagePort) {
    let parts = Parts::of(port2);
    let capsule = parts.capsule();
    (words.into_iter().chain(capsule).collect(), parts.descriptors, port1)
}

pub fn numbers(descriptors: &[OwnedFd]) -> Vec<RawFd> {
    descriptors.iter().map(AsRawFd::as_raw_fd).collect()
}
