//! Whole numbers of any length.

use super::BIG_INT;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A whole number of any length, as JavaScript's `BigInt`.
///
/// It converts from and to Rust's integers. As part of a value it is always CBOR's big integer, so
/// that JavaScript gets a `BigInt` and not a number.
///
/// Formats of serde other than [`post_value`](crate::MessagePort::post_value) get bytes: 1 if it is
/// negative and 0 otherwise, and then its magnitude, the most significant byte first.
///
/// ```
/// use messageport::BigInt;
///
/// let number = BigInt::from(-(1i128 << 100));
/// assert_eq!(i128::try_from(&number), Ok(-(1 << 100)));
/// assert_eq!(number.to_string(), "-1267650600228229401496703205376");
/// assert!(u64::try_from(&number).is_err());
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct BigInt {
    is_negative: bool,
    /// The most significant byte first, without leading zeros.
    magnitude: Box<[u8]>,
}

impl BigInt {
    /// Creates a number from its sign and its magnitude, the most significant byte first. There is
    /// no negative zero.
    ///
    /// ```
    /// use messageport::BigInt;
    ///
    /// assert_eq!(BigInt::from_sign_and_magnitude(true, &[0, 1, 0]), BigInt::from(-256));
    /// ```
    pub fn from_sign_and_magnitude(is_negative: bool, magnitude: &[u8]) -> BigInt {
        let zeros = magnitude.iter().take_while(|byte| **byte == 0).count();
        let magnitude: Box<[u8]> = magnitude[zeros..].into();
        BigInt { is_negative: is_negative && !magnitude.is_empty(), magnitude }
    }

    /// Whether it is below zero.
    pub fn is_negative(&self) -> bool {
        self.is_negative
    }

    /// Its magnitude, the most significant byte first, without leading zeros. Zero has no bytes.
    pub fn magnitude(&self) -> &[u8] {
        &self.magnitude
    }

    /// Its magnitude as a number, if it has no more than 128 bits.
    fn small(&self) -> Option<u128> {
        let mut bytes = [0; 16];
        let start = bytes.len().checked_sub(self.magnitude.len())?;
        bytes[start..].copy_from_slice(&self.magnitude);
        Some(u128::from_be_bytes(bytes))
    }

    /// What stands for it in CBOR: of a negative number, one less than its magnitude.
    pub(super) fn to_cbor(&self) -> Vec<u8> {
        let mut bytes = self.magnitude.to_vec();
        if self.is_negative {
            for byte in bytes.iter_mut().rev() {
                let (next, borrows) = byte.overflowing_sub(1);
                *byte = next;
                if !borrows {
                    break;
                }
            }
            if bytes.first() == Some(&0) {
                bytes.remove(0);
            }
        }
        bytes
    }

    /// The reverse of `to_cbor`.
    pub(super) fn from_cbor(is_negative: bool, bytes: &[u8]) -> BigInt {
        if !is_negative {
            return BigInt::from_sign_and_magnitude(false, bytes);
        }
        let mut magnitude = vec![0];
        magnitude.extend_from_slice(bytes);
        for byte in magnitude.iter_mut().rev() {
            let (next, carries) = byte.overflowing_add(1);
            *byte = next;
            if !carries {
                break;
            }
        }
        BigInt::from_sign_and_magnitude(true, &magnitude)
    }

    /// What serde carries it as: its sign and its magnitude.
    pub(super) fn to_carried(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.is_negative)];
        bytes.extend_from_slice(&self.magnitude);
        bytes
    }

    /// The reverse of `to_carried`.
    pub(super) fn from_carried(bytes: &[u8]) -> Option<BigInt> {
        let (sign, magnitude) = bytes.split_first()?;
        Some(BigInt::from_sign_and_magnitude(*sign != 0, magnitude))
    }
}

impl From<u128> for BigInt {
    fn from(number: u128) -> BigInt {
        BigInt::from_sign_and_magnitude(false, &number.to_be_bytes())
    }
}

impl From<i128> for BigInt {
    fn from(number: i128) -> BigInt {
        BigInt::from_sign_and_magnitude(number < 0, &number.unsigned_abs().to_be_bytes())
    }
}

impl From<u64> for BigInt {
    fn from(number: u64) -> BigInt {
        BigInt::from(u128::from(number))
    }
}

impl From<i64> for BigInt {
    fn from(number: i64) -> BigInt {
        BigInt::from(i128::from(number))
    }
}

impl From<i32> for BigInt {
    fn from(number: i32) -> BigInt {
        BigInt::from(i128::from(number))
    }
}

/// Fails if the number is out of range.
impl TryFrom<&BigInt> for u128 {
    type Error = std::num::TryFromIntError;

