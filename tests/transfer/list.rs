//! The list: its order, its kinds, and what comes back when it is refused.

use crate::common::census::Census;
use crate::common::role::play;
use crate::common::{DEADLINE, discard, receive, receive_end, receive_text, refusal};
use crate::{
    assert_entangled, channel, growing, moved, number_of, only_descriptor, only_port, token,
};
use messageport::rkyv::rancor::{Fallible, Source, fail};
use messageport::rkyv::ser::Writer;
use messageport::{
    Buffer, CloseReason, MessageChannel, MessageError, MessagePort, PostError, Transferable, rkyv,
};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn is_nothing_left<T: std::fmt::Debug>(taken: Result<T, MessageError>) -> bool {
    matches!(taken, Err(MessageError::NothingLeft { .. }))
}

#[test]
fn each_kind_arrives_in_the_order_of_the_list() {
    let carrier = channel();
    let pairs: Vec<MessageChannel> = (0..3).map(|_| channel()).collect();
    let (mut kept, mut list) = (Vec::new(), Vec::<Transferable>::new());
    for (pair, number) in pairs.into_iter().zip(1u32..) {
        kept.push(pair.port1);
        let buffer = Buffer::from_slice(&number.to_le_bytes()).expect("a buffer");
        // Another order of kinds in each round.
        let mut three: Vec<Transferable> =
            vec![pair.port2.into(), buffer.into(), token(number).into()];
        three.rotate_left(number as usize % 3);
        list.extend(three);
    }
    carrier.port1.post_message_with(&7u64, list).expect("room");
    for (port, number) in kept.iter().zip(1u32..) {
        port.post_message(&number).expect("room");
    }
    let event = receive(&carrier.port2);
    assert_eq!(*event.data::<u64>().expect("a number"), 7);
    assert_eq!(event.transferred(), (3, 3, 3));
    for number in 1..=3u32 {
        assert_eq!(*event.take_buffer().expect("a buffer"), number.to_le_bytes());
        let port = event.take_port().expect("a port");
        assert_eq!(*receive(&port).data::<u32>().expect("a number"), number);
        assert_eq!(number_of(&event.take_descriptor().expect("a descriptor")), number);
        let left = 3 - number as usize;
        assert_eq!(event.transferred(), (left, left, left));
    }
    assert!(is_nothing_left(event.take_port()));
    assert!(is_nothing_left(event.take_buffer()));
    assert!(is_nothing_left(event.take_descriptor()));
    assert!(event.take_ports().expect("none").is_empty());
    assert!(event.take_buffers().expect("none").is_empty());
    assert!(event.take_descriptors().expect("none").is_empty());
}

#[test]
fn all_that_is_left_of_a_kind_can_be_taken_at_once() {
    let carrier = channel();
    let (one, two, three) = (channel(), channel(), channel());
    let list: Vec<Transferable> =
        vec![one.port2.into(), token(1).into(), two.port2.into(), three.port2.into()];
    carrier.port1.post_bytes_with(b"some", list).expect("room");
    let event = receive(&carrier.port2);
    assert_eq!(event.bytes(), b"some");
    let first = event.take_port().expect("a port");
    let rest = event.take_ports().expect("two ports");
    assert_eq!((rest.len(), event.transferred()), (2, (0, 0, 1)));
    assert_entangled(&one.port1, &first);
    assert_entangled(&two.port1, &rest[0]);
    assert_entangled(&three.port1, &rest[1]);
}

#[test]
fn a_message_without_a_list_and_one_with_an_empty_list_have_nothing_to_take() {
    let carrier = channel();
    carrier.port1.post_text("plain").expect("room");
    carrier.port1.post_text_with("empty", []).expect("room");
    for text in ["plain", "empty"] {
        let event = receive(&carrier.port2);
        assert_eq!(event.text().expect("a text"), text);
        assert_eq!(event.transferred(), (0, 0, 0));
        assert!(is_nothing_left(event.take_port()));
        assert!(is_nothing_left(event.take_buffer()));
        assert!(is_nothing_left(event.take_descriptor()));
        assert!(event.take_ports().expect("none").is_empty());
    }
}

