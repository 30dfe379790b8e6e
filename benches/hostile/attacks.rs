//! What the hostile process does.

use crate::common::members;
use crate::common::messages::Rng;
use crate::common::parts::{ATTACHMENTS, DOORBELL, Parts, send};
use crate::common::region::Region;
use crate::locked::{Lock, user_faults};
use crate::peer::{CAPACITY, LIMIT, Peer};
use memmap2::{MmapOptions, MmapRaw};
use messageport::{Buffer, ChannelBuilder, MessageChannel, MessagePort};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::socket::{MsgFlags, getsockopt, setsockopt, sockopt};
use nix::unistd::getppid;
use std::fs::{self, File};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

/// The sizes of the channel to a hostile process: small where it writes records by itself.
pub fn sizes(name: &str) -> ChannelBuilder {
    match name {
        "descriptors" | "ports" | "large ports" | "buffers" | "lingering sockets"
        | "lingering orphans" => {
            MessageChannel::builder().capacity(CAPACITY as usize).limit(LIMIT as usize)
        }
        _ => MessageChannel::builder(),
    }
}

/// Does it until this process is killed.
pub fn play(name: &str, port: MessagePort) {
    if let Some((attack, channel)) = name.split_once(", as a member/") {
        return play_as_member(attack, channel);
    }
    port.post_text("here I am").expect("room");
    match name {
        "burner" => burn(1),
        "two burners" => burn(2),
        "nothing" => loop {
            thread::park();
        },
        "bytes" => flood_by_calls(&port, &[7; 8]),
        "long" => flood_by_calls(&port, &vec![7; port.max_message_len()]),
        "bell" => ring(port),
        "descriptors" => packets(port, Attached::Descriptors),
        "ports" => packets(port, Attached::Ports(64 << 10)),
        "large ports" => packets(port, Attached::Ports(4 << 30)),
        "buffers" => packets(port, Attached::Buffers),
        "lingering sockets" => packets(port, Attached::Lingering),
        "lingering orphans" => packets(port, Attached::LingeringOrphans),
        "scribbling" => scribble(&port),
        "holes" => punch(&port),
        "a held lock" => hold_lock(&port),
        other => panic!("no attack is called {other}"),
    }
}

/// Floods the member of a broadcast channel that has started this process.
fn play_as_member(attack: &str, channel: &str) {
    match attack {
        "burner" => burn(1),
        "two burners" => burn(2),
        "bytes" => flood_member(channel, &[0; 8 + STAMP]),
        "long" => flood_member(channel, &vec![0; LONG_FOR_MEMBERS]),
        _ => loop {
            thread::park();
        },
    }
}

/// Joins as other members do, and only at that member: its client is not flooded.
fn flood_member(channel: &str, bytes: &[u8]) {
    let directory = fs::read_dir(members::directory_of(channel)).expect("members");
    let paths = directory.map(|entry| entry.expect("a member").path());
    let is_of_parent = |socket: &OwnedFd| {
        let peer = getsockopt(socket, sockopt::PeerCredentials).expect("credentials");
        peer.pid() == getppid().as_raw()
    };
    let mut sockets = paths.map(|path| members::connect_to(&path));
    let socket = sockets.find(is_of_parent).expect("the parent is a member");
    let hello = members::member_hello(members::VERSION, 0);
    let (packet, descriptors, port) = members::port_behind(hello);
    members::post(&socket, &packet, &members::numbers(&descriptors));
    drop(descriptors);
    flood_by_calls(&port, bytes);
}

/// Keeps so many processors busy.
fn burn(count: usize) -> ! {
    for _ in 1..count {
        thread::spawn(|| burn(1));
    }
    loop {
        std::hint::spin_loop();
    }
}

fn flood_by_calls(port: &MessagePort, bytes: &[u8]) {
    loop {
        if port.post_bytes(bytes).is_err() {
            thread::yield_now();
        }
    }
}

fn ring(port: MessagePort) {
    let parts = Parts::of(port);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    loop {
        let bell = parts.descriptors[DOORBELL].as_raw_fd();
        if nix::sys::socket::send(bell, &[7; 4096], flags).is_err() {
            thread::yield_now();
        }
    }
}

