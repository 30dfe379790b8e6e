//! Packets and records that do not fit each other.

use crate::common::census::Census;
use crate::common::messages::Rng;
use crate::common::parts::{ATTACHMENTS, Parts, receive as receive_packet, send};
use crate::common::role::play;
use crate::common::watchdog::progress;
use crate::common::{discard, receive, receive_end, refusal, wait_until_closed};
use crate::{
    Entry, Pair, assert_alive, assert_broken, is_closed, null, packet, wait_until_released, watched,
};
use messageport::{Buffer, CloseReason, MessageChannel, MessageError, PostError, RecvError};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

#[test]
fn f1_a_record_without_its_packet_ends_the_carrier() {
    for (descriptors, sequence) in [(1, 0), (3, 0), (253, 0), (1, 7), (1, u64::MAX)] {
        let mut pair = Pair::new();
        assert_alive(&mut pair, 0);
        pair.record(descriptors, sequence);
        assert_broken(&pair.victim, &format!("{descriptors} descriptors, {sequence}"));
    }
    // Stepping over it is no way past it.
    let mut pair = Pair::new();
    pair.record(1, 0);
    let refused = pair.victim.discard_next().map(drop).expect_err("no packet");
    let RecvError::Closed { reason: CloseReason::Corrupt(_) } = refused else {
        panic!("{refused}")
    };
    assert_broken(&pair.victim, "discarded");
}

/// The kernel has no packet for such a socket, ever: the port ends, and is not asked for ever.
#[test]
fn f1_a_record_beside_a_socket_without_a_peer_ends_the_port() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    port1.post_bytes_with(b"", [null().into()]).expect("room");
    let mut parts = Parts::of(port2);
    let alone = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None);
    parts.descriptors[ATTACHMENTS] = alone.expect("a socket");
    let port = parts.into_port().expect("what can be told without a call to it");
    assert_broken(&port, "no peer is connected");
}

#[test]
fn f1_a_record_with_more_descriptors_than_a_packet_can_have_ends_the_carrier() {
    for descriptors in [254, 1000, 0xffff] {
        let mut pair = Pair::new();
        pair.record(descriptors, 0);
        assert_broken(&pair.victim, "too many");
    }
}

#[test]
fn f1_a_packet_that_is_not_what_its_record_says_ends_the_carrier() {
    fn victim() {
        use Entry::{Buffer, Descriptor, Other, Pool, Port};
        let before = Census::take();
        let five = |entry: Entry| vec![entry; 5];
        let cut = |len: usize| packet(0, &five(Descriptor))[..len].to_vec();
        let mut other_magic = packet(0, &five(Descriptor));
        other_magic[0] ^= 1;
        let mut half_a_capsule = packet(0, &[Port(vec![0; 344])]);
        half_a_capsule.truncate(60);
        // What it says, how many descriptors it has, and how many the record says.
        let cases: Vec<(&str, Vec<u8>, usize, u64)> = vec![
            ("nothing at all", Vec::new(), 0, 5),
            ("no bytes, but descriptors", Vec::new(), 5, 5),
            ("a byte", vec![1], 5, 5),
            ("zeros", vec![0; 56], 5, 5),
            ("noise", vec![0x5a; 3000], 5, 5),
            ("another magic", other_magic, 5, 5),
            ("the magic alone", cut(8), 5, 5),
            ("no entries", cut(16), 5, 5),
            ("half an entry", cut(20), 5, 5),
            ("no descriptors", packet(0, &five(Descriptor)), 0, 5),
            ("one descriptor less", packet(0, &five(Descriptor)), 4, 5),
            ("one descriptor more", packet(0, &five(Descriptor)), 6, 5),
            ("one less than the record says", packet(0, &[Descriptor]), 1, 2),
            ("one more than the record says", packet(0, &five(Descriptor)), 5, 4),
            ("a port with one descriptor", packet(0, &[Port(vec![0; 344])]), 1, 1),
            ("a port with two", packet(0, &[Port(vec![0; 344])]), 2, 2),
            ("half a capsule", half_a_capsule, 3, 3),
            ("a buffer without a length", packet(0, &[Other(2)]), 1, 1),
            ("an unknown kind", packet(0, &[Other(77)]), 1, 1),
            ("kind 0", packet(0, &[Other(0)]), 1, 1),
            ("too many entries", packet(0, &vec![Descriptor; 65]), 65, 65),
            ("253 descriptors", packet(0, &vec![Descriptor; 253]), 253, 253),
            ("a number of its own", packet(1, &[Descriptor]), 1, 1),
            ("a number far ahead", packet(1 << 62, &[Descriptor]), 1, 1),
            ("a pool cut short", packet(0, &[Pool([0, 1, 4096]), Buffer(1)])[..30].to_vec(), 1, 1),
        ];
        for (what, bytes, count, said) in cases {
            let mut pair = Pair::new();
            assert_alive(&mut pair, u64::MAX);
            let (sent, kept) = watched();
            let descriptors: Vec<BorrowedFd<'_>> = (0..count).map(|_| sent.as_fd()).collect();
            pair.send(&bytes, &descriptors);
            drop(descriptors);
            drop(sent);
            pair.record(said, 0);
            assert_broken(&pair.victim, what);
            wait_until_released(&kept, what);
            drop((pair, kept));
            before.wait_for(format_args!("{what}"));
            progress();
        }
    }
    let name = "packets::f1_a_packet_that_is_not_what_its_record_says_ends_the_carrier";
    play(name, &[("victim", victim)]);
}

