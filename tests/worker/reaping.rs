//! Who else may have a part in a child: a debugger, another reaper, a forked copy of the parent.

#![allow(unsafe_code)]

use crate::common::board::Board;
use crate::common::census::Census;
use crate::common::role::{command, play, skip};
use crate::common::{receive_text, wait_until};
use crate::{deaf, is_gone, start};
use messageport::Worker;
use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::io;
use std::mem;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

const TARGET: usize = 0;
const STATE: usize = 1;
const TRACED: u64 = 1;
const REFUSED: u64 = 2;

/// Traces the process that the board names, and does nothing more.
fn tracer() {
    let board = Board::given();
    wait_until("there is a process to trace", || board.word(TARGET).load(SeqCst) != 0);
    let target = board.word(TARGET).load(SeqCst) as libc::pid_t;
    // SAFETY: this request takes integers only.
    let answer = unsafe { libc::ptrace(libc::PTRACE_SEIZE, target, 0usize, 0usize) };
    board.word(STATE).store(if answer == 0 { TRACED } else { REFUSED }, SeqCst);
    loop {
        thread::park();
    }
}

/// A worker that takes no notice of anything, and the process that traces it.
fn traced(test: &str) -> Option<(Worker, Child)> {
    let board = Board::new();
    let mut tracer = command(test, "tracer");
    board.give(&mut tracer);
    let mut tracer = tracer.spawn().expect("a child");
    let worker = start(test, "deaf");
    assert_eq!(receive_text(worker.port()), "ready");
    board.word(TARGET).store(worker.id().into(), SeqCst);
    wait_until("the tracer has tried", || board.word(STATE).load(SeqCst) != 0);
    if board.word(STATE).load(SeqCst) == TRACED {
        return Some((worker, tracer));
    }
    skip("this machine lets no process trace another");
    tracer.kill().expect("a child of our own");
    tracer.wait().expect("a child of our own");
    None
}

#[test]
fn a_child_that_another_process_traces_holds_up_no_drop() {
    const TEST: &str = "reaping::a_child_that_another_process_traces_holds_up_no_drop";
    fn drops() {
        let Some((worker, mut tracer)) = traced(TEST) else { return };
        let id = worker.id();
        // It returns: its end is the tracer's to take.
        drop(worker);
        assert!(!is_gone(id), "the tracer keeps it");
        tracer.kill().expect("a child of our own");
        tracer.wait().expect("a child of our own");
        // The next worker to come or go reaps it.
        wait_until("it is reaped", || {
            drop(Worker::spawn(Command::new("true")).expect("a worker"));
            is_gone(id)
        });
    }
    play(TEST, &[("drops", drops), ("deaf", deaf), ("tracer", tracer)]);
}

#[test]
fn a_child_that_another_process_traces_holds_up_no_wait() {
    const TEST: &str = "reaping::a_child_that_another_process_traces_holds_up_no_wait";
    fn waits() {
        let Some((mut worker, mut tracer)) = traced(TEST) else { return };
        assert!(worker.try_wait().expect("a child").is_none());
        crate::common::kill_process(worker.id());
        let error = worker.wait().expect_err("the tracer has its status");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        assert!(worker.try_wait().expect("a child").is_none());
        let error = worker.terminate().expect_err("the tracer has its status");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        tracer.kill().expect("a child of our own");
        tracer.wait().expect("a child of our own");
    }
    play(TEST, &[("waits", waits), ("deaf", deaf), ("tracer", tracer)]);
}

/// From here on a signal that this process sends by number ends it.
fn forbid_signals_by_number() -> bool {
    let calls = [libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo];
    for call in calls {
        if let Err(error) = crate::filter::kill_at(call) {
            skip(&format!("no seccomp filter here: {error}"));
            return false;
        }
    }
    true
}

#[test]
fn no_worker_is_signalled_by_number() {
    const TEST: &str = "reaping::no_worker_is_signalled_by_number";
    fn drops() {
        let (dropped, terminated) = (start(TEST, "deaf"), start(TEST, "deaf"));
        for worker in [&dropped, &terminated] {
            assert_eq!(receive_text(worker.port()), "ready");
        }
        if forbid_signals_by_number() {
            drop(dropped);
            terminated.terminate().expect("a child of our own");
        }
    }
    play(TEST, &[("drops", drops), ("deaf", deaf)]);
}

