//! Every way to receive sees the same messages: short and long ones, with a list and without,
//! taken one by one or in batches, held, kept, or skipped.

use super::bounded;
use crate::common::messages::Rng;
use crate::common::watchdog::watch;
use messageport::{Message, MessageChannel, MessageEvent, MessagePort, PostError};
use std::collections::VecDeque;
use std::fs::File;

/// Lengths at which a message takes another path.
const LENGTHS: [usize; 14] = [0, 1, 8, 16, 17, 40, 48, 64, 511, 512, 513, 4096, 4097, 70_000];
/// The longest of these in a bounded channel of 4 KiB.
const MOST_BOUNDED: usize = 600;

#[derive(Clone, Copy, Debug)]
struct Posted {
    number: u64,
    len: usize,
    has_file: bool,
}

/// The bytes of a message: each says which message it is part of, and where.
fn content(number: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number as usize * 31 + at / 8 * 7 + at % 8) as u8).collect()
}

struct Lane {
    port1: MessagePort,
    port2: MessagePort,
    posted: VecDeque<Posted>,
    next: u64,
    random: Rng,
    most: usize,
}

impl Lane {
    fn post(&mut self) {
        let len = LENGTHS[self.random.below(LENGTHS.len() as u64) as usize].min(self.most);
        let posted = Posted { number: self.next, len, has_file: self.random.below(12) == 0 };
        let bytes = content(posted.number, len);
        let answer = if posted.has_file {
            let file = File::open("/dev/null").expect("a file");
            self.port1.post_bytes_with(&bytes, [file.into()]).map_err(|error| error.into_parts().0)
        } else {
            self.port1.post_bytes(&bytes)
        };
        match answer {
            Ok(()) => {
                self.posted.push_back(posted);
                self.next += 1;
            }
            Err(PostError::QueueFull { .. }) => {}
            Err(error) => panic!("{posted:?}: {error}"),
        }
    }
}

fn check(event: &MessageEvent<'_>, posted: Posted) {
    assert_eq!(event.bytes(), content(posted.number, posted.len), "{posted:?}");
    assert_eq!(event.transferred().2, usize::from(posted.has_file), "{posted:?}");
}

/// What was received, and not dropped yet.
enum Held<'p> {
    Event(MessageEvent<'p>, Posted),
    Kept(Message, Posted),
}

impl Held<'_> {
    fn check(&self) {
        match self {
            Held::Event(event, posted) => check(event, *posted),
            Held::Kept(message, posted) => {
                assert_eq!(message.bytes(), content(posted.number, posted.len), "{posted:?}");
            }
        }
    }
}

fn rounds(channel: MessageChannel, most: usize, seed: u64, trusts_at: Option<u32>) {
    let MessageChannel { port1, port2 } = channel;
    let mut lane = Lane { port1, port2, posted: VecDeque::new(), next: 0, random: Rng(seed), most };
    for round in 0..80 {
        if trusts_at == Some(round) {
            // SAFETY: both ends are in this test.
            unsafe { lane.port2.trust_peer() };
        }
        (0..lane.random.below(40)).for_each(|_| lane.post());
        receive_some(&mut lane);
    }
}

fn receive_some(lane: &mut Lane) {
    let Lane { port2, posted, random, .. } = lane;
    let mut held: Vec<Held<'_>> = Vec::new();
    for _ in 0..random.below(12) {
        let take = random.below(20) as usize;
        match random.below(6) {
            0 => match port2.try_recv().expect("an open port") {
                Some(event) => held.push(Held::Event(event, posted.pop_front().expect("one"))),
                None => assert!(posted.is_empty(), "{} are lost", posted.len()),
            },
            1 => {
                assert_eq!(port2.discard_next().expect("an open port"), !posted.is_empty());
                posted.pop_front();
            }
            2 => port2.try_iter().take(take).for_each(|event| {
                check(&event, posted.pop_front().expect("one"));
            }),
            3 => held.extend(
                port2
                    .try_iter()
                    .take(take)
                    .map(|event| Held::Event(event, posted.pop_front().expect("one"))),
            ),
            4 => held.extend(port2.try_iter().take(take).map(|event| {
                let posted = posted.pop_front().expect("one");
                check(&event, posted);
                Held::Kept(event.into_message(), posted)
            })),
            _ => {
                while !held.is_empty() && random.below(4) > 0 {
                    held.swap_remove(random.below(held.len() as u64) as usize).check();
                }
            }
        }
    }
    held.iter().for_each(Held::check);
}

#[test]
fn every_way_to_receive_sees_the_same_messages() {
    let _watch = watch("every_way_to_receive_sees_the_same_messages");
    for seed in 0..3 {
        for trusts_at in [None, Some(0), Some(30)] {
            let channel = MessageChannel::new().expect("a channel");
            rounds(channel, usize::MAX, seed, trusts_at);
            rounds(bounded(), MOST_BOUNDED, seed, trusts_at);
        }
    }
}
