//! Large payloads handed to another process, each answered when it was read, or not read at all.

use std::hint::{black_box, spin_loop};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use memmap2::{Advice, MmapMut, MmapOptions};
use messageport::{Buffer, BufferPool, MessageEvent, MessagePort, Worker, parent_port};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    recvmsg, sendmsg, socketpair,
};
use std::io::{IoSlice, IoSliceMut};

use super::child::{self, Job, Peer};
use super::ports::trust;
use super::workload::{RoundTrip, Subject, Trips};

/// How the payload gets there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A buffer that is made and filled for each message.
    Fresh,
    /// One sealed buffer that is sent back and forth.
    Sealed,
    /// A buffer of a pool; filled once, as filling costs the same everywhere.
    Pooled,
    /// A message as large, copied into the ring and, by default, out of it.
    Copied,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Fresh => "fresh",
            Way::Sealed => "sealed",
            Way::Pooled => "pooled",
            Way::Copied => "copied",
        }
    }
}

struct Handoff {
    worker: Worker,
    way: Way,
    bytes: usize,
    is_read: bool,
    pool: Option<BufferPool>,
    sealed: Option<Buffer>,
    content: Vec<u8>,
    number: u64,
}

impl Handoff {
    fn start(core: usize, way: Way, bytes: usize, is_read: bool) -> Self {
        let read = if is_read { "read" } else { "unread" };
        let role = format!("handoff:{}:{read}", way.name());
        let command = child::command(&role, core, bytes, &[]);
        let builder = messageport::MessageChannel::builder().limit(1 << 30);
        let worker = Worker::spawn_with(command, builder).expect("starting this executable again");
        trust(worker.port());
        let is_ready = receive(worker.port()).text().is_ok_and(|text| text == "ready");
        assert!(is_ready);
        let pool = (way == Way::Pooled).then(|| {
            let pool = BufferPool::new(worker.port(), 2, bytes).expect("a pool");
            let buffers: Vec<_> = (0..2).map(|_| pool.take().expect("a buffer")).collect();
            buffers.into_iter().for_each(|mut buffer| buffer.fill(FILL));
            pool
        });
        let sealed = (way == Way::Sealed).then(|| filled(bytes));
        let content = if way == Way::Copied { vec![FILL; bytes] } else { Vec::new() };
        Self { worker, way, bytes, is_read, pool, sealed, content, number: 0 }
    }

    fn expected(&self) -> u64 {
        if self.is_read { sum_of_length(self.bytes) } else { 0 }
    }
}

impl RoundTrip for Handoff {
    fn check(&mut self) {
        (0..3).for_each(|_| self.round_trip());
    }

    #[inline]
    fn round_trip(&mut self) {
        self.number += 1;
        let (port, number) = (self.worker.port(), &self.number);
        match self.way {
            Way::Fresh => {
                let list = [filled(self.bytes).into()];
                port.post_message_with(number, list).expect("a worker that lives");
            }
            Way::Sealed => {
                let list = [self.sealed.take().expect("it comes back").into()];
                port.post_message_with(number, list).expect("a worker that lives");
            }
            Way::Pooled => {
                let pool = self.pool.as_ref().expect("a pool");
                let buffer = pool.take().expect("the other one came back");
                port.post_message_pooled(number, buffer).expect("a worker that lives");
            }
            // The largest has one segment to go to, which the worker may not have left yet: it drops
            // what it has read behind its answer.
            Way::Copied => {
                let posted = port.post_bytes_timeout(&self.content, Duration::MAX);
                posted.expect("a worker that lives");
            }
        }
        let answer = receive(port);
        let (answered, sum) = answer.deserialize::<(u64, u64)>().expect("a valid answer");
        assert_eq!((answered, sum), (self.number, self.expected()));
        if self.way == Way::Sealed {
            self.sealed = Some(answer.take_buffer().expect("it comes back"));
        }
    }

    fn peer(&self) -> u32 {
        self.worker.id()
    }
}

