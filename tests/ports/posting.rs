//! Messages of all kinds and sizes, and posts that fail.

use super::{assert_empty, assert_works, bounded, channel};
use crate::common::messages::{Rng, Stream};
use crate::common::watchdog::{progress, watch};
use crate::common::{receive, receive_text};
use messageport::{Format, MessageChannel, MessageError, MessageEvent, PostError};
use std::collections::VecDeque;

#[test]
fn a_message_is_read_as_what_it_was_posted_as() {
    let MessageChannel { port1, port2 } = channel();
    port1.post_text("text").expect("room");
    port1.post_bytes(b"bytes").expect("room");
    port1.post_message(&"archive".to_string()).expect("room");
    let [text, bytes, archive] = [(); 3].map(|()| receive(&port2));
    assert_eq!(
        [text.format(), bytes.format(), archive.format()],
        [Format::Text, Format::Bytes, Format::Archive]
    );
    assert_eq!(text.text().expect("a text"), "text");
    assert_eq!((text.bytes(), bytes.bytes()), (&b"text"[..], &b"bytes"[..]));
    assert_eq!(archive.data::<String>().expect("an archive").as_str(), "archive");
    for event in [&text, &bytes] {
        let error = event.data::<String>().expect_err("no archive");
        assert!(matches!(error, MessageError::Format { .. }), "{error}");
        let error = event.deserialize::<u64>().expect_err("no archive");
        assert!(matches!(error, MessageError::Format { .. }), "{error}");
    }
    for event in [&archive, &bytes] {
        let error = event.text().expect_err("no text");
        assert!(matches!(error, MessageError::Format { .. }), "{error}");
    }
}

#[test]
fn a_message_of_another_type_is_an_error_and_the_port_lives() {
    let MessageChannel { port1, port2 } = channel();
    port1.post_message(&7u8).expect("room");
    port1.post_message(&u32::MAX).expect("room");
    let error = receive(&port2).deserialize::<Vec<String>>().expect_err("one byte");
    assert!(matches!(error, MessageError::Invalid { .. }), "{error}");
    let error = receive(&port2).deserialize::<char>().expect_err("no character");
    assert!(error.to_string().contains("char"), "{error}");
    assert_works(&port1, &port2);
}

/// Short messages are copied in by blocks, longer ones otherwise: each length around and below the
/// border, from each alignment of the sender's bytes, and nothing of the message before.
#[test]
fn every_short_length_arrives_whole_from_every_alignment() {
    let MessageChannel { port1, port2 } = channel();
    let pattern: Vec<u8> = (0..600u32).map(|index| (index % 251) as u8).collect();
    for len in 0..=300 {
        for offset in 0..16 {
            let sent = &pattern[offset..offset + len];
            port1.post_bytes(&vec![0xff; len + 16]).expect("room");
            port1.post_bytes(sent).expect("room");
            drop(receive(&port2));
            assert_eq!(receive(&port2).bytes(), sent, "{len} bytes from offset {offset}");
        }
    }
}

/// Very long messages are copied in by lines: lengths around the border, and rests of every kind.
#[test]
fn every_very_long_length_arrives_whole_from_every_alignment() {
    let MessageChannel { port1, port2 } = channel();
    let border = 512 << 10;
    let pattern: Vec<u8> = (0..border as u32 + 300).map(|index| (index % 251) as u8).collect();
    for (step, len) in (border - 2..border + 130).enumerate() {
        let offset = step % 16;
        let sent = &pattern[offset..offset + len];
        port1.post_bytes(&vec![0xff; len + 16]).expect("room");
        port1.post_bytes(sent).expect("room");
        drop(receive(&port2));
        assert!(receive(&port2).bytes() == sent, "{len} bytes from offset {offset}");
    }
}

#[test]
fn payloads_are_aligned_for_every_type() {
    let MessageChannel { port1, port2 } = channel();
    // SAFETY: the other end is in this very function.
    #[allow(unsafe_code)]
    for trusted in [false, true] {
        if trusted {
            // SAFETY: the other end is in this very function.
            unsafe { port2.trust_peer() };
        }
        for count in 0..100u128 {
            let numbers: Vec<u128> = (0..count).map(|number| number << 77).collect();
            port1.post_bytes(&vec![0; count as usize]).expect("room");
            port1.post_message(&numbers).expect("room");
            assert_eq!(receive(&port2).bytes().as_ptr().addr() % 16, 0);
            assert_eq!(receive(&port2).deserialize::<Vec<u128>>().expect("numbers"), numbers);
        }
    }
}

