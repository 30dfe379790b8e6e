//! File names are bytes: how they are printed.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// One line of `sha256sum`'s output.
///
/// A name that would break the line is escaped, and a backslash before the digest says so.
pub fn line(digest: &[u8; 32], name: &OsStr) -> Vec<u8> {
    let name = name.as_bytes();
    let mut line = Vec::with_capacity(name.len() + 70);
    if name.iter().any(|byte| escape(*byte).is_some()) {
        line.push(b'\\');
    }
    for byte in digest {
        line.extend_from_slice(format!("{byte:02x}").as_bytes());
    }
    line.extend_from_slice(b"  ");
    for byte in name {
        match escape(*byte) {
            Some(escaped) => line.extend_from_slice(escaped),
            None => line.push(*byte),
        }
    }
    line.push(b'\n');
    line
}

/// A name inside an error message: as it is where a terminal shows it as it is, else quoted.
pub struct Shown<'a>(pub &'a OsStr);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.to_str() {
            Some(name) if !name.is_empty() && !name.contains(char::is_control) => f.write_str(name),
            _ => write!(f, "{:?}", self.0),
        }
    }
}

/// What GNU coreutils 9 writes for the three bytes that need it.
fn escape(byte: u8) -> Option<&'static [u8]> {
    match byte {
        b'\\' => Some(b"\\\\"),
        b'\n' => Some(b"\\n"),
        b'\r' => Some(b"\\r"),
        _ => None,
    }
}
