//! Requests and replies: what waits.

pub(crate) mod blocking;
pub(crate) mod in_loop;
pub(crate) mod lead;
pub(crate) mod park;
pub(crate) mod serving;
