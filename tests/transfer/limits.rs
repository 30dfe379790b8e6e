//! What runs out: room in the socket, descriptors here and in flight, address space.

use crate::common::census::Census;
use crate::common::limits::{
    allow_all_address_space, allow_all_descriptors, allow_more_address_space,
    allow_more_descriptors,
};
use crate::common::parts::{ATTACHMENTS, DOORBELL, Parts};
use crate::common::role::{command, may_be_other_users, play, skip};
use crate::common::watchdog::{progress, watch};
use crate::common::{
    DEADLINE, discard, kill_process, receive, receive_end, receive_text, refusal, wait_until,
    wait_until_asleep, wait_until_closed,
};
use crate::locked::{Lock, PAGES, PATIENCE, register, user_faults, wait_for_fault};
use crate::{
    assert_entangled, channel, growing, moved, number_of, only_descriptor, only_port, token,
};
use memmap2::MmapMut;
use messageport::{
    Buffer, BufferError, CloseReason, MessageChannel, MessageError, MessagePort, PostError,
    RecvError, Transferable, Worker, parent_port,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::gettid;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A channel whose first port's socket takes few packets.
fn narrow() -> MessageChannel {
    narrowed(channel())
}

fn narrowed(channel: MessageChannel) -> MessageChannel {
    let MessageChannel { port1, port2 } = channel;
    let parts = Parts::of(port1);
    setsockopt(&parts.descriptors[ATTACHMENTS], sockopt::SndBuf, &4096).expect("an option");
    MessageChannel { port1: parts.into_port().expect("a port"), port2 }
}

/// Posts tokens until the socket is full. Returns how many.
fn fill(port: &MessagePort) -> u32 {
    for number in 1..100_000 {
        if let Err(error) = port.post_text_with("one", [token(number).into()]) {
            let PostError::QueueFull { is_socket: true, len: 3, .. } = error.reason() else {
                panic!("{error}");
            };
            assert_eq!(number_of(&only_descriptor(error.into_list())), number);
            return number - 1;
        }
    }
    panic!("the socket is never full")
}

/// The socket is enlarged before the first packet, or before the end moves.
#[test]
fn a_fresh_end_and_one_that_moved_have_room_for_as_many_packets() {
    let usual = fill(&narrow().port1);
    let MessageChannel { port1, port2 } = channel();
    let fresh = fill(&port1);
    assert!(fresh > usual, "{fresh}, {usual}");
    empty(&port2, fresh);
    let MessageChannel { port1, port2 } = channel();
    let count = fill(&moved(port1));
    assert_eq!(count, fresh);
    empty(&port2, count);
}

fn empty(port: &MessagePort, count: u32) {
    for number in 1..=count {
        let event = receive(port);
        assert_eq!(number_of(&event.take_descriptor().expect("a descriptor")), number);
    }
}

#[test]
fn f3_a_full_socket_is_queue_full_and_gives_everything_back() {
    let MessageChannel { port1, port2 } = narrow();
    let count = fill(&port1);
    assert!(count > 0);
    assert_eq!(port1.backlog().messages, u64::from(count), "the ring is untouched");
    let full = port1.stats().sent.full;
    let pair = growing();
    pair.port2.post_text("before").expect("room");
    let buffer = Buffer::from_slice(b"bytes").expect("a buffer");
    let list: Vec<Transferable> = vec![pair.port2.into(), buffer.into(), token(5).into()];
    let error = port1.post_message_with(&[1u8; 5000], list).expect_err("a full socket");
    assert!(error.to_string().contains("transferables"), "{error}");
    let PostError::QueueFull { is_socket: true, .. } = error.reason() else { panic!("{error}") };
    assert_eq!(port1.stats().sent.full, full + 1);
    let mut list = error.into_list();
    let Transferable::Buffer(buffer) = &mut list[1] else { panic!("the buffer was second") };
    assert_eq!((&**buffer, buffer.is_sealed()), (&b"bytes"[..], true));
    assert!(matches!(buffer.bytes_mut(), Err(BufferError::Sealed)));
    let Transferable::Port(port) = &list[0] else { panic!("the port was first") };
    assert_eq!(receive_text(&pair.port1), "before");
    assert_entangled(&pair.port1, port);
    // The lane itself has room.
    port1.post_text("without transferables").expect("room in the ring");
    empty(&port2, count);
    assert_eq!(receive_text(&port2), "without transferables");
    // The very same list is taken now.
    port1.post_message_with(&2u8, list).expect("room again");
    let event = receive(&port2);
    assert_entangled(&pair.port1, &event.take_port().expect("a port"));
    assert_eq!(&*event.take_buffer().expect("a buffer"), b"bytes");
    assert_eq!(number_of(&event.take_descriptor().expect("a descriptor")), 5);
}

#[test]
fn f58_a_post_that_the_socket_refuses_leaves_no_trace_in_the_ring() {
    let MessageChannel { port1, port2 } = narrowed(growing());
    let count = fill(&port1);
    let lens = [0, 1, 100, 2000, 1000, 5000, 3000, 100_000, 10];
    for len in lens {
        // Some of them would lead the lane into another segment.
        let bytes = vec![len as u8; len];
        let error = port1.post_bytes_with(&bytes, [token(1).into()]).expect_err("full");
        assert!(matches!(error.reason(), PostError::QueueFull { is_socket: true, .. }));
        let error = port1.post_message_with(&bytes, error.into_list()).expect_err("full");
        assert!(matches!(error.reason(), PostError::QueueFull { is_socket: true, .. }));
        port1.post_message(&bytes).expect("room in the ring");
        port1.post_bytes(&bytes).expect("room in the ring");
    }
    empty(&port2, count);
    for len in lens {
        assert!(*receive(&port2).data::<Vec<u8>>().expect("bytes") == *vec![len as u8; len]);
        assert!(*receive(&port2).bytes() == *vec![len as u8; len]);
    }
    assert_eq!(port1.stats().sent.messages, u64::from(count) + 2 * lens.len() as u64);
    for len in lens.into_iter().chain([port1.max_message_len()]) {
        let bytes = vec![len as u8; len];
        port1.post_bytes_with(&bytes, [token(1 + len as u32).into()]).expect("room");
        let event = receive(&port2);
        assert!(*event.bytes() == *bytes);
        assert_eq!(number_of(&event.take_descriptor().expect("a descriptor")), 1 + len as u32);
        drop(event);
        assert!(port2.try_recv().expect("an open port").is_none());
    }
}

#[test]
fn f3_a_socket_of_the_usual_size_takes_hundreds_of_messages_before_it_is_full() {
    fn poster() {
        let before = Census::take();
        let MessageChannel { port1, port2 } = channel();
        let mut count = 0u32;
        let reason = loop {
            match port1.post_text_with("one", [token(1 + count).into()]) {
                Ok(()) => count += 1,
                Err(error) => break error.into_parts().0,
            }
        };
        let full = matches!(reason, PostError::QueueFull { is_socket: true, .. });
        assert!(full || matches!(reason, PostError::TooManyInFlight), "{reason}");
        assert!(count > 200, "{count}");
        empty(&port2, count);
        assert_eq!(port1.backlog().messages, 0);
        drop((port1, port2));
        before.wait_for("at the end");
    }
    let name = "limits::f3_a_socket_of_the_usual_size_takes_hundreds_of_messages_before_it_is_full";
    play(name, &[("poster", poster)]);
}

#[test]
fn f3_a_wait_for_room_in_the_socket_succeeds_once_the_receiver_takes() {
    let _watch = watch("f3_who_waits_for_room_in_the_socket_gets_through");
    let MessageChannel { port1, port2 } = narrow();
    let count = fill(&port1);
    let pair = channel();
    let short = Duration::from_millis(1);
    let error = port1.post_message_with_timeout(&1u8, [pair.port2.into()], short);
    let (reason, list) = error.expect_err("no receiver takes").into_parts();
    assert!(matches!(reason, PostError::Timeout), "{reason}");
    let port = only_port(list);
    let (id, known) = mpsc::channel();
    let thread = thread::spawn(move || {
        id.send(gettid()).expect("the test waits");
        for number in 0..200u32 {
            let list: Vec<Transferable> = vec![token(1 + number).into()];
            port1.post_message_with_timeout(&number, list, DEADLINE).expect("room");
            progress();
        }
        port1.post_message_with_timeout(&7u8, [port.into()], DEADLINE).expect("room");
        port1
    });
    wait_until_asleep(known.recv().expect("an id"));
    empty(&port2, count);
    empty(&port2, 200);
    let port = receive(&port2).take_port().expect("a port");
    assert_entangled(&pair.port1, &port);
    let port1 = thread.join().expect("no panic");
    assert_entangled(&port1, &port2);
}

#[test]
fn f3_a_wait_for_room_in_the_socket_ends_at_the_peers_end() {
    const TEST: &str = "limits::f3_a_wait_for_room_in_the_socket_ends_at_the_peers_end";
    fn idle() {
        let port = parent_port().expect("a port to the parent");
        port.post_text("ready").expect("room");
        loop {
            thread::park();
        }
    }
    fn waits() {
        let worker = Worker::spawn(command(TEST, "idle")).expect("a worker");
        assert_eq!(receive_text(worker.port()), "ready");
        let id = worker.id();
        let (port, mut child) = worker.into_parts();
        let parts = Parts::of(port);
        setsockopt(&parts.descriptors[ATTACHMENTS], sockopt::SndBuf, &4096).expect("an option");
        let port = parts.into_port().expect("a port");
        fill(&port);
        let sleeper = gettid();
        let killer = thread::spawn(move || {
            wait_until_asleep(sleeper);
            kill_process(id);
        });
        let pair = channel();
        let error = port.post_message_with_timeout(&1u8, [pair.port2.into()], Duration::MAX);
        let (reason, list) = error.expect_err("a dead peer").into_parts();
        assert_eq!(refusal(Err(reason)), CloseReason::PeerDied);
        assert_entangled(&pair.port1, &only_port(list));
        killer.join().expect("a process to kill");
        child.wait().expect("a child");
    }
    play(TEST, &[("waits", waits), ("idle", idle)]);
}

#[test]
fn f3_a_wait_for_room_in_the_socket_can_be_cancelled_and_gives_the_list_back() {
    let MessageChannel { port1, port2 } = narrow();
    fill(&port1);
    let canceller = port1.canceller().expect("a descriptor");
    let sleeper = gettid();
    let thread = thread::spawn(move || {
        wait_until_asleep(sleeper);
        canceller.cancel();
    });
    let pair = channel();
    let error = port1.post_message_with_timeout(&1u8, [pair.port2.into()], Duration::MAX);
    let (reason, list) = error.expect_err("cancelled").into_parts();
    assert!(matches!(reason, PostError::Cancelled), "{reason}");
    assert_entangled(&pair.port1, &only_port(list));
    thread.join().expect("no panic");
    drop(port2);
}

#[test]
fn f57_what_is_staged_is_published_before_its_owner_waits_for_the_socket() {
    let MessageChannel { port1, port2 } = narrow();
    let count = fill(&port1);
    let burst = port1.burst();
    burst.stage_text("staged").expect("room");
    let short = Duration::from_millis(1);
    let error = port1.post_message_with_timeout(&1u8, [token(1).into()], short);
    assert!(matches!(error.expect_err("full").reason(), PostError::Timeout));
    empty(&port2, count);
    assert_eq!(receive_text(&port2), "staged");
    drop(burst);
}

// Descriptors.

#[test]
fn f14_a_message_waits_for_descriptors_and_arrives_whole_when_there_are_some() {
    fn victim() {
        let carrier = channel();
        let pairs: Vec<_> = (0..5).map(|_| channel()).collect();
        let (kept, ports): (Vec<_>, Vec<_>) =
            pairs.into_iter().map(|pair| (pair.port1, pair.port2)).unzip();
        let list: Vec<Transferable> = ports.into_iter().map(Into::into).collect();
        carrier.port1.post_text_with("five", list).expect("room");
        allow_more_descriptors(14);
        for _ in 0..3 {
            let refused = carrier.port2.try_recv().expect_err("too few descriptors");
            assert!(matches!(refused, RecvError::OutOfDescriptors { needed: 15 }), "{refused}");
        }
        allow_more_descriptors(15);
        let ports = receive(&carrier.port2).take_ports().expect("five ports");
        for (one, other) in kept.iter().zip(&ports) {
            assert_entangled(one, other);
        }
    }
    let name = "limits::f14_a_message_waits_for_descriptors_and_arrives_whole_when_there_are_some";
    play(name, &[("victim", victim)]);
}

#[test]
fn f14_f53_a_message_that_needs_too_many_descriptors_for_long_comes_without_them() {
    fn victim() {
        let carrier = channel();
        let lost = channel();
        let before = Census::take();
        let mut list: Vec<Transferable> = (1..=40).map(|number| token(number).into()).collect();
        list.push(lost.port2.into());
        carrier.port1.post_text_with("too much", list).expect("room");
        carrier.port1.post_text("plain").expect("room");
        carrier.port1.post_text_with("bearable", [token(3).into()]).expect("room");
        allow_more_descriptors(20);
        let event = loop {
            match carrier.port2.recv_timeout(DEADLINE) {
                Ok(event) => break event,
                Err(RecvError::OutOfDescriptors { needed: 43 }) => progress(),
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(event.text().expect("the message itself is there"), "too much");
        assert_eq!(event.transferred(), (0, 0, 0));
        let is_lost = |error| matches!(error, MessageError::TransfersLost { descriptors: 43 });
        assert!(is_lost(event.take_port().expect_err("lost")));
        assert!(is_lost(event.take_buffer().expect_err("lost")));
        assert!(is_lost(event.take_descriptor().expect_err("lost")));
        assert!(is_lost(event.take_ports().expect_err("lost")));
        assert!(is_lost(event.take_buffers().expect_err("lost")));
        assert!(is_lost(event.take_descriptors().expect_err("lost")));
        assert_eq!(receive_end(&lost.port1), CloseReason::PeerDied);
        assert_eq!(receive_text(&carrier.port2), "plain");
        let event = receive(&carrier.port2);
        assert_eq!(number_of(&event.take_descriptor().expect("a descriptor")), 3);
        drop(event);
        allow_all_descriptors();
        // The two sockets of the lost end have gone.
        wait_until("they are closed", || Census::take().descriptors == before.descriptors - 2);
    }
    let name =
        "limits::f14_f53_a_message_that_needs_too_many_descriptors_for_long_comes_without_them";
    play(name, &[("victim", victim)]);
}

#[test]
fn f14_a_message_can_be_discarded_when_there_are_no_descriptors_for_it() {
    fn victim() {
        let carrier = channel();
        let lost = channel();
        for number in 1..=3 {
            let list: Vec<Transferable> =
                (0..20).map(|more| token(20 * number + more).into()).collect();
            carrier.port1.post_text_with("many", list).expect("room");
        }
        carrier.port1.post_text_with("a port", [lost.port2.into()]).expect("room");
        carrier.port1.post_text_with("last", [token(3).into()]).expect("room");
        allow_more_descriptors(2);
        for _ in 0..4 {
            discard(&carrier.port2);
        }
        wait_until_closed(&lost.port1);
        let event = receive(&carrier.port2);
        assert_eq!(number_of(&event.take_descriptor().expect("a descriptor")), 3);
    }
    let name = "limits::f14_a_message_can_be_discarded_when_there_are_no_descriptors_for_it";
    play(name, &[("victim", victim)]);
}

#[test]
fn f14_a_port_stays_usable_when_there_is_no_descriptor_to_send_it_by() {
    fn victim() {
        let MessageChannel { port1, port2 } = channel();
        allow_more_descriptors(1);
        let error = port2.into_fd().expect_err("no descriptor for a pair of sockets");
        assert!(matches!(error.reason(), PostError::Io { .. }), "{error}");
        let port2 = error.into_port();
        assert_entangled(&port1, &port2);
        allow_more_descriptors(2);
        // What other programs of a user without privileges have in flight counts as well.
        let mut port2 = Some(port2);
        let mut descriptor = None;
        wait_until("two descriptors are enough", || {
            match port2.take().expect("it came back").into_fd() {
                Ok(made) => descriptor = Some(made),
                Err(error) => {
                    assert!(matches!(error.reason(), PostError::TooManyInFlight), "{error}");
                    port2 = Some(error.into_port());
                }
            }
            descriptor.is_some()
        });
        let descriptor = descriptor.expect("just made");
        allow_more_descriptors(3);
        assert_entangled(&port1, &MessagePort::from_fd(descriptor).expect("a port"));
    }
    let name = "limits::f14_a_port_stays_usable_when_there_is_no_descriptor_to_send_it_by";
    play(name, &[("victim", victim)]);
}

#[test]
fn f34_floods_of_descriptors_leave_none_behind() {
    fn victim() {
        let before = Census::take();
        let carrier = channel();
        for round in 0..300u32 {
            let list: Vec<Transferable> = (0..64).map(|_| token(1).into()).collect();
            carrier.port1.post_text_with("a flood", list).expect("room");
            match round % 3 {
                0 => drop(receive(&carrier.port2)),
                1 => discard(&carrier.port2),
                _ => drop(receive(&carrier.port2).take_descriptor().expect("a descriptor")),
            }
        }
        let list: Vec<Transferable> = (0..64).map(|_| token(1).into()).collect();
        carrier.port1.post_text_with("unread", list).expect("room");
        drop(carrier);
        before.wait_for("at the end");
    }
    play("limits::f34_floods_of_descriptors_leave_none_behind", &[("victim", victim)]);
}

#[test]
fn f15_too_many_descriptors_in_flight_are_an_error_of_their_own_that_passes() {
    fn poster() {
        let MessageChannel { port1, port2 } = channel();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        setrlimit(Resource::RLIMIT_NOFILE, 64, hard).expect("a lower limit");
        give_up_privileges();
        let mut count = 0u32;
        let error = loop {
            match port1.post_text_with("one", [token(1 + count).into()]) {
                Ok(()) => count += 1,
                Err(error) => break error,
            }
        };
        if matches!(error.reason(), PostError::QueueFull { .. }) {
            return skip("this user may have any number in flight");
        }
        assert!(matches!(error.reason(), PostError::TooManyInFlight), "{error}");
        // An end that becomes a descriptor has three in flight; it comes back as well.
        let other = channel();
        let refused = other.port1.into_fd().expect_err("as many as before");
        assert!(matches!(refused.reason(), PostError::TooManyInFlight), "{refused}");
        assert_entangled(&refused.into_port(), &other.port2);
        let list = error.into_list();
        assert_eq!(port1.backlog().messages, u64::from(count));
        empty(&port2, count);
        port1.post_text_with("now", list).expect("room");
        let event = receive(&port2);
        assert_eq!(number_of(&event.take_descriptor().expect("a descriptor")), count + 1);
    }
    let name = "limits::f15_too_many_descriptors_in_flight_are_an_error_of_their_own_that_passes";
    play(name, &[("poster", poster)]);
}

/// Gives up root's privileges, by which the kernel lets any number be in flight. The root of a
/// user namespace has none.
#[allow(unsafe_code)]
fn give_up_privileges() {
    const OTHER_USER: libc::uid_t = 65534;
    if may_be_other_users() {
        // SAFETY: the call takes numbers.
        let answer = unsafe { libc::setresuid(OTHER_USER, OTHER_USER, OTHER_USER) };
        assert_eq!(answer, 0, "root may become any user");
    }
}

// Address space.

#[test]
fn what_cannot_be_mapped_now_can_be_taken_later() {
    fn victim() {
        const MIB: u64 = 1 << 20;
        let carrier = channel();
        let (large, small) = (channel(), growing());
        let buffer = Buffer::from_slice(&[7; 48 << 20]).expect("a buffer");
        let list: Vec<Transferable> = vec![large.port2.into(), small.port2.into(), buffer.into()];
        carrier.port1.post_text_with("three", list).expect("room");
        let event = receive(&carrier.port2);
        allow_more_address_space(24 * MIB);
        for _ in 0..3 {
            let error = event.take_port().expect_err("no address space");
            assert!(matches!(error, MessageError::Port(_)), "{error}");
            let error = event.take_buffer().expect_err("no address space");
            let MessageError::Buffer(BufferError::Io(refused)) = &error else {
                panic!("{error}");
            };
            assert_eq!(refused.call, "mmap");
            assert_eq!(event.transferred(), (2, 1, 0), "they are still there");
        }
        allow_all_address_space();
        // In the order of the list, whatever was tried before.
        assert_entangled(&large.port1, &event.take_port().expect("the large port"));
        assert_entangled(&small.port1, &event.take_port().expect("the small port"));
        assert_eq!(event.take_buffer().expect("a buffer")[..], [7; 48 << 20]);
    }
    play("limits::what_cannot_be_mapped_now_can_be_taken_later", &[("victim", victim)]);
}

#[test]
fn a_buffer_needs_no_more_address_space_than_it_has_bytes() {
    fn maker() {
        const MIB: usize = 1 << 20;
        allow_more_address_space(3 * MIB as u64);
        // Whole huge pages of 2 MiB would be 4 MiB.
        let mut buffer = Buffer::new(2 * MIB + 4096).expect("there is space for these bytes");
        let bytes = buffer.bytes_mut().expect("a fresh buffer");
        bytes.fill(7);
        assert_eq!(bytes.len(), 2 * MIB + 4096);
        let error = Buffer::new(4 * MIB).expect_err("there is no space for these");
        assert!(error.to_string().contains("mmap"), "{error}");
    }
    play("limits::a_buffer_needs_no_more_address_space_than_it_has_bytes", &[("maker", maker)]);
}

// Fork.

#[test]
#[allow(unsafe_code)]
fn f17_a_forked_child_that_touches_a_port_that_has_moved_faults_and_does_no_harm() {
    fn parent() {
        let MessageChannel { port1, port2 } = growing();
        let port2 = moved(port2);
        // SAFETY: the child calls nothing that could wait for a lock of another thread: it posts
        // into memory that it does not have.
        match unsafe { libc::fork() } {
            0 => {
                let _ = port2.post_bytes(b"from two producers");
                // SAFETY: it ends this process at once.
                unsafe { libc::_exit(0) }
            }
            child => {
                let mut status = 0;
                // SAFETY: the pointer is valid for the call.
                assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                assert!(libc::WIFSIGNALED(status), "the child ended by itself: {status:#x}");
                assert_eq!(libc::WTERMSIG(status), libc::SIGSEGV);
            }
        }
        assert!(port1.try_recv().expect("an open port").is_none());
        assert_entangled(&port1, &port2);
    }
    let name =
        "limits::f17_a_forked_child_that_touches_a_port_that_has_moved_faults_and_does_no_harm";
    play(name, &[("parent", parent)]);
}

// A lock that another process holds.

#[test]
fn f44_a_lock_held_on_the_memory_of_a_port_stops_no_move() {
    const TEST: &str = "limits::f44_a_lock_held_on_the_memory_of_a_port_stops_no_move";
    fn victim() {
        let parent = parent_port().expect("a port to the parent");
        let port = moved(receive(&parent).take_port().expect("a port"));
        assert_eq!(receive_text(&port), "under the lock");
        port.post_bytes(&[3; 100_000]).expect("room");
        port.close();
        drop(port);
        parent.post_text("unharmed").expect("room");
    }
    fn hostile() {
        let faults = match user_faults() {
            Ok(faults) => faults,
            Err(error) => return skip(&format!("no userfaultfd here: {error}")),
        };
        let MessageChannel { port1, port2 } = growing();
        let parts = Parts::of(port2);
        let memory = File::from(parts.duplicate(0));
        let port2 = parts.into_port().expect("a port");
        let mut worker = Worker::spawn(command(TEST, "victim")).expect("a worker");
        let lock = Lock::take(memory, faults);
        worker.port().post_text_with("locked", [port2.into()]).expect("room");
        port1.post_text("under the lock").expect("room");
        let answer = worker.port().recv_timeout(PATIENCE).map(|event| event.format());
        let held = lock.is_held();
        lock.release();
        answer.expect("the victim hangs");
        assert!(held, "the lock was given back too early, so nothing was shown");
        assert_eq!(receive(&port1).bytes(), [3; 100_000]);
        assert_eq!(receive_end(&port1), CloseReason::PeerClosed);
        assert!(worker.wait().expect("a child").success());
    }
    play(TEST, &[("hostile", hostile), ("victim", victim)]);
}

/// Keeps a socket's own lock: an option is set from a page whose fault no process answers.
fn hold_socket(socket: OwnedFd, faults: &File) -> thread::JoinHandle<()> {
    #[repr(C)]
    struct Filter {
        len: u16,
        instructions: *const u8,
    }
    let page = MmapMut::map_anon(PAGES).expect("fresh pages");
    register(faults, &page).expect("pages of our own can be watched");
    let holder = thread::spawn(move || {
        let filter = Filter { len: 1, instructions: page.as_ptr() };
        // SAFETY: both are valid for the call. It fails once the page is there: a zero is no
        // instruction to end with.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const filter).cast(),
                size_of_val(&filter) as libc::socklen_t,
            )
        };
    });
    wait_for_fault(faults);
    holder
}

#[test]
fn f40_a_socket_that_a_former_owner_keeps_locked_stops_no_move() {
    const TEST: &str = "limits::f40_a_socket_that_a_former_owner_keeps_locked_stops_no_move";
    fn victim() {
        let parent = parent_port().expect("a port to the parent");
        drop(receive(&parent));
        let port = receive(&parent).take_port().expect("a port");
        port.post_text("through the lock").expect("room");
        parent.post_text("unharmed").expect("room");
        assert_eq!(receive_end(&parent), CloseReason::PeerDropped);
    }
    fn hostile() {
        for index in [DOORBELL, ATTACHMENTS] {
            let faults = match user_faults() {
                Ok(faults) => faults,
                Err(error) => return skip(&format!("no userfaultfd here: {error}")),
            };
            let (ours, ports): (Vec<_>, Vec<_>) = (0..2)
                .map(|_| {
                    let MessageChannel { port1, port2 } = growing();
                    (port1, Parts::of(port2))
                })
                .unzip();
            let worker = Worker::spawn(command(TEST, "victim")).expect("a worker");
            let mut holders = Vec::new();
            for parts in ports {
                holders.push(hold_socket(parts.duplicate(index), &faults));
                let port = parts.into_port();
                let post = |port: MessagePort| worker.port().post_text_with("held", [port.into()]);
                post(port.expect("a port")).expect("room");
            }
            let answer = worker.port().recv_timeout(PATIENCE).map(|event| event.format());
            let held = holders.iter().all(|holder| !holder.is_finished());
            drop(faults);
            holders.into_iter().for_each(|holder| holder.join().expect("it ends"));
            answer.expect("the victim hangs");
            assert!(held, "a lock was given back too early, so nothing was shown");
            assert_eq!(receive_text(&ours[1]), "through the lock");
            let (port, mut child) = worker.into_parts();
            drop(port);
            assert!(child.wait().expect("a child").success());
        }
    }
    play(TEST, &[("hostile", hostile), ("victim", victim)]);
}

#[test]
fn f41_two_carriers_with_full_sockets_answer_instead_of_waiting_for_each_other() {
    let _watch = watch("f41_two_carriers_with_full_sockets_answer");
    let (one, two) = (narrow(), narrow());
    let counts = [&one, &two].map(|carrier| fill(&carrier.port1));
    for (carrier, other) in [(&one, &two), (&two, &one)] {
        let short = Duration::from_millis(1);
        let error = carrier.port1.post_message_with_timeout(&1u8, [token(1).into()], short);
        assert!(matches!(error.expect_err("full").reason(), PostError::Timeout));
        let error = other.port1.post_text_with("at once", [token(1).into()]);
        assert!(matches!(error.expect_err("full").reason(), PostError::QueueFull { .. }));
    }
    empty(&one.port2, counts[0]);
    empty(&two.port2, counts[1]);
    assert_entangled(&one.port1, &one.port2);
}
