//! Pools in tasks of a runtime.

use crate::common::DEADLINE;
use crate::common::board::Board;
use crate::common::census::{Census, has_no_children};
use crate::common::limits::{allow_all_descriptors, allow_more_descriptors};
use crate::common::messages::Rng;
use crate::common::role::{command, play};
use crate::common::wait_until;
use crate::common::watchdog::progress;
use crate::{
    Deed, Fault, LONG, Task, all_by_themselves, builder, kill_one, lasting, plain, serves,
};
use futures_lite::future::poll_once;
use futures_util::future::join_all;
use messageport::{AsyncWorkerPool, CallError, TaskError, WorkerEnd, WorkerPool};
use std::fs::File;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

type Pool = AsyncWorkerPool<Task, u64>;

const SHORT: Duration = Duration::from_millis(20);

fn always(deed: Deed) -> Task {
    Task { number: 7, fault: Fault::Always(deed) }
}

async fn answers(pool: &Pool, number: u64) {
    assert_eq!(*pool.call(&plain(number)).await.expect("a reply").data(), 2 * number);
}

/// Runs a test on every reactor that is compiled in.
fn on_each(body: impl AsyncFn()) {
    #[cfg(feature = "tokio")]
    {
        let current = tokio::runtime::Builder::new_current_thread().enable_all().build();
        current.expect("a runtime").block_on(body());
        let mut several = tokio::runtime::Builder::new_multi_thread();
        let several = several.worker_threads(2).enable_all().build();
        several.expect("a runtime").block_on(body());
    }
    #[cfg(feature = "async-io")]
    futures_lite::future::block_on(body());
}

