//! Small buffers, which move in the record of their message.

use crate::common::census::Census;
use crate::common::limits::limit_to;
use crate::common::role::{command, play, skip};
use crate::common::trusted::{trust, trusted_channel};
use crate::common::{receive, receive_end};
use crate::filter::{When, answer};
use crate::{channel, moved, number_of, token};
use messageport::{
    Buffer, CloseReason, MessageChannel, MessageError, MessageEvent, PortSet, PostError,
    Transferable, Worker, parent_port,
};
use nix::sys::resource::Resource;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

const LENGTHS: [usize; 8] = [0, 1, 3, 15, 16, 17, 4095, 4096];

fn pattern(len: usize, number: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + number * 7) as u8).collect()
}

fn buffer(len: usize, number: usize) -> Buffer {
    Buffer::from_slice(&pattern(len, number)).expect("memory")
}

fn list(lens: &[usize]) -> Vec<Transferable> {
    lens.iter().enumerate().map(|(number, len)| buffer(*len, number).into()).collect()
}

/// The next message has these buffers, sealed, and no descriptors.
#[track_caller]
fn assert_taken(event: &MessageEvent<'_>, lens: &[usize]) {
    assert_eq!(event.transferred(), (0, lens.len(), 0));
    for (number, len) in lens.iter().enumerate() {
        let mut taken = event.take_buffer().expect("a buffer");
        assert!(*taken == *pattern(*len, number), "buffer {number} of {len} bytes");
        assert!(taken.is_sealed() && taken.bytes_mut().is_err());
        assert!(taken.as_ptr().addr().is_multiple_of(16), "aligned as any payload is");
    }
    assert!(matches!(event.take_buffer(), Err(MessageError::NothingLeft { .. })));
}

#[test]
fn small_buffers_arrive_in_order_behind_messages_of_every_length_and_form() {
    let lists: [&[usize]; 5] = [&[1], &[0], &LENGTHS, &[0; 64], &[200; 64]];
    for MessageChannel { port1, port2 } in [channel(), trusted_channel()] {
        for len in [0, 1, 8, 9, 16, 1000, 40_000, 300_000] {
            let bytes = pattern(len, 99);
            for lens in lists {
                port1.post_bytes_with(&bytes, list(lens)).expect("room");
                let next = port2.peek().expect("open").expect("a message");
                assert_eq!((next.len(), next.descriptors()), (len, 0));
                let copy = port2.peek_message().expect("open").expect("a message");
                assert!(*copy.bytes() == bytes);
                let event = receive(&port2);
                assert!(*event.bytes() == *bytes, "{len} bytes");
                assert_taken(&event, lens);
                drop(event);

                port1.post_message_with(&bytes, list(lens)).expect("room");
                assert_eq!(port2.peek().expect("open").expect("a message").descriptors(), 0);
                let event = receive(&port2);
                assert!(*event.data::<Vec<u8>>().expect("bytes") == *bytes);
                assert_taken(&event, lens);
                drop(event);
            }
        }
        port1.post_message_with(&7u64, list(&[5])).expect("room");
        port1.post_text_with("seven", list(&[6])).expect("room");
        let (first, second) = (receive(&port2), receive(&port2));
        assert_eq!(first.data::<u64>().expect("a number").to_native(), 7);
        assert_eq!(second.text().expect("a text"), "seven");
        assert_taken(&second, &[6]);
        assert_taken(&first, &[5]);
    }
}

#[test]
fn small_buffers_cost_no_call_of_the_kernel() {
    fn limited() {
        let before = Census::take();
        let MessageChannel { port1, port2 } = channel();
        port1.post_text("the first fence of the process").expect("room");
        drop(receive(&port2));
        for call in [libc::SYS_memfd_create, libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_mmap] {
            if let Err(error) = answer(call, When::Always, libc::EPERM) {
                return skip(&format!("no seccomp filter here: {error}"));
            }
        }
        assert!(Buffer::new(4097).is_err(), "that one takes a file");
        for _ in 0..100 {
            port1.post_message_with(&3u32, list(&LENGTHS)).expect("room");
            assert_taken(&receive(&port2), &LENGTHS);
        }
        // Without a descriptor there is none to look at, and the buffer is as before.
        let mut sealed = buffer(100, 1);
        sealed.seal().expect("nothing to ask for");
        assert!(sealed.as_fd().is_none());
        let error = port1.post_text_with("both", [sealed.into(), token(5).into()]);
        let (reason, list) = error.expect_err("no file").into_parts();
        assert!(matches!(reason, PostError::Io(_)), "{reason}");
        let [Transferable::Buffer(sealed), _] = &list[..] else { panic!("{list:?}") };
        assert!(**sealed == *pattern(100, 1));
        drop((port1, port2, list));
        before.wait_for("at the end");
    }
    play("small::small_buffers_cost_no_call_of_the_kernel", &[("limited", limited)]);
}

