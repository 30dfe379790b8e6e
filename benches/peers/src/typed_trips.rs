//! Typed round trips through a transport of bytes: a value goes there and is sent back as it came.
//!
//! A program that sends values through a library of bytes has to turn them into bytes and back. A
//! value of plain fields is its own memory, so that costs a copy. One with strings and vectors is
//! serialised by rkyv, checked and deserialised, which is what this crate's typed calls do.

use rkyv::rancor::Error;
use rkyv::util::AlignedVec;

use crate::exchange::{Session, receive};
use crate::harness::message::CHECKED;
use crate::harness::typed::{ArchivedDocument, Document, Order, Typed};
use crate::harness::workload::{RoundTrip, Trips, Workload};
use crate::transport::{Plan, Receiving, Sending};

/// A value that a transport of bytes can carry.
pub trait Carried: Typed {
    /// Where bytes are written before they are sent, or copied to before they are read.
    type Buffer: Default;

    /// Writes the value; returns its bytes.
    fn write<'a>(&self, to: &'a mut Self::Buffer) -> &'a [u8];

    /// Reads a value.
    fn read(bytes: &[u8], by: &mut Self::Buffer) -> Self;

    /// Reads the number of a value, and checks the rest where that can be wrong.
    fn read_number(bytes: &[u8], by: &mut Self::Buffer) -> u64;
}

/// The memory of an order.
pub struct OrderBytes([u8; ORDER]);

impl Default for OrderBytes {
    fn default() -> Self {
        Self([0; ORDER])
    }
}

impl Carried for Order {
    type Buffer = OrderBytes;

    #[inline]
    fn write<'a>(&self, OrderBytes(to): &'a mut OrderBytes) -> &'a [u8] {
        let words = [
            self.number,
            self.account,
            self.instrument,
            self.price.cast_unsigned(),
            self.quantity.cast_unsigned(),
            self.placed_ns,
            self.expires_ns,
            u64::from(self.is_sale),
        ];
        for (place, word) in to.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        to
    }

    #[inline]
    fn read(bytes: &[u8], _by: &mut OrderBytes) -> Self {
        let bytes: &[u8; ORDER] = bytes.try_into().expect("as long as an order");
        let word = |index: usize| {
            let word = bytes[8 * index..8 * index + 8].try_into().expect("eight bytes");
            u64::from_ne_bytes(word)
        };
        Self {
            number: word(0),
            account: word(1),
            instrument: word(2),
            price: word(3).cast_signed(),
            quantity: word(4).cast_signed(),
            placed_ns: word(5),
            expires_ns: word(6),
            is_sale: word(7) != 0,
        }
    }

    #[inline]
    fn read_number(bytes: &[u8], by: &mut OrderBytes) -> u64 {
        Self::read(bytes, by).number
    }
}

impl Carried for Document {
    type Buffer = AlignedVec;

    fn write<'a>(&self, to: &'a mut AlignedVec) -> &'a [u8] {
        let mut buffer = std::mem::take(to);
        buffer.clear();
        *to = rkyv::api::high::to_bytes_in::<_, Error>(self, buffer).expect("memory");
        to
    }

    fn read(bytes: &[u8], by: &mut AlignedVec) -> Self {
        rkyv::deserialize::<Self, Error>(archived(bytes, by)).expect("a valid document")
    }

    fn read_number(bytes: &[u8], by: &mut AlignedVec) -> u64 {
        Self::number_of(archived(bytes, by))
    }
}

/// Checks a document. It is copied, as a ring may place it anywhere, and rkyv needs it aligned.
fn archived<'a>(bytes: &[u8], by: &'a mut AlignedVec) -> &'a ArchivedDocument {
    by.clear();
    by.extend_from_slice(bytes);
    rkyv::access::<ArchivedDocument, Error>(by).expect("a valid document")
}

/// A value there and back.
struct TypedTrip<O, I, V: Carried> {
    session: Session<O, I>,
    value: V,
    written: V::Buffer,
    read: V::Buffer,
}

impl<O: Sending, I: Receiving, V: Carried> TypedTrip<O, I, V> {
    #[inline]
    fn send(&mut self) {
        *self.value.number() += 1;
        self.session.out.send(self.value.write(&mut self.written));
    }
}

impl<O: Sending, I: Receiving, V: Carried> RoundTrip for TypedTrip<O, I, V> {
    fn check(&mut self) {
        for _ in 0..CHECKED {
            self.send();
            let Session { plan, back, .. } = &mut self.session;
            let mut answer = None;
            receive(plan, back, |bytes| answer = Some(V::read(bytes, &mut self.read)));
            assert_eq!(answer.as_ref(), Some(&self.value), "the value that came back");
        }
    }

    #[inline]
    fn round_trip(&mut self) {
        self.send();
        let Session { plan, back, .. } = &mut self.session;
        let mut number = 0;
        receive(plan, back, |bytes| number = V::read_number(bytes, &mut self.read));
        assert_eq!(number, *self.value.number(), "number of the value that came back");
    }

    fn peer(&self) -> u32 {
        self.session.peer().unwrap_or_default()
    }
}

/// The first side.
pub fn start<O: Sending + 'static, I: Receiving + 'static>(
    session: Session<O, I>,
) -> Box<dyn Workload> {
    match session.plan.bytes {
        ORDER => Box::new(Trips(trip::<O, I, Order>(session))),
        DOCUMENT => Box::new(Trips(trip::<O, I, Document>(session))),
        bytes => panic!("no value of {bytes} bytes"),
    }
}

fn trip<O, I, V: Carried>(session: Session<O, I>) -> TypedTrip<O, I, V> {
    let (mut written, mut read) = (V::Buffer::default(), V::Buffer::default());
    let value = V::example();
    let bytes = value.write(&mut written);
    assert_eq!(bytes.len(), session.plan.bytes, "length of the value");
    assert_eq!(V::read(bytes, &mut read), value);
    TypedTrip { session, value, written, read }
}

/// The other side.
pub fn echo(plan: &Plan, out: &mut impl Sending, incoming: &mut impl Receiving) {
    match plan.bytes {
        ORDER => echo_of::<Order>(plan, out, incoming),
        DOCUMENT => echo_of::<Document>(plan, out, incoming),
        bytes => panic!("no value of {bytes} bytes"),
    }
}

fn echo_of<V: Carried>(plan: &Plan, out: &mut impl Sending, incoming: &mut impl Receiving) {
    let (mut written, mut read) = (V::Buffer::default(), V::Buffer::default());
    loop {
        receive(plan, incoming, |bytes| {
            let value = V::read(bytes, &mut read);
            out.send(value.write(&mut written));
        });
    }
}

const ORDER: usize = 64;
/// Its archive is exactly as long, so that peers with records of one length can carry it.
const DOCUMENT: usize = 1024;
