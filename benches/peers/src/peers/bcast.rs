//! bcast: a broadcast ring of bytes, whose reader copies each message out.
//!
//! Its writer never waits, and a reader that is overtaken loses messages. Here it loses none:
//! the reader stores how many it has taken in a word beside the ring, at which the writer looks
//! before it would overtake.

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::rc::Rc;

use bcast::{HEADER_SIZE, Reader, Storage, StorageExt, WriteStorage, Writer};

use crate::harness::shared::{LINE, PAGE, SharedMemory};
use crate::peers::pace::{Leader, Taken};
use crate::transport::{Invitation, Plan, Receiving, Sending, Transport};

pub struct Bcast;

/// The part of the memory that is a ring.
pub struct Place {
    memory: Rc<SharedMemory>,
    offset: usize,
    len: usize,
}

// SAFETY: `memory` keeps the bytes mapped, they begin at a page and a line, and this benchmark
// reads and writes them only through the crate.
unsafe impl Storage for Place {
    fn ptr(&self) -> NonNull<u8> {
        self.memory.bytes(self.offset, self.len)
    }

    fn len(&self) -> usize {
        self.len
    }
}

// SAFETY: as above; each ring has one writer.
unsafe impl WriteStorage for Place {}

pub struct Out {
    ring: Writer<Place>,
    leader: Leader,
}

impl Sending for Out {
    #[inline]
    fn send(&mut self, message: &[u8]) {
        self.leader.wait_for_room();
        self.ring.publish(message.len(), true, |place| place.copy_from_slice(message));
    }
}

pub struct In {
    ring: Reader<Place>,
    taken: Taken,
    message: Vec<u8>,
}

impl Receiving for In {
    #[inline]
    fn poll(&mut self, mut take: impl FnMut(&[u8])) -> u64 {
        let mut count = 0;
        if let Some(mut batch) = self.ring.read_batch() {
            while let Some(message) = batch.receive_next(&mut self.message) {
                take(message.expect("not overtaken").payload);
                self.taken.add_one();
                count += 1;
            }
        }
        self.taken.publish();
        count
    }

    fn sleep(&mut self, _take: impl FnMut(&[u8])) {
        unreachable!("it wakes no receiver");
    }
}

impl Bcast {
    /// A message takes half of a ring at most.
    fn capacity(plan: &Plan) -> usize {
        plan.capacity.max(4 * frame(plan)).next_power_of_two()
    }

    fn direction_len(plan: &Plan) -> usize {
        (LINE + HEADER_SIZE + Self::capacity(plan)).next_multiple_of(PAGE)
    }

    /// Messages that the ring holds while one more is written, less what the writer claims ahead
    /// (by default a hundredth, rounded up to a power of two) and what is left empty at its end.
    fn most(plan: &Plan) -> u64 {
        let claimed_ahead = Self::capacity(plan) / 64;
        ((Self::capacity(plan) - claimed_ahead) / frame(plan) - 2) as u64
    }

    fn place(memory: &Rc<SharedMemory>, offset: usize, plan: &Plan) -> Place {
        let len = HEADER_SIZE + Self::capacity(plan);
        Place { memory: Rc::clone(memory), offset: offset + LINE, len }
    }

    fn writer(memory: &Rc<SharedMemory>, offset: usize, plan: &Plan) -> Out {
        let ring = Self::place(memory, offset, plan).into_writer();
        Out { ring, leader: Leader::new(memory.word(offset), Self::most(plan)) }
    }

    /// Waits until the writer has made the ring.
    fn reader(memory: &Rc<SharedMemory>, offset: usize, plan: &Plan) -> In {
        let ring = Self::place(memory, offset, plan).into_reader_at(0);
        let taken = Taken::new(memory.word(offset), Self::most(plan));
        In { ring, taken, message: vec![0; plan.bytes] }
    }
}

/// What a message takes in the ring.
fn frame(plan: &Plan) -> usize {
    8 + plan.bytes.next_multiple_of(8)
}

impl Transport for Bcast {
    const NAME: &'static str = "bcast";
    type Offer = (Rc<SharedMemory>, Out);
    type Out = Out;
    type In = In;

    fn offer(plan: &Plan) -> (Self::Offer, Invitation) {
        let memory = SharedMemory::create(2 * Self::direction_len(plan));
        let out = Self::writer(&memory, 0, plan);
        let copy: OwnedFd = memory.descriptor().try_clone_to_owned().expect("a second descriptor");
        ((memory, out), Invitation { descriptors: vec![copy], ..Invitation::default() })
    }

    fn accept(plan: &Plan, (memory, out): Self::Offer) -> (Self::Out, Self::In) {
        (out, Self::reader(&memory, Self::direction_len(plan), plan))
    }

    fn join(plan: &Plan, mut invitation: Invitation) -> (Self::Out, Self::In) {
        let memory = SharedMemory::open(invitation.descriptors.pop().expect("memory"));
        let out = Self::writer(&memory, Self::direction_len(plan), plan);
        (out, Self::reader(&memory, 0, plan))
    }
}