#[test]
fn several_events_keep_what_came_with_each() {
    // In a private copy, and in the ring.
    for is_trusted in [false, true] {
        let carrier = channel();
        if is_trusted {
            trust(&carrier.port2);
        }
        for number in 1..=20u32 {
            let list: Vec<Transferable> = match number % 3 {
                0 => Vec::new(),
                _ => vec![token(number).into(), token(100 + number).into()],
            };
            carrier.port1.post_message_with(&number, list).expect("room");
        }
        let mut events: Vec<_> = (0..20).map(|_| receive(&carrier.port2)).collect();
        for event in events.iter().rev() {
            let number = event.data::<u32>().expect("a number").to_native();
            let tokens = event.take_descriptors().expect("some, or none");
            let numbers: Vec<u32> = tokens.iter().map(number_of).collect();
            match number % 3 {
                0 => assert!(numbers.is_empty()),
                _ => assert_eq!(numbers, [number, 100 + number]),
            }
        }
        events.clear();
        // Memory that was used before brings nothing of what came with it then.
        carrier.port1.post_text("after").expect("room");
        assert_eq!(receive(&carrier.port2).transferred(), (0, 0, 0));
    }
}

#[allow(unsafe_code)]
pub fn trust(port: &MessagePort) {
    // SAFETY: both ends stay with this crate.
    unsafe { port.trust_peer() };
}

/// Of an untrusted carrier the kernel tells, as the port is closed and no more; over a trusted one
/// the port itself does.
#[test]
fn ports_that_are_not_taken_end_for_their_peers() {
    ports_that_are_not_taken_end(channel(), CloseReason::PeerDied);
    let carrier = channel();
    trust(&carrier.port2);
    ports_that_are_not_taken_end(carrier, CloseReason::PeerDropped);
}

#[track_caller]
fn ports_that_are_not_taken_end(carrier: MessageChannel, reason: CloseReason) {
    let (untaken, taken) = (channel(), channel());
    untaken.port1.post_text("never read").expect("room");
    let list: Vec<Transferable> = vec![taken.port2.into(), untaken.port2.into()];
    carrier.port1.post_text_with("two", list).expect("room");
    let event = receive(&carrier.port2);
    let port = event.take_port().expect("a port");
    assert!(!untaken.port1.is_closed(), "it can still be taken");
    drop(event);
    assert_eq!(receive_end(&untaken.port1), reason);
    assert_eq!(untaken.port1.backlog().messages, 1);
    assert_entangled(&taken.port1, &port);
}

#[test]
fn a_message_that_is_discarded_ends_what_moved_with_it() {
    let carrier = channel();
    let lost = channel();
    carrier.port1.post_text_with("unwanted", [lost.port2.into()]).expect("room");
    carrier.port1.post_text_with("wanted", [token(5).into()]).expect("room");
    discard(&carrier.port2);
    assert_eq!(receive_end(&lost.port1), CloseReason::PeerDied);
    let event = receive(&carrier.port2);
    assert_eq!(event.text().expect("a text"), "wanted");
    assert_eq!(number_of(&event.take_descriptor().expect("a descriptor")), 5);
    drop(event);
    assert!(!carrier.port2.discard_next().expect("an open port"));
}

#[test]
fn both_ends_of_a_channel_may_move_with_one_message() {
    let carrier = channel();
    let MessageChannel { port1, port2 } = growing();
    port1.post_text("in the queue").expect("room");
    let list: Vec<Transferable> = vec![port1.into(), port2.into()];
    carrier.port1.post_text_with("both", list).expect("room");
    let ports = receive(&carrier.port2).take_ports().expect("two ports");
    assert_eq!(receive_text(&ports[1]), "in the queue");
    assert_entangled(&ports[0], &ports[1]);
}

