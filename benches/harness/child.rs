//! The other process: the bench target itself, started again with a role to play.
//!
//! Nothing here can hang for ever. A child dies with its parent, by the kernel's hand; the parent
//! re-arms an alarm before each measurement, and an alarm that fires ends it. Keeping the deadline
//! in the kernel leaves nothing of it in the loops that are timed.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::parent_id;
use std::process::{Child, Command};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::machine;
use super::{calls, fronts, handoff, hops, kernel, lines, plain_subjects, port_streams, ports};

/// What a child is asked to do.
pub struct Job {
    pub role: String,
    /// Payload of one message.
    pub bytes: usize,
    descriptors: std::vec::IntoIter<RawFd>,
}

impl Job {
    /// Takes the next descriptor, in the order in which the parent passed them.
    pub fn descriptor(&mut self) -> OwnedFd {
        let raw = self.descriptors.next().expect("the parent passed a descriptor for this role");
        // SAFETY: the parent left this number open for us, and each is taken once.
        unsafe { OwnedFd::from_raw_fd(raw) }
    }

    /// Takes all descriptors that are left.
    pub fn remaining(&mut self) -> Vec<OwnedFd> {
        let count = self.descriptors.len();
        (0..count).map(|_| self.descriptor()).collect()
    }

    fn parse(text: &str) -> Self {
        let mut words = text.split_whitespace();
        let mut word = || words.next().expect("a job of five words");
        let role = word().to_owned();
        let parent: u32 = word().parse().expect("a process id");
        let core = word().parse().expect("a core number");
        let bytes = word().parse().expect("a payload length");
        let numbers = word().split(',').filter(|number| !number.is_empty());
        let descriptors: Vec<RawFd> =
            numbers.map(|number| number.parse().expect("a descriptor")).collect();
        die_with(parent);
        machine::pin(core);
        Self { role, bytes, descriptors: descriptors.into_iter() }
    }
}

/// A running child that plays the other side of a baseline; killed when dropped.
pub struct Peer(Child);

impl Peer {
    /// Starts `role` on the other core of `pair` with the given descriptors.
    pub fn start(role: &str, core: usize, bytes: usize, descriptors: &[BorrowedFd<'_>]) -> Self {
        let mut command = command(role, core, bytes, descriptors);
        Self(command.spawn().expect("starting this executable again"))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself, when its end of a pipe was closed: no harm.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Builds the command that starts this executable again in `role`.
///
/// The descriptors stay open across `exec` from here on; their owner drops them soon after.
pub fn command(role: &str, core: usize, bytes: usize, descriptors: &[BorrowedFd<'_>]) -> Command {
    let mut numbers = Vec::new();
    for descriptor in descriptors {
        fcntl(*descriptor, FcntlArg::F_SETFD(FdFlag::empty())).expect("clearing FD_CLOEXEC");
        numbers.push(descriptor.as_raw_fd().to_string());
    }
    // A comma alone stands for "none", so that the word is always there.
    let numbers = format!("{},", numbers.join(","));
    let mut command = Command::new(std::env::current_exe().expect("path of this executable"));
    let parent = std::process::id();
    command.env(JOB, format!("{role} {parent} {core} {bytes} {numbers}"));
    command
}

/// Plays the role that the environment names, if it names one; then returns true. `others` are
/// roles that a benchmark has beside those of the harness.
pub fn serve(others: &[Role]) -> bool {
    let Ok(text) = std::env::var(JOB) else {
        return false;
    };
    let job = Job::parse(&text);
    let name = job.role.split(':').next().unwrap_or_default();
    let (_, play) = ROLES
        .iter()
        .chain(others)
        .find(|(role, _)| *role == name)
        .unwrap_or_else(|| panic!("no role is called {name}"));
    play(job);
    true
}

/// Gives the coming measurement its own time to finish.
pub fn arm_deadline() {
    // SAFETY: a call without pointers; the alarm that fires ends this process, as it should.
    unsafe { libc::alarm(DEADLINE_SECONDS) };
}

/// Takes the alarm back.
pub fn disarm_deadline() {
    // SAFETY: a call without pointers.
    unsafe { libc::alarm(0) };
}

/// Asks the kernel to kill this process when `parent` ends, also if it has ended already.
pub fn die_with(parent: u32) {
    // SAFETY: this option takes a signal number and no pointers.
    let answer = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    assert_eq!(answer, 0, "PR_SET_PDEATHSIG: {}", std::io::Error::last_os_error());
    if parent_id() != parent {
        std::process::exit(1);
    }
}

/// Name and body of a role.
pub type Role = (&'static str, fn(Job));

/// The roles of the harness itself; what follows a colon in a role is its own business.
const ROLES: &[Role] = &[
    ("one-line", lines::serve_one_line),
    ("two-lines", lines::serve_two_lines),
    ("records", lines::serve_records),
    ("plain-echo", plain_subjects::serve_echo),
    ("plain-sink", plain_subjects::serve_sink),
    ("port-echo", ports::serve_echo),
    ("calls", calls::serve),
    ("port-sink", port_streams::serve_sink),
    ("front-echo", fronts::serve_echo),
    ("front-flood", fronts::serve_flood),
    ("hopped-echo", hops::serve),
    ("handoff", handoff::serve),
    ("handoff-stream", handoff::serve_stream),
    ("bare", handoff::serve_bare),
    ("futex", kernel::serve_futex),
    ("stream", kernel::serve_stream),
    ("eventfd", kernel::serve_eventfd),
    ("pipe", kernel::serve_pipe),
    ("seqpacket", kernel::serve_seqpacket),
    ("pipe-sink", kernel::serve_pipe_sink),
    ("seqpacket-sink", kernel::serve_seqpacket_sink),
];

/// Environment variable with the child's job. Not meant to be set by hand.
const JOB: &str = "MESSAGEPORT_BENCH_CHILD";
/// Far longer than any measurement takes, far shorter than a user waits.
const DEADLINE_SECONDS: u32 = 120;
