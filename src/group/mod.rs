//! Floor 6: one to many.

pub(crate) mod collection;
