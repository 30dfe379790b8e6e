//! One link of the pipeline: how frames get from one process to the next.

use messageport::{Buffer, BufferPool, MessagePort};
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::harness::ports::trust;
use crate::mapped::{self, MappedEnd};

/// How a frame gets from one process to the next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Memory that was mapped before, and two words: what the others are compared with.
    Mapped,
    /// A `BufferPool`, between ends that trust each other.
    Pool,
    /// A pool of frames, between ends that do not: the receiver copies parts out of them.
    Frames,
    /// A `Buffer` that is made for each frame by a `BufferWriter`, between ends that do not.
    Buffers,
    /// The same, allocated at once and then filled by `bytes_mut`.
    BuffersAtOnce,
    /// A message as large, by `loan` between ends that trust each other.
    Loan,
    /// A message as large, copied into the ring and out of it.
    Copied,
}

impl Way {
    pub const ALL: [Way; 7] = [
        Way::Mapped,
        Way::Pool,
        Way::Frames,
        Way::Buffers,
        Way::BuffersAtOnce,
        Way::Loan,
        Way::Copied,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Way::Mapped => "memcpy",
            Way::Pool => "pool",
            Way::Frames => "frames",
            Way::Buffers => "buffers",
            Way::BuffersAtOnce => "buffers-at-once",
            Way::Loan => "loan",
            Way::Copied => "copied",
        }
    }

    /// The share of the reference that is aimed at.
    pub fn goal(self, has_huge_pages: bool) -> Option<f64> {
        match self {
            Way::Pool => Some(0.95),
            Way::Buffers => has_huge_pages.then_some(0.8),
            Way::Frames => Some(0.8),
            Way::Mapped | Way::BuffersAtOnce | Way::Loan | Way::Copied => None,
        }
    }

    pub fn from_name(name: &str) -> Way {
        Way::ALL.into_iter().find(|way| way.name() == name).expect("a way of this benchmark")
    }

    fn is_trusted(self) -> bool {
        matches!(self, Way::Pool | Way::Loan)
    }
}

/// Where frames are written.
pub struct Output {
    way: Way,
    bytes: usize,
    port: MessagePort,
    mapped: Option<MappedEnd>,
    pool: Option<BufferPool>,
    /// For the ways that copy.
    private: Vec<u8>,
    /// Frames that the reader has not said to be done with.
    ahead: usize,
}

impl Output {
    /// Tells the reader what it needs; the reader makes an [`Input`].
    pub fn new(way: Way, bytes: usize, port: MessagePort) -> Output {
        if way.is_trusted() {
            trust(&port);
        }
        let mapped = (way == Way::Mapped).then(|| {
            let file = mapped::file(bytes);
            let theirs = file.try_clone().expect("a descriptor");
            port.post_text_with("a link", [theirs.into()]).expect("a reader");
            MappedEnd::new(file, bytes)
        });
        let count = SLOTS as u32;
        let pool = match way {
            Way::Pool => Some(BufferPool::new(&port, count, bytes)),
            Way::Frames => Some(BufferPool::for_untrusted(&port, count, bytes)),
            _ => None,
        };
        let pool = pool.map(|pool| pool.expect("a pool"));
        let private = vec![0; if way == Way::Copied { bytes } else { 0 }];
        Output { way, bytes, port, mapped, pool, private, ahead: 0 }
    }

    /// Whether a frame is written in several parts.
    pub fn has_parts(&self) -> bool {
        self.way == Way::Buffers
    }

    /// Has the next frame written, whole or in parts, each with its place, and hands it over.
    pub fn write(&mut self, mut fill: impl FnMut(usize, &mut [u8])) {
        match self.way {
            Way::Mapped => {
                return self.mapped.as_mut().expect("mapped").write(|frame| fill(0, frame));
            }
            Way::Pool | Way::Frames => {
                let pool = self.pool.as_ref().expect("a pool");
                let mut buffer = pool.take_timeout(Duration::MAX).expect("a reader");
                fill(0, &mut buffer);
                return self.port.post_message_pooled(&0u8, buffer).expect("a reader");
            }
            Way::Buffers | Way::BuffersAtOnce | Way::Loan | Way::Copied => {
                self.wait_for_the_reader();
            }
        }
        match self.way {
            Way::Buffers => {
                let mut writer = Buffer::writer(self.bytes).expect("memory");
                while writer.written() < self.bytes {
                    let at = writer.written();
                    let part = writer.chunk_mut().expect("memory");
                    let len = part.len();
                    fill(at, part);
                    writer.advance(len);
                }
                let buffer = writer.finish().expect("memory");
                self.port.post_message_with(&0u8, [buffer.into()]).expect("a reader");
            }
            Way::BuffersAtOnce => {
                let mut buffer = Buffer::new(self.bytes).expect("memory");
                fill(0, buffer.bytes_mut().expect("a fresh buffer"));
                self.port.post_message_with(&0u8, [buffer.into()]).expect("a reader");
            }
            Way::Loan => {
                let mut loan = self.port.loan(self.bytes).expect("room");
                fill(0, &mut loan);
                loan.post().expect("a reader");
            }
            _ => {
                fill(0, &mut self.private);
                self.port.post_bytes(&self.private).expect("room");
            }
        }
        self.ahead += 1;
    }

    /// Waits until the reader is done with all frames.
    pub fn finish(mut self) {
        while self.ahead > 0 {
            self.port.recv().expect("a reader");
            self.ahead -= 1;
        }
    }

    /// Waits until the reader has fewer frames than a link holds.
    fn wait_for_the_reader(&mut self) {
        while let Some(_done) = match self.ahead == SLOTS {
            true => Some(self.port.recv().expect("a reader")),
            false => self.port.try_recv().expect("a reader"),
        } {
            self.ahead -= 1;
        }
    }
}

/// Where frames are read.
pub struct Input {
    way: Way,
    port: MessagePort,
    mapped: Option<MappedEnd>,
    /// For parts of frames.
    part: Vec<u8>,
}

impl Input {
    pub fn new(way: Way, bytes: usize, port: MessagePort) -> Input {
        if way.is_trusted() {
            trust(&port);
        }
        let mapped = (way == Way::Mapped).then(|| {
            let file: OwnedFd = port.recv().expect("a link").take_descriptor().expect("its file");
            MappedEnd::new(file, bytes)
        });
        Input { way, port, mapped, part: vec![0; PART] }
    }

    /// Lends the next frame, whole or in parts, each with its place.
    pub fn read(&mut self, mut look: impl FnMut(usize, &[u8])) {
        if let Some(mapped) = &mut self.mapped {
            return mapped.read(|frame| look(0, frame));
        }
        let event = self.port.recv().expect("a source");
        match self.way {
            Way::Pool => return look(0, &event.take_pooled().expect("a pooled buffer")),
            Way::Frames => {
                let frame = event.take_frame().expect("a frame");
                for from in (0..frame.len()).step_by(PART) {
                    let part = &mut self.part[..PART.min(frame.len() - from)];
                    frame.copy_to(from, part);
                    look(from, part);
                }
                return;
            }
            Way::Buffers | Way::BuffersAtOnce => {
                let buffer = event.take_buffer().expect("a buffer");
                look(0, &buffer);
            }
            _ => look(0, event.bytes()),
        }
        drop(event);
        self.port.post_bytes(b"done").expect("a source");
    }
}

/// Bytes of a part: they stay in a core's own cache.
const PART: usize = 16 << 10;
/// Frames that a link holds.
pub const SLOTS: usize = 3;
