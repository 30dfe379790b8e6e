//! A sender that puts on the attachment socket what no program using this crate sends: packets
//! without records, records without packets, capsules that lie, memory that is none. The victim
//! ends the carrier as corrupt, or says what is wrong with one message, and keeps no descriptor.

#![allow(unsafe_code)]

#[path = "smuggle/capsules.rs"]
mod capsules;
mod common;
#[path = "common/filter.rs"]
mod filter;
#[path = "smuggle/guards.rs"]
mod guards;
#[path = "smuggle/lingering.rs"]
mod lingering;
#[path = "smuggle/memory.rs"]
mod memory;
#[path = "smuggle/packets.rs"]
mod packets;
#[path = "smuggle/refusals.rs"]
mod refusals;
#[path = "smuggle/shares.rs"]
mod shares;
#[path = "smuggle/small.rs"]
mod small;

use common::parts::{ATTACHMENTS, Parts, send};
use common::region::{MESSAGE, Region, head, record, tail};
use common::{receive, receive_end, refusal, wait_until};
use messageport::{CloseReason, MessageChannel, MessagePort};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::SeqCst;

/// A victim, and all that its peer has: the region and its ends of the sockets.
struct Pair {
    victim: MessagePort,
    parts: Parts,
    region: Region,
    tail: usize,
}

/// The lane of the peer's posts.
const IN: usize = 0;
const CAPACITY: usize = 64 << 10;
const DEVICE: &str = "/dev/null";

impl Pair {
    fn new() -> Pair {
        let builder = MessageChannel::builder().capacity(CAPACITY).bounded();
        let MessageChannel { port1, port2 } = builder.build().expect("a channel");
        let parts = Parts::of(port1);
        let region = Region::map(File::from(parts.duplicate(0)));
        Pair { victim: port2, parts, region, tail: 0 }
    }

    /// Posts a message of one word, of which it says that a packet is beside it.
    fn record(&mut self, descriptors: u64, sequence: u64) {
        self.raw_record(record(8, MESSAGE, 1) | descriptors << 48, sequence, 32);
    }

    /// Posts a record of `len` bytes.
    fn raw_record(&mut self, header: u64, detail: u64, len: usize) {
        self.region.write_record(self.region.area(IN, self.tail % CAPACITY), header, detail);
        self.tail += len;
        self.region.word(tail(IN)).store(self.tail as u64, SeqCst);
    }

    /// Records that the victim has released.
    fn released(&self) -> u64 {
        self.region.word(head(IN)).load(SeqCst)
    }

    fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        send(&self.parts.descriptors[ATTACHMENTS], bytes, descriptors).expect("room");
    }

    /// Sends a packet with these entries.
    fn packet(&self, sequence: u64, entries: &[Entry], descriptors: &[BorrowedFd<'_>]) {
        self.send(&packet(sequence, entries), descriptors);
    }
}

/// What a packet says is in it.
#[derive(Clone)]
enum Entry {
    Port(Vec<u8>),
    Buffer(u64),
    Descriptor,
    Pool([u64; 3]),
    Other(u64),
}

fn packet(sequence: u64, entries: &[Entry]) -> Vec<u8> {
    let mut bytes = b"MPPACKET".to_vec();
    let mut word = |word: u64| bytes.extend(word.to_le_bytes());
    word(sequence);
    for entry in entries {
        match entry {
            Entry::Port(capsule) => {
                word(1);
                capsule.chunks_exact(8).for_each(|eight| {
                    word(u64::from_le_bytes(eight.try_into().expect("eight bytes")));
                });
            }
            Entry::Buffer(len) => [2, *len].into_iter().for_each(&mut word),
            Entry::Descriptor => word(3),
            Entry::Pool(words) => {
                word(4);
                words.iter().copied().for_each(&mut word);
            }
            Entry::Other(kind) => word(*kind),
        }
    }
    bytes
}

/// A descriptor to be smuggled, and what tells when all of its duplicates are closed.
fn watched() -> (OwnedFd, UnixStream) {
    let (sent, kept) = UnixStream::pair().expect("a pair");
    kept.set_nonblocking(true).expect("a flag");
    (sent.into(), kept)
}

fn is_closed(mut kept: &UnixStream) -> bool {
    use std::io::Read;
    matches!(kept.read(&mut [0]), Ok(0))
}

/// Waits until all duplicates are closed, those of children that are just being started as well.
#[track_caller]
fn wait_until_released(kept: &UnixStream, what: &str) {
    wait_until(&format!("all duplicates are closed: {what}"), || is_closed(kept));
}

fn null() -> OwnedFd {
    File::open(DEVICE).expect("a device").into()
}

/// The port has ended as corrupt, in both directions, and stays so.
#[track_caller]
fn assert_broken(victim: &MessagePort, what: &str) {
    let reason = receive_end(victim);
    assert!(matches!(reason, CloseReason::Corrupt(_)), "{what}: {reason:?}");
    assert_eq!(refusal(victim.post_text("after the end")), reason);
    let error = victim.post_text_with("after the end", [null().into()]).expect_err("closed");
    assert_eq!(refusal(Err(error.into_parts().0)), reason);
}

/// An honest message still gets through.
#[track_caller]
fn assert_alive(pair: &mut Pair, sequence: u64) {
    let (sent, kept) = watched();
    pair.packet(sequence, &[Entry::Descriptor], &[sent.as_fd()]);
    drop(sent);
    pair.record(1, sequence);
    let event = receive(&pair.victim);
    let taken = event.take_descriptor().expect("a descriptor");
    assert!(!is_closed(&kept));
    drop(taken);
    wait_until_released(&kept, "the honest message");
}
