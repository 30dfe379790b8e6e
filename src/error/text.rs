//! Texts that several errors share. None says what the source of its error says: a chain of errors
//! is printed without repetition.

use nix::errno::Errno;
use std::io;

/// That the kernel refused `call`, by which error number, and what to do.
pub(super) fn refused(call: &str, source: &io::Error) -> String {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(errno) => format!("the kernel refused {call} ({errno:?}): {}", remedy(call, errno)),
        None => format!("{call} failed ({:?}): {}", source.kind(), remedy_without_errno(call)),
    }
}

/// That a file could not be used for a name.
pub(super) fn file(path: &std::path::Path, call: &str, source: &io::Error) -> String {
    format!("at {}: {}", path.display(), refused(call, source))
}

fn remedy(call: &str, errno: Errno) -> &'static str {
    match errno {
        Errno::EMFILE => "close descriptors, or raise RLIMIT_NOFILE",
        Errno::ENFILE => "the system has no more open files; close some, or raise fs.file-max",
        Errno::EAGAIN | Errno::EPERM if call.starts_with("mmap") || call.starts_with("madvise") => {
            "this process locks its memory, and RLIMIT_MEMLOCK is too low; raise it, or give the \
             channel's builder a smaller `limit`"
        }
        Errno::ENOMEM | Errno::ENOBUFS => {
            "memory is short; free some, or raise the limits of this process and its cgroup"
        }
        Errno::ENOSPC => "the file system is full; make room there",
        Errno::EACCES | Errno::EPERM => {
            "see that the permissions, and any seccomp filter, allow it"
        }
        Errno::ENOSYS => "update the kernel, or allow the call in the seccomp filter",
        Errno::ENAMETOOLONG => "a socket's path has at most 107 bytes; choose a shorter one",
        Errno::ENOENT | Errno::ENOTDIR => "see that the file and its directory are there",
        Errno::EROFS => "choose a directory that can be written to",
        Errno::EADDRINUSE => "another file has that name; remove it, or choose another name",
        _ => UNKNOWN,
    }
}

fn remedy_without_errno(call: &str) -> &'static str {
    match call {
        "reactor" => {
            "call `into_async` inside a running tokio runtime, or enable the feature `async-io`"
        }
        _ => UNKNOWN,
    }
}

/// How two programs come to the same value of `what`.
pub(super) fn agree(what: &str) -> &'static str {
    match what {
        "schema" => "give `Connect` and the builder of the channel the same `schema`",
        _ => "build both with the same version of this crate",
    }
}

/// Why a lane or its socket has no room.
pub(super) fn full(unread: u64, limit: u64, is_socket: bool) -> String {
    match is_socket {
        true => "the queue of transferables is full; wait until some were received".to_owned(),
        false => format!(
            "{unread} of at most {limit} bytes are unread, and the rest is too short, reserved, or \
             in pieces; wait until the peer receives, as `post_message_timeout` does, commit an \
             open burst, or give the channel a higher `limit`"
        ),
    }
}

const UNKNOWN: &str = "the source of this error says why";
