//! When types are compared: at once, late, again after a move, in an event loop; and when not.

use crate::common::ends::between_two_ends;
use crate::common::{DEADLINE, receive, receive_end, wait_until, wait_until_asleep};
use messageport::{
    CloseReason, EventLoop, MessageChannel, MessageError, MessagePort, PostError, SafeArchive,
    TypedError, TypedPort, rkyv,
};
use nix::unistd::gettid;
use std::sync::{Arc, Mutex, mpsc};

fn channel() -> (MessagePort, MessagePort) {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    (port1, port2)
}

fn is_mismatch<T>(received: Result<T, TypedError>) -> bool {
    matches!(received, Err(TypedError::TypeMismatch(_)))
}

#[test]
fn each_direction_has_its_own_type() {
    let (port1, port2) = channel();
    let (port1, port2) = (port1.typed::<u8, String>(), port2.typed::<String, u16>());
    port1.post_message(&"this way is agreed".to_string()).expect("room");
    assert_eq!(port2.recv().expect("a text").data(), "this way is agreed");
    assert!(matches!(port2.post_message(&7), Err(PostError::TypeMismatch(_))));
    assert!(is_mismatch(port1.recv()));
    assert!(!port1.check_types().expect_err("one way differs").is_outgoing());
    assert!(port2.check_types().expect_err("one way differs").is_outgoing());
}

#[test]
fn a_message_from_before_the_peer_had_types_stays_when_they_differ() {
    let (port1, port2) = channel();
    let receiver = port2.typed::<u32, ()>();
    port1.post_message(&1u32).expect("room");
    assert_eq!(receiver.recv().expect("a number").data().to_native(), 1);
    port1.post_message(&2u32).expect("room");
    let sender = port1.typed::<(), f32>();
    assert!(sender.post_message(&1.0).is_err());
    assert!(is_mismatch(receiver.recv()) && is_mismatch(receiver.try_recv()));
    assert_eq!(*receive(&receiver.into_inner()).data::<u32>().expect("a number"), 2);
}

/// The receiver waits in a call meanwhile.
#[test]
fn a_peer_that_leaves_over_its_types_is_why_nothing_came() {
    let (port1, port2) = channel();
    let receiver = port2.typed::<u32, ()>();
    let thread = std::thread::spawn(move || {
        let sender = port1.typed::<(), f32>();
        sender.post_message(&1.0).expect_err("another type");
    });
    assert!(is_mismatch(receiver.recv_timeout(DEADLINE)));
    thread.join().expect("the sender does not panic");
    assert_eq!(receive_end(&receiver.into_inner()), CloseReason::PeerDropped);
}

/// The receiver has looked at the peer's types before it waits; the message is no reason to trust
/// what it saw.
#[test]
fn a_message_after_new_types_is_not_read_as_the_old_one() {
    type Call = fn(&TypedPort<u32, ()>) -> Result<(), TypedError>;
    let calls: [Call; 2] = [
        |port| port.recv_timeout(DEADLINE).map(drop),
        |port| port.iter().next().expect("an answer").map(drop).map_err(TypedError::from),
    ];
    for call in calls {
        let (port1, port2) = channel();
        let receiver = port2.typed::<u32, ()>();
        let (tell, id) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            tell.send(gettid()).expect("the test waits for it");
            call(&receiver)
        });
        wait_until_asleep(id.recv().expect("the thread's number"));
        let sender = port1.typed::<(), f32>();
        // As a sender would do whose look at the receiver's types came too early.
        sender.port().post_message(&1.0f32).expect("room");
        let received = thread.join().expect("the receiver does not panic");
        let is_refused = matches!(
            received,
            Err(TypedError::TypeMismatch(_) | TypedError::Message(MessageError::TypeMismatch(_)))
        );
        assert!(is_refused, "{received:?}");
    }
}

