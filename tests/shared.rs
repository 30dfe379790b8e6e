//! One sending half for many threads: every message arrives once and whole, also if one of them
//! waits, panics, closes or dies meanwhile.

#![allow(unsafe_code)]

mod common;
#[path = "common/filter.rs"]
mod filter;

use std::fs::File;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use common::role::{command, play};
use common::watchdog::{progress, watch};
use common::{DEADLINE, receive_end, wait_until};
use messageport::rkyv::rancor::{Fallible, Source};
use messageport::rkyv::{Archive, Place, Serialize};
use messageport::{
    BufferPool, CloseReason, MessageChannel, MessagePort, PostError, SharedSender, Worker,
    parent_port,
};

fn small() -> MessageChannel {
    MessageChannel::builder().capacity(4096).bounded().build().expect("a channel")
}

fn shared(port: MessagePort) -> (SharedSender, messageport::Receiver) {
    let (sender, receiver) = port.split();
    (sender.into_shared(), receiver)
}

fn is_full(answer: &Result<(), PostError>) -> bool {
    matches!(answer, Err(PostError::QueueFull { .. }))
}

fn fill(sender: &SharedSender) {
    loop {
        match sender.post_bytes(&[1; 700]) {
            answer if is_full(&answer) => return,
            answer => answer.expect("room, or none"),
        }
    }
}

/// Numbers of each thread arrive in their order, none is lost and none twice, through a ring that
/// is full most of the time, to another process.
#[test]
fn messages_of_many_threads_arrive_once_and_in_the_order_of_each() {
    const TEST: &str = "messages_of_many_threads_arrive_once_and_in_the_order_of_each";
    const THREADS: u64 = 8;
    const COUNT: u64 = 5_000;
    fn receives() {
        let port = parent_port().expect("a port to the parent");
        let mut next = [0; THREADS as usize];
        for event in &port {
            let (thread, number, bytes) =
                event.deserialize::<(u64, u64, Vec<u8>)>().expect("what was posted");
            assert_eq!(number, next[thread as usize], "of thread {thread}");
            assert_eq!(bytes, vec![number as u8; (number % 300) as usize]);
            next[thread as usize] += 1;
        }
        assert_eq!(next, [COUNT; THREADS as usize]);
    }
    fn posts() {
        let builder = MessageChannel::builder().capacity(4096).bounded();
        let worker = Worker::spawn_with(command(TEST, "receives"), builder).expect("a worker");
        let (port, mut process) = worker.split();
        let (sender, receiver) = shared(port);
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let sender = sender.clone();
                scope.spawn(move || {
                    for number in 0..COUNT {
                        let bytes = vec![number as u8; (number % 300) as usize];
                        let value = (thread, number, bytes);
                        // Some wait, and some come back.
                        let posted = match number % 3 {
                            0 => loop {
                                match sender.post_message(&value) {
                                    answer if is_full(&answer) => thread::yield_now(),
                                    answer => break answer,
                                }
                            },
                            _ => sender.post_message_timeout(&value, Duration::MAX),
                        };
                        posted.expect("room, after a while");
                        if number % 1000 == 0 {
                            progress();
                        }
                    }
                });
            }
        });
        drop(sender);
        assert!(process.wait().expect("a child").success());
        drop(receiver);
    }
    play(TEST, &[("posts", posts), ("receives", receives)]);
}

#[test]
fn a_clone_has_the_calls_of_a_sender() {
    let MessageChannel { port1, port2 } = small();
    let (sender, _receiver) = shared(port1);
    let file = || File::open("/dev/null").expect("a file");
    sender.post_text("text").expect("room");
    sender.post_bytes(b"bytes").expect("room");
    sender.post_message_with(&1u8, [file().into()]).expect("room");
    sender.post_bytes_with(b"bytes", [file().into()]).expect("room");
    sender.post_text_with("text", [file().into()]).expect("room");
    sender.post_bytes_timeout(b"bytes", DEADLINE).expect("room");
    sender.post_text_timeout("text", DEADLINE).expect("room");
    sender.post_message_with_timeout(&1u8, [file().into()], DEADLINE).expect("room");
    assert_eq!((sender.backlog().messages, sender.stats().messages), (8, 8));
    let moved: usize = port2.try_iter().map(|event| event.transferred().2).sum();
    assert_eq!(moved, 4);
    let clone = sender.clone();
    let clone = clone.into_inner().expect_err("there is another one");
    drop(sender);
    let sender = clone.into_inner().expect("the only one");
    sender.post_text("alone").expect("room");
    assert_eq!(common::receive_text(&port2), "alone");
    drop(sender);
    assert_eq!(receive_end(&port2), CloseReason::PeerDropped);
}

