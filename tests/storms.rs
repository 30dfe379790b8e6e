//! What comes again and again while two processes talk: signals, a process that is stopped and
//! goes on, forks, and ports that sit in each other's queues. Nothing is lost, no error leaks out,
//! nothing is left behind.
//!
//! `MESSAGEPORT_STORMS=10000` makes each test go through that many rounds, instead of some dozens.

mod common;

use common::board::Board;
use common::census::Census;
use common::messages::{Rng, Stream};
use common::role::{command, play, say};
use common::watchdog::progress;
use common::{DEADLINE, receive, receive_end, receive_text, signal, wait_until, wanted};
use messageport::{
    BroadcastChannel, Buffer, CloseReason, Listener, MessageChannel, MessagePort, RecvError,
    Worker, connect, parent_port,
};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// How many rounds each test goes through.
fn rounds() -> u64 {
    wanted("MESSAGEPORT_STORMS", 60)
}

/// Sends a stream to a process that sends it back, some messages ahead.
struct Echo {
    stream: Stream,
    posted: u64,
}

impl Echo {
    /// Posts one message, and receives the one that is due.
    fn step(&mut self, port: &MessagePort) {
        let message = self.stream.message(self.posted);
        port.post_bytes_timeout(message.as_bytes(), DEADLINE).expect("room");
        self.posted += 1;
        if let Some(due) = self.posted.checked_sub(AHEAD) {
            let came = receive(port);
            assert!(came.bytes() == self.stream.message(due).as_bytes(), "message {due}: {came:?}");
        }
        progress();
    }

    /// Receives the rest.
    fn finish(self, port: &MessagePort) {
        for due in (self.posted + 1).saturating_sub(AHEAD)..self.posted {
            let came = receive(port);
            assert!(came.bytes() == self.stream.message(due).as_bytes(), "message {due}: {came:?}");
        }
        assert_eq!(port.backlog().messages, 0);
    }
}

/// Messages that are under way.
const AHEAD: u64 = 8;

fn start(test: &str) -> (Worker, Echo) {
    let worker = Worker::spawn(command(test, "echoes")).expect("a worker");
    (worker, Echo { stream: Stream { seed: 7 }, posted: 0 })
}

/// Receives the rest of the stream, and sees the other process end by itself.
fn end(worker: Worker, echo: Echo) {
    let (port, mut child) = worker.into_parts();
    echo.finish(&port);
    drop(port);
    assert!(child.wait().expect("a child of our own").success());
}

fn echoes() {
    let port = parent_port().expect("a port to the parent");
    loop {
        match port.recv() {
            Ok(event) => port.post_bytes_timeout(event.bytes(), DEADLINE).expect("room"),
            Err(RecvError::Closed { reason }) => {
                assert_eq!(reason, CloseReason::PeerDropped);
                return;
            }
            Err(error) => panic!("{error}"),
        }
        progress();
    }
}

// Signals.

/// Signals that have come to this process.
static SIGNALS: AtomicU64 = AtomicU64::new(0);

/// Has a signal come ten thousand times a second. Its handler interrupts calls.
#[allow(unsafe_code)]
fn start_signals() {
    extern "C" fn count(_: libc::c_int) {
        SIGNALS.fetch_add(1, SeqCst);
    }
    let action = SigAction::new(SigHandler::Handler(count), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler adds to an atomic number, and does nothing else.
    unsafe { sigaction(Signal::SIGALRM, &action) }.expect("a signal of our own");
    let each = libc::timeval { tv_sec: 0, tv_usec: 100 };
    let timer = libc::itimerval { it_interval: each, it_value: each };
    // SAFETY: the pointers are valid for the call, or null.
    let answer = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) };
    assert_eq!(answer, 0, "a timer of our own");
}

#[test]
fn signals_without_pause_lose_nothing_and_interrupt_no_call() {
    const TEST: &str = "signals_without_pause_lose_nothing_and_interrupt_no_call";
    fn asks() {
        start_signals();
        let name = format!("storm-{}", std::process::id());
        let (worker, mut echo) = start(TEST);
        let mut before = None;
        for round in 0..rounds() {
            echo.step(worker.port());
            let quiet = MessageChannel::new().expect("a channel");
            let answer = quiet.port1.recv_timeout(Duration::from_micros(300));
            assert!(matches!(answer, Err(RecvError::Timeout)), "{answer:?}");
            drop(answer);
            things_move(quiet);
            memory_of_another_library();
            neighbours_meet(&name);
            if round % 16 == 0 {
                let (worker, mut echo) = start(TEST);
                echo.step(worker.port());
                end(worker, echo);
            }
            // The first round starts threads, which have descriptors.
            before.get_or_insert_with(Census::take).wait_for(format_args!("round {round}"));
        }
        say(&format!("{} signals in {} rounds", SIGNALS.load(SeqCst), rounds()));
        assert!(SIGNALS.load(SeqCst) > 0);
        end(worker, echo);
    }
    fn echoes_in_a_storm() {
        start_signals();
        echoes();
    }
    play(TEST, &[("asks", asks), ("echoes", echoes_in_a_storm)]);
}

