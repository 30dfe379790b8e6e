//! How a peer ends, and what the other end sees of it: everything committed before, and then one
//! end that says which it was. Each claim takes two processes.

#![allow(unsafe_code)]

mod common;
#[path = "common/filter.rs"]
mod filter;
#[path = "death/posting.rs"]
mod posting;

use common::board::Board;
use common::region::{self, Region};
use common::role::{command, play};
use common::{
    DEADLINE, die, kill_process, receive, receive_end, receive_text, refusal, signal, wait_until,
    wait_until_asleep, wait_until_closed,
};
use messageport::{CloseReason, MessageChannel, MessagePort, RecvError, Worker, parent_port, rkyv};
use nix::sys::signal::Signal;
use nix::unistd::gettid;
use rkyv::rancor::Fallible;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

/// Starts the other role.
fn start(test: &str, role: &str) -> Worker {
    Worker::spawn(command(test, role)).expect("a worker")
}

/// Starts the other role on a channel that never grows.
fn start_bounded(test: &str, role: &str) -> Worker {
    let sizes = MessageChannel::builder().capacity(4096).bounded();
    Worker::spawn_with(command(test, role), sizes).expect("a worker")
}

fn parent() -> MessagePort {
    parent_port().expect("a port to the parent")
}

/// Stays until another process ends this one.
fn linger() -> ! {
    loop {
        thread::park();
    }
}

fn post_numbers(port: &MessagePort, count: u64) {
    for number in 0..count {
        port.post_message(&number).expect("room");
    }
}

fn receive_numbers(port: &MessagePort, count: u64) {
    for number in 0..count {
        assert_eq!(receive(port).deserialize::<u64>().expect("a number"), number);
    }
}

/// More than the first segment holds.
const MANY: u64 = 5000;

// Ways to end. The messages are unread when the end comes.

#[test]
fn an_exit_without_drop_is_a_death_after_the_last_message() {
    const TEST: &str = "an_exit_without_drop_is_a_death_after_the_last_message";
    fn exits() {
        let port = parent();
        post_numbers(&port, MANY);
        std::process::exit(7);
    }
    fn watches() {
        let mut worker = start(TEST, "exits");
        assert_eq!(worker.wait().expect("a child").code(), Some(7));
        receive_numbers(worker.port(), MANY);
        assert_eq!(receive_end(worker.port()), CloseReason::PeerDied);
        assert_eq!(refusal(worker.port().post_text("late")), CloseReason::PeerDied);
    }
    play(TEST, &[("watches", watches), ("exits", exits)]);
}

#[test]
fn a_drop_is_told_apart_from_a_death() {
    const TEST: &str = "a_drop_is_told_apart_from_a_death";
    fn drops() {
        let port = parent();
        post_numbers(&port, MANY);
        drop(port);
        die();
    }
    fn watches() {
        let mut worker = start(TEST, "drops");
        assert_eq!(worker.wait().expect("a child").signal(), Some(9));
        receive_numbers(worker.port(), MANY);
        assert_eq!(receive_end(worker.port()), CloseReason::PeerDropped);
        assert_eq!(refusal(worker.port().post_text("late")), CloseReason::PeerDropped);
    }
    play(TEST, &[("watches", watches), ("drops", drops)]);
}

#[test]
fn a_close_is_told_apart_from_a_death_and_comes_while_the_peer_lives() {
    const TEST: &str = "a_close_is_told_apart_from_a_death_and_comes_while_the_peer_lives";
    fn closes() {
        let port = parent();
        post_numbers(&port, MANY);
        port.close();
        linger();
    }
    fn watches() {
        let (port, mut child) = start(TEST, "closes").into_parts();
        receive_numbers(&port, MANY);
        assert_eq!(receive_end(&port), CloseReason::PeerClosed);
        assert_eq!(refusal(port.post_text("late")), CloseReason::PeerClosed);
        assert!(child.try_wait().expect("a child").is_none(), "the peer lives");
        child.kill().expect("a child of our own");
        child.wait().expect("a child of our own");
        assert_eq!(receive_end(&port), CloseReason::PeerClosed, "the first word stays");
    }
    play(TEST, &[("watches", watches), ("closes", closes)]);
}

#[test]
fn f21_the_hang_up_comes_after_the_drain_however_long_that_takes() {
    const TEST: &str = "f21_the_hang_up_comes_after_the_drain_however_long_that_takes";
    fn dies() {
        let port = parent();
        post_numbers(&port, MANY);
        die();
    }
    fn watches() {
        let mut worker = start(TEST, "dies");
        worker.wait().expect("a child");
        let port = worker.port();
        // Known to posts from the first question on, to receipts at last.
        wait_until_closed(port);
        assert_eq!(refusal(port.post_bytes_timeout(&[0; 100], DEADLINE)), CloseReason::PeerDied);
        receive_numbers(port, MANY);
        assert_eq!(receive_end(port), CloseReason::PeerDied);
    }
    play(TEST, &[("watches", watches), ("dies", dies)]);
}

