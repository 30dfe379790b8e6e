//! Layer 5: waiting, and which thread runs a callback when.

pub(crate) mod add_error;
pub(crate) mod blocking;
pub(crate) mod bytes;
pub(crate) mod event_loop;
mod peer_gone;
pub(crate) mod port_set;
pub(crate) mod requests;
#[cfg(feature = "value")]
mod value;
pub(crate) mod waiting_shared;
