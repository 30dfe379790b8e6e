//! Calls that follow each other allocate nothing: a slot is used again, and values go straight into
//! shared memory and out of it.

#![allow(unsafe_code)]

use messageport::MessageChannel;
#[cfg(feature = "tokio")]
use messageport::RecvError;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::mpsc;
use std::thread;

/// The system's allocator, with a count for each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Whether memory for messages, which alone is aligned to 16 bytes, is refused.
    static IS_LACKING: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: everything is the system's; a count without a destructor allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        if layout.align() == 16 && IS_LACKING.with(Cell::get) {
            return std::ptr::null_mut();
        }
        // SAFETY: upheld by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: upheld by the caller.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: upheld by the caller.
        unsafe { System.realloc(place, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

/// Calls before the count begins: they grow what is used again. The 1024th lock of one thread in a
/// row starts a thread, once in a process; on one core nothing else has started it before.
const FIRST: u64 = 2_000;
const CALLS: u64 = 5_000;

#[test]
fn calls_that_follow_each_other_allocate_nothing() {
    let channel = MessageChannel::new().expect("a channel");
    let requester = channel.port1.requester::<[u64; 8], u64>();
    let responder = channel.port2.responder::<[u64; 8], u64>();
    let server = thread::spawn(move || {
        let mut before = 0;
        for number in 0..FIRST + CALLS {
            if number == FIRST {
                before = allocations();
            }
            let request = responder.recv().expect("a request");
            request.reply(&request.data()[3].to_native()).expect("room");
        }
        allocations() - before
    });
    let mut before = 0;
    for number in 0..FIRST + CALLS {
        if number == FIRST {
            before = allocations();
        }
        let request = [number; 8];
        let reply = match number % 2 {
            0 => requester.call(&request),
            _ => requester.call_map(&request, |reply| reply.to_native()),
        };
        assert_eq!(reply.expect("a reply"), number);
    }
    assert_eq!(allocations() - before, 0, "of the requester");
    assert_eq!(server.join().expect("no panic"), 0, "of the responder");
}

#[test]
fn many_open_calls_need_no_more_slots_than_before() {
    let channel = MessageChannel::new().expect("a channel");
    let requester = channel.port1.requester::<u64, u64>();
    let responder = channel.port2.responder::<u64, u64>();
    let mut calls = Vec::with_capacity(64);
    let (send, counts) = mpsc::channel();
    for round in 0..4 {
        let before = allocations();
        calls.extend((0..64).map(|number| requester.start(&number).expect("room")));
        send.send(allocations() - before).expect("a receiver");
        for _ in 0..64 {
            let request = responder.recv().expect("a request");
            request.reply(&request.data().to_native()).expect("room");
        }
        for (number, call) in calls.drain(..).enumerate() {
            assert_eq!(call.wait().expect("a reply").data().to_native(), number as u64);
        }
        assert_eq!(requester.open_calls(), 0, "round {round}");
    }
    drop(send);
    let counts: Vec<_> = counts.into_iter().collect();
    assert!(counts[0] > 0 && counts[1..] == [0, 0, 0], "{counts:?}");
}

/// A task takes messages as owned ones. A short message has no memory that it could take along.
#[cfg(feature = "tokio")]
#[test]
fn a_message_stays_in_the_queue_of_a_task_until_there_is_memory_for_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let channel = MessageChannel::new().expect("a channel");
        let mut port = channel.port2.into_async().expect("in a runtime");
        for len in [1, 8, 9, 100, 5_000] {
            let sent = vec![len as u8; len];
            channel.port1.post_bytes(&sent).expect("room");
            IS_LACKING.set(true);
            let received = port.recv().await;
            IS_LACKING.set(false);
            let message = match received {
                Ok(message) => message,
                Err(RecvError::OutOfMemory { len: missing }) => {
                    assert_eq!(missing, len as u64);
                    port.recv().await.expect("it is still there")
                }
                Err(error) => panic!("{len} bytes: {error}"),
            };
            assert_eq!(message.bytes(), sent);
        }
    });
}
