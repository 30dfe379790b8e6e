//! Child processes that have a port: how they start, what they inherit, and how they end.

#![allow(unsafe_code)]

mod common;
#[path = "common/filter.rs"]
mod filter;
#[cfg(feature = "seccomp")]
#[path = "worker/filters.rs"]
mod filters;
#[path = "worker/options.rs"]
mod options;
#[path = "worker/reaping.rs"]
mod reaping;
#[path = "worker/shutdown.rs"]
mod shutdown;

use common::board::Board;
use common::census::{Census, REGION, has_no_children};
use common::role::{command, end_with_parent, play};
use common::{die, proc, receive, receive_end, receive_text, refusal, wait_until};
use messageport::{
    CloseReason, MessageChannel, MessagePort, ParentPortError, SpawnError, Worker, parent_port,
};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, getppid};
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

fn parent() -> MessagePort {
    parent_port().expect("a port to the parent")
}

/// Answers until the parent leaves.
fn echo() {
    let port = parent();
    for event in &port {
        port.post_bytes(event.bytes()).expect("room");
    }
}

fn start(test: &str, role: &str) -> Worker {
    Worker::spawn(command(test, role)).expect("a worker")
}

fn answers(port: &MessagePort, text: &str) {
    port.post_text(text).expect("room");
    assert_eq!(receive(port).bytes(), text.as_bytes());
}

fn is_gone(id: u32) -> bool {
    kill(Pid::from_raw(id as i32), None) == Err(Errno::ESRCH)
}

#[test]
fn a_worker_has_a_port_of_the_sizes_that_its_parent_chose() {
    const TEST: &str = "a_worker_has_a_port_of_the_sizes_that_its_parent_chose";
    fn tells() {
        let port = parent();
        let sizes = (port.capacity() as u64, port.limit() as u64, port.schema());
        port.post_message(&sizes).expect("room");
        assert!(!port.is_trusted(), "trust is given, not inherited");
        echo_until_closed(&port);
    }
    fn echo_until_closed(port: &MessagePort) {
        for event in port {
            port.post_bytes(event.bytes()).expect("room");
        }
    }
    fn asks() {
        let before = Census::take();
        let sizes = MessageChannel::builder().capacity(8192).limit(1 << 20).schema(9);
        let mut worker = Worker::spawn_with(command(TEST, "tells"), sizes).expect("a worker");
        let told = receive(worker.port()).deserialize::<(u64, u64, u64)>().expect("sizes");
        assert_eq!(told, (8192, 1 << 20, 9));
        for round in 0..100 {
            answers(worker.port(), &format!("round {round}"));
        }
        assert!(worker.try_wait().expect("a child").is_none());
        worker.port().close();
        assert!(worker.wait().expect("a child").success());
        drop(worker);
        before.wait_for("at the end");
        assert!(has_no_children());
    }
    play(TEST, &[("asks", asks), ("tells", tells)]);
}

#[test]
fn what_is_posted_before_the_child_has_its_port_waits_for_it() {
    const TEST: &str = "what_is_posted_before_the_child_has_its_port_waits_for_it";
    fn late() {
        let board = Board::given();
        wait_until("all is posted", || board.word(0).load(SeqCst) == 1);
        let port = parent();
        for number in 0..5000u64 {
            assert_eq!(receive(&port).deserialize::<u64>().expect("a number"), number);
        }
        assert_eq!(receive_end(&port), CloseReason::PeerClosed);
    }
    fn early() {
        let board = Board::new();
        let mut command = command(TEST, "late");
        board.give(&mut command);
        let mut worker = Worker::spawn(command).expect("a worker");
        for number in 0..5000u64 {
            worker.port().post_message(&number).expect("room");
        }
        worker.port().close();
        board.word(0).store(1, SeqCst);
        assert!(worker.wait().expect("a child").success());
    }
    play(TEST, &[("early", early), ("late", late)]);
}