#[test]
fn a_small_buffer_has_a_descriptor_where_files_may_be_as_long() {
    fn limited() {
        let [mut fits, mut too_long] = [buffer(4095, 1), buffer(4096, 2)];
        fits.seal().expect("nothing to ask for");
        too_long.seal().expect("nothing to ask for");
        limit_to(Resource::RLIMIT_FSIZE, 4095);
        assert!(fits.as_fd().is_some());
        assert!(too_long.as_fd().is_none(), "asking the kernel would be a signal");
        assert!(*fits == *pattern(4095, 1) && *too_long == *pattern(4096, 2));
        limit_to(Resource::RLIMIT_FSIZE, 4096);
        assert!(too_long.as_fd().is_some(), "it can be asked for again");
        // What this process says in the end may go to a file.
        limit_to(Resource::RLIMIT_FSIZE, u64::MAX);
    }
    const TEST: &str = "small::a_small_buffer_has_a_descriptor_where_files_may_be_as_long";
    play(TEST, &[("limited", limited)]);
}

#[test]
fn small_buffers_beside_other_things_or_too_many_of_them_move_by_a_packet() {
    let MessageChannel { port1, port2 } = channel();
    let mixed = vec![buffer(10, 0).into(), token(6).into(), buffer(5000, 1).into()];
    port1.post_message_with(&1u8, mixed).expect("room");
    assert_eq!(port2.peek().expect("open").expect("a message").descriptors(), 3);
    let event = receive(&port2);
    let (first, second) = (event.take_buffer(), event.take_buffer());
    assert!(*first.expect("a buffer") == *pattern(10, 0));
    assert!(*second.expect("a buffer") == *pattern(5000, 1));
    assert_eq!(number_of(&event.take_descriptor().expect("a descriptor")), 6);
    drop(event);
    // Four of the largest have more than 16 KiB with their lengths.
    for (lens, descriptors) in [(vec![4096; 3], 0), (vec![4096; 4], 4), (vec![4097], 1)] {
        port1.post_message_with(&1u8, list(&lens)).expect("room");
        assert_eq!(port2.peek().expect("open").expect("one").descriptors(), descriptors);
        assert_taken(&receive(&port2), &lens);
    }
}

#[test]
fn a_message_that_leaves_no_room_for_them_is_posted_as_before() {
    let MessageChannel { port1, port2 } =
        MessageChannel::builder().capacity(4096).bounded().build().expect("a channel");
    let most = port1.max_message_len();
    for len in [most, most - 100, most - 108, most - 120, 0] {
        let bytes = pattern(len, 3);
        port1.post_bytes_with(&bytes, list(&[100])).expect("as much room as without it");
        let event = receive(&port2);
        assert!(*event.bytes() == *bytes);
        assert_taken(&event, &[100]);
        drop(event);
        port1
            .post_message_with(&bytes[..len.saturating_sub(8)].to_vec(), list(&[100]))
            .expect("room");
        assert_taken(&receive(&port2), &[100]);
    }
    // Filled by messages with buffers, until one is refused: all of its list comes back.
    let mut posted = 0;
    let (reason, mut rest) = loop {
        match port1.post_message_with(&posted, list(&[300, 20])) {
            Ok(()) => posted += 1,
            Err(error) => break error.into_parts(),
        }
    };
    assert!(matches!(reason, PostError::QueueFull { is_socket: false, .. }), "{reason}");
    for number in 0..posted {
        let event = receive(&port2);
        assert_eq!(event.data::<i32>().expect("a number").to_native(), number);
        assert_taken(&event, &[300, 20]);
    }
    assert_eq!(rest.len(), 2);
    rest.push(buffer(7, 2).into());
    port1.post_text_with("the same ones", rest).expect("room again");
    assert_taken(&receive(&port2), &[300, 20, 7]);
}

