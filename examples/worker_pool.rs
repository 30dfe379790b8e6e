//! A pool of workers that counts words, while its workers are killed at random.
//!
//! ```text
//! cargo run --release --example worker_pool
//! ```
//!
//! Four threads have 400 tasks done by three workers. Meanwhile a killer ends one of the workers
//! every few milliseconds. The pool starts others, and gives them the tasks of the dead: every task
//! has its answer. Counting words twice does no harm, so the tasks may be redone.
//!
//! One task kills each worker that it is given to. It ends with an error, and the others do not
//! notice.

use std::env;
use std::error::Error;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use messageport::{TaskError, WorkerPool, parent_port};

type Failure = Box<dyn Error + Send + Sync>;

/// A task.
#[messageport::message]
struct Count {
    text: String,
}

/// Its answer.
#[messageport::message]
#[derive(Debug, PartialEq)]
struct Counted {
    words: u64,
    letters: u64,
}

type Pool = WorkerPool<Count, Counted>;

fn main() -> Result<(), Failure> {
    if env::args().nth(1).as_deref() == Some("worker") {
        return work();
    }
    let program = env::current_exe()?;
    let launch = move || {
        let mut command = Command::new(&program);
        command.arg("worker");
        command
    };
    let pool: Pool = WorkerPool::builder(launch)
        .workers(3)
        .attempts(5)
        .attempt_timeout(Duration::from_secs(10))
        .build()?;

    let (pool, over) = (&pool, &AtomicBool::new(false));
    let kills = thread::scope(|scope| -> Result<u32, Failure> {
        let killer = scope.spawn(|| kill_some(pool, over));
        let callers: Vec<_> = (0..4).map(|number| scope.spawn(move || ask(pool, number))).collect();
        let answers: Vec<_> = callers.into_iter().map(|caller| caller.join()).collect();
        over.store(true, Ordering::Relaxed);
        for answer in answers {
            answer.map_err(|_| "a caller has panicked")??;
        }
        killer.join().map_err(|_| "the killer has panicked".into())
    })?;
    let stats = pool.stats();
    println!("{} tasks answered; {kills} workers killed", stats.answered);
    println!("{} tasks redone, {} workers restarted", stats.redone, stats.restarts);

    match pool.call(&Count { text: "poison".to_owned() }) {
        Err(error @ TaskError::Lost { .. }) => println!("poison: {error}"),
        other => return Err(format!("{other:?}").into()),
    }
    let counted = pool.call(&Count { text: "and the pool goes on".to_owned() })?;
    assert_eq!(counted, Counted { words: 5, letters: 16 });

    for end in pool.shutdown(Duration::from_secs(5)) {
        println!("a worker ended: {:?}", end?);
    }
    Ok(())
}

/// Has a hundred texts counted, one after the other.
fn ask(pool: &Pool, thread: u64) -> Result<(), Failure> {
    for words in 1..=100 {
        let text = format!("w{thread} ").repeat(words as usize);
        let counted = pool.call(&Count { text })?;
        assert_eq!(counted, Counted { words, letters: 2 * words });
    }
    Ok(())
}

/// Kills one worker after the other, as a lack of memory would.
fn kill_some(pool: &Pool, over: &AtomicBool) -> u32 {
    let mut kills = 0;
    while !over.load(Ordering::Relaxed) {
        let ids = pool.ids();
        if let Some(id) = ids.get(kills as usize % 3) {
            let killed = Command::new("kill").args(["-KILL", &id.to_string()]).output();
            kills += u32::from(killed.is_ok_and(|output| output.status.success()));
        }
        thread::sleep(Duration::from_millis(10));
    }
    kills
}

/// A worker.
fn work() -> Result<(), Failure> {
    let responder = parent_port()?.responder::<Count, Counted>();
    // It ends when the pool closes its port.
    while let Ok(request) = responder.recv() {
        let text = request.data().text.as_str();
        if text == "poison" {
            std::process::abort();
        }
        // A task that takes some time, so that it is killed now and then.
        thread::sleep(Duration::from_millis(1));
        let words = text.split_whitespace().count() as u64;
        let letters = text.chars().filter(|letter| letter.is_alphanumeric()).count() as u64;
        request.reply(&Counted { words, letters })?;
    }
    Ok(())
}
