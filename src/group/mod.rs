//! Layer 6: one to many.

pub(crate) mod broadcast;
pub(crate) mod collection;
#[cfg(feature = "value")]
mod value;
pub(crate) mod worker_pool;