#[test]
fn a_child_that_another_thread_reaped_counts_as_gone() {
    const TEST: &str = "reaping::a_child_that_another_thread_reaped_counts_as_gone";
    fn reaps_all() {
        let before = Census::take();
        static ENOUGH: AtomicBool = AtomicBool::new(false);
        let reaper = thread::spawn(|| {
            while !ENOUGH.load(SeqCst) {
                let _ = waitpid(None, Some(WaitPidFlag::WNOHANG));
                thread::yield_now();
            }
        });
        for _ in 0..20 {
            let worker = Worker::spawn(Command::new("true")).expect("a worker");
            let id = worker.id();
            wait_until("the other one has reaped it", || is_gone(id));
            drop(worker);
            let mut worker = Worker::spawn(Command::new("true")).expect("a worker");
            // Either of the two may be first.
            if let Err(error) = worker.wait() {
                assert_eq!(error.raw_os_error(), Some(libc::ECHILD), "{error}");
            }
        }
        let deaf = start(TEST, "deaf");
        assert_eq!(receive_text(deaf.port()), "ready");
        let id = deaf.id();
        drop(deaf);
        wait_until("it was killed", || is_gone(id));
        ENOUGH.store(true, SeqCst);
        reaper.join().expect("no panic");
        // No pidfd waits for what is never reaped.
        before.wait_for("at the end");
    }
    play(TEST, &[("reaps_all", reaps_all), ("deaf", deaf)]);
}

/// A fork of this process with a number of our choice, which does nothing. `None` if another
/// process has the number, or this one may not choose.
fn bystander(number: u32) -> Option<Pid> {
    let wanted = [number as libc::pid_t];
    // SAFETY: all fields of this C struct may be zero.
    let mut how: libc::clone_args = unsafe { mem::zeroed() };
    how.exit_signal = libc::SIGCHLD as u64;
    how.set_tid = wanted.as_ptr() as u64;
    how.set_tid_size = 1;
    // SAFETY: without CLONE_VM it is a fork; the struct is valid for the call, with its length.
    let answer = unsafe { libc::syscall(libc::SYS_clone3, &raw const how, mem::size_of_val(&how)) };
    match Errno::result(answer) {
        Ok(0) => loop {
            // SAFETY: the call only waits for a signal.
            unsafe { libc::pause() };
        },
        Ok(id) => Some(Pid::from_raw(id as i32)),
        Err(_) => None,
    }
}

#[test]
fn the_next_owner_of_a_child_s_number_is_left_alone() {
    const TEST: &str = "reaping::the_next_owner_of_a_child_s_number_is_left_alone";
    fn drops() {
        // SAFETY: no handler of this program's is set.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.expect("a signal of our own");
        let (mut count, mut tries) = (0, 0);
        while count < 2 && tries < 20 {
            tries += 1;
            let worker = Worker::spawn(Command::new("true")).expect("a worker");
            let id = worker.id();
            wait_until("the child has ended", || is_gone(id));
            let Some(bystander) = bystander(id) else { continue };
            match count {
                0 => drop(worker),
                _ => {
                    let error = worker.terminate().expect_err("nothing is left of the child");
                    assert_eq!(error.raw_os_error(), Some(libc::ECHILD), "{error}");
                }
            }
            count += 1;
            let is_there = waitpid(bystander, Some(WaitPidFlag::WNOHANG));
            assert_eq!(is_there, Ok(WaitStatus::StillAlive), "it was none of ours");
            crate::common::kill_process(bystander.as_raw() as u32);
            wait_until("it has ended", || is_gone(bystander.as_raw() as u32));
        }
        if count < 2 {
            skip("this machine lets no process choose the number of another");
        }
    }
    play(TEST, &[("drops", drops)]);
}

#[test]
fn a_copy_of_a_worker_in_a_forked_child_does_no_harm() {
    const TEST: &str = "reaping::a_copy_of_a_worker_in_a_forked_child_does_no_harm";
    fn forks() {
        let mut worker = start(TEST, "deaf");
        assert_eq!(receive_text(worker.port()), "ready");
        // SAFETY: the child drops one value and ends; no other thread holds anything of it.
        match unsafe { fork() }.expect("a child") {
            ForkResult::Child => {
                drop(worker);
                // SAFETY: the call ends this process.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                let status = waitpid(child, None).expect("a child");
                assert_eq!(status, WaitStatus::Exited(child, 0));
            }
        }
        assert!(worker.try_wait().expect("a child").is_none(), "it was the copy that was dropped");
    }
    play(TEST, &[("forks", forks), ("deaf", deaf)]);
}
