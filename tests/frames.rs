//! Frames: buffers of a pool whose receiver does not trust their maker, and the other way round.

#![allow(unsafe_code)]

mod common;

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::board::Board;
use common::census::Census;
use common::limits::{allow_all_descriptors, allow_more_descriptors};
use common::role::{command, play};
use common::trusted::trust;
use common::{DEADLINE, die, receive, wait_until};
use messageport::{
    BufferPool, CloseReason, Frame, MessageChannel, MessageError, MessagePort, PoolError,
    PostError, RecvError, Worker, parent_port,
};

const LEN: usize = 10_000;

fn channel() -> MessageChannel {
    MessageChannel::new().expect("a channel")
}

fn post(pool: &BufferPool, port: &MessagePort, number: u8) {
    let mut frame = pool.take().expect("a free one");
    for (place, byte) in frame.iter_mut().enumerate() {
        *byte = number.wrapping_add(place as u8);
    }
    port.post_message_pooled(&number, frame).expect("room");
}

fn take(port: &MessagePort) -> Frame {
    receive(port).take_frame().expect("a frame")
}

fn is_refused(pool: &BufferPool, port: &MessagePort) -> bool {
    let frame = pool.take().expect("a free one");
    match port.post_message_pooled(&0u8, frame) {
        Ok(()) => false,
        Err(error) => matches!(error.reason(), PostError::PoolRefused),
    }
}

