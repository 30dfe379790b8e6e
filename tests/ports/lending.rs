//! Loans, bursts, and messages that are read where they lie.
#![allow(unsafe_code)]

use super::{assert_empty, assert_works, bounded, channel};
use crate::common::limits::sizes;
use crate::common::messages::{Rng, Stream};
use crate::common::role::play;
use crate::common::watchdog::{progress, watch};
use crate::common::{receive, receive_end, receive_text, refusal};
use messageport::{CloseReason, Format, Loan, MessageChannel, PostError};
use std::io::Write;
use std::mem;
use std::thread;
use std::time::Duration;

/// Both ends trust each other.
fn trusted(channel: MessageChannel) -> MessageChannel {
    // SAFETY: both ends are in this process, and nothing else writes to their region.
    unsafe { channel.port1.trust_peer() };
    // SAFETY: the same.
    unsafe { channel.port2.trust_peer() };
    assert!(channel.port1.is_trusted() && channel.port2.is_trusted());
    channel
}

fn both(make: fn() -> MessageChannel) -> [MessageChannel; 2] {
    [make(), trusted(make())]
}

// Loans.

#[test]
fn a_loan_is_posted_as_far_as_it_is_wanted() {
    for MessageChannel { port1, port2 } in both(channel) {
        for len in [0, 1, 100, 10_000, 100_000, 1_000_000] {
            let mut loan = port1.loan(len).expect("room");
            assert_eq!(loan.len(), len);
            loan.fill(9);
            loan.truncate(len + 1);
            assert_eq!(loan.len(), len, "a greater length changes nothing");
            loan.truncate(len * 2 / 3);
            assert!(loan.iter().all(|byte| *byte == 9));
            loan.post().expect("an open port");
            let event = receive(&port2);
            assert_eq!(event.format(), Format::Bytes);
            assert_eq!(event.bytes(), vec![9; len * 2 / 3]);
        }
    }
}

#[test]
fn a_loan_is_written_like_a_file() {
    for MessageChannel { port1, port2 } in both(channel) {
        let mut loan = port1.loan(10).expect("room");
        assert_eq!(loan.write(b"0123456").expect("room in the loan"), 7);
        assert_eq!(loan.write(b"789abc").expect("room in the loan"), 3, "what exceeds it stays");
        assert_eq!(loan.write(b"d").expect("an answer"), 0);
        assert!(loan.write_all(b"d").is_err());
        assert_eq!(loan.written(), 10);
        loan.truncate(8);
        assert_eq!((loan.written(), &loan[..]), (8, &b"01234567"[..]));
        loan[0] = b'x';
        loan.post().expect("an open port");
        assert_eq!(receive(&port2).bytes(), b"x1234567");
    }
}

#[test]
fn a_dropped_loan_posts_nothing_and_costs_no_room() {
    for MessageChannel { port1, port2 } in both(bounded) {
        for _ in 0..100 {
            port1.loan(1500).expect("room").fill(0xee);
            assert_empty(&port2);
        }
        for _ in 0..7 {
            port1.post_bytes(&[1; 500]).expect("all of the room");
        }
        assert!(matches!(port1.loan(500), Err(PostError::QueueFull { .. })));
        assert!(matches!(port1.loan(5000), Err(PostError::TooLarge { .. })));
        assert_eq!((0..7).map(|_| receive(&port2).bytes().len()).sum::<usize>(), 3500);
    }
}

#[test]
fn a_long_loan_gives_its_memory_back_however_it_ends() {
    const TEST: &str = "lending::a_long_loan_gives_its_memory_back_however_it_ends";
    // So long that the C library's allocator never keeps it to itself.
    const LEN: usize = 40 << 20;
    fn alone() {
        let builder = MessageChannel::builder().limit(4 * LEN);
        let MessageChannel { port1, port2 } = builder.build().expect("a channel");
        let touched = |end: fn(Loan<'_>)| {
            let mut loan = port1.loan(LEN).expect("room");
            loan.fill(1);
            let [_, during] = sizes();
            end(loan);
            let [_, after] = sizes();
            assert!(after + LEN as u64 / 2 < during, "it keeps {after} of {during} bytes");
        };
        touched(|loan| drop(loan));
        touched(|mut loan| {
            loan.truncate(10);
            loan.post().expect("an open port");
        });
        assert_eq!(receive(&port2).bytes(), [1; 10]);
    }
    play(TEST, &[("alone", alone)]);
}

#[test]
fn f37_while_a_loan_is_open_nothing_else_is_posted() {
    for MessageChannel { port1, port2 } in both(channel) {
        let mut loan = port1.loan(10).expect("room");
        loan.fill(1);
        assert!(matches!(port1.loan(10), Err(PostError::Busy)));
        assert!(matches!(port1.post_text("no"), Err(PostError::Busy)));
        assert!(matches!(port1.post_message(&1), Err(PostError::Busy)));
        let waiting = port1.post_text_timeout("no", Duration::MAX);
        assert!(matches!(waiting, Err(PostError::Busy)), "{waiting:?}");
        assert!(matches!(port1.burst().stage(&1), Err(PostError::Busy)));
        assert!(matches!(port1.trim(), Err(PostError::Busy)));
        port2.post_text("the other lane is free").expect("room");
        assert_eq!(receive_text(&port1), "the other lane is free");
        loan.post().expect("an open port");
        assert_eq!(receive(&port2).bytes(), [1; 10]);
        assert_works(&port1, &port2);
    }
}

