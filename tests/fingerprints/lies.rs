//! A peer that writes anything into the words by which types are declared: a refusal at worst.

use crate::common::messages::Rng;
use crate::common::region::Region;
use crate::common::role::{command, play};
use crate::common::watchdog::progress;
use crate::common::{kill_process, wanted};
use messageport::{
    MessageChannel, MessagePort, PostError, RecvError, Shape, TypedError, Worker, parent_port,
};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Where the declared types are, and how many bytes each has: see `docs/layout.md`.
const TYPES: usize = 0x580;
const LEN: usize = 0x280;
const SHAPE_LEN: usize = 8;
const SHAPE: usize = 16;

#[messageport::message]
#[derive(Clone)]
struct Order {
    id: u64,
    item: String,
}

/// What side 0 declares about what it posts.
const POSTED: usize = TYPES;

fn pair() -> (messageport::TypedPort<Order, ()>, MessagePort, Region) {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let region = Region::of(&port1);
    (port2.typed(), port1, region)
}

fn write(region: &Region, text: &[u8], len: u64) {
    region.word(POSTED + SHAPE_LEN).store(len, Relaxed);
    for (place, bytes) in text.chunks(8).take(78).enumerate() {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        region.word(POSTED + SHAPE + 8 * place).store(u64::from_le_bytes(word), Relaxed);
    }
}

fn told(port: &messageport::TypedPort<Order, ()>) -> Option<messageport::TypeMismatch> {
    match port.try_recv() {
        Ok(None) => None,
        Err(TypedError::TypeMismatch(error)) => Some(error),
        other => panic!("{other:?}"),
    }
}

/// The place of each word, and what an honest end writes there.
#[test]
fn an_honest_end_writes_its_two_types_where_the_layout_says() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let region = Region::of(&port1);
    let print = |place: usize| region.word(TYPES + LEN * place).load(Relaxed);
    let fingerprint = |shape: Option<Shape>| shape.expect("a shape").fingerprint();
    let order = fingerprint(Shape::of::<Order>());
    let numbers = [Shape::of::<u8>(), Shape::of::<u16>(), Shape::of::<u32>()].map(fingerprint);
    assert_eq!([0, 1, 2, 3].map(print), [0; 4]);
    let port1 = port1.typed::<u8, Order>();
    assert_eq!([0, 1, 2, 3].map(print), [order, 0, 0, numbers[0]]);
    let _port2 = port2.typed::<u16, u32>();
    assert_eq!([0, 1, 2, 3].map(print), [order, numbers[1], numbers[2], numbers[0]]);
    let text = b"Order\nstruct Order { id: u64, item: String }";
    assert_eq!(region.word(POSTED + SHAPE_LEN).load(Relaxed), text.len() as u64);
    for (place, bytes) in text.chunks_exact(8).enumerate() {
        let word = region.word(POSTED + SHAPE + 8 * place).load(Relaxed);
        assert_eq!(word.to_le_bytes(), bytes);
    }
    drop(port1.into_inner());
    assert_eq!([0, 1, 2, 3].map(print), [0, numbers[1], numbers[2], 0]);
}

/// No page more than the header's is used for it.
#[test]
fn types_take_no_further_page() {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let region = Region::of(&port1);
    let before = region.memory();
    let (_port1, _port2) = (port1.typed::<Order, Order>(), port2.typed::<Order, Order>());
    assert_eq!(region.memory(), before);
}

#[test]
fn a_fingerprint_without_its_text_is_refused_without_one() {
    let (port, _peer, region) = pair();
    region.word(POSTED).store(7, Relaxed);
    for len in [0, 5, 624] {
        write(&region, b"Order\nstruct Order { id: u64 }", len);
        let error = told(&port).expect("a refusal");
        assert_eq!(error.difference(), "the peer's fingerprint is 0x7, and does not say more");
        assert_eq!(error.there(), "another type");
    }
    region.word(POSTED).store(0, Relaxed);
    assert!(told(&port).is_none());
}

#[test]
fn a_text_that_is_cut_or_no_text_is_made_harmless() {
    let (port, _peer, region) = pair();
    region.word(POSTED).store(7, Relaxed);
    let text = b"Order\nstruct Order { id: u32, \x1b[31m\xff\0 item: String, more: Vec<";
    write(&region, text, u64::MAX);
    let error = told(&port).expect("a refusal");
    assert!(error.difference().contains("`id` of `Order` is `u64` here and `u32` there"));
    for shown in [error.to_string(), error.there().to_owned(), format!("{error:?}")] {
        assert!(!shown.contains(['\x1b', '\0']), "{shown:?}");
    }
    assert!(error.to_string().len() < 1000);
}

