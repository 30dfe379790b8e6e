//! Limits of a pool, and how it ends: every task that is open then ends with its own error.

use crate::common::board::Board;
use crate::common::census::{Census, has_no_children};
use crate::common::limits::{
    allow_all_address_space, allow_all_descriptors, allow_more_address_space,
    allow_more_descriptors,
};
use crate::common::role::{command, play};
use crate::common::{DEADLINE, wait_until};
use crate::{
    Deed, Fault, Pool, Task, all_by_themselves, builder, builder_with_board, lasting, plain, serves,
};
use messageport::{
    CallError, MessageChannel, PostError, SpawnError, TaskError, WorkerEnd, WorkerPool, parent_port,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(20);

fn hangs() -> Task {
    Task { number: 7, fault: Fault::Always(Deed::Hangs) }
}

fn is_closed(answer: &Result<u64, TaskError>) -> bool {
    matches!(answer, Err(TaskError::Closed))
}

#[test]
fn as_many_tasks_wait_as_the_pool_allows() {
    const TEST: &str = "ends::as_many_tasks_wait_as_the_pool_allows";
    fn asks() {
        let pool = builder(TEST, "serves").workers(1).queue_limit(2).build().expect("a pool");
        thread::scope(|scope| {
            let open = [hangs(), plain(1), plain(2)].map(|task| {
                let handle = scope.spawn({
                    let pool = &pool;
                    move || pool.call(&task)
                });
                wait_until("it has a worker or a place", || pool.stats().busy == 1);
                handle
            });
            wait_until("two wait", || pool.stats().waiting == 2);
            match pool.call(&plain(3)) {
                Err(TaskError::QueueFull { limit: 2 }) => {}
                other => panic!("{other:?}"),
            }
            // Nothing hangs: the task that is done, and those that wait.
            let ends = pool.shutdown(SHORT);
            assert!(matches!(ends[..], [Ok(WorkerEnd::Killed(_))]), "{ends:?}");
            for call in open {
                let answer = call.join().expect("no panic");
                assert!(is_closed(&answer), "{answer:?}");
            }
        });
        assert!(is_closed(&pool.call(&plain(4))));
        let stats = pool.stats();
        assert_eq!((stats.workers, stats.busy, stats.waiting), (0, 0, 0), "{stats:?}");
        assert!(has_no_children());
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

/// The worker replies with how many tasks it has had before, and waits at the first one.
#[test]
fn tasks_that_wait_have_their_turns_in_order() {
    const TEST: &str = "ends::tasks_that_wait_have_their_turns_in_order";
    fn counts() {
        let board = Board::given();
        let responder = parent_port().expect("a port to the parent").responder::<Task, u64>();
        for count in 0u64.. {
            let Ok(request) = responder.recv() else { return };
            wait_until("all tasks wait", || board.word(0).load(SeqCst) == 1);
            request.reply(&count).expect("a parent");
        }
    }
    fn asks() {
        let board = Arc::new(Board::new());
        let given = board.clone();
        let launch = move || {
            let mut command = command(TEST, "counts");
            given.give(&mut command);
            lasting(command)
        };
        let pool: Pool = WorkerPool::builder(launch).workers(1).build().expect("a pool");
        thread::scope(|scope| {
            for number in 0..20u64 {
                let pool = &pool;
                scope.spawn(move || {
                    assert_eq!(pool.call(&plain(number)).expect("a reply"), number);
                });
                wait_until("it has the worker or its place", || {
                    let stats = pool.stats();
                    (stats.busy + stats.waiting) as u64 == number + 1
                });
            }
            board.word(0).store(1, SeqCst);
        });
        assert!(all_by_themselves(pool.shutdown(DEADLINE)));
    }
    play(TEST, &[("asks", asks), ("counts", counts)]);
}

/// A task that gives up, at a worker or in the queue: the worker is replaced, and the place is free.
#[test]
fn a_task_that_gives_up_leaves_a_free_pool() {
    const TEST: &str = "ends::a_task_that_gives_up_leaves_a_free_pool";
    fn asks() {
        let pool = builder(TEST, "serves").workers(1).build().expect("a pool");
        let first = pool.ids();
        let answer = pool.call_timeout(&hangs(), SHORT);
        assert!(matches!(answer, Err(TaskError::Timeout)), "{answer:?}");
        assert_eq!(pool.call(&plain(1)).expect("a reply"), 2);
        assert_ne!(pool.ids(), first);
        thread::scope(|scope| {
            let hung = scope.spawn(|| pool.call(&hangs()));
            wait_until("it has the worker", || pool.stats().busy == 1);
            let answer = pool.call_timeout(&plain(1), SHORT);
            assert!(matches!(answer, Err(TaskError::Timeout)), "{answer:?}");
            assert_eq!(pool.stats().waiting, 0);
            pool.shutdown(Duration::ZERO);
            assert!(is_closed(&hung.join().expect("no panic")));
        });
        assert_eq!(pool.stats().redone, 0);
        wait_until("all are reaped", has_no_children);
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

/// A request that can never be posted costs its own task only, and no worker.
#[test]
fn a_request_that_does_not_fit_is_an_error_of_its_task() {
    const TEST: &str = "ends::a_request_that_does_not_fit_is_an_error_of_its_task";
    fn measures() {
        let responder = parent_port().expect("a port to the parent").responder::<Vec<u8>, u64>();
        while let Ok(request) = responder.recv() {
            request.reply(&(request.data().len() as u64)).expect("a parent");
        }
    }
    fn asks() {
        let sizes = MessageChannel::builder().capacity(4096).limit(8192);
        let launch = move || lasting(command(TEST, "measures")).channel(sizes);
        let pool: WorkerPool<Vec<u8>, u64> =
            WorkerPool::builder(launch).workers(1).build().expect("a pool");
        let ids = pool.ids();
        match pool.call(&vec![0; 100_000]) {
            Err(TaskError::Call(CallError::Post(PostError::TooLarge { .. }))) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(pool.call(&vec![0; 100]).expect("a reply"), 100);
        assert_eq!(pool.ids(), ids);
        pool.shutdown(DEADLINE);
    }
    play(TEST, &[("asks", asks), ("measures", measures)]);
}

#[test]
fn a_task_that_runs_may_end_while_the_pool_shuts_down() {
    const TEST: &str = "ends::a_task_that_runs_may_end_while_the_pool_shuts_down";
    /// Answers once the board allows it.
    fn waits() {
        let board = Board::given();
        let responder = parent_port().expect("a port to the parent").responder::<Task, u64>();
        while let Ok(request) = responder.recv() {
            board.word(0).store(1, SeqCst);
            wait_until("it may answer", || board.word(1).load(SeqCst) == 1);
            request.reply(&2).expect("a parent");
        }
    }
    fn asks() {
        let board = Arc::new(Board::new());
        let given = board.clone();
        let launch = move || {
            let mut command = command(TEST, "waits");
            given.give(&mut command);
            lasting(command)
        };
        let pool: Pool = WorkerPool::builder(launch).workers(1).build().expect("a pool");
        thread::scope(|scope| {
            let call = scope.spawn(|| pool.call(&plain(1)));
            wait_until("a worker has the task", || board.word(0).load(SeqCst) == 1);
            let shutdown = scope.spawn(|| pool.shutdown(DEADLINE));
            // It waits for the only worker until the pool accepts no more tasks.
            assert!(is_closed(&pool.call(&plain(2))));
            board.word(1).store(1, SeqCst);
            assert_eq!(call.join().expect("no panic").expect("its reply"), 2);
            let ends = shutdown.join().expect("no panic");
            assert_eq!(ends.len(), 1);
            assert!(all_by_themselves(ends));
        });
        assert!(has_no_children());
    }
    play(TEST, &[("asks", asks), ("waits", waits)]);
}

/// Ends at once.
fn quits() {
    std::process::exit(3);
}

#[test]
fn a_pool_whose_workers_end_at_once_says_so_to_everyone() {
    const TEST: &str = "ends::a_pool_whose_workers_end_at_once_says_so_to_everyone";
    fn asks() {
        let pool = builder(TEST, "quits").workers(2).attempts(100).restart_limit(5).build();
        let pool = pool.expect("a pool");
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| match pool.call(&plain(1)) {
                    Err(TaskError::Broken { restarts: 5, last }) => {
                        assert!(last.ends_with(": exit status: 3"), "{last}");
                    }
                    other => panic!("{other:?}"),
                });
            }
        });
        let answer = pool.call(&plain(1));
        assert!(matches!(answer, Err(TaskError::Broken { .. })), "{answer:?}");
        pool.shutdown(DEADLINE);
        assert!(is_closed(&pool.call(&plain(1))));
        wait_until("all are reaped", has_no_children);
    }
    play(TEST, &[("asks", asks), ("quits", quits)]);
}

/// A task that was given to such workers is no task that has ended them.
#[test]
fn a_worker_that_ends_at_once_is_told_to_have_read_nothing() {
    const TEST: &str = "ends::a_worker_that_ends_at_once_is_told_to_have_read_nothing";
    fn asks() {
        let pool = builder(TEST, "quits").workers(1).attempts(3).restart_limit(10).build();
        let pool = pool.expect("a pool");
        match pool.call(&plain(1)).expect_err("they end at once") {
            error @ TaskError::Lost { attempts: 3, .. } => {
                let text = error.to_string();
                assert!(text.contains("3 workers ended or hung before they answered"), "{text}");
                assert!(text.contains("reply through their `parent_port`"), "{text}");
                let end = "ended before it had read the request: exit status: 3";
                assert!(text.ends_with(end), "{text}");
            }
            other => panic!("{other:?}"),
        }
        let later = (0..10).map(|_| pool.call(&plain(1)).expect_err("they end at once"));
        let broken = later.map(|error| error.to_string()).find(|text| text.contains("in a row"));
        let text = broken.expect("it gives up");
        assert!(text.contains("have their program reply through its `parent_port`"), "{text}");
        assert!(text.ends_with(": exit status: 3"), "{text}");
        pool.shutdown(DEADLINE);
        wait_until("all are reaped", has_no_children);
    }
    play(TEST, &[("asks", asks), ("quits", quits)]);
}

/// A worker that has read its first task, and hangs at it, has started. In a pool of which each
/// failed start is the last the task is lost, and the pool goes on.
#[test]
fn a_worker_that_hangs_at_its_first_task_is_no_failed_start() {
    const TEST: &str = "ends::a_worker_that_hangs_at_its_first_task_is_no_failed_start";
    fn asks() {
        // One that has not read the task when its time is up has failed to start: on a busy machine
        // it gets more.
        let times = (0..7).map(|exponent| Duration::from_millis(100 << exponent));
        let is_lost = times.into_iter().any(|time| {
            let builder = builder(TEST, "serves").workers(1).attempts(1).restart_limit(1);
            let pool = builder.attempt_timeout(time).build().expect("a pool");
            let is_lost = match pool.call(&hangs()) {
                Err(TaskError::Lost { attempts: 1, .. }) => true,
                Err(TaskError::Broken { restarts: 1, .. }) => false,
                other => panic!("{other:?}"),
            };
            pool.shutdown(DEADLINE);
            is_lost
        });
        assert!(is_lost, "a failed start, whatever its time");
        wait_until("all are reaped", has_no_children);
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

#[test]
fn a_program_that_cannot_be_started_is_an_error_of_the_pool() {
    const TEST: &str = "ends::a_program_that_cannot_be_started_is_an_error_of_the_pool";
    fn asks() {
        let before = Census::take();
        let missing = || Command::new("/nonexistent/program");
        let error = WorkerPool::<Task, u64>::builder(missing).build().expect_err("no program");
        assert!(matches!(error, SpawnError::Program { .. }), "{error}");
        // It vanishes later.
        let is_there = Arc::new(AtomicBool::new(true));
        let asked = is_there.clone();
        let launch = move || match asked.load(SeqCst) {
            true => lasting(command(TEST, "serves")),
            false => missing().into(),
        };
        let builder = WorkerPool::<Task, u64>::builder(launch).workers(1).restart_limit(3);
        let pool = builder.build().expect("a pool");
        assert_eq!(pool.call(&plain(1)).expect("a reply"), 2);
        is_there.store(false, SeqCst);
        crate::common::kill_process(pool.ids()[0]);
        match pool.call(&plain(1)) {
            Err(TaskError::Broken { restarts: 3, last }) => {
                assert!(last.contains("/nonexistent/program"), "{last}");
            }
            other => panic!("{other:?}"),
        }
        drop(pool);
        wait_until("all are reaped", has_no_children);
        before.wait_for("at the end");
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

/// Without a descriptor no worker can be started; the task waits for its replacement.
#[test]
fn a_pool_outlasts_a_lack_of_descriptors() {
    const TEST: &str = "ends::a_pool_outlasts_a_lack_of_descriptors";
    fn asks() {
        let pool = builder(TEST, "serves").workers(1).restart_limit(u32::MAX).build();
        let pool = pool.expect("a pool");
        assert_eq!(pool.call(&plain(1)).expect("a reply"), 2);
        allow_more_descriptors(3);
        let last = [(); 3].map(|()| File::open("/dev/null").expect("the last ones"));
        crate::common::kill_process(pool.ids()[0]);
        thread::scope(|scope| {
            let call = scope.spawn(|| pool.call(&plain(2)));
            let answer = pool.call_timeout(&plain(2), Duration::from_millis(100));
            assert!(matches!(answer, Err(TaskError::Timeout)), "{answer:?}");
            drop(last);
            allow_all_descriptors();
            assert_eq!(call.join().expect("no panic").expect("a reply"), 4);
        });
        pool.shutdown(DEADLINE);
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

/// The same without memory: neither the channel of a new worker nor the stack of its child fits.
#[test]
fn a_pool_outlasts_a_lack_of_memory() {
    const TEST: &str = "ends::a_pool_outlasts_a_lack_of_memory";
    fn asks() {
        // The first worker has a small channel. Those of the others map 128 MiB.
        let is_first = AtomicBool::new(true);
        let launch = move || match is_first.swap(false, SeqCst) {
            true => lasting(command(TEST, "serves")).channel(MessageChannel::builder().bounded()),
            false => lasting(command(TEST, "serves")),
        };
        let pool = WorkerPool::builder(launch).workers(1).restart_limit(u32::MAX).build();
        let pool: Pool = pool.expect("a pool");
        assert_eq!(pool.call(&plain(1)).expect("a reply"), 2);
        let busy = Task { number: 3, fault: Fault::Takes(100) };
        allow_more_address_space(32 << 20);
        assert_eq!(pool.call(&busy).expect("a reply of the worker that is there"), 6);
        crate::common::kill_process(pool.ids()[0]);
        let answer = pool.call_timeout(&plain(2), Duration::from_millis(100));
        assert!(matches!(answer, Err(TaskError::Timeout)), "{answer:?}");
        assert_eq!(pool.stats().restarts, 0);
        allow_all_address_space();
        assert_eq!(pool.call(&plain(2)).expect("a reply"), 4);
        pool.shutdown(DEADLINE);
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

/// Serves, and takes no notice of its end.
fn lingers() {
    serves();
    loop {
        thread::park();
    }
}

#[test]
fn a_pool_that_is_dropped_ends_its_workers() {
    const TEST: &str = "ends::a_pool_that_is_dropped_ends_its_workers";
    fn drops() {
        let before = Census::take();
        for role in ["serves", "lingers"] {
            let pool = builder(TEST, role).workers(4).build().expect("a pool");
            assert_eq!(pool.call(&plain(1)).expect("a reply"), 2);
            drop(pool);
            wait_until("all are reaped", has_no_children);
            before.wait_for(role);
        }
    }
    play(TEST, &[("drops", drops), ("serves", serves), ("lingers", lingers)]);
}

fn pidfd_of(id: u32) -> OwnedFd {
    // SAFETY: the call takes two integers.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_open, id as libc::pid_t, 0) };
    let number = Errno::result(answer).expect("a child that is not reaped");
    // SAFETY: the kernel has just given it to this process.
    unsafe { OwnedFd::from_raw_fd(number as RawFd) }
}

/// Four idle workers have died: that is no attempt of the task that finds out.
#[test]
fn idle_workers_that_have_died_cost_no_attempt() {
    const TEST: &str = "ends::idle_workers_that_have_died_cost_no_attempt";
    fn asks() {
        let board = Arc::new(Board::new());
        let pool = builder_with_board(TEST, &board).workers(4).attempts(1).restart_limit(1).build();
        let pool = pool.expect("a pool");
        // Each of the four serves once: one that has not, and is killed, is a failed start.
        thread::scope(|scope| {
            for number in 0..4 {
                let pool = &pool;
                let task = Task { number, fault: Fault::Meets(4) };
                scope.spawn(move || assert_eq!(pool.call(&task).expect("a reply"), 2 * number));
            }
        });
        for id in pool.ids() {
            let ended = pidfd_of(id);
            crate::common::kill_process(id);
            let mut ends = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
            poll(&mut ends, PollTimeout::NONE).expect("a descriptor of our own");
        }
        wait_until("a task finds a dead worker and has another one", || {
            assert_eq!(pool.call(&plain(1)).expect("a reply"), 2);
            pool.stats().restarts > 0
        });
        assert_eq!(pool.stats().redone, 0);
        pool.shutdown(DEADLINE);
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}