#[test]
fn a_port_closed_under_an_open_loan_takes_it_no_more() {
    for MessageChannel { port1, port2 } in both(channel) {
        port1.post_text("before").expect("room");
        let mut loan = port1.loan(10).expect("room");
        port1.close();
        assert!(port1.is_closed());
        loan.fill(1);
        assert_eq!(refusal(loan.post()), CloseReason::Local);
        assert_eq!(receive_text(&port2), "before");
        assert_eq!(receive_end(&port2), CloseReason::PeerClosed);
    }
}

#[test]
fn a_leaked_loan_keeps_the_port_busy_and_its_drop_is_still_seen() {
    for MessageChannel { port1, port2 } in both(channel) {
        port1.post_text("before").expect("room");
        mem::forget(port1.loan(10).expect("room"));
        assert!(matches!(port1.post_text("no"), Err(PostError::Busy)));
        drop(port1);
        assert_eq!(receive_text(&port2), "before");
        assert_eq!(receive_end(&port2), CloseReason::PeerDropped);
    }
}

// Bursts.

#[test]
fn a_burst_is_seen_all_at_once() {
    let MessageChannel { port1, port2 } = channel();
    let burst = port1.burst();
    for number in 0..50u64 {
        burst.stage(&number).expect("room");
        burst.stage_text("text").expect("room");
        burst.stage_bytes(b"bytes").expect("room");
        assert_empty(&port2);
    }
    burst.commit();
    for number in 0..50u64 {
        assert_eq!(receive(&port2).deserialize::<u64>().expect("a number"), number);
        assert_eq!(receive_text(&port2), "text");
        assert_eq!(receive(&port2).bytes(), b"bytes");
    }
    assert_empty(&port2);
    port1.burst().commit();
    assert_empty(&port2);
}

#[test]
fn a_burst_wakes_its_receiver_once() {
    let _watch = watch("a_burst_wakes_its_receiver_once");
    let MessageChannel { port1, port2 } = channel();
    let receiver = thread::spawn(move || port2.iter().count());
    let region = crate::common::region::Region::of(&port1);
    let flag = region.half_word(crate::common::region::message_sleeper(0));
    crate::common::wait_until("the receiver sleeps", || {
        flag.load(std::sync::atomic::Ordering::SeqCst) != 0
    });
    let burst = port1.burst();
    for number in 0..1000 {
        burst.stage(&number).expect("room");
    }
    burst.commit();
    assert!(port1.stats().sent.wakes <= 1, "{:?}", port1.stats());
    drop(port1);
    assert_eq!(receiver.join().expect("no panic"), 1000);
}

#[test]
fn a_forgotten_burst_is_published_by_whatever_comes_next() {
    let nexts: [fn(&messageport::MessagePort); 5] = [
        |port| port.post_text("next").expect("room"),
        |port| port.burst().commit(),
        |port| drop(port.loan(5).expect("room")),
        |port| drop(port.post_bytes(&vec![0; port.max_message_len() + 1]).expect_err("large")),
        |port| port.close(),
    ];
    for next in nexts {
        let MessageChannel { port1, port2 } = channel();
        let burst = port1.burst();
        burst.stage_text("forgotten").expect("room");
        mem::forget(burst);
        assert_empty(&port2);
        next(&port1);
        assert_eq!(receive_text(&port2), "forgotten");
    }
    let MessageChannel { port1, port2 } = channel();
    let burst = port1.burst();
    burst.stage_text("forgotten").expect("room");
    mem::forget(burst);
    drop(port1);
    assert_eq!(receive_text(&port2), "forgotten");
    assert_eq!(receive_end(&port2), CloseReason::PeerDropped);
}

#[test]
fn a_burst_that_finds_no_room_keeps_what_it_has() {
    let MessageChannel { port1, port2 } = bounded();
    for _ in 0..10 {
        let burst = port1.burst();
        let staged = (0..).find(|_| burst.stage_bytes(&[7; 500]).is_err()).expect("a full lane");
        burst.commit();
        for _ in 0..staged {
            assert_eq!(receive(&port2).bytes(), [7; 500]);
        }
        assert_empty(&port2);
    }
}

// In place.

#[test]
fn f51_a_reader_that_always_holds_a_message_does_not_stop_the_ring() {
    let _watch = watch("f51_a_reader_that_always_holds_a_message_does_not_stop_the_ring");
    let MessageChannel { port1, port2 } = trusted(bounded());
    let poster = thread::spawn(move || {
        for number in 0..20_000u64 {
            port1.post_message_timeout(&(number, [5u8; 100]), Duration::MAX).expect("room");
            progress();
        }
    });
    let mut held = receive(&port2);
    for number in 1..20_000u64 {
        let next = receive(&port2);
        let numbers = [(&held, number - 1), (&next, number)];
        for (event, number) in numbers {
            let found = event.data::<(u64, [u8; 100])>().expect("the message");
            assert_eq!((found.0.to_native(), found.1), (number, [5; 100]));
        }
        held = next;
    }
    drop(held);
    poster.join().expect("no panic");
}

