//! A peer that breaks every rule: the worst it can do is end the conversation. No panic, no hang,
//! no signal; each answer is a message or one end that stays.

#[path = "hostile/chaos.rs"]
mod chaos;
mod common;
#[path = "hostile/ends.rs"]
mod ends;
#[path = "hostile/modes.rs"]
mod modes;
#[path = "hostile/rig/mod.rs"]
mod rig;
#[path = "hostile/scribble.rs"]
mod scribble;
#[cfg(any(feature = "tokio", feature = "async-io"))]
#[path = "hostile/tasks.rs"]
mod tasks;

use common::messages::{Order, Rng, Stream};
use common::region::{self, CLOSED, DROPPED, JUMP, MESSAGE, PADDING, Region, record};
use common::watchdog::watch;
use common::{DEADLINE, receive, receive_end, receive_text, refusal};
use messageport::{CloseReason, MessageChannel, MessageEvent, MessagePort, PostError, RecvError};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use scribble::{Aim, scribble};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;
use std::time::Duration;

/// Lane of the victim's posts, and of its peer's.
const OUT: usize = 0;
const IN: usize = 1;
const LIMIT: usize = 64 << 10;

/// A victim, and what its peer can reach of it: all of the region, through a mapping of its own.
struct Pair {
    victim: MessagePort,
    peer: MessagePort,
    region: Region,
}

fn pair() -> Pair {
    let channel = MessageChannel::builder().capacity(4096).limit(LIMIT).build();
    let MessageChannel { port1, port2 } = channel.expect("a channel");
    let region = Region::of(&port1);
    Pair { victim: port1, peer: port2, region }
}

fn is_corrupt(reason: CloseReason) -> bool {
    matches!(reason, CloseReason::Corrupt(_))
}

/// The port has ended as corrupt, in both directions, and stays so.
#[track_caller]
fn assert_broken(victim: &MessagePort) {
    let reason = receive_end(victim);
    assert!(is_corrupt(reason), "{reason:?}");
    for _ in 0..3 {
        assert_eq!(refusal(victim.post_text("after the end")), reason);
        assert_eq!(refusal(victim.post_text_timeout("after the end", DEADLINE)), reason);
        assert_eq!(refusal(victim.loan(10).map(drop)), reason);
    }
    assert!(victim.is_closed());
}

/// Looks at a message as closely as its receiver can; what is found does not matter.
fn examine(event: &MessageEvent<'_>) {
    let sum = event.bytes().iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    std::hint::black_box(sum);
    let _ = std::hint::black_box(event.text().map(str::len));
    let _ = std::hint::black_box(event.data::<Order>().map(|order| order.body.len()));
    let _ = std::hint::black_box(event.deserialize::<Vec<String>>().map(|words| words.len()));
}

/// What a scope's thread goes on until; set as well when the test fails meanwhile.
struct Stop(AtomicBool);

impl Stop {
    const fn new() -> Stop {
        Stop(AtomicBool::new(false))
    }

    fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// Sets it when the answer is dropped.
    fn at_end(&self) -> SetAtEnd<'_> {
        SetAtEnd(&self.0)
    }
}

struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

// Cursors.

/// What no tail or head can be, whatever was posted before up to `position`.
fn impossible(position: u64) -> [u64; 8] {
    [
        position + 3,
        position + 8,
        position + LIMIT as u64 + 16,
        position + (1 << 40),
        position.wrapping_sub(16),
        position.wrapping_add(1 << 63),
        u64::MAX,
        u64::MAX - 15,
    ]
}

#[test]
fn f28_an_impossible_tail_ends_the_port() {
    for received in [0, 1, 300] {
        for index in 0..8 {
            let Pair { victim, peer, region } = pair();
            for _ in 0..received {
                peer.post_text("an honest message").expect("room");
                assert_eq!(receive_text(&victim), "an honest message");
            }
            let honest = region.word(region::tail(IN)).load(SeqCst);
            region.word(region::tail(IN)).store(impossible(honest)[index], SeqCst);
            assert_broken(&victim);
            region.word(region::tail(IN)).store(honest, SeqCst);
            assert_broken(&victim);
        }
    }
}

#[test]
fn f28_an_impossible_head_ends_the_port() {
    for index in 0..8 {
        let Pair { victim, peer, region } = pair();
        for _ in 0..300 {
            victim.post_text("an honest message").expect("room");
            assert_eq!(receive_text(&peer), "an honest message");
        }
        let honest = region.word(region::head(OUT)).load(SeqCst);
        assert_eq!(victim.backlog().bytes, 0, "the victim knows the honest head");
        // The victim learns of it when it needs room, and before it says that there is none.
        let refused = (0..10_000)
            .find_map(|_| {
                region.word(region::head(OUT)).store(impossible(honest)[index], SeqCst);
                victim.post_text("an honest message").err()
            })
            .expect("an answer");
        assert!(is_corrupt(refusal(Err(refused))), "head {:#x}", impossible(honest)[index]);
        assert_broken(&victim);
        region.word(region::head(OUT)).store(honest, SeqCst);
        assert_broken(&victim);
    }
}

