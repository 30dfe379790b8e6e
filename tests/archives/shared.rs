//! Values that are shared by pointers: their depth, their cost, and their type.

use super::crafted::Raw;
use super::read;
use messageport::{MessageChannel, ReceiveDeserializer, rkyv};
use rkyv::rancor::{BoxedError, Error, Source};
use rkyv::rend::u32_le;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// A value that others share, and that shares others.
#[derive(rkyv::Archive, rkyv::Serialize, messageport::SafeArchive)]
#[rkyv(
    serialize_bounds(
        __S: rkyv::ser::Writer + rkyv::ser::Sharing,
        __S::Error: Source,
    ),
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

impl rkyv::Deserialize<Node, ReceiveDeserializer> for ArchivedNode {
    fn deserialize(&self, from: &mut ReceiveDeserializer) -> Result<Node, BoxedError> {
        Ok(Node { left: self.left.deserialize(from)?, right: self.right.deserialize(from)? })
    }
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
    let node: Node = event.deserialize().expect("each value is made once");
    let (left, right) = (node.left.expect("100 levels"), node.right.expect("100 levels"));
    assert!(Rc::ptr_eq(&left, &right));
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
    type Narrow = Rc<[u32; 100]>;
    type Wide = Rc<[usize; 100]>;
    let one = Rc::new([7u32; 100]);
    let bytes = rkyv::to_bytes::<Error>(&[(); 4].map(|()| Rc::clone(&one)));
    let channel = MessageChannel::new().unwrap();
    channel.port1.post_message(&Raw(&bytes.unwrap())).unwrap();
    let event = channel.port2.recv().unwrap();
    let (narrow, wide, other_narrow, other_wide): (Narrow, Wide, Narrow, Wide) =
        event.deserialize().expect("it is a value of either type");
    assert!(Rc::ptr_eq(&narrow, &other_narrow) && Rc::ptr_eq(&wide, &other_wide));
    assert_eq!((*narrow, *wide), ([7; 100], [7; 100]));
    drop((narrow, wide));
    assert_eq!((Rc::strong_count(&other_narrow), Rc::strong_count(&other_wide)), (1, 1));
}

/// Two types with one archived type and the same machine code to drop them. No `Counted` is zero.
struct Plain(u32);
struct Counted(NonZeroU32);

impl rkyv::Archive for Plain {
    type Archived = u32_le;
    type Resolver = ();

    fn resolve(&self, (): (), out: rkyv::Place<u32_le>) {
        rkyv::Archive::resolve(&self.0, (), out);
    }
}

impl<S: rkyv::rancor::Fallible + ?Sized> rkyv::Serialize<S> for Plain {
    fn serialize(&self, _: &mut S) -> Result<(), S::Error> {
        Ok(())
    }
}

impl<D: rkyv::rancor::Fallible + ?Sized> rkyv::Deserialize<Plain, D> for u32_le {
    fn deserialize(&self, _: &mut D) -> Result<Plain, D::Error> {
        Ok(Plain(self.to_native()))
    }
}

impl rkyv::Archive for Counted {
    type Archived = u32_le;
    type Resolver = ();

    fn resolve(&self, (): (), out: rkyv::Place<u32_le>) {
        rkyv::Archive::resolve(&self.0.get(), (), out);
    }
}

impl<D: rkyv::rancor::Fallible + ?Sized> rkyv::Deserialize<Counted, D> for u32_le {
    fn deserialize(&self, _: &mut D) -> Result<Counted, D::Error> {
        Ok(Counted(NonZeroU32::new(self.to_native()).unwrap_or(NonZeroU32::MIN)))
    }
}

/// In a release build LLVM merges the functions that drop the two. So neither their addresses nor
/// what they do tells the types apart.
#[test]
fn types_with_the_same_code_are_told_apart() {
    let zero = Rc::new(Plain(0));
    let bytes = rkyv::to_bytes::<Error>(&(Rc::clone(&zero), zero)).unwrap().to_vec();
    let channel = MessageChannel::new().unwrap();
    channel.port1.post_message(&Raw(&bytes)).unwrap();
    let event = channel.port2.recv().unwrap();
    let (plain, counted): (Rc<Plain>, Rc<Counted>) = event.deserialize().unwrap();
    assert_ne!(Rc::as_ptr(&plain).addr(), Rc::as_ptr(&counted).addr(), "each has its own memory");
    assert_eq!((plain.0, std::hint::black_box(counted).0), (0, NonZeroU32::MIN));
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