#[test]
fn the_port_to_the_parent_exists_once() {
    const TEST: &str = "the_port_to_the_parent_exists_once";
    fn child() {
        let port = parent();
        let again = parent_port().expect_err("it is taken");
        assert!(matches!(again, ParentPortError::AlreadyTaken), "{again}");
        port.post_text("unharmed").expect("room");
        drop(port);
        let again = parent_port().expect_err("it was taken");
        assert!(matches!(again, ParentPortError::AlreadyTaken), "{again}");
        // From several threads at once, too.
        let threads = [(); 4].map(|()| thread::spawn(|| parent_port().is_err()));
        assert!(threads.into_iter().all(|thread| thread.join().expect("no panic")));
    }
    fn watches() {
        let mut worker = start(TEST, "child");
        assert_eq!(receive_text(worker.port()), "unharmed");
        assert_eq!(receive_end(worker.port()), CloseReason::PeerDropped);
        assert!(worker.wait().expect("a child").success());
    }
    play(TEST, &[("watches", watches), ("child", child)]);
}

#[test]
fn a_process_that_was_not_spawned_as_a_worker_has_no_parent_port() {
    const TEST: &str = "a_process_that_was_not_spawned_as_a_worker_has_no_parent_port";
    fn plain() {
        for _ in 0..2 {
            let error = parent_port().expect_err("no worker");
            assert!(matches!(error, ParentPortError::NotAWorker { .. }), "{error}");
            assert!(error.to_string().contains("MESSAGEPORT_PARENT"), "{error}");
        }
    }
    fn starts() {
        assert!(command(TEST, "plain").status().expect("a child").success());
    }
    play(TEST, &[("starts", starts), ("plain", plain)]);
}

#[test]
fn a_child_of_a_worker_is_no_worker_though_it_has_its_environment() {
    const TEST: &str = "a_child_of_a_worker_is_no_worker_though_it_has_its_environment";
    fn grandchild() {
        let value = std::env::var("MESSAGEPORT_PARENT").expect("it was passed on");
        let number: i32 = value.split(':').next().and_then(|part| part.parse().ok()).expect(&value);
        // Whatever this process opens under that number is not to be taken from it.
        let mine: Vec<OwnedFd> = (0..100)
            .flat_map(|_| {
                let (one, two) = UnixStream::pair().expect("sockets");
                [OwnedFd::from(one), OwnedFd::from(two)]
            })
            .collect();
        assert!(mine.iter().any(|fd| fd.as_raw_fd() == number), "{value}");
        let before = Census::take();
        let error = parent_port().expect_err("no worker");
        assert!(matches!(error, ParentPortError::NotAWorker { .. }), "{error}");
        before.wait_for("at the end");
        drop(mine);
    }
    fn worker() {
        let port = parent();
        assert!(command(TEST, "grandchild").status().expect("a child").success());
        port.post_text("it is none").expect("room");
    }
    fn starts() {
        let mut worker = start(TEST, "worker");
        assert_eq!(receive_text(worker.port()), "it is none");
        assert!(worker.wait().expect("a child").success());
    }
    play(TEST, &[("starts", starts), ("worker", worker), ("grandchild", grandchild)]);
}

/// What this process has open beside its standard streams: descriptors that are of no use to a
/// child.
fn sockets_and_regions() -> Vec<String> {
    fs::read_dir(proc("self/fd"))
        .expect("a process has descriptors")
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .filter(|link| link.starts_with("socket:") || link.contains(REGION))
        .collect()
}

#[test]
fn no_other_child_inherits_anything_of_a_port() {
    const TEST: &str = "no_other_child_inherits_anything_of_a_port";
    fn bystander() {
        assert_eq!(sockets_and_regions(), [] as [String; 0]);
    }
    fn worker() {
        // What a worker inherits is one socket.
        assert_eq!(sockets_and_regions().len(), 1);
        let port = parent();
        // A thread closes what was inherited, where /proc does not tell that nothing waits in it.
        wait_until("region, doorbell, attachments", || sockets_and_regions().len() == 3);
        assert!(command(TEST, "bystander").status().expect("a child").success());
        port.post_text("ready").expect("room");
        echo_rest(&port);
    }
    fn echo_rest(port: &MessagePort) {
        for event in port {
            port.post_bytes(event.bytes()).expect("room");
        }
    }
    fn starts() {
        let _channel = MessageChannel::new().expect("a channel");
        let workers = [(); 3].map(|()| start(TEST, "worker"));
        assert!(command(TEST, "bystander").status().expect("a child").success());
        for worker in &workers {
            assert_eq!(receive_text(worker.port()), "ready");
            answers(worker.port(), "one of many");
        }
    }
    play(TEST, &[("starts", starts), ("worker", worker), ("bystander", bystander)]);
}

// Ends of the child.

