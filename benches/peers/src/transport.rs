//! What a peer has to offer to be measured: two ends of a channel that carries bytes both ways.
//!
//! A [`Transport`] says how its ends are made in two processes; everything that is timed is written
//! once for all of them, in `exchange.rs`.

use std::any::Any;
use std::os::fd::OwnedFd;

use crate::harness::message::Outgoing;

/// How a channel is to be made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Path in the private directory that names this channel and no other.
    pub name: String,
    /// Payload of each message.
    pub bytes: usize,
    /// Bytes that either direction may hold, where that can be chosen.
    pub capacity: usize,
    /// Whether receivers sleep until a message comes, rather than spin.
    pub is_asleep: bool,
}

impl Plan {
    /// Messages that fit into the capacity, two at least.
    pub fn slots(&self) -> usize {
        (self.capacity / self.bytes).max(2)
    }

    /// Last part of the name, where a peer wants a name rather than a path.
    pub fn label(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }
}

/// What the side that joins gets from the side that offers.
#[derive(Default)]
pub struct Invitation {
    pub descriptors: Vec<OwnedFd>,
    /// A name without white space, where the plan's own does not do.
    pub word: String,
}

/// The sending half of an end.
pub trait Sending {
    /// Sends one message; waits while there is no room.
    fn send(&mut self, message: &[u8]);

    /// Sends the next `count` messages in one go. Only asked of transports with bursts.
    fn send_burst(&mut self, message: &mut Outgoing, count: u64) {
        for _ in 0..count {
            self.send(message.next());
        }
    }
}

/// The receiving half of an end.
pub trait Receiving {
    /// Lends what has arrived to `take` and returns how many messages that were. Transports that
    /// cannot spin sleep here as well.
    fn poll(&mut self, take: impl FnMut(&[u8])) -> u64;

    /// Sleeps until there is a message and lends it.
    fn sleep(&mut self, take: impl FnMut(&[u8]));

    /// Whether more has been fetched already, so that the next call does not ask the kernel.
    fn has_more(&self) -> bool {
        false
    }
}

/// A channel between two processes.
pub trait Transport: 'static {
    /// How it was used, for the table's legend.
    const NAME: &'static str;
    /// Whether a receiver can look for messages without the kernel.
    const SPINS: bool = true;
    /// The offering side's state until the other one has joined.
    type Offer;
    type Out: Sending + 'static;
    type In: Receiving + 'static;

    /// Prepares a channel on the first side.
    fn offer(plan: &Plan) -> (Self::Offer, Invitation);

    /// Completes the first side. The other one joins before, at the same time or after.
    fn accept(plan: &Plan, offer: Self::Offer) -> (Self::Out, Self::In);

    /// Makes the other side, which sends what the first one receives.
    fn join(plan: &Plan, invitation: Invitation) -> (Self::Out, Self::In);

    /// Makes both ends in this process, as a program would that needs a channel.
    fn make(plan: &Plan) -> Box<dyn Any> {
        let (offer, invitation) = Self::offer(plan);
        let other = Self::join(plan, invitation);
        Box::new((Self::accept(plan, offer), other))
    }
}

/// Both ends of a channel between two threads.
pub trait ThreadTransport: 'static {
    const NAME: &'static str;
    type Out: Sending + Send + 'static;
    type In: Receiving + Send + 'static;

    /// Makes one direction.
    fn direction(plan: &Plan) -> (Self::Out, Self::In);
}
