//! Ports that are none, or not as they say.

use crate::common::census::Census;
use crate::common::messages::Rng;
use crate::common::parts::{ATTACHMENTS, DOORBELL, EPOCH, PACKETS, Parts, TRUSTED, packet_sockets};
use crate::common::region::{Region, head, tail};
use crate::common::role::play;
use crate::common::watchdog::progress;
use crate::common::{receive, receive_text, wait_until_closed};
use crate::{Entry, Pair, assert_alive, null};
use messageport::{Buffer, CloseReason, MessageChannel, MessageError, MessagePort, RecvError};
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::SeqCst;

/// A small channel: one end whole, the other in parts.
fn parted() -> (MessagePort, Parts) {
    let builder = MessageChannel::builder().capacity(4096).limit(64 << 10).schema(7);
    let MessageChannel { port1, port2 } = builder.build().expect("a channel");
    (port1, Parts::of(port2))
}

/// What the victim says of a port that comes as these parts.
fn offer(pair: &mut Pair, sequence: u64, parts: &Parts) -> Result<MessagePort, MessageError> {
    pair.packet(sequence, &[Entry::Port(parts.capsule())], &parts.borrowed());
    pair.record(3, sequence);
    let event = receive(&pair.victim);
    let taken = event.take_port();
    if !matches!(&taken, Err(MessageError::Port(messageport::AttachError::Io { .. }))) {
        assert_eq!(event.transferred(), (0, 0, 0));
    }
    taken
}

#[test]
fn f42_a_capsule_that_lies_is_refused_and_the_carrier_lives() {
    fn victim() {
        const LIMIT: u64 = 64 << 10;
        let before = Census::take();
        let cases: [(&str, usize, u64, &str); 24] = [
            ("another magic", 0, 1, "no capsule"),
            ("zeros for a version", 1, 0, "layout version"),
            ("another version", 1, 99, "layout version"),
            ("a third side", 1, 12 | 2 << 32, "no capsule"),
            ("no capacity", 3, 0, "capacity"),
            ("a crooked capacity", 3, 5000, "capacity"),
            ("another capacity", 3, 8192, "capacity"),
            ("too small a capacity", 3, 16, "capacity"),
            ("a capacity beyond the limit", 3, 1 << 20, "limit"),
            ("no limit", 4, 0, "limit"),
            ("another limit", 4, 32 << 10, "region length"),
            ("a greater limit", 4, 1 << 30, "region length"),
            ("a limit beyond all", 4, 1 << 60, "limit"),
            ("another schema", 5, 8, "schema"),
            ("a crooked position", 6, 8, "a multiple of"),
            ("a position far ahead", 6, LIMIT + 16, "head"),
            ("a position behind the head", 6, 16u64.wrapping_neg(), "head"),
            ("a crooked entry", 7, 1, "a multiple of"),
            ("a segment too many", 8, 5, "segment"),
            ("a segment far away", 8, u64::MAX, "segment"),
            ("a crooked place to read", 9, 4, "a multiple of"),
            ("a crooked entry to read", 10, 8, "a multiple of"),
            ("a segment too many to read", 11, 5, "segment"),
            ("a segment far away to read", 11, 1 << 32, "segment"),
        ];
        let mut pair = Pair::new();
        let held = Census::take();
        for ((what, index, word, words), sequence) in cases.into_iter().zip(0..) {
            let (far, mut parts) = parted();
            parts.words[index] = word;
            let refused = offer(&mut pair, sequence, &parts).expect_err(what);
            assert!(matches!(refused, MessageError::Port(_)), "{what}: {refused}");
            assert!(refused.to_string().contains(words), "{what}: {refused}");
            drop(parts);
            wait_until_closed(&far);
            drop(far);
            held.wait_for(format_args!("{what}"));
        }
        assert_alive(&mut pair, 24);
        drop(pair);
        before.wait_for("at the end");
    }
    let name = "capsules::f42_a_capsule_that_lies_is_refused_and_the_carrier_lives";
    play(name, &[("victim", victim)]);
}

