//! Floor 5: who waits, and how. Safe code only.

pub(crate) mod blocking;
