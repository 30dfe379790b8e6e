//! Values from CBOR that a peer wrote.
//!
//! What bounds the work: each token takes at least one byte of the message; an array or map that
//! claims more elements than bytes are left is refused before anything is allocated for it; levels
//! are limited, and so are calls that take no byte.

use super::token::{Token, Tokens};
use super::{BIG_INT, DATE, MOST_LEVELS, UNDEFINED, VALUE};
use crate::error::ValueError;
use crate::error::value::Step;
use serde::de::value::{BorrowedStrDeserializer, SeqDeserializer, StringDeserializer};
use serde::de::{
    self, Deserialize, DeserializeSeed, Error, Expected, IntoDeserializer, Unexpected, Visitor,
};
use std::borrow::Cow;

/// Reads a value that takes all of `bytes`.
pub(crate) fn read<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, ValueError> {
    let mut reader = Reader::new(bytes);
    let value = T::deserialize(&mut reader)?;
    match reader.tokens.left() {
        0 => Ok(value),
        left => Err(ValueError::new(format_args!("{left} bytes follow the value"))),
    }
}

/// Reads a text as a value.
pub(crate) fn of_text<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, ValueError> {
    T::deserialize(&mut Reader::of(Token::Text(Cow::Borrowed(text))))
}

/// Reads bytes that mean nothing else as a value.
pub(crate) fn of_bytes<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, ValueError> {
    T::deserialize(&mut Reader::of(Token::Bytes(Cow::Borrowed(bytes))))
}

struct Reader<'de> {
    tokens: Tokens<'de>,
    /// The next token, if it was looked at.
    seen: Option<Token<'de>>,
    /// Arrays and maps around this place.
    levels: u32,
    /// Calls around this place, inside its array or map, that have taken nothing: as of an option.
    calls: u32,
}

impl<'de> Reader<'de> {
    fn new(bytes: &'de [u8]) -> Reader<'de> {
        Reader { tokens: Tokens::new(bytes), seen: None, levels: 0, calls: 0 }
    }

    fn of(token: Token<'de>) -> Reader<'de> {
        Reader { seen: Some(token), ..Reader::new(&[]) }
    }

    fn peek(&mut self) -> Result<&Token<'de>, ValueError> {
        if self.seen.is_none() {
            self.seen = Some(self.tokens.next()?);
        }
        Ok(self.seen.as_ref().expect("it was just read"))
    }

    fn next(&mut self) -> Result<Token<'de>, ValueError> {
        match self.seen.take() {
            Some(token) => Ok(token),
            None => self.tokens.next(),
        }
    }

    /// Runs `visit` a level deeper.
    fn deeper<T>(
        &mut self,
        visit: impl FnOnce(&mut Self) -> Result<T, ValueError>,
    ) -> Result<T, ValueError> {
        if self.levels == MOST_LEVELS {
            return Err(ValueError::new(format_args!(
                "arrays and maps are nested in more than {MOST_LEVELS} levels"
            )));
        }
        self.levels += 1;
        let calls = std::mem::take(&mut self.calls);
        let result = visit(self);
        (self.levels, self.calls) = (self.levels - 1, calls);
        result
    }

    /// Runs `visit`, which may come here again without having taken anything.
    fn around<T>(
        &mut self,
        visit: impl FnOnce(&mut Self) -> Result<T, ValueError>,
    ) -> Result<T, ValueError> {
        if self.calls == MOST_CALLS {
            return Err(ValueError::new(format_args!(
                "the type has more than {MOST_CALLS} options and structs around one value"
            )));
        }
        self.calls += 1;
        let result = visit(self);
        self.calls -= 1;
        result
    }

