//! A memory barrier on the processors that run other processes: membarrier(2).
//!
//! Between two stores and loads of two threads (each stores, then loads what the other has stored)
//! both need a full fence, else neither may see the other's store. With this call one of them needs
//! none: when [`run`] returns, each thread of every process that takes part has passed a full fence
//! at some moment of the call. A fence at each message is costly, as it waits until the processor
//! has published all its stores; so the side that rarely comes runs the barrier.
#![allow(unsafe_code)]

use nix::sys::signal::{SigSet, SigmaskHow};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

/// Whether [`run`] can be used in this process. Asks the kernel once.
pub(crate) fn is_supported() -> bool {
    // Relaxed, here and below: the states are all that is shared.
    match SUPPORT.load(Ordering::Relaxed) {
        UNKNOWN => {
            let answer = membarrier(QUERY).is_some_and(|commands| {
                let both = GLOBAL_EXPEDITED | REGISTER_GLOBAL_EXPEDITED;
                commands & both == both
            });
            SUPPORT.store(if answer { YES } else { NO }, Ordering::Relaxed);
            answer
        }
        support => support == YES,
    }
}

/// Runs the barrier: 0.2 µs if no process that takes part is running elsewhere, otherwise the time
/// of an interrupt of the other processor, up to 20 µs in a virtual machine.
///
/// If a filter of system calls that was installed after the question refuses it, this waits for a
/// thousand times as long as a processor needs to publish a store, and no side relies on barriers
/// from then on.
pub(crate) fn run() {
    if membarrier(GLOBAL_EXPEDITED).is_none() {
        SUPPORT.store(NO, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(1));
    }
}

/// Whether this process takes part in the barriers of others, so that its threads may omit their
/// fences. The first call starts that and returns `false`: it takes up to 20 ms if the process has
/// several threads, so that a thread of its own does it.
pub(crate) fn takes_part() -> bool {
    match PART.load(Ordering::Relaxed) {
        YES => true,
        UNKNOWN if PART.swap(NO, Ordering::Relaxed) == UNKNOWN => {
            start_taking_part();
            false
        }
        _ => false,
    }
}

/// Starts the thread with all signals blocked: it must not run the program's signal handlers.
fn start_taking_part() {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    // If the kernel refuses the thread, this process goes on with fences.
    let _ = thread::Builder::new().name(THREAD_NAME.into()).stack_size(STACK).spawn(|| {
        if membarrier(REGISTER_GLOBAL_EXPEDITED).is_some() {
            PART.store(YES, Ordering::Relaxed);
        }
    });
    if let Ok(before) = before {
        // Restores the mask of this thread.
        let _ = before.thread_set_mask();
    }
}

/// The call's result, unless it failed.
fn membarrier(command: libc::c_int) -> Option<libc::c_int> {
    if cfg!(miri) {
        return None;
    }
    // SAFETY: the call takes numbers alone.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    libc::c_int::try_from(result).ok().filter(|result| *result >= 0)
}

static SUPPORT: AtomicU8 = AtomicU8::new(UNKNOWN);
static PART: AtomicU8 = AtomicU8::new(UNKNOWN);

const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;

// The commands of linux/membarrier.h.
const QUERY: libc::c_int = 0;
const GLOBAL_EXPEDITED: libc::c_int = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: libc::c_int = 1 << 2;

const THREAD_NAME: &str = "port-barrier";
const STACK: usize = 128 << 10;

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn it_is_supported_if_the_kernel_has_both_commands() {
        let both = membarrier(QUERY).is_some_and(|commands| commands & 0b110 == 0b110);
        assert_eq!([(); 2].map(|()| is_supported()), [both; 2], "asked, and known");
    }

    #[test]
    fn a_process_takes_part_soon_after_the_first_question() {
        if !is_supported() {
            return;
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while !takes_part() {
            assert!(Instant::now() < deadline, "the kernel neither refuses nor answers");
            thread::yield_now();
        }
        run();
        assert!(is_supported() && takes_part());
    }
}
