//! Processes killed while they transfer a port: it is then at exactly one owner, or closed at both
//! ends, and nothing is left behind.

use crate::common::census::{Census, has_no_children};
use crate::common::messages::Rng;
use crate::common::role::{command, play, skip};
use crate::common::watchdog::progress;
use crate::common::{DEADLINE, kill_process, receive_end, receive_text, wanted};
use crate::{filter, number_of, token};
use messageport::{
    Buffer, CloseReason, MessageChannel, MessagePort, PostError, RecvError, Transferable, Worker,
    parent_port,
};
use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::Duration;

/// How many processes each step kills.
fn kills() -> u64 {
    wanted("MESSAGEPORT_MOVE_KILLS", 16)
}

/// How many times the port comes by before the process is to be killed at a call.
const CALM: &str = "MESSAGEPORT_TEST_CALM";
const STEP: &str = "MESSAGEPORT_TEST_STEP";

/// The calls before which the kernel kills, and what each is part of.
const STEPS: [(&str, i64); 6] = [
    ("the packet is received", libc::SYS_recvmsg),
    ("the port is mapped", libc::SYS_mmap),
    ("its sockets are looked at", libc::SYS_getsockopt),
    ("the packet is sent", libc::SYS_sendmsg),
    ("the mapping goes", libc::SYS_munmap),
    ("the descriptors go", libc::SYS_close),
];

/// Takes the port, posts a number on it, and sends it back, again and again, until killed.
fn mover() {
    let carrier = parent_port().expect("a port to the parent");
    let calm = wanted(CALM, u64::MAX);
    let step = wanted(STEP, 0) as i64;
    for number in 0.. {
        if number == calm
            && let Err(error) = filter::kill_at(step)
        {
            return skip(&format!("no seccomp filter here: {error}"));
        }
        let Ok(event) = carrier.recv() else { return };
        let port = event.take_port().expect("a port");
        let _token = event.take_descriptor().expect("a descriptor");
        assert_eq!(event.take_buffer().expect("a buffer").len(), 5000);
        drop(event);
        let Ok(()) = port.post_message(&number) else { return };
        if carrier.post_text_with("back", list(port)).is_err() {
            return;
        }
        progress();
    }
}

fn list(port: MessagePort) -> Vec<Transferable> {
    vec![token(7).into(), port.into(), Buffer::new(5000).expect("a buffer").into()]
}

/// Sends a port back and forth until the other process dies; returns where the port is, how many
/// numbers came on it, and how the process ended.
fn play_with(worker: Worker, mut on_first: impl FnMut()) -> std::process::ExitStatus {
    let (carrier, mut child) = worker.into_parts();
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    let mut there = None;
    let mut here = Some(port2);
    let mut round = 0u64;
    loop {
        if let Some(port) = here.take() {
            match carrier.post_text_with("yours", list(port)) {
                Ok(()) => there = Some(()),
                Err(error) => {
                    let (reason, list) = error.into_parts();
                    assert!(matches!(reason, PostError::Closed { .. }), "{reason}");
                    here = list.into_iter().find_map(|item| match item {
                        Transferable::Port(port) => Some(port),
                        _ => None,
                    });
                    break;
                }
            }
        }
        match carrier.recv_timeout(DEADLINE) {
            Ok(event) => {
                here = Some(event.take_port().expect("a port"));
                assert_eq!(number_of(&event.take_descriptor().expect("a descriptor")), 7);
                assert_eq!(event.take_buffer().expect("a buffer").len(), 5000);
                there = None;
                round += 1;
                if round == 1 {
                    on_first();
                }
            }
            Err(RecvError::Closed { reason }) => {
                assert_eq!(reason, CloseReason::PeerDied);
                break;
            }
            Err(error) => panic!("{error}\n{carrier:#?}\n{port1:#?}"),
        }
        progress();
    }
    // Every number that was posted before is there, in order, and at most one more.
    if let Some(port2) = here {
        assert!(!port1.is_closed(), "it has an owner");
        port2.post_message(&u64::MAX).expect("room");
        port1.post_text("there").expect("room");
        assert_eq!(receive_text(&port2), "there");
        for number in (0..round).chain([u64::MAX]) {
            assert_eq!(next(&port1), number);
        }
        drop(port2);
        assert_eq!(receive_end(&port1), CloseReason::PeerDropped);
    } else {
        assert!(there.is_some());
        let mut numbers = 0;
        loop {
            match port1.recv_timeout(DEADLINE) {
                Ok(event) => {
                    assert_eq!(*event.data::<u64>().expect("a number"), numbers);
                    numbers += 1;
                }
                Err(RecvError::Closed { reason }) => {
                    let lost = matches!(reason, CloseReason::PeerDied | CloseReason::PeerDropped);
                    assert!(lost, "{reason:?}");
                    break;
                }
                Err(error) => panic!("{error}\n{port1:#?}"),
            }
        }
        assert!(numbers == round || numbers == round + 1, "{numbers} after {round} rounds");
        assert!(port1.post_text("too late").is_err());
    }
    child.wait().expect("a child of our own")
}

fn next(port: &MessagePort) -> u64 {
    let event = port.recv_timeout(DEADLINE).unwrap_or_else(|error| panic!("{error}\n{port:#?}"));
    event.data::<u64>().expect("a number").to_native()
}

#[test]
fn f5_f6_a_process_killed_at_a_step_of_a_transfer_leaves_one_owner_or_none() {
    const TEST: &str =
        "kills::f5_f6_a_process_killed_at_a_step_of_a_transfer_leaves_one_owner_or_none";
    fn root() {
        let before = Census::take();
        for (what, step) in STEPS {
            for round in 0..kills() {
                let mut command = command(TEST, "mover");
                command.env(CALM, (round % 4).to_string()).env(STEP, step.to_string());
                command.stderr(std::process::Stdio::null());
                let worker = Worker::spawn(command).expect("a worker");
                let status = play_with(worker, || {});
                // Without a filter it says why, and ends.
                let killed = status.signal() == Some(libc::SIGSYS);
                assert!(killed || status.success(), "when {what}: {status}");
                before.wait_for(format_args!("when {what}, round {round}"));
                assert!(has_no_children());
                if !killed {
                    return skip("no seccomp filter here");
                }
            }
        }
    }
    play(TEST, &[("root", root), ("mover", mover)]);
}

#[test]
fn f5_f6_a_process_killed_at_random_during_a_transfer_leaves_one_owner_or_none() {
    const TEST: &str =
        "kills::f5_f6_a_process_killed_at_random_during_a_transfer_leaves_one_owner_or_none";
    fn root() {
        let before = Census::take();
        for round in 0..4 * kills() {
            let worker = Worker::spawn(command(TEST, "mover")).expect("a worker");
            let id = worker.id();
            let mut killer = None;
            let mut rng = Rng(round);
            let status = play_with(worker, || {
                let mut rng = Rng(rng.next());
                killer = Some(thread::spawn(move || {
                    rng.dawdle(Duration::from_millis(2));
                    kill_process(id);
                }));
            });
            killer.take().expect("the port came by").join().expect("a process to kill");
            assert_eq!(status.signal(), Some(libc::SIGKILL), "round {round}: {status}");
            before.wait_for(format_args!("round {round}"));
            assert!(has_no_children());
        }
    }
    play(TEST, &[("root", root), ("mover", mover)]);
}
