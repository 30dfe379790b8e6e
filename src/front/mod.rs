//! Floor 5: who runs the callback, and when.

pub(crate) mod blocking;
pub(crate) mod event_loop;
