//! A carrier that ends with a port in its queue, and a port as one descriptor.

use crate::common::board::Board;
use crate::common::census::Census;
use crate::common::parts::{ATTACHMENTS, DOORBELL, EPOCH, PACKETS, Parts, packet_sockets, send};
use crate::common::role::{command, play};
use crate::common::{
    die, receive, receive_end, receive_text, refusal, wait_until, wait_until_closed,
};
use crate::{assert_entangled, channel, growing, moved, number_of, token};
use messageport::{
    AttachError, Buffer, CloseReason, MessageChannel, MessagePort, PostError, RecvError,
    Transferable, Worker, parent_port,
};
use nix::sys::socket::{setsockopt, sockopt};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

fn parent() -> MessagePort {
    parent_port().expect("a port to the parent")
}

// Carriers that end.

#[test]
fn f6_a_carrier_that_is_dropped_with_a_port_in_its_queue_ends_the_port() {
    let carrier = channel();
    let lost = channel();
    carrier.port1.post_text_with("unread", [lost.port2.into()]).expect("room");
    assert!(!lost.port1.is_closed());
    drop(carrier.port2);
    assert_eq!(receive_end(&lost.port1), CloseReason::PeerDied);
    assert_eq!(receive_end(&carrier.port1), CloseReason::PeerDropped);
}

#[test]
fn f6_a_receiver_that_dies_with_a_port_in_its_queue_ends_the_port() {
    const TEST: &str = "ends::f6_a_receiver_that_dies_with_a_port_in_its_queue_ends_the_port";
    fn dies() {
        let port = parent();
        let taken = receive(&port).take_port().expect("a port");
        taken.post_text("the second one waits").expect("room");
        assert_eq!(receive_text(&taken), "die");
        die();
    }
    fn watches() {
        let before = Census::take();
        let mut worker = Worker::spawn(command(TEST, "dies")).expect("a worker");
        let MessageChannel { port1: taken, port2: theirs } = channel();
        let MessageChannel { port1: queued, port2: unread } = channel();
        worker.port().post_text_with("one", [theirs.into()]).expect("room");
        worker.port().post_text_with("two", [unread.into()]).expect("room");
        assert_eq!(receive_text(&taken), "the second one waits");
        taken.post_text("die").expect("room");
        assert_eq!(receive_end(&taken), CloseReason::PeerDied);
        assert_eq!(receive_end(&queued), CloseReason::PeerDied);
        worker.wait().expect("a child");
        drop((worker, taken, queued));
        before.wait_for("at the end");
    }
    play(TEST, &[("watches", watches), ("dies", dies)]);
}

#[test]
fn f5_a_port_in_flight_arrives_although_its_sender_dies() {
    const TEST: &str = "ends::f5_a_port_in_flight_arrives_although_its_sender_dies";
    fn dies() {
        let port = parent();
        let pair = channel();
        pair.port1.post_text("in the queue").expect("room");
        let list: Vec<Transferable> = vec![pair.port1.into(), pair.port2.into(), token(6).into()];
        port.post_text_with("both", list).expect("room");
        let board = Board::given();
        wait_until("the parent has posted", || board.word(0).load(SeqCst) == 1);
        // What came to this process stays unread: the kernel tells the sender by a reset, before
        // what is left in the queue.
        die();
    }
    fn watches() {
        let board = Board::new();
        let before = Census::take();
        for unread in [0, 1, 5] {
            board.word(0).store(0, SeqCst);
            let mut child = command(TEST, "dies");
            board.give(&mut child);
            let mut worker = Worker::spawn(child).expect("a worker");
            let lost: Vec<_> = (0..unread).map(|_| channel()).collect();
            let mut kept = Vec::new();
            for pair in lost {
                worker.port().post_text_with("unread", [pair.port2.into()]).expect("room");
                kept.push(pair.port1);
            }
            board.word(0).store(1, SeqCst);
            worker.wait().expect("a child");
            wait_until_closed(worker.port());
            let event = receive(worker.port());
            let ports = event.take_ports().expect("two ports");
            assert_eq!(receive_text(&ports[1]), "in the queue");
            assert_entangled(&ports[0], &ports[1]);
            assert_eq!(number_of(&event.take_descriptor().expect("a descriptor")), 6);
            drop(event);
            assert_eq!(receive_end(worker.port()), CloseReason::PeerDied);
            for port in kept {
                assert_eq!(receive_end(&port), CloseReason::PeerDied);
            }
            let error = worker.port().post_text_with("late", [token(1).into()]);
            let (reason, list) = error.expect_err("a dead peer").into_parts();
            assert_eq!((refusal(Err(reason)), list.len()), (CloseReason::PeerDied, 1));
        }
        before.wait_for("at the end");
    }
    play(TEST, &[("watches", watches), ("dies", dies)]);
}