#[test]
fn a_child_that_ends_before_it_takes_its_port_closes_it() {
    const TEST: &str = "a_child_that_ends_before_it_takes_its_port_closes_it";
    fn ends() {
        std::process::exit(3);
    }
    fn watches() {
        let before = Census::take();
        let mut worker = start(TEST, "ends");
        worker.port().post_text("never read").expect("room");
        assert_eq!(worker.wait().expect("a child").code(), Some(3));
        assert_eq!(worker.try_wait().expect("a child").and_then(|status| status.code()), Some(3));
        assert_eq!(receive_end(worker.port()), CloseReason::PeerDied);
        assert_eq!(worker.port().backlog().messages, 1);
        drop(worker);
        before.wait_for("at the end");
    }
    play(TEST, &[("watches", watches), ("ends", ends)]);
}

/// Takes no notice of anything.
fn deaf() {
    let port = parent();
    port.post_text("ready").expect("room");
    loop {
        thread::park();
    }
}

#[test]
fn a_terminated_worker_is_killed_at_once() {
    const TEST: &str = "a_terminated_worker_is_killed_at_once";
    fn terminates() {
        let before = Census::take();
        let worker = start(TEST, "deaf");
        assert_eq!(receive_text(worker.port()), "ready");
        let id = worker.id();
        let status = worker.terminate().expect("a child of our own");
        assert_eq!(status.signal(), Some(9));
        assert!(is_gone(id) && has_no_children());
        before.wait_for("at the end");
        // One that has ended already.
        let mut worker = Worker::spawn(Command::new("true")).expect("a worker");
        assert!(worker.wait().expect("a child").success());
        assert!(worker.terminate().expect("its status").success());
    }
    play(TEST, &[("terminates", terminates), ("deaf", deaf)]);
}

#[test]
fn a_dropped_worker_that_takes_no_notice_is_killed_and_reaped() {
    const TEST: &str = "a_dropped_worker_that_takes_no_notice_is_killed_and_reaped";
    fn drops() {
        let before = Census::take();
        let worker = start(TEST, "deaf");
        assert_eq!(receive_text(worker.port()), "ready");
        let id = worker.id();
        drop(worker);
        assert!(is_gone(id) && has_no_children());
        before.wait_for("at the end");
    }
    play(TEST, &[("drops", drops), ("deaf", deaf)]);
}

#[test]
fn a_dropped_worker_that_takes_notice_ends_by_itself() {
    const TEST: &str = "a_dropped_worker_that_takes_notice_ends_by_itself";
    fn polite() {
        let board = Board::given();
        let port = parent();
        assert_eq!(receive_text(&port), "last words");
        assert_eq!(receive_end(&port), CloseReason::PeerClosed);
        board.word(0).store(1, SeqCst);
    }
    fn drops() {
        let board = Board::new();
        let mut command = command(TEST, "polite");
        board.give(&mut command);
        let worker = Worker::spawn(command).expect("a worker");
        let id = worker.id();
        worker.port().post_text("last words").expect("room");
        // The grace may be too short on a busy machine, so the child has heard of it before.
        worker.port().close();
        wait_until("the child has noticed", || board.word(0).load(SeqCst) == 1);
        drop(worker);
        assert!(is_gone(id) && has_no_children());
    }
    play(TEST, &[("drops", drops), ("polite", polite)]);
}

#[test]
fn the_parts_of_a_worker_go_their_own_ways() {
    const TEST: &str = "the_parts_of_a_worker_go_their_own_ways";
    fn lasts() {
        let port = parent();
        port.post_text("ready").expect("room");
        assert_eq!(receive_end(&port), CloseReason::PeerDropped);
        // The port is gone, and this process is not ended by that.
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).expect("a line");
        assert_eq!(line, "go\n");
    }
    fn parts() {
        let mut command = command(TEST, "lasts");
        command.stdin(Stdio::piped());
        let (port, mut child) = Worker::spawn(command).expect("a worker").into_parts();
        assert_eq!(receive_text(&port), "ready");
        drop(port);
        let mut input = child.stdin.take().expect("it is piped");
        std::io::Write::write_all(&mut input, b"go\n").expect("the child reads");
        assert!(child.wait().expect("a child").success());
        // The other way round: the process goes, the port stays.
        let (port, mut child) = start(TEST, "echo").into_parts();
        answers(&port, "still there");
        child.kill().expect("a child of our own");
        child.wait().expect("a child of our own");
        drop(child);
        assert_eq!(receive_end(&port), CloseReason::PeerDied);
        assert_eq!(refusal(port.post_text("late")), CloseReason::PeerDied);
    }
    play(TEST, &[("parts", parts), ("lasts", lasts), ("echo", echo)]);
}