#[test]
fn tasks_are_answered_while_their_workers_are_killed() {
    const TEST: &str = "tasks::tasks_are_answered_while_their_workers_are_killed";
    const TASKS: u64 = 2_000;
    fn asks() {
        on_each(async || {
            let pool: Pool = builder(TEST, "serves")
                .workers(4)
                .attempts(20)
                .restart_limit(1000)
                .build_async()
                .expect("a pool");
            let (next, answered, over) =
                (AtomicU64::new(0), AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
            let pool = Arc::new(pool);
            let killer = thread::spawn({
                let (pool, over) = (pool.clone(), over.clone());
                move || {
                    let (mut rng, mut kills) = (Rng(7), 0);
                    while !over.load(SeqCst) {
                        kills += u64::from(kill_one(&pool.ids(), &mut rng));
                        thread::sleep(Duration::from_millis(50));
                    }
                    kills
                }
            });
            let calls = (0..8).map(async |_| {
                loop {
                    let number = next.fetch_add(1, SeqCst);
                    if number >= TASKS {
                        return;
                    }
                    let task = Task { number, fault: Fault::Takes(300) };
                    assert_eq!(*pool.call(&task).await.expect("its reply").data(), 2 * number);
                    answered.fetch_add(1, SeqCst);
                    progress();
                }
            });
            join_all(calls).await;
            over.store(true, SeqCst);
            let kills = killer.join().expect("no panic");
            let stats = pool.stats();
            assert_eq!((answered.load(SeqCst), stats.answered), (TASKS, TASKS), "{stats:?}");
            assert!(kills > 0 && stats.restarts <= kills, "{kills} {stats:?}");
            assert_eq!((stats.busy, stats.waiting), (0, 0), "{stats:?}");
            pool.shutdown(DEADLINE).await;
            wait_until("all are reaped", has_no_children);
        });
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

#[test]
fn a_task_whose_future_is_dropped_leaves_a_free_pool() {
    const TEST: &str = "tasks::a_task_whose_future_is_dropped_leaves_a_free_pool";
    fn asks() {
        on_each(async || {
            let pool: Pool = builder(TEST, "serves").workers(1).build_async().expect("a pool");
            answers(&pool, 1).await;
            let before = Census::take();
            let first = pool.ids();
            let task = always(Deed::Hangs);
            let mut hung = Box::pin(pool.call(&task));
            assert!(poll_once(&mut hung).await.is_none(), "it hangs");
            // One that waits in the queue.
            let next = plain(2);
            let mut waiting = Box::pin(pool.call(&next));
            assert!(poll_once(&mut waiting).await.is_none(), "there is no other worker");
            assert_eq!((pool.stats().busy, pool.stats().waiting), (1, 1));
            drop(waiting);
            assert_eq!((pool.stats().busy, pool.stats().waiting), (1, 0));
            // One whose turn comes by the end of the first.
            let mut waiting = Box::pin(pool.call(&next));
            assert!(poll_once(&mut waiting).await.is_none(), "there is no other worker");
            drop(hung);
            assert_eq!(*waiting.await.expect("a reply").data(), 4);
            assert_ne!(pool.ids(), first);
            let late = pool.call_timeout(&task, SHORT).await;
            assert!(matches!(late, Err(TaskError::Timeout)), "{late:?}");
            answers(&pool, 3).await;
            let stats = pool.stats();
            assert_eq!((stats.redone, stats.restarts), (0, 2), "{stats:?}");
            before.wait_for("the same pool with another worker");
            assert!(all_by_themselves(pool.shutdown(DEADLINE).await));
            wait_until("all are reaped", has_no_children);
        });
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

/// A worker that has died while a process that it forked keeps its port, one that hangs, one that
/// is found dead, and one that refuses.
#[test]
fn faults_of_workers_cost_their_tasks_an_attempt() {
    const TEST: &str = "tasks::faults_of_workers_cost_their_tasks_an_attempt";
    fn asks() {
        on_each(async || {
            let board = Arc::new(Board::new());
            let given = board.clone();
            let launch = move || {
                let mut command = command(TEST, "serves");
                given.give(&mut command);
                lasting(command)
            };
            let pool: Pool = WorkerPool::builder(launch)
                .workers(2)
                .attempts(3)
                .attempt_timeout(LONG)
                .build_async()
                .expect("a pool");
            for (number, deed) in [Deed::Forks, Deed::Dies, Deed::Drops].into_iter().enumerate() {
                let task = Task { number: 7, fault: Fault::Once(deed, number as u8) };
                assert_eq!(*pool.call(&task).await.expect("a reply").data(), 14, "{deed:?}");
            }
            assert!(pool.stats().redone >= 3, "{pool:?}");
            match pool.call(&always(Deed::Refuses)).await {
                Err(TaskError::Call(CallError::Refused { text })) => assert_eq!(text, "not today"),
                other => panic!("{other:?}"),
            }
            answers(&pool, 1).await;
            let impatient = builder(TEST, "serves").workers(2).attempts(2).attempt_timeout(SHORT);
            let impatient: Pool = impatient.build_async().expect("a pool");
            match impatient.call(&always(Deed::Hangs)).await {
                Err(TaskError::Lost { attempts: 2, last }) => {
                    assert!(matches!(last.error(), CallError::Timeout), "{last}");
                    assert!(last.to_string().contains("did not reply within the time"), "{last}");
                }
                other => panic!("{other:?}"),
            }
            for (deed, text) in [(Deed::Dies, "signal: 9"), (Deed::Quits, "exit status: 3")] {
                match pool.call(&always(deed)).await {
                    Err(TaskError::Lost { last, .. }) => {
                        assert!(last.to_string().contains(text), "{last}");
                    }
                    other => panic!("{other:?}"),
                }
            }
            // For the forked process, which has a copy of the board.
            board.word(1).store(1, SeqCst);
            drop((pool, impatient));
            wait_until("all are reaped", has_no_children);
        });
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

#[test]
fn a_pool_that_shuts_down_ends_every_task() {
    const TEST: &str = "tasks::a_pool_that_shuts_down_ends_every_task";
    fn asks() {
        on_each(async || {
            let pool: Pool =
                builder(TEST, "serves").workers(1).queue_limit(1).build_async().expect("a pool");
            let (task, next) = (always(Deed::Hangs), plain(1));
            let mut hung = pin!(pool.call(&task));
            let mut waiting = pin!(pool.call(&next));
            assert!(poll_once(&mut hung).await.is_none(), "it hangs");
            assert!(poll_once(&mut waiting).await.is_none(), "there is no other worker");
            let full = pool.call(&next).await;
            assert!(matches!(full, Err(TaskError::QueueFull { limit: 1 })), "{full:?}");
            // Futures that are not polled do not hold it up.
            let ends = pool.shutdown(SHORT).await;
            assert!(matches!(ends[..], [Ok(WorkerEnd::Killed(_))]), "{ends:?}");
            for answer in [hung.await, waiting.await, pool.call(&next).await] {
                assert!(matches!(answer, Err(TaskError::Closed)), "{answer:?}");
            }
            assert!(pool.shutdown(DEADLINE).await.is_empty());
        });
        assert!(has_no_children());
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

#[test]
fn a_lack_of_descriptors_ends_no_pool() {
    const TEST: &str = "tasks::a_lack_of_descriptors_ends_no_pool";
    fn asks() {
        on_each(async || {
            let pool: Pool = builder(TEST, "serves")
                .workers(1)
                .restart_limit(u32::MAX)
                .build_async()
                .expect("a pool");
            answers(&pool, 1).await;
            let id = pool.ids()[0];
            let late = pool.call_timeout(&always(Deed::Dies), SHORT).await;
            assert!(late.is_err(), "{late:?}");
            wait_until("it is reaped", || !pool.ids().contains(&id));
            allow_more_descriptors(4);
            let last = [(); 3].map(|()| File::open("/dev/null").expect("nearly the last ones"));
            // One descriptor is left, for the time; none for a worker.
            let late = pool.call_timeout(&plain(2), Duration::from_millis(50)).await;
            assert!(matches!(late, Err(TaskError::Timeout)), "{late:?}");
            drop(last);
            allow_all_descriptors();
            answers(&pool, 3).await;
            pool.shutdown(DEADLINE).await;
        });
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}
