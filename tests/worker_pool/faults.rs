//! Workers that do what they should not: it costs their task an attempt, and no other task anything.

use crate::common::board::Board;
use crate::common::census::has_no_children;
use crate::common::limits::{allow_more_address_space, allow_more_descriptors, limit_to};
use crate::common::role::{command, play};
use crate::common::{DEADLINE, die, wait_until};
use crate::{
    ArchivedDeed, ArchivedFault, Deed, Fault, LONG, Pool, Task, builder, builder_with_board,
    lasting, plain, serves,
};
use messageport::{CallError, ResourceLimit, Responder, TaskError, WorkerPool, parent_port};
use nix::sys::resource::Resource;
use nix::unistd::{ForkResult, fork};
use std::fs::File;
use std::hint::spin_loop;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

/// Bits of what was done once.
const DONE: usize = 0;
/// Not zero: forked processes shall end.
const OVER: usize = 1;
/// How many workers have come to a task at which they meet.
const MET: usize = 2;

/// Answers requests, and does what they say. Returns whether it was told to leave its port.
pub fn serve(responder: Responder<Task, u64>) -> bool {
    let board = std::env::var_os("MESSAGEPORT_TEST_BOARD").map(|_| Board::given());
    while let Ok(request) = responder.recv() {
        let number = request.data().number.to_native();
        let deed = match &request.data().fault {
            ArchivedFault::None => None,
            ArchivedFault::Takes(micros) => {
                let end = Instant::now() + Duration::from_micros(micros.to_native().into());
                while Instant::now() < end {
                    spin_loop();
                }
                None
            }
            ArchivedFault::Meets(count) => {
                let board = board.as_ref().expect("a board");
                board.word(MET).fetch_add(1, SeqCst);
                while board.word(MET).load(SeqCst) < u64::from(count.to_native()) {
                    thread::yield_now();
                }
                None
            }
            ArchivedFault::Always(deed) => Some(deed),
            ArchivedFault::Once(deed, bit) => {
                let board = board.as_ref().expect("a board");
                let before = board.word(DONE).fetch_or(1 << bit, SeqCst);
                (before & 1 << bit == 0).then_some(deed)
            }
        };
        match deed {
            None => request.reply(&(2 * number)).expect("a parent"),
            Some(ArchivedDeed::Refuses) => request.refuse("not today").expect("a parent"),
            Some(ArchivedDeed::Drops) => drop(request),
            Some(ArchivedDeed::Leaves) => return true,
            Some(deed) => misbehave(deed, board.as_ref()),
        }
    }
    false
}

fn misbehave(deed: &ArchivedDeed, board: Option<&Board>) {
    match deed {
        ArchivedDeed::Dies => die(),
        ArchivedDeed::Forks => {
            // SAFETY: the child looks at an atomic until it ends; it allocates and locks nothing.
            if let ForkResult::Parent { .. } = unsafe { fork() }.expect("a child") {
                die();
            }
            let end = Instant::now() + DEADLINE;
            while board.expect("a board").word(OVER).load(SeqCst) == 0 && Instant::now() < end {
                thread::sleep(Duration::from_millis(5));
            }
            // SAFETY: the call ends this process.
            unsafe { libc::_exit(0) }
        }
        ArchivedDeed::EatsMemory => {
            allow_more_address_space(64 << 20);
            let mut eaten = Vec::new();
            loop {
                eaten.push(vec![1u8; 1 << 20]);
            }
        }
        ArchivedDeed::EatsDescriptors => {
            allow_more_descriptors(20);
            let mut eaten = Vec::new();
            loop {
                eaten.push(File::open("/dev/null").expect("a descriptor more"));
            }
        }
        ArchivedDeed::Spins => {
            limit_to(Resource::RLIMIT_CPU, 1);
            spin_forever()
        }
        ArchivedDeed::SpinsForever => spin_forever(),
        ArchivedDeed::OutgrowsLimit => {
            let mut eaten = Vec::new();
            loop {
                eaten.push(vec![1u8; 1 << 20]);
            }
        }
        ArchivedDeed::OpensForever => {
            let mut eaten = Vec::new();
            loop {
                eaten.push(File::open("/dev/null").expect("a descriptor more"));
            }
        }
        ArchivedDeed::MakesADirectory => drop(std::fs::create_dir("/nonexistent/directory")),
        ArchivedDeed::Quits => std::process::exit(3),
        ArchivedDeed::Panics => panic!("as it was told"),
        _ => loop {
            thread::park();
        },
    }
}

fn spin_forever() {
    loop {
        spin_loop();
    }
}

fn once(number: u64, deed: Deed) -> Task {
    Task { number, fault: Fault::Once(deed, number as u8) }
}

fn always(deed: Deed) -> Task {
    Task { number: 7, fault: Fault::Always(deed) }
}

