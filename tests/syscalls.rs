//! No system call per message: counted by strace(1), where it is installed and may be used.

mod common;

use common::role::{command, play, skip};
use common::{receive, wanted};
use messageport::{MessageChannel, MessagePort, Worker, parent_port};
use std::fs;
use std::process::{Command, Stdio};

/// How many messages a role shall handle.
const COUNT: &str = "MESSAGEPORT_TEST_COUNT";
const FEW: u64 = 2_000;
const MANY: u64 = 10 * FEW;
/// Messages on their way at a time. With one, a process that has lost its processor would hold up
/// the other one each time, and the test would take minutes on a busy machine.
const WINDOW: u64 = 64;

/// Whether this machine lets us trace.
fn can_trace() -> bool {
    let probe = Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let works = probe.is_ok_and(|status| status.success());
    if !works {
        skip("strace is not installed, or may not trace");
    }
    works
}

/// All system calls of a role and of the processes that it starts.
fn calls(test: &str, role: &str, count: u64) -> u64 {
    let inner = command(test, role);
    let summary = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut traced = Command::new("strace");
    traced.args(["-c", "-f", "-o"]).arg(summary.path()).arg(inner.get_program());
    traced.args(inner.get_args()).env(COUNT, count.to_string());
    for (name, value) in inner.get_envs() {
        traced.env(name, value.expect("only set, never removed"));
    }
    assert!(traced.status().expect("strace").success());
    let text = fs::read_to_string(summary.path()).expect("a summary");
    let total = text.lines().find(|line| line.ends_with("total")).expect("a total");
    // Share, seconds, microseconds per call, calls.
    let calls = total.split_whitespace().nth(3).and_then(|word| word.parse().ok());
    calls.unwrap_or_else(|| panic!("no number of calls in {text}"))
}

/// Counts twice, and compares.
fn assert_no_call_per_message(test: &str, role: &str) {
    if !can_trace() {
        return;
    }
    let [few, many] = [FEW, MANY].map(|count| calls(test, role, count));
    let more = many.saturating_sub(few);
    assert!(more < (MANY - FEW) / 1000, "{few} calls for {FEW} messages, {many} for {MANY}");
}

/// Receives without ever waiting.
fn spin(port: &MessagePort) -> u64 {
    loop {
        if let Some(event) = port.try_recv().expect("an open port") {
            return event.deserialize().expect("a number");
        }
        std::hint::spin_loop();
    }
}

#[test]
fn while_both_processes_keep_up_there_is_no_system_call_per_round_trip() {
    const TEST: &str = "while_both_processes_keep_up_there_is_no_system_call_per_round_trip";
    fn echoes() {
        let port = parent_port().expect("a port to the parent");
        for _ in 0..wanted(COUNT, 0) {
            port.post_message(&spin(&port)).expect("room");
        }
        port.post_text("done").expect("room");
    }
    fn asks() {
        let mut worker = Worker::spawn(command(TEST, "echoes")).expect("a worker");
        let port = worker.port();
        let count = wanted(COUNT, 0);
        for number in 0..count {
            port.post_message(&number).expect("room");
            if number >= WINDOW {
                assert_eq!(spin(port), number - WINDOW);
            }
        }
        for number in count - WINDOW..count {
            assert_eq!(spin(port), number);
        }
        assert_eq!(receive(port).text().expect("a text"), "done");
        assert!(worker.wait().expect("a child").success());
    }
    fn counts() {
        assert_no_call_per_message(TEST, "asks");
    }
    play(TEST, &[("counts", counts), ("asks", asks), ("echoes", echoes)]);
}

#[test]
fn a_recv_that_finds_messages_makes_no_system_call() {
    const TEST: &str = "a_recv_that_finds_messages_makes_no_system_call";
    fn receives() {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        for first in (0..wanted(COUNT, 0)).step_by(WINDOW as usize) {
            for number in first..first + WINDOW {
                port1.post_message(&number).expect("room");
            }
            for number in first..first + WINDOW {
                let event = port2.recv().expect("a message");
                assert_eq!(event.deserialize::<u64>().expect("a number"), number);
            }
        }
    }
    fn counts() {
        assert_no_call_per_message(TEST, "receives");
    }
    play(TEST, &[("counts", counts), ("receives", receives)]);
}

#[test]
fn a_spinning_try_recv_makes_no_system_call_per_look() {
    const TEST: &str = "a_spinning_try_recv_makes_no_system_call_per_look";
    fn looks() {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        for _ in 0..10 * wanted(COUNT, 0) {
            assert!(port2.try_recv().expect("an open port").is_none());
        }
        drop(port1);
    }
    fn counts() {
        // Ten looks for each of the messages counted elsewhere. Now and then, by the clock, the
        // kernel is asked whether the peer is alive.
        assert_no_call_per_message(TEST, "looks");
    }
    play(TEST, &[("counts", counts), ("looks", looks)]);
}