/// Long shapes differ by their fingerprints, even where their texts do not reach.
#[test]
fn a_difference_behind_the_room_for_the_text_is_found() {
    macro_rules! long {
        ($last:ty) => {
            #[messageport::message]
            pub struct Long {
                a_field_of_a_long_name_1: Option<Vec<std::collections::BTreeMap<u64, String>>>,
                a_field_of_a_long_name_2: Option<Vec<std::collections::BTreeMap<u64, String>>>,
                a_field_of_a_long_name_3: Option<Vec<std::collections::BTreeMap<u64, String>>>,
                a_field_of_a_long_name_4: Option<Vec<std::collections::BTreeMap<u64, String>>>,
                a_field_of_a_long_name_5: Option<Vec<std::collections::BTreeMap<u64, String>>>,
                a_field_of_a_long_name_6: Option<Vec<std::collections::BTreeMap<u64, String>>>,
                a_field_of_a_long_name_7: Option<Vec<std::collections::BTreeMap<u64, String>>>,
                a_field_of_a_long_name_8: Option<Vec<std::collections::BTreeMap<u64, String>>>,
                a_field_of_a_long_name_9: Option<Vec<std::collections::BTreeMap<u64, String>>>,
                a_field_of_a_long_name_10: Option<Vec<std::collections::BTreeMap<u64, String>>>,
                last: $last,
            }
        };
    }
    mod one {
        long!(u8);
    }
    mod other {
        long!(u16);
    }
    assert!(Shape::of::<one::Long>().expect("a shape").as_str().len() > 624);
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let (port1, _port2) = (port1.typed::<(), one::Long>(), port2.typed::<other::Long, ()>());
    let error = port1.check_types().expect_err("another type");
    assert!(error.difference().starts_with("what differs comes after"), "{error}");
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let (port1, _port2) = (port1.typed::<(), one::Long>(), port2.typed::<one::Long, ()>());
    assert!(port1.check_types().is_ok());
}

/// Everything that a typed port does, beside a peer that writes into its words without pause.
fn suffer(port: MessagePort, rounds: u64) {
    let mut port = port;
    for round in 0..rounds {
        let typed = port.typed::<Order, Order>();
        let order = Order { id: round, item: "lamp".into() };
        for _ in 0..8 {
            match typed.recv_timeout(Duration::from_micros(20)) {
                Ok(event) => assert!(event.data().item.len() < 1 << 20),
                Err(TypedError::TypeMismatch(error)) => {
                    assert!(error.to_string().len() < 2000, "{error}");
                    assert!(!error.there().is_empty());
                }
                Err(TypedError::Message(_)) => {}
                Err(TypedError::Recv(RecvError::Timeout | RecvError::Closed { .. })) => {}
                Err(error) => panic!("{error}"),
            }
            match typed.post_message(&order) {
                Ok(()) | Err(PostError::QueueFull { .. } | PostError::Closed { .. }) => {}
                Err(PostError::TypeMismatch(error)) => assert!(error.is_outgoing()),
                Err(error) => panic!("{error}"),
            }
            let _ = (typed.check_types(), typed.try_iter().take(3).count());
            let _ = typed.burst().stage(&order);
        }
        progress();
        port = typed.into_inner();
    }
}

#[test]
fn a_process_that_writes_any_words_there_gets_a_refusal_at_worst() {
    const TEST: &str = "lies::a_process_that_writes_any_words_there_gets_a_refusal_at_worst";
    const SEED: &str = "MESSAGEPORT_TEST_SEED";
    fn hostile() {
        let mut rng = Rng(wanted(SEED, 0));
        let port = parent_port().expect("a port to the victim");
        let region = Region::of(&port);
        let right = Shape::of::<Order>().expect("a shape");
        loop {
            for _ in 0..64 {
                let place = TYPES + LEN * rng.below(4) as usize;
                let word = match rng.below(4) {
                    0 => place,
                    1 => place + SHAPE_LEN,
                    _ => place + SHAPE + 8 * rng.below(78) as usize,
                };
                let value = match rng.below(4) {
                    0 => 0,
                    1 => right.fingerprint(),
                    2 => u64::from_le_bytes(*b"struct <"),
                    _ => rng.next(),
                };
                region.word(word).store(value, Relaxed);
            }
            let _ = port.post_message(&Order { id: 1, item: "honest".into() });
            let _ = port.post_message(&rng.next());
            while let Ok(Some(_)) = port.try_recv() {}
            progress();
        }
    }
    fn victim() {
        for seed in 0..4 {
            let mut command = command(TEST, "hostile");
            command.env(SEED, seed.to_string());
            let (port, mut child) = Worker::spawn(command).expect("a worker").into_parts();
            suffer(port, 200);
            kill_process(child.id());
            child.wait().expect("a child");
        }
    }
    play(TEST, &[("victim", victim), ("hostile", hostile)]);
}
