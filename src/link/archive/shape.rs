//! The shape of a message type: names and types of everything in it, as a text and as a number.
//!
//! It describes the *archived* types, which are what the peer reads: a `Vec` and a `VecDeque` have
//! one shape, as they have one archive.
#![allow(unsafe_code)]

use super::{Receive, SafeArchive};
use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;
use std::mem;

/// What a message type consists of: the names and types of its fields and variants, in order, of
/// every type in it.
///
/// A [`TypedPort`](crate::TypedPort) tells its peer the shapes of its two message types, and the
/// peer compares them with its own. Two programs that were built with different definitions refuse
/// each other in this way, with a [`TypeMismatch`](crate::TypeMismatch), instead of reading bytes
/// of one type as another.
///
/// Std's types that rkyv archives have a shape, and so have types with
/// [`message`](macro@crate::message). Types with rkyv's plain derives have none, nor does anything
/// that contains one: they are not compared.
///
/// # Format
/// The text has one line for the type itself, then one for each struct and enum in it, in the order
/// in which they are first named. A second type of the same name is called `Name#2`, and so on.
///
/// The [`fingerprint`](Self::fingerprint) is the 64-bit FNV-1a hash of the text's bytes. Text and
/// hash depend on the definitions only: they are the same on every processor and with every
/// compiler, and in every release of this crate that has the same layout version. Paths,
/// visibility, attributes and methods are not in it. `usize` stands there as `u32`, as which rkyv
/// archives it, `VecDeque` as `Vec`, and `Arc` as `Rc`.
///
/// ```
/// use messageport::Shape;
///
/// #[messageport::message]
/// struct Order { id: u64, items: Vec<Item> }
///
/// #[messageport::message]
/// enum Item { Lamp, Chair { legs: u8 } }
///
/// let shape = Shape::of::<Order>().unwrap();
/// assert_eq!(shape.as_str(), "\
/// Order
/// struct Order { id: u64, items: Vec<Item> }
/// enum Item { Lamp, Chair { legs: u8 } }");
/// // A test with this number fails when the type changes.
/// assert_eq!(shape.fingerprint(), 0x0c2d_98ba_5551_283c);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    text: String,
    fingerprint: u64,
}

impl Shape {
    /// Returns the shape of a type, or `None` if it has none.
    ///
    /// Builds the text anew in each call: some microseconds.
    pub fn of<T: Receive>() -> Option<Shape> {
        if !const { <T::Archived as SafeArchive>::HAS_SHAPE } {
            return None;
        }
        let mut writer = ShapeWriter::default();
        <T::Archived as SafeArchive>::describe(&mut writer);
        writer.finish()
    }

    /// The shape of messages that carry a value in a role of their own: the same types posted as
    /// plain messages have another one.
    pub(crate) fn in_role(self, role: &str) -> Shape {
        let text = format!("{role} {}", self.text);
        let fingerprint = fingerprint(text.as_bytes());
        Shape { text, fingerprint }
    }

    /// The 64-bit FNV-1a hash of the text; never 0.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The fingerprint of a shape's text. 0 stands for "none", so no text has it.
pub(crate) fn fingerprint(text: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    match text.iter().fold(0xcbf2_9ce4_8422_2325, step) {
        0 => 1,
        hash => hash,
    }
}

/// Writes a [`Shape`]: passed to [`SafeArchive::describe`].
///
/// ```
/// use messageport::rkyv::rancor::BoxedError;
/// use messageport::{ArchiveCheck, SafeArchive, ShapeWriter};
///
/// struct ArchivedDate;
///
/// // SAFETY: nothing in it is read.
/// unsafe impl SafeArchive for ArchivedDate {
///     const CHECKS: bool = false;
///     const LEVELS: u32 = 0;
///     const HAS_SHAPE: bool = true;
///
///     fn check(&self, _: &mut ArchiveCheck<'_>) -> Result<(), BoxedError> {
///         Ok(())
///     }
///
///     fn describe(shape: &mut ShapeWriter) {
///         shape.literal("calendar::Date 1");
///     }
/// }
/// ```
#[derive(Debug, Default)]
pub struct ShapeWriter {
    /// The text of what is being described.
    text: String,
    /// The structs and enums so far, in the order in which they were named.
    definitions: Vec<Definition>,
    is_unknown: bool,
}

/// A struct or enum.
#[derive(Debug)]
struct Definition {
    id: TypeId,
    name: String,
    /// Its name without a number.
    short_name: String,
    text: String,
}

/// What writes the shape of one type.
type Describe = fn(&mut ShapeWriter);

impl ShapeWriter {
    /// Describes a type by a text that stands for its name and version, in quotes.
    ///
    /// The two programs then agree on the type if they agree on the text, whatever is in it.
    ///
    /// # Panics
    /// If the text is empty, or has a quote, a backslash or a control character.
    pub fn literal(&mut self, text: &str) {
        let is_plain = |char: char| !char.is_control() && char != '"' && char != '\\';
        assert!(!text.is_empty() && text.chars().all(is_plain), "no name of a shape: {text:?}");
        self.text.push('"');
        self.text.push_str(text);
        self.text.push('"');
    }