#[test]
fn a_program_that_cannot_be_started_leaves_nothing_behind() {
    const TEST: &str = "a_program_that_cannot_be_started_leaves_nothing_behind";
    fn tries() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let script = directory.path().join("not-executable");
        File::create(&script).expect("a file");
        let before = Census::take();
        for program in ["/nonexistent/program".as_ref(), script.as_path(), directory.path()] {
            for _ in 0..5 {
                let error = Worker::spawn(Command::new(program)).expect_err("no program");
                assert!(matches!(error, SpawnError::Program { .. }), "{error}");
                let words = error.to_string();
                assert!(words.contains(&*program.to_string_lossy()), "{words}");
                before.wait_for("at the end");
                assert!(has_no_children());
            }
        }
        let mut command = Command::new("true");
        command.current_dir("/nonexistent");
        assert!(Worker::spawn(command).is_err());
        before.wait_for("at the end");
    }
    play(TEST, &[("tries", tries)]);
}

// Ends of the parent, and generations.

#[test]
fn a_worker_whose_parent_dies_is_told_and_lives_on() {
    const TEST: &str = "a_worker_whose_parent_dies_is_told_and_lives_on";
    const ID: usize = 0;
    const END: usize = 1;
    fn orphan() {
        end_with_parent(false);
        let board = Board::given();
        let port = parent();
        let parent_id = getppid();
        board.word(ID).store(std::process::id().into(), SeqCst);
        assert_eq!(receive_text(&port), "before");
        assert_eq!(receive_end(&port), CloseReason::PeerDied);
        assert_eq!(refusal(port.post_text("late")), CloseReason::PeerDied);
        wait_until("another process has adopted this one", || getppid() != parent_id);
        board.word(END).store(1, SeqCst);
    }
    fn dies() {
        let board = Board::given();
        // The grandchild finds the board in the environment.
        let worker = start(TEST, "orphan");
        worker.port().post_text("before").expect("room");
        wait_until("the child is ready", || board.word(ID).load(SeqCst) != 0);
        die();
    }
    fn watches() {
        let board = Board::new();
        let mut command = command(TEST, "dies");
        board.give(&mut command);
        let status = command.status().expect("a child");
        assert_eq!(status.signal(), Some(9));
        wait_until("the orphan has said what it saw", || board.word(END).load(SeqCst) == 1);
    }
    play(TEST, &[("watches", watches), ("dies", dies), ("orphan", orphan)]);
}

#[test]
fn workers_have_workers_of_their_own() {
    const TEST: &str = "workers_have_workers_of_their_own";
    fn relays() {
        let port = parent();
        let below = start(TEST, "echo");
        for event in &port {
            below.port().post_bytes(event.bytes()).expect("room");
            port.post_bytes(receive(below.port()).bytes()).expect("room");
        }
    }
    fn asks() {
        let worker = start(TEST, "relays");
        for round in 0..100 {
            answers(worker.port(), &format!("down and up {round}"));
        }
    }
    play(TEST, &[("asks", asks), ("relays", relays), ("echo", echo)]);
}

#[test]
fn many_workers_do_not_mix_up_their_ports() {
    const TEST: &str = "many_workers_do_not_mix_up_their_ports";
    fn asks() {
        let before = Census::take();
        let workers: Vec<_> = (0..8).map(|_| start(TEST, "echo")).collect();
        for round in 0..20 {
            for (number, worker) in workers.iter().enumerate() {
                worker.port().post_text(&format!("{number} {round}")).expect("room");
            }
            for (number, worker) in workers.iter().enumerate().rev() {
                let expected = format!("{number} {round}");
                assert_eq!(receive(worker.port()).bytes(), expected.as_bytes());
            }
        }
        for worker in &workers {
            worker.port().close();
        }
        for mut worker in workers {
            assert!(worker.wait().expect("a child").success());
        }
        before.wait_for("at the end");
        assert!(has_no_children());
    }
    play(TEST, &[("asks", asks), ("echo", echo)]);
}