#[test]
fn types_can_be_changed_until_they_agree() {
    let (port1, port2) = channel();
    let port1 = port1.typed::<(), u64>();
    let mut port2: MessagePort = port2.typed::<u32, ()>().into_inner();
    for _ in 0..3 {
        let wrong = port2.typed::<u32, ()>();
        assert!(wrong.check_types().is_err() && port1.post_message(&1).is_err());
        let right: TypedPort<u64, ()> = wrong.into_inner().typed();
        port1.post_message(&2).expect("types that agree");
        assert_eq!(right.recv().expect("a number").data().to_native(), 2);
        port2 = right.into_inner();
    }
    // Without types, a port takes anything, and is told of no type.
    port1.post_message(&3).expect("room");
    assert_eq!(*receive(&port2).data::<u64>().expect("a number"), 3);
    // A port's halves have no types either.
    let port2 = MessagePort::from(port2.typed::<u32, ()>());
    assert!(port1.post_message(&4).is_err());
    let (_sender, receiver) = port2.split();
    port1.post_message(&4).expect("room");
    assert!(receiver.recv().is_ok());
}

/// Its peer has seen it agree, and does not ask again by itself.
#[test]
fn a_port_that_moves_is_compared_again() {
    let (port1, port2) = channel();
    let (port1, port2) = (port1.typed::<u8, u8>(), port2.typed::<u8, u8>());
    port1.post_message(&1).expect("room");
    port2.post_message(&1).expect("room");
    assert!(port1.recv().is_ok() && port2.recv().is_ok());
    let carrier = MessageChannel::new().expect("a channel");
    carrier.port1.post_text_with("a port", [MessagePort::from(port2).into()]).expect("room");
    // While it is on its way it has no types.
    port1.post_message(&2).expect("room");
    let moved = receive(&carrier.port2).take_port().expect("a port");
    let port1 = port1.into_inner().typed::<i8, i8>();
    assert!(port1.check_types().is_ok());
    let port1 = port1.into_inner().typed::<u8, u8>();
    let moved = moved.typed::<i8, i8>();
    assert!(moved.post_message(&2).is_err() && is_mismatch(moved.recv()));
    assert!(port1.post_message(&3).is_err() && is_mismatch(port1.recv()));
    let moved = moved.into_inner().typed::<u8, u8>();
    assert_eq!(*moved.recv().expect("a number").data(), 2);
    moved.post_message(&3).expect("room");
    assert_eq!(*port1.recv().expect("a number").data(), 3);
}

/// Types with rkyv's plain derives are as they were: checked message by message.
#[test]
fn a_type_without_a_shape_is_not_compared() {
    #[derive(rkyv::Archive, rkyv::Serialize, SafeArchive)]
    struct Plain {
        id: u32,
    }

    #[messageport::message]
    struct Other {
        id: u32,
    }

    let (port1, port2) = channel();
    let (port1, port2) = (port1.typed::<(), Plain>(), port2.typed::<Other, ()>());
    port1.post_message(&Plain { id: 5 }).expect("room");
    assert_eq!(port2.recv().expect("it has the same bytes").data().id, 5);
    let (port1, port2) = channel();
    let (port1, port2) = (port1.typed::<(), Other>(), port2.typed::<Vec<Plain>, ()>());
    port1.post_message(&Other { id: 5 }).expect("room");
    assert!(matches!(port2.recv(), Err(TypedError::Message(MessageError::Invalid { .. }))));
    assert!(port1.check_types().is_ok() && port2.check_types().is_ok());
}

