//! Floor 2: the concurrency core. Pure: no system call, heap or mapping alike.

pub(crate) mod consumer;
pub(crate) mod cursor;
#[cfg(any(test, fuzzing))]
pub(crate) mod lane;
pub(crate) mod memory;
pub(crate) mod notifier;
pub(crate) mod producer;
pub(crate) mod segment;
