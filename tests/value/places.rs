//! Errors say where in the value something is wrong, and what.

use crate::{Kind, User, cross, flaw, unposted};
use messageport::Value;
use serde::ser::{Error, SerializeMap, SerializeSeq};
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;

#[derive(Debug, Deserialize)]
#[allow(dead_code)]
struct Order {
    user: User,
    prices: BTreeMap<String, u32>,
}

/// An order in which one thing is wrong.
fn order(name: &str, wrong: Value) -> Value {
    let mut user = vec![
        ("name", Value::from("Ada")),
        ("tags", ["a", "b", "c", "d"].into()),
        ("age", 7.into()),
        ("kind", "Guest".into()),
    ];
    user.retain(|(key, _)| *key != name || !wrong.is_null());
    for (key, value) in &mut user {
        if *key == name {
            *value = wrong.clone();
        }
    }
    let prices = if name == "prices" { wrong } else { Value::from_iter([("lamp", 1)]) };
    Value::from_iter([("user", Value::from_iter(user)), ("prices", prices)])
}

#[track_caller]
fn text(name: &str, wrong: impl Into<Value>) -> String {
    flaw(cross::<Order>(&order(name, wrong.into()))).to_string()
}

#[test]
fn a_wrong_type_is_found_where_it_is() {
    cross::<Order>(&order("", Value::Null)).expect("nothing is wrong");
    let tags = vec![Value::from("a"), "b".into(), "c".into(), 7.into()];
    assert_eq!(text("tags", tags), "user.tags[3]: expected a string, found 7");
    assert_eq!(text("tags", "a"), "user.tags: expected a sequence, found \"a\"");
    assert_eq!(text("age", 256), "user.age: expected u8, found 256");
    assert_eq!(text("age", -1), "user.age: expected u8, found -1");
    assert_eq!(text("age", 0.5), "user.age: expected u8, found 0.5");
    assert_eq!(
        text("name", Value::Bytes(vec![255; 9])),
        "user.name: expected a string, found 9 bytes"
    );
    assert_eq!(text("name", true), "user.name: expected a string, found true");
    assert_eq!(text("name", Value::Null), "user: missing field `name`");
    assert_eq!(text("prices", 1), "prices: expected a map, found 1");
    let prices = Value::from_iter([("two words\n", "x")]);
    assert_eq!(text("prices", prices), "prices[\"two words\\n\"]: expected u32, found \"x\"");
    let whole = flaw(cross::<u8>("x"));
    assert_eq!((whole.path().as_str(), whole.problem()), ("", "expected u8, found \"x\""));
}

#[test]
fn a_wrong_variant_is_found_where_it_is() {
    let known = "`Guest`, `Paid`, `Both`, `Member`".replace('`', "");
    assert_eq!(
        text("kind", "Gust"),
        format!("user.kind: expected a variant of {known}; found \"Gust\"")
    );
    let variant = |name: &'static str, content: Value| Value::from_iter([(name, content)]);
    assert_eq!(
        text("kind", variant("Paid", "x".into())),
        "user.kind.Paid: expected u32, found \"x\""
    );
    let both = variant("Both", vec![Value::from(1), 2.into()].into());
    assert_eq!(text("kind", both), "user.kind.Both[1]: expected a string, found 2");
    let member = variant("Member", Value::from_iter([("since", true)]));
    assert_eq!(text("kind", member), "user.kind.Member.since: expected u16, found true");
    let expected = "user.kind: expected the name of a variant, or a map with one entry, found";
    assert_eq!(text("kind", 7), format!("{expected} 7"));
    assert_eq!(text("kind", Value::Map(vec![])), format!("{expected} a map"));
    let two = Value::from_iter([("Paid", 1), ("Guest", 2)]);
    assert_eq!(text("kind", two), "user.kind: expected a map of 1 elements, found more");
    assert_eq!(cross::<Kind>(&variant("Guest", Value::Null)).expect("a variant"), Kind::Guest);
}

