//! crossbar: its pool of blocks, loaned and read in place, with a ring of their numbers; and its
//! bus, a ring of values of one type.
//!
//! The ring of the pool overwrites what is unread. Here it does not: a word beside it keeps the
//! writer from that, as for bcast. Where one message at a time is under way, the pool's pinned block
//! carries it, which the crate's benchmarks show as its fastest way.

use std::hint::spin_loop;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use crossbar::{BusSubscriber, Config, PodBus, Publisher, Stream, Subscriber, Topic, WaitStrategy};

use crate::harness::shared::{LINE, SharedMemory};
use crate::peers::pace::{Leader, Taken};
use crate::transport::{Invitation, Plan, Receiving, Sending, Transport};

/// The pool: a block for each message, or one block again and again.
pub struct Crossbar<const PINNED: bool>;

pub struct Out<const PINNED: bool> {
    publisher: Publisher,
    topic: Topic,
    leader: Leader,
}

impl<const PINNED: bool> Sending for Out<PINNED> {
    #[inline]
    fn send(&mut self, message: &[u8]) {
        if PINNED {
            return self.publish_pinned(message.len(), |block| block.copy_from_slice(message));
        }
        self.leader.wait_for_room();
        let mut loan = self.publisher.loan(&self.topic).expect("a free block");
        loan.set_data(message).expect("a message as long as a block at most");
        loan.publish();
    }
}

impl<const PINNED: bool> Out<PINNED> {
    /// Waits until the reader has let go of the block; fills and publishes it.
    #[inline]
    pub fn publish_pinned(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) {
        loop {
            match self.publisher.loan_pinned(&self.topic) {
                Ok(mut loan) => {
                    fill(&mut loan.as_mut_slice()[..bytes]);
                    loan.set_len(bytes).expect("as long as a block at most");
                    return loan.publish();
                }
                Err(crossbar::error::Error::PinnedReadersActive { .. }) => spin_loop(),
                Err(error) => panic!("loaning the pinned block: {error}"),
            }
        }
    }
}

pub struct In<const PINNED: bool> {
    /// Ends before the subscriber, which keeps the memory mapped.
    stream: Stream,
    _subscriber: Subscriber,
    taken: Taken,
}

impl<const PINNED: bool> Receiving for In<PINNED> {
    #[inline]
    fn poll(&mut self, mut take: impl FnMut(&[u8])) -> u64 {
        if PINNED {
            let Some(message) = self.stream.try_recv_pinned() else { return 0 };
            take(&message);
            return 1;
        }
        let Some(message) = self.stream.try_recv() else {
            self.taken.publish();
            return 0;
        };
        take(&message);
        drop(message);
        self.taken.add_one();
        1
    }

    fn sleep(&mut self, mut take: impl FnMut(&[u8])) {
        let message = self.stream.recv_with(AT_ONCE).expect("a publisher that lives");
        take(&message);
        drop(message);
        self.taken.add_one();
        self.taken.publish();
    }
}

impl<const PINNED: bool> Crossbar<PINNED> {
    /// Messages that the ring holds: few enough for their blocks to stay in a core's own cache.
    fn depth(plan: &Plan) -> usize {
        let cached = (CACHED / block(plan)).max(LEAST_DEPTH);
        plan.slots().min(cached).next_power_of_two()
    }

    fn out(plan: &Plan, end: &str, memory: &Rc<SharedMemory>, word: usize) -> Out<PINNED> {
        let depth = Self::depth(plan) as u32;
        let config = Config {
            max_topics: 1,
            // The publisher keeps some by itself.
            block_count: depth + SPARE_BLOCKS,
            block_size: block(plan) as u32,
            ring_depth: depth,
            stale_timeout: Duration::from_secs(3_600),
            ..Config::default()
        };
        let name = name(plan, end);
        let mut publisher = Publisher::create(&name, config).expect("a publisher");
        let topic = publisher.register(TOPIC).expect("a topic");
        let leader = Leader::new(memory.word(word), u64::from(depth) - 1);
        Out { publisher, topic, leader }
    }

    /// Waits for the publisher to make its files.
    fn incoming(plan: &Plan, end: &str, memory: &Rc<SharedMemory>, word: usize) -> In<PINNED> {
        let name = name(plan, end);
        let taken = Taken::new(memory.word(word), Self::depth(plan) as u64 - 1);
        loop {
            let Ok(subscriber) = Subscriber::connect(&name) else {
                std::thread::yield_now();
                continue;
            };
            if let Ok(stream) = subscriber.subscribe(TOPIC) {
                return In { stream, _subscriber: subscriber, taken };
            }
        }
    }
}

