//! Ten pairs of a type before and after a change, over every way in which two programs meet.

use crate::common::role::{command, play};
use crate::common::{DEADLINE, wait_until};
use messageport::{
    CloseReason, Connect, Listener, MessageChannel, MessageError, MessagePort, Post, PostError,
    Receive, RecvError, TypedError, TypedPort, Worker, parent_port,
};
use std::thread;
use std::time::Duration;

/// One change of a type.
struct Pair {
    name: &'static str,
    /// Posts values of the type as it was.
    posts: fn(MessagePort),
    /// Receives them as what the type has become.
    receives: fn(MessagePort),
}

/// Two definitions of `T`, a value of the first one, and what the receiver of the second one is
/// told.
macro_rules! pairs {
    ($($name:ident { $($old:item)+ } $value:expr, { $($new:item)+ } $difference:literal;)+) => {
        $(mod $name {
            pub mod old {
                $($old)+
            }

            pub mod new {
                $($new)+
            }

            pub fn posts(port: messageport::MessagePort) {
                use old::*;
                super::posts::<T>(port, &$value);
            }

            pub fn receives(port: messageport::MessagePort) {
                super::receives::<new::T>(port, $difference);
            }
        })+

        const PAIRS: &[Pair] = &[$(Pair {
            name: stringify!($name),
            posts: $name::posts,
            receives: $name::receives,
        }),+];
    };
}

