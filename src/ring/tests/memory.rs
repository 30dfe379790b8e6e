//! The window on a lane's bytes: every bound from both sides, every place, every length.

use crate::ring::memory::{Memory, Window};
use crate::wire::record::{Format, Header};

const OPENED_AT: u64 = 16;

/// A window on `len` bytes of a fresh lane, and the lane. The bytes around it are not zero.
fn window(len: u64) -> (Memory, Window) {
    let memory = Memory::on_heap(256);
    for offset in (0..256).step_by(16) {
        memory.write_header(offset, [u64::MAX; 2]);
    }
    let mut window = Window::new(memory.clone());
    window.open(OPENED_AT, len);
    (memory, window)
}

#[test]
fn a_window_steps_over_records_to_its_end_and_closes_beyond() {
    let (memory, mut window) = window(48);
    assert_eq!((window.left(), window.bytes(48)), (48, memory.bytes(16, 48)));
    window.advance(16);
    assert_eq!((window.left(), window.bytes(32)), (32, memory.bytes(32, 32)));
    window.advance(32);
    assert_eq!((window.left(), window.bytes(0)), (0, memory.bytes(64, 0)));
    window.open(OPENED_AT, 48);
    window.advance(64);
    assert_eq!(window.left(), 0, "a record that goes beyond the end closes the window");
    window.open(OPENED_AT, 48);
    window.close();
    assert_eq!(window.left(), 0);
}

#[test]
fn a_grant_is_a_whole_record_inside_the_window() {
    let (memory, window) = window(48);
    assert!(window.grant(64).is_none());
    let grant = window.grant(48).expect("the window is as long");
    assert_eq!((grant.len(), grant.payload_len()), (48, 32));
    assert_eq!(grant.payload(), memory.bytes(32, 32));
    assert_eq!(grant.short_payload(), memory.bytes(24, 8));
    assert_eq!(window.payload(32), memory.bytes(32, 32));
}

#[test]
fn a_grant_becomes_a_plain_or_a_short_message() {
    let (memory, window) = window(48);
    let grant = window.grant(48).expect("the window is as long");
    assert_eq!(grant.seal_written_short(3, Format::Bytes), 16);
    assert_eq!(memory.read_header(16), [Header::short(3, Format::Bytes), u64::MAX]);
    grant.wipe_short();
    assert_eq!(memory.read_header(16), [Header::short(3, Format::Bytes), 0]);
    memory.write_header(16, [u64::MAX; 2]);
    assert_eq!(grant.seal(20, Format::Bytes), 48);
    assert_eq!(memory.read_header(16), Header::plain(20, Format::Bytes));
    assert_eq!(memory.read_header(32), [u64::MAX; 2], "the payload is not touched");
}

#[test]
fn a_plain_message_is_seen_if_the_window_and_what_is_known_hold_all_of_it() {
    let header = Header::plain(17, Format::Bytes);
    let (memory, mut window) = window(48);
    memory.write_header(OPENED_AT, header);
    let plain = window.plain(48).expect("all of it is known");
    assert_eq!((plain.header(), plain.record(), plain.padded_len()), (header[0], 48, 32));
    assert_eq!(plain.payload(), memory.bytes(32, 32));
    assert!(window.plain(64).is_some(), "more is known than the record takes");
    assert!(window.plain(32).is_none(), "not all of it is known");
    window.open(OPENED_AT, 64);
    assert!(window.plain(48).is_some(), "the window goes on behind it");
    window.open(OPENED_AT, 32);
    assert!(window.plain(48).is_none(), "the window ends inside it");
    window.open(OPENED_AT, 0);
    assert!(window.plain(48).is_none(), "a closed window");
    memory.write_header(OPENED_AT, Header::plain(0, Format::Bytes));
    window.open(OPENED_AT, 16);
    let empty = window.plain(16).expect("a message without payload is its header");
    assert_eq!((empty.record(), empty.padded_len()), (16, 0));
    memory.write_header(OPENED_AT, Header::Padding { len: 0 }.encode());
    assert!(window.plain(16).is_none(), "no message");
}

#[test]
fn a_short_message_is_seen_in_a_window_of_its_header_alone() {
    let words = [Header::short(8, Format::Bytes), 0x0123_4567_89ab_cdef];
    let (memory, mut window) = window(16);
    memory.write_header(OPENED_AT, words);
    assert_eq!((window.short(), window.short_word()), (Some(words), words[1]));
    window.open(OPENED_AT, 32);
    assert_eq!(window.short(), Some(words));
    window.open(OPENED_AT, 0);
    assert_eq!(window.short(), None, "a closed window");
    window.open(OPENED_AT, 16);
    memory.write_header(OPENED_AT, Header::plain(8, Format::Bytes));
    assert_eq!(window.short(), None, "a plain message");
}

#[test]
fn a_push_writes_one_header_while_there_is_room() {
    let (memory, mut window) = window(32);
    assert!(window.push([1, 2]));
    assert_eq!((memory.read_header(16), window.left()), ([1, 2], 16));
    assert!(window.push([3, 4]), "the window is as long as the header");
    assert_eq!((memory.read_header(32), window.left()), ([3, 4], 0));
    assert!(!window.push([5, 6]));
    assert_eq!(memory.read_header(48), [u64::MAX; 2], "behind the window");
}
