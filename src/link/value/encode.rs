//! Values to CBOR, by serde, straight into the ring.

use super::big_int::BigInt;
use super::date::{Date, Seconds};
use super::token::Tokens;
use super::{BIG_INT, DATE, MOST_LEVELS, UNDEFINED};
use crate::error::ValueError;
use crate::error::value::Step;
use minicbor::Encoder;
use minicbor::encode::{self, Write};
use serde::ser::{self, Serialize};
use std::fmt::Display;

/// Writes `value`.
pub(crate) fn write<W: Write<Error: Display>>(
    value: &(impl Serialize + ?Sized),
    to: W,
) -> Result<(), ValueError> {
    let mut writer = Writer { cbor: Encoder::new(to), levels: 0, carried: Carried::Nothing };
    value.serialize(&mut writer)
}

struct Writer<W> {
    cbor: Encoder<W>,
    /// Arrays and maps around this place.
    levels: u32,
    carried: Carried,
}

/// What the next number or the next bytes are.
#[derive(Clone, Copy, PartialEq)]
enum Carried {
    Nothing,
    Date,
    BigInt,
}

impl<W: Write<Error: Display>> Writer<W> {
    /// Writes a token.
    fn put(
        &mut self,
        put: impl FnOnce(&mut Encoder<W>) -> Result<&mut Encoder<W>, encode::Error<W::Error>>,
    ) -> Result<(), ValueError> {
        put(&mut self.cbor).map(drop).map_err(ValueError::new)
    }

    fn whole(&mut self, value: i128) -> Result<(), ValueError> {
        match minicbor::data::Int::try_from(value) {
            Ok(value) => self.put(|cbor| cbor.int(value)),
            Err(_) => self.big(&BigInt::from(value)),
        }
    }

    fn big(&mut self, number: &BigInt) -> Result<(), ValueError> {
        let tag = if number.is_negative() { NEGATIVE } else { POSITIVE };
        self.put(|cbor| cbor.tag(minicbor::data::Tag::new(tag)))?;
        self.put(|cbor| cbor.bytes(&number.to_cbor()))
    }

    fn date(&mut self, date: Date) -> Result<(), ValueError> {
        self.put(|cbor| cbor.tag(minicbor::data::Tag::new(TIME)))?;
        match date.to_seconds() {
            Seconds::Whole(seconds) => self.put(|cbor| cbor.i64(seconds)),
            Seconds::Float(seconds) => self.put(|cbor| cbor.f64(seconds)),
        }
    }

    /// Starts an array or map, whose number of parts may not be known.
    fn parts(
        &mut self,
        kind: Kind,
        len: Option<usize>,
        levels: u32,
    ) -> Result<Parts<'_, W>, ValueError> {
        if self.levels == MOST_LEVELS {
            return Err(ValueError::new(format_args!(
                "arrays and maps are nested in more than {MOST_LEVELS} levels"
            )));
        }
        match (kind, len) {
            (Kind::Array, Some(len)) => self.put(|cbor| cbor.array(len as u64)),
            (Kind::Array, None) => self.put(Encoder::begin_array),
            (Kind::Map, Some(len)) => self.put(|cbor| cbor.map(len as u64)),
            (Kind::Map, None) => self.put(Encoder::begin_map),
        }?;
        self.levels += 1;
        Ok(Parts { writer: self, len, written: 0, levels, variant: None })
    }

    /// Starts the content of a variant: the one entry of a map.
    fn variant(
        &mut self,
        name: &'static str,
        kind: Kind,
        len: usize,
    ) -> Result<Parts<'_, W>, ValueError> {
        self.parts(Kind::Map, Some(1), 1)?;
        self.put(|cbor| cbor.str(name))?;
        let parts = self.parts(kind, Some(len), 2);
        let mut parts = parts.map_err(|error| error.within(Step::Key(name.to_owned())))?;
        parts.variant = Some(name);
        Ok(parts)
    }
}

/// What has parts.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Array,
    Map,
}

/// An array or map that is being written.
struct Parts<'w, W> {
    writer: &'w mut Writer<W>,
    /// How many parts were announced.
    len: Option<usize>,
    written: usize,
    /// Levels that its end leaves.
    levels: u32,
    /// The variant whose content it is.
    variant: Option<&'static str>,
}

