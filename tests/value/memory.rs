//! How much memory a hostile value takes.
#![allow(unsafe_code)]

use crate::foreign;
use messageport::Value;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with the bytes in use of each thread, and the most that were.
struct Counting;

thread_local! {
    static IN_USE: Cell<(i64, i64)> = const { Cell::new((0, 0)) };
}

fn count(change: i64) {
    IN_USE.with(|in_use| {
        let (now, most) = in_use.get();
        in_use.set((now + change, most.max(now + change)));
    });
}

// SAFETY: everything is the system's; a count without a destructor allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: upheld by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: upheld by the caller.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `act` has in use.
fn most(act: impl FnOnce()) -> i64 {
    let before = IN_USE.with(|in_use| {
        let (now, _) = in_use.get();
        in_use.set((now, now));
        now
    });
    act();
    IN_USE.with(Cell::get).1 - before
}

#[test]
fn a_value_takes_a_bounded_multiple_of_its_message() {
    const LEN: usize = 1 << 20;
    let claims = |len: usize| vec![0x9a, 0, (len >> 16) as u8, (len >> 8) as u8, len as u8];
    let cases = [
        ("numbers", vec![1; LEN]),
        ("an array of one in an array", [&[0x81; 127][..], &[1]].concat().repeat(LEN / 128)),
        ("empty arrays", vec![0x80; LEN]),
        ("arrays of four", [0x84, 1, 1, 1, 1].repeat(LEN / 5)),
        ("arrays of five", [0x85, 1, 1, 1, 1, 1].repeat(LEN / 6)),
        ("maps", [0xa1, 1, 1].repeat(LEN / 3)),
        ("texts", [0x61, b'a'].repeat(LEN / 2)),
        ("big integers", [0xc2, 0x41, 1].repeat(LEN / 3)),
        ("lengths that are not there", claims(LEN / 2).repeat(LEN / 5)),
    ];
    for (what, parts) in cases {
        let cbor = [&[0x9f][..], &parts, &[0xff]].concat();
        let message = foreign(&cbor);
        let bytes = most(|| drop(message.value::<Value>()));
        let factor = bytes as f64 / cbor.len() as f64;
        assert!(factor <= 100.0, "{what}: {factor} times the message");
    }
}

/// A length alone makes nothing.
#[test]
fn a_claimed_length_takes_no_memory() {
    for claim in [[0x9b, 0, 0, 0, 0, 0x7f, 0, 0, 0], [0xbb, 0, 0, 0, 0, 0x7f, 0, 0, 0]] {
        let message = foreign(&claim);
        let bytes = most(|| {
            assert!(message.value::<Value>().is_err());
            assert!(message.value::<Vec<[u64; 32]>>().is_err());
        });
        assert!(bytes < 4096, "{bytes} bytes");
    }
}
