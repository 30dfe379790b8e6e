//! `try_iter`: what is there, in one go, with one look for a sender that waits.

use super::{bounded, fill, sleeper};
use crate::common::region::Region;
use crate::common::watchdog::watch;
use crate::common::{receive, wait_until_asleep};
use messageport::{MessageChannel, MessagePort, RecvError};
use std::iter;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Where the receiver of lane 0 counts how often it has woken the sender.
const WAKES_OF_LANE_0: usize = 0x80 + 0x210;

fn numbers(port: &MessagePort, most: usize) -> Vec<u64> {
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    port.try_iter().take(most).map(|event| number(event.bytes())).collect()
}

#[test]
fn a_batch_is_what_is_there_in_order() {
    let _watch = watch("a_batch_is_what_is_there_in_order");
    for is_trusted in [false, true] {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        if is_trusted {
            // SAFETY: both ends are in this test.
            unsafe { port2.trust_peer() };
        }
        assert!(numbers(&port2, usize::MAX).is_empty(), "it does not wait");
        for number in 0..100_000u64 {
            port1.post_bytes(&number.to_le_bytes()).expect("room");
        }
        assert_eq!(numbers(&port2, 10), (0..10).collect::<Vec<_>>());
        assert_eq!(receive(&port2).bytes(), 10u64.to_le_bytes());
        assert_eq!(numbers(&port2, usize::MAX), (11..100_000).collect::<Vec<_>>());
        drop(port1);
        assert!(port2.try_iter().next().is_none(), "it ends as well at the end");
        assert!(matches!(port2.recv(), Err(RecvError::Closed { .. })));
    }
}

/// Events of a batch may be kept beyond it.
#[test]
fn messages_of_a_batch_are_held_as_long_as_they_are_used() {
    let _watch = watch("messages_of_a_batch_are_held_as_long_as_they_are_used");
    for is_trusted in [false, true] {
        let MessageChannel { port1, port2 } = bounded();
        if is_trusted {
            // SAFETY: both ends are in this test.
            unsafe { port2.trust_peer() };
        }
        for round in 0..100u8 {
            for number in 0..5 {
                port1.post_bytes(&[round * 2 + number; 500]).expect("room");
            }
            let held: Vec<_> = port2.try_iter().collect();
            assert!(port2.try_iter().next().is_none());
            for (number, event) in (0..).zip(&held) {
                assert_eq!(event.bytes(), [round * 2 + number; 500]);
            }
            assert_eq!(held.len(), 5);
        }
    }
}

/// However a batch ends: at its end, early, or never, as its iterator was leaked.
#[test]
fn a_sender_that_waits_for_room_is_woken_by_a_batch() {
    let _watch = watch("a_sender_that_waits_for_room_is_woken_by_a_batch");
    let mut wakes = 0;
    // A sender looks by itself 50 times a second, and may just have done so: then it is not woken.
    for _ in 0..20 {
        wakes += wakes_of_batches();
        if wakes > 0 {
            return;
        }
    }
    panic!("none of 240 senders was woken");
}

/// Has a sender wait for room for each way in which a batch can end. Returns how many were woken.
fn wakes_of_batches() -> u64 {
    let mut wakes = 0;
    // The next message goes to the start of its lane, for which two have to be released.
    for most in [2, 3, usize::MAX] {
        for is_trusted in [false, true] {
            for is_leaked in [false, true] {
                let MessageChannel { port1, port2 } = bounded();
                if is_trusted {
                    // SAFETY: both ends are in this test.
                    unsafe { port2.trust_peer() };
                }
                let count = fill(&port1) as usize;
                let (sender, id) = sleeper(move || {
                    port1.post_bytes_timeout(&[2; 500], Duration::MAX).expect("room at last");
                    port1
                });
                wait_until_asleep(id);
                let mut batch = port2.try_iter();
                let taken = batch.by_ref().take(most).count();
                if is_leaked {
                    std::mem::forget(batch);
                } else {
                    drop(batch);
                }
                assert!(taken >= most.min(count), "{taken} of {count}");
                let port1 = sender.join().expect("no panic");
                // Relaxed: the thread that has slept was joined.
                wakes += Region::of(&port1).word(WAKES_OF_LANE_0).load(Relaxed);
                let rest = count + 1 - taken;
                for _ in 0..rest {
                    receive(&port2);
                }
                drop(port1);
                assert!(matches!(port2.recv(), Err(RecvError::Closed { .. })));
            }
        }
    }
    wakes
}

