//! Processes that are waited for, and killed.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::iter;
use std::process::{Child, ChildStdin, Command, Output};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Waits for the end, with a deadline, and gives `input` meanwhile.
pub fn finish(mut child: Child, input: &[u8]) -> Output {
    let (id, stdin) = (child.id(), child.stdin.take());
    let (done, end) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if end.recv_timeout(DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout) {
                kill(id);
            }
        });
        scope.spawn(move || stdin.map(|mut stdin| write(&mut stdin, input)));
        let output = child.wait_with_output().expect("it can be waited for");
        drop(done);
        output
    })
}

/// Gives a program its input; it may end without reading all of it.
pub fn write(stdin: &mut ChildStdin, bytes: &[u8]) {
    match stdin.write_all(bytes) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => panic!("standard input: {error}"),
        _ => {}
    }
}

/// Kills a worker of `parent` that was not killed before, as soon as there is one; says whether
/// there was one before `parent` ended.
pub fn kill_new_worker(parent: u32, killed: &mut Vec<u32>) -> bool {
    let mut found = None;
    await_that("there is a new worker or the parent has ended", || {
        found = workers(parent).into_iter().find(|worker| !killed.contains(worker));
        found.is_some() || !is_alive(parent)
    });
    found.inspect(|worker| kill(*worker)).map(|worker| killed.push(worker)).is_some()
}

/// `kill -9`; waits until the process has closed all it had.
pub fn kill(process: u32) {
    let mut command = Command::new("sh");
    command.args(["-c", "kill -9 \"$0\"", &process.to_string()]);
    command.output().expect("sh");
    await_that("the killed process is gone", || !is_alive(process));
}

/// The processes that `parent` started and that have not ended.
pub fn workers(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|process| parent_of(*process) == Some(parent)).collect()
}

/// Whether it has not ended; one that was not waited for has ended, too.
pub fn is_alive(process: u32) -> bool {
    parent_of(process).is_some()
}

/// The most memory that a living process has had, in bytes, and its workers each.
pub fn peak_memory(parent: u32) -> Option<u64> {
    let processes = iter::once(parent).chain(workers(parent));
    let statuses = processes.filter_map(|id| fs::read_to_string(format!("/proc/{id}/status")).ok());
    let kibibytes = statuses.filter_map(|status| {
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    });
    kibibytes.max().map(|kibibytes| kibibytes << 10)
}

/// The parent of a process that has not ended.
fn parent_of(process: u32) -> Option<u32> {
    let mut stat = Vec::new();
    File::open(format!("/proc/{process}/stat")).ok()?.read_to_end(&mut stat).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name before it, in parentheses, may hold anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X");
    fields.next()?.parse().ok().filter(|_| !has_ended)
}

/// Looks again and again, up to a deadline.
#[track_caller]
pub fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "not reached: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// No run takes nearly as long, however slow the machine.
const DEADLINE: Duration = Duration::from_secs(120);
