//! Streams of bytes and packets: pipe, Unix sockets, and `interprocess`, whose local socket is one.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use interprocess::local_socket::traits::{ListenerExt, Stream as _};
use interprocess::local_socket::{GenericNamespaced, ListenerOptions, ToNsName};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};

use crate::harness::kernel::{pipe, seqpacket};
use crate::harness::message::Outgoing;
use crate::transport::{Invitation, Plan, Receiving, Sending, Transport};

/// Writes each message with one call, and a burst with one call as well.
pub struct ByteWriter<W> {
    to: W,
    staged: Vec<u8>,
}

impl<W: Write> ByteWriter<W> {
    fn new(to: W) -> Self {
        Self { to, staged: Vec::new() }
    }
}

impl<W: Write> Sending for ByteWriter<W> {
    fn send(&mut self, message: &[u8]) {
        self.to.write_all(message).expect("the other side reads");
    }

    fn send_burst(&mut self, message: &mut Outgoing, count: u64) {
        self.staged.clear();
        for _ in 0..count {
            self.staged.extend_from_slice(message.next());
        }
        self.to.write_all(&self.staged).expect("the other side reads");
    }
}

/// Reads as much as there is, and lends message after message out of that.
pub struct ByteReader<R> {
    from: BufReader<R>,
    message: Vec<u8>,
}

impl<R: Read> ByteReader<R> {
    fn new(from: R, bytes: usize) -> Self {
        Self { from: BufReader::with_capacity(READ_AT_ONCE, from), message: vec![0; bytes] }
    }
}

impl<R: Read> Receiving for ByteReader<R> {
    fn poll(&mut self, take: impl FnMut(&[u8])) -> u64 {
        self.sleep(take);
        1
    }

    fn sleep(&mut self, mut take: impl FnMut(&[u8])) {
        self.from.read_exact(&mut self.message).expect("the other side writes");
        take(&self.message);
    }

    fn has_more(&self) -> bool {
        self.from.buffer().len() >= self.message.len()
    }
}

/// Two pipes.
pub struct Pipe;

impl Transport for Pipe {
    const NAME: &'static str = "pipe";
    const SPINS: bool = false;
    type Offer = (File, File);
    type Out = ByteWriter<File>;
    type In = ByteReader<File>;

    fn offer(plan: &Plan) -> (Self::Offer, Invitation) {
        let (their_in, our_out) = pipe();
        let (our_in, their_out) = pipe();
        widen_pipe(&our_out, plan.capacity);
        widen_pipe(&their_out, plan.capacity);
        let descriptors = vec![OwnedFd::from(their_out), OwnedFd::from(their_in)];
        ((our_out, our_in), Invitation { descriptors, ..Invitation::default() })
    }

    fn accept(plan: &Plan, (out, incoming): Self::Offer) -> (Self::Out, Self::In) {
        (ByteWriter::new(out), ByteReader::new(incoming, plan.bytes))
    }

    fn join(plan: &Plan, invitation: Invitation) -> (Self::Out, Self::In) {
        let mut files = invitation.descriptors.into_iter().map(File::from);
        let mut file = || files.next().expect("two ends of pipes");
        let out = file();
        Self::accept(plan, (out, file()))
    }
}

/// A pair of Unix stream sockets.
pub struct UnixPair;

impl Transport for UnixPair {
    const NAME: &'static str = "unix-stream";
    const SPINS: bool = false;
    type Offer = UnixStream;
    type Out = ByteWriter<UnixStream>;
    type In = ByteReader<UnixStream>;

    fn offer(plan: &Plan) -> (Self::Offer, Invitation) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        widen_socket(&ours, plan.capacity);
        widen_socket(&theirs, plan.capacity);
        let descriptors = vec![OwnedFd::from(theirs)];
        (ours, Invitation { descriptors, ..Invitation::default() })
    }

    fn accept(plan: &Plan, socket: Self::Offer) -> (Self::Out, Self::In) {
        let second = socket.try_clone().expect("a second descriptor");
        (ByteWriter::new(second), ByteReader::new(socket, plan.bytes))
    }

    fn join(plan: &Plan, mut invitation: Invitation) -> (Self::Out, Self::In) {
        let socket = invitation.descriptors.pop().expect("a socket");
        Self::accept(plan, UnixStream::from(socket))
    }
}

/// A pair of sockets that keep messages apart.
pub struct Seqpacket;

/// Either half of such a socket.
pub struct Packets {
    socket: Rc<OwnedFd>,
    message: Vec<u8>,
}

impl Sending for Packets {
    fn send(&mut self, message: &[u8]) {
        use std::os::fd::AsRawFd;
        let sent = send(self.socket.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL);
        assert_eq!(sent, Ok(message.len()), "the other side receives");
    }

