//! Layer 5: two unrelated processes get the two ends of one pair.

mod allowed;
pub(crate) mod builder;
pub(crate) mod connect;
pub(crate) mod listen;
pub(crate) mod refused;
pub(crate) mod spawn;
#[cfg(feature = "seccomp")]
pub(crate) mod syscall_filter;
pub(crate) mod worker_process;