#[test]
fn f28_a_head_that_moves_back_and_forth_never_lets_a_post_overwrite_or_hang() {
    let Pair { victim, peer: _peer, region } = pair();
    let mut rng = Rng(5);
    let refused = (0..100_000)
        .find_map(|_| {
            let tail = region.word(region::tail(OUT)).load(SeqCst);
            let head = tail.wrapping_sub(rng.below(LIMIT as u64 / 16) * 16);
            region.word(region::head(OUT)).store(head, SeqCst);
            match victim.post_bytes(&[7; 700]) {
                Ok(()) | Err(PostError::QueueFull { .. }) => None,
                Err(error) => Some(error),
            }
        })
        .expect("a head that goes back is noticed");
    assert!(is_corrupt(refusal(Err(refused))));
    assert_broken(&victim);
}

// Records.

/// Puts records at the front of the victim's lane, each with its length in the ring.
fn forge(region: &Region, records: &[(u64, u64, usize)]) {
    let mut offset = 0;
    for (header, detail, len) in records {
        region.write_record(region.area(IN, offset), *header, *detail);
        offset += len;
    }
    region.word(region::tail(IN)).store(offset as u64, SeqCst);
}

#[test]
fn f28_a_record_that_no_program_writes_ends_the_port() {
    let segments = 5;
    let records: [(&str, u64, u64, usize); 22] = [
        ("nothing", 0, 0, 16),
        ("an unknown kind", record(0, 7, 0), 0, 16),
        ("a pool without a packet", record(0, 6, 0), 0, 16),
        ("a pool whose packet never came", record(0, 6, 0) | 1 << 48, 0, 16),
        ("too many descriptors", record(0, MESSAGE, 0) | 254 << 48, 0, 16),
        ("the highest kind", record(0, 255, 0), 0, 16),
        ("an unknown format", record(0, MESSAGE, 4), 0, 16),
        ("a packet that never came", record(0, MESSAGE, 0) | 1 << 48, 0, 16),
        ("a detail", record(0, MESSAGE, 0), 1, 16),
        ("a length beyond the tail", record(17, MESSAGE, 1), 0, 32),
        ("a length just beyond the segment", record(4096 - 15, MESSAGE, 1), 0, 8192),
        ("a length beyond the limit", record(LIMIT as u64, MESSAGE, 1), 0, LIMIT - 32),
        ("the greatest length", record(u32::MAX as u64, MESSAGE, 1), 0, LIMIT - 32),
        ("the greatest length but 15", record(u32::MAX as u64 - 15, MESSAGE, 1), 0, LIMIT - 32),
        ("padding that ends too early", record(16, PADDING, 0), 0, 32),
        ("padding that ends too late", record(8192 - 16, PADDING, 0), 0, 8192),
        ("padding beyond the tail", record(4096 - 16, PADDING, 0), 0, 16),
        ("a jump to itself", record(0, JUMP, 0), 0, 16),
        ("a jump beyond the last", record(0, JUMP, 0), segments, 16),
        ("a jump far away", record(0, JUMP, 0), u64::MAX, 16),
        ("a jump with a length", record(16, JUMP, 0), 1, 32),
        ("the close record of older versions", record(0, 4, 0), 1, 16),
    ];
    for (what, header, detail, len) in records {
        let Pair { victim, peer: _peer, region } = pair();
        forge(&region, &[(record(4, MESSAGE, 1), 0, 32), (header, detail, len)]);
        let text = format!("{:?}", receive(&victim));
        assert!(text.contains("Bytes"), "before {what}: {text}");
        let reason = receive_end(&victim);
        assert!(is_corrupt(reason), "{what}: {reason:?}");
        assert_broken(&victim);
    }
}

#[test]
fn f52_endless_control_records_end_the_port() {
    let Pair { victim, peer: _peer, region } = pair();
    // A jump to the next segment and one back, for ever.
    let there = (record(0, JUMP, 0), 1);
    region.write_record(region.area(IN, 0), there.0, there.1);
    region.write_record(region.area(IN, 4096), record(0, JUMP, 0), 0);
    for count in 1..100 {
        region.word(region::tail(IN)).store(16 * count, SeqCst);
        match victim.try_recv() {
            Ok(None) => assert!(count <= 8, "{count} control records were followed"),
            Ok(Some(event)) => panic!("a message out of nothing: {event:?}"),
            Err(_) => break,
        }
    }
    assert_broken(&victim);
}

#[test]
fn f52_many_control_records_at_once_end_the_port() {
    let Pair { victim, peer: _peer, region } = pair();
    region.write_record(region.area(IN, 0), record(0, JUMP, 0), 1);
    region.write_record(region.area(IN, 4096), record(0, JUMP, 0), 0);
    region.word(region::tail(IN)).store(LIMIT as u64, SeqCst);
    assert_broken(&victim);
}

