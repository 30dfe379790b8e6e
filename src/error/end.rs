//! Why a port has ended, and what a peer did wrong.

use std::fmt;
use thiserror::Error;

/// A value that a peer wrote and that no program using this crate writes.
///
/// The port that found it is closed: nothing more is read from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{what} is {found:#x}, {expected}: the peer is broken or hostile, so drop the port and look at \
     the program that holds its other end"
)]
pub struct Corruption {
    what: &'static str,
    found: u64,
    expected: Expected,
}

/// What a peer that uses this crate would have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    AtMost(u64),
    AtLeast(u64),
    Exactly(u64),
    MultipleOf(u64),
    Another,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::AtMost(bound) => write!(f, "where at most {bound:#x} is possible"),
            Expected::AtLeast(bound) => write!(f, "where at least {bound:#x} is expected"),
            Expected::Exactly(value) => write!(f, "where exactly {value:#x} is expected"),
            Expected::MultipleOf(unit) => write!(f, "where a multiple of {unit:#x} is expected"),
            Expected::Another => f.write_str("a value that the protocol does not have there"),
        }
    }
}

impl Corruption {
    /// `found` is more than `bound`.
    pub(crate) const fn new(what: &'static str, found: u64, bound: u64) -> Corruption {
        Corruption { what, found, expected: Expected::AtMost(bound) }
    }

    /// `found` is less than `bound`.
    pub(crate) const fn too_small(what: &'static str, found: u64, bound: u64) -> Corruption {
        Corruption { what, found, expected: Expected::AtLeast(bound) }
    }

    /// `found` is not `value`.
    pub(crate) const fn unequal(what: &'static str, found: u64, value: u64) -> Corruption {
        Corruption { what, found, expected: Expected::Exactly(value) }
    }

    /// `found` is not a multiple of `unit`.
    pub(crate) const fn misaligned(what: &'static str, found: u64, unit: u64) -> Corruption {
        Corruption { what, found, expected: Expected::MultipleOf(unit) }
    }

    /// `found` is more than `bound`, or else no multiple of `unit`.
    pub(crate) const fn step(what: &'static str, found: u64, bound: u64, unit: u64) -> Corruption {
        match found > bound {
            true => Corruption::new(what, found, bound),
            false => Corruption::misaligned(what, found, unit),
        }
    }

    /// `found` is not one of the values that have a meaning.
    pub(crate) const fn unknown(what: &'static str, found: u64) -> Corruption {
        Corruption { what, found, expected: Expected::Another }
    }
}

/// Why a port, or one direction of it, has ended.
///
/// Every message that the peer had committed before was delivered first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// This end called `close`.
    Local,
    /// The peer called `close`.
    PeerClosed,
    /// The peer dropped its port, or the half of it that served this direction.
    PeerDropped,
    /// The peer's process ended without closing the port: it was killed, crashed, or exited.
    PeerDied,
    /// The peer wrote something that no program using this crate writes.
    Corrupt(Corruption),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Local => f.write_str("this end closed it"),
            CloseReason::PeerClosed => f.write_str("the peer closed it"),
            CloseReason::PeerDropped => f.write_str("the peer dropped it"),
            CloseReason::PeerDied => f.write_str("the peer's process has ended"),
            CloseReason::Corrupt(corruption) => write!(f, "the peer broke it: {corruption}"),
        }
    }
}
