//! One token of CBOR, with the tags that mean something here.

use super::big_int::BigInt;
use super::date::Date;
use crate::error::ValueError;
use crate::error::value::Step;
use minicbor::data::{IanaTag, Type};
use serde::de::Unexpected;
use std::borrow::Cow;

/// A value without parts, or the start of one with parts.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'de> {
    Null,
    Undefined,
    Bool(bool),
    Unsigned(u64),
    /// Below zero.
    Signed(i128),
    Float(f64),
    BigInt(BigInt),
    Date(Date),
    Text(Cow<'de, str>),
    Bytes(Cow<'de, [u8]>),
    /// Its number of elements; `None` if a `Break` ends it.
    Array(Option<u64>),
    /// Its number of entries; `None` if a `Break` ends it.
    Map(Option<u64>),
    Break,
}

impl Token<'_> {
    /// What it is, in an error's text.
    pub(super) fn unexpected(&self) -> Unexpected<'_> {
        match self {
            Token::Null => Unexpected::Unit,
            Token::Undefined => Unexpected::Other("undefined"),
            Token::Bool(value) => Unexpected::Bool(*value),
            Token::Unsigned(value) => Unexpected::Unsigned(*value),
            Token::Signed(value) => match i64::try_from(*value) {
                Ok(value) => Unexpected::Signed(value),
                Err(_) => Unexpected::Other("a number below all of 64 bits"),
            },
            Token::Float(value) => Unexpected::Float(*value),
            Token::BigInt(_) => Unexpected::Other("a big integer"),
            Token::Date(_) => Unexpected::Other("a date"),
            Token::Text(text) => Unexpected::Str(text),
            Token::Bytes(bytes) => Unexpected::Bytes(bytes),
            Token::Array(_) => Unexpected::Seq,
            Token::Map(_) => Unexpected::Map,
            Token::Break => Unexpected::Other("the end of an array or map"),
        }
    }

    /// The step that it makes as the key of a map.
    pub(super) fn step(&self) -> Step {
        match self {
            Token::Text(text) => Step::Key(text.chars().take(MOST_OF_A_KEY).collect()),
            Token::Unsigned(value) => Step::Other(value.to_string()),
            Token::Signed(value) => Step::Other(value.to_string()),
            Token::Float(value) => Step::Other(value.to_string()),
            Token::Bool(value) => Step::Other(value.to_string()),
            Token::Null => Step::Other("null".to_owned()),
            other => Step::Other(format!("{}", other.unexpected())),
        }
    }
}

/// The tokens of a message, one after the other.
#[derive(Clone)]
pub(super) struct Tokens<'de> {
    cbor: minicbor::Decoder<'de>,
}

impl<'de> Tokens<'de> {
    pub(super) fn new(bytes: &'de [u8]) -> Tokens<'de> {
        Tokens { cbor: minicbor::Decoder::new(bytes) }
    }

    /// Where the next one starts, in bytes.
    pub(super) fn position(&self) -> usize {
        self.cbor.position()
    }

    /// Reads again from an earlier place on.
    pub(super) fn go_back_to(&mut self, position: usize) {
        self.cbor.set_position(position);
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.cbor.input().len().saturating_sub(self.cbor.position())
    }

    /// Reads the next one, with its tags. Tags without a meaning here are stepped over.
    pub(super) fn next(&mut self) -> Result<Token<'de>, ValueError> {
        loop {
            let position = self.position();
            match self.next_or_tag() {
                Ok(Some(token)) => return Ok(token),
                Ok(None) => {}
                Err(error) if error.is_end_of_input() => {
                    let len = self.cbor.input().len();
                    return Err(ValueError::new(format_args!(
                        "the message ends inside the value, after {len} bytes"
                    )));
                }
                Err(error) => {
                    return Err(ValueError::new(format_args!(
                        "the bytes at {position} are no CBOR: {error}"
                    )));
                }
            }
        }
    }

    /// `None`: it was a tag without a meaning here.
    fn next_or_tag(&mut self) -> Result<Option<Token<'de>>, minicbor::decode::Error> {
        let cbor = &mut self.cbor;
        let token = match cbor.datatype()? {
            Type::Null => cbor.null().map(|()| Token::Null)?,
            Type::Undefined => cbor.undefined().map(|()| Token::Undefined)?,
            Type::Bool => Token::Bool(cbor.bool()?),
            Type::U8 | Type::U16 | Type::U32 | Type::U64 => Token::Unsigned(cbor.u64()?),
            Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::Int => {
                Token::Signed(cbor.int()?.into())
            }
            Type::F16 => Token::Float(cbor.f16()?.into()),
            Type::F32 => Token::Float(cbor.f32()?.into()),
            Type::F64 => Token::Float(cbor.f64()?),
            Type::String => Token::Text(Cow::Borrowed(cbor.str()?)),
            Type::StringIndef => {
                Token::Text(Cow::Owned(cbor.str_iter()?.collect::<Result<_, _>>()?))
            }
            Type::Bytes => Token::Bytes(Cow::Borrowed(cbor.bytes()?)),
            Type::BytesIndef => Token::Bytes(Cow::Owned(chunks(cbor)?)),
            Type::Array | Type::ArrayIndef => Token::Array(cbor.array()?),
            Type::Map | Type::MapIndef => Token::Map(cbor.map()?),
            Type::Tag => return self.tagged(),
            Type::Break => {
                cbor.set_position(cbor.position() + 1);
                Token::Break
            }
            kind @ (Type::Simple | Type::Unknown(_)) => {
                return Err(minicbor::decode::Error::type_mismatch(kind));
            }
        };
        Ok(Some(token))
    }

    fn tagged(&mut self) -> Result<Option<Token<'de>>, minicbor::decode::Error> {
        let cbor = &mut self.cbor;
        let tag = cbor.tag()?;
        let token = match IanaTag::try_from(tag) {
            Ok(tag @ (IanaTag::PosBignum | IanaTag::NegBignum)) => {
                let bytes = match cbor.datatype()? {
                    Type::BytesIndef => Cow::Owned(chunks(cbor)?),
                    _ => Cow::Borrowed(cbor.bytes()?),
                };
                Token::BigInt(BigInt::from_cbor(tag == IanaTag::NegBignum, &bytes))
            }
            Ok(IanaTag::Timestamp) => Token::Date(Date::from_seconds(match cbor.datatype()? {
                Type::F16 => cbor.f16()?.into(),
                Type::F32 => cbor.f32()?.into(),
                Type::F64 => cbor.f64()?,
                _ => i128::from(cbor.int()?) as f64,
            })),
            _ => return Ok(None),
        };
        Ok(Some(token))
    }
}

/// Bytes that come in several pieces.
fn chunks(cbor: &mut minicbor::Decoder<'_>) -> Result<Vec<u8>, minicbor::decode::Error> {
    let mut all = Vec::new();
    for chunk in cbor.bytes_iter()? {
        all.extend_from_slice(chunk?);
    }
    Ok(all)
}

/// Most characters of a key that an error keeps.
const MOST_OF_A_KEY: usize = 60;
