//! shmem-ipc: `sharedring` with items as long as a message, so that none is split where the ring
//! ends. Spinning it is polled without its event counters (`sender_mut`, `receiver_mut`); asleep it
//! rings them, and blocks on them.

use std::fs::File;
use std::hint::spin_loop;

use shmem_ipc::sharedring::{Receiver, Sender};

use crate::harness::message::Outgoing;
use crate::transport::{Invitation, Plan, Receiving, Sending, Transport};

/// Items of `N` bytes.
pub struct ShmemIpc<const N: usize>;

pub struct Out<const N: usize> {
    ring: Sender<[u8; N]>,
    rings: bool,
}

impl<const N: usize> Out<N> {
    /// Fills as many free items in a row as `write` wants, and says how many those were.
    #[inline]
    fn write(&mut self, mut write: impl FnMut(*mut [u8; N], usize) -> usize) -> usize {
        let mut written = 0;
        let fill = |items: *mut [u8; N], free: usize| {
            written = write(items, free);
            written
        };
        let status = if self.rings {
            self.ring.send_raw(fill).map(drop)
        } else {
            self.ring.sender_mut().send(fill).map(drop).map_err(Into::into)
        };
        status.expect("a sound ring");
        written
    }
}

impl<const N: usize> Sending for Out<N> {
    #[inline]
    fn send(&mut self, message: &[u8]) {
        let item: &[u8; N] = message.try_into().expect("a message as long as an item");
        let one = |items: *mut [u8; N], _free: usize| {
            // SAFETY: the ring lends room for one item at least, and no reader reads it meanwhile.
            unsafe { items.copy_from_nonoverlapping(item, 1) };
            1
        };
        while self.write(one) == 0 {
            spin_loop();
        }
    }

    fn send_burst(&mut self, message: &mut Outgoing, count: u64) {
        let mut left = count as usize;
        while left > 0 {
            left -= self.write(|items, free| {
                let written = left.min(free);
                for index in 0..written {
                    let item: &[u8; N] = message.next().try_into().expect("as long as an item");
                    // SAFETY: `index` is below the number of items that the ring lends.
                    let at = unsafe { items.add(index) };
                    // SAFETY: as above; no reader reads these items meanwhile.
                    unsafe { at.copy_from_nonoverlapping(item, 1) };
                }
                written
            });
        }
    }
}

pub struct In<const N: usize> {
    ring: Receiver<[u8; N]>,
    rings: bool,
}

impl<const N: usize> Receiving for In<N> {
    #[inline]
    fn poll(&mut self, mut take: impl FnMut(&[u8])) -> u64 {
        let mut taken = 0;
        let read = |items: *const [u8; N], there: usize| {
            // SAFETY: the ring lends `there` items, which the sender leaves alone until they are
            // counted as read; it is this benchmark.
            let items = unsafe { std::slice::from_raw_parts(items, there) };
            items.iter().for_each(|item| take(item));
            taken = there;
            there
        };
        let status = if self.rings {
            self.ring.receive_raw(read).map(drop)
        } else {
            self.ring.receiver_mut().recv(read).map(drop).map_err(Into::into)
        };
        status.expect("a sound ring");
        taken as u64
    }

    fn sleep(&mut self, mut take: impl FnMut(&[u8])) {
        self.ring.block_until_readable().expect("a sound ring");
        assert!(self.poll(&mut take) > 0, "readable, as it was said");
    }
}

impl<const N: usize> Transport for ShmemIpc<N> {
    const NAME: &'static str = "shmem-ipc";
    type Offer = (Sender<[u8; N]>, Receiver<[u8; N]>);
    type Out = Out<N>;
    type In = In<N>;

    fn offer(plan: &Plan) -> (Self::Offer, Invitation) {
        let out = Sender::new(plan.slots()).expect("a ring");
        let back = Receiver::new(plan.slots()).expect("a ring");
        let ours = [
            out.memfd().as_file(),
            out.empty_signal(),
            out.full_signal(),
            back.memfd().as_file(),
            back.empty_signal(),
            back.full_signal(),
        ];
        let copy = |file: &File| file.try_clone().expect("a second descriptor").into();
        let descriptors = ours.into_iter().map(copy).collect();
        ((out, back), Invitation { descriptors, ..Invitation::default() })
    }

    fn accept(plan: &Plan, (out, back): Self::Offer) -> (Self::Out, Self::In) {
        let rings = plan.is_asleep;
        (Out { ring: out, rings }, In { ring: back, rings })
    }

    fn join(plan: &Plan, invitation: Invitation) -> (Self::Out, Self::In) {
        let mut files = invitation.descriptors.into_iter().map(File::from);
        let mut file = || files.next().expect("six descriptors");
        let incoming = Receiver::open(plan.slots(), file(), file(), file()).expect("a ring");
        let out = Sender::open(plan.slots(), file(), file(), file()).expect("a ring");
        Self::accept(plan, (out, incoming))
    }
}
