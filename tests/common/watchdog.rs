//! Ends this process when a test in it makes no progress, and shows what it hangs on.
//!
//! It counts progress and not time, so that a run of ten thousand rounds is as safe as one of ten.

use super::{DEADLINE, proc, region};
use std::fs;
use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Lives as long as a test that is watched.
pub struct Watch {
    id: u64,
}

/// Has the test of this name watched until the answer is dropped.
#[must_use = "the test is watched until this is dropped"]
pub fn watch(name: impl Into<String>) -> Watch {
    static START: Once = Once::new();
    // It runs before a test limits what a thread needs to start, such as address space.
    START.call_once(|| {
        let (runs, starts) = mpsc::channel();
        drop(thread::spawn(move || {
            runs.send(()).expect("its starter waits");
            guard();
        }));
        starts.recv().expect("it was started");
    });
    let id = PROGRESS.fetch_add(1, Relaxed);
    WATCHED.lock().expect("no thread panicked while holding it").push((id, name.into()));
    Watch { id }
}

/// Says that a step was done.
pub fn progress() {
    PROGRESS.fetch_add(1, Relaxed);
}

impl Drop for Watch {
    fn drop(&mut self) {
        progress();
        WATCHED
            .lock()
            .expect("no thread panicked while holding it")
            .retain(|(id, _)| *id != self.id);
    }
}

fn guard() {
    const TURN: Duration = Duration::from_millis(500);
    // By turns of this thread, and not by the clock: a process that is stopped for a while, or gets
    // no processor, does not hang.
    let (mut seen, mut quiet) = (0, Duration::ZERO);
    loop {
        thread::sleep(TURN);
        quiet += TURN;
        let now = PROGRESS.load(Relaxed);
        let watched = WATCHED.lock().expect("no thread panicked while holding it");
        if now != seen || watched.is_empty() {
            (seen, quiet) = (now, Duration::ZERO);
        } else if quiet > DEADLINE {
            // Past the harness's capture, which an abort would lose.
            let report = format!("no progress for {DEADLINE:?} in {watched:?}\n{}", threads());
            let _ = writeln!(io::stderr(), "{report}{}", region::show_all());
            std::process::abort();
        }
    }
}

/// What each thread does in the kernel: the number of the call and its arguments.
fn threads() -> String {
    let mut lines = String::new();
    for thread in fs::read_dir(proc("self/task")).into_iter().flatten().flatten() {
        let read = |file| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        let (name, call) = (read("comm"), read("syscall"));
        let id = thread.file_name();
        lines += &format!("thread {id:?} {}: {}\n", name.trim(), call.trim());
    }
    lines
}

static PROGRESS: AtomicU64 = AtomicU64::new(0);
static WATCHED: Mutex<Vec<(u64, String)>> = Mutex::new(Vec::new());