#[test]
fn keys_that_are_no_text_are_in_the_path() {
    type Wanted = BTreeMap<i64, Vec<bool>>;
    let wrong = BTreeMap::from([(-7, (true, "no"))]);
    assert_eq!(
        flaw(cross::<Wanted>(&wrong)).to_string(),
        "[-7][1]: expected a boolean, found \"no\""
    );
    let error = flaw(cross::<Wanted>(&BTreeMap::from([("seven", [true])])));
    assert_eq!(error.to_string(), "expected i64, found \"seven\"");
}

#[test]
fn lengths_are_checked() {
    let error = flaw(cross::<(u8, u8)>(&[1, 2, 3]));
    assert_eq!(error.to_string(), "expected an array of 2 elements, found more");
    let error = flaw(cross::<(u8, u8)>(&[1]));
    assert!(error.to_string().contains("invalid length 1"), "{error}");
}

/// What a peer writes does not make a text long, and brings no control characters.
#[test]
fn texts_of_errors_are_short() {
    let long = "x\u{1b}[31m".repeat(10_000);
    let mut value = Value::from(1);
    for _ in 0..100 {
        value = Value::from_iter([(long.clone(), value)]);
    }
    type Nested = BTreeMap<String, Box<Level>>;
    #[derive(Debug, Deserialize)]
    #[serde(transparent)]
    struct Level(#[allow(dead_code)] Nested);
    for text in [
        flaw(cross::<Level>(&value)).to_string(),
        flaw(cross::<u8>(&long)).to_string(),
        flaw(cross::<Kind>(&long)).to_string(),
        flaw(cross::<char>(&long)).to_string(),
    ] {
        assert!(text.len() < 2_000, "{} bytes", text.len());
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}

#[test]
fn what_cannot_be_posted_is_found_where_it_is() {
    struct Refuses;
    impl Serialize for Refuses {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(S::Error::custom("functions are not data"))
        }
    }

    #[derive(Serialize)]
    struct Task<T> {
        steps: Vec<BTreeMap<String, T>>,
    }
    #[derive(Serialize)]
    enum Choice {
        Tuple(u8, Refuses),
        Struct { run: Refuses },
        Newtype(Refuses),
    }

    let steps = vec![BTreeMap::new(), BTreeMap::from([("run".to_owned(), Refuses)])];
    assert_eq!(unposted(&Task { steps }), "steps[1].run: functions are not data");
    assert_eq!(unposted(&Choice::Tuple(1, Refuses)), "Tuple[1]: functions are not data");
    assert_eq!(unposted(&Choice::Struct { run: Refuses }), "Struct.run: functions are not data");
    assert_eq!(unposted(&Choice::Newtype(Refuses)), "Newtype: functions are not data");
    assert_eq!(unposted(&BTreeMap::from([(7, Refuses)])), "[7]: functions are not data");
    assert_eq!(unposted(&(1, Refuses)), "[1]: functions are not data");
    assert_eq!(unposted(&Refuses), "functions are not data");
}

/// A `Serialize` that announces another number of elements than it gives would make bytes that are
/// no value.
#[test]
fn a_wrong_number_of_elements_is_not_posted() {
    struct Lies(usize);
    impl Serialize for Lies {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut seq = serializer.serialize_seq(Some(self.0))?;
            seq.serialize_element(&1)?;
            seq.end()
        }
    }
    for announced in [0, 2, usize::MAX] {
        let expected = format!("its `Serialize` announced {announced} elements and gave 1");
        assert_eq!(unposted(&Lies(announced)), expected);
    }

    /// It does not know how many: that is no fault.
    struct Unknown;
    impl Serialize for Unknown {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(None)?;
            map.serialize_key("list")?;
            map.serialize_value(&(1, 2))?;
            map.end()
        }
    }
    let value: Value = cross(&Unknown).expect("a value");
    assert_eq!(value, Value::from_iter([("list", [1, 2])]));
}

#[test]
fn levels_are_limited_where_a_value_is_posted() {
    let nested = |levels| (0..levels).fold(Value::Null, |inner, _| vec![inner].into());
    let most = nested(128);
    assert_eq!(cross::<Value>(&most).expect("a value"), most);
    let error = unposted(&nested(129));
    assert!(error.starts_with("[0][0][0][0]…[0][0]"), "{error}");
    assert!(error.ends_with(": arrays and maps are nested in more than 128 levels"), "{error}");
}
