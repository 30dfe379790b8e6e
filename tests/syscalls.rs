//! Which system calls are made, and which are not: seen by strace(1), where it is installed and may
//! be used.

mod common;

use common::messages::Rng;
use common::region::{self, Region};
use common::role::{command, play, skip};
use common::{receive, receive_end, wait_until, wait_until_asleep, wanted};
use messageport::{Canceller, CloseReason, MessageChannel, MessagePort, Worker, parent_port};
use nix::unistd::gettid;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

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

/// What strace says about a role and the processes that it starts.
fn trace(test: &str, role: &str, count: u64, options: &[&str]) -> String {
    let inner = command(test, role);
    let summary = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut traced = Command::new("strace");
    traced.args(options).args(["-f", "-o"]).arg(summary.path());
    traced.arg(inner.get_program()).args(inner.get_args()).env(COUNT, count.to_string());
    for (name, value) in inner.get_envs() {
        traced.env(name, value.expect("only set, never removed"));
    }
    assert!(traced.status().expect("strace").success());
    fs::read_to_string(summary.path()).expect("a summary")
}

/// All system calls of a role and of the processes that it starts.
fn calls(test: &str, role: &str, count: u64) -> u64 {
    let text = trace(test, role, count, &["-c"]);
    let total = text.lines().find(|line| line.ends_with("total")).expect("a total");
    // Share, seconds, microseconds per call, calls.
    let calls = total.split_whitespace().nth(3).and_then(|word| word.parse().ok());
    calls.unwrap_or_else(|| panic!("no number of calls in {text}"))
}

/// Counts twice, and compares.
///
/// An end that looks and finds nothing asks the kernel ten times a second whether its peer is
/// alive. So a busy machine, on which the messages take long, sees some calls more, by the clock
/// and not by the message.
fn assert_no_call_per_message(test: &str, role: &str) {
    if !can_trace() {
        return;
    }
    let few = calls(test, role, FEW);
    let start = Instant::now();
    let many = calls(test, role, MANY);
    let by_the_clock = 2 * (start.elapsed().as_millis() / 100) as u64;
    let more = many.saturating_sub(few);
    assert!(
        more < (MANY - FEW) / 1000 + by_the_clock,
        "{few} calls for {FEW} messages, {many} for {MANY}, {by_the_clock} by the clock"
    );
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

/// Posts when there is no room, in a thread of its own, and calls `end_wait` once that sleeps. Many
/// times, as on a busy machine a slice of time may end just before the wake comes.
fn wait_for_room(end_wait: fn(&mut Option<MessagePort>, &Canceller)) {
    for _ in 0..100 {
        let builder = MessageChannel::builder().capacity(4096).bounded();
        let MessageChannel { port1, port2 } = builder.build().expect("a channel");
        let region = Region::of(&port1);
        while port1.post_bytes(&[1; 500]).is_ok() {}
        let canceller = port1.canceller().expect("a canceller");
        let (send, receive) = mpsc::channel();
        let sender = thread::spawn(move || {
            send.send(gettid()).expect("the test waits for it");
            port1.post_bytes_timeout(&[2; 500], Duration::MAX).is_ok()
        });
        let id = receive.recv().expect("a thread has an id");
        let flag = region.half_word(region::room_sleeper(0));
        wait_until("the sender has raised its flag", || flag.load(SeqCst) != 0);
        wait_until_asleep(id);
        let mut port2 = Some(port2);
        end_wait(&mut port2, &canceller);
        sender.join().expect("no panic");
    }
}

/// A sender that nobody wakes looks again after a slice of time, so the wakes themselves are what
/// has to be looked for: futex calls that woke one thread, of the kind that works across processes.
fn assert_wakes(test: &str, role: &str) {
    if !can_trace() {
        return;
    }
    let text = trace(test, role, 0, &["-e", "trace=futex"]);
    let wakes = |line: &&str| line.contains("FUTEX_WAKE, 1") && line.ends_with("= 1");
    let woken = text.lines().filter(wakes).count();
    assert!(woken > 0, "nobody was woken:\n{text}");
}

#[test]
fn f50_a_release_wakes_the_sender_that_waits_for_room() {
    const TEST: &str = "f50_a_release_wakes_the_sender_that_waits_for_room";
    fn releases() {
        wait_for_room(|port, _| {
            let port = port.as_ref().expect("it is there");
            while port.try_recv().is_ok_and(|event| event.is_some()) {}
        });
    }
    fn counts() {
        assert_wakes(TEST, "releases");
    }
    play(TEST, &[("counts", counts), ("releases", releases)]);
}

#[test]
fn f55_a_reader_that_leaves_wakes_the_sender_that_waits_for_room() {
    const TEST: &str = "f55_a_reader_that_leaves_wakes_the_sender_that_waits_for_room";
    fn leaves() {
        wait_for_room(|port, _| drop(port.take().expect("it is there").split().1));
    }
    fn counts() {
        assert_wakes(TEST, "leaves");
    }
    play(TEST, &[("counts", counts), ("leaves", leaves)]);
}

#[test]
fn a_cancel_wakes_the_sender_that_waits_for_room() {
    const TEST: &str = "a_cancel_wakes_the_sender_that_waits_for_room";
    fn cancels() {
        wait_for_room(|_, canceller| canceller.cancel());
    }
    fn counts() {
        assert_wakes(TEST, "cancels");
    }
    play(TEST, &[("counts", counts), ("cancels", cancels)]);
}

/// The receiver's question after a hang-up takes long here, so that a message and the end may come
/// between its look at the lane and the answer.
#[test]
fn f21_what_is_committed_while_the_receiver_asks_for_the_hang_up_is_delivered() {
    const TEST: &str = "f21_what_is_committed_while_the_receiver_asks_for_the_hang_up_is_delivered";
    fn receives() {
        for round in 0..30u64 {
            let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
            let poster = thread::spawn(move || {
                Rng(round).dawdle(Duration::from_millis(4));
                port1.post_message(&round).expect("room");
            });
            assert_eq!(receive(&port2).deserialize::<u64>().expect("a number"), round);
            assert_eq!(receive_end(&port2), CloseReason::PeerDropped);
            poster.join().expect("no panic");
        }
    }
    fn delays() {
        if can_trace() {
            let slowly = ["-e", "trace=recvfrom", "-e", "inject=recvfrom:delay_enter=3000"];
            trace(TEST, "receives", 0, &slowly);
        }
    }
    play(TEST, &[("delays", delays), ("receives", receives)]);
}
