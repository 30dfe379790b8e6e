//! A port as a stream of bytes: what is written is read, and the end says whether all of it came.

mod common;

use std::fs::File;
use std::io::{BufRead, BufWriter, ErrorKind, Read, Write, copy};
use std::thread;
use std::time::Duration;

use common::limits::{allow_all_address_space, allow_more_address_space};
use common::messages::Rng;
use common::role::{command, play};
use common::watchdog::watch;
use common::{receive, receive_end};
use messageport::{
    CloseReason, MessageChannel, MessageError, PostError, RecvError, Worker, parent_port,
};

fn small() -> MessageChannel {
    MessageChannel::builder().capacity(4096).bounded().build().expect("a channel")
}

fn data(len: usize) -> Vec<u8> {
    let mut rng = Rng(11);
    (0..len).map(|_| rng.below(256) as u8).collect()
}

/// Through another process that copies, in pieces of other sizes, and a ring that is full mostly.
#[test]
fn what_is_written_is_read_whatever_the_pieces() {
    const TEST: &str = "what_is_written_is_read_whatever_the_pieces";
    const LEN: usize = 1 << 20;
    fn copies() {
        let port = parent_port().expect("a port to the parent");
        let count = copy(&mut port.reader(), &mut BufWriter::with_capacity(333, port.writer()));
        assert_eq!(count.expect("open until the end"), LEN as u64);
    }
    fn compares() {
        let builder = MessageChannel::builder().capacity(4096).bounded();
        let worker = Worker::spawn_with(command(TEST, "copies"), builder).expect("a worker");
        let (port, mut process) = worker.split();
        let (sender, receiver) = port.split();
        let writing = thread::spawn(move || {
            let (all, mut rng) = (data(LEN), Rng(3));
            let mut rest = &all[..];
            while !rest.is_empty() {
                let len = rest.len().min(rng.below(5_000) as usize);
                sender.writer().write_all(&rest[..len]).expect("room, after a while");
                rest = &rest[len..];
            }
        });
        let mut all = Vec::new();
        receiver.reader().read_to_end(&mut all).expect("open until the end");
        assert!(all == data(LEN));
        writing.join().expect("no panic");
        assert!(process.wait().expect("a child").success());
    }
    play(TEST, &[("compares", compares), ("copies", copies)]);
}

#[test]
fn a_read_returns_bytes_of_one_message_and_skips_empty_ones() {
    let MessageChannel { port1, port2 } = small();
    port1.post_bytes(b"").expect("room");
    port1.post_bytes(b"one").expect("room");
    port1.post_text("").expect("room");
    port1.post_text("two\nand three\n").expect("room");
    let mut reader = port2.reader();
    let mut buffer = [0; 100];
    assert_eq!(reader.read(&mut []).expect("nothing is asked for"), 0);
    assert_eq!(reader.read(&mut buffer[..2]).expect("a message"), 2);
    assert_eq!(reader.read(&mut buffer[2..]).expect("a message"), 1);
    assert_eq!(&buffer[..3], b"one");
    let mut line = String::new();
    assert_eq!(reader.read_line(&mut line).expect("a message"), 4);
    // What is left of a message is lost with the reader; the next message is not.
    drop(reader);
    port1.post_bytes(b"last").expect("room");
    port1.close();
    let mut reader = port2.reader();
    assert_eq!(reader.fill_buf().expect("a message"), b"last");
    reader.consume(1_000);
    for _ in 0..3 {
        assert_eq!(reader.read(&mut buffer).expect("the end"), 0);
    }
    assert_eq!(receive_end(&port2), CloseReason::PeerClosed);
}

#[test]
fn a_write_posts_one_message_of_at_most_64_kib() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let mut writer = port1.writer();
    assert_eq!(writer.write(b"").expect("nothing is asked for"), 0);
    assert_eq!(writer.write(&[7; 100_000]).expect("room"), 64 << 10);
    writer.flush().expect("it does nothing");
    assert_eq!(receive(&port2).bytes().len(), 64 << 10);
    assert!(port2.try_recv().expect("an open port").is_none(), "nothing was posted for nothing");
    // One of a small channel is as long as its largest message.
    let MessageChannel { port1, port2 } = small();
    let count = port1.writer().write(&[7; 100_000]).expect("room");
    assert_eq!((count, receive(&port2).bytes().len()), (port1.max_message_len(), count));
}