/// Its archive takes eight bytes, and points to where elements of 16 bytes would begin.
#[test]
fn an_empty_vector_of_long_numbers_is_aligned_wherever_it_is() {
    let MessageChannel { port1, port2 } = channel();
    #[allow(unsafe_code)]
    for trusted in [false, true] {
        if trusted {
            // SAFETY: the other end is in this very function.
            unsafe { port2.trust_peer() };
        }
        let none: Vec<u128> = Vec::new();
        let post = || (0..40).for_each(|_| port1.post_message(&none).expect("room"));
        let is_empty = |event: &MessageEvent<'_>| {
            let numbers = event.data::<Vec<u128>>().expect("an empty vector");
            numbers.is_empty()
        };
        post();
        let held: Vec<_> = (0..40).map(|_| receive(&port2)).collect();
        assert!(held.iter().all(is_empty));
        post();
        assert_eq!(port2.try_iter().filter(is_empty).count(), 40);
    }
}

#[test]
fn typed_messages_arrive_whatever_length_was_guessed_for_them() {
    let _watch = watch("typed_messages_arrive_whatever_length_was_guessed_for_them");
    // Around the first guess, its multiples, a segment and its half, and some that grow the lane.
    let lens = [0, 1, 7, 8, 200, 250, 256, 300, 500, 511, 512, 513, 2047, 2048, 4090, 32_000];
    let larger = [32_760, 65_500, 65_536, 65_600, 131_000, 300_000];
    for first in lens.iter().chain(&larger) {
        let MessageChannel { port1, port2 } = channel();
        for second in lens.iter().chain(&larger).chain([first]) {
            let value = (*second as u64, "v".repeat(*first), vec![*second as u16; *second / 2]);
            port1.post_message(&value).expect("room");
            let event = receive(&port2);
            let found = event.data::<(u64, String, Vec<u16>)>().expect("the value");
            assert_eq!(found.0, value.0);
            assert_eq!(found.1.as_str(), value.1);
            assert_eq!(found.2.len(), value.2.len());
            assert!(found.2.iter().all(|word| *word == *second as u16));
            progress();
        }
    }
}

#[test]
fn typed_messages_arrive_from_every_place_in_a_segment() {
    let MessageChannel { port1, port2 } = bounded();
    // Each is 16 bytes further than the one before, so that the rest before the segment's end has
    // every length; and most do not fit what is left there.
    for number in 0..2000usize {
        let value = vec![number as u32; 16 + number % 100 * 4];
        port1.post_message(&value).expect("room");
        assert_eq!(receive(&port2).deserialize::<Vec<u32>>().expect("numbers"), value);
    }
}

#[test]
fn f49_the_largest_message_fits_again_and_again_and_a_larger_one_never() {
    let shapes = [(4096, 4096), (4096, 8192), (4096, 65_536), (65_536, 1 << 20)];
    for (capacity, limit) in shapes {
        let builder = MessageChannel::builder().capacity(capacity).limit(limit);
        let MessageChannel { port1, port2 } = builder.build().expect("a channel");
        let most = port1.max_message_len();
        for round in 0..50usize {
            let error = port1.post_bytes(&vec![0; most + 1]).expect_err("too large");
            let PostError::TooLarge { len, max } = error else { panic!("{error}") };
            assert_eq!((len, max), (most as u64 + 1, most as u64));
            // A message this large may have to wait until the receiver has looked again.
            let message = vec![round as u8; most - round * 16];
            let posted = (0..3).any(|_| {
                let posted = port1.post_bytes(&message).is_ok();
                if !posted {
                    assert_empty(&port2);
                }
                posted
            });
            assert!(posted, "{} of {most} bytes in an empty lane: {port1:#?}", message.len());
            assert_eq!(receive(&port2).bytes(), message);
            // A small one in between, so that the next one starts elsewhere.
            port1.post_bytes(&message[..round * 7]).expect("room");
            assert_eq!(receive(&port2).bytes(), &message[..round * 7]);
        }
    }
}

#[test]
fn a_full_queue_refuses_and_loses_nothing() {
    let MessageChannel { port1, port2 } = bounded();
    for round in 0..20u64 {
        let mut posted = 0u64;
        let error = loop {
            match port1.post_message(&(round, posted, [0u8; 400])) {
                Ok(()) => posted += 1,
                Err(error) => break error,
            }
        };
        let PostError::QueueFull { len, unread, limit, .. } = error else { panic!("{error}") };
        assert!(len >= 400 && unread > limit - 2 * len && unread <= limit && limit == 4096);
        for number in 0..posted {
            let event = receive(&port2);
            let found = event.deserialize::<(u64, u64, [u8; 400])>().expect("the message");
            assert_eq!((found.0, found.1), (round, number));
        }
        assert_empty(&port2);
    }
}

