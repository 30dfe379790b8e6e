//! Archives that a hostile peer wrote: what rkyv's check accepts and reading it would not survive is
//! refused by every public call, and what rkyv serialises is accepted.
#![allow(unsafe_code)]

#[path = "archives/crafted.rs"]
mod crafted;
#[path = "archives/derived.rs"]
mod derived;
#[path = "archives/holders.rs"]
mod holders;
#[path = "archives/honest.rs"]
mod honest;
#[path = "archives/shared.rs"]
mod shared;

use crafted::{Raw, hostile_map, hostile_set};
use messageport::{
    Buffer, BufferError, EventLoop, Message, MessageChannel, MessageError, MessagePort, TypedError,
    rkyv,
};
use rkyv::collections::btree_map::ArchivedBTreeMap;
use rkyv::collections::swiss_table::{ArchivedHashMap, ArchivedHashSet, ArchivedIndexMap};
use rkyv::string::ArchivedString;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Words = HashMap<String, String>;

/// The other end of a port that has these messages.
fn with_messages(messages: &[Vec<u8>]) -> (MessagePort, MessagePort) {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    for message in messages {
        port1.post_message(&Raw(message)).expect("room");
    }
    (port1, port2)
}

/// What a message says when it is taken for a `T`.
fn read<T: messageport::Receive>(bytes: &[u8]) -> Result<(), String> {
    let (_peer, port) = with_messages(&[bytes.to_vec()]);
    let event = port.recv().expect("a message");
    let found = event.data::<T>().map(drop);
    let again = event.into_message().data::<T>().map(drop);
    assert_eq!(found.is_ok(), again.is_ok(), "an event and its message agree");
    found.map_err(|error| reason(&error))
}

/// The error with its cause.
fn reason(error: &MessageError) -> String {
    let MessageError::Invalid { source, .. } = error else { panic!("not invalid: {error:?}") };
    format!("{error}: {source}")
}

#[track_caller]
fn assert_refused(error: &MessageError) {
    let text = reason(error);
    assert!(text.contains("hash table"), "the text says what is wrong: {text}");
}

#[test]
fn no_call_takes_a_crafted_map() {
    let bytes = hostile_map(1 << 14, -4096);
    let (_peer, port) = with_messages(&vec![bytes.clone(); 2]);
    let event = port.recv().unwrap();
    assert_refused(&event.data::<Words>().unwrap_err());
    assert_refused(&event.deserialize::<Words>().unwrap_err());
    assert!(event.data::<BTreeMap<String, String>>().is_err());
    let message: Message = event.into_message();
    assert_refused(&message.data::<Words>().unwrap_err());
    assert_refused(&message.deserialize::<Words>().unwrap_err());
    // In what holds the map, too.
    for message in [&message, &port.recv().unwrap().into_message()] {
        assert!(message.data::<(u32, Words)>().is_err());
    }
    let mut buffer = Buffer::new(bytes.len()).unwrap();
    buffer.bytes_mut().unwrap().copy_from_slice(&bytes);
    let Err(BufferError::Invalid { source, .. }) = buffer.access::<Words>() else {
        panic!("the map is refused");
    };
    assert!(source.to_string().contains("hash table"), "{source}");
    buffer.seal().unwrap();
    for _ in 0..2 {
        assert!(buffer.access::<Words>().is_err(), "nothing is remembered of what was refused");
    }
}

#[test]
fn no_typed_port_takes_a_crafted_map() {
    let bytes = hostile_map(1 << 14, -4096);
    let (_peer, port) = with_messages(&vec![bytes; 5]);
    let port = port.typed::<Words, ()>();
    let refused = |found: Result<(), TypedError>| match found {
        Err(TypedError::Message(error)) => assert_refused(&error),
        other => panic!("expected a message that is refused: {other:?}"),
    };
    refused(port.recv().map(drop));
    refused(port.recv_timeout(Duration::from_secs(10)).map(drop));
    refused(port.try_recv().map(drop));
    refused(port.iter().next().unwrap().map(drop).map_err(TypedError::Message));
    let said = Arc::new(Mutex::new(Vec::new()));
    let said_by_loop = Arc::clone(&said);
    port.on_message(|_, _| panic!("no handler may see it"));
    port.port().on_message_error(move |event| {
        let error = event.message_error().expect("the error of a message");
        assert_refused(error);
        said_by_loop.lock().unwrap().push(error.to_string());
    });
    let mut event_loop = EventLoop::new().unwrap();
    event_loop.add(port).unwrap();
    event_loop.run_until_idle().unwrap();
    assert_eq!(said.lock().unwrap().len(), 1);
}

