//! Messages of so few bytes that they travel in the header of their record.

use crate::common::receive;
use crate::memory::trust;
use messageport::{MessageChannel, MessagePort, Post, PostError, Receive, ReceiveOwned};
use std::fmt::Debug;

const LENGTHS: [usize; 12] = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17];

fn pair(trusted: bool) -> (MessagePort, MessagePort) {
    let builder = MessageChannel::builder().capacity(4096).bounded();
    let channel = builder.build().expect("a channel");
    if trusted {
        trust(&channel);
    }
    (channel.port1, channel.port2)
}

/// Differs from message to message, and nowhere contains zeros.
fn bytes(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|index| (number * 31 + index * 7) as u8 | 1).collect()
}

/// All lengths in turns, so that short records follow long ones and meet the segment's end at every
/// place.
#[test]
fn bytes_of_every_length_arrive_whole_one_by_one_and_together() {
    for trusted in [false, true] {
        let (port1, port2) = pair(trusted);
        let len = |number: usize| LENGTHS[number % LENGTHS.len()];
        for number in 0..2_000 {
            port1.post_bytes(&bytes(number, len(number))).expect("room");
            assert_eq!(receive(&port2).bytes(), bytes(number, len(number)));
        }
        for round in 0..200 {
            let burst = port1.burst();
            for number in 0..50 {
                burst.stage_bytes(&bytes(round + number, len(number))).expect("room");
            }
            burst.commit();
            let events: Vec<_> = match round % 2 {
                0 => port2.try_iter().collect(),
                _ => (0..50).map(|_| receive(&port2)).collect(),
            };
            assert_eq!(events.len(), 50);
            for (number, event) in events.iter().enumerate() {
                assert_eq!(event.bytes(), bytes(round + number, len(number)), "held together");
            }
            for (number, event) in events.into_iter().enumerate().rev() {
                assert_eq!(event.into_message().bytes(), bytes(round + number, len(number)));
            }
        }
    }
}

#[test]
fn values_of_few_bytes_arrive_after_short_ones_and_long_ones() {
    for trusted in [false, true] {
        let ports = pair(trusted);
        for _ in 0..200 {
            survives(&ports, 0x0123_4567_89ab_cdef_u64);
            survives(&ports, 7u8);
            survives(&ports, true);
            survives(&ports, ());
            survives(&ports, (1u32, 2u32));
            survives(&ports, Some(9u32));
            survives(&ports, [1u8, 2, 3, 4, 5]);
            survives(&ports, 3.5f64);
            survives(&ports, "short".to_owned());
            survives(&ports, "longer than a header".to_owned());
            survives(&ports, vec![1u16; 40]);
            survives(&ports, u128::MAX);
        }
    }
}

fn survives<T>((port1, port2): &(MessagePort, MessagePort), value: T)
where
    T: Post + Receive + ReceiveOwned + PartialEq + Debug,
{
    port1.post_message(&value).expect("room");
    port1.post_text("and").expect("room");
    let event = receive(port2);
    assert_eq!(event.deserialize::<T>().expect("one of its kind"), value);
    assert_eq!(receive(port2).text().expect("text"), "and");
    assert_eq!(event.deserialize::<T>().expect("still there"), value);
}

#[test]
fn eight_bytes_take_sixteen_of_the_ring_and_nine_take_thirty_two() {
    let (port1, _port2) = pair(false);
    for (len, taken) in [(1, 16), (8, 16), (9, 32), (16, 32), (17, 48), (0, 16)] {
        let before = port1.backlog().bytes;
        port1.post_bytes(&vec![1; len]).expect("room");
        assert_eq!(port1.backlog().bytes - before, taken, "{len} bytes");
    }
}

#[test]
fn a_full_lane_says_how_long_the_message_is_that_found_no_room() {
    for len in [1, 8] {
        let (port1, _port2) = pair(false);
        let full = loop {
            if let Err(full) = port1.post_bytes(&vec![1; len]) {
                break full;
            }
        };
        let PostError::QueueFull { len: found, .. } = full else { panic!("{full}") };
        assert_eq!(found, len as u64);
    }
}