/// Each fault costs its own task one attempt. The tasks of another thread are answered meanwhile,
/// each by the first worker that has it.
#[test]
fn a_fault_of_a_worker_costs_its_task_one_attempt() {
    const TEST: &str = "faults::a_fault_of_a_worker_costs_its_task_one_attempt";
    const DEEDS: [Deed; 7] = [
        Deed::Drops,
        Deed::Dies,
        Deed::Leaves,
        Deed::Forks,
        Deed::EatsMemory,
        Deed::EatsDescriptors,
        Deed::Spins,
    ];
    fn asks() {
        let board = Arc::new(Board::new());
        let pool = builder_with_board(TEST, &board).workers(4).build().expect("a pool");
        thread::scope(|scope| {
            for (number, deed) in DEEDS.into_iter().enumerate() {
                let pool = &pool;
                scope.spawn(move || {
                    let answer = pool.call(&once(number as u64, deed));
                    assert_eq!(answer.expect("a reply"), 2 * number as u64, "{deed:?}");
                });
            }
            for number in 100..400 {
                assert_eq!(pool.call(&plain(number)).expect("a reply"), 2 * number);
            }
        });
        let (stats, faults) = (pool.stats(), DEEDS.len() as u64);
        assert_eq!((stats.answered, stats.redone), (300 + faults, faults), "{stats:?}");
        assert!(stats.restarts >= faults - 4, "{stats:?}");
        pool.shutdown(DEADLINE);
        board.word(OVER).store(1, SeqCst);
        assert!(has_no_children());
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

#[test]
fn a_worker_that_hangs_is_replaced_when_its_time_is_up() {
    const TEST: &str = "faults::a_worker_that_hangs_is_replaced_when_its_time_is_up";
    fn asks() {
        let board = Arc::new(Board::new());
        let builder = builder_with_board(TEST, &board).workers(2).attempts(10);
        let pool = builder.attempt_timeout(Duration::from_millis(300)).build().expect("a pool");
        for number in 0..3 {
            let answer = pool.call(&once(number, Deed::Hangs)).expect("a reply of another worker");
            assert_eq!(answer, 2 * number);
        }
        assert!(pool.stats().redone >= 3, "{pool:?}");
        // However often it is redone, it hangs.
        match pool.call_timeout(&always(Deed::Hangs), Duration::from_millis(500)) {
            Err(TaskError::Timeout) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(pool.call(&plain(1)).expect("a reply"), 2);
        pool.shutdown(DEADLINE);
        wait_until("all are reaped", has_no_children);
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

/// A task that ends each of its workers ends itself, and not the pool.
#[test]
fn a_task_that_no_worker_survives_is_lost_and_others_are_not() {
    const TEST: &str = "faults::a_task_that_no_worker_survives_is_lost_and_others_are_not";
    fn asks() {
        let pool = builder(TEST, "serves").workers(2).attempts(3).build().expect("a pool");
        for round in 1..=4 {
            match pool.call(&always(Deed::Dies)) {
                Err(TaskError::Lost { attempts: 3, last }) => {
                    assert!(matches!(last.error(), CallError::Closed { .. }), "{last}");
                    let signal = last.status().and_then(|status| status.signal());
                    assert_eq!(signal, Some(libc::SIGKILL), "{last}");
                    let text = last.to_string();
                    assert!(text.ends_with("ended: signal: 9 (SIGKILL)"), "{text}");
                    assert!(text.starts_with(&format!("worker {} ", last.id())), "{text}");
                }
                other => panic!("{other:?}"),
            }
            // More workers were lost than may fail in a row; but they had received their request.
            assert_eq!(pool.stats().redone, 2 * round, "{pool:?}");
        }
        assert_eq!(pool.call(&plain(21)).expect("a reply"), 42);
        pool.shutdown(DEADLINE);
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

/// What the error says of a worker that lives, and of one that has panicked.
#[test]
fn a_lost_task_says_what_its_last_worker_did() {
    const TEST: &str = "faults::a_lost_task_says_what_its_last_worker_did";
    fn asks() {
        let pool = builder(TEST, "serves").workers(1).attempts(1).build().expect("a pool");
        let text = |deed| match pool.call(&always(deed)) {
            Err(TaskError::Lost { attempts: 1, last }) => {
                let text = last.to_string();
                let (_, after_id) = text.split_once(&format!("{} ", last.id())).expect("an id");
                (after_id.to_owned(), last.status().and_then(|status| status.code()))
            }
            other => panic!("{other:?}"),
        };
        let killed = ("dropped the request without a reply, and was killed".to_owned(), None);
        for deed in [Deed::Drops, Deed::Leaves] {
            assert_eq!(text(deed), killed);
        }
        // A worker that takes longer to end than the pool waits for its status is killed. One that
        // panics has a thread that holds the request, so it drops that before the process ends.
        for (deed, code) in [(Deed::Quits, 3), (Deed::Panics, 101)] {
            let ended = (format!("ended: exit status: {code}"), Some(code));
            wait_until("a status comes in time", || {
                let found = text(deed);
                assert!(found == ended || found == killed, "{found:?}");
                found == ended
            });
        }
        pool.shutdown(DEADLINE);
    }
    play(TEST, &[("asks", asks), ("serves", panics_as_a_program)]);
    fn panics_as_a_program() {
        let result = std::panic::catch_unwind(serves);
        std::process::exit(if result.is_err() { 101 } else { 0 });
    }
}

/// Limits and a filter that the pool's command has set: each costs the task one attempt.
#[test]
fn a_worker_that_breaks_the_limits_of_its_builder_costs_one_attempt() {
    const TEST: &str = "faults::a_worker_that_breaks_the_limits_of_its_builder_costs_one_attempt";
    fn asks() {
        let board = Arc::new(Board::new());
        let given = board.clone();
        let launch = move || {
            let mut command = command(TEST, "serves");
            given.give(&mut command);
            let builder = lasting(command)
                .limit(ResourceLimit::AddressSpace, 1 << 30)
                .limit(ResourceLimit::OpenFiles, 40)
                .limit(ResourceLimit::CoreSize, 0)
                .limit(ResourceLimit::CpuTime, 1);
            #[cfg(feature = "seccomp")]
            let builder = {
                // For the board.
                let filter = messageport::SyscallFilter::program().allow(libc::SYS_openat);
                builder.filter(&filter)
            };
            builder
        };
        let pool: Pool =
            WorkerPool::builder(launch).workers(2).attempt_timeout(LONG).build().expect("a pool");
        let deeds = [Deed::OutgrowsLimit, Deed::OpensForever, Deed::SpinsForever];
        let filtered = cfg!(feature = "seccomp").then_some(Deed::MakesADirectory);
        let deeds: Vec<_> = deeds.into_iter().chain(filtered).collect();
        for (number, deed) in deeds.iter().enumerate() {
            let answer = pool.call(&once(number as u64, *deed));
            assert_eq!(answer.expect("a reply"), 2 * number as u64, "{deed:?}");
            assert_eq!(pool.call(&plain(21)).expect("a reply"), 42);
        }
        let (stats, faults) = (pool.stats(), deeds.len() as u64);
        assert_eq!((stats.answered, stats.redone), (2 * faults, faults), "{stats:?}");
        pool.shutdown(DEADLINE);
        wait_until("all are reaped", has_no_children);
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

#[test]
fn what_a_worker_refuses_is_not_redone() {
    const TEST: &str = "faults::what_a_worker_refuses_is_not_redone";
    fn asks() {
        let pool = builder(TEST, "serves").workers(1).build().expect("a pool");
        match pool.call(&always(Deed::Refuses)) {
            Err(TaskError::Call(CallError::Refused { text })) => assert_eq!(text, "not today"),
            other => panic!("{other:?}"),
        }
        assert_eq!(pool.call(&plain(21)).expect("a reply"), 42);
        let stats = pool.stats();
        assert_eq!((stats.answered, stats.redone, stats.restarts), (1, 0, 0), "{stats:?}");
        pool.shutdown(DEADLINE);
    }
    play(TEST, &[("asks", asks), ("serves", serves)]);
}

/// A program of other types is an error of each task that says so, and is not tried again.
#[test]
fn a_worker_of_other_types_is_not_asked_twice() {
    const TEST: &str = "faults::a_worker_of_other_types_is_not_asked_twice";
    fn babbles() {
        let responder = parent_port().expect("a port to the parent").responder::<Task, u8>();
        while let Ok(request) = responder.recv() {
            // The parent's types may have been seen by now.
            let _ = request.reply(&7);
        }
    }
    fn asks() {
        let pool = builder(TEST, "babbles").workers(1).attempts(2).build().expect("a pool");
        let mut seen = Vec::new();
        for restarts in 0..3 {
            // A worker that can do no task is not kept for the next one: that gets another, whose
            // program may have been corrected.
            seen.extend(pool.ids());
            let error = pool.call(&plain(1)).expect_err("other types");
            assert!(matches!(error, TaskError::Call(_)), "{error:?}");
            assert!(error.to_string().contains("u8"), "{error}");
            let stats = pool.stats();
            let found = (stats.redone, stats.restarts, stats.workers);
            assert_eq!(found, (0, restarts, 0), "{error:?} {stats:?}");
            assert!(pool.ids().is_empty());
        }
        assert_eq!(seen.len(), 1, "each was lost with its task");
        pool.shutdown(DEADLINE);
        wait_until("all are reaped", has_no_children);
    }
    play(TEST, &[("asks", asks), ("babbles", babbles)]);
}