impl<W: Write<Error: Display>> Parts<'_, W> {
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ValueError> {
        let step = || Step::Index(self.written as u64);
        let written = value.serialize(&mut *self.writer).map_err(|error| error.within(step()));
        self.written += 1;
        written.map_err(|error| self.within_variant(error))
    }

    fn field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), ValueError> {
        self.writer.put(|cbor| cbor.str(name))?;
        self.written += 1;
        value.serialize(&mut *self.writer).map_err(|error| {
            let error = error.within(Step::Key(name.to_owned()));
            self.within_variant(error)
        })
    }

    fn within_variant(&self, error: ValueError) -> ValueError {
        match self.variant {
            Some(name) => error.within(Step::Key(name.to_owned())),
            None => error,
        }
    }

    fn finish(self) -> Result<(), ValueError> {
        match self.len {
            None => self.writer.put(Encoder::end)?,
            Some(len) if len == self.written => {}
            Some(len) => {
                let error = ValueError::new(format_args!(
                    "its `Serialize` announced {len} elements and gave {}",
                    self.written
                ));
                return Err(self.within_variant(error));
            }
        }
        self.writer.levels -= self.levels;
        Ok(())
    }
}

impl<'w, W: Write<Error: Display>> ser::Serializer for &'w mut Writer<W> {
    type Ok = ();
    type Error = ValueError;
    type SerializeSeq = Parts<'w, W>;
    type SerializeTuple = Parts<'w, W>;
    type SerializeTupleStruct = Parts<'w, W>;
    type SerializeTupleVariant = Parts<'w, W>;
    type SerializeMap = Parts<'w, W>;
    type SerializeStruct = Parts<'w, W>;
    type SerializeStructVariant = Parts<'w, W>;

    fn serialize_bool(self, value: bool) -> Result<(), ValueError> {
        self.put(|cbor| cbor.bool(value))
    }

    fn serialize_i8(self, value: i8) -> Result<(), ValueError> {
        self.put(|cbor| cbor.i8(value))
    }

    fn serialize_i16(self, value: i16) -> Result<(), ValueError> {
        self.put(|cbor| cbor.i16(value))
    }

    fn serialize_i32(self, value: i32) -> Result<(), ValueError> {
        self.put(|cbor| cbor.i32(value))
    }

    fn serialize_i64(self, value: i64) -> Result<(), ValueError> {
        self.put(|cbor| cbor.i64(value))
    }

    fn serialize_i128(self, value: i128) -> Result<(), ValueError> {
        self.whole(value)
    }

    fn serialize_u8(self, value: u8) -> Result<(), ValueError> {
        self.put(|cbor| cbor.u8(value))
    }

    fn serialize_u16(self, value: u16) -> Result<(), ValueError> {
        self.put(|cbor| cbor.u16(value))
    }

    fn serialize_u32(self, value: u32) -> Result<(), ValueError> {
        self.put(|cbor| cbor.u32(value))
    }

    fn serialize_u64(self, value: u64) -> Result<(), ValueError> {
        self.put(|cbor| cbor.u64(value))
    }

    fn serialize_u128(self, value: u128) -> Result<(), ValueError> {
        match i128::try_from(value) {
            Ok(value) => self.whole(value),
            Err(_) => self.big(&BigInt::from(value)),
        }
    }

    fn serialize_f32(self, value: f32) -> Result<(), ValueError> {
        self.put(|cbor| cbor.f32(value))
    }

    fn serialize_f64(self, value: f64) -> Result<(), ValueError> {
        match std::mem::replace(&mut self.carried, Carried::Nothing) {
            Carried::Date => self.date(Date::from_milliseconds(value)),
            _ => self.put(|cbor| cbor.f64(value)),
        }
    }

