//! What the driver does, and what has to come of it. What moves is in `moves.rs`.

use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use messageport::{CallError, CloseReason, MessageChannel, RecvError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::driver::Driver;
use crate::gauge::Gauge;
use crate::moves;
use crate::partner::PATIENCE;
use crate::words::{Fate, Kind, answer, now, number, pattern};

/// One thing that the driver does.
pub struct Action {
    pub name: &'static str,
    /// How often, compared with the others.
    pub weight: u64,
    pub act: fn(&mut Driver, &mut Gauge),
}

/// All of them.
pub const ACTIONS: &[Action] = &[
    Action { name: "start", weight: 4, act: start },
    Action { name: "echo", weight: 100, act: echo },
    Action { name: "stream", weight: 60, act: stream },
    Action { name: "burst", weight: 10, act: burst },
    Action { name: "check", weight: 10, act: check },
    Action { name: "calls", weight: 40, act: calls },
    Action { name: "tasks", weight: 10, act: tasks },
    Action { name: "announce", weight: 20, act: announce },
    Action { name: "join or leave", weight: 3, act: join_or_leave },
    Action { name: "threads", weight: 10, act: threads },
    Action { name: "list", weight: 30, act: moves::list },
    Action { name: "frames", weight: 30, act: moves::frames },
    Action { name: "chain", weight: 20, act: moves::chain },
    Action { name: "dial", weight: 4, act: moves::dial },
    #[cfg(feature = "tokio")]
    Action { name: "task", weight: 10, act: moves::task },
    Action { name: "kill", weight: 2, act: kill_one },
    Action { name: "end", weight: 1, act: end_one },
];

fn start(driver: &mut Driver, _: &mut Gauge) {
    if driver.peers.len() < driver.most {
        driver.start();
    }
}

/// Round trips, one after the other.
fn echo(driver: &mut Driver, gauge: &mut Gauge) {
    let (at, count) = (driver.any(), driver.rng.below(50));
    for _ in 0..count {
        let message = echo_message(driver, 4096);
        let (peer, start) = (&driver.peers[at], Instant::now());
        peer.port().post_bytes(&message).expect("room for one");
        let reply = peer.next(Kind::Echo);
        gauge.echoes.saturating_record(start.elapsed().as_nanos() as u64);
        assert_eq!(reply.bytes(), message, "an echo");
        gauge.bytes += 2 * message.len() as u64;
    }
    gauge.messages += 2 * count;
}

fn echo_message(driver: &mut Driver, most: usize) -> Vec<u8> {
    let (seed, len) = (driver.rng.next(), driver.rng.len(most));
    let mut message = Kind::Echo.message(&[seed]);
    message.extend(pattern(seed, len));
    message
}

/// Messages that the partner counts and checks, without a reply.
fn stream(driver: &mut Driver, gauge: &mut Gauge) {
    let (at, count) = (driver.any(), driver.rng.below(200));
    (0..count).for_each(|_| post_of_stream(driver, at, 16 << 10, gauge));
}

/// More than the partner reads meanwhile, so that the lane grows.
fn burst(driver: &mut Driver, gauge: &mut Gauge) {
    let (at, count) = (driver.any(), driver.rng.below(64));
    (0..count).for_each(|_| post_of_stream(driver, at, 1 << 20, gauge));
    check_one(driver, at, gauge);
}

fn post_of_stream(driver: &mut Driver, at: usize, most: usize, gauge: &mut Gauge) {
    let len = driver.rng.len(most);
    let peer = &mut driver.peers[at];
    let mut message = Kind::Stream.message(&[peer.sent, now()]);
    message.extend(pattern(peer.sent, len));
    // A partner that does not get a processor may leave no room.
    peer.port().post_bytes_timeout(&message, PATIENCE).expect("room in the end");
    peer.sent += 1;
    gauge.messages += 1;
    gauge.bytes += message.len() as u64;
}

fn check(driver: &mut Driver, gauge: &mut Gauge) {
    let at = driver.any();
    check_one(driver, at, gauge);
}

fn check_one(driver: &mut Driver, at: usize, gauge: &mut Gauge) {
    driver.check(at, gauge);
    gauge.messages += 2;
}

/// Several open requests at a time, some with little time. Each has one outcome, and its own.
fn calls(driver: &mut Driver, gauge: &mut Gauge) {
    let (at, count) = (driver.any(), 1 + driver.rng.below(30));
    let requests: Vec<u64> = (0..count).map(|_| driver.rng.next()).collect();
    let peer = &driver.peers[at];
    let start = |request| (request, peer.requester.start(&request).expect("room for a request"));
    let mut calls: Vec<_> = requests.into_iter().map(start).collect();
    while !calls.is_empty() {
        let (request, call) = calls.swap_remove(driver.rng.below(calls.len() as u64) as usize);
        match driver.rng.below(16) {
            // Dropping it cancels it.
            0 => continue,
            1 => {
                call.canceller().cancel();
                let outcome = call.wait_timeout(PATIENCE).map(|reply| reply.data().to_native());
                match outcome {
                    Err(CallError::Cancelled) => {}
                    other => expect_outcome(request, other, false),
                }
            }
            kind => {
                let time = if kind == 2 { Duration::from_micros(500) } else { PATIENCE };
                let outcome = call.wait_timeout(time).map(|reply| reply.data().to_native());
                expect_outcome(request, outcome, kind == 2);
            }
        }
    }
    assert_eq!(driver.peers[at].requester.open_calls(), 0, "calls without an outcome");
    gauge.calls += count;
}

fn expect_outcome(request: u64, outcome: Result<u64, CallError>, may_be_late: bool) {
    match (Fate::of(request), &outcome) {
        (_, Err(CallError::Timeout)) if may_be_late => {}
        (Fate::Answer | Fate::Delay, Ok(reply)) if *reply == answer(request) => {}
        (Fate::Drop, Err(CallError::Unanswered)) => {}
        (Fate::Refuse, Err(CallError::Refused { text })) if text == "as agreed" => {}
        (fate, _) => panic!("request {request} ({fate:?}) has the outcome {outcome:?}"),
    }
}

/// Tasks of several threads for the pool, of which a worker may be killed meanwhile: every task
/// has its reply all the same.
fn tasks(driver: &mut Driver, gauge: &mut Gauge) {
    const THREADS: u64 = 3;
    let (first, count) = (driver.rng.next() >> 8, driver.rng.below(40));
    let victim = (driver.rng.below(8) == 0).then(|| driver.rng.below(2));
    let pool = driver.pool();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for task in tasks_of(first, thread, count) {
                    let reply = pool.call_timeout(&task, PATIENCE).expect("a reply to a task");
                    assert_eq!(reply, answer(task), "the reply to task {task}");
                }
            });
        }
        if let Some(victim) = victim.and_then(|at| pool.ids().get(at as usize).copied()) {
            // It may have been reaped a moment ago.
            let _ = kill(Pid::from_raw(victim as i32), Signal::SIGKILL);
            gauge.kills += 1;
        }
    });
    gauge.calls += THREADS * count;
}