    /// One `sendmmsg` for all.
    fn send_burst(&mut self, message: &mut Outgoing, count: u64) {
        use nix::sys::socket::{MultiHeaders, UnixAddr, sendmmsg};
        use std::io::IoSlice;
        use std::os::fd::AsRawFd;
        self.message.clear();
        for _ in 0..count {
            self.message.extend_from_slice(message.next());
        }
        let bytes = message.current().len();
        let parts: Vec<[IoSlice<'_>; 1]> =
            self.message.chunks(bytes).map(|part| [IoSlice::new(part)]).collect();
        let mut sent = 0;
        while sent < parts.len() {
            let mut headers = MultiHeaders::<UnixAddr>::preallocate(parts.len() - sent, None);
            let addresses = vec![None; parts.len() - sent];
            let flags = MsgFlags::MSG_NOSIGNAL;
            let raw = self.socket.as_raw_fd();
            let results = sendmmsg(raw, &mut headers, &parts[sent..], &addresses, [], flags);
            sent += results.expect("the other side receives").count();
        }
    }
}

impl Receiving for Packets {
    fn poll(&mut self, take: impl FnMut(&[u8])) -> u64 {
        self.sleep(take);
        1
    }

    fn sleep(&mut self, mut take: impl FnMut(&[u8])) {
        use std::os::fd::AsRawFd;
        let received = loop {
            match recv(self.socket.as_raw_fd(), &mut self.message, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                received => break received,
            }
        };
        assert_eq!(received, Ok(self.message.len()), "the other side sends");
        take(&self.message);
    }
}

impl Transport for Seqpacket {
    const NAME: &'static str = "seqpacket";
    const SPINS: bool = false;
    type Offer = OwnedFd;
    type Out = Packets;
    type In = Packets;

    fn offer(plan: &Plan) -> (Self::Offer, Invitation) {
        let (ours, theirs) = seqpacket();
        widen_socket(&ours, plan.capacity);
        widen_socket(&theirs, plan.capacity);
        (ours, Invitation { descriptors: vec![theirs], ..Invitation::default() })
    }

    fn accept(plan: &Plan, socket: Self::Offer) -> (Self::Out, Self::In) {
        let socket = Rc::new(socket);
        let half = |bytes| Packets { socket: Rc::clone(&socket), message: vec![0; bytes] };
        (half(0), half(plan.bytes))
    }

    fn join(plan: &Plan, mut invitation: Invitation) -> (Self::Out, Self::In) {
        Self::accept(plan, invitation.descriptors.pop().expect("a socket"))
    }
}

/// The crate `interprocess`: a local socket in the abstract name space.
pub struct Interprocess;

type LocalStream = interprocess::local_socket::Stream;

/// Both halves use the one stream, as the crate's documentation says.
pub struct SharedStream(Rc<LocalStream>);

impl Read for SharedStream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Write for SharedStream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        (&*self.0).flush()
    }
}

impl Interprocess {
    fn halves(
        plan: &Plan,
        stream: LocalStream,
    ) -> (ByteWriter<SharedStream>, ByteReader<SharedStream>) {
        let LocalStream::UdSocket(socket) = &stream;
        widen_socket(socket, plan.capacity);
        let stream = Rc::new(stream);
        let half = || SharedStream(Rc::clone(&stream));
        (ByteWriter::new(half()), ByteReader::new(half(), plan.bytes))
    }
}

impl Transport for Interprocess {
    const NAME: &'static str = "interprocess";
    const SPINS: bool = false;
    type Offer = interprocess::local_socket::Listener;
    type Out = ByteWriter<SharedStream>;
    type In = ByteReader<SharedStream>;

    fn offer(plan: &Plan) -> (Self::Offer, Invitation) {
        let name = plan.name.as_str().to_ns_name::<GenericNamespaced>().expect("a name");
        let listener = ListenerOptions::new().name(name).create_sync().expect("a listener");
        (listener, Invitation::default())
    }

    fn accept(plan: &Plan, listener: Self::Offer) -> (Self::Out, Self::In) {
        let stream = listener.incoming().next().expect("a client connects");
        Self::halves(plan, stream.expect("a connection"))
    }

    fn join(plan: &Plan, _invitation: Invitation) -> (Self::Out, Self::In) {
        let name = plan.name.as_str().to_ns_name::<GenericNamespaced>().expect("a name");
        Self::halves(plan, LocalStream::connect(name).expect("a connection"))
    }
}

/// Gives a Unix socket room for so many bytes, or for as many as the kernel allows; both options,
/// although Linux counts what is unread at its sender.
pub fn widen_socket(socket: &impl AsFd, bytes: usize) {
    // Beyond `net.core.wmem_max` it takes a privilege, and without that the most is taken.
    if setsockopt(socket, sockopt::SndBufForce, &bytes).is_err() {
        setsockopt(socket, sockopt::SndBuf, &bytes).expect("SO_SNDBUF");
    }
    if setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err() {
        setsockopt(socket, sockopt::RcvBuf, &bytes).expect("SO_RCVBUF");
    }
}

/// Gives a pipe room for so many bytes, or for as many as a process without privileges may have.
fn widen_pipe(pipe: &File, bytes: usize) {
    let set = |bytes: usize| fcntl(pipe, FcntlArg::F_SETPIPE_SZ(bytes as libc::c_int));
    // A pipe may have less than that where its user has many; it works with what it has.
    let _ = set(bytes).or_else(|_| set(USUAL_MOST));
}

/// `fs.pipe-max-size` as the kernel sets it.
const USUAL_MOST: usize = 1 << 20;
/// A stream's reader fetches so much at once.
const READ_AT_ONCE: usize = 64 << 10;
