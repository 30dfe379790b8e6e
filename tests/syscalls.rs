//! Which system calls are made, and which are not: seen by strace(1), where it is installed and may
//! be used.

mod common;

use common::limits::allow_more_descriptors;
use common::messages::Rng;
use common::region::{self, Region};
use common::role::{command, play, skip};
use common::{receive, receive_end, wait_until, wait_until_asleep, wanted};
use messageport::{
    Canceller, CloseReason, EventLoop, MessageChannel, MessagePort, PortSet, Worker, parent_port,
};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeValLike;
use nix::unistd::gettid;
use std::collections::HashSet;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, mpsc};
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

/// All system calls of a role and of the processes that it starts, except those that give up the
/// processor.
fn calls(test: &str, role: &str, count: u64) -> u64 {
    let text = trace(test, role, count, &["-c", "-e", "trace=!sched_yield"]);
    let total = text.lines().find(|line| line.ends_with("total")).expect("a total");
    // Share, seconds, microseconds per call, calls.
    let calls = total.split_whitespace().nth(3).and_then(|word| word.parse().ok());
    calls.unwrap_or_else(|| panic!("no number of calls in {text}"))
}

/// Counts twice, and compares.
///
/// Both counts have what a process does once, such as the 21 calls by which std counts the
/// processors when an end waits for the first time. Whether it has to wait is chance: it may be in
/// one count and not in the other, for either process. One call for each window of messages would
/// be more than what is let through here.
///
/// An end asks the kernel whether its peer is alive: ten times a second while it looks and finds
/// nothing, and twenty times a second while it posts. So a busy machine, on which the messages take
/// long, sees some calls more, by the clock and not by the message.
fn assert_no_call_per_message(test: &str, role: &str) {
    if !can_trace() {
        return;
    }
    assert_least_count(|| {
        let few = calls(test, role, FEW);
        let start = Instant::now();
        let many = calls(test, role, MANY);
        let by_the_clock = calls_by_the_clock(start);
        let more = many.saturating_sub(few);
        let text = format!(
            "{few} calls for {FEW} messages, {many} for {MANY}, {by_the_clock} by the clock"
        );
        (more < (MANY - FEW) / 100 + by_the_clock, text)
    });
}

/// Each of two processes asks ten times a second at most as a receiver, and twenty times as a
/// sender.
fn calls_by_the_clock(start: Instant) -> u64 {
    2 * (10 + 20) * start.elapsed().as_millis() as u64 / 1000
}

