//! What lies between the features: a loan and a burst, trust and growth, a close inside a
//! serialisation. Everything here happens in one process.
#![allow(unsafe_code, missing_docs)]

use messageport::{
    Format, MessageChannel, MessageEvent, MessagePort, PostError, PostSerializer, rkyv,
};
use std::collections::VecDeque;
use std::time::Duration;

/// Growth may lead into segment 0 while the segment that is left is full of unread messages: only
/// a drained one may be given back.
#[test]
fn a_trusted_sender_frees_no_unread_page() {
    let channel = MessageChannel::builder().capacity(4096).limit(65_536).build().unwrap();
    // SAFETY: both ends stay in this test.
    unsafe { channel.port1.trust_peer() };
    let (mut sent, mut received) = (0u64, 0u64);
    let mut message = [0u8; 1000];
    for round in 0..10_000 {
        message[..8].copy_from_slice(&sent.to_le_bytes());
        let posted = channel.port1.post_bytes(&message).is_ok();
        sent += u64::from(posted);
        // A receiver half as fast as the sender keeps the lane full.
        if round % 2 == 0 || !posted {
            let Some(event) = channel.port2.try_recv().unwrap() else { continue };
            assert_eq!(event.bytes()[..8], received.to_le_bytes());
            received += 1;
        }
    }
    assert!(received > 1000);
}

#[test]
fn bytes_in_use_in_place_never_change() {
    let channel = MessageChannel::builder().capacity(4096).limit(65_536).build().unwrap();
    // SAFETY: both ends stay in this test.
    unsafe { channel.port1.trust_peer() };
    // SAFETY: both ends stay in this test.
    unsafe { channel.port2.trust_peer() };
    let mut held: VecDeque<MessageEvent<'_>> = VecDeque::new();
    for _ in 0..2_000 {
        let posted = channel.port1.post_bytes(&[7; 1000]).is_ok();
        assert!(held.iter().all(|event| event.bytes() == [7; 1000]));
        if !posted {
            held.pop_front();
        }
        held.extend(channel.port2.try_recv().unwrap());
    }
}

/// The control records behind a lent message are passed by a look that finds nothing; they must be
/// released with the message, as the sender may wait for just them.
#[test]
fn f51_room_returns_when_the_last_lent_message_does() {
    let channel = MessageChannel::builder().capacity(4096).limit(16_384).build().unwrap();
    let largest = vec![1; channel.port1.max_message_len()];
    // SAFETY: both ends stay in this test.
    unsafe { channel.port2.trust_peer() };
    for _ in 0..10 {
        channel.port1.post_bytes(&largest).unwrap();
        let first = channel.port2.try_recv().unwrap().unwrap();
        assert!(channel.port2.try_recv().unwrap().is_none());
        assert!(matches!(channel.port1.post_bytes(&largest), Err(PostError::QueueFull { .. })));
        drop(first);
    }
}

#[test]
fn a_message_of_the_largest_size_fits_whenever_the_lane_is_empty() {
    for limit in [8_192, 16_384, 65_536] {
        let channel = MessageChannel::builder().capacity(4096).limit(limit).build().unwrap();
        let largest = vec![3; channel.port1.max_message_len()];
        for _ in 0..10 {
            channel.port1.post_bytes(&largest).unwrap();
            assert_eq!(channel.port2.recv().unwrap().bytes(), largest);
        }
        let too_large = vec![3; largest.len() + 1];
        let refused = channel.port1.post_bytes(&too_large);
        assert!(matches!(refused, Err(PostError::TooLarge { .. })));
    }
}

#[test]
fn a_burst_that_is_committed_beside_a_loan_is_published() {
    let channel = MessageChannel::new().unwrap();
    let burst = channel.port1.burst();
    burst.stage_text("staged").unwrap();
    let loan = channel.port1.loan(8).unwrap();
    burst.commit();
    assert!(channel.port2.try_recv().unwrap().is_some());
    drop(loan);
}

#[test]
fn lengths_beyond_all_measure_are_too_large() {
    let channel = MessageChannel::new().unwrap();
    for len in [usize::MAX, usize::MAX - 15, 1 << 40] {
        let waited = channel.port1.wait_for_room(len, Duration::ZERO);
        assert!(matches!(waited, Err(PostError::TooLarge { .. })));
        assert!(matches!(channel.port1.loan(len), Err(PostError::TooLarge { .. })));
    }
}

