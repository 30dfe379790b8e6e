//! Records that say small buffers are in them, where something else is.

use crate::common::messages::Rng;
use crate::common::region::{SMALL, record, tail};
use crate::common::{receive, receive_end};
use crate::{CAPACITY, IN, Pair, assert_alive, assert_broken};
use messageport::{Buffer, CloseReason, MessageEvent, MessagePort};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;
use std::time::Duration;

const BYTES: u64 = 1;
/// What the victim's error says about each.
const SAYS: [&str; 2] = ["small buffer", "header"];

/// Posts a message of `bytes`, of which the last `len` are those of `count` small buffers.
fn post(pair: &mut Pair, bytes: &[u8], count: u64, len: u64) {
    let at = pair.region.area(IN, pair.tail % CAPACITY);
    for (number, eight) in bytes.chunks(8).enumerate() {
        let mut word = [0; 8];
        word[..eight.len()].copy_from_slice(eight);
        let place = pair.region.word(at + 16 + 8 * number);
        place.store(u64::from_le_bytes(word), Relaxed);
    }
    let header = record(bytes.len() as u64, SMALL, BYTES);
    pair.raw_record(header, count << 32 | len, 16 + bytes.len().next_multiple_of(16));
}

/// A message, small buffers, and what is said about the length of each.
fn payload(message: &[u8], buffers: &[&[u8]], lens: &[u32]) -> (Vec<u8>, u64) {
    let mut bytes = [message, &buffers.concat()].concat();
    lens.iter().for_each(|len| bytes.extend(len.to_le_bytes()));
    let len = bytes.len() - message.len();
    (bytes, len as u64)
}

#[test]
fn small_buffers_that_a_hostile_peer_writes_as_they_should_be_arrive() {
    let mut pair = Pair::new();
    assert_alive(&mut pair, 0);
    let large = [7; 4096];
    let (bytes, len) = payload(b"message", &[b"one", b"", &large], &[3, 0, 4096]);
    post(&mut pair, &bytes, 3, len);
    let event = receive(&pair.victim);
    assert_eq!(event.bytes(), b"message");
    let taken = event.take_buffers().expect("three");
    assert_eq!(
        taken.iter().map(|buffer| &buffer[..]).collect::<Vec<_>>(),
        [b"one", &b""[..], &large]
    );
    drop(event);
    assert_alive(&mut pair, 1);
}

#[test]
fn small_buffers_that_do_not_fit_their_record_end_the_port() {
    let of = |buffers: &[&[u8]], lens: &[u32]| payload(b"message", buffers, lens);
    let large = [7; 4097];
    let right = of(&[b"one", b"two"], &[3, 3]);
    let total = right.0.len() as u64;
    let cases = [
        ("none", right.clone(), 0),
        ("more than a list has", right.clone(), 65),
        ("as many as fit a word", right.clone(), u32::MAX.into()),
        ("one less", right.clone(), 1),
        ("one more", right.clone(), 3),
        ("no bytes for the lengths", (right.0.clone(), 7), 2),
        ("more bytes than the record has", (right.0.clone(), total + 1), 2),
        ("any number of bytes", (right.0.clone(), u32::MAX.into()), 2),
        ("a part of the message as well", (right.0.clone(), total - 1), 2),
        ("a length too many", of(&[b"one", b"two"], &[3, 3, 0]), 2),
        ("too short a length", of(&[b"one", b"two"], &[3, 2]), 2),
        ("too long a length", of(&[b"one", b"two"], &[3, 4]), 2),
        ("lengths that wrap", of(&[b"one", b"two"], &[u32::MAX, 7]), 2),
        ("a length up to the lengths", of(&[b"one", b"two"], &[14, 0]), 2),
        ("a buffer that is not small", of(&[&large], &[4097]), 1),
        ("bytes of no buffer", of(&[&large, &large], &[4096, 4096]), 2),
    ];
    for (what, (bytes, len), count) in cases {
        for is_discarded in [false, true] {
            let mut pair = Pair::new();
            assert_alive(&mut pair, 0);
            post(&mut pair, &bytes, count, len);
            if is_discarded && pair.victim.discard_next().is_ok() {
                // Nothing of it was looked at, and the record has its length.
                assert_alive(&mut pair, 1);
                continue;
            }
            let CloseReason::Corrupt(found) = receive_end(&pair.victim) else { panic!("{what}") };
            let text = found.to_string();
            assert!(SAYS.iter().any(|says| text.contains(says)), "{what}: {text}");
            assert_broken(&pair.victim, what);
        }
    }
}

