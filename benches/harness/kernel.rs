//! What the kernel offers: the bare ways to wake another process, and its own message queues.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use super::child::{Job, Peer};
use super::message::{CHECKED, Outgoing, Source, Tally, assert_echo};
use super::shared::{LINE, Shared, SharedMemory};
use super::workload::{RoundTrip, Subject, Trips, Workload};

/// A way to hand a few bytes to another process and to sleep until it answers.
pub trait Channel {
    fn send(&mut self, message: &[u8]);

    /// Sleeps until a message is there; returns false once the other side is gone.
    fn receive(&mut self, message: &mut [u8]) -> bool;
}

/// Two futex words, one per direction. They carry no payload, only the number of the call.
pub struct Futex {
    ours: Shared<AtomicU32>,
    peers: Shared<AtomicU32>,
    /// Last value that was seen in `peers`.
    seen: u32,
}

impl Futex {
    /// Waits on the word at `peers` and wakes the thread that waits on the one at `ours`.
    pub fn new(memory: &std::rc::Rc<SharedMemory>, ours: usize, peers: usize) -> Self {
        Self { ours: memory.half_word(ours), peers: memory.half_word(peers), seen: 0 }
    }
}

impl Channel for Futex {
    fn send(&mut self, _message: &[u8]) {
        // Release: pairs with the Acquire in `receive`.
        self.ours.fetch_add(1, Release);
        futex(&self.ours, libc::FUTEX_WAKE, 1);
    }

    fn receive(&mut self, _message: &mut [u8]) -> bool {
        // Acquire: pairs with the Release in `send`.
        while self.peers.load(Acquire) == self.seen {
            futex(&self.peers, libc::FUTEX_WAIT, self.seen);
        }
        self.seen = self.seen.wrapping_add(1);
        true
    }
}

/// Calls the kernel for a word that another process uses as well, so not the private variant.
fn futex(word: &AtomicU32, operation: libc::c_int, value: u32) {
    let no_timeout = std::ptr::null::<libc::timespec>();
    // SAFETY: the word lives as long as its mapping, and the kernel writes nothing. A failure means
    // that the word has changed or a signal came; the caller looks at the word again.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, no_timeout) };
}

/// A byte rung through a stream socket pair, with `poll` before every read: it tells of hang-up.
pub struct Doorbell(pub UnixStream);

impl Channel for Doorbell {
    fn send(&mut self, _message: &[u8]) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        // A failure means that the other side is gone, which `receive` reports.
        let _ = send(self.0.as_raw_fd(), &[1], flags);
    }

    fn receive(&mut self, _message: &mut [u8]) -> bool {
        let mut wanted = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut wanted, PollTimeout::NONE).expect("poll");
        let mut bytes = [0; 64];
        recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).is_ok_and(|len| len > 0)
    }
}

/// Two event counters, read and written where they block.
struct Counters {
    out: EventFd,
    back: EventFd,
}

impl Channel for Counters {
    fn send(&mut self, _message: &[u8]) {
        self.out.write(1).expect("adding to an eventfd");
    }

    fn receive(&mut self, _message: &mut [u8]) -> bool {
        self.back.read().is_ok_and(|count| count == 1)
    }
}

/// Two pipes.
pub struct Pipes {
    pub out: File,
    pub back: File,
}

impl Channel for Pipes {
    fn send(&mut self, message: &[u8]) {
        // A failure means that the other side is gone, which `receive` reports.
        let _ = self.out.write_all(message);
    }

    fn receive(&mut self, message: &mut [u8]) -> bool {
        self.back.read_exact(message).is_ok()
    }
}

/// A pair of sockets that keep messages apart.
pub struct Packets(pub OwnedFd);

impl Channel for Packets {
    fn send(&mut self, message: &[u8]) {
        let _ = send(self.0.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL);
    }

    fn receive(&mut self, message: &mut [u8]) -> bool {
        recv(self.0.as_raw_fd(), message, MsgFlags::empty()).is_ok_and(|len| len == message.len())
    }
}

/// A round trip over a [`Channel`].
struct Trip<C> {
    channel: C,
    /// Whether the channel carries the message; a bare wake-up does not.
    carries: bool,
    message: Outgoing,
    answer: Vec<u8>,
    peer: Peer,
}

impl<C: Channel> Trip<C> {
    fn new(channel: C, carries: bool, bytes: usize, peer: Peer) -> Self {
        Self { channel, carries, message: Outgoing::new(bytes), answer: vec![0; bytes], peer }
    }
}

impl<C: Channel> RoundTrip for Trip<C> {
    fn check(&mut self) {
        if !self.carries {
            return self.round_trip();
        }
        assert_echo(self.answer.len(), |message| {
            self.channel.send(message);
            assert!(self.channel.receive(&mut self.answer), "the other side is gone");
            self.answer.clone()
        });
    }

    fn round_trip(&mut self) {
        self.channel.send(self.message.next());
        assert!(self.channel.receive(&mut self.answer), "the other side is gone");
        if self.carries {
            self.message.confirm(&self.answer);
        }
    }

    fn peer(&self) -> u32 {
        self.peer.id()
    }
}

fn echo(mut channel: impl Channel, bytes: usize) {
    let mut message = vec![0; bytes];
    while channel.receive(&mut message) {
        channel.send(&message);
    }
}

/// A one-way transfer over a [`Channel`].
struct OneWay<C> {
    channel: C,
    source: Source,
    peer: Peer,
}

impl<C: Channel> Workload for OneWay<C> {
    fn check(&mut self) {
        self.run(CHECKED);
    }

    fn run(&mut self, count: u64) -> Duration {
        let start = Instant::now();
        for _ in 0..count {
            self.channel.send(self.source.message.next());
        }
        self.source.wait_until_taken();
        start.elapsed()
    }

