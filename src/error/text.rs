//! Texts that several errors share. None says what the source of its error says: a chain of errors
//! is printed without repetition.

use nix::errno::Errno;
use std::io;
use std::path::Path;

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
            let call_as_noun = if call == START { "the start of the program" } else { call };
            let remedy = remedy_without_errno(call, source);
            format!("{call_as_noun} failed ({:?}): {remedy}", source.kind())
        }
    }
}

/// That a file could not be used for a name.
pub(super) fn file(path: &Path, call: &str, source: &io::Error) -> String {
    match flaw_of_path(path) {
        Some(flaw) => format!("the path {path:?} {flaw}, so no file has it: {}", path_for(call)),
        None => format!("at {}: {}", path.display(), refused(call, source)),
    }
}

/// Why no file can have a path, whatever there is.
pub(crate) fn flaw_of_path(path: &Path) -> Option<&'static str> {
    let bytes = path.as_os_str().as_encoded_bytes();
    match bytes.is_empty() {
        true => Some("is empty"),
        false => bytes.contains(&0).then_some("has a zero byte"),
    }
}

/// Which path a call expects.
fn path_for(call: &str) -> &'static str {
    match call {
        "bind" => {
            "give the one where the listener shall make its socket, or a name by `Listener::bind`"
        }
        "connect" => "give the one of the listener's socket, or its name by `connect`",
        START => "give the path or the name of the program to `Command::new`",
        _ => "give the path of a file",
    }
}

/// That a name cannot be one. It may be the path of a listener.
pub(super) fn bad_name(name: &str, flaw: Option<&str>) -> String {
    let flaw = flaw.unwrap_or("it was refused");
    let remedy = match name.ends_with(".lock") {
        true => "give one that ends in another way",
        false => "give another one, of 1 to 64 bytes without '/'",
    };
    format!("{name:?} is not a valid name, because {flaw}: {remedy}")
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

/// How to take what a message has, where `kind` is what it has not.
pub(super) fn taking(kind: &str) -> &'static str {
    match kind {
        FRAME_INSTEAD => "its pool is of `BufferPool::for_untrusted`; take it by `take_frame`",
        _ => "take no more of them than came with it, and each once",
    }
}

fn remedy(call: &str, errno: Errno) -> &'static str {
    match (errno, call) {
        (Errno::ENOENT | Errno::ENOTDIR, START) => {
            "see that the program is there, by its path or in PATH, and so is the directory that \
             it starts in"
        }
        (Errno::ENOEXEC, START) => "it is no program of this machine; start one, or a script by #!",
        (Errno::E2BIG, START) => "its arguments and environment are too long; pass less by them",
        (Errno::EAGAIN, START | "clone3") => {
            "there are too many processes; end some, or raise RLIMIT_NPROC or the cgroup's pids.max"
        }
        (Errno::EPERM, "setrlimit") => {
            "the value is above the hard limit of this process; choose a lower one, or start with \
             CAP_SYS_RESOURCE"
        }
        (Errno::EBUSY, "seccomp") => {
            "another thread has a filter that this one has not; apply it before others start"
        }
        (Errno::EBUSY, "fcntl(F_ADD_SEALS)") => {
            "the kernel uses a page of the memory, or a process can write to it; try again later"
        }
        (Errno::EEXIST | Errno::EISDIR | Errno::ELOOP | Errno::ENXIO, OPEN_LOCK) => {
            "that file is no lock; remove it, or choose another name"
        }
        (errno, call) => usual_remedy(call, errno),
    }
}

fn usual_remedy(call: &str, errno: Errno) -> &'static str {
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
        Errno::ENOSPC | Errno::EDQUOT => "the file system is full; make room there",
        Errno::EACCES | Errno::EPERM => {
            "see that the permissions, and any seccomp filter, allow it"
        }
        Errno::ENOSYS => "update the kernel, or allow the call in the seccomp filter",
        Errno::ENAMETOOLONG => "a socket's path has at most 107 bytes; choose a shorter one",
        Errno::ENOENT | Errno::ENOTDIR => "see that the file and its directory are there",
        Errno::EROFS => "choose a directory that can be written to",
        Errno::EADDRINUSE => "another file has that name; remove it, or choose another name",
        Errno::EDEADLK => "the call came from inside a `Serialize`; make it when that has ended",
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
        (START, io::ErrorKind::InvalidInput) => {
            "a zero byte is in its name, its arguments, environment or directory; leave it out"
        }
        (_, io::ErrorKind::OutOfMemory) => {
            "memory is short; free some, or raise the limits of this process and its cgroup"
        }
        (_, io::ErrorKind::FileTooLarge) => "RLIMIT_FSIZE is too low for it; raise the limit",
        (_, io::ErrorKind::IsADirectory) => {
            "the path is one of a directory; give another one, such as that of a new file in it"
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

/// Stands for the calls that start the program of a worker.
pub(super) const START: &str = "to start the program";
/// The call that opens the lock file of a listener.
pub(crate) const OPEN_LOCK: &str = "open of the file beside it that ends in .lock";
/// What a message has not that has a frame, as a kind of transferable.
pub(crate) const FRAME_INSTEAD: &str = "pooled buffer, but a frame";
/// Stands for a call of the kernel where there was no runtime to make it on.
pub(crate) const NO_RUNTIME: &str = "tokio::runtime::Handle::try_current";
const UNKNOWN: &str = "the source of this error says why";
