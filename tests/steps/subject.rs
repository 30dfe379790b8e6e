//! What the traced process does around its operation, and what it checks itself.

use crate::common::messages::{chain, mix};
use crate::common::wanted;
use crate::tracer::{NOT_TRACED, ask_to_be_traced, operation};
use messageport::{MessagePort, parent_port};
use std::error::Error;

pub const SEED: &str = "MESSAGEPORT_TEST_SEED";
/// The call that is refused, and the error, if one is.
pub const REFUSED: &str = "MESSAGEPORT_TEST_REFUSED";

/// The process that is led through an operation.
pub struct Subject {
    pub port: MessagePort,
    pub seed: u64,
}

impl Subject {
    /// The process's own view of itself. It ends at once if it cannot be traced.
    pub fn play(act: fn(Subject)) {
        let port = parent_port().expect("a port to the parent");
        act(Subject { port, seed: wanted(SEED, 0) });
    }
}

/// Does the operation while it is traced, and what it failed to do again without. Checks that
/// it takes nothing for good but what it returns.
///
/// `act` gets what is left to do, and returns it with the error when it fails.
pub fn operate<L, T, E: Error>(left: L, mut act: impl FnMut(L) -> Result<T, (L, E)>) -> T {
    if ask_to_be_traced().is_err() {
        std::process::exit(NOT_TRACED);
    }
    let mut outcome = operation(|| act(left));
    for _ in 0..MOST_RETRIES {
        match outcome {
            Ok(done) => return done,
            Err((left, error)) => {
                check_error(&error);
                outcome = act(left);
            }
        }
    }
    let Err((_, error)) = outcome else { panic!("it was done at last") };
    panic!("it fails still: {}", chain(&error));
}

/// What a refusal may look like to the caller: the call by its name, or a case of its own.
pub fn check_error(error: &dyn Error) {
    let refused = std::env::var(REFUSED).unwrap_or_default();
    let text = chain(error);
    let (call, errno) = refused.split_once(' ').unwrap_or_else(|| {
        panic!("nothing was refused, and yet: {text}");
    });
    assert!(!text.contains("os error 4)"), "EINTR has leaked out: {text}");
    assert_ne!(errno, "EINTR", "an interruption became {text}");
    let mut names = NAMES.iter().filter(|(of, _)| *of == call).map(|(_, name)| *name);
    let is_named = text.contains(call)
        || names.any(|name| text.contains(name))
        || SPOKEN.iter().any(|(of, words)| ["", errno].contains(of) && text.contains(words));
    assert!(is_named, "{call} was refused with {errno}, which became: {text}");
}

/// Calls that the C library or the standard library makes by another name.
const NAMES: &[(&str, &str)] = &[
    ("newfstatat", "fstat"),
    ("newfstatat", "open"),
    ("prlimit64", "getrlimit"),
    ("openat", "open"),
    ("eventfd2", "eventfd"),
];

/// Errors that have words of their own.
const SPOKEN: &[(&str, &str)] = &[
    ("", "the kernel refused to start the program"),
    ("EAGAIN", "the queue of transferables is full"),
    ("ENOBUFS", "the queue of transferables is full"),
    ("ETOOMANYREFS", "are in flight"),
    ("EACCES", "this user may not enter it"),
    ("EINVAL", "the kernel lacks MADV_POPULATE_WRITE"),
    ("EMFILE", "descriptors, and there is no room for them now"),
    ("ENFILE", "descriptors, and there is no room for them now"),
];

/// A text whose length and bytes follow from the seed and its number.
pub fn text(seed: u64, number: u64, most: u64) -> String {
    let mut text = format!("{number} ");
    let len = if seed == 0 { most } else { mix(seed ^ mix(number)) % (most + 1) };
    for at in 0..len {
        text.push(char::from(b'a' + (mix(number ^ mix(at)) % 26) as u8));
    }
    text
}

const MOST_RETRIES: u32 = 3;