fn scribble(port: &MessagePort) {
    let (region, mut rng) = (Region::of(port), Rng(1));
    loop {
        // The flags of sleepers and the counters: what ends no port.
        let lane = [0x80, 0x300][rng.below(2) as usize];
        let flag = lane + 0x100 + 4 * rng.below(2) as usize;
        region.half_word(flag).store(rng.next() as u32, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Maps the first page of each lane as often as it may, and removes its memory again and again.
fn punch(port: &MessagePort) {
    let region = Region::of(port);
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    let most = limit.trim().parse().unwrap_or(65_530usize).saturating_sub(500);
    let places = [0, region.area(0, 0), region.area(1, 0)];
    let maps: Vec<MmapRaw> = (0..most)
        .map_while(|number| {
            let offset = places[1 + number % 2] as u64;
            MmapOptions::new().len(4096).offset(offset).map_raw(&region.file).ok()
        })
        .collect();
    port.post_text("now").expect("room");
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    loop {
        for place in &places[1..] {
            fallocate(&region.file, hole, *place as i64, 4096).expect("a hole");
        }
        std::hint::black_box(&maps);
    }
}

fn hold_lock(port: &MessagePort) {
    match user_faults() {
        Ok(faults) => {
            let _lock = Lock::take(Region::of(port).file, faults);
            port.post_text("now").expect("room");
            loop {
                thread::park();
            }
        }
        Err(_) => port.post_text("not here").expect("room"),
    }
    loop {
        thread::park();
    }
}

/// What stands beside each message.
enum Attached {
    Descriptors,
    /// Whole ends of one pair with that limit.
    Ports(usize),
    Buffers,
    /// A TCP socket whose close takes seconds.
    Lingering,
    /// The same in a packet that no record names, before one that a record names.
    LingeringOrphans,
}

const MOST: usize = 64;
/// Half of what a member's port holds, about.
const LONG_FOR_MEMBERS: usize = 2 << 20;
/// Bytes behind each message of a member: when it was posted. Zeros claim the earliest time.
const STAMP: usize = 8;

fn packets(port: MessagePort, attached: Attached) {
    let mut peer = Peer::of(port);
    let mut rng = Rng(1);
    // Behind the greeting, which was posted by the port.
    match attached {
        Attached::Descriptors => {
            let file = tempfile::tempfile().expect("a file");
            let descriptors = vec![file.as_fd(); MOST];
            flood(&mut peer, &[3; MOST], &descriptors, &mut rng);
        }
        Attached::Ports(limit) => {
            let channel = MessageChannel::builder().limit(limit).build().expect("a channel");
            let parts = Parts::of(channel.port2);
            let entry: Vec<u64> = [1].into_iter().chain(parts.words.iter().copied()).collect();
            let descriptors: Vec<BorrowedFd<'_>> =
                (0..MOST).flat_map(|_| parts.borrowed()).collect();
            flood(&mut peer, &entry.repeat(MOST), &descriptors, &mut rng);
        }
        Attached::Buffers => {
            let mut buffer = Buffer::from_slice(&[7; 4096]).expect("a buffer");
            buffer.seal().expect("seals");
            let descriptors = vec![buffer.as_fd().expect("a sealed buffer"); MOST];
            flood(&mut peer, &[2, 4096].repeat(MOST), &descriptors, &mut rng);
        }
        Attached::Lingering => loop {
            let socket = lingering();
            if !post(&mut peer, &[3], &[socket.as_fd()], &mut rng) {
                thread::sleep(Duration::from_millis(1));
            }
            // The victim's is the last descriptor now.
        },
        Attached::LingeringOrphans => loop {
            let socket = lingering();
            let sequence = peer.sequence.to_le_bytes();
            let bytes = [*b"MPPACKET", sequence, 3u64.to_le_bytes()].concat();
            let is_sent = send(&peer.parts.descriptors[ATTACHMENTS], &bytes, &[socket.as_fd()]);
            drop(socket);
            peer.sequence += u64::from(is_sent.is_ok());
            let file = tempfile::tempfile().expect("a file");
            if !post(&mut peer, &[3], &[file.as_fd()], &mut rng) {
                thread::sleep(Duration::from_millis(1));
            }
        },
    }
}

fn flood(peer: &mut Peer, entries: &[u64], descriptors: &[BorrowedFd<'_>], rng: &mut Rng) {
    loop {
        if !post(peer, entries, descriptors, rng) {
            thread::yield_now();
        }
    }
}

fn post(peer: &mut Peer, words: &[u64], descriptors: &[BorrowedFd<'_>], rng: &mut Rng) -> bool {
    let sequence = peer.sequence;
    if !peer.stage_beside(descriptors.len() as u64, sequence, rng) {
        return false;
    }
    let mut bytes = b"MPPACKET".to_vec();
    for word in [sequence].iter().chain(words) {
        bytes.extend(word.to_le_bytes());
    }
    if send(&peer.parts.descriptors[ATTACHMENTS], &bytes, descriptors).is_err() {
        peer.unstage();
        return false;
    }
    peer.sequence += 1;
    peer.commit();
    true
}

/// A socket whose last close takes five seconds: its peer reads nothing of what was written.
fn lingering() -> OwnedFd {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of this machine");
    let near = TcpStream::connect(listener.local_addr().expect("an address")).expect("a stream");
    let (far, _) = listener.accept().expect("the other end");
    near.set_nonblocking(true).expect("a flag");
    while (&near).write(&[7; 1 << 16]).is_ok() {}
    let linger = libc::linger { l_onoff: 1, l_linger: 5 };
    setsockopt(&near, sockopt::Linger, &linger).expect("an option");
    // The other end stays open as long as this process.
    std::mem::forget(File::from(OwnedFd::from(far)));
    near.into()
}
