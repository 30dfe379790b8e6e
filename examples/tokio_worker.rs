//! A tokio program whose worker processes count primes. One worker dies at its first task, and one
//! never answers. Other workers get their tasks, and the sum is right.
//!
//! ```text
//! cargo run --release --features tokio --example tokio_worker
//! ```

use std::collections::VecDeque;
use std::env;
use std::error::Error;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use messageport::{AsyncPort, CloseReason, RecvError, Worker, parent_port};
use tokio::task::JoinSet;
use tokio::time::timeout;

type Failure = Box<dyn Error + Send + Sync>;

/// How each worker behaves. A worker that is lost as expected is replaced by one that works.
const WORKERS: [&str; 4] = ["works", "dies", "falls-silent", "works"];
/// The workers count all primes below this, a chunk at a time.
const LIMIT: u64 = 1_000_000;
const CHUNK: u64 = 20_000;
const PRIMES: u64 = 78_498;
/// How long a worker may take for one chunk at first. Each silence doubles it: on a busy machine a
/// worker that is only slow is lost a few times at most.
const PATIENCE: Duration = Duration::from_secs(2);
/// Workers that may be lost before the program gives up.
const MOST_LOST: usize = 20;

fn main() -> Result<(), Failure> {
    match env::args().nth(1) {
        None => supervise(),
        Some(behaviour) => work(&behaviour),
    }
}

// The supervisor.

/// What is left to do, and the result so far. A chunk is named by its first number.
struct Tasks {
    waiting: VecDeque<u64>,
    primes: u64,
    lost: Vec<String>,
    patience: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn supervise() -> Result<(), Failure> {
    let waiting = (0..LIMIT).step_by(CHUNK as usize).collect();
    let tasks = Tasks { waiting, primes: 0, lost: Vec::new(), patience: PATIENCE };
    let tasks = Arc::new(Mutex::new(tasks));
    let mut posts = JoinSet::new();
    for behaviour in WORKERS {
        posts.spawn(fill_post(tasks.clone(), behaviour));
    }
    while let Some(through) = posts.join_next().await {
        through??;
    }
    let tasks = lock(&tasks);
    println!("{} primes below {LIMIT}; {} workers were lost", tasks.primes, tasks.lost.len());
    let is_lost = |how: &str| tasks.lost.iter().any(|why| why.contains(how));
    match tasks.primes == PRIMES && is_lost("died") && is_lost("silent") {
        true => Ok(()),
        false => Err(format!("expected {PRIMES} primes, one death and one silence").into()),
    }
}

fn lock(tasks: &Mutex<Tasks>) -> MutexGuard<'_, Tasks> {
    tasks.lock().expect("no task panics while it holds the lock")
}

/// Keeps one worker busy until nothing is left to do, and replaces each that is lost.
async fn fill_post(tasks: Arc<Mutex<Tasks>>, behaviour: &str) -> Result<(), Failure> {
    let mut behaviour = behaviour;
    while let Some(why) = employ(&tasks, behaviour).await? {
        println!("a worker {why}; its task goes to another one");
        let mut tasks = lock(&tasks);
        if why.contains("silent") {
            tasks.patience *= 2;
        }
        // A worker that was too slow to die in time is replaced by one that dies.
        if behaviour != "dies" || why.contains("died") {
            behaviour = "works";
        }
        tasks.lost.push(why);
        if tasks.lost.len() > MOST_LOST {
            return Err("too many workers were lost".into());
        }
    }
    Ok(())
}

/// Gives a new worker one task after the other. Returns how it was lost, if it was.
async fn employ(tasks: &Mutex<Tasks>, behaviour: &str) -> Result<Option<String>, Failure> {
    let mut command = Command::new(env::current_exe()?);
    command.arg(behaviour);
    let (port, mut process) = Worker::spawn(command)?.into_parts();
    let mut port = port.into_async()?;
    loop {
        let Some(first) = lock(tasks).waiting.pop_front() else { break };
        let patience = lock(tasks).patience;
        match ask(&mut port, first, patience).await {
            Ok(primes) => lock(tasks).primes += primes,
            Err(why) => {
                lock(tasks).waiting.push_front(first);
                process.kill()?;
                process.wait()?;
                return Ok(Some(why));
            }
        }
    }
    // It ends when its port does.
    drop(port);
    match process.wait()? {
        status if status.success() => Ok(None),
        status => Err(format!("a worker failed at the end: {status}").into()),
    }
}

/// Sends a task through the port as a sink, and receives the answer from the port as a stream. The
/// error is what the worker did instead.
async fn ask(port: &mut AsyncPort, first: u64, patience: Duration) -> Result<u64, String> {
    let refused = |error| format!("takes no task: {error}");
    port.send(first.to_le_bytes().to_vec()).await.map_err(refused)?;
    let answer = match timeout(patience, port.next()).await {
        Ok(Some(message)) => message.map_err(|error| error.to_string())?,
        // The stream just ends; a call says why.
        Ok(None) => match port.recv().await {
            Err(RecvError::Closed { reason: CloseReason::PeerDied }) => {
                return Err("has died".to_owned());
            }
            Err(other) => return Err(format!("has ended: {other}")),
            Ok(_) => return Err("spoke after its end".to_owned()),
        },
        Err(_) => return Err(format!("was silent for {patience:?}")),
    };
    match answer.deserialize::<(u64, u64)>() {
        Ok((asked, primes)) if asked == first => Ok(primes),
        Ok((asked, _)) => Err(format!("answered {asked} and not {first}")),
        Err(error) => Err(error.to_string()),
    }
}

// A worker, which needs no runtime.

fn work(behaviour: &str) -> Result<(), Failure> {
    let port = parent_port()?;
    for task in &port {
        match behaviour {
            "dies" => std::process::abort(),
            "falls-silent" => loop {
                std::thread::park();
            },
            _ => {}
        }
        let first = u64::from_le_bytes(task.bytes().try_into()?);
        let primes = (first..first + CHUNK).filter(|number| is_prime(*number)).count();
        port.post_message(&(first, primes as u64))?;
    }
    Ok(())
}

fn is_prime(number: u64) -> bool {
    number >= 2 && (2..).take_while(|it| it * it <= number).all(|it| !number.is_multiple_of(it))
}
