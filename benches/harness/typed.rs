//! Messages with a type, from a single number to strings and vectors.

use messageport::rkyv::{Archive, Deserialize, Serialize};
use messageport::{Post, Receive, ReceiveDeserializer, SafeArchive};

/// Eight bytes.
#[derive(Archive, Serialize, Deserialize, SafeArchive, Clone, Debug, PartialEq)]
pub struct Number {
    pub number: u64,
}

/// Eight fields, 64 bytes: what a small message of a real program looks like.
#[derive(Archive, Serialize, Deserialize, SafeArchive, Clone, Debug, PartialEq)]
pub struct Order {
    pub number: u64,
    pub account: u64,
    pub instrument: u64,
    pub price: i64,
    pub quantity: i64,
    pub placed_ns: u64,
    pub expires_ns: u64,
    pub is_sale: bool,
}

/// Strings and vectors, 1 KiB altogether.
#[derive(Archive, Serialize, Deserialize, SafeArchive, Clone, Debug, PartialEq)]
pub struct Document {
    pub number: u64,
    pub title: String,
    pub authors: Vec<String>,
    pub readings: Vec<u64>,
    pub text: String,
}

/// A message that a round trip can send, and that the other side can answer with its own copy.
pub trait Typed: Post + Readable + PartialEq + std::fmt::Debug + Sized + 'static {
    fn example() -> Self;

    /// The sequence number, which every message has.
    fn number(&mut self) -> &mut u64;

    /// The sequence number of a message that arrived.
    fn number_of(archived: &Self::Archived) -> u64;
}

/// What checked access and deserialising ask of a type.
pub trait Readable:
    Sized + Receive + Archive<Archived: Deserialize<Self, ReceiveDeserializer>>
{
}

impl Readable for Number {}
impl Readable for Order {}
impl Readable for Document {}

impl Typed for Number {
    fn example() -> Self {
        Self { number: 0 }
    }

    fn number(&mut self) -> &mut u64 {
        &mut self.number
    }

    #[inline]
    fn number_of(archived: &Self::Archived) -> u64 {
        archived.number.to_native()
    }
}

impl Typed for Order {
    fn example() -> Self {
        Self {
            number: 0,
            account: 71_203,
            instrument: 5_512,
            price: 101_250,
            quantity: 300,
            placed_ns: 1_795_000_000_000_000_000,
            expires_ns: 1_795_000_060_000_000_000,
            is_sale: true,
        }
    }

    fn number(&mut self) -> &mut u64 {
        &mut self.number
    }

    #[inline]
    fn number_of(archived: &Self::Archived) -> u64 {
        archived.number.to_native()
    }
}

impl Typed for Document {
    fn example() -> Self {
        let author = |index: u64| format!("author number {index:02}");
        Self {
            number: 0,
            title: "Readings of a station on the coast".to_owned(),
            authors: (0..8).map(author).collect(),
            readings: (0..69).map(|index| index * 1_000_003).collect(),
            text: "The wind turned to the north-west after midnight; ".repeat(4),
        }
    }

    fn number(&mut self) -> &mut u64 {
        &mut self.number
    }

    #[inline]
    fn number_of(archived: &Self::Archived) -> u64 {
        archived.number.to_native()
    }
}
