//! A host that runs plug-ins which it does not trust, and goes on when they break their limits.
//!
//! ```text
//! cargo run --release --example plugin_host --features seccomp
//! ```
//!
//! A plug-in is a program that turns a text into another one. The host starts each with limits of
//! memory, processor time and descriptors, with a filter of system calls, over a channel that
//! accepts no descriptors, and with a deadline for each answer. What happens to a plug-in is
//! reported; it never happens to the host.

use std::env;
use std::error::Error;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use messageport::{
    CallError, MessageChannel, Requester, ResourceLimit, SyscallFilter, Worker, WorkerEnd,
    WorkerProcess, parent_port,
};

/// The plug-ins, all in this one program: the first two keep to the rules.
const PLUGINS: [&str; 7] = ["upper", "reverse", "eater", "spinner", "hoarder", "writer", "sleeper"];

fn main() -> Result<(), Box<dyn Error>> {
    if let Some(name) = env::args().nth(1) {
        return plugin(&name);
    }
    let mut answered = Vec::new();
    for name in PLUGINS {
        let (requester, process) = start(name)?;
        match requester.call_timeout(&"Hello".to_owned(), Duration::from_secs(3)) {
            Ok(text) => {
                println!("{name} answers {text:?}");
                answered.push(text);
            }
            Err(CallError::Timeout) => println!("{name} has not answered in time"),
            Err(error) => println!("{name} fails: {error}"),
        }
        // The port closes, and with it a plug-in that keeps to the rules ends.
        drop(requester);
        println!("    {}", describe(process.shutdown(Duration::from_millis(500))?));
    }
    assert_eq!(answered, ["HELLO", "olleH"]);
    println!("the host goes on");
    Ok(())
}

fn start(name: &str) -> Result<(Requester<String, String>, WorkerProcess), Box<dyn Error>> {
    let mut command = Command::new(env::current_exe()?);
    // A plug-in knows nothing of the host's environment.
    command.arg(name).env_clear();
    let (port, process) = Worker::builder(command)
        // What a plug-in posts takes at most 1 MiB, and contains no descriptors.
        .channel(MessageChannel::builder().limit(1 << 20).refuse_transfers())
        .limit(ResourceLimit::AddressSpace, 256 << 20)
        .limit(ResourceLimit::CpuTime, 1)
        .limit(ResourceLimit::OpenFiles, 16)
        .limit(ResourceLimit::CoreSize, 0)
        .filter(&SyscallFilter::program())
        .end_with_parent()
        .spawn()?
        .split();
    Ok((port.requester(), process))
}

fn describe(end: WorkerEnd) -> String {
    let status = end.status();
    match (end, status.signal()) {
        (WorkerEnd::Killed(_), _) => "it was killed by the host".to_owned(),
        (_, Some(31)) => "it made a system call that the filter refuses (SIGSYS)".to_owned(),
        (_, Some(6)) => "it aborted, for lack of memory (SIGABRT)".to_owned(),
        (_, Some(9 | 24)) => "it used more processor time than it may".to_owned(),
        (_, Some(signal)) => format!("it was ended by the signal {signal}"),
        (_, None) => format!("it ended by itself: {status}"),
    }
}

/// A plug-in.
fn plugin(name: &str) -> Result<(), Box<dyn Error>> {
    let responder = parent_port()?.responder::<String, String>();
    while let Ok(request) = responder.recv() {
        let text = request.data().as_str();
        match name {
            "upper" => request.reply(&text.to_uppercase())?,
            "reverse" => request.reply(&text.chars().rev().collect::<String>())?,
            misdeed => misbehave(misdeed)?,
        }
    }
    Ok(())
}

/// A plug-in that breaks a limit.
fn misbehave(name: &str) -> Result<(), Box<dyn Error>> {
    match name {
        "eater" => {
            let mut memory = Vec::new();
            loop {
                memory.push(vec![1u8; 1 << 20]);
            }
        }
        "spinner" => loop {
            std::hint::spin_loop();
        },
        "hoarder" => {
            let mut files = Vec::new();
            loop {
                // The error at the limit ends the plug-in.
                files.push(fs::File::open("/dev/null")?);
            }
        }
        "writer" => Ok(fs::write("/tmp/a plug-in was here", "")?),
        "sleeper" => loop {
            std::thread::park();
        },
        other => Err(format!("there is no plug-in {other}").into()),
    }
}
