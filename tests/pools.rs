//! Pools: buffers that are mapped at both ends of a trusted channel, and always come back.

#![allow(unsafe_code)]

mod common;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use common::board::Board;
use common::census::Census;
use common::limits::{
    allow_all_address_space, allow_all_descriptors, allow_more_address_space,
    allow_more_descriptors, limit_to,
};
use common::role::{command, play};
use common::trusted::{trust, trusted_channel as channel};
use common::watchdog::watch;
use common::{DEADLINE, die, receive, receive_text, wait_until};
use messageport::{
    BufferError, BufferPool, CloseReason, EventLoop, MessageChannel, MessageError, MessagePort,
    PoolError, PooledBuffer, PostError, RecvError, Transferable, Worker, parent_port,
};

use nix::sys::resource::Resource;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

const LEN: usize = 10_000;

fn hand_over(port: &MessagePort, number: u64, mut buffer: PooledBuffer) {
    buffer.fill(number as u8);
    port.post_message_pooled(&number, buffer).expect("room");
}

fn take(port: &MessagePort) -> (u64, PooledBuffer) {
    let event = receive(port);
    (event.data::<u64>().expect("a number").to_native(), event.take_pooled().expect("a buffer"))
}

#[test]
fn buffers_go_over_with_their_bytes_and_come_back() {
    let MessageChannel { port1, port2 } = channel();
    let pool = BufferPool::new(&port1, 3, LEN).expect("a pool");
    assert_eq!((pool.count(), pool.buffer_len(), pool.in_use()), (3, LEN, 0));
    let backlog = port1.backlog();
    assert_eq!((backlog.messages, port1.stats().sent.messages), (0, 0), "a pool is no message");
    assert!(port2.try_recv().expect("open").is_none(), "a pool is no message");
    assert_eq!(port2.stats().received.messages, 0, "a pool is no message");
    for round in 0..100u64 {
        hand_over(&port1, round, pool.take().expect("a free one"));
        hand_over(&port1, round + 1, pool.take().expect("a free one"));
        port1.post_text("between").expect("room");
        let (first, bytes) = take(&port2);
        assert_eq!((first, bytes.len()), (round, LEN));
        assert!(bytes.iter().all(|byte| *byte == round as u8));
        let (second, other) = take(&port2);
        assert_eq!((second, other[LEN - 1]), (round + 1, (round + 1) as u8));
        assert_eq!(pool.in_use(), 2);
        drop((bytes, other));
        assert_eq!(pool.in_use(), 0);
        assert_eq!(receive_text(&port2), "between");
    }
}

#[test]
fn the_first_free_buffer_is_taken_so_that_its_memory_is_warm() {
    let MessageChannel { port1, port2 } = channel();
    let pool = BufferPool::new(&port1, 40, LEN).expect("a pool");
    let first = pool.take().expect("a free one").as_ptr();
    for round in 0..100 {
        let buffer = pool.take().expect("a free one");
        assert_eq!(
            buffer.as_ptr(),
            first,
            "round {round}: it came back, and nothing else was used"
        );
        hand_over(&port1, round, buffer);
        drop(take(&port2));
    }
    // All of them at once are different ones; whichever comes back is the next to be taken.
    let mut all: Vec<_> = (0..40).map(|_| pool.take().expect("a free one")).collect();
    let mut places: Vec<_> = all.iter().map(|buffer| buffer.as_ptr()).collect();
    places.sort();
    places.dedup();
    assert_eq!((places.len(), pool.in_use()), (40, 40));
    for index in [17, 36, 33] {
        let back = all.remove(index);
        let place = back.as_ptr();
        hand_over(&port1, 17, back);
        assert!(pool.take().is_err(), "it is under way");
        drop(take(&port2));
        let again = pool.take().expect("it came back");
        assert_eq!(again.as_ptr(), place);
        all.insert(index, again);
    }
}

