//! Texts that several errors share. None says what the source of its error says: a chain of errors
//! is printed without repetition.

use nix::errno::Errno;
use std::io;

/// That the kernel refused `call`, by which error number, and what to do.
pub(super) fn refused(call: &str, source: &io::Error) -> String {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(errno) => format!("the kernel refused {call} ({errno:?}): {}", remedy(call, errno)),
        None => format!("{call} failed ({:?}): {UNKNOWN}", source.kind()),
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

/// Why a lane or its socket has no room.
pub(super) fn full(unread: u64, limit: u64, is_socket: bool) -> String {
    match is_socket {
        true => "the queue of transferables is full; wait until some were received".to_owned(),
        false => format!(
            "{unread} of at most {limit} bytes are unread, and the rest, some of it reserved, has \
             no place for the message in one piece; wait for room, which an open burst makes by \
             being committed, or give the channel a higher limit"
        ),
    }
}

const UNKNOWN: &str = "the source of this error says why";