#[test]
fn one_post_that_finds_no_room_in_time_counts_as_full_once() {
    let channel = MessageChannel::builder().capacity(4096).bounded().build().unwrap();
    while channel.port1.post_bytes(&[0; 1000]).is_ok() {}
    let before = channel.port1.stats().sent.full;
    let answer = channel.port1.post_bytes_timeout(&[0; 1000], Duration::from_millis(5));
    assert!(matches!(answer, Err(PostError::Timeout)));
    assert_eq!(channel.port1.stats().sent.full - before, 1);
}

#[test]
fn a_ports_canceller_ends_posts_of_a_half_that_had_its_own() {
    let channel = MessageChannel::builder().capacity(4096).bounded().build().unwrap();
    let (sender, receiver) = channel.port1.split();
    let _of_the_half = sender.canceller().unwrap();
    let port = MessagePort::join(sender, receiver).unwrap();
    while port.post_bytes(&[0; 500]).is_ok() {}
    port.canceller().unwrap().cancel();
    let answer = port.post_bytes_timeout(&[0; 500], Duration::MAX);
    assert!(matches!(answer, Err(PostError::Cancelled)));
}

/// Closes the port that it is posted to, and then fails or not.
struct ClosesThePort<'a> {
    port: &'a MessagePort,
    fails: bool,
}

impl rkyv::Archive for ClosesThePort<'_> {
    type Archived = ();
    type Resolver = ();

    fn resolve(&self, (): (), _: rkyv::Place<()>) {}
}

impl<'s> rkyv::Serialize<PostSerializer<'s>> for ClosesThePort<'_> {
    fn serialize(&self, _: &mut PostSerializer<'s>) -> Result<(), rkyv::rancor::BoxedError> {
        self.port.close();
        match self.fails {
            true => Err(rkyv::rancor::Source::new(std::fmt::Error)),
            false => Ok(()),
        }
    }
}

#[test]
fn a_close_from_inside_a_serialisation_takes_place_after_it() {
    for fails in [true, false] {
        let channel = MessageChannel::new().unwrap();
        let value = ClosesThePort { port: &channel.port1, fails };
        assert_eq!(channel.port1.post_message(&value).is_err(), fails);
        assert!(channel.port1.is_closed());
        let after = channel.port1.post_text("after the close");
        assert!(matches!(after, Err(PostError::Closed { .. })));
        assert_eq!(channel.port2.iter().count(), usize::from(!fails));
    }
}

#[derive(rkyv::Archive, rkyv::Serialize, messageport::SafeArchive)]
#[rkyv(
    serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source),
    bytecheck(bounds(
        __C: rkyv::validation::ArchiveContext,
        __C::Error: rkyv::rancor::Source,
    ))
)]
struct Chain {
    #[rkyv(omit_bounds)]
    next: Option<Box<Chain>>,
}

fn chain(links: usize) -> Chain {
    let mut chain = Chain { next: None };
    for _ in 0..links {
        chain = Chain { next: Some(Box::new(chain)) };
    }
    chain
}

/// The check recurses where the type does: without a bound a peer could overflow our stack. What it
/// refuses is refused at the post already.
#[test]
fn what_is_nested_too_deeply_is_refused_where_it_is_posted() {
    let channel = MessageChannel::new().unwrap();
    for links in [0, 1, 100, 253, 254] {
        channel.port1.post_message(&chain(links)).unwrap();
        assert!(channel.port2.recv().unwrap().data::<Chain>().is_ok(), "{links} links");
    }
    for links in [255, 256, 300] {
        let refused = channel.port1.post_message(&chain(links));
        let Err(PostError::Serialize(source)) = refused else {
            panic!("{links} links: {refused:?}")
        };
        assert!(source.to_string().contains("254 levels of pointers"), "{source}");
        assert!(channel.port2.try_recv().unwrap().is_none(), "nothing was posted");
        let refused = messageport::Buffer::archive(&chain(links)).unwrap_err();
        assert!(matches!(refused, messageport::BufferError::Serialize(_)), "{refused:?}");
    }
    // A long value is none that is deep.
    let wide: Vec<Option<Box<Chain>>> = (0..1000).map(|_| Some(Box::new(chain(2)))).collect();
    channel.port1.post_message(&wide).unwrap();
    assert_eq!(
        channel.port2.recv().unwrap().data::<Vec<Option<Box<Chain>>>>().unwrap().len(),
        1000
    );
}