/// Plays the other side of [`Handoff`].
pub fn serve(job: Job) {
    let port = parent_port().expect("a port to the parent");
    trust(&port);
    port.post_text("ready").expect("the parent lives");
    let is_read = job.role.ends_with(":read");
    let mut number = 0;
    let sum = |bytes: &[u8]| if is_read { sum_of(bytes) } else { 0 };
    loop {
        let Some(event) = next(&port) else { return };
        number += 1;
        if job.role.contains("copied") {
            port.post_message(&(number, sum(event.bytes()))).expect("the parent lives");
        } else if job.role.contains("pooled") {
            let answer = (number, sum(&event.take_pooled().expect("a pooled buffer")));
            port.post_message(&answer).expect("the parent lives");
        } else {
            let buffer = event.take_buffer().expect("a buffer");
            let answer = (number, sum(&buffer));
            if job.role.contains("sealed") {
                port.post_message_with(&answer, [buffer.into()]).expect("the parent lives");
            } else {
                drop(buffer);
                port.post_message(&answer).expect("the parent lives");
            }
        }
    }
}

/// The least that the same takes without this crate: a fresh memfd, its descriptor in a packet.
struct Bare {
    socket: OwnedFd,
    bytes: usize,
    is_read: bool,
    peer: Peer,
}

impl RoundTrip for Bare {
    fn check(&mut self) {
        (0..3).for_each(|_| self.round_trip());
    }

    fn round_trip(&mut self) {
        send_bare(&self.socket, self.bytes);
        let socket = self.socket.as_raw_fd();
        let mut sum = [0; 8];
        while nix::sys::socket::recv(socket, &mut sum, MsgFlags::MSG_DONTWAIT).is_err() {
            spin_loop();
        }
        let expected = if self.is_read { sum_of_length(self.bytes) } else { 0 };
        assert_eq!(u64::from_ne_bytes(sum), expected);
    }

    fn peer(&self) -> u32 {
        self.peer.id()
    }
}

/// Makes a memfd of so many bytes, fills it, seals it and sends its descriptor.
pub fn send_bare(socket: &OwnedFd, bytes: usize) {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let memory = memfd_create(c"bare", flags).expect("a memfd");
    nix::unistd::ftruncate(&memory, bytes as i64).expect("a length");
    // SAFETY: the descriptor was just made, and no other code has it.
    let mut view = unsafe { MmapMut::map_mut(&memory) }.expect("a mapping");
    view.advise(Advice::PopulateWrite).expect("pages");
    view.fill(FILL);
    drop(view);
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    // EBUSY while the kernel itself uses a page, to move it, say.
    while let Err(errno) = fcntl(&memory, FcntlArg::F_ADD_SEALS(seals)) {
        assert_eq!(errno, Errno::EBUSY, "seals");
        std::thread::yield_now();
    }
    let raw = [memory.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&raw)];
    let (socket, flags) = (socket.as_raw_fd(), MsgFlags::empty());
    sendmsg::<UnixAddr>(socket, &[IoSlice::new(&[1])], &rights, flags, None).expect("a packet");
}

/// Spins until a memfd has come, maps it and lends it; `None` once the other side is gone.
pub fn receive_bare(socket: &OwnedFd, bytes: usize, look: impl Fn(&[u8]) -> u64) -> Option<u64> {
    loop {
        let mut byte = [0];
        let mut parts = [IoSliceMut::new(&mut byte)];
        let mut control = nix::cmsg_space!([i32; 1]);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let received =
            recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags);
        let Ok(message) = received else {
            spin_loop();
            continue;
        };
        let rights = message.cmsgs().expect("room for one descriptor").next();
        let Some(ControlMessageOwned::ScmRights(list)) = rights else { return None };
        // SAFETY: the kernel has just made this descriptor for us.
        let memory = unsafe { OwnedFd::from_raw_fd(list[0]) };
        // SAFETY: it is sealed against every change.
        let view = unsafe { MmapOptions::new().len(bytes).map_copy_read_only(&memory) };
        return Some(look(&view.expect("a mapping")));
    }
}

