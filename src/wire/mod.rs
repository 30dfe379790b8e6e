//! Floor 1: the bytes that both processes agree on, and nothing else.



pub(crate) mod layout;
pub(crate) mod record;
