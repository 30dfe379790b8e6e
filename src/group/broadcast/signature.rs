//! What a member's socket is called.

use crate::error::AttachError;
use crate::os::{monotonic_microseconds, random_number};
use crate::wire::frame::Hello;
use std::fmt;

/// What the file of a member's socket is named after: who it is, and what it speaks.
///
/// Who it is begins with the time, so that members have an order, and ends at random. No two are
/// ever the same, so that a name which was found dead can be removed at any later time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signature {
    pub member: u128,
    pub hello: Hello,
}

impl Signature {
    pub(super) fn new(hello: Hello) -> Signature {
        let now = u128::from(monotonic_microseconds());
        Signature { member: now << 64 | u128::from(random_number()), hello }
    }

    /// `None` for a name that no member has.
    pub(super) fn parse(name: &str) -> Option<Signature> {
        let mut words = name.split('-');
        let (member, version) = (words.next()?, words.next()?);
        let (format, schema) = (words.next()?, words.next()?);
        let number = |word| u64::from_str_radix(word, 16).ok();
        let hello =
            Hello { version: number(version)?, format: number(format)?, schema: number(schema)? };
        let member = u128::from_str_radix(member, 16).ok()?;
        let signature = Signature { member, hello };
        // Other spellings of a number are none of ours.
        (signature.to_string() == name).then_some(signature)
    }

    /// In what another member's program differs from ours.
    pub(super) fn compare(self, other: Signature) -> Result<(), AttachError> {
        let pairs = [
            ("version of layout and frames", other.hello.version, self.hello.version),
            ("payload format", other.hello.format, self.hello.format),
            ("schema", other.hello.schema, self.hello.schema),
        ];
        match pairs.into_iter().find(|(_, found, expected)| found != expected) {
            Some((what, found, expected)) => {
                Err(AttachError::Incompatible { what, found, expected })
            }
            None => Ok(()),
        }
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hello { version, format, schema } = self.hello;
        write!(f, "{:032x}-{version:x}-{format:x}-{schema:x}", self.member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_survive_the_round_trip_and_nothing_else_is_one() {
        let hello = Hello { version: 2, format: u64::MAX, schema: 0 };
        let (one, other) = (Signature::new(hello), Signature::new(hello));
        assert_ne!(one.member, other.member);
        let name = one.to_string();
        assert_eq!(Signature::parse(&name), Some(one));
        assert!(one.compare(other).is_ok());
        let strange = ["", "-", "news", &name[1..], &format!("{name}.new"), &format!("{name}-1")];
        for name in strange {
            assert_eq!(Signature::parse(name), None, "{name}");
        }
        assert_eq!(Signature::parse(&name.replace("-2-", "-02-")), None);
        let longest = Signature { member: 1, hello: Hello { schema: u64::MAX, ..hello } };
        assert_eq!(Signature::parse(&longest.to_string()), Some(longest));
        // With a descriptor's directory before it, and an ending, it is a socket's address.
        assert!("/proc/self/fd/1048576/.new".len() + longest.to_string().len() < 108);
    }
}
