//! Values whose `Serialize` does what it should not.

use super::{assert_empty, assert_works, channel};
use crate::common::messages::chain;
use crate::common::region::Region;
use crate::common::{receive, receive_end, receive_text, refusal};
use messageport::rkyv::rancor::{Fallible, Source, fail};
use messageport::rkyv::ser::Writer;
use messageport::{
    Buffer, CloseReason, MessageChannel, MessagePort, PostError, Transferable, rkyv,
};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::SeqCst;

/// Archives as nothing, after having written what `write` says.
struct Odd<F>(F);

impl<F> rkyv::Archive for Odd<F> {
    type Archived = ();
    type Resolver = ();

    fn resolve(&self, (): (), _: rkyv::Place<()>) {}
}

impl<S, F> rkyv::Serialize<S> for Odd<F>
where
    S: Fallible + Writer + ?Sized,
    F: Fn() -> Vec<u8>,
{
    fn serialize(&self, serializer: &mut S) -> Result<(), S::Error> {
        serializer.write(&self.0())
    }
}

/// Fails after some bytes.
pub struct Failing {
    pub after: usize,
}

/// The same, of a type whose archive fits the header of a record.
struct FailingShort {
    after: usize,
}

impl rkyv::Archive for FailingShort {
    type Archived = u8;
    type Resolver = ();

    fn resolve(&self, (): (), _: rkyv::Place<u8>) {}
}

impl<S> rkyv::Serialize<S> for FailingShort
where
    S: Fallible + Writer + ?Sized,
    S::Error: Source,
{
    fn serialize(&self, serializer: &mut S) -> Result<(), S::Error> {
        serializer.write(&vec![0xee; self.after])?;
        fail!(Refused)
    }
}

#[derive(Debug)]
struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the value does not want to")
    }
}

impl std::error::Error for Refused {}

impl rkyv::Archive for Failing {
    type Archived = ();
    type Resolver = ();

    fn resolve(&self, (): (), _: rkyv::Place<()>) {}
}

impl<S> rkyv::Serialize<S> for Failing
where
    S: Fallible + Writer + ?Sized,
    S::Error: Source,
{
    fn serialize(&self, serializer: &mut S) -> Result<(), S::Error> {
        serializer.write(&vec![0xee; self.after])?;
        fail!(Refused)
    }
}

/// A channel whose first segment takes messages of 2,016 bytes at the most.
fn growing() -> MessageChannel {
    MessageChannel::builder().capacity(4096).limit(1 << 20).build().expect("a channel")
}

#[test]
fn a_value_that_refuses_is_an_error_with_its_own_words() {
    let MessageChannel { port1, port2 } = channel();
    for after in [0, 10, 255, 256, 257, 10_000, 100_000] {
        let error = port1.post_message(&Failing { after }).expect_err("it refuses");
        let PostError::Serialize(_) = &error else { panic!("{error}") };
        assert!(chain(&error).contains("does not want to"), "{error}");
        assert_works(&port1, &port2);
    }
}

#[test]
fn a_value_that_changes_its_length_is_an_error_and_nothing_is_posted() {
    let MessageChannel { port1, port2 } = growing();
    // The first length exceeds the room at hand, so that the value is serialised again.
    for (len, again) in [(3000, 2999), (3000, 3001), (3000, 0), (2100, 1_000_000), (2900, 3016)] {
        let calls = Cell::new(0);
        let odd = Odd(|| {
            calls.set(calls.get() + 1);
            vec![0xee; if calls.get() == 1 { len } else { again }]
        });
        let error = port1.post_message(&odd).expect_err("another length");
        assert!(matches!(error, PostError::Serialize(_)), "{error}");
        assert_eq!(calls.get(), 2);
        assert_works(&port1, &port2);
    }
}

