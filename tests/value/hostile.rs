//! Bytes that no honest peer writes: each is an error, and the port goes on.

use crate::{flaw, foreign, read};
use messageport::{MessageChannel, MessageError, Value};
use serde::Deserialize;

/// An array in an array, and so on, around `inner`.
fn nested(levels: usize, start: &[u8], inner: &[u8]) -> Vec<u8> {
    [start.repeat(levels), inner.to_vec()].concat()
}

#[test]
fn levels_are_limited() {
    read::<Value>(&nested(128, &[0x81], &[1])).expect("128 levels");
    for cbor in [
        nested(129, &[0x81], &[1]),
        nested(1_000_000, &[0x81], &[1]),
        nested(1_000_000, &[0x9f], &[]),
        nested(1_000_000, &[0xbf, 1], &[]),
        nested(1_000_000, &[0xa1, 1], &[1]),
        nested(1_000_000, &[0xa1], &[1]),
    ] {
        let flaw = flaw(read::<Value>(&cbor));
        assert_eq!(flaw.problem(), "arrays and maps are nested in more than 128 levels");
        assert!(read::<serde::de::IgnoredAny>(&cbor).is_err());
    }
    // Tags are stepped over in a loop.
    read::<Value>(&nested(1_000_000, &[0xd8, 100], &[1])).expect("a number with tags");
    assert!(read::<Value>(&nested(1_000_000, &[0xd8, 100], &[])).is_err());
}

/// A type that contains itself without anything else takes no byte at each of its levels.
#[test]
fn a_type_without_end_is_refused() {
    #[derive(Debug, Deserialize)]
    struct Endless(#[allow(dead_code)] Option<Box<Endless>>);
    read::<Endless>(&[0xf6]).expect("null");
    let flaw = flaw(read::<Endless>(&[7]));
    assert!(flaw.problem().contains("more than 512 options and structs"), "{flaw}");
}

#[test]
fn lengths_beyond_the_message_are_refused() {
    let huge = |major: u8| [&[major << 5 | 27][..], &[0xff; 8]].concat();
    let claims = |major: u8, len: u8| vec![major << 5 | 24, len, 1, 1, 1];
    assert!(flaw(read::<Value>(&huge(4))).problem().contains("has 0 bytes left for them"));
    assert!(flaw(read::<Value>(&huge(5))).problem().contains("has 0 bytes left for them"));
    assert!(flaw(read::<Vec<u8>>(&claims(4, 200))).problem().contains("an array of 200 elements"));
    assert!(flaw(read::<Value>(&claims(5, 2))).problem().contains("a map of 2 elements"));
    for major in [2, 3] {
        for cbor in [huge(major), claims(major, 200)] {
            let flaw = flaw(read::<Value>(&cbor));
            assert!(flaw.problem().contains("ends inside the value"), "{flaw}");
        }
    }
}

#[test]
fn bytes_that_are_no_value_are_refused() {
    let cases: [(&[u8], &str); 17] = [
        (&[], "the message ends inside the value, after 0 bytes"),
        (&[1, 2], "1 bytes follow the value"),
        (&[0x81], "an array of 1 elements has 0 bytes left"),
        (&[0x82, 1], "an array of 2 elements has 1 bytes left"),
        (&[0xa1, 1], "a map of 1 elements has 1 bytes left"),
        (&[0x9f, 1], "the message ends inside the value, after 2 bytes"),
        (&[0xbf, 1, 0xff], "the end of an array or map"),
        (&[0xff], "the end of an array or map"),
        (&[0x81, 0xff], "the end of an array or map"),
        (&[0x1c], "the bytes at 0 are no CBOR"),
        (&[0x62, 0xff, 0xff], "the bytes at 0 are no CBOR"),
        (&[0x7f, 0x41, 1, 0xff], "the bytes at 0 are no CBOR"),
        (&[0x5f, 0x61, b'a', 0xff], "the bytes at 0 are no CBOR"),
        (&[0xc2, 0x01], "the bytes at 0 are no CBOR"),
        (&[0xc1, 0x61, b'a'], "the bytes at 0 are no CBOR"),
        (&[0xf8, 32], "the bytes at 0 are no CBOR"),
        (&[0xe0], "the bytes at 0 are no CBOR"),
    ];
    for (cbor, problem) in cases {
        let flaw = flaw(read::<Value>(cbor));
        assert!(flaw.problem().contains(problem), "{cbor:x?}: {flaw}");
        assert!(read::<serde::de::IgnoredAny>(cbor).is_err(), "{cbor:x?}");
    }
}

/// Forms that this crate does not write, and other encoders do.
#[test]
fn other_forms_of_the_same_value_are_accepted() {
    let text = [0x7f, 0x61, b'a', 0x62, b'b', b'c', 0xff];
    assert_eq!(read::<String>(&text).expect("a text in pieces"), "abc");
    let bytes = [0x5f, 0x41, 1, 0x42, 2, 3, 0xff];
    assert_eq!(read::<Vec<u8>>(&bytes).expect("bytes in pieces"), [1, 2, 3]);
    assert_eq!(read::<u8>(&[0x1b, 0, 0, 0, 0, 0, 0, 0, 7]).expect("a long number"), 7);
    let map = [0xbf, 0x61, b'a', 0x9f, 1, 2, 0xff, 0xff];
    assert_eq!(read::<Value>(&map).expect("a map"), Value::from_iter([("a", [1, 2])]));
    assert_eq!(read::<u8>(&[0xc2, 0x42, 0, 7]).expect("a big integer that is small"), 7);
    assert_eq!(read::<i64>(&[0xc3, 0x40]).expect("minus one"), -1);
    // Tag 259 marks a map in JavaScript, 258 a set, and 32 an address.
    assert_eq!(read::<Value>(&[0xd9, 1, 3, 0xa0]).expect("a map"), Value::Map(vec![]));
    assert_eq!(read::<Vec<u8>>(&[0xd9, 1, 2, 0x81, 7]).expect("a set"), [7]);
    assert_eq!(read::<f64>(&[0xc1, 2]).expect("a date"), 2000.0);
}

#[test]
fn a_message_that_is_no_value_ends_nothing() {
    let message = foreign(&[0x1c]);
    assert!(matches!(message.value::<u8>(), Err(MessageError::Value(_))));
    assert!(matches!(message.text(), Err(MessageError::Format { .. })));
    let channel = MessageChannel::new().expect("a channel");
    channel.port2.refuse_transfers();
    let file = std::fs::File::open("/dev/null").expect("a file");
    channel.port1.post_value_with(&7, [file.into()]).expect("room");
    channel.port1.post_value(&8).expect("room");
    let refused = channel.port2.recv().expect("a message");
    match refused.value::<u8>() {
        Err(MessageError::TransfersRefused { descriptors: 1 }) => {}
        other => panic!("{other:?}"),
    }
    drop(refused);
    assert_eq!(channel.port2.recv().expect("a message").value::<u8>().expect("a number"), 8);
}
