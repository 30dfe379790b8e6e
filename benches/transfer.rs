//! What moving costs: a port, and large payloads in every way that there is.
//!
//! The limits of the same run: the bare system calls on the same descriptors, a fresh memfd passed
//! by hand, `memcpy`, and a Unix stream socket.

#![allow(unsafe_code, missing_docs)]

mod harness;

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use harness::Harness;
use harness::bars::Bar;
use harness::handoff::{self, Way};
use harness::hops;
use harness::local::{self, Local};
use harness::ports::{self, Mode};
use harness::report::{Baseline, Report};
use harness::workload::Subject;
use messageport::MessageChannel;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    recvmsg, sendmsg, socketpair,
};

fn main() {
    let Some(mut harness) = Harness::start("transfer") else {
        return;
    };
    ports_move(&mut harness);
    if harness.has_two_cores("transfer") {
        moved_ports_talk(&mut harness);
        payloads_move(&mut harness);
    }
    harness.finish();
}

/// A port from one end of a carrier to the other, and what the kernel alone takes for it.
fn ports_move(harness: &mut Harness) {
    let count = harness.count(5_000, 20);
    let subjects = vec![
        Subject::new(BARE_CALLS, 0, count, || bare_calls(false)),
        Subject::new("bare-calls-touched", 0, count, || bare_calls(true)),
        Subject::new("port", 0, count, || move_port(0)),
        Subject::new("port-with-queue", 0, count, || move_port(1_000)),
    ];
    let report = Report {
        group: "transfer_port",
        title: "a port posted, received and taken, in one thread; also with 1,000 messages in it",
        baselines: vec![Baseline::same(BARE_CALLS)],
        bars: vec![
            Bar::same(10, "port", BARE_CALLS, 0, 2.0),
            Bar::same(10, "port-with-queue", "port", 0, 1.1),
        ],
        is_throughput: false,
        is_slow: false,
    };
    harness.run(&report, &subjects);
}

fn move_port(queued: u64) -> Local<impl FnMut(), impl FnMut()> {
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
fn bare_calls(is_touched: bool) -> Local<impl FnMut(), impl FnMut()> {
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
            // SAFETY: the first word of a mapping that nobody else uses.
            let word = unsafe { AtomicU64::from_ptr(mapping.as_mut_ptr().cast()) };
            word.fetch_add(1, Relaxed);
        }
    };
    Local::new(|| {}, operation)
}

/// Round trips through ports that have moved, and through ports that have not.
fn moved_ports_talk(harness: &mut Harness) {
    let (core, count) = (harness.peer_core(), harness.count(50_000, 50));
    let mode = Mode { is_trusted: true, is_asleep: false, is_typed: false };
    let mut subjects = Vec::new();
    for bytes in [64, 1024] {
        subjects.extend(ports::round_trips(core, mode, &[bytes], count));
        for hops in hops::HOPS {
            subjects.push(hops::round_trip(core, hops, bytes, count));
        }
    }
    for crowd in hops::CROWDS {
        subjects.push(hops::in_a_crowd(core, crowd, 64, count));
    }
    let bar = |after, number| Bar::same(number, after, "trusted-bytes", 64, 1.1);
    let mut bars: Vec<Bar> = hops::HOPS.map(|(after, _)| bar(after, 11)).into();
    bars.extend(hops::CROWDS.map(|(among, _)| bar(among, 19)));
    let report = Report {
        group: "transfer_hops",
        title: "bytes there and back, spinning, trusted: before and after both ends have moved, and in a \
                process with many other ports",
        baselines: vec![Baseline::same("trusted-bytes")],
        bars,
        is_throughput: false,
        is_slow: false,
    };
    harness.run(&report, &subjects);
}

fn payloads_move(harness: &mut Harness) {
    let core = harness.peer_core();
    let mode = Mode { is_trusted: true, is_asleep: false, is_typed: false };
    let mut subjects = ports::round_trips(core, mode, &[64], harness.count(50_000, 50));
    for bytes in SIZES {
        let count = harness.count(((256 << 20) / bytes as u64).clamp(2, 500), 2);
        for is_read in [false, true] {
            for way in [Way::Pooled, Way::Sealed, Way::Fresh] {
                subjects.push(handoff::handoff(core, way, bytes, is_read, count));
            }
            subjects.push(handoff::bare(core, bytes, is_read, count));
        }
        subjects.push(handoff::handoff(core, Way::Copied, bytes, true, count));
        subjects.push(handoff::stream(core, bytes, count));
        subjects.push(local::memcpy(bytes, count));
    }
    let mut bars = Vec::new();
    for bytes in SIZES {
        bars.push(Bar::limit(8, ("pooled-unread", bytes), ("trusted-bytes", 64), 2.0));
        bars.push(Bar::same(9, "fresh-read", "bare-read", bytes, 1.2));
    }
    let report = Report {
        group: "transfer_payload",
        title: "a payload handed over and answered, read in full or not at all, between processes \
                that trust each other and spin",
        baselines: vec![
            Baseline::fixed("trusted-bytes", 64),
            Baseline::same("bare-read"),
            Baseline::same("copied-read"),
            Baseline::same(local::MEMCPY),
        ],
        bars,
        is_throughput: false,
        is_slow: true,
    };
    harness.run(&report, &subjects);
}

const SIZES: [usize; 4] = [64 << 10, 1 << 20, 16 << 20, 256 << 20];
/// Bytes of a region with the default limit.
const REGION: usize = 0x10000 + 2 * (64 << 20);
const BARE_CALLS: &str = "bare-calls";
