//! A server with a name and fifty clients, which connect again when the server was killed.
//!
//! ```text
//! cargo run --example named_server            # all of it: the server is killed and started again
//! cargo run --example named_server server     # a server alone, under the name in NAME
//! cargo run --example named_server clients    # ten clients of it
//! ```
#![forbid(unsafe_code)]

use std::env;
use std::error::Error;
use std::process::Command;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use messageport::{CallError, ConnectError, EventLoop, Listener, MessagePort, Worker};
use messageport::{connect, parent_port};

const PROCESSES: usize = 5;
const CLIENTS: u64 = 10; // of each process
const QUESTIONS: u64 = 100; // of each client, to each server
const PATIENCE: Duration = Duration::from_secs(20); // with a server that does not answer

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let name = env::var("NAME").unwrap_or_else(|_| "squares".to_owned());
    match env::args().nth(1).as_deref() {
        Some("server") => serve(&name),
        Some("clients") => clients(&name),
        _ => all_roles(),
    }
}

fn all_roles() -> Result<(), Failure> {
    let name = format!("squares-{}", std::process::id());
    // They end with this process: a server that is left over would serve for ever.
    let start = |role: &str| -> Result<Worker, Failure> {
        let mut command = Command::new(env::current_exe()?);
        command.arg(role).env("NAME", &name);
        Ok(Worker::builder(command).end_with_parent().spawn()?)
    };
    let server = start("server")?;
    let mut clients: Vec<Worker> =
        (0..PROCESSES).map(|_| start("clients")).collect::<Result<_, _>>()?;
    for client in &clients {
        println!("before: {}", client.port().recv_timeout(PATIENCE)?.text()?);
    }
    server.terminate()?;
    println!("the server was killed");
    let server = start("server")?;
    for client in &mut clients {
        println!("after: {}", client.port().recv_timeout(PATIENCE)?.text()?);
        if !client.wait()?.success() {
            return Err("a client has failed".into());
        }
    }
    server.terminate()?;
    Ok(())
}

/// Answers every client, in one thread.
fn serve(name: &str) -> Result<(), Failure> {
    let mut event_loop = EventLoop::new()?;
    event_loop.add_source(Listener::bind(name)?, |event_loop, listener| {
        loop {
            match listener.try_accept() {
                Ok(Some(port)) => {
                    if let Err(error) = welcome(event_loop, port) {
                        eprintln!("a client is sent away: {error}");
                    }
                }
                Ok(None) => return,
                Err(error) => return eprintln!("{error}"),
            }
        }
    })?;
    event_loop.run()?;
    Ok(())
}

fn welcome(event_loop: &mut EventLoop, port: MessagePort) -> Result<(), Failure> {
    let responder = port.responder::<u64, u64>();
    let added = event_loop.add_responder(responder, |_, request| {
        let number = request.data().to_native();
        // A client that has gone needs no answer.
        let _ = request.reply(&(number * number));
    });
    added.map_err(|error| error.to_string().into())
}

/// Ten clients, each a thread with a connection of its own.
fn clients(name: &str) -> Result<(), Failure> {
    let parent = parent_port().ok();
    let mut calls = [0; 2];
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        for first in 0..CLIENTS {
            let tell = tell.clone();
            scope.spawn(move || client(name, first * 1000, &tell));
        }
        drop(tell);
        for server in told {
            calls[server] += 1;
            if calls[server] == CLIENTS {
                let line = format!("{CLIENTS} clients have {QUESTIONS} squares each");
                match &parent {
                    Some(parent) => parent.post_text(&line)?,
                    None => println!("{line}"),
                }
            }
        }
        Ok::<_, Failure>(())
    })?;
    if calls == [CLIENTS; 2] { Ok(()) } else { Err("a client has given up".into()) }
}

/// Asks two servers of one name, one after the other.
fn client(name: &str, first: u64, has_asked: &Sender<usize>) -> Result<(), Failure> {
    for server in 0..2 {
        let requester = connect_again(name)?.requester::<u64, u64>();
        let mut number = first;
        loop {
            match requester.call(&number) {
                Ok(square) if square == number * number => number += 1,
                Ok(_) => return Err("no square".into()),
                // The server was killed: it is asked again under its name.
                Err(CallError::Closed { .. }) => break,
                Err(error) => return Err(error.into()),
            }
            if number == first + QUESTIONS {
                has_asked.send(server)?;
                if server == 1 {
                    return Ok(());
                }
            }
        }
    }
    Err("the second server has gone as well".into())
}

/// Tries again while there is no server, but not for ever.
fn connect_again(name: &str) -> Result<MessagePort, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match connect(name) {
            Err(ConnectError::NoListener { .. } | ConnectError::HungUp { .. })
                if Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            answer => return Ok(answer?),
        }
    }
}