/// A value that posts through the sender that serialises it, locks it, or closes it.
struct Meddler<'s>(&'s SharedSender);

impl Archive for Meddler<'_> {
    type Archived = messageport::rkyv::rend::u32_le;
    type Resolver = u32;

    fn resolve(&self, resolver: u32, out: Place<Self::Archived>) {
        resolver.resolve((), out);
    }
}

impl<S: Fallible<Error: Source> + ?Sized> Serialize<S> for Meddler<'_> {
    fn serialize(&self, _: &mut S) -> Result<u32, S::Error> {
        assert!(matches!(self.0.post_text("inside"), Err(PostError::Busy)));
        let file = File::open("/dev/null").expect("a file");
        let error = self.0.post_text_with("inside", [file.into()]).expect_err("it is busy");
        assert!(matches!(error.reason(), PostError::Busy));
        assert_eq!(error.into_list().len(), 1, "the list comes back");
        let waited = self.0.post_bytes_timeout(b"inside", Duration::MAX);
        assert!(matches!(waited, Err(PostError::Busy)), "{waited:?}");
        assert!(matches!(self.0.lock().map(drop), Err(PostError::Busy)));
        assert_eq!(self.0.backlog().messages, 0);
        assert!(!self.0.is_closed() && format!("{:?}", self.0).contains("busy"));
        self.0.close();
        assert!(self.0.is_closed());
        Ok(7)
    }
}

#[test]
fn a_value_that_comes_back_to_its_sender_is_told_that_it_is_busy() {
    let _watch = watch("a_value_that_comes_back_to_its_sender_is_told_that_it_is_busy");
    let MessageChannel { port1, port2 } = small();
    let (sender, _receiver) = shared(port1);
    // It closes the sender, so the post itself may be refused; what matters is that none waits.
    let posted = sender.post_message(&Meddler(&sender));
    assert!(sender.is_closed());
    let late = thread::spawn({
        let sender = sender.clone();
        move || sender.post_text("late")
    });
    assert!(matches!(late.join().expect("no panic"), Err(PostError::Closed { .. })));
    assert_eq!(port2.try_iter().count(), usize::from(posted.is_ok()));
    assert_eq!(receive_end(&port2), CloseReason::PeerClosed);
}

#[test]
fn a_panic_inside_a_post_leaves_the_sender_usable() {
    struct Panics;
    impl Archive for Panics {
        type Archived = ();
        type Resolver = ();
        fn resolve(&self, (): (), _: Place<()>) {}
    }
    impl<S: Fallible + ?Sized> Serialize<S> for Panics {
        fn serialize(&self, _: &mut S) -> Result<(), S::Error> {
            panic!("as the test wants it")
        }
    }
    let MessageChannel { port1, port2 } = small();
    let (sender, _receiver) = shared(port1);
    let clone = sender.clone();
    assert!(thread::spawn(move || clone.post_message(&Panics)).join().is_err());
    sender.post_text("as before").expect("room");
    assert_eq!(common::receive_text(&port2), "as before");
}

/// Threads that wait for room let others post what fits, and end in every way that a wait ends.
#[test]
fn waits_of_many_threads_end_with_room_a_timeout_a_canceller_and_the_peer() {
    let _watch = watch("waits_of_many_threads_end_with_room_a_timeout_a_canceller_and_the_peer");
    let MessageChannel { port1, port2 } = small();
    let (sender, _receiver) = shared(port1);
    fill(&sender);
    let wait = || {
        let sender = sender.clone();
        thread::spawn(move || sender.post_bytes_timeout(&[2; 700], Duration::MAX))
    };
    let quick = sender.post_bytes_timeout(&[2; 700], Duration::from_millis(1));
    assert!(matches!(quick, Err(PostError::Timeout)), "{quick:?}");
    let waiting = [(); 3].map(|()| wait());
    // Others wait for their turn, for as long as they say.
    let quick = sender.post_bytes_timeout(&[2; 700], Duration::from_millis(1));
    assert!(matches!(quick, Err(PostError::Timeout)), "{quick:?}");
    let mut small = 0;
    while sender.post_bytes(&[3; 8]).is_ok() {
        small += 1;
    }
    assert!(small > 0, "a short message fits");
    // Threads that wait have the lock for moments only. How often it is free depends on what else
    // runs on this machine.
    let mut free = 0;
    wait_until("the lock was free a thousand times", || {
        free += u32::from(!format!("{sender:?}").contains("busy"));
        free == 1000
    });
    let mut received = 0;
    wait_until("all that waited have posted", || {
        received += port2.try_iter().filter(|event| event.bytes() == [2; 700]).count();
        received == 3
    });
    waiting.into_iter().for_each(|it| it.join().expect("no panic").expect("room"));

    fill(&sender);
    let canceller = sender.canceller().expect("a canceller");
    for _ in 0..3 {
        let waiting = wait();
        canceller.cancel();
        let ended = waiting.join().expect("no panic");
        assert!(matches!(ended, Err(PostError::Cancelled)), "{ended:?}");
    }
    let waiting = [(); 3].map(|()| wait());
    drop(port2);
    for it in waiting {
        let ended = it.join().expect("no panic");
        let reason = CloseReason::PeerDropped;
        let is_end = matches!(ended, Err(PostError::Closed { reason: it }) if it == reason);
        assert!(is_end, "{ended:?}");
    }
}

