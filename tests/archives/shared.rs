//! Values that are shared by pointers: their depth, their cost, and their type.

use super::crafted::Raw;
use super::read;
use messageport::{MessageChannel, MessageError, rkyv};
use rkyv::rancor::{Error, Source};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// A value that others share, and that shares others.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, messageport::SafeArchive)]
#[rkyv(
    serialize_bounds(
        __S: rkyv::ser::Writer + rkyv::ser::Sharing,
        __S::Error: Source,
    ),
    deserialize_bounds(__D: rkyv::de::Pooling, __D::Error: Source),
    bytecheck(bounds(
        __C: rkyv::validation::ArchiveContext + rkyv::validation::SharedContext,
        __C::Error: Source,
    ))
)]
struct Node {
    #[rkyv(omit_bounds)]
    left: Option<Rc<Node>>,
    #[rkyv(omit_bounds)]
    right: Option<Rc<Node>>,
}

impl Node {
    fn new(left: Option<&Rc<Node>>, right: Option<&Rc<Node>>) -> Rc<Node> {
        Rc::new(Node { left: left.cloned(), right: right.cloned() })
    }
}

/// All nodes of a chain, its end first: so each is checked by rkyv at a depth of one.
fn chain(links: usize) -> Vec<Rc<Node>> {
    let mut nodes = vec![Node::new(None, None)];
    for _ in 0..links {
        nodes.push(Node::new(nodes.last(), None));
    }
    nodes
}

/// Without this, formatting, comparing or dropping such a value overflows the stack.
#[test]
fn a_chain_of_shared_values_is_no_way_round_the_limit_of_depth() {
    let archive = |links| {
        let nodes = chain(links);
        let bytes = rkyv::to_bytes::<Error>(&nodes).unwrap().to_vec();
        // Dropping it would recurse as well.
        std::mem::forget(nodes);
        bytes
    };
    assert_eq!(read::<Vec<Rc<Node>>>(&archive(200)), Ok(()));
    assert!(super::crafted::rkyv_accepts::<rkyv::Archived<Vec<Rc<Node>>>>(&archive(5_000)));
    let text = read::<Vec<Rc<Node>>>(&archive(5_000)).unwrap_err();
    assert!(text.contains("254 levels"), "{text}");
}

/// Two pointers on each of 100 levels to the next are 2^100 ways. Ends if each value is checked
/// once.
#[test]
fn shared_values_are_checked_once() {
    let mut top = Node::new(None, None);
    for _ in 0..100 {
        top = Node::new(Some(&top), Some(&top));
    }
    let channel = MessageChannel::new().unwrap();
    channel.port1.post_message(&*top).unwrap();
    let event = channel.port2.recv().unwrap();
    event.data::<Node>().expect("an honest value");
    // To be deserialised it is too much. Ends as well, and says why.
    let Err(MessageError::Invalid { source, .. }) = event.deserialize::<Node>() else {
        panic!("2^100 values");
    };
    assert!(source.to_string().contains("in place"), "{source}");
}

#[test]
fn shared_values_come_out_shared() {
    type Sharing = (Rc<String>, Vec<Rc<String>>, Arc<str>, Arc<str>, Weak<String>);
    let (word, text) = (Rc::new("word".to_string()), Arc::<str>::from("text"));
    let value: Sharing = (
        Rc::clone(&word),
        vec![Rc::clone(&word); 3],
        Arc::clone(&text),
        text,
        Rc::downgrade(&word),
    );
    let channel = MessageChannel::new().unwrap();
    channel.port1.post_message(&value).unwrap();
    let event = channel.port2.recv().unwrap();
    let (word, words, text, again, weak): Sharing = event.deserialize().expect("an honest value");
    assert_eq!((word.as_str(), &*text), ("word", "text"));
    assert!(words.iter().all(|other| Rc::ptr_eq(&word, other)));
    assert!(Arc::ptr_eq(&text, &again) && Weak::ptr_eq(&weak, &Rc::downgrade(&word)));
    assert_eq!(Rc::strong_count(&word), 4, "nothing is left behind");
}

/// rkyv's own pool would hand out the memory of a `u32` as a `usize`'s: both have one archived
/// type.
#[test]
fn a_shared_value_is_not_taken_for_another_type() {
    type Narrow = [u32; 100];
    type Wide = [usize; 100];
    let one = Rc::new([7u32; 100]);
    let bytes = rkyv::to_bytes::<Error>(&(Rc::clone(&one), one)).unwrap().to_vec();
    let channel = MessageChannel::new().unwrap();
    channel.port1.post_message(&Raw(&bytes)).unwrap();
    let event = channel.port2.recv().unwrap();
    assert!(event.data::<(Rc<Narrow>, Rc<Wide>)>().is_ok(), "in place both are right");
    let found = event.deserialize::<(Rc<Narrow>, Rc<Wide>)>();
    let Err(MessageError::Invalid { source, .. }) = found else { panic!("one is wrong") };
    assert!(source.to_string().contains("two pointers of different types"), "{source}");
    let (narrow, other) = event.deserialize::<(Rc<Narrow>, Rc<Narrow>)>().unwrap();
    assert!(Rc::ptr_eq(&narrow, &other));
    let (wide, other) = event.deserialize::<(Rc<Wide>, Rc<Wide>)>().unwrap();
    assert!(Rc::ptr_eq(&wide, &other) && wide[99] == 7);
    // What no pointer shares is of any type.
    let apart = rkyv::to_bytes::<Error>(&(Rc::new([1u32; 100]), Rc::new([2usize; 100]))).unwrap();
    channel.port1.post_message(&Raw(&apart)).unwrap();
    let event = channel.port2.recv().unwrap();
    let (narrow, wide) = event.deserialize::<(Rc<Narrow>, Rc<Wide>)>().unwrap();
    assert_eq!((narrow[99], wide[99]), (1, 2));
}

#[test]
fn tables_behind_shared_pointers_are_checked() {
    type Words = HashMap<String, String>;
    let mut bytes = super::hostile_map(1 << 14, -4096);
    assert_eq!(bytes.len() % 4, 0);
    // A pointer back to the map behind it.
    bytes.extend_from_slice(&(-12i32).to_le_bytes());
    for _ in 0..2 {
        assert!(super::crafted::rkyv_accepts::<rkyv::Archived<Rc<Words>>>(&bytes));
        assert!(read::<Rc<Words>>(&bytes).unwrap_err().contains("hash table"));
        assert!(read::<Box<Words>>(&bytes).unwrap_err().contains("hash table"));
        assert!(read::<Weak<Words>>(&bytes).unwrap_err().contains("hash table"));
    }
}