fn tasks_of(first: u64, thread: u64, count: u64) -> Range<u64> {
    first + thread * count..first + (thread + 1) * count
}

/// Messages to all members of the broadcast channel; `check` asks each which was its last.
fn announce(driver: &mut Driver, gauge: &mut Gauge) {
    for _ in 0..driver.rng.below(20) {
        let message = Kind::Stream.message(&[driver.announced + 1]);
        driver.bus.post_bytes(&message).expect("members with room");
        driver.announced += 1;
        gauge.messages += driver.peers.iter().filter(|peer| peer.is_member).count() as u64;
    }
    // So that no member is ever without room.
    driver.look_at_all(gauge);
}

fn join_or_leave(driver: &mut Driver, gauge: &mut Gauge) {
    let at = driver.any();
    let peer = &mut driver.peers[at];
    // It must have heard the last message of its time as a member.
    let is_member = peer.is_member;
    if is_member {
        driver.check(at, gauge);
    }
    let peer = &mut driver.peers[at];
    peer.ask(if is_member { Kind::Leave } else { Kind::Join });
    peer.is_member = !is_member;
    // What it heard before it left is no longer its last.
    if peer.is_member {
        announce_one(driver, gauge);
    }
}

pub fn announce_one(driver: &mut Driver, gauge: &mut Gauge) {
    driver.announced += 1;
    let message = Kind::Stream.message(&[driver.announced]);
    driver.bus.post_bytes(&message).expect("members with room");
    driver.look_at_all(gauge);
}

