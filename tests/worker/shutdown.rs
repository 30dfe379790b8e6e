//! Workers that are shut down, alone and several at once: how they end, and what the wait costs.

use crate::common::board::Board;
use crate::common::census::{Census, has_no_children};
use crate::common::role::{command, play};
use crate::common::{DEADLINE, proc, receive_end, receive_text, wait_until};
use crate::{deaf, is_gone, parent, start};
use messageport::{CloseReason, Worker, WorkerEnd};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::waitpid;
use std::fs;
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(20);

/// Exits with a code of its own, once the parent has said goodbye.
fn polite() {
    let port = parent();
    port.post_text("ready").expect("room");
    assert_eq!(receive_end(&port), CloseReason::PeerClosed, "an orderly end");
    std::process::exit(5);
}

fn ready(test: &str, role: &str) -> Worker {
    let worker = start(test, role);
    assert_eq!(receive_text(worker.port()), "ready");
    worker
}

fn killed(end: WorkerEnd) -> bool {
    matches!(end, WorkerEnd::Killed(status) if status.signal() == Some(9))
}

#[test]
fn a_worker_that_is_shut_down_says_how_it_ended() {
    const TEST: &str = "shutdown::a_worker_that_is_shut_down_says_how_it_ended";
    fn shuts_down() {
        let before = Census::take();
        let end = ready(TEST, "polite").shutdown(DEADLINE).expect("a child of our own");
        assert!(matches!(end, WorkerEnd::Exited(status) if status.code() == Some(5)), "{end:?}");
        assert_eq!(end.status().code(), Some(5));
        let end = ready(TEST, "deaf").shutdown(SHORT).expect("a child of our own");
        assert!(killed(end), "{end:?}");
        // One that another process has killed was not killed by this call.
        let worker = ready(TEST, "deaf");
        crate::common::kill_process(worker.id());
        let end = worker.shutdown(DEADLINE).expect("a child of our own");
        assert!(matches!(end, WorkerEnd::Exited(status) if status.signal() == Some(9)), "{end:?}");
        // One that had been waited for before.
        let mut worker = Worker::spawn(Command::new("false")).expect("a worker");
        assert_eq!(worker.wait().expect("a child").code(), Some(1));
        let end = worker.shutdown(Duration::ZERO).expect("its status");
        assert_eq!(end.status().code(), Some(1));
        // A process without its port, which is closed first.
        let (port, process) = ready(TEST, "polite").split();
        port.close();
        drop(port);
        assert_eq!(process.shutdown(DEADLINE).expect("a child").status().code(), Some(5));
        assert!(has_no_children());
        before.wait_for("at the end");
    }
    play(TEST, &[("shuts_down", shuts_down), ("polite", polite), ("deaf", deaf)]);
}

#[test]
fn a_wait_with_a_timeout_leaves_the_worker_as_it_is() {
    const TEST: &str = "shutdown::a_wait_with_a_timeout_leaves_the_worker_as_it_is";
    fn waits() {
        let mut worker = ready(TEST, "polite");
        for timeout in [Duration::ZERO, SHORT] {
            assert!(worker.wait_timeout(timeout).expect("a child").is_none());
        }
        worker.port().close();
        let status = worker.wait_timeout(DEADLINE).expect("a child").expect("it has exited");
        assert_eq!(status.code(), Some(5));
        // A timeout that the clock cannot represent is none.
        let status = worker.wait_timeout(Duration::MAX).expect("a child").expect("a status");
        assert_eq!(status.code(), Some(5));
    }
    play(TEST, &[("waits", waits), ("polite", polite)]);
}

/// Ends once its standard input has ended; the port alone does not end it.
fn reads_input() {
    let board = Board::given();
    let port = parent();
    port.post_text("ready").expect("room");
    io::stdin().read_to_end(&mut Vec::new()).expect("an input");
    board.word(0).fetch_add(1, SeqCst);
}