/// Fails if the count is too high each time. Another process that takes the processor at the wrong
/// moment only adds calls, and a call too many in the code is there each time.
#[track_caller]
fn assert_least_count(mut count: impl FnMut() -> (bool, String)) {
    let mut texts = Vec::new();
    for _ in 0..5 {
        let (is_right, text) = count();
        if is_right {
            return;
        }
        texts.push(text);
    }
    panic!("{texts:#?}");
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

/// A sender that is not woken looks again after a slice of time, so the wakes themselves are what
/// has to be looked for: futex calls that woke one thread, of the kind that works across processes.
fn assert_wakes(test: &str, role: &str) {
    if !can_trace() {
        return;
    }
    let text = trace(test, role, 0, &["-e", "trace=futex"]);
    // A call is in two lines if another thread's call is printed in between: that of the woken one.
    let (mut waking, mut woken) = (HashSet::new(), 0);
    for line in text.lines() {
        let thread = line.split(' ').next();
        let is_wake = waking.remove(&thread) || line.contains("FUTEX_WAKE, 1");
        if is_wake && line.ends_with("<unfinished ...>") {
            waking.insert(thread);
        }
        woken += u32::from(is_wake && line.ends_with("= 1"));
    }
    assert!(woken > 0, "no thread was woken:\n{text}");
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

// Sleeping.

/// How many wake-ups are counted, and from how many others they are told apart.
const WAKES: u64 = 1_000;
const FEW_WAKES: u64 = 100;

/// Posts a message each time that the child's receiver has announced its sleep: each is a wake-up.
fn wake_each_time(test: &str) {
    let worker = Worker::spawn(command(test, "sleeps")).expect("a worker");
    let (port, mut child) = worker.into_parts();
    let region = Region::of(&port);
    let flag = region.half_word(region::message_sleeper(0));
    let count = wanted(COUNT, 0);
    for number in 0..count {
        wait_until("the receiver sleeps, or is about to", || flag.load(SeqCst) != 0);
        port.post_message(&number).expect("room");
    }
    wait_until("the last one is taken", || port.backlog().messages == 0);
    // A receiver that looks by itself takes its flag back, now and then just before a post.
    let wakes = port.stats().sent.wakes;
    assert!(wakes <= count && wakes >= count / 10 * 9, "{wakes} wake-ups for {count} messages");
    drop(port);
    assert!(child.wait().expect("a child").success());
}

/// At most one system call on each side beyond the one that slept: who wakes makes one, and who
/// sleeps drains the doorbell before it sleeps again. That is three for each wake-up, and one more
/// would make four; the limit is half-way.
///
/// A poster that loses the processor between its flag and its ring makes the receiver sleep twice.
fn assert_three_calls_per_wake(test: &str) {
    if !can_trace() {
        return;
    }
    assert_least_count(|| {
        let few = calls(test, "wakes", FEW_WAKES);
        let start = Instant::now();
        let many = calls(test, "wakes", WAKES);
        let by_the_clock = calls_by_the_clock(start);
        let rounds = WAKES - FEW_WAKES;
        let more = many.saturating_sub(few);
        assert!(many >= 2 * WAKES, "the receiver did not sleep: {many} calls for {WAKES} wake-ups");
        let text = format!(
            "{few} calls for {FEW_WAKES} wake-ups, {many} for {WAKES}, {by_the_clock} by the clock"
        );
        (more <= 3 * rounds + rounds / 2 + by_the_clock, text)
    });
}

/// The next message of the child's port is the one with this number.
fn is_number(event: &messageport::MessageEvent<'_>, number: u64) {
    assert_eq!(event.deserialize::<u64>().expect("a number"), number);
}

macro_rules! three_calls_per_wake {
    ($name:ident, $sleeps:ident) => {
        #[test]
        fn $name() {
            const TEST: &str = stringify!($name);
            fn wakes() {
                wake_each_time(TEST);
            }
            fn counts() {
                assert_three_calls_per_wake(TEST);
            }
            play(TEST, &[("counts", counts), ("wakes", wakes), ("sleeps", $sleeps)]);
        }
    };
}

fn sleeps_in_recv() {
    let port = parent_port().expect("a port to the parent");
    for (event, number) in port.iter().zip(0..) {
        is_number(&event, number);
    }
}

three_calls_per_wake!(a_recv_that_sleeps_costs_one_call_more_on_each_side, sleeps_in_recv);

fn sleeps_in_a_loop() {
    let port = parent_port().expect("a port to the parent");
    let expected = std::cell::Cell::new(0);
    port.on_message(move |event| {
        is_number(event.message().expect("a message"), expected.get());
        expected.set(expected.get() + 1);
    });
    port.on_listener_failure(|_, _| std::process::abort());
    let mut event_loop = EventLoop::new().expect("a loop");
    event_loop.add(port).expect("room for a port");
    event_loop.run().expect("the loop waits");
}

three_calls_per_wake!(a_loop_that_sleeps_costs_one_call_more_on_each_side, sleeps_in_a_loop);

fn sleeps_in_a_set() {
    let mut set = PortSet::new().expect("a set");
    set.add(parent_port().expect("a port to the parent")).expect("room for a port");
    for number in 0.. {
        match set.recv().expect("the set waits").1 {
            Ok(event) => is_number(&event, number),
            Err(_) => return,
        }
    }
}

three_calls_per_wake!(a_set_that_sleeps_costs_one_call_more_on_each_side, sleeps_in_a_set);

#[cfg(feature = "tokio")]
fn sleeps_in_a_task() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let port = parent_port().expect("a port to the parent");
        let mut port = port.into_async().expect("a reactor");
        for number in 0.. {
            match port.recv().await {
                Ok(message) => assert_eq!(message.deserialize::<u64>().expect("a number"), number),
                Err(_) => return,
            }
        }
    });
}