/// A peer that does not use this crate posts it all the same.
#[test]
fn an_archive_that_is_nested_too_deeply_is_invalid() {
    let channel = MessageChannel::new().unwrap();
    let port = channel.port1;
    let large_stack = std::thread::Builder::new().stack_size(1 << 30);
    let post = move || {
        let chain = chain(200_000);
        let bytes = rkyv::to_bytes::<rkyv::rancor::BoxedError>(&chain).unwrap();
        port.post_message(&Archived(&bytes)).unwrap();
        // Dropping it would recurse as well.
        std::mem::forget(chain);
    };
    large_stack.spawn(post).unwrap().join().unwrap();
    assert!(channel.port2.recv().unwrap().data::<Chain>().is_err());
}

/// Bytes that are posted as an archive.
struct Archived<'a>(&'a [u8]);

impl rkyv::Archive for Archived<'_> {
    type Archived = ();
    type Resolver = ();

    fn resolve(&self, (): (), _: rkyv::Place<()>) {}
}

impl<'s> rkyv::Serialize<PostSerializer<'s>> for Archived<'_> {
    fn serialize(
        &self,
        serializer: &mut PostSerializer<'s>,
    ) -> Result<(), rkyv::rancor::BoxedError> {
        rkyv::ser::Writer::write(serializer, self.0)
    }
}

/// Random operations against a queue, with trust on either end, loans, bursts, trims and events
/// that stay in use for a while.
#[test]
fn random_operations_agree_with_a_queue() {
    let seeds = std::env::var("MESSAGEPORT_SEEDS").map_or(8, |seeds| seeds.parse().unwrap());
    for seed in 1..=seeds {
        Walk::new(seed).run(400);
    }
}

struct Walk {
    random: u64,
    seed: u64,
    next_id: u64,
    sent: VecDeque<Vec<u8>>,
}

impl Walk {
    fn new(seed: u64) -> Walk {
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Walk { random, seed, next_id: 0, sent: VecDeque::new() }
    }

    fn below(&mut self, bound: u64) -> u64 {
        // Marsaglia's xorshift: any sequence will do that a seed repeats.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn run(&mut self, steps: u32) {
        let limit = 4096 << self.below(5);
        let channel = MessageChannel::builder().capacity(4096).limit(limit).build().unwrap();
        let (port1, port2) = (channel.port1, channel.port2);
        for port in [&port1, &port2] {
            if self.below(2) == 0 {
                // SAFETY: both ends stay in this test.
                unsafe { port.trust_peer() };
            }
        }
        let bias = 1 + self.below(6);
        let mut held: Vec<(Vec<u8>, MessageEvent<'_>)> = Vec::new();
        for _ in 0..steps {
            if self.below(8) < bias {
                self.post(&port1, &port2, held.is_empty());
            } else if self.below(40) == 0 {
                port1.trim().unwrap();
            } else if self.below(3) == 0 && !held.is_empty() {
                let index = self.below(held.len() as u64) as usize;
                held.remove(index);
            } else if let Some(event) = port2.try_recv().unwrap() {
                held.push((self.sent.pop_front().expect("no message was made up"), event));
            } else {
                assert!(self.sent.is_empty(), "seed {}: a message was lost", self.seed);
            }
            for (expected, event) in &held {
                let same = match event.format() {
                    Format::Bytes => event.bytes() == expected,
                    _ => event.data::<Vec<u8>>().unwrap().as_slice() == expected,
                };
                assert!(same, "seed {}: a message was torn or reordered", self.seed);
            }
        }
    }

    fn post(&mut self, port1: &MessagePort, port2: &MessagePort, nothing_held: bool) {
        let largest = port1.max_message_len() as u64;
        let len = match self.below(6) {
            0..3 => self.below(1000),
            3 => self.below(64),
            4 => self.below(largest - 100),
            _ => largest - 64 - self.below(40),
        };
        let id = self.next_id;
        let message: Vec<u8> = (0..len).map(|index| (id * 31 + index) as u8).collect();
        let way = self.below(4);
        let attempt = || match way {
            0 => port1.post_bytes(&message),
            1 => port1.post_message(&message),
            2 => port1.loan(message.len()).and_then(|mut loan| {
                loan.copy_from_slice(&message);
                loan.post()
            }),
            _ => {
                let burst = port1.burst();
                burst.stage_bytes(&message)
            }
        };
        let mut answer = attempt();
        if self.sent.is_empty() && nothing_held {
            // An empty lane takes any message, at the latest once the receiver has looked.
            for _ in 0..3 {
                if answer.is_err() {
                    assert!(port2.try_recv().unwrap().is_none());
                    answer = attempt();
                }
            }
            assert!(answer.is_ok(), "seed {}: {len} bytes: {answer:?}", self.seed);
        }
        match answer {
            Ok(()) => {
                self.sent.push_back(message);
                self.next_id += 1;
            }
            Err(PostError::QueueFull { .. }) => {}
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }
}