#[test]
fn f14_a_packet_that_is_too_long_is_lost_and_the_carrier_lives() {
    let mut pair = Pair::new();
    let (sent, kept) = watched();
    let mut bytes = packet(0, &[Entry::Descriptor]);
    bytes.resize(30_000, 0);
    pair.send(&bytes, &[sent.as_fd()]);
    drop(sent);
    pair.record(1, 0);
    let event = receive(&pair.victim);
    let lost = event.take_descriptor().expect_err("it was cut off");
    assert!(matches!(lost, MessageError::TransfersLost { descriptors: 1 }), "{lost}");
    drop(event);
    wait_until_released(&kept, "it was lost");
    assert_alive(&mut pair, 1);
}

#[test]
fn f56_packets_without_a_record_are_stepped_over_and_closed() {
    fn victim() {
        let before = Census::take();
        for orphans in [1, 2, 40, 63] {
            let mut pair = Pair::new();
            let lost = MessageChannel::new().expect("a channel");
            let parts = Parts::of(lost.port2);
            pair.packet(0, &[Entry::Port(parts.capsule())], &parts.borrowed());
            drop(parts);
            let (sent, kept) = watched();
            for number in 1..orphans {
                pair.packet(number, &[Entry::Descriptor], &[sent.as_fd()]);
            }
            drop(sent);
            // The numbers of an end may be anything, and wrap.
            assert_alive(&mut pair, orphans);
            // Without a word: what has no record may still be its sender's.
            assert_eq!(receive_end(&lost.port1), CloseReason::PeerDied);
            wait_until_released(&kept, &format!("{orphans} orphans"));
        }
        let mut pair = Pair::new();
        for number in 0..64u64 {
            pair.packet(number.wrapping_sub(60), &[Entry::Descriptor], &[null().as_fd()]);
        }
        pair.record(1, 4);
        assert_broken(&pair.victim, "more than a dead sender leaves");
        drop(pair);
        before.wait_for("at the end");
    }
    let name = "packets::f56_packets_without_a_record_are_stepped_over_and_closed";
    play(name, &[("victim", victim)]);
}