    fn array<V: Visitor<'de>>(
        &mut self,
        len: Option<u64>,
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        self.parts(len, 1, "an array", |parts| visitor.visit_seq(parts))
    }

    fn map<V: Visitor<'de>>(
        &mut self,
        len: Option<u64>,
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        self.parts(len, 2, "a map", |parts| visitor.visit_map(parts))
    }

    /// Visits the parts of an array or map, which have at least so many bytes each.
    fn parts<T>(
        &mut self,
        len: Option<u64>,
        least: u64,
        what: &str,
        visit: impl FnOnce(&mut Parts<'_, 'de>) -> Result<T, ValueError>,
    ) -> Result<T, ValueError> {
        let left = self.tokens.left() as u64;
        if let Some(len) = len.filter(|len| *len > left / least) {
            return Err(ValueError::new(format_args!(
                "{what} of {len} elements has {left} bytes left for them"
            )));
        }
        self.deeper(|reader| {
            let mut parts = Parts { reader, left: len, taken: 0, key_at: 0 };
            let value = visit(&mut parts)?;
            match parts.has_next()? {
                false => Ok(value),
                true => {
                    let taken = parts.taken;
                    Err(ValueError::new(format_args!(
                        "expected {what} of {taken} elements, found more"
                    )))
                }
            }
        })
    }

    fn visit<V: Visitor<'de>>(
        &mut self,
        token: Token<'de>,
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        match token {
            Token::Null | Token::Undefined => visitor.visit_unit(),
            Token::Bool(value) => visitor.visit_bool(value),
            Token::Unsigned(value) => visitor.visit_u64(value),
            Token::Signed(value) => match i64::try_from(value) {
                Ok(value) => visitor.visit_i64(value),
                Err(_) => visitor.visit_i128(value),
            },
            Token::Float(value) => visitor.visit_f64(value),
            Token::BigInt(number) => {
                if let Ok(value) = u64::try_from(&number) {
                    visitor.visit_u64(value)
                } else if let Ok(value) = i64::try_from(&number) {
                    visitor.visit_i64(value)
                } else if let Ok(value) = u128::try_from(&number) {
                    visitor.visit_u128(value)
                } else if let Ok(value) = i128::try_from(&number) {
                    visitor.visit_i128(value)
                } else {
                    Err(ValueError::new(format_args!(
                        "a big integer of {} bytes is no integer of Rust: receive a `BigInt`",
                        number.magnitude().len()
                    )))
                }
            }
            Token::Date(date) => visitor.visit_f64(date.milliseconds()),
            Token::Text(Cow::Borrowed(text)) => visitor.visit_borrowed_str(text),
            Token::Text(Cow::Owned(text)) => visitor.visit_string(text),
            Token::Bytes(Cow::Borrowed(bytes)) => visitor.visit_borrowed_bytes(bytes),
            Token::Bytes(Cow::Owned(bytes)) => visitor.visit_byte_buf(bytes),
            Token::Array(len) => self.array(len, visitor),
            Token::Map(len) => self.map(len, visitor),
            Token::Break => Err(unexpected(&token, &visitor)),
        }
    }

    /// Bytes as a sequence of numbers, for a `Vec<u8>`; anything else as it is.
    fn sequence<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, ValueError> {
        match self.next()? {
            Token::Bytes(bytes) => {
                let mut numbers = SeqDeserializer::new(bytes.iter().copied());
                let value = visitor.visit_seq(&mut numbers)?;
                numbers.end()?;
                Ok(value)
            }
            token => self.visit(token, visitor),
        }
    }
}

fn unexpected(token: &Token<'_>, expected: &dyn Expected) -> ValueError {
    ValueError::invalid_type(token.unexpected(), expected)
}