#[test]
fn a_small_buffer_is_passed_on_cloned_and_made_private() {
    let MessageChannel { port1, port2 } = channel();
    let mut first = buffer(1000, 4);
    first.seal().expect("nothing to ask for");
    let second = first.clone();
    assert_eq!(first.as_ptr(), second.as_ptr(), "one memory");
    let mut private = second.clone().into_mut().expect("memory");
    private.fill(0);
    port1.post_text_with("both", [first.into(), second.into()]).expect("room");
    let event = receive(&port2);
    for buffer in event.take_buffers().expect("two") {
        assert!(*buffer == *pattern(1000, 4));
        port2.post_text_with("on", [buffer.clone().into(), buffer.into()]).expect("room");
        for buffer in receive(&port1).take_buffers().expect("two") {
            assert!(*buffer == *pattern(1000, 4));
            let mut private = buffer.into_mut().expect("memory");
            private.reverse();
            private.reverse();
            assert!(*private == *pattern(1000, 4));
        }
    }
    let archived = Buffer::archive(&vec![String::from("one"), String::from("two")]);
    port1.post_text_with("strings", [archived.expect("memory").into()]).expect("room");
    drop(event);
    let event = receive(&port2);
    let strings = event.take_buffer().expect("a buffer");
    for _ in 0..2 {
        assert_eq!(strings.access::<Vec<String>>().expect("strings")[1], "two");
        assert!(strings.access::<u128>().is_err());
    }
}

#[test]
fn the_descriptor_of_a_small_buffer_is_made_when_it_is_asked_for() {
    let MessageChannel { port1, port2 } = channel();
    port1.post_text_with("it", list(&[500])).expect("room");
    let taken = receive(&port2).take_buffer().expect("a buffer");
    let copy = taken.as_fd().expect("memory").try_clone_to_owned().expect("a descriptor");
    let file = File::from(copy);
    let mut bytes = Vec::new();
    (&file).read_to_end(&mut bytes).expect("a file from its start");
    assert_eq!(bytes, pattern(500, 0));
    assert!(file.write_at(b"x", 0).is_err() && file.set_len(1).is_err(), "sealed");
    let again = Buffer::from_fd(&file).expect("a sealed file");
    assert!(*again == *pattern(500, 0));
    // Both move: one in its record, the other as the descriptor that it was made of.
    port1.post_text_with("on", [taken.into()]).expect("room");
    port1.post_text_with("on", [again.into()]).expect("room");
    for descriptors in [0, 1] {
        assert_eq!(port2.peek().expect("open").expect("one").descriptors(), descriptors);
        assert!(*receive(&port2).take_buffer().expect("a buffer") == *pattern(500, 0));
    }
}

#[test]
fn a_port_that_refuses_transferables_refuses_small_buffers() {
    let MessageChannel { port1, port2 } = channel();
    port2.refuse_transfers();
    for len in [0, 5, 100_000] {
        port1.post_bytes_with(&pattern(len, 1), list(&[3, 4])).expect("it does not know");
        let event = receive(&port2);
        assert!(event.bytes().is_empty());
        for answer in [event.take_buffer().map(drop), event.take_buffers().map(drop)] {
            let refused = answer.expect_err("refused");
            assert!(matches!(refused, MessageError::TransfersRefused { descriptors: 2 }));
        }
        drop(event);
        port1.post_text("plain").expect("room");
        assert_eq!(receive(&port2).text().expect("a text"), "plain");
    }
}

#[test]
fn unread_small_buffers_move_with_their_port_and_are_kept_or_dropped_with_their_message() {
    let MessageChannel { port1, port2 } = channel();
    for number in 0..4 {
        port1.post_message_with(&number, list(&[number as usize, 9])).expect("room");
    }
    let port2 = moved(port2);
    assert!(port2.discard_next().expect("open"));
    drop(receive(&port2));
    let owned = receive(&port2).into_message();
    port1.close();
    let event = receive(&port2);
    assert_taken(&event, &[3, 9]);
    drop(event);
    assert_eq!(receive_end(&port2), CloseReason::PeerClosed);
    drop(port2);
    assert_eq!(owned.transferred(), (0, 2, 0));
    assert!(*owned.take_buffer().expect("a buffer") == *pattern(2, 0));
    assert_eq!(owned.data::<i32>().expect("a number").to_native(), 2);
}

#[test]
fn small_buffers_outlive_a_sender_that_is_killed() {
    const TEST: &str = "small::small_buffers_outlive_a_sender_that_is_killed";
    fn sender() {
        let port = parent_port().expect("a port to the parent");
        trust(&port);
        for number in 0.. {
            // Until it is killed, somewhere in the middle of a post.
            match port.post_message_with(&number, list(&[number as usize % 4097, 16])) {
                Ok(()) => {}
                Err(error) => assert!(matches!(error.reason(), PostError::QueueFull { .. })),
            }
        }
    }
    fn receiver() {
        let before = Census::take();
        let mut worker = Worker::spawn(command(TEST, "sender")).expect("a worker");
        let mut count = 0;
        while let Ok(event) = worker.port().recv() {
            let number = event.data::<i32>().expect("a number").to_native();
            assert_taken(&event, &[number as usize % 4097, 16]);
            count += 1;
            if count == 100 {
                drop(event);
                kill(Pid::from_raw(worker.id() as i32), Signal::SIGKILL).expect("a child");
            }
        }
        assert!(count >= 100, "{count} messages");
        worker.wait().expect("a child");
        drop(worker);
        before.wait_for("at the end");
    }
    play(TEST, &[("receiver", receiver), ("sender", sender)]);
}

