//! A smol service of four typed worker processes that count primes. One worker dies at its first
//! task, and one never answers. Others get their tasks.

use std::time::Duration;
use std::{env, error::Error, process::Command};

use messageport::{AsyncTypedPort, MessageChannel, Worker, WorkerProcess, parent_port};
use smol::channel::{Receiver, Sender, bounded};
use smol::{Timer, future::or};

type Failure = Box<dyn Error + Send + Sync>;

type Task = u64; // the first number of a chunk
type Answer = (u64, u64); // that number again, and how many primes the chunk has
/// What a client asks, and where it waits for the number.
type Request = (Task, Sender<u64>);
type Port = AsyncTypedPort<Answer, Task>;

const WORKERS: [&str; 4] = ["works", "dies", "falls-silent", "works"];
/// The clients ask for all primes below this, a chunk at a time.
const LIMIT: u64 = 1_000_000;
const CHUNK: u64 = 20_000;
const PRIMES: u64 = 78_498;
/// How long a worker may take for a chunk. Longer after each loss, as it may only be slow.
const PATIENCE: Duration = Duration::from_secs(2);

fn main() -> Result<(), Failure> {
    match env::args().nth(1) {
        None => smol::block_on(serve()),
        Some(behaviour) => work(&behaviour),
    }
}

async fn serve() -> Result<(), Failure> {
    // A client waits while eight requests wait: the service takes no more than it can do.
    let (asking, requests) = bounded(8);
    let workers = WORKERS.map(|behaviour| smol::spawn(employ(requests.clone(), behaviour)));
    let ask = |first| {
        let asking = asking.clone();
        smol::spawn(async move {
            let (reply, answer) = bounded(1);
            asking.send((first, reply)).await?;
            Ok::<u64, Failure>(answer.recv().await?)
        })
    };
    let clients: Vec<_> = (0..LIMIT).step_by(CHUNK as usize).map(ask).collect();
    let (mut primes, mut lost) = (0, 0);
    for client in clients {
        primes += client.await?;
    }
    asking.close(); // the shutdown: workers end when all requests were served
    for worker in workers {
        lost += worker.await?;
    }
    println!("{primes} primes below {LIMIT}; {lost} workers were lost");
    if primes == PRIMES && lost >= 2 { Ok(()) } else { Err("that is not right".into()) }
}

/// Keeps one worker busy, and replaces it when it is lost. Returns how often that was.
async fn employ(requests: Receiver<Request>, mut behaviour: &'static str) -> Result<u32, Failure> {
    let (mut lost, mut unserved) = (0, None);
    loop {
        let (mut port, process) = start(behaviour)?;
        let why = match oversee(&requests, &mut port, &mut unserved, PATIENCE * (lost + 1)).await {
            Ok(()) => return end(port, process).await.map(|()| lost),
            Err(why) => why,
        };
        println!("a worker is replaced, as {why}");
        process.terminate_async().await?;
        (lost, behaviour) = (lost + 1, "works");
    }
}

fn start(behaviour: &str) -> Result<(Port, WorkerProcess), Failure> {
    let mut command = Command::new(env::current_exe()?);
    command.arg(behaviour);
    // A small channel: a post waits while a worker does not read.
    let worker = Worker::spawn_with(command, MessageChannel::builder().bounded())?;
    let (port, mut process) = worker.split();
    process.background(); // a drop must not block this executor
    Ok((port.typed().into_async()?, process))
}

/// Gives a worker one request after the other. The error is how it was lost.
async fn oversee(
    requests: &Receiver<Request>,
    port: &mut Port,
    unserved: &mut Option<Request>,
    patience: Duration,
) -> Result<(), String> {
    loop {
        if unserved.is_none() {
            // An idle worker says nothing: what it says is its end.
            let end = async { Err(format!("it has ended while idle: {:?}", port.recv().await)) };
            *unserved = or(async { Ok(requests.recv().await.ok()) }, end).await?;
        }
        let Some((task, _)) = unserved else { return Ok(()) };
        let primes = timeout(patience, ask(port, *task)).await?;
        let (_, reply) = unserved.take().expect("it was just served");
        let _ = reply.send(primes).await; // the client may have gone
    }
}

async fn timeout<T>(
    patience: Duration,
    task: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    or(task, async {
        Timer::after(patience).await;
        Err(format!("it was silent for {patience:?}"))
    })
    .await
}

async fn ask(port: &mut Port, task: Task) -> Result<u64, String> {
    port.post_message(&task).await.map_err(|error| error.to_string())?;
    let answer = port.recv().await.map_err(|error| error.to_string())?;
    let (first, primes) = answer.deserialize().map_err(|error| error.to_string())?;
    if first == task { Ok(primes) } else { Err(format!("it answered {first} to {task}")) }
}

/// A worker's loop ends with its port. One that does not end is killed when it is dropped.
async fn end(port: Port, mut process: WorkerProcess) -> Result<(), Failure> {
    drop(port);
    let waiting = async { process.wait_async().await.map_err(|error| error.to_string()) };
    let status = timeout(PATIENCE, waiting).await?;
    if status.success() { Ok(()) } else { Err(format!("a worker: {status}").into()) }
}

/// A worker, which needs no runtime.
fn work(behaviour: &str) -> Result<(), Failure> {
    let port = parent_port()?.typed::<Task, Answer>();
    for task in &port {
        match behaviour {
            "dies" => std::process::abort(),
            "falls-silent" => std::thread::sleep(Duration::MAX),
            _ => {}
        }
        let first = task?.data().to_native();
        let primes = (first..first + CHUNK).filter(|number| is_prime(*number)).count();
        port.post_message(&(first, primes as u64))?;
    }
    Ok(())
}

fn is_prime(number: u64) -> bool {
    number >= 2 && (2..).take_while(|it| it * it <= number).all(|it| !number.is_multiple_of(it))
}
