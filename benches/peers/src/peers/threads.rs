//! Channels inside one process: what a process boundary is compared with.
//!
//! Messages are moved by value, which all three are made for.

use std::sync::mpsc;

use crate::harness::message::Outgoing;
use crate::transport::{Plan, Receiving, Sending, ThreadTransport};

/// rtrb's ring, whose `push` and `pop` are polled.
pub struct Rtrb<const N: usize>;

impl<const N: usize> Sending for rtrb::Producer<[u8; N]> {
    #[inline]
    fn send(&mut self, message: &[u8]) {
        let item: &[u8; N] = message.try_into().expect("a message as long as an item");
        while self.push(*item).is_err() {
            std::hint::spin_loop();
        }
    }

    fn send_burst(&mut self, message: &mut Outgoing, count: u64) {
        let mut left = count as usize;
        while left > 0 {
            let free = self.slots().min(left);
            let Ok(chunk) = self.write_chunk_uninit(free) else { continue };
            let next = || <[u8; N]>::try_from(message.next()).expect("as long as an item");
            left -= chunk.fill_from_iter(std::iter::repeat_with(next).take(free));
        }
    }
}

impl<const N: usize> Receiving for rtrb::Consumer<[u8; N]> {
    #[inline]
    fn poll(&mut self, mut take: impl FnMut(&[u8])) -> u64 {
        let Ok(item) = self.pop() else { return 0 };
        take(&item);
        1
    }

    fn sleep(&mut self, _take: impl FnMut(&[u8])) {
        unreachable!("rtrb has no call that sleeps");
    }
}

impl<const N: usize> ThreadTransport for Rtrb<N> {
    const NAME: &'static str = "rtrb";
    type Out = rtrb::Producer<[u8; N]>;
    type In = rtrb::Consumer<[u8; N]>;

    fn direction(plan: &Plan) -> (Self::Out, Self::In) {
        rtrb::RingBuffer::new(plan.slots())
    }
}

/// crossbeam-channel's bounded channel.
pub struct Crossbeam<const N: usize>;

impl<const N: usize> Sending for crossbeam_channel::Sender<[u8; N]> {
    #[inline]
    fn send(&mut self, message: &[u8]) {
        let item: &[u8; N] = message.try_into().expect("a message as long as an item");
        crossbeam_channel::Sender::send(self, *item).expect("the other thread lives");
    }
}

impl<const N: usize> Receiving for crossbeam_channel::Receiver<[u8; N]> {
    #[inline]
    fn poll(&mut self, mut take: impl FnMut(&[u8])) -> u64 {
        let Ok(item) = self.try_recv() else { return 0 };
        take(&item);
        1
    }

    fn sleep(&mut self, mut take: impl FnMut(&[u8])) {
        take(&self.recv().expect("the other thread lives"));
    }
}

impl<const N: usize> ThreadTransport for Crossbeam<N> {
    const NAME: &'static str = "crossbeam-channel";
    type Out = crossbeam_channel::Sender<[u8; N]>;
    type In = crossbeam_channel::Receiver<[u8; N]>;

    fn direction(plan: &Plan) -> (Self::Out, Self::In) {
        crossbeam_channel::bounded(plan.slots())
    }
}

/// The standard library's bounded channel.
pub struct StdMpsc<const N: usize>;

impl<const N: usize> Sending for mpsc::SyncSender<[u8; N]> {
    #[inline]
    fn send(&mut self, message: &[u8]) {
        let item: &[u8; N] = message.try_into().expect("a message as long as an item");
        mpsc::SyncSender::send(self, *item).expect("the other thread lives");
    }
}

impl<const N: usize> Receiving for mpsc::Receiver<[u8; N]> {
    #[inline]
    fn poll(&mut self, mut take: impl FnMut(&[u8])) -> u64 {
        let Ok(item) = self.try_recv() else { return 0 };
        take(&item);
        1
    }

    fn sleep(&mut self, mut take: impl FnMut(&[u8])) {
        take(&self.recv().expect("the other thread lives"));
    }
}

impl<const N: usize> ThreadTransport for StdMpsc<N> {
    const NAME: &'static str = "std-mpsc";
    type Out = mpsc::SyncSender<[u8; N]>;
    type In = mpsc::Receiver<[u8; N]>;

    fn direction(plan: &Plan) -> (Self::Out, Self::In) {
        mpsc::sync_channel(plan.slots())
    }
}
