//! A value of any kind.

use super::big_int::BigInt;
use super::date::Date;
use super::encode::Bytes;
use super::{BIG_INT, DATE, UNDEFINED, VALUE, read, write};
use crate::error::ValueError;
use serde::de::{EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::SystemTime;

/// Plain data of any kind: what a program in another language has posted, without a struct for it.
///
/// It is received and posted as any other type, alone or inside a struct. What JavaScript posts
/// comes back to it as it was: `undefined` and `null` differ, and so do a number and a `BigInt`.
///
/// A hostile peer can post a value of many small parts, which takes up to 100 times the memory
/// of its message while it is read. A channel's `limit` bounds the message.
///
/// ```
/// use messageport::{MessageChannel, Value};
///
/// let channel = MessageChannel::new()?;
/// let order = Value::from_iter([("id", Value::from(7)), ("item", Value::from("lamp"))]);
/// channel.port1.post_value(&order)?;
///
/// let received: Value = channel.port2.recv()?.value()?;
/// assert_eq!(received, order);
/// assert_eq!(received.get("item").and_then(Value::as_str), Some("lamp"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// JavaScript's `null`, and Rust's `()` and `None`.
    #[default]
    Null,
    /// JavaScript's `undefined`.
    Undefined,
    /// True or false.
    Bool(bool),
    /// A whole number. JavaScript gets a number if it has at most 53 bits, and a `BigInt`
    /// otherwise.
    Integer(i64),
    /// A `BigInt` of JavaScript, or a whole number that is no `i64`.
    BigInt(BigInt),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// Bytes: an `ArrayBuffer`, or a typed array.
    Bytes(Vec<u8>),
    /// An array.
    Array(Vec<Value>),
    /// The entries of an object, a map or a struct, in their order. A peer may send a key twice.
    Map(Vec<(Value, Value)>),
    /// A point in time.
    Date(Date),
}

impl Value {
    /// Converts any serialisable type.
    ///
    /// # Errors
    /// [`ValueError`], as of [`post_value`](crate::MessagePort::post_value).
    ///
    /// ```
    /// use messageport::Value;
    ///
    /// let value = Value::from_serialize(&(1, "two"))?;
    /// assert_eq!(value, Value::from_iter([Value::from(1), Value::from("two")]));
    /// # Ok::<(), messageport::ValueError>(())
    /// ```
    pub fn from_serialize<T: Serialize + ?Sized>(value: &T) -> Result<Value, ValueError> {
        let mut bytes = Bytes(Vec::new());
        write(value, &mut bytes)?;
        read(&bytes.0)
    }

    /// Converts it into any type that can be deserialised.
    ///
    /// # Errors
    /// [`ValueError`] if it does not fit.
    ///
    /// ```
    /// use messageport::Value;
    ///
    /// let value = Value::from_iter([Value::from(1), Value::from("two")]);
    /// let (number, text): (u8, String) = value.deserialize_into()?;
    /// assert_eq!((number, text.as_str()), (1, "two"));
    /// assert!(value.deserialize_into::<u8>().is_err());
    /// # Ok::<(), messageport::ValueError>(())
    /// ```
    pub fn deserialize_into<T: for<'de> Deserialize<'de>>(&self) -> Result<T, ValueError> {
        let mut bytes = Bytes(Vec::new());
        write(self, &mut bytes)?;
        read(&bytes.0)
    }

