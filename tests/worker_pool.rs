//! Pools of worker processes: each task is answered once, whatever its workers do.

#![allow(unsafe_code)]

mod common;
#[path = "worker_pool/ends.rs"]
mod ends;
#[path = "worker_pool/faults.rs"]
mod faults;
#[cfg(any(feature = "tokio", feature = "async-io"))]
#[path = "worker_pool/tasks.rs"]
mod tasks;

use common::DEADLINE;
use common::board::Board;
use common::census::{Census, has_no_children};
use common::messages::Rng;
use common::role::{command, play};
use common::watchdog::progress;
use messageport::{Worker, WorkerBuilder, WorkerEnd, WorkerPool, WorkerPoolBuilder, parent_port};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::HashSet;
use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A task: a number to double, and what happens on the way.
#[messageport::message]
#[derive(Clone, Copy)]
struct Task {
    number: u64,
    fault: Fault,
}

#[messageport::message]
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Takes so many microseconds.
    Takes(u32),
    /// Waits until so many workers of this board are at a task of this kind.
    Meets(u32),
    /// As the others say, but only the first time that a worker of this board has this bit.
    Once(Deed, u8),
    Always(Deed),
}

#[messageport::message]
#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
    Dies,
    Hangs,
    /// Closes its port and lives on.
    Leaves,
    /// Forks a process that keeps the port, and dies.
    Forks,
    EatsMemory,
    EatsDescriptors,
    /// Uses more processor time than it may.
    Spins,
    Refuses,
    Drops,
    Quits,
    Panics,
    /// Those that a limit or filter of its builder ends.
    OutgrowsLimit,
    OpensForever,
    SpinsForever,
    MakesADirectory,
}

/// Longer than a test may take without progress: a lost worker is found out in another way.
const LONG: Duration = Duration::from_secs(3600);

type Pool = WorkerPool<Task, u64>;

/// A worker.
fn serves() {
    let responder = parent_port().expect("a port to the parent").responder::<Task, u64>();
    let has_left = faults::serve(responder);
    if has_left {
        loop {
            thread::park();
        }
    }
}

/// A role is killed with the thread that started it. A pool starts workers in the threads that call,
/// and a worker must not end with such a thread.
fn lasting(command: Command) -> WorkerBuilder {
    Worker::builder(command).end_with_parent()
}

fn builder(test: &'static str, role: &'static str) -> WorkerPoolBuilder<Task, u64> {
    let launch = move || lasting(command(test, role));
    WorkerPool::builder(launch).attempt_timeout(LONG)
}

/// Workers that share a board with the caller.
fn builder_with_board(test: &'static str, board: &Arc<Board>) -> WorkerPoolBuilder<Task, u64> {
    let board = board.clone();
    let launch = move || {
        let mut command = command(test, "serves");
        board.give(&mut command);
        lasting(command)
    };
    WorkerPool::builder(launch).attempt_timeout(LONG)
}

fn plain(number: u64) -> Task {
    Task { number, fault: Fault::None }
}

fn all_by_themselves(ends: Vec<io::Result<WorkerEnd>>) -> bool {
    ends.into_iter()
        .all(|end| matches!(end.expect("a child"), WorkerEnd::Exited(status) if status.success()))
}

/// Kills one of the workers, if there is one.
fn kill_one(ids: &[u32], rng: &mut Rng) -> bool {
    match ids.len() {
        0 => false,
        len => {
            let id = Pid::from_raw(ids[rng.below(len as u64) as usize] as i32);
            // It may have been reaped meanwhile.
            kill(id, Signal::SIGKILL).is_ok()
        }
    }
}

#[test]
fn ten_thousand_tasks_are_answered_while_their_workers_are_killed() {
    const TEST: &str = "ten_thousand_tasks_are_answered_while_their_workers_are_killed";
    const TASKS: u64 = 10_000;
    fn asks() {
        let before = Census::take();
        let pool = builder(TEST, "serves")
            .workers(4)
            .attempts(20)
            .restart_limit(1000)
            .build()
            .expect("a pool");
        let (next, done) = (AtomicU64::new(0), AtomicBool::new(false));
        let answers = Mutex::new(Vec::new());
        let call = || {
            loop {
                let number = next.fetch_add(1, SeqCst);
                if number >= TASKS {
                    return;
                }
                let answer = pool.call(&Task { number, fault: Fault::Takes(300) });
                answers.lock().expect("no panic").push((number, answer.expect("its reply")));
                progress();
            }
        };
        let kills = thread::scope(|scope| {
            let callers = [(); 6].map(|()| scope.spawn(call));
            let killer = scope.spawn(|| {
                let (mut rng, mut kills) = (Rng(7), 0);
                while !done.load(SeqCst) {
                    kills += u64::from(kill_one(&pool.ids(), &mut rng));
                    thread::sleep(Duration::from_millis(50));
                }
                kills
            });
            for caller in callers {
                caller.join().expect("no panic");
            }
            done.store(true, SeqCst);
            killer.join().expect("no panic")
        });
        let answers = answers.into_inner().expect("no panic");
        let numbers: HashSet<_> = answers.iter().map(|(number, _)| *number).collect();
        assert_eq!((answers.len() as u64, numbers.len() as u64), (TASKS, TASKS));
        assert!(answers.iter().all(|(number, answer)| *answer == 2 * number));
        let stats = pool.stats();
        assert_eq!((stats.answered, stats.waiting, stats.busy), (TASKS, 0, 0), "{stats:?}");
        assert!(kills > 0 && stats.restarts > 0 && stats.restarts <= kills, "{kills} {stats:?}");
        common::role::say(&format!("{TEST}: {kills} kills, {stats:?}"));
        // One that was killed last may not have been found out.
        pool.shutdown(DEADLINE);
        assert!(has_no_children());
        drop(pool);
        before.wait_for("at the end");
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

#[test]
fn a_pool_starts_its_workers_and_shares_the_tasks_between_them() {
    const TEST: &str = "a_pool_starts_its_workers_and_shares_the_tasks_between_them";
    fn asks() {
        let pool = builder(TEST, "serves").workers(3).build().expect("a pool");
        assert_eq!(pool.ids().len(), 3);
        for number in 0..100 {
            assert_eq!(pool.call(&plain(number)).expect("a reply"), 2 * number);
        }
        thread::scope(|scope| {
            for number in 0..30 {
                let pool = &pool;
                scope.spawn(move || {
                    let task = Task { number, fault: Fault::Takes(500) };
                    assert_eq!(pool.call(&task).expect("a reply"), 2 * number);
                });
            }
        });
        let stats = pool.stats();
        assert_eq!((stats.answered, stats.redone, stats.restarts), (130, 0, 0), "{stats:?}");
        let words = format!("{pool:?}");
        assert!(words.contains("answered: 130"), "{words}");
        assert!(all_by_themselves(pool.shutdown(DEADLINE)));
        assert!(pool.shutdown(DEADLINE).is_empty(), "none is left");
        assert!(has_no_children());
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}
