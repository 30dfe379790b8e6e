//! Which standard streams this process was started without.
//!
//! Rust opens `/dev/null` in their place before `main`, so that a closed input looks empty and a
//! closed output swallows everything. Other programs report them; so they are looked at earlier.
#![allow(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// A bad descriptor, if standard input was closed.
pub fn input() -> io::Result<()> {
    check(&INPUT_WAS_CLOSED)
}

/// A bad descriptor, if standard output was closed.
pub fn output() -> io::Result<()> {
    check(&OUTPUT_WAS_CLOSED)
}

fn check(was_closed: &AtomicBool) -> io::Result<()> {
    // Relaxed: written before the first thread of this program was started.
    match was_closed.load(Ordering::Relaxed) {
        true => Err(io::Error::from_raw_os_error(libc::EBADF)),
        false => Ok(()),
    }
}

// SAFETY: the C library calls what stands in this section, with arguments that may be ignored,
// before `main`; the function uses nothing of Rust's runtime.
#[unsafe(link_section = ".init_array")]
#[used]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    for (number, was_closed) in [(0, &INPUT_WAS_CLOSED), (1, &OUTPUT_WAS_CLOSED)] {
        // SAFETY: it takes a number, and returns one.
        let is_closed = unsafe { libc::fcntl(number, libc::F_GETFD) } == -1;
        was_closed.store(is_closed, Ordering::Relaxed);
    }
}

static INPUT_WAS_CLOSED: AtomicBool = AtomicBool::new(false);
static OUTPUT_WAS_CLOSED: AtomicBool = AtomicBool::new(false);