#[test]
fn f21_an_end_in_flight_is_no_hang_up() {
    const TEST: &str = "f21_an_end_in_flight_is_no_hang_up";
    fn takes_its_time() {
        let board = Board::given();
        board.word(0).store(1, SeqCst);
        wait_until("the parent has looked", || board.word(0).load(SeqCst) == 2);
        let port = parent();
        let early = receive_text(&port);
        port.post_text(&early).expect("room");
        assert_eq!(receive_end(&port), CloseReason::PeerClosed);
    }
    fn watches() {
        let board = Board::new();
        let mut command = command(TEST, "takes_its_time");
        board.give(&mut command);
        let mut worker = Worker::spawn(command).expect("a worker");
        wait_until("the child runs", || board.word(0).load(SeqCst) == 1);
        let port = worker.port();
        let answer = port.recv_timeout(Duration::from_millis(1)).map(|event| event.format());
        assert!(matches!(answer, Err(RecvError::Timeout)), "{answer:?}");
        assert!(port.try_recv().expect("an open port").is_none() && !port.is_closed());
        port.post_text("early").expect("an open port");
        board.word(0).store(2, SeqCst);
        assert_eq!(receive_text(port), "early");
        worker.port().close();
        assert!(worker.wait().expect("a child").success());
    }
    play(TEST, &[("watches", watches), ("takes_its_time", takes_its_time)]);
}

// What was not committed.

/// Dies while it is serialised, after its first half.
struct Deadly;

impl rkyv::Archive for Deadly {
    type Archived = rkyv::Archived<u64>;
    type Resolver = ();

    fn resolve(&self, (): (), _: rkyv::Place<Self::Archived>) {
        unreachable!("it is dead")
    }
}

impl<S: Fallible + rkyv::ser::Writer + ?Sized> rkyv::Serialize<S> for Deadly {
    fn serialize(&self, serializer: &mut S) -> Result<(), S::Error> {
        serializer.write(&[0xdd; 100])?;
        die()
    }
}

#[test]
fn f18_a_message_that_was_being_written_is_not_seen() {
    const TEST: &str = "f18_a_message_that_was_being_written_is_not_seen";
    fn dies() {
        let port = parent();
        post_numbers(&port, 3);
        let _ = port.post_message(&Deadly);
    }
    fn watches() {
        let mut worker = start(TEST, "dies");
        receive_numbers(worker.port(), 3);
        assert_eq!(receive_end(worker.port()), CloseReason::PeerDied);
        assert_eq!(worker.wait().expect("a child").signal(), Some(9));
    }
    play(TEST, &[("watches", watches), ("dies", dies)]);
}

#[test]
fn f18_a_loan_in_the_ring_that_was_not_posted_is_not_seen() {
    const TEST: &str = "f18_a_loan_in_the_ring_that_was_not_posted_is_not_seen";
    fn dies() {
        let port = parent();
        // SAFETY: the parent is this same program, and uses its port.
        unsafe { port.trust_peer() };
        post_numbers(&port, 3);
        port.loan(5000).expect("room").fill(0xdd);
        let mut open = port.loan(500).expect("room");
        open.fill(0xdd);
        die();
    }
    fn watches() {
        let worker = start(TEST, "dies");
        receive_numbers(worker.port(), 3);
        assert_eq!(receive_end(worker.port()), CloseReason::PeerDied);
    }
    play(TEST, &[("watches", watches), ("dies", dies)]);
}

#[test]
fn a_burst_survives_from_its_commit_on() {
    const TEST: &str = "a_burst_survives_from_its_commit_on";
    fn dies() {
        let port = parent();
        let burst = port.burst();
        for number in 0..MANY {
            burst.stage(&number).expect("room");
        }
        burst.commit();
        let burst = port.burst();
        burst.stage(&MANY).expect("room");
        die();
    }
    fn watches() {
        let worker = start(TEST, "dies");
        receive_numbers(worker.port(), MANY);
        assert_eq!(receive_end(worker.port()), CloseReason::PeerDied);
    }
    play(TEST, &[("watches", watches), ("dies", dies)]);
}

// A death between two steps.

/// Lane of the child's posts.
const FROM_CHILD: usize = 1;
/// What stands in a sleeper's flag while it waits for the doorbell.
const ON_THE_DOORBELL: u32 = 2;