impl<const PINNED: bool> Transport for Crossbar<PINNED> {
    const NAME: &'static str = if PINNED { "crossbar-pinned" } else { "crossbar" };
    type Offer = (Rc<SharedMemory>, Out<PINNED>);
    type Out = Out<PINNED>;
    type In = In<PINNED>;

    fn offer(plan: &Plan) -> (Self::Offer, Invitation) {
        let memory = SharedMemory::create(2 * LINE);
        let out = Self::out(plan, "out", &memory, 0);
        let copy: OwnedFd = memory.descriptor().try_clone_to_owned().expect("a second descriptor");
        ((memory, out), Invitation { descriptors: vec![copy], ..Invitation::default() })
    }

    fn accept(plan: &Plan, (memory, out): Self::Offer) -> (Self::Out, Self::In) {
        (out, Self::incoming(plan, "back", &memory, LINE))
    }

    fn join(plan: &Plan, mut invitation: Invitation) -> (Self::Out, Self::In) {
        let memory = SharedMemory::open(invitation.descriptors.pop().expect("memory"));
        // Subscribed before the first side may send: a stream begins with what comes then.
        let incoming = Self::incoming(plan, "out", &memory, 0);
        (Self::out(plan, "back", &memory, LINE), incoming)
    }
}

/// The bus: values of `N` bytes, bounded, so that the publisher waits for its slowest subscriber.
pub struct Bus<const N: usize>;

impl<const N: usize> Sending for PodBus<[u8; N]> {
    #[inline]
    fn send(&mut self, message: &[u8]) {
        self.publish(message.try_into().expect("a message as long as a value"));
    }
}

impl<const N: usize> Receiving for BusSubscriber<[u8; N]> {
    #[inline]
    fn poll(&mut self, mut take: impl FnMut(&[u8])) -> u64 {
        let Some(value) = self.try_recv() else { return 0 };
        take(&value);
        1
    }

    fn sleep(&mut self, _take: impl FnMut(&[u8])) {
        unreachable!("the bus wakes no receiver");
    }
}

impl<const N: usize> Bus<N> {
    fn out(plan: &Plan, end: &str) -> PodBus<[u8; N]> {
        let slots = plan.slots().next_power_of_two();
        PodBus::create_bounded(&name(plan, end), slots, 0).expect("a bus")
    }

    /// Waits for the publisher to make its files.
    fn incoming(plan: &Plan, end: &str) -> BusSubscriber<[u8; N]> {
        let name = name(plan, end);
        loop {
            match BusSubscriber::connect(&name) {
                Ok(subscriber) => return subscriber,
                Err(_) => std::thread::yield_now(),
            }
        }
    }
}

impl<const N: usize> Transport for Bus<N> {
    const NAME: &'static str = "crossbar-bus";
    type Offer = PodBus<[u8; N]>;
    type Out = PodBus<[u8; N]>;
    type In = BusSubscriber<[u8; N]>;

    fn offer(plan: &Plan) -> (Self::Offer, Invitation) {
        (Self::out(plan, "out"), Invitation::default())
    }

    fn accept(plan: &Plan, out: Self::Offer) -> (Self::Out, Self::In) {
        (out, Self::incoming(plan, "back"))
    }

    fn join(plan: &Plan, _invitation: Invitation) -> (Self::Out, Self::In) {
        let incoming = Self::incoming(plan, "out");
        (Self::out(plan, "back"), incoming)
    }
}

/// What a block takes: a message behind the crate's eight bytes, in whole cache lines.
fn block(plan: &Plan) -> usize {
    (plan.bytes + 8).next_multiple_of(64)
}

/// The crate puts its files into `/dev/shm` itself. There is no dot, behind which it would put the
/// name of its lock.
fn name(plan: &Plan, end: &str) -> String {
    let (directory, _) = plan.name.rsplit_once('/').expect("a path");
    format!("{}-{}-{end}", label(directory), plan.label())
}

/// The private directory's name as a part of names.
fn label(directory: &str) -> String {
    directory.rsplit('/').next().unwrap_or(directory).replace('.', "_")
}

/// What the names of files in `/dev/shm` begin with that belong to the private directory.
pub fn prefixes(directory: &str) -> [String; 2] {
    let label = label(directory);
    [format!("crossbar-{label}"), format!("crossbar-pod-{label}")]
}

/// Where it keeps its list of topics, and the name of that in the private directory.
pub const REGISTRY: (&str, &str) = ("CROSSBAR_REGISTRY", "crossbar-registry");
const TOPIC: &str = "/messages";
/// Sleeps without spinning before.
const AT_ONCE: WaitStrategy = WaitStrategy::Adaptive { spin_iters: 0, yield_iters: 0 };
/// Bytes of blocks that a core's own cache holds along with everything else.
const CACHED: usize = 256 << 10;
const LEAST_DEPTH: usize = 4;
const SPARE_BLOCKS: u32 = 16;
