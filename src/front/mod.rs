//! Floor 5: who runs the callback, and when.

pub(crate) mod blocking;
pub(crate) mod event_loop;
pub(crate) mod port_set;