    fn serialize_char(self, value: char) -> Result<(), ValueError> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), ValueError> {
        self.put(|cbor| cbor.str(value))
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), ValueError> {
        match std::mem::replace(&mut self.carried, Carried::Nothing) {
            Carried::BigInt => self.big(&BigInt::from_carried(value).unwrap_or_default()),
            _ => self.put(|cbor| cbor.bytes(value)),
        }
    }

    fn serialize_none(self) -> Result<(), ValueError> {
        self.put(Encoder::null)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), ValueError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), ValueError> {
        self.put(Encoder::null)
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<(), ValueError> {
        match name {
            UNDEFINED => self.put(Encoder::undefined),
            _ => self.put(Encoder::null),
        }
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<(), ValueError> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), ValueError> {
        self.carried = match name {
            DATE => Carried::Date,
            BIG_INT => Carried::BigInt,
            _ => Carried::Nothing,
        };
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), ValueError> {
        let mut parts = self.parts(Kind::Map, Some(1), 1)?;
        parts.field(variant, value)?;
        parts.finish()
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Parts<'w, W>, ValueError> {
        self.parts(Kind::Array, len, 1)
    }

    fn serialize_tuple(self, len: usize) -> Result<Parts<'w, W>, ValueError> {
        self.parts(Kind::Array, Some(len), 1)
    }

    fn serialize_tuple_struct(
        self,
        _name: &'static str,
        len: usize,
    ) -> Result<Parts<'w, W>, ValueError> {
        self.parts(Kind::Array, Some(len), 1)
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Parts<'w, W>, ValueError> {
        self.variant(variant, Kind::Array, len)
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Parts<'w, W>, ValueError> {
        self.parts(Kind::Map, len, 1)
    }

    fn serialize_struct(self, _name: &'static str, len: usize) -> Result<Parts<'w, W>, ValueError> {
        self.parts(Kind::Map, Some(len), 1)
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Parts<'w, W>, ValueError> {
        self.variant(variant, Kind::Map, len)
    }
}

impl<W: Write<Error: Display>> ser::SerializeSeq for Parts<'_, W> {
    type Ok = ();
    type Error = ValueError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ValueError> {
        self.element(value)
    }

    fn end(self) -> Result<(), ValueError> {
        self.finish()
    }
}

impl<W: Write<Error: Display>> ser::SerializeTuple for Parts<'_, W> {
    type Ok = ();
    type Error = ValueError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ValueError> {
        self.element(value)
    }

    fn end(self) -> Result<(), ValueError> {
        self.finish()
    }
}

impl<W: Write<Error: Display>> ser::SerializeTupleStruct for Parts<'_, W> {
    type Ok = ();
    type Error = ValueError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ValueError> {
        self.element(value)
    }

    fn end(self) -> Result<(), ValueError> {
        self.finish()
    }
}

impl<W: Write<Error: Display>> ser::SerializeTupleVariant for Parts<'_, W> {
    type Ok = ();
    type Error = ValueError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ValueError> {
        self.element(value)
    }

    fn end(self) -> Result<(), ValueError> {
        self.finish()
    }
}

impl<W: Write<Error: Display>> ser::SerializeMap for Parts<'_, W> {
    type Ok = ();
    type Error = ValueError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), ValueError> {
        self.written += 1;
        key.serialize(&mut *self.writer)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ValueError> {
        let step = || Step::Index(self.written as u64 - 1);
        value.serialize(&mut *self.writer).map_err(|error| error.within(step()))
    }

    fn serialize_entry<K: Serialize + ?Sized, T: Serialize + ?Sized>(
        &mut self,
        key: &K,
        value: &T,
    ) -> Result<(), ValueError> {
        self.serialize_key(key)?;
        value.serialize(&mut *self.writer).map_err(|error| error.within(step_of(key)))
    }

    fn end(self) -> Result<(), ValueError> {
        self.finish()
    }
}

impl<W: Write<Error: Display>> ser::SerializeStruct for Parts<'_, W> {
    type Ok = ();
    type Error = ValueError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), ValueError> {
        self.field(name, value)
    }

    fn end(self) -> Result<(), ValueError> {
        self.finish()
    }
}

impl<W: Write<Error: Display>> ser::SerializeStructVariant for Parts<'_, W> {
    type Ok = ();
    type Error = ValueError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), ValueError> {
        self.field(name, value)
    }

    fn end(self) -> Result<(), ValueError> {
        self.finish()
    }
}

/// The step that a key of a map makes. The key is written once more: only errors need it.
fn step_of(key: &(impl Serialize + ?Sized)) -> Step {
    let mut bytes = Bytes(Vec::new());
    match write(key, &mut bytes) {
        Ok(()) => Tokens::new(&bytes.0).next().map_or(Step::Index(0), |token| token.step()),
        Err(_) => Step::Other("a key".to_owned()),
    }
}

/// Bytes of this program, whose memory may run out.
pub(super) struct Bytes(pub Vec<u8>);

impl Write for Bytes {
    type Error = std::collections::TryReserveError;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0.try_reserve(bytes.len())?;
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Tags of CBOR: seconds since 1970, and big integers.
const TIME: u64 = 1;
const POSITIVE: u64 = 2;
const NEGATIVE: u64 = 3;
