//! Tests that need a process of their own: the test's binary runs itself again, and an environment
//! variable tells it which role to play.

use std::env;
use std::io::{self, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// After this long a child hangs. None takes a hundredth of it.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// After this long a child gives up a wait of its own, in time to say which one it was.
pub const PATIENCE: Duration = Duration::from_secs(20);

const ROLE: &str = "MESSAGEPORT_TEST_ROLE";
const SKIPPED: &str = "skipped: ";

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
    act();
    println!("{}", done(&wanted));
}

/// The command of a child that plays `role` in `test`.
pub fn command(test: &str, role: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("a test knows its binary"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command
}

/// Says, from within a role, that this machine cannot run it. The test passes on the word to
/// standard error, past the harness's capture.
pub fn skip(why: &str) {
    // The harness may have begun this line with the test's name.
    println!("\n{SKIPPED}{why}");
}

fn done(role: &str) -> String {
    format!("the role {role} is done")
}

fn run(test: &str, role: &str) {
    let (status, output) = output_of(command(test, role));
    // The last line is asked for as well: a child that found no such test would also succeed.
    let complete = output.contains(&done(role));
    assert!(status.success() && complete, "{test}, role {role}: {status}\n{output}");
    for line in output.lines().filter(|line| line.starts_with(SKIPPED)) {
        writeln!(io::stderr(), "{test} {line}").expect("standard error takes a line");
    }
}

/// Runs a child to its end, and to that of all that inherited its output.
fn output_of(mut command: Command) -> (ExitStatus, String) {
    let (mut reader, writer) = io::pipe().expect("a pipe");
    let again = writer.try_clone().expect("a second descriptor");
    let child = command.stdin(Stdio::null()).stdout(again).stderr(writer).spawn();
    let mut child = child.expect("a child process");
    // The command holds the pipe's writing end: without this the end never comes.
    drop(command);
    let (send, ended) = mpsc::channel();
    let (send_part, parts) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut bytes) {
            if send_part.send(bytes[..count].to_vec()).is_err() {
                return;
            }
        }
        // The test may have given up by now; then nobody listens, and that is fine.
        let _ = send.send(());
    });
    let in_time = ended.recv_timeout(DEADLINE).is_ok();
    let output: Vec<u8> = parts.try_iter().flatten().collect();
    let output = String::from_utf8_lossy(&output).into_owned();
    if !in_time {
        child.kill().expect("a child of our own can be killed");
    }
    let status = child.wait().expect("a child of our own can be waited for");
    assert!(in_time, "a child did not end within {DEADLINE:?}, its output:\n{output}");
    (status, output)
}
