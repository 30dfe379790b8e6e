//! ringfire: `RingProducer` and `RingConsumer` of fixed-size records in a file of `/dev/shm`, with
//! lossless back-pressure, as the other peers lose nothing either; from 4 KiB on its blobs, which
//! are read where they lie.
//!
//! A full ring is waited for with `try_push` in a loop: `push` would sleep for 10 µs at a time.
//! Blobs have no back-pressure, so their sender looks at the reader's lag.

use std::hint::spin_loop;
use std::time::Duration;

use ringfire::{
    BlobConsumer, BlobProducer, FlowControl, FutexWait, RingConsumer, RingConsumerBuilder,
    RingProducer, RingProducerBuilder,
};

use crate::harness::message::Outgoing;
use crate::transport::{Invitation, Plan, Receiving, Sending, Transport};

/// Records of `N` bytes.
pub struct Ringfire<const N: usize>;

pub struct Out<const N: usize> {
    ring: RingProducer<[u8; N]>,
    batch: Vec<[u8; N]>,
}

impl<const N: usize> Sending for Out<N> {
    #[inline]
    fn send(&mut self, message: &[u8]) {
        let record = message.try_into().expect("a message as long as a record");
        while self.ring.try_push(record).is_err() {
            spin_loop();
        }
    }

    fn send_burst(&mut self, message: &mut Outgoing, count: u64) {
        self.batch.clear();
        for _ in 0..count {
            let record: &[u8; N] = message.next().try_into().expect("as long as a record");
            self.batch.push(*record);
        }
        self.ring.push_batch(&self.batch);
    }
}

pub struct In<const N: usize>(RingConsumer<[u8; N]>);

impl<const N: usize> Receiving for In<N> {
    #[inline]
    fn poll(&mut self, mut take: impl FnMut(&[u8])) -> u64 {
        let Some(record) = self.0.try_recv() else { return 0 };
        take(&record);
        1
    }

    fn sleep(&mut self, mut take: impl FnMut(&[u8])) {
        let mut wait = FutexWait::new(NO_SPINS, Some(Duration::from_secs(1)));
        take(&self.0.recv_blocking(&mut wait));
    }
}

impl<const N: usize> Ringfire<N> {
    fn producer(path: String, plan: &Plan) -> Out<N> {
        let slots = plan.slots().next_power_of_two() as u64;
        let builder = RingProducerBuilder::new(slots);
        let builder = builder.flow_control(FlowControl::LosslessBackpressure);
        let ring = builder.build(path).expect("a ring");
        Out { ring, batch: Vec::new() }
    }

    /// Waits for the producer to make its file.
    fn consumer(path: &str) -> In<N> {
        loop {
            match RingConsumerBuilder::new().start_from_oldest().attach(path) {
                Ok(ring) => return In(ring),
                Err(_) => std::thread::yield_now(),
            }
        }
    }
}

impl<const N: usize> Transport for Ringfire<N> {
    const NAME: &'static str = "ringfire";
    type Offer = Out<N>;
    type Out = Out<N>;
    type In = In<N>;

    fn offer(plan: &Plan) -> (Self::Offer, Invitation) {
        (Self::producer(format!("{}.out", plan.name), plan), Invitation::default())
    }

    fn accept(plan: &Plan, out: Self::Offer) -> (Self::Out, Self::In) {
        (out, Self::consumer(&format!("{}.back", plan.name)))
    }

    fn join(plan: &Plan, _invitation: Invitation) -> (Self::Out, Self::In) {
        // The reader registers before the first side may send, so that nothing is overwritten.
        let incoming = Self::consumer(&format!("{}.out", plan.name));
        (Self::producer(format!("{}.back", plan.name), plan), incoming)
    }
}

/// Blobs of any size.
pub struct Blobs;

pub struct BlobOut {
    ring: BlobProducer<u64>,
    /// Blobs that the arena holds while one more is written.
    most: u64,
    /// Blobs that the reader has not read yet, as far as is known.
    lag: u64,
}

impl Sending for BlobOut {
    #[inline]
    fn send(&mut self, message: &[u8]) {
        while self.lag >= self.most {
            self.lag = self.ring.reader_lag();
        }
        self.ring.push(&0, message).expect("room in the arena");
        self.lag += 1;
    }
}

pub struct BlobIn(BlobConsumer<u64>);

impl Receiving for BlobIn {
    #[inline]
    fn poll(&mut self, mut take: impl FnMut(&[u8])) -> u64 {
        let taken = self.0.view(|_, message| take(message)).expect("a sound ring");
        u64::from(taken.is_some())
    }

    fn sleep(&mut self, _take: impl FnMut(&[u8])) {
        unreachable!("no row has blobs asleep");
    }
}

impl Blobs {
    fn producer(path: String, plan: &Plan) -> BlobOut {
        let arena = plan.capacity.max(4 * plan.bytes).next_power_of_two();
        let blobs = arena / plan.bytes;
        let slots = blobs.next_power_of_two() as u64;
        let ring = BlobProducer::create(path, slots, arena).expect("a ring of blobs");
        // The arena pads where it ends, and the blob that is being written needs a place.
        BlobOut { ring, most: blobs as u64 - 2, lag: 0 }
    }

    fn consumer(path: &str) -> BlobIn {
        loop {
            match BlobConsumer::attach(path) {
                Ok(ring) => return BlobIn(ring),
                Err(_) => std::thread::yield_now(),
            }
        }
    }
}

impl Transport for Blobs {
    const NAME: &'static str = "ringfire";
    type Offer = BlobOut;
    type Out = BlobOut;
    type In = BlobIn;

    fn offer(plan: &Plan) -> (Self::Offer, Invitation) {
        (Self::producer(format!("{}.out", plan.name), plan), Invitation::default())
    }

    fn accept(plan: &Plan, out: Self::Offer) -> (Self::Out, Self::In) {
        (out, Self::consumer(&format!("{}.back", plan.name)))
    }

    fn join(plan: &Plan, _invitation: Invitation) -> (Self::Out, Self::In) {
        let incoming = Self::consumer(&format!("{}.out", plan.name));
        (Self::producer(format!("{}.back", plan.name), plan), incoming)
    }
}

const NO_SPINS: u32 = 0;