#[test]
fn a_record_with_small_buffers_behind_the_tail_is_not_read() {
    let mut pair = Pair::new();
    let (bytes, len) = payload(b"", &[b"one"], &[3]);
    let before = pair.tail as u64;
    post(&mut pair, &bytes, 1, len);
    // Half of it: a sender that dies has not published that.
    pair.region.word(tail(IN)).store(before + 16, SeqCst);
    assert_broken(&pair.victim, "a record that is cut");
}

/// Takes the next message in one of the ways in which a program can, and all of its buffers.
fn take(victim: &MessagePort, way: u64) -> Option<Vec<Buffer>> {
    let of_event = |event: MessageEvent<'_>| {
        assert!(event.bytes().iter().all(is_ours), "a byte of the lengths");
        event.take_buffers().expect("as many as were said")
    };
    let taken = match way {
        0 => victim.try_recv().ok()?.map(of_event),
        1 => victim.try_iter().next().map(of_event),
        2 => victim.recv().ok().map(of_event),
        3 => {
            let copy = victim.peek_message().ok()??;
            assert!(copy.bytes().len() <= CAPACITY && copy.take_buffer().is_err());
            victim.try_recv().ok()?.map(of_event)
        }
        4 => {
            assert!(victim.peek().ok()??.len() <= CAPACITY);
            victim.discard_next().ok()?.then(Vec::new)
        }
        _ => victim.try_recv().ok()?.map(|event| {
            let message = event.into_message();
            assert!(message.bytes().iter().all(is_ours), "a byte of the lengths");
            message.take_buffers().expect("as many as were said")
        }),
    };
    Some(taken.unwrap_or_default())
}

/// What the bytes of messages and of buffers are.
const MARKS: [u8; 2] = [7, 9];

fn is_ours(byte: &u8) -> bool {
    MARKS.contains(byte)
}

/// Says so when it is dropped, by a panic as well.
struct Over<'e>(&'e AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// The lengths in the payload are copied before they are compared, and used from the copy.
#[test]
fn lengths_of_small_buffers_that_change_while_they_are_read_end_the_port_at_worst() {
    for round in 0..600 {
        let mut pair = Pair::new();
        let mut rng = Rng(round);
        // Beyond the messages that are copied at once, and in chunks.
        let message = vec![MARKS[0]; [0, 5, 300, 40_000][round as usize % 4]];
        let count = 1 + rng.below(64) as usize;
        let buffers: Vec<_> = (0..count).map(|_| vec![MARKS[1]; rng.below(200) as usize]).collect();
        let slices: Vec<_> = buffers.iter().map(Vec::as_slice).collect();
        let lens: Vec<_> = buffers.iter().map(|buffer| buffer.len() as u32).collect();
        let (bytes, len) = payload(&message, &slices, &lens);
        let at = pair.region.area(IN, 0) + 16 + bytes.len();
        let end = AtomicBool::new(false);
        post(&mut pair, &bytes, count as u64, len);
        let (region, victim) = (&pair.region, &pair.victim);
        let taken = thread::scope(|scope| {
            scope.spawn(|| {
                while !end.load(Relaxed) {
                    // The last word of the lengths, and the one of the header that counts them.
                    let word = region.word((at - 4) / 8 * 8);
                    let honest = word.load(Relaxed);
                    word.store(honest ^ 1 << rng.below(64), Relaxed);
                    let detail = region.word(region.area(IN, 0) + 8);
                    let honest_detail = detail.load(Relaxed);
                    detail.store(honest_detail ^ 1 << rng.below(64), Relaxed);
                    rng.dawdle(Duration::from_nanos(300));
                    word.store(honest, Relaxed);
                    detail.store(honest_detail, Relaxed);
                    rng.dawdle(Duration::from_nanos(300));
                }
            });
            let _over = Over(&end);
            take(victim, round % 6)
        });
        match taken {
            Some(buffers) => {
                assert!(buffers.len() <= 64);
                assert!(buffers.iter().all(|buffer| buffer.len() <= 4096));
            }
            None => assert_broken(&pair.victim, "lengths that change"),
        }
    }
}