#[test]
fn f10_a_place_to_read_that_lies_ends_the_port_and_not_the_carrier() {
    let mut pair = Pair::new();
    for (position, sequence) in [(16, 0), (32, 1), (1 << 40, 2), (16u64.wrapping_neg(), 3)] {
        let (far, mut parts) = parted();
        far.post_bytes(&[]).expect("room");
        parts.words[9] = position;
        match offer(&mut pair, sequence, &parts) {
            Err(refused) => assert!(matches!(refused, MessageError::Port(_)), "{refused}"),
            Ok(port) if position == 16 => {
                // Behind the only message: what a former owner could have taken as well.
                assert!(port.try_recv().expect("an open port").is_none());
            }
            Ok(port) => {
                let refused = port.try_recv().map(drop).expect_err("beyond the tail");
                let RecvError::Closed { reason: CloseReason::Corrupt(_) } = refused else {
                    panic!("{refused}");
                };
            }
        }
    }
    assert_alive(&mut pair, 4);
}

#[test]
fn f10_what_the_peer_writes_about_an_end_does_not_move() {
    let builder = MessageChannel::builder().capacity(4096).limit(64 << 10);
    let MessageChannel { port1, port2 } = builder.build().expect("a channel");
    for _ in 0..20 {
        port1.post_text("read before").expect("room");
        assert_eq!(receive_text(&port2), "read before");
        port2.post_text("read as well").expect("room");
        assert_eq!(receive_text(&port1), "read as well");
    }
    // The peer of the one that moves owns this mapping; lane 1 is that end's to write.
    let parts = Parts::of(port2);
    let region = Region::map(File::from(parts.duplicate(0)));
    let honest = region.word(tail(1)).load(SeqCst);
    region.word(tail(1)).store(honest + 4096, SeqCst);
    region.word(head(0)).store(16, SeqCst);
    let port2 = parts.into_port().expect("its own cursors are in the capsule");
    port2.post_text("after the move").expect("room");
    port1.post_text("to the new owner").expect("room");
    assert_eq!(region.word(tail(1)).load(SeqCst), honest + 32);
    assert_eq!(receive_text(&port2), "to the new owner");
    assert_eq!(receive_text(&port1), "after the move");
}

#[test]
fn f10_random_capsules_never_make_a_port_that_panics() {
    fn victim() {
        let before = Census::take();
        let mut accepted = 0;
        for round in 0..1500u64 {
            let mut rng = Rng(round);
            let mut pair = Pair::new();
            let (far, mut parts) = parted();
            for _ in 0..rng.below(30) {
                let _ = far.post_bytes(&[1; 3000][..rng.below(3000) as usize]);
            }
            for _ in 0..1 + rng.below(4) {
                let index =
                    [1, EPOCH, 6, 7, 8, 9, 10, 11, PACKETS, TRUSTED][rng.below(10) as usize];
                parts.words[index] = match rng.below(5) {
                    _ if index == 1 => 4 | rng.below(2) << 32,
                    _ if index == 8 || index == 11 => rng.below(6),
                    0 => rng.below(1 << 13) * 16,
                    1 => (rng.below(1 << 13) * 16).wrapping_neg(),
                    2 => rng.next() & !15,
                    3 => 1 << 63,
                    _ => rng.below(300) * 16,
                };
            }
            if let Ok(port) = offer(&mut pair, 0, &parts) {
                accepted += 1;
                assert!(!port.is_trusted());
                exercise(&port, &mut rng);
            }
            drop((far, parts));
            assert_alive(&mut pair, 1);
            drop(pair);
            progress();
        }
        before.wait_for("at the end");
        assert!(accepted > 100, "{accepted} of them were looked at closely");
    }
    let name = "capsules::f10_random_capsules_never_make_a_port_that_panics";
    play(name, &[("victim", victim)]);
}

/// Uses a port whose cursors may be anything; what it answers does not matter.
fn exercise(port: &MessagePort, rng: &mut Rng) {
    for _ in 0..30 {
        let most = 1 << rng.below(16);
        let len = rng.below(most) as usize;
        match rng.below(9) {
            0 => drop(port.post_bytes(&vec![1; len])),
            1 => drop(port.post_message(&vec![7u8; len])),
            2 => drop(port.loan(len).and_then(|loan| loan.post())),
            3 => drop(port.try_recv()),
            4 => drop(port.discard_next()),
            5 => drop(port.trim()),
            6 => drop(port.post_text_with("one", [null().into()])),
            7 => drop((port.backlog(), port.stats(), port.is_closed())),
            _ => drop(port.burst().stage_bytes(&vec![2; len])),
        }
    }
}