#[test]
fn f40_a_move_leaves_no_descriptor_behind() {
    fn mover() {
        let before = Census::take();
        let carrier = channel();
        let MessageChannel { port1, port2 } = channel();
        let with_all = Census::take();
        carrier.port1.post_text_with("a port", [port2.into()]).expect("room");
        let left = Census::take();
        // Its two sockets; the memory's descriptor is shared with the other end.
        assert_eq!(with_all.descriptors - left.descriptors, 2);
        let port2 = receive(&carrier.port2).take_port().expect("a port");
        // Of its own now, with a descriptor and a mapping of the memory.
        assert_eq!(Census::take().descriptors, with_all.descriptors + 1);
        assert_entangled(&port1, &port2);
        drop(port1);
        assert_eq!(receive_end(&port2), CloseReason::PeerDropped);
        drop((port2, carrier));
        before.wait_for("at the end");
        for _ in 0..100 {
            let (carrier, pair) = (channel(), channel());
            let list: Vec<Transferable> = vec![
                pair.port2.into(),
                token(1).into(),
                Buffer::new(10_000).expect("a buffer").into(),
            ];
            carrier.port1.post_text_with("all", list).expect("room");
            let event = receive(&carrier.port2);
            let _taken = (event.take_port(), event.take_buffer());
        }
        before.wait_for("at the end");
    }
    play("list::f40_a_move_leaves_no_descriptor_behind", &[("mover", mover)]);
}

// What is refused.

/// Counts how often it is serialised, and then does something else.
struct Watched<F>(F, Cell<u32>);

impl<F> rkyv::Archive for Watched<F> {
    type Archived = ();
    type Resolver = ();

    fn resolve(&self, (): (), _: rkyv::Place<()>) {}
}

impl<S, F> rkyv::Serialize<S> for Watched<F>
where
    S: Fallible + Writer + ?Sized,
    S::Error: Source,
    F: Fn() -> bool,
{
    fn serialize(&self, serializer: &mut S) -> Result<(), S::Error> {
        self.1.set(self.1.get() + 1);
        serializer.write(&[0xee; 1000])?;
        if (self.0)() { Ok(()) } else { fail!(Unwilling) }
    }
}

#[derive(Debug)]
struct Unwilling;

impl std::fmt::Display for Unwilling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the value does not want to")
    }
}

impl std::error::Error for Unwilling {}

/// Nothing was posted, and the carrier goes on.
#[track_caller]
fn assert_untouched(carrier: &MessageChannel) {
    assert!(carrier.port2.try_recv().expect("an open port").is_none());
    carrier.port1.post_text_with("later", [token(9).into()]).expect("room");
    let event = receive(&carrier.port2);
    assert_eq!(event.text().expect("a text"), "later");
    assert_eq!(number_of(&event.take_descriptor().expect("a descriptor")), 9);
    drop(event);
    assert_entangled(&carrier.port1, &carrier.port2);
}

#[test]
fn f11_the_other_end_of_the_carrier_is_refused_and_comes_back_usable() {
    // Also when it has moved since the channel was made.
    for is_moved in [false, true] {
        let MessageChannel { port1, port2 } = channel();
        let port2 = if is_moved { moved(port2) } else { port2 };
        let value = Watched(|| true, Cell::new(0));
        let list: Vec<Transferable> = vec![token(3).into(), port2.into()];
        let error = port1.post_message_with(&value, list).expect_err("a loop");
        assert!(matches!(error.reason(), PostError::TransferLoop { index: 1 }), "{error}");
        assert_eq!(value.1.get(), 0, "refused before the value is serialised");
        let mut list = error.into_list();
        let port2 = only_port(list.split_off(1));
        assert_eq!(number_of(&only_descriptor(list)), 3);
        assert_untouched(&MessageChannel { port1, port2 });
    }
}