#[test]
fn frames_go_over_without_trust_and_come_back() {
    let MessageChannel { port1, port2 } = channel();
    let pool = BufferPool::for_untrusted(&port1, 2, LEN).expect("a pool");
    assert_eq!((pool.count(), pool.buffer_len(), pool.in_use()), (2, LEN, 0));
    for round in 0..100u8 {
        post(&pool, &port1, round);
        post(&pool, &port1, round.wrapping_add(1));
        assert!(matches!(pool.take(), Err(PostError::PoolInUse { count: 2 })));
        let (first, second) = (take(&port2), take(&port2));
        let expected = |number: u8| -> Vec<u8> {
            (0..LEN).map(|place| number.wrapping_add(place as u8)).collect()
        };
        assert_eq!(first.to_vec(), expected(round));
        assert_eq!(second.to_vec(), expected(round.wrapping_add(1)));
        drop((first, second));
        assert_eq!(pool.in_use(), 0);
    }
    let unused = pool.take().expect("a free one");
    drop(unused);
    post(&pool, &port1, 1);
    drop(receive(&port2));
    post(&pool, &port1, 1);
    assert!(port2.discard_next().expect("an open port"));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn every_part_of_a_frame_is_copied_as_it_is() {
    let MessageChannel { port1, port2 } = channel();
    let pool = BufferPool::for_untrusted(&port1, 1, 100).expect("a pool");
    post(&pool, &port1, 0);
    let frame = take(&port2);
    assert_eq!(frame.len(), 100);
    let mut room = [0xff; 120];
    for from in 0..=100 {
        for len in 0..=100 - from {
            for shift in 0..3 {
                room.fill(0xff);
                frame.copy_to(from, &mut room[shift..shift + len]);
                let expected = (from..from + len).map(|place| place as u8);
                assert!(room[shift..shift + len].iter().copied().eq(expected), "{from}, {len}");
                assert!(room[..shift].iter().chain(&room[shift + len..]).all(|it| *it == 0xff));
            }
        }
    }
    for (from, len) in [(0, 101), (100, 1), (usize::MAX, 1)] {
        let result = std::panic::catch_unwind(|| frame.copy_to(from, &mut vec![0; len]));
        assert!(result.is_err(), "{len} bytes from {from} on");
    }
}

#[test]
fn what_is_no_frame_is_not_taken_as_one() {
    let MessageChannel { port1, port2 } = channel();
    let frames = BufferPool::for_untrusted(&port1, 1, LEN).expect("a pool");
    let refused = BufferPool::for_untrusted(&port1, 1025, 1);
    assert!(matches!(refused, Err(PoolError::TooManyFrames { max: 1024, .. })), "{refused:?}");
    post(&frames, &port1, 3);
    let event = receive(&port2);
    let error = event.take_pooled().expect_err("it is a frame, which others can write");
    assert!(error.to_string().contains("but a frame"), "{error}");
    let frame = event.take_frame().expect("it is still there");
    let left = event.take_frame();
    assert!(matches!(left, Err(MessageError::NothingLeft { .. })), "{left:?}");
    drop((event, frame));
    // Between ends that trust each other there are both, and a buffer can be read as a frame.
    trust(&port1);
    trust(&port2);
    let pool = BufferPool::new(&port1, 1, LEN).expect("a pool");
    post(&pool, &port1, 4);
    assert_eq!(take(&port2).to_vec()[0], 4);
    post(&frames, &port1, 5);
    assert_eq!(take(&port2).to_vec()[0], 5);
    // Frames are not passed on.
    let other = channel();
    trust(&other.port1);
    let error = other.port1.post_message_pooled(&0u8, frames.take().expect("free"));
    let error = error.expect_err("their maker's files are not for others");
    assert!(matches!(error.reason(), PostError::ForeignPool), "{error}");
}

#[test]
fn a_receiver_that_cannot_have_the_frames_says_so() {
    const TEST: &str = "a_receiver_that_cannot_have_the_frames_says_so";
    fn alone() {
        let before = Census::take();
        let MessageChannel { port1, port2 } = channel();
        // Four of one port, and no more.
        let pools = [(); 6].map(|()| BufferPool::for_untrusted(&port1, 1, LEN).expect("a pool"));
        for (number, pool) in pools.iter().enumerate() {
            if number < 4 {
                post(pool, &port1, 1);
                drop(take(&port2));
            } else {
                assert!(is_refused(pool, &port1), "pool {number}");
                let kept = pool.take().expect("the only one");
                assert!(matches!(pool.take(), Err(PostError::PoolRefused)));
                drop(kept);
            }
            assert_eq!(pool.in_use(), 0);
        }
        drop((pools, port1, port2));
        before.wait_for("after six pools");
        // One that receives no transferables.
        let MessageChannel { port1, port2 } = channel();
        port2.refuse_transfers();
        let pool = BufferPool::for_untrusted(&port1, 2, LEN).expect("a pool");
        post(&pool, &port1, 1);
        let unknown = receive(&port2).take_frame();
        assert!(matches!(unknown, Err(MessageError::UnknownPool)), "{unknown:?}");
        assert!(is_refused(&pool, &port1));
        drop((pool, port1, port2));
        before.wait_for("after one that was refused");
        // One without descriptors.
        let MessageChannel { port1, port2 } = channel();
        let pool = BufferPool::for_untrusted(&port1, 2, LEN).expect("a pool");
        post(&pool, &port1, 1);
        allow_more_descriptors(1);
        let unknown = loop {
            match port2.try_recv() {
                Ok(event) => break event.expect("a message").take_frame(),
                Err(RecvError::OutOfDescriptors { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        };
        assert!(matches!(unknown, Err(MessageError::UnknownPool)), "{unknown:?}");
        allow_all_descriptors();
        assert!(is_refused(&pool, &port1));
        drop((pool, port1, port2));
        before.wait_for("after one without descriptors");
    }
    play(TEST, &[("alone", alone)]);
}

#[test]
fn a_port_with_frames_of_a_peer_moves_without_them() {
    let (carrier, MessageChannel { port1, port2 }) = (channel(), channel());
    let pool = BufferPool::for_untrusted(&port1, 3, LEN).expect("a pool");
    post(&pool, &port1, 1);
    let kept = take(&port2);
    post(&pool, &port1, 2);
    // A hostile peer must not be able to hold a port in its place.
    carrier.port1.post_text_with("go", [port2.into()]).expect("it moves");
    let moved = receive(&carrier.port2).take_port().expect("a port");
    let event = receive(&moved);
    assert_eq!(event.data::<u8>().expect("a number"), &2);
    let unknown = event.take_frame();
    assert!(matches!(unknown, Err(MessageError::UnknownPool)), "{unknown:?}");
    assert!(is_refused(&pool, &port1));
    assert_eq!(kept.to_vec()[..3], [1, 2, 3], "a frame outlives its port");
}

#[test]
fn frames_of_a_dead_peer_are_no_wait_without_end() {
    const TEST: &str = "frames_of_a_dead_peer_are_no_wait_without_end";
    fn takes_and_dies() {
        let board = Board::given();
        let port = parent_port().expect("a port");
        let _frame = take(&port);
        board.word(0).store(1, SeqCst);
        wait_until("the parent waits", || board.word(0).load(SeqCst) == 2);
        die();
    }
    fn waits() {
        let before = Census::take();
        let board = Board::new();
        let mut child = command(TEST, "takes_and_dies");
        board.give(&mut child);
        let worker = Worker::spawn(child).expect("a worker");
        let pool = BufferPool::for_untrusted(worker.port(), 1, LEN).expect("a pool");
        post(&pool, worker.port(), 3);
        wait_until("the child has it", || board.word(0).load(SeqCst) == 1);
        let waited = pool.take_timeout(Duration::from_millis(1));
        assert!(matches!(waited, Err(PostError::Timeout)), "{waited:?}");
        board.word(0).store(2, SeqCst);
        let end = pool.take_timeout(DEADLINE);
        let died = CloseReason::PeerDied;
        assert!(matches!(end, Err(PostError::Closed { reason }) if reason == died), "{end:?}");
        drop((pool, worker, board));
        before.wait_for("at the end");
    }
    play(TEST, &[("waits", waits), ("takes_and_dies", takes_and_dies)]);
}
