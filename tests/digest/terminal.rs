//! What a terminal shows.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::oracle::{Oracle, digest, noise};
use crate::processes::{await_that, write};

#[test]
fn an_interrupt_clears_the_bar_before_it_ends_the_program() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let oracle = Oracle::new();
        let (terminal, far) = terminal();
        let mut command = digest();
        command.arg("-").env("TERM", "xterm").current_dir(oracle.folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(far);
        take_signals_by_default(&mut command);
        let mut child = command.spawn().expect("the example");
        // It has the far side as well, and what is read ends only when all have closed it.
        drop(command);
        let shown = watch(terminal);
        let mut stdin = child.stdin.take().expect("it is piped");
        write(&mut stdin, &noise(1, 3_000_000));
        await_that("there is a bar", || text(&shown).contains(" left"));
        let id = i32::try_from(child.id()).expect("a process number");
        // SAFETY: a signal to a child that was not waited for.
        assert_eq!(unsafe { libc::kill(id, signal) }, 0);
        let status = child.wait().expect("it can be waited for");
        assert_eq!(status.signal(), Some(signal), "{status}");
        await_that("the line is cleared", || {
            let text = text(&shown);
            let after_bar = text.rsplit(" left").next().unwrap_or_default();
            after_bar.contains("\x1b[2K")
        });
        drop(stdin);
    }
}

/// A shell that runs the tests in the background has them ignore SIGINT, which a child inherits.
fn take_signals_by_default(command: &mut Command) {
    let prepare = || {
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: the call takes integers, and the default action runs no code of ours.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: the closure makes async-signal-safe calls only.
    unsafe { command.pre_exec(prepare) };
}

/// Both sides of a new terminal of 24 lines.
fn terminal() -> (File, File) {
    let near = File::options().read(true).write(true).open("/dev/ptmx").expect("a terminal");
    let number = near.as_raw_fd();
    let unlocked: libc::c_int = 0;
    let size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call reads one number.
    let answer = unsafe { libc::ioctl(number, libc::TIOCSPTLCK, &raw const unlocked) };
    assert_eq!(answer, 0, "unlocking");
    // SAFETY: the call reads one struct.
    let answer = unsafe { libc::ioctl(number, libc::TIOCSWINSZ, &raw const size) };
    assert_eq!(answer, 0, "its size");
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the call takes a number, and returns a descriptor.
    let far = unsafe { libc::ioctl(number, libc::TIOCGPTPEER, flags) };
    assert!(far >= 0, "its far side");
    // SAFETY: it is fresh, and no other code has it.
    (near, unsafe { File::from_raw_fd(far) })
}

/// Collects what is shown.
fn watch(mut terminal: File) -> Arc<Mutex<Vec<u8>>> {
    let shown = Arc::new(Mutex::new(Vec::new()));
    let collected = Arc::clone(&shown);
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        // An error is how a terminal reports that its far side is closed.
        while let Ok(count @ 1..) = terminal.read(&mut bytes) {
            collected
                .lock()
                .expect("no thread panicked while holding it")
                .extend_from_slice(&bytes[..count]);
        }
    });
    shown
}

fn text(shown: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&shown.lock().expect("no thread panicked while holding it"))
        .into_owned()
}