    /// The value of an entry of a map, by a key that is text; of several the last.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let mut entries = self.as_map()?.iter().rev();
        entries.find(|(found, _)| found.as_str() == Some(key)).map(|(_, value)| value)
    }

    /// Whether it is `null` or `undefined`.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null | Value::Undefined)
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    /// The bytes, if it is some.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        if let Value::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(value) = self { Some(*value) } else { None }
    }

    /// The whole number, if it is one that fits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Integer(number) => Some(*number),
            Value::BigInt(number) => i64::try_from(number).ok(),
            _ => None,
        }
    }

    /// The number, if it is an `Integer` or a `Float`.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Integer(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// The elements, if it is an array.
    pub fn as_array(&self) -> Option<&[Value]> {
        if let Value::Array(elements) = self { Some(elements) } else { None }
    }

    /// The entries, if it is a map.
    pub fn as_map(&self) -> Option<&[(Value, Value)]> {
        if let Value::Map(entries) = self { Some(entries) } else { None }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Undefined => serializer.serialize_unit_struct(UNDEFINED),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Integer(number) => serializer.serialize_i64(*number),
            Value::BigInt(number) => number.serialize(serializer),
            Value::Float(number) => serializer.serialize_f64(*number),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Bytes(bytes) => serializer.serialize_bytes(bytes),
            Value::Array(elements) => serializer.collect_seq(elements),
            Value::Map(entries) => {
                serializer.collect_map(entries.iter().map(|(key, value)| (key, value)))
            }
            Value::Date(date) => date.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_newtype_struct(VALUE, Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("plain data")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(Any)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        Value::deserialize(from)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_i128<E>(self, number: i128) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u128<E>(self, number: u128) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(Value::Bytes(bytes.to_owned()))
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Value, E> {
        Ok(Value::Bytes(bytes))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Value, A::Error> {
        let mut elements = few(parts.size_hint());
        while let Some(element) = parts.next_element()? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut parts: A) -> Result<Value, A::Error> {
        let mut entries = few(parts.size_hint());
        while let Some(entry) = parts.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }

    /// What serde's data model has no word for.
    fn visit_enum<A: EnumAccess<'de>>(self, special: A) -> Result<Value, A::Error> {
        let (name, content): (String, A::Variant) = special.variant()?;
        match name.as_str() {
            DATE => content.newtype_variant().map(Value::Date),
            BIG_INT => content.newtype_variant().map(Value::BigInt),
            UNDEFINED => content.unit_variant().map(|()| Value::Undefined),
            _ => Err(A::Error::unknown_variant(&name, &[DATE, BIG_INT, UNDEFINED])),
        }
    }
}

/// An empty vector for so many parts, or for a few of them: a peer may claim more than there are,
/// at each level. Of small arrays, which need not grow, nothing is wasted.
fn few<T>(claimed: Option<usize>) -> Vec<T> {
    Vec::with_capacity(claimed.unwrap_or(0).min(4))
}

macro_rules! from_integers {
    ($($small:ty),* ; $($large:ty),*) => {
        $(impl From<$small> for Value {
            fn from(number: $small) -> Value {
                Value::Integer(number.into())
            }
        })*
        /// An [`Integer`](Value::Integer) if it fits, and a [`BigInt`](Value::BigInt) otherwise.
        $(impl From<$large> for Value {
            fn from(number: $large) -> Value {
                match i64::try_from(number) {
                    Ok(number) => Value::Integer(number),
                    Err(_) => Value::BigInt(number.into()),
                }
            }
        })*
    };
}

from_integers!(i8, i16, i32, i64, u8, u16, u32; u64, i128, u128);

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<f32> for Value {
    fn from(number: f32) -> Value {
        Value::Float(number.into())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Value {
        Value::Float(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<BigInt> for Value {
    fn from(number: BigInt) -> Value {
        Value::BigInt(number)
    }
}

impl From<Date> for Value {
    fn from(date: Date) -> Value {
        Value::Date(date)
    }
}

impl From<SystemTime> for Value {
    fn from(time: SystemTime) -> Value {
        Value::Date(time.into())
    }
}

impl From<()> for Value {
    fn from((): ()) -> Value {
        Value::Null
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

/// An array. For bytes write `Value::Bytes`.
impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(elements: Vec<T>) -> Value {
        elements.into_iter().collect()
    }
}

/// An array. For bytes write `Value::Bytes`.
impl<T: Into<Value>, const N: usize> From<[T; N]> for Value {
    fn from(elements: [T; N]) -> Value {
        elements.into_iter().collect()
    }
}

impl<K: Into<Value>, V: Into<Value>> From<BTreeMap<K, V>> for Value {
    fn from(map: BTreeMap<K, V>) -> Value {
        map.into_iter().collect()
    }
}

impl<K: Into<Value>, V: Into<Value>, S> From<HashMap<K, V, S>> for Value {
    fn from(map: HashMap<K, V, S>) -> Value {
        map.into_iter().collect()
    }
}

/// An array.
impl<T: Into<Value>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Value {
        Value::Array(elements.into_iter().map(Into::into).collect())
    }
}

/// A map, in this order.
impl<K: Into<Value>, V: Into<Value>> FromIterator<(K, V)> for Value {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Value {
        let pair = |(key, value): (K, V)| (key.into(), value.into());
        Value::Map(entries.into_iter().map(pair).collect())
    }
}
