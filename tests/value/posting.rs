//! Every way to post a value.

use crate::common::receive;
use crate::common::region::Region;
use crate::{User, cross, flaw};
use messageport::{
    BroadcastChannel, BroadcastError, Buffer, MessageChannel, PortCollection, PostError, Value,
};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::time::Duration;

#[test]
fn every_sender_posts_values() {
    let channel = MessageChannel::new().expect("a channel");
    let (sender, _receiver) = channel.port1.split();
    sender.post_value("sender").expect("room");
    sender.post_value_timeout("sender, waiting", Duration::ZERO).expect("room");
    let burst = sender.burst();
    burst.stage_value("burst").expect("room");
    assert_eq!(channel.port2.recv().expect("a message").value::<&str>().expect("text"), "sender");
    burst.commit();
    let shared = sender.into_shared();
    shared.post_value("shared").expect("room");
    shared.post_value_timeout("shared, waiting", Duration::ZERO).expect("room");
    let file = std::fs::File::open("/dev/null").expect("a file");
    shared.post_value_with("shared, with a file", [file.into()]).expect("room");
    for expected in ["sender, waiting", "burst", "shared", "shared, waiting", "shared, with a file"]
    {
        let event = channel.port2.recv().expect("a message");
        assert_eq!(event.value::<&str>().expect("text"), expected);
    }
}

#[test]
fn what_moves_comes_with_the_value() {
    let channel = MessageChannel::new().expect("a channel");
    let buffer = Buffer::from_slice(&[7; 100]).expect("memory");
    channel.port1.post_value_with(&("pixels", 100), [buffer.into()]).expect("room");
    let event = channel.port2.recv().expect("a message");
    assert_eq!(event.value::<(&str, usize)>().expect("a value"), ("pixels", 100));
    assert_eq!(event.take_buffer().expect("a buffer")[..], [7; 100]);
    drop(event);

    // A value that fails half-way moves nothing.
    let moving = MessageChannel::new().expect("a channel").port1;
    let nested = (0..200).fold(Value::Null, |inner, _| vec![inner].into());
    let error = channel.port1.post_value_with(&nested, [moving.into()]).expect_err("too deep");
    let (reason, list) = error.into_parts();
    assert!(matches!(reason, PostError::Serialize(_)), "{reason:?}");
    assert_eq!(list.len(), 1);
    assert!(channel.port2.try_recv().expect("open").is_none());
}

/// Lengths around every size that is treated in its own way: short messages, the first guess of
/// the room, the end of a segment.
#[test]
fn values_of_all_lengths_cross() {
    let channel = MessageChannel::builder().capacity(4096).build().expect("a channel");
    for trusted in [false, true] {
        if trusted {
            // SAFETY: both ends stay in this test.
            #[allow(unsafe_code)]
            unsafe {
                channel.port2.trust_peer();
            }
        }
        for len in (0..40).chain(240..280).chain([1000, 4000, 4090, 10_000, 70_000, 300_000, 3]) {
            let text = "x".repeat(len);
            channel.port1.post_value(&[&text]).expect("room");
            channel.port1.post_value(&len).expect("room");
            let event = channel.port2.recv().expect("a message");
            assert_eq!(event.value::<[&str; 1]>().expect("a value"), [text.as_str()]);
            drop(event);
            let event = channel.port2.recv().expect("a message");
            assert_eq!(event.value::<usize>().expect("a value"), len);
        }
    }
}

#[test]
fn a_full_queue_a_closed_port_and_a_value_that_is_too_long_are_errors() {
    let channel = MessageChannel::builder().capacity(4096).bounded().build().expect("a channel");
    let value = vec![7u8; 600];
    let full = loop {
        match channel.port1.post_value(&value) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(full, PostError::QueueFull { is_socket: false, .. }), "{full:?}");
    let timeout = channel.port1.post_value_timeout(&value, Duration::from_millis(1));
    assert!(matches!(timeout, Err(PostError::Timeout)), "{timeout:?}");
    while let Some(event) = channel.port2.try_recv().expect("open") {
        assert_eq!(event.value::<Vec<u8>>().expect("a value"), value);
    }
    channel.port1.post_value(&value).expect("room again");
    let long = channel.port1.post_value(&vec![7u8; 8000]);
    assert!(matches!(long, Err(PostError::TooLarge { len: 8003, .. })), "{long:?}");
    channel.port2.close();
    let closed = channel.port1.post_value(&value);
    assert!(matches!(closed, Err(PostError::Closed { .. })), "{closed:?}");
}

/// A `Serialize` that writes another length each time, and is written twice.
#[test]
fn a_value_that_changes_is_not_posted() {
    use serde::{Serialize, Serializer};
    use std::cell::Cell;

    struct Grows(Cell<usize>);
    impl Serialize for Grows {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.set(self.0.get() + 1000);
            serializer.serialize_bytes(&vec![7; self.0.get()])
        }
    }

    let channel = MessageChannel::new().expect("a channel");
    let error = channel.port1.post_value(&Grows(Cell::new(0))).expect_err("two lengths");
    let source = std::error::Error::source(&error).expect("a source").to_string();
    assert!(source.contains("took 1003 bytes at first and 2003 bytes"), "{source}");
    assert!(channel.port2.try_recv().expect("open").is_none());
}

