//! Errors for JavaScript: a text, and a code as Node.js has them.

use std::io::{self, ErrorKind};

/// An error without a code.
pub fn fail(error: impl std::error::Error) -> napi::Error {
    napi::Error::from_reason(error.to_string())
}

/// An error with a code: a line of its own before the text, which `lib/native.js` takes off.
pub fn fail_with_code<E>(error: E) -> napi::Error
where
    E: std::error::Error + Into<io::Error>,
{
    let text = error.to_string();
    match code_of(&error.into()) {
        Some(code) => napi::Error::from_reason(format!("{code}\n{text}")),
        None => napi::Error::from_reason(text),
    }
}

/// The code of the kernel's error that is the cause, or else of the kind.
fn code_of(error: &io::Error) -> Option<&'static str> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        let number = current.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if let Some(code) = number.and_then(code_of_number) {
            return Some(code);
        }
        // An `io::Error` hides the error inside from `source`.
        cause = match current.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inside) => Some(inside),
            None => current.source(),
        };
    }
    code_of_kind(error.kind())
}

fn code_of_number(number: i32) -> Option<&'static str> {
    CODES.iter().find(|(known, _)| *known == number).map(|(_, code)| *code)
}

/// Numbers of Linux whose kind does not say enough.
const CODES: [(i32, &str); 4] =
    [(23, "ENFILE"), (24, "EMFILE"), (28, "ENOSPC"), (109, "ETOOMANYREFS")];

fn code_of_kind(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::AddrInUse => "EADDRINUSE",
        ErrorKind::ConnectionRefused => "ECONNREFUSED",
        ErrorKind::ConnectionReset => "ECONNRESET",
        ErrorKind::FileTooLarge => "EFBIG",
        ErrorKind::InvalidData => "EPROTO",
        ErrorKind::InvalidInput => "ERR_INVALID_ARG_VALUE",
        ErrorKind::NotFound => "ENOENT",
        ErrorKind::OutOfMemory => "ENOMEM",
        ErrorKind::PermissionDenied => "EACCES",
        ErrorKind::ResourceBusy => "EBUSY",
        ErrorKind::TimedOut => "ETIMEDOUT",
        ErrorKind::Unsupported => "ENOTSUP",
        _ => return None,
    })
}
