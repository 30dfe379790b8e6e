//! What to do about a refusal: it depends on the call, on the error and on the path.

use super::*;

#[test]
fn what_the_kernel_refuses_is_named_with_a_remedy() {
    let refused = |call, source| ListenError::Io(SystemError { call, source });
    let many = io::Error::from_raw_os_error(libc::ETOOMANYREFS);
    check(refused("sendmsg", many), ["sendmsg (ETOOMANYREFS)", "in flight", "raise RLIMIT_NOFILE"]);
    let no_proc = || io::Error::new(io::ErrorKind::Unsupported, "/proc is not mounted here");
    check(refused("fchmodat", no_proc()), ["fchmodat failed", "(Unsupported)", "mount /proc"]);
    let os = io::Error::from_raw_os_error;
    for (call, errno, parts) in [
        ("clone3", libc::EAGAIN, ["clone3 (EAGAIN)", "too many processes", "raise RLIMIT_NPROC"]),
        ("setrlimit", libc::EPERM, ["setrlimit (EPERM)", "the hard limit", "choose a lower one"]),
        ("seccomp", libc::EBUSY, ["seccomp (EBUSY)", "another thread", "before others start"]),
        ("fcntl(F_ADD_SEALS)", libc::EBUSY, ["(EBUSY)", "can write to it", "try again later"]),
        (error::OPEN_LOCK, libc::EISDIR, ["ends in .lock (EISDIR)", "no lock", "remove it"]),
        (error::OPEN_LOCK, libc::EEXIST, ["ends in .lock (EEXIST)", "no lock", "remove it"]),
        (error::OPEN_LOCK, libc::ELOOP, ["ends in .lock (ELOOP)", "no lock", "remove it"]),
        (error::OPEN_LOCK, libc::ENXIO, ["ends in .lock (ENXIO)", "no lock", "remove it"]),
        ("bind", libc::EDQUOT, ["bind (EDQUOT)", "is full", "make room"]),
        ("a lock", libc::EDEADLK, ["a lock (EDEADLK)", "inside a `Serialize`", "make it when"]),
    ] {
        check(refused(call, os(errno)), parts);
    }
    let failed = |call, kind: io::ErrorKind| refused(call, kind.into());
    check(
        failed("malloc", io::ErrorKind::OutOfMemory),
        ["malloc failed", "(OutOfMemory)", "memory is short; free some"],
    );
    check(
        failed("ftruncate", io::ErrorKind::FileTooLarge),
        ["ftruncate failed", "(FileTooLarge)", "RLIMIT_FSIZE is too low for it; raise"],
    );
    check(
        failed("bind", io::ErrorKind::IsADirectory),
        ["bind failed", "the path is one of a directory", "a new file in it"],
    );
}

#[test]
fn what_keeps_a_program_from_starting_is_named_with_a_remedy() {
    let failed = |source| SpawnError::Program { program: PATH.into(), source };
    for (errno, parts) in [
        (libc::ENOENT, [PATH, "(ENOENT)", "see that the program is there"]),
        (libc::ENOTDIR, [PATH, "(ENOTDIR)", "see that the program is there"]),
        (libc::ENOEXEC, [PATH, "(ENOEXEC)", "no program of this machine; start one"]),
        (libc::E2BIG, [PATH, "(E2BIG)", "too long; pass less"]),
        (libc::EAGAIN, [PATH, "too many processes", "raise RLIMIT_NPROC"]),
    ] {
        check(failed(io::Error::from_raw_os_error(errno)), parts);
    }
    let zero = failed(io::ErrorKind::InvalidInput.into());
    check(zero, ["the start of the program failed", "a zero byte is in", "leave it out"]);
    let nameless = SpawnError::Program { program: "".into(), source: denial() };
    check(nameless, ["the path \"\" is empty", "so no file has it", "to `Command::new`"]);
}

#[test]
fn a_path_that_no_file_has_is_named_with_its_flaw_and_what_to_give() {
    let flaws = [("", "the path \"\" is empty"), ("a\0b", "the path \"a\\0b\" has a zero byte")];
    let invalid = |call| SystemError { call, source: io::ErrorKind::InvalidInput.into() };
    for (path, flaw) in flaws {
        let error = ListenError::Io(invalid("bind")).at(path.as_ref());
        check(error, [flaw, "make its socket", "or a name by `Listener::bind`"]);
        let error = ConnectError::Io(invalid("connect")).at(path.as_ref());
        check(error, [flaw, "the one of the listener's socket", "or its name by `connect`"]);
        let error = SpawnError::Io(invalid("open")).at(path.as_ref());
        check(error, [flaw, "so no file has it", "give the path of a file"]);
    }
    let name = "a/b.lock".to_owned();
    check(ListenError::BadName { name }, ["\"a/b.lock\"", "reserved", "ends in another way"]);
}

#[test]
fn a_message_with_a_frame_says_how_it_is_taken() {
    check(
        MessageError::NothingLeft { kind: error::FRAME_INSTEAD },
        ["has no pooled buffer, but a frame", "`BufferPool::for_untrusted`", "by `take_frame`"],
    );
}
