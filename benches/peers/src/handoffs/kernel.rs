//! Hand-offs by the kernel alone: a stream socket, and a fresh memfd.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::{Told, Way, start};
use crate::harness::child::{Job, Role};
use crate::harness::handoff::{FILL, receive_bare, send_bare};
use crate::harness::kernel::seqpacket;
use crate::harness::workload::Subject;
use crate::peers::bytes::widen_socket;
use crate::subjects::Site;

/// A stream that carries the bytes themselves.
struct Stream {
    socket: UnixStream,
    content: Vec<u8>,
}

impl Way for Stream {
    fn give(&mut self, _number: u64, _is_first: bool) {
        self.socket.write_all(&self.content).expect("the other side reads");
    }
}

pub fn unix_stream(bytes: usize, is_read: bool, site: &Site) -> Subject {
    let site = site.clone();
    Subject::new("unix-stream", bytes, 0, move || {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        widen_socket(&ours, bytes.min(BUFFERED));
        let descriptors = [theirs.as_fd()];
        start("handoff-stream-bytes", (bytes, is_read), &site, &descriptors, || Stream {
            socket: ours,
            content: vec![FILL; bytes],
        })
    })
}

fn serve_stream(mut job: Job) {
    let told = Told::of(&mut job);
    let mut socket = UnixStream::from(job.descriptor());
    let mut content = vec![0; told.bytes];
    told.say_ready();
    while socket.read_exact(&mut content).is_ok() {
        told.acks.acknowledge(told.sum(&content));
    }
}

/// The least that a fresh buffer takes without any library.
struct Bare {
    socket: OwnedFd,
    bytes: usize,
}

impl Way for Bare {
    fn give(&mut self, _number: u64, _is_first: bool) {
        send_bare(&self.socket, self.bytes);
    }
}

pub fn bare_memfd(bytes: usize, is_read: bool, site: &Site) -> Subject {
    let site = site.clone();
    Subject::new("bare-memfd", bytes, 0, move || {
        let (socket, theirs) = seqpacket();
        let descriptors = [theirs.as_fd()];
        start("handoff-bare", (bytes, is_read), &site, &descriptors, || Bare { socket, bytes })
    })
}

fn serve_bare(mut job: Job) {
    let told = Told::of(&mut job);
    let socket = job.descriptor();
    told.say_ready();
    while let Some(sum) = receive_bare(&socket, told.bytes, |bytes| told.sum(bytes)) {
        told.acks.acknowledge(sum);
    }
}

/// What a socket buffers: as much as a channel of the rows one way.
const BUFFERED: usize = 1 << 20;

pub const ROLES: [Role; 2] = [("handoff-stream-bytes", serve_stream), ("handoff-bare", serve_bare)];