#[test]
fn an_empty_pool_says_so_or_waits() {
    let _watch = watch("an_empty_pool_says_so_or_waits");
    let MessageChannel { port1, port2 } = channel();
    let pool = BufferPool::new(&port1, 2, LEN).expect("a pool");
    for round in 0..200 {
        hand_over(&port1, round, pool.take().expect("a free one"));
        let kept = pool.take().expect("a free one");
        let error = pool.take().expect_err("all are in use");
        assert!(matches!(error, PostError::PoolInUse { count: 2 }), "{error}");
        let timeout = pool.take_timeout(Duration::ZERO);
        assert!(matches!(timeout, Err(PostError::Timeout)), "{timeout:?}");
        let (_, bytes) = take(&port2);
        // Given back by another thread, while this one waits.
        let giver = thread::spawn(move || drop(bytes));
        let waited = pool.take_timeout(DEADLINE).expect("it comes back");
        giver.join().expect("it only drops");
        drop((kept, waited));
    }
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_buffer_that_was_not_taken_comes_back() {
    let MessageChannel { port1, port2 } = channel();
    let pool = BufferPool::new(&port1, 4, LEN).expect("a pool");
    let post = || hand_over(&port1, 1, pool.take().expect("a free one"));
    post();
    drop(receive(&port2));
    assert_eq!(pool.in_use(), 0, "its event was dropped");
    post();
    assert!(port2.discard_next().expect("an open port"));
    assert_eq!(pool.in_use(), 0, "its message was discarded");
    let unused = pool.take().expect("a free one");
    drop(unused);
    assert_eq!(pool.in_use(), 0, "it was never posted");
    post();
    let event = receive(&port2);
    let bytes = event.take_pooled().expect("a buffer");
    let again = event.take_pooled();
    assert!(matches!(again, Err(MessageError::NothingLeft { .. })), "{again:?}");
    drop(event);
    assert_eq!((pool.in_use(), bytes[0]), (1, 1), "a buffer outlives its event");
    drop(port2);
    assert_eq!(bytes[LEN - 1], 1, "and its port");
}

#[test]
fn a_pool_needs_trust_at_both_ends() {
    const TEST: &str = "a_pool_needs_trust_at_both_ends";
    fn alone() {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let refused = BufferPool::new(&port1, 1, LEN);
        assert!(matches!(refused, Err(PoolError::NotTrusted)), "{refused:?}");
        // Without trust nothing is mapped, and the message comes all the same.
        trust(&port1);
        let before = Census::take();
        let pool = BufferPool::new(&port1, 2, LEN).expect("a pool");
        // Even where there is no room for its descriptor.
        allow_more_descriptors(0);
        hand_over(&port1, 5, pool.take().expect("a free one"));
        let event = receive(&port2);
        assert_eq!(event.data::<u64>().expect("a number").to_native(), 5);
        for _ in 0..2 {
            let unknown = event.take_pooled();
            assert!(matches!(unknown, Err(MessageError::UnknownPool)), "{unknown:?}");
        }
        allow_all_descriptors();
        drop(event);
        let after = Census::take();
        let kept = (after.descriptors, after.memfds, after.mappings);
        let expected = (before.descriptors + 1, before.memfds + 1, before.mappings + 1);
        assert_eq!(kept, expected, "the maker's own descriptor and mapping");
        // The maker hears of it.
        let buffer = pool.take().expect("the second one");
        let refused = port1.post_message_pooled(&5u64, buffer).expect_err("the peer has no pool");
        assert!(matches!(refused.reason(), PostError::PoolRefused), "{refused}");
        let kept = refused.into_buffer();
        for refused in [pool.take(), pool.take_timeout(Duration::MAX)] {
            assert!(matches!(refused, Err(PostError::PoolRefused)), "{refused:?}");
        }
        drop(kept);
        // Trust that comes late finds the next pool, and not that one.
        trust(&port2);
        let next = BufferPool::new(&port1, 1, LEN).expect("a pool");
        hand_over(&port1, 6, next.take().expect("a free one"));
        assert_eq!(take(&port2).0, 6);
        assert_eq!((pool.in_use(), next.in_use()), (1, 0));
        drop((pool, next, port1, port2));
        let empty = Census { memfds: 0, mappings: 0, ..Census::take() };
        empty.wait_for("no memory of a pool is left");
    }
    play(TEST, &[("alone", alone)]);
}

#[test]
fn f14_a_pool_that_waits_for_a_descriptor_may_be_looked_at_any_number_of_times() {
    const TEST: &str =
        "f14_a_pool_that_waits_for_a_descriptor_may_be_looked_at_any_number_of_times";
    /// How often it could be looked at before it came without its pool.
    fn looks_at_one() -> u32 {
        let MessageChannel { port1, port2 } = channel();
        let pool = BufferPool::new(&port1, 1, LEN).expect("a pool");
        hand_over(&port1, 3, pool.take().expect("a free one"));
        allow_more_descriptors(0);
        let mut looks = 0;
        let event = loop {
            match port2.try_recv() {
                Ok(event) => break event.expect("a message"),
                Err(RecvError::OutOfDescriptors { needed: 1 }) => looks += 1,
                Err(error) => panic!("look {looks}: {error}"),
            }
        };
        assert_eq!(event.data::<u64>().expect("a number").to_native(), 3);
        let lost = event.take_pooled();
        assert!(matches!(lost, Err(MessageError::UnknownPool)), "{lost:?}");
        drop(event);
        let refused = pool.take();
        assert!(matches!(refused, Err(PostError::PoolRefused)), "{refused:?}");
        allow_all_descriptors();
        let next = BufferPool::new(&port1, 1, LEN).expect("a pool");
        hand_over(&port1, 4, next.take().expect("a free one"));
        assert_eq!(take(&port2).0, 4);
        assert_eq!((pool.in_use(), next.in_use()), (1, 0));
        looks
    }
    fn alone() {
        // More than there may be pools in a row. A process that loses its processor looks less.
        wait_until("there were many looks", || looks_at_one() > 64);
    }
    play(TEST, &[("alone", alone)]);
}

#[test]
fn f45_buffers_of_a_pool_that_cannot_be_mapped_can_be_taken_later() {
    const TEST: &str = "f45_buffers_of_a_pool_that_cannot_be_mapped_can_be_taken_later";
    fn alone() {
        let MessageChannel { port1, port2 } = channel();
        let large = 128 << 20;
        let pool = BufferPool::new(&port1, 4, large).expect("a pool");
        for number in 0..4 {
            hand_over(&port1, number, pool.take().expect("a free one"));
        }
        port1.post_text("behind").expect("room");
        allow_more_address_space(large as u64);
        // Dropped, discarded, tried and kept, kept without a try.
        drop(receive(&port2));
        assert!(port2.discard_next().expect("an open port"));
        let kept = [receive(&port2).into_message(), receive(&port2).into_message()];
        for _ in 0..3 {
            let refused = kept[0].take_pooled().expect_err("no room to map it");
            let MessageError::Buffer(BufferError::Io(error)) = refused else { panic!("{refused}") };
            assert_eq!(error.call, "mmap");
        }
        assert_eq!(receive_text(&port2), "behind");
        assert_eq!(pool.in_use(), 4);
        allow_all_address_space();
        let bytes = kept[0].take_pooled().expect("a buffer");
        assert_eq!((bytes[0], bytes[large - 1]), (2, 2));
        assert_eq!(pool.in_use(), 2, "what went while it could not be mapped came back");
        drop((bytes, kept));
        assert_eq!(pool.in_use(), 0);
    }
    play(TEST, &[("alone", alone)]);
}

#[test]
fn f45_a_look_for_messages_returns_what_went_while_its_pool_could_not_be_mapped() {
    const TEST: &str =
        "f45_a_look_for_messages_returns_what_went_while_its_pool_could_not_be_mapped";
    fn alone() {
        let MessageChannel { port1, port2 } = channel();
        let pool = BufferPool::new(&port1, 1, 128 << 20).expect("a pool");
        hand_over(&port1, 0, pool.take().expect("a free one"));
        allow_more_address_space(64 << 20);
        drop(receive(&port2));
        assert!(port2.recv_timeout(Duration::from_millis(1)).is_err());
        assert_eq!(pool.in_use(), 1);
        allow_all_address_space();
        // A wait that is over before it began does not look.
        wait_until("it comes back", || {
            assert!(port2.recv_timeout(Duration::from_millis(1)).is_err());
            pool.in_use() == 0
        });
    }
    play(TEST, &[("alone", alone)]);
}

#[test]
fn f17_a_fork_has_no_part_in_a_pool_that_could_not_be_mapped() {
    const TEST: &str = "f17_a_fork_has_no_part_in_a_pool_that_could_not_be_mapped";
    fn alone() {
        let MessageChannel { port1, port2 } = channel();
        let pool = BufferPool::new(&port1, 1, 128 << 20).expect("a pool");
        hand_over(&port1, 0, pool.take().expect("a free one"));
        allow_more_address_space(64 << 20);
        let message = receive(&port2).into_message();
        allow_all_address_space();
        // SAFETY: the child calls nothing that could wait for a lock of another thread.
        match unsafe { libc::fork() } {
            0 => {
                let refused = message.take_pooled().is_err();
                drop(message);
                // SAFETY: it ends this process, and runs nothing else of it.
                unsafe { libc::_exit(i32::from(!refused)) }
            }
            child => {
                let status = waitpid(Pid::from_raw(child), None).expect("a child");
                assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
            }
        }
        assert_eq!(pool.in_use(), 1, "the child has not freed it");
        drop(message.take_pooled().expect("a buffer"));
        assert_eq!(pool.in_use(), 0);
    }
    play(TEST, &[("alone", alone)]);
}

#[test]
fn a_port_that_is_not_started_hears_of_its_end_behind_a_pool_that_had_to_wait() {
    const TEST: &str = "a_port_that_is_not_started_hears_of_its_end_behind_a_pool_that_had_to_wait";
    fn alone() {
        let MessageChannel { port1, port2 } = channel();
        let mut event_loop = EventLoop::new().expect("a loop");
        let closes = Arc::new(AtomicU32::new(0));
        let count = closes.clone();
        port2.on_close(move |_| {
            count.fetch_add(1, SeqCst);
        });
        event_loop.add(port2).expect("a port");
        let _pool = BufferPool::new(&port1, 1, LEN).expect("a pool");
        allow_more_descriptors(0);
        event_loop.run_until_idle().expect("a turn");
        drop(port1);
        event_loop.run_until_idle().expect("a turn");
        assert_eq!(closes.load(SeqCst), 0);
        allow_all_descriptors();
        event_loop.run().expect("turns");
        assert_eq!(closes.load(SeqCst), 1);
    }
    play(TEST, &[("alone", alone)]);
}

#[test]
fn a_buffer_goes_through_trusted_ports_only() {
    let (one, other) = (channel(), MessageChannel::new().expect("a channel"));
    let pool = BufferPool::new(&one.port1, 1, LEN).expect("a pool");
    let buffer = pool.take().expect("a free one");
    let error = other.port1.post_message_pooled(&0u64, buffer).expect_err("another port");
    assert!(matches!(error.reason(), PostError::ForeignPool), "{error}");
    assert_eq!(error.to_string(), error.reason().to_string());
    drop(error);
    one.port1.close();
    let error = one.port1.post_message_pooled(&0u64, pool.take().expect("free")).expect_err("shut");
    assert!(matches!(error.reason(), PostError::Closed { .. }), "{error}");
    drop(error);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_port_with_a_pool_stays_where_it_is() {
    let (carrier, MessageChannel { port1, port2 }) = (channel(), channel());
    let pool = BufferPool::new(&port1, 1, LEN).expect("a pool");
    assert!(port2.try_recv().expect("open").is_none());
    let mut ports = Vec::new();
    for port in [port1, port2] {
        let error = carrier.port1.post_text_with("go", [port.into()]).expect_err("it has a pool");
        assert!(matches!(error.reason(), PostError::HasPool { index: 0 }), "{error}");
        let Some(Transferable::Port(port)) = error.into_list().pop() else { panic!("a port") };
        let error = port.into_fd().expect_err("it has a pool");
        assert!(matches!(error.reason(), PostError::HasPool { .. }), "{error}");
        ports.push(error.into_port());
    }
    hand_over(&ports[0], 9, pool.take().expect("a free one"));
    assert_eq!(take(&ports[1]).0, 9, "both can be used as before");
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let MessageChannel { port1, port2 } = channel();
    for (count, len) in [(0, LEN), (1, 0)] {
        let refused = BufferPool::new(&port1, count, len);
        assert!(matches!(refused, Err(PoolError::Empty { .. })), "{count} × {len}: {refused:?}");
    }
    for (count, len) in [(u32::MAX, usize::MAX), (u32::MAX, 1 << 40)] {
        let refused = BufferPool::new(&port1, count, len);
        assert!(matches!(refused, Err(PoolError::Memory(_))), "{count} × {len}: {refused:?}");
    }
    let PoolError::Memory(BufferError::TooLarge { len, allowed }) =
        BufferPool::new(&port1, 1, usize::MAX).expect_err("no file is as long")
    else {
        panic!("not for its length");
    };
    assert!(len == u64::MAX && allowed <= i64::MAX as u64, "{len} {allowed}");
    port1.post_text("still here").expect("room");
    assert_eq!(receive_text(&port2), "still here");
}

#[test]
fn a_pool_may_be_as_long_as_a_file_of_this_process_may() {
    fn alone() {
        let channel = channel();
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
        let page = page.ok().flatten().expect("pages have a size") as u64;
        // A page of counts, and one of the buffer.
        limit_to(Resource::RLIMIT_FSIZE, 2 * page);
        drop(BufferPool::new(&channel.port1, 1, 1).expect("it is no longer than the limit"));
        limit_to(Resource::RLIMIT_FSIZE, 2 * page - 1);
        let refused = BufferPool::new(&channel.port1, 1, 1).expect_err("it is longer");
        let PoolError::Memory(BufferError::TooLarge { len, allowed }) = refused else {
            panic!("not for its length: {refused}");
        };
        assert_eq!((len, allowed), (2 * page, 2 * page - 1));
        // What this process says in the end may go to a file.
        limit_to(Resource::RLIMIT_FSIZE, u64::MAX);
    }
    play("a_pool_may_be_as_long_as_a_file_of_this_process_may", &[("alone", alone)]);
}

#[test]
fn a_dead_peer_s_buffers_are_no_wait_without_end() {
    const TEST: &str = "a_dead_peer_s_buffers_are_no_wait_without_end";
    fn takes_and_dies() {
        let board = Board::given();
        let port = parent_port().expect("a port");
        trust(&port);
        board.word(0).store(1, SeqCst);
        let (number, bytes) = take(&port);
        assert_eq!((number, bytes[0]), (3, 3));
        board.word(0).store(2, SeqCst);
        wait_until("the parent waits", || board.word(0).load(SeqCst) == 3);
        die();
    }
    fn waits() {
        let before = Census::take();
        let board = Board::new();
        let mut child = command(TEST, "takes_and_dies");
        board.give(&mut child);
        let worker = Worker::spawn(child).expect("a worker");
        trust(worker.port());
        wait_until("the child trusts", || board.word(0).load(SeqCst) == 1);
        let pool = BufferPool::new(worker.port(), 1, LEN).expect("a pool");
        hand_over(worker.port(), 3, pool.take().expect("a free one"));
        wait_until("the child has it", || board.word(0).load(SeqCst) == 2);
        board.word(0).store(3, SeqCst);
        let end = pool.take_timeout(DEADLINE);
        let reason = CloseReason::PeerDied;
        assert!(matches!(end, Err(PostError::Closed { reason: why }) if why == reason), "{end:?}");
        drop((pool, worker, board));
        before.wait_for("at the end");
    }
    play(TEST, &[("waits", waits), ("takes_and_dies", takes_and_dies)]);
}

#[test]
fn a_pool_whose_reader_has_left_is_no_wait_without_end() {
    let _watch = watch("a_pool_whose_reader_has_left_is_no_wait_without_end");
    for is_closed in [true, false] {
        let MessageChannel { port1, port2 } = channel();
        let pool = BufferPool::new(&port1, 1, LEN).expect("a pool");
        hand_over(&port1, 1, pool.take().expect("a free one"));
        // Its end lives on, and so do the messages that will never be read.
        let (_port, _half) = if is_closed {
            port2.close();
            (Some(port2), None)
        } else {
            let (sender, receiver) = port2.split();
            drop(receiver);
            (None, Some(sender))
        };
        for waited in [pool.take(), pool.take_timeout(Duration::MAX)] {
            let error = waited.expect_err("it is not given back");
            let PostError::Closed { reason } = error else { panic!("{error}") };
            let expected =
                if is_closed { CloseReason::PeerClosed } else { CloseReason::PeerDropped };
            assert_eq!(reason, expected);
        }
    }
}