/// A long message comes out of an untrusted port in chunks, and its buffers only with the last one.
#[test]
fn small_buffers_behind_a_message_that_is_copied_in_chunks_arrive_with_it() {
    let bytes = pattern(3 << 20, 5);
    let MessageChannel { port1, port2 } = channel();
    let mut set = PortSet::new().expect("a set");
    let id = set.add(port2).expect("room");
    let post = |lens: &[usize]| port1.post_bytes_with(&bytes, list(lens)).expect("room");
    for lens in [&[4096, 0, 17][..], &[200; 64]] {
        post(lens);
        let (_, event) = set.recv().expect("a turn");
        let event = event.expect("a message");
        assert!(*event.bytes() == *bytes);
        assert_taken(&event, lens);
    }
    // Discarded, and moved, after some of its chunks.
    post(&[1]);
    post(&[2, 3]);
    drop(set.try_recv().expect("a turn"));
    let port2 = set.remove(id).expect("a member");
    let port2 = moved(port2);
    port1.post_text_with("the last one", list(&[4])).expect("room");
    let mut count = 0;
    while port2.peek().expect("open").is_some_and(|next| next.len() > 100) {
        let event = receive(&port2);
        assert!(*event.bytes() == *bytes);
        assert!(event.transferred().1 > 0);
        count += 1;
    }
    assert!((1..=2).contains(&count), "{count} of two, of which the set may have taken one");
    assert_taken(&receive(&port2), &[4]);
}

#[test]
fn every_refusal_gives_small_buffers_back_and_can_be_repeated() {
    let MessageChannel { port1, port2 } =
        MessageChannel::builder().capacity(4096).bounded().build().expect("a channel");
    let too_long = vec![1; port1.max_message_len() + 1];
    // Refusals do not add up: the room that is tried for a value has a bound.
    for _ in 0..50 {
        let error = port1.post_message_with(&1u8, list(&[1; 65])).expect_err("too many");
        let (reason, back) = error.into_parts();
        assert!(matches!(reason, PostError::TooManyTransferables { transferables: 65, .. }));
        assert_eq!(back.len(), 65);
        let error = port1.post_bytes_with(&too_long, list(&LENGTHS)).expect_err("too long");
        let (reason, back) = error.into_parts();
        assert!(matches!(reason, PostError::TooLarge { .. }), "{reason}");
        let error = port1.post_message_with(&too_long, back).expect_err("too long");
        let (reason, back) = error.into_parts();
        assert!(matches!(reason, PostError::TooLarge { .. }), "{reason}");
        let loan = port1.loan(10).expect("room");
        let (reason, back) = port1.post_text_with("one", back).expect_err("in use").into_parts();
        assert!(matches!(reason, PostError::Busy), "{reason}");
        drop(loan);
        port1.post_text_with("one", back).expect("room");
        assert_taken(&receive(&port2), &LENGTHS[..]);
        port1.post_message(&7u64).expect("room");
        assert_eq!(receive(&port2).data::<u64>().expect("a number").to_native(), 7);
    }
    port2.close();
    let (reason, back) = port1.post_text_with("late", list(&LENGTHS)).expect_err("no").into_parts();
    assert!(matches!(reason, PostError::Closed { reason: CloseReason::PeerClosed }), "{reason}");
    assert_eq!(back.len(), LENGTHS.len());
}

#[test]
fn a_buffer_without_bytes_is_aligned_however_it_has_come() {
    let MessageChannel { port1, port2 } = channel();
    let empty = || Buffer::archive(&[0u64; 0]).expect("memory");
    assert_eq!(empty().len(), 0);
    port1.post_text_with("in the record", [empty().into()]).expect("room");
    port1.post_text_with("in a packet", [empty().into(), token(1).into()]).expect("room");
    for _ in 0..2 {
        let taken = receive(&port2).take_buffer().expect("a buffer");
        assert!(taken.as_ptr().addr().is_multiple_of(16), "{:?}", taken.as_ptr());
        assert_eq!(taken.access::<[u64; 0]>().expect("an array of none").len(), 0);
    }
}