#[cfg(feature = "tokio")]
three_calls_per_wake!(a_task_that_sleeps_costs_one_call_more_on_each_side, sleeps_in_a_task);

/// Processor time, in microseconds, and how often this process gave up the processor by itself.
fn spent() -> (i64, i64) {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process knows what it has used");
    let time = usage.user_time() + usage.system_time();
    (time.num_microseconds(), usage.voluntary_context_switches())
}

/// Fails unless `sleep`, which is to take a while, takes next to nothing of the processor.
#[track_caller]
fn assert_costs_nothing(mut sleep: impl FnMut()) {
    assert_least_count(|| {
        let (time, switches) = spent();
        sleep();
        let (later, more) = spent();
        let (time, switches) = (later - time, more - switches);
        // A part of what it would be if it looked without sleeping, and some for the watchdog.
        let is_little = time < NAP.as_micros() as i64 / 20 && switches < 20;
        (is_little, format!("{time} us of the processor, {switches} times awake"))
    });
}

const NAP: Duration = Duration::from_millis(500);

/// As many as a process may have, up to a thousand: a pair takes five descriptors.
fn idle_ports() -> (Vec<MessagePort>, Vec<MessagePort>) {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most.min(8192), most).expect("up to the hard limit");
    let count = 1_000.min(most.min(8192) / 6);
    let pairs = (0..count).map(|_| MessageChannel::new().expect("a channel"));
    pairs.map(|MessageChannel { port1, port2 }| (port1, port2)).unzip()
}

#[test]
fn a_loop_whose_message_waits_for_descriptors_sleeps_meanwhile() {
    const TEST: &str = "a_loop_whose_message_waits_for_descriptors_sleeps_meanwhile";
    fn waits() {
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
        let has_arrived = Arc::new(AtomicBool::new(false));
        let flag = has_arrived.clone();
        port2.on_message(move |_| flag.store(true, SeqCst));
        let mut event_loop = EventLoop::new().expect("a loop");
        event_loop.add(port2).expect("a port");
        let file = fs::File::open("/dev/null").expect("a device");
        port1.post_text_with("with a descriptor", [file.into()]).expect("room");
        allow_more_descriptors(0);
        while !has_arrived.load(SeqCst) {
            event_loop.poll_once(Duration::from_secs(10)).expect("a turn");
        }
    }
    fn counts() {
        if !can_trace() {
            return;
        }
        let text = trace(TEST, "waits", 0, &["-e", "trace=epoll_wait,epoll_pwait,epoll_pwait2"]);
        let turns = text.lines().filter(|line| line.contains("epoll_")).count();
        // A tenth of a second in steps of 10 ms at least, however slow the machine is.
        assert!((1..40).contains(&turns), "{turns} turns of the loop");
    }
    play(TEST, &[("counts", counts), ("waits", waits)]);
}

#[test]
fn a_thousand_idle_ports_take_no_time_of_the_processor() {
    const TEST: &str = "a_thousand_idle_ports_take_no_time_of_the_processor";
    fn idles() {
        let (near, far) = idle_ports();
        assert_costs_nothing(|| drop(near[0].recv_timeout(NAP)));

        let mut set = PortSet::new().expect("a set");
        near.into_iter().for_each(|port| _ = set.add(port).expect("room for a port"));
        assert!(set.try_recv().expect("the set waits").is_none());
        assert_costs_nothing(|| assert!(set.recv_timeout(NAP).expect("a set").is_none()));
        let last = far.last().expect("a port");
        last.post_text("awake").expect("room");
        assert!(set.try_recv().expect("the set waits").is_some());
        drop(set);

        let mut event_loop = EventLoop::new().expect("a loop");
        let (near, far) = idle_ports();
        for (port, number) in near.into_iter().zip(0..) {
            // Some are not started, and have a message that waits.
            if number % 10 == 0 {
                far[number].post_text("early").expect("room");
            } else {
                port.start();
            }
            event_loop.add(port).expect("room for a port");
        }
        event_loop.run_until_idle().expect("the loop waits");
        assert_costs_nothing(|| {
            assert!(!event_loop.poll_once(NAP).expect("the loop waits"));
        });
    }
    play(TEST, &[("idles", idles)]);
}
