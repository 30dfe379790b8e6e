//! A message whose copy has begun can still be discarded, taken at once, moved and rewritten.

use super::*;
use crate::link::attachment::Outgoing;
use crate::link::receiving::Receiving;
use crate::link::sending::Sending;
use crate::link::transfer;
use crate::os::memfd;
use crate::ring::consumer::Peek;
use crate::wire::record::{Attached, Format, HEADER_LEN, Header};
use std::os::fd::AsFd;

/// So long that its copy takes several chunks.
const LEN: usize = 3 * CHUNK + 17;

fn bytes() -> Vec<u8> {
    (0..LEN).map(|index| (index % 251) as u8).collect()
}

/// A sending half with such a message posted, and the receiving half of the other end.
fn lane() -> (Sending, Receiving) {
    let ((mut sending, _), (_, receiving)) =
        transfer::create_pair(4096, 16 << 20, 0, false, Default::default()).expect("a channel");
    post(&mut sending, &bytes());
    (sending, receiving)
}

fn post(sending: &mut Sending, bytes: &[u8]) {
    sending.stage_bytes(bytes, Format::Bytes).expect("room");
    sending.commit();
}

fn poll_chunk(receiving: &mut Receiving) -> Option<Payload> {
    match receiving.poll_in_chunks().expect("an open end") {
        Polled::Message(payload) => Some(payload),
        Polled::Nothing => panic!("a message is there"),
        Polled::Unfinished => None,
    }
}

#[test]
fn the_parts_make_up_the_message() {
    let (mut sending, mut receiving) = lane();
    for _ in 0..3 {
        assert!(poll_chunk(&mut receiving).is_none());
        assert!(receiving.has_message());
    }
    let payload = poll_chunk(&mut receiving).expect("the last chunk");
    assert_eq!(payload.bytes(), bytes());
    post(&mut sending, b"next");
    let next = poll_chunk(&mut receiving).expect("a short message");
    assert_eq!((next.bytes(), payload.bytes()), (&b"next"[..], &bytes()[..]));
    receiving.give_back(payload.handle());
    receiving.give_back(next.handle());
    assert_eq!(sending.backlog(), (0, 0));
}

#[test]
fn a_copy_that_has_begun_is_finished_at_once_by_a_call_that_waits_for_it_alone() {
    let (_sending, mut receiving) = lane();
    assert!(poll_chunk(&mut receiving).is_none());
    let payload = receiving.poll().expect("an open end").expect("all of it");
    assert_eq!(payload.bytes(), bytes());
}

#[test]
fn a_message_whose_copy_has_begun_can_be_discarded() {
    let (mut sending, mut receiving) = lane();
    let other: Vec<u8> = bytes().iter().rev().copied().collect();
    post(&mut sending, &other);
    assert!(poll_chunk(&mut receiving).is_none());
    assert!(receiving.discard().expect("an open end"));
    assert!(receiving.unfinished.is_none(), "its memory is given back");
    let second = std::iter::repeat_with(|| poll_chunk(&mut receiving)).flatten().next();
    assert_eq!(second.expect("the second message").bytes(), other);
}

#[test]
fn a_message_with_a_list_is_copied_in_parts_before_its_packet_is_received() {
    let ((mut sending, _), (_, mut receiving)) =
        transfer::create_pair(4096, 16 << 20, 0, false, Default::default()).expect("a channel");
    let file = memfd::create(4096).expect("a file");
    let mut items = [Outgoing::Descriptor(file.as_fd())];
    sending.post_bytes_with(&bytes(), Format::Bytes, &mut items).expect("room");
    assert!(poll_chunk(&mut receiving).is_none());
    assert_eq!(receiving.take_cost(), 0, "nothing is received yet");
    let payload = std::iter::repeat_with(|| poll_chunk(&mut receiving)).flatten().next();
    let payload = payload.expect("the message");
    assert_eq!((payload.bytes(), receiving.take_cost()), (&bytes()[..], 1));
    assert!(receiving.take_attachments(payload.handle()).is_some());
}

/// An entry with room for it came free meanwhile.
#[test]
fn a_message_that_was_taken_otherwise_leaves_no_part_to_the_next_one() {
    let (mut sending, mut receiving) = lane();
    assert!(poll_chunk(&mut receiving).is_none());
    receiving.copies.make_room(LEN).expect("memory");
    let first = poll_chunk(&mut receiving).expect("all of it");
    assert_eq!(first.bytes(), bytes());
    let other: Vec<u8> = bytes().iter().rev().copied().collect();
    post(&mut sending, &other);
    let second = std::iter::repeat_with(|| poll_chunk(&mut receiving)).flatten().next();
    assert_eq!(second.expect("the second message").bytes(), other);
}