#[test]
fn f34_a_flood_of_packets_without_records_costs_the_victim_nothing() {
    fn victim() {
        let before = Census::take();
        let pair = Pair::new();
        let (sent, kept) = watched();
        let held = Census::take();
        let bytes = packet(0, &[Entry::Descriptor; 1]);
        let socket = &pair.parts.descriptors[ATTACHMENTS];
        let mut count = 0;
        while send(socket, &bytes, &[sent.as_fd()]).is_ok() {
            count += 1;
        }
        assert!(count > 100);
        assert!(pair.victim.try_recv().expect("an open port").is_none());
        held.wait_for("they stay in the kernel");
        drop(sent);
        assert!(!is_closed(&kept));
        let Pair { victim, parts, region, .. } = pair;
        drop((parts, region));
        assert_eq!(receive_end(&victim), CloseReason::PeerDied);
        wait_until_released(&kept, "at the end");
        drop((victim, kept));
        before.wait_for("at the end");
    }
    let name = "packets::f34_a_flood_of_packets_without_records_costs_the_victim_nothing";
    play(name, &[("victim", victim)]);
}

#[test]
fn f59_empty_packets_hide_nothing_that_is_behind_them() {
    let pair = Pair::new();
    let lost = MessageChannel::new().expect("a channel");
    let parts = Parts::of(lost.port2);
    pair.send(&[], &[]);
    pair.send(&[], &[null().as_fd()]);
    pair.packet(0, &[Entry::Port(parts.capsule())], &parts.borrowed());
    drop(parts);
    let Pair { victim, parts, region, .. } = pair;
    drop((parts, region));
    assert_eq!(receive_end(&victim), CloseReason::PeerDied);
    wait_until_closed(&lost.port1);
    drop(victim);
}

#[test]
fn f34_messages_with_as_many_descriptors_as_can_be_leave_none_behind() {
    fn victim() {
        let before = Census::take();
        let mut pair = Pair::new();
        let (sent, kept) = watched();
        let held = Census::take();
        let descriptors: Vec<BorrowedFd<'_>> = (0..192).map(|_| sent.as_fd()).collect();
        let entries = vec![Entry::Port(vec![0xee; 344]); 64];
        for number in 0..200 {
            pair.packet(number, &entries, &descriptors);
            pair.record(192, number);
            match number % 3 {
                0 => discard(&pair.victim),
                1 => drop(receive(&pair.victim)),
                _ => {
                    let event = receive(&pair.victim);
                    assert_eq!(event.transferred(), (64, 0, 0));
                    let refused = event.take_port().expect_err("no port");
                    assert!(matches!(refused, MessageError::Port(_)), "{refused}");
                    assert_eq!(event.transferred(), (63, 0, 0), "it is no use to try again");
                    assert!(event.take_ports().is_err());
                }
            }
            held.wait_for("meanwhile");
        }
        drop(descriptors);
        drop(sent);
        wait_until_released(&kept, "taken or discarded");
        assert_alive(&mut pair, 200);
        drop((pair, kept));
        before.wait_for("at the end");
    }
    let name = "packets::f34_messages_with_as_many_descriptors_as_can_be_leave_none_behind";
    play(name, &[("victim", victim)]);
}

#[test]
fn f34_a_peer_that_takes_no_descriptors_is_an_error_with_the_list() {
    const SO_PASSRIGHTS: libc::c_int = 83;
    let pair = Pair::new();
    let off: libc::c_int = 0;
    let socket = pair.parts.descriptors[ATTACHMENTS].as_raw_fd();
    let (level, len) = (libc::SOL_SOCKET, size_of_val(&off) as libc::socklen_t);
    let value = (&raw const off).cast();
    // SAFETY: the value is valid for the call, with its length.
    if unsafe { libc::setsockopt(socket, level, SO_PASSRIGHTS, value, len) } != 0 {
        return eprintln!("skipped: this kernel lets descriptors be sent to any process");
    }
    let error = pair.victim.post_text_with("no", [null().into()]).expect_err("refused");
    assert!(matches!(error.reason(), PostError::Refused), "{error}");
    assert_eq!(error.into_list().len(), 1);
    pair.victim.post_text("plain").expect("room");
    assert_eq!(pair.victim.backlog().messages, 1);
}

