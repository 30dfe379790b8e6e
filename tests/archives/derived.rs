//! `#[derive(SafeArchive)]` on what types there are.

use super::crafted::hostile_map;
use messageport::rkyv::with::{AsBox, AsVec, Identity, Inline, Map, Niche, Skip};
use messageport::{MessageChannel, Post, Receive, SafeArchive, rkyv};
use rkyv::rancor::Source;
use std::collections::HashMap;
use std::marker::PhantomData;

const fn checks<T: Receive>() -> bool {
    <T::Archived as SafeArchive>::CHECKS
}

#[derive(rkyv::Archive, rkyv::Serialize, SafeArchive)]
struct Unit;

#[derive(rkyv::Archive, rkyv::Serialize, SafeArchive)]
struct Pair(u64, String);

#[derive(rkyv::Archive, rkyv::Serialize, SafeArchive)]
#[rkyv(archived = RenamedGeneric)]
struct Generic<T, const N: usize>
where
    T: Clone,
{
    all: [T; N],
    more: Vec<Option<T>>,
    none: PhantomData<u8>,
}

#[derive(rkyv::Archive, rkyv::Serialize, SafeArchive)]
struct With<'a> {
    #[rkyv(with = Inline)]
    inline: &'a u32,
    #[rkyv(with = AsVec)]
    pairs: HashMap<String, u32>,
    #[rkyv(with = Map<AsBox>)]
    boxes: Vec<u8>,
    #[rkyv(with = Niche)]
    niche: Option<Box<u16>>,
    #[rkyv(with = Skip)]
    skipped: std::sync::Mutex<u8>,
}

#[derive(rkyv::Archive, rkyv::Serialize, SafeArchive)]
#[rkyv(
    serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: Source),
    bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: Source)),
)]
enum Json {
    Null,
    Number { value: f64 },
    Text(String),
    List(#[rkyv(omit_bounds)] Vec<Json>),
    Object(#[rkyv(omit_bounds)] HashMap<String, Json>),
}

mod renamed {
    /// Where a crate that re-exports `messageport` has it.
    pub mod inside {
        pub use messageport as port;
    }

    #[derive(
        messageport::rkyv::Archive, messageport::rkyv::Serialize, messageport::SafeArchive,
    )]
    #[messageport(crate = crate::derived::renamed::inside::port)]
    pub struct Elsewhere {
        pub prices: std::collections::HashMap<String, String>,
    }
}

// What holds no table costs nothing.
const _: () = {
    assert!(!checks::<Unit>() && !checks::<Pair>() && !checks::<Vec<Pair>>());
    assert!(!checks::<Generic<u8, 3>>() && !checks::<With<'static>>());
    assert!(!checks::<(u64, Option<Box<[String]>>, std::rc::Rc<str>, [u8; 9])>());
    assert!(checks::<Json>() && checks::<Generic<HashMap<u8, u8>, 1>>());
    assert!(checks::<renamed::Elsewhere>() && checks::<Option<Vec<HashMap<u8, u8>>>>());
};

fn through<T: Post + Receive>(value: &T, look: impl FnOnce(&T::Archived)) {
    let channel = MessageChannel::new().expect("a channel");
    channel.port1.post_message(value).expect("room");
    let event = channel.port2.recv().expect("a message");
    look(event.data::<T>().expect("an honest value"));
}

#[test]
fn derived_types_are_read() {
    through(&Unit, |_| ());
    through(&Pair(7, "seven".into()), |found| {
        assert_eq!((found.0.to_native(), &*found.1), (7, "seven"))
    });
    let generic = Generic { all: [1u32; 3], more: vec![None, Some(9)], none: PhantomData };
    through(&generic, |found| {
        assert_eq!((found.all[2].to_native(), found.more.len()), (1, 2));
        let _: PhantomData<u8> = found.none;
    });
    let maps = Generic { all: [HashMap::from([(1u8, 2u8)])], more: Vec::new(), none: PhantomData };
    through(&maps, |found| assert_eq!(found.all[0].get(&1), Some(&2)));
    let with = With {
        inline: &5,
        pairs: HashMap::from([("five".into(), 5)]),
        boxes: vec![1, 2],
        niche: Some(Box::new(3)),
        skipped: std::sync::Mutex::new(0),
    };
    through(&with, |found| {
        assert_eq!((found.inline.to_native(), found.pairs.len(), found.boxes.len()), (5, 1, 2));
        assert!(found.niche.is_some());
        let () = found.skipped;
    });
    assert_eq!(with.skipped.into_inner().unwrap(), 0);
    let _ = PhantomData::<Identity>;
}

#[test]
fn a_type_that_contains_itself_is_read() {
    let object = HashMap::from([("n".to_string(), Json::Number { value: 1.5 })]);
    let list = vec![Json::Null, Json::Text("t".into()), Json::Object(object)];
    through(&Json::List(list), |found| {
        let ArchivedJson::List(list) = found else { panic!("a list") };
        let ArchivedJson::Object(object) = &list[2] else { panic!("an object") };
        let Some(ArchivedJson::Number { value }) = object.get("n") else { panic!("a number") };
        assert_eq!(value.to_native(), 1.5);
    });
}

#[test]
fn derived_types_check_their_fields() {
    // The map is the only field, so the bytes are the same.
    let bytes = hostile_map(1 << 14, -4096);
    assert!(super::read::<renamed::Elsewhere>(&bytes).unwrap_err().contains("hash table"));
    assert!(super::read::<Generic<super::Words, 1>>(&bytes).is_err());
}
