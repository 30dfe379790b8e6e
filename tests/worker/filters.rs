//! Workers that may make only some system calls.

use crate::common::role::{command, play};
use crate::common::{DEADLINE, receive, receive_end};
use crate::{answers, parent};
use messageport::{CloseReason, SyscallFilter, Worker, WorkerEnd};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;

/// Echoes messages; a text that begins with "do" is done.
fn serves() {
    let port = parent();
    for event in &port {
        if let Ok(text) = event.text()
            && let Some(deed) = text.strip_prefix("do ")
        {
            act(deed);
        }
        port.post_bytes_timeout(event.bytes(), DEADLINE).expect("room");
    }
}

fn act(deed: &str) {
    match deed {
        "read" => assert!(File::open("/dev/null").is_ok()),
        "write" => drop(File::create("/nonexistent/file")),
        "mkdir" => drop(fs::create_dir("/nonexistent/directory")),
        "exec" => panic!("{}", Command::new("true").exec()),
        "thread" => std::thread::spawn(|| ()).join().expect("no panic"),
        "filter" => SyscallFilter::port().apply().expect("a filter"),
        "fork" => drop(fork()),
        "clock" => read_clock(),
        "backtrace" => {
            // What the hook of a panic prints if RUST_BACKTRACE is set.
            println!("{}", std::backtrace::Backtrace::force_capture());
        }
        "clone3" => assert_eq!(clone3().raw_os_error(), Some(libc::ENOSYS)),
        "refused" => {
            for error in [
                fs::create_dir("/nonexistent/directory").expect_err("a filter"),
                File::create("/nonexistent/file").expect_err("a filter"),
                fork().expect_err("a filter"),
            ] {
                assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
            }
        }
        "abort" => std::process::abort(),
        "signal" => signal(),
        "own" => own(),
        "limit" => limit(),
        "type" => type_in(),
        "outlive" => outlive(),
        "datagram" => drop(UnixDatagram::pair()),
        "wait" => std::thread::sleep(std::time::Duration::from_millis(5)),
        other => panic!("no deed {other}"),
    }
}

/// As the vdso does where it cannot read the clock itself.
#[allow(unsafe_code)]
fn read_clock() {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes the time there.
    let answer =
        unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(answer, 0);
}

/// Whether the first process of all could be sent a signal.
fn signal() {
    // SAFETY: the call takes integers; the signal 0 is none.
    unsafe { libc::syscall(libc::SYS_tgkill, 1, 1, 0) };
}

/// Has the kernel send signals to another process for this one.
fn own() {
    let (socket, _other) = UnixStream::pair().expect("sockets");
    // SAFETY: the call takes integers.
    unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETOWN, 1) };
}

/// Reads a limit of another process.
fn limit() {
    let mut found = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes the limit there.
    unsafe { libc::prlimit(1, libc::RLIMIT_CPU, std::ptr::null(), &raw mut found) };
}

/// Types into the terminal, if there is one.
fn type_in() {
    let letter = b'x';
    // SAFETY: the kernel reads one byte.
    unsafe { libc::ioctl(0, libc::TIOCSTI, &raw const letter) };
}

/// Lives on when the parent dies.
fn outlive() {
    // SAFETY: the call takes integers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, 0) };
}

/// Starts a process that ends at once.
fn fork() -> io::Result<()> {
    // SAFETY: the child makes one call that is async-signal-safe.
    match unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) } {
        // SAFETY: it ends this child.
        0 => unsafe { libc::_exit(0) },
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The error of clone3, which has arguments that every kernel refuses.
fn clone3() -> io::Error {
    // SAFETY: the kernel reads nothing of a structure of no bytes.
    let answer = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<u8>(), 0) };
    assert_eq!(answer, -1);
    io::Error::last_os_error()
}

fn start(test: &str) -> Worker {
    let filter = SyscallFilter::program();
    let worker = Worker::builder(command(test, "serves")).filter(&filter).spawn();
    worker.expect("a worker")
}

/// Whether the kernel kills the worker at what it is told to do last.
fn is_stopped(worker: Worker, deeds: &[&str]) -> bool {
    for deed in deeds {
        worker.port().post_text(&format!("do {deed}")).expect("room");
    }
    for deed in &deeds[..deeds.len() - 1] {
        assert_eq!(receive(worker.port()).bytes(), format!("do {deed}").as_bytes());
    }
    assert_eq!(receive_end(worker.port()), CloseReason::PeerDied);
    let end = worker.shutdown(DEADLINE).expect("a child");
    matches!(end, WorkerEnd::Exited(status) if status.signal() == Some(libc::SIGSYS))
}