#[test]
fn a_loop_delivers_errors_in_place_of_messages_of_another_type() {
    let (port1, port2) = channel();
    let log = Arc::new(Mutex::new(Vec::new()));
    let receiver = port2.typed::<u32, ()>();
    let note = |word: &'static str| {
        let log = log.clone();
        move || log.lock().expect("no thread panicked while holding it").push(word)
    };
    let (message, error, close) = (note("message"), note("error"), note("close"));
    receiver.on_message(move |_, _| message());
    receiver.port().on_message_error(move |event| {
        let found = event.message_error().expect("an error");
        assert!(matches!(found, MessageError::TypeMismatch(_)), "{found}");
        error();
    });
    receiver.port().on_close(move |_| close());
    let mut event_loop = EventLoop::new().expect("a loop");
    event_loop.add(receiver).expect("room for a port");
    port1.post_message(&1u32).expect("room");
    event_loop.run_until_idle().expect("the loop waits");
    let sender = port1.typed::<(), f32>();
    // As a sender without the library's help would do.
    sender.port().post_message(&1.0f32).expect("room");
    event_loop.run_until_idle().expect("the loop waits");
    assert!(sender.post_message(&1.0).is_err());
    drop(sender);
    event_loop.run().expect("the loop waits");
    let log = log.lock().expect("no thread panicked while holding it");
    assert_eq!(*log, ["message", "error", "error", "close"]);
}

#[test]
fn a_typed_port_goes_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<TypedPort<String, u8>>();
    is_send::<messageport::TypeMismatch>();
    fn is_sync<T: Sync>() {}
    is_sync::<messageport::TypeMismatch>();
}

/// Either side may be the first, or both at once: what one has posted as its type, the other never
/// reads as another.
fn posts_floats(port: MessagePort) {
    race(port, 0.5f32);
}

fn posts_integers(port: MessagePort) {
    race(port, 7u32);
}

fn race<T: messageport::Post + Copy>(port: MessagePort, value: T) {
    let port = port.typed::<T, T>();
    wait_until("the other side has its types", || {
        match port.try_recv() {
            Ok(None) => {}
            Ok(Some(_)) => panic!("a number of the other kind was received"),
            Err(TypedError::TypeMismatch(_)) => return true,
            Err(error) => panic!("{error}"),
        }
        matches!(port.post_message(&value), Err(PostError::TypeMismatch(_)))
    });
}

fn floats_first(port: MessagePort) {
    posts_floats(port);
}

fn integers_too(port: MessagePort) {
    posts_integers(port);
}

between_two_ends!("declaring", a_race_of_two_types_ends_in_a_refusal, floats_first, integers_too);

#[test]
fn halves_compare_the_type_of_their_own_direction() {
    let (port1, port2) = channel();
    let (sender, receiver) = port1.typed::<u8, u32>().split();
    let peer = port2.typed::<u32, u8>();
    sender.post_message(&1).expect("types that agree");
    peer.post_message(&2).expect("types that agree");
    assert!(peer.recv().is_ok() && receiver.recv().is_ok());
    let peer = peer.into_inner().typed::<f32, i8>();
    let file = std::fs::File::open("/dev/null").expect("a device");
    let error = sender.post_message_with(&3, [file.into()]).expect_err("another type");
    assert_eq!(error.into_parts().1.len(), 1);
    assert!(matches!(sender.post_message(&3), Err(PostError::TypeMismatch(_))));
    let posted = sender.post_message_timeout(&3, DEADLINE);
    assert!(matches!(posted, Err(PostError::TypeMismatch(_))));
    assert!(is_mismatch(receiver.recv()) && is_mismatch(receiver.try_recv()));
    assert!(is_mismatch(receiver.recv_timeout(DEADLINE)));
    let mut messages = receiver.iter();
    assert!(matches!(messages.next(), Some(Err(MessageError::TypeMismatch(_)))));
    assert!(messages.next().is_none());
    drop(messages);
    // And the peer theirs.
    assert!(peer.post_message(&4).is_err() && is_mismatch(peer.try_recv()));
    // A half that has lost its type has no part in it.
    let _receiver = receiver.into_inner();
    peer.post_message(&4).expect("room");
    assert!(is_mismatch(peer.try_recv()));
    let _sender = sender.into_inner();
    assert!(peer.try_recv().expect("an open port").is_none());
}