    /// Describes a container by a pattern that has `{}` for each type in it.
    #[doc(hidden)]
    pub fn container(&mut self, pattern: &str, parts: &[Describe]) {
        let mut texts = pattern.split("{}");
        self.text.push_str(texts.next().unwrap_or_default());
        for (text, part) in texts.zip(parts) {
            part(self);
            self.text.push_str(text);
        }
    }

    /// Describes the struct `T`; a field without a name has an empty one.
    #[doc(hidden)]
    pub fn structure<T: ?Sized>(&mut self, name: &str, fields: &[(&str, Describe)]) {
        self.define::<T>(name, |shape, name| {
            shape.text.push_str("struct ");
            shape.text.push_str(name);
            shape.fields(fields);
        });
    }

    /// Describes the enum `T`; a variant's name may have a discriminant behind it.
    #[doc(hidden)]
    pub fn enumeration<T: ?Sized>(&mut self, name: &str, variants: &[(&str, &[(&str, Describe)])]) {
        self.define::<T>(name, |shape, name| {
            shape.text.push_str("enum ");
            shape.text.push_str(name);
            shape.text.push_str(" {");
            for (place, (variant, fields)) in variants.iter().enumerate() {
                shape.text.push_str(if place == 0 { " " } else { ", " });
                shape.text.push_str(variant);
                shape.fields(fields);
            }
            shape.text.push_str(" }");
        });
    }

    /// Says that the type has no shape; nothing that contains it has one then.
    pub(super) fn unknown(&mut self) {
        self.is_unknown = true;
    }

    fn fields(&mut self, fields: &[(&str, Describe)]) {
        let Some((first, _)) = fields.first() else { return };
        let (open, close) = if first.is_empty() { ("(", ")") } else { (" { ", " }") };
        self.text.push_str(open);
        for (place, (name, describe)) in fields.iter().enumerate() {
            if place > 0 {
                self.text.push_str(", ");
            }
            if !name.is_empty() {
                self.text.push_str(name);
                self.text.push_str(": ");
            }
            describe(self);
        }
        self.text.push_str(close);
    }

    /// Names a type, and has it described if it was not named before. So a type that contains
    /// itself comes to an end.
    fn define<T: ?Sized>(&mut self, name: &str, write: impl FnOnce(&mut Self, &str)) {
        let id = type_id::<T>();
        if let Some(known) = self.definitions.iter().find(|known| known.id == id) {
            self.text.push_str(&known.name);
            return;
        }
        let short_name = name.to_owned();
        let earlier = self.definitions.iter().filter(|known| known.short_name == name).count();
        let name = match earlier {
            0 => name.to_owned(),
            _ => format!("{name}#{}", earlier + 1),
        };
        self.text.push_str(&name);
        let place = self.definitions.len();
        let text = String::new();
        self.definitions.push(Definition { id, name: name.clone(), short_name, text });
        let outer = mem::take(&mut self.text);
        write(self, &name);
        self.definitions[place].text = mem::replace(&mut self.text, outer);
    }

