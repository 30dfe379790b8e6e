//! A broker connects two workers with each other, and exits. They continue without it.
//!
//! The broker makes a channel and sends one port to each worker. What the first worker posts before
//! the second one has its port waits in the channel: a port moves with its queue.
//!
//! ```text
//! cargo run --release --example transfer_port
//! ```

use std::env;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use messageport::{MessageChannel, MessagePort, Worker, parent_port};

fn main() -> Result<(), Box<dyn Error>> {
    match env::args().nth(1).as_deref() {
        None => audience(),
        Some("broker") => broker(),
        Some("asks") => asks(&first_port()?),
        Some("answers") => answers(&first_port()?),
        Some(other) => Err(format!("no such role: {other}").into()),
    }
}

/// Starts the broker, waits for its end, and prints what the workers say afterwards.
fn audience() -> Result<(), Box<dyn Error>> {
    let mut broker = this_program("broker")?.stdout(Stdio::piped()).spawn()?;
    let said = BufReader::new(broker.stdout.take().ok_or("the output is piped")?);
    if !broker.wait()?.success() {
        return Err("the broker has failed".into());
    }
    println!("the broker has exited");
    // The workers hold the pipe as well: it ends when both have ended.
    let lines = said.lines().collect::<Result<Vec<_>, _>>()?;
    lines.iter().for_each(|line| println!("{line}"));
    let expected: Vec<_> = (1..=5).map(|n| format!("{n} squared is {}", n * n)).collect();
    if lines == expected { Ok(()) } else { Err(format!("expected {expected:?}").into()) }
}

fn broker() -> Result<(), Box<dyn Error>> {
    let MessageChannel { port1, port2 } = MessageChannel::new()?;
    for (role, port) in [("asks", port1), ("answers", port2)] {
        let worker = Worker::spawn(this_program(role)?)?;
        worker.port().post_text_with("your partner", [port.into()])?;
        // Without a `Worker`, nothing ends the child: it outlives this process.
        drop(worker.into_parts());
    }
    Ok(())
}

/// The port that the broker has moved here.
fn first_port() -> Result<MessagePort, Box<dyn Error>> {
    Ok(parent_port()?.recv()?.take_port()?)
}

fn asks(partner: &MessagePort) -> Result<(), Box<dyn Error>> {
    for number in 1..=5u64 {
        partner.post_message(&number)?;
        let answer = partner.recv()?;
        println!("{number} squared is {}", answer.data::<u64>()?);
    }
    Ok(())
}

fn answers(partner: &MessagePort) -> Result<(), Box<dyn Error>> {
    // Ends when the other worker has ended.
    for question in partner {
        let number = question.data::<u64>()?.to_native();
        partner.post_message(&(number * number))?;
    }
    Ok(())
}

fn this_program(role: &str) -> Result<Command, Box<dyn Error>> {
    let mut command = Command::new(env::current_exe()?);
    command.arg(role);
    Ok(command)
}