    fn try_from(number: &BigInt) -> Result<u128, Self::Error> {
        match number.small() {
            Some(magnitude) if !number.is_negative => Ok(magnitude),
            _ => u128::try_from(-1i8),
        }
    }
}

/// Fails if the number is out of range.
impl TryFrom<&BigInt> for i128 {
    type Error = std::num::TryFromIntError;

    fn try_from(number: &BigInt) -> Result<i128, Self::Error> {
        match (number.small(), number.is_negative) {
            (Some(magnitude), true) if magnitude == 1 << 127 => Ok(i128::MIN),
            (Some(magnitude), is_negative) => {
                i128::try_from(magnitude).map(|number| if is_negative { -number } else { number })
            }
            (None, _) => i128::try_from(u128::MAX),
        }
    }
}

/// Fails if the number is out of range.
impl TryFrom<&BigInt> for u64 {
    type Error = std::num::TryFromIntError;

    fn try_from(number: &BigInt) -> Result<u64, Self::Error> {
        u128::try_from(number).and_then(u64::try_from)
    }
}

/// Fails if the number is out of range.
impl TryFrom<&BigInt> for i64 {
    type Error = std::num::TryFromIntError;

    fn try_from(number: &BigInt) -> Result<i64, Self::Error> {
        i128::try_from(number).and_then(i64::try_from)
    }
}

/// In decimal up to 127 bits, and in hexadecimal beyond: a peer could make the conversion of a long
/// one take very long.
impl fmt::Display for BigInt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Ok(number) = i128::try_from(self) {
            return write!(f, "{number}");
        }
        f.write_str(if self.is_negative { "-0x" } else { "0x" })?;
        self.magnitude.iter().enumerate().try_for_each(|(at, byte)| match at {
            0 => write!(f, "{byte:x}"),
            _ => write!(f, "{byte:02x}"),
        })
    }
}

impl fmt::Debug for BigInt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BigInt({self})")
    }
}

impl Serialize for BigInt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Carried(Vec<u8>);

        impl Serialize for Carried {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }

        serializer.serialize_newtype_struct(BIG_INT, &Carried(self.to_carried()))
    }
}

impl<'de> Deserialize<'de> for BigInt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<BigInt, D::Error> {
        struct Carried;

        impl<'de> Visitor<'de> for Carried {
            type Value = BigInt;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_newtype_struct<D>(self, deserializer: D) -> Result<BigInt, D::Error>
            where
                D: Deserializer<'de>,
            {
                deserializer.deserialize_any(self)
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<BigInt, E> {
                let number = BigInt::from_carried(bytes);
                number.ok_or_else(|| E::invalid_length(0, &"a sign and a magnitude"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<BigInt, A::Error> {
                let mut all: Vec<u8> = Vec::new();
                while let Some(byte) = bytes.next_element()? {
                    all.push(byte);
                }
                self.visit_bytes(&all)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<BigInt, E> {
                Ok(BigInt::from(number))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<BigInt, E> {
                Ok(BigInt::from(number))
            }

            fn visit_i128<E: Error>(self, number: i128) -> Result<BigInt, E> {
                Ok(BigInt::from(number))
            }

            fn visit_u128<E: Error>(self, number: u128) -> Result<BigInt, E> {
                Ok(BigInt::from(number))
            }
        }

        deserializer.deserialize_newtype_struct(BIG_INT, Carried)
    }
}

#[cfg(test)]
mod tests {
    use super::BigInt;

    #[test]
    fn numbers_survive_both_forms() {
        let numbers = [0, 1, -1, 255, 256, -256, -257, i128::MAX, i128::MIN, 1 << 64, -(1 << 64)];
        for number in numbers {
            let big = BigInt::from(number);
            assert_eq!(i128::try_from(&big), Ok(number));
            assert_eq!(BigInt::from_cbor(big.is_negative(), &big.to_cbor()), big);
            assert_eq!(BigInt::from_carried(&big.to_carried()), Some(big.clone()));
            assert_eq!(big.to_string(), number.to_string());
        }
    }

    #[test]
    fn a_number_out_of_range_is_refused() {
        let long = BigInt::from_sign_and_magnitude(true, &[1; 17]);
        assert!(i128::try_from(&long).is_err() && u128::try_from(&long).is_err());
        assert_eq!(long.to_string(), format!("-0x1{}", "01".repeat(16)));
        let (most, least) = (BigInt::from(u128::MAX), BigInt::from(i128::MIN));
        assert!(i128::try_from(&most).is_err() && u128::try_from(&least).is_err());
        assert!(u64::try_from(&BigInt::from(-1)).is_err());
        assert_eq!(i64::try_from(&BigInt::from(i64::MIN)), Ok(i64::MIN));
        assert!(!BigInt::from_sign_and_magnitude(true, &[0]).is_negative());
    }
}