    pub(super) fn finish(self) -> Option<Shape> {
        if self.is_unknown {
            return None;
        }
        let mut text = self.text;
        for definition in &self.definitions {
            text.push('\n');
            text.push_str(&definition.text);
        }
        let fingerprint = fingerprint(text.as_bytes());
        Some(Shape { text, fingerprint })
    }
}

/// The items of an implementation of [`SafeArchive`] that say what shape a container has.
macro_rules! shape_is {
    ($pattern:literal $(, $part:ty)*) => {
        const HAS_SHAPE: bool = true $(&& <$part as SafeArchive>::HAS_SHAPE)*;

        fn describe(shape: &mut ShapeWriter) {
            shape.container($pattern, &[$(<$part as SafeArchive>::describe),*]);
        }
    };
}
pub(super) use shape_is;

/// Tells types apart that may borrow something, which differ by more than lifetimes.
fn type_id<T: ?Sized>() -> TypeId {
    trait Identified {
        fn id(&self) -> TypeId
        where
            Self: 'static;
    }

    impl<T: ?Sized> Identified for PhantomData<T> {
        fn id(&self) -> TypeId
        where
            Self: 'static,
        {
            TypeId::of::<T>()
        }
    }

    let nothing = PhantomData::<T>;
    let shorter: &dyn Identified = &nothing;
    // SAFETY: only the lifetime in the type is longer. The one method that is called reads no
    // value, and so nothing that could have ended.
    let longer: &(dyn Identified + 'static) = unsafe { mem::transmute(shorter) };
    longer.id()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
    use std::net::{IpAddr, SocketAddrV4};
    use std::num::{NonZeroI128, NonZeroU8};
    use std::ops::{Bound, Range, RangeFull, RangeToInclusive};
    use std::rc::{Rc, Weak};
    use std::sync::Arc;
    use std::time::Duration;

    fn text<T: Receive>() -> String {
        Shape::of::<T>().expect("it has a shape").text
    }

    #[test]
    fn fingerprints_are_fnv_1a() {
        // Test vectors of its authors.
        assert_eq!(fingerprint(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fingerprint(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fingerprint(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn numbers_have_their_names() {
        assert_eq!(text::<(u8, u16, u32, u64, u128)>(), "(u8, u16, u32, u64, u128)");
        assert_eq!(text::<(i8, i16, i32, i64, i128)>(), "(i8, i16, i32, i64, i128)");
        assert_eq!(text::<(f32, f64, bool, char, ())>(), "(f32, f64, bool, char, ())");
        assert_eq!(text::<(usize, isize)>(), "(u32, i32)");
        assert_eq!(text::<(NonZeroU8, NonZeroI128)>(), "(NonZeroU8, NonZeroI128)");
        assert_eq!(text::<rkyv::rend::u32_be>(), "u32_be");
        let mut writer = ShapeWriter::default();
        rkyv::rend::unaligned::i64_ule::describe(&mut writer);
        assert_eq!(writer.text, "i64_ule");
    }

    #[test]
    fn types_of_std_have_their_names() {
        assert_eq!(text::<(String, Box<str>, Rc<str>)>(), "(String, Box<str>, Rc<str>)");
        assert_eq!(text::<(Vec<u8>, VecDeque<u8>)>(), "(Vec<u8>, Vec<u8>)");
        assert_eq!(text::<(Box<[u16]>, [u16; 3], (u8,))>(), "(Box<[u16]>, [u16; 3], (u8,))");
        assert_eq!(text::<Result<Option<u8>, Duration>>(), "Result<Option<u8>, Duration>");
        assert_eq!(text::<HashMap<u8, HashSet<u16>>>(), "HashMap<u8, HashSet<u16>>");
        assert_eq!(text::<BTreeMap<u8, BTreeSet<u16>>>(), "BTreeMap<u8, BTreeSet<u16>>");
        assert_eq!(text::<(Arc<u8>, Weak<u8>)>(), "(Rc<u8>, Weak<u8>)");
        assert_eq!(text::<(IpAddr, SocketAddrV4)>(), "(IpAddr, SocketAddrV4)");
        assert_eq!(text::<(Range<u8>, RangeFull)>(), "(Range<u8>, RangeFull)");
        assert_eq!(text::<RangeToInclusive<Bound<u8>>>(), "RangeToInclusive<Bound<u8>>");
        assert_eq!(text::<PhantomData<fn(u8)>>(), "PhantomData");
        assert_eq!(text::<std::ffi::CString>(), "CString");
        // Of rkyv's other types.
        use rkyv::collections::btree_map::ArchivedBTreeMap;
        let mut writer = ShapeWriter::default();
        ArchivedBTreeMap::<u8, u8, 7>::describe(&mut writer);
        assert_eq!(writer.text, "BTreeMap<u8, u8, 7>");
    }

    #[test]
    fn types_that_borrow_are_told_apart() {
        fn both<'a, 'b>(_: &'a u8, _: &'b u8) -> [TypeId; 3] {
            [type_id::<&'a u8>(), type_id::<&'b u8>(), type_id::<&'a u16>()]
        }
        let [a, b, c] = both(&1, &2);
        assert_eq!(a, b);
        assert_ne!(a, c);
        assert_eq!(type_id::<str>(), TypeId::of::<str>());
    }

    fn number(shape: &mut ShapeWriter) {
        shape.container("u8", &[]);
    }

    struct Node;

    fn node(shape: &mut ShapeWriter) {
        shape.structure::<Node>("Node", &[("next", node), ("count", number)]);
    }

    fn finished(describe: Describe) -> Shape {
        let mut writer = ShapeWriter::default();
        describe(&mut writer);
        writer.finish().expect("it has a shape")
    }

    #[test]
    fn structs_and_enums_are_defined_once_in_the_order_of_their_names() {
        struct Unit;
        struct Pair;
        enum Any {}
        let any: Describe = |shape| {
            let unit: Describe = |shape| shape.structure::<Unit>("Unit", &[]);
            let pair: Describe =
                |shape| shape.structure::<Pair>("Pair", &[("", number), ("", number)]);
            shape.enumeration::<Any>(
                "Any",
                &[
                    ("Nothing = 3", &[]),
                    ("Two", &[("", unit), ("", pair)]),
                    ("Named", &[("first", pair), ("second", node)]),
                ],
            );
        };
        assert_eq!(finished(node).text, "Node\nstruct Node { next: Node, count: u8 }");
        let text = "Any\n\
            enum Any { Nothing = 3, Two(Unit, Pair), Named { first: Pair, second: Node } }\n\
            struct Unit\n\
            struct Pair(u8, u8)\n\
            struct Node { next: Node, count: u8 }";
        assert_eq!(finished(any).text, text);
    }

    #[test]
    fn types_of_one_name_have_numbers() {
        let describe: Describe = |shape| {
            shape.container(
                "({}, {}, {})",
                &[
                    |shape| shape.structure::<u8>("Point", &[("x", number)]),
                    |shape| shape.structure::<u16>("Point", &[]),
                    |shape| shape.structure::<u32>("Point", &[]),
                ],
            );
        };
        let text = "(Point, Point#2, Point#3)\n\
            struct Point { x: u8 }\nstruct Point#2\nstruct Point#3";
        assert_eq!(finished(describe).text, text);
    }

    #[test]
    fn a_shape_is_its_text_and_the_number_of_that() {
        let shape = Shape::of::<(u8, u16)>().expect("it has a shape");
        assert_eq!((shape.as_str(), shape.to_string()), ("(u8, u16)", "(u8, u16)".to_owned()));
        assert_eq!(shape.fingerprint(), fingerprint(b"(u8, u16)"));
        let reply = shape.in_role("reply");
        assert_eq!(reply.as_str(), "reply (u8, u16)");
        assert_eq!(reply.fingerprint(), fingerprint(b"reply (u8, u16)"));
        let mut unknown = ShapeWriter::default();
        unknown.container("u8", &[]);
        unknown.unknown();
        assert!(unknown.finish().is_none());
    }

    #[test]
    fn a_literal_is_one_line_in_quotes() {
        assert_eq!(finished(|shape| shape.literal("a::Date 1")).text, "\"a::Date 1\"");
        for text in ["", "a\nstruct B", "a\"", "\\", "a\u{7f}"] {
            let refused = std::panic::catch_unwind(|| ShapeWriter::default().literal(text));
            let refused = refused.expect_err("no name of a shape");
            let message = refused.downcast::<String>().expect("a text");
            assert!(message.starts_with("no name of a shape"), "{text:?}: {message}");
        }
    }
}
