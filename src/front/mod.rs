//! Layer 5: waiting, and which thread runs a callback when.

pub(crate) mod add_error;
pub(crate) mod blocking;
pub(crate) mod event_loop;
#[cfg(any(feature = "tokio", feature = "async-io"))]
pub(crate) mod future;
pub(crate) mod port_set;
