//! Layer 6: one to many.

pub(crate) mod broadcast;
pub(crate) mod collection;
pub(crate) mod worker_pool;