/// What the model below expects next.
type Expected = VecDeque<(Format, Vec<u8>)>;

/// Every way to post, and every way to fail at it. What was accepted goes to `expected`.
fn act(port: &messageport::MessagePort, rng: &mut Rng, expected: &mut Expected) {
    let most = [40, 400, 4000, 40_000][rng.below(4) as usize];
    let bytes = vec![rng.next() as u8 | 1; rng.below(most) as usize];
    let (format, answer) = match rng.below(9) {
        0 => (Format::Bytes, port.post_bytes(&bytes)),
        1 => {
            let text = "t".repeat(bytes.len());
            let answer = port.post_text(&text);
            if answer.is_ok() {
                expected.push_back((Format::Text, text.into_bytes()));
            }
            return;
        }
        2 => (Format::Bytes, port.post_bytes_timeout(&bytes, std::time::Duration::ZERO)),
        3 => {
            let loan = port.loan(bytes.len()).and_then(|mut loan| {
                loan.copy_from_slice(&bytes);
                loan.post()
            });
            (Format::Bytes, loan)
        }
        4 => {
            // Begun and given up.
            if let Ok(mut loan) = port.loan(bytes.len()) {
                loan.fill(0xee);
            }
            return;
        }
        5 => {
            let burst = port.burst();
            let answer = burst.stage_bytes(&bytes);
            if rng.below(2) == 0 {
                std::mem::forget(burst);
            }
            (Format::Bytes, answer)
        }
        6 => {
            let error = port.post_message(&super::serializing::Failing { after: bytes.len() });
            assert!(error.is_err());
            return;
        }
        7 => {
            let error = port.post_bytes(&vec![0; port.max_message_len() + 1 + bytes.len()]);
            assert!(matches!(error, Err(PostError::TooLarge { .. })));
            return;
        }
        _ => {
            let _ = port.trim();
            return;
        }
    };
    match answer {
        Ok(()) => expected.push_back((format, bytes)),
        Err(PostError::QueueFull { .. } | PostError::Timeout) => {}
        Err(error) => panic!("{error}\n{port:#?}"),
    }
}

#[test]
#[allow(unsafe_code)]
fn f58_posts_that_fail_leave_no_trace() {
    let _watch = watch("f58_posts_that_fail_leave_no_trace");
    for seed in 0..12 {
        let channel = MessageChannel::builder().capacity(4096).limit(128 << 10).build();
        let MessageChannel { port1, port2 } = channel.expect("a channel");
        let mut rng = Rng(seed);
        if seed % 2 == 1 {
            // SAFETY: both ends are in this very function.
            unsafe { port1.trust_peer() };
            // SAFETY: the same.
            unsafe { port2.trust_peer() };
        }
        let mut expected = Expected::new();
        for _ in 0..1500 {
            act(&port1, &mut rng, &mut expected);
            for _ in 0..rng.below(3) * rng.below(8) {
                let Some(event) = port2.try_recv().expect("an open port") else { break };
                let (format, bytes) = expected.pop_front().expect("something was posted");
                assert_eq!((event.format(), event.bytes()), (format, &bytes[..]));
            }
            progress();
        }
        drop(port1);
        for event in &port2 {
            let (format, bytes) = expected.pop_front().expect("something was posted");
            assert_eq!((event.format(), event.bytes()), (format, &bytes[..]));
        }
        assert!(expected.is_empty(), "{} messages were lost", expected.len());
    }
}

#[test]
fn events_may_be_kept_while_the_ring_goes_round() {
    let MessageChannel { port1, port2 } = bounded();
    let stream = Stream { seed: 3 };
    let numbers: Vec<u64> = (0..).filter(|n| stream.message(*n).len() < 1900).take(300).collect();
    let mut kept = Vec::new();
    for number in &numbers {
        stream.post(&port1, *number).expect("room, as copies keep none");
        kept.push(receive(&port2));
    }
    for (event, number) in kept.iter().zip(&numbers) {
        stream.check(event, *number);
    }
    drop(kept);
    assert_eq!(port1.backlog().messages, 0);
    port1.post_text("on").expect("room");
    assert_eq!(receive_text(&port2), "on");
}
