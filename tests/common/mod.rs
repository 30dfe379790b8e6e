//! What the tests across threads and processes share. Each test program uses a part of it.
#![allow(dead_code)]

pub mod board;
pub mod census;
pub mod ends;
pub mod limits;
pub mod members;
pub mod messages;
pub mod parts;
#[cfg(any(feature = "tokio", feature = "async-io"))]
pub mod reactors;
pub mod region;
pub mod role;
pub mod trusted;
pub mod watchdog;

use messageport::{CloseReason, MessageEvent, MessagePort, PostError, RecvError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::env;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// After this long without progress something hangs. No step of a test takes a hundredth of it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A path in /proc. `.ci/places noproc` hides /proc from the library, and says where the tests find
/// another one.
pub fn proc(rest: impl Display) -> PathBuf {
    let place = env::var_os("MESSAGEPORT_TEST_PROC").unwrap_or_else(|| "/proc".into());
    Path::new(&place).join(rest.to_string())
}

/// The program of this test.
pub fn program() -> PathBuf {
    fs::read_link(proc("self/exe")).expect("a test knows its program")
}

/// Waits until `condition` holds, and fails when it never does.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        thread::yield_now();
    }
}

/// Waits until the kernel has told the port that its peer is gone.
///
/// The kernel tells when the last descriptor of the other end is closed. A child that another test
/// starts at this moment has a copy of every descriptor until it runs its own program.
#[track_caller]
pub fn wait_until_closed(port: &MessagePort) {
    let deadline = Instant::now() + DEADLINE;
    while !port.is_closed() {
        assert!(Instant::now() < deadline, "waited too long for the end\n{port:#?}");
        thread::yield_now();
    }
}

/// Waits until a thread of this process sleeps in the kernel.
pub fn wait_until_asleep(thread: Pid) {
    let path = proc(format_args!("self/task/{thread}/stat"));
    wait_until("a thread sleeps", || {
        let stat = fs::read_to_string(&path).expect("the thread lives");
        let (_, after_name) = stat.rsplit_once(')').expect("the name is in parentheses");
        after_name.starts_with(" S")
    });
}

/// The next message; fails, and shows the port, when none comes.
pub fn receive(port: &MessagePort) -> MessageEvent<'_> {
    port.recv_timeout(DEADLINE).unwrap_or_else(|error| panic!("{error}\n{port:#?}"))
}

/// Discards the next message; fails, and shows the port, when there is none.
///
/// The call has no room for the message's descriptors until some of earlier messages are closed.
/// Another thread closes them.
pub fn discard(port: &MessagePort) {
    wait_until("the next message can be discarded", || match port.discard_next() {
        Ok(is_there) => {
            assert!(is_there, "no message\n{port:#?}");
            true
        }
        Err(RecvError::OutOfDescriptors { .. }) => false,
        Err(error) => panic!("{error}\n{port:#?}"),
    });
}

/// The next message's text.
pub fn receive_text(port: &MessagePort) -> String {
    receive(port).text().expect("a text").to_string()
}

/// Receives the end, which is the same however often it is asked for.
pub fn receive_end(port: &MessagePort) -> CloseReason {
    let reason = end_of(port.recv_timeout(DEADLINE));
    assert_eq!(end_of(port.recv()), reason);
    assert_eq!(end_of(port.recv_timeout(Duration::ZERO)), reason);
    assert!(matches!(port.try_recv(), Err(RecvError::Closed { reason: again }) if again == reason));
    assert_eq!(port.iter().count(), 0);
    reason
}

fn end_of(received: Result<MessageEvent<'_>, RecvError>) -> CloseReason {
    match received {
        Err(RecvError::Closed { reason }) => reason,
        other => panic!("expected the end: {other:?}"),
    }
}

/// Why a post failed for good.
pub fn refusal(posted: Result<(), PostError>) -> CloseReason {
    match posted {
        Err(PostError::Closed { reason }) => reason,
        other => panic!("expected a closed port: {other:?}"),
    }
}

/// Kills a process for good.
pub fn kill_process(id: u32) {
    signal(id, Signal::SIGKILL);
}

pub fn signal(id: u32, signal: Signal) {
    kill(Pid::from_raw(id as i32), signal).expect("the process is not reaped yet");
}

/// Ends this process as the kernel does on `kill -9`: nothing more runs in it.
pub fn die() -> ! {
    kill_process(std::process::id());
    unreachable!("this process is dead")
}

/// A number from the environment, by which a longer run is asked for.
pub fn wanted(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
        Err(_) => default,
    }
}
