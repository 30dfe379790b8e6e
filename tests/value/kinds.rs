//! What can cross, and as what it arrives.

use crate::{Kind, User, cross, flaw, read};
use messageport::{BigInt, Date, Format, MessageChannel, MessageError, Value};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

fn users() -> Vec<User> {
    let user = |name: &str, age, kind| User {
        name: name.to_owned(),
        tags: vec!["a".to_owned(), String::new(), "ü".to_owned()],
        age,
        kind,
    };
    vec![
        user("guest", None, Kind::Guest),
        user("one", Some(0), Kind::Paid(u32::MAX)),
        user("two", Some(255), Kind::Both(1, "both".to_owned())),
        user("", Some(1), Kind::Member { since: 1999 }),
    ]
}

#[test]
fn structs_and_enums_cross() {
    assert_eq!(cross::<Vec<User>>(&users()).expect("users"), users());
}

/// What another language sees of them.
#[test]
fn structs_are_maps_and_variants_are_names() {
    let value: Value = cross(&users()[3]).expect("a value");
    let member = Value::from_iter([("since", 1999)]);
    let expected = Value::from_iter([
        ("name", Value::from("")),
        ("tags", ["a", "", "ü"].into()),
        ("age", 1.into()),
        ("kind", Value::from_iter([("Member", member)])),
    ]);
    assert_eq!(value, expected);
    assert_eq!(cross::<Value>(&Kind::Guest).expect("a value"), "Guest".into());
    assert_eq!(cross::<User>(&expected).expect("a user"), users()[3]);
}

#[test]
fn numbers_keep_their_value() {
    for number in [0, 1, 23, 24, 255, 256, 1 << 53, i64::MAX as i128, u64::MAX as i128] {
        for number in [number, -number, -number - 1] {
            assert_eq!(cross::<i128>(&number).expect("a number"), number);
            assert_eq!(cross::<BigInt>(&number).expect("a number"), BigInt::from(number));
        }
    }
    for number in [i128::MAX, i128::MIN, 1 << 64, -(1 << 65)] {
        assert_eq!(cross::<i128>(&number).expect("a number"), number);
        assert_eq!(cross::<Value>(&number).expect("a value"), Value::BigInt(number.into()));
    }
    assert_eq!(cross::<u128>(&u128::MAX).expect("a number"), u128::MAX);
    assert_eq!(cross::<f64>(&7).expect("a whole number is a number"), 7.0);
    assert_eq!(cross::<f32>(&0.1f32).expect("a number"), 0.1);
    for number in [0.1, f64::MAX, f64::MIN_POSITIVE, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(cross::<f64>(&number).expect("a number"), number);
    }
    assert!(cross::<f64>(&f64::NAN).expect("NaN is data").is_nan());
    assert!(cross::<f64>(&-0.0).expect("a number").is_sign_negative());
    // Numbers of half a word, which others write.
    assert_eq!(read::<f64>(&[0xf9, 0x3c, 0x00]).expect("a half"), 1.0);
}

#[test]
fn big_integers_stay_what_they_are() {
    let long = BigInt::from_sign_and_magnitude(true, &[7; 40]);
    let small = BigInt::from(5);
    for number in [long.clone(), small, BigInt::from(-1), BigInt::from(0)] {
        let value: Value = cross(&number).expect("a value");
        assert_eq!(value, Value::BigInt(number.clone()), "and no number");
        assert_eq!(cross::<BigInt>(&value).expect("a number"), number);
    }
    assert_eq!(cross::<i8>(&BigInt::from(-1)).expect("it fits"), -1);
    cross::<serde::de::IgnoredAny>(&[&long]).expect("it can be ignored");
    let flaw = flaw(cross::<i128>(&long));
    assert!(flaw.problem().contains("a big integer of 40 bytes is no integer of Rust"), "{flaw}");
}