#[test]
fn a_forged_close_ends_the_port_once_and_for_all() {
    for (code, expected) in [(CLOSED, CloseReason::PeerClosed), (DROPPED, CloseReason::PeerDropped)]
    {
        let Pair { victim, peer, region } = pair();
        region.word(region::tail(IN)).store(code, SeqCst);
        assert_eq!(receive_end(&victim), expected);
        // More after it, by a peer that does not care.
        forge(&region, &[(record(4, MESSAGE, 1), 0, 32)]);
        assert_eq!(receive_end(&victim), expected);
        drop(peer);
        assert_eq!(receive_end(&victim), expected);
    }
}

// Flags.

#[test]
fn a_reader_that_has_left_does_not_come_back() {
    let codes = [
        (1, CloseReason::PeerClosed),
        (2, CloseReason::PeerDropped),
        (77, CloseReason::PeerDropped),
    ];
    for (code, expected) in codes {
        let Pair { victim, peer: _peer, region } = pair();
        victim.post_text("before").expect("room");
        region.half_word(region::reader_gone(OUT)).store(code, SeqCst);
        assert_eq!(refusal(victim.post_text("after")), expected);
        region.half_word(region::reader_gone(OUT)).store(0, SeqCst);
        assert_eq!(refusal(victim.post_text("later")), expected, "a closed port stays closed");
    }
}

#[test]
fn f26_a_wrong_flag_costs_wake_ups_and_nothing_else() {
    let Pair { victim, peer, region } = pair();
    for value in [0, 1, 2, 3, 0x8000_0000, u32::MAX] {
        for flag in [region::message_sleeper(OUT), region::room_sleeper(IN)] {
            region.half_word(flag).store(value, SeqCst);
            victim.post_text("there").expect("room");
            assert_eq!(receive_text(&peer), "there");
            peer.post_text("back").expect("room");
            assert_eq!(receive_text(&victim), "back");
        }
    }
    // The flag of a sleeper is taken away, and it is never woken: its deadline still holds.
    let stop = Stop::new();
    thread::scope(|scope| {
        let _at_end = stop.at_end();
        scope.spawn(|| {
            while !stop.is_set() {
                region.half_word(region::message_sleeper(IN)).store(0, SeqCst);
            }
        });
        let answer = victim.recv_timeout(Duration::from_millis(5)).map(|event| event.format());
        assert!(matches!(answer, Err(RecvError::Timeout)), "{answer:?}");
    });
}

#[test]
fn f27_a_doorbell_that_is_never_answered_does_not_block_a_post() {
    let _watch = watch("f27_a_doorbell_that_is_never_answered_does_not_block_a_post");
    let Pair { victim, peer, region } = pair();
    let bell = UnixStream::from(peer.as_fd().try_clone_to_owned().expect("a descriptor"));
    bell.set_nonblocking(false).expect("a flag of the peer's own end");
    for number in 0..5000u32 {
        // As if the peer slept again each time: every post rings, and the bell is soon full.
        region.half_word(region::message_sleeper(OUT)).store(2, SeqCst);
        victim.post_message(&number).expect("room");
        assert_eq!(receive(&peer).deserialize::<u32>().expect("a number"), number);
    }
}

// What was received.

#[test]
fn f29_a_received_message_does_not_change_while_the_peer_writes() {
    let Pair { victim, peer, region } = pair();
    let stream = Stream { seed: 29 };
    let numbers: Vec<u64> = (0..).filter(|n| stream.message(*n).len() < 20_000).take(20).collect();
    let mut events = Vec::new();
    for number in &numbers {
        stream.post(&peer, *number).expect("room");
        events.push(receive(&victim));
    }
    let stop = Stop::new();
    thread::scope(|scope| {
        let _at_end = stop.at_end();
        scope.spawn(|| {
            let mut rng = Rng(29);
            while !stop.is_set() {
                scribble(&region, Aim::Everything, &mut rng);
            }
        });
        for _ in 0..100 {
            for (event, number) in events.iter().zip(&numbers) {
                stream.check(event, *number);
            }
        }
    });
}

#[test]
fn f30_a_region_cannot_be_cut_off_or_sealed_by_the_peer() {
    let Pair { victim, peer, region } = pair();
    let refused = |answer: std::io::Result<()>| {
        assert_eq!(answer.expect_err("a sealed region").raw_os_error(), Some(libc::EPERM));
    };
    refused(region.file.set_len(0));
    refused(region.file.set_len(4096));
    refused(region.file.set_len(region.len() as u64 + 4096));
    for seal in [SealFlag::F_SEAL_WRITE, SealFlag::F_SEAL_FUTURE_WRITE, SealFlag::F_SEAL_SEAL] {
        refused(fcntl(&region.file, FcntlArg::F_ADD_SEALS(seal)).map(drop).map_err(Into::into));
    }
    peer.post_text("unharmed").expect("room");
    assert_eq!(receive_text(&victim), "unharmed");
}
