//! A host in Rust that runs plug-ins in JavaScript under limits, and goes on when they break them.
//!
//! ```text
//! cargo run --release --example plugins
//! ```
//!
//! Each plug-in is a process of Node.js with the package `messageport`. It gets a text and answers
//! with one. Beside limits of processor time, memory and descriptors it has a filter of system
//! calls: those that a worker with a port needs, and those that Node.js itself needs. Among them
//! are none that write files, start programs or reach the network.

use messageport::{
    MessageChannel, MessagePort, ResourceLimit, SyscallFilter, Worker, WorkerProcess,
};
use serde::{Deserialize, Serialize};
use std::env;
use std::error::Error;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

/// What `plugins/plugin.mjs` can do; only the first one keeps to the rules.
const PLUGINS: [&str; 7] = ["upper", "spinner", "hoarder", "eater", "writer", "starter", "caller"];

#[derive(Serialize)]
struct Task<'a> {
    name: &'a str,
    text: &'a str,
}

#[derive(Deserialize)]
struct Answer {
    text: Option<String>,
    error: Option<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    for name in PLUGINS {
        let (port, mut process) = start()?;
        port.post_value(&Task { name, text: "Hello" })?;
        match port.recv() {
            Ok(event) => match event.value::<Answer>()? {
                Answer { text: Some(text), .. } => println!("{name} answers {text:?}"),
                Answer { error, .. } => println!("{name} fails: {}", error.unwrap_or_default()),
            },
            Err(_) => println!("{name} has ended without an answer"),
        }
        // A plug-in that keeps to the rules ends with its port.
        port.close();
        let status = process.wait()?;
        match status.signal() {
            // SIGKILL and SIGXCPU, of which the kernel sends one.
            Some(9 | 24) => println!("    it has used more processor time than it may"),
            Some(signal) => println!("    it was ended by the signal {signal}"),
            None => println!("    {status}"),
        }
    }
    println!("the host goes on");
    Ok(())
}

fn start() -> Result<(MessagePort, WorkerProcess), Box<dyn Error>> {
    let plugin = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/plugins/plugin.mjs");
    let mut command = Command::new(env::var_os("NODE").unwrap_or_else(|| "node".into()));
    // A plug-in knows nothing of the host's environment, but where programs are.
    command.arg(plugin).env_clear().stdin(Stdio::null()).stderr(Stdio::null());
    command.envs(env::var_os("PATH").map(|path| ("PATH", path)));
    let worker = Worker::builder(command)
        // What a plug-in posts takes at most 1 MiB, and contains no descriptors.
        .channel(MessageChannel::builder().limit(1 << 20).refuse_transfers())
        .limit(ResourceLimit::CpuTime, 2)
        // V8 reserves much address space that it never uses: this limits what it can write to.
        .limit(ResourceLimit::Data, 1 << 30)
        .limit(ResourceLimit::OpenFiles, 64)
        .limit(ResourceLimit::CoreSize, 0)
        .filter(&filter())
        .end_with_parent()
        .spawn()?;
    Ok(worker.split())
}

/// What Node.js calls beside what any program with a port does. A refused call fails, so that a
/// plug-in gets an error that it can report. Some that Node.js can do without are refused too, as
/// `io_uring_setup`.
fn filter() -> SyscallFilter {
    let calls = [
        libc::SYS_capget,
        libc::SYS_epoll_create1,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_getcwd,
        libc::SYS_getegid,
        libc::SYS_geteuid,
        libc::SYS_getgid,
        libc::SYS_getuid,
        libc::SYS_pipe2,
        libc::SYS_sysinfo,
        libc::SYS_uname,
    ];
    calls.into_iter().fold(SyscallFilter::program(), SyscallFilter::allow).refuse_with_eperm()
}