#[test]
fn an_end_in_flight_whose_peer_dies_says_so_to_its_last_owner() {
    const TEST: &str = "ends::an_end_in_flight_whose_peer_dies_says_so_to_its_last_owner";
    fn dies() {
        let peer = receive(&parent()).take_port().expect("a port");
        peer.post_text("last words").expect("room");
        die();
    }
    fn watches() {
        let mut worker = Worker::spawn(command(TEST, "dies")).expect("a worker");
        let (carrier, pair) = (channel(), channel());
        carrier.port1.post_text_with("in flight", [pair.port1.into()]).expect("room");
        worker.port().post_text_with("yours", [pair.port2.into()]).expect("room");
        worker.wait().expect("a child");
        let port = moved(receive(&carrier.port2).take_port().expect("a port"));
        assert_eq!(receive_text(&port), "last words");
        assert_eq!(receive_end(&port), CloseReason::PeerDied);
        let port = moved(port);
        assert_eq!(receive_end(&port), CloseReason::PeerDied);
    }
    play(TEST, &[("watches", watches), ("dies", dies)]);
}

#[test]
fn f59_a_packet_without_its_record_is_closed_at_the_end_of_the_carrier() {
    for how in ["closed", "died"] {
        let MessageChannel { port1, port2 } = channel();
        let lost = channel();
        let parts = Parts::of(port1);
        let orphan = Parts::of(lost.port2);
        // As a sender that dies between the packet and its record.
        let packet = packet_with_a_port(0, &orphan);
        send(&parts.descriptors[ATTACHMENTS], &packet, &orphan.borrowed()).expect("room");
        drop(orphan);
        assert!(!lost.port1.is_closed(), "it waits in the queue");
        match how {
            "closed" => parts.into_port().expect("a port").close(),
            _ => drop(parts),
        }
        let end = receive_end(&port2);
        assert!(matches!(end, CloseReason::PeerClosed | CloseReason::PeerDied), "{end:?}");
        // The carrier's other end is still held here.
        assert_eq!(receive_end(&lost.port1), CloseReason::PeerDied, "{how}");
        drop(port2);
    }
}

