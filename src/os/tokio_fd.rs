//! A descriptor on tokio's reactor.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::{Interest, unix::AsyncFd};

/// Watches a descriptor for being readable, on the reactor of the runtime that runs this.
///
/// # Panics
/// Outside a runtime, and in one without `enable_io`.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor of an `OwnedFd` is open, and the same, for as long as that lives; the
    // value that is returned owns it until it is dropped.
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    watched.map_err(|error| error.into_parts().1)
}
