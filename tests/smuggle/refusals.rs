//! A hostile sender, and a port that refuses transferables: whatever it puts on the socket, and
//! whatever its records say of that, nothing enters, and the port goes on.

use crate::common::census::Census;
use crate::common::parts::{ATTACHMENTS, Parts, TRUSTED, send};
use crate::common::role::{play, skip};
use crate::common::{receive, receive_text};
use crate::guards::pass_rights;
use crate::{Entry, Pair, null, packet, wait_until_released, watched};
use messageport::{MessageChannel, MessageError, MessagePort, PostError};
use nix::errno::Errno;
use std::os::fd::AsFd;

#[track_caller]
fn assert_refused(victim: &MessagePort, expected: u16) {
    let event = receive(victim);
    let error = event.take_descriptor().map(drop).expect_err("it refuses");
    let MessageError::TransfersRefused { descriptors } = error else { panic!("{error}") };
    assert_eq!((descriptors, event.bytes()), (expected, &b""[..]));
}

#[test]
fn a_port_that_refuses_lives_whatever_packet_comes() {
    fn victim() {
        let before = Census::take();
        let mut pair = Pair::new();
        pair.victim.refuse_transfers();
        // Each packet has descriptors of which one is watched; the record says another count.
        let noise = vec![0x5a; 3000];
        let packets = [
            packet(0, &[Entry::Descriptor]),
            packet(7, &[Entry::Descriptor]),
            packet(u64::MAX, &[Entry::Port(vec![0; 344])]),
            packet(0, &[Entry::Pool([0, 1, 4096])]),
            noise,
            vec![1],
            Vec::new(),
        ];
        for bytes in &packets {
            for said in [1, 2, 253] {
                let (sent, kept) = watched();
                let other = null();
                pair.send(bytes, &[sent.as_fd(), other.as_fd()]);
                drop(sent);
                pair.record(said, 3);
                assert_refused(&pair.victim, said as u16);
                wait_until_released(&kept, "a refused packet");
            }
        }
        // A record without a packet, and a packet without a record.
        pair.record(3, 0);
        assert_refused(&pair.victim, 3);
        let (sent, kept) = watched();
        pair.packet(0, &[Entry::Descriptor], &[sent.as_fd()]);
        drop(sent);
        pair.victim.post_text("and out").expect("room");
        drop(pair.victim);
        wait_until_released(&kept, "what was left");
        drop((pair.parts, pair.region, kept));
        before.wait_for("at the end");
    }
    let name = "refusals::a_port_that_refuses_lives_whatever_packet_comes";
    play(name, &[("victim", victim)]);
}

#[test]
fn the_sockets_of_a_channel_that_refuses_take_no_descriptors() {
    fn victim() {
        let other = Parts::of(MessageChannel::new().expect("a channel").port1);
        if !pass_rights(other.descriptors[ATTACHMENTS].as_fd(), true) {
            return skip("the kernel has no SO_PASSRIGHTS");
        }
        let channel = MessageChannel::builder().refuse_transfers().build().expect("a channel");
        let MessageChannel { port1, port2: victim } = channel;
        let peer = Parts::of(port1);
        let socket = &peer.descriptors[ATTACHMENTS];
        let hostile = packet(0, &[Entry::Descriptor]);
        assert_eq!(send(socket, &hostile, &[null().as_fd()]), Err(Errno::EPERM));
        assert_eq!(send(socket, &hostile, &[]), Ok(()), "bytes alone do no harm");
        // And so it is where the end has gone to.
        let moved = Parts::of(victim).into_port().expect("an end that says that it refuses");
        assert!(moved.refuses_transfers());
        assert_eq!(send(socket, &hostile, &[null().as_fd()]), Err(Errno::EPERM));
        moved.post_text("words").expect("room");
        let peer = peer.into_port().expect("the other end as well");
        assert_eq!(receive_text(&peer), "words");
    }
    let name = "refusals::the_sockets_of_a_channel_that_refuses_take_no_descriptors";
    play(name, &[("victim", victim)]);
}

/// Who hands an end on can write the word: transfers fail then, and nothing else is different.
#[test]
fn a_refusal_that_is_forged_makes_transfers_fail_and_no_more() {
    for (word, here, there) in [
        (0, false, false),
        (2, true, false),
        (4, false, true),
        (6, true, true),
        (7, true, true),
        (8, false, false),
        (u64::MAX, false, false),
    ] {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let mut parts = Parts::of(port2);
        parts.words[TRUSTED] = word;
        let port2 = parts.into_port().expect("a port");
        assert_eq!((port2.refuses_transfers(), port2.is_trusted()), (here, false), "{word}");
        port1.post_text_with("a file", [null().into()]).expect("room");
        match here {
            true => assert_refused(&port2, 1),
            false => drop(receive(&port2).take_descriptor().expect("a descriptor")),
        }
        match port2.post_text_with("a file", [null().into()]) {
            Ok(()) => assert!(!there && receive(&port1).take_descriptor().is_ok()),
            Err(error) => {
                assert!(there && matches!(error.reason(), PostError::Refused), "{error}");
            }
        }
        port1.post_text("words").expect("room");
        assert_eq!(receive_text(&port2), "words");
    }
}
