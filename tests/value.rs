//! Plain data, by serde and in CBOR: what can cross, and what happens to what cannot.
#![cfg(feature = "value")]

mod common;
#[path = "value/hostile.rs"]
mod hostile;
#[path = "value/kinds.rs"]
mod kinds;
#[path = "value/memory.rs"]
mod memory;
#[path = "value/places.rs"]
mod places;
#[path = "value/posting.rs"]
mod posting;

use common::region::Region;
use messageport::{Format, Message, MessageChannel, MessageError, PostError, ValueError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::sync::atomic::Ordering::Relaxed;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
    tags: Vec<String>,
    age: Option<u8>,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Guest,
    Paid(u32),
    Both(u8, String),
    Member { since: u16 },
}

/// Posts and receives a value.
fn cross<T: DeserializeOwned>(value: &(impl Serialize + ?Sized)) -> Result<T, MessageError> {
    let channel = MessageChannel::new().expect("a channel");
    channel.port1.post_value(value).expect("a value that can be posted");
    channel.port2.recv().expect("the message").value()
}

/// A message of format `value` with any bytes, as a peer without this crate can post it.
fn foreign(cbor: &[u8]) -> Message {
    let channel = MessageChannel::builder().capacity(8 << 20).build().expect("a channel");
    channel.port1.post_bytes(cbor).expect("room");
    let region = Region::of(&channel.port1);
    // In the header of the first record: 1 is bytes, and 3 a value.
    let header = region.word(region.area(0, 0));
    assert_eq!(header.fetch_or(2 << 40, Relaxed) >> 40, 1);
    let message = channel.port2.recv().expect("the message").into_message();
    assert_eq!((message.format(), message.bytes()), (Format::Value, cbor));
    message
}

/// Reads any bytes as a value.
fn read<T: DeserializeOwned>(cbor: &[u8]) -> Result<T, MessageError> {
    foreign(cbor).value()
}

/// The error of a value that does not fit.
#[track_caller]
fn flaw<T: Debug>(result: Result<T, MessageError>) -> ValueError {
    match result {
        Err(MessageError::Value(flaw)) => flaw,
        other => panic!("{other:?}"),
    }
}

/// The error of a value that cannot be posted.
fn unposted(value: &(impl Serialize + ?Sized)) -> String {
    let channel = MessageChannel::new().expect("a channel");
    let error = channel.port1.post_value(value).expect_err("a value that cannot be posted");
    assert!(matches!(error, PostError::Serialize(_)), "{error:?}");
    channel.port1.post_text("next").expect("the port is usable");
    let next = channel.port2.recv().expect("the next message");
    assert_eq!(next.text().expect("text"), "next", "and nothing was posted");
    std::error::Error::source(&error).expect("what is wrong").to_string()
}
