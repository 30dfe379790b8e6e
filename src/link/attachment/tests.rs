//! What is looked at before a list leaves, and small buffers in records that lie.

use super::*;
use crate::wire::record::{CloseKind, Format};

fn pair() -> (Halves, Halves) {
    transfer::create_pair(4096, 65_536, 0, false, Default::default()).expect("a small channel")
}

#[test]
fn a_port_cannot_move_if_one_half_of_it_is_closed() {
    let (carrier, _peer) = pair();
    for is_sending in [true, false] {
        let ((mut sending, mut receiving), _other) = pair();
        match is_sending {
            true => sending.close(CloseKind::Closed),
            false => receiving.close(CloseKind::Closed),
        }
        assert_eq!((sending.is_finished(), receiving.is_finished()), (is_sending, !is_sending));
        let items = [Attachment::Port((&mut sending, &mut receiving))];
        let checked = check(&items, carrier.0.endpoint().region()).expect("a short list");
        let refused = checked.check_ports();
        assert!(matches!(refused, Err(PostError::Detached { index: 0 })), "{refused:?}");
        let refused = transfer::into_descriptor(&mut sending, &mut receiving);
        assert!(matches!(refused, Err(PostError::Closed { .. })), "{refused:?}");
    }
}

#[test]
fn a_port_cannot_move_if_one_half_of_it_has_a_pool() {
    let (carrier, _peer) = pair();
    for is_sending in [true, false] {
        let (mut one, mut other) = pair();
        for halves in [&one, &other] {
            halves.0.endpoint().trust();
        }
        let _ = one.0.add_pool(1, 1, false).expect("a pool of one byte");
        assert!(!other.1.has_message(), "the pool is taken in");
        assert!(other.1.peek().expect("an open end").is_none());
        let (sending, receiving) = if is_sending { &mut one } else { &mut other };
        assert_eq!((sending.has_pools(), receiving.has_pools()), (is_sending, !is_sending));
        let refused = transfer::into_descriptor(sending, receiving);
        assert!(matches!(refused, Err(PostError::HasPool { index: 0 })), "{refused:?}");
        let items = [Attachment::Port((sending, receiving))];
        let checked = check(&items, carrier.0.endpoint().region()).expect("a short list");
        let refused = checked.check_ports();
        assert!(matches!(refused, Err(PostError::HasPool { index: 0 })), "{refused:?}");
    }
}

#[test]
fn a_list_has_as_many_entries_as_it_may() {
    let (carrier, _peer) = pair();
    let region = carrier.0.endpoint().region();
    let item = || Attachment::Descriptor(carrier.0.endpoint().doorbell());
    let mut items: Vec<Outgoing<'_>> = (0..MAX_ENTRIES).map(|_| item()).collect();
    let checked = check(&items, region).expect("as many as there may be");
    assert_eq!(usize::from(checked.descriptors), MAX_ENTRIES);
    items.push(item());
    assert!(matches!(check(&items, region), Err(PostError::TooManyTransferables { .. })));
}

/// What `SmallBuffers::read` makes of a record with this payload: the lengths of the buffers, or
/// what is wrong.
fn read(small: SmallBuffers, payload: &[u8]) -> Result<Vec<usize>, Corruption> {
    let ((mut sending, _), (_, mut receiving)) = pair();
    sending.stage_bytes(payload, Format::Bytes).expect("room");
    // As long again, so that what lies behind the record is in the ring as well.
    sending.stage_bytes(payload, Format::Bytes).expect("room");
    sending.commit();
    let record = receiving.peek().expect("an open end").expect("a message");
    let memory = sending.endpoint().region().lane(sending.endpoint().outgoing());
    match small.read(&memory, &record) {
        Ok(attachments) => Ok(attachments.unclaimed.iter().map(len_of).collect()),
        Err(SmallError::Corrupt(corruption)) => Err(corruption),
        Err(SmallError::OutOfMemory) => panic!("there is memory"),
    }
}

fn len_of(attachment: &Arrived) -> usize {
    let Attachment::Buffer(ArrivedBuffer::Small(buffer)) = attachment else {
        panic!("no small buffer");
    };
    buffer.small_bytes().expect("it is small").len()
}

/// A message of 40 bytes, two buffers of `lens` bytes as their sender says, with `bytes` bytes.
fn payload(bytes: usize, lens: [u32; 2]) -> (SmallBuffers, Vec<u8>) {
    let mut payload = vec![7; 40 + bytes];
    lens.iter().for_each(|len| payload.extend(len.to_le_bytes()));
    (SmallBuffers { count: 2, len: (bytes + 2 * LENGTH) as u32 }, payload)
}

#[test]
fn small_buffers_fill_exactly_what_they_take_of_a_record() {
    const MOST: u32 = MOST_SMALL as u32;
    let one = |found: u32, bound: u32| Corruption::new("small buffer", found.into(), bound.into());
    for (bytes, lens, expected) in [
        (30, [10, 20], Ok(vec![10, 20])),
        (0, [0, 0], Ok(vec![0, 0])),
        (2 * MOST_SMALL, [MOST; 2], Ok(vec![MOST_SMALL; 2])),
        (30, [10, 19], Err(Corruption::unequal("small buffers", 69, 70))),
        (30, [10, 21], Err(one(21, 20))),
        (30, [31, 0], Err(one(31, 30))),
        (30, [10, u32::MAX], Err(one(u32::MAX, 20))),
        (MOST_SMALL + 8, [MOST + 1, 7], Err(one(MOST + 1, MOST))),
    ] {
        let (small, bytes) = payload(bytes, lens);
        assert_eq!(read(small, &bytes), expected, "{lens:?}");
    }
    // The lengths alone take eight bytes.
    let (small, bytes) = payload(0, [0, 0]);
    let expected = Corruption::too_small("bytes of small buffers", 7, 8);
    assert_eq!(read(SmallBuffers { len: 7, ..small }, &bytes), Err(expected));
}