#[test]
fn f16_sixty_four_ports_move_with_one_message_and_one_more_is_refused() {
    fn mover() {
        let before = Census::take();
        let carrier = channel();
        let pairs: Vec<_> = (0..65).map(|_| growing()).collect();
        let (kept, mut ports): (Vec<_>, Vec<_>) =
            pairs.into_iter().map(|pair| (pair.port1, pair.port2)).unzip();
        let value = Watched(|| true, Cell::new(0));
        let list: Vec<Transferable> = ports.drain(..).map(Into::into).collect();
        let error = carrier.port1.post_message_with(&value, list).expect_err("too many");
        let PostError::TooManyTransferables { transferables: 65, descriptors: 195, .. } =
            error.reason()
        else {
            panic!("{error}");
        };
        assert_eq!(value.1.get(), 0, "refused before the value is serialised");
        let mut list = error.into_list();
        let last = only_port(list.split_off(64));
        assert_entangled(&kept[64], &last);
        assert_untouched(&carrier);
        carrier.port1.post_message_with(&value, list).expect("room");
        let ports = receive(&carrier.port2).take_ports().expect("64 ports");
        assert_eq!(ports.len(), 64);
        for (one, other) in kept.iter().zip(&ports) {
            assert_entangled(one, other);
        }
        drop((carrier, kept, ports, last));
        before.wait_for("at the end");
    }
    let name = "list::f16_sixty_four_ports_move_with_one_message_and_one_more_is_refused";
    play(name, &[("mover", mover)]);
}

#[test]
fn f16_sixty_five_descriptors_are_refused() {
    let carrier = channel();
    let list: Vec<Transferable> = (1..=65).map(|number| token(number).into()).collect();
    let error = carrier.port1.post_text_with("many", list).expect_err("too many");
    let PostError::TooManyTransferables { max_transferables: 64, .. } = error.reason() else {
        panic!("{error}");
    };
    let mut list = error.into_list();
    assert_eq!(number_of(&only_descriptor(list.split_off(64))), 65);
    carrier.port1.post_text_with("as many as can be", list).expect("room");
    let tokens = receive(&carrier.port2).take_descriptors().expect("64 descriptors");
    let numbers: Vec<u32> = tokens.iter().map(number_of).collect();
    assert_eq!(numbers, (1..=64).collect::<Vec<_>>());
}

#[test]
fn f4_a_closed_port_in_the_list_is_named_and_all_comes_back() {
    let carrier = channel();
    let (open, closed) = (channel(), channel());
    closed.port2.close();
    let value = Watched(|| true, Cell::new(0));
    let buffer = Buffer::from_slice(b"bytes").expect("a buffer");
    let list: Vec<Transferable> =
        vec![open.port2.into(), buffer.into(), closed.port2.into(), token(4).into()];
    let error = carrier.port1.post_message_with(&value, list).expect_err("a closed port");
    assert!(matches!(error.reason(), PostError::Detached { index: 2 }), "{error}");
    assert!(value.1.get() > 0, "asked after the value was serialised");
    let mut list = error.into_list().into_iter();
    let Some(Transferable::Port(port)) = list.next() else { panic!("a port was first") };
    let Some(Transferable::Buffer(mut buffer)) = list.next() else { panic!("then a buffer") };
    assert!(!buffer.is_sealed());
    buffer.bytes_mut().expect("a buffer that nothing has happened to")[0] = b'B';
    assert_entangled(&open.port1, &port);
    assert!(matches!(list.next(), Some(Transferable::Port(_))));
    assert_eq!(number_of(&only_descriptor(list.collect())), 4);
    assert_untouched(&carrier);
}

#[test]
fn f4_a_value_that_refuses_gives_the_list_back() {
    let carrier = channel();
    let pair = channel();
    pair.port2.post_text("posted before").expect("room");
    let value = Watched(|| false, Cell::new(0));
    let error = carrier.port1.post_message_with(&value, [pair.port2.into()]).expect_err("no");
    assert!(matches!(error.reason(), PostError::Serialize(_)), "{error}");
    let port = only_port(error.into_list());
    assert_eq!(receive_text(&pair.port1), "posted before");
    assert_entangled(&pair.port1, &port);
    assert_untouched(&carrier);
}

