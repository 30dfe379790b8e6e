//! ipmpsc: a ring in a file of `/dev/shm`, messages borrowed from it with `zero_copy_context`.

use std::hint::spin_loop;

use ipmpsc::{Receiver, Sender, SharedRingBuffer};

use crate::transport::{Invitation, Plan, Receiving, Sending, Transport};

pub struct Ipmpsc;

pub struct Out(Sender);

impl Sending for Out {
    #[inline]
    fn send(&mut self, message: &[u8]) {
        self.0.send(&Bytes(message)).expect("an open ring");
    }
}

/// Bytes that bincode writes and lends as one run, rather than one by one.
struct Bytes<'a>(&'a [u8]);

impl serde::Serialize for Bytes<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

pub struct In(Receiver);

impl Receiving for In {
    #[inline]
    fn poll(&mut self, mut take: impl FnMut(&[u8])) -> u64 {
        let mut context = self.0.zero_copy_context();
        let Some(message) = context.try_recv::<&[u8]>().expect("an open ring") else { return 0 };
        take(message);
        1
    }

    fn sleep(&mut self, mut take: impl FnMut(&[u8])) {
        let mut context = self.0.zero_copy_context();
        take(context.recv::<&[u8]>().expect("an open ring"));
    }
}

impl Ipmpsc {
    fn create(path: &str, plan: &Plan) -> SharedRingBuffer {
        let bytes = plan.capacity.max(2 * plan.bytes + HEADERS);
        SharedRingBuffer::create(path, bytes.try_into().expect("less than 4 GiB")).expect("a ring")
    }

    /// Waits for the other side to make its file.
    fn open(path: &str) -> SharedRingBuffer {
        loop {
            match SharedRingBuffer::open(path) {
                Ok(ring) => return ring,
                Err(_) => spin_loop(),
            }
        }
    }
}

impl Transport for Ipmpsc {
    const NAME: &'static str = "ipmpsc";
    type Offer = (SharedRingBuffer, SharedRingBuffer);
    type Out = Out;
    type In = In;

    fn offer(plan: &Plan) -> (Self::Offer, Invitation) {
        let ring = |end| Self::create(&format!("{}.{end}", plan.name), plan);
        ((ring("out"), ring("back")), Invitation::default())
    }

    fn accept(_plan: &Plan, (out, back): Self::Offer) -> (Self::Out, Self::In) {
        (Out(Sender::new(out)), In(Receiver::new(back)))
    }

    fn join(plan: &Plan, _invitation: Invitation) -> (Self::Out, Self::In) {
        let ring = |end| Self::open(&format!("{}.{end}", plan.name));
        Self::accept(plan, (ring("back"), ring("out")))
    }
}

/// Lengths and such of two messages.
const HEADERS: usize = 64;