#[test]
fn dates_cross_and_are_milliseconds_as_numbers() {
    let time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_001);
    let date = Date::from(time);
    assert_eq!(cross::<Date>(&date).expect("a date"), date);
    assert_eq!(cross::<Value>(&date).expect("a date"), Value::from(time));
    assert_eq!(cross::<f64>(&date).expect("a date"), 1_700_000_000_001.0);
    for millis in [0, 1, 250, 999, 1_700_000_000_249, 1_700_000_000_250, 8_640_000_000_000_000] {
        let time = UNIX_EPOCH + Duration::from_millis(millis);
        let date: Date = cross(&Date::from(time)).expect("a date");
        assert_eq!(date.milliseconds(), millis as f64);
        assert_eq!(std::time::SystemTime::try_from(date), Ok(time));
    }
    let before = UNIX_EPOCH - Duration::from_millis(1);
    let back = std::time::SystemTime::try_from(cross::<Date>(&Date::from(before)).expect("a date"));
    assert_eq!(back, Ok(before));
    let never: Date = cross(&Date::from_milliseconds(f64::NAN)).expect("an invalid date");
    assert!(never.milliseconds().is_nan());
    assert!(std::time::SystemTime::try_from(never).is_err());
    let flaw = flaw(cross::<Date>(&7));
    assert_eq!(flaw.to_string(), "expected a date, found 7");
}

#[test]
fn nothing_has_two_forms() {
    assert_eq!(cross::<Value>(&()).expect("null"), Value::Null);
    assert_eq!(cross::<Value>(&None::<u8>).expect("null"), Value::Null);
    assert_eq!(cross::<Value>(&Value::Undefined).expect("undefined"), Value::Undefined);
    for nothing in [Value::Null, Value::Undefined] {
        assert_eq!(cross::<Option<u8>>(&nothing).expect("none"), None);
        cross::<()>(&nothing).expect("a unit");
        assert!(nothing.is_null());
    }
    assert_eq!(cross::<Option<u8>>(&7).expect("some"), Some(7));
}

#[test]
fn texts_and_bytes_and_maps_cross() {
    assert_eq!(cross::<char>(&'ß').expect("a character"), 'ß');
    assert_eq!(cross::<String>("").expect("a text"), "");
    let bytes = Value::Bytes(vec![0, 255]);
    assert_eq!(cross::<Value>(&bytes).expect("bytes"), bytes);
    assert_eq!(cross::<Vec<u8>>(&bytes).expect("bytes as numbers"), [0, 255]);
    assert_eq!(cross::<(u8, u8)>(&bytes).expect("bytes as a tuple"), (0, 255));
    let address: IpAddr = "::1".parse().expect("an address");
    assert_eq!(cross::<IpAddr>(&address).expect("an address"), address);
    assert_eq!(cross::<Value>(&address).expect("a value"), "::1".into(), "as people write it");

    let by_number = BTreeMap::from([(-1i8, true), (7, false)]);
    assert_eq!(cross::<BTreeMap<i8, bool>>(&by_number).expect("a map"), by_number);
    let by_text = HashMap::from([("a".to_owned(), 1u8), ("b".to_owned(), 2)]);
    assert_eq!(cross::<HashMap<String, u8>>(&by_text).expect("a map"), by_text);
    // Any key, in their order, and one of them twice.
    let entries = [(Value::from([1, 2]), 1.into()), (Value::Null, 2.into())];
    let odd = Value::Map([entries.clone(), entries].concat());
    assert_eq!(cross::<Value>(&odd).expect("a map"), odd);
}

/// A value inside a struct, whatever it is.
#[test]
fn a_struct_can_hold_any_value() {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Envelope {
        id: u8,
        content: Value,
        more: Option<Value>,
    }

    let content = Value::from_iter([
        ("undefined", Value::Undefined),
        ("date", Date::from_milliseconds(1.5).into()),
        ("big", BigInt::from(1).into()),
        ("list", vec![Value::Undefined, Value::Null].into()),
    ]);
    let envelope = Envelope { id: 1, content, more: None };
    assert_eq!(cross::<Envelope>(&envelope).expect("an envelope"), envelope);
}

