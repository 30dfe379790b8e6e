//! shm-primitives: its `BipBuffer`, a ring of bytes that grants and lends them in one piece.
//!
//! It keeps no messages apart: each is written behind its length, as the crate's own link does. A
//! look at the buffer lends all that is there, and a burst is one grant.

use std::hint::spin_loop;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::rc::Rc;

use shm_primitives::{BIPBUF_HEADER_SIZE, BipBufHeader, BipBufRaw};

use crate::harness::message::Outgoing;
use crate::harness::shared::{PAGE, SharedMemory};
use crate::transport::{Invitation, Plan, Receiving, Sending, Transport};

pub struct BipBuffer;

/// One direction. It keeps its memory mapped.
struct Ring {
    ring: BipBufRaw,
    capacity: usize,
    _memory: Rc<SharedMemory>,
}

impl Ring {
    fn new(memory: &Rc<SharedMemory>, offset: usize, plan: &Plan) -> Self {
        let capacity = BipBuffer::capacity(plan);
        let (header, bytes) = (offset, offset + BIPBUF_HEADER_SIZE);
        let header: NonNull<BipBufHeader> = memory.bytes(header, BIPBUF_HEADER_SIZE).cast();
        let data = memory.bytes(bytes, capacity);
        // SAFETY: both places lie in the mapping, which this keeps, and the header was initialised
        // before the other side got the memory.
        let ring = unsafe { BipBufRaw::from_raw(header.as_ptr(), data.as_ptr()) };
        Self { ring, capacity, _memory: Rc::clone(memory) }
    }
}

/// Appends a message behind its length; returns the rest.
#[inline]
fn append<'a>(to: &'a mut [u8], message: &[u8]) -> &'a mut [u8] {
    let (frame, rest) = to.split_at_mut(framed(message.len()));
    frame[..LENGTH].copy_from_slice(&(message.len() as u64).to_ne_bytes());
    frame[LENGTH..LENGTH + message.len()].copy_from_slice(message);
    rest
}

/// What a message takes in the buffer.
#[inline]
fn framed(len: usize) -> usize {
    LENGTH + len.next_multiple_of(LENGTH)
}

pub struct Out(Ring);

impl Out {
    /// Waits for room for so many bytes in one piece, fills and publishes them.
    #[inline]
    fn write(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) {
        let len = bytes as u32;
        loop {
            if let Some(granted) = self.0.ring.try_grant(len) {
                fill(granted);
                return self.0.ring.commit(len);
            }
            spin_loop();
        }
    }
}

impl Sending for Out {
    #[inline]
    fn send(&mut self, message: &[u8]) {
        self.write(framed(message.len()), |granted| {
            append(granted, message);
        });
    }

    fn send_burst(&mut self, message: &mut Outgoing, count: u64) {
        let each = framed(message.current().len());
        // A grant of more than a part of the buffer would wait for the reader to have it all.
        let most = (self.0.capacity / GRANTS / each).max(1) as u64;
        let mut left = count;
        while left > 0 {
            let some = left.min(most);
            self.write(some as usize * each, |granted| {
                let mut rest = granted;
                for _ in 0..some {
                    rest = append(rest, message.next());
                }
            });
            left -= some;
        }
    }
}

pub struct In(Ring);

impl Receiving for In {
    #[inline]
    fn poll(&mut self, mut take: impl FnMut(&[u8])) -> u64 {
        let ring = &self.0.ring;
        let Some(there) = ring.try_read() else { return 0 };
        let (mut at, mut released, mut taken) = (0, 0, 0);
        while at < there.len() {
            let len = there[at..at + LENGTH].try_into().expect("a length");
            let len = u64::from_ne_bytes(len) as usize;
            take(&there[at + LENGTH..at + LENGTH + len]);
            at += framed(len);
            taken += 1;
            // Once for all where they are small; a writer of large ones gets its room back sooner.
            if at - released >= self.0.capacity / RELEASES {
                ring.release((at - released) as u32);
                released = at;
            }
        }
        if at > released {
            ring.release((at - released) as u32);
        }
        taken
    }

    fn sleep(&mut self, _take: impl FnMut(&[u8])) {
        unreachable!("it wakes no receiver");
    }
}

impl BipBuffer {
    fn capacity(plan: &Plan) -> usize {
        plan.capacity.max(4 * framed(plan.bytes))
    }

    fn direction_len(plan: &Plan) -> usize {
        (BIPBUF_HEADER_SIZE + Self::capacity(plan)).next_multiple_of(PAGE)
    }
}

impl Transport for BipBuffer {
    const NAME: &'static str = "shm-primitives";
    type Offer = Rc<SharedMemory>;
    type Out = Out;
    type In = In;

    fn offer(plan: &Plan) -> (Self::Offer, Invitation) {
        let each = Self::direction_len(plan);
        let memory = SharedMemory::create(2 * each);
        for offset in [0, each] {
            let header = memory.bytes(offset, BIPBUF_HEADER_SIZE).cast::<BipBufHeader>();
            // SAFETY: zeroes are a header, and the other side does not have the memory yet.
            let header = unsafe { &mut *header.as_ptr() };
            header.init(Self::capacity(plan) as u32);
        }
        let copy: OwnedFd = memory.descriptor().try_clone_to_owned().expect("a second descriptor");
        (memory, Invitation { descriptors: vec![copy], ..Invitation::default() })
    }

    fn accept(plan: &Plan, memory: Self::Offer) -> (Self::Out, Self::In) {
        let back = Self::direction_len(plan);
        (Out(Ring::new(&memory, 0, plan)), In(Ring::new(&memory, back, plan)))
    }

    fn join(plan: &Plan, mut invitation: Invitation) -> (Self::Out, Self::In) {
        let memory = SharedMemory::open(invitation.descriptors.pop().expect("memory"));
        let back = Self::direction_len(plan);
        (Out(Ring::new(&memory, back, plan)), In(Ring::new(&memory, 0, plan)))
    }
}

/// Bytes of a length in front of a message, which also is what messages are aligned to.
const LENGTH: usize = 8;
/// A burst takes this part of the buffer at most at once.
const GRANTS: usize = 4;
/// This part of the buffer is given back at the latest when it was read.
const RELEASES: usize = 8;