/// A batch copies short messages together, up to where the lane continues elsewhere: what is behind
/// that place is of long ago.
#[test]
fn a_batch_ends_its_copies_where_the_lane_jumps() {
    let _watch = watch("a_batch_ends_its_copies_where_the_lane_jumps");
    let channel = MessageChannel::builder().capacity(4096).build().expect("a channel");
    let MessageChannel { port1, port2 } = channel;
    let (mut posted, mut received) = (0u64, 0u64);
    let mut post_and_receive = |lengths: &[usize]| {
        for &len in lengths {
            let mut bytes = posted.to_le_bytes().to_vec();
            bytes.resize(len, 0);
            port1.post_bytes(&bytes).expect("room");
            posted += 1;
        }
        // The first of a batch makes a copy, from which the others take what they find.
        while received < posted {
            let others = iter::from_fn(|| port2.try_recv().expect("an open port"));
            for event in port2.try_iter().take(1).chain(others.take(20)) {
                assert_eq!(event.bytes()[..8], received.to_le_bytes(), "of {posted}");
                received += 1;
            }
        }
    };
    // More than the first segment holds, at another place and by other records each time.
    for round in 0..300usize {
        let lengths: Vec<_> = (0..150).map(|at| 8 + (round * 7 + at * at) % 3 * 16).collect();
        post_and_receive(&lengths);
        post_and_receive(&lengths[..round % 5]);
    }
}

/// What a batch has not taken moves with the port, once and in order.
#[test]
fn a_port_moves_in_the_middle_of_a_batch() {
    let _watch = watch("a_port_moves_in_the_middle_of_a_batch");
    let carrier = MessageChannel::new().expect("a channel");
    for most in 0..20 {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        for number in 0..20u64 {
            port1.post_bytes(&number.to_le_bytes()).expect("room");
        }
        assert_eq!(numbers(&port2, most), (0..most as u64).collect::<Vec<_>>());
        carrier.port1.post_bytes_with(b"", [port2.into()]).expect("an open port");
        let moved = receive(&carrier.port2).take_port().expect("a port");
        port1.post_bytes(&20u64.to_le_bytes()).expect("room");
        assert_eq!(numbers(&moved, usize::MAX), (most as u64..=20).collect::<Vec<_>>());
    }
}

#[test]
fn a_half_and_a_typed_port_have_batches_as_well() {
    let _watch = watch("a_half_and_a_typed_port_have_batches_as_well");
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let (sender, _receiver) = port1.split();
    let typed = port2.typed::<u32, u32>();
    for number in 0..3u32 {
        sender.post_message(&number).expect("room");
    }
    sender.post_text("no number").expect("room");
    let read: Vec<_> = typed.try_iter().map(|item| item.map(|event| *event.data())).collect();
    assert_eq!(read.len(), 4);
    assert!(
        read[..3].iter().zip(0..3).all(|(read, number)| *read.as_ref().expect("one") == number)
    );
    assert!(read[3].is_err());
    let (_, receiver) = MessagePort::from(typed).split();
    sender.post_text("for a half").expect("room");
    assert_eq!(receiver.try_iter().count(), 1);
}

/// Each iterator knows where its next message is, until another one has taken it.
#[test]
fn iterators_that_take_turns_take_each_message_once_and_in_order() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    for round in 0..50u64 {
        for number in 0..40u64 {
            let bytes = [number as u8; 30];
            port1.post_bytes(&bytes[..1 + (number + round) as usize % 30]).expect("room");
        }
        let mut taken = Vec::new();
        let (mut one, mut other) = (port2.try_iter(), port2.try_iter());
        for number in 0..40 {
            let event = match (number + round) % 7 {
                0 | 1 => one.next(),
                2 => other.next(),
                3 => port2.try_recv().expect("open"),
                4 => {
                    assert!(port2.discard_next().expect("open"));
                    taken.push(number as u8);
                    continue;
                }
                5 => {
                    assert!(port2.peek_message().expect("open").is_some());
                    one.next()
                }
                _ => port2.try_iter().next(),
            };
            taken.push(event.expect("as many as were posted").bytes()[0]);
        }
        assert_eq!(taken, (0..40).collect::<Vec<u8>>(), "round {round}");
        assert!(one.next().is_none() && other.next().is_none());
    }
}

/// The messages of a port that was started are events, also those that were copied before.
#[test]
fn an_iterator_takes_nothing_while_its_port_is_started() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    for number in 0..8u8 {
        port1.post_bytes(&[number]).expect("room");
    }
    let mut batch = port2.try_iter();
    let mut next = || batch.next().map(|event| event.bytes()[0]);
    assert_eq!((next(), next()), (Some(0), Some(1)));
    for taken in [2, 4] {
        port2.start();
        assert_eq!((next(), next()), (None, None));
        let event = port2.receive_message().expect("open").expect("the next one");
        assert_eq!(event.bytes(), [taken]);
        port2.stop();
        assert_eq!(next(), Some(taken + 1));
    }
    assert_eq!((next(), next(), next()), (Some(6), Some(7), None));
}
