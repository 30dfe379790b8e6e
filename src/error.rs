//! Every error that a caller can get. Floor 0.

use std::fmt;

/// What a peer wrote that no program using this crate writes.
///
/// The port that met it is closed: nothing more is read from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corruption {
    what: &'static str,
    found: u64,
    bound: u64,
}

impl Corruption {
    pub(crate) fn new(what: &'static str, found: u64, bound: u64) -> Corruption {
        Corruption { what, found, bound }
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Corruption { what, found, bound } = self;
        write!(f, "{what} is {found:#x}, which the bound {bound:#x} does not allow")
    }
}

impl std::error::Error for Corruption {}
