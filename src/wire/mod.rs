//! Layer 1: the bytes that both processes agree on, and nothing else.

#[cfg(not(messageport_loom))]
pub(crate) mod frame;
#[cfg(all(any(test, fuzzing), not(messageport_loom)))]
pub(crate) mod fuzzing;
pub(crate) mod label;
pub(crate) mod layout;
pub(crate) mod record;
