//! Processes killed at random instants: nothing that was committed is lost, torn, doubled or
//! reordered, nothing hangs, and nothing is left behind.
//!
//! `MESSAGEPORT_KILLS=10000` makes each of the tests here kill that many processes, instead of some
//! dozens.

mod common;

use common::board::Board;
use common::census::{Census, has_no_children};
use common::messages::{Rng, Stream, mix};
use common::role::{command, play};
use common::watchdog::progress;
use common::{DEADLINE, kill_process, receive, receive_end, refusal, wait_until, wanted};
use messageport::{
    ChannelBuilder, CloseReason, MessageChannel, MessageEvent, MessagePort, RecvError, Worker,
    parent_port,
};
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How many processes each test kills.
fn kills() -> u64 {
    wanted("MESSAGEPORT_KILLS", 150)
}

/// Kills one process per round, and counts what is held before and after each.
fn kill_again_and_again(test: &str, round: fn(&str, u64, &Board)) {
    let board = Board::new();
    let before = Census::take();
    for number in 0..kills() {
        board.word(SEED).store(mix(number), SeqCst);
        board.word(DONE).store(0, SeqCst);
        board.word(WRONG).store(0, SeqCst);
        round(test, number, &board);
        before.wait_for(format_args!("round {number} leaves nothing behind"));
        assert!(has_no_children(), "round {number} leaves no process behind");
        progress();
    }
}

/// Starts a child of a role, on a channel that has to grow sooner or later.
fn start(test: &str, role: &str, board: &Board, rng: &mut Rng) -> (MessagePort, Child) {
    let mut command = command(test, role);
    board.give(&mut command);
    Worker::spawn_with(command, sizes(rng)).expect("a worker").into_parts()
}

fn sizes(rng: &mut Rng) -> ChannelBuilder {
    MessageChannel::builder().capacity(4096 << rng.below(5)).limit(1 << 20)
}

/// Kills a process some time after it is told to, at another instant each time.
struct Killer {
    go: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Killer {
    fn new(id: u32, mut rng: Rng, most: Duration) -> Killer {
        let (go, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            told.recv().expect("the test tells when");
            rng.dawdle(most);
            kill_process(id);
        });
        Killer { go, thread }
    }

    fn go(&self) {
        self.go.send(()).expect("the killer waits");
    }

    fn join(self) {
        self.thread.join().expect("the process could be killed");
    }
}

fn assert_killed(mut child: Child) {
    let status = child.wait().expect("a child of our own");
    assert_eq!(status.signal(), Some(9), "{status}");
}

// The sender is killed.

#[test]
fn f18_a_killed_sender_loses_nothing_that_it_had_committed() {
    const TEST: &str = "f18_a_killed_sender_loses_nothing_that_it_had_committed";
    fn receiver() {
        kill_again_and_again(TEST, kill_a_sender);
    }
    play(TEST, &[("receiver", receiver), ("sender", send_until_killed)]);
}

/// Posts for ever, and writes down after each `Ok` how many messages are committed.
fn send_until_killed() {
    let board = Board::given();
    let stream = Stream { seed: board.word(SEED).load(SeqCst) };
    let port = parent_port().expect("a port to the parent");
    let mut number = 0;
    loop {
        number += post_some(&port, stream, number);
        board.word(DONE).store(number, SeqCst);
        progress();
    }
}

/// Posts a message, or now and then several at once. Returns how many.
fn post_some(port: &MessagePort, stream: Stream, number: u64) -> u64 {
    if !mix(number).is_multiple_of(8) {
        stream.post(port, number).expect("room, sooner or later");
        return 1;
    }
    let burst = port.burst();
    let mut staged = 0;
    // Messages of these numbers go by `post_text`, whatever way is theirs otherwise.
    while staged < MOST_AT_ONCE && burst.stage_text(&stream.message(number + staged)).is_ok() {
        staged += 1;
    }
    burst.commit();
    if staged == 0 {
        // The lane is full: wait for room.
        stream.post(port, number).expect("room, sooner or later");
        return 1;
    }
    staged
}

fn kill_a_sender(test: &str, round: u64, board: &Board) {
    let mut rng = Rng(round);
    let stream = Stream { seed: board.word(SEED).load(SeqCst) };
    let (port, child) = start(test, "sender", board, &mut rng);
    let how = round % 4;
    let most = Duration::from_millis(if how == 0 { 20 } else { 2 });
    let killer = Killer::new(child.id(), rng.clone(), most);
    if how == 0 {
        // At any time of its life, before it has a port as well.
        killer.go();
    } else if how == 1 {
        // While no process receives: the lane grows, and is full before long.
        let enough = 1 + rng.below(400);
        wait_until("the sender is at work", || {
            board.word(DONE).load(SeqCst) >= enough || port.stats().received.full > 0
        });
        killer.go();
    }
    let received = receive_all(&port, stream, || {
        if how > 1 {
            killer.go();
        }
    });
    let committed = board.word(DONE).load(SeqCst);
    assert!(
        (committed..=committed + MOST_AT_ONCE).contains(&received),
        "round {round}: {committed} were committed, {received} came\n{port:#?}"
    );
    assert_eq!(receive_end(&port), CloseReason::PeerDied);
    assert_eq!(refusal(port.post_text("too late")), CloseReason::PeerDied);
    killer.join();
    assert_killed(child);
}

/// Whether it is that message, in its own way or staged as text.
fn is_message(stream: Stream, event: &MessageEvent<'_>, number: u64) -> bool {
    let is_text = event.text().is_ok_and(|text| text == stream.message(number));
    is_text || stream.matches(event, number)
}