/// Threads that share a sending half: the messages of each come back in its order.
fn threads(driver: &mut Driver, gauge: &mut Gauge) {
    const THREADS: u64 = 3;
    let (at, count) = (driver.any(), driver.rng.below(50));
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let add = Kind::Add.message(&[]);
    driver.peers[at].port().post_bytes_with(&add, [port2.into()]).expect("room for a port");
    let (sender, receiver) = port1.split();
    let sender = sender.into_shared();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let sender = sender.clone();
            scope.spawn(move || {
                for index in 0..count {
                    let message = Kind::Echo.message(&[thread, index]);
                    sender.post_bytes(&message).expect("room");
                }
            });
        }
        let mut next = [0; THREADS as usize];
        for _ in 0..THREADS * count {
            let event = receiver.recv_timeout(PATIENCE).expect("an echo");
            let thread = number(event.bytes(), 0) as usize;
            assert_eq!(number(event.bytes(), 1), next[thread], "the next one of a thread");
            next[thread] += 1;
        }
    });
    gauge.moves += 1;
    gauge.messages += 2 * THREADS * count;
}

/// Kills a partner that has much to do. What it has posted before is whole and in order.
fn kill_one(driver: &mut Driver, gauge: &mut Gauge) {
    let at = driver.any_but_eldest();
    let mut messages = Vec::new();
    for _ in 0..driver.rng.below(200) {
        post_of_stream(driver, at, 2048, gauge);
        let message = echo_message(driver, 2048);
        driver.peers[at].port().post_bytes_timeout(&message, PATIENCE).expect("room");
        messages.push(message);
    }
    let mut peer = driver.peers.swap_remove(at);
    kill(Pid::from_raw(peer.worker.id() as i32), Signal::SIGKILL).expect("a living child");
    let mut echoes = 0;
    loop {
        match peer.port().recv_timeout(PATIENCE) {
            Ok(event) => assert_eq!(event.bytes(), messages[echoes], "echo {echoes}"),
            Err(RecvError::Closed { reason: CloseReason::PeerDied }) => break,
            Err(error) => panic!("partner {} was killed, and not: {error}", peer.number),
        }
        echoes += 1;
    }
    let outcome = peer.requester.call_timeout(&16, PATIENCE);
    let is_end = matches!(&outcome, Err(CallError::Closed { .. } | CallError::Post(_)));
    assert!(is_end, "a call of a partner that was killed: {outcome:?}");
    peer.worker.wait().expect("a child of this process");
    driver.forget(peer.number);
    gauge.messages += (messages.len() + echoes) as u64;
    gauge.kills += 1;
}

/// Lets a partner end by itself. It has received all that was posted before.
fn end_one(driver: &mut Driver, gauge: &mut Gauge) {
    let at = driver.any_but_eldest();
    post_of_stream(driver, at, 2048, gauge);
    driver.check(at, gauge);
    let last = driver.peers.len() - 1;
    driver.peers.swap(at, last);
    let number = driver.peers[last].number;
    driver.end_last();
    driver.forget(number);
}

impl Driver {
    /// No partner has a port to this one any more.
    pub fn forget(&mut self, number: u64) {
        self.peers.iter_mut().for_each(|peer| peer.links.retain(|link| *link != number));
    }
}
