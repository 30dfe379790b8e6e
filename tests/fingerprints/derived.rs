//! What shape a type has, and what the attribute makes of every kind of type.

use messageport::{MessageChannel, Post, Receive, SafeArchive, Shape, rkyv};
use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;

fn text<T: Receive>() -> String {
    Shape::of::<T>().expect("it has a shape").to_string()
}

#[messageport::message]
#[derive(Clone, Debug, PartialEq)]
#[rkyv(derive(Debug))]
struct Unit;

#[messageport::message]
#[derive(Debug, PartialEq)]
struct Pair(u64, #[rkyv(with = rkyv::with::AsBox)] String);

#[messageport::message]
#[derive(Debug, PartialEq)]
#[rkyv(archived = StoredEnvelope)]
struct Envelope<T, const N: usize>
where
    T: Clone,
{
    all: [T; N],
    more: Vec<Option<T>>,
    none: PhantomData<u8>,
}

#[derive(Debug, PartialEq)]
#[messageport::message]
enum Kind {
    Plain = 3,
    Old = 7,
}

#[messageport::message]
#[derive(Debug, PartialEq)]
#[rkyv(
    serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source),
    deserialize_bounds(__D::Error: rkyv::rancor::Source),
    bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)),
)]
enum Json {
    Null,
    Number { r#type: f64 },
    List(#[rkyv(omit_bounds)] Vec<Json>),
    Object(#[rkyv(omit_bounds)] HashMap<String, Tree>),
}

/// With `Json` inside: two types that contain each other.
#[messageport::message]
#[derive(Debug, PartialEq)]
#[rkyv(
    serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source),
    deserialize_bounds(__D::Error: rkyv::rancor::Source),
    bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)),
)]
struct Tree {
    #[rkyv(omit_bounds)]
    json: Box<Json>,
    #[rkyv(omit_bounds)]
    left: Option<Box<Tree>>,
}

/// What contains itself in every way that the attribute sees, without a word about it.
#[messageport::message]
#[derive(Debug, PartialEq)]
enum Value<T> {
    Plain(T),
    Boxed(Box<Value<T>>, u8),
    Fields {
        list: Vec<Value<T>>,
        pair: Box<(u8, Value<T>)>,
        array: Option<Box<[Value<T>; 1]>>,
    },
    Object(HashMap<String, Value<T>>),
    /// Here it is a marker only, and bounds stay as they are.
    Marked(Marker<Value<T>>),
}

#[messageport::message]
#[derive(Debug, PartialEq)]
struct Marker<T>(u64, std::marker::PhantomData<T>);

/// A type of another crate: with derives of rkyv only, for which its user vouches.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, SafeArchive, Debug, PartialEq)]
struct Foreign {
    seconds: u64,
}

#[messageport::message(name = "Event")]
#[derive(Debug, PartialEq)]
struct RenamedHere {
    #[messageport(shape = "clock::Foreign 1, in seconds")]
    at: Foreign,
    by: BTreeMap<u8, Kind>,
}

#[messageport::message(no_deserialize)]
struct Borrowing<'a> {
    #[rkyv(with = rkyv::with::Inline)]
    number: &'a u32,
    #[rkyv(with = rkyv::with::Skip)]
    skipped: std::sync::Mutex<u8>,
}

#[messageport::message(shape = "Free 2")]
#[derive(Debug, PartialEq)]
struct Free {
    anything: Foreign,
}

/// With derives of its own.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, SafeArchive, Debug, PartialEq)]
#[messageport(fingerprint)]
struct ByHand {
    unit: Unit,
}

mod elsewhere {
    /// Where a crate that re-exports `messageport` has it.
    pub mod inside {
        pub use messageport as port;
    }

    #[inside::port::message(crate = crate::derived::elsewhere::inside::port)]
    #[derive(Debug, PartialEq)]
    pub struct InParentheses {
        pub id: u8,
    }

