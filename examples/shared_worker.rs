//! A server with a name: a counter that any number of programs of this user share. On the web this
//! is a `SharedWorker`.
//!
//! ```text
//! cargo run --example shared_worker           # plays all the roles: a worker and three clients
//! cargo run --example shared_worker worker    # the worker alone, until its client has gone
//! cargo run --example shared_worker client    # a client alone
//! ```

use std::env;
use std::error::Error;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use messageport::{ConnectError, EventLoop, Listener, MessagePort, Worker, connect};

const CLIENTS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(20); // with a worker that does not come

fn main() -> Result<(), Box<dyn Error>> {
    let name = env::var("NAME").unwrap_or_else(|_| "shared-counter".to_owned());
    match env::args().nth(1).as_deref() {
        Some("worker") => worker(&name, env::var("CLIENTS").map_or(Ok(1), |count| count.parse())?),
        Some("client") => client(&name),
        _ => all_roles(),
    }
}

fn all_roles() -> Result<(), Box<dyn Error>> {
    let name = format!("shared-counter-{}", std::process::id());
    // They end with this process, and with the first of them that fails.
    let start = |role: &str| -> Result<Worker, Box<dyn Error>> {
        let mut command = Command::new(env::current_exe()?);
        command.arg(role).env("NAME", &name).env("CLIENTS", CLIENTS.to_string());
        Ok(Worker::builder(command).end_with_parent().spawn()?)
    };
    let mut children = vec![start("worker")?];
    for _ in 0..CLIENTS {
        children.push(start("client")?);
    }
    for child in &mut children {
        if !child.wait()?.success() {
            return Err("a child has failed".into());
        }
    }
    Ok(())
}

/// Serves until the expected number of clients has come, and all of them have left.
fn worker(name: &str, expected: u32) -> Result<(), Box<dyn Error>> {
    let listener = Listener::bind(name)?;
    let total = Arc::new(AtomicU64::new(0));
    let mut event_loop = EventLoop::new()?;
    let mut clients = 0;
    // Accepts new clients between the turns of those that are connected.
    while clients < expected || event_loop.ids().count() > 0 {
        while let Some(port) = listener.try_accept()? {
            clients += 1;
            serve(&port, total.clone());
            event_loop.add(port)?;
        }
        event_loop.poll_once(Duration::from_millis(10))?;
    }
    println!("worker: {clients} clients have counted to {}", total.load(Ordering::Relaxed));
    Ok(())
}

fn serve(port: &MessagePort, total: Arc<AtomicU64>) {
    port.on_message(move |event| -> Result<(), Box<dyn Error + Send + Sync>> {
        let step = event.message().ok_or("a message")?.data::<u64>()?.to_native();
        let now = total.fetch_add(step, Ordering::Relaxed) + step;
        event.port().post_message(&now)?;
        Ok(())
    });
}

fn client(name: &str) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + PATIENCE;
    let port = loop {
        match connect(name) {
            Err(ConnectError::NoListener { .. }) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            answer => break answer?,
        }
    };
    for _ in 0..10 {
        port.post_message(&1u64)?;
    }
    let mut last = 0;
    for _ in 0..10 {
        last = port.recv()?.data::<u64>()?.to_native();
    }
    println!("client {}: the counter stands at {last}", std::process::id());
    Ok(())
}