    fn pauses(&self) -> Option<u64> {
        Some(self.source.pauses())
    }

    fn peer(&self) -> Option<u32> {
        Some(self.peer.id())
    }
}

/// The bare wake-ups, both sides asleep. Only the last two ways carry `bytes`.
pub fn round_trips(core: usize, bytes: &[usize], count: u64) -> Vec<Subject> {
    let mut subjects = vec![
        Subject::new(FUTEX, 4, count, move || {
            let memory = SharedMemory::create(2 * LINE);
            let peer = Peer::start("futex", core, 8, &[memory.descriptor()]);
            Trips(Trip::new(Futex::new(&memory, 0, LINE), false, 8, peer))
        }),
        Subject::new(STREAM, 1, count, move || {
            let (ours, peers) = UnixStream::pair().expect("a stream socket pair");
            let peer = Peer::start("stream", core, 8, &[peers.as_fd()]);
            Trips(Trip::new(Doorbell(ours), false, 8, peer))
        }),
        Subject::new(EVENTFD, 8, count, move || {
            let (out, back) = (eventfd(), eventfd());
            let peer = Peer::start("eventfd", core, 8, &[out.as_fd(), back.as_fd()]);
            Trips(Trip::new(Counters { out, back }, false, 8, peer))
        }),
    ];
    for &bytes in bytes {
        subjects.push(Subject::new(PIPE, bytes, count, move || {
            let (their_end, out) = pipe();
            let (back, their_other_end) = pipe();
            let ends = [their_end.as_fd(), their_other_end.as_fd()];
            let peer = Peer::start("pipe", core, bytes, &ends);
            Trips(Trip::new(Pipes { out, back }, true, bytes, peer))
        }));
        subjects.push(Subject::new(SEQPACKET, bytes, count, move || {
            let (ours, peers) = seqpacket();
            let peer = Peer::start("seqpacket", core, bytes, &[peers.as_fd()]);
            Trips(Trip::new(Packets(ours), true, bytes, peer))
        }));
    }
    subjects
}

/// A pipe and a socket pair that keep messages apart, one way.
pub fn one_way(core: usize, bytes: usize, count: u64) -> Vec<Subject> {
    vec![
        Subject::new(PIPE, bytes, count, move || {
            let (their_end, out) = pipe();
            // Nothing comes back: the source counts on a page of its own.
            let back = File::open("/dev/null").expect("/dev/null");
            let source = Source::new(bytes);
            let ends = [source.descriptor(), their_end.as_fd()];
            let peer = Peer::start("pipe-sink", core, bytes, &ends);
            OneWay { channel: Pipes { out, back }, source, peer }
        }),
        Subject::new(SEQPACKET, bytes, count, move || {
            let (ours, peers) = seqpacket();
            let source = Source::new(bytes);
            let ends = [source.descriptor(), peers.as_fd()];
            let peer = Peer::start("seqpacket-sink", core, bytes, &ends);
            OneWay { channel: Packets(ours), source, peer }
        }),
    ]
}

pub fn serve_futex(mut job: Job) {
    let memory = SharedMemory::open(job.descriptor());
    echo(Futex::new(&memory, LINE, 0), job.bytes);
}

pub fn serve_stream(mut job: Job) {
    echo(Doorbell(UnixStream::from(job.descriptor())), job.bytes);
}

pub fn serve_eventfd(mut job: Job) {
    // SAFETY: the parent passes two eventfds for this role.
    let back = unsafe { EventFd::from_owned_fd(job.descriptor()) };
    // SAFETY: as above.
    let out = unsafe { EventFd::from_owned_fd(job.descriptor()) };
    echo(Counters { out, back }, job.bytes);
}

pub fn serve_pipe(mut job: Job) {
    let back = File::from(job.descriptor());
    echo(Pipes { out: File::from(job.descriptor()), back }, job.bytes);
}

pub fn serve_seqpacket(mut job: Job) {
    echo(Packets(job.descriptor()), job.bytes);
}

/// Takes everything from a pipe, in large reads: a receiver of small messages buffers them.
pub fn serve_pipe_sink(mut job: Job) {
    let mut tally = Tally::new(&SharedMemory::open(job.descriptor()), job.bytes);
    let mut pipe = BufReader::with_capacity(64 << 10, File::from(job.descriptor()));
    let mut message = vec![0; job.bytes];
    while pipe.read_exact(&mut message).is_ok() {
        tally.take(&message);
        if pipe.buffer().is_empty() {
            tally.publish();
        }
    }
}

pub fn serve_seqpacket_sink(mut job: Job) {
    let mut tally = Tally::new(&SharedMemory::open(job.descriptor()), job.bytes);
    let mut packets = Packets(job.descriptor());
    let mut message = vec![0; job.bytes];
    while packets.receive(&mut message) {
        tally.take(&message);
        tally.publish();
    }
}

fn eventfd() -> EventFd {
    EventFd::from_value_and_flags(0, nix::sys::eventfd::EfdFlags::EFD_CLOEXEC).expect("eventfd")
}

/// Returns the reading and the writing end of a pipe, both closed on `exec`.
pub fn pipe() -> (File, File) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    (File::from(OwnedFd::from(reader)), File::from(OwnedFd::from(writer)))
}

pub fn seqpacket() -> (OwnedFd, OwnedFd) {
    let flags = SockFlag::SOCK_CLOEXEC;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("a packet socket pair")
}

/// Variant names, which the reports name as baselines.
pub const FUTEX: &str = "futex";
pub const STREAM: &str = "stream-doorbell";
pub const EVENTFD: &str = "eventfd";
pub const PIPE: &str = "pipe";
pub const SEQPACKET: &str = "seqpacket";