    #[inside::port::message]
    #[messageport(crate = crate::derived::elsewhere::inside::port, name = "Below")]
    #[rkyv(crate = crate::derived::elsewhere::inside::port::rkyv)]
    #[derive(Debug, PartialEq)]
    pub struct AsAnAttribute(pub u8);
}

#[test]
fn shapes_have_names_and_types_in_order() {
    assert_eq!(text::<Unit>(), "Unit\nstruct Unit");
    assert_eq!(text::<Pair>(), "Pair\nstruct Pair(u64, Box<String>)");
    assert_eq!(
        text::<Vec<Envelope<Unit, 3>>>(),
        "Vec<Envelope>\nstruct Envelope { all: [Unit; 3], more: Vec<Option<Unit>>, \
         none: PhantomData }\nstruct Unit"
    );
    assert_eq!(text::<Kind>(), "Kind\nenum Kind { Plain = 3, Old = 7 }");
    assert_eq!(
        text::<RenamedHere>(),
        "Event\nstruct Event { at: \"clock::Foreign 1, in seconds\", by: BTreeMap<u8, Kind> }\n\
         enum Kind { Plain = 3, Old = 7 }"
    );
    assert_eq!(
        text::<Borrowing<'static>>(),
        "Borrowing\nstruct Borrowing { number: u32, skipped: () }"
    );
    assert_eq!(text::<Option<Free>>(), "Option<\"Free 2\">");
    assert_eq!(text::<ByHand>(), "ByHand\nstruct ByHand { unit: Unit }\nstruct Unit");
    assert_eq!(
        text::<elsewhere::InParentheses>(),
        "InParentheses\nstruct InParentheses { id: u8 }"
    );
    assert_eq!(text::<elsewhere::AsAnAttribute>(), "Below\nstruct Below(u8)");
}

#[test]
fn a_type_that_contains_itself_has_a_shape() {
    let tree = "struct Tree { json: Box<Json>, left: Option<Box<Tree>> }";
    let json = "enum Json { Null, Number { type: f64 }, List(Vec<Json>), \
                Object(HashMap<String, Tree>) }";
    assert_eq!(text::<Json>(), format!("Json\n{json}\n{tree}"));
    assert_eq!(text::<Tree>(), format!("Tree\n{tree}\n{json}"));
}

/// A type that is used twice in each of its users would double the text at each level.
#[test]
fn a_type_is_described_once() {
    macro_rules! levels {
        ($($name:ident: $inner:ty,)+) => {$(
            #[messageport::message]
            struct $name($inner, $inner);
        )+};
    }
    levels! { A: u8, B: A, C: B, D: C, E: D, F: E, G: F, H: G, I: H, J: I, K: J, }
    assert_eq!(text::<K>().lines().count(), 12);
}

#[test]
fn types_of_one_name_are_told_apart() {
    mod v1 {
        #[messageport::message]
        pub struct Order(u8);
    }
    mod v2 {
        #[messageport::message]
        pub struct Order(u16);
    }
    assert_eq!(
        text::<(v1::Order, v2::Order, v1::Order)>(),
        "(Order, Order#2, Order)\nstruct Order(u8)\nstruct Order#2(u16)"
    );
    // As are the same generic type with other parameters.
    assert_eq!(text::<(Envelope<u8, 1>, Envelope<u8, 2>)>().lines().count(), 3);
    assert!(text::<(Envelope<u8, 1>, Envelope<u8, 2>)>().starts_with("(Envelope, Envelope#2)"));
}

/// These numbers are compared between programs that different compilers made.
#[test]
fn fingerprints_are_the_same_everywhere() {
    let found = [
        Shape::of::<()>(),
        Shape::of::<u64>(),
        Shape::of::<HashMap<String, Vec<u8>>>(),
        Shape::of::<Json>(),
        Shape::of::<RenamedHere>(),
    ]
    .map(|shape| shape.expect("it has a shape").fingerprint());
    assert_eq!(found, FINGERPRINTS, "{found:#018x?}");
}