#[test]
fn f4_a_value_that_panics_leaves_the_carrier_usable_and_drops_the_list() {
    let carrier = channel();
    let pair = channel();
    let value = Watched(|| panic!("on purpose"), Cell::new(0));
    let list: Vec<Transferable> = vec![pair.port2.into()];
    let post = AssertUnwindSafe(|| carrier.port1.post_message_with(&value, list));
    catch_unwind(post).expect_err("the panic goes on");
    assert_eq!(receive_end(&pair.port1), CloseReason::PeerDropped);
    assert_untouched(&carrier);
}

#[test]
fn f4_a_value_that_uses_the_carrier_meanwhile_finds_it_busy() {
    let carrier = channel();
    let pair = channel();
    let port1 = &carrier.port1;
    let value = Watched(
        || {
            let inner = port1.post_text_with("inside", [token(1).into()]).expect_err("busy");
            assert!(matches!(inner.reason(), PostError::Busy), "{inner}");
            assert_eq!(number_of(&only_descriptor(inner.into_list())), 1);
            true
        },
        Cell::new(0),
    );
    port1.post_message_with(&value, [pair.port2.into()]).expect("room");
    let port2 = receive(&carrier.port2).take_port().expect("a port");
    assert_entangled(&pair.port1, &port2);
    assert_untouched(&carrier);
}

#[test]
fn f4_a_carrier_that_is_closed_or_left_gives_the_list_back() {
    let reasons = [CloseReason::Local, CloseReason::PeerClosed, CloseReason::PeerDropped];
    for reason in reasons {
        let MessageChannel { port1, port2 } = channel();
        let pair = channel();
        let _kept = match reason {
            CloseReason::Local => {
                port1.close();
                Some(port2)
            }
            CloseReason::PeerClosed => {
                port2.close();
                Some(port2)
            }
            _ => {
                drop(port2);
                None
            }
        };
        let error = port1.post_text_with("too late", [pair.port2.into()]).expect_err("closed");
        let (why, list) = error.into_parts();
        assert_eq!(refusal(Err(why)), reason);
        assert_entangled(&pair.port1, &only_port(list));
        let buffer = Buffer::new(10).expect("a buffer");
        let error =
            port1.post_message_with_timeout(&1u8, [buffer.into()], DEADLINE).expect_err("closed");
        let list = error.into_list();
        let Transferable::Buffer(buffer) = &list[0] else { panic!("a buffer") };
        assert!(!buffer.is_sealed(), "nothing was done to it");
    }
}

#[test]
fn f4_a_lane_that_is_full_gives_the_list_back() {
    let carrier = MessageChannel::builder().capacity(4096).bounded().build().expect("a channel");
    while carrier.port1.post_bytes(&[1; 1000]).is_ok() {}
    let pair = channel();
    let error = carrier.port1.post_bytes_with(&[2; 1000], [pair.port2.into()]).expect_err("full");
    let PostError::QueueFull { len: 1000, is_socket: false, .. } = error.reason() else {
        panic!("{error}");
    };
    let port = only_port(error.into_list());
    assert_entangled(&pair.port1, &port);
    let error = carrier.port1.post_bytes_with(&[2; 5000], [port.into()]).expect_err("large");
    assert!(matches!(error.reason(), PostError::TooLarge { .. }), "{error}");
    assert_entangled(&pair.port1, &only_port(error.into_list()));
}

#[test]
fn errors_can_be_sent_and_shared() {
    fn is_an_error<T: std::error::Error + Send + Sync + 'static>() {}
    is_an_error::<messageport::TransferError>();
    is_an_error::<messageport::IntoFdError>();
}