#[test]
fn f19_a_death_between_publication_and_doorbell_still_wakes_and_delivers() {
    const TEST: &str = "f19_a_death_between_publication_and_doorbell_still_wakes_and_delivers";
    fn dies() {
        let board = Board::given();
        let port = parent();
        let region = Region::of(&port);
        // The kernel kills this process at the call that would ring.
        if let Err(error) = filter::kill_at(libc::SYS_sendto) {
            return common::role::skip(&format!("no seccomp filter here: {error}"));
        }
        // A sleeper that was just woken without a cause is not rung for, so ring more than once.
        for number in 0.. {
            wait_until("the receiver has gone to sleep", || {
                let [tail, head] = [region::tail(FROM_CHILD), region::head(FROM_CHILD)]
                    .map(|at| region.word(at).load(SeqCst));
                let flag = region.half_word(region::message_sleeper(FROM_CHILD)).load(SeqCst);
                flag == ON_THE_DOORBELL && tail == head
            });
            board.word(0).store(number + 1, SeqCst);
            port.post_message(&number).expect("room");
        }
    }
    fn watches() {
        let board = Board::new();
        let mut command = command(TEST, "dies");
        board.give(&mut command);
        let mut worker = Worker::spawn(command).expect("a worker");
        let received: Vec<_> = worker.port().iter().map(|event| event.deserialize()).collect();
        assert_eq!(receive_end(worker.port()), CloseReason::PeerDied);
        let status = worker.wait().expect("a child");
        if status.success() {
            return; // It said why.
        }
        assert_eq!(status.signal(), Some(libc::SIGSYS), "it died at the call that rings");
        assert_eq!(received.len() as u64, board.word(0).load(SeqCst));
        assert!(received.into_iter().zip(0..).all(|(found, number)| found.ok() == Some(number)));
    }
    play(TEST, &[("watches", watches), ("dies", dies)]);
}

/// Takes one message of three, and dies with it in its hands.
fn die_with_a_message(trusted: bool) {
    let port = parent();
    if trusted {
        // SAFETY: the parent is this same program, and uses its port.
        unsafe { port.trust_peer() };
    }
    let event = receive(&port);
    assert_eq!(event.bytes().first(), Some(&7));
    die();
}

fn undelivered_after_the_death(test: &str, len: usize) -> u64 {
    let mut worker = start(test, "dies");
    for _ in 0..3 {
        worker.port().post_bytes(&vec![7; len]).expect("room");
    }
    worker.wait().expect("a child");
    assert_eq!(receive_end(worker.port()), CloseReason::PeerDied);
    let left = worker.port().backlog();
    assert!(left.bytes >= left.messages * 16, "{left:?}");
    left.messages
}

#[test]
fn f20_a_message_in_the_hands_of_a_killed_receiver_counts_as_delivered() {
    const TEST: &str = "f20_a_message_in_the_hands_of_a_killed_receiver_counts_as_delivered";
    fn dies() {
        die_with_a_message(false);
    }
    fn watches() {
        assert_eq!(undelivered_after_the_death(TEST, 8), 2);
    }
    play(TEST, &[("watches", watches), ("dies", dies)]);
}

#[test]
fn f20_a_message_held_in_place_by_a_killed_receiver_counts_as_undelivered() {
    const TEST: &str = "f20_a_message_held_in_place_by_a_killed_receiver_counts_as_undelivered";
    fn dies() {
        die_with_a_message(true);
    }
    fn watches() {
        // A shorter one may have been copied.
        assert_eq!(undelivered_after_the_death(TEST, 600), 3);
    }
    play(TEST, &[("watches", watches), ("dies", dies)]);
}

#[test]
fn f7_what_a_dead_receiver_never_read_is_known_by_number() {
    const TEST: &str = "f7_what_a_dead_receiver_never_read_is_known_by_number";
    fn dies() {
        let port = parent();
        receive_numbers(&port, 10);
        port.post_text("ten are read").expect("room");
        linger();
    }
    fn watches() {
        let mut worker = start(TEST, "dies");
        post_numbers(worker.port(), MANY);
        assert_eq!(receive_text(worker.port()), "ten are read");
        assert_eq!(worker.port().backlog().messages, MANY - 10);
        kill_process(worker.id());
        worker.wait().expect("a child");
        assert_eq!(receive_end(worker.port()), CloseReason::PeerDied);
        assert_eq!(worker.port().backlog().messages, MANY - 10);
    }
    play(TEST, &[("watches", watches), ("dies", dies)]);
}

// Who waits is woken.