/// Other formats can hold what is received.
#[test]
fn values_are_plain_data_for_other_formats_too() {
    let value = Value::from_iter([
        ("a", Value::from([Value::Null, true.into(), 7.into(), 0.5.into()])),
        ("b", Value::from_iter([("c", "text")])),
    ]);
    let json = serde_json::to_string(&value).expect("JSON");
    assert_eq!(json, r#"{"a":[null,true,7,0.5],"b":{"c":"text"}}"#);
    assert_eq!(serde_json::from_str::<Value>(&json).expect("a value"), value);
    let date = Date::from_milliseconds(1.5);
    let json = serde_json::to_string(&date).expect("JSON");
    assert_eq!(serde_json::from_str::<Date>(&json).expect("a date"), date);
    let big = BigInt::from(-300);
    let json = serde_json::to_string(&big).expect("JSON");
    assert_eq!(serde_json::from_str::<BigInt>(&json).expect("a number"), big);
    assert_eq!(serde_json::from_str::<BigInt>("-5").expect("a number"), BigInt::from(-5));
}

#[test]
fn values_convert_from_and_into_types() {
    let user = &users()[2];
    let value = Value::from_serialize(user).expect("a value");
    assert_eq!(value.get("name").and_then(Value::as_str), Some("two"));
    assert_eq!(value.get("age").and_then(Value::as_i64), Some(255));
    assert_eq!(value.get("none"), None);
    assert_eq!(&value.deserialize_into::<User>().expect("a user"), user);
    let error = value.deserialize_into::<Kind>().expect_err("no kind");
    let expected = "expected a variant of Guest, Paid, Both, Member; found \"name\"";
    assert_eq!(error.to_string(), expected);
    assert_eq!(Value::from(u64::MAX), Value::BigInt(u64::MAX.into()));
    assert_eq!(Value::from(1u64), Value::Integer(1));
    assert_eq!(Value::from(0.5).as_f64(), Some(0.5));
    assert_eq!(Value::from(true).as_bool(), Some(true));
    assert_eq!(Value::Bytes(vec![1]).as_bytes(), Some(&[1u8][..]));
}

/// What was posted in another way.
#[test]
fn texts_and_bytes_are_values_and_archives_are_not() {
    let channel = MessageChannel::new().expect("a channel");
    channel.port1.post_text("words").expect("room");
    channel.port1.post_bytes(&[1, 2]).expect("room");
    channel.port1.post_message(&7u8).expect("room");
    channel.port1.post_text("").expect("room");

    let text = channel.port2.recv().expect("a message");
    assert_eq!(text.value::<&str>().expect("a text"), "words");
    assert_eq!(text.value::<Value>().expect("a text"), "words".into());
    assert_eq!(flaw(text.value::<u8>()).to_string(), "expected u8, found \"words\"");
    let bytes = channel.port2.recv().expect("a message").into_message();
    assert_eq!(bytes.value::<Value>().expect("bytes"), Value::Bytes(vec![1, 2]));
    assert_eq!(bytes.value::<Vec<u8>>().expect("bytes"), [1, 2]);
    assert_eq!(bytes.value::<&[u8]>().expect("bytes, borrowed"), [1, 2]);
    let archive = channel.port2.recv().expect("a message");
    match archive.value::<u8>() {
        Err(MessageError::Format { expected: "a value", found: "an archive" }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(channel.port2.recv().expect("a message").value::<String>().expect("a text"), "");
}

/// A receiver without the feature sees a message of a format of its own.
#[test]
fn a_value_is_no_archive_text_or_bytes() {
    let channel = MessageChannel::new().expect("a channel");
    channel.port1.post_value(&7).expect("room");
    let next = channel.port2.peek().expect("open").expect("a message");
    assert_eq!((next.format(), next.len()), (Format::Value, 1));
    let event = channel.port2.recv().expect("a message");
    assert_eq!((event.format(), event.bytes()), (Format::Value, &[7u8][..]));
    let errors = [event.data::<u8>().map(drop), event.text().map(drop)];
    for error in errors {
        assert!(matches!(error, Err(MessageError::Format { found: "a value", .. })), "{error:?}");
    }
}