#[test]
fn a_value_that_panics_leaves_a_port_that_works() {
    std::panic::set_hook(Box::new(|_| {}));
    let MessageChannel { port1, port2 } = growing();
    for (len, call) in [(0, 1), (100, 1), (3000, 1), (3000, 2)] {
        let calls = Cell::new(0);
        let odd = Odd(|| {
            calls.set(calls.get() + 1);
            assert!(calls.get() < call, "as it was asked to");
            vec![0xee; len]
        });
        let nested = vec![("before".to_string(), odd)];
        let caught = catch_unwind(AssertUnwindSafe(|| port1.post_message(&nested)));
        assert!(caught.is_err());
        assert_works(&port1, &port2);
        port1.post_message(&vec!["words"; 20].join(" ")).expect("room");
        let event = receive(&port2);
        assert_eq!(event.data::<String>().expect("a text").len(), 20 * 6 - 1);
    }
    let _ = std::panic::take_hook();
}

#[test]
fn f37_a_post_from_inside_a_serialize_is_an_error_and_the_outer_one_goes_on() {
    let MessageChannel { port1, port2 } = channel();
    let busy = |answer: Result<(), PostError>| {
        assert!(matches!(answer, Err(PostError::Busy)), "{answer:?}");
    };
    let outer = Odd(|| {
        busy(port1.post_bytes(b"inner"));
        busy(port1.post_text("inner"));
        busy(port1.post_message(&1u64));
        busy(port1.post_bytes_timeout(b"inner", std::time::Duration::MAX));
        busy(port1.wait_for_room(1, std::time::Duration::MAX));
        busy(port1.loan(5).map(drop));
        busy(port1.burst().stage(&1u64));
        busy(port1.trim().map(drop));
        // What only looks may look.
        assert!(!port1.is_closed());
        let _ = (port1.stats(), port1.backlog());
        assert!(format!("{port1:?}").contains("busy"));
        assert_empty(&port1);
        port2.post_text("the other lane is free").expect("room");
        assert_eq!(receive_text(&port1), "the other lane is free");
        vec![0x11; 300]
    });
    port1.post_message(&outer).expect("room");
    assert_eq!(receive(&port2).bytes(), [0x11; 300]);
    assert_works(&port1, &port2);
}

#[test]
fn f37_a_burst_committed_inside_a_serialize_is_published_afterwards() {
    let MessageChannel { port1, port2 } = channel();
    let burst = Cell::new(Some(port1.burst()));
    let staged = burst.take().expect("just put there");
    staged.stage_text("staged before").expect("room");
    burst.set(Some(staged));
    let outer = Odd(|| {
        drop(burst.take());
        vec![0x22; 20]
    });
    port1.post_message(&outer).expect("room");
    assert_eq!(receive_text(&port2), "staged before");
    assert_eq!(receive(&port2).bytes(), [0x22; 20]);
    assert_works(&port1, &port2);
}

#[test]
fn a_close_inside_a_serialize_comes_after_the_message() {
    let MessageChannel { port1, port2 } = channel();
    let outer = Odd(|| {
        port1.close();
        vec![0x33; 20]
    });
    port1.post_message(&outer).expect("it was posted before the close took place");
    assert_eq!(refusal(port1.post_text("late")), CloseReason::Local);
    assert_eq!(receive(&port2).bytes(), [0x33; 20]);
    assert_eq!(receive_end(&port2), CloseReason::PeerClosed);
}

#[test]
fn a_close_inside_a_serialize_that_fails_takes_place_all_the_same() {
    struct Closing<'p>(&'p MessagePort);

    impl rkyv::Archive for Closing<'_> {
        type Archived = ();
        type Resolver = ();

        fn resolve(&self, (): (), _: rkyv::Place<()>) {}
    }

    impl<S: Fallible + ?Sized> rkyv::Serialize<S> for Closing<'_>
    where
        S::Error: Source,
    {
        fn serialize(&self, _: &mut S) -> Result<(), S::Error> {
            self.0.close();
            fail!(Refused)
        }
    }

    let MessageChannel { port1, port2 } = channel();
    port1.post_message(&Closing(&port1)).expect_err("it refuses");
    assert_eq!(refusal(port1.post_text("late")), CloseReason::Local);
    assert_eq!(receive_end(&port2), CloseReason::PeerClosed);
}

/// How many bytes of a lane's area are these.
fn count_in_area(region: &Region, byte: u8) -> usize {
    let words = (0..region.limit() / 8).map(|word| region.word(region.area(0, 8 * word)));
    words.flat_map(|word| word.load(SeqCst).to_le_bytes()).filter(|found| *found == byte).count()
}