#[test]
fn a_worker_under_a_filter_does_all_that_a_worker_does() {
    const TEST: &str = "filters::a_worker_under_a_filter_does_all_that_a_worker_does";
    fn asks() {
        for filter_twice in [false, true] {
            let worker = start(TEST);
            if filter_twice {
                answers(worker.port(), "do filter");
            }
            for deed in ["read", "clock", "clone3", "thread", "wait", "backtrace"] {
                answers(worker.port(), &format!("do {deed}"));
            }
            for len in [0, 8, 3000, 1 << 20] {
                worker.port().post_bytes(&vec![7; len]).expect("room");
                assert_eq!(receive(worker.port()).bytes().len(), len);
            }
            let list = vec![File::open("/dev/null").expect("a file").into()];
            worker.port().post_text_with("with", list).expect("room");
            assert_eq!(receive(worker.port()).bytes(), b"with");
            worker.port().close();
            let end = worker.shutdown(DEADLINE).expect("a child");
            assert!(matches!(end, WorkerEnd::Exited(status) if status.success()), "{end:?}");
        }
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

#[test]
fn a_worker_that_makes_another_call_is_killed() {
    const TEST: &str = "filters::a_worker_that_makes_another_call_is_killed";
    fn asks() {
        assert!(is_stopped(start(TEST), &["mkdir"]));
        assert!(is_stopped(start(TEST), &["read", "write"]));
        assert!(is_stopped(start(TEST), &["thread", "fork"]));
        // The filter of the worker itself allows less.
        assert!(is_stopped(start(TEST), &["filter", "exec"]));
        let bare = || Worker::spawn(command(TEST, "serves")).expect("a worker");
        assert!(is_stopped(bare(), &["filter", "thread", "mkdir"]));
        // Without a filter, and with one that allows the call, it is none of the kernel's business.
        let worker = bare();
        answers(worker.port(), "do mkdir");
        drop(worker);
        #[cfg(target_arch = "x86_64")]
        {
            let filter = SyscallFilter::program().allow(libc::SYS_mkdir);
            let builder = Worker::builder(command(TEST, "serves")).filter(&filter);
            let worker = builder.spawn().expect("a worker");
            answers(worker.port(), "do mkdir");
        }
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

/// What harms other processes, of calls that are needed otherwise.
#[test]
fn a_worker_under_a_filter_reaches_no_other_process() {
    const TEST: &str = "filters::a_worker_under_a_filter_reaches_no_other_process";
    fn asks() {
        for deed in ["signal", "own", "limit", "type", "outlive", "datagram"] {
            assert!(is_stopped(start(TEST), &["wait", deed]), "{deed}");
            assert!(is_stopped(start(TEST), &["filter", deed]), "{deed}");
        }
        for deeds in [&["do abort"][..], &["do filter", "do abort"]] {
            let worker = start(TEST);
            for deed in deeds {
                worker.port().post_text(deed).expect("room");
            }
            let end = worker.split().1.shutdown(DEADLINE).expect("a child");
            assert_eq!(end.status().signal(), Some(libc::SIGABRT), "{deeds:?}");
        }
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

#[test]
fn a_refused_call_fails_where_the_filter_says_so() {
    const TEST: &str = "filters::a_refused_call_fails_where_the_filter_says_so";
    fn filtered(filter: SyscallFilter) -> Worker {
        let worker = Worker::builder(command(TEST, "serves")).filter(&filter).spawn();
        worker.expect("a worker")
    }
    fn asks() {
        let worker = filtered(SyscallFilter::program().refuse_with_eperm());
        for deed in ["read", "refused", "clone3", "thread", "write", "fork", "mkdir"] {
            answers(worker.port(), &format!("do {deed}"));
        }
        // Another filter that kills is in force beside it.
        assert!(is_stopped(worker, &["filter", "mkdir"]));
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

#[test]
fn a_call_that_the_program_allows_has_all_its_arguments() {
    const TEST: &str = "filters::a_call_that_the_program_allows_has_all_its_arguments";
    fn asks() {
        let allowed = [libc::SYS_openat, libc::SYS_clone];
        let filter = allowed.into_iter().fold(SyscallFilter::program(), SyscallFilter::allow);
        let builder = Worker::builder(command(TEST, "serves")).filter(&filter);
        let worker = builder.spawn().expect("a worker");
        for deed in ["write", "fork", "thread"] {
            answers(worker.port(), &format!("do {deed}"));
        }
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}