/// Receives to the end, and checks every byte. Returns how many came.
fn receive_all(port: &MessagePort, stream: Stream, at_first: impl Fn()) -> u64 {
    let mut received = 0;
    loop {
        match port.recv_timeout(DEADLINE) {
            Ok(event) => {
                assert!(is_message(stream, &event, received), "message {received}");
                received += 1;
                if received == 1 {
                    at_first();
                }
                progress();
            }
            Err(RecvError::Closed { .. }) => return received,
            Err(error) => panic!("{error}\n{port:#?}"),
        }
    }
}

#[test]
fn a_killed_sender_loses_nothing_when_its_port_moves_in_the_middle_of_a_batch() {
    const TEST: &str = "a_killed_sender_loses_nothing_when_its_port_moves_in_the_middle_of_a_batch";
    fn receiver() {
        kill_again_and_again(TEST, kill_a_sender_while_its_port_moves);
    }
    play(TEST, &[("receiver", receiver), ("sender", send_until_killed)]);
}

fn kill_a_sender_while_its_port_moves(test: &str, round: u64, board: &Board) {
    let mut rng = Rng(round);
    let stream = Stream { seed: board.word(SEED).load(SeqCst) };
    let (mut port, child) = start(test, "sender", board, &mut rng);
    let killer = Killer::new(child.id(), rng.clone(), Duration::from_millis(2));
    let carrier = MessageChannel::new().expect("a channel");
    let (mut received, mut is_told) = (0, false);
    // A batch copies several messages together, and takes some of them.
    loop {
        let is_right =
            port.recv_timeout(DEADLINE).map(|event| is_message(stream, &event, received));
        match is_right {
            Ok(is_right) => assert!(is_right, "message {received}"),
            Err(RecvError::Closed { .. }) => break,
            Err(error) => panic!("{error}\n{port:#?}"),
        }
        received += 1;
        for event in port.try_iter().take(rng.below(40) as usize) {
            assert!(is_message(stream, &event, received), "message {received} of a batch");
            received += 1;
        }
        if rng.below(3) == 0 {
            carrier.port1.post_bytes_with(b"", [port.into()]).expect("an open port");
            port = receive(&carrier.port2).take_port().expect("the port");
        }
        if !std::mem::replace(&mut is_told, true) {
            killer.go();
        }
        progress();
    }
    let committed = board.word(DONE).load(SeqCst);
    assert!(
        (committed..=committed + MOST_AT_ONCE).contains(&received),
        "round {round}: {committed} were committed, {received} came\n{port:#?}"
    );
    assert_eq!(receive_end(&port), CloseReason::PeerDied);
    killer.join();
    assert_killed(child);
}

// The receiver is killed.

#[test]
fn f20_a_killed_receiver_ends_posts_and_what_it_read_was_right() {
    const TEST: &str = "f20_a_killed_receiver_ends_posts_and_what_it_read_was_right";
    fn sender() {
        kill_again_and_again(TEST, kill_a_receiver);
    }
    play(TEST, &[("sender", sender), ("receiver", receive_until_killed)]);
}

/// Receives for ever, on a trusted port every other time, and writes down how far it came.
#[allow(unsafe_code)]
fn receive_until_killed() {
    let board = Board::given();
    let seed = board.word(SEED).load(SeqCst);
    let stream = Stream { seed };
    let port = parent_port().expect("a port to the parent");
    if seed.is_multiple_of(2) {
        // SAFETY: the parent is this same program, and uses its port.
        unsafe { port.trust_peer() };
    }
    let mut held = None;
    for number in 0.. {
        let event = port.recv().expect("messages without end");
        if !stream.matches(&event, number) {
            board.word(WRONG).store(1 + number, SeqCst);
        }
        board.word(DONE).store(number + 1, SeqCst);
        // Some are held while the next ones come.
        held = if number % 3 == 0 { Some(event) } else { held.filter(|_| number % 3 == 1) };
        progress();
    }
}

fn kill_a_receiver(test: &str, round: u64, board: &Board) {
    let mut rng = Rng(round);
    let stream = Stream { seed: board.word(SEED).load(SeqCst) };
    let (port, child) = start(test, "receiver", board, &mut rng);
    let most = Duration::from_millis(if round.is_multiple_of(4) { 20 } else { 2 });
    let killer = Killer::new(child.id(), rng.clone(), most);
    if round.is_multiple_of(4) {
        killer.go();
    }
    let mut posted = 0;
    let mut told = round.is_multiple_of(4);
    let reason = loop {
        match stream.post(&port, posted) {
            Ok(()) => posted += 1,
            refused => break refusal(refused),
        }
        if !told && board.word(DONE).load(SeqCst) > 0 {
            killer.go();
            told = true;
        }
        progress();
    };
    assert_eq!(reason, CloseReason::PeerDied);
    assert_eq!(refusal(port.post_text("again")), CloseReason::PeerDied);
    assert_eq!(receive_end(&port), CloseReason::PeerDied);
    killer.join();
    assert_killed(child);
    let taken = board.word(DONE).load(SeqCst);
    assert_eq!(board.word(WRONG).load(SeqCst), 0, "round {round}: a wrong message, counted from 1");
    let left = port.backlog();
    assert!(taken <= posted && left.messages <= posted);
    // The last one may be read and not written down; on a trusted port, up to three are held.
    let known = posted - left.messages;
    assert!(
        (taken.saturating_sub(3)..=taken + 1).contains(&known),
        "round {round}: {posted} posted, {taken} taken, {left:?}\n{port:#?}"
    );
}

// What a child finds on the board.

/// Seed of the stream, which differs from round to round.
const SEED: usize = 0;
/// Messages whose post or receipt is done.
const DONE: usize = 1;
/// One more than the number of a message that was not right.
const WRONG: usize = 2;

/// Messages of a burst.
const MOST_AT_ONCE: u64 = 4;