const FINGERPRINTS: [u64; 5] = [
    0x07e1_1f07_b4a6_665a,
    0x4d35_d319_3e8d_66f2,
    0x1c7f_fb98_663d_8cc9,
    0x3e79_35c6_b100_afd9,
    0xce95_ece4_ebb8_aea8,
];

#[test]
fn what_has_no_shape_takes_it_from_what_contains_it() {
    assert!(Shape::of::<Foreign>().is_none() && Shape::of::<Vec<Option<Foreign>>>().is_none());
    assert!(Shape::of::<(u8, HashMap<u8, Foreign>)>().is_none());

    #[messageport::message]
    struct Holds<T>(T);
    assert!(Shape::of::<Holds<Foreign>>().is_none() && Shape::of::<Holds<u8>>().is_some());

    // Where a type contains itself, only its description finds out.
    #[messageport::message]
    #[rkyv(
        serialize_bounds(__S: rkyv::ser::Writer, __S::Error: rkyv::rancor::Source),
        deserialize_bounds(__D::Error: rkyv::rancor::Source),
        bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)),
    )]
    struct List(#[rkyv(omit_bounds)] Option<Box<(List, Foreign)>>);
    assert!(Shape::of::<List>().is_none());
}

fn through<T>(value: T)
where
    T: Post + messageport::ReceiveOwned + PartialEq + std::fmt::Debug,
{
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let (port1, port2) = (port1.typed::<(), T>(), port2.typed::<T, ()>());
    port1.post_message(&value).expect("room");
    let found = port2.recv().expect("an honest value").deserialize().expect("an owned value");
    assert_eq!(found, value);
}

#[test]
fn values_go_through_typed_ports() {
    through(Unit);
    through(Pair(1, "one".into()));
    through(Envelope { all: [Kind::Old.into_number(); 2], more: vec![None], none: PhantomData });
    through(Kind::Plain);
    through(Tree { json: Box::new(Json::List(vec![Json::Null])), left: None });
    let object = HashMap::from([(
        "n".to_owned(),
        Tree { json: Box::new(Json::Number { r#type: 0.5 }), left: None },
    )]);
    through(Json::Object(object));
    through(RenamedHere { at: Foreign { seconds: 1 }, by: BTreeMap::from([(1, Kind::Old)]) });
    through(Free { anything: Foreign { seconds: 2 } });
    through(ByHand { unit: Unit });
    through(elsewhere::InParentheses { id: 1 });
    through(elsewhere::AsAnAttribute(1));
    let (number, skipped) = (&7, std::sync::Mutex::new(1));
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    port1.post_message(&Borrowing { number, skipped }).expect("room");
    let event = port2.recv().expect("a message");
    assert_eq!(event.data::<Borrowing<'_>>().expect("an honest value").number, 7);
}

impl Kind {
    fn into_number(self) -> u32 {
        self as u32
    }
}

#[test]
fn a_type_that_contains_itself_needs_no_bounds() {
    let nested = Value::Boxed(Box::new(Value::Plain(1u16)), 2);
    let pair = Box::new((3, Value::Plain(4)));
    let array = Some(Box::new([Value::Marked(Marker(5, PhantomData))]));
    let list = vec![nested, Value::Plain(6)];
    let value = Value::Object(HashMap::from([("all".into(), Value::Fields { list, pair, array })]));
    let channel = MessageChannel::new().expect("a channel");
    channel.port1.post_message(&value).expect("room");
    let found: Value<u16> = channel.port2.recv().expect("it").deserialize().expect("an honest one");
    assert_eq!(found, value);
    let text = Shape::of::<Value<u16>>().expect("it has one").to_string();
    assert!(text.contains("Boxed(Box<Value>, u8)"), "{text}");
}
