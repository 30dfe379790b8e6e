//! What a parent hands to a child, made by hand: a packet with descriptors, in a socket that the
//! child inherits. The picture is that of `docs/protocol.md` and `docs/layout.md`.

use crate::common::region::Region;
use crate::common::role::command;
use messageport::MessageChannel;
use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socketpair,
};
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Stdio;

pub const CAPACITY: u64 = 4096;
pub const LIMIT: u64 = 64 << 10;
pub const SCHEMA: u64 = 7;
pub const MAGIC: u64 = u64::from_le_bytes(*b"MPCAPSUL");
/// The layout version.
pub const VERSION: u64 = 12;

/// Indices of a capsule's words.
pub const VERSION_AND_SIDE: usize = 1;
pub const CAPACITY_WORD: usize = 3;
pub const LIMIT_WORD: usize = 4;
pub const SCHEMA_WORD: usize = 5;
pub const OUTGOING: usize = 6;
pub const INCOMING: usize = 9;

/// Seals of a region.
pub const SEALS: SealFlag =
    SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// A port that waits to be taken, or something else.
pub struct Offer {
    /// The capsule, as words; cut off or filled up to `len` bytes.
    pub words: Vec<u64>,
    pub len: usize,
    pub descriptors: Vec<OwnedFd>,
    /// Ends that the parent keeps, so that nothing hangs up.
    pub kept: Vec<OwnedFd>,
}

impl Offer {
    /// What a parent that keeps the rules would offer.
    pub fn honest() -> Offer {
        let region = made(|_| {}, CAPACITY, LIMIT, SEALS);
        let (doorbell, doorbell2) = sockets(SockType::Stream);
        let (attachments, attachments2) = sockets(SockType::SeqPacket);
        Offer {
            words: vec![
                MAGIC,
                VERSION | 1 << 32,
                1,
                CAPACITY,
                LIMIT,
                SCHEMA,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
            ]
            .into_iter()
            .chain([0; 21])
            .collect(),
            len: 344,
            descriptors: vec![region, doorbell, attachments],
            kept: vec![doorbell2, attachments2],
        }
    }

    /// This offer with another word in its capsule.
    pub fn with(mut self, index: usize, word: u64) -> Offer {
        self.words[index] = word;
        self
    }

    /// This offer with another descriptor.
    pub fn holding(mut self, index: usize, descriptor: impl Into<OwnedFd>) -> Offer {
        self.descriptors[index] = descriptor.into();
        self
    }

    /// Puts the offer into a fresh pair of sockets. The second one is to be inherited.
    pub fn sent(&self) -> (OwnedFd, OwnedFd) {
        let (ours, childs) = sockets(SockType::SeqPacket);
        self.send(&ours);
        (ours, childs)
    }

    pub fn send(&self, ours: &OwnedFd) {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(self.len, 0xaa);
        let raw: Vec<_> = self.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[] } else { &rights[..] };
        let bytes = [IoSlice::new(&bytes)];
        let fd = ours.as_raw_fd();
        sendmsg::<UnixAddr>(fd, &bytes, rights, MsgFlags::empty(), None).expect("a packet");
    }
}

/// A region made by hand: the header of a real one, changed.
pub fn made(change: fn(&mut [u8]), capacity: u64, len: u64, seals: SealFlag) -> OwnedFd {
    let builder = MessageChannel::builder().capacity(capacity as usize).limit(LIMIT as usize);
    let channel = builder.schema(SCHEMA).build().expect("a channel");
    let mut header = [0; 128];
    Region::of(&channel.port1).file.read_exact_at(&mut header, 0).expect("a header");
    change(&mut header);
    let memory = File::from(memfd());
    memory.set_len(0x10000 + 2 * len).expect("a length");
    memory.write_all_at(&header, 0).expect("room for a header");
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals)).expect("seals");
    memory.into()
}

pub fn memfd() -> OwnedFd {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    memfd_create(c"made by hand", flags).expect("a memfd")
}

pub fn sockets(kind: SockType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).expect("a pair")
}

/// The variable by which a child finds what it inherits.
pub const VARIABLE: &str = "MESSAGEPORT_PARENT";

/// Starts the victim with a descriptor to inherit, and returns what it says about it.
pub fn verdict(test: &str, inherited: &OwnedFd) -> String {
    let inode = File::from(inherited.try_clone().expect("a descriptor"))
        .metadata()
        .expect("every descriptor has an inode")
        .ino();
    verdict_on(test, Some(inherited), &format!("{}:{inode}", inherited.as_raw_fd()))
}

/// The same, with any value in the environment.
pub fn verdict_on(test: &str, inherited: Option<&OwnedFd>, value: &str) -> String {
    if let Some(inherited) = inherited {
        fcntl(inherited.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).expect("a flag");
    }
    let mut command = command(test, "victim");
    command.env(VARIABLE, value).stdin(Stdio::null());
    let output = command.output().expect("a child");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the victim: {}\n{text}\n{complaints}", output.status);
    let verdict = text.lines().find_map(|line| line.split_once("verdict: "));
    verdict.unwrap_or_else(|| panic!("no verdict in {text}\n{complaints}")).1.to_string()
}