#[test]
fn a_message_that_is_not_posted_leaves_no_byte_in_shared_memory() {
    let MessageChannel { port1, port2 } = growing();
    let region = Region::of(&port1);
    for round in 0..3 {
        for after in [1, 10, 256, 257, 3_000, 50_000] {
            port1.post_message(&Failing { after }).expect_err("it refuses");
            assert_eq!(count_in_area(&region, 0xee), 0, "round {round}, after {after} bytes");
        }
        for after in [1, 7, 8, 9, 300] {
            // The last value decides where the next one is tried first.
            port1.post_message(&1u8).expect("room");
            receive(&port2);
            port1.post_message(&FailingShort { after }).expect_err("it refuses");
            assert_eq!(count_in_area(&region, 0xee), 0, "round {round}, short, after {after}");
        }
        // Too large, after its first pieces were written.
        let pieces = vec![vec![0xee_u8; 100]; 21_000];
        let error = port1.post_message(&pieces).expect_err("too large");
        assert!(matches!(error, PostError::TooLarge { .. }), "{error}");
        assert_eq!(count_in_area(&region, 0xee), 0, "round {round}, too large");
        // Another length the second time.
        let len = Cell::new(5_000);
        let shrinks = Odd(|| vec![0xee; len.replace(len.get() - 1)]);
        port1.post_message(&shrinks).expect_err("another length");
        assert_eq!(count_in_area(&region, 0xee), 0, "round {round}, another length");
        // Written, and then its transfer list is refused.
        let closed = channel().port1;
        closed.close();
        port1.post_bytes_with(&[0xee; 100], [closed.into()]).expect_err("a closed port");
        assert_eq!(count_in_area(&region, 0xee), 0, "round {round}, a closed port");
        // So that the next round is on the fast path.
        port1.post_text("between").expect("room");
        assert_eq!(receive_text(&port2), "between");
    }
    assert_works(&port1, &port2);
}

/// The value was tried where less room is than it needs, and then written elsewhere.
#[test]
fn a_message_whose_list_is_refused_leaves_no_byte_in_either_place() {
    let builder = MessageChannel::builder().capacity(4096).bounded();
    let MessageChannel { port1, port2 } = builder.build().expect("a channel");
    let region = Region::of(&port1);
    let pieces = vec![vec![0xee_u8; 100]; 15];
    for round in 0..8 {
        // From there to the end of the segment is less room than the value needs.
        port1.post_bytes(&[1; 1_300]).expect("room");
        receive(&port2);
        let closed = channel().port1;
        closed.close();
        let error = port1.post_message_with(&pieces, [closed.into()]).expect_err("a closed port");
        assert!(matches!(error.reason(), PostError::Detached { index: 0 }), "{error}");
        assert_eq!(count_in_area(&region, 0xee), 0, "round {round}");
    }
    assert_works(&port1, &port2);
}

#[test]
fn a_value_that_changes_its_length_before_its_buffers_are_behind_it_comes_back_with_them() {
    let MessageChannel { port1, port2 } = growing();
    let region = Region::of(&port1);
    for len in [600, 1_000, 3_000] {
        // The room that is tried first is that of the last value, and of the buffer.
        port1.post_message(&vec![1u8; len - 450]).expect("room");
        receive(&port2);
        let len = Cell::new(len);
        let times = Cell::new(0);
        let shrinks = Odd(|| {
            times.set(times.get() + 1);
            vec![0xee; len.replace(len.get() - 1)]
        });
        let buffer = Buffer::from_slice(&[5; 400]).expect("memory");
        let error = port1.post_message_with(&shrinks, [buffer.into()]).expect_err("shorter");
        let (reason, list) = error.into_parts();
        assert!(matches!(reason, PostError::Serialize(_)), "{reason}");
        let [Transferable::Buffer(buffer)] = &list[..] else { panic!("{list:?}") };
        assert_eq!(buffer[..], [5; 400]);
        assert_eq!((times.get(), count_in_area(&region, 0xee)), (2, 0));
    }
    assert_works(&port1, &port2);
}
