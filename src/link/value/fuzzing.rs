//! What the target `decode_value` runs: bytes that are read as values of many types.

use super::{BigInt, Date, Value, of_bytes, of_text, read, write};
use crate::error::ValueError;
use crate::link::value::encode::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::net::IpAddr;
use std::ops::{Bound, Range};
use std::time::{Duration, SystemTime};

/// Reads bytes as values of many types. Whatever is accepted can be used, and posted again.
/// Returns whether they are a value.
pub fn decode_value(data: &[u8]) -> bool {
    // In separate memory of exactly the length, so that a read beside it is noticed.
    let data: Box<[u8]> = data.into();
    accept::<Vec<(String, Option<f64>)>>(&data);
    accept::<HashMap<String, Vec<u8>>>(&data);
    accept::<BTreeMap<i64, bool>>(&data);
    accept::<Result<u8, String>>(&data);
    accept::<Bound<Vec<i128>>>(&data);
    accept::<Range<u64>>(&data);
    accept::<Duration>(&data);
    accept::<SystemTime>(&data);
    accept::<IpAddr>(&data);
    accept::<u128>(&data);
    accept::<BigInt>(&data);
    accept::<Date>(&data);
    accept::<(u8, char, f32)>(&data);
    accept::<Option<Box<Value>>>(&data);
    accept::<HashMap<String, Value>>(&data);
    accept::<&str>(&data);
    accept::<&[u8]>(&data);
    accept::<()>(&data);
    if let Ok(text) = std::str::from_utf8(&data) {
        assert_eq!(of_text::<&str>(text).as_ref(), Ok(&text));
        see(of_text::<Result<u8, String>>(text));
    }
    assert_eq!(of_bytes::<Vec<u8>>(&data).as_deref(), Ok(&data[..]));
    let value = read::<Value>(&data);
    let ignored = read::<IgnoredAny>(&data);
    assert_eq!(value.is_ok(), ignored.is_ok(), "{value:?}");
    value.as_ref().map(use_it).is_ok()
}

fn accept<'a, T: Deserialize<'a>>(data: &'a [u8]) {
    see(black_box(read::<T>(data)));
}

/// An error's text is short, whatever the peer wrote.
fn see<T>(result: Result<T, ValueError>) {
    if let Err(error) = result {
        let text = error.to_string();
        assert!(text.len() <= 4000 && !text.contains('\n'), "{} bytes: {text}", text.len());
    }
}

/// Looks at a value, and posts it again.
fn use_it(value: &Value) {
    let shown = format!("{value:?}");
    black_box((value.get("a"), value.as_f64(), value.as_i64(), value.clone()));
    let mut bytes = Bytes(Vec::new());
    write(value, &mut bytes).expect("what was read can be posted");
    let again: Value = read(&bytes.0).expect("what was posted can be read");
    // Seconds of a date that are no milliseconds are rounded each time. NaN is not equal to itself.
    if !shown.contains("Date") {
        assert_eq!(format!("{again:?}"), shown);
    }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Date, Value, decode_value, write};
    use crate::link::value::BigInt;

    /// Numbers from a seed (xorshift).
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % bound
        }

        fn text(&mut self) -> String {
            (0..self.below(12))
                .map(|_| ["a", "é", "\n", "Ok", "start"][self.0 as usize % 5])
                .collect()
        }

        fn value(&mut self, levels: u64) -> Value {
            match self.below(if levels == 0 { 9 } else { 12 }) {
                0 => Value::Null,
                1 => Value::Undefined,
                2 => Value::Bool(self.below(2) == 0),
                3 => Value::Integer(self.below(1 << 50) as i64 - self.below(1 << 53) as i64),
                4 => BigInt::from_sign_and_magnitude(self.below(2) == 0, &self.bytes()).into(),
                5 => Value::Float(f64::from_bits(self.0)),
                6 => Value::Text(self.text()),
                7 => Value::Bytes(self.bytes()),
                8 => Date::from_milliseconds(self.below(1 << 53) as f64).into(),
                9 | 10 => (0..self.below(5)).map(|_| self.value(levels - 1)).collect(),
                _ => (0..self.below(5)).map(|_| (self.text(), self.value(levels - 1))).collect(),
            }
        }

        fn bytes(&mut self) -> Vec<u8> {
            (0..self.below(24)).map(|_| self.below(256) as u8).collect()
        }
    }

    #[test]
    fn values_of_the_corpus_do_no_harm() {
        let corpus = format!("{}/fuzz/corpus/decode_value", env!("CARGO_MANIFEST_DIR"));
        for entry in std::fs::read_dir(corpus).into_iter().flatten() {
            decode_value(&std::fs::read(entry.expect("an entry").path()).expect("a file"));
        }
    }

    /// Honest values are accepted, and changed ones do no harm.
    #[test]
    fn values_made_by_chance_do_no_harm() {
        let mut accepted = 0;
        for seed in 1..2_000 {
            let mut random = Random(seed * 0x9e37_79b9);
            let mut bytes = Bytes(Vec::new());
            write(&random.value(4), &mut bytes).expect("a value");
            assert!(decode_value(&bytes.0), "seed {seed}");
            for _ in 0..4 {
                let mut changed = bytes.0.clone();
                for _ in 0..=random.below(3) {
                    let at = random.below(changed.len() as u64) as usize;
                    changed[at] = random.below(256) as u8;
                }
                changed.truncate(random.below(changed.len() as u64 + 1) as usize + 1);
                accepted += u32::from(decode_value(&changed));
            }
        }
        assert!(accepted > 100, "{accepted} of the changed ones are values");
    }

    #[test]
    fn bytes_made_by_chance_do_no_harm() {
        for seed in 1..20_000 {
            decode_value(&Random(seed * 0x9e37_79b9).bytes());
        }
    }
}
