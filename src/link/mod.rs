//! Layer 3: one end of one pair. Two lanes, a doorbell, an attachment socket.
//!
//! Only this layer joins the ring and the kernel: it performs what the pure layers decide, and it
//! turns the kernel's word on the peer's death into an end that comes after the last message.

pub(crate) mod archive;
pub(crate) mod attachment;
pub(crate) mod biased;
pub(crate) mod buffer;
pub(crate) mod end;
pub(crate) mod endpoint;
pub(crate) mod frames;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(crate) mod in_use;
pub(crate) mod payload;
pub(crate) mod pool;
pub(crate) mod prefault;
pub(crate) mod read_ahead;
pub(crate) mod receiving;
pub(crate) mod region;
pub(crate) mod sending;
pub(crate) mod stats;
pub(crate) mod trace;
pub(crate) mod transfer;
#[cfg(feature = "value")]
pub(crate) mod value;