#[test]
fn f38_descriptors_that_are_no_ports_are_refused_and_closed() {
    fn victim() {
        let before = Census::take();
        let sealed = || {
            let mut buffer = Buffer::new(64 << 10).expect("a buffer");
            buffer.seal().expect("seals");
            buffer.as_fd().expect("a sealed buffer").try_clone_to_owned().expect("a descriptor")
        };
        let stream = || OwnedFd::from(UnixStream::pair().expect("a pair").0);
        let tcp = || {
            let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("another kind of socket");
            OwnedFd::from(tcp)
        };
        type Make<'a> = &'a dyn Fn() -> OwnedFd;
        let cases: [(&str, usize, Make<'_>); 10] = [
            ("a device for memory", 0, &null),
            ("a socket for memory", 0, &stream),
            ("a buffer for memory", 0, &sealed),
            ("a device for a doorbell", DOORBELL, &null),
            ("memory for a doorbell", DOORBELL, &sealed),
            ("TCP for a doorbell", DOORBELL, &tcp),
            ("packets for a doorbell", DOORBELL, &|| packet_sockets().0),
            ("a stream for attachments", ATTACHMENTS, &stream),
            ("TCP for attachments", ATTACHMENTS, &tcp),
            ("a device for attachments", ATTACHMENTS, &null),
        ];
        let mut pair = Pair::new();
        let held = Census::take();
        for ((what, index, make), sequence) in cases.into_iter().zip(0..) {
            let (far, mut parts) = parted();
            parts.descriptors[index] = make();
            let refused = offer(&mut pair, sequence, &parts).expect_err(what);
            assert!(matches!(refused, MessageError::Port(_)), "{what}: {refused}");
            drop((far, parts));
            held.wait_for(format_args!("{what}"));
        }
        let (_far, mut parts) = parted();
        parts.descriptors.reverse();
        assert!(offer(&mut pair, 10, &parts).is_err(), "the other way round");
        assert_alive(&mut pair, 11);
        drop((pair, _far, parts));
        before.wait_for("at the end");
    }
    let name = "capsules::f38_descriptors_that_are_no_ports_are_refused_and_closed";
    play(name, &[("victim", victim)]);
}

#[test]
fn f46_trust_that_is_forged_is_not_believed() {
    let mut pair = Pair::new();
    for (word, sequence) in [(1, 0), (2, 1), (u64::MAX, 2)] {
        let (far, mut parts) = parted();
        parts.words[TRUSTED] = word;
        let port = offer(&mut pair, sequence, &parts).expect("a port");
        assert!(!port.is_trusted());
        drop((far, parts));
    }
    let (_far, mut parts) = parted();
    parts.words[TRUSTED] = 1;
    assert!(!parts.into_port().expect("a port").is_trusted(), "nor out of a descriptor");
    // Over a carrier that is trusted only the word for it counts.
    // SAFETY: what this test writes into the shared memory are records as this crate writes them.
    unsafe { pair.victim.trust_peer() };
    for (word, is_trusted, sequence) in [(0, false, 3), (1, true, 4), (2, false, 5)] {
        let (far, mut parts) = parted();
        parts.words[TRUSTED] = word;
        let port = offer(&mut pair, sequence, &parts).expect("a port");
        assert_eq!(port.is_trusted(), is_trusted, "{word}");
        drop(far);
    }
}

#[test]
fn f11_the_carriers_own_ends_do_no_harm_when_they_come_through_it() {
    fn victim() {
        let before = Census::take();
        let mut pair = Pair::new();
        // Its own end, of which the peer can have no descriptors, and its peer's.
        let capsule = Entry::Port(pair.parts.capsule());
        let borrowed: Vec<BorrowedFd<'_>> = pair.parts.borrowed();
        pair.packet(0, &[capsule], &borrowed);
        drop(borrowed);
        pair.record(3, 0);
        let event = receive(&pair.victim);
        if let Ok(port) = event.take_port() {
            // Now both ends are here, and one of them is the hostile peer's as well.
            let _ = (port.post_text("to myself"), port.try_recv().map(drop));
            port.close();
        }
        drop(event);
        let _ = (pair.victim.try_recv().map(drop), pair.victim.post_text("any text"));
        drop(pair);
        before.wait_for("at the end");
    }
    let name = "capsules::f11_the_carriers_own_ends_do_no_harm_when_they_come_through_it";
    play(name, &[("victim", victim)]);
}