#[test]
fn a_close_of_one_thread_ends_the_waits_of_others() {
    let _watch = watch("a_close_of_one_thread_ends_the_waits_of_others");
    let MessageChannel { port1, port2 } = small();
    let (sender, _receiver) = shared(port1);
    fill(&sender);
    let barrier = Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                barrier.wait();
                let ended = sender.post_bytes_timeout(&[2; 700], Duration::MAX);
                let reason = CloseReason::Local;
                let is_end = matches!(ended, Err(PostError::Closed { reason: it }) if it == reason);
                assert!(is_end, "{ended:?}");
            });
        }
        barrier.wait();
        sender.close();
        sender.close();
    });
    assert!(port2.try_iter().all(|event| event.bytes() == [1; 700]));
    assert_eq!(receive_end(&port2), CloseReason::PeerClosed);
}

#[test]
fn a_peer_that_is_killed_ends_the_waits_of_all_threads() {
    const TEST: &str = "a_peer_that_is_killed_ends_the_waits_of_all_threads";
    fn lingers() {
        let port = parent_port().expect("a port to the parent");
        port.post_text("here").expect("room");
        loop {
            thread::park();
        }
    }
    fn posts() {
        let builder = MessageChannel::builder().capacity(4096).bounded();
        let worker = Worker::spawn_with(command(TEST, "lingers"), builder).expect("a worker");
        let (port, mut process) = worker.split();
        assert_eq!(common::receive_text(&port), "here");
        let (sender, _receiver) = shared(port);
        fill(&sender);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let ended = sender.post_bytes_timeout(&[2; 700], Duration::MAX);
                    let reason = CloseReason::PeerDied;
                    let is_end =
                        matches!(ended, Err(PostError::Closed { reason: it }) if it == reason);
                    assert!(is_end, "{ended:?}");
                });
            }
            process.kill().expect("a child of our own");
        });
        assert!(sender.is_closed());
        process.wait().expect("a child of our own");
    }
    play(TEST, &[("posts", posts), ("lingers", lingers)]);
}

/// Transferables and pooled buffers come back, also to a thread that waited.
#[test]
fn a_list_and_a_pooled_buffer_come_back_with_an_error() {
    let MessageChannel { port1, port2 } = small();
    // SAFETY: both ends are this test's.
    unsafe { port1.trust_peer() };
    // SAFETY: as above.
    unsafe { port2.trust_peer() };
    let (sender, _receiver) = shared(port1);
    let pool = BufferPool::for_sender(&sender.lock().expect("a lock"), 1, 100).expect("a pool");
    sender.post_message_pooled(&1u8, pool.take().expect("a buffer")).expect("room");
    drop(common::receive(&port2).take_pooled().expect("a buffer"));
    fill(&sender);
    let file = File::open("/dev/null").expect("a file");
    let quick = Duration::from_millis(1);
    let error = sender.post_message_with_timeout(&[2u8; 700], [file.into()], quick);
    let error = error.expect_err("there is no room");
    assert!(matches!(error.reason(), PostError::Timeout), "{error}");
    let list = error.into_list();
    assert_eq!(list.len(), 1);
    let buffer = pool.take().expect("a buffer");
    let error = sender.post_message_pooled(&[2u8; 700], buffer).expect_err("there is no room");
    assert!(matches!(error.reason(), PostError::QueueFull { .. }), "{error}");
    let buffer = error.into_buffer();
    sender.close();
    let error = sender.post_message_pooled(&1u8, buffer).expect_err("it is closed");
    assert!(matches!(error.reason(), PostError::Closed { .. }), "{error}");
    drop(error.into_buffer());
    assert_eq!(pool.in_use(), 0);
    let error = sender.post_text_with("late", list).expect_err("it is closed");
    assert_eq!(error.into_list().len(), 1);
}

