//! Plain data as the payload of a message: serde on this side, CBOR in the ring.
//!
//! `docs/layout.md` says which CBOR is written and accepted. minicbor writes and reads single
//! tokens; what a value is made of, how deep it is, how long it may claim to be and where in it an
//! error was is decided here.

mod big_int;
mod date;
mod decode;
mod dynamic;
mod encode;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod token;

pub use big_int::BigInt;
pub use date::Date;
pub(crate) use decode::{of_bytes, of_text, read};
pub use dynamic::Value;
pub(crate) use encode::write;

/// Most levels of arrays and maps in a value: more cannot be posted, and is refused where it is
/// received, so that reading takes a bounded part of the thread's stack.
pub(crate) const MOST_LEVELS: u32 = 128;

/// By these names serde's data model carries what it has no word for. Other formats than this one
/// see a plain number, bytes, or a unit.
const DATE: &str = "$messageport::Date";
const BIG_INT: &str = "$messageport::BigInt";
const UNDEFINED: &str = "$messageport::Undefined";
const VALUE: &str = "$messageport::Value";