#[test]
fn no_trusted_port_takes_a_crafted_map() {
    // The type says what is checked, and not the port: one call, one meaning.
    let (_peer, port) = with_messages(&[hostile_map(1 << 14, -4096)]);
    // SAFETY: both ends are in this program.
    unsafe { port.trust_peer() };
    assert_refused(&port.recv().unwrap().data::<Words>().unwrap_err());
}

#[test]
fn every_kind_of_table_and_tree_is_checked() {
    assert!(read::<HashSet<String>>(&hostile_set(1 << 14, -4096)).is_err());
    let last = |bytes: &[u8]| read::<BTreeMap<String, String>>(bytes).unwrap_err();
    let text = last(&crafted::tree_with_an_empty_leaf());
    assert!(text.contains("B-tree") && text.contains("no entry"), "{text}");
    let text = last(&crafted::tree_without_a_first_child());
    assert!(text.contains("no first child"), "{text}");
    let text = read::<BTreeSet<String>>(&crafted::set_with_an_empty_leaf()).unwrap_err();
    assert!(text.contains("no entry"), "{text}");
    let text = read::<crafted::Indexed>(&crafted::index_map_with_a_far_index()).unwrap_err();
    assert!(text.contains("refers to entry 77"), "{text}");
    // Inside of each other, and of what holds them.
    let (bytes, _) = crafted::map_in_a_map();
    assert!(read::<HashMap<u8, Vec<Option<Words>>>>(&bytes).is_err());
    let [set, map] = crafted::trees_in_tables();
    for text in [
        read::<HashSet<BTreeMap<String, String>>>(&set).unwrap_err(),
        read::<HashMap<BTreeMap<String, String>, u8>>(&map).unwrap_err(),
    ] {
        assert!(text.contains("no entry"), "{text}");
    }
}

#[test]
fn a_lookup_that_would_not_end_is_refused() {
    let text = read::<Words>(&crafted::map_without_an_empty_byte()).unwrap_err();
    assert!(text.contains("control byte 0x80"), "{text}");
}

/// When this fails, rkyv has closed one of its holes. Then: raise rkyv's version in `Cargo.toml`,
/// take the row out of the list in `src/link/archive.rs` and of `docs/safety.md`, and out of here.
/// `SafeArchive` stays: it does not take a release's word for it.
#[test]
fn rkyv_itself_still_accepts_what_is_crafted() {
    const TEXT: &str = "rkyv now refuses it: see the comment of this test";
    let map = hostile_map(1 << 14, -4096);
    type Map = ArchivedHashMap<ArchivedString, ArchivedString>;
    assert!(crafted::rkyv_accepts::<Map>(&map), "{TEXT}");
    let set = hostile_set(1 << 14, -4096);
    assert!(crafted::rkyv_accepts::<ArchivedHashSet<ArchivedString>>(&set), "{TEXT}");
    assert!(crafted::rkyv_accepts::<Map>(&crafted::map_without_an_empty_byte()), "{TEXT}");
    type Tree = ArchivedBTreeMap<ArchivedString, ArchivedString>;
    assert!(crafted::rkyv_accepts::<Tree>(&crafted::tree_with_an_empty_leaf()), "{TEXT}");
    assert!(crafted::rkyv_accepts::<Tree>(&crafted::tree_without_a_first_child()), "{TEXT}");
    type Index = ArchivedIndexMap<ArchivedString, rkyv::rend::u64_le>;
    assert!(crafted::rkyv_accepts::<Index>(&crafted::index_map_with_a_far_index()), "{TEXT}");
}

/// The errors of values are of a type that keeps its text in every build. `rkyv::rancor::Error` says
/// nothing in a release build.
#[test]
fn what_a_value_says_is_kept_in_every_build() {
    use messageport::{BroadcastError, PostError};
    use rkyv::rancor::BoxedError;

    fn kept_by_posts(error: PostError) -> Option<BoxedError> {
        match error {
            PostError::Serialize(source) => Some(source),
            _ => None,
        }
    }
    fn kept_by_members(error: BroadcastError) -> Option<BoxedError> {
        match error {
            BroadcastError::Serialize(source) => Some(source),
            _ => None,
        }
    }
    fn kept_by_buffers(error: BufferError) -> Option<BoxedError> {
        match error {
            BufferError::Serialize(source) | BufferError::Invalid { source, .. } => Some(source),
            _ => None,
        }
    }
    let _ = (kept_by_members, kept_by_buffers);
    let channel = MessageChannel::new().unwrap();
    let refused = channel.port1.post_message(&crafted::Failing).unwrap_err();
    let source = kept_by_posts(refused).expect("the value's own error");
    assert_eq!(source.to_string(), "no more paper");
    channel.port1.post_message(&[7u8; 3]).unwrap();
    let error = channel.port2.recv().unwrap().data::<String>().unwrap_err();
    let text = reason(&error);
    assert!(text.contains("pointer overran range"), "{text}");
}