/// A port, a descriptor and a buffer move.
fn things_move(carrier: MessageChannel) {
    let pair = MessageChannel::new().expect("a channel");
    let file = File::open("/dev/null").expect("a device");
    let buffer = Buffer::from_slice(&[7; 1 << 20]).expect("memory");
    let list = [pair.port2.into(), file.into(), buffer.into()];
    carrier.port1.post_text_with("a list", list).expect("room");
    let event = receive(&carrier.port2);
    let port = event.take_port().expect("a port");
    event.take_descriptor().expect("a descriptor");
    assert!(event.take_buffer().expect("a buffer").iter().all(|byte| *byte == 7));
    port.post_text("from its new place").expect("room");
    assert_eq!(receive_text(&pair.port1), "from its new place");
    drop(port);
    assert_eq!(receive_end(&pair.port1), CloseReason::PeerDropped);
}

/// Its pages have no memory yet: the kernel stops allocating at each signal.
fn memory_of_another_library() {
    let file = memfd_create("frame", MFdFlags::MFD_ALLOW_SEALING).expect("a file");
    let file = File::from(file);
    file.set_len(SPARSE).expect("a file may have a length");
    let buffer = Buffer::from_fd(&file).expect("memory");
    assert_eq!(buffer.len() as u64, SPARSE);
}

/// Takes some milliseconds to allocate.
const SPARSE: u64 = 16 << 20;

/// By a listener's name, and by a broadcast channel's.
fn neighbours_meet(name: &str) {
    let listener = Listener::bind(name).expect("a free name");
    thread::scope(|scope| {
        scope.spawn(|| {
            let client = connect(name).expect("a listener");
            client.post_text("hello").expect("room");
            assert_eq!(receive_text(&client), "hello to you");
        });
        let port = listener.accept().expect("a client");
        assert_eq!(receive_text(&port), "hello");
        port.post_text("hello to you").expect("room");
    });
    let join = || BroadcastChannel::open(name).expect("a member");
    let (one, two) = (join(), join());
    one.post_text("to all").expect("room");
    assert_eq!(two.recv().expect("a message").text().expect("a text"), "to all");
}

// A process that is stopped.

#[test]
fn a_process_that_is_stopped_again_and_again_loses_nothing() {
    const TEST: &str = "a_process_that_is_stopped_again_and_again_loses_nothing";
    fn asks() {
        let (worker, mut echo) = start(TEST);
        let id = worker.id();
        let (board, mut rng) = (Board::new(), Rng(7));
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..rounds() {
                    rng.dawdle(Duration::from_millis(2));
                    signal(id, Signal::SIGSTOP);
                    rng.dawdle(Duration::from_millis(2));
                    signal(id, Signal::SIGCONT);
                }
                board.word(0).store(1, SeqCst);
            });
            while board.word(0).load(SeqCst) == 0 {
                echo.step(worker.port());
            }
        });
        end(worker, echo);
    }
    play(TEST, &[("asks", asks), ("echoes", echoes)]);
}

// Forks.

#[test]
#[allow(unsafe_code)]
fn forks_under_traffic_do_no_harm() {
    const TEST: &str = "forks_under_traffic_do_no_harm";
    fn asks() {
        let (worker, mut echo) = start(TEST);
        for round in 0..rounds() {
            echo.step(worker.port());
            // SAFETY: the child calls nothing that could wait for a lock of another thread: it may
            // post into memory that it does not have, and ends.
            let child = unsafe { libc::fork() };
            if child == 0 {
                if round % 2 == 0 {
                    let _ = worker.port().post_bytes(b"from two producers");
                }
                // SAFETY: it ends this process at once.
                unsafe { libc::_exit(0) }
            }
            assert!(child > 0, "a process may fork");
            echo.step(worker.port());
            let mut status = 0;
            // SAFETY: the pointer is valid for the call.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            let faulted = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV;
            assert!(faulted || status == 0, "the child ended in another way: {status:#x}");
        }
        end(worker, echo);
    }
    play(TEST, &[("asks", asks), ("echoes", echoes)]);
}

// Circles.

#[test]
fn ports_in_circles_are_freed() {
    fn circles() {
        let before = Census::take();
        for round in 0..rounds() {
            let channels = (0..1 + round % 4).map(|_| MessageChannel::new().expect("a channel"));
            let (ones, twos): (Vec<_>, Vec<_>) =
                channels.map(|MessageChannel { port1, port2 }| (port1, port2)).unzip();
            // Each end sits in the queue of the next one, the last in that of the first.
            let last = ones.len() - 1;
            for (at, two) in twos.into_iter().enumerate() {
                let into = &ones[if at == last { 0 } else { at + 1 }];
                if last == 0 {
                    // A port is not posted into its own queue by name.
                    let descriptor = two.into_fd().expect("an open port");
                    into.post_text_with("itself", [descriptor.into()]).expect("room");
                } else {
                    into.post_text_with("the next one", [two.into()]).expect("room");
                }
            }
            wait_until("the kernel has found the circle", || {
                drop(UnixStream::pair());
                ones.iter().all(MessagePort::is_closed)
            });
            for one in &ones {
                assert_eq!(receive_end(one), CloseReason::PeerDied);
            }
            drop(ones);
            before.wait_for(format_args!("round {round}"));
            progress();
        }
    }
    play("ports_in_circles_are_freed", &[("circles", circles)]);
}