/// Says that it is there, and does nothing more.
fn idle() {
    let port = parent();
    port.post_text("ready").expect("room");
    linger();
}

/// Kills a process when a thread of this one has gone to sleep.
fn kill_once_asleep(sleeper: nix::unistd::Pid, id: u32) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        wait_until_asleep(sleeper);
        kill_process(id);
    })
}

#[test]
fn f21_a_blocked_receiver_wakes_at_the_death() {
    const TEST: &str = "f21_a_blocked_receiver_wakes_at_the_death";
    fn waits() {
        let worker = start(TEST, "idle");
        assert_eq!(receive_text(worker.port()), "ready");
        let killer = kill_once_asleep(gettid(), worker.id());
        let answer = worker.port().recv().map(|event| event.format());
        assert!(
            matches!(answer, Err(RecvError::Closed { reason: CloseReason::PeerDied })),
            "{answer:?}"
        );
        killer.join().expect("the child could be killed");
        assert_eq!(receive_end(worker.port()), CloseReason::PeerDied);
    }
    play(TEST, &[("waits", waits), ("idle", idle)]);
}

#[test]
fn f22_a_sender_that_waits_for_room_wakes_at_the_death() {
    const TEST: &str = "f22_a_sender_that_waits_for_room_wakes_at_the_death";
    fn waits() {
        let worker = start_bounded(TEST, "idle");
        let port = worker.port();
        assert_eq!(receive_text(port), "ready");
        while port.post_bytes(&[1; 500]).is_ok() {}
        let killer = kill_once_asleep(gettid(), worker.id());
        let answer = port.post_bytes_timeout(&[1; 500], Duration::MAX);
        assert_eq!(refusal(answer), CloseReason::PeerDied);
        killer.join().expect("the child could be killed");
        assert_eq!(receive_end(port), CloseReason::PeerDied);
    }
    play(TEST, &[("waits", waits), ("idle", idle)]);
}

#[test]
fn f22_both_halves_of_a_split_port_wake_at_the_death() {
    const TEST: &str = "f22_both_halves_of_a_split_port_wake_at_the_death";
    fn wait() {
        let (port, mut child) = start_bounded(TEST, "idle").into_parts();
        assert_eq!(receive_text(&port), "ready");
        let (sender, receiver) = port.split();
        let receiving = thread::spawn(move || receiver.recv().map(|event| event.format()));
        while sender.post_bytes(&[1; 500]).is_ok() {}
        let killer = kill_once_asleep(gettid(), child.id());
        let answer = sender.post_bytes_timeout(&[1; 500], Duration::MAX);
        assert_eq!(refusal(answer), CloseReason::PeerDied);
        let answer = receiving.join().expect("no panic");
        assert!(
            matches!(answer, Err(RecvError::Closed { reason: CloseReason::PeerDied })),
            "{answer:?}"
        );
        killer.join().expect("the child could be killed");
        child.wait().expect("a child of our own");
    }
    play(TEST, &[("wait", wait), ("idle", idle)]);
}

#[test]
fn a_sender_that_never_waits_learns_of_the_death() {
    const TEST: &str = "a_sender_that_never_waits_learns_of_the_death";
    fn floods() {
        let mut worker = start(TEST, "idle");
        let port = worker.port();
        assert_eq!(receive_text(port), "ready");
        kill_process(worker.id());
        // The limit is 64 MiB: that it is full is never the answer of a dead process.
        let refused = (0..20_000).find_map(|_| port.post_bytes(&[1; 5000]).err());
        assert_eq!(refusal(Err(refused.expect("an answer"))), CloseReason::PeerDied);
        assert_eq!(worker.wait().expect("a child").signal(), Some(9));
    }
    play(TEST, &[("floods", floods), ("idle", idle)]);
}

#[test]
fn a_stopped_peer_is_no_dead_peer() {
    const TEST: &str = "a_stopped_peer_is_no_dead_peer";
    fn echoes() {
        let port = parent();
        for event in &port {
            port.post_bytes(event.bytes()).expect("room");
        }
    }
    fn watches() {
        let worker = start(TEST, "echoes");
        let port = worker.port();
        for round in 0..20u64 {
            signal(worker.id(), Signal::SIGSTOP);
            port.post_message(&round).expect("room");
            let answer = port.recv_timeout(Duration::from_micros(200));
            // It may have answered just before it was stopped.
            let early = !matches!(answer, Err(RecvError::Timeout));
            signal(worker.id(), Signal::SIGCONT);
            assert!(early || receive(port).bytes().len() == 8, "round {round}");
            drop(answer);
        }
    }
    play(TEST, &[("watches", watches), ("echoes", echoes)]);
}
