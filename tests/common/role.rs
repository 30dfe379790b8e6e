//! Tests in processes of their own: the test's program runs itself again, and an environment
//! variable tells it which role to play.

use super::watchdog::watch;
use super::{proc, program};
use std::env;
use std::io::{self, Read, Seek, Write};
use std::process::{Command, Stdio};

const ROLE: &str = "MESSAGEPORT_TEST_ROLE";
const SKIPPED: &str = "skipped: ";
const SAID: &str = "report: ";

/// Runs the first of the roles in a child process and fails when it fails, dies or hangs. In that
/// child, and in those that it starts by [`command`], runs the role asked for.
///
/// `test` is the test's own name: the child finds its way back here by it.
pub fn play(test: &str, roles: &[(&str, fn())]) {
    let Ok(wanted) = env::var(ROLE) else {
        let (first, _) = roles.first().expect("a test has a role");
        return run(test, first);
    };
    let role = roles.iter().find(|(role, _)| *role == wanted);
    let (_, act) = role.unwrap_or_else(|| panic!("{test} has no role {wanted}"));
    end_with_parent(true);
    let _watch = watch(format!("{test}, role {wanted}"));
    act();
    println!("{}", done(&wanted));
}

/// The command of a child that plays `role` in `test`.
pub fn command(test: &str, role: &str) -> Command {
    let mut command = Command::new(program());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command
}

/// Whether this process plays a role, so that no other test runs in it.
pub fn has_role() -> bool {
    env::var_os(ROLE).is_some()
}

/// Whether this process is killed with the thread that started it. Roles are, so that a test that
/// fails leaves no process behind.
pub fn end_with_parent(yes: bool) {
    nix::sys::prctl::set_pdeathsig(yes.then_some(nix::sys::signal::Signal::SIGKILL))
        .expect("a process chooses its signal");
}

/// Says, from within a role, that this machine cannot run it. The test passes on the word to
/// standard error, past the harness's capture.
pub fn skip(why: &str) {
    // The harness may have begun this line with the test's name.
    println!("\n{SKIPPED}{why}");
}

/// Whether this process may become any other user: it is root, and not of a user namespace that
/// has only some.
pub fn may_be_other_users() -> bool {
    let map = std::fs::read_to_string(proc("self/uid_map")).unwrap_or_default();
    let has_all = map.split_whitespace().eq(["0", "0", "4294967295"]);
    nix::unistd::geteuid().is_root() && has_all
}

/// Says something from within a role that people asked for. The test passes it on as well.
pub fn say(what: &str) {
    println!("\n{SAID}{what}");
}

fn done(role: &str) -> String {
    format!("the role {role} is done")
}

/// The role's own watchdog ends it when it hangs, so there is no deadline here.
fn run(test: &str, role: &str) {
    let mut log = tempfile::tempfile().expect("a temporary file");
    let copy = || Stdio::from(log.try_clone().expect("a second descriptor"));
    let status = command(test, role)
        .stdin(Stdio::null())
        .stdout(copy())
        .stderr(copy())
        .status()
        .expect("a child process");
    let mut output = Vec::new();
    log.rewind().expect("a file can be read again");
    log.read_to_end(&mut output).expect("what was written can be read");
    let output = String::from_utf8_lossy(&output);
    // The last line is asked for as well: a child that found no such test would also succeed.
    let complete = output.contains(&done(role));
    assert!(status.success() && complete, "{test}, role {role}: {status}\n{output}");
    for line in output.lines() {
        if line.starts_with(SKIPPED) {
            writeln!(io::stderr(), "{test} {line}").expect("standard error takes a line");
        } else if let Some(said) = line.strip_prefix(SAID) {
            writeln!(io::stderr(), "{said}").expect("standard error takes a line");
        }
    }
}