/// A thread for which there is no fresh page; the others go on through the same sender.
#[test]
fn a_post_without_memory_fails_alone_and_gives_its_list_back() {
    const TEST: &str = "a_post_without_memory_fails_alone_and_gives_its_list_back";
    const LEN: usize = 200 << 10;
    fn lacks_memory(error: &PostError) -> bool {
        matches!(error, PostError::Io(error) if error.source.raw_os_error() == Some(libc::ENOMEM))
    }
    fn posts_in_every_way(sender: &SharedSender) {
        let (bytes, text) = (vec![3; LEN], "t".repeat(LEN));
        let posts = [
            sender.post_bytes(&bytes),
            sender.post_text(&text),
            sender.post_message(&text),
            sender.post_bytes_timeout(&bytes, Duration::MAX),
            sender.post_text_timeout(&text, Duration::MAX),
            sender.post_message_timeout(&text, Duration::MAX),
            sender.lock().and_then(|guard| guard.loan(LEN).and_then(|loan| loan.post())),
            sender.lock().and_then(|guard| guard.burst().stage_bytes(&bytes)),
        ];
        for (way, posted) in posts.iter().enumerate() {
            assert!(posted.as_ref().is_err_and(lacks_memory), "{way}: {posted:?}");
        }
        let list = || [File::open("/dev/null").expect("a file").into()];
        for error in [
            sender.post_message_with(&text, list()),
            sender.post_bytes_with(&bytes, list()),
            sender.post_text_with(&text, list()),
            sender.post_message_with_timeout(&text, list(), Duration::MAX),
        ] {
            let error = error.expect_err("there is no memory");
            assert!(lacks_memory(error.reason()), "{error}");
            assert_eq!(error.into_list().len(), 1);
        }
    }
    fn posts() {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let (sender, _receiver) = shared(port1);
        let poor = sender.clone();
        let has_filter = thread::spawn(move || {
            let when = filter::When::Equals(2, libc::MADV_POPULATE_WRITE as u32);
            let answered = filter::answer(libc::SYS_madvise, when, libc::ENOMEM);
            if answered.is_ok() {
                posts_in_every_way(&poor);
            }
            answered.is_ok()
        });
        if !has_filter.join().expect("errors and no panic") {
            common::role::skip("no seccomp filter here");
        }
        assert_eq!(sender.backlog().messages, 0);
        sender.post_bytes(&vec![4; LEN]).expect("a post with memory");
        assert!(common::receive(&port2).bytes() == vec![4; LEN]);
        assert!(port2.try_recv().expect("an open port").is_none());
    }
    play(TEST, &[("posts", posts)]);
}

#[test]
fn a_typed_sender_that_threads_share_compares_its_type() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let (sender, _receiver) = port1.typed::<(), u32>().split();
    let sender = sender.into_shared();
    let port2 = port2.typed::<u32, ()>();
    let posts = |number| {
        let sender = sender.clone();
        thread::spawn(move || match number % 2 {
            0 => sender.post_message(&number),
            _ => sender.post_message_timeout(&number, common::DEADLINE),
        })
    };
    for thread in (0..8).map(posts).collect::<Vec<_>>() {
        thread.join().expect("no panic").expect("room");
    }
    let number = |event: Result<messageport::TypedEvent<'_, u32>, _>| {
        event.expect("a number").data().to_native()
    };
    assert_eq!(port2.try_iter().map(number).sum::<u32>(), 28);
    // The peer has another type: nothing is posted, and a list comes back.
    let port2 = port2.into_inner().typed::<u64, ()>();
    for posted in [sender.post_message(&1), sender.post_message_timeout(&1, Duration::MAX)] {
        assert!(matches!(posted, Err(PostError::TypeMismatch(_))), "{posted:?}");
    }
    let list = || [std::fs::File::open("/dev/null").expect("a file").into()];
    for posted in [
        sender.post_message_with(&1, list()),
        sender.post_message_with_timeout(&1, list(), Duration::MAX),
    ] {
        let error = posted.expect_err("another type");
        assert!(matches!(error.reason(), PostError::TypeMismatch(_)), "{error}");
        assert_eq!(error.into_list().len(), 1);
    }
    let port2 = port2.into_inner();
    assert!(port2.try_recv().expect("an open port").is_none());
    sender.post_message_with(&7, list()).expect("a peer without types");
    assert_eq!(common::receive(&port2).take_descriptors().expect("one").len(), 1);
}

const _: () = {
    const fn is_shared<T: Clone + Send + Sync>() {}
    is_shared::<SharedSender>();
    is_shared::<messageport::TypedSharedSender<std::cell::Cell<u32>>>();
};