/// A `Serialize` that uses the port on which it is posted.
#[test]
fn a_post_from_inside_a_serialize_is_busy() {
    use messageport::MessagePort;
    use serde::{Serialize, Serializer};

    struct Posts<'p>(&'p MessagePort);
    impl Serialize for Posts<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let inner = self.0.post_value(&1);
            assert!(matches!(inner, Err(PostError::Busy)), "{inner:?}");
            serializer.serialize_u8(7)
        }
    }

    let channel = MessageChannel::new().expect("a channel");
    channel.port1.post_value(&Posts(&channel.port1)).expect("room");
    assert_eq!(channel.port2.recv().expect("a message").value::<u8>().expect("a value"), 7);
}

#[test]
fn many_ports_get_the_same_value() {
    let (one, other) = (MessageChannel::new(), MessageChannel::new());
    let (one, other) = (one.expect("a channel"), other.expect("a channel"));
    let mut all = PortCollection::owned();
    all.add(one.port1);
    all.add(other.port1);
    all.post_value(&("all", 2)).expect("room");
    for port in [one.port2, other.port2] {
        let event = port.recv().expect("a message");
        assert_eq!(event.value::<(&str, u8)>().expect("a value"), ("all", 2));
    }
    let nested = (0..200).fold(Value::Null, |inner, _| vec![inner].into());
    let error = all.post_value(&nested).expect_err("too deep");
    assert!(matches!(error.serialize, Some(PostError::Serialize(_))), "{error:?}");

    let name = format!("values-{}", std::process::id());
    let open = || BroadcastChannel::open(&name).expect("a member");
    let (one, other) = (open(), open());
    one.post_value(&("all", 2)).expect("room");
    let message = other.recv().expect("a message");
    assert_eq!(message.value::<(&str, u8)>().expect("a value"), ("all", 2));
    assert!(matches!(one.post_value(&nested), Err(BroadcastError::Serialize(_))));
    one.close();
    assert!(matches!(one.post_value(&1), Err(BroadcastError::Closed { .. })));
}

#[test]
fn listeners_read_values() {
    let channel = MessageChannel::new().expect("a channel");
    let (sender, received) = mpsc::channel();
    channel.port2.on_message(move |event| {
        let value: Value = event.message().expect("a message").value().expect("a value");
        sender.send(value).expect("the test waits");
    });
    channel.port1.post_value(&("to", "a listener")).expect("room");
    assert_eq!(channel.port2.dispatch(8).expect("open"), 1);
    assert_eq!(received.try_recv().expect("a value"), Value::from(["to", "a listener"]));
}

/// The message of the error that people see.
#[test]
fn an_error_says_what_to_do() {
    let error = cross::<User>(&7).expect_err("no user");
    let text = error.to_string();
    assert!(text.contains("expected struct User, found 7; receive the type"), "{text}");
    assert_eq!(flaw(Err::<(), _>(error)).path(), "");
}

#[cfg(feature = "tokio")]
#[test]
fn tasks_post_values() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let channel = MessageChannel::builder().capacity(4096).bounded().build();
        let channel = channel.expect("a channel");
        let mut port1 = channel.port1.into_async().expect("a reactor");
        let mut port2 = channel.port2.into_async().expect("a reactor");
        let poster = async {
            for number in 0..100u32 {
                port1.post_value(&(number, "x".repeat(500))).await.expect("it waits for room");
            }
            let file = std::fs::File::open("/dev/null").expect("a file");
            port1.post_value_with("the end", [file.into()]).await.expect("room");
        };
        let reader = async {
            for number in 0..100 {
                let message = port2.recv().await.expect("a message");
                assert_eq!(message.value::<(u32, &str)>().expect("a value").0, number);
            }
            let message = port2.recv().await.expect("a message");
            assert_eq!(message.value::<&str>().expect("a value"), "the end");
            message.take_descriptor().expect("the file");
        };
        tokio::join!(poster, reader);
    });
}

/// The value was tried where less room is than it needs, and then written elsewhere.
#[test]
fn a_value_whose_list_is_refused_leaves_no_byte_in_either_place() {
    let builder = MessageChannel::builder().capacity(4096).bounded();
    let MessageChannel { port1, port2 } = builder.build().expect("a channel");
    let region = Region::of(&port1);
    let texts = vec!["~".repeat(100); 15];
    for round in 0..8 {
        // From there to the end of the segment is less room than the value needs.
        port1.post_bytes(&[1; 1_300]).expect("room");
        drop(receive(&port2));
        let closed = MessageChannel::new().expect("a channel").port1;
        closed.close();
        port1.post_value_with(&texts, [closed.into()]).expect_err("a closed port");
        let words = (0..region.limit() / 8).map(|word| region.word(region.area(0, 8 * word)));
        let mut bytes = words.flat_map(|word| word.load(SeqCst).to_le_bytes());
        assert!(bytes.all(|byte| byte != b'~'), "round {round}");
    }
}