impl<'de> de::Deserializer<'de> for &mut Reader<'de> {
    type Error = ValueError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        let token = self.next()?;
        self.visit(token, visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match self.peek()? {
            Token::Null | Token::Undefined => {
                self.next()?;
                visitor.visit_none()
            }
            _ => self.around(|reader| visitor.visit_some(reader)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        match name {
            DATE => match self.next()? {
                Token::Date(date) => visitor.visit_f64(date.milliseconds()),
                token => Err(unexpected(&token, &visitor)),
            },
            BIG_INT => match self.next()? {
                Token::BigInt(number) => visitor.visit_byte_buf(number.to_carried()),
                token => self.visit(token, visitor),
            },
            VALUE => self.around(|reader| visitor.visit_newtype_struct(Dynamic(reader))),
            _ => self.around(|reader| visitor.visit_newtype_struct(reader)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        match self.next()? {
            Token::Text(Cow::Borrowed(name)) => {
                visitor.visit_enum(BorrowedStrDeserializer::new(name))
            }
            Token::Text(Cow::Owned(name)) => {
                let name: StringDeserializer<ValueError> = name.into_deserializer();
                visitor.visit_enum(name)
            }
            Token::Map(len) => self.parts(len, 2, "a map", |parts| {
                parts.key_at = parts.reader.tokens.position();
                if !parts.has_next()? {
                    return Err(ValueError::invalid_type(Unexpected::Map, &VARIANT));
                }
                visitor.visit_enum(Variant { parts })
            }),
            token => Err(unexpected(&token, &VARIANT)),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        self.sequence(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        self.sequence(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        self.sequence(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct map struct identifier
    }

    /// A number that no integer of Rust can hold can be ignored all the same.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match self.next()? {
            Token::BigInt(_) => visitor.visit_unit(),
            token => self.visit(token, visitor),
        }
    }
}

/// What a variant with content is in a value.
const VARIANT: &str = "the name of a variant, or a map with one entry";

/// The parts of an array or map that are left.
struct Parts<'r, 'de> {
    reader: &'r mut Reader<'de>,
    /// `None`: until a `Break`.
    left: Option<u64>,
    taken: u64,
    /// Where the key is that was read last.
    key_at: usize,
}

impl<'de> Parts<'_, 'de> {
    /// Whether there is another one; takes the `Break` if not.
    fn has_next(&mut self) -> Result<bool, ValueError> {
        match self.left {
            Some(left) => Ok(left > 0),
            None => {
                match self.reader.next()? {
                    Token::Break => self.left = Some(0),
                    token => self.reader.seen = Some(token),
                }
                Ok(self.left.is_none())
            }
        }
    }

    fn take(&mut self) {
        self.left = self.left.map(|left| left - 1);
        self.taken += 1;
    }

    fn hint(&self) -> Option<usize> {
        self.left.and_then(|left| usize::try_from(left).ok())
    }

    /// The step that the key makes which was read last. It is read again: only errors need it.
    fn key_step(&self) -> Step {
        let mut tokens = self.reader.tokens.clone();
        tokens.go_back_to(self.key_at);
        tokens.next().map_or(Step::Index(self.taken), |key| key.step())
    }
}

impl<'de> de::SeqAccess<'de> for &mut Parts<'_, 'de> {
    type Error = ValueError;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, ValueError> {
        if !self.has_next()? {
            return Ok(None);
        }
        let index = self.taken;
        self.take();
        let element = seed.deserialize(&mut *self.reader);
        element.map(Some).map_err(|error| error.within(Step::Index(index)))
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

impl<'de> de::MapAccess<'de> for &mut Parts<'_, 'de> {
    type Error = ValueError;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, ValueError> {
        self.key_at = self.reader.tokens.position();
        if !self.has_next()? {
            return Ok(None);
        }
        self.take();
        seed.deserialize(&mut *self.reader).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, ValueError> {
        let value = seed.deserialize(&mut *self.reader);
        value.map_err(|error| error.within(self.key_step()))
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

/// A variant with content: the one entry of a map.
struct Variant<'p, 'r, 'de> {
    parts: &'p mut Parts<'r, 'de>,
}

impl<'de> de::EnumAccess<'de> for Variant<'_, '_, 'de> {
    type Error = ValueError;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self), ValueError> {
        self.parts.take();
        let name = seed.deserialize(&mut *self.parts.reader)?;
        Ok((name, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_, '_, 'de> {
    type Error = ValueError;

    fn unit_variant(self) -> Result<(), ValueError> {
        self.newtype_variant_seed(std::marker::PhantomData)
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<S::Value, ValueError> {
        let content = seed.deserialize(&mut *self.parts.reader);
        content.map_err(|error| error.within(self.parts.key_step()))
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        let content = self.parts.reader.sequence(visitor);
        content.map_err(|error| error.within(self.parts.key_step()))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        let content = de::Deserializer::deserialize_any(&mut *self.parts.reader, visitor);
        content.map_err(|error| error.within(self.parts.key_step()))
    }
}

/// A value of any kind, with what serde's data model has no word for: by the names of variants.
struct Dynamic<'r, 'de>(&'r mut Reader<'de>);

impl<'de> de::Deserializer<'de> for Dynamic<'_, 'de> {
    type Error = ValueError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match self.0.next()? {
            token @ (Token::Undefined | Token::Date(_) | Token::BigInt(_)) => {
                visitor.visit_enum(Special(token))
            }
            token => self.0.visit(token, visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

struct Special<'de>(Token<'de>);

impl<'de> de::EnumAccess<'de> for Special<'de> {
    type Error = ValueError;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self), ValueError> {
        let name = match self.0 {
            Token::Date(_) => DATE,
            Token::BigInt(_) => BIG_INT,
            _ => UNDEFINED,
        };
        let name = seed.deserialize(BorrowedStrDeserializer::<ValueError>::new(name))?;
        Ok((name, self))
    }
}

impl<'de> de::VariantAccess<'de> for Special<'de> {
    type Error = ValueError;

    fn unit_variant(self) -> Result<(), ValueError> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<S::Value, ValueError> {
        seed.deserialize(&mut Reader::of(self.0))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, ValueError> {
        Err(unexpected(&self.0, &visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        Err(unexpected(&self.0, &visitor))
    }
}

/// Most calls around one value that take nothing: a type that contains itself in an option, and
/// nothing else, would go on forever.
const MOST_CALLS: u32 = 512;