#[test]
fn an_archive_and_a_refused_message_are_errors_and_the_next_ones_are_read() {
    let MessageChannel { port1, port2 } = small();
    port2.refuse_transfers();
    port1.post_message(&7u64).expect("room");
    let file = File::open("/dev/null").expect("a file");
    port1.post_bytes_with(b"a file", [file.into()]).expect("room");
    port1.post_bytes(b"rest").expect("room");
    drop(port1);
    let mut reader = port2.reader();
    let error = reader.read(&mut [0; 8]).expect_err("an archive");
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    let inner = error.get_ref().and_then(|error| error.downcast_ref::<MessageError>());
    assert!(matches!(inner, Some(MessageError::Format { .. })), "{inner:?}");
    let error = reader.read(&mut [0; 8]).expect_err("it was refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).expect("the end");
    assert_eq!(rest, b"rest");
}

#[test]
fn a_canceller_and_a_timeout_end_reads_and_writes() {
    let _watch = watch("a_canceller_and_a_timeout_end_reads_and_writes");
    let MessageChannel { port1, port2 } = small();
    let quick = Duration::from_millis(1);
    let error = port2.reader().timeout(quick).read(&mut [0; 8]).expect_err("nothing comes");
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    port2.canceller().expect("a canceller").cancel();
    // These would try again if it were `Interrupted`.
    let error = port2.reader().read_to_end(&mut Vec::new()).expect_err("it was cancelled");
    let inner = error.get_ref().and_then(|error| error.downcast_ref::<RecvError>());
    assert!(matches!(inner, Some(RecvError::Cancelled)), "{error:?}");
    while port1.post_bytes(&[1; 700]).is_ok() {}
    let error = port1.writer().timeout(quick).write(&[1; 700]).expect_err("there is no room");
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    port1.canceller().expect("a canceller").cancel();
    let error = port1.writer().write_all(&[1; 700]).expect_err("it was cancelled");
    let inner = error.get_ref().and_then(|error| error.downcast_ref::<PostError>());
    assert!(matches!(inner, Some(PostError::Cancelled)), "{error:?}");
    drop(port2);
    let error = port1.writer().write(b"late").expect_err("the end");
    assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");
}

/// The stream of a writer that was killed does not end as if it were whole.
#[test]
fn a_stream_whose_writer_was_killed_is_cut_off() {
    const TEST: &str = "a_stream_whose_writer_was_killed_is_cut_off";
    fn writes() {
        let port = parent_port().expect("a port to the parent");
        port.writer().write_all(b"the first half").expect("room");
        common::die();
    }
    fn reads() {
        let worker = Worker::spawn(command(TEST, "writes")).expect("a worker");
        let mut all = Vec::new();
        let error = worker.port().reader().read_to_end(&mut all).expect_err("it is cut off");
        assert_eq!((error.kind(), &all[..]), (ErrorKind::UnexpectedEof, &b"the first half"[..]));
        let inner = error.get_ref().and_then(|error| error.downcast_ref::<RecvError>());
        let reason = CloseReason::PeerDied;
        assert!(matches!(inner, Some(RecvError::Closed { reason: it }) if *it == reason));
    }
    play(TEST, &[("reads", reads), ("writes", writes)]);
}

#[test]
fn a_message_that_there_is_no_memory_for_stays_and_is_read_later() {
    const TEST: &str = "a_message_that_there_is_no_memory_for_stays_and_is_read_later";
    /// More than glibc has reserved for a thread.
    const LEN: usize = 66 << 20;
    fn reads() {
        let builder = MessageChannel::builder().limit(256 << 20);
        let MessageChannel { port1, port2 } = builder.build().expect("a channel");
        port1.post_bytes(&vec![7; LEN]).expect("room");
        drop(port1);
        let (mut reader, mut all) = (port2.reader(), Vec::with_capacity(LEN + 100));
        allow_more_address_space(LEN as u64 / 4);
        let refused = reader.read(&mut [0; 8]);
        allow_all_address_space();
        let error = refused.expect_err("there is no memory");
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
        reader.read_to_end(&mut all).expect("there is memory now");
        assert!(all == vec![7; LEN]);
    }
    play(TEST, &[("reads", reads)]);
}

/// An iterator that has ended stays so, whatever comes.
#[test]
fn an_iterator_that_has_ended_stays_so() {
    let MessageChannel { port1, port2 } = small();
    let mut messages = port2.iter();
    port2.canceller().expect("a canceller").cancel();
    assert!(messages.next().is_none());
    port1.post_text("later").expect("room");
    assert!(messages.next().is_none());
    let port2 = port2.typed::<u8, ()>();
    let mut messages = port2.iter();
    assert!(messages.next().expect("a message").is_err());
    port2.port().canceller().expect("a canceller").cancel();
    assert!(messages.next().is_none());
    port1.post_message(&1u8).expect("room");
    assert!(messages.next().is_none());
    assert!(port2.iter().next().is_some());
}

/// Unlike an iterator that waits, one over what is there goes on, as that of the standard library's
/// channel does.
#[test]
fn an_iterator_over_what_is_there_finds_what_comes_after_its_end() {
    let MessageChannel { port1, port2 } = small();
    let mut messages = port2.try_iter();
    for _ in 0..3 {
        assert!(messages.next().is_none());
        port1.post_text("later").expect("room");
        assert!(messages.next().is_some() && messages.next().is_none());
    }
    drop(messages);
    let port2 = port2.typed::<u8, ()>();
    let mut messages = port2.try_iter();
    for number in 0..3u8 {
        assert!(messages.next().is_none());
        port1.post_message(&number).expect("room");
        assert_eq!(*messages.next().expect("a message").expect("a number").data(), number);
    }
}
