//! The other processes: this program again, with a role to play.

use crate::{attacks, served};
use messageport::{ChannelBuilder, MessagePort, Worker, parent_port};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use std::process::Command;

const ROLE: &str = "MESSAGEPORT_HOSTILE_ROLE";

/// Plays the role that the environment names, if it names one; then returns true.
pub fn serve() -> bool {
    let Ok(role) = std::env::var(ROLE) else {
        return false;
    };
    // A process whose parent was killed goes with it.
    set_pdeathsig(Signal::SIGKILL).expect("a process chooses its signal");
    match role.split_once(':') {
        Some(("serve", front)) => served::serve(front),
        Some(("attack", name)) => attacks::play(name, port()),
        _ => panic!("no role is called {role}"),
    }
    true
}

fn port() -> MessagePort {
    parent_port().expect("a port to the parent")
}

/// A process that plays `role`.
pub fn start(role: &str, sizes: ChannelBuilder) -> Worker {
    let mut command = Command::new(std::env::current_exe().expect("path of this program"));
    command.env(ROLE, role);
    Worker::spawn_with(command, sizes).expect("this program starts again")
}

/// The processor, the kernel, and how many cores there are.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let name = info.lines().find_map(|line| line.strip_prefix("model name"));
    let name = name.map_or("unknown", |name| name.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{name}, {cores} cores, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}