#[test]
fn f40_a_former_owner_that_takes_packets_away_ends_the_carrier_at_worst() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let parts = Parts::of(port2);
    let kept = parts.duplicate(ATTACHMENTS);
    let port2 = parts.into_port().expect("a port");
    let lost = MessageChannel::new().expect("a channel");
    port1.post_text_with("mine", [lost.port2.into()]).expect("room");
    let stolen = receive_packet(&kept).expect("the packet");
    assert_eq!(stolen.1.len(), 3);
    assert_broken(&port2, "a stolen packet");
    drop(stolen);
    assert_eq!(receive_end(&lost.port1), CloseReason::PeerDied);
}

/// The kind of a record that announces a pool.
const POOL: u64 = 6;

#[test]
fn a_trusted_peer_s_pool_that_is_none_ends_the_carrier() {
    let device = null();
    let mut buffer = Buffer::from_slice(&[1; 4096]).expect("a buffer");
    buffer.seal().expect("a sealed one");
    let (device, buffer) = (device.as_fd(), buffer.as_fd().expect("it is sealed"));
    let pool = |slots, len| Entry::Pool([0, slots, len]);
    for (what, entry, sent) in [
        ("a device", pool(1, 4096), device),
        ("memory of another length", pool(1, 4096), buffer),
        ("no buffers", pool(0, 4096), buffer),
        ("buffers of no bytes", pool(1, 0), buffer),
        ("more buffers than can be", pool(1 << 32, 4096), buffer),
        ("a length beyond all numbers", pool(2, u64::MAX - 4096), buffer),
        ("a number beyond all pools", Entry::Pool([1 << 32, 1, 4096]), buffer),
        ("no pool", Entry::Descriptor, buffer),
    ] {
        let mut pair = Pair::new();
        // SAFETY: what this peer does is harmless to memory: it only says what is not so.
        unsafe { pair.victim.trust_peer() };
        pair.packet(0, &[entry], &[sent]);
        pair.raw_record(POOL << 32 | 1 << 48, 0, 16);
        assert_broken(&pair.victim, what);
    }
}

#[test]
fn f52_endless_pools_do_not_keep_a_look_busy() {
    // More than one look takes, and few enough for a socket of the usual size.
    const POOLS: u64 = 150;
    let mut pair = Pair::new();
    let device = null();
    for number in 0..POOLS {
        pair.packet(number, &[Entry::Pool([number, 1, 4096])], &[device.as_fd()]);
        pair.raw_record(POOL << 32 | 1 << 48, number, 16);
    }
    let _ = pair.victim.try_recv().map(drop);
    // A peer that goes on sending would hold the call for ever.
    let taken = pair.released() / 16;
    assert!(taken < POOLS, "one look took all of them");
}

#[test]
fn what_only_a_trusted_peer_may_send_gives_an_untrusting_one_nothing() {
    const POOLED: u64 = 5;
    let mut pair = Pair::new();
    // A slot of a pool that was never announced.
    pair.raw_record(8 | POOLED << 32 | 1 << 40, 3 << 32 | 7, 32);
    match pair.victim.recv_timeout(Duration::ZERO) {
        Ok(event) => assert_eq!(event.transferred(), (0, 0, 0)),
        Err(RecvError::Closed { reason: CloseReason::Corrupt(_) }) => {}
        Err(error) => panic!("{error}"),
    }
    // A pool as if it were a thing that moves.
    let mut pair = Pair::new();
    let (sent, kept) = watched();
    pair.packet(0, &[Entry::Pool([0, 1, 4096])], &[sent.as_fd()]);
    drop(sent);
    pair.record(1, 0);
    match pair.victim.recv_timeout(Duration::ZERO) {
        Ok(event) => assert_eq!(event.transferred(), (0, 0, 0)),
        Err(RecvError::Closed { reason: CloseReason::Corrupt(_) }) => {}
        Err(error) => panic!("{error}"),
    }
    wait_until_released(&kept, "no pool");
}