/// Otherwise a peer that keeps changing the length would make the copy start again and again.
#[test]
fn a_header_that_is_rewritten_meanwhile_is_not_read_again() {
    let (sending, mut receiving) = lane();
    assert!(poll_chunk(&mut receiving).is_none());
    let Ok(Peek::Message(record)) = receiving.consumer.peek() else { panic!("it is there") };
    for len in [LEN as u32 / 2, LEN as u32 - 1] {
        let header = Header::Message { len, format: Format::Text, attached: Attached::Nothing };
        let offset = record.payload_offset - HEADER_LEN;
        sending.producer().memory().write_header(offset, header.encode());
        assert!(poll_chunk(&mut receiving).is_none());
    }
    let payload = poll_chunk(&mut receiving).expect("the last chunk");
    assert_eq!((payload.bytes(), payload.format()), (&bytes()[..], Format::Bytes));
}

/// From then on messages are lent, and the copy is of no use.
#[test]
fn a_peer_that_is_trusted_meanwhile_has_its_message_lent() {
    let (mut sending, mut receiving) = lane();
    assert!(poll_chunk(&mut receiving).is_none());
    receiving.endpoint().trust();
    let first = poll_chunk(&mut receiving).expect("all of it");
    assert_eq!(first.bytes(), bytes());
    assert!(receiving.unfinished.is_none());
    let file = memfd::create(4096).expect("a file");
    let mut items = [Outgoing::Descriptor(file.as_fd())];
    sending.post_bytes_with(b"with a file", Format::Bytes, &mut items).expect("room");
    let second = poll_chunk(&mut receiving).expect("the next one");
    assert_eq!((second.bytes(), first.bytes()), (&b"with a file"[..], &bytes()[..]));
}

/// The same where what is trusted meanwhile stands beside a descriptor.
#[test]
fn a_peer_that_is_trusted_meanwhile_has_its_message_with_a_list_lent() {
    let ((mut sending, _), (_, mut receiving)) =
        transfer::create_pair(4096, 16 << 20, 0, false, Default::default()).expect("a channel");
    let file = memfd::create(4096).expect("a file");
    let mut items = [Outgoing::Descriptor(file.as_fd())];
    sending.post_bytes_with(&bytes(), Format::Bytes, &mut items).expect("room");
    assert!(poll_chunk(&mut receiving).is_none());
    receiving.endpoint().trust();
    let payload = poll_chunk(&mut receiving).expect("all of it");
    assert_eq!((payload.bytes(), receiving.take_cost()), (&bytes()[..], 1));
}

/// A peer that rewrites the header of a message whose copy has begun, or breaks it, would keep the
/// copy's memory in this process otherwise.
#[test]
fn a_copy_that_is_never_finished_is_dropped() {
    for (header, has_message) in [
        (
            Header::Message { len: 8, format: Format::Bytes, attached: Attached::Nothing }.encode(),
            true,
        ),
        ([u64::MAX; 2], false),
    ] {
        let (sending, mut receiving) = lane();
        assert!(poll_chunk(&mut receiving).is_none());
        let Ok(Peek::Message(record)) = receiving.consumer.peek() else { panic!("it is there") };
        let offset = record.payload_offset - HEADER_LEN;
        sending.producer().memory().write_header(offset, header);
        receiving.copies.make_room(8).expect("memory");
        let polled = receiving.poll_in_chunks();
        assert_eq!(matches!(polled, Ok(Polled::Message(_))), has_message);
        assert!(receiving.unfinished.is_none());
    }
}

#[test]
fn a_port_that_leaves_its_loop_keeps_no_copy() {
    let (_sending, mut receiving) = lane();
    receiving.set_patient(false);
    assert!(poll_chunk(&mut receiving).is_none());
    receiving.set_patient(true);
    assert!(receiving.unfinished.is_none());
}

/// No call leaves one: each that takes or discards the message ends its copy.
#[test]
fn a_copy_of_another_place_is_not_gone_on_with() {
    let (_sending, mut receiving) = lane();
    let record = receiving.peek().expect("an open end").expect("a message");
    let at = receiving.position() + HEADER_LEN;
    receiving.unfinished = Some(Unfinished::begin(at, record).expect("memory"));
    assert!(poll_chunk(&mut receiving).is_none());
    assert_eq!(receiving.unfinished.as_ref().expect("a copy").at, receiving.position());
}

#[cfg(any(feature = "tokio", feature = "async-io"))]
#[test]
fn memory_for_a_copy_comes_before_the_message_is_taken() {
    let poll = |receiving: &mut Receiving| receiving.poll_to_copy().expect("an open end");
    let (mut sending, mut receiving) = lane();
    for _ in 0..3 {
        let (polled, memory) = poll(&mut receiving);
        assert!(matches!(polled, Polled::Unfinished) && memory.capacity() > 0);
    }
    let (Polled::Message(payload), _) = poll(&mut receiving) else { panic!("it is whole") };
    assert_eq!(payload.bytes(), bytes());
    receiving.give_back(payload.handle());
    assert!(matches!(poll(&mut receiving).0, Polled::Nothing));

    receiving.endpoint().trust();
    assert!(matches!(poll(&mut receiving).0, Polled::Nothing));
    post(&mut sending, &bytes());
    let (Polled::Message(payload), memory) = poll(&mut receiving) else { panic!("it is lent") };
    assert_eq!(payload.bytes(), bytes());
    assert!(memory.capacity() * size_of::<Block>() >= LEN);
}
