//! shmem-ipc with a copy of its own of each message, made before anything of it is used: what a
//! receiver has to do that does not trust its peer. No peer of the table: a reference, which says
//! how much of a distance such a copy is.

use std::hint::black_box;

use crate::peers::shmem_ipc::{self, ShmemIpc};
use crate::transport::{Invitation, Plan, Receiving, Transport};

/// Items of `N` bytes.
pub struct Copied<const N: usize>;

pub struct In<const N: usize> {
    items: shmem_ipc::In<N>,
    copy: Box<[u8]>,
}

impl<const N: usize> Receiving for In<N> {
    #[inline]
    fn poll(&mut self, mut take: impl FnMut(&[u8])) -> u64 {
        let copy = &mut self.copy;
        self.items.poll(|item| {
            copy.copy_from_slice(item);
            take(black_box(copy));
        })
    }

    fn sleep(&mut self, mut take: impl FnMut(&[u8])) {
        let copy = &mut self.copy;
        self.items.sleep(|item| {
            copy.copy_from_slice(item);
            take(black_box(copy));
        });
    }
}

impl<const N: usize> Transport for Copied<N> {
    const NAME: &'static str = "shmem-ipc-copied";
    type Offer = <ShmemIpc<N> as Transport>::Offer;
    type Out = shmem_ipc::Out<N>;
    type In = In<N>;

    fn offer(plan: &Plan) -> (Self::Offer, Invitation) {
        ShmemIpc::<N>::offer(plan)
    }

    fn accept(plan: &Plan, offer: Self::Offer) -> (Self::Out, Self::In) {
        let (out, items) = ShmemIpc::<N>::accept(plan, offer);
        (out, In { items, copy: vec![0; N].into() })
    }

    fn join(plan: &Plan, invitation: Invitation) -> (Self::Out, Self::In) {
        let (out, items) = ShmemIpc::<N>::join(plan, invitation);
        (out, In { items, copy: vec![0; N].into() })
    }
}