#[test]
fn a_random_peer_ends_the_carrier_at_worst() {
    fn victim() {
        let before = Census::take();
        for round in 0..150u64 {
            let mut rng = Rng(round);
            let mut pair = Pair::new();
            let (sent, kept) = watched();
            let lost = MessageChannel::new().expect("a channel");
            let port = Parts::of(lost.port2);
            let mut sequence = 0u64;
            for _ in 0..40 {
                let count = rng.below(4) as usize;
                let entry = match rng.below(12) {
                    0 => Entry::Port(port.capsule()),
                    1 => Entry::Buffer(rng.next() >> rng.below(64)),
                    2 => Entry::Pool([rng.below(3), rng.below(3), 4096]),
                    3 => Entry::Other(rng.below(9)),
                    _ => Entry::Descriptor,
                };
                let needed = if matches!(entry, Entry::Port(_)) { 3 } else { 1 };
                // Right most of the time, so that something is reached.
                let right = rng.below(8) != 0;
                let count = if right { needed } else { count };
                let descriptors: Vec<BorrowedFd<'_>> = match entry {
                    Entry::Port(_) if right => port.borrowed(),
                    _ => (0..count).map(|_| sent.as_fd()).collect(),
                };
                if rng.below(10) != 0 {
                    pair.packet(sequence, &[entry], &descriptors);
                }
                if rng.below(10) != 0 {
                    pair.record(count as u64, if count == 0 { 0 } else { sequence });
                }
                sequence = sequence.wrapping_add(rng.below(10).min(1));
                suffer(&pair, &mut rng);
            }
            let Pair { victim, parts, region, .. } = pair;
            drop((port, sent, parts, region));
            while !matches!(victim.discard_next(), Ok(false) | Err(RecvError::Closed { .. })) {}
            let reason = receive_end(&victim);
            let known = matches!(reason, CloseReason::Corrupt(_) | CloseReason::PeerDied);
            assert!(known, "{reason:?}");
            // What came after the end stays in the kernel until the port goes.
            drop(victim);
            wait_until_released(&kept, &format!("round {round}"));
            wait_until_closed(&lost.port1);
            drop((kept, lost.port1));
            before.wait_for(format_args!("round {round}"));
            progress();
        }
    }
    play("packets::a_random_peer_ends_the_carrier_at_worst", &[("victim", victim)]);
}

/// Takes what is there in one way or another; each answer must be allowed.
fn suffer(pair: &Pair, rng: &mut Rng) {
    match rng.below(3) {
        0 => match pair.victim.discard_next() {
            Ok(_)
            | Err(RecvError::OutOfDescriptors { .. })
            | Err(RecvError::Closed { reason: CloseReason::Corrupt(_) }) => {}
            Err(error) => panic!("{error}"),
        },
        1 => {}
        _ => match pair.victim.try_recv() {
            Ok(None) | Err(RecvError::OutOfDescriptors { .. }) => {}
            Ok(Some(event)) => {
                let (ports, buffers, descriptors) = event.transferred();
                assert!(ports + buffers + descriptors <= 1);
                if let Ok(port) = event.take_port() {
                    let _ = (port.post_text("hello"), port.try_recv().map(drop));
                }
                assert!(event.take_buffer().is_err(), "a socket is no buffer");
                let _ = event.take_descriptor();
            }
            Err(RecvError::Closed { reason: reason @ CloseReason::Corrupt(_) }) => {
                assert_eq!(refusal(pair.victim.post_text("over")), reason);
            }
            Err(error) => panic!("{error}"),
        },
    }
}
