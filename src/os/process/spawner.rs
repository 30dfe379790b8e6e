//! A thread that starts children for others, and lives as long as this process.
//!
//! PR_SET_PDEATHSIG kills a child when the *thread* ends that forked it, not the process. A program
//! that starts a worker in a thread of its own would lose the worker with that thread.

use crate::os::named;
use crate::{error::SystemError, os::reaper};
use nix::sys::signal::SigSet;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

type Job = Box<dyn FnOnce() + Send>;

static SPAWNER: Mutex<Option<Sender<Job>>> = Mutex::new(None);

/// Runs `job` in that thread, with the signal mask of the caller, which a child inherits. In a
/// forked copy of a process that has used it, runs `job` in the caller.
pub(super) fn run<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SystemError> {
    if reaper::is_forked() {
        return Ok(job());
    }
    let mask = SigSet::thread_get_mask().map_err(named("pthread_sigmask"))?;
    let (answer, answered) = channel();
    let job = move || {
        let before = mask.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK);
        // Only a panic of the caller stops it from waiting.
        let _ = answer.send(job());
        if let Ok(before) = before {
            let _ = before.thread_set_mask();
        }
    };
    spawner()?.send(Box::new(job)).expect("the thread runs as long as the process");
    Ok(answered.recv().expect("a job answers, or aborts the process"))
}

fn spawner() -> Result<Sender<Job>, SystemError> {
    let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(jobs) = &*spawner {
        return Ok(jobs.clone());
    }
    let (sender, jobs) = channel::<Job>();
    // It must not run the program's signal handlers.
    let before = SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK);
    let work = move || jobs.into_iter().for_each(|job| job());
    let started = thread::Builder::new().name(THREAD_NAME.into()).stack_size(STACK).spawn(work);
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    started.map_err(|source| SystemError { call: "clone3", source })?;
    Ok(spawner.insert(sender).clone())
}

const THREAD_NAME: &str = "worker-spawner";
/// The thread's stack in bytes: what the standard library uses to start a program fits well.
const STACK: usize = 256 << 10;