fn packet_with_a_port(sequence: u64, parts: &Parts) -> Vec<u8> {
    let mut bytes = b"MPPACKET".to_vec();
    bytes.extend(sequence.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(parts.capsule());
    bytes
}

#[test]
fn f59_a_receiver_half_that_is_dropped_ends_the_ports_in_its_queue() {
    let carrier = channel();
    let lost = channel();
    let (sender, receiver) = carrier.port2.split();
    carrier.port1.post_text_with("unread", [lost.port2.into()]).expect("room");
    drop(receiver);
    // The other half keeps the sockets, but no code can ever take the port out.
    wait_until_closed(&lost.port1);
    let end = receive_end(&lost.port1);
    assert!(matches!(end, CloseReason::PeerDied | CloseReason::PeerDropped), "{end:?}");
    sender.post_text("the other direction goes on").expect("room");
    assert_eq!(receive_text(&carrier.port1), "the other direction goes on");
}

#[test]
fn f12_ports_that_sit_in_each_others_queues_end_when_no_process_has_them() {
    let (one, two) = (channel(), channel());
    two.port1.post_text_with("one in two", [one.port2.into()]).expect("room");
    one.port1.post_text_with("two in one", [two.port2.into()]).expect("room");
    // The kernel looks for such cycles whenever a socket goes.
    wait_until("the kernel has found the cycle", || {
        drop(UnixStream::pair());
        one.port1.is_closed() && two.port1.is_closed()
    });
    assert_eq!(receive_end(&one.port1), CloseReason::PeerDied);
    assert_eq!(receive_end(&two.port1), CloseReason::PeerDied);
}

#[test]
fn f11_an_end_that_comes_back_as_a_descriptor_into_its_own_queue_ends() {
    let MessageChannel { port1, port2 } = channel();
    let descriptor = port2.into_fd().expect("an open port");
    // Nothing is known of what a plain descriptor is.
    port1.post_text_with("a loop, in disguise", [descriptor.into()]).expect("room");
    wait_until("the kernel has found the cycle", || {
        drop(UnixStream::pair());
        port1.is_closed()
    });
    assert_eq!(receive_end(&port1), CloseReason::PeerDied);
}

#[test]
fn what_came_with_a_message_can_be_taken_after_the_end_of_its_carrier() {
    let carrier = channel();
    let pair = channel();
    carrier.port1.post_text_with("late", [pair.port2.into(), token(8).into()]).expect("room");
    let event = receive(&carrier.port2);
    drop(carrier.port1);
    assert_eq!(receive_end(&carrier.port2), CloseReason::PeerDropped);
    carrier.port2.close();
    assert_entangled(&pair.port1, &event.take_port().expect("a port"));
    assert_eq!(number_of(&event.take_descriptor().expect("a descriptor")), 8);
}

#[test]
fn f13_the_end_of_the_outermost_of_a_hundred_nested_ports_ends_them_all() {
    let innermost = channel();
    let mut kept = vec![innermost.port1];
    let mut inner = innermost.port2;
    for _ in 0..100 {
        let next = channel();
        next.port1.post_text_with("one more level", [inner.into()]).expect("room");
        kept.push(next.port1);
        inner = next.port2;
    }
    assert!(kept.iter().all(|port| !port.is_closed()));
    drop(inner);
    wait_until("all have ended", || kept.iter().all(MessagePort::is_closed));
    let (last, rest) = kept.split_last().expect("a hundred and one");
    assert_eq!(receive_end(last), CloseReason::PeerDropped);
    for port in rest {
        assert_eq!(receive_end(port), CloseReason::PeerDied);
    }
}

#[test]
fn f40_an_owner_of_a_duplicate_cannot_corrupt_what_the_new_owner_reads() {
    let MessageChannel { port1, port2 } = growing();
    let parts = Parts::of(port2);
    let kept: Vec<OwnedFd> = (0..3).map(|index| parts.duplicate(index)).collect();
    let port2 = moved(parts.into_port().expect("a port"));
    assert_entangled(&port1, &port2);
    port2.close();
    assert_eq!(receive_end(&port1), CloseReason::PeerClosed, "its word counts, not the hang-up");
    drop(kept);
}

#[test]
fn f40_a_hang_up_comes_when_the_last_duplicate_goes() {
    let MessageChannel { port1, port2 } = channel();
    let parts = Parts::of(port2);
    let kept = parts.duplicate(DOORBELL);
    drop(parts);
    let answer = port1.recv_timeout(Duration::from_millis(1)).map(|event| event.format());
    assert!(matches!(answer, Err(RecvError::Timeout)), "{answer:?}");
    drop(kept);
    assert_eq!(receive_end(&port1), CloseReason::PeerDied);
}

#[test]
fn f54_options_that_a_former_owner_has_set_do_no_harm() {
    fn victim() {
        let before = Census::take();
        let MessageChannel { port1, port2 } = channel();
        let parts = Parts::of(port2);
        let kept: Vec<OwnedFd> = (0..3).map(|index| parts.duplicate(index)).collect();
        let pass = || {
            for socket in &kept[DOORBELL..] {
                setsockopt(socket, sockopt::PassCred, &true).expect("an option");
                pass_pidfd(socket);
            }
        };
        pass();
        let port2 = moved(parts.into_port().expect("a port"));
        for round in 1..=100 {
            // Set before the move, which clears them, and then again by who kept a duplicate.
            if round == 50 {
                pass();
            }
            port1.post_text_with("one", [token(round).into()]).expect("room");
            let event = receive(&port2);
            assert_eq!(event.transferred(), (0, 0, 1));
            assert_eq!(number_of(&event.take_descriptor().expect("a descriptor")), round);
        }
        drop((port1, port2, kept));
        before.wait_for("at the end");
    }
    let name = "ends::f54_options_that_a_former_owner_has_set_do_no_harm";
    play(name, &[("victim", victim)]);
}

/// Has the kernel add a descriptor of the sender's process to each packet, where it knows how.
#[allow(unsafe_code)]
fn pass_pidfd(socket: &OwnedFd) {
    use std::os::fd::AsRawFd;
    const SO_PASSPIDFD: libc::c_int = 76;
    let on: libc::c_int = 1;
    let (level, len) = (libc::SOL_SOCKET, size_of_val(&on) as libc::socklen_t);
    let value = (&raw const on).cast();
    // SAFETY: the value is valid for the call, with its length.
    unsafe { libc::setsockopt(socket.as_raw_fd(), level, SO_PASSPIDFD, value, len) };
}

// One descriptor.

#[test]
fn a_port_goes_on_out_of_its_descriptor() {
    let MessageChannel { port1, port2 } = growing();
    let inner = channel();
    port1.post_bytes(&[1; 10_000]).expect("room");
    port1.post_text_with("a port", [inner.port2.into()]).expect("room");
    let descriptor = port2.into_fd().expect("an open port");
    port1.post_text("meanwhile").expect("room");
    // It can travel as any descriptor does.
    let carrier = channel();
    carrier.port1.post_text_with("a descriptor", [descriptor.into()]).expect("room");
    let descriptor = receive(&carrier.port2).take_descriptor().expect("a descriptor");
    let port2 = MessagePort::from_fd(descriptor).expect("a port");
    assert_eq!(receive(&port2).bytes(), [1; 10_000]);
    assert_entangled(&inner.port1, &receive(&port2).take_port().expect("a port"));
    assert_eq!(receive_text(&port2), "meanwhile");
    assert_entangled(&port1, &port2);
}

#[test]
fn moves_and_packets_are_counted_from_owner_to_owner() {
    let MessageChannel { port1, port2 } = channel();
    let mut port = port1;
    for hop in 1..=5u64 {
        port.post_text_with("one", [token(1).into()]).expect("room");
        let list: Vec<Transferable> = vec![token(2).into(), token(3).into()];
        port.post_text_with("two", list).expect("room");
        port.post_text("none").expect("room");
        let parts = Parts::of(port);
        assert_eq!((parts.words[EPOCH], parts.words[PACKETS]), (hop, 2 * hop));
        port = parts.into_port().expect("a port");
    }
    assert_eq!(port2.iter().take(15).map(|event| event.transferred().2).sum::<usize>(), 15);
}

#[test]
fn a_port_comes_out_of_its_descriptor_once() {
    let MessageChannel { port1, port2 } = channel();
    let descriptor = port2.into_fd().expect("an open port");
    let again = descriptor.try_clone().expect("a descriptor");
    let port2 = MessagePort::from_fd(descriptor).expect("a port");
    // Nothing more can come once the other end of this socket is closed everywhere.
    wait_until("it is refused", || {
        let again = again.try_clone().expect("a descriptor");
        let refused = MessagePort::from_fd(again).expect_err("it was taken out");
        matches!(refused, AttachError::NotAPort { .. })
    });
    assert_entangled(&port1, &port2);
}

#[test]
fn a_descriptor_that_is_closed_closes_the_port() {
    let MessageChannel { port1, port2 } = channel();
    let descriptor = port2.into_fd().expect("an open port");
    assert!(!port1.is_closed());
    drop(descriptor);
    assert_eq!(receive_end(&port1), CloseReason::PeerDied);
}

#[test]
fn a_closed_port_is_no_descriptor_and_comes_back() {
    let MessageChannel { port1, port2 } = channel();
    port1.post_text("still readable").expect("room");
    port2.close();
    let error = port2.into_fd().expect_err("a closed port");
    let PostError::Closed { reason: CloseReason::Local } = error.reason() else {
        panic!("{error}");
    };
    let port2 = error.into_port();
    assert_eq!(receive_text(&port2), "still readable");
    assert_eq!(receive_end(&port2), CloseReason::Local);
}

#[test]
fn descriptors_that_are_no_port_are_refused() {
    let file: OwnedFd = tempfile::tempfile().expect("a temporary file").into();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let (one, other) = UnixStream::pair().expect("a pair");
    let mut buffer = Buffer::from_slice(b"bytes").expect("a buffer");
    buffer.seal().expect("seals");
    let memory = buffer.as_fd().expect("a sealed buffer").try_clone_to_owned();
    let (ours, theirs) = packet_sockets();
    let (garbage, with_garbage) = packet_sockets();
    send(&garbage, b"no capsule", &[]).expect("room");
    let descriptors: Vec<OwnedFd> = vec![
        file,
        reader.into(),
        writer.into(),
        one.into(),
        other.into(),
        memory.expect("a descriptor"),
        token(1),
        theirs,
        with_garbage,
    ];
    for descriptor in descriptors {
        let refused = MessagePort::from_fd(descriptor).expect_err("no port");
        let known = matches!(refused, AttachError::NotAPort { .. } | AttachError::Io { .. });
        assert!(known, "{refused}");
    }
    drop(ours);
}