/// Plays the other side of [`Bare`].
pub fn serve_bare(mut job: Job) {
    let socket = job.descriptor();
    let is_read = job.role.ends_with(":read");
    let look = |bytes: &[u8]| if is_read { sum_of(bytes) } else { 0 };
    while let Some(sum) = receive_bare(&socket, job.bytes, look) {
        let flags = MsgFlags::MSG_NOSIGNAL;
        let sent = nix::sys::socket::send(socket.as_raw_fd(), &sum.to_ne_bytes(), flags);
        if sent.is_err() {
            return;
        }
    }
}

/// A stream socket that carries the bytes themselves.
struct Stream {
    socket: UnixStream,
    content: Vec<u8>,
    peer: Peer,
}

impl RoundTrip for Stream {
    fn check(&mut self) {
        (0..3).for_each(|_| self.round_trip());
    }

    fn round_trip(&mut self) {
        self.socket.write_all(&self.content).expect("the other side reads");
        let mut sum = [0; 8];
        self.socket.read_exact(&mut sum).expect("an answer");
        assert_eq!(u64::from_ne_bytes(sum), sum_of_length(self.content.len()));
    }

    fn peer(&self) -> u32 {
        self.peer.id()
    }
}

/// Plays the other side of [`Stream`].
pub fn serve_stream(mut job: Job) {
    let mut socket = UnixStream::from(job.descriptor());
    let mut content = vec![0; job.bytes];
    while socket.read_exact(&mut content).is_ok() {
        let _ = socket.write_all(&sum_of(&content).to_ne_bytes());
    }
}

/// A payload handed over in some way, read in full or not at all.
pub fn handoff(core: usize, way: Way, bytes: usize, is_read: bool, count: u64) -> Subject {
    let name = format!("{}-{}", way.name(), if is_read { "read" } else { "unread" });
    Subject::new(name, bytes, count, move || Trips(Handoff::start(core, way, bytes, is_read)))
}

/// The same by a memfd and a socket alone.
pub fn bare(core: usize, bytes: usize, is_read: bool, count: u64) -> Subject {
    let read = if is_read { "read" } else { "unread" };
    Subject::new(format!("bare-{read}"), bytes, count, move || {
        let flags = SockFlag::SOCK_CLOEXEC;
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
        let (ours, theirs) = pair.expect("a pair of sockets");
        let peer = Peer::start(&format!("bare:{read}"), core, bytes, &[theirs.as_fd()]);
        Trips(Bare { socket: ours, bytes, is_read, peer })
    })
}

/// The same through a Unix stream socket.
pub fn stream(core: usize, bytes: usize, count: u64) -> Subject {
    Subject::new("unix-stream-read", bytes, count, move || {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let peer = Peer::start("handoff-stream", core, bytes, &[theirs.as_fd()]);
        Trips(Stream { socket: ours, content: vec![FILL; bytes], peer })
    })
}

/// A buffer of [`FILL`].
pub fn filled(bytes: usize) -> Buffer {
    let mut buffer = Buffer::new(bytes).expect("memory");
    buffer.bytes_mut().expect("a fresh buffer").fill(FILL);
    buffer
}

fn receive(port: &MessagePort) -> MessageEvent<'_> {
    next(port).expect("the other side lives")
}

#[inline]
fn next(port: &MessagePort) -> Option<MessageEvent<'_>> {
    loop {
        match port.try_recv() {
            Ok(Some(event)) => return Some(event),
            Ok(None) => spin_loop(),
            Err(_) => return None,
        }
    }
}

/// Reads every byte, by words. Never inlined, so that every subject runs the same machine code: the
/// address of a loop can change its time by half.
#[inline(never)]
pub fn sum_of(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8);
    let sum = words.map(|word| u64::from_ne_bytes(word.try_into().expect("eight")));
    black_box(sum.fold(0, u64::wrapping_add))
}

/// What `sum_of` answers for so many bytes of [`FILL`].
pub fn sum_of_length(bytes: usize) -> u64 {
    u64::from_ne_bytes([FILL; 8]).wrapping_mul(bytes as u64 / 8)
}

/// What every payload is filled with.
pub const FILL: u8 = 0x5a;