#[test]
fn f51_a_reader_that_holds_a_large_message_gets_the_next_one() {
    let builder = MessageChannel::builder().capacity(4096).limit(8192);
    let MessageChannel { port1, port2 } = trusted(builder.build().expect("a channel"));
    // Each fills most of a segment, so that the two segments are used in turn.
    port1.post_bytes(&[0; 3000]).expect("room");
    let mut held = receive(&port2);
    for number in 1..20u8 {
        let posted = port1.post_bytes(&[number; 3000]);
        assert!(posted.is_ok(), "message {number}: {posted:?}\n{port1:#?}");
        let next = receive(&port2);
        assert_eq!((held.bytes()[2999], next.bytes()[2999]), (number - 1, number));
        held = next;
    }
}

#[test]
fn f51_what_leads_to_a_held_message_is_released_before_it() {
    let builder = MessageChannel::builder().capacity(4096).limit(8192);
    let MessageChannel { port1, port2 } = trusted(builder.build().expect("a channel"));
    port1.post_bytes(&[0; 3000]).expect("room");
    drop(receive(&port2));
    // This one stands in the other segment, behind a jump; the first segment is empty now.
    port1.post_bytes(&[1; 3000]).expect("room");
    let held = receive(&port2);
    let posted = port1.post_bytes(&[2; 3000]);
    assert!(posted.is_ok(), "{posted:?}\n{port1:#?}");
    assert_eq!((held.bytes()[0], receive(&port2).bytes()[0]), (1, 2));
}

#[test]
fn messages_in_place_stay_until_the_oldest_goes() {
    let MessageChannel { port1, port2 } = trusted(bounded());
    for number in 0..7u8 {
        port1.post_bytes(&[number; 500]).expect("room");
    }
    let mut events: Vec<_> = (0..7).map(|_| receive(&port2)).collect();
    // The younger ones go first: the room of all is kept for the oldest.
    for number in (1..7u8).rev() {
        assert_eq!(events.pop().expect("a message").bytes(), [number; 500]);
        assert!(matches!(port1.post_bytes(&[9; 500]), Err(PostError::QueueFull { .. })));
    }
    assert_eq!(events[0].bytes(), [0; 500]);
    assert_eq!(port1.backlog().messages, 7);
    drop(events);
    assert_eq!(port1.backlog().messages, 0);
    // One less than at first, as the end of the segment lies somewhere among them.
    for number in 0..6u8 {
        port1.post_bytes(&[number; 500]).expect("all of the room");
    }
}

#[test]
fn messages_in_place_survive_growth_and_the_ends_of_both_ports() {
    let MessageChannel { port1, port2 } = trusted(channel());
    let stream = Stream { seed: 12 };
    let mut rng = Rng(12);
    for number in 0..400 {
        stream.post(&port1, number).expect("room");
    }
    let mut events: Vec<_> = (0..400).map(|number| (number, receive(&port2))).collect();
    drop(port1);
    assert_eq!(receive_end(&port2), CloseReason::PeerDropped);
    port2.close();
    while !events.is_empty() {
        let (number, event) = events.swap_remove(rng.below(events.len() as u64) as usize);
        stream.check(&event, number);
    }
}

#[test]
fn a_stream_of_all_sizes_is_read_in_place() {
    let _watch = watch("a_stream_of_all_sizes_is_read_in_place");
    let channel = MessageChannel::builder().capacity(8192).limit(1 << 20).build();
    let MessageChannel { port1, port2 } = trusted(channel.expect("a channel"));
    let stream = Stream { seed: 77 };
    let poster = thread::spawn(move || {
        for number in 0..3000 {
            stream.post(&port1, number).expect("room, sooner or later");
        }
    });
    let mut rng = Rng(77);
    let mut held = Vec::new();
    for number in 0..3000 {
        held.push((number, receive(&port2)));
        if held.len() as u64 > rng.below(4) {
            let (number, event) = held.swap_remove(rng.below(held.len() as u64) as usize);
            stream.check(&event, number);
        }
        // More than one fifth of the lane must not be held: some messages need half of it.
        held.retain(|(_, event)| event.bytes().len() < 10_000);
        progress();
    }
    drop(held);
    poster.join().expect("no panic");
}

#[test]
fn an_unchecked_look_finds_the_same_archive() {
    let MessageChannel { port1, port2 } = trusted(channel());
    port1.post_message(&vec!["one".to_string(), "two".to_string()]).expect("room");
    let event = receive(&port2);
    let checked = event.data::<Vec<String>>().expect("an archive");
    // SAFETY: this program has just posted that type.
    let unchecked = unsafe { event.data_unchecked::<Vec<String>>() };
    assert_eq!((checked.len(), unchecked.len()), (2, 2));
    assert_eq!(checked[1].as_str(), unchecked[1].as_str());
}