pairs! {
    a_field_is_added
        { #[messageport::message] pub struct T { pub id: u32, pub next: u32 } }
        T { id: 1, next: 2 },
        { #[messageport::message] pub struct T { pub id: u32, pub more: u8, pub next: u32 } }
        "field `more: u8` of `T` is only here";
    a_field_is_removed
        { #[messageport::message] pub struct T { pub id: u32, pub next: u32 } }
        T { id: 1, next: 2 },
        { #[messageport::message] pub struct T { pub next: u32 } }
        "field `id: u32` of `T` is only there";
    fields_are_reordered
        { #[messageport::message] pub struct T { pub id: u32, pub next: u32 } }
        T { id: 1, next: 2 },
        { #[messageport::message] pub struct T { pub next: u32, pub id: u32 } }
        "field 1 of `T` is `next` here and `id` there";
    a_field_is_retyped
        { #[messageport::message] pub struct T { pub id: u32 } }
        T { id: 1 },
        { #[messageport::message] pub struct T { pub id: i32 } }
        "field `id` of `T` is `i32` here and `u32` there";
    a_field_is_renamed
        { #[messageport::message] pub struct T { pub metres: f64 } }
        T { metres: 1.0 },
        { #[messageport::message] pub struct T { pub feet: f64 } }
        "field `feet` of `T` is called `metres` there";
    a_variant_is_added_in_the_middle
        { #[messageport::message] pub enum T { Buy, Sell } }
        T::Sell,
        { #[messageport::message] pub enum T { Buy, Hold, Sell } }
        "variant `Hold` of `T` is only here";
    a_variant_is_added_at_the_end
        { #[messageport::message] pub enum T { Buy, Sell } }
        T::Sell,
        { #[messageport::message] pub enum T { Buy, Sell, Hold } }
        "variant `Hold` of `T` is only here";
    a_variant_is_removed
        { #[messageport::message] pub enum T { Buy, Hold, Sell(u8) } }
        T::Sell(1),
        { #[messageport::message] pub enum T { Buy, Sell(u8) } }
        "variant `Hold` of `T` is only there";
    an_enum_becomes_an_integer
        { #[messageport::message] pub enum T { A, B, C } }
        T::B,
        { pub type T = u8; }
        "the type is `u8` here and `T` there";
    a_struct_becomes_a_tuple
        { #[messageport::message] pub struct T { pub id: u32, pub next: u32 } }
        T { id: 1, next: 2 },
        { pub type T = (u32, u32); }
        "the type is `(u32, u32)` here and `T` there";
}

/// Posts until the peer is known to receive another type.
fn posts<T: Post>(port: MessagePort, value: &T) {
    let typed = port.typed::<(), T>();
    wait_until("the peer's type is known", || match typed.post_message(value) {
        Ok(()) => false,
        Err(PostError::TypeMismatch(error)) => {
            assert!(error.is_outgoing() && error.to_string().contains("`T`"), "{error}");
            true
        }
        Err(error) => panic!("{error}"),
    });
    // Every call that posts says so, and gives back what it was to move.
    let file = std::fs::File::open("/dev/null").expect("a device");
    let error = typed.post_message_with(value, [file.into()]).expect_err("another type");
    let (reason, list) = error.into_parts();
    assert!(matches!(reason, PostError::TypeMismatch(_)) && list.len() == 1, "{reason}");
    let error = typed.post_message_with_timeout(value, list, DEADLINE).expect_err("another type");
    assert_eq!(error.into_parts().1.len(), 1);
    let answers = [typed.post_message_timeout(value, DEADLINE), typed.burst().stage(value)];
    assert!(answers.iter().all(|it| matches!(it, Err(PostError::TypeMismatch(_)))), "{answers:?}");
}

/// Is told the difference by each call, and receives nothing.
fn receives<T: Receive + Post>(port: MessagePort, difference: &str) {
    let typed = port.typed::<T, ()>();
    let told = |error: TypedError| match error {
        TypedError::TypeMismatch(error) => {
            assert!(!error.is_outgoing() && error.difference() == difference, "{error}");
            assert!(error.to_string().contains(difference), "{error}");
        }
        other => panic!("{other}"),
    };
    told(typed.recv_timeout(DEADLINE).expect_err("another type"));
    told(typed.recv().expect_err("another type"));
    told(typed.recv_deadline(std::time::Instant::now()).expect_err("another type"));
    told(typed.try_recv().expect_err("another type"));
    typed.check_types().expect_err("another type");
    assert!(typed.iter().map(|it| it.map(drop)).eq_by_end() && typed.try_iter().count() == 1);
    // What was posted before is there for who asks without the types.
    loop {
        match typed.port().recv_timeout(DEADLINE) {
            Ok(event) => assert!(!event.bytes().is_empty()),
            Err(RecvError::Closed { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Whether an iterator gives one error, and then ends.
trait EqByEnd {
    fn eq_by_end(self) -> bool;
}

impl<E, I: Iterator<Item = Result<(), E>>> EqByEnd for I {
    fn eq_by_end(mut self) -> bool {
        matches!(self.next(), Some(Err(_))) && self.next().is_none()
    }
}

/// Both sides of a pair, in two threads.
fn refuse(pair: &Pair, posting: MessagePort, receiving: MessagePort) {
    println!("{}", pair.name);
    let posts = pair.posts;
    let other = thread::spawn(move || posts(posting));
    (pair.receives)(receiving);
    other.join().expect("the posting side does not panic");
}

#[test]
fn there_are_ten() {
    assert_eq!(PAIRS.len(), 10);
}

#[test]
fn two_typed_ports_of_one_channel_refuse_each_other() {
    for pair in PAIRS {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        refuse(pair, port1, port2);
    }
}

#[test]
fn a_client_and_its_listener_refuse_each_other() {
    let name = format!("fingerprints-{}", std::process::id());
    let listener = Listener::bind(&name).expect("a free name");
    for (place, pair) in PAIRS.iter().enumerate() {
        let client = thread::spawn({
            let name = name.clone();
            move || Connect::new().timeout(DEADLINE).to(&name).expect("a port to the listener")
        });
        let port = listener.accept().expect("a client");
        let client = client.join().expect("the client does not panic");
        match place % 2 {
            0 => refuse(pair, client, port),
            _ => refuse(pair, port, client),
        }
    }
}

#[test]
fn a_worker_and_its_parent_refuse_each_other() {
    const TEST: &str = "pairs::a_worker_and_its_parent_refuse_each_other";
    const PAIR: &str = "MESSAGEPORT_TEST_PAIR";
    fn parent() {
        for (place, pair) in PAIRS.iter().enumerate() {
            for (role, act) in [("posts", pair.receives), ("receives", pair.posts)] {
                let mut command = command(TEST, role);
                command.env(PAIR, place.to_string());
                let worker = Worker::spawn(command).expect("a worker");
                let (port, mut child) = worker.into_parts();
                act(port);
                assert!(child.wait().expect("a child").success(), "{}", pair.name);
            }
        }
    }
    fn pair() -> &'static Pair {
        let place = std::env::var(PAIR).expect("a pair").parse::<usize>().expect("a number");
        &PAIRS[place]
    }
    fn posts() {
        (pair().posts)(parent_port().expect("a port to the parent"));
    }
    fn receives() {
        (pair().receives)(parent_port().expect("a port to the parent"));
    }
    play(TEST, &[("parent", parent), ("posts", posts), ("receives", receives)]);
}

/// The port that moves had the right types before it moved, and was used.
#[test]
fn a_port_that_moved_to_another_process_is_refused_there() {
    const TEST: &str = "pairs::a_port_that_moved_to_another_process_is_refused_there";
    fn parent() {
        let worker = Worker::spawn(command(TEST, "child")).expect("a worker");
        let (carrier, mut child) = worker.into_parts();
        for (place, pair) in PAIRS.iter().enumerate() {
            let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
            let (port1, port2) = (port1.typed::<u8, u16>(), port2.typed::<u16, u8>());
            port1.post_message(&1).expect("room");
            port2.post_message(&2).expect("room");
            assert_eq!(port1.recv().expect("a number").data(), &2);
            assert_eq!(port2.recv().expect("a number").data(), &1);
            let (staying, moving) = (port1.into_inner(), MessagePort::from(port2));
            carrier.post_message_with(&(place as u32), [moving.into()]).expect("room");
            match place % 2 {
                0 => (pair.receives)(staying),
                _ => (pair.posts)(staying),
            }
        }
        drop(carrier);
        assert!(child.wait().expect("a child").success());
    }
    fn child() {
        let carrier = parent_port().expect("a port to the parent");
        for event in &carrier {
            let place = event.data::<u32>().expect("a number").to_native() as usize;
            let port = event.take_port().expect("a port");
            match place % 2 {
                0 => (PAIRS[place].posts)(port),
                _ => (PAIRS[place].receives)(port),
            }
        }
    }
    play(TEST, &[("parent", parent), ("child", child)]);
}

/// The peer leaves as it cannot receive what this end would post: this end is told why, by each way
/// to receive.
#[test]
fn a_peer_that_left_for_the_other_direction_is_explained() {
    fn ends() -> (TypedPort<u8, u32>, TypedPort<u64, u8>) {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        (port1.typed(), port2.typed())
    }
    fn explained<T: std::fmt::Debug>(received: Result<T, TypedError>) {
        match received {
            Err(TypedError::TypeMismatch(error)) => {
                assert!(error.is_outgoing());
                assert_eq!(error.difference(), "the type is `u32` here and `u64` there");
            }
            other => panic!("{other:?}"),
        }
    }
    let (port, peer) = ends();
    peer.post_message(&1).expect("a direction that is agreed");
    assert!(matches!(peer.recv(), Err(TypedError::TypeMismatch(_))));
    drop(peer);
    assert_eq!(*port.recv().expect("what came before").data(), 1);
    explained(port.recv());
    explained(port.try_recv());
    explained(port.recv_timeout(Duration::ZERO));
    match port.iter().next() {
        Some(Err(MessageError::TypeMismatch(_))) => {}
        other => panic!("{other:?}"),
    }
    let (sender, receiver) = port.split();
    explained(receiver.recv());
    explained(receiver.try_recv());
    // Without its type there is nothing to explain.
    drop(sender.into_inner());
    match receiver.recv() {
        Err(TypedError::Recv(RecvError::Closed { reason: CloseReason::PeerDropped })) => {}
        other => panic!("{other:?}"),
    }
    // The end that has closed its port itself is told that.
    let (port, peer) = ends();
    port.close();
    match port.recv() {
        Err(TypedError::Recv(RecvError::Closed { reason: CloseReason::Local })) => {}
        other => panic!("{other:?}"),
    }
    drop(peer);
}