#[test]
fn several_workers_are_told_and_waited_for_at_once() {
    const TEST: &str = "shutdown::several_workers_are_told_and_waited_for_at_once";
    /// The first one ends last: it waits until the others have ended.
    fn last() {
        let board = Board::given();
        let port = parent();
        port.post_text("ready").expect("room");
        assert_eq!(receive_end(&port), CloseReason::PeerClosed);
        wait_until("the others have ended", || board.word(0).load(SeqCst) == 3);
    }
    fn early() {
        let board = Board::given();
        let port = parent();
        port.post_text("ready").expect("room");
        assert_eq!(receive_end(&port), CloseReason::PeerClosed);
        board.word(0).fetch_add(1, SeqCst);
    }
    fn shuts_down() {
        let before = Census::take();
        let board = Board::new();
        let with_board = |role: &str| {
            let mut command = command(TEST, role);
            board.give(&mut command);
            Worker::spawn(command).expect("a worker")
        };
        let mut input = command(TEST, "reads_input");
        input.stdin(Stdio::piped());
        board.give(&mut input);
        let input = Worker::spawn(input).expect("a worker");
        let workers = [with_board("last"), input, with_board("early"), with_board("early")];
        for worker in &workers {
            assert_eq!(receive_text(worker.port()), "ready");
        }
        for end in Worker::shutdown_all(workers, DEADLINE) {
            let end = end.expect("a child of our own");
            assert!(matches!(end, WorkerEnd::Exited(status) if status.success()), "{end:?}");
        }
        // The answers are in the order of the workers, whichever of them hang.
        let roles = ["deaf", "polite", "deaf", "polite"];
        let workers: Vec<_> = roles.iter().map(|role| ready(TEST, role)).collect();
        workers[1].port().close();
        workers[3].port().close();
        wait_until("the polite ones have ended", || {
            [1, 3].iter().all(|index: &usize| is_readable(&workers[*index]))
        });
        let ends = Worker::shutdown_all(workers, SHORT);
        let ends: Vec<_> = ends.into_iter().map(|end| killed(end.expect("a child"))).collect();
        assert_eq!(ends, [true, false, true, false]);
        assert!(Worker::shutdown_all([], DEADLINE).is_empty());
        assert!(has_no_children());
        drop(board);
        before.wait_for("at the end");
    }
    let roles: &[(&str, fn())] = &[
        ("shuts_down", shuts_down),
        ("last", last),
        ("early", early),
        ("reads_input", reads_input),
        ("polite", polite),
        ("deaf", deaf),
    ];
    play(TEST, roles);
}

fn is_readable(worker: &Worker) -> bool {
    let mut ends = [PollFd::new(worker.pidfd(), PollFlags::POLLIN)];
    poll(&mut ends, PollTimeout::ZERO).expect("a descriptor of our own") == 1
}

#[test]
fn the_pidfd_of_a_worker_says_that_it_has_ended() {
    const TEST: &str = "shutdown::the_pidfd_of_a_worker_says_that_it_has_ended";
    fn polls() {
        let mut worker = ready(TEST, "deaf");
        assert!(!is_readable(&worker));
        let words = format!("{worker:?}");
        assert!(words.contains(&format!("id: {}", worker.id())), "{words}");
        crate::common::kill_process(worker.id());
        wait_until("it has ended", || is_readable(&worker));
        assert_eq!(worker.wait().expect("a child").signal(), Some(9));
        assert!(is_readable(&worker), "also once it is reaped");
        let words = format!("{worker:?}");
        assert!(words.contains("status: Some"), "{words}");
    }
    play(TEST, &[("polls", polls), ("deaf", deaf)]);
}

/// Whether the crate has a thread that ends workers. It stays for two seconds after its work.
fn has_reaper() -> bool {
    let threads = fs::read_dir(proc("self/task")).expect("a process has threads");
    let name = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("comm"));
    threads.flatten().any(|thread| name(thread).is_ok_and(|name| name.trim() == "port-reaper"))
}

/// The first drop waits its grace and kills its child; the others leave theirs to a thread of the
/// crate, which none of them needs if each waits.
#[test]
fn drops_of_many_workers_that_hang_share_one_wait() {
    const TEST: &str = "shutdown::drops_of_many_workers_that_hang_share_one_wait";
    fn drops() {
        let before = Census::take();
        let workers: Vec<_> = (0..8).map(|_| ready(TEST, "deaf")).collect();
        let ids: Vec<_> = workers.iter().map(Worker::id).collect();
        assert!(!has_reaper());
        drop(workers);
        assert!(is_gone(ids[0]), "the first drop waits");
        wait_until("a thread ends the others", has_reaper);
        wait_until("all are gone", || ids.iter().all(|id| is_gone(*id)));
        wait_until("all are reaped", has_no_children);
        before.wait_for("at the end");
    }
    play(TEST, &[("drops", drops), ("deaf", deaf)]);
}

/// What another part of the program has reaped is an error of that worker only.
#[test]
fn a_child_that_was_reaped_elsewhere_fails_alone() {
    const TEST: &str = "shutdown::a_child_that_was_reaped_elsewhere_fails_alone";
    fn shuts_down() {
        let workers = [ready(TEST, "deaf"), ready(TEST, "polite"), ready(TEST, "deaf")];
        crate::common::kill_process(workers[0].id());
        waitpid(nix::unistd::Pid::from_raw(workers[0].id() as i32), None).expect("a child");
        workers[1].port().close();
        wait_until("the polite one has ended", || is_readable(&workers[1]));
        let mut ends = Worker::shutdown_all(workers, SHORT).into_iter();
        let error = ends.next().expect("the first").expect_err("nothing is left of the child");
        assert_eq!(error.raw_os_error(), Some(Errno::ECHILD as i32), "{error}");
        let end = ends.next().expect("the second").expect("a child of our own");
        assert_eq!(end.status().code(), Some(5));
        assert!(killed(ends.next().expect("the third").expect("a child of our own")));
    }
    play(TEST, &[("shuts_down", shuts_down), ("polite", polite), ("deaf", deaf)]);
}
