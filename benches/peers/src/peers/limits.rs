//! The physical limits that are no part of the crate's own benchmarks: slots for throughput, a
//! mapped buffer for hand-off, a futex for wake-ups.

use std::hint::spin_loop;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use crate::harness::kernel::{Channel, Futex};
use crate::harness::message::READ_EVERY;
use crate::harness::shared::{LINE, Shared, SharedMemory};
use crate::transport::{Invitation, Plan, Receiving, Sending, Transport};

/// Slots as long as a message, whose first word is the message's number: nothing moves between the
/// cores but the message itself and, once an eighth of the slots, the reader's position. No ring
/// that copies its messages can do with less.
pub struct Slots;

/// Either half of one direction.
///
/// INVARIANT (bounds): `base` is valid for `slots * bytes` bytes, which `taken` keeps mapped.
/// INVARIANT (owner): bytes behind the first word of a slot belong to the writer until that word is
/// the next message's number, and then to the reader until `taken` has passed it.
pub struct Half {
    base: NonNull<u8>,
    bytes: usize,
    slots: u64,
    taken: Shared<AtomicU64>,
    number: u64,
    /// What is known of, or was told about, the reader's position.
    known: u64,
}

impl Half {
    fn new(memory: &Rc<SharedMemory>, offset: usize, plan: &Plan) -> Self {
        let slots = Slots::count(plan);
        Self {
            base: memory.bytes(offset + LINE, slots * plan.bytes),
            bytes: plan.bytes,
            slots: slots as u64,
            taken: memory.word(offset),
            number: 0,
            known: 0,
        }
    }

    /// The slot of a message.
    #[inline]
    fn slot(&self, number: u64) -> NonNull<u8> {
        let index = (number % self.slots) as usize;
        // SAFETY: (bounds) the index is below the number of slots.
        unsafe { self.base.add(index * self.bytes) }
    }

    /// The first word of the slot.
    #[inline]
    fn word(&self, slot: NonNull<u8>) -> &AtomicU64 {
        // SAFETY: (bounds) a slot holds a word, aligned as every length is a multiple of eight;
        // both sides use it as an atomic.
        unsafe { slot.cast().as_ref() }
    }
}

impl Sending for Half {
    #[inline]
    fn send(&mut self, message: &[u8]) {
        let (first, rest) = message.split_first_chunk::<8>().expect("a number");
        self.number += 1;
        while self.number - self.known > self.slots {
            // Acquire: pairs with the Release in `poll`; the reader is done with the slot.
            self.known = self.taken.load(Acquire);
        }
        let slot = self.slot(self.number);
        // SAFETY: (bounds) the rest of a message follows the first word of its slot.
        let to = unsafe { slot.add(8) };
        // SAFETY: (owner) the slot is ours, as the reader's position says.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(rest).cast(), rest.len()) };
        // Release: pairs with the Acquire in `poll`; publishes the rest.
        self.word(slot).store(u64::from_ne_bytes(*first), Release);
    }
}

impl Receiving for Half {
    #[inline]
    fn poll(&mut self, mut take: impl FnMut(&[u8])) -> u64 {
        let slot = self.slot(self.number + 1);
        // Acquire: pairs with the Release in `send`; the rest of the message is there.
        if self.word(slot).load(Acquire) != self.number + 1 {
            if self.known != self.number {
                self.publish();
            }
            return 0;
        }
        self.number += 1;
        // SAFETY: (owner) the writer leaves the slot alone until `taken` passes it.
        take(unsafe { NonNull::slice_from_raw_parts(slot, self.bytes).as_ref() });
        if self.number - self.known >= self.slots.div_ceil(8) {
            self.publish();
        }
        1
    }

    fn sleep(&mut self, mut take: impl FnMut(&[u8])) {
        while self.poll(&mut take) == 0 {
            spin_loop();
        }
    }
}

impl Half {
    #[inline]
    fn publish(&mut self) {
        self.known = self.number;
        // Release: pairs with the Acquire in `send`; our reads are done.
        self.taken.store(self.number, Release);
    }
}

impl Slots {
    /// As many as stay in a core's own cache: more would only be further away.
    fn count(plan: &Plan) -> usize {
        (CACHED / plan.bytes.max(READ_EVERY / 8)).max(2)
    }

    fn direction_len(plan: &Plan) -> usize {
        (LINE + Self::count(plan) * plan.bytes).next_multiple_of(LINE)
    }
}

impl Transport for Slots {
    const NAME: &'static str = "slots";
    type Offer = Rc<SharedMemory>;
    type Out = Half;
    type In = Half;

    fn offer(plan: &Plan) -> (Self::Offer, Invitation) {
        let memory = SharedMemory::create(2 * Self::direction_len(plan));
        let descriptors = vec![copy_of(&memory)];
        (memory, Invitation { descriptors, ..Invitation::default() })
    }

    fn accept(plan: &Plan, memory: Self::Offer) -> (Self::Out, Self::In) {
        let back = Self::direction_len(plan);
        (Half::new(&memory, 0, plan), Half::new(&memory, back, plan))
    }

    fn join(plan: &Plan, mut invitation: Invitation) -> (Self::Out, Self::In) {
        let memory = SharedMemory::open(invitation.descriptors.pop().expect("memory"));
        let (incoming, out) = Self::accept(plan, memory);
        (out, incoming)
    }
}

/// A bare futex: it wakes, and carries nothing.
pub struct BareFutex;

pub struct FutexEnd(Futex);

impl Sending for FutexEnd {
    fn send(&mut self, message: &[u8]) {
        self.0.send(message);
    }
}

impl Receiving for FutexEnd {
    fn poll(&mut self, take: impl FnMut(&[u8])) -> u64 {
        self.sleep(take);
        1
    }

    fn sleep(&mut self, mut take: impl FnMut(&[u8])) {
        self.0.receive(&mut []);
        take(&[]);
    }
}

impl Transport for BareFutex {
    const NAME: &'static str = "futex";
    const SPINS: bool = false;
    type Offer = Rc<SharedMemory>;
    type Out = FutexEnd;
    type In = FutexEnd;

    fn offer(_plan: &Plan) -> (Self::Offer, Invitation) {
        let memory = SharedMemory::create(2 * LINE);
        let descriptors = vec![copy_of(&memory)];
        (memory, Invitation { descriptors, ..Invitation::default() })
    }

    fn accept(_plan: &Plan, memory: Self::Offer) -> (Self::Out, Self::In) {
        let end = || FutexEnd(Futex::new(&memory, 0, LINE));
        (end(), end())
    }

    fn join(_plan: &Plan, mut invitation: Invitation) -> (Self::Out, Self::In) {
        let memory = SharedMemory::open(invitation.descriptors.pop().expect("memory"));
        let end = || FutexEnd(Futex::new(&memory, LINE, 0));
        (end(), end())
    }
}

fn copy_of(memory: &SharedMemory) -> OwnedFd {
    memory.descriptor().try_clone_to_owned().expect("a second descriptor")
}

/// Bytes of slots that a core's own cache holds along with everything else.
const CACHED: usize = 256 << 10;
