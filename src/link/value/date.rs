//! Points in time.

use super::DATE;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time, as JavaScript's `Date`: milliseconds since 1970, or NaN for an invalid date.
///
/// As part of a value it is CBOR's date of seconds, so that JavaScript gets a `Date`. Other formats
/// of serde get the milliseconds as a number.
///
/// ```
/// use messageport::{Date, MessageChannel};
/// use std::time::{Duration, SystemTime, UNIX_EPOCH};
///
/// let channel = MessageChannel::new()?;
/// let time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
/// channel.port1.post_value(&Date::from(time))?;
/// let date: Date = channel.port2.recv()?.value()?;
/// assert_eq!(date.milliseconds(), 1_700_000_000_123.0);
/// assert_eq!(SystemTime::try_from(date)?, time);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Date {
    milliseconds: f64,
}

impl Date {
    /// Creates a date from milliseconds since the start of 1970 in UTC.
    pub fn from_milliseconds(milliseconds: f64) -> Date {
        Date { milliseconds }
    }

    /// Milliseconds since the start of 1970 in UTC; NaN for an invalid date.
    pub fn milliseconds(self) -> f64 {
        self.milliseconds
    }

    /// The seconds that stand for it in CBOR.
    pub(super) fn to_seconds(self) -> Seconds {
        let seconds = self.milliseconds / 1000.0;
        let whole = seconds as i64;
        match whole as f64 == seconds && seconds.abs() < MOST_EXACT {
            true => Seconds::Whole(whole),
            false => Seconds::Float(seconds),
        }
    }

    /// The reverse of `to_seconds`. Seconds as a float are a little off: a date is in whole
    /// milliseconds if it is very near to them.
    pub(super) fn from_seconds(seconds: f64) -> Date {
        let milliseconds = seconds * 1000.0;
        let rounded = milliseconds.round();
        let is_near = (milliseconds - rounded).abs() <= rounded.abs() * f64::EPSILON;
        Date { milliseconds: if is_near { rounded } else { milliseconds } }
    }
}

/// Seconds as CBOR has them.
pub(super) enum Seconds {
    Whole(i64),
    Float(f64),
}

impl From<SystemTime> for Date {
    fn from(time: SystemTime) -> Date {
        // Nanoseconds of all this time would be rounded.
        let milliseconds = |distance: Duration| {
            distance.as_secs() as f64 * 1e3 + f64::from(distance.subsec_nanos()) / 1e6
        };
        Date {
            milliseconds: match time.duration_since(UNIX_EPOCH) {
                Ok(after) => milliseconds(after),
                Err(before) => -milliseconds(before.duration()),
            },
        }
    }
}

/// Fails for an invalid date and for one that the system's clock cannot have. Takes whole
/// milliseconds.
impl TryFrom<Date> for SystemTime {
    type Error = std::num::TryFromIntError;

    fn try_from(date: Date) -> Result<SystemTime, Self::Error> {
        let milliseconds = date.milliseconds.round();
        let distance = Duration::from_millis(milliseconds.abs() as u64);
        // The range of JavaScript's dates.
        let is_valid = milliseconds.abs() <= 8.64e15;
        let time = match milliseconds < 0.0 {
            _ if !is_valid => None,
            true => UNIX_EPOCH.checked_sub(distance),
            false => UNIX_EPOCH.checked_add(distance),
        };
        time.map_or_else(|| u8::try_from(-1).map(|_| UNIX_EPOCH), Ok)
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(DATE, &self.milliseconds)
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Date, D::Error> {
        struct Milliseconds;

        impl<'de> Visitor<'de> for Milliseconds {
            type Value = Date;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a date")
            }

            fn visit_newtype_struct<D>(self, deserializer: D) -> Result<Date, D::Error>
            where
                D: Deserializer<'de>,
            {
                f64::deserialize(deserializer).map(Date::from_milliseconds)
            }

            fn visit_f64<E: Error>(self, milliseconds: f64) -> Result<Date, E> {
                Ok(Date { milliseconds })
            }
        }

        deserializer.deserialize_newtype_struct(DATE, Milliseconds)
    }
}

/// Seconds below this are whole numbers in milliseconds, too.
const MOST_EXACT: f64 = (1u64 << 43) as f64;

#[cfg(test)]
mod tests {
    use super::{Date, Seconds};

    /// All dates of JavaScript at the ends of its range, and what is near to them.
    #[test]
    fn whole_milliseconds_survive_seconds() {
        for base in [0.0, 1.7e12, 8.64e15, -8.64e15, -1.0, 1e10] {
            for ms in (-2000..2000).map(|off| base + f64::from(off)) {
                let seconds = match Date::from_milliseconds(ms).to_seconds() {
                    Seconds::Whole(seconds) => seconds as f64,
                    Seconds::Float(seconds) => seconds,
                };
                assert_eq!(Date::from_seconds(seconds).milliseconds(), ms);
            }
        }
        let Seconds::Float(seconds) = Date::from_milliseconds(f64::NAN).to_seconds() else {
            panic!("an invalid date in whole seconds")
        };
        assert!(Date::from_seconds(seconds).milliseconds().is_nan());
    }
}
