//! Texts that several errors share. None says what the source of its error says: a chain of errors
//! is printed without repetition.

use nix::errno::Errno;
use std::io;

/// That the kernel refused `call`, by which error number, and what to do.
pub(super) fn refused(call: &str, source: &io::Error) -> String {
    if call == NO_RUNTIME {
        return "there is no tokio runtime on this thread, and this call needs a running one: make \
                it inside `block_on`, a task or `Runtime::enter`, or enable the feature `async-io`"
            .to_owned();
    }
    match source.raw_os_error().map(Errno::from_raw) {
        Some(errno) => format!("the kernel refused {call} ({errno:?}): {}", remedy(call, errno)),
        None => {
            format!("{call} failed ({:?}): {}", source.kind(), remedy_without_errno(call, source))
        }
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
        Errno::ETOOMANYREFS => {
            "too many descriptors of this user are in flight; have messages received, or raise \
             RLIMIT_NOFILE"
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

fn remedy_without_errno(call: &str, source: &io::Error) -> &'static str {
    match (call, source.kind()) {
        ("reactor", _) => {
            "the runtime has ended, or its reactor refuses the descriptor; use a running one"
        }
        ("the address of a socket", io::ErrorKind::Unsupported) => {
            "choose a path of at most 107 bytes, or mount /proc, which leads to longer ones"
        }
        (_, io::ErrorKind::Unsupported) => "mount /proc, which this is done through",
        _ => UNKNOWN,
    }
}

/// That memory would be longer than a file may be.
pub(super) fn too_large(len: u64, allowed: u64) -> String {
    match allowed < i64::MAX as u64 {
        true => format!(
            "a buffer or pool of {len} bytes exceeds RLIMIT_FSIZE ({allowed} bytes): make a \
             smaller one, or raise the limit"
        ),
        false => format!(
            "a buffer or pool of {len} bytes is longer than any file, which has at most {allowed} \
             bytes: make a smaller one"
        ),
    }
}

/// How two programs come to the same value of `what`.
pub(super) fn agree(what: &str) -> &'static str {
    match what {
        "schema" => "give `Connect` and the builder of the channel the same `schema`",
        _ => "build both with the same version of this crate",
    }
}

/// What the end of a port means for a call.
pub(super) fn after_end(is_posted: bool) -> &'static str {
    match is_posted {
        true => "the call may have been carried out; make a new channel to call again",
        false => "the request was not posted, so nothing was done; make a new channel to call",
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

/// Stands for a call of the kernel where there was no runtime to make it on.
pub(crate) const NO_RUNTIME: &str = "tokio::runtime::Handle::try_current";
const UNKNOWN: &str = "the source of this error says why";
